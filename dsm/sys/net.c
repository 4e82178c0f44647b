// SPDX-License-Identifier: GPL-2.0
/*
 * Reads packets and sockets for Rust, keeps room for the label in a socket, and writes the label
 * into packets on their way out. What the label says and whether there is one is Rust's matter;
 * nothing here reads a policy.
 */
#include <linux/fs.h>
#include <linux/icmp.h>
#include <linux/igmp.h>
#include <linux/net.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/netlink.h>
#include <linux/skbuff.h>
#include <linux/unaligned.h>
#include <net/af_unix.h>
#include <net/inet_connection_sock.h>
#include <net/inet_hashtables.h>
#include <net/inet_sock.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/mptcp.h>
#include <net/net_namespace.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/request_sock.h>
#include <net/route.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/udp.h>

#include "count.h"
#include "known.h"
#include "net6.h"
#include "shim.h"

#define OPTION_TYPE 158

static bool inet(const struct sock *sk)
{
	return sk->sk_family == AF_INET || sk->sk_family == AF_INET6;
}

/* A whole of TCP connections: its parts send and receive, the processes see only it. */
static bool mptcp(const struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_MPTCP;
}

/* IPv4 or IPv6, TCP or UDP: what the module labels and checks. */
bool dsm_is_mediated(const struct sock *sk)
{
	return inet(sk) &&
	       ((sk->sk_type == SOCK_DGRAM && sk->sk_protocol == IPPROTO_UDP) ||
		(sk->sk_type == SOCK_STREAM &&
		 (sk->sk_protocol == IPPROTO_TCP || mptcp(sk))));
}

/* An ICMP socket without privilege: the kernel makes its packets. */
static bool ping(const struct sock *sk)
{
	return sk->sk_family == AF_INET && sk->sk_type == SOCK_DGRAM &&
	       sk->sk_protocol == IPPROTO_ICMP;
}

/* A process' socket of raw IPv4 packets. */
static bool raw(const struct sock *sk)
{
	return sk->sk_family == AF_INET && sk->sk_type == SOCK_RAW && !sk->sk_kern_sock;
}

/* The socket that a file is; NULL if it is none. */
struct socket *dsm_file_socket(struct file *file)
{
	return S_ISSOCK(file_inode(file)->i_mode) ? sock_from_file(file) : NULL;
}

/* The socket of a system call, of whatever kind. */
const struct sock *dsm_sock(const struct socket *socket)
{
	return socket->sk;
}

/* Made with the permission for what cannot be labelled or checked. */
bool dsm_sock_unmediated(const struct socket *socket)
{
	const struct sock *sk = socket->sk;

	return sk && !sk->sk_kern_sock && sk->sk_family != AF_UNIX &&
	       sk->sk_family != AF_NETLINK && sk->sk_family != AF_ALG && !dsm_is_mediated(sk) &&
	       !ping(sk);
}

/* Whether the errors that a socket of IP's keeps may be such as quote what somebody else wrote. */
bool dsm_sock_quotes(const struct sock *sk)
{
	return inet_test_bit(RECVERR, sk) || inet_test_bit(RECVERR6, sk);
}

/*
 * Whether it tells when packets came and left. Beside that, the kernel may take an error's text for figures of
 * a connection (SCM_TIMESTAMPING_OPT_STATS): what tells the two apart is not set in those of ICMP's.
 */
bool dsm_sock_stamps(const struct sock *sk)
{
	return READ_ONCE(sk->sk_tsflags) & (SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_RAW_HARDWARE);
}

/* Whether a process' socket is one for ICMP's questions and answers. */
bool dsm_sock_pings(const struct socket *socket)
{
	return socket->sk && ping(socket->sk);
}

/* To many: the kernel's own view of the address, or of the route that the packet took. */
static bool to_group(const struct sk_buff *skb, __be32 daddr)
{
	const struct rtable *rt = skb_rtable(skb);

	return ipv4_is_multicast(daddr) || ipv4_is_lbcast(daddr) ||
	       (rt && rt->rt_flags & (RTCF_MULTICAST | RTCF_BROADCAST));
}

const struct sock *dsm_sock_mediated(const struct sock *sk)
{
	return sk && dsm_is_mediated(sk) ? sk : NULL;
}

