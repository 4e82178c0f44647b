// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that images decide as their rules say: against a naive oracle that walks over all rules, that adding a grant
//! never removes a permit, and that no bytes make validation or a look-up panic.

use dsi_engine::image::{
    header, port_mask, HostingEntry, Image, ImageError, NetworkEntry, ProcessEntry, SocketEntry,
    SocketLabelEntry, SystemEntry, TransitionEntry,
};
use dsi_engine::outside::{Address, OutsideEntry, IPV4_PREFIX};
use dsi_engine::policy::Tuple;
use dsi_engine::{
    Decision, NetworkPermission, Peer, Policy, PolicyMeta, ProcessPermission, Reason, Remote, ScId,
    SnId, SocketPermission, SystemPermission,
};
use dsp_schema::image::Contents;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;

// Few ids, so that rules and questions meet.
fn scid() -> impl Strategy<Value = ScId> {
    (2_u32..6).prop_map(ScId)
}

fn end() -> impl Strategy<Value = ScId> {
    prop_oneof![4 => scid(), 1 => Just(ScId::OUTSIDE)]
}

fn any_node() -> impl Strategy<Value = SnId> {
    (0_u16..3).prop_map(SnId::from_u16)
}

fn asked_scid() -> impl Strategy<Value = ScId> {
    prop_oneof![1 => (0_u32..2).prop_map(ScId), 8 => end()]
}

fn masks(known: u16) -> impl Strategy<Value = (u16, u16)> {
    (any::<u16>(), any::<u16>(), any::<bool>())
        .prop_map(move |(allow, deny, denies)| {
            (allow & known, if denies { deny & known } else { 0 })
        })
        .prop_filter("says nothing", |(allow, deny)| allow | deny != 0)
}

/// Few addresses, near to each other, of both families.
fn address() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec![
        "192.0.2.1",
        "192.0.2.2",
        "192.0.3.1",
        "255.255.255.255",
        "0.0.0.1",
        "::1",
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8:0:1::1",
        "ffff:ffff::1",
    ])
    .prop_map(|text| text.parse().unwrap())
}

/// Where a peer outside is: its address, its port, and the zone's.
#[derive(Clone, Copy, Debug)]
struct There(IpAddr, u16, u16);

impl There {
    fn remote(self) -> Remote {
        Remote {
            address: Address::of(self.0),
            port: self.1,
            own_port: self.2,
        }
    }
}

fn there() -> impl Strategy<Value = There> {
    (address(), 1_u16..9, 1_u16..9).prop_map(|(address, port, own)| There(address, port, own))
}

fn outside() -> impl Strategy<Value = OutsideEntry> {
    let bits = prop::sample::select(vec![0_u8, 1, 8, 23, 24, 32, 48, 63, 64, 65, 127, 128]);
    (
        any::<bool>(),
        scid(),
        any_node(),
        (address(), bits),
        (1_u16..9, 0_u16..4),
        masks(NetworkPermission::MASK),
    )
        .prop_map(
            |(out, zone, node, (address, bits), (first, more), (allow, deny))| {
                let prefix = match address {
                    IpAddr::V4(_) => IPV4_PREFIX + bits.min(32),
                    IpAddr::V6(_) => bits,
                };
                let (source, target) = if out {
                    (zone, ScId::OUTSIDE)
                } else {
                    (ScId::OUTSIDE, zone)
                };
                OutsideEntry {
                    source,
                    target,
                    node,
                    allow,
                    deny,
                    prefix,
                    reserved: 0,
                    address: Address::of(address).first(prefix),
                    first,
                    last: first + more,
                    rule: 0,
                }
            },
        )
}

