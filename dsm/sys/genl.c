// SPDX-License-Identifier: GPL-2.0
/*
 * The generic netlink family: which commands there are, who may send them, which attributes they
 * take. It turns attributes into the plain structs of genl.h and back; what a command means is
 * said in dsm/netlink.rs. It must never act on a request of a sender without CAP_MAC_ADMIN, and tells
 * him no more than its version and mode.
 */
#include <linux/capability.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/netlink.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sizes.h>
#include <linux/string.h>
#include <net/genetlink.h>

#include "genl.h"
#include "shim.h"

static struct genl_family family;
/* Whether the family may be used for sending; cleared, and a grace period awaited, first. */
static bool registered;
/* Tells one load of the module from another. */
static u64 instance;

/* Requests ------------------------------------------------------------------------------- */

static struct dsm_nl_u32 get_u32(const struct genl_info *info, int attr)
{
	struct dsm_nl_u32 number = {};

	if (info->attrs[attr]) {
		number.present = true;
		number.value = nla_get_u32(info->attrs[attr]);
	}
	return number;
}

static struct dsm_nl_blob blob_of(const struct nlattr *attr)
{
	struct dsm_nl_blob blob = {};

	if (attr) {
		blob.data = nla_data(attr);
		blob.len = nla_len(attr);
	}
	return blob;
}

static struct dsm_nl_port port_of(const struct genl_info *info)
{
	return (struct dsm_nl_port){ .net = genl_info_net(info), .portid = info->snd_portid };
}

/* A key that has been taken must not lie about in the buffer that it came in. */
static void wipe(struct nlattr *attr)
{
	if (attr)
		memzero_explicit(nla_data(attr), nla_len(attr));
}

/* The fault goes into the extended acknowledgement; returns what the command returns. */
static int answer(struct genl_info *info, int ret, const struct dsm_nl_fault *fault)
{
	if (ret) {
		NL_SET_ERR_MSG_FMT(info->extack, "%s", fault->text);
		if (fault->attr && info->attrs[fault->attr])
			NL_SET_BAD_ATTR(info->extack, info->attrs[fault->attr]);
		else if (fault->attr)
			NL_SET_ERR_ATTR_MISS(info->extack, NULL, fault->attr);
	}
	return ret;
}

/* Not only the sender: a socket opened by somebody else must not borrow the sender's rights. */
static int check_admin(const struct sk_buff *skb, struct netlink_ext_ack *extack)
{
	if (netlink_capable(skb, CAP_MAC_ADMIN))
		return 0;
	NL_SET_ERR_MSG(extack, "needs CAP_MAC_ADMIN in the initial user namespace: run as root");
	return -EPERM;
}

/* The same of who only asks, and may be told less: without a word in the audit. */
static bool is_admin(const struct sk_buff *skb)
{
	return ns_capable_noaudit(&init_user_ns, CAP_MAC_ADMIN) && netlink_capable(skb, CAP_MAC_ADMIN);
}

static int pre_admin(const struct genl_split_ops *ops, struct sk_buff *skb,
		     struct genl_info *info)
{
	return check_admin(skb, info->extack);
}

static int start_admin(struct netlink_callback *cb)
{
	return check_admin(cb->skb, cb->extack);
}

/* Status --------------------------------------------------------------------------------- */

static int put_u64(struct sk_buff *skb, int attr, u64 value)
{
	return nla_put(skb, attr, sizeof(value), &value);
}

/* Text that carries its length instead of a terminating zero. */
static int put_text(struct sk_buff *skb, int attr, const u8 *text, u32 len)
{
	struct nlattr *nla = nla_reserve(skb, attr, len + 1);
	char *to;

	if (!nla)
		return -EMSGSIZE;
	to = nla_data(nla);
	memcpy(to, text, len);
	to[len] = '\0';
	return 0;
}

static int put_counter(struct sk_buff *skb, const struct dsm_nl_counter *counter)
{
	struct nlattr *nest = nla_nest_start(skb, DSI_A_STATUS_COUNTER);

	if (!nest)
		return -EMSGSIZE;
	if (nla_put_string(skb, DSI_A_COUNTER_NAME, (const char *)counter->name) ||
	    put_u64(skb, DSI_A_COUNTER_VALUE, counter->value)) {
		nla_nest_cancel(skb, nest);
		return -EMSGSIZE;
	}
	nla_nest_end(skb, nest);
	return 0;
}