/* Addresses, ports if it has any, and options of an IPv4 packet of whatever protocol. */
static void raw_packet(const struct sk_buff *skb, struct dsm_packet *packet)
{
	const struct iphdr *iph = ip_hdr(skb);
	int offset = skb_network_offset(skb) + iph->ihl * 4;
	__be32 ports = 0;
	u8 type = 0;

	if (iph->protocol == IPPROTO_ICMP)
		skb_copy_bits(skb, offset, &type, sizeof(type));
	else if ((iph->protocol == IPPROTO_TCP || iph->protocol == IPPROTO_UDP ||
		  iph->protocol == IPPROTO_UDPLITE) && !ip_is_fragment(iph))
		skb_copy_bits(skb, offset, &ports, sizeof(ports));
	packet->raw = true;
	packet->protocol = iph->protocol;
	packet->tcp_flags = 0;
	packet->empty = false;
	packet->listening = false;
	packet->routed = false;
	packet->fragment = ip_is_fragment(iph);
	packet->group = to_group(skb, iph->daddr);
	packet->icmp_type = type;
	packet->ports = be32_to_cpu(ports);
	packet->addrs = (u64)be32_to_cpu(iph->saddr) << 32 | be32_to_cpu(iph->daddr);
	packet->options_len = iph->ihl * 4 - sizeof(*iph);
	packet->options = (const u8 *)(iph + 1);
}

/* The packet that a socket is about to receive; skb->data is at its transport header. */
u32 dsm_arrival(const struct sock *sk, const struct sk_buff *skb, struct dsm_packet *packet)
{
	const struct iphdr *iph;
	const __be16 *ports;

	if (!dsm_is_mediated(sk)) {
		if (!raw(sk) && !ping(sk))
			return DSM_ARRIVAL_FOREIGN;
		raw_packet(skb, packet);
		return DSM_ARRIVAL_IPV4;
	}
	packet->raw = false;
	packet->routed = false;
	packet->fragment = false;
	packet->group = false;
	packet->protocol = sk->sk_protocol;
	packet->listening = sk->sk_state == TCP_LISTEN;
	ports = (const __be16 *)skb_transport_header(skb);
	packet->ports = be16_to_cpu(ports[0]) << 16 | be16_to_cpu(ports[1]);
	if (packet->protocol == IPPROTO_TCP) {
		const struct tcphdr *th = (const struct tcphdr *)ports;

		packet->tcp_flags = tcp_flag_byte(th);
		packet->empty = skb->len <= th->doff * 4;
		packet->seq = be32_to_cpu(th->seq);
		packet->ack = be32_to_cpu(th->ack_seq);
	} else {
		packet->tcp_flags = 0;
		packet->empty = false;
	}
	if (skb->protocol != htons(ETH_P_IP)) {
		packet->options_len = skb_network_header_len(skb);
		packet->options = skb_network_header(skb);
		packet->group = ipv6_addr_is_multicast(&ipv6_hdr(skb)->daddr);
		return DSM_ARRIVAL_IPV6;
	}
	iph = ip_hdr(skb);
	packet->addrs = (u64)be32_to_cpu(iph->saddr) << 32 | be32_to_cpu(iph->daddr);
	packet->options_len = iph->ihl * 4 - sizeof(*iph);
	packet->options = (const u8 *)(iph + 1);
	packet->group = packet->protocol == IPPROTO_UDP && to_group(skb, iph->daddr);
	return DSM_ARRIVAL_IPV4;
}

static bool is_placeholder(const u8 *option, unsigned int len)
{
	return len >= DSM_LABEL_LEN && option[0] == OPTION_TYPE && option[1] == DSM_LABEL_LEN;
}

/*
 * Where what is sent to an address goes: to none means to this node, as the socket itself is addressed there
 * (ip_route_output_key_hash_rcu).
 */
static u32 to_address(const struct sock *sk, __be32 daddr)
{
	return be32_to_cpu(daddr ?: inet_sk(sk)->inet_saddr) ?: INADDR_LOOPBACK;
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
		view->daddr = to_address(view->sk, in->sin_addr.s_addr);
		view->dport = be16_to_cpu(in->sin_port);
	} else if (address->sa_family == AF_INET6 && addrlen >= SIN6_LEN_RFC2133) {
		view->dport = be16_to_cpu(in6->sin6_port);
		if (ipv6_addr_v4mapped(&in6->sin6_addr)) {
			view->destination = DSM_DEST_IPV4;
			view->daddr = to_address(view->sk, in6->sin6_addr.s6_addr32[3]);
		} else {
			view->destination = DSM_DEST_IPV6;
			dsm_words6(ipv6_addr_any(&in6->sin6_addr) ? &in6addr_loopback :
								    &in6->sin6_addr,
				   view->daddr6);
			view->group = ipv6_addr_is_multicast(&in6->sin6_addr);
		}
	}
}

