// SPDX-License-Identifier: GPL-2.0

//! The module's parameters, read-only after insmod.

use super::bindings;
use kernel::str::{CStr, CStrExt};

/// Hooks are claimed and do nothing: the benchmark's middle column.
pub(crate) fn hooks_only() -> bool {
    // SAFETY: written by insmod before the module's init, never afterwards (mode 0444).
    unsafe { bindings::dsm_param_hooks_only }
}

/// Without a policy, all but management is denied.
pub(crate) fn enrolled() -> bool {
    // SAFETY: as in `hooks_only`.
    unsafe { bindings::dsm_param_enrolled }
}

/// The module may be unloaded whatever the policy in force says.
pub(crate) fn unload() -> bool {
    // SAFETY: as in `hooks_only`.
    unsafe { bindings::dsm_param_unload }
}

/// How many sockets have state, at most, when another one is made.
pub(crate) fn sockets() -> u32 {
    // SAFETY: as in `hooks_only`.
    unsafe { bindings::dsm_param_sockets }
}

/// The path of the policy signers' certificate, if one was given.
pub(crate) fn anchor() -> Option<&'static CStr> {
    // SAFETY: as in `hooks_only`.
    let path = unsafe { bindings::dsm_param_anchor };
    if path.is_null() {
        return None;
    }
    // SAFETY: a charp parameter is a NUL-terminated string that lives as long as the module.
    Some(unsafe { CStr::from_char_ptr(path) })
}
