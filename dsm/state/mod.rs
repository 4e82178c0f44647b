// SPDX-License-Identifier: GPL-2.0

//! What the module knows: the policy, the nodes and their keys, the ScIDs of tasks and sockets.
//! State is read in every hook, so reading takes no lock; nothing here decides.
#![forbid(unsafe_code)]

pub(crate) mod keys;
pub(crate) mod nodes;
pub(crate) mod owners;
pub(crate) mod policy;
pub(crate) mod recent;
pub(crate) mod sockets;
pub(crate) mod tasks;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Starts at one: what a socket has never remembered carries zero.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Rises with each change of policy, mode, node map or keys. What is remembered of a decision
/// carries it and is worth nothing once it has risen. Read before the state that is decided on.
#[inline(always)]
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// Something that decisions depend on has changed. Called after the change has been published.
pub(crate) fn changed() {
    GENERATION.fetch_add(1, Ordering::AcqRel);
}

/// Set when the module is about to go.
static CLOSING: AtomicBool = AtomicBool::new(false);

/// Nothing is to be set up any more that outlives a hook. Waits until nobody is doing so. Sleeps.
pub(crate) fn close() {
    CLOSING.store(true, Ordering::Release);
    crate::sys::ptrmap::synchronize();
}

/// Whether the module is about to go. To be asked under RCU.
pub(crate) fn is_closing() -> bool {
    CLOSING.load(Ordering::Acquire)
}
