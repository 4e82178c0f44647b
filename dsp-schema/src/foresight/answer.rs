// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! One question. Where it leaves something open the answer may depend on it; then each case is told.

use super::survey::{
    ADDRESS, Claim, Held, OWN_PORT, REMOTE_PORT, SOURCE_NODE, Space, TARGET_NODE, about, coalesce,
    cuts, network, survey,
};
use super::{Compiled, Deed, End, Matter, Question, Set};
use dsi_engine::outside::{Address, IPV4_PREFIX};
use dsi_engine::{Decision, Reason, ScId, SnId};
use std::net::IpAddr;

/// The answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whatever the question leaves open.
    Allowed,
    /// Whatever the question leaves open.
    Denied,
    /// On what the question leaves open.
    Depends,
}

impl Verdict {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Depends => "depends",
        }
    }
}

/// One of the questions that the kernel asks before it lets something pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// May the source's node speak for it?
    SourceHosting,
    /// May the target's node, whose answers a connection needs, speak for it?
    TargetHosting,
    /// The permission.
    Permission,
    /// The transition.
    Transition,
}

impl Step {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SourceHosting => "source-hosting",
            Self::TargetHosting => "target-hosting",
            Self::Permission => "permission",
            Self::Transition => "transition",
        }
    }
}

/// What the engine said to one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The question.
    pub step: Step,
    /// Why it is refused; `none` if it is not. In permissive mode: why it would be.
    pub reason: Reason,
    /// The rule that decides, 0 for none. Of hosting: the one that names this node, or one that names another.
    pub rule: u32,
    /// What a process becomes.
    pub becomes: Option<ScId>,
}

impl Finding {
    fn of(step: Step, decision: Decision) -> Self {
        Self {
            step,
            reason: decision.reason,
            rule: decision.rule,
            becomes: None,
        }
    }

    /// Whether it goes ahead.
    pub fn is_allowed(&self) -> bool {
        self.reason == Reason::None
    }
}

/// What the answer is in a part of what the question leaves open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The part.
    pub space: Space,
    /// What the engine said there to each question, in the order in which the kernel asks.
    pub findings: Vec<Finding>,
}

impl Case {
    /// Whether all goes ahead.
    pub fn is_allowed(&self) -> bool {
        self.findings.iter().all(Finding::is_allowed)
    }
}

/// The answer, case by case; one case if nothing that was left open matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// All that was asked about.
    pub asked: Space,
    /// Its parts, the allowed ones first.
    pub cases: Vec<Case>,
}

impl Answer {
    /// In a word.
    pub fn verdict(&self) -> Verdict {
        let allowed = self.cases.iter().filter(|case| case.is_allowed()).count();
        match allowed {
            0 => Verdict::Denied,
            n if n == self.cases.len() => Verdict::Allowed,
            _ => Verdict::Depends,
        }
    }
}

impl Compiled {
    /// Answers a question.
    pub fn answer(&self, question: &Question) -> Answer {
        match question {
            Question::Permission {
                deed,
                source,
                target,
                ..
            } => self.permission(*deed, source, target),
            Question::Execute {
                parent,
                binary,
                becomes,
            } => {
                let transition = self.policy().transition(*parent, *binary);
                let mut finding = Finding::of(Step::Transition, transition.decision);
                if finding.is_allowed() {
                    finding.becomes = Some(transition.scid);
                    if becomes.is_some_and(|scid| scid != transition.scid) {
                        finding.reason = Reason::NoTransition;
                    }
                }
                single(finding)
            }
            Question::Host { node, scid } => {
                single(self.hosting(Step::SourceHosting, *node, *scid))
            }
        }
    }

    fn permission(&self, deed: Deed, source: &End, target: &End) -> Answer {
        let matter = Matter {
            deed,
            source: source.scid,
            target: target.scid,
        };
        let asked = matter.domain().intersection(&wanted(source, target));
        let key = (deed.family(), matter.source, matter.target);
        let claims = self.claims.get(&key).map_or(&[][..], Vec::as_slice);
        let mut hostings: Vec<(Step, ScId)> = Vec::new();
        if source.scid != ScId::OUTSIDE && target.scid != ScId::OUTSIDE {
            match deed {
                Deed::Datagram => hostings.push((Step::SourceHosting, source.scid)),
                Deed::Connection => hostings.extend([
                    (Step::SourceHosting, source.scid),
                    (Step::TargetHosting, target.scid),
                ]),
                _ => {}
            }
        }
        let cut: Vec<Claim> = hostings
            .iter()
            .flat_map(|(step, scid)| {
                let dimension = match step {
                    Step::TargetHosting => TARGET_NODE,
                    _ => SOURCE_NODE,
                };
                self.hostings
                    .get(scid)
                    .map_or_else(Vec::new, |nodes| cuts(nodes, dimension))
            })
            .collect();
        let held: Vec<Held<'_>> = about(claims, deed)
            .chain(&cut)
            .map(|claim| (0, claim))
            .collect();
        let mut parts = Vec::new();
        survey(&held, &asked, &|_, _| false, &mut |space, _| {
            let Some(at) = space.point() else { return };
            let mut findings: Vec<Finding> = hostings
                .iter()
                .map(|(step, scid)| match step {
                    Step::TargetHosting => self.hosting(*step, at.target_node, *scid),
                    _ => self.hosting(*step, at.source_node, *scid),
                })
                .collect();
            findings.push(Finding::of(
                Step::Permission,
                matter.ask(&self.policy(), &at),
            ));
            parts.push((findings, space.clone(), ()));
        });
        let mut cases: Vec<Case> = coalesce(parts, |(), ()| ())
            .into_iter()
            .map(|(findings, space, ())| Case { space, findings })
            .collect();
        cases.sort_by_key(|case| !case.is_allowed());
        Answer { asked, cases }
    }

    fn hosting(&self, step: Step, node: SnId, scid: ScId) -> Finding {
        let mut finding = Finding::of(step, self.policy().hosting(node, scid));
        finding.rule = self.hosting_rule(scid, node).unwrap_or(0);
        finding
    }

    /// The engine names no rule for hosting, as many make one answer: the one for this node, or the first of the zone's.
    pub(super) fn hosting_rule(&self, scid: ScId, node: SnId) -> Option<u32> {
        let nodes = self.hostings.get(&scid)?;
        nodes.get(&node).or(nodes.values().min()).copied()
    }
}

fn single(finding: Finding) -> Answer {
    let space = Space(std::array::from_fn(|_| Set::one(0)));
    Answer {
        asked: space.clone(),
        cases: vec![Case {
            space,
            findings: vec![finding],
        }],
    }
}

/// What the ends of a question leave open.
fn wanted(source: &End, target: &End) -> Space {
    let mut space = Space(std::array::from_fn(|_| Set::range(0, u128::MAX)));
    for (end, node) in [(source, SOURCE_NODE), (target, TARGET_NODE)] {
        if !end.node.is_none() {
            space.0[node] = Set::one(u128::from(end.node.get()));
        }
        let outside = end.scid == ScId::OUTSIDE;
        if let (Some((first, last)), port) =
            (end.ports, if outside { REMOTE_PORT } else { OWN_PORT })
        {
            space.0[port] = Set::range(u128::from(first), u128::from(last));
        }
        if let Some((address, bits)) = end.network {
            let prefix = match address {
                IpAddr::V4(_) => IPV4_PREFIX + bits,
                IpAddr::V6(_) => bits,
            };
            space.0[ADDRESS] = network(Address::of(address), prefix);
        }
    }
    space
}
