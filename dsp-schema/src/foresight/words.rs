// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Zones, nodes, addresses, ports and rules as people write them.

use super::set::Set;
use super::survey::{IPV4, Space};
use super::{Compiled, Deed, End, Finding, Matter, Question, Step};
use crate::model::{Rule, RuleBody};
use crate::names::Names;
use dsi_engine::{NetworkPermission, Reason, ScId, SnId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Members of a set that a sentence names; machines get all of them.
const SHOWN: usize = 6;
/// A run of nodes or ports up to this long is named one by one.
const SHORT_RUN: u128 = 3;

/// A part of a whole, said in the shorter way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Brief {
    /// These.
    Only(Vec<String>),
    /// All but these.
    AnyBut(Vec<String>),
}

impl Brief {
    /// `None` for the whole.
    fn of(set: &Set, whole: &Set, spell: impl Fn(&Set) -> Vec<String>) -> Option<Self> {
        if set == whole {
            return None;
        }
        let (these, others) = (spell(set), spell(&whole.minus(set)));
        Some(if others.len() < these.len() {
            Self::AnyBut(others)
        } else {
            Self::Only(these)
        })
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Only(members) | Self::AnyBut(members)) = self;
        if matches!(self, Self::AnyBut(_)) {
            f.write_str("any but ")?;
        }
        let shown = members.len().min(SHOWN);
        f.write_str(&members[..shown].join(", "))?;
        match members.len() - shown {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The names of one policy, or of two.
#[derive(Clone, Debug)]
pub struct Words<'n> {
    names: &'n Names,
    /// The policy before, in which something may have had another name.
    before: Option<&'n Names>,
    /// ScIDs whose name is that of another one in the other policy.
    moved: BTreeSet<u32>,
}

impl<'n> Words<'n> {
    /// The names of a policy.
    pub fn of(names: &'n Names) -> Self {
        Self {
            names,
            before: None,
            moved: BTreeSet::new(),
        }
    }

    /// The names of a policy and of the one before. What the two call differently is told with its number.
    pub fn of_both(before: &'n Names, names: &'n Names) -> Self {
        let by_name: BTreeMap<&str, u32> =
            before.contexts().map(|(scid, name)| (name, scid)).collect();
        let moved = names
            .contexts()
            .filter_map(|(scid, name)| by_name.get(name).map(|other| (scid, *other)))
            .filter(|(scid, other)| scid != other)
            .flat_map(|(scid, other)| [scid, other])
            .collect();
        Self {
            names,
            before: Some(before),
            moved,
        }
    }

    /// A zone, or outside.
    pub fn zone(&self, scid: ScId) -> String {
        let now = self.names.context(scid.0);
        let before = self.before.and_then(|names| names.context(scid.0));
        match (now, before) {
            (Some(now), Some(before)) if now != before => {
                format!("{now} (ScID {scid}, before: {before})")
            }
            (Some(name), _) | (None, Some(name)) if self.moved.contains(&scid.0) => {
                format!("{name} (ScID {scid})")
            }
            (Some(name), _) | (None, Some(name)) => name.to_owned(),
            (None, None) => format!("ScID {scid}"),
        }
    }

    /// A node.
    pub fn node(&self, snid: u32) -> String {
        let name = self.names.node(snid);
        match name.or_else(|| self.before.and_then(|names| names.node(snid))) {
            Some(name) => name.to_owned(),
            None => snid.to_string(),
        }
    }

    /// Nodes; `None` for all that there may be.
    pub fn nodes(&self, set: &Set, whole: &Set) -> Option<Brief> {
        let node = |n: u128| u32::try_from(n).map_or_else(|_| n.to_string(), |n| self.node(n));
        Brief::of(set, whole, |set| runs(set, node))
    }

    /// Nodes, where any node would be possible.
    pub fn all_nodes(&self, set: &Set) -> Option<Brief> {
        self.nodes(set, &Set::range(1, u128::from(SnId::MAX)))
    }

    /// Ports and runs of them.
    pub fn port_list(&self, set: &Set) -> Vec<String> {
        runs(set, |port| port.to_string())
    }

    /// Addresses, as networks; `None` for all that there may be.
    pub fn addresses(&self, set: &Set, whole: &Set) -> Option<Brief> {
        Brief::of(set, whole, networks)
    }

    /// Ports; `None` for all that there may be. `none` is what has no port.
    pub fn ports(&self, set: &Set, whole: &Set) -> Option<Brief> {
        Brief::of(set, whole, |set| {
            let with = set.minus(&Set::one(0));
            let mut spelt = runs(&with, |port| port.to_string());
            if set.contains(0) {
                spelt.push("none".to_owned());
            }
            spelt
        })
    }

