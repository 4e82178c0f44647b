// SPDX-License-Identifier: GPL-2.0
/*
 * Which part of the machine a capability, a lockdown reason, a performance event or a file belongs
 * to, in the kernel's own numbers. Says nothing about who may use it.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/kdev_t.h>
#include <linux/kstrtox.h>
#include <linux/magic.h>
#include <linux/major.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/nsproxy.h>
#include <linux/perf_event.h>
#include <linux/pid.h>
#include <linux/proc_fs.h>
#include <linux/ptrace.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/security.h>
#include <linux/string.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>
#include <net/net_namespace.h>

#include "compat.h"
#include "shim.h"

/*
 * Those of drivers/infiniband/core (IB_UMAD_MAJOR) and drivers/net/ppp, in
 * Documentation/admin-guide/devices.txt.
 */
#define INFINIBAND_MAJOR 231
#define PPP_MAJOR 108

/*
 * Capabilities of a user's own name space are his: labels hold there as anywhere. CAP_SYS_CHROOT is
 * among those of administration because a program takes its loader from the root that it sees.
 * CAP_SYS_PTRACE is not: whom a process may trace is a matter of zones.
 */
u32 dsm_part_of_capability(const struct user_namespace *ns, int cap)
{
	if (ns != &init_user_ns)
		return DSM_PART_NONE;
	switch (cap) {
	case CAP_SYS_MODULE:
		return DSM_PART_LOAD_MODULE;
	case CAP_BPF:
		return DSM_PART_BPF;
	case CAP_SYS_BOOT:
		return DSM_PART_BOOT;
	case CAP_SYS_RAWIO:
		return DSM_PART_RAW_IO;
	case CAP_PERFMON:
	/* Its rules report the system calls of every process, with their arguments. */
	case CAP_AUDIT_CONTROL:
	case CAP_AUDIT_READ:
		return DSM_PART_TRACE_KERNEL;
	case CAP_NET_ADMIN:
		return DSM_PART_NET_ADMIN;
	case CAP_MAC_ADMIN:
	case CAP_MAC_OVERRIDE:
		return DSM_PART_LABEL;
	case CAP_SYS_ADMIN:
	case CAP_SYS_CHROOT:
		return DSM_PART_SYS_ADMIN;
	default:
		return DSM_PART_NONE;
	}
}

bool dsm_capability_quiet(u32 opts)
{
	return opts & CAP_OPT_NOAUDIT;
}

u32 dsm_look_of_ptrace(u32 mode)
{
	if (mode & PTRACE_MODE_NOAUDIT)
		return DSM_LOOK_UNASKED;
	return mode & PTRACE_MODE_ATTACH ? DSM_LOOK_ATTACHING : DSM_LOOK_READING;
}

/* The debuggers of a halted kernel are asked nothing. */
u32 dsm_part_of_lockdown(u32 reason)
{
	switch (reason) {
	case LOCKDOWN_MODULE_SIGNATURE:
	case LOCKDOWN_MODULE_PARAMETERS:
		return DSM_PART_LOAD_MODULE;
	case LOCKDOWN_DEV_MEM:
	case LOCKDOWN_EFI_TEST:
	case LOCKDOWN_PCI_ACCESS:
	case LOCKDOWN_IOPORT:
	case LOCKDOWN_MSR:
	case LOCKDOWN_ACPI_TABLES:
	case LOCKDOWN_PCMCIA_CIS:
	case LOCKDOWN_TIOCSSERIAL:
		return DSM_PART_RAW_IO;
	case LOCKDOWN_KEXEC:
	case LOCKDOWN_HIBERNATION:
		return DSM_PART_BOOT;
	case LOCKDOWN_MMIOTRACE:
	case LOCKDOWN_DEBUGFS:
	case LOCKDOWN_KCORE:
	case LOCKDOWN_KPROBES:
	case LOCKDOWN_PERF:
	case LOCKDOWN_TRACEFS:
		return DSM_PART_TRACE_KERNEL;
	case LOCKDOWN_BPF_WRITE_USER:
	case LOCKDOWN_BPF_READ_KERNEL:
		return DSM_PART_BPF;
	case LOCKDOWN_XFRM_SECRET:
		return DSM_PART_NET_ADMIN;
	default:
		return DSM_PART_NONE;
	}
}

