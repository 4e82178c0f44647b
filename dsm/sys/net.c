// SPDX-License-Identifier: GPL-2.0
/*
 * Reads packets and sockets for Rust, keeps room for the label in a socket, and writes the label
 * into packets on their way out. What the label says and whether there is one is Rust's matter;
 * nothing here reads a policy.
 */
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/skbuff.h>
#include <net/inet_connection_sock.h>
#include <net/inet_hashtables.h>
#include <net/inet_sock.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>
#include <net/request_sock.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/udp.h>

#include "net6.h"
#include "shim.h"

#define OPTION_TYPE 158

/* IPv4 or IPv6, TCP or UDP: what the module labels and checks. */
bool dsm_is_mediated(const struct sock *sk)
{
	return (sk->sk_family == AF_INET || sk->sk_family == AF_INET6) &&
	       ((sk->sk_type == SOCK_DGRAM && sk->sk_protocol == IPPROTO_UDP) ||
		(sk->sk_type == SOCK_STREAM && sk->sk_protocol == IPPROTO_TCP));
}

const struct sock *dsm_sock_mediated(const struct sock *sk)
{
	return sk && dsm_is_mediated(sk) ? sk : NULL;
}

/* The packet that a socket is about to receive; skb->data is at its transport header. */
u32 dsm_arrival(const struct sock *sk, const struct sk_buff *skb, struct dsm_packet *packet)
{
	const struct iphdr *iph;
	const __be16 *ports;

	if (!dsm_is_mediated(sk))
		return DSM_ARRIVAL_FOREIGN;
	packet->protocol = sk->sk_protocol;
	packet->listening = sk->sk_state == TCP_LISTEN;
	ports = (const __be16 *)skb_transport_header(skb);
	packet->ports = be16_to_cpu(ports[0]) << 16 | be16_to_cpu(ports[1]);
	if (packet->protocol == IPPROTO_TCP) {
		const struct tcphdr *th = (const struct tcphdr *)ports;

		packet->tcp_flags = tcp_flag_byte(th);
		packet->empty = skb->len <= th->doff * 4;
	} else {
		packet->tcp_flags = 0;
		packet->empty = false;
	}
	if (skb->protocol != htons(ETH_P_IP)) {
		packet->options_len = skb_network_header_len(skb);
		packet->options = skb_network_header(skb);
		return DSM_ARRIVAL_IPV6;
	}
	iph = ip_hdr(skb);
	packet->addrs = (u64)be32_to_cpu(iph->saddr) << 32 | be32_to_cpu(iph->daddr);
	packet->options_len = iph->ihl * 4 - sizeof(*iph);
	packet->options = (const u8 *)(iph + 1);
	return DSM_ARRIVAL_IPV4;
}

static bool is_placeholder(const u8 *option, unsigned int len)
{
	return len >= DSM_LABEL_LEN && option[0] == OPTION_TYPE && option[1] == DSM_LABEL_LEN;
}

static void destination(const struct sockaddr *address, int addrlen, struct dsm_sock *view)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;

	if (addrlen < (int)sizeof(*in))
		return;
	if (address->sa_family == AF_INET ||
	    (address->sa_family == AF_UNSPEC && view->sk->sk_family == AF_INET)) {
		view->destination = DSM_DEST_IPV4;
		view->daddr = be32_to_cpu(in->sin_addr.s_addr);
		view->dport = be16_to_cpu(in->sin_port);
	} else if (address->sa_family == AF_INET6 && addrlen >= SIN6_LEN_RFC2133) {
		view->dport = be16_to_cpu(in6->sin6_port);
		if (ipv6_addr_v4mapped(&in6->sin6_addr)) {
			view->destination = DSM_DEST_IPV4;
			view->daddr = be32_to_cpu(in6->sin6_addr.s6_addr32[3]);
		} else {
			view->destination = DSM_DEST_IPV6;
			dsm_words6(ipv6_addr_any(&in6->sin6_addr) ? &in6addr_loopback :
								    &in6->sin6_addr,
				   view->daddr6);
		}
	}
}

