// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Which refusals have been told lately, so that one that comes again and again does not drown the others.
//!
//! The kernel asks for capabilities in the course of calls that go on without them. A refusal is therefore told by zone,
//! permission and system call: the first of each kind at once, whatever else is refused, and again in each period.

use super::{ScId, SystemPermission};
use core::sync::atomic::{AtomicU64, Ordering};

/// What has been told, by kind. A kind that takes another one's place is told once more, never kept back.
pub struct Told<const SLOTS: usize>([AtomicU64; SLOTS]);

/// Bits of a system call's number that are kept: the highest of any architecture is below 4096.
const CALL_BITS: u32 = 12;
/// Bits of what changes with the period.
const PERIOD_BITS: u32 = 16;

impl<const SLOTS: usize> Told<SLOTS> {
    /// Nothing has been told.
    pub const fn new() -> Self {
        const {
            assert!(SLOTS > 0);
            assert!(32 + 4 + CALL_BITS + PERIOD_BITS == u64::BITS);
        }
        Self([const { AtomicU64::new(0) }; SLOTS])
    }

    /// Whether to tell that a zone was refused this in a system call (none: 0) now: not, if it has been told in this
    /// period. What counts as a period, the caller says by a number that differs between them.
    pub fn is_due(
        &self,
        subject: ScId,
        permission: SystemPermission,
        call: u32,
        period: u16,
    ) -> bool {
        let call = u64::from(call & ((1 << CALL_BITS) - 1));
        let kind = u64::from(subject.0) << (4 + CALL_BITS)
            | u64::from(permission.bit().trailing_zeros()) << CALL_BITS
            | call;
        let entry = kind << PERIOD_BITS | u64::from(period);
        let slot = kind.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        match self.0.get(slot as usize % SLOTS) {
            Some(slot) => slot.swap(entry, Ordering::Relaxed) != entry,
            None => true,
        }
    }
}

impl<const SLOTS: usize> Default for Told<SLOTS> {
    fn default() -> Self {
        Self::new()
    }
}
