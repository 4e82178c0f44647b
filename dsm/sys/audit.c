// SPDX-License-Identifier: GPL-2.0
/*
 * What the audit needs of the kernel in softirq as in process context: how many lines and events
 * a kind of denial may still make, the time, the current process. It never sleeps and never
 * decides; what it holds back has been counted before.
 */
#include <linux/hash.h>
#include <linux/jiffies.h>
#include <linux/ratelimit.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/timekeeping.h>

#include "genl.h"

#define KINDS_BITS 6
#define ZONES_BITS 6
#define NODES 256

/*
 * Each kind of denial has a budget of its own, so that a flood of one cannot hide another; all
 * together have one too. So that nobody who sends packets can use that up by making denials of many
 * kinds, each node whose labels are proven has a part of it, and all who prove nothing have one
 * together. Nodes whose SnIDs differ by a multiple of NODES share theirs. So that no user does by being
 * refused many things, each ScID has a part of it for its processes on this node; some share theirs.
 */
struct channel {
	struct ratelimit_state all;
	struct ratelimit_state strangers;
	struct ratelimit_state node[NODES];
	struct ratelimit_state zone[1 << ZONES_BITS];
	struct ratelimit_state kind[1 << KINDS_BITS];
};

static struct channel channels[2];

static void budget(struct ratelimit_state *state, int interval, int burst)
{
	ratelimit_state_init(state, interval, burst);
	ratelimit_set_flags(state, RATELIMIT_MSG_ON_RELEASE);
}

static void channel_init(struct channel *channel, int interval, int all)
{
	unsigned int i;

	budget(&channel->all, interval, all);
	budget(&channel->strangers, interval, all * 2 / 5);
	for (i = 0; i < ARRAY_SIZE(channel->node); i++)
		budget(&channel->node[i], interval, all / 5);
	for (i = 0; i < ARRAY_SIZE(channel->zone); i++)
		budget(&channel->zone[i], interval, all * 4 / 5);
	for (i = 0; i < ARRAY_SIZE(channel->kind); i++)
		budget(&channel->kind[i], interval, all / 10);
}

void dsm_audit_init(void)
{
	channel_init(&channels[DSM_AUDIT_LOG], 5 * HZ, 100);
	channel_init(&channels[DSM_AUDIT_EVENT], HZ, 1000);
}

static struct ratelimit_state *budget_of(struct channel *c, u32 origin, u32 scid)
{
	switch (origin) {
	case DSM_AUDIT_OWN:
		return &c->zone[hash_32(scid, ZONES_BITS)];
	case DSM_AUDIT_STRANGERS:
		return &c->strangers;
	default:
		return &c->node[origin % NODES];
	}
}

/* Whether it is used up, taking nothing from it. Who asks at the same time may get another answer. */
static bool is_spent(const struct ratelimit_state *state)
{
	return atomic_read(&state->rs_n_left) <= 0 &&
	       time_before(jiffies, READ_ONCE(state->begin) + state->interval);
}

/* Whether one more of this kind, from there, may go out now. Any context but NMI. */
bool dsm_audit_admit(u32 channel, u32 origin, u32 scid, u32 kind)
{
	struct channel *c = &channels[channel == DSM_AUDIT_LOG ? DSM_AUDIT_LOG : DSM_AUDIT_EVENT];
	struct ratelimit_state *theirs = budget_of(c, origin, scid);
	struct ratelimit_state *of_kind = &c->kind[hash_32(kind, KINDS_BITS)];

	/*
	 * A kind without budget takes nothing from that of who is refused it, for his other refusals. What has
	 * no budget left of its own takes nothing from what is shared.
	 */
	return !is_spent(of_kind) && ___ratelimit(theirs, __func__) &&
	       ___ratelimit(of_kind, __func__) && ___ratelimit(&c->all, __func__);
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
