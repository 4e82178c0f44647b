// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Two policies, and every decision in which they differ: not lines of text, but who may now do what to whom.
//!
//! Only what some rule of either names can differ, apart from what no rule names: that is one decision, the default.

use super::Compiled;
use super::set::{Ranges, Set};
use super::survey::{Held, Matter, Space, about, agree, coalesce, survey};
use dsi_engine::image::{Image, SocketLabelEntry, port_mask};
use dsi_engine::{Decision, ScId, SnId};
use std::collections::{BTreeMap, BTreeSet};

/// An attribute of the document, which is a decision about everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Its value in the policy before.
    pub before: &'static str,
    /// Its value in the policy after.
    pub after: &'static str,
}

/// A decision that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A permission, in a part of the space.
    Permission {
        /// Who, what, to whom.
        matter: Matter,
        /// Where.
        space: Space,
        /// Whether it is allowed now, and was not.
        allowed: bool,
    },
    /// What becomes of a process that executes a binary; `None` if it may not.
    Transition {
        /// ScID of the process.
        parent: ScId,
        /// Label of the binary.
        binary: ScId,
        /// ScID that it got.
        before: Option<ScId>,
        /// ScID that it gets.
        after: Option<ScId>,
    },
    /// Whose the sockets of some ports are; `None` for their process'.
    SocketLabel {
        /// IP protocol number.
        protocol: u8,
        /// The ports.
        ports: Set,
        /// ScID that they got.
        before: Option<ScId>,
        /// ScID that they get.
        after: Option<ScId>,
    },
    /// Whether nodes may speak for a zone.
    Hosting {
        /// The zone.
        scid: ScId,
        /// The nodes.
        nodes: Set,
        /// Whether they may now, and could not.
        allowed: bool,
    },
}

/// A decision that changes, and the rules that decide it in either policy; none is the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The decision.
    pub what: What,
    /// Rules of the policy before.
    pub before: BTreeSet<u32>,
    /// Rules of the policy after.
    pub after: BTreeSet<u32>,
}

/// All that differs between two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Attributes of the document. If `default` is among them, then all that no rule of either policy names differs.
    pub settings: Vec<Setting>,
    /// Decisions that a rule of either policy makes.
    pub changes: Vec<Change>,
}

impl Difference {
    /// Whether no decision differs.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.changes.is_empty()
    }
}

/// Compares two policies.
pub fn difference(before: &Compiled, after: &Compiled) -> Difference {
    let mut changes = permissions(before, after);
    changes.extend(transitions(before, after));
    changes.extend(labels(before, after));
    changes.extend(hostings(before, after));
    Difference {
        settings: settings(before, after),
        changes,
    }
}

fn settings(before: &Compiled, after: &Compiled) -> Vec<Setting> {
    let of = |policy: &Compiled| {
        let meta = &policy.meta;
        let word =
            |yes: bool, word: &'static str, other: &'static str| if yes { word } else { other };
        [
            ("mode", word(meta.enforcing(), "enforcing", "permissive")),
            ("default", word(meta.default_allow(), "allow", "deny")),
            ("refusal", word(meta.reject(), "reject", "drop")),
            ("unload", word(meta.unload(), "permit", "refuse")),
            (
                "tcp_labels",
                word(meta.every_packet(), "every-packet", "handshake"),
            ),
        ]
    };
    of(before)
        .into_iter()
        .zip(of(after))
        .filter(|(before, after)| before != after)
        .map(|((name, before), (_, after))| Setting {
            name,
            before,
            after,
        })
        .collect()
}

/// The rule of a decision, if one made it.
fn rule(decision: &Decision) -> BTreeSet<u32> {
    BTreeSet::from_iter((decision.rule != 0).then_some(decision.rule))
}

type Rules = (BTreeSet<u32>, BTreeSet<u32>);

fn join((before, after): &mut Rules, others: Rules) {
    before.extend(others.0);
    after.extend(others.1);
}

fn permissions(before: &Compiled, after: &Compiled) -> Vec<Change> {
    let same_default = before.meta.default_allow() == after.meta.default_allow();
    let (old, new) = (before.policy(), after.policy());
    let keys: BTreeSet<_> = before
        .claims
        .keys()
        .chain(after.claims.keys())
        .copied()
        .collect();
    let mut changes = Vec::new();
    for key @ (family, source, target) in keys {
        let of = |policy: &'_ Compiled| policy.claims.get(&key).cloned().unwrap_or_default();
        let (of_old, of_new) = (of(before), of(after));
        for deed in family.deeds() {
            let matter = Matter {
                deed,
                source,
                target,
            };
            if !matter.is_asked() {
                continue;
            }
            let held: Vec<Held<'_>> = about(&of_old, deed)
                .map(|claim| (0, claim))
                .chain(about(&of_new, deed).map(|claim| (1, claim)))
                .collect();
            // Without a claim the default decides; with the same ones, nothing can differ.
            let skip = |claims: &[Held<'_>], dimension: usize| {
                claims.is_empty() || (same_default && agree(deed, claims, dimension))
            };
            let mut parts: Vec<(bool, Space, Rules)> = Vec::new();
            survey(&held, &matter.domain(), &skip, &mut |space, _| {
                let Some(at) = space.point() else { return };
                let (was, is) = (matter.ask(&old, &at), matter.ask(&new, &at));
                if was.is_refusal() != is.is_refusal() {
                    parts.push((!is.is_refusal(), space.clone(), (rule(&was), rule(&is))));
                }
            });
            changes.extend(
                coalesce(parts, join)
                    .into_iter()
                    .map(|(allowed, space, rules)| Change {
                        what: What::Permission {
                            matter,
                            space,
                            allowed,
                        },
                        before: rules.0,
                        after: rules.1,
                    }),
            );
        }
    }
    changes
}

