/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The LSM hooks that the module claims, in the order in which they go live: state keepers first,
 * then what a process does, then what arrives. One line here, one `extern "C"` function of the
 * same name in sys/entry.rs, or one in known.c; all are checked against the kernel's own prototype.
 */
#ifndef DSM_SYS_HOOKS_H
#define DSM_SYS_HOOKS_H

struct cred;
union bpf_attr;
struct dentry;
struct file;
struct fown_struct;
struct iattr;
struct kernel_siginfo;
struct linux_binprm;
struct mnt_idmap;
struct msghdr;
struct request_sock;
struct rlimit;
struct sk_buff;
struct sock;
struct sockaddr;
struct socket;
struct task_struct;
struct user_namespace;

#define DSM_HOOKS(H)						\
	H(task_free)						\
	H(task_alloc)						\
	H(sk_free_security)					\
	H(cred_free)						\
	H(cred_prepare)						\
	H(cred_transfer)					\
	H(bprm_creds_from_file)					\
	H(bprm_committed_creds)					\
	H(capable)						\
	H(uring_override_creds)					\
	H(inode_setattr)					\
	H(inode_setxattr)					\
	H(inode_removexattr)					\
	H(inode_xattr_skipcap)					\
	H(file_free_security)					\
	H(file_set_fowner)					\
	H(file_send_sigiotask)					\
	H(file_open)						\
	H(locked_down)						\
	H(bpf)							\
	H(perf_event_open)					\
	H(task_kill)						\
	H(task_setrlimit)					\
	H(task_setnice)						\
	H(task_setioprio)					\
	H(task_setscheduler)					\
	H(ptrace_access_check)					\
	H(ptrace_traceme)					\
	H(socket_setsockopt)					\
	H(socket_getsockopt)					\
	H(inet_conn_request)					\
	H(sk_clone_security)					\
	H(inet_csk_clone)					\
	H(mptcp_add_subflow)					\
	H(unix_stream_connect)					\
	H(unix_may_send)					\
	H(file_receive)						\
	H(file_permission)					\
	H(file_ioctl)						\
	H(file_ioctl_compat)					\
	H(mmap_file)						\
	H(tun_dev_create)					\
	H(tun_dev_open)						\
	H(tun_dev_attach_queue)					\
	H(socket_create)					\
	H(socket_post_create)					\
	H(socket_bind)						\
	H(socket_connect)					\
	H(socket_listen)					\
	H(socket_accept)					\
	H(socket_sendmsg)					\
	H(socket_recvmsg)					\
	H(socket_sock_rcv_skb)

void dsm_hook_task_free(struct task_struct *task);
int dsm_hook_task_alloc(struct task_struct *task, u64 clone_flags);
void dsm_hook_sk_free_security(struct sock *sk);
void dsm_hook_cred_free(struct cred *cred);
int dsm_hook_cred_prepare(struct cred *new, const struct cred *old, gfp_t gfp);
void dsm_hook_cred_transfer(struct cred *new, const struct cred *old);
int dsm_hook_bprm_creds_from_file(struct linux_binprm *bprm, const struct file *file);
void dsm_hook_bprm_committed_creds(const struct linux_binprm *bprm);
int dsm_hook_inode_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr);
int dsm_hook_inode_setxattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name,
			    const void *value, size_t size, int flags);
int dsm_hook_inode_removexattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name);
int dsm_hook_inode_xattr_skipcap(const char *name);
int dsm_hook_capable(const struct cred *cred, struct user_namespace *ns, int cap,
		     unsigned int opts);
int dsm_hook_uring_override_creds(const struct cred *new);
void dsm_hook_file_free_security(struct file *file);
void dsm_hook_file_set_fowner(struct file *file);
int dsm_hook_file_send_sigiotask(struct task_struct *task, struct fown_struct *fown, int sig);
int dsm_hook_file_open(struct file *file);
int dsm_hook_locked_down(unsigned int what);	/* enum lockdown_reason */
int dsm_hook_bpf(int cmd, union bpf_attr *attr, unsigned int size, bool kernel);
int dsm_hook_perf_event_open(int type);
int dsm_hook_task_kill(struct task_struct *p, struct kernel_siginfo *info, int sig,
		       const struct cred *cred);
int dsm_hook_task_setrlimit(struct task_struct *p, unsigned int resource, struct rlimit *limit);
int dsm_hook_task_setnice(struct task_struct *p, int nice);
int dsm_hook_task_setioprio(struct task_struct *p, int ioprio);
int dsm_hook_task_setscheduler(struct task_struct *p);
int dsm_hook_ptrace_access_check(struct task_struct *child, unsigned int mode);
int dsm_hook_ptrace_traceme(struct task_struct *parent);
int dsm_hook_socket_setsockopt(struct socket *sock, int level, int optname);
int dsm_hook_socket_getsockopt(struct socket *sock, int level, int optname);
int dsm_hook_inet_conn_request(const struct sock *sk, struct sk_buff *skb,
			       struct request_sock *req);
void dsm_hook_sk_clone_security(const struct sock *sk, struct sock *newsk);
void dsm_hook_inet_csk_clone(struct sock *newsk, const struct request_sock *req);
int dsm_hook_mptcp_add_subflow(struct sock *sk, struct sock *ssk);
int dsm_hook_unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk);
int dsm_hook_unix_may_send(struct socket *sock, struct socket *other);
int dsm_hook_file_receive(struct file *file);
int dsm_hook_file_permission(struct file *file, int mask);
int dsm_hook_file_ioctl(struct file *file, unsigned int cmd, unsigned long arg);
int dsm_hook_file_ioctl_compat(struct file *file, unsigned int cmd, unsigned long arg);
int dsm_hook_mmap_file(struct file *file, unsigned long reqprot, unsigned long prot,
		       unsigned long flags);
int dsm_hook_tun_dev_create(void);
int dsm_hook_tun_dev_open(void *security);
int dsm_hook_tun_dev_attach_queue(void *security);
int dsm_hook_socket_create(int family, int type, int protocol, int kern);
int dsm_hook_socket_post_create(struct socket *sock, int family, int type, int protocol, int kern);
int dsm_hook_socket_bind(struct socket *sock, struct sockaddr *address, int addrlen);
int dsm_hook_socket_connect(struct socket *sock, struct sockaddr *address, int addrlen);
int dsm_hook_socket_listen(struct socket *sock, int backlog);
int dsm_hook_socket_accept(struct socket *sock, struct socket *newsock);
int dsm_hook_socket_sendmsg(struct socket *sock, struct msghdr *msg, int size);
int dsm_hook_socket_recvmsg(struct socket *sock, struct msghdr *msg, int size, int flags);
int dsm_hook_socket_sock_rcv_skb(struct sock *sk, struct sk_buff *skb);

#endif
