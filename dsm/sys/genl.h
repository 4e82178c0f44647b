/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The generic netlink family as both sides of the module see it: the numbers of
 * proto/netlink/dsi.yaml (scripts/check-netlink-spec compares them), the decoded requests that
 * genl.c hands to Rust, and the answers that Rust hands back. Attribute parsing ends in genl.c;
 * what a request means begins in Rust. Read by bindgen, so it must never include a kernel header
 * beyond linux/types.h.
 */
#ifndef DSM_SYS_GENL_H
#define DSM_SYS_GENL_H

#include <linux/types.h>

#define DSM_NL_FAMILY "dsi"
#define DSM_NL_VERSION 1
#define DSM_NL_GROUP_AUDIT "audit"

/* Commands and attributes: append only. */
enum { /* dsi_cmd */
	DSI_CMD_STATUS_GET = 1,
	DSI_CMD_CONFIG_SET,
	DSI_CMD_POLICY_BEGIN,
	DSI_CMD_POLICY_DATA,
	DSI_CMD_POLICY_COMMIT,
	DSI_CMD_POLICY_ABORT,
	DSI_CMD_NODE_SET,
	DSI_CMD_NODE_DEL,
	DSI_CMD_NODE_GET,
	DSI_CMD_KEY_SET,
	DSI_CMD_TASK_GET,
	DSI_CMD_TASK_SET,
	DSI_CMD_DENIAL,
	DSI_CMD_POLICY_CHANGED,
};

enum { /* dsi_a_status */
	DSI_A_STATUS_MODULE_VERSION = 1,
	DSI_A_STATUS_MODE,
	DSI_A_STATUS_POLICY_VERSION,
	DSI_A_STATUS_POLICY_EPOCH,
	DSI_A_STATUS_SNID,
	DSI_A_STATUS_CLUSTER,
	DSI_A_STATUS_KEY_EPOCH,
	DSI_A_STATUS_NODES,
	DSI_A_STATUS_TASKS,
	DSI_A_STATUS_SOCKETS,
	DSI_A_STATUS_ANCHOR,
	DSI_A_STATUS_HOOKS,
	DSI_A_STATUS_COUNTER,
	DSI_A_STATUS_INSTANCE,
};

enum { /* dsi_a_counter */
	DSI_A_COUNTER_NAME = 1,
	DSI_A_COUNTER_VALUE,
};

enum { /* dsi_a_config */
	DSI_A_CONFIG_SNID = 1,
	DSI_A_CONFIG_CLUSTER,
	DSI_A_CONFIG_ANCHOR,
};

enum { /* dsi_a_policy */
	DSI_A_POLICY_SIZE = 1,
	DSI_A_POLICY_OFFSET,
	DSI_A_POLICY_DATA,
	DSI_A_POLICY_SIGNATURE,
	DSI_A_POLICY_VERSION,
};

enum { /* dsi_a_node */
	DSI_A_NODE_SNID = 1,
	DSI_A_NODE_ADDRESS,
	DSI_A_NODE_KEY_EPOCH,
	DSI_A_NODE_TX_KEY,
};

enum { /* dsi_a_key */
	DSI_A_KEY_EPOCH = 1,
	DSI_A_KEY_SECRET,
	DSI_A_KEY_ACTIVE,
};

enum { /* dsi_a_task */
	DSI_A_TASK_PID = 1,
	DSI_A_TASK_SCID,
};

enum { /* dsi_a_event */
	DSI_A_EVENT_ID = 1,
	DSI_A_EVENT_TIME_NS,
	DSI_A_EVENT_ENFORCED,
	DSI_A_EVENT_REASON,
	DSI_A_EVENT_CLASS,
	DSI_A_EVENT_PERMISSION,
	DSI_A_EVENT_SSCID,
	DSI_A_EVENT_SSNID,
	DSI_A_EVENT_TSCID,
	DSI_A_EVENT_TSNID,
	DSI_A_EVENT_PROTOCOL,
	DSI_A_EVENT_SADDR,
	DSI_A_EVENT_DADDR,
	DSI_A_EVENT_SPORT,
	DSI_A_EVENT_DPORT,
	DSI_A_EVENT_PID,
	DSI_A_EVENT_COMM,
	DSI_A_EVENT_RULE,
	DSI_A_EVENT_POLICY_VERSION,
	DSI_A_EVENT_SUPPRESSED,
	DSI_A_EVENT_HOOK,
	DSI_A_EVENT_MODE,
};

#define DSM_NL_KEY 16
#define DSM_NL_ADDRESSES 8 /* of one node */
#define DSM_NL_TEXT 80 /* NETLINK_MAX_FMTMSG_LEN, the terminating zero included */
#define DSM_NL_COMM 16 /* TASK_COMM_LEN */

struct net;
struct task_struct;

/* Why a request was refused. */
struct dsm_nl_fault {
	u16 attr; /* number of the attribute at fault, 0 if none is */
	char text[DSM_NL_TEXT];
};

/* Bytes inside the request; data is NULL if the attribute is absent. */
struct dsm_nl_blob {
	const u8 *data;
	u32 len;
};

/* An IP address in network order; len is 4 or 16. */
struct dsm_nl_address {
	u8 bytes[16];
	u8 len;
};

/* A number that may be absent. */
struct dsm_nl_u32 {
	bool present;
	u32 value;
};

/* Who asks: a netlink socket, by what is unique about it. */
struct dsm_nl_port {
	const struct net *net;
	u32 portid;
};

