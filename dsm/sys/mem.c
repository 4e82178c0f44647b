// SPDX-License-Identifier: GPL-2.0
/*
 * Memory, locks, grace periods and counters for the state tables. The locks are leaves: nothing
 * is called while one is held but the table's own list work. They never sleep, not on the rt flavour
 * either: unloading does not wait for a task that sleeps in a hook, unless the hook says so.
 */
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#include "count.h"
#include "shim.h"

#define LOCKS 64

static struct {
	raw_spinlock_t lock;
} ____cacheline_aligned_in_smp locks[LOCKS];

DEFINE_PER_CPU(u64[DSM_COUNTERS], dsm_counters);

static atomic_t sleepers = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(no_sleeper);

void dsm_mem_init(void)
{
	unsigned int i;

	for (i = 0; i < LOCKS; i++)
		raw_spin_lock_init(&locks[i].lock);
}

void *dsm_alloc(size_t size, bool atomic)
{
	return kzalloc(size, atomic ? GFP_ATOMIC : GFP_KERNEL_ACCOUNT);
}

void dsm_free(void *p)
{
	kfree(p);
}

struct dsm_node {
	struct rcu_head rcu;
};

void dsm_free_rcu(void *p)
{
	struct dsm_node *node = p;

	kfree_rcu(node, rcu);
}

unsigned long dsm_lock(u32 n)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&locks[n % LOCKS].lock, flags);
	return flags;
}

void dsm_unlock(u32 n, unsigned long flags)
{
	raw_spin_unlock_irqrestore(&locks[n % LOCKS].lock, flags);
}

void dsm_rcu_lock(void)
{
	rcu_read_lock();
}

void dsm_rcu_unlock(void)
{
	rcu_read_unlock();
}

void dsm_synchronize(void)
{
	synchronize_rcu();
}

void dsm_barrier(void)
{
	rcu_barrier();
}

void dsm_resched(void)
{
	cond_resched();
}

/* Of whoever may move on meanwhile. */
u32 dsm_processor(void)
{
	return raw_smp_processor_id();
}

void dsm_count(u32 counter)
{
	if (counter < DSM_COUNTERS)
		this_cpu_inc(dsm_counters[counter]);
}

u64 dsm_count_sum(u32 counter)
{
	u64 sum = 0;
	int cpu;

	if (counter < DSM_COUNTERS)
		for_each_possible_cpu(cpu)
			sum += per_cpu(dsm_counters[counter], cpu);
	return sum;
}

void dsm_sleeper_enter(void)
{
	atomic_inc(&sleepers);
}

void dsm_sleeper_leave(void)
{
	if (atomic_dec_and_test(&sleepers))
		wake_up_all(&no_sleeper);
}

void dsm_sleepers_wait(void)
{
	wait_event(no_sleeper, !atomic_read(&sleepers));
}