/* A process may measure itself; whom else is a matter of zones. */
u32 dsm_part_of_perf(int type)
{
	return type == PERF_SECURITY_OPEN ? DSM_PART_NONE : DSM_PART_TRACE_KERNEL;
}

#define NAMES 4

/* The first names below the file system's root; empty where there is none. Under rcu_read_lock. */
static void top_names(const struct dentry *dentry, const char *name[NAMES])
{
	unsigned int depth, i;

	for (i = 0; i < NAMES; i++)
		name[i] = "";
	for (depth = 0; depth < 64 && !IS_ROOT(dentry); depth++) {
		for (i = NAMES - 1; i > 0; i--)
			name[i] = name[i - 1];
		name[0] = (const char *)dentry->d_name.name;
		dentry = READ_ONCE(dentry->d_parent);
	}
}

/* Whether the running process is in a network that a user has made, with a name space of his own. */
static bool in_network_of_a_user(void)
{
	return current->nsproxy && current->nsproxy->net_ns->user_ns != &init_user_ns;
}

/*
 * Whether the running process would find this sysctl by its name. Of the network it finds its own, but
 * it may have kept another one's (O_PATH) from where it was before.
 */
static bool is_seen(const struct dentry *dentry)
{
	const struct qstr *name = &dentry->d_name;

	return dentry->d_op && dentry->d_op->d_compare &&
	       !dentry->d_op->d_compare(dentry, name->len, (const char *)name->name, name);
}

/* What a process shows of itself; that of its network is the network's. */
static u32 part_of_process(const char *name[NAMES])
{
	const char *what = strcmp(name[1], "task") ? name[1] : name[3];

	if (!strcmp(what, "net"))
		return DSM_PART_NET_ADMIN;
	/* The kernel asks for the right to trace. */
	if (!strcmp(what, "mem"))
		return DSM_PART_NONE;
	return DSM_PART_PROCESS;
}

/*
 * Nothing in /proc is ever renamed, so names are what they are. Who waits for pressure changes nothing,
 * and everybody may.
 */
static u32 part_of_proc(const struct dentry *dentry)
{
	const char *name[NAMES];
	u32 part = DSM_PART_SYS_ADMIN;

	rcu_read_lock();
	top_names(dentry, name);
	if (name[0][0] >= '0' && name[0][0] <= '9')
		part = part_of_process(name);
	else if (!strcmp(name[0], "pressure"))
		part = DSM_PART_NONE;
	else if (!strcmp(name[0], "sysrq-trigger"))
		part = DSM_PART_BOOT;
	else if (!strcmp(name[0], "sys") && !strcmp(name[1], "net"))
		part = in_network_of_a_user() && is_seen(dentry) ? DSM_PART_NONE :
								   DSM_PART_NET_ADMIN;
	rcu_read_unlock();
	return part;
}

/*
 * The process in whose directory of /proc a file lies; NULL if it is no more. It is not freed as long as
 * the caller holds the RCU read lock.
 */
const struct task_struct *dsm_process_of_file(const struct file *file)
{
	const struct dentry *dentry = file->f_path.dentry;
	const struct task_struct *task = NULL;
	const char *name[NAMES];
	int number;

	rcu_read_lock();
	top_names(dentry, name);
	if (!kstrtoint(name[0], 10, &number))
		task = pid_task(find_pid_ns(number, proc_pid_ns(dentry->d_sb)), PIDTYPE_PID);
	rcu_read_unlock();
	return task;
}

