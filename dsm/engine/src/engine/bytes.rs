// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Reads of little-endian integers out of byte slices. Total: a read beyond the end yields zero, never a panic.
//!
//! Zero is a safe answer because validation has proved every offset that a look-up can form, and because zero is no
//! valid ScID of a rule, no valid rule id and an empty set of permissions.

/// The `u16` at `offset`, or 0 if the slice ends before it does.
#[inline(always)]
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    match bytes.get(offset..).and_then(|tail| tail.first_chunk::<2>()) {
        Some(chunk) => u16::from_le_bytes(*chunk),
        None => 0,
    }
}

/// The `u32` at `offset`, or 0 if the slice ends before it does.
#[inline(always)]
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    match bytes.get(offset..).and_then(|tail| tail.first_chunk::<4>()) {
        Some(chunk) => u32::from_le_bytes(*chunk),
        None => 0,
    }
}

/// The `u64` at `offset`, or 0 if the slice ends before it does.
#[inline(always)]
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    match bytes.get(offset..).and_then(|tail| tail.first_chunk::<8>()) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => 0,
    }
}

/// The `N` bytes at `offset`, or zeros if the slice ends before they do.
#[inline]
pub(super) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    match bytes.get(offset..).and_then(|tail| tail.first_chunk::<N>()) {
        Some(chunk) => *chunk,
        None => [0; N],
    }
}

/// The byte at `offset`, or 0 if the slice ends before it.
#[inline(always)]
pub(super) fn u8_at(bytes: &[u8], offset: usize) -> u8 {
    match bytes.get(offset) {
        Some(byte) => *byte,
        None => 0,
    }
}
