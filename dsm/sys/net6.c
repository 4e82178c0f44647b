// SPDX-License-Identifier: GPL-2.0
/*
 * What net.c does, for IPv6: keeps room for the label in a socket, and writes the label's header
 * into packets on their way out, right before the transport header. Neither a checksum nor the
 * pseudo header covers it.
 */
#include <linux/netfilter.h>
#include <linux/skbuff.h>
#include <net/inet_connection_sock.h>
#include <net/inet_sock.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/request_sock.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/udp.h>

#include "count.h"
#include "net6.h"
#include "shim.h"

void dsm_sock_source6(const struct sock *sk, u8 *address)
{
	memset(address, 0, 16);
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6)
		memcpy(address, &inet6_sk(sk)->saddr, 16);
#endif
}

#if IS_ENABLED(CONFIG_IPV6)

#define OPTION_TYPE 0x1e
#define OPTION_DATA 18

/* In its own header: length 24, two bytes of padding, then the label. */
static bool is_placeholder(const u8 *header)
{
	return header[1] == 2 && header[2] == IPV6_TLV_PADN && header[3] == 0 &&
	       header[4] == OPTION_TYPE && header[5] == OPTION_DATA;
}

static bool holds_placeholder(const struct ipv6_txoptions *opt)
{
	return opt && opt->dst1opt && opt->opt_flen == DSM_HEADER_LEN && !opt->opt_nflen &&
	       is_placeholder((const u8 *)opt->dst1opt);
}

bool dsm_reserved6(const struct sock *sk)
{
	return holds_placeholder(rcu_dereference(inet6_sk(sk)->opt));
}

static struct ipv6_txoptions *placeholder(gfp_t gfp)
{
	struct ipv6_txoptions *opt = kzalloc(sizeof(*opt) + DSM_HEADER_LEN, gfp);
	u8 *header;

	if (!opt)
		return NULL;
	header = (u8 *)(opt + 1);
	header[1] = 2;
	header[2] = IPV6_TLV_PADN;
	header[4] = OPTION_TYPE;
	header[5] = OPTION_DATA;
	refcount_set(&opt->refcnt, 1);
	opt->tot_len = sizeof(*opt) + DSM_HEADER_LEN;
	opt->opt_flen = DSM_HEADER_LEN;
	opt->dst1opt = (struct ipv6_opt_hdr *)header;
	return opt;
}

/* The socket is locked, and its options are the placeholder or none before and after. */
static void replace_options(struct sock *sk, struct ipv6_txoptions *opt, int more)
{
	struct ipv6_txoptions *old;

	if (inet_test_bit(IS_ICSK, sk) &&
	    !((1 << sk->sk_state) & (TCPF_LISTEN | TCPF_CLOSE)) &&
	    !ipv6_addr_v4mapped(&sk->sk_v6_daddr)) {
		struct inet_connection_sock *icsk = inet_csk(sk);

		icsk->icsk_ext_hdr_len += more;
		icsk->icsk_sync_mss(sk, icsk->icsk_pmtu_cookie);
	}
	if (opt)
		atomic_add(opt->tot_len, &sk->sk_omem_alloc);
	old = unrcu_pointer(xchg(&inet6_sk(sk)->opt, RCU_INITIALIZER(opt)));
	sk_dst_reset(sk);
	if (old) {
		atomic_sub(old->tot_len, &sk->sk_omem_alloc);
		txopt_put(old);
	}
}

int dsm_reserve6(struct sock *sk)
{
	struct ipv6_txoptions *opt;

	if (sk->sk_family != AF_INET6)
		return 0;
	opt = placeholder(GFP_KERNEL);
	if (!opt)
		return -ENOMEM;
	lock_sock(sk);
	/* IPV6_ADDRFORM may have made it an IPv4 socket meanwhile. */
	if (sk->sk_family == AF_INET6 && !rcu_access_pointer(inet6_sk(sk)->opt)) {
		replace_options(sk, opt, DSM_HEADER_LEN);
		opt = NULL;
	}
	release_sock(sk);
	kfree(opt);
	return 0;
}

int dsm_reserve_locked6(struct sock *sk)
{
	struct ipv6_txoptions *opt;

	if (sk->sk_family != AF_INET6 || rcu_access_pointer(inet6_sk(sk)->opt))
		return 0;
	opt = placeholder(GFP_KERNEL);
	if (!opt)
		return -ENOMEM;
	replace_options(sk, opt, DSM_HEADER_LEN);
	return 0;
}