/* The socket and its local port; NULL if it is none that the module mediates. */
const struct sock *dsm_sock_port(const struct socket *socket, u16 *port)
{
	const struct sock *sk = socket->sk;

	if (!sk || !dsm_is_mediated(sk))
		return NULL;
	*port = READ_ONCE(inet_sk(sk)->inet_num);
	return sk;
}

/*
 * A datagram up to this size fits into every path's packets with a label, so it needs no room
 * reserved. 552 is the least path MTU that the kernel believes in.
 */
#define SMALL (552 - 60 - (int)sizeof(struct udphdr))

/*
 * The socket, and where a message or connection of it goes: to the message's or the given
 * address, otherwise to the peer. False if the socket is none that the module mediates. Under
 * rcu_read_lock.
 */
bool dsm_sock_of(const struct socket *socket, const struct msghdr *msg, int size,
		 const struct sockaddr *address, int addrlen, struct dsm_sock *view)
{
	const struct sock *sk = socket->sk;
	const struct ip_options_rcu *opt;
	const struct inet_sock *inet;

	if (!sk || !dsm_is_mediated(sk))
		return false;
	inet = inet_sk(sk);
	view->sk = sk;
	view->protocol = sk->sk_protocol;
	view->saddr = be32_to_cpu(inet->inet_saddr);
	view->sport = READ_ONCE(inet->inet_num);
	view->daddr = 0;
	view->dport = 0;
	view->destination = DSM_DEST_NONE;
	view->opening = false;
	view->closed = sk->sk_state == TCP_CLOSE;
	opt = rcu_dereference(inet->inet_opt);
	view->reserved = opt && is_placeholder(opt->opt.__data, opt->opt.optlen) ?
				 DSM_FAMILY_IPV4 : 0;
	if (sk->sk_family == AF_INET6 && dsm_reserved6(sk))
		view->reserved |= DSM_FAMILY_IPV6;
	view->large = view->protocol == IPPROTO_TCP || size > SMALL ||
		      (msg && ((msg->msg_flags & MSG_MORE) || udp_test_bit(CORK, sk)));
	if (msg && msg->msg_name) {
		address = msg->msg_name;
		addrlen = msg->msg_namelen;
		/* Whatever the state says: another thread may disconnect the socket behind this. */
		view->opening = view->protocol == IPPROTO_TCP && (msg->msg_flags & MSG_FASTOPEN);
		if (view->protocol == IPPROTO_TCP && !view->opening)
			address = NULL;
		/* To IPv6, an address of no family is none: the datagram goes to the peer. */
		if (sk->sk_family == AF_INET6 && view->protocol == IPPROTO_UDP &&
		    addrlen >= (int)sizeof(sa_family_t) && address->sa_family == AF_UNSPEC)
			address = NULL;
	}
	if (address) {
		destination(address, addrlen, view);
	} else if (inet->inet_dport) {
		view->dport = be16_to_cpu(inet->inet_dport);
		view->destination = DSM_DEST_IPV4;
		view->daddr = be32_to_cpu(inet->inet_daddr);
#if IS_ENABLED(CONFIG_IPV6)
		if (sk->sk_family == AF_INET6 && !ipv6_addr_v4mapped(&sk->sk_v6_daddr)) {
			view->destination = DSM_DEST_IPV6;
			dsm_words6(&sk->sk_v6_daddr, view->daddr6);
		}
#endif
	}
	return true;
}

static struct ip_options_rcu *placeholder(gfp_t gfp)
{
	struct ip_options_rcu *opt = kzalloc(sizeof(*opt) + DSM_LABEL_LEN, gfp);

	if (opt) {
		opt->opt.optlen = DSM_LABEL_LEN;
		opt->opt.__data[0] = OPTION_TYPE;
		opt->opt.__data[1] = DSM_LABEL_LEN;
	}
	return opt;
}

