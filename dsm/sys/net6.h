/* SPDX-License-Identifier: GPL-2.0 */
/* What net.c and net6.c have of each other. Not for Rust. */
#ifndef DSM_SYS_NET6_H
#define DSM_SYS_NET6_H

#include <linux/in6.h>
#include <linux/netfilter.h>
#include <linux/types.h>

struct nf_hook_state;
struct request_sock;
struct sk_buff;
struct sock;

struct dsm_packet;
struct tcphdr;

/* net.c */
bool dsm_is_mediated(const struct sock *sk);
void dsm_segment_out(const struct nf_hook_state *state, const struct sk_buff *skb,
		     const struct tcphdr *th, const struct sock *sk, struct dsm_packet *packet);

/*
 * Whether a socket is one of a TCP connection: neither a listener, nor a whole of connections. It may
 * be none that is complete: the state comes first.
 */
static inline bool dsm_is_connected(const struct sock *sk)
{
	return (1 << sk->sk_state) & (TCPF_ESTABLISHED | TCPF_FIN_WAIT1 | TCPF_FIN_WAIT2 |
				      TCPF_CLOSE_WAIT | TCPF_CLOSING | TCPF_LAST_ACK) &&
	       sk->sk_protocol == IPPROTO_TCP && sk->sk_type == SOCK_STREAM &&
	       (sk->sk_family == AF_INET || sk->sk_family == AF_INET6);
}

/*
 * Drops a packet that its sender hears about: a system call that opens a connection takes any other
 * error than this one for a lost packet (tcp_connect()).
 */
static inline unsigned int dsm_refusal(u8 protocol)
{
	return protocol == IPPROTO_TCP ? NF_DROP_ERR(-ECONNREFUSED) : NF_DROP_ERR(-EACCES);
}

bool dsm_is_sent(const struct sock *sk, const struct sk_buff *skb);	/* net.c */

/* An address as two numbers in host order. */
static inline void dsm_words6(const struct in6_addr *address, u64 *words)
{
	words[0] = (u64)be32_to_cpu(address->s6_addr32[0]) << 32 |
		   be32_to_cpu(address->s6_addr32[1]);
	words[1] = (u64)be32_to_cpu(address->s6_addr32[2]) << 32 |
		   be32_to_cpu(address->s6_addr32[3]);
}

/* net6.c */
#if IS_ENABLED(CONFIG_IPV6)
bool dsm_reserved6(const struct sock *sk);	/* under rcu_read_lock */
int dsm_reserve6(struct sock *sk);		/* sleeps */
int dsm_reserve_locked6(struct sock *sk);	/* sleeps */
void dsm_unreserve6(struct sock *sk);		/* the socket is locked */
bool dsm_reserve_child6(const struct request_sock *req);
unsigned int dsm_on_local_out6(void *priv, struct sk_buff *skb,
			       const struct nf_hook_state *state);
#else
static inline bool dsm_reserved6(const struct sock *sk) { return false; }
static inline int dsm_reserve6(struct sock *sk) { return 0; }
static inline int dsm_reserve_locked6(struct sock *sk) { return 0; }
static inline void dsm_unreserve6(struct sock *sk) { }
static inline bool dsm_reserve_child6(const struct request_sock *req) { return true; }
#endif

#endif
