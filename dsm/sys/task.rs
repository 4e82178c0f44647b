// SPDX-License-Identifier: GPL-2.0

//! Tasks and the files that they execute.

use super::net::Sleeper;
use super::ptrmap::Held;
use super::{bindings, errors};
use crate::engine::ScId;
use core::marker::PhantomData;
use kernel::error::to_result;
use kernel::prelude::*;

/// A task that is not freed while the value lives.
#[derive(Clone, Copy)]
pub(crate) struct TaskRef<'a>(*const bindings::task_struct, PhantomData<&'a ()>);

impl TaskRef<'_> {
    /// # Safety
    ///
    /// The task is not freed while the value lives.
    #[inline(always)]
    pub(super) unsafe fn from_raw(task: *const bindings::task_struct) -> Self {
        Self(task, PhantomData)
    }

    /// Whether it is one of the kernel's own.
    pub(crate) fn is_kernel(self) -> bool {
        // SAFETY: the task is not freed meanwhile, by the type's promise.
        unsafe { bindings::dsm_task_kernel(self.0) }
    }

    /// What its state is found by.
    #[inline(always)]
    pub(crate) fn key(self) -> usize {
        self.0 as usize
    }

    /// Its credentials.
    pub(crate) fn credentials<'a>(self, _held: &'a Held<'_>) -> CredRef<'a> {
        // SAFETY: the task is not freed meanwhile, by the type's promise; its credentials are not
        // for as long as the RCU read lock is held.
        unsafe { CredRef::from_raw(bindings::dsm_task_cred(self.0)) }
    }

    /// For the shim.
    pub(super) fn as_raw(self) -> *const bindings::task_struct {
        self.0
    }
}

/// The task that acts, or `None` where the kernel itself does: in softirq, in a kernel thread.
#[inline(always)]
pub(crate) fn current<'a>() -> Option<TaskRef<'a>> {
    // SAFETY: may be asked in any context.
    let task = unsafe { bindings::dsm_current() };
    // SAFETY: the running task is not freed while it runs; values do not leave its hook.
    (!task.is_null()).then(|| unsafe { TaskRef::from_raw(task) })
}

/// Whether a process' context is running, so that its id and name mean something.
pub(crate) fn in_task() -> bool {
    // SAFETY: may be asked in any context.
    unsafe { bindings::dsm_in_task() }
}

/// Whether the node's first process acts.
pub(crate) fn is_init() -> bool {
    // SAFETY: may be asked in any context.
    unsafe { bindings::dsm_is_init() }
}

/// Whether the running task may change labels.
pub(crate) fn may_label() -> bool {
    // SAFETY: called in process context.
    unsafe { bindings::dsm_may_label() }
}

/// Whether the running process was started by root.
pub(crate) fn is_root() -> bool {
    // SAFETY: may be asked in process context.
    unsafe { bindings::dsm_is_root() }
}

/// Has the running process leave no image of its memory behind. Process context.
pub(crate) fn drop_core() {
    // SAFETY: called in process context, and no task is locked.
    unsafe { bindings::dsm_drop_core() };
}

/// Whether events of performance counters are attached to the running task. Process context.
pub(crate) fn is_measured() -> bool {
    // SAFETY: called in process context.
    unsafe { bindings::dsm_measured() }
}

/// Whether the running process has descriptors of rings whose requests their makers' threads take up.
pub(crate) fn holds_polled_ring() -> bool {
    // SAFETY: called in process context, with no descriptors locked.
    unsafe { bindings::dsm_holds_polled_ring() }
}

/// Closes them. Sleeps.
pub(crate) fn close_polled_rings(_inside: &Sleeper) {
    // SAFETY: called in process context, with no descriptors locked; the module stays meanwhile, since the caller is
    // counted among those that sleep.
    unsafe { bindings::dsm_close_polled_rings() };
}

/// Ends the running process before its next instruction, unless it is the node's first one. Process context.
pub(crate) fn end() {
    // SAFETY: called in process context, with no signal handlers locked.
    unsafe { bindings::dsm_end_current() };
}

/// The number of the system call that the running task is in, or 0.
pub(crate) fn system_call() -> u32 {
    // SAFETY: may be asked in any context.
    unsafe { bindings::dsm_system_call() }
}

/// Credentials that are not freed while the value lives.
#[derive(Clone, Copy)]
pub(crate) struct CredRef<'a>(*const bindings::cred, PhantomData<&'a ()>);