/* The socket is locked. What goes in place of the options, or NULL, and a new segment size. */
static void replace_options(struct sock *sk, struct ip_options_rcu *opt)
{
	struct inet_sock *inet = inet_sk(sk);
	struct ip_options_rcu *old;

	old = rcu_dereference_protected(inet->inet_opt, lockdep_sock_is_held(sk));
	if (inet_test_bit(IS_ICSK, sk)) {
		struct inet_connection_sock *icsk = inet_csk(sk);

		if (!((1 << sk->sk_state) & (TCPF_LISTEN | TCPF_CLOSE))) {
			if (old)
				icsk->icsk_ext_hdr_len -= old->opt.optlen;
			if (opt)
				icsk->icsk_ext_hdr_len += opt->opt.optlen;
			icsk->icsk_sync_mss(sk, icsk->icsk_pmtu_cookie);
		}
	}
	rcu_assign_pointer(inet->inet_opt, opt);
	if (old)
		kfree_rcu(old, rcu);
}

/*
 * Makes room for a label in every packet of the socket, so that segment size and fragmentation
 * account for it. Sleeps. Options that the socket has already stay; its labels are inserted.
 */
int dsm_reserve(const struct sock *csk, u32 family)
{
	struct sock *sk = (struct sock *)csk;
	struct ip_options_rcu *opt;

	if (family == DSM_FAMILY_IPV6)
		return dsm_reserve6(sk);
	opt = placeholder(GFP_KERNEL);
	if (!opt)
		return -ENOMEM;
	lock_sock(sk);
	if (!rcu_access_pointer(inet_sk(sk)->inet_opt)) {
		replace_options(sk, opt);
		opt = NULL;
	}
	release_sock(sk);
	kfree(opt);
	return 0;
}

/* Gives the room back. Sleeps. */
void dsm_unreserve(struct sock *sk)
{
	const struct ip_options_rcu *opt;

	lock_sock(sk);
	opt = rcu_dereference_protected(inet_sk(sk)->inet_opt, lockdep_sock_is_held(sk));
	if (opt && is_placeholder(opt->opt.__data, opt->opt.optlen))
		replace_options(sk, NULL);
	if (sk->sk_family == AF_INET6)
		dsm_unreserve6(sk);
	release_sock(sk);
}

/*
 * A connection is about to get its socket, which takes its options from the request. Softirq.
 * False if there was no memory: its labels are then inserted.
 */
bool dsm_reserve_child(const struct request_sock *req)
{
	struct inet_request_sock *ireq = (struct inet_request_sock *)inet_rsk(req);
	struct ip_options_rcu *old, *opt;

	if (req->rsk_ops->family != AF_INET)
		return dsm_reserve_child6(req);
	/*
	 * Two processors may make a socket of one request (tcp_check_req runs without the listener's
	 * lock; only one of them keeps its socket): who exchanges the options frees the old ones.
	 */
	old = rcu_dereference_raw(ireq->ireq_opt);
	if (old && old->opt.optlen)
		return true;
	opt = placeholder(GFP_ATOMIC);
	if (!opt)
		return false;
	if (unrcu_pointer(cmpxchg(&ireq->ireq_opt, RCU_INITIALIZER(old),
				  RCU_INITIALIZER(opt))) != old)
		kfree(opt);
	else if (old)
		kfree_rcu(old, rcu);
	return true;
}

/* Who opens a connection: writes 4 or 16 bytes, and returns how many. */
u32 dsm_request_peer(const struct request_sock *req, u8 *address)
{
	if (req->rsk_ops->family == AF_INET) {
		memcpy(address, &inet_rsk(req)->ir_rmt_addr, 4);
		return 4;
	}
#if IS_ENABLED(CONFIG_IPV6)
	if (req->rsk_ops->family == AF_INET6) {
		memcpy(address, &inet_rsk(req)->ir_v6_rmt_addr, 16);
		return 16;
	}
#endif
	return 0;
}

/* A reference on a socket that may be on its way to be freed; NULL if it is. */
struct sock *dsm_sock_get(const struct sock *csk)
{
	struct sock *sk = (struct sock *)csk;

	return refcount_inc_not_zero(&sk->sk_refcnt) ? sk : NULL;
}

void dsm_sock_put(struct sock *sk)
{
	sock_put(sk);
}

/*
 * The socket that answers for a packet on its way out. NULL: the kernel itself does (a reset, an
 * acknowledgement in TIME_WAIT). False: nobody does; the packet is not labelled.
 */
