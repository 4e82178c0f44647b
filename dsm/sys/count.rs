// SPDX-License-Identifier: GPL-2.0

//! The per-CPU counters of the shim.

use super::bindings;

/// The first counter that is Rust's.
pub(crate) const C_END: u32 = bindings::DSM_COUNT_C_END;
/// A packet with a verified label came in.
pub(crate) const IN_LABELLED: u32 = bindings::DSM_COUNT_IN_LABELLED;
/// A TCP segment without a label came in, of a flow whose peer is known.
pub(crate) const IN_BARE: u32 = bindings::DSM_COUNT_IN_BARE;
/// A TCP segment left without a label.
pub(crate) const OUT_BARE: u32 = bindings::DSM_COUNT_OUT_BARE;
/// How many there can be.
pub(crate) const MOST: u32 = bindings::DSM_COUNTERS;

/// Adds one. Any context.
#[inline(always)]
pub(crate) fn add(counter: u32) {
    // SAFETY: the shim ignores counters that there are not.
    unsafe { bindings::dsm_count(counter) };
}

/// The processor that runs this: of use where none other can take over. Any context.
pub(crate) fn processor() -> u32 {
    // SAFETY: it reads a number.
    unsafe { bindings::dsm_processor() }
}

/// The sum over all CPUs.
pub(crate) fn sum(counter: u32) -> u64 {
    // SAFETY: as above.
    unsafe { bindings::dsm_count_sum(counter) }
}