    /// Source and target of a matter, in a part of the whole that it could be about.
    pub fn ends(&self, matter: &Matter, space: &Space, whole: &Space) -> (String, String) {
        let remote = ports_text(self.ports(space.remote_ports(), whole.remote_ports()));
        let own = ports_text(self.ports(space.own_ports(), whole.own_ports()));
        let zone = |scid: ScId, nodes: &Set, all: &Set, ports: &str| {
            let name = self.zone(scid);
            let placed = match self.nodes(nodes, all) {
                None => name,
                Some(Brief::Only(only)) if only.len() == 1 => format!("{name}@{}", only[0]),
                Some(brief) => format!("{name} on nodes {brief}"),
            };
            format!("{placed}{ports}")
        };
        let outside = || {
            let place = match self.addresses(space.addresses(), whole.addresses()) {
                None => "outside".to_owned(),
                Some(Brief::Only(only)) if only.len() == 1 => format!("outside:{}", only[0]),
                Some(brief) => format!("outside ({brief})"),
            };
            format!("{place}{remote}")
        };
        let end = |scid, nodes, all| match scid {
            ScId::OUTSIDE => outside(),
            scid => zone(scid, nodes, all, &own),
        };
        (
            end(matter.source, space.source_nodes(), whole.source_nodes()),
            end(matter.target, space.target_nodes(), whole.target_nodes()),
        )
    }
}

fn ports_text(brief: Option<Brief>) -> String {
    match brief {
        None => String::new(),
        Some(Brief::Only(only)) if only == ["none"] => " without a port".to_owned(),
        Some(Brief::AnyBut(but)) if but == ["none"] => " with a port".to_owned(),
        Some(brief) => format!(" port {brief}"),
    }
}

/// Runs of numbers, short ones by what each is called.
fn runs(set: &Set, call: impl Fn(u128) -> String) -> Vec<String> {
    let mut spelt = Vec::new();
    for (first, last) in set.ranges() {
        if last - first < SHORT_RUN {
            spelt.extend((*first..=*last).map(&call));
        } else {
            spelt.push(format!("{first}-{last}"));
        }
    }
    spelt
}

/// The fewest networks that hold these addresses and no other, IPv4 first.
fn networks(set: &Set) -> Vec<String> {
    let ipv4 = Set::range(IPV4.0, IPV4.1);
    let mut spelt = Vec::new();
    for (part, width, is_ipv4) in [
        (set.intersection(&ipv4), 32, true),
        (set.minus(&ipv4), 128, false),
    ] {
        // All of IPv6 is one network to people, although the numbers of IPv4's addresses lie in it.
        let part = if !is_ipv4 && part == Set::range(0, u128::MAX).minus(&ipv4) {
            Set::range(0, u128::MAX)
        } else {
            part
        };
        for (first, last) in part.ranges() {
            let mut next = Some(*first);
            while let Some(start) = next.filter(|start| start <= last) {
                let aligned = start.trailing_zeros().min(width);
                let fitting = match (last - start).checked_add(1) {
                    Some(len) => len.ilog2(),
                    None => 128,
                };
                let bits = aligned.min(fitting);
                let address = if is_ipv4 {
                    // Its last four bytes are the address.
                    IpAddr::V4(Ipv4Addr::from_bits(start as u32))
                } else {
                    IpAddr::V6(Ipv6Addr::from_bits(start))
                };
                spelt.push(match width - bits {
                    prefix if prefix == width => address.to_string(),
                    prefix => format!("{address}/{prefix}"),
                });
                next = 1_u128
                    .checked_shl(bits)
                    .and_then(|len| start.checked_add(len));
            }
        }
    }
    spelt
}

impl Rule {
    /// Element, id, place and comment.
    pub fn in_words(&self, file: &str) -> String {
        let id = self
            .xml_id
            .as_ref()
            .map_or_else(String::new, |id| format!(" \"{id}\""));
        let comment = self
            .comment
            .as_ref()
            .map_or_else(String::new, |text| format!(": {text}"));
        format!("{}{id} ({file}:{}){comment}", self.body.kind(), self.line)
    }
}

impl Compiled {
    /// A rule in words. `file` is what the document is called.
    pub fn rule_in_words(&self, id: u32, file: &str) -> String {
        match self.rule(id) {
            Some(rule) => rule.in_words(file),
            None => "no rule".to_owned(),
        }
    }

