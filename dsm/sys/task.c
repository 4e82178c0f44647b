// SPDX-License-Identifier: GPL-2.0
/*
 * What Rust asks about tasks and the files that they execute. Whoever may change a label is
 * decided here in one place: CAP_MAC_ADMIN of the initial user namespace, of no other.
 */
#include <linux/binfmts.h>
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/fdtable.h>
#include <linux/fs.h>
#include <linux/gfs2_ondisk.h>
#include <linux/io_uring_types.h>
#include <linux/jiffies.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/mutex.h>
#include <linux/perf_event.h>
#include <linux/personality.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/resource.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/security.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>
#include <linux/xattr.h>

#include <asm/syscall.h>

#include "known.h"
#include "shim.h"

/* That of fs/orangefs/protocol.h. */
#define ORANGEFS_SUPER_MAGIC 0x20030528

/* The task that acts; NULL where the kernel itself does. */
const struct task_struct *dsm_current(void)
{
	return dsm_task_acts() ? current : NULL;
}

bool dsm_in_task(void)
{
	return in_task();
}

/* Gives each thread of a task's process a ScID; the first error, or 0. */
int dsm_threads(const struct task_struct *task, u32 scid)
{
	const struct task_struct *thread;
	int first = 0;

	rcu_read_lock();
	for_each_thread(task, thread) {
		int ret = dsm_on_thread(thread, scid);

		if (!first)
			first = ret;
	}
	rcu_read_unlock();
	return first;
}

/*
 * Whether somebody else than this machine's administrators says what the file system's attributes
 * are: another machine, or a program. virtiofs is the machine's own host.
 */
static bool remote(const struct super_block *sb)
{
	switch (sb->s_magic) {
	case NFS_SUPER_MAGIC:
	case SMB_SUPER_MAGIC:
	case CIFS_SUPER_MAGIC:
	case SMB2_SUPER_MAGIC:
	case CEPH_SUPER_MAGIC:
	case AFS_SUPER_MAGIC:
	case AFS_FS_MAGIC:
	case CODA_SUPER_MAGIC:
	case V9FS_MAGIC:
	/* Disks that several machines write to. */
	case GFS2_MAGIC:
	case OCFS2_SUPER_MAGIC:
	case ORANGEFS_SUPER_MAGIC:
		return true;
	case FUSE_SUPER_MAGIC:
		return strcmp(sb->s_type->name, "virtiofs") != 0;
	default:
		return false;
	}
}

/* Whether this machine's administrators say what the file system's attributes are. */
static bool is_trusted(const struct super_block *sb)
{
	return sb->s_user_ns == &init_user_ns && !remote(sb) &&
	       !(sb->s_iflags & SB_I_UNTRUSTED_MOUNTER);
}

/*
 * The value of a file's label: its length, or a negative errno; -ENODATA if it has none. Sleeps.
 * A file system that a user mounted, a remote one, or one mounted nosuid says nothing about
 * labels: whoever mounted or serves it could have written any. An overlay shows the attributes of
 * the layer that the file lies in.
 */
int dsm_file_label(const struct file *file, u8 *value, size_t size)
{
	struct dentry *dentry = file_dentry(file);
	struct inode *inode = d_backing_inode(dentry);

	if (file->f_path.mnt->mnt_flags & MNT_NOSUID || !is_trusted(inode->i_sb) ||
	    !is_trusted(d_real(dentry, D_REAL_METADATA)->d_sb))
		return -ENODATA;
	return __vfs_getxattr(dentry, inode, "security.dsi", value, size);
}

/* The credentials that the process has after the exec. */
const struct cred *dsm_bprm_cred(const struct linux_binprm *bprm)
{
	return bprm->cred;
}

/* The program gets another ScID than its caller: neither loader nor kernel may take his word. */
void dsm_bprm_secure(struct linux_binprm *bprm)
{
	bprm->secureexec = 1;
	bprm->per_clear |= PER_CLEAR_ON_SETID;
}

/* Whether the process is root's, as which it was started. */
bool dsm_is_root(void)
{
	return uid_eq(current_uid(), GLOBAL_ROOT_UID);
}

/* The process leaves no image of its memory behind, unless it asks for that itself. */
void dsm_drop_core(void)
{
	task_lock(current->group_leader);
	current->signal->rlim[RLIMIT_CORE].rlim_cur = 0;
	task_unlock(current->group_leader);
}

/*
 * Whether events of the kernel's performance counters are attached to a task: by itself, by somebody
 * else, or inherited from its maker. They sample registers and stack, whatever the task becomes.
 */
static bool is_measured(const struct task_struct *task)
{
#ifdef CONFIG_PERF_EVENTS
	const struct perf_event_context *context;
	bool measured;

	rcu_read_lock();
	context = rcu_dereference(task->perf_event_ctxp);
	measured = context && READ_ONCE(context->nr_events);
	rcu_read_unlock();
	return measured;
#else
	return false;
#endif
}

/* Whether somebody traces or measures a task's process. */
bool dsm_watched(const struct task_struct *task)
{
	const struct task_struct *thread;
	bool watched = false;

	rcu_read_lock();
	for_each_thread(task, thread)
		watched = watched || READ_ONCE(thread->ptrace) || is_measured(thread);
	rcu_read_unlock();
	return watched;
}

/*
 * Whether another process shares a task's memory, as the child of vfork does until it executes something: it
 * could have the task do what it likes. As the kernel's current_is_single_threaded() looks.
 */