fn contents() -> impl Strategy<Value = Contents> {
    let sockets = proptest::collection::vec(
        (scid(), any_node(), scid(), masks(SocketPermission::MASK)),
        0..12,
    );
    let networks = proptest::collection::vec(
        (
            end(),
            any_node(),
            end(),
            any_node(),
            masks(NetworkPermission::MASK),
        ),
        0..12,
    );
    let transitions = proptest::collection::btree_map((scid(), scid()), scid(), 0..6);
    let hostings = proptest::collection::btree_set((any_node(), scid()), 0..6);
    let labels = proptest::collection::btree_map(
        (prop_oneof![Just(6_u8), Just(17)], 0_u8..=16, any::<u16>()),
        scid(),
        0..8,
    );
    let processes = proptest::collection::vec(
        (scid(), any_node(), scid(), masks(ProcessPermission::MASK)),
        0..8,
    );
    let systems =
        proptest::collection::vec((scid(), any_node(), masks(SystemPermission::MASK)), 0..8);
    let outsides = proptest::collection::vec(outside(), 0..12);
    let others = (
        processes,
        systems,
        any::<bool>(),
        any::<bool>(),
        outsides,
        any::<bool>(),
    );
    (
        any::<bool>(),
        any::<bool>(),
        others,
        sockets,
        networks,
        transitions,
        hostings,
        labels,
    )
        .prop_map(
            |(
                enforcing,
                default_allow,
                others,
                sockets,
                networks,
                transitions,
                hostings,
                labels,
            )| {
                let mut rule = 0;
                let mut next = || {
                    rule += 1;
                    rule
                };
                let mut contents = Contents {
                    version: 1,
                    enforcing,
                    default_allow,
                    reject: others.2,
                    unload: others.3,
                    every_packet: others.5,
                    ..Contents::default()
                };
                for (subject, node, target, (allow, deny)) in others.0 {
                    contents.processes.push(ProcessEntry {
                        subject,
                        target,
                        node,
                        allow,
                        deny,
                        reserved: 0,
                        rule: next(),
                    });
                }
                for (subject, node, (allow, deny)) in others.1 {
                    contents.systems.push(SystemEntry {
                        subject,
                        node,
                        allow,
                        deny,
                        reserved: 0,
                        rule: next(),
                    });
                }
                for (subject, node, target, (allow, deny)) in sockets {
                    contents.sockets.push(SocketEntry {
                        subject,
                        target,
                        node,
                        allow,
                        deny,
                        reserved: 0,
                        rule: next(),
                    });
                }
                for (source, source_node, target, target_node, (allow, deny)) in networks {
                    let nodeless = |scid, node| {
                        if scid == ScId::OUTSIDE {
                            SnId::NONE
                        } else {
                            node
                        }
                    };
                    contents.networks.push(NetworkEntry {
                        source,
                        target,
                        source_node: nodeless(source, source_node),
                        target_node: nodeless(target, target_node),
                        allow,
                        deny,
                        rule: next(),
                    });
                }
                for entry in others.4 {
                    contents.outsides.push(OutsideEntry {
                        rule: next(),
                        ..entry
                    });
                }
                for ((parent, binary), new) in transitions {
                    contents.transitions.push(TransitionEntry {
                        parent,
                        binary,
                        new,
                        rule: next(),
                    });
                }
                let mut hosted = BTreeMap::new();
                for (node, scid) in hostings {
                    let rule = next();
                    hosted.entry((SnId::NONE, scid)).or_insert(rule);
                    hosted.entry((node, scid)).or_insert(rule);
                }
                contents.hostings = hosted
                    .into_iter()
                    .map(|((node, scid), rule)| HostingEntry {
                        scid,
                        node,
                        reserved: 0,
                        rule,
                    })
                    .collect();
                let mut prefixes = BTreeMap::new();
                for ((protocol, prefix, port), scid) in labels {
                    prefixes.insert((protocol, prefix, port & port_mask(prefix)), scid);
                }
                for ((protocol, prefix, port), scid) in prefixes {
                    contents.labels.push(SocketLabelEntry {
                        protocol,
                        prefix,
                        port,
                        scid,
                        rule: next(),
                    });
                }
                contents.rules = rule;
                contents
            },
        )
}