impl CredRef<'_> {
    /// # Safety
    ///
    /// The credentials are not freed while the value lives.
    #[inline(always)]
    pub(super) unsafe fn from_raw(cred: *const bindings::cred) -> Self {
        Self(cred, PhantomData)
    }

    /// Whether they are the running task's own.
    pub(crate) fn is_own(self) -> bool {
        // SAFETY: only the address is looked at.
        unsafe { bindings::dsm_cred_own(self.0) }
    }

    /// Whether the running task acts with them, and they are not its own.
    pub(crate) fn is_lent(self) -> bool {
        // SAFETY: only the address is looked at.
        unsafe { bindings::dsm_cred_lent(self.0) }
    }

    /// What their state is found by.
    #[inline(always)]
    pub(crate) fn key(self) -> usize {
        self.0 as usize
    }
}

/// A process that, where that could be had, nobody begins to trace or measure while the value lives, but by
/// asking its parent to trace it.
///
/// # Invariants
///
/// If `held`, the shim's hold on the task's process has been taken.
pub(crate) struct Hold<'a> {
    task: TaskRef<'a>,
    held: bool,
}

impl<'a> Hold<'a> {
    /// Tries to take it. Sleeps, a tenth of a second at most.
    pub(crate) fn on(task: TaskRef<'a>) -> Self {
        // SAFETY: the task is not freed meanwhile, by the type's promise; called in process context.
        let held = unsafe { bindings::dsm_hold(task.0) };
        // INVARIANT: as the shim says.
        Self { task, held }
    }

    /// Whether somebody traces or measures it.
    pub(crate) fn is_watched(&self) -> bool {
        // SAFETY: the task is not freed meanwhile, by the type's promise.
        unsafe { bindings::dsm_watched(self.task.0) }
    }

    /// Whether another process shares its memory.
    pub(crate) fn is_shared(&self) -> bool {
        // SAFETY: the task is not freed meanwhile, by the type's promise.
        unsafe { bindings::dsm_shares_memory(self.task.0) }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if self.held {
            // SAFETY: the task is not freed meanwhile; the hold has been taken, by the type's invariant.
            unsafe { bindings::dsm_release(self.task.0) };
        }
    }
}

/// Gives each thread of a task's process a ScID, without sleeping.
pub(crate) fn for_each_thread(task: TaskRef<'_>, scid: ScId) -> Result {
    // SAFETY: the task is not freed meanwhile, by the type's promise.
    to_result(unsafe { bindings::dsm_threads(task.0, scid.0) })
}

/// A program about to be executed.
pub(crate) struct Program<'a> {
    bprm: *mut bindings::linux_binprm,
    file: *const bindings::file,
    hook: PhantomData<&'a ()>,
}

impl Program<'_> {
    /// # Safety
    ///
    /// Both are the arguments of `bprm_creds_from_file`, which runs as long as the value lives.
    pub(super) unsafe fn from_raw(
        bprm: *mut bindings::linux_binprm,
        file: *const bindings::file,
    ) -> Self {
        Self {
            bprm,
            file,
            hook: PhantomData,
        }
    }

    /// The value of its label: so many bytes of the buffer, or none if it has no label. Sleeps.
    pub(crate) fn label<'b>(&self, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>> {
        // SAFETY: the file is open while the hook runs; the buffer is as long as it says.
        let len = unsafe { bindings::dsm_file_label(self.file, buffer.as_mut_ptr(), buffer.len()) };
        if let Ok(len) = usize::try_from(len) {
            return Ok(buffer.get(..len));
        }
        match Error::from_errno(len) {
            e if e == errors::no_data() || e == errors::not_supported() => Ok(None),
            e => Err(e),
        }
    }

    /// Whether somebody else has a hold on it, whatever it is after the exec.
    pub(crate) fn is_unsafe(&self) -> bool {
        // SAFETY: the program's parameters do not change while the hook runs.
        unsafe { bindings::dsm_bprm_unsafe(self.bprm) }
    }

    /// The credentials that the process has afterwards.
    pub(crate) fn credentials(&self) -> CredRef<'_> {
        // SAFETY: the program's parameters, which hold them, do not change while the hook runs.
        unsafe { CredRef::from_raw(bindings::dsm_bprm_cred(self.bprm)) }
    }

    /// Tells the loader not to trust its caller's environment.
    pub(crate) fn secure(&self) {
        // SAFETY: the hook may change the program's parameters while it runs.
        unsafe { bindings::dsm_bprm_secure(self.bprm) };
    }
}
