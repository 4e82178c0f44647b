// SPDX-License-Identifier: GPL-2.0
/*
 * What the audit needs of the kernel in softirq as in process context: how many lines and events
 * a kind of denial may still make, the time, the current process. It never sleeps and never
 * decides; what it holds back has been counted before.
 */
#include <linux/hash.h>
#include <linux/ratelimit.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/timekeeping.h>

#include "genl.h"

#define KINDS_BITS 6

/*
 * Each kind of denial has a budget of its own, so that a flood of one cannot hide another; all
 * together have one too.
 */
struct channel {
	struct ratelimit_state all;
	struct ratelimit_state kind[1 << KINDS_BITS];
};

static struct channel channels[2];

static void channel_init(struct channel *channel, int interval, int each, int all)
{
	unsigned int i;

	ratelimit_state_init(&channel->all, interval, all);
	ratelimit_set_flags(&channel->all, RATELIMIT_MSG_ON_RELEASE);
	for (i = 0; i < ARRAY_SIZE(channel->kind); i++) {
		ratelimit_state_init(&channel->kind[i], interval, each);
		ratelimit_set_flags(&channel->kind[i], RATELIMIT_MSG_ON_RELEASE);
	}
}

void dsm_audit_init(void)
{
	channel_init(&channels[DSM_AUDIT_LOG], 5 * HZ, 10, 100);
	channel_init(&channels[DSM_AUDIT_EVENT], HZ, 100, 1000);
}

/* Whether one more of this kind may go out now. Any context but NMI. */
bool dsm_audit_admit(u32 channel, u32 kind)
{
	struct channel *c = &channels[channel == DSM_AUDIT_LOG ? DSM_AUDIT_LOG : DSM_AUDIT_EVENT];

	return ___ratelimit(&c->kind[hash_32(kind, KINDS_BITS)], __func__) &&
	       ___ratelimit(&c->all, __func__);
}

u64 dsm_audit_now(void)
{
	return ktime_get_real_ns();
}

/* The current process' id; its name goes to comm, which holds DSM_NL_COMM bytes. */
u32 dsm_audit_current(u8 *comm)
{
	memcpy(comm, current->comm, DSM_NL_COMM);
	return task_tgid_nr(current);
}
