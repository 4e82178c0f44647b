// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Cargo's door to the policy engine, for user space and for host tests.
//!
//! It holds nothing of its own: dsm.ko includes `engine/mod.rs` directly and must see the same code.
#![no_std]

mod engine;
pub use engine::*;
