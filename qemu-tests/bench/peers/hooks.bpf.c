// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// The peer `bpf_lsm` of the kernel benchmark: what a BPF-LSM policy costs that asks one hash map in each hook, by the
// user that acts or owns the socket, and puts no label on any packet. It must never do less than one look-up a hook:
// it is what DSI's label and check are compared with.

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define EPERM 1

struct linux_binprm;
struct msghdr;
struct request_sock;
struct sk_buff;
struct sockaddr;
struct socket;
struct task_struct;

typedef struct {
	unsigned int val;
} kuid_t;

struct sock {
	kuid_t sk_uid;
} __attribute__((preserve_access_index));

// By user: whether he may (any value but 0).
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, __u32);
	__type(value, __u32);
} verdicts SEC(".maps");

static __always_inline int judge(__u32 user, int ret)
{
	__u32 *verdict;

	if (ret)
		return ret;
	verdict = bpf_map_lookup_elem(&verdicts, &user);
	return verdict && *verdict ? 0 : -EPERM;
}

#define ACTING ((__u32)bpf_get_current_uid_gid())

SEC("lsm/socket_create")
int BPF_PROG(create, int family, int type, int protocol, int kern, int ret)
{
	return kern ? ret : judge(ACTING, ret);
}

SEC("lsm/socket_bind")
int BPF_PROG(bind, struct socket *sock, struct sockaddr *address, int addrlen, int ret)
{
	return judge(ACTING, ret);
}

SEC("lsm/socket_connect")
int BPF_PROG(connect, struct socket *sock, struct sockaddr *address, int addrlen, int ret)
{
	return judge(ACTING, ret);
}

SEC("lsm/socket_listen")
int BPF_PROG(listen, struct socket *sock, int backlog, int ret)
{
	return judge(ACTING, ret);
}

SEC("lsm/socket_accept")
int BPF_PROG(accept, struct socket *sock, struct socket *newsock, int ret)
{
	return judge(ACTING, ret);
}

SEC("lsm/socket_sendmsg")
int BPF_PROG(sendmsg, struct socket *sock, struct msghdr *msg, int size, int ret)
{
	return judge(ACTING, ret);
}

SEC("lsm/socket_recvmsg")
int BPF_PROG(recvmsg, struct socket *sock, struct msghdr *msg, int size, int flags, int ret)
{
	return judge(ACTING, ret);
}

SEC("lsm/socket_sock_rcv_skb")
int BPF_PROG(arrival, struct sock *sk, struct sk_buff *skb, int ret)
{
	return judge(sk->sk_uid.val, ret);
}

SEC("lsm/inet_conn_request")
int BPF_PROG(request, const struct sock *sk, struct sk_buff *skb, struct request_sock *req, int ret)
{
	return judge(sk->sk_uid.val, ret);
}

SEC("lsm/task_alloc")
int BPF_PROG(clone, struct task_struct *task, unsigned long flags, int ret)
{
	return judge(ACTING, ret);
}

SEC("lsm/bprm_check_security")
int BPF_PROG(exec, struct linux_binprm *bprm, int ret)
{
	return judge(ACTING, ret);
}

char _license[] SEC("license") = "GPL";
