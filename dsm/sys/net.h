/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust sees of packets and sockets: plain values in host order, read in one call each.
 * Pointers in here are only good as long as the hook that got them runs.
 */
#ifndef DSM_SYS_NET_H
#define DSM_SYS_NET_H

#include <linux/types.h>

struct file;
struct msghdr;
struct request_sock;
struct sk_buff;
struct sock;
struct sockaddr;
struct socket;
struct task_struct;

#define DSM_LABEL_LEN 20	/* an IPv4 option */
#define DSM_HEADER_LEN 24	/* an IPv6 destination options header */

/* What a socket receives, as far as the module is concerned. */
enum dsm_arrival {
	DSM_ARRIVAL_FOREIGN,	/* for a socket that nothing is known of */
	DSM_ARRIVAL_IPV4,
	DSM_ARRIVAL_IPV6,
};

/* A TCP or UDP packet, or any IPv4 packet of a raw or ICMP socket. */
struct dsm_packet {
	u64 addrs;		/* source << 32 | destination, IPv4 */
	u32 ports;		/* source << 16 | destination */
	u8 protocol;
	u8 tcp_flags;		/* byte 13 of the TCP header, 0 for UDP */
	bool empty;		/* TCP without payload */
	bool listening;		/* the receiving socket is a listener */
	bool raw;		/* of a raw or ICMP socket; ports of TCP, UDP and UDP-Lite only */
	bool group;		/* to a multicast or broadcast address */
	bool fragment;
	bool routed;		/* with a source route: the destination is a way station */
	u8 icmp_type;
	/* TCP only, but on a raw socket: */
	bool again;		/* on the way out: it is sent again after a time-out */
	bool answer;		/* on the way out: it answers a SYN in a listener's name */
	u32 seq;		/* its sequence number */
	u32 ack;		/* on the way in: what it acknowledges */
	u32 peer_start;		/* of an answer: where the peer's sequence numbers start */
	/*
	 * The IPv4 header's options; for IPv6 the whole header and its extension headers, up to the
	 * transport header, on the way out without a placeholder.
	 */
	u16 options_len;
	const u8 *options;
	const struct sk_buff *skb;	/* on the way out: itself, if it is a datagram as it was sent */
};

/* What becomes of a packet on its way out. */
enum dsm_departure {
	DSM_OUT_LABEL,		/* with this label, inserted if there is no room reserved */
	DSM_OUT_BARE,		/* without label and placeholder */
	DSM_OUT_DROP,		/* not at all */
	DSM_OUT_REFUSE,		/* not at all, and its sender learns so at once */
};

/* How a process may read the errors of a socket; or not at all, by an errno. */
enum dsm_errors {
	DSM_ERRORS_WHOLE,
	DSM_ERRORS_BARE,	/* without what they quote */
};

/* Families that a socket can hold placeholders for. */
enum dsm_family {
	DSM_FAMILY_IPV4 = 1,
	DSM_FAMILY_IPV6 = 2,
};

/* Where a socket's message or connection goes. */
enum dsm_destination {
	DSM_DEST_NONE,
	DSM_DEST_IPV4,
	DSM_DEST_IPV6,
};

/*
 * A call as one word of addresses, to compare it with another one: where it goes, as it stands in a
 * header, and from which port. Beside it counts daddr6, if that is the destination.
 */
#define DSM_WORD_LARGE	(1 << 2)	/* dsm_sock.large; below it dsm_sock.reserved */
#define DSM_WORD_GROUP	(1 << 5)	/* dsm_sock.group */

static inline u64 dsm_call_word(u32 daddr, u16 sport, u8 destination)
{
	return (u64)daddr << 32 | (u32)sport << 16 | (u32)destination << 3;
}

struct dsm_sock {
	const struct sock *sk;
	u64 word;		/* dsm_call_word, and the bits beside it */
	u32 saddr;
	u32 daddr;
	u64 daddr6[2];		/* in host order, for DSM_DEST_IPV6 */
	u16 sport;
	u16 dport;
	u8 protocol;
	u8 destination;		/* enum dsm_destination */
	u8 reserved;		/* holds a placeholder for: enum dsm_family */
	bool large;		/* the message needs one: it may fill a packet */
	bool stream;		/* it is TCP, and not a whole of TCP connections */
	bool closed;		/* neither connected nor listening */
	bool opening;		/* this message opens the connection (Fast Open) */
	bool group;		/* it goes to a multicast or broadcast address */
	bool unspec;		/* the call's address is of no family */
};

