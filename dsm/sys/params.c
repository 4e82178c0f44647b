// SPDX-License-Identifier: GPL-2.0
/*
 * The parameters of the module. Set once by insmod, read-only afterwards; nothing here may
 * become writable at run time, or whoever can write to sysfs could open an enrolled node.
 */
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "shim.h"

bool dsm_param_hooks_only;
module_param_named(hooks_only, dsm_param_hooks_only, bool, 0444);
MODULE_PARM_DESC(hooks_only, "claim the hooks and let everything pass (for measuring)");

bool dsm_param_enrolled;
module_param_named(enrolled, dsm_param_enrolled, bool, 0444);
MODULE_PARM_DESC(enrolled, "deny all but management until a policy is installed");

char *dsm_param_anchor;
module_param_named(anchor, dsm_param_anchor, charp, 0444);
MODULE_PARM_DESC(anchor, "path of the policy signers' certificate (DER)");

bool dsm_param_unload;
module_param_named(unload, dsm_param_unload, bool, 0444);
MODULE_PARM_DESC(unload, "may be unloaded whatever the policy in force says");

unsigned int dsm_param_sockets = 1 << 20;
module_param_named(sockets, dsm_param_sockets, uint, 0444);
MODULE_PARM_DESC(sockets, "sockets that state is kept of at most; further ones are not made");
