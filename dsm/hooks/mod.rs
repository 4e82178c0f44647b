// SPDX-License-Identifier: GPL-2.0

//! What the module says to each question of the kernel's: one file per family of hooks. A hook
//! looks up who asks and about what, has the engine decide, and carries the decision out here;
//! it never reads kernel memory itself and knows no errno.
#![forbid(unsafe_code)]

pub(crate) mod arrival;
pub(crate) mod cred;
pub(crate) mod departure;
pub(crate) mod exec;
pub(crate) mod machine;
pub(crate) mod option;
pub(crate) mod process;
pub(crate) mod revoke;
pub(crate) mod socket;
pub(crate) mod unix;

use crate::audit::{self, Comm, Denial};
use crate::counters::{self, Event};
use crate::engine::{decide, Class, Decision, Flow, Mode, Peer, Policy, Reason, ScId, Told};
use crate::netlink::text::Text;
use crate::state::{self, policy};
use crate::sys::{params, task};
use core::net::{IpAddr, Ipv4Addr};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;

/// It does not go ahead.
pub(crate) struct Refused;

/// How it goes ahead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grant {
    /// Nothing speaks against it, so it need not be asked again in this generation.
    ByRight,
    /// It would be refused if the policy were enforced. Each time is told, so nothing may be
    /// remembered.
    Tolerated,
}

/// What a hook answers.
pub(crate) type Verdict = core::result::Result<(), Refused>;

/// A question, for the audit.
struct Question<'a> {
    class: Class,
    permission: &'static str,
    hook: &'static str,
    source: Peer,
    target: Peer,
    flow: Option<&'a Flow>,
}

/// Carries a decision out: counts and tells of a refusal, and says whether it goes ahead.
fn carry_out(decision: Decision, question: &Question<'_>) -> core::result::Result<Grant, Refused> {
    carry_out_to(decision, question, true)
}

/// The same; where locks are held that are needed to wake who listens to events (`!heard`), only the log
/// tells of it.
fn carry_out_to(
    decision: Decision,
    question: &Question<'_>,
    heard: bool,
) -> core::result::Result<Grant, Refused> {
    if decision.audit {
        tell(decision, question, heard);
    }
    match (decision.permit, decision.is_refusal()) {
        (true, false) => Ok(Grant::ByRight),
        (true, true) => Ok(Grant::Tolerated),
        (false, _) => Err(Refused),
    }
}

/// No address.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[cold]
fn tell(decision: Decision, question: &Question<'_>, heard: bool) {
    counters::add_refusal(decision.reason, !decision.permit);
    let (pid, comm) = if task::in_task() {
        audit::current()
    } else {
        (0, Comm::default())
    };
    let flow = question.flow.copied().unwrap_or(Flow {
        protocol: 0,
        saddr: NOWHERE,
        daddr: NOWHERE,
        sport: 0,
        dport: 0,
    });
    audit::denial(&Denial {
        enforced: !decision.permit,
        reason: decision.reason,
        class: question.class,
        permission: question.permission,
        source: question.source,
        target: question.target,
        protocol: flow.protocol,
        saddr: flow.saddr,
        daddr: flow.daddr,
        sport: flow.sport,
        dport: flow.dport,
        pid,
        comm,
        rule: decision.rule,
        hook: question.hook,
        call: if question.class == Class::System {
            task::system_call()
        } else {
            0
        },
        heard,
    });
}

/// Seconds after which the same refusal is told again.
const PERIOD: u64 = 600;

/// A refusal of a kind that comes again and again in the course of calls that nobody means ill by: it is
/// counted each time, but told to nobody if the same one has been told lately. In another policy it is
/// told anew.
#[inline]
fn unless_told<const SLOTS: usize>(
    mut decision: Decision,
    told: &Told<SLOTS>,
    (subject, what): (ScId, u32),
    generation: u64,
) -> Decision {
    if decision.audit && decision.is_refusal() {
        let period = (audit::seconds() / PERIOD) << 8 | generation & 0xFF;
        if !told.is_due(subject, what, task::system_call(), period as u16) {
            decision.audit = false;
            counters::add_refusal(decision.reason, !decision.permit);
            audit::withhold();
        }
    }
    decision
}

/// The period in which it was last told that an address is no node's.
static UNMAPPED: AtomicU64 = AtomicU64::new(u64::MAX);

/// An end of a packet between nodes has an address that is no node's: counted each time, told once in
/// a while. Any context.
#[cold]
fn note_unmapped(address: IpAddr, peer: IpAddr) {
    counters::add(Event::Unmapped);
    let period = audit::seconds() / PERIOD;
    if UNMAPPED.swap(period, Ordering::Relaxed) != period {
        pr_notice!(
            "{} is no node's address by the node map, so who uses it is outside to {} and its node, and they to him: \
             it is behind NAT, or the node map lacks it\n",
            Text::<45>::of(&address).as_str(),
            Text::<45>::of(&peer).as_str()
        );
    }
}

/// A refusal of what counts as outside for its address alone says so.
fn as_unmapped(decision: Decision, reason: Reason) -> Decision {
    match decision.reason {
        Reason::NoPermission | Reason::NoLabel => Decision { reason, ..decision },
        _ => decision,
    }
}

/// Has the policy decide; without one, all goes ahead, or on an enrolled node nothing but the
/// management's.
fn decide(
    policy: Option<&Policy<'_>>,
    subject: ScId,
    ask: impl FnOnce(&Policy<'_>) -> Decision,
) -> Decision {
    match policy {
        Some(policy) => ask(policy),
        None => decide::without_policy(params::enrolled(), subject),
    }
}

/// A refusal that no rule decided on.
fn refuse(policy: Option<&Policy<'_>>, reason: Reason) -> Decision {
    match policy {
        Some(policy) => policy.refuse(reason),
        None if params::enrolled() => Decision::refused(reason, 0),
        None => Decision::PERMIT,
    }
}

/// What is known of a generation: its number twice, plus one if nothing is refused in it, because
/// there is no policy and none is due.
static OPEN: AtomicU64 = AtomicU64::new(0);

/// Whether nothing is refused now. One comparison or two, once the generation is known.
#[inline(always)]
fn is_open(generation: u64) -> bool {
    let known = OPEN.load(Ordering::Relaxed);
    if known >> 1 == generation {
        known & 1 != 0
    } else {
        learn_open(generation)
    }
}

#[cold]
fn learn_open(generation: u64) -> bool {
    let open = policy::mode() == Mode::NoPolicy;
    // Only if nothing has changed since the generation was read is the mode that generation's.
    if state::generation() == generation {
        OPEN.store(generation << 1 | u64::from(open), Ordering::Relaxed);
    }
    open
}
