// SPDX-License-Identifier: GPL-2.0

//! Everything unsafe: the kernel's pointers go in, safe types come out. Nothing here decides
//! whether anything is allowed.

/// The C shim, as bindgen reads `shim.h`.
#[expect(
    non_camel_case_types,
    dead_code,
    unreachable_pub,
    reason = "C's names, and a header's worth of them"
)]
pub(crate) mod bindings {
    include!(env!("DSM_BINDINGS"));
}
mod entry;
pub(crate) mod lsm;
pub(crate) mod params;