static int put_hook(struct sk_buff *skb, unsigned int i)
{
	char text[64];

	snprintf(text, sizeof(text), "%s:%u", dsm_slots_name(i), dsm_slots_index(i));
	return nla_put_string(skb, DSI_A_STATUS_HOOKS, text);
}

/* What everybody may know. */
static int put_mode(struct sk_buff *skb, const struct dsm_nl_status *status)
{
	return nla_put_string(skb, DSI_A_STATUS_MODULE_VERSION, THIS_MODULE->version ?: "") ||
			       nla_put_u32(skb, DSI_A_STATUS_MODE, status->mode) ?
		       -EMSGSIZE :
		       0;
}

static int put_status(struct sk_buff *skb, const struct dsm_nl_status *status)
{
	struct dsm_nl_counter counter = {};
	unsigned int i;

	if (put_mode(skb, status) ||
	    put_u64(skb, DSI_A_STATUS_POLICY_VERSION, status->policy_version) ||
	    put_u64(skb, DSI_A_STATUS_POLICY_EPOCH, status->policy_epoch) ||
	    nla_put_u32(skb, DSI_A_STATUS_SNID, status->snid) ||
	    (status->has_cluster && nla_put(skb, DSI_A_STATUS_CLUSTER, sizeof(status->cluster),
					    status->cluster)) ||
	    nla_put_u32(skb, DSI_A_STATUS_KEY_EPOCH, status->key_epoch) ||
	    nla_put_u32(skb, DSI_A_STATUS_NODES, status->nodes) ||
	    put_u64(skb, DSI_A_STATUS_TASKS, status->tasks) ||
	    put_u64(skb, DSI_A_STATUS_SOCKETS, status->sockets) ||
	    nla_put_u8(skb, DSI_A_STATUS_ANCHOR, status->anchor) ||
	    put_u64(skb, DSI_A_STATUS_INSTANCE, instance))
		return -EMSGSIZE;
	for (i = 0; i < dsm_slots_count(); i++)
		if (put_hook(skb, i))
			return -EMSGSIZE;
	for (i = 0; dsm_nl_on_counter(i, &counter); i++)
		if (put_counter(skb, &counter))
			return -EMSGSIZE;
	return 0;
}

static int do_status_get(struct sk_buff *skb, struct genl_info *info)
{
	struct dsm_nl_status status = {};
	struct sk_buff *reply;
	void *header;

	dsm_nl_on_status(&status);
	reply = genlmsg_new(SZ_8K, GFP_KERNEL);
	if (!reply)
		return -ENOMEM;
	header = genlmsg_put_reply(reply, info, &family, 0, DSI_CMD_STATUS_GET);
	if (!header ||
	    (is_admin(skb) ? put_status(reply, &status) : put_mode(reply, &status))) {
		nlmsg_free(reply);
		return -EMSGSIZE;
	}
	genlmsg_end(reply, header);
	return genlmsg_reply(reply, info);
}

/* Configuration and keys ----------------------------------------------------------------- */

static const struct nla_policy config_policy[] = {
	[DSI_A_CONFIG_SNID] = { .type = NLA_U32 },
	[DSI_A_CONFIG_CLUSTER] = NLA_POLICY_EXACT_LEN(16),
	[DSI_A_CONFIG_ANCHOR] = { .type = NLA_BINARY },
};

static int do_config_set(struct sk_buff *skb, struct genl_info *info)
{
	struct dsm_nl_fault fault = {};
	struct dsm_nl_config request = {
		.snid = get_u32(info, DSI_A_CONFIG_SNID),
		.cluster = blob_of(info->attrs[DSI_A_CONFIG_CLUSTER]),
		.anchor = blob_of(info->attrs[DSI_A_CONFIG_ANCHOR]),
	};

	return answer(info, dsm_nl_on_config(&request, &fault), &fault);
}

static const struct nla_policy key_policy[] = {
	[DSI_A_KEY_EPOCH] = { .type = NLA_U32 },
	[DSI_A_KEY_SECRET] = NLA_POLICY_EXACT_LEN(DSM_NL_KEY),
	[DSI_A_KEY_ACTIVE] = NLA_POLICY_MAX(NLA_U8, 1),
};

