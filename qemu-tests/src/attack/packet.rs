//! What packets of both families of addresses have within, and the attacks that touch nothing else.

use fastrand::Rng;

use super::fate::{Ends, TCP, UDP, code, transport_checksum};
use super::kinds::{Made, other};
use super::{COLBY, EPOCH, FLOW_PORT, MUNSTER, OPEN_PORT, Plan, SEEN_PORTS, ZONE, ZONE_PORTS};
use crate::enrol::pair_key;

const SYN: u8 = 2;
const ACK_PSH: u8 = 24;
/// Bytes of a label, with its option's type and length.
pub const LABEL: usize = 20;

/// A datagram or segment in the making.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Which of them it is, or what else.
    pub protocol: u8,
    /// Source and destination.
    pub ports: (u16, u16),
    /// Sequence number, acknowledgement and flags of a segment.
    pub segment: (u32, u32, u8),
    /// Added to the right checksum.
    pub spoil: u16,
    /// What it carries.
    pub data: Vec<u8>,
}

impl Datagram {
    /// What everybody has seen go by: a datagram of the member's to a socket of the zone.
    pub fn seen(tuple: usize, tag: &[u8; 6], number: u64) -> Self {
        let mut data = tag.to_vec();
        data.extend(format!(" {number}").bytes());
        Self {
            protocol: UDP,
            ports: (SEEN_PORTS[tuple], ZONE_PORTS[tuple]),
            segment: (0, 0, 0),
            spoil: 0,
            data,
        }
    }

    /// Its bytes between these ends.
    pub fn bytes(&self, ends: Ends) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20 + self.data.len());
        bytes.extend(self.ports.0.to_be_bytes());
        bytes.extend(self.ports.1.to_be_bytes());
        let check_at = if self.protocol == TCP {
            bytes.extend(self.segment.0.to_be_bytes());
            bytes.extend(self.segment.1.to_be_bytes());
            bytes.extend([5 << 4, self.segment.2, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            bytes.extend((self.data.len() as u16 + 8).to_be_bytes());
            bytes.extend([0, 0]);
            6
        };
        bytes.extend(&self.data);
        let sum = transport_checksum(ends, self.protocol, &bytes).wrapping_add(self.spoil);
        // A datagram's sum of 0 means none.
        let sum = if sum == 0 { 0xffff } else { sum };
        bytes[check_at..check_at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The label that the member's key makes for it between these ends, without the option's type and length in the
    /// first two bytes.
    pub fn label(&self, ends: Ends, snid: u32, scid: u32, epoch: u8) -> [u8; LABEL] {
        let mut label = [0; LABEL];
        label[2..4].copy_from_slice(&[0x10, epoch]);
        label[4..8].copy_from_slice(&snid.to_be_bytes());
        label[8..12].copy_from_slice(&scid.to_be_bytes());
        let key = pair_key(COLBY, MUNSTER, EPOCH);
        let mac = code(&key, &label, self.protocol, ends, self.ports);
        label[12..].copy_from_slice(&mac.to_be_bytes());
        label
    }
}

/// A packet of either family in the making.
pub trait Packet: Sized {
    /// What everybody has seen go by, with the member's label.
    fn seen(tuple: usize, tag: &[u8; 6], number: u64) -> Self;
    /// With a label that the member's key makes.
    fn relabel(self, snid: u32, scid: u32, epoch: u8) -> Self;
    /// What it carries.
    fn datagram(&mut self) -> &mut Datagram;
    /// As it goes out.
    fn bytes(&self) -> Vec<u8>;
    /// As a segment with a label that is changed, copied from a datagram, made up, or none.
    fn attacked_segment(self, rng: &mut Rng) -> Made;
}

/// One of those that everybody has seen.
pub fn base<P: Packet>(number: u64, tag: &[u8; 6], rng: &mut Rng) -> P {
    P::seen(rng.usize(..2), tag, number)
}

/// Replayed to or from another port.
pub fn other_port<P: Packet>(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet: P = base(number, tag, rng);
    let ports = &mut packet.datagram().ports;
    match rng.u8(..4) {
        0 => ports.0 = rng.u16(1..),
        1 => ports.1 = ZONE_PORTS[rng.usize(..2)],
        2 => *ports = (ports.1, ZONE_PORTS[rng.usize(..2)]),
        _ => ports.1 = rng.u16(8000..9000),
    }
    Made::Whole(packet.bytes())
}

/// Replayed in another protocol.
pub fn other_protocol<P: Packet>(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet: P = base(number, tag, rng);
    let datagram = packet.datagram();
    if rng.bool() {
        datagram.protocol = TCP;
        datagram.ports.1 = FLOW_PORT;
        datagram.segment = (rng.u32(..), 0, SYN);
        datagram.data.clear();
    } else {
        datagram.protocol = rng.u8(253..255);
    }
    Made::Whole(packet.bytes())
}

/// The first segment of a connection.
pub fn opening<P: Packet>(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet: P = base(number, tag, rng);
    let datagram = packet.datagram();
    datagram.ports = (rng.u16(1024..), FLOW_PORT);
    datagram.segment = (rng.u32(..), 0, SYN);
    if rng.bool() {
        datagram.data.clear();
    }
    packet.attacked_segment(rng)
}

/// A segment for a connection that is there.
pub fn slipped<P: Packet>(plan: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet: P = base(number, tag, rng);
    let datagram = packet.datagram();
    let running = plan.running;
    datagram.ports = (running.port, FLOW_PORT);
    // What the receiver waits for, or somewhere in its window.
    let next = running
        .next
        .wrapping_add([0, rng.u32(..3000)][rng.usize(..2)]);
    datagram.segment = (next, running.acknowledged, ACK_PSH);
    packet.attacked_segment(rng)
}

/// As it was seen.
pub fn copy<P: Packet>(_: &Plan, _: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    Made::Whole(base::<P>(0, tag, rng).bytes())
}

/// The member speaks for another node.
pub fn another_node<P: Packet>(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let snid = [MUNSTER, 3, rng.u32(3..0x1_0000), rng.u32(..)][rng.usize(..4)];
    let packet = base::<P>(number, tag, rng).relabel(snid, ZONE, EPOCH);
    Made::Whole(packet.bytes())
}

/// The member speaks for another zone.
pub fn another_zone<P: Packet>(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let scid = [1, 2, 20, u32::MAX, rng.u32(..)][rng.usize(..5)];
    let mut packet: P = base(number, tag, rng);
    if rng.u8(..4) == 0 {
        packet.datagram().ports.1 = OPEN_PORT;
    }
    Made::Whole(packet.relabel(COLBY, scid, EPOCH).bytes())
}

/// The member names another key epoch.
pub fn another_epoch<P: Packet>(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let epoch = other(rng, EPOCH);
    let packet = base::<P>(number, tag, rng).relabel(COLBY, ZONE, epoch);
    Made::Whole(packet.bytes())
}

/// The member speaks for his kernel.
pub fn kernels<P: Packet>(plan: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet: P = base(number, tag, rng);
    if rng.bool() {
        let datagram = packet.datagram();
        datagram.protocol = TCP;
        datagram.ports = (plan.running.port, FLOW_PORT);
        datagram.segment = (plan.running.next, plan.running.acknowledged, ACK_PSH);
    }
    Made::Whole(packet.relabel(COLBY, 0, EPOCH).bytes())
}
