// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// The workload of the kernel benchmark: one process that holds both ends of each loopback connection and
// counts the instructions of one operation. It must run under QEMU's -icount with shift=0, where the time
// stamp counter advances by one an instruction; it checks that against CLOCK_MONOTONIC and fails if not.
// It must never know of DSI: it is the same program in every configuration.
//
// usage: workload measure            every operation; one line "op NAME INSTRUCTIONS LOWEST HIGHEST TIMES" each
//        workload reach PORT FROM USER   exit 0 if a datagram to 127.0.0.1:PORT, sent by this user from this local
//                                    address, comes back; 3 if nothing arrives, or it may not be sent
//        workload echo PORT          answers datagrams at 127.0.0.1:PORT until it is killed
//        workload hold N             opens N/2 TCP connections to itself, prints "ready" and keeps both ends of each
//        workload hold_udp N         as hold, with N UDP sockets, each of which has sent a datagram
//        workload hold_processes N   as hold, with N processes
//        workload exec LEFT ALL T0   inner step of the execve operation
// With dsi_bench_sockets=N in its environment it starts "hold N" first, between sockets of its own, and measures two
// operations more: there and back through sockets that are older than those N.
// With dsi_bench_only=NAME in its environment it measures that operation alone.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum { PAYLOAD = 64, CLIENTS = 16, BATCHES = 21, BULK = 64 * 1024, PORT_A = 4001, PORT_B = 4002, PORT_TCP = 4003, PORT_HOLD = 4005, PORT_OLD = 4006 };

static const char *self;
static const char *only; // name of the one operation to measure; NULL: all

static void die(const char *what)
{
	printf("fault %s: %s\n", what, strerror(errno));
	exit(2);
}

#define must(call) ({ typeof(call) r_ = (call); if (r_ < 0) die(#call); r_; })
#define exactly(call, n) do { if ((call) != (n)) die(#call " moved another number of bytes"); } while (0)

