// SPDX-License-Identifier: GPL-2.0
/*
 * Ends established TCP connections, and keeps the module loaded while a policy says so. Which
 * connections are to end, and what a policy says, is Rust's matter.
 *
 * A connection is ended under its socket's lock, which a process may hold for as long as it likes
 * (a system call that copies from memory of the process' own making). So each is ended by a worker,
 * and who asked waits for a while only: its packets are refused in any case.
 */
#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/refcount.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <net/inet_sock.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "shim.h"

/* What one change of the state ends. */
struct dsm_sweep {
	refcount_t refs;	/* the sweeper, and each end that is still to come */
	struct completion done;	/* all of them have come */
	atomic_t pending;	/* the same number, to tell the last end from the sweeper */
};

struct end {
	struct work_struct work;
	struct dsm_sweep *sweep;
	struct sock *sk;
};

static struct workqueue_struct *workers;

int dsm_sweep_init(void)
{
	workers = alloc_workqueue("dsm-abort", WQ_UNBOUND, 0);
	return workers ? 0 : -ENOMEM;
}

/* Waits for what is under way; nobody sweeps any more. */
void dsm_sweep_exit(void)
{
	destroy_workqueue(workers);
}

static void put(struct dsm_sweep *sweep)
{
	if (refcount_dec_and_test(&sweep->refs))
		kfree(sweep);
}

static void end_now(struct sock *sk)
{
	if (!tcp_abort(sk, ECONNABORTED))
		dsm_count(DSM_COUNT_FLOWS_ABORTED);
	sock_put(sk);
}

static void end_later(struct work_struct *work)
{
	struct end *end = container_of(work, struct end, work);

	end_now(end->sk);
	if (atomic_dec_and_test(&end->sweep->pending))
		complete(&end->sweep->done);
	put(end->sweep);
	kfree(end);
}

/* NULL without memory: the ends are then waited for one by one. */
struct dsm_sweep *dsm_sweep_begin(void)
{
	struct dsm_sweep *sweep = kzalloc(sizeof(*sweep), GFP_KERNEL);

	if (sweep) {
		refcount_set(&sweep->refs, 1);
		atomic_set(&sweep->pending, 1);
		init_completion(&sweep->done);
	}
	return sweep;
}

/* Ends a TCP connection, and takes over the caller's reference on its socket. Sleeps. */
void dsm_sweep_abort(struct dsm_sweep *sweep, struct sock *sk)
{
	struct end *end = sweep ? kzalloc(sizeof(*end), GFP_KERNEL) : NULL;

	if (!end) {
		end_now(sk);
		return;
	}
	end->sk = sk;
	end->sweep = sweep;
	refcount_inc(&sweep->refs);
	atomic_inc(&sweep->pending);
	INIT_WORK(&end->work, end_later);
	queue_work(workers, &end->work);
}

/* Waits until everything has ended, but not for ever; false if some of it is still to come. */
bool dsm_sweep_end(struct dsm_sweep *sweep)
{
	bool done;

	if (!sweep)
		return true;
	done = atomic_dec_and_test(&sweep->pending) ||
	       wait_for_completion_timeout(&sweep->done, 2 * HZ);
	put(sweep);
	return done;
}

/*
 * The ends of an established TCP connection. False if the socket is none: its first packets are
 * still to be judged, or it is over. Fields may be those of a moment ago.
 */
bool dsm_flow_of(const struct sock *sk, struct dsm_flow *flow)
{
	const struct inet_sock *inet = inet_sk(sk);

	if (sk->sk_type != SOCK_STREAM || sk->sk_protocol != IPPROTO_TCP ||
	    (1 << inet_sk_state_load(sk)) & (TCPF_CLOSE | TCPF_LISTEN | TCPF_SYN_SENT | TCPF_TIME_WAIT))
		return false;
	flow->sport = READ_ONCE(inet->inet_num);
	flow->dport = be16_to_cpu(READ_ONCE(inet->inet_dport));
	flow->ipv4 = true;
#if IS_ENABLED(CONFIG_IPV6)
	flow->ipv4 = sk->sk_family == AF_INET || ipv6_addr_v4mapped(&sk->sk_v6_daddr);
	if (!flow->ipv4) {
		memcpy(flow->saddr, &sk->sk_v6_rcv_saddr, sizeof(flow->saddr));
		memcpy(flow->daddr, &sk->sk_v6_daddr, sizeof(flow->daddr));
		return true;
	}
#endif
	memcpy(flow->saddr, &inet->inet_rcv_saddr, sizeof(inet->inet_rcv_saddr));
	memcpy(flow->daddr, &inet->inet_daddr, sizeof(inet->inet_daddr));
	return true;
}

/* Where a look at a process' descriptors goes on, and what it has found. */
struct found {
	struct dsm_task_socks *out;
};

/* A TCP socket that nobody else holds: what is ended is then nobody else's. */
static int on_fd(const void *p, struct file *file, unsigned int fd)
{
	const struct found *found = p;
	struct dsm_task_socks *out = found->out;
	struct socket *socket = sock_from_file(file);
	const struct sock *sk = socket ? dsm_sock_mediated(socket->sk) : NULL;

	if (!sk || sk->sk_protocol != IPPROTO_TCP || file_count(file) != 1)
		return 0;
	out->sock[out->n++] = dsm_sock_get(sk);
	if (!out->sock[out->n - 1])
		out->n--;
	out->next = fd + 1;
	return out->n == ARRAY_SIZE(out->sock);
}

/*
 * The next TCP sockets of a process, from descriptor out->next on, each with a reference. False
 * if these are the last.
 */
bool dsm_task_socks(const struct task_struct *ctask, struct dsm_task_socks *out)
{
	struct task_struct *task = (struct task_struct *)ctask;
	struct found found = { .out = out };
	int full = 0;

	out->n = 0;
	task_lock(task);
	if (task->files)
		full = iterate_fd(task->files, out->next, on_fd, &found);
	task_unlock(task);
	return full;
}

/* Whether the module may not be unloaded now; false if it is already on its way. */
bool dsm_stay(void)
{
	return try_module_get(THIS_MODULE);
}

void dsm_stay_no_longer(void)
{
	module_put(THIS_MODULE);
}
