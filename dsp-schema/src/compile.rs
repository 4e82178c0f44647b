// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! From the model to the image. Deterministic: nothing but the model and the input goes in.

use crate::image::{Contents, WriteError};
use crate::model::{Dsp, Permissions, Place, RuleBody};
use dsi_engine::image::{
    AccessEntry, HostingEntry, NetworkEntry, SocketLabelEntry, SystemEntry, TransitionEntry,
};
use dsi_engine::outside::{Address, IPV4_PREFIX, OutsideEntry};
use dsi_engine::policy::Tuple;
use dsi_engine::{Mode, ScId, SnId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an image says that its document does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileInput {
    /// UUID of the cluster that the policy is for.
    pub cluster_uuid: [u8; 16],
    /// Version of the policy: above that of the one in force.
    pub version: u64,
}

/// Why a document gives no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Versions start at 1.
    #[error("policy version 0 is not possible; versions start at 1")]
    VersionZero,
    /// The image cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The image of a policy, ready to be signed.
pub fn compile(dsp: &Dsp, input: &CompileInput) -> Result<Vec<u8>, CompileError> {
    if input.version == 0 {
        return Err(CompileError::VersionZero);
    }
    Ok(contents(dsp, input).write()?)
}

fn contents(dsp: &Dsp, input: &CompileInput) -> Contents {
    let mut labels: BTreeMap<(u8, u8, u16), (ScId, u32)> = BTreeMap::new();
    let mut sockets = Merged::default();
    let mut networks = Merged::default();
    let mut outsides = Merged::default();
    let mut processes = Merged::default();
    let mut systems = Merged::default();
    let mut transitions: BTreeMap<(ScId, ScId), (ScId, u32)> = BTreeMap::new();
    let mut hostings: BTreeMap<(SnId, ScId), u32> = BTreeMap::new();
    for rule in &dsp.rules {
        match &rule.body {
            RuleBody::SocketLabel {
                protocol,
                first,
                last,
                new,
            } => {
                for (prefix, port) in prefixes(*first, *last) {
                    labels
                        .entry((*protocol, prefix, port))
                        .or_insert((*new, rule.id));
                }
            }
            RuleBody::SocketPermission {
                source,
                source_node,
                target,
                permissions,
            } => sockets.add((*source, *source_node, *target), *permissions, rule.id),
            RuleBody::NetworkPermission {
                tuple,
                place: None,
                permissions,
            } => networks.add(*tuple, *permissions, rule.id),
            RuleBody::NetworkPermission {
                tuple,
                place: Some(place),
                permissions,
            } => {
                for network in networks_of(place) {
                    let ports = place.ports.unwrap_or((0, u16::MAX));
                    outsides.add((*tuple, network, ports), *permissions, rule.id);
                }
            }
            RuleBody::ProcessPermission {
                source,
                source_node,
                target,
                permissions,
            } => processes.add((*source, *source_node, *target), *permissions, rule.id),
            RuleBody::SystemPermission {
                source,
                source_node,
                permissions,
            } => systems.add((*source, *source_node), *permissions, rule.id),
            RuleBody::Transition {
                parent,
                binary,
                new,
            } => {
                transitions
                    .entry((*parent, *binary))
                    .or_insert((*new, rule.id));
            }
            RuleBody::Hosting { node, scid } => {
                hostings.entry((SnId::NONE, *scid)).or_insert(rule.id);
                hostings.entry((*node, *scid)).or_insert(rule.id);
            }
        }
    }
    Contents {
        version: input.version,
        cluster: input.cluster_uuid,
        source_sha256: dsp.source_sha256,
        enforcing: dsp.mode == Mode::Enforcing,
        default_allow: dsp.default_allow,
        reject: dsp.reject,
        unload: dsp.unload,
        every_packet: dsp.every_packet,
        // A document has fewer rules than bytes, and those are bounded far below 2^32.
        rules: dsp.rules.len() as u32,
        labels: labels
            .into_iter()
            .map(
                |((protocol, prefix, port), (scid, rule))| SocketLabelEntry {
                    protocol,
                    prefix,
                    port,
                    scid,
                    rule,
                },
            )
            .collect(),
        sockets: sockets.access(),
        networks: networks
            .entries
            .into_iter()
            .map(|(tuple, p, rule)| {
                let Tuple {
                    source,
                    source_node,
                    target,
                    target_node,
                } = tuple;
                NetworkEntry {
                    source,
                    target,
                    source_node,
                    target_node,
                    allow: p.grant,
                    deny: p.deny,
                    rule,
                }
            })
            .collect(),
        outsides: outsides
            .entries
            .into_iter()
            .map(
                |((tuple, (address, prefix), (first, last)), p, rule)| OutsideEntry {
                    source: tuple.source,
                    target: tuple.target,
                    node: if tuple.source == ScId::OUTSIDE {
                        tuple.target_node
                    } else {
                        tuple.source_node
                    },
                    allow: p.grant,
                    deny: p.deny,
                    prefix,
                    reserved: 0,
                    address,
                    first,
                    last,
                    rule,
                },
            )
            .collect(),
        transitions: transitions
            .into_iter()
            .map(|((parent, binary), (new, rule))| TransitionEntry {
                parent,
                binary,
                new,
                rule,
            })
            .collect(),
        hostings: hostings
            .into_iter()
            .map(|((node, scid), rule)| HostingEntry {
                scid,
                node,
                reserved: 0,
                rule,
            })
            .collect(),
        processes: processes.access(),
        systems: systems
            .entries
            .into_iter()
            .map(|((subject, node), p, rule)| SystemEntry {
                subject,
                node,
                allow: p.grant,
                deny: p.deny,
                reserved: 0,
                rule,
            })
            .collect(),
    }
}

/// Permissions of tuples, each said by the first rule that says it: what later rules repeat takes no room and no
/// time of a look-up.
struct Merged<K> {
    said: BTreeMap<K, Permissions>,
    entries: Vec<(K, Permissions, u32)>,
}

impl<K> Default for Merged<K> {
    fn default() -> Self {
        Self {
            said: BTreeMap::new(),
            entries: Vec::new(),
        }
    }
}

impl<K: Ord + Copy> Merged<K> {
    fn add(&mut self, key: K, permissions: Permissions, rule: u32) {
        let said = self
            .said
            .entry(key)
            .or_insert(Permissions { grant: 0, deny: 0 });
        let new = Permissions {
            grant: permissions.grant & !said.grant,
            deny: permissions.deny & !said.deny,
        };
        said.grant |= new.grant;
        said.deny |= new.deny;
        if new.grant | new.deny != 0 {
            self.entries.push((key, new, rule));
        }
    }
}

impl Merged<(ScId, SnId, ScId)> {
    /// The entries of socket or of process permissions.
    fn access<const PROCESS: bool>(self) -> Vec<AccessEntry<PROCESS>> {
        self.entries
            .into_iter()
            .map(|((subject, node, target), p, rule)| AccessEntry {
                subject,
                target,
                node,
                allow: p.grant,
                deny: p.deny,
                reserved: 0,
                rule,
            })
            .collect()
    }
}

/// Networks as the image keeps them; of no network, the two that are all addresses of a family.
fn networks_of(place: &Place) -> Vec<(Address, u8)> {
    match place.network {
        Some((address @ IpAddr::V4(_), bits)) => vec![(Address::of(address), IPV4_PREFIX + bits)],
        Some((address, bits)) => vec![(Address::of(address), bits)],
        None => vec![
            (Address::of(Ipv4Addr::UNSPECIFIED.into()), IPV4_PREFIX),
            (Address::of(Ipv6Addr::UNSPECIFIED.into()), 0),
        ],
    }
}

/// The fewest prefixes (number of bits, first port) that cover a range of ports and nothing else.
fn prefixes(first: u16, last: u16) -> BTreeSet<(u8, u16)> {
    let mut found = BTreeSet::new();
    let (mut next, last) = (u32::from(first), u32::from(last));
    while next <= last {
        // The largest aligned block that starts here and does not reach beyond the end.
        let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
        let fitting = (last - next + 1).ilog2();
        let block = aligned.min(fitting).min(16);
        // Both fit: the block has at most 16 bits, and next is at most last, a port.
        found.insert(((16 - block) as u8, next as u16));
        next += 1 << block;
    }
    found
}