static int do_key_set(struct sk_buff *skb, struct genl_info *info)
{
	struct dsm_nl_fault fault = {};
	struct dsm_nl_key request = {
		.epoch = get_u32(info, DSI_A_KEY_EPOCH),
		.secret = blob_of(info->attrs[DSI_A_KEY_SECRET]),
		.active = info->attrs[DSI_A_KEY_ACTIVE] &&
			  nla_get_u8(info->attrs[DSI_A_KEY_ACTIVE]),
	};
	int ret = dsm_nl_on_key_set(&request, &fault);

	wipe(info->attrs[DSI_A_KEY_SECRET]);
	return answer(info, ret, &fault);
}

/* Policy --------------------------------------------------------------------------------- */

static const struct nla_policy policy_policy[] = {
	[DSI_A_POLICY_SIZE] = { .type = NLA_U32 },
	[DSI_A_POLICY_OFFSET] = { .type = NLA_U32 },
	[DSI_A_POLICY_DATA] = { .type = NLA_BINARY },
	[DSI_A_POLICY_SIGNATURE] = { .type = NLA_BINARY },
};

static int do_policy_begin(struct sk_buff *skb, struct genl_info *info)
{
	struct dsm_nl_u32 size = get_u32(info, DSI_A_POLICY_SIZE);
	struct dsm_nl_port port = port_of(info);
	struct dsm_nl_fault fault = {};

	return answer(info, dsm_nl_on_policy_begin(&port, &size, &fault), &fault);
}

static int do_policy_data(struct sk_buff *skb, struct genl_info *info)
{
	struct dsm_nl_blob data = blob_of(info->attrs[DSI_A_POLICY_DATA]);
	struct dsm_nl_u32 offset = get_u32(info, DSI_A_POLICY_OFFSET);
	struct dsm_nl_port port = port_of(info);
	struct dsm_nl_fault fault = {};

	return answer(info, dsm_nl_on_policy_data(&port, &offset, &data, &fault), &fault);
}

static int do_policy_commit(struct sk_buff *skb, struct genl_info *info)
{
	struct dsm_nl_blob signature = blob_of(info->attrs[DSI_A_POLICY_SIGNATURE]);
	struct dsm_nl_port port = port_of(info);
	struct dsm_nl_fault fault = {};
	struct sk_buff *reply;
	u64 version = 0;
	void *header;
	int ret;

	/* Before the policy is installed, so that an installed one is never reported as failed. */
	reply = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	if (!reply)
		return -ENOMEM;
	header = genlmsg_put_reply(reply, info, &family, 0, DSI_CMD_POLICY_COMMIT);
	if (!header) {
		nlmsg_free(reply);
		return -EMSGSIZE;
	}
	ret = dsm_nl_on_policy_commit(&port, &signature, &version, &fault);
	if (ret) {
		nlmsg_free(reply);
		return answer(info, ret, &fault);
	}
	put_u64(reply, DSI_A_POLICY_VERSION, version);
	genlmsg_end(reply, header);
	return genlmsg_reply(reply, info);
}

static int do_policy_abort(struct sk_buff *skb, struct genl_info *info)
{
	struct dsm_nl_port port = port_of(info);
	struct dsm_nl_fault fault = {};

	return answer(info, dsm_nl_on_policy_abort(&port, &fault), &fault);
}

/* A socket that goes takes its open transaction with it. */
static int on_netlink(struct notifier_block *block, unsigned long event, void *data)
{
	const struct netlink_notify *notify = data;
	struct dsm_nl_port port = { .net = notify->net, .portid = notify->portid };

	if (event == NETLINK_URELEASE && notify->protocol == NETLINK_GENERIC)
		dsm_nl_on_release(&port);
	return NOTIFY_DONE;
}

static struct notifier_block netlink_block = {
	.notifier_call = on_netlink,
};

/* Nodes ---------------------------------------------------------------------------------- */

static const struct nla_policy node_policy[] = {
	[DSI_A_NODE_SNID] = { .type = NLA_U32 },
	[DSI_A_NODE_ADDRESS] = { .type = NLA_BINARY },
	[DSI_A_NODE_KEY_EPOCH] = { .type = NLA_U32 },
	[DSI_A_NODE_TX_KEY] = NLA_POLICY_EXACT_LEN(DSM_NL_KEY),
};