/// What a look-up may not know: all rules, asked one by one.
struct Oracle<'c>(&'c Contents);

/// Whether an address is of the family of a rule's network, and begins with the same digits.
fn is_inside(address: IpAddr, rule: &OutsideEntry) -> bool {
    let digits = |address: Address| format!("{:064b}{:064b}", address.0, address.1);
    let (network, length) = (digits(rule.address), usize::from(rule.prefix));
    let is_ipv4 = length >= 96 && network[..96] == digits(Address(0, 0xFFFF << 32))[..96];
    is_ipv4 == address.is_ipv4() && network[..length] == digits(Address::of(address))[..length]
}

impl Oracle<'_> {
    fn settle(&self, allow: bool, deny: bool, implied: bool) -> Reason {
        match (deny, allow || implied || self.0.default_allow) {
            (true, _) => Reason::DeniedByRule,
            (false, true) => Reason::None,
            (false, false) => Reason::NoPermission,
        }
    }

    fn socket(
        &self,
        subject: ScId,
        node: SnId,
        target: ScId,
        permission: SocketPermission,
    ) -> Reason {
        if subject.0 < 2 {
            return Reason::None;
        }
        let named = || {
            self.0.sockets.iter().filter(move |rule| {
                rule.subject == subject
                    && rule.target == target
                    && (rule.node.is_none() || rule.node == node)
            })
        };
        let bit = permission.bit();
        self.settle(
            named().any(|rule| rule.allow & bit != 0),
            named().any(|rule| rule.deny & bit != 0),
            subject.0 == 2 && target.0 == 2,
        )
    }

    /// (granted, denied)
    fn network(
        &self,
        source: Peer,
        target: Peer,
        permission: NetworkPermission,
        there: There,
    ) -> (bool, bool) {
        let everywhere = self
            .0
            .networks
            .iter()
            .filter(|rule| {
                rule.source == source.scid
                    && rule.target == target.scid
                    && (rule.source_node.is_none() || rule.source_node == source.snid)
                    && (rule.target_node.is_none() || rule.target_node == target.snid)
            })
            .map(|rule| (rule.allow, rule.deny));
        let port = if target == Peer::OUTSIDE {
            there.1
        } else {
            there.2
        };
        let somewhere = self
            .0
            .outsides
            .iter()
            .filter(|rule| {
                let zone = if rule.source == ScId::OUTSIDE {
                    target
                } else {
                    source
                };
                (source == Peer::OUTSIDE || target == Peer::OUTSIDE)
                    && rule.source == source.scid
                    && rule.target == target.scid
                    && (rule.node.is_none() || rule.node == zone.snid)
                    && is_inside(there.0, rule)
                    && (rule.first..=rule.last).contains(&port)
            })
            .map(|rule| (rule.allow, rule.deny));
        let bit = permission.bit();
        everywhere
            .chain(somewhere)
            .fold((false, false), |(granted, denied), (allow, deny)| {
                (granted || allow & bit != 0, denied || deny & bit != 0)
            })
    }

    fn exempt(sender: Peer, receiver: Peer) -> Option<Reason> {
        match (sender.scid.0, receiver.scid.0) {
            (_, 0 | 1) => Some(Reason::None),
            (0, _) => Some(Reason::KernelLabel),
            (1, _) => Some(Reason::NoPermission),
            _ => None,
        }
    }

    fn datagram(&self, sender: Peer, receiver: Peer, there: There) -> Reason {
        Self::exempt(sender, receiver).unwrap_or_else(|| {
            let (send, no_send) = self.network(sender, receiver, NetworkPermission::Send, there);
            let (receive, no_receive) =
                self.network(receiver, sender, NetworkPermission::Receive, there);
            self.settle(send || receive, no_send || no_receive, false)
        })
    }

    fn connect(&self, initiator: Peer, listener: Peer, there: There) -> Reason {
        Self::exempt(initiator, listener).unwrap_or_else(|| {
            let (grant, deny) =
                self.network(initiator, listener, NetworkPermission::Connect, there);
            self.settle(grant, deny, false)
        })
    }

    fn multicast(&self, source: Peer, target: Peer, there: There) -> Reason {
        if source.scid.0 < 2 || target.scid.0 < 2 {
            return Reason::None;
        }
        let (grant, deny) = self.network(source, target, NetworkPermission::Multicast, there);
        self.settle(grant, deny, false)
    }

    fn process(
        &self,
        subject: ScId,
        node: SnId,
        target: ScId,
        permission: ProcessPermission,
    ) -> Reason {
        match (subject.0, target.0) {
            (0 | 1, _) | (_, 0) => return Reason::None,
            (2, 1) if permission != ProcessPermission::Trace => return Reason::None,
            (_, 1) => return Reason::NoPermission,
            _ => {}
        }
        let named = || {
            self.0.processes.iter().filter(move |rule| {
                rule.subject == subject
                    && rule.target == target
                    && (rule.node.is_none() || rule.node == node)
            })
        };
        let bit = permission.bit();
        self.settle(
            named().any(|rule| rule.allow & bit != 0),
            named().any(|rule| rule.deny & bit != 0),
            subject == target,
        )
    }

    fn system(&self, subject: ScId, node: SnId, permission: SystemPermission) -> Reason {
        if subject.0 < 2 {
            return Reason::None;
        }
        let named = || {
            self.0.systems.iter().filter(move |rule| {
                rule.subject == subject && (rule.node.is_none() || rule.node == node)
            })
        };
        let bit = permission.bit();
        self.settle(
            named().any(|rule| rule.allow & bit != 0),
            named().any(|rule| rule.deny & bit != 0),
            subject.0 == 2,
        )
    }

    fn hosting(&self, node: SnId, scid: ScId) -> Reason {
        let mut named = self
            .0
            .hostings
            .iter()
            .filter(|rule| rule.scid == scid)
            .peekable();
        if scid.0 < 2 || named.peek().is_none() || named.any(|rule| rule.node == node) {
            Reason::None
        } else {
            Reason::NotHosted
        }
    }

    fn transition(&self, parent: ScId, binary: ScId) -> (Reason, ScId) {
        if parent.0 < 2 || binary.0 == 0 || parent == binary {
            return (Reason::None, parent);
        }
        match self
            .0
            .transitions
            .iter()
            .find(|rule| rule.parent == parent && rule.binary == binary)
        {
            Some(rule) => (Reason::None, rule.new),
            None if self.0.default_allow => (Reason::None, parent),
            None => (Reason::NoTransition, parent),
        }
    }

    fn label(&self, protocol: u8, port: u16) -> Option<ScId> {
        let covers = |rule: &&SocketLabelEntry| {
            rule.protocol == protocol && port & port_mask(rule.prefix) == rule.port
        };
        self.0
            .labels
            .iter()
            .filter(covers)
            .max_by_key(|rule| rule.prefix)
            .map(|rule| rule.scid)
    }
}

