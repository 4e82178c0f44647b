// SPDX-License-Identifier: GPL-2.0-or-later
//
// A plugin of QEMU's TCG that counts executed instructions by address, between two marks in the workload
// (the functions profile_begin and profile_end of workload.c, whose addresses it is given). It needs no
// header of QEMU: Debian 12 does not ship it, and the few functions used here have been the same since 5.1.
// It observes only; with it the guest's count of instructions is the same as without.
//
// usage: -plugin libprofile.so,begin=0xADDRESS,end=0xADDRESS,out=FILE
// FILE gets a line "ADDRESS INSTRUCTIONS EXECUTIONS" for each translated block that ran.

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info;
enum { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*exec_cb)(unsigned int vcpu, void *data);
typedef void (*exit_cb)(qemu_plugin_id_t, void *data);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, exec_cb, int flags, void *data);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, exit_cb, void *data);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

#define EXPORT __attribute__((visibility("default")))

// Debian 12's QEMU speaks version 1 of the interface, Debian 13's takes 2 and later.
#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif
EXPORT int qemu_plugin_version = PLUGIN_VERSION;

struct block {
	struct block *next;
	uint64_t address, instructions, executions;
};

static struct block *blocks;
static uint64_t begin, end;
static const char *out;
static bool counting;

static void ran(unsigned int vcpu, void *data)
{
	struct block *block = data;

	(void)vcpu;
	if (block->address == begin)
		counting = true;
	else if (block->address == end)
		counting = false;
	block->executions += counting;
}

// A block that is translated again gets a new record: the lines of one address add up.
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	struct block *block = malloc(sizeof(*block));

	(void)id;
	if (!block)
		abort();
	*block = (struct block){ blocks, qemu_plugin_tb_vaddr(tb), qemu_plugin_tb_n_insns(tb), 0 };
	blocks = block;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, ran, QEMU_PLUGIN_CB_NO_REGS, block);
}

static void finished(qemu_plugin_id_t id, void *data)
{
	FILE *file = fopen(out, "w");

	(void)id;
	(void)data;
	if (!file) {
		perror(out);
		return;
	}
	for (const struct block *b = blocks; b; b = b->next)
		if (b->executions)
			fprintf(file, "%016" PRIx64 " %" PRIu64 " %" PRIu64 "\n", b->address,
				b->instructions * b->executions, b->executions);
	if (fclose(file))
		perror(out);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "begin=", 6))
			begin = strtoull(argv[i] + 6, NULL, 0);
		else if (!strncmp(argv[i], "end=", 4))
			end = strtoull(argv[i] + 4, NULL, 0);
		else if (!strncmp(argv[i], "out=", 4))
			out = strdup(argv[i] + 4);
	}
	if (!begin || !end || !out) {
		fprintf(stderr, "profile: begin=, end= and out= are needed\n");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, finished, NULL);
	return 0;
}
