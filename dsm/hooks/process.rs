// SPDX-License-Identifier: GPL-2.0

//! What may a process do to another one? Corresponds to `security_task_kill()`, `security_task_set*()`,
//! `security_ptrace_access_check()`, `security_ptrace_traceme()`, `security_file_send_sigiotask()`, and
//! `security_file_open()` for what is written of a process in `/proc`.
//!
//! Process context, that of a ready file any; locks may be held, so nothing here sleeps. What the
//! kernel itself does, and the node's first process, which has to be able to end every service,
//! goes ahead. Without a policy everything does; on an enrolled node zones are left to themselves.

use super::{carry_out, carry_out_to, is_open, refuse, unless_told, Question, Refused, Verdict};
use crate::engine::{decide, Class, Decision, Peer, ProcessPermission, Reason, ScId, Told};
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

/// Has the policy decide what one zone may do to another, and carries that out.
pub(super) fn access(
    ends: (ScId, ScId),
    permission: ProcessPermission,
    hook: &'static str,
) -> Verdict {
    conclude(decide(ends, permission), ends, permission, hook)
}

fn decide((subject, target): (ScId, ScId), permission: ProcessPermission) -> Decision {
    policy::with(|policy, _| match policy {
        Some(policy) => policy.process(subject, nodes::own(), target, permission),
        None => decide::process_without_policy(params::enrolled(), subject, target, permission),
    })
}

/// The same, if neither may do it to the other.
pub(super) fn either(
    ends: (ScId, ScId),
    permission: ProcessPermission,
    hook: &'static str,
) -> Verdict {
    let decision = decide(ends, permission);
    if decision.is_refusal() && !decide((ends.1, ends.0), permission).is_refusal() {
        return Ok(());
    }
    conclude(decision, ends, permission, hook)
}

/// Refuses what would be done to something whose owner could not be kept.
#[cold]
pub(super) fn lost(subject: ScId, permission: ProcessPermission, hook: &'static str) -> Verdict {
    let decision = policy::with(|policy, _| refuse(policy, Reason::NoMemory));
    conclude(decision, (subject, ScId::DEFAULT), permission, hook)
}

fn conclude(
    decision: Decision,
    ends: (ScId, ScId),
    permission: ProcessPermission,
    hook: &'static str,
) -> Verdict {
    carry_out(decision, &question(ends, permission, hook)).map(drop)
}

fn question(
    (subject, target): (ScId, ScId),
    permission: ProcessPermission,
    hook: &'static str,
) -> Question<'static> {
    let own = nodes::own();
    let peer = |scid| Peer { scid, snid: own };
    Question {
        class: Class::Process,
        permission: permission.name(),
        hook,
        source: peer(subject),
        target: peer(target),
        flow: None,
    }
}

/// May the running process send the task a signal, or know that it could?
pub(crate) fn signal(target: TaskRef<'_>) -> Verdict {
    if is_open(state::generation()) || task::is_init() {
        return Ok(());
    }
    let ends = ptrmap::read(|held| (tasks::current(held), scid(target, held)));
    access(ends, ProcessPermission::Signal, "task_kill")
}

/// May the running process say how often and where the task runs, what it is called, or when it is to
/// be ended for its memory?
pub(crate) fn pace(target: TaskRef<'_>, hook: &'static str) -> Verdict {
    control(target, ProcessPermission::Signal, hook)
}

/// May the running process set a limit of the task's? With that of core dumps, it could have its
/// memory written to a file.
pub(crate) fn limit(target: TaskRef<'_>) -> Verdict {
    control(target, ProcessPermission::Trace, "task_setrlimit")
}

fn control(target: TaskRef<'_>, permission: ProcessPermission, hook: &'static str) -> Verdict {
    if is_open(state::generation()) || task::is_init() {
        return Ok(());
    }
    let ends = ptrmap::read(|held| (tasks::current(held), scid(target, held)));
    // Mostly it does so to itself.
    if ends.0 == ends.1 {
        return Ok(());
    }
    access(ends, permission, hook)
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
        Some(owner) => {
            let mut decision = decide((owner, target), ProcessPermission::Signal);
            decision.audit = false;
            conclude(
                decision,
                (owner, target),
                ProcessPermission::Signal,
                "file_send_sigiotask",
            )
        }
        None => Err(Refused),
    }
}

/// How a process wants to look into another one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It has not asked to: the kernel wonders what it may show.
    Unasked,
    /// It reads what there is to read of it, as who lists all processes does with each.
    Reading,
    /// It takes hold of it.
    Attaching,
}

/// May the running process look into the task?
pub(crate) fn trace(target: TaskRef<'_>, look: Look) -> Verdict {
    static TOLD: Told<1024> = Told::new();
    let generation = state::generation();
    if is_open(generation) || task::is_init() {
        return Ok(());
    }
    let ends = ptrmap::read(|held| (tasks::current(held), scid(target, held)));
    let mut decision = decide(ends, ProcessPermission::Trace);
    match look {
        Look::Unasked => decision.audit = false,
        Look::Reading => {
            let (subject, target) = ends;
            decision = unless_told(decision, &TOLD, (subject, target.0), generation);
        }
        Look::Attaching => {}
    }
    conclude(decision, ends, ProcessPermission::Trace, "ptrace_access_check")
}

/// The running process asks its parent to trace it. May that one? The kernel holds its lock of all tasks,
/// without which no process group is signalled: who wants a signal for each event must not be told here.
pub(crate) fn traced_by(tracer: TaskRef<'_>) -> Verdict {
    if is_open(state::generation()) {
        return Ok(());
    }
    let ends = ptrmap::read(|held| (scid(tracer, held), tasks::current(held)));
    let permission = ProcessPermission::Trace;
    let question = question(ends, permission, "ptrace_traceme");
    carry_out_to(decide(ends, permission), &question, false).map(drop)
}
