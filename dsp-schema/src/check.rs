// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Contradictions between rules. Each names both places, at the later one of the two.

use crate::fault::{Fault, FaultKind};
use crate::model::{Permissions, Rule, RuleBody};
use dsi_engine::{NetworkPermission, ProcessPermission, SocketPermission, SystemPermission};
use std::collections::HashMap;
use std::hash::Hash;

const OTHER: &str = "the other rule";

/// All contradictions of a document's rules.
pub(crate) fn contradictions(rules: &[Rule]) -> Vec<Fault> {
    let mut faults = Vec::new();
    transitions(rules, &mut faults);
    labels(rules, &mut faults);

    let of_sockets = rules.iter().filter_map(|rule| match &rule.body {
        RuleBody::SocketPermission {
            source,
            source_node,
            target,
            permissions,
        } => Some(((*source, *source_node, *target), *permissions, rule)),
        _ => None,
    });
    permissions(of_sockets, SocketPermission::NAMED, &mut faults);

    let of_networks = rules.iter().filter_map(|rule| match &rule.body {
        RuleBody::NetworkPermission {
            tuple,
            place,
            permissions,
        } => Some(((*tuple, *place), *permissions, rule)),
        _ => None,
    });
    permissions(of_networks, NetworkPermission::NAMED, &mut faults);

    let of_processes = rules.iter().filter_map(|rule| match &rule.body {
        RuleBody::ProcessPermission {
            source,
            source_node,
            target,
            permissions,
        } => Some(((*source, *source_node, *target), *permissions, rule)),
        _ => None,
    });
    permissions(of_processes, ProcessPermission::NAMED, &mut faults);

    let of_systems = rules.iter().filter_map(|rule| match &rule.body {
        RuleBody::SystemPermission {
            source,
            source_node,
            permissions,
        } => Some(((*source, *source_node), *permissions, rule)),
        _ => None,
    });
    permissions(of_systems, SystemPermission::NAMED, &mut faults);
    faults
}

/// For each tuple and permission the first rule that grants and the first that denies it.
fn permissions<'r, K: Hash + Eq>(
    rules: impl Iterator<Item = (K, Permissions, &'r Rule)>,
    names: &[(&'static str, u16)],
    faults: &mut Vec<Fault>,
) {
    let all = names.iter().fold(0, |bits, (_, bit)| bits | bit);
    let mut seen: HashMap<K, Vec<(Permissions, &'r Rule)>> = HashMap::new();
    for (key, permissions, rule) in rules {
        let own = Permissions {
            grant: permissions.grant,
            deny: permissions.deny,
        };
        let earlier = seen.entry(key).or_default();
        // Within the rule first, then against each earlier rule that said something new.
        for (other, other_rule) in std::iter::once((own, rule)).chain(earlier.iter().copied()) {
            let both = own.grant & other.deny | own.deny & other.grant;
            if both == 0 {
                continue;
            }
            let permissions = names
                .iter()
                .filter(|(_, bit)| both & bit != 0)
                .map(|(name, _)| *name)
                .collect();
            let empty = |p: Permissions| p.grant == 0 && p.deny == all;
            let kind = FaultKind::GrantAndDeny {
                permissions,
                empty: empty(own) || empty(other),
            };
            let mut fault = Fault::new(kind, rule.span.clone());
            if other_rule.id != rule.id {
                fault = fault.with(other_rule.span.clone(), OTHER);
            }
            faults.push(fault);
        }
        let known = earlier
            .iter()
            .fold((0, 0), |(g, d), (p, _)| (g | p.grant, d | p.deny));
        let new = Permissions {
            grant: own.grant & !known.0,
            deny: own.deny & !known.1,
        };
        if new.grant | new.deny != 0 {
            earlier.push((new, rule));
        }
    }
}

fn transitions(rules: &[Rule], faults: &mut Vec<Fault>) {
    let mut seen: HashMap<_, (u32, &Rule)> = HashMap::new();
    for rule in rules {
        let RuleBody::Transition {
            parent,
            binary,
            new,
        } = rule.body
        else {
            continue;
        };
        match seen.get(&(parent, binary)) {
            Some((other, first)) if *other != new.0 => {
                let kind = FaultKind::TwoTransitions {
                    parent: parent.0,
                    binary: binary.0,
                    new: new.0,
                    other: *other,
                };
                faults.push(Fault::new(kind, rule.span.clone()).with(first.span.clone(), OTHER));
            }
            Some(_) => {}
            None => {
                seen.insert((parent, binary), (new.0, rule));
            }
        }
    }
}

/// Ranges that overlap with different ScIDs. Sorted by first port, a range contradicts if it starts within the one
/// that reaches furthest so far, or within the furthest one of another ScID.
fn labels(rules: &[Rule], faults: &mut Vec<Fault>) {
    for (protocol, name) in [(6, "tcp"), (17, "udp")] {
        let mut ranges: Vec<_> = rules
            .iter()
            .filter_map(|rule| match rule.body {
                RuleBody::SocketLabel {
                    protocol: p,
                    first,
                    last,
                    new,
                } if p == protocol => Some((first, last, new.0, rule)),
                _ => None,
            })
            .collect();
        ranges.sort_by_key(|(first, _, _, rule)| (*first, rule.id));
        // The furthest-reaching range, and the furthest-reaching one of any other ScID than its.
        let mut furthest: Option<(u16, u32, &Rule)> = None;
        let mut second: Option<(u16, u32, &Rule)> = None;
        for (first, last, new, rule) in ranges {
            for (reach, other, other_rule) in [furthest, second].into_iter().flatten() {
                if other == new || reach < first {
                    continue;
                }
                let (later, earlier) = if rule.id > other_rule.id {
                    (rule, other_rule)
                } else {
                    (other_rule, rule)
                };
                let (new, other) = if rule.id > other_rule.id {
                    (new, other)
                } else {
                    (other, new)
                };
                let kind = FaultKind::TwoLabels {
                    protocol: name,
                    port: first,
                    new,
                    other,
                };
                faults.push(Fault::new(kind, later.span.clone()).with(earlier.span.clone(), OTHER));
            }
            let this = (last, new, rule);
            match furthest {
                Some((reach, scid, _)) if scid == new => {
                    if last > reach {
                        furthest = Some(this);
                    }
                }
                Some((reach, ..)) if last > reach => {
                    second = furthest;
                    furthest = Some(this);
                }
                Some(_) => {
                    if second.is_none_or(|(reach, ..)| last > reach) {
                        second = Some(this);
                    }
                }
                None => furthest = Some(this),
            }
        }
    }
}
