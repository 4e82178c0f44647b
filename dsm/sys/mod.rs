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
pub(crate) mod addrs;
pub(crate) mod audit;
pub(crate) mod cms;
pub(crate) mod count;
mod entry;
pub(crate) mod errors;
pub(crate) mod genl;
pub(crate) mod lock;
pub(crate) mod lsm;
pub(crate) mod net;
pub(crate) mod params;
pub(crate) mod prf;
pub(crate) mod ptrmap;
pub(crate) mod rcu;
pub(crate) mod revoke;
pub(crate) mod secret;
pub(crate) mod seqcell;
pub(crate) mod sockets;
mod system;
pub(crate) mod task;
