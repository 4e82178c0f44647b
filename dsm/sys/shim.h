/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C shim as Rust sees it: what static calls, static keys, sk_buff and netfilter need and
 * Rust cannot reach. Read by bindgen and by every C file of the module, so it names kernel
 * types only as opaque ones and must never include a kernel header beyond linux/types.h.
 */
#ifndef DSM_SYS_SHIM_H
#define DSM_SYS_SHIM_H

#include <linux/types.h>

#include "genl.h"
#include "hooks.h"
#include "mem.h"
#include "net.h"
#include "revoke.h"

/* params.c: the module's parameters, fixed from insmod on. */
extern bool dsm_param_hooks_only;
extern bool dsm_param_enrolled;
extern char *dsm_param_anchor;
extern bool dsm_param_unload;
extern unsigned int dsm_param_sockets;

/* slots.c: vacant LSM slots, claimed and given back. */
int dsm_slots_find(const char **missing);
void dsm_slots_claim(void);
void dsm_slots_disable_receive(void);
void dsm_slots_disable(void);
void dsm_slots_quiesce(void);
void dsm_slots_release(void);
unsigned int dsm_slots_count(void);
const char *dsm_slots_name(unsigned int i);
unsigned int dsm_slots_index(unsigned int i);

#endif
