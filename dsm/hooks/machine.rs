// SPDX-License-Identifier: GPL-2.0

//! May a process use a part of the machine, although it has the capability or the file's mode lets
//! it? Corresponds to `security_capable()`, `security_locked_down()`, `security_file_open()`,
//! `security_bpf()` and `security_perf_event_open()`.
//!
//! Any context, locks may be held: nothing here sleeps. The kernel itself is asked nothing. Without
//! a policy everything goes ahead; on an enrolled node what the default zone and the management
//! do: a node has to be able to start.

use super::{carry_out, is_open, Question, Verdict};
use crate::engine::{decide, Class, Decision, Peer, ScId, SystemPermission};
use crate::state::{self, nodes, policy, tasks};
use crate::sys::params;
use crate::sys::ptrmap;

/// May whoever acts use it? `quiet`: he has not asked to, the kernel wonders what he may.
pub(crate) fn access(permission: SystemPermission, hook: &'static str, quiet: bool) -> Verdict {
    if is_open(state::generation()) {
        return Ok(());
    }
    let subject = ptrmap::read(tasks::current);
    if subject.is_exempt() {
        return Ok(());
    }
    let own = nodes::own();
    let decision = policy::with(|policy, _| match policy {
        Some(policy) => policy.system(subject, own, permission),
        None => decide::system_without_policy(params::enrolled(), subject),
    });
    if !decision.is_refusal() {
        return Ok(());
    }
    let peer = |scid| Peer { scid, snid: own };
    carry_out(
        Decision {
            audit: decision.audit && !quiet,
            ..decision
        },
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
