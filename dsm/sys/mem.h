/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Memory, locks, grace periods and counters for the state tables, and what Rust asks about the
 * running task. Everything here is safe in any context but NMI unless it says that it sleeps.
 */
#ifndef DSM_SYS_MEM_H
#define DSM_SYS_MEM_H

#include <linux/types.h>

struct cred;
struct dentry;
struct file;
struct fown_struct;
struct iattr;
struct linux_binprm;
struct task_struct;
struct user_namespace;

/* The counters that the C side advances itself; Rust's come after them (counters.rs). */
enum dsm_counter {
	DSM_COUNT_OUT_LABELLED,
	DSM_COUNT_OUT_INSERTED,
	DSM_COUNT_OUT_NO_ROOM,
	DSM_COUNT_OUT_DECEIVING,
	DSM_COUNT_FLOWS_ABORTED,
	DSM_COUNT_REJECTED,
	DSM_COUNT_IN_LABELLED,
	DSM_COUNT_IN_BARE,
	DSM_COUNT_OUT_BARE,
	DSM_COUNT_C_END,
};
#define DSM_COUNTERS 64

/* mem.c */
void dsm_mem_init(void);
void *dsm_alloc(size_t size, bool atomic);
void dsm_free(void *p);
void dsm_free_rcu(void *p);	/* p starts with a struct rcu_head */
unsigned long dsm_lock(u32 n);
void dsm_unlock(u32 n, unsigned long flags);
void dsm_rcu_lock(void);
void dsm_rcu_unlock(void);
void dsm_synchronize(void);	/* sleeps */
void dsm_barrier(void);		/* sleeps */
void dsm_resched(void);		/* sleeps */
void dsm_count(u32 counter);
u32 dsm_processor(void);
u64 dsm_count_sum(u32 counter);

/* Hooks that sleep are counted while they do. */
void dsm_sleeper_enter(void);
void dsm_sleeper_leave(void);
void dsm_sleepers_wait(void);	/* sleeps */

/* task.c */
const struct task_struct *dsm_current(void);
bool dsm_in_task(void);
int dsm_threads(const struct task_struct *task, u32 scid);
int dsm_file_label(const struct file *file, u8 *value, size_t size);
void dsm_bprm_secure(struct linux_binprm *bprm);
bool dsm_bprm_unsafe(const struct linux_binprm *bprm);
bool dsm_watched(const struct task_struct *task);
bool dsm_shares_memory(const struct task_struct *task);
bool dsm_hold(const struct task_struct *task);	/* sleeps */
void dsm_release(const struct task_struct *task);
bool dsm_measured(void);
bool dsm_holds_polled_ring(void);
void dsm_close_polled_rings(void);	/* sleeps */
void dsm_end_current(void);
bool dsm_may_label(void);
bool dsm_is_root(void);
void dsm_drop_core(void);
bool dsm_is_init(void);
const struct file *dsm_owned_file(const struct fown_struct *fown);
bool dsm_task_kernel(const struct task_struct *task);
const struct cred *dsm_bprm_cred(const struct linux_binprm *bprm);
const struct cred *dsm_task_cred(const struct task_struct *task);
bool dsm_cred_own(const struct cred *cred);
bool dsm_cred_lent(const struct cred *cred);
u32 dsm_system_call(void);
bool dsm_receives_many(void);

/* How a process wants to look into another one. */
enum dsm_look {
	DSM_LOOK_UNASKED,	/* the kernel wonders what it may show */
	DSM_LOOK_READING,
	DSM_LOOK_ATTACHING,
};

/* Parts of the machine: what a system permission is about. */
enum dsm_part {
	DSM_PART_NONE,
	DSM_PART_LOAD_MODULE,
	DSM_PART_BPF,
	DSM_PART_BOOT,
	DSM_PART_RAW_IO,
	DSM_PART_TRACE_KERNEL,
	DSM_PART_NET_ADMIN,
	DSM_PART_LABEL,
	DSM_PART_SYS_ADMIN,
	DSM_PART_NETWORK,	/* a device that talks past the sockets: no system permission */
	DSM_PART_PROCESS,	/* what a process shows of itself: likewise */
};

/* system.c: which part it is. Any context. */
u32 dsm_part_of_capability(const struct user_namespace *ns, int cap);
u32 dsm_part_of_lockdown(u32 reason);
u32 dsm_part_of_perf(int type);
u32 dsm_part_of_file(const struct file *file);
bool dsm_is_past_sockets(const struct file *file);
const struct task_struct *dsm_process_of_file(const struct file *file);
u32 dsm_part_of_chown(const struct dentry *dentry, const struct iattr *attr);
bool dsm_capability_quiet(u32 opts);
u32 dsm_look_of_ptrace(u32 mode);

/* In entry.rs, called under rcu_read_lock for each thread of a process. */
int dsm_on_thread(const struct task_struct *thread, u32 scid);

#endif