bool dsm_shares_memory(const struct task_struct *task)
{
	struct task_struct *leader, *thread;
	const struct mm_struct *mm = NULL;
	bool shares = false;
	int users = 0;

	rcu_read_lock();
	for_each_thread(task, thread) {
		/* Threads that have ended have none; it is held as long as this one's is not taken away. */
		task_lock(thread);
		if (thread->mm) {
			mm = thread->mm;
			users = atomic_read(&thread->mm->mm_users);
		}
		task_unlock(thread);
		if (mm)
			break;
	}
	/* Threads of the process are users, too; who only looks at it for a moment may be. */
	if (users > 1)
		for_each_process_thread(leader, thread)
			if (READ_ONCE(thread->mm) == mm && !(thread->flags & PF_KTHREAD) &&
			    thread->signal != task->signal) {
				shares = true;
				goto done;
			}
done:
	rcu_read_unlock();
	return shares;
}

/* The kernel's locks of what a process is: no tracer is asked about, no event attached, nothing executed. */
static bool try_hold(struct signal_struct *signal)
{
	if (!mutex_trylock(&signal->cred_guard_mutex))
		return false;
	if (down_write_trylock(&signal->exec_update_lock))
		return true;
	mutex_unlock(&signal->cred_guard_mutex);
	return false;
}

/*
 * From now on until dsm_release() nobody begins to trace or measure a task's process, but by asking its
 * parent to trace it. False if that did not come to it: the process executes all the time, and while it
 * does nobody gets further than to being asked about. It is not waited for: who executes a program whose
 * file he serves himself can make that last as long as he likes.
 */
bool dsm_hold(const struct task_struct *task)
{
	unsigned int tries;

	for (tries = 0; tries < 10; tries++) {
		if (try_hold(task->signal))
			return true;
		schedule_timeout_uninterruptible(msecs_to_jiffies(10));
	}
	return false;
}

void dsm_release(const struct task_struct *task)
{
	up_write(&task->signal->exec_update_lock);
	mutex_unlock(&task->signal->cred_guard_mutex);
}

/*
 * Whether somebody else has a hold on the program: a tracer, who measures it, a task that shares root
 * and working directory, whoever set no_new_privs, or a user who owns the name space that it sees, and
 * may have put a loader of his own there.
 */
bool dsm_bprm_unsafe(const struct linux_binprm *bprm)
{
	return bprm->unsafe & (LSM_UNSAFE_SHARE | LSM_UNSAFE_PTRACE | LSM_UNSAFE_NO_NEW_PRIVS) ||
	       is_measured(current) || current_user_ns() != &init_user_ns;
}

/*
 * Whether the running process is measured. At the end of an exec this stays true or false: exec holds
 * exec_update_lock, without which nobody attaches an event.
 */
bool dsm_measured(void)
{
	return is_measured(current);
}

/*
 * Whether a file is a ring of io_uring's whose requests a thread of its maker's takes up (SQPOLL): the number of
 * its descriptor, plus one. Nobody but the kernel names files of this file system.
 */
static int is_polled_ring(const void *unused, struct file *file, unsigned int fd)
{
	const struct io_ring_ctx *ring = file->private_data;

	if (file_inode(file)->i_sb->s_magic != ANON_INODE_FS_MAGIC ||
	    strcmp((const char *)file->f_path.dentry->d_name.name, "[io_uring]") != 0)
		return 0;
	return ring->flags & IORING_SETUP_SQPOLL ? fd + 1 : 0;
}

/* Whether the running process has a descriptor of such a ring. */
bool dsm_holds_polled_ring(void)
{
	return iterate_fd(current->files, 0, is_polled_ring, NULL);
}

/*
 * Closes all of them. At the end of an exec the process is its descriptors' only user, so each is looked at once.
 * Sleeps.
 */
void dsm_close_polled_rings(void)
{
	unsigned int next = 0;

	while ((next = iterate_fd(current->files, next, is_polled_ring, NULL))) {
		close_fd(next - 1);
		cond_resched();
	}
}

/* Ends the running process before its next instruction. Without the first one there is no node. */
void dsm_end_current(void)
{
	if (!is_global_init(current))
		force_sig(SIGKILL);
}

/* Whether the node's first process acts. */
bool dsm_is_init(void)
{
	return in_task() && is_global_init(current);
}

/* The file whose owner it is. */
const struct file *dsm_owned_file(const struct fown_struct *fown)
{
	return fown->file;
}

/* Whether it is one of the kernel's own. */
bool dsm_task_kernel(const struct task_struct *task)
{
	return task->flags & PF_KTHREAD;
}

/* A task's own credentials, whatever it acts with now. Under rcu_read_lock. */
const struct cred *dsm_task_cred(const struct task_struct *task)
{
	return __task_cred(task);
}

/* Whether they are the running task's own. */
bool dsm_cred_own(const struct cred *cred)
{
	return in_task() && cred == current_real_cred();
}

/* Whether the kernel lets the running task act with them, which are not its own. */
bool dsm_cred_lent(const struct cred *cred)
{
	return in_task() && cred == current_cred() && cred != current_real_cred();
}

/* The system call that the running task is in; 0 where there is none, which is read(2) to the rest. */
u32 dsm_system_call(void)
{
	int number;

	if (!in_task() || current->flags & (PF_KTHREAD | PF_USER_WORKER))
		return 0;
	number = syscall_get_nr(current, task_pt_regs(current));
	return number > 0 ? number : 0;
}

/* Whether the running task is in a system call that receives many messages, of which hooks see the first. */
bool dsm_receives_many(void)
{
	u32 number = dsm_system_call();

#ifdef CONFIG_COMPAT
	/* socketcall, recvmmsg and recvmmsg_time64 of i386, which its kernel headers alone name. */
	if (in_compat_syscall())
		return number == 102 || number == 337 || number == 417;
#endif
	return number == __NR_recvmmsg;
}

bool dsm_may_label(void)
{
	return capable(CAP_MAC_ADMIN);
}