/* Whether a call goes to many: not before the socket says so can it be to a subnet's broadcast. */
static bool call_to_group(const struct sock *sk, const struct dsm_sock *view)
{
	__be32 daddr = cpu_to_be32(view->daddr);

	if (view->destination != DSM_DEST_IPV4)
		return false;
	return ipv4_is_multicast(daddr) || ipv4_is_lbcast(daddr) ||
	       (sock_flag(sk, SOCK_BROADCAST) &&
		inet_addr_type(sock_net(sk), daddr) == RTN_BROADCAST);
}

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
	view->protocol = mptcp(sk) ? IPPROTO_TCP : sk->sk_protocol;
	view->saddr = be32_to_cpu(inet->inet_saddr);
	view->sport = READ_ONCE(inet->inet_num);
	view->daddr = 0;
	view->dport = 0;
	view->destination = DSM_DEST_NONE;
	view->opening = false;
	view->group = false;
	view->unspec = !msg && address && addrlen >= (int)sizeof(address->sa_family) &&
		       address->sa_family == AF_UNSPEC;
	view->closed = sk->sk_state == TCP_CLOSE;
	opt = rcu_dereference(inet->inet_opt);
	view->reserved = opt && is_placeholder(opt->opt.__data, opt->opt.optlen) ?
				 DSM_FAMILY_IPV4 : 0;
	if (sk->sk_family == AF_INET6 && dsm_reserved6(sk))
		view->reserved |= DSM_FAMILY_IPV6;
	/* An MPTCP socket sends nothing itself. */
	view->stream = sk->sk_protocol == IPPROTO_TCP;
	if (view->stream)
		size += (int)(READ_ONCE(tcp_sk(sk)->write_seq) - READ_ONCE(tcp_sk(sk)->snd_una));
	view->large = !mptcp(sk) &&
		      (size > DSM_SMALL ||
		       (msg && ((msg->msg_flags & MSG_MORE) ||
				(!view->stream && udp_test_bit(CORK, sk)))));
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
	if (address)
		destination(address, addrlen, view);
	/* A message to an address of no family goes to the peer (udpv6_sendmsg). */
	if (view->destination == DSM_DEST_NONE && (msg || !address) && inet->inet_dport) {
		view->dport = be16_to_cpu(inet->inet_dport);
		view->destination = DSM_DEST_IPV4;
		view->daddr = be32_to_cpu(inet->inet_daddr);
#if IS_ENABLED(CONFIG_IPV6)
		if (sk->sk_family == AF_INET6 && !ipv6_addr_v4mapped(&sk->sk_v6_daddr)) {
			view->destination = DSM_DEST_IPV6;
			dsm_words6(&sk->sk_v6_daddr, view->daddr6);
			view->group = ipv6_addr_is_multicast(&sk->sk_v6_daddr);
		}
#endif
	}
	if (view->protocol == IPPROTO_UDP && call_to_group(sk, view))
		view->group = true;
	view->word = dsm_call_word((__force u32)cpu_to_be32(view->daddr), view->sport, view->destination) |
		     (view->large ? DSM_WORD_LARGE : 0) | (view->group ? DSM_WORD_GROUP : 0) |
		     view->reserved;
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

/*
 * The same for a new socket that is locked. Where it will connect to is not known yet: an IPv6
 * socket gets room for either family. Sleeps.
 */
