// SPDX-License-Identifier: GPL-2.0

//! Whose something is that the kernel uses later, from wherever it is then: a file's readiness that
//! somebody asked to be told of by signals (`F_SETOWN`), and credentials, with which the kernel acts in
//! the name of whoever made them. What has no entry is older than the module, or the default zone's.

use crate::engine::ScId;
use crate::sys::ptrmap::{self, Context, Held, PtrMap};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use kernel::prelude::*;

/// The zones of a kind of object, by the object's address.
pub(crate) struct Owners<const BUCKETS: usize> {
    zones: PtrMap<AtomicU32, BUCKETS>,
    // An entry could not be kept, so that one that is missing says nothing any more.
    lost: AtomicBool,
}

/// Files, by who asked for their signals.
pub(crate) static FILES: Owners<{ 1 << 8 }> = Owners::new();
/// Credentials, by who made them.
pub(crate) static CREDS: Owners<{ 1 << 12 }> = Owners::new();

/// Frees the tables; no hook runs any more.
pub(crate) fn exit() {
    CREDS.zones.destroy();
    FILES.zones.destroy();
}

impl<const BUCKETS: usize> Owners<BUCKETS> {
    const fn new() -> Self {
        Self {
            zones: PtrMap::new(),
            lost: AtomicBool::new(false),
        }
    }

    /// It is this zone's; fails if that cannot be kept.
    pub(crate) fn try_set(&self, object: usize, scid: ScId, context: Context) -> Result {
        let known = ptrmap::read(|held| match self.zones.get(object, held) {
            Some(zone) => {
                zone.store(scid.0, Ordering::Relaxed);
                true
            }
            None => scid == ScId::DEFAULT && !self.lost.load(Ordering::Relaxed),
        });
        if known {
            return Ok(());
        }
        self.zones.insert(object, context, || AtomicU32::new(scid.0))
    }

    /// It is this zone's. Any context.
    pub(crate) fn set(&self, object: usize, scid: ScId) {
        if self.try_set(object, scid, Context::Atomic).is_err() {
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    /// Whose it is; `None` if that is not known. Any context.
    pub(crate) fn get(&self, object: usize, held: &Held<'_>) -> Option<ScId> {
        match self.zones.get(object, held) {
            Some(zone) => Some(ScId(zone.load(Ordering::Relaxed))),
            None if self.lost.load(Ordering::Relaxed) => None,
            None => Some(ScId::DEFAULT),
        }
    }

    /// It is no more. Any context.
    #[inline]
    pub(crate) fn forget(&self, object: usize) {
        if self.zones.count() != 0 {
            self.zones.remove(object);
        }
    }
}