/// Reason as expected, and the rest of the decision as mode and reason demand.
fn agrees(contents: &Contents, decision: Decision, expected: Reason) -> Result<(), TestCaseError> {
    prop_assert_eq!(decision.reason, expected);
    let refusal = expected != Reason::None;
    prop_assert_eq!(decision.permit, !refusal || !contents.enforcing);
    prop_assert_eq!(decision.audit, refusal);
    prop_assert!(decision.rule <= contents.rules);
    // A denial by a rule names the rule.
    prop_assert!(expected != Reason::DeniedByRule || decision.rule != 0);
    Ok(())
}

/// Every question about the few ids that rules are about.
fn ask_all(policy: &Policy<'_>, mut answer: impl FnMut(Decision)) {
    let scids = [0, 1, 2, 3, 4, 5, u32::MAX].map(ScId);
    let nodes = [0, 1, 2, 3].map(SnId::from_u16);
    let mut peers = Vec::new();
    for scid in scids {
        for snid in nodes {
            peers.push(Peer { scid, snid });
        }
    }
    let there = ["192.0.2.1", "2001:db8::1"].map(|text| There(text.parse().unwrap(), 2, 3));
    for from in &peers {
        for to in &peers {
            for there in there.map(There::remote) {
                answer(policy.network_datagram(*from, *to, &there));
                answer(policy.network_connect(*from, *to, &there));
                answer(policy.network_multicast(*from, *to, &there));
            }
        }
        answer(policy.hosting(from.snid, from.scid));
        for target in scids {
            for permission in SocketPermission::ALL {
                answer(policy.socket(from.scid, from.snid, target, *permission));
            }
            for permission in ProcessPermission::ALL {
                answer(policy.process(from.scid, from.snid, target, *permission));
            }
        }
        for permission in SystemPermission::ALL {
            answer(policy.system(from.scid, from.snid, *permission));
        }
    }
    for parent in scids {
        for binary in scids {
            answer(policy.transition(parent, binary).decision);
        }
    }
    for port in [0, 1, 255, 256, 8800, u16::MAX] {
        let _ = policy.socket_label(6, port);
        let _ = policy.socket_label(17, port);
    }
}