static int do_node_set(struct sk_buff *skb, struct genl_info *info)
{
	struct dsm_nl_fault fault = {};
	struct dsm_nl_node_set request = {
		.snid = get_u32(info, DSI_A_NODE_SNID),
		.key_epoch = get_u32(info, DSI_A_NODE_KEY_EPOCH),
		.tx_key = blob_of(info->attrs[DSI_A_NODE_TX_KEY]),
	};
	const struct nlattr *attr;
	int rem, ret;

	nlmsg_for_each_attr_type(attr, DSI_A_NODE_ADDRESS, info->nlhdr, GENL_HDRLEN, rem) {
		if (request.n_addresses < DSM_NL_ADDRESSES)
			request.address[request.n_addresses] = blob_of(attr);
		request.n_addresses++;
	}
	ret = dsm_nl_on_node_set(&request, &fault);
	wipe(info->attrs[DSI_A_NODE_TX_KEY]);
	return answer(info, ret, &fault);
}

static int do_node_del(struct sk_buff *skb, struct genl_info *info)
{
	struct dsm_nl_u32 snid = get_u32(info, DSI_A_NODE_SNID);
	struct dsm_nl_fault fault = {};

	return answer(info, dsm_nl_on_node_del(&snid, &fault), &fault);
}

static int put_node(struct sk_buff *skb, const struct netlink_callback *cb,
		    const struct dsm_nl_node *node)
{
	void *header = genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq, &family,
				   NLM_F_MULTI, DSI_CMD_NODE_GET);
	u32 i;

	if (!header)
		return -EMSGSIZE;
	if (nla_put_u32(skb, DSI_A_NODE_SNID, node->snid))
		goto cancel;
	for (i = 0; i < node->n_addresses && i < DSM_NL_ADDRESSES; i++)
		if (nla_put(skb, DSI_A_NODE_ADDRESS, node->address[i].len,
			    node->address[i].bytes))
			goto cancel;
	if (node->has_key && nla_put_u32(skb, DSI_A_NODE_KEY_EPOCH, node->key_epoch))
		goto cancel;
	genlmsg_end(skb, header);
	return 0;
cancel:
	genlmsg_cancel(skb, header);
	return -EMSGSIZE;
}

struct node_dump {
	u32 last;
};

static int dump_nodes(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct node_dump *dump = (struct node_dump *)cb->ctx;
	struct dsm_nl_node node;

	while (dsm_nl_on_node_next(dump->last, &node)) {
		if (put_node(skb, cb, &node))
			break;
		dump->last = node.snid;
	}
	return skb->len;
}

/* Tasks ---------------------------------------------------------------------------------- */

static const struct nla_policy task_policy[] = {
	[DSI_A_TASK_PID] = { .type = NLA_U32 },
	[DSI_A_TASK_SCID] = { .type = NLA_U32 },
};

#define DEFAULT_SCID 2
#define OUTSIDE_SCID U32_MAX

/* The task of the request with a reference, or NULL with the fault told. */
static struct task_struct *get_task(struct genl_info *info)
{
	struct task_struct *task = current;
	u32 pid = 0;

	rcu_read_lock();
	if (info->attrs[DSI_A_TASK_PID]) {
		pid = nla_get_u32(info->attrs[DSI_A_TASK_PID]);
		task = pid <= PID_MAX_LIMIT ? pid_task(find_vpid(pid), PIDTYPE_PID) : NULL;
	}
	if (task)
		get_task_struct(task);
	rcu_read_unlock();
	if (!task) {
		NL_SET_ERR_MSG_FMT(info->extack, "no process has pid %u in your pid namespace",
				   pid);
		NL_SET_BAD_ATTR(info->extack, info->attrs[DSI_A_TASK_PID]);
	}
	return task;
}

static int put_task(struct sk_buff *skb, u32 pid, u32 scid)
{
	return nla_put_u32(skb, DSI_A_TASK_PID, pid) || nla_put_u32(skb, DSI_A_TASK_SCID, scid) ?
		       -EMSGSIZE :
		       0;
}