static bool speaker(const struct nf_hook_state *state, const struct sk_buff *skb,
		    const struct sock **out)
{
	const struct sock *sk = state->sk;
	const struct iphdr *iph = ip_hdr(skb);

	*out = NULL;
	if (!sk) {
		const struct tcphdr *th;

		if (iph->protocol != IPPROTO_TCP)
			return false;
		/* Under a SYN flood, a SYN-ACK has no socket. */
		th = (const struct tcphdr *)((const u8 *)iph + iph->ihl * 4);
		if (!th->syn || !th->ack)
			return true;
		*out = inet_lookup_listener(state->net, NULL, 0, iph->daddr, th->dest,
					    iph->saddr, th->source, 0, 0);
		return true;
	}
	switch (sk->sk_state) {
	case TCP_TIME_WAIT:
		return true;
	case TCP_NEW_SYN_RECV:
		*out = inet_reqsk((struct sock *)sk)->rsk_listener;
		return true;
	}
	if (sk->sk_type == SOCK_RAW)
		return sk->sk_kern_sock && iph->protocol == IPPROTO_TCP;
	if (!dsm_is_mediated(sk))
		return false;
	*out = sk;
	return true;
}

/*
 * Brings the header's checksum up to date with a sum, over 32-bit words as they are in memory, of
 * what has been put in and the complement of what has been taken out.
 */
static void adjust_check(struct iphdr *iph, u64 sum)
{
	sum += (u16)~(__force u16)iph->check;
	sum = (sum & U32_MAX) + (sum >> 32);
	sum = (sum & U32_MAX) + (sum >> 32);
	iph->check = csum_fold((__force __wsum)(u32)sum);
}

static u64 sum_of_label(const u8 *label)
{
	const u32 *words = (const u32 *)label;

	return (u64)words[0] + words[1] + words[2] + words[3] + words[4];
}

/*
 * Room for a label in front of the other options. A small packet is cheaper to move towards its
 * tail: in front there is room for the link's header only.
 */
static bool open_gap(struct sk_buff *skb)
{
	struct iphdr *iph = ip_hdr(skb);
	u32 before;

	if (iph->ihl * 4 + DSM_LABEL_LEN > 60 || skb->len + DSM_LABEL_LEN > IP_MAX_MTU)
		return false;
	if (!skb_is_nonlinear(skb) && !skb_cloned(skb) && skb->len <= SMALL + 60 &&
	    skb_tailroom(skb) >= DSM_LABEL_LEN) {
		unsigned int moved = skb->len - sizeof(*iph);

		skb_put(skb, DSM_LABEL_LEN);
		memmove((u8 *)(iph + 1) + DSM_LABEL_LEN, iph + 1, moved);
		skb->transport_header += DSM_LABEL_LEN;
		if (skb->ip_summed == CHECKSUM_PARTIAL)
			skb->csum_start += DSM_LABEL_LEN;
	} else {
		if (skb_cow_head(skb, DSM_LABEL_LEN + LL_RESERVED_SPACE(skb_dst_dev(skb))))
			return false;
		skb_push(skb, DSM_LABEL_LEN);
		iph = (struct iphdr *)skb->data;
		memmove(iph, skb->data + DSM_LABEL_LEN, sizeof(*iph));
		skb_reset_network_header(skb);
	}
	memcpy(&before, iph, sizeof(before));
	iph->ihl += DSM_LABEL_LEN / 4;
	iph_set_totlen(iph, skb->len);
	adjust_check(iph, (u64)*(u32 *)iph + (u32)~before);
	IPCB(skb)->opt.optlen += DSM_LABEL_LEN;
	return true;
}

/* The packet without its placeholder. */
static void close_gap(struct sk_buff *skb)
{
	struct iphdr *iph = ip_hdr(skb);

	memmove((u8 *)iph + DSM_LABEL_LEN, iph, sizeof(*iph));
	skb_pull(skb, DSM_LABEL_LEN);
	skb_reset_network_header(skb);
	iph = ip_hdr(skb);
	iph->ihl -= DSM_LABEL_LEN / 4;
	iph_set_totlen(iph, skb->len);
	IPCB(skb)->opt.optlen -= DSM_LABEL_LEN;
}

