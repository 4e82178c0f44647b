/* SPDX-License-Identifier: GPL-2.0 */
/* Connections that are to end, and the module's hold on itself. All of it sleeps or may. */
#ifndef DSM_SYS_REVOKE_H
#define DSM_SYS_REVOKE_H

#include <linux/types.h>

struct dsm_sweep;
struct sock;
struct task_struct;

/* An established TCP connection, as its socket has it. */
struct dsm_flow {
	u8 saddr[16];		/* IPv4 in the first four */
	u8 daddr[16];
	u16 sport;
	u16 dport;
	bool ipv4;
};

/* TCP sockets of one process. */
struct dsm_task_socks {
	u32 next;		/* descriptor to go on with */
	u32 n;
	struct sock *sock[16];
};

int dsm_sweep_init(void);
void dsm_sweep_exit(void);
struct dsm_sweep *dsm_sweep_begin(void);
void dsm_sweep_abort(struct dsm_sweep *sweep, struct sock *sk);
bool dsm_sweep_end(struct dsm_sweep *sweep);
bool dsm_flow_of(const struct sock *sk, struct dsm_flow *flow);	/* any context */
bool dsm_task_socks(const struct task_struct *task, struct dsm_task_socks *out);
bool dsm_stay(void);
void dsm_stay_no_longer(void);

#endif
