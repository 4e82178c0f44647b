// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Any bytes as the extension headers of an IPv6 packet.
#![no_main]

#[path = "../checks.rs"]
#[expect(dead_code, reason = "one of its functions is this target's")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::header6(bytes));
