// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Which refusals have been told lately, so that one that comes again and again does not drown the others.
//!
//! The kernel asks for capabilities in the course of calls that go on without them, and who lists the processes of a
//! machine asks about each. A refusal of these kinds is therefore told by zone, by what was refused and by system call:
//! the first of each at once, whatever else is refused, and again in each period.

use super::ScId;
use core::sync::atomic::{AtomicU64, Ordering};

/// What has been told, by kind. A kind that takes another one's place is told once more, never kept back.
pub struct Told<const SLOTS: usize>([AtomicU64; SLOTS]);

/// Bits of what changes with the period. The others of an entry say which kind was told: two that are alike there, of
/// 2^48, count as one.
const PERIOD: u64 = 0xFFFF;

impl<const SLOTS: usize> Told<SLOTS> {
    /// Nothing has been told.
    pub const fn new() -> Self {
        const { assert!(SLOTS > 0) };
        Self([const { AtomicU64::new(0) }; SLOTS])
    }

    /// Whether to tell that a zone was refused this in a system call (none: 0) now: not, if it has been told in this
    /// period. What counts as a period, the caller says by a number that differs between them.
    pub fn is_due(&self, subject: ScId, what: u32, call: u32, period: u16) -> bool {
        let pair = u64::from(subject.0) << 32 | u64::from(what);
        let kind = (pair.wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(32) ^ u64::from(call))
            .wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let entry = kind & !PERIOD | u64::from(period);
        match self.0.get((kind >> 32) as usize % SLOTS) {
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
