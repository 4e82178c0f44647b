// SPDX-License-Identifier: GPL-2.0

//! The ScID of each task. A task without an entry is of the default zone; the kernel itself has
//! ScID 0. Entries are made at exec, clone or by a manager's command, and go with their task.

use crate::engine::ScId;
use crate::sys::ptrmap::{Context, Held, PtrMap};
use crate::sys::task::{self, TaskRef};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::prelude::*;

struct Task {
    scid: AtomicU32,
    // What an exec under way leads to; taken over when it can no longer fail.
    pending: AtomicU32,
}

static TASKS: PtrMap<Task, 13> = PtrMap::new();

/// Makes the table.
pub(crate) fn init() -> Result {
    TASKS.init()
}

/// Frees the table; no hook runs any more.
pub(crate) fn exit() {
    TASKS.destroy();
}

/// How many tasks have a ScID of their own.
pub(crate) fn count() -> u64 {
    TASKS.count()
}

/// The ScID of a task.
#[inline]
pub(crate) fn scid(task: TaskRef<'_>, held: &Held<'_>) -> ScId {
    match TASKS.get(task.key(), held) {
        Some(entry) => ScId(entry.scid.load(Ordering::Relaxed)),
        None => ScId::DEFAULT,
    }
}

/// The ScID of whoever acts: the running task, or the kernel where none does.
#[inline]
pub(crate) fn current(held: &Held<'_>) -> ScId {
    match task::current() {
        Some(task) => scid(task, held),
        None => ScId::KERNEL,
    }
}

/// Gives one task a ScID. A task that is to have the default and has no entry needs none.
pub(crate) fn set(task: TaskRef<'_>, scid: ScId, context: Context) -> Result {
    let known = crate::sys::ptrmap::read(|held| match TASKS.get(task.key(), held) {
        Some(entry) => {
            entry.pending.store(scid.0, Ordering::Relaxed);
            entry.scid.store(scid.0, Ordering::Relaxed);
            true
        }
        None => scid == ScId::DEFAULT,
    });
    if known {
        return Ok(());
    }
    TASKS.insert(
        task.key(),
        Task {
            scid: AtomicU32::new(scid.0),
            pending: AtomicU32::new(scid.0),
        },
        context,
    )
}

/// Gives all threads of a process a ScID. Twice, for threads that were being made meanwhile.
pub(crate) fn set_process(task: TaskRef<'_>, scid: ScId) -> Result {
    task::for_each_thread(task, scid)?;
    task::for_each_thread(task, scid)
}

/// A task is being made by the running one, whose ScID it gets.
pub(crate) fn inherit(child: TaskRef<'_>) -> Result {
    if TASKS.count() == 0 {
        return Ok(());
    }
    let scid = crate::sys::ptrmap::read(current);
    if scid == ScId::KERNEL {
        return Ok(());
    }
    set(child, scid, Context::Process)
}

/// A task is no more.
pub(crate) fn forget(task: TaskRef<'_>) {
    TASKS.remove(task.key());
}

/// What the exec under way makes of the task, should it come to its end.
pub(crate) fn prepare(task: TaskRef<'_>, scid: ScId) -> Result {
    let store = |held: &Held<'_>| match TASKS.get(task.key(), held) {
        Some(entry) => {
            entry.pending.store(scid.0, Ordering::Relaxed);
            true
        }
        None => scid == ScId::DEFAULT,
    };
    if crate::sys::ptrmap::read(store) {
        return Ok(());
    }
    TASKS.insert(
        task.key(),
        Task {
            scid: AtomicU32::new(ScId::DEFAULT.0),
            pending: AtomicU32::new(scid.0),
        },
        Context::Process,
    )
}

/// The exec has come to its end.
pub(crate) fn commit(task: TaskRef<'_>) {
    crate::sys::ptrmap::read(|held| {
        if let Some(entry) = TASKS.get(task.key(), held) {
            entry
                .scid
                .store(entry.pending.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    });
}
