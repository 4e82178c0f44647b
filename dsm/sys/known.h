/* SPDX-License-Identifier: GPL-2.0 */
/* What the hooks of known.c and net.c ask of each packet and call. Not for Rust. */
#ifndef DSM_SYS_KNOWN_H
#define DSM_SYS_KNOWN_H

#include <linux/in.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/tcp.h>
#include <net/sock.h>

/*
 * A datagram up to this size, or so much of a stream, fits into every path's packets with a label,
 * so it needs no room reserved. 552 is the least path MTU that the kernel believes in.
 */
#define DSM_SMALL (552 - 60 - (int)sizeof(struct tcphdr))

/* Whether the running task acts, and not the kernel itself (softirq, kernel thread). */
static inline bool dsm_task_acts(void)
{
	return in_task() && !(current->flags & PF_KTHREAD);
}

static inline bool dsm_is_inet(const struct sock *sk)
{
	return sk->sk_family == AF_INET || sk->sk_family == AF_INET6;
}

/* A TCP connection, or a listener. */
static inline bool dsm_is_tcp(const struct sock *sk)
{
	return sk->sk_type == SOCK_STREAM && sk->sk_protocol == IPPROTO_TCP;
}

/* Of UDP, if it is a complete one of IP's: others have no state, so that nothing is known of them. */
static inline bool dsm_is_udp(const struct sock *sk)
{
	return sk->sk_type == SOCK_DGRAM && sk->sk_protocol == IPPROTO_UDP;
}

#endif
