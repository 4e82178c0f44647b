// SPDX-License-Identifier: GPL-2.0
/*
 * Tells the node map which IPv4 addresses are this node's own, as they come and go. Only the
 * initial network namespace counts: an address inside a container is no address of the node.
 */
#include <linux/inetdevice.h>
#include <linux/netdevice.h>
#include <linux/notifier.h>
#include <linux/rtnetlink.h>
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
	return ret;
}

void dsm_addrs_unwatch(void)
{
	unregister_inetaddr_notifier(&inetaddr_block);
}
