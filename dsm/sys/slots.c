// SPDX-License-Identifier: GPL-2.0
/*
 * Claims vacant LSM slots and gives them back. A slot is a static call behind a static key; one
 * that no LSM of this boot filled stays patchable for ever. Only vacant slots are touched, only
 * hooks that security.c calls through call_int_hook/call_void_hook are in the list, and the
 * kernel's table, which is read-only after boot, is never written.
 */
#include <linux/jump_label.h>
#include <linux/kprobes.h>
#include <linux/lsm_hooks.h>
#include <linux/rcupdate.h>
#include <linux/static_call.h>

#include "shim.h"

struct dsm_slot {
	const char *name;
	size_t offset;			/* of the hook's slots in the kernel's table */
	void *entry;
	struct lsm_static_call *claimed;
	unsigned int index;		/* of the claimed one */
};

#define DSM_SLOT(NAME)							\
	{								\
		.name = #NAME,						\
		.offset = offsetof(struct lsm_static_calls_table, NAME), \
		.entry = dsm_hook_##NAME,				\
	},

static struct dsm_slot dsm_slots[] = { DSM_HOOKS(DSM_SLOT) };

/* A hook whose prototype differs from the kernel's does not build. */
#define DSM_CHECK(NAME)							\
	static_assert(__same_type(&dsm_hook_##NAME,			\
				  ((union security_list_options *)NULL)->NAME));
DSM_HOOKS(DSM_CHECK)

/*
 * kallsyms_lookup_name is not exported; a kprobe tells where it is. Where the kernel has IBT the
 * probe sits behind the ENDBR, which an indirect call may not reach: the static call is a direct
 * branch.
 */
static unsigned long dsm_no_lookup(const char *name)
{
	return 0;
}
DEFINE_STATIC_CALL(dsm_lookup, dsm_no_lookup);

static struct lsm_static_calls_table *dsm_find_table(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	struct lsm_static_calls_table *table;

	if (register_kprobe(&probe))
		return NULL;
	static_call_update(dsm_lookup, (unsigned long (*)(const char *))probe.addr);
	unregister_kprobe(&probe);
	table = (void *)static_call(dsm_lookup)("static_calls_table");
	static_call_update(dsm_lookup, &dsm_no_lookup);
	return table;
}

/*
 * Finds a vacant slot for each hook. -ENOENT: the kernel's table cannot be found. -EBUSY: a hook
 * has no vacant slot, and *missing names it. Nothing is claimed yet.
 */
int dsm_slots_find(const char **missing)
{
	struct lsm_static_calls_table *table = dsm_find_table();
	unsigned int i, j;

	*missing = NULL;
	if (!table)
		return -ENOENT;
	for (i = 0; i < ARRAY_SIZE(dsm_slots); i++) {
		struct lsm_static_call *calls = (void *)table + dsm_slots[i].offset;

		dsm_slots[i].claimed = NULL;
		for (j = 0; j < MAX_LSM_COUNT && !dsm_slots[i].claimed; j++)
			if (!calls[j].hl && !static_key_enabled(&calls[j].active->key) &&
			    !READ_ONCE(calls[j].key->func))
				dsm_slots[i].claimed = &calls[j];
		if (!dsm_slots[i].claimed) {
			*missing = dsm_slots[i].name;
			return -EBUSY;
		}
		dsm_slots[i].index = dsm_slots[i].claimed - calls;
	}
	return 0;
}

/* What a hook does when the module was loaded to measure the hooks alone. */
static int dsm_idle(void)
{
	return 0;
}

/* Takes the slots that dsm_slots_find chose, in the order of the list. */
void dsm_slots_claim(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dsm_slots); i++) {
		struct lsm_static_call *slot = dsm_slots[i].claimed;

		__static_call_update(slot->key, slot->trampoline,
				     dsm_param_hooks_only ? (void *)dsm_idle :
							    dsm_slots[i].entry);
		static_key_enable(&slot->active->key);
	}
}

/*
 * No new call enters the receive hook after the first of these, or any other after the second.
 * The static calls stay: a task may be between the branch and the call until the next grace
 * period.
 */
void dsm_slots_disable_receive(void)
{
	static_key_disable(&dsm_slots[ARRAY_SIZE(dsm_slots) - 1].claimed->active->key);
}

void dsm_slots_disable(void)
{
	unsigned int i;

	for (i = ARRAY_SIZE(dsm_slots); i--;)
		static_key_disable(&dsm_slots[i].claimed->active->key);
}

/*
 * Waits until nobody is inside of a hook that does not sleep, or between its branch and its call.
 * 
 */
void dsm_slots_quiesce(void)
{
	synchronize_rcu();
	synchronize_rcu_tasks();
}

/* Gives the slots back; owes: dsm_slots_disable and dsm_slots_quiesce. */
void dsm_slots_release(void)
{
	unsigned int i;

	for (i = ARRAY_SIZE(dsm_slots); i--;) {
		struct lsm_static_call *slot = dsm_slots[i].claimed;

		__static_call_update(slot->key, slot->trampoline, NULL);
		dsm_slots[i].claimed = NULL;
	}
}

unsigned int dsm_slots_count(void)
{
	return ARRAY_SIZE(dsm_slots);
}

const char *dsm_slots_name(unsigned int i)
{
	return i < ARRAY_SIZE(dsm_slots) ? dsm_slots[i].name : NULL;
}

/* Which of the hook's slots is ours. */
unsigned int dsm_slots_index(unsigned int i)
{
	return i < ARRAY_SIZE(dsm_slots) ? dsm_slots[i].index : 0;
}
