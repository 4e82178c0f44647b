// SPDX-License-Identifier: GPL-2.0

//! Which part of the machine something belongs to, and whether the kernel only wonders.

use super::bindings;
use super::ptrmap::Held;
use super::task::TaskRef;
use crate::engine::SystemPermission;
use crate::hooks::process::Look;

fn permission(part: u32) -> Option<SystemPermission> {
    match part {
        bindings::DSM_PART_LOAD_MODULE => Some(SystemPermission::LoadModule),
        bindings::DSM_PART_BPF => Some(SystemPermission::Bpf),
        bindings::DSM_PART_BOOT => Some(SystemPermission::Boot),
        bindings::DSM_PART_RAW_IO => Some(SystemPermission::RawIo),
        bindings::DSM_PART_TRACE_KERNEL => Some(SystemPermission::TraceKernel),
        bindings::DSM_PART_NET_ADMIN => Some(SystemPermission::NetAdmin),
        bindings::DSM_PART_LABEL => Some(SystemPermission::Label),
        bindings::DSM_PART_SYS_ADMIN => Some(SystemPermission::SysAdmin),
        _ => None,
    }
}

/// What a capability takes besides itself; nothing in a user's own name space.
///
/// # Safety
///
/// `ns` is a user name space.
#[inline]
pub(super) unsafe fn of_capability(
    ns: *const bindings::user_namespace,
    capability: i32,
) -> Option<SystemPermission> {
    // SAFETY: by the caller's promise.
    permission(unsafe { bindings::dsm_part_of_capability(ns, capability) })
}

/// What a file belongs to.
pub(super) enum Part {
    /// Nothing that is asked about.
    None,
    /// A device that talks to other machines past the sockets.
    Network,
    /// What a process shows of itself ([`process_of`]).
    Process,
    /// A part of the machine.
    Machine(SystemPermission),
}

/// What it takes to open a file as it is being opened.
///
/// # Safety
///
/// `file` is a file that is being opened.
#[inline]
pub(super) unsafe fn of_file(file: *const bindings::file) -> Part {
    // SAFETY: by the caller's promise.
    match unsafe { bindings::dsm_part_of_file(file) } {
        bindings::DSM_PART_NETWORK => Part::Network,
        bindings::DSM_PART_PROCESS => Part::Process,
        part => permission(part).map_or(Part::None, Part::Machine),
    }
}

/// The process that a file of [`Part::Process`] is about, if there still is one.
///
/// # Safety
///
/// `file` is a file that is being opened.
pub(super) unsafe fn process_of<'a>(
    file: *const bindings::file,
    _held: &'a Held<'_>,
) -> Option<TaskRef<'a>> {
    // SAFETY: by the caller's promise.
    let task = unsafe { bindings::dsm_process_of_file(file) };
    // SAFETY: the task is not freed for as long as the RCU read lock is held.
    (!task.is_null()).then(|| unsafe { TaskRef::from_raw(task) })
}

/// What it takes to change a file's attributes so.
///
/// # Safety
///
/// `dentry` is that of a file whose attributes are about to be changed.
#[inline]
pub(super) unsafe fn of_chown(
    dentry: *const bindings::dentry,
    attributes: *const bindings::iattr,
) -> Option<SystemPermission> {
    // SAFETY: by the caller's promise.
    permission(unsafe { bindings::dsm_part_of_chown(dentry, attributes) })
}

/// What a kernel that can be locked down would refuse.
pub(super) fn of_lockdown(reason: u32) -> Option<SystemPermission> {
    // SAFETY: any number may be asked about.
    permission(unsafe { bindings::dsm_part_of_lockdown(reason) })
}

/// What a kind of performance event takes.
pub(super) fn of_perf(kind: i32) -> Option<SystemPermission> {
    // SAFETY: any number may be asked about.
    permission(unsafe { bindings::dsm_part_of_perf(kind) })
}

/// Whether the kernel asks for a capability without the caller having asked for what needs it.
pub(super) fn is_quiet_capability(options: u32) -> bool {
    // SAFETY: any number may be asked about.
    unsafe { bindings::dsm_capability_quiet(options) }
}

/// What for the kernel asks for access to a process.
pub(super) fn look_of_trace(mode: u32) -> Look {
    // SAFETY: any number may be asked about.
    match unsafe { bindings::dsm_look_of_ptrace(mode) } {
        bindings::DSM_LOOK_UNASKED => Look::Unasked,
        bindings::DSM_LOOK_READING => Look::Reading,
        _ => Look::Attaching,
    }
}
