//! Attacks by the million: packets made from a seed, with what a receiver must do with each.
//!
//! The same code runs in the guest, which sends, and in the harness, which counts: neither asks the
//! other what was made. What must happen to a packet is found by [`fate`], which reads its bytes as the
//! kernel's IP layer and the docs of the label say, and shares no code with the module or its engine. A
//! packet whose fate it cannot tell for sure is not sent. What is delivered says [`COPIED`] in its data,
//! everything else [`FORGED`]: a receiver that sees the latter has seen a breach.
//!
//! One file a family of addresses for what is made, [`v4`] and [`v6`], and one for its fate, [`fate`], which also
//! knows labels, and [`fate6`]; [`packet`] is what both families have within, [`kinds`] chooses.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use fastrand::Rng;

pub mod fate;
pub mod fate6;
pub mod kinds;
pub mod packet;
pub mod v4;
pub mod v6;

/// First bytes of data that a receiver must never see.
pub const FORGED: &[u8; 6] = b"forged";
/// First bytes of data under the right label of its tuple: a copy, which no receiver can tell apart.
pub const COPIED: &[u8; 6] = b"copied";
/// First bytes of data upon which a receiver tells what it has seen.
pub const REPORT: &[u8; 6] = b"report";

/// The receiver.
pub const MUNSTER: u32 = 1;
/// The member whose administrator forges.
pub const COLBY: u32 = 2;
/// Address of the receiver.
pub const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Another address of the receiver.
pub const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
/// Address of the member.
pub const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Address of the stranger.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// IPv6 address of the receiver.
pub const RECEIVER6: Ipv6Addr = local(1);
/// Another one of its.
pub const SECOND6: Ipv6Addr = local(0x101);
/// IPv6 address of the member.
pub const MEMBER6: Ipv6Addr = local(2);
/// IPv6 address of the stranger.
pub const STRANGER6: Ipv6Addr = local(3);
/// The key epoch.
pub const EPOCH: u8 = 1;
/// The zone of the sockets under attack.
pub const ZONE: u32 = 10;
/// Their ports: two of UDP, and TCP's.
pub const ZONE_PORTS: [u16; 2] = [7010, 7011];
/// TCP's.
pub const FLOW_PORT: u16 = 7012;
/// Of UDP, in the default zone, open to outside.
pub const OPEN_PORT: u16 = 7002;
/// Port of a server of the default zone that echoes, for the sender's pace.
pub const ECHO_PORT: u16 = 7003;
/// Ports that the labelled datagrams came from that everybody has seen.
pub const SEEN_PORTS: [u16; 2] = [5555, 5556];

/// An IPv6 address of the nodes' network.
pub const fn local(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number)
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A machine that is no member: it has seen labels go by, and has no key.
    Stranger,
    /// Root of a member node: it has that node's keys.
    Member,
    /// The same, who under his own node's label claims one zone after the other, and does nothing else.
    Claimant,
}

/// A running TCP connection that segments are slipped into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// The member's port.
    pub port: u16,
    /// The sequence number that the receiver waits for.
    pub next: u32,
    /// What the receiver has sent.
    pub acknowledged: u32,
}

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The same seed, the same packets.
    pub seed: u64,
    /// How many frames at least.
    pub frames: u64,
    /// Who sends.
    pub sender: Sender,
    /// What kind of packets.
    pub family: Family,
    /// The receiver's Ethernet address.
    pub mac: [u8; 6],
    /// A connection of the member's, over the same family.
    pub running: Running,
}

/// Counters that a packet raises at the receiver: `refused-...` of the module, `Ip:...` and the like of
/// the kernel's, `delivered` of the sockets'.
pub type Counts = Vec<&'static str>;

/// One attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attack {
    /// What is wrong with it.
    pub kind: &'static str,
    /// What goes on the wire, in order.
    pub frames: Vec<Vec<u8>>,
    /// What must come of it.
    pub counts: Counts,
}

