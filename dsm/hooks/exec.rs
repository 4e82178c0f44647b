// SPDX-License-Identifier: GPL-2.0

//! What is a process after it has executed a binary, made a child, or ended? Corresponds to
//! `security_bprm_creds_from_file()`, `security_bprm_committed_creds()`, `security_task_alloc()`
//! and `security_task_free()`.
//!
//! Exec and clone: process context, may sleep. Free: any context. It is the binary that is loaded
//! that counts, never a script: what a script's interpreter reads can be changed on its way.

use super::{carry_out, refuse, Question, Refused, Verdict};
use crate::engine::{xattr, Class, Decision, Peer, Reason, ScId, Transition};
use crate::state::{nodes, owners, policy, tasks};
use crate::sys::net::Sleeper;
use crate::sys::params;
use crate::sys::ptrmap::{self, Context};
use crate::sys::task::{self, Program, TaskRef};
use kernel::prelude::*;

const HOOK: &str = "bprm_creds_from_file";

/// May the process execute the program? Notes what it is afterwards. Without a policy it stays
/// what it is; on an enrolled node that has none yet, labelled binaries are refused, other than
/// the management's.
pub(crate) fn execute(program: &Program<'_>) -> Verdict {
    // Reading the attribute may wait for a disk.
    let _inside = ptrmap::read(|_| Sleeper::enter());
    let Some(task) = task::current() else {
        // A kernel thread becomes a user helper: of the default zone, like all it starts.
        return Ok(());
    };
    let parent = ptrmap::read(|held| tasks::scid(task, held));
    let mut buffer = [0; xattr::MAX_LEN + 1];
    let binary = match program.label(&mut buffer) {
        Ok(None) => Ok(ScId::KERNEL),
        Ok(Some(value)) => xattr::parse(value).map_err(|_| ()),
        Err(_) => Err(()),
    };
    let transition = policy::with(|policy, _| {
        let unchanged = |decision| Transition {
            decision,
            scid: parent,
        };
        match (binary, policy) {
            (Ok(binary), _) if binary == ScId::KERNEL || binary == parent => {
                unchanged(Decision::PERMIT)
            }
            (Err(()), policy) => unchanged(refuse(policy, Reason::BadLabel)),
            (Ok(binary), Some(policy)) => {
                let transition = policy.transition(parent, binary);
                if transition.decision.permit && transition.scid != parent && program.is_unsafe() {
                    Transition {
                        decision: policy.refuse(Reason::UnsafeExec),
                        ..transition
                    }
                } else {
                    transition
                }
            }
            (Ok(ScId::MANAGEMENT), None) => unchanged(Decision::PERMIT),
            (Ok(_), None) if parent.is_exempt() || !params::enrolled() => {
                unchanged(Decision::PERMIT)
            }
            (Ok(_), None) => unchanged(Decision::refused(Reason::NoPolicy, 0)),
        }
    });
    conclude(
        transition.decision,
        (parent, binary.unwrap_or(ScId::OUTSIDE)),
        HOOK,
    )?;
    if transition.scid != parent {
        program.secure();
    }
    owners::CREDS
        .try_set(program.credentials().key(), transition.scid, Context::Process)
        .and_then(|()| tasks::prepare(task, parent, transition.scid))
        .map_err(|_| Refused)
}

fn conclude(decision: Decision, (from, to): (ScId, ScId), hook: &'static str) -> Verdict {
    let own = nodes::own();
    let peer = |scid| Peer { scid, snid: own };
    carry_out(
        decision,
        &Question {
            class: Class::Transition,
            permission: "execute",
            hook,
            source: peer(from),
            target: peer(to),
            flow: None,
        },
    )
    .map(drop)
}

/// The exec can no longer fail. Its credentials are whose the process now is, also if a manager was
/// quicker than the exec. Who came from another zone may have been made to fail: that must not write the
/// zone's memory into a file of its caller's. Root of the default zone can do without. Who has begun to
/// measure the process since [`execute`] would go on doing so in the new zone: it ends here. What it asks of
/// an io_uring whose maker's thread takes requests up (SQPOLL) would be done in its maker's name: it loses those.
pub(crate) fn executed() {
    // Descriptors may have to be closed.
    let inside = ptrmap::read(|_| Sleeper::enter());
    let Some(task) = task::current() else {
        return;
    };
    let [from, to] = tasks::commit(task);
    ptrmap::read(|held| owners::CREDS.set(task.credentials(held).key(), to));
    if from == to {
        return;
    }
    if !(from == ScId::DEFAULT && task::is_root()) {
        task::drop_core();
    }
    let may_keep = || {
        let decision = policy::with(|policy, _| refuse(policy, Reason::UnsafeExec));
        conclude(decision, (from, to), "bprm_committed_creds")
    };
    if task::is_measured() && may_keep().is_err() {
        task::end();
    }
    if task::holds_polled_ring() && may_keep().is_err() {
        task::close_polled_rings(&inside);
    }
}

/// The running process makes a task, which is what it is.
pub(crate) fn cloned(child: TaskRef<'_>) -> Result {
    // Memory may have to be waited for.
    let _inside = ptrmap::read(|_| Sleeper::enter());
    tasks::inherit(child)
}

/// A task is no more.
pub(crate) fn ended(task: TaskRef<'_>) {
    tasks::forget(task);
}