static int do_task_get(struct sk_buff *skb, struct genl_info *info)
{
	struct task_struct *task = get_task(info);
	struct sk_buff *reply;
	void *header;
	int ret;

	if (!task)
		return -ESRCH;
	reply = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	if (!reply) {
		put_task_struct(task);
		return -ENOMEM;
	}
	header = genlmsg_put_reply(reply, info, &family, 0, DSI_CMD_TASK_GET);
	ret = header ? put_task(reply, task_pid_nr_ns(task, task_active_pid_ns(current)),
				dsm_nl_on_task_get(task)) :
		       -EMSGSIZE;
	put_task_struct(task);
	if (ret) {
		nlmsg_free(reply);
		return ret;
	}
	genlmsg_end(reply, header);
	return genlmsg_reply(reply, info);
}

static int do_task_set(struct sk_buff *skb, struct genl_info *info)
{
	struct task_struct *task;
	u32 scid;
	int ret;

	if (GENL_REQ_ATTR_CHECK(info, DSI_A_TASK_SCID)) {
		NL_SET_ERR_MSG(info->extack, "attribute scid is missing: give the ScID to set");
		return -EINVAL;
	}
	scid = nla_get_u32(info->attrs[DSI_A_TASK_SCID]);
	if (!scid || scid == OUTSIDE_SCID) {
		NL_SET_ERR_MSG_FMT(info->extack, "ScID %u is no process': use 1 to 4294967294",
				   scid);
		NL_SET_BAD_ATTR(info->extack, info->attrs[DSI_A_TASK_SCID]);
		return -EINVAL;
	}
	task = get_task(info);
	if (!task)
		return -ESRCH;
	if (task->flags & PF_KTHREAD) {
		NL_SET_ERR_MSG(info->extack, "a kernel thread keeps ScID 0: give a process' pid");
		NL_SET_BAD_ATTR(info->extack, info->attrs[DSI_A_TASK_PID]);
		ret = -EINVAL;
	} else {
		ret = dsm_nl_on_task_set(task, scid);
		if (ret == -ENOMEM)
			NL_SET_ERR_MSG(info->extack, "no memory for the task's entry: try again");
		else if (ret == -EBUSY && dsm_shares_memory(task))
			NL_SET_ERR_MSG(info->extack,
				       "another process shares its memory (vfork): end that one first");
		else if (ret == -EBUSY)
			NL_SET_ERR_MSG(info->extack,
				       "somebody traces or measures it: end strace, gdb or perf on it first");
	}
	put_task_struct(task);
	return ret;
}

/* What a dump of the tasks shows, taken at its start. */
struct task_dump {
	struct task_entry {
		u32 pid;
		u32 scid;
	} *entry;
	u32 used;
	u32 next;
};

/* Fills up to room entries; returns how many there are. Threads only where they differ. */
static u32 list_tasks(struct task_entry *entry, u32 room)
{
	struct pid_namespace *ns = task_active_pid_ns(current);
	struct task_struct *leader, *task;
	u32 n = 0, scid, pid;

	rcu_read_lock();
	for_each_process_thread(leader, task) {
		if (task->flags & PF_KTHREAD)
			continue;
		pid = task_pid_nr_ns(task, ns);
		scid = dsm_nl_on_task_get(task);
		if (!pid || (task == leader ? scid == DEFAULT_SCID :
					      scid == dsm_nl_on_task_get(leader)))
			continue;
		if (n < room)
			entry[n] = (struct task_entry){ .pid = pid, .scid = scid };
		n++;
	}
	rcu_read_unlock();
	return n;
}

static int start_tasks(struct netlink_callback *cb)
{
	struct task_dump *dump = (struct task_dump *)cb->ctx;
	int ret = start_admin(cb);
	u32 room;

	if (ret)
		return ret;
	/* Some more than now, for those born in between. */
	room = list_tasks(NULL, 0) + 64;
	dump->entry = kvmalloc_array(room, sizeof(*dump->entry), GFP_KERNEL);
	if (!dump->entry)
		return -ENOMEM;
	dump->used = min(list_tasks(dump->entry, room), room);
	dump->next = 0;
	return 0;
}

