// SPDX-License-Identifier: GPL-2.0

//! May a process use a part of the machine, although it has the capability or the file's mode lets
//! it? Corresponds to `security_capable()`, `security_locked_down()`, `security_file_open()`,
//! `security_bpf()` and `security_perf_event_open()`.
//!
//! Any context, locks may be held: nothing here sleeps. The kernel itself is asked nothing. Without
//! a policy everything goes ahead; on an enrolled node what the default zone and the management
//! do: a node has to be able to start.

use super::{carry_out, cred, is_open, unless_told, Question, Verdict};
use crate::engine::{decide, Class, Decision, Peer, ScId, SystemPermission, Told};
use crate::state::{self, nodes, policy, tasks};
use crate::sys::params;
use crate::sys::ptrmap;
use crate::sys::task::CredRef;

/// May whoever acts use it?
pub(crate) fn access(permission: SystemPermission, hook: &'static str) -> Verdict {
    if is_open(state::generation()) {
        return Ok(());
    }
    let subject = ptrmap::read(tasks::current);
    conclude(decide(subject, permission), subject, permission, hook)
}

/// May these credentials' capability be used for it? `quiet`: nobody has asked to, the kernel wonders
/// what he may. It asks aloud, too, in the course of calls that go on without, so a refusal is counted
/// each time, but told once in a while.
pub(crate) fn capability(
    permission: SystemPermission,
    cred: CredRef<'_>,
    quiet: bool,
) -> Verdict {
    let generation = state::generation();
    if is_open(generation) {
        return Ok(());
    }
    let subject = ptrmap::read(|held| cred::actor(cred, held));
    static TOLD: Told<256> = Told::new();
    let mut decision = decide(subject, permission);
    if quiet {
        decision.audit = false;
    }
    let what = u32::from(permission.bit());
    let decision = unless_told(decision, &TOLD, (subject, what), generation);
    conclude(decision, subject, permission, "capable")
}

fn decide(subject: ScId, permission: SystemPermission) -> Decision {
    if subject.is_exempt() {
        return Decision::PERMIT;
    }
    let own = nodes::own();
    policy::with(|policy, _| match policy {
        Some(policy) => policy.system(subject, own, permission),
        None => decide::system_without_policy(params::enrolled(), subject),
    })
}

fn conclude(
    decision: Decision,
    subject: ScId,
    permission: SystemPermission,
    hook: &'static str,
) -> Verdict {
    if !decision.is_refusal() {
        return Ok(());
    }
    let own = nodes::own();
    let peer = |scid| Peer { scid, snid: own };
    carry_out(
        decision,
        &Question {
            class: Class::System,
            permission: permission.name(),
            hook,
            source: peer(subject),
            target: peer(ScId::KERNEL),
            flow: None,
        },
    )
    .map(drop)
}
