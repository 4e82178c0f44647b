// SPDX-License-Identifier: GPL-2.0
/*
 * Tells the node map which addresses are this node's own, as they come and go. Only the initial
 * network namespace counts: an address inside a container is no address of the node.
 */
#include <linux/inetdevice.h>
#include <linux/netdevice.h>
#include <linux/notifier.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <net/addrconf.h>
#include <net/if_inet6.h>
#include <net/net_namespace.h>

#include "genl.h"

/* Runs under rtnl, so addresses come and go one at a time. */
static int on_inetaddr(struct notifier_block *block, unsigned long event, void *data)
{
	const struct in_ifaddr *ifa = data;

	if (!net_eq(dev_net(ifa->ifa_dev->dev), &init_net))
		return NOTIFY_DONE;
	if (event == NETDEV_UP)
		dsm_addrs_on_change(be32_to_cpu(ifa->ifa_local), true);
	else if (event == NETDEV_DOWN)
		dsm_addrs_on_change(be32_to_cpu(ifa->ifa_local), false);
	return NOTIFY_DONE;
}

static struct notifier_block inetaddr_block = {
	.notifier_call = on_inetaddr,
};

#if IS_ENABLED(CONFIG_IPV6)
/* Most IPv6 addresses that are taken for the node's own. */
#define MOST_V6 1024

static size_t collect(u8 (*to)[16])
{
	const struct inet6_ifaddr *ifa;
	struct net_device *dev;
	struct inet6_dev *idev;
	size_t n = 0;

	rtnl_lock();
	for_each_netdev(&init_net, dev) {
		idev = __in6_dev_get(dev);
		if (!idev)
			continue;
		read_lock_bh(&idev->lock);
		list_for_each_entry(ifa, &idev->addr_list, if_list)
			if (n < MOST_V6)
				memcpy(to[n++], &ifa->addr, 16);
		read_unlock_bh(&idev->lock);
	}
	rtnl_unlock();
	return n;
}

static void rescan(struct work_struct *work)
{
	u8 (*addresses)[16] = kvmalloc_array(MOST_V6, 16, GFP_KERNEL);

	if (!addresses) {
		pr_err("dsm: no memory to note this node's IPv6 addresses\n");
		return;
	}
	dsm_addrs_on_change6(addresses, collect(addresses));
	kvfree(addresses);
}

static DECLARE_WORK(rescan_work, rescan);

/* IPv6 tells of its addresses where nothing may sleep. */
static int on_inet6addr(struct notifier_block *block, unsigned long event, void *data)
{
	const struct inet6_ifaddr *ifa = data;

	if (net_eq(dev_net(ifa->idev->dev), &init_net))
		schedule_work(&rescan_work);
	return NOTIFY_DONE;
}

static struct notifier_block inet6addr_block = {
	.notifier_call = on_inet6addr,
};

static int watch_v6(void)
{
	int ret = register_inet6addr_notifier(&inet6addr_block);

	if (!ret) {
		schedule_work(&rescan_work);
		flush_work(&rescan_work);
	}
	return ret;
}

static void unwatch_v6(void)
{
	unregister_inet6addr_notifier(&inet6addr_block);
	cancel_work_sync(&rescan_work);
}
#else
static int watch_v6(void)
{
	return 0;
}

static void unwatch_v6(void)
{
}
#endif

int dsm_addrs_watch(void)
{
	const struct in_ifaddr *ifa;
	struct in_device *in_dev;
	struct net_device *dev;
	int ret;

	/* Under the lock, so that each address is seen once: here or by the notifier. */
	rtnl_lock();
	ret = register_inetaddr_notifier(&inetaddr_block);
	if (ret)
		goto unlock;
	for_each_netdev(&init_net, dev) {
		in_dev = __in_dev_get_rtnl(dev);
		if (!in_dev)
			continue;
		in_dev_for_each_ifa_rtnl(ifa, in_dev)
			dsm_addrs_on_change(be32_to_cpu(ifa->ifa_local), true);
	}
unlock:
	rtnl_unlock();
	if (ret)
		return ret;
	ret = watch_v6();
	if (ret)
		unregister_inetaddr_notifier(&inetaddr_block);
	return ret;
}

void dsm_addrs_unwatch(void)
{
	unwatch_v6();
	unregister_inetaddr_notifier(&inetaddr_block);
}
