// SPDX-License-Identifier: GPL-2.0

//! The kernel's SipHash-2-4 as the engine's pseudo-random function.

use crate::engine::Prf;
use kernel::ffi::c_void;

/// `siphash_key_t`.
#[repr(C)]
struct Key([u64; 2]);

extern "C" {
    fn siphash_1u64(a: u64, key: *const Key) -> u64;
    fn siphash_3u64(a: u64, b: u64, c: u64, key: *const Key) -> u64;
    fn siphash_4u64(a: u64, b: u64, c: u64, d: u64, key: *const Key) -> u64;
    fn __siphash_unaligned(data: *const c_void, len: usize, key: *const Key) -> u64;
}

/// [`Prf`] by the kernel.
pub(crate) struct KernelPrf;

#[inline(always)]
fn key_of(bytes: &[u8; 16]) -> Key {
    let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7] = *bytes;
    Key([
        u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
    ])
}

impl Prf for KernelPrf {
    #[inline]
    fn siphash_u64x1(key: &[u8; 16], word: u64) -> u64 {
        let key = key_of(key);
        // SAFETY: the function reads the key and nothing else, in any context.
        unsafe { siphash_1u64(word, &key) }
    }

    #[inline]
    fn siphash_u64x3(key: &[u8; 16], [a, b, c]: [u64; 3]) -> u64 {
        let key = key_of(key);
        // SAFETY: as above.
        unsafe { siphash_3u64(a, b, c, &key) }
    }

    #[inline]
    fn siphash_u64x4(key: &[u8; 16], [a, b, c, d]: [u64; 4]) -> u64 {
        let key = key_of(key);
        // SAFETY: as above.
        unsafe { siphash_4u64(a, b, c, d, &key) }
    }

    #[inline]
    fn siphash_u64x6(key: &[u8; 16], words: [u64; 6]) -> u64 {
        siphash(key, words)
    }

    #[inline]
    fn siphash_u64x7(key: &[u8; 16], words: [u64; 7]) -> u64 {
        siphash(key, words)
    }
}

#[inline]
fn siphash<const N: usize>(key: &[u8; 16], words: [u64; N]) -> u64 {
    let key = key_of(key);
    let words = words.map(u64::to_le);
    // SAFETY: as above; the words are as long as it is told.
    unsafe { __siphash_unaligned(words.as_ptr().cast(), size_of_val(&words), &key) }
}
