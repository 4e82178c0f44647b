// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// The workload of the kernel benchmark: one process that holds both ends of each loopback connection and
// counts the instructions of one operation. It must run under QEMU's -icount with shift=0, where the time
// stamp counter advances by one an instruction; it checks that against CLOCK_MONOTONIC and fails if not.
// It must never know of DSI: it is the same program in every configuration.
//
// usage: workload measure            every operation; one line "op NAME INSTRUCTIONS LOWEST HIGHEST TIMES" each
//        workload reach PORT         exit 0 if a datagram to 127.0.0.1:PORT comes back, 3 if nothing arrives
//        workload echo PORT          answers datagrams at 127.0.0.1:PORT until it is killed
//        workload exec LEFT ALL T0   inner step of the execve operation
// With dsi_bench_only=NAME in its environment it measures that operation alone.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum { PAYLOAD = 64, CLIENTS = 16, BATCHES = 21, BULK = 64 * 1024, PORT_A = 4001, PORT_B = 4002, PORT_TCP = 4003 };

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

static void measure_all(void)
{
	int one = 1, first;
	struct sockaddr_in to;

	check_clock();

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

static int reach(int port)
{
	struct sockaddr_in to = local(port);
	int s = must(socket(AF_INET, SOCK_DGRAM, 0));
	struct pollfd p = { .fd = s, .events = POLLIN };

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
	if (argc == 3 && strcmp(argv[1], "reach") == 0)
		return reach(atoi(argv[2]));
	if (argc == 3 && strcmp(argv[1], "echo") == 0)
		echo(atoi(argv[2]));
	fprintf(stderr, "usage: workload measure | echo PORT | reach PORT\n");
	return 2;
}
