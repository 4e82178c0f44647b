// SPDX-License-Identifier: GPL-2.0

//! The locks that commands take: what each guards, and in which order. The packet path takes none.
//!
//! Order: [`INSTALL`] before [`NODES`]; [`TRANSFERS`] alone. The kernel's rtnl may be held when
//! [`NODES`] is taken, so it must never be taken under one of these.

use crate::netlink::transfer::Transfers;
use crate::state::nodes::Map;
use crate::sys::revoke::Stay;
use core::sync::atomic::{AtomicBool, Ordering};
use kernel::prelude::*;

kernel::sync::global_lock! {
    /// Node map, identity and keys; none while the module is not set up.
    // SAFETY: `init` runs before any command, notifier or hook can.
    pub(crate) unsafe(uninit) static NODES: Mutex<Option<Map>> = None;
}

kernel::sync::global_lock! {
    /// Held from the comparison with the policy in force to the swap; what keeps the module loaded
    /// while that policy is.
    // SAFETY: as for `NODES`.
    pub(crate) unsafe(uninit) static INSTALL: Mutex<Option<Stay>> = None;
}

kernel::sync::global_lock! {
    /// Images on their way in.
    // SAFETY: as for `NODES`.
    pub(crate) unsafe(uninit) static TRANSFERS: Mutex<Transfers> = Transfers::none();
}

/// Makes the locks usable. Only the first call does anything.
pub(crate) fn init() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: once, by the swap; and the module's init is the only caller.
    unsafe {
        NODES.init();
        INSTALL.init();
        TRANSFERS.init();
    }
}