proptest! {
    #[test]
    fn decisions_agree_with_the_oracle(
        contents in contents(),
        from in (asked_scid(), any_node()),
        to in (asked_scid(), any_node()),
        there in there(),
        port: u16,
    ) {
        let bytes = contents.write().unwrap();
        let image = Image::validate(&bytes).unwrap();
        let policy = image.policy();
        let oracle = Oracle(&contents);
        let peer = |(scid, snid)| if scid == ScId::OUTSIDE { Peer::OUTSIDE } else { Peer { scid, snid } };
        let (from, to, remote) = (peer(from), peer(to), there.remote());
        agrees(&contents, policy.network_datagram(from, to, &remote), oracle.datagram(from, to, there))?;
        agrees(&contents, policy.network_connect(from, to, &remote), oracle.connect(from, to, there))?;
        agrees(&contents, policy.hosting(from.snid, from.scid), oracle.hosting(from.snid, from.scid))?;
        for permission in SocketPermission::ALL {
            agrees(
                &contents,
                policy.socket(from.scid, from.snid, to.scid, *permission),
                oracle.socket(from.scid, from.snid, to.scid, *permission),
            )?;
        }
        agrees(&contents, policy.network_multicast(from, to, &remote), oracle.multicast(from, to, there))?;
        for permission in ProcessPermission::ALL {
            agrees(
                &contents,
                policy.process(from.scid, from.snid, to.scid, *permission),
                oracle.process(from.scid, from.snid, to.scid, *permission),
            )?;
        }
        for permission in SystemPermission::ALL {
            agrees(
                &contents,
                policy.system(from.scid, from.snid, *permission),
                oracle.system(from.scid, from.snid, *permission),
            )?;
        }
        prop_assert_eq!(policy.meta().reject(), contents.reject);
        prop_assert_eq!(policy.meta().every_packet(), contents.every_packet);
        prop_assert_eq!(policy.meta().unload(), contents.unload || !contents.enforcing);
        let transition = policy.transition(from.scid, to.scid);
        let (reason, scid) = oracle.transition(from.scid, to.scid);
        agrees(&contents, transition.decision, reason)?;
        prop_assert_eq!(transition.scid, scid);
        for protocol in [6, 17] {
            prop_assert_eq!(policy.socket_label(protocol, port).map(|(scid, _)| scid), oracle.label(protocol, port));
        }
    }

    #[test]
    fn adding_a_grant_never_removes_a_permit(
        contents in contents(),
        tuple in (end(), end()),
        socket in (scid(), any_node(), scid()),
        outside in outside(),
        bits: u16,
    ) {
        let before = contents.write().unwrap();
        let mut more = contents.clone();
        more.rules += 5;
        more.outsides.push(OutsideEntry {
            allow: (bits & NetworkPermission::MASK).max(1),
            deny: 0,
            rule: more.rules - 4,
            ..outside
        });
        more.networks.push(NetworkEntry {
            source: tuple.0,
            target: tuple.1,
            source_node: SnId::NONE,
            target_node: SnId::NONE,
            allow: (bits & NetworkPermission::MASK).max(1),
            deny: 0,
            rule: more.rules,
        });
        more.sockets.push(SocketEntry {
            subject: socket.0,
            target: socket.2,
            node: socket.1,
            allow: (bits & SocketPermission::MASK).max(1),
            deny: 0,
            reserved: 0,
            rule: more.rules - 1,
        });
        more.processes.push(ProcessEntry {
            subject: socket.0,
            target: socket.2,
            node: socket.1,
            allow: (bits & ProcessPermission::MASK).max(1),
            deny: 0,
            reserved: 0,
            rule: more.rules - 2,
        });
        more.systems.push(SystemEntry {
            subject: socket.0,
            node: socket.1,
            allow: (bits & SystemPermission::MASK).max(1),
            deny: 0,
            reserved: 0,
            rule: more.rules - 3,
        });
        let after = more.write().unwrap();
        let mut permits = Vec::new();
        ask_all(&Image::validate(&before).unwrap().policy(), |decision| permits.push(decision.permit));
        let mut kept = permits.iter();
        let mut removed = 0;
        ask_all(&Image::validate(&after).unwrap().policy(), |decision| {
            if kept.next() == Some(&true) && !decision.permit {
                removed += 1;
            }
        });
        prop_assert_eq!(removed, 0);
    }

    #[test]
    fn the_order_of_contents_does_not_matter(contents in contents()) {
        let mut reversed = contents.clone();
        reversed.sockets.reverse();
        reversed.networks.reverse();
        reversed.outsides.reverse();
        reversed.transitions.reverse();
        reversed.hostings.reverse();
        reversed.processes.reverse();
        reversed.systems.reverse();
        reversed.labels.reverse();
        prop_assert_eq!(contents.write(), reversed.write());
    }

    #[test]
    fn any_bytes_give_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Image::validate(&bytes).is_err());
    }

    #[test]
    fn damaged_images_are_refused_or_harmless(
        contents in contents(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = contents.write().unwrap();
        let meta = Image::validate(&bytes).unwrap().meta();
        for (at, byte) in damage {
            *at.get_mut(&mut bytes) = byte;
        }
        if let Ok(image) = Image::validate(&bytes) {
            ask_all(&image.policy(), |_| {});
        }
        // A caller that pairs bytes with the meta of others gets wrong answers at worst, and soon.
        ask_all(&Policy::from_validated(&bytes, &meta), |_| {});
    }

    #[test]
    fn truncated_images_are_refused_and_refuse(contents in contents(), at: prop::sample::Index) {
        let bytes = contents.write().unwrap();
        let meta = Image::validate(&bytes).unwrap().meta();
        let short = &bytes[..at.index(bytes.len())];
        prop_assert!(Image::validate(short).is_err());
        let longer = [&bytes[..], &[0; 8]].concat();
        prop_assert!(Image::validate(&longer).is_err());
        let zone = Peer { scid: ScId(3), snid: SnId::from_u16(1) };
        let remote = There(IpAddr::from([192, 0, 2, 1]), 2, 3).remote();
        prop_assert!(!Policy::from_validated(short, &meta).network_datagram(zone, zone, &remote).permit);
    }
}

