/* SPDX-License-Identifier: GPL-2.0 */
/* The counters for the C side, where one more is one instruction. Not for Rust. */
#ifndef DSM_SYS_COUNT_H
#define DSM_SYS_COUNT_H

#include <linux/percpu.h>

#include "mem.h"

DECLARE_PER_CPU(u64[DSM_COUNTERS], dsm_counters);

static __always_inline void dsm_count_one(enum dsm_counter counter)
{
	this_cpu_inc(dsm_counters[counter]);
}

#endif
