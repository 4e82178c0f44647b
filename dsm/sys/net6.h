/* SPDX-License-Identifier: GPL-2.0 */
/* What net.c and net6.c have of each other. Not for Rust. */
#ifndef DSM_SYS_NET6_H
#define DSM_SYS_NET6_H

#include <linux/in6.h>
#include <linux/types.h>

struct nf_hook_state;
struct request_sock;
struct sk_buff;
struct sock;

/* net.c */
bool dsm_is_mediated(const struct sock *sk);

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
void dsm_unreserve6(struct sock *sk);		/* the socket is locked */
bool dsm_reserve_child6(const struct request_sock *req);
unsigned int dsm_on_local_out6(void *priv, struct sk_buff *skb,
			       const struct nf_hook_state *state);
#else
static inline bool dsm_reserved6(const struct sock *sk) { return false; }
static inline int dsm_reserve6(struct sock *sk) { return 0; }
static inline void dsm_unreserve6(struct sock *sk) { }
static inline bool dsm_reserve_child6(const struct request_sock *req) { return true; }
#endif

#endif