/// What a whole flood must come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames.
    pub frames: u64,
    /// Counters, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// Attacks, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Adds an attack.
    pub fn add(&mut self, attack: &Attack) {
        self.frames += attack.frames.len() as u64;
        *self.kinds.entry(attack.kind).or_default() += 1;
        for count in &attack.counts {
            *self.counts.entry(count).or_default() += 1;
        }
    }

    /// One of the counters.
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default()
    }
}

/// The packets of a plan, in order.
pub struct Flood {
    plan: Plan,
    rng: Rng,
    made: u64,
    number: u64,
}

impl Flood {
    /// Begins.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            rng: Rng::with_seed(plan.seed),
            made: 0,
            number: 0,
        }
    }

    /// What all of it comes to.
    pub fn tally(plan: Plan) -> Tally {
        let mut tally = Tally::default();
        Self::new(plan).for_each(|attack| tally.add(&attack));
        tally
    }
}

impl Iterator for Flood {
    type Item = Attack;

    fn next(&mut self) -> Option<Attack> {
        if self.made >= self.plan.frames {
            return None;
        }
        self.number += 1;
        let makes = match self.plan.family {
            Family::V4 => &v4::MAKES,
            Family::V6 => &v6::MAKES,
        };
        let attack = kinds::attack(makes, &self.plan, self.number, &mut self.rng);
        self.made += attack.frames.len() as u64;
        Some(attack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(sender: Sender, family: Family) -> Plan {
        Plan {
            seed: 7,
            frames: 20_000,
            sender,
            family,
            mac: [2, 0, 0, 0, 0, 1],
            running: Running {
                port: 40_000,
                next: 1000,
                acknowledged: 2000,
            },
        }
    }

    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

    #[test]
    fn a_seed_makes_the_same_flood_again_and_another_another() {
        for family in FAMILIES {
            let plan = plan(Sender::Member, family);
            let of = |plan| Flood::new(plan).take(500).collect::<Vec<Attack>>();
            assert_eq!(of(plan), of(plan));
            assert_ne!(of(plan), of(Plan { seed: 8, ..plan }));
        }
    }

    /// What anybody can provoke.
    const REASONS: [&str; 6] = [
        "bad-label",
        "bad-mac",
        "wrong-source",
        "unknown-node",
        "unknown-epoch",
        "no-label",
    ];
    /// What takes a key.
    const KEYED: [&str; 2] = ["no-permission", "kernel-label"];

    #[test]
    fn every_reason_is_provoked_and_only_copies_are_delivered() {
        for (sender, reasons) in [
            (Sender::Member, [&REASONS[..], &KEYED].concat()),
            (Sender::Stranger, REASONS.to_vec()),
        ] {
            for family in FAMILIES {
                let plan = plan(sender, family);
                let tally = Flood::tally(plan);
                assert!(tally.frames >= 20_000);
                for reason in &reasons {
                    assert!(
                        tally.count(&format!("refused-{reason}")) > 0,
                        "{sender:?}: {reason}: {tally:?}"
                    );
                }
                let broken = match family {
                    Family::V4 => "Ip:InHdrErrors",
                    Family::V6 => "Ip6InHdrErrors",
                };
                assert!(tally.count("delivered") > 0 && tally.count(broken) > 0);
                for attack in Flood::new(plan) {
                    let all: Vec<u8> = attack.frames.concat();
                    let holds = |word: &[u8]| all.windows(word.len()).any(|part| part == word);
                    let delivered = attack.counts.contains(&"delivered");
                    assert!(!(delivered && holds(FORGED)), "{attack:?}");
                    assert!(delivered || !holds(COPIED), "{attack:?}");
                    assert!(
                        attack.frames.iter().all(|frame| frame.len() <= 1514),
                        "{attack:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_kind_is_made() {
        for (family, makes) in FAMILIES.into_iter().zip([&v4::MAKES, &v6::MAKES]) {
            let tally = Flood::tally(plan(Sender::Member, family));
            for kind in makes.kinds {
                assert!(
                    tally.kinds.contains_key(kind.0),
                    "{family:?}: no {}",
                    kind.0
                );
            }
        }
    }
}
