// SPDX-License-Identifier: GPL-2.0

//! A few words that are read and written as one, without a lock: what a socket remembers of its
//! last decision. A reader that meets a writer sees nothing, a writer that meets a writer gives
//! up; both are then as if nothing had been remembered.

use core::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};

/// `N` words, all zero at first.
pub(crate) struct SeqCell<const N: usize> {
    // Odd while somebody writes.
    sequence: AtomicU32,
    words: [AtomicU64; N],
}

impl<const N: usize> SeqCell<N> {
    /// All zero.
    pub(crate) const fn new() -> Self {
        Self {
            sequence: AtomicU32::new(0),
            words: [const { AtomicU64::new(0) }; N],
        }
    }

    /// The first words as they were at one moment.
    #[inline(always)]
    pub(crate) fn get<const M: usize>(&self) -> Option<[u64; M]> {
        const { assert!(M <= N) };
        let before = self.sequence.load(Ordering::Acquire);
        if before & 1 != 0 {
            return None;
        }
        let mut words = [0; M];
        for (word, cell) in words.iter_mut().zip(&self.words) {
            *word = cell.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == before).then_some(words)
    }

    /// Whether the first words are these.
    #[inline(always)]
    pub(crate) fn is<const M: usize>(&self, words: &[u64; M]) -> bool {
        self.behind::<M, 0>(words).is_some()
    }

    /// What follows behind the first words, if they are these.
    #[inline(always)]
    pub(crate) fn behind<const M: usize, const L: usize>(
        &self,
        words: &[u64; M],
    ) -> Option<[u64; L]> {
        const { assert!(M + L <= N) };
        let before = self.sequence.load(Ordering::Acquire);
        if before & 1 != 0 {
            return None;
        }
        let (first, rest) = self.words.split_at(M);
        // One by one: a comparison of arrays is a call, and all of them at a time are more than there
        // are registers.
        for (word, cell) in words.iter().zip(first) {
            if cell.load(Ordering::Relaxed) != *word {
                return None;
            }
        }
        let mut found = [0; L];
        for (word, cell) in found.iter_mut().zip(rest) {
            *word = cell.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == before).then_some(found)
    }

    /// Puts other words in the first places, unless somebody else is doing so.
    pub(crate) fn set<const M: usize>(&self, words: [u64; M]) {
        const { assert!(M <= N) };
        let before = self.sequence.load(Ordering::Relaxed);
        if before & 1 != 0
            || self
                .sequence
                .compare_exchange(
                    before,
                    before.wrapping_add(1),
                    Ordering::Acquire,
                    Ordering::Relaxed,
                )
                .is_err()
        {
            return;
        }
        fence(Ordering::Release);
        for (cell, word) in self.words.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        self.sequence
            .store(before.wrapping_add(2), Ordering::Release);
    }
}