void dsm_unreserve6(struct sock *sk)
{
	if (holds_placeholder(rcu_dereference_protected(inet6_sk(sk)->opt,
							lockdep_sock_is_held(sk))))
		replace_options(sk, NULL, -DSM_HEADER_LEN);
}

/* As dsm_reserve_child; the request frees what it has, the socket takes a copy. */
bool dsm_reserve_child6(const struct request_sock *req)
{
	struct inet_request_sock *ireq = (struct inet_request_sock *)inet_rsk(req);
	struct ipv6_txoptions *opt;

	if (req->rsk_ops->family != AF_INET6 || ireq->ipv6_opt)
		return true;
	/* Options of the listener's own are inherited, and labels inserted. */
	if (req->rsk_listener && rcu_access_pointer(inet6_sk(req->rsk_listener)->opt))
		return true;
	opt = placeholder(GFP_ATOMIC);
	if (!opt)
		return false;
	if (cmpxchg(&ireq->ipv6_opt, NULL, opt))
		kfree(opt);
	return true;
}

/* As in net.c. */
static bool speaker(const struct nf_hook_state *state, const struct tcphdr *th, u8 protocol,
		    const struct sock **out)
{
	const struct sock *sk = state->sk;

	*out = NULL;
	if (!sk)
		return protocol == IPPROTO_TCP && !th->syn;
	switch (sk->sk_state) {
	case TCP_TIME_WAIT:
		return true;
	case TCP_NEW_SYN_RECV:
		*out = inet_reqsk((struct sock *)sk)->rsk_listener;
		return true;
	}
	if (sk->sk_type == SOCK_RAW)
		return sk->sk_kern_sock && protocol == IPPROTO_TCP;
	if (!dsm_is_mediated(sk))
		return false;
	*out = sk;
	return true;
}

static void set_payload_len(struct sk_buff *skb)
{
	unsigned int len = skb->len - sizeof(struct ipv6hdr);

	ipv6_hdr(skb)->payload_len = len <= IPV6_MAXPLEN ? htons(len) : 0;
}

/* What names the header at an offset: a byte of the header before it. Each has 8 bytes or more. */
static u8 *next_header(struct sk_buff *skb, unsigned int at)
{
	struct ipv6hdr *iph = ipv6_hdr(skb);
	unsigned int offset = sizeof(*iph);
	u8 *next = &iph->nexthdr;

	while (offset < at) {
		struct ipv6_opt_hdr *header = (struct ipv6_opt_hdr *)((u8 *)iph + offset);

		switch (*next) {
		case NEXTHDR_FRAGMENT:
			offset += sizeof(struct frag_hdr);
			break;
		case NEXTHDR_AUTH:
			offset += ipv6_authlen(header);
			break;
		default:
			offset += ipv6_optlen(header);
		}
		next = &header->nexthdr;
	}
	return next;
}

/* As in net.c: what is larger has room reserved, or is cut into fragments. */
#define SMALL 552

/* Room for a label's header before the transport header. */
static bool open_gap(struct sk_buff *skb, unsigned int at)
{
	u8 *iph = skb_network_header(skb);

	if (!skb_is_gso(skb) &&
	    skb->len + DSM_HEADER_LEN - sizeof(struct ipv6hdr) > IPV6_MAXPLEN)
		return false;
	if (!skb_is_nonlinear(skb) && !skb_cloned(skb) && skb->len <= SMALL &&
	    skb_tailroom(skb) >= DSM_HEADER_LEN) {
		unsigned int moved = skb->len - at;

		skb_put(skb, DSM_HEADER_LEN);
		memmove(iph + at + DSM_HEADER_LEN, iph + at, moved);
		skb->transport_header += DSM_HEADER_LEN;
		if (skb->ip_summed == CHECKSUM_PARTIAL)
			skb->csum_start += DSM_HEADER_LEN;
	} else {
		if (skb_cow_head(skb, DSM_HEADER_LEN + LL_RESERVED_SPACE(skb_dst_dev(skb))))
			return false;
		skb_push(skb, DSM_HEADER_LEN);
		memmove(skb->data, skb->data + DSM_HEADER_LEN, at);
		skb_reset_network_header(skb);
	}
	*next_header(skb, at) = NEXTHDR_DEST;
	set_payload_len(skb);
	return true;
}