/* net.c */
u32 dsm_arrival(const struct sock *sk, const struct sk_buff *skb, struct dsm_packet *packet);
bool dsm_sock_of(const struct socket *socket, const struct msghdr *msg, int size,
		 const struct sockaddr *address, int addrlen, struct dsm_sock *view);
const struct sock *dsm_sock_mediated(const struct sock *sk);
const struct sock *dsm_sock(const struct socket *socket);
struct socket *dsm_file_socket(struct file *file);
bool dsm_sock_unmediated(const struct socket *socket);
bool dsm_sock_quotes(const struct sock *sk);
bool dsm_sock_stamps(const struct sock *sk);
bool dsm_sock_pings(const struct socket *socket);
void dsm_sock_source6(const struct sock *sk, u8 *address);
int dsm_reserve(const struct sock *sk, u32 family);
int dsm_reserve_locked(struct sock *sk);
void dsm_unreserve(struct sock *sk);
bool dsm_reserve_child(const struct request_sock *req);
void dsm_reject(struct sk_buff *skb);	/* reject.c */
bool dsm_is_part(const struct sock *child);
u32 dsm_request_peer(const struct sock *child, const struct request_sock *req, u8 *address);
bool dsm_is_message(const struct sock *sk, const struct sk_buff *skb);
struct sock *dsm_unix_peer(const struct socket *socket);
struct sock *dsm_sock_get(const struct sock *sk);
void dsm_sock_put(struct sock *sk);
void dsm_sock_lose(struct sock *sk);
bool dsm_sock_lost(const struct sock *sk);
bool dsm_leaves_to_group(const struct sk_buff *skb);
u32 dsm_before_nat(const struct sk_buff *skb, u8 *address, u16 *port);
int dsm_out_register(void);
void dsm_out_unregister(void);

/* stream.c */
bool dsm_peer_start(const struct sock *sk, u32 *start);
void dsm_request_starts(const struct request_sock *req, u32 *theirs, u32 *ours);
void dsm_request_ends(const struct request_sock *req, u64 *addrs, u32 *ports);
bool dsm_handshake_starts(const struct sock *sk, const struct sk_buff *skb, u32 *theirs,
			  u32 *ours);
bool dsm_segment_stray(const struct sock *sk, const struct sk_buff *skb);

/*
 * In entry.rs, under rcu_read_lock or rcu_read_lock_sched: whether the same was let go ahead before, and
 * nothing has changed since. The task is the one that acts.
 */
bool dsm_known_stream(const struct sock *sk, const struct task_struct *task, u32 port);
bool dsm_known_datagram(const struct sock *sk, const struct task_struct *task, u64 word,
			u32 port);
/* The same, if not the last one: of any lately. */
bool dsm_recent_datagram(const struct sock *sk, const struct task_struct *task, u64 word,
			 u32 port);
bool dsm_known_receiver(const struct sock *sk, const struct task_struct *task, u32 port);
bool dsm_known_segment(const struct sock *sk);
/* Of packets: addresses and ports as they stand in the headers. */
bool dsm_known_arrival(const struct sock *sk, u64 addrs, u32 ports, u64 label0, u64 label1,
		       u32 label2);
/* The same, if not the last one: of any lately. */
bool dsm_recent_arrival(const struct sock *sk, u64 addrs, u32 ports, u64 label0, u64 label1,
			u32 label2);
/* Likewise: a segment goes without label, since the peer of the connection has it. */
bool dsm_known_bare(const struct sock *sk);
/* Likewise: a datagram goes with the same label as the one before, which is written to `label`. */
bool dsm_known_label(const struct sock *sk, const struct task_struct *task, u64 addrs, u32 ports,
		     u8 *label);
/* The same, if not the one before: as any lately. */
bool dsm_recent_label(const struct sock *sk, const struct task_struct *task, u64 addrs, u32 ports,
		      u8 *label);

/* In entry.rs: the hooks of known.c in full. */
int dsm_on_sendmsg(struct socket *sock, struct msghdr *msg, int size);
int dsm_on_recvmsg(const struct socket *sock);
int dsm_on_errors(bool more);
int dsm_on_file_read(const struct socket *sock);
int dsm_on_device(void);
int dsm_on_arrival(struct sock *sk, struct sk_buff *skb);

/* In entry.rs: asks what becomes of a packet; fills the label for DSM_OUT_LABEL. */
u32 dsm_departure(const struct sock *sk, const struct dsm_packet *packet, u8 *label);
u32 dsm_departure6(const struct sock *sk, const struct dsm_packet *packet, u8 *header);

#endif
