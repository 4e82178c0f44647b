// SPDX-License-Identifier: GPL-2.0

//! Who asked that a file's readiness be told by signals (`F_SETOWN`): the kernel sends them later, from
//! wherever it is then. A file without an entry got its owner before the module came.

use crate::engine::ScId;
use crate::sys::ptrmap::{Context, Held, PtrMap};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use kernel::prelude::*;

struct Owner {
    scid: AtomicU32,
}

static OWNERS: PtrMap<Owner, 8> = PtrMap::new();
/// An entry could not be kept, so that one that is missing says nothing any more.
static LOST: AtomicBool = AtomicBool::new(false);

/// Makes the table.
pub(crate) fn init() -> Result {
    LOST.store(false, Ordering::Relaxed);
    OWNERS.init()
}

/// Frees the table; no hook runs any more.
pub(crate) fn exit() {
    OWNERS.destroy();
}

/// A process of this ScID has asked. Any context.
pub(crate) fn set(file: usize, scid: ScId) {
    let known = crate::sys::ptrmap::read(|held| match OWNERS.get(file, held) {
        Some(owner) => {
            owner.scid.store(scid.0, Ordering::Relaxed);
            true
        }
        None => false,
    });
    let owner = Owner {
        scid: AtomicU32::new(scid.0),
    };
    if !known && OWNERS.insert(file, owner, Context::Atomic).is_err() {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Who has asked; `None` if that is not known. Any context.
pub(crate) fn get(file: usize, held: &Held<'_>) -> Option<ScId> {
    match OWNERS.get(file, held) {
        Some(owner) => Some(ScId(owner.scid.load(Ordering::Relaxed))),
        None if LOST.load(Ordering::Relaxed) => None,
        None => Some(ScId::DEFAULT),
    }
}

/// The file is no more. Any context.
#[inline]
pub(crate) fn forget(file: usize) {
    if OWNERS.count() != 0 {
        OWNERS.remove(file);
    }
}
