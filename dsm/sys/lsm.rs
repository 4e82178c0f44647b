// SPDX-License-Identifier: GPL-2.0

//! The claim on LSM slots as a value: found, live, given back.

use super::bindings;
use kernel::prelude::*;
use kernel::str::CStrExt;

/// Vacant slots for every hook, not claimed yet.
pub(crate) struct Found(());

/// Claimed slots: the hooks are being called.
///
/// # Invariants
///
/// Made only by [`Found::claim`].
pub(crate) struct Claimed(());

/// Sets up the shim's locks, before the first table.
pub(crate) fn prepare() {
    // SAFETY: the module's init is the only caller, and nobody takes a lock yet.
    unsafe { bindings::dsm_mem_init() };
}

/// Looks for a vacant slot for each hook; says which hook has none.
pub(crate) fn find() -> Result<Found> {
    let mut missing = core::ptr::null();
    // SAFETY: `missing` outlives the call; init is the only caller, so no slot is claimed yet.
    let ret = unsafe { bindings::dsm_slots_find(&mut missing) };
    if ret == 0 {
        return Ok(Found(()));
    }
    if missing.is_null() {
        pr_err!("the table of LSM hooks cannot be found; this kernel needs CONFIG_KPROBES and CONFIG_KALLSYMS_ALL\n");
    } else {
        // SAFETY: on -EBUSY the shim stores the name of the hook, a string constant.
        let name = unsafe { CStr::from_char_ptr(missing) };
        pr_err!("no vacant slot for the LSM hook '{name}'; boot with fewer LSMs (parameter lsm=) and load again\n");
    }
    Err(Error::from_errno(ret))
}

impl Found {
    /// Takes the slots; from here on the hooks run.
    pub(crate) fn claim(self) -> Claimed {
        // SAFETY: `find` succeeded, so each hook has its slot.
        unsafe { bindings::dsm_slots_claim() };
        Claimed(())
    }
}

/// The names of the hooks that are claimed, in their order.
pub(crate) fn names() -> impl Iterator<Item = &'static CStr> {
    // SAFETY: the count is a constant of the shim.
    let count = unsafe { bindings::dsm_slots_count() };
    (0..count).filter_map(|i| {
        // SAFETY: any index may be asked for.
        let name = unsafe { bindings::dsm_slots_name(i) };
        if name.is_null() {
            return None;
        }
        // SAFETY: not null, so a string constant of the shim.
        Some(unsafe { CStr::from_char_ptr(name) })
    })
}

/// Slots that nobody enters any more, though somebody may still be inside.
pub(crate) struct Disabled(());

impl Claimed {
    /// Ends new calls of the hook that refuses packets.
    pub(crate) fn deafen(&self) {
        // SAFETY: the slots are claimed, by the type's invariant.
        unsafe { bindings::dsm_slots_disable_receive() };
    }

    /// Ends new calls of the hooks.
    pub(crate) fn disable(self) -> Disabled {
        // SAFETY: the slots are claimed, by the type's invariant.
        unsafe { bindings::dsm_slots_disable() };
        Disabled(())
    }
}

impl Disabled {
    /// Waits for those still inside, then gives the slots back.
    pub(crate) fn release(self) {
        // SAFETY: `disable` came first. Whoever is inside without sleeping is waited for by the
        // grace periods, whoever sleeps by its count, and whoever returns from sleeping by the
        // last grace period; kfree_rcu has nothing of the module's to call, but the tables are to
        // be freed after the last of its entries.
        unsafe {
            bindings::dsm_slots_quiesce();
            bindings::dsm_slots_release();
            bindings::dsm_sleepers_wait();
            bindings::dsm_slots_quiesce();
            bindings::dsm_barrier();
        }
    }
}