fn sound() -> Vec<u8> {
    let tuple = Tuple {
        source: ScId(10),
        source_node: SnId::NONE,
        target: ScId(10),
        target_node: SnId::NONE,
    };
    Contents {
        version: 3,
        rules: 2,
        enforcing: true,
        networks: vec![NetworkEntry {
            source: tuple.source,
            target: tuple.target,
            source_node: tuple.source_node,
            target_node: tuple.target_node,
            allow: 1,
            deny: 0,
            rule: 1,
        }],
        hostings: vec![
            HostingEntry {
                scid: ScId(10),
                node: SnId::NONE,
                reserved: 0,
                rule: 2,
            },
            HostingEntry {
                scid: ScId(10),
                node: SnId::from_u16(1),
                reserved: 0,
                rule: 2,
            },
        ],
        ..Contents::default()
    }
    .write()
    .unwrap()
}

#[test]
fn each_field_of_the_header_is_checked() {
    let meta: PolicyMeta = Image::validate(&sound()).unwrap().meta();
    assert_eq!(
        (
            meta.version(),
            meta.rules(),
            meta.enforcing(),
            meta.default_allow()
        ),
        (3, 2, true, false)
    );
    for (at, byte) in [
        (header::MAGIC, b'X'),
        (header::MAGIC + 7, 2), // the version before
        (header::MAGIC + 7, 4),
        (header::TOTAL_LEN, 1),
        (header::HEADER_LEN, 64),
        (header::VERSION, 0),
        (header::FLAGS + 1, 2),
        (header::FLAGS, 1 | 1 << 2), // a flag of rules that are not there
        (header::RULES, 1),
        (header::SECTIONS, 5),
        (header::PORT_PREFIXES, 1),
        (header::RESERVED, 1),
        (127, 1),
    ] {
        let mut bytes = sound();
        bytes[at] = byte;
        let error: ImageError = Image::validate(&bytes).expect_err("damaged");
        let told = error.to_string();
        assert!(
            told.starts_with(&format!("policy image, byte {}: expected ", error.offset)),
            "{told}"
        );
        if at != header::RULES {
            assert!(
                error.offset <= at && at < error.offset + 8,
                "damage at {at}, told: {told}"
            );
        }
    }
}