static uint64_t monotonic(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

// The kernel's own clock must have seen about as many nanoseconds as the counter has seen instructions.
static void check_clock(void)
{
	volatile uint64_t spin = 0;
	uint64_t m = monotonic(), c = __rdtsc();
	double ratio;

	for (int i = 0; i < 20000000; i++)
		spin += i;
	c = __rdtsc() - c;
	m = monotonic() - m;
	ratio = (double)c / (double)m;
	if (ratio < 0.995 || ratio > 1.005) {
		printf("fault the counter ran %.4f times as fast as CLOCK_MONOTONIC: is this -icount shift=0?\n", ratio);
		exit(2);
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

// Where a profiler (profile.c) begins and ends to count; they do nothing themselves.
__attribute__((noinline)) void profile_begin(void) { __asm__ volatile(""); }
__attribute__((noinline)) void profile_end(void) { __asm__ volatile(""); }

// Runs BATCHES batches of `n` and reports the median batch, divided by `n * units`: the timer tick and
// other work of the kernel falls into some batches and not into others.
static void measure(const char *name, int n, double units, void (*op)(void))
{
	double batch[BATCHES];

	if (only && strcmp(only, name) != 0)
		return;
	for (int i = 0; i < n; i++)
		op();
	profile_begin();
	for (int b = 0; b < BATCHES; b++) {
		uint64_t t = __rdtsc();

		for (int i = 0; i < n; i++)
			op();
		batch[b] = (double)(__rdtsc() - t) / n / units;
	}
	profile_end();
	qsort(batch, BATCHES, sizeof(batch[0]), by_value);
	printf("op %s %.1f %.1f %.1f %.0f\n", name, batch[BATCHES / 2], batch[0], batch[BATCHES - 1], BATCHES * n * units);
}

static struct sockaddr_in local(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static int bound(int type, int port)
{
	struct sockaddr_in a = local(port);
	int one = 1, s = must(socket(AF_INET, type, 0));

	must(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	must(bind(s, (struct sockaddr *)&a, sizeof(a)));
	return s;
}

static void loopback_up(void)
{
	struct ifreq r = { .ifr_name = "lo" };
	int s = must(socket(AF_INET, SOCK_DGRAM, 0));

	must(ioctl(s, SIOCGIFFLAGS, &r));
	if (!(r.ifr_flags & IFF_UP)) {
		r.ifr_flags |= IFF_UP;
		must(ioctl(s, SIOCSIFFLAGS, &r));
	}
	close(s);
}

static char buffer[BULK];
static int a, b;
static struct sockaddr_in addr_a, addr_b;

static void udp_connected(void)
{
	exactly(send(a, buffer, PAYLOAD, 0), PAYLOAD);
	exactly(recv(b, buffer, PAYLOAD, 0), PAYLOAD);
	exactly(send(b, buffer, PAYLOAD, 0), PAYLOAD);
	exactly(recv(a, buffer, PAYLOAD, 0), PAYLOAD);
}

static void udp_unconnected(void)
{
	struct sockaddr_in from;
	socklen_t len = sizeof(from);

	exactly(sendto(a, buffer, PAYLOAD, 0, (struct sockaddr *)&addr_b, sizeof(addr_b)), PAYLOAD);
	exactly(recvfrom(b, buffer, PAYLOAD, 0, (struct sockaddr *)&from, &len), PAYLOAD);
	exactly(sendto(b, buffer, PAYLOAD, 0, (struct sockaddr *)&from, len), PAYLOAD);
	exactly(recvfrom(a, buffer, PAYLOAD, 0, (struct sockaddr *)&from, &len), PAYLOAD);
}

// A server that never hears the same client twice in a row: what is remembered of the last packet is of no use.
static int clients[CLIENTS];

static void udp_fan_in(void)
{
	static int turn;
	struct sockaddr_in from;
	socklen_t len = sizeof(from);

	a = clients[turn++ % CLIENTS];
	exactly(send(a, buffer, PAYLOAD, 0), PAYLOAD);
	exactly(recvfrom(b, buffer, PAYLOAD, 0, (struct sockaddr *)&from, &len), PAYLOAD);
	exactly(sendto(b, buffer, PAYLOAD, 0, (struct sockaddr *)&from, len), PAYLOAD);
	exactly(recv(a, buffer, PAYLOAD, 0), PAYLOAD);
}

static void tcp_there_and_back(void)
{
	udp_connected();
}

static void tcp_bulk(void)
{
	exactly(send(a, buffer, BULK, 0), BULK);
	exactly(recv(b, buffer, BULK, MSG_WAITALL), BULK);
}

static int listener;

static void tcp_open_close(void)
{
	struct sockaddr_in to = local(PORT_TCP);
	int c = must(socket(AF_INET, SOCK_STREAM, 0)), s;

	must(connect(c, (struct sockaddr *)&to, sizeof(to)));
	s = must(accept(listener, NULL, NULL));
	close(c);
	close(s);
}

static void fork_exit(void)
{
	int status;
	pid_t p = must(fork());

	if (p == 0)
		_exit(0);
	must(waitpid(p, &status, 0));
}

static void exec_step(int left, const char *all, const char *t0)
{
	char text[16];

	if (left == 0)
		return;
	snprintf(text, sizeof(text), "%d", left - 1);
	execl(self, self, "exec", text, all, t0, (char *)NULL);
	die("execl");
}

// A chain of programs, each of which replaces itself: start of the program and page faults included.
static void measure_exec(void)
{
	enum { CHAIN = 200 };
	char all[16], t0[32];
	int status;
	pid_t p;

	if (only && strcmp(only, "execve") != 0)
		return;
	fflush(stdout);
	profile_begin();
	p = must(fork());
	if (p == 0) {
		snprintf(all, sizeof(all), "%d", CHAIN);
		snprintf(t0, sizeof(t0), "%llu", (unsigned long long)__rdtsc());
		exec_step(CHAIN, all, t0);
	}
	must(waitpid(p, &status, 0));
	profile_end();
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		die("a program of the execve chain failed");
}

// A connected pair of UDP sockets at two ports from `port` on, and of TCP sockets through the port after them.
static void pairs(int port, int udp[2], int tcp[2])
{
	struct sockaddr_in to[3] = { local(port), local(port + 1), local(port + 2) };
	int one = 1, l = bound(SOCK_STREAM, port + 2);

	for (int i = 0; i < 2; i++)
		udp[i] = bound(SOCK_DGRAM, port + i);
	for (int i = 0; i < 2; i++)
		must(connect(udp[i], (struct sockaddr *)&to[1 - i], sizeof(to[0])));
	must(listen(l, 1));
	tcp[0] = must(socket(AF_INET, SOCK_STREAM, 0));
	must(connect(tcp[0], (struct sockaddr *)&to[2], sizeof(to[2])));
	tcp[1] = must(accept(l, NULL, NULL));
	for (int i = 0; i < 2; i++)
		must(setsockopt(tcp[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
	close(l);
}

// Another process that holds so many sockets; it stays until the machine is switched off.
static void start_holder(const char *sockets)
{
	char line[64];
	int ends[2];
	FILE *says;
	pid_t p;

	fflush(stdout);
	must(pipe(ends));
	p = must(fork());
	if (p == 0) {
		must(dup2(ends[1], STDOUT_FILENO));
		close(ends[0]);
		close(ends[1]);
		execl(self, self, "hold", sockets, (char *)NULL);
		die("execl");
	}
	close(ends[1]);
	says = fdopen(ends[0], "r");
	if (!says || !fgets(line, sizeof(line), says) || strcmp(line, "ready\n") != 0)
		die("another process was to hold sockets");
	fclose(says);
	printf("fact sockets %s of another process, connected\n", sockets);
}

static void measure_all(void)
{
	int one = 1, first, old_udp[2], old_tcp[2];
	const char *sockets = getenv("dsi_bench_sockets");
	struct sockaddr_in to;

	check_clock();
	if (sockets) {
		pairs(PORT_OLD, old_udp, old_tcp);
		start_holder(sockets);
		a = old_udp[0];
		b = old_udp[1];
		measure("udp_old", 1000, 1, udp_connected);
		a = old_tcp[0];
		b = old_tcp[1];
		measure("tcp_old", 1000, 1, tcp_there_and_back);
	}

	a = first = bound(SOCK_DGRAM, PORT_A);
	b = bound(SOCK_DGRAM, PORT_B);
	addr_b = local(PORT_B);
	measure("udp_unconn", 1000, 1, udp_unconnected);
	for (int i = 0; i < CLIENTS; i++) {
		clients[i] = must(socket(AF_INET, SOCK_DGRAM, 0));
		must(connect(clients[i], (struct sockaddr *)&addr_b, sizeof(addr_b)));
	}
	measure("udp_fan_in", 1000, 1, udp_fan_in);
	for (int i = 0; i < CLIENTS; i++)
		close(clients[i]);
	a = first;
	addr_a = local(PORT_A);
	must(connect(a, (struct sockaddr *)&addr_b, sizeof(addr_b)));
	must(connect(b, (struct sockaddr *)&addr_a, sizeof(addr_a)));
	measure("udp_conn", 1000, 1, udp_connected);
	close(a);
	close(b);

	listener = bound(SOCK_STREAM, PORT_TCP);
	must(listen(listener, 16));
	to = local(PORT_TCP);
	a = must(socket(AF_INET, SOCK_STREAM, 0));
	must(connect(a, (struct sockaddr *)&to, sizeof(to)));
	b = must(accept(listener, NULL, NULL));
	must(setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
	must(setsockopt(b, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
	measure("tcp_pp", 1000, 1, tcp_there_and_back);
	measure("tcp_bulk_kib", 200, BULK / 1024, tcp_bulk);
	close(a);
	close(b);
	measure("tcp_crc", 100, 1, tcp_open_close);
	close(listener);

	measure("fork_exit", 200, 1, fork_exit);
	measure_exec();
}

static __attribute__((noreturn)) void echo(int port)
{
	struct sockaddr_in from;
	int s = bound(SOCK_DGRAM, port);

	printf("ready\n");
	fflush(stdout);
	for (;;) {
		socklen_t len = sizeof(from);
		ssize_t n = must(recvfrom(s, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &len));

		must(sendto(s, buffer, n, 0, (struct sockaddr *)&from, len));
	}
}

static __attribute__((noreturn)) void stay(void)
{
	printf("ready\n");
	fflush(stdout);
	for (;;)
		pause();
}

// Connections that are open beside the workload and carry nothing. Each client has an address and port of its own choice,
// so that there are enough of them; many clients at one address have different ports.
static __attribute__((noreturn)) void hold(int sockets)
{
	enum { PORTS = 20000, FIRST = 10000 };
	struct sockaddr_in to = local(PORT_HOLD);
	int one = 1, l = bound(SOCK_STREAM, PORT_HOLD);

	must(listen(l, 16));
	for (int i = 0; i < sockets / 2; i++) {
		struct sockaddr_in from = local(FIRST + i % PORTS);
		int c = must(socket(AF_INET, SOCK_STREAM, 0));

		from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + i / PORTS);
		must(setsockopt(c, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
		must(bind(c, (struct sockaddr *)&from, sizeof(from)));
		must(connect(c, (struct sockaddr *)&to, sizeof(to)));
		must(accept(l, NULL, NULL));
	}
	stay();
}

static __attribute__((noreturn)) void hold_udp(int sockets)
{
	struct sockaddr_in to = local(PORT_HOLD);
	int sink = bound(SOCK_DGRAM, PORT_HOLD);

	for (int i = 0; i < sockets; i++) {
		int s = must(socket(AF_INET, SOCK_DGRAM, 0));

		exactly(sendto(s, buffer, PAYLOAD, 0, (struct sockaddr *)&to, sizeof(to)), PAYLOAD);
		exactly(recv(sink, buffer, PAYLOAD, 0), PAYLOAD);
	}
	stay();
}

static __attribute__((noreturn)) void hold_processes(int processes)
{
	for (int i = 0; i < processes; i++) {
		pid_t p = must(fork());

		if (p == 0) {
			must(prctl(PR_SET_PDEATHSIG, SIGKILL));
			for (;;)
				pause();
		}
	}
	stay();
}

static int reach(int port, const char *from, int user)
{
	struct sockaddr_in to = local(port), here = local(0);
	struct pollfd p = { .events = POLLIN };
	int s;

	must(setuid(user));
	p.fd = s = socket(AF_INET, SOCK_DGRAM, 0);
	if (s < 0 && errno == EPERM)
		return 3;
	must(s);
	here.sin_addr.s_addr = inet_addr(from);
	must(bind(s, (struct sockaddr *)&here, sizeof(here)));
	must(sendto(s, buffer, PAYLOAD, 0, (struct sockaddr *)&to, sizeof(to)));
	if (must(poll(&p, 1, 2000)) == 0)
		return 3;
	exactly(recv(s, buffer, PAYLOAD, 0), PAYLOAD);
	return 0;
}

int main(int argc, char **argv)
{
	self = argv[0];
	only = getenv("dsi_bench_only");
	if (argc == 5 && strcmp(argv[1], "exec") == 0) {
		int left = atoi(argv[2]);

		exec_step(left, argv[3], argv[4]);
		double each = (double)(__rdtsc() - strtoull(argv[4], NULL, 10)) / atoi(argv[3]);

		printf("op execve %.1f %.1f %.1f %s\n", each, each, each, argv[3]);
		return 0;
	}
	setvbuf(stdout, NULL, _IOFBF, 4096);
	loopback_up();
	if (argc == 2 && strcmp(argv[1], "measure") == 0) {
		measure_all();
		return 0;
	}
	if (argc == 5 && strcmp(argv[1], "reach") == 0)
		return reach(atoi(argv[2]), argv[3], atoi(argv[4]));
	if (argc == 3 && strcmp(argv[1], "echo") == 0)
		echo(atoi(argv[2]));
	if (argc == 3 && strcmp(argv[1], "hold") == 0)
		hold(atoi(argv[2]));
	if (argc == 3 && strcmp(argv[1], "hold_udp") == 0)
		hold_udp(atoi(argv[2]));
	if (argc == 3 && strcmp(argv[1], "hold_processes") == 0)
		hold_processes(atoi(argv[2]));
	fprintf(stderr, "usage: workload measure | echo PORT | hold N | hold_udp N | hold_processes N | reach PORT FROM USER\n");
	return 2;
}
