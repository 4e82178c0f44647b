// SPDX-License-Identifier: GPL-2.0
/*
 * The hooks that each packet and each call to send or receive passes. Most of these were let go ahead
 * before, in all that the verdict depends on: then one question to Rust is enough, whose arguments are
 * read here and fit into registers. Any other is asked in full.
 */
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/net.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/skbuff.h>
#include <linux/socket.h>
#include <linux/uio.h>
#include <linux/unaligned.h>
#include <net/inet_sock.h>
#include <net/ip.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/udp.h>

#include "count.h"
#include "known.h"
#include "net6.h"
#include "shim.h"

/*
 * Whether a datagram that needs no room for its label may go where it goes, over IPv4 and, as far as the
 * socket has not been told that it may, not to a group.
 */
static __always_inline bool sends(const struct sock *sk, const struct msghdr *msg, int size,
				  typeof(dsm_known_datagram) *ask)
{
	const struct inet_sock *inet = inet_sk(sk);
	const struct sockaddr_in *in = msg->msg_name;
	__be32 daddr;
	__be16 dport;

	if (size > DSM_SMALL || msg->msg_flags & MSG_MORE || udp_test_bit(CORK, sk) ||
	    sock_flag(sk, SOCK_BROADCAST))
		return false;
	if (!in) {
		dport = inet->inet_dport;
		daddr = inet->inet_daddr;
		if (!dport)
			return false;
	} else {
		if (msg->msg_namelen < (int)sizeof(*in) || in->sin_family != AF_INET)
			return false;
		dport = in->sin_port;
		daddr = in->sin_addr.s_addr;
	}
	return ask(sk, current,
		   dsm_call_word((__force u32)daddr, READ_ONCE(inet->inet_num), DSM_DEST_IPV4),
		   (__force u16)dport);
}

/* A socket that talks to many in turn. */
static noinline bool sends_to_many(const struct socket *sock, const struct msghdr *msg, int size)
{
	return sends(sock->sk, msg, size, dsm_recent_datagram);
}

int dsm_hook_socket_sendmsg(struct socket *sock, struct msghdr *msg, int size)
{
	const struct sock *sk = sock->sk;
	bool known = false;

	if (unlikely(!sk || !dsm_task_acts()))
		return dsm_on_sendmsg(sock, msg, size);
	/* The state of sockets and tasks is freed a grace period after it was last found. */
	rcu_read_lock_sched();
	if (sk->sk_family == AF_INET && dsm_is_udp(sk))
		known = likely(sends(sk, msg, size, dsm_known_datagram)) ||
			sends_to_many(sock, msg, size);
	else if (dsm_is_connected(sk) && !(msg->msg_flags & MSG_FASTOPEN))
		known = dsm_known_stream(sk, current, READ_ONCE(inet_sk(sk)->inet_num));
	rcu_read_unlock_sched();
	return likely(known) ? 0 : dsm_on_sendmsg(sock, msg, size);
}

static __always_inline bool receives(const struct socket *sock)
{
	const struct sock *sk = sock->sk;
	bool known;

	if (unlikely(!sk || !dsm_task_acts() || !dsm_is_inet(sk) ||
		     !(dsm_is_udp(sk) || dsm_is_tcp(sk) || dsm_is_mediated(sk))))
		return false;
	rcu_read_lock_sched();
	known = dsm_known_receiver(sk, current, READ_ONCE(inet_sk(sk)->inet_num));
	rcu_read_unlock_sched();
	return known;
}

/*
 * What is read of a socket's errors. One of ICMP's quotes whatever its sender wrote. Who may not have that gets
 * the error without what is quoted: the call then has room for nothing. Of the messages that one call asks for
 * only the first passes here, and time stamps may bring more along.
 */
static noinline int reads_errors(struct socket *sock, struct msghdr *msg)
{
	int verdict = receives(sock) ? 0 : dsm_on_recvmsg(sock);

	if (verdict || !sock->sk || !dsm_is_inet(sock->sk) || !dsm_sock_quotes(sock->sk))
		return verdict;
	verdict = dsm_on_errors(dsm_receives_many() || dsm_sock_stamps(sock->sk));
	if (verdict != DSM_ERRORS_BARE)
		return verdict;
	iov_iter_truncate(&msg->msg_iter, 0);
	return 0;
}

int dsm_hook_socket_recvmsg(struct socket *sock, struct msghdr *msg, int size, int flags)
{
	if (unlikely(flags & MSG_ERRQUEUE))
		return reads_errors(sock, msg);
	return receives(sock) ? 0 : dsm_on_recvmsg(sock);
}

/* Splice and its like read a socket without the hook above. */
int dsm_hook_file_permission(struct file *file, int mask)
{
	const umode_t mode = file_inode(file)->i_mode;
	const struct socket *sock;

	/* A device's file that the driver makes itself has no type (anon_inode_getfile). */
	if ((S_ISCHR(mode) || !(mode & S_IFMT)) && unlikely(dsm_is_past_sockets(file)))
		return dsm_on_device();
	if (!(mask & MAY_READ) || !S_ISSOCK(mode))
		return 0;
	sock = sock_from_file(file);
	return !sock || receives(sock) ? 0 : dsm_on_file_read(sock);
}

/* Asks of a datagram over IPv4 with a label alone. */
#define ASK_DATAGRAM(ask, sk, skb)							\
	({										\
		const struct iphdr *_iph = ip_hdr(skb);					\
		const u8 *_label = (const u8 *)(_iph + 1);				\
											\
		ask(sk, get_unaligned((const u64 *)&_iph->saddr),			\
		    get_unaligned((const u32 *)skb_transport_header(skb)),		\
		    get_unaligned((const u64 *)_label),					\
		    get_unaligned((const u64 *)(_label + 8)),				\
		    get_unaligned((const u32 *)(_label + 16)));				\
	})

/* A socket that hears many in turn. */
static noinline int hears_many(struct sock *sk, struct sk_buff *skb)
{
	if (!ASK_DATAGRAM(dsm_recent_arrival, sk, skb))
		return dsm_on_arrival(sk, skb);
	dsm_count_one(DSM_COUNT_IN_LABELLED);
	return 0;
}

/*
 * Most packets are like one that the socket was let have before: a segment of its connection without
 * options of IP's, or a datagram over IPv4 with a label alone. Under rcu_read_lock, by the IP layer.
 */
int dsm_hook_socket_sock_rcv_skb(struct sock *sk, struct sk_buff *skb)
{
	if (dsm_is_udp(sk)) {
		if (skb->protocol != htons(ETH_P_IP) ||
		    ip_hdr(skb)->ihl != (sizeof(struct iphdr) + DSM_LABEL_LEN) / 4)
			return dsm_on_arrival(sk, skb);
		if (unlikely(!ASK_DATAGRAM(dsm_known_arrival, sk, skb)))
			return hears_many(sk, skb);
		dsm_count_one(DSM_COUNT_IN_LABELLED);
		return 0;
	}
	if (!dsm_is_connected(sk) || tcp_hdr(skb)->syn ||
	    skb_network_header_len(skb) != (skb->protocol == htons(ETH_P_IP) ?
					    sizeof(struct iphdr) : sizeof(struct ipv6hdr)) ||
	    !dsm_known_segment(sk))
		return dsm_on_arrival(sk, skb);
	dsm_count_one(DSM_COUNT_IN_BARE);
	return 0;
}