/* LOCAL_OUT, last in line: no other hook changes what the label covers. */
static unsigned int on_local_out(void *priv, struct sk_buff *skb,
				 const struct nf_hook_state *state)
{
	struct iphdr *iph = ip_hdr(skb);
	const struct sock *sk;
	struct dsm_packet packet;
	const __be16 *ports;
	u8 label[DSM_LABEL_LEN] __aligned(4);
	u64 sum;
	bool reserved;
	u32 verdict;

	if ((iph->protocol != IPPROTO_UDP && iph->protocol != IPPROTO_TCP) ||
	    ip_is_fragment(iph))
		return NF_ACCEPT;
	if (skb_headlen(skb) < iph->ihl * 4 + (iph->protocol == IPPROTO_TCP ? 20 : 8))
		return NF_ACCEPT;
	if (!speaker(state, skb, &sk))
		return NF_ACCEPT;
	ports = (const __be16 *)((const u8 *)iph + iph->ihl * 4);
	packet.addrs = (u64)be32_to_cpu(iph->saddr) << 32 | be32_to_cpu(iph->daddr);
	packet.ports = be16_to_cpu(ports[0]) << 16 | be16_to_cpu(ports[1]);
	packet.protocol = iph->protocol;
	packet.options_len = iph->ihl * 4 - sizeof(*iph);
	packet.options = (const u8 *)(iph + 1);
	reserved = is_placeholder(packet.options, packet.options_len);

	verdict = dsm_departure(sk, &packet, label);
	switch (verdict) {
	case DSM_OUT_LABEL:
		sum = sum_of_label(label);
		if (reserved) {
			if (skb_cow_head(skb, 0))
				return NF_DROP;
			iph = ip_hdr(skb);
			/* The complement of each of the five words there. */
			sum += 5ULL * U32_MAX - sum_of_label((u8 *)(iph + 1));
		} else if (!open_gap(skb)) {
			/* A process may fill the header by IP_RETOPTS: it must not shed its label so. */
			dsm_count(DSM_COUNT_OUT_NO_ROOM);
			return NF_DROP;
		} else {
			dsm_count(DSM_COUNT_OUT_INSERTED);
		}
		iph = ip_hdr(skb);
		memcpy(iph + 1, label, DSM_LABEL_LEN);
		adjust_check(iph, sum);
		dsm_count(DSM_COUNT_OUT_LABELLED);
		break;
	case DSM_OUT_BARE:
		if (!reserved)
			break;
		if (skb_cow_head(skb, 0))
			return NF_DROP;
		close_gap(skb);
		ip_send_check(ip_hdr(skb));
		break;
	}
	return NF_ACCEPT;
}

static const struct nf_hook_ops out_ops[] = {
	{
		.hook = on_local_out,
		.pf = NFPROTO_IPV4,
		.hooknum = NF_INET_LOCAL_OUT,
		.priority = NF_IP_PRI_LAST,
	},
#if IS_ENABLED(CONFIG_IPV6)
	{
		.hook = dsm_on_local_out6,
		.pf = NFPROTO_IPV6,
		.hooknum = NF_INET_LOCAL_OUT,
		.priority = NF_IP6_PRI_LAST,
	},
#endif
};

static int __net_init out_net_init(struct net *net)
{
	return nf_register_net_hooks(net, out_ops, ARRAY_SIZE(out_ops));
}

static void __net_exit out_net_exit(struct net *net)
{
	nf_unregister_net_hooks(net, out_ops, ARRAY_SIZE(out_ops));
}

static struct pernet_operations out_net_ops = {
	.init = out_net_init,
	.exit = out_net_exit,
};

int dsm_out_register(void)
{
	int ret = register_pernet_subsys(&out_net_ops);

	if (!ret)
		synchronize_net();
	return ret;
}

void dsm_out_unregister(void)
{
	unregister_pernet_subsys(&out_net_ops);
	synchronize_net();
}
