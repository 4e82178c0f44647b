// SPDX-License-Identifier: GPL-2.0

//! The ScID of each task. A task without an entry is of the default zone; the kernel itself has
//! ScID 0. Entries are made at exec, clone or by a manager's command, and go with their task.

use crate::engine::ScId;
use crate::sys::ptrmap::{self, Context, Held, PtrMap};
use crate::sys::task::{self, Hold, TaskRef};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kernel::prelude::*;

struct Task {
    scid: AtomicU32,
    // What an exec under way leads to, behind what it led from; taken over when it can no longer fail.
    pending: AtomicU64,
}

impl Task {
    fn new(scid: ScId, pending: u64) -> Self {
        Self {
            scid: AtomicU32::new(scid.0),
            pending: AtomicU64::new(pending),
        }
    }
}

fn step(from: ScId, to: ScId) -> u64 {
    u64::from(from.0) << 32 | u64::from(to.0)
}

static TASKS: PtrMap<Task, { 1 << 13 }> = PtrMap::new();

/// Frees the table; no hook runs any more.
pub(crate) fn exit() {
    TASKS.destroy();
}

/// How many tasks have a ScID of their own.
pub(crate) fn count() -> u64 {
    TASKS.count()
}

/// The ScID of a task.
#[inline(always)]
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
    let store = || {
        ptrmap::read(|held| match TASKS.get(task.key(), held) {
            Some(entry) => {
                entry.scid.store(scid.0, Ordering::Relaxed);
                true
            }
            None => scid == ScId::DEFAULT,
        })
    };
    if store() {
        return Ok(());
    }
    TASKS.insert(task.key(), context, || Task::new(scid, step(scid, scid)))?;
    // An exec of the task's may have been first.
    store();
    Ok(())
}

/// Gives all threads of a process another ScID, unless somebody traces or measures it, or shares its memory: he
/// would go on doing so. Twice, for threads that were being made meanwhile. If it fails nothing has changed. Sleeps.
pub(crate) fn set_process(task: TaskRef<'_>, scid: ScId) -> Result {
    let process = Hold::on(task);
    let in_others_hands = || process.is_watched() || process.is_shared();
    if in_others_hands() {
        return Err(EBUSY);
    }
    let before = ptrmap::read(|held| self::scid(task, held));
    let set = task::for_each_thread(task, scid)
        .and_then(|()| task::for_each_thread(task, scid))
        .and_then(|()| {
            // Whoever was asked before to trace its child does by now.
            ptrmap::wait_for_readers();
            if in_others_hands() {
                Err(EBUSY)
            } else {
                Ok(())
            }
        });
    if set.is_err() {
        // Those that were set have an entry, so this needs no memory.
        let _ = task::for_each_thread(task, before);
    }
    set
}

/// A task is being made by the running one, whose ScID it gets.
pub(crate) fn inherit(child: TaskRef<'_>) -> Result {
    if TASKS.count() == 0 {
        return Ok(());
    }
    let scid = ptrmap::read(current);
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
pub(crate) fn prepare(task: TaskRef<'_>, from: ScId, to: ScId) -> Result {
    let store = |held: &Held<'_>| match TASKS.get(task.key(), held) {
        Some(entry) => {
            entry.pending.store(step(from, to), Ordering::Relaxed);
            true
        }
        None => to == ScId::DEFAULT,
    };
    if ptrmap::read(store) {
        return Ok(());
    }
    TASKS.insert(task.key(), Context::Process, || {
        Task::new(ScId::DEFAULT, step(from, to))
    })
}

/// The exec has come to its end. What it has led from and to; who was given a ScID meanwhile keeps
/// that, and it has led nowhere.
pub(crate) fn commit(task: TaskRef<'_>) -> [ScId; 2] {
    ptrmap::read(|held| {
        let Some(entry) = TASKS.get(task.key(), held) else {
            return [ScId::DEFAULT; 2];
        };
        let pending = entry.pending.load(Ordering::Relaxed);
        let (from, to) = ((pending >> 32) as u32, pending as u32);
        let taken = entry
            .scid
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        match taken {
            Ok(_) => [ScId(from), ScId(to)],
            Err(now) => [ScId(now); 2],
        }
    })
}