struct dsm_nl_status {
	u32 mode;
	u64 policy_version;
	u64 policy_epoch;
	u32 snid;
	bool has_cluster;
	u8 cluster[16];
	u32 key_epoch;
	u32 nodes;
	u64 tasks;
	u64 sockets;
	bool anchor;
	};

struct dsm_nl_counter {
	u8 name[48]; /* text, terminated */
	u64 value;
};

struct dsm_nl_config {
	struct dsm_nl_u32 snid;
	struct dsm_nl_blob cluster;
	struct dsm_nl_blob anchor;
};

struct dsm_nl_node_set {
	struct dsm_nl_u32 snid;
	u32 n_addresses; /* as sent, so possibly more than address[] holds */
	struct dsm_nl_blob address[DSM_NL_ADDRESSES];
	struct dsm_nl_u32 key_epoch;
	struct dsm_nl_blob tx_key;
};

struct dsm_nl_node {
	u32 snid;
	u32 n_addresses;
	struct dsm_nl_address address[DSM_NL_ADDRESSES];
	bool has_key;
	u32 key_epoch;
};

struct dsm_nl_key {
	struct dsm_nl_u32 epoch;
	struct dsm_nl_blob secret;
	bool active;
};

/* A denial or, with only id, time, mode and policy_version in use, a change of the policy. */
struct dsm_nl_event {
	u64 id;
	u64 time_ns;
	u64 policy_version;
	u64 suppressed;
	u32 mode;
	u32 reason;
	u32 class;
	u32 sscid;
	u32 ssnid;
	u32 tscid;
	u32 tsnid;
	u32 pid;
	u32 rule;
	bool enforced;
	u8 protocol;
	struct dsm_nl_address saddr;
	struct dsm_nl_address daddr;
	u16 sport;
	u16 dport;
	u8 comm[DSM_NL_COMM]; /* zero-padded, not necessarily terminated */
	struct dsm_nl_blob permission; /* text without terminating zero */
	struct dsm_nl_blob hook;
};

/* genl.c */
int dsm_nl_register(void);
void dsm_nl_unregister(void);
bool dsm_nl_listening(void);
int dsm_nl_send_denial(const struct dsm_nl_event *event);
int dsm_nl_send_policy_changed(const struct dsm_nl_event *event);

/* cms.c */
int dsm_cms_init(void);
void dsm_cms_exit(void);
bool dsm_cms_has_anchor(void);
int dsm_cms_set_anchor(const u8 *der, size_t len);
int dsm_cms_read_anchor(const char *path);
int dsm_cms_verify(const u8 *image, size_t len, const u8 *signature, size_t signature_len);

/* audit.c */
#define DSM_AUDIT_LOG 0
#define DSM_AUDIT_EVENT 1
/* Where a denial comes from: a ScID of this node, who proves nothing, or the node of this SnID. */
#define DSM_AUDIT_OWN 0
#define DSM_AUDIT_STRANGERS U32_MAX
void dsm_audit_init(void);
bool dsm_audit_admit(u32 channel, u32 origin, u32 scid, u32 kind);
u64 dsm_audit_now(void);
u32 dsm_audit_current(u8 *comm);

/* addrs.c */
int dsm_addrs_watch(void);
void dsm_addrs_unwatch(void);

/*
 * Implemented in sys/genl.rs and sys/addrs.rs. Each returns 0 or a negative errno, and fills the
 * fault in the latter case. All run in process context and may sleep, unless they say otherwise.
 */
void dsm_nl_on_status(struct dsm_nl_status *status);
bool dsm_nl_on_counter(u32 index, struct dsm_nl_counter *counter);
int dsm_nl_on_config(const struct dsm_nl_config *request, struct dsm_nl_fault *fault);
int dsm_nl_on_policy_begin(const struct dsm_nl_port *port, const struct dsm_nl_u32 *size,
			   struct dsm_nl_fault *fault);
int dsm_nl_on_policy_data(const struct dsm_nl_port *port, const struct dsm_nl_u32 *offset,
			  const struct dsm_nl_blob *data, struct dsm_nl_fault *fault);
int dsm_nl_on_policy_commit(const struct dsm_nl_port *port, const struct dsm_nl_blob *signature,
			    u64 *version, struct dsm_nl_fault *fault);
int dsm_nl_on_policy_abort(const struct dsm_nl_port *port, struct dsm_nl_fault *fault);
void dsm_nl_on_release(const struct dsm_nl_port *port);
int dsm_nl_on_node_set(const struct dsm_nl_node_set *request, struct dsm_nl_fault *fault);
int dsm_nl_on_node_del(const struct dsm_nl_u32 *snid, struct dsm_nl_fault *fault);
bool dsm_nl_on_node_next(u32 after, struct dsm_nl_node *node);
int dsm_nl_on_key_set(const struct dsm_nl_key *request, struct dsm_nl_fault *fault);
/* May be called under rcu_read_lock. */
u32 dsm_nl_on_task_get(const struct task_struct *task);
/* Sets it for all threads of the task's process; the caller holds a reference on the task. */
int dsm_nl_on_task_set(const struct task_struct *task, u32 scid);
/* An IPv4 address, in host order, came to or went from an interface of the initial netns. */
void dsm_addrs_on_change(u32 address, bool here);
/* All IPv6 addresses, 16 bytes each, of the interfaces of the initial netns as they are now. */
void dsm_addrs_on_change6(const u8 (*addresses)[16], size_t count);

#endif