    /// What the engine said, in words.
    pub fn in_words(&self, question: &Question, finding: &Finding, file: &str) -> String {
        let words = Words::of(&self.names);
        let rule = self.rule_in_words(finding.rule, file);
        match (finding.step, finding.reason) {
            (Step::SourceHosting | Step::TargetHosting, reason) => {
                let zone = match (question, finding.step) {
                    (Question::Host { scid, .. }, _) => *scid,
                    (Question::Permission { target, .. }, Step::TargetHosting) => target.scid,
                    (Question::Permission { source, .. }, _) => source.scid,
                    (Question::Execute { parent, .. }, _) => *parent,
                };
                let zone = words.zone(zone);
                match (reason, finding.rule) {
                    (Reason::None, 0) => {
                        format!("any node may speak for {zone}: no hosting rule names it")
                    }
                    (Reason::None, _) => format!("the node may speak for {zone} by {rule}"),
                    _ => format!("denied: only other nodes may speak for {zone}, as by {rule}"),
                }
            }
            (Step::Transition, reason) => match (reason, finding.becomes) {
                (Reason::None, Some(scid)) if finding.rule == 0 => {
                    format!(
                        "allowed: no rule is needed, and it stays {}",
                        words.zone(scid)
                    )
                }
                (Reason::None, Some(scid)) => {
                    format!("allowed by {rule}, and it becomes {}", words.zone(scid))
                }
                (_, Some(scid)) => format!("it becomes {}, by {rule}", words.zone(scid)),
                _ => "denied: no transition grants it".to_owned(),
            },
            (Step::Permission, Reason::None) if finding.rule == 0 => {
                "allowed: no rule is needed and none denies it".to_owned()
            }
            (Step::Permission, Reason::None) => {
                format!("allowed by {rule}{}", self.way(question, finding))
            }
            (Step::Permission, Reason::DeniedByRule) => {
                format!("denied by {rule}{}", self.way(question, finding))
            }
            (Step::Permission, _) => "denied: no rule grants it".to_owned(),
        }
    }

    /// Of a datagram, which of the two permissions the rule is about.
    fn way(&self, question: &Question, finding: &Finding) -> String {
        let (
            Question::Permission {
                deed: Deed::Datagram,
                source,
                target,
                ..
            },
            Some(RuleBody::NetworkPermission {
                tuple, permissions, ..
            }),
        ) = (question, self.rule(finding.rule).map(|rule| &rule.body))
        else {
            return String::new();
        };
        let bits = match finding.reason {
            Reason::None => permissions.grant,
            _ => permissions.deny,
        };
        let words = Words::of(&self.names);
        let (sender, receiver) = (words.zone(source.scid), words.zone(target.scid));
        let sends = tuple.source == source.scid && tuple.target == target.scid;
        if sends && bits & NetworkPermission::Send.bit() != 0 {
            format!(" [{sender} sends to {receiver}]")
        } else {
            format!(" [{receiver} receives from {sender}]")
        }
    }

    /// The rule that would allow what no rule grants.
    pub fn remedy(&self, question: &Question) -> Option<String> {
        let words = Words::of(&self.names);
        let node = |end: &End, element: &str| match end.node.is_none() {
            true => String::new(),
            false => format!("<{element}>{}</{element}>", words.node(end.node.get())),
        };
        match question {
            Question::Execute {
                parent,
                binary,
                becomes,
            } => Some(format!(
                "<transition><parent_ScID>{}</parent_ScID><binary_ScID>{}</binary_ScID><new_ScID>{}</new_ScID></transition>",
                words.zone(*parent),
                words.zone(*binary),
                words.zone(becomes.unwrap_or(*binary)),
            )),
            Question::Host { node, scid } => Some(format!(
                "<hosting><SnID>{}</SnID><ScID>{}</ScID></hosting>",
                words.node(node.get()),
                words.zone(*scid)
            )),
            Question::Permission {
                deed,
                receive,
                source,
                target,
            } => {
                let element = format!("{}_permission", deed.class());
                // Who only says from which port may be answered, is the target of a permission to receive.
                let turned = *deed == Deed::Datagram
                    && (*receive || (source.ports.is_some() && target.ports.is_none()));
                let (from, to) = if turned {
                    (target, source)
                } else {
                    (source, target)
                };
                let permission = match turned {
                    true => NetworkPermission::Receive.name(),
                    false => deed.permission(),
                };
                let mut xml = format!(
                    "<{element}><source_ScID>{}</source_ScID>",
                    words.zone(from.scid)
                );
                xml += &node(from, "source_SnID");
                if !matches!(deed, Deed::System(_)) {
                    xml += &format!("<target_ScID>{}</target_ScID>", words.zone(to.scid));
                }
                xml += &node(to, "target_SnID");
                if let Some((address, bits)) = from.network.or(to.network) {
                    let whole = if address.is_ipv4() { 32 } else { 128 };
                    xml += &match bits == whole {
                        true => format!("<address>{address}</address>"),
                        false => format!("<address>{address}/{bits}</address>"),
                    };
                }
                if let Some((first, last)) = to.ports {
                    xml += &match first == last {
                        true => format!("<port>{first}</port>"),
                        false => format!("<port>{first}-{last}</port>"),
                    };
                }
                Some(format!("{xml}<grant>{permission}</grant></{element}>"))
            }
        }
    }
}