static int dump_tasks(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct task_dump *dump = (struct task_dump *)cb->ctx;
	void *header;

	for (; dump->next < dump->used; dump->next++) {
		header = genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq, &family,
				     NLM_F_MULTI, DSI_CMD_TASK_GET);
		if (!header)
			break;
		if (put_task(skb, dump->entry[dump->next].pid, dump->entry[dump->next].scid)) {
			genlmsg_cancel(skb, header);
			break;
		}
		genlmsg_end(skb, header);
	}
	return skb->len;
}

static int done_tasks(struct netlink_callback *cb)
{
	struct task_dump *dump = (struct task_dump *)cb->ctx;

	kvfree(dump->entry);
	return 0;
}

/* Events --------------------------------------------------------------------------------- */

/* Whether an event would be heard. Any context. */
bool dsm_nl_listening(void)
{
	bool heard;

	rcu_read_lock();
	heard = READ_ONCE(registered) && genl_has_listeners(&family, &init_net, 0);
	rcu_read_unlock();
	return heard;
}

static int put_denial(struct sk_buff *skb, const struct dsm_nl_event *event)
{
	if (put_u64(skb, DSI_A_EVENT_ID, event->id) ||
	    put_u64(skb, DSI_A_EVENT_TIME_NS, event->time_ns) ||
	    nla_put_u8(skb, DSI_A_EVENT_ENFORCED, event->enforced) ||
	    nla_put_u32(skb, DSI_A_EVENT_REASON, event->reason) ||
	    nla_put_u32(skb, DSI_A_EVENT_CLASS, event->class) ||
	    put_text(skb, DSI_A_EVENT_PERMISSION, event->permission.data,
		     event->permission.len) ||
	    nla_put_u32(skb, DSI_A_EVENT_SSCID, event->sscid) ||
	    nla_put_u32(skb, DSI_A_EVENT_SSNID, event->ssnid) ||
	    nla_put_u32(skb, DSI_A_EVENT_TSCID, event->tscid) ||
	    nla_put_u32(skb, DSI_A_EVENT_TSNID, event->tsnid) ||
	    nla_put_u8(skb, DSI_A_EVENT_PROTOCOL, event->protocol) ||
	    nla_put(skb, DSI_A_EVENT_SADDR, event->saddr.len, event->saddr.bytes) ||
	    nla_put(skb, DSI_A_EVENT_DADDR, event->daddr.len, event->daddr.bytes) ||
	    nla_put_u16(skb, DSI_A_EVENT_SPORT, event->sport) ||
	    nla_put_u16(skb, DSI_A_EVENT_DPORT, event->dport) ||
	    nla_put_u32(skb, DSI_A_EVENT_PID, event->pid) ||
	    put_text(skb, DSI_A_EVENT_COMM, event->comm,
		     strnlen((const char *)event->comm, sizeof(event->comm))) ||
	    nla_put_u32(skb, DSI_A_EVENT_RULE, event->rule) ||
	    put_u64(skb, DSI_A_EVENT_POLICY_VERSION, event->policy_version) ||
	    put_u64(skb, DSI_A_EVENT_SUPPRESSED, event->suppressed) ||
	    put_text(skb, DSI_A_EVENT_HOOK, event->hook.data, event->hook.len))
		return -EMSGSIZE;
	return 0;
}

static int put_policy_changed(struct sk_buff *skb, const struct dsm_nl_event *event)
{
	if (put_u64(skb, DSI_A_EVENT_ID, event->id) ||
	    put_u64(skb, DSI_A_EVENT_TIME_NS, event->time_ns) ||
	    nla_put_u32(skb, DSI_A_EVENT_MODE, event->mode) ||
	    put_u64(skb, DSI_A_EVENT_POLICY_VERSION, event->policy_version))
		return -EMSGSIZE;
	return 0;
}

static int send_event(u8 cmd, const struct dsm_nl_event *event,
		      int (*put)(struct sk_buff *skb, const struct dsm_nl_event *event))
{
	struct sk_buff *skb = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_ATOMIC);
	void *header;
	int ret;

	if (!skb)
		return -ENOMEM;
	rcu_read_lock();
	if (!READ_ONCE(registered)) {
		ret = -ENODEV;
		goto free;
	}
	ret = -EMSGSIZE;
	header = genlmsg_put(skb, 0, 0, &family, 0, cmd);
	if (!header || put(skb, event))
		goto free;
	genlmsg_end(skb, header);
	ret = genlmsg_multicast(&family, skb, 0, 0, GFP_ATOMIC);
	rcu_read_unlock();
	return ret;