/* What of the kernel's own file systems a file changes that is root's. */
static u32 part_of_kernel_file(const struct dentry *dentry)
{
	switch (dentry->d_sb->s_magic) {
	case PROC_SUPER_MAGIC:
		return part_of_proc(dentry);
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
		return DSM_PART_TRACE_KERNEL;
	case SYSFS_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
	case CONFIGFS_MAGIC:
	case BINFMTFS_MAGIC:
	case EFIVARFS_MAGIC:
	case SECURITYFS_MAGIC:
	case XENFS_SUPER_MAGIC:
		return DSM_PART_SYS_ADMIN;
	default:
		return DSM_PART_NONE;
	}
}

/*
 * Devices are known by their numbers: adapters of remote memory by these, as long as there are few. A
 * device of vhost sends and receives through a packet socket or tunnel without asking for each call.
 */
static u32 part_of_device(const struct inode *inode)
{
	switch (imajor(inode)) {
	case SCSI_GENERIC_MAJOR:
	case MTD_CHAR_MAJOR:
		return DSM_PART_RAW_IO;
	case INFINIBAND_MAJOR:
	case PPP_MAJOR:
		return DSM_PART_NETWORK;
	case MISC_MAJOR:
		return iminor(inode) == VHOST_NET_MINOR || iminor(inode) == VHOST_VSOCK_MINOR ?
			       DSM_PART_NETWORK : DSM_PART_NONE;
	default:
		return DSM_PART_NONE;
	}
}

/*
 * Drivers of devices that send and receive past the sockets, or lend out a whole network card, under numbers
 * that are drawn when they are loaded: taps of macvtap and ipvtap, vDPA at either end, VFIO, UIO.
 */
static const char *const past_sockets[] = {
	"tap", "vhost_vdpa", "vduse", "vfio", "uio",
	/* Asked about when they are opened or attached, too; but they are handed over as any file is. */
	"tun", "vhost_net", "vhost_vsock", "ppp_generic", "ib_uverbs", "ib_umad", "rdma_ucm",
	/* The kernel connects to where it is told. */
	"nvme_fabrics",
};

/* Whether the file is one of theirs, that they have opened. A driver that is built in goes unknown. */
bool dsm_is_past_sockets(const struct file *file)
{
	const struct module *owner = file->f_op->owner;
	unsigned int i;

	if (likely(!owner))
		return false;
	for (i = 0; i < ARRAY_SIZE(past_sockets); i++)
		if (!strcmp(owner->name, past_sockets[i]))
			return true;
	return false;
}

/* Whether the process passes over whose a file is. */
static bool overrides(void)
{
	return cap_raised(current_cred()->cap_effective, CAP_DAC_OVERRIDE) &&
	       current_user_ns() == &init_user_ns;
}

/* Whether root's uid, or his right to pass over others', is what opens a file to the process. */
static bool opens_as_root(const struct inode *inode)
{
	return uid_eq(inode->i_uid, GLOBAL_ROOT_UID) || overrides();
}

/*
 * Disks past their file systems; what talks to other machines past the sockets; what a process shows of
 * itself; and what root may write in the kernel's own file systems: sysctls name programs that the
 * kernel runs, a cgroup can kill whom it holds.
 */
u32 dsm_part_of_file(const struct file *file)
{
	const struct inode *inode = file_inode(file);
	u32 part;

	if (S_ISBLK(inode->i_mode))
		return DSM_PART_RAW_IO;
	if (S_ISCHR(inode->i_mode))
		return part_of_device(inode);
	if (!(file->f_mode & FMODE_WRITE))
		return DSM_PART_NONE;
	part = part_of_kernel_file(file->f_path.dentry);
	return part == DSM_PART_PROCESS || opens_as_root(inode) ? part : DSM_PART_NONE;
}

/* To give away what is root's there, or to change its mode or group, is to open it for others. */
u32 dsm_part_of_chown(const struct dentry *dentry, const struct iattr *attr)
{
	if (!(attr->ia_valid & (ATTR_UID | ATTR_GID | ATTR_MODE)) ||
	    !opens_as_root(d_backing_inode(dentry)))
		return DSM_PART_NONE;
	return part_of_kernel_file(dentry);
}