/* The packet without its placeholder. */
static void close_gap(struct sk_buff *skb, u8 protocol)
{
	u8 *iph = skb_network_header(skb);

	memmove(iph + DSM_HEADER_LEN, iph, sizeof(struct ipv6hdr));
	skb_pull(skb, DSM_HEADER_LEN);
	skb_reset_network_header(skb);
	ipv6_hdr(skb)->nexthdr = protocol;
	set_payload_len(skb);
}

/* LOCAL_OUT, last in line: no other hook changes what the label covers. */
unsigned int dsm_on_local_out6(void *priv, struct sk_buff *skb,
			       const struct nf_hook_state *state)
{
	const struct ipv6hdr *iph = ipv6_hdr(skb);
	const struct sock *sk;
	struct dsm_packet packet;
	const __be16 *ports;
	u8 header[DSM_HEADER_LEN] __aligned(8);
	u8 protocol = iph->nexthdr;
	int at = sizeof(*iph);
	bool reserved = false;
	u32 verdict;

	if (protocol == IPPROTO_TCP && state->sk && dsm_is_connected(state->sk) &&
	    !inet_csk(state->sk)->icsk_retransmits && dsm_known_bare(state->sk)) {
		dsm_count_one(DSM_COUNT_OUT_BARE);
		return NF_ACCEPT;
	}
	if (protocol == NEXTHDR_DEST && skb_headlen(skb) >= sizeof(*iph) + DSM_HEADER_LEN) {
		const u8 *first = (const u8 *)(iph + 1);

		reserved = is_placeholder(first) &&
			   (first[0] == IPPROTO_TCP || first[0] == IPPROTO_UDP);
		if (reserved) {
			protocol = first[0];
			at += DSM_HEADER_LEN;
		}
	}
	if (!reserved && protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) {
		__be16 fragment = 0;

		at = ipv6_skip_exthdr(skb, at, &protocol, &fragment);
		if (at < 0 || fragment || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP))
			return NF_ACCEPT;
	}
	if (!pskb_may_pull(skb, at + (protocol == IPPROTO_TCP ? 20 : 8)))
		return NF_DROP;
	iph = ipv6_hdr(skb);
	ports = (const __be16 *)((const u8 *)iph + at);
	if (!speaker(state, (const struct tcphdr *)ports, protocol, &sk))
		return NF_ACCEPT;
	packet.raw = false;
	packet.fragment = false;
	packet.group = false;
	packet.routed = false;
	packet.addrs = 0;
	packet.ports = be16_to_cpu(ports[0]) << 16 | be16_to_cpu(ports[1]);
	packet.protocol = protocol;
	packet.skb = protocol == IPPROTO_UDP && dsm_is_sent(sk, skb) ? skb : NULL;
	packet.tcp_flags = 0;
	if (protocol == IPPROTO_TCP)
		dsm_segment_out(state, skb, (const struct tcphdr *)ports, sk, &packet);
	packet.options_len = reserved ? sizeof(*iph) : at;
	packet.options = (const u8 *)iph;

	verdict = dsm_departure6(sk, &packet, header);
	switch (verdict) {
	case DSM_OUT_LABEL:
		if (reserved) {
			if (skb_cow_head(skb, 0))
				return NF_DROP;
			at = sizeof(*iph);
		} else if (!open_gap(skb, at)) {
			dsm_count_one(DSM_COUNT_OUT_NO_ROOM);
			return NF_DROP;
		} else {
			dsm_count_one(DSM_COUNT_OUT_INSERTED);
			/* As in net.c. */
			if (protocol == IPPROTO_TCP)
				skb->ignore_df = 1;
		}
		memcpy(skb_network_header(skb) + at, header, DSM_HEADER_LEN);
		dsm_count_one(DSM_COUNT_OUT_LABELLED);
		break;
	case DSM_OUT_BARE:
		if (!reserved)
			break;
		if (skb_cow_head(skb, 0))
			return NF_DROP;
		close_gap(skb, protocol);
		break;
	case DSM_OUT_DROP:
		dsm_count_one(DSM_COUNT_OUT_DECEIVING);
		return NF_DROP;
	case DSM_OUT_REFUSE:
		return dsm_refusal(protocol);
	}
	return NF_ACCEPT;
}

#endif