#[test]
fn a_hosting_without_its_mark_is_refused() {
    let only = |node: u16| HostingEntry {
        scid: ScId(10),
        node: SnId::from_u16(node),
        reserved: 0,
        rule: 1,
    };
    let image = |hostings| {
        Contents {
            version: 1,
            rules: 1,
            hostings,
            ..Contents::default()
        }
        .write()
        .unwrap()
    };
    assert!(Image::validate(&image(vec![only(1)])).is_err());
    assert!(Image::validate(&image(vec![only(1), only(0)])).is_ok());
    let nobody = image(vec![only(0)]);
    let decision = Image::validate(&nobody)
        .unwrap()
        .policy()
        .hosting(SnId::from_u16(1), ScId(10));
    assert_eq!(decision.reason, Reason::NotHosted);
}

#[test]
fn reserved_scids_are_refused_in_an_image() {
    for scid in [0, 1, u32::MAX] {
        let contents = Contents {
            version: 1,
            rules: 1,
            transitions: vec![TransitionEntry {
                parent: ScId(2),
                binary: ScId(10),
                new: ScId(scid),
                rule: 1,
            }],
            ..Contents::default()
        };
        assert!(
            Image::validate(&contents.write().unwrap()).is_err(),
            "transition to {scid}"
        );
    }
}

#[test]
fn a_rule_takes_at_most_24_bytes() {
    let networks = (0..10_000_u32)
        .map(|n| NetworkEntry {
            source: ScId(2 + n % 100),
            target: ScId(2 + n / 100),
            source_node: SnId::NONE,
            target_node: SnId::NONE,
            allow: 7,
            deny: 0,
            rule: n + 1,
        })
        .collect();
    let contents = Contents {
        version: 1,
        rules: 10_000,
        networks,
        ..Contents::default()
    };
    let bytes = contents.write().unwrap();
    Image::validate(&bytes).unwrap();
    assert!(bytes.len() <= 24 * 10_000 + 512, "{} bytes", bytes.len());
}
