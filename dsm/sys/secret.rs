// SPDX-License-Identifier: GPL-2.0

//! Keys in memory: overwritten when they are dropped.

use core::sync::atomic::{compiler_fence, Ordering};

/// Sixteen secret bytes. Has neither `Debug` nor `Copy`, so that it is not shown or spread by
/// accident.
pub(crate) struct Secret([u8; 16]);

impl Secret {
    /// Takes bytes in; the caller's copy is the caller's to wipe.
    pub(crate) const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a computation.
    #[inline(always)]
    pub(crate) const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A second owner of the same bytes.
    pub(crate) const fn duplicate(&self) -> Self {
        Self(self.0)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        for byte in &mut self.0 {
            // SAFETY: a valid, aligned byte of our own; volatile, so that it is not left out as
            // a store that nobody reads.
            unsafe { core::ptr::write_volatile(byte, 0) };
        }
        compiler_fence(Ordering::SeqCst);
    }
}
