// SPDX-License-Identifier: GPL-2.0

//! What may a process do to another one? Corresponds to `security_task_kill()`,
//! `security_ptrace_access_check()`, `security_ptrace_traceme()` and `security_file_send_sigiotask()`.
//!
//! Process context, that of a ready file any; locks may be held, so nothing here sleeps. What the
//! kernel itself does, and the node's first process, which has to be able to end every service,
//! goes ahead. Without a policy everything does; on an enrolled node zones are left to themselves.

use super::{carry_out, is_open, Question, Refused, Verdict};
use crate::engine::{decide, Class, Decision, Peer, ProcessPermission, ScId};
use crate::state::{self, nodes, owners, policy, tasks};
use crate::sys::params;
use crate::sys::ptrmap::{self, Held};
use crate::sys::task::{self, TaskRef};

fn scid(task: TaskRef<'_>, held: &Held<'_>) -> ScId {
    if task.is_kernel() {
        ScId::KERNEL
    } else {
        tasks::scid(task, held)
    }
}

/// Has the policy decide what one zone may do to another, and carries that out. `quiet`: a refusal
/// is told to nobody.
pub(super) fn access(
    (subject, target): (ScId, ScId),
    permission: ProcessPermission,
    hook: &'static str,
    quiet: bool,
) -> Verdict {
    let own = nodes::own();
    let decision = policy::with(|policy, _| match policy {
        Some(policy) => policy.process(subject, own, target, permission),
        None => decide::process_without_policy(params::enrolled(), subject, target, permission),
    });
    let peer = |scid| Peer { scid, snid: own };
    carry_out(
        Decision {
            audit: decision.audit && !quiet,
            ..decision
        },
        &Question {
            class: Class::Process,
            permission: permission.name(),
            hook,
            source: peer(subject),
            target: peer(target),
            flow: None,
        },
    )
    .map(drop)
}

/// May the running process send the task a signal, or know that it could?
pub(crate) fn signal(target: TaskRef<'_>) -> Verdict {
    if is_open(state::generation()) || task::is_init() {
        return Ok(());
    }
    let ends = ptrmap::read(|held| (tasks::current(held), scid(target, held)));
    access(ends, ProcessPermission::Signal, "task_kill", false)
}

/// The running process says who is to be told by a signal when a file is ready.
pub(crate) fn owns(file: usize) {
    owners::FILES.set(file, ptrmap::read(tasks::current));
}

/// The file is ready. May the task be told, for whoever asked for that? Nobody is at hand to be
/// told of a refusal: it may happen in an interrupt.
pub(crate) fn ready(file: usize, target: TaskRef<'_>) -> Verdict {
    if is_open(state::generation()) {
        return Ok(());
    }
    let (owner, target) = ptrmap::read(|held| (owners::FILES.get(file, held), scid(target, held)));
    match owner {
        Some(owner) => access(
            (owner, target),
            ProcessPermission::Signal,
            "file_send_sigiotask",
            true,
        ),
        None => Err(Refused),
    }
}

/// May the running process look into the task? `quiet`: it has not asked to, the kernel wonders
/// what it may show.
pub(crate) fn trace(target: TaskRef<'_>, quiet: bool) -> Verdict {
    if is_open(state::generation()) || task::is_init() {
        return Ok(());
    }
    let ends = ptrmap::read(|held| (tasks::current(held), scid(target, held)));
    access(ends, ProcessPermission::Trace, "ptrace_access_check", quiet)
}

/// The running process asks its parent to trace it. May that one?
pub(crate) fn traced_by(tracer: TaskRef<'_>) -> Verdict {
    if is_open(state::generation()) {
        return Ok(());
    }
    let ends = ptrmap::read(|held| (scid(tracer, held), tasks::current(held)));
    access(ends, ProcessPermission::Trace, "ptrace_traceme", false)
}