free:
	rcu_read_unlock();
	nlmsg_free(skb);
	return ret;
}

/* Any context. */
int dsm_nl_send_denial(const struct dsm_nl_event *event)
{
	return send_event(DSI_CMD_DENIAL, event, put_denial);
}

int dsm_nl_send_policy_changed(const struct dsm_nl_event *event)
{
	return send_event(DSI_CMD_POLICY_CHANGED, event, put_policy_changed);
}

/* The family ----------------------------------------------------------------------------- */

#define ADMIN_DO(_cmd, _doit, _policy)						\
	{									\
		.cmd = (_cmd),							\
		.pre_doit = pre_admin,						\
		.doit = (_doit),						\
		.policy = (_policy),						\
		.maxattr = ARRAY_SIZE(_policy) - 1,				\
		.flags = GENL_CMD_CAP_DO,					\
	}

static const struct genl_split_ops ops[] = {
	{
		.cmd = DSI_CMD_STATUS_GET,
		.doit = do_status_get,
		.flags = GENL_CMD_CAP_DO,
	},
	ADMIN_DO(DSI_CMD_CONFIG_SET, do_config_set, config_policy),
	ADMIN_DO(DSI_CMD_POLICY_BEGIN, do_policy_begin, policy_policy),
	ADMIN_DO(DSI_CMD_POLICY_DATA, do_policy_data, policy_policy),
	ADMIN_DO(DSI_CMD_POLICY_COMMIT, do_policy_commit, policy_policy),
	{
		.cmd = DSI_CMD_POLICY_ABORT,
		.pre_doit = pre_admin,
		.doit = do_policy_abort,
		.flags = GENL_CMD_CAP_DO,
	},
	ADMIN_DO(DSI_CMD_NODE_SET, do_node_set, node_policy),
	ADMIN_DO(DSI_CMD_NODE_DEL, do_node_del, node_policy),
	{
		.cmd = DSI_CMD_NODE_GET,
		.start = start_admin,
		.dumpit = dump_nodes,
		.flags = GENL_CMD_CAP_DUMP,
	},
	ADMIN_DO(DSI_CMD_KEY_SET, do_key_set, key_policy),
	ADMIN_DO(DSI_CMD_TASK_GET, do_task_get, task_policy),
	{
		.cmd = DSI_CMD_TASK_GET,
		.start = start_tasks,
		.dumpit = dump_tasks,
		.done = done_tasks,
		.flags = GENL_CMD_CAP_DUMP,
	},
	ADMIN_DO(DSI_CMD_TASK_SET, do_task_set, task_policy),
};

static const struct genl_multicast_group groups[] = {
	/* The netlink core knows no CAP_MAC_ADMIN here; this is the strongest it knows. */
	{ .name = DSM_NL_GROUP_AUDIT, .flags = GENL_MCAST_CAP_SYS_ADMIN },
};

static struct genl_family family __ro_after_init = {
	.name = DSM_NL_FAMILY,
	.version = DSM_NL_VERSION,
	.netnsok = true,
	.parallel_ops = true,
	.module = THIS_MODULE,
	.split_ops = ops,
	.n_split_ops = ARRAY_SIZE(ops),
	.mcgrps = groups,
	.n_mcgrps = ARRAY_SIZE(groups),
};

/* From here on commands come in: everything that they use must be there. */
int dsm_nl_register(void)
{
	int ret = netlink_register_notifier(&netlink_block);

	if (ret)
		return ret;
	do
		instance = get_random_u64();
	while (!instance);
	ret = genl_register_family(&family);
	if (ret) {
		netlink_unregister_notifier(&netlink_block);
		return ret;
	}
	WRITE_ONCE(registered, true);
	return 0;
}

/* From here on none comes in, none is running, and no event is being sent. */
void dsm_nl_unregister(void)
{
	WRITE_ONCE(registered, false);
	synchronize_rcu();
	genl_unregister_family(&family);
	netlink_unregister_notifier(&netlink_block);
}

MODULE_VERSION("0.1.0");
