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
	bool raw;		/* of a raw or ICMP socket; ports of TCP and UDP only */
	bool group;		/* to a multicast or broadcast address */
	bool fragment;
	bool routed;		/* with a source route: the destination is a way station */
	u8 icmp_type;
	/*
	 * The IPv4 header's options; for IPv6 the whole header and its extension headers, up to the
	 * transport header, on the way out without a placeholder.
	 */
	u16 options_len;
	const u8 *options;
};

/* What becomes of a packet on its way out. */
enum dsm_departure {
	DSM_OUT_LABEL,		/* with this label, inserted if there is no room reserved */
	DSM_OUT_BARE,		/* without label and placeholder */
	DSM_OUT_DROP,		/* not at all */
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

struct dsm_sock {
	const struct sock *sk;
	u32 saddr;
	u32 daddr;
	u64 daddr6[2];		/* in host order, for DSM_DEST_IPV6 */
	u16 sport;
	u16 dport;
	u8 protocol;
	u8 destination;		/* enum dsm_destination */
	u8 reserved;		/* holds a placeholder for: enum dsm_family */
	bool large;		/* the message needs one: it may fill a packet */
	bool closed;		/* neither connected nor listening */
	bool opening;		/* this message opens the connection (Fast Open) */
	bool group;		/* it goes to a multicast or broadcast address */
	bool unspec;		/* the call's address is of no family */
};

/* net.c */
u32 dsm_arrival(const struct sock *sk, const struct sk_buff *skb, struct dsm_packet *packet);
bool dsm_sock_of(const struct socket *socket, const struct msghdr *msg, int size,
		 const struct sockaddr *address, int addrlen, struct dsm_sock *view);
const struct sock *dsm_sock_port(const struct socket *socket, u16 *port);
const struct sock *dsm_sock_mediated(const struct sock *sk);
const struct sock *dsm_sock(const struct socket *socket);
struct socket *dsm_file_socket(struct file *file);
bool dsm_sock_unmediated(const struct socket *socket);
void dsm_sock_source6(const struct sock *sk, u8 *address);
int dsm_reserve(const struct sock *sk, u32 family);
int dsm_reserve_locked(struct sock *sk);
void dsm_unreserve(struct sock *sk);
bool dsm_reserve_child(const struct request_sock *req);
void dsm_reject(struct sk_buff *skb);	/* reject.c */
u32 dsm_request_peer(const struct sock *child, const struct request_sock *req, u8 *address);
struct sock *dsm_sock_get(const struct sock *sk);
void dsm_sock_put(struct sock *sk);
int dsm_out_register(void);
void dsm_out_unregister(void);

/* In entry.rs: asks what becomes of a packet; fills the label for DSM_OUT_LABEL. */
u32 dsm_departure(const struct sock *sk, const struct dsm_packet *packet, u8 *label);
u32 dsm_departure6(const struct sock *sk, const struct dsm_packet *packet, u8 *header);

#endif