int dsm_reserve_locked(struct sock *sk)
{
	struct ip_options_rcu *opt = placeholder(GFP_KERNEL);

	if (!opt)
		return -ENOMEM;
	if (rcu_access_pointer(inet_sk(sk)->inet_opt))
		kfree(opt);
	else
		replace_options(sk, opt);
	return dsm_reserve_locked6(sk);
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

/*
 * Who opens a connection: writes 4 or 16 bytes, and returns how many; none if parts of the socket
 * send for it.
 */
u32 dsm_request_peer(const struct sock *child, const struct request_sock *req, u8 *address)
{
	if (mptcp(child))
		return 0;
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

/* A request's addresses and ports, the peer's first, as a packet of that peer has them. */
void dsm_request_ends(const struct request_sock *req, u64 *addrs, u32 *ports)
{
	const struct inet_request_sock *ireq = inet_rsk(req);

	*ports = (u32)ntohs(ireq->ir_rmt_port) << 16 | ireq->ir_num;
#if IS_ENABLED(CONFIG_IPV6)
	if (req->rsk_ops->family == AF_INET6) {
		dsm_words6(&ireq->ir_v6_rmt_addr, addrs);
		dsm_words6(&ireq->ir_v6_loc_addr, addrs + 2);
		return;
	}
#endif
	addrs[0] = (u64)be32_to_cpu(ireq->ir_rmt_addr) << 32 | be32_to_cpu(ireq->ir_loc_addr);
}

/* Whether a netlink socket receives from a process: what the kernel sends there has no port. */
bool dsm_is_message(const struct sock *sk, const struct sk_buff *skb)
{
	return sk->sk_family == AF_NETLINK && NETLINK_CB(skb).portid;
}

/* The other end of an AF_UNIX connection, with a reference; NULL if there is none. */
struct sock *dsm_unix_peer(const struct socket *socket)
{
	struct sock *sk = socket->sk;
	struct sock *peer;

	if (!sk || sk->sk_family != AF_UNIX || sk->sk_type == SOCK_DGRAM)
		return NULL;
	unix_state_lock(sk);
	peer = unix_peer(sk);
	if (peer)
		sock_hold(peer);
	unix_state_unlock(sk);
	return peer;
}

/* Whether a connection is, or is offered as, a part of another socket: its processes see only that. */
bool dsm_is_part(const struct sock *child)
{
	return sk_is_mptcp(child);
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
 * Where there is no memory, or no room, for the state of a clone, that much is noted in the clone
 * itself: in the flag that is farthest from those that the kernel gives out. Its own clones have it, too.
 */
#define LOST (BITS_PER_LONG - 1)
static_assert(sizeof_field(struct sock, sk_flags) * BITS_PER_BYTE == BITS_PER_LONG);

/* For a clone that nobody else sees yet. */
void dsm_sock_lose(struct sock *sk)
{
	__set_bit(LOST, &sk->sk_flags);
}

bool dsm_sock_lost(const struct sock *sk)
{
	return test_bit(LOST, &sk->sk_flags);
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
	if (sk->sk_type == SOCK_RAW && sk->sk_kern_sock)
		return iph->protocol == IPPROTO_TCP || iph->protocol == IPPROTO_ICMP;
	if (raw(sk) || ping(sk)) {
		*out = sk;
		return true;
	}
	if (!dsm_is_mediated(sk))
		return false;
	/*
	 * The kernel answers a stray segment in the name of the listener, or of the socket that connects, to which it came
	 * (orig_sk of ip_send_unicast_reply). That belongs to no connection, so a label of the socket's zone would cover no
	 * start of sequence numbers, and whoever provokes it could use it on a connection of his own. IPv6 sends these from a
	 * socket of the kernel's.
	 */
	if (iph->protocol == IPPROTO_TCP && sk->sk_protocol == IPPROTO_TCP &&
	    (1 << sk->sk_state) & (TCPF_LISTEN | TCPF_SYN_SENT) &&
	    !((const struct tcphdr *)((const u8 *)iph + iph->ihl * 4))->syn)
		return true;
	*out = sk;
	return true;
}

/* A sum of 32-bit words, folded: what is carried out of the upper half comes in below. */
static u64 add(u64 sum, u64 word)
{
	sum += word;
	return sum + (sum < word);
}

/*
 * Brings the header's checksum up to date with a sum, over words as they are in memory, of what has been
 * put in and the complement of what has been taken out.
 */
static void adjust_check(struct iphdr *iph, u64 sum)
{
	sum = add(sum, (u16)~(__force u16)iph->check);
	/* Either half plus the other: what the lower one carries is what the upper one loses. */
	iph->check = csum_fold((__force __wsum)(u32)((sum + ror64(sum, 32)) >> 32));
}

/* In three moves: of a copy of so few bytes the compiler makes a slow string instruction. Its sum. */
static u64 write_label(u8 *to, const u8 *label)
{
	u64 a = get_unaligned((const u64 *)label);
	u64 b = get_unaligned((const u64 *)(label + 8));
	u32 c = get_unaligned((const u32 *)(label + 16));

	put_unaligned(a, (u64 *)to);
	put_unaligned(b, (u64 *)(to + 8));
	put_unaligned(c, (u32 *)(to + 16));
	return add(add(a, b), c);
}

static u64 sum_of_label(const u8 *label)
{
	const u32 *words = (const u32 *)label;

	return (u64)words[0] + words[1] + words[2] + words[3] + words[4];
}

/*
 * Whether a packet is cheaper to move towards its tail than its header is to its front, where there is
 * room for the link's header only.
 */
static __always_inline bool is_movable(const struct sk_buff *skb)
{
	return skb->len <= DSM_SMALL + 60 && !skb_is_nonlinear(skb) && !skb_cloned(skb) &&
	       skb->end - skb->tail >= DSM_LABEL_LEN;
}

/* Moves it so, behind the header. */
static __always_inline void move(struct sk_buff *skb, struct iphdr *iph)
{
	unsigned int moved = skb->len - sizeof(*iph);

	__skb_put(skb, DSM_LABEL_LEN);
	memmove((u8 *)(iph + 1) + DSM_LABEL_LEN, iph + 1, moved);
	skb->transport_header += DSM_LABEL_LEN;
	if (skb->ip_summed == CHECKSUM_PARTIAL)
		skb->csum_start += DSM_LABEL_LEN;
}

/* Writes a label behind the header, where room has been made for it. */
static __always_inline void stamp(struct sk_buff *skb, struct iphdr *iph, const u8 *label)
{
	u32 *first = (u32 *)iph;
	u32 before = *first;
	u64 sum;

	/* The length in words, in the lower half of the byte, has room for it. */
	*(u8 *)iph += DSM_LABEL_LEN / 4;
	iph->tot_len = htons(skb->len);
	IPCB(skb)->opt.optlen += DSM_LABEL_LEN;
	sum = write_label((u8 *)(iph + 1), label);
	adjust_check(iph, add(sum, (u64)*first + (u32)~before));
	dsm_count_one(DSM_COUNT_OUT_INSERTED);
	dsm_count_one(DSM_COUNT_OUT_LABELLED);
}

/* Puts a label in front of the other options. False if there is no room for it. */
static bool insert(struct sk_buff *skb, const u8 *label)
{
	struct iphdr *iph = ip_hdr(skb);

	if (iph->ihl * 4 + DSM_LABEL_LEN > 60 || skb->len + DSM_LABEL_LEN > IP_MAX_MTU)
		return false;
	if (is_movable(skb)) {
		move(skb, iph);
	} else {
		if (skb_cow_head(skb, DSM_LABEL_LEN + LL_RESERVED_SPACE(skb_dst_dev(skb))))
			return false;
		skb_push(skb, DSM_LABEL_LEN);
		iph = (struct iphdr *)skb->data;
		memmove(iph, skb->data + DSM_LABEL_LEN, sizeof(*iph));
		skb_reset_network_header(skb);
	}
	stamp(skb, iph, label);
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

/* Whether there is a source route among the options; whoever made them may have made them wrong. */
static bool source_routed(const u8 *options, unsigned int len)
{
	unsigned int at = 0;

	while (at < len && options[at] != IPOPT_END) {
		if (options[at] == IPOPT_NOOP) {
			at++;
			continue;
		}
		if (options[at] == IPOPT_LSRR || options[at] == IPOPT_SSRR)
			return true;
		if (at + 1 >= len || options[at + 1] < 2)
			return false;
		at += options[at + 1];
	}
	return false;
}

/*
 * Whether a segment is sent again after a time-out. One that is too large for a label, and would go
 * in parts with it, counts every other time: the network may drop parts.
 */
static bool sent_again(const struct sock *sk, const struct sk_buff *skb)
{
	u8 times = inet_csk(sk)->icsk_retransmits;

	if (likely(!times))
		return false;
	return !(times & 1) ||
	       (!skb_is_gso(skb) && skb->len + DSM_HEADER_LEN <= dst_mtu(skb_dst(skb)));
}

/* What a segment's label, or the lack of one, depends on. `sk` speaks, or the kernel does. */
void dsm_segment_out(const struct nf_hook_state *state, const struct sk_buff *skb,
		     const struct tcphdr *th, const struct sock *sk, struct dsm_packet *packet)
{
	packet->tcp_flags = tcp_flag_byte(th);
	packet->seq = be32_to_cpu(th->seq);
	packet->again = false;
	packet->answer = false;
	if (!sk)
		return;
	if (sk == state->sk && sk->sk_state != TCP_LISTEN) {
		packet->again = sent_again(sk, skb);
	} else if (th->syn && th->ack) {
		packet->answer = true;
		/* Without a request it is a cookie, and acknowledges nothing but the SYN. */
		packet->peer_start = skb->sk && skb->sk->sk_state == TCP_NEW_SYN_RECV ?
			tcp_rsk(inet_reqsk(skb->sk))->rcv_isn : be32_to_cpu(th->ack_seq) - 1;
	}
}

/* Any packet on its way out. */
static noinline unsigned int departs(struct sk_buff *skb, const struct nf_hook_state *state)
{
	struct iphdr *iph = ip_hdr(skb);
	const struct sock *sk;
	struct dsm_packet packet;
	u8 label[DSM_LABEL_LEN] __aligned(4);
	bool reserved, ours;
	u64 sum;

	ours = state->sk && sk_fullsock(state->sk) && (raw(state->sk) || ping(state->sk));
	if (!ours) {
		if (iph->protocol == IPPROTO_ICMP) {
			if (!state->sk)
				return NF_ACCEPT;
		} else if (iph->protocol != IPPROTO_UDP && iph->protocol != IPPROTO_TCP) {
			return NF_ACCEPT;
		}
		if (ip_is_fragment(iph))
			return NF_ACCEPT;
		if (skb_headlen(skb) < iph->ihl * 4 + (iph->protocol == IPPROTO_TCP ? 20 : 8))
			return NF_ACCEPT;
	}
	if (!speaker(state, skb, &sk))
		return NF_ACCEPT;
	if (ours) {
		raw_packet(skb, &packet);
	} else {
		const __be16 *ports = (const __be16 *)((const u8 *)iph + iph->ihl * 4);

		packet.addrs = (u64)be32_to_cpu(iph->saddr) << 32 | be32_to_cpu(iph->daddr);
		packet.ports = iph->protocol == IPPROTO_ICMP ?
			0 : be16_to_cpu(ports[0]) << 16 | be16_to_cpu(ports[1]);
		packet.protocol = iph->protocol;
		packet.options_len = iph->ihl * 4 - sizeof(*iph);
		packet.options = (const u8 *)(iph + 1);
		packet.raw = false;
		packet.fragment = false;
		packet.group = false;
		if (iph->protocol == IPPROTO_TCP)
			dsm_segment_out(state, skb, (const struct tcphdr *)ports, sk, &packet);
		else
			packet.tcp_flags = 0;
	}
	packet.routed = packet.options_len && source_routed(packet.options, packet.options_len);
	reserved = is_placeholder(packet.options, packet.options_len);

	packet.skb = !ours && iph->protocol == IPPROTO_UDP && dsm_is_sent(sk, skb) ? skb : NULL;
	switch (dsm_departure(sk, &packet, label)) {
	case DSM_OUT_LABEL:
		if (!reserved) {
			if (!insert(skb, label)) {
				/*
				 * A process may fill the header by IP_RETOPTS: it must not shed its
				 * label so.
				 */
				dsm_count_one(DSM_COUNT_OUT_NO_ROOM);
				return NF_DROP;
			}
			/* A segment that its socket has made too large for it goes in parts. */
			if (packet.protocol == IPPROTO_TCP)
				skb->ignore_df = 1;
			break;
		}
		if (skb_cow_head(skb, 0))
			return NF_DROP;
		iph = ip_hdr(skb);
		/* The complement of each of the five words there. */
		sum = 5ULL * U32_MAX - sum_of_label((u8 *)(iph + 1));
		adjust_check(iph, add(sum, write_label((u8 *)(iph + 1), label)));
		dsm_count_one(DSM_COUNT_OUT_LABELLED);
		break;
	case DSM_OUT_BARE:
		if (!reserved)
			break;
		if (skb_cow_head(skb, 0))
			return NF_DROP;
		close_gap(skb);
		ip_send_check(ip_hdr(skb));
		break;
	case DSM_OUT_DROP:
		return NF_DROP;
	case DSM_OUT_REFUSE:
		return dsm_refusal(packet.protocol);
	}
	return NF_ACCEPT;
}

/* A datagram without options of a socket. Most go with the label of the one before. */
static noinline unsigned int datagram_departs(struct sk_buff *skb, const struct nf_hook_state *state)
{
	struct iphdr *iph = ip_hdr(skb);
	const struct sock *sk = state->sk;
	u8 label[DSM_LABEL_LEN] __aligned(4) __uninitialized;

	if (!dsm_task_acts() || !sk_fullsock(sk) || !dsm_is_udp(sk) || ip_is_fragment(iph) ||
	    skb_headlen(skb) < sizeof(*iph) + sizeof(struct udphdr) || !is_movable(skb))
		return departs(skb, state);
	if (!dsm_known_label(sk, current, get_unaligned((const u64 *)&iph->saddr),
			     get_unaligned((const u32 *)(iph + 1)), label) &&
	    !dsm_recent_label(sk, current, get_unaligned((const u64 *)&iph->saddr),
			      get_unaligned((const u32 *)(iph + 1)), label))
		return departs(skb, state);
	move(skb, iph);
	stamp(skb, iph, label);
	return NF_ACCEPT;
}

/*
 * Whether a UDP packet is what its socket's sender made. What a tunnel makes of another packet has that one's
 * socket, and was asked about as that one was.
 */
bool dsm_is_sent(const struct sock *sk, const struct sk_buff *skb)
{
	if (!sk || !sk_fullsock(sk) || !dsm_is_udp(sk))
		return false;
#if IS_ENABLED(CONFIG_IPV6)
	if (skb->protocol == htons(ETH_P_IPV6))
		return !(IP6CB(skb)->flags & IP6SKB_XFRM_TRANSFORMED);
#endif
	return !(IPCB(skb)->flags & IPSKB_XFRM_TRANSFORMED);
}

/* Whether a packet on its way out goes to many. */
bool dsm_leaves_to_group(const struct sk_buff *skb)
{
#if IS_ENABLED(CONFIG_IPV6)
	if (skb->protocol == htons(ETH_P_IPV6))
		return ipv6_addr_is_multicast(&ipv6_hdr(skb)->daddr);
#endif
	return to_group(skb, ip_hdr(skb)->daddr);
}

/*
 * Where a packet on its way out was sent to, before this node translated that: writes 4 or 16 bytes and the
 * port, and returns how many; none if no connection is tracked.
 */
u32 dsm_before_nat(const struct sk_buff *skb, u8 *address, u16 *port)
{
#if IS_ENABLED(CONFIG_NF_CONNTRACK)
	enum ip_conntrack_info info;
	const struct nf_conn *ct = nf_ct_get(skb, &info);
	const struct nf_conntrack_tuple *tuple;

	if (!ct)
		return 0;
	tuple = &ct->tuplehash[CTINFO2DIR(info)].tuple;
	*port = be16_to_cpu(tuple->dst.u.all);
	switch (tuple->src.l3num) {
	case NFPROTO_IPV4:
		memcpy(address, &tuple->dst.u3.ip, 4);
		return 4;
	case NFPROTO_IPV6:
		memcpy(address, &tuple->dst.u3.in6, 16);
		return 16;
	}
#endif
	return 0;
}

/* LOCAL_OUT, last in line: no other hook changes what the label covers. */
static unsigned int on_local_out(void *priv, struct sk_buff *skb,
				 const struct nf_hook_state *state)
{
	const struct iphdr *iph = ip_hdr(skb);
	const struct sock *sk = state->sk;

	if (iph->ihl != 5 || !sk)
		return departs(skb, state);
	if (iph->protocol == IPPROTO_UDP)
		return datagram_departs(skb, state);
	if (iph->protocol != IPPROTO_TCP || !dsm_is_connected(sk) ||
	    inet_csk(sk)->icsk_retransmits || !dsm_known_bare(sk))
		return departs(skb, state);
	dsm_count_one(DSM_COUNT_OUT_BARE);
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
