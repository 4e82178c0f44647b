// SPDX-License-Identifier: GPL-2.0
/*
 * What Rust asks about a TCP connection: where its sequence numbers start, and which handshake a
 * segment for a listener belongs to. Reads only.
 */
#include <linux/tcp.h>
#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/request_sock.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "shim.h"

/* Where the peer's sequence numbers start. The socket is locked. False if it has shown none. */
bool dsm_peer_start(const struct sock *sk, u32 *start)
{
	const struct tcp_sock *tp = tcp_sk(sk);

	if ((1 << sk->sk_state) & (TCPF_SYN_SENT | TCPF_CLOSE | TCPF_LISTEN))
		return false;
	/* What has been received counts from the first byte behind the SYN. */
	*start = tp->rcv_nxt - (u32)tp->bytes_received - 1;
	return true;
}

/* Where the numbers of a connection start that a request becomes: the peer's, and ours. */
void dsm_request_starts(const struct request_sock *req, u32 *theirs, u32 *ours)
{
	*theirs = tcp_rsk(req)->rcv_isn;
	*ours = tcp_rsk(req)->snt_isn;
}

/* What is known of the connection of a segment that a listener is asked about. With a reference. */
static struct sock *known(const struct sock *sk, const struct sk_buff *skb)
{
	const struct tcphdr *th = tcp_hdr(skb);
	const struct net *net = sock_net(sk);

	if (skb->protocol == htons(ETH_P_IP)) {
		const struct iphdr *iph = ip_hdr(skb);

		return __inet_lookup_established(net, iph->saddr, th->source, iph->daddr,
						 ntohs(th->dest), inet_iif(skb), inet_sdif(skb));
	}
#if IS_ENABLED(CONFIG_IPV6)
	return __inet6_lookup_established(net, &ipv6_hdr(skb)->saddr, th->source,
					  &ipv6_hdr(skb)->daddr, ntohs(th->dest), inet6_iif(skb),
					  inet6_sdif(skb));
#else
	return NULL;
#endif
}

/* Where the numbers of the handshake start that a segment for a listener belongs to, if any. */
bool dsm_handshake_starts(const struct sock *sk, const struct sk_buff *skb, u32 *theirs, u32 *ours)
{
	struct sock *found = known(sk, skb);
	bool request;

	if (!found)
		return false;
	request = found->sk_state == TCP_NEW_SYN_RECV;
	if (request)
		dsm_request_starts(inet_reqsk(found), theirs, ours);
	sock_gen_put(found);
	return request;
}

/*
 * Whether a segment for a listener belongs to no connection and to no handshake, nor can be the end
 * of one that only a cookie knows: TCP answers it by a reset, and nothing else comes of it. A segment
 * that brings a request along ends a handshake that BPF has made (skb_steal_sock leaves no other there).
 */
bool dsm_segment_stray(const struct sock *sk, const struct sk_buff *skb)
{
	const struct tcphdr *th = tcp_hdr(skb);
	struct sock *found;

	if (!th->ack || th->rst || th->syn || skb->sk || !tcp_synq_no_recent_overflow(sk))
		return false;
	found = known(sk, skb);
	if (!found)
		return true;
	sock_gen_put(found);
	return false;
}
