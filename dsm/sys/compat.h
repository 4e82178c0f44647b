/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the stock kernels that the module is built for, and nothing else: each entry
 * says from which series on the kernel has it itself. No other file may ask for a kernel's version.
 */
#ifndef DSM_SYS_COMPAT_H
#define DSM_SYS_COMPAT_H

#include <linux/magic.h>

/* 7.3: moved here from fs/configfs/mount.c. */
#ifndef CONFIGFS_MAGIC
#define CONFIGFS_MAGIC 0x62656570
#endif

#endif