fn transitions(before: &Compiled, after: &Compiled) -> Vec<Change> {
    let (old, new) = (before.policy(), after.policy());
    let named: BTreeSet<(ScId, ScId)> = [before, after]
        .into_iter()
        .flat_map(Compiled::transitions)
        .collect();
    let mut changes = Vec::new();
    for (parent, binary) in named {
        let (was, is) = (
            old.transition(parent, binary),
            new.transition(parent, binary),
        );
        let became = |t: &dsi_engine::Transition| (!t.decision.is_refusal()).then_some(t.scid);
        if became(&was) != became(&is) {
            changes.push(Change {
                what: What::Transition {
                    parent,
                    binary,
                    before: became(&was),
                    after: became(&is),
                },
                before: rule(&was.decision),
                after: rule(&is.decision),
            });
        }
    }
    changes
}

/// The first ports from which on a label may be another.
fn edges(policy: &Compiled, protocol: u8) -> impl Iterator<Item = u32> {
    policy
        .labels()
        .into_iter()
        .filter(move |e| e.protocol == protocol)
        .flat_map(|e| {
            let first = u32::from(e.port);
            [first, first + u32::from(!port_mask(e.prefix)) + 1]
        })
}

fn labels(before: &Compiled, after: &Compiled) -> Vec<Change> {
    let (old, new) = (before.policy(), after.policy());
    let mut changes = Vec::new();
    for protocol in [6, 17] {
        // A socket that is bound to no port has no label by it.
        let mut starts = BTreeSet::from([1]);
        starts.extend(edges(before, protocol).chain(edges(after, protocol)));
        let mut found: BTreeMap<(Option<ScId>, Option<ScId>), (Ranges, Rules)> = BTreeMap::new();
        let starts: Vec<u16> = starts
            .into_iter()
            .filter_map(|start| u16::try_from(start).ok())
            .filter(|start| *start != 0)
            .collect();
        for (n, first) in starts.iter().enumerate() {
            let last = starts.get(n + 1).map_or(u16::MAX, |next| next - 1);
            let (was, is) = (
                old.socket_label(protocol, *first),
                new.socket_label(protocol, *first),
            );
            let scid = |label: Option<(ScId, u32)>| label.map(|(scid, _)| scid);
            if scid(was) != scid(is) {
                let (ports, rules) = found.entry((scid(was), scid(is))).or_default();
                ports.push((u128::from(*first), u128::from(last)));
                rules.0.extend(was.map(|(_, rule)| rule));
                rules.1.extend(is.map(|(_, rule)| rule));
            }
        }
        changes.extend(found.into_iter().map(|((was, is), (ports, rules))| Change {
            what: What::SocketLabel {
                protocol,
                ports: Set::of(ports),
                before: was,
                after: is,
            },
            before: rules.0,
            after: rules.1,
        }));
    }
    changes
}

fn hostings(before: &Compiled, after: &Compiled) -> Vec<Change> {
    let zones: BTreeSet<ScId> = before
        .hostings
        .keys()
        .chain(after.hostings.keys())
        .copied()
        .collect();
    let (old, new) = (before.policy(), after.policy());
    let mut changes = Vec::new();
    for scid in zones {
        let named: Set = Set::of(
            [before, after]
                .into_iter()
                .filter_map(|policy| policy.hostings.get(&scid))
                .flat_map(|nodes| nodes.keys())
                .map(|node| (u128::from(node.get()), u128::from(node.get())))
                .collect(),
        );
        let others = Set::range(1, u128::from(SnId::MAX)).minus(&named);
        // Each node that is named, and all others by one of them.
        let one_by_one = named
            .ranges()
            .iter()
            .flat_map(|(first, last)| *first..=*last)
            .map(Set::one);
        let mut found: BTreeMap<bool, (Ranges, Rules)> = BTreeMap::new();
        for nodes in one_by_one.chain([others]) {
            let node = nodes
                .first()
                .and_then(|n| u32::try_from(n).ok())
                .and_then(SnId::node);
            let Some(node) = node else { continue };
            let (was, is) = (old.hosting(node, scid), new.hosting(node, scid));
            if was.is_refusal() != is.is_refusal() {
                let (changed, rules) = found.entry(!is.is_refusal()).or_default();
                changed.extend_from_slice(nodes.ranges());
                rules.0.extend(before.hosting_rule(scid, node));
                rules.1.extend(after.hosting_rule(scid, node));
            }
        }
        changes.extend(found.into_iter().map(|(allowed, (nodes, rules))| Change {
            what: What::Hosting {
                scid,
                nodes: Set::of(nodes),
                allowed,
            },
            before: rules.0,
            after: rules.1,
        }));
    }
    changes
}

impl Compiled {
    fn transitions(&self) -> BTreeSet<(ScId, ScId)> {
        self.entries(|image| {
            image
                .entries::<dsi_engine::image::TransitionEntry>()
                .map(|e| (e.parent, e.binary))
                .collect()
        })
    }

    fn labels(&self) -> Vec<SocketLabelEntry> {
        self.entries(|image| image.entries().collect())
    }

    /// What a validated image holds; nothing, were it none.
    fn entries<T: Default>(&self, read: impl FnOnce(&Image<'_>) -> T) -> T {
        Image::validate(&self.image)
            .map(|image| read(&image))
            .unwrap_or_default()
    }
}
