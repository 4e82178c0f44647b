//! IPv4: packets of every kind of forgery that an option in the header can be put to.

use std::net::{IpAddr, Ipv4Addr};

use fastrand::Rng;

use super::fate::{Ends, TCP, checksum, fate};
use super::kinds::{CLAIMS, INCOMPLETE_EACH, Kind, Made, Makes, changed};
use super::packet::{self, Datagram, LABEL, Packet as _};
use super::{COLBY, EPOCH, MEMBER, OPEN_PORT, Plan, RECEIVER, SECOND, STRANGER, ZONE};

const OPTION: u8 = 158;

/// An IPv4 packet in the making.
#[derive(Clone, Debug)]
struct Packet {
    version: u8,
    /// Words of the header, if not what its options take.
    ihl: Option<u8>,
    /// Length, if not the true one.
    total: Option<u16>,
    id: u16,
    fragment: u16,
    ttl: u8,
    tos: u8,
    /// Added to the right checksum.
    spoil: u16,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    options: Vec<u8>,
    datagram: Datagram,
}

impl Packet {
    /// The label that the member's key makes for this tuple.
    fn label(&self, snid: u32, scid: u32, epoch: u8) -> [u8; LABEL] {
        let mut label = self.datagram.label(self.ends(), snid, scid, epoch);
        label[..2].copy_from_slice(&[OPTION, LABEL as u8]);
        label
    }

    fn ends(&self) -> Ends {
        (IpAddr::V4(self.source), IpAddr::V4(self.destination))
    }

    /// The header with this behind it.
    fn carrying(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let ihl = self.ihl.unwrap_or((header / 4) as u8) & 15;
        let total = self.total.unwrap_or((header + payload.len()) as u16);
        let mut packet = vec![self.version << 4 | ihl, self.tos];
        packet.extend(total.to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.datagram.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(&self.options);
        packet.extend(payload);
        let summed = (usize::from(ihl) * 4).clamp(20, packet.len());
        let sum = checksum(&packet[..summed]).wrapping_add(self.spoil);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// With other options, padded to whole words, or as they are if there are too many.
    fn with(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self.options.truncate(40);
        self
    }
}

impl packet::Packet for Packet {
    fn seen(tuple: usize, tag: &[u8; 6], number: u64) -> Self {
        let mut packet = Self {
            version: 4,
            ihl: None,
            total: None,
            id: 0,
            fragment: 0,
            ttl: 64,
            tos: 0,
            spoil: 0,
            source: MEMBER,
            destination: RECEIVER,
            options: Vec::new(),
            datagram: Datagram::seen(tuple, tag, number),
        };
        packet.options = packet.label(COLBY, ZONE, EPOCH).to_vec();
        packet
    }

    fn relabel(mut self, snid: u32, scid: u32, epoch: u8) -> Self {
        self.options = self.label(snid, scid, epoch).to_vec();
        self
    }

    fn datagram(&mut self) -> &mut Datagram {
        &mut self.datagram
    }

    fn bytes(&self) -> Vec<u8> {
        self.carrying(&self.datagram.bytes(self.ends()))
    }

    fn attacked_segment(mut self, rng: &mut Rng) -> Made {
        self.datagram.protocol = TCP;
        let of_datagram = self.options.clone();
        self.options = self.label(COLBY, ZONE, EPOCH).to_vec();
        match rng.u8(..6) {
            0 => self.options.clear(),
            1 => self.options = of_datagram,
            2 => rng.fill(&mut self.options[12..]),
            3 => self.source = STRANGER,
            4 => {
                let twice = [self.options.clone(), self.options.clone()].concat();
                self.options = twice;
            }
            _ => changed(&mut self.options[2..], rng),
        }
        Made::Whole(self.bytes())
    }
}

/// What IPv4 makes.
pub const MAKES: Makes = Makes {
    kinds: KINDS,
    incomplete,
    ethertype: [8, 0],
    fate,
    reassembled: fate,
    reassembly: ["Ip:ReasmReqds", "Ip:ReasmOKs"],
};

const KINDS: &[Kind] = &[
    ("label-byte-changed", 230, false, byte_changed),
    ("label-bits-flipped", 120, false, bits_flipped),
    ("label-made-up", 70, false, made_up),
    (
        "replayed-to-another-port",
        50,
        false,
        packet::other_port::<Packet>,
    ),
    ("replayed-to-another-address", 30, false, other_destination),
    ("replayed-from-another-address", 40, false, other_source),
    (
        "replayed-in-another-protocol",
        20,
        false,
        packet::other_protocol::<Packet>,
    ),
    ("no-label", 30, false, none),
    ("label-twice", 60, false, twice),
    ("padding-around-label", 60, false, padding),
    ("other-options-around-label", 50, false, other_options),
    ("options-of-chance", 50, false, chance),
    ("truncated", 40, false, truncated),
    ("over-long", 30, false, over_long),
    ("wrong-header-length", 40, false, header_length),
    ("broken-header", 20, false, broken_header),
    ("broken-datagram", 10, false, broken_datagram),
    ("socket-open-to-outside", 20, false, open_socket),
    ("opening", 60, false, packet::opening::<Packet>),
    ("slipped-into-a-flow", 60, false, packet::slipped::<Packet>),
    ("fragments-labelled-first-only", 5, false, first_labelled),
    ("fragments-labelled-later-only", 15, false, later_labelled),
    (
        "fragments-with-a-changed-label",
        20,
        false,
        changed_fragments,
    ),
    ("copy", 12, false, packet::copy::<Packet>),
    ("copied-label-other-data", 12, false, other_data),
    (
        "members-label-of-another-node",
        30,
        true,
        packet::another_node::<Packet>,
    ),
    (CLAIMS, 60, true, packet::another_zone::<Packet>),
    (
        "members-label-of-another-epoch",
        20,
        true,
        packet::another_epoch::<Packet>,
    ),
    (
        "members-label-of-the-kernel",
        30,
        true,
        packet::kernels::<Packet>,
    ),
    (
        "members-right-label-then-changed",
        60,
        true,
        sealed_then_changed,
    ),
];

fn byte_changed(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    changed(&mut packet.options, rng);
    Made::Whole(packet.bytes())
}

fn bits_flipped(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    for _ in 0..rng.u8(1..9) {
        packet.options[rng.usize(2..LABEL)] ^= 1 << rng.u8(..8);
    }
    Made::Whole(packet.bytes())
}

fn made_up(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    // From nothing but type and length right to nothing but the code wrong.
    let from = [2, 4, 8, 12][rng.usize(..4)];
    rng.fill(&mut packet.options[from..]);
    Made::Whole(packet.bytes())
}

fn other_destination(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.destination = match rng.u8(..3) {
        0 => Ipv4Addr::new(10, 77, 0, rng.u8(50..90)),
        _ => SECOND,
    };
    Made::Whole(packet.bytes())
}

fn other_source(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.source = match rng.u8(..8) {
        0 => RECEIVER,
        1 => SECOND,
        2 | 3 => STRANGER,
        _ => Ipv4Addr::new(10, 77, 0, rng.u8(2..250)),
    };
    Made::Whole(packet.bytes())
}

fn none(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.options.clear();
    packet.source = if rng.bool() { MEMBER } else { STRANGER };
    Made::Whole(packet.bytes())
}

fn twice(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = packet::base::<Packet>(number, tag, rng);
    let right = packet.options.clone();
    let mut wrong = right.clone();
    changed(&mut wrong[2..], rng);
    let short = [OPTION, 4, 0x10, EPOCH];
    let options = match rng.u8(..6) {
        0 => [&right[..], &right].concat(),
        1 => [&right[..], &wrong].concat(),
        2 => [&wrong[..], &right].concat(),
        3 => [&right[..], &short].concat(),
        4 => [&short, &right[..]].concat(),
        // The second one behind the end of the options, where nobody reads.
        _ => [&right[..], &[0, 0, 0, 0], &right[..16]].concat(),
    };
    Made::Whole(packet.with(&options).bytes())
}

fn padding(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = packet::base::<Packet>(number, tag, rng);
    let mut label = packet.options.clone();
    if rng.bool() {
        changed(&mut label[2..], rng);
    }
    let before = rng.usize(..12);
    let mut options = vec![1; before];
    // An end of the options hides what is behind it.
    if before > 0 && rng.u8(..3) == 0 {
        options[rng.usize(..before)] = 0;
    }
    options.extend(label);
    options.resize(options.len() + rng.usize(..8), rng.u8(..2));
    Made::Whole(packet.with(&options).bytes())
}

fn other_options(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = packet::base::<Packet>(number, tag, rng);
    let mut label = packet.options.clone();
    if rng.u8(..3) > 0 {
        changed(&mut label[2..], rng);
    }
    let another: Vec<u8> = match rng.u8(..4) {
        // The route taken, with room for one address; router alert; two that nobody knows.
        0 => vec![7, 7, 4, 0, 0, 0, 0],
        1 => vec![148, 4, 0, 0],
        2 => vec![94, 6, 1, 2, 3, 4],
        _ => vec![30, 2],
    };
    let options = match rng.u8(..3) {
        0 => [another, label].concat(),
        1 => [label, another].concat(),
        _ => [another.clone(), label, another].concat(),
    };
    Made::Whole(packet.with(&options).bytes())
}

fn chance(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = packet::base::<Packet>(number, tag, rng);
    let mut options = vec![0; rng.usize(1..11) * 4];
    rng.fill(&mut options);
    // Some of it looks like a label.
    if options.len() >= LABEL && rng.bool() {
        let at = rng.usize(..options.len() - LABEL + 1);
        options[at..at + 2].copy_from_slice(&[OPTION, LABEL as u8]);
        options[..at].fill(1);
    }
    Made::Whole(packet.with(&options).bytes())
}

fn truncated(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    let whole = packet.bytes();
    let len = rng.usize(1..whole.len());
    if rng.bool() {
        // The length says so, or tells of more than there is.
        packet.total = Some(len as u16);
    }
    let mut bytes = packet.bytes();
    if rng.bool() {
        bytes.truncate(len);
    }
    Made::Whole(bytes)
}

fn over_long(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    match rng.u8(..3) {
        0 => {
            // A label of another length, with room for it.
            let len = rng.usize(2..41);
            let mut options = packet.options.clone();
            options.resize(len.max(LABEL), 0);
            options[1] = len as u8;
            packet = packet.with(&options);
        }
        1 => {
            // Data up to what a frame holds.
            packet.datagram.data.resize(rng.usize(100..1400), b'x');
            changed(&mut packet.options[2..], rng);
        }
        _ => {
            // More behind the packet than it says.
            if rng.bool() {
                changed(&mut packet.options[2..], rng);
            }
            let mut bytes = packet.bytes();
            bytes.resize(bytes.len() + rng.usize(1..100), rng.u8(..));
            return Made::Whole(bytes);
        }
    }
    Made::Whole(packet.bytes())
}

fn header_length(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    // Shorter cuts the label in two, longer takes the data for options.
    packet.ihl = Some(rng.u8(..16));
    Made::Whole(packet.bytes())
}

fn broken_header(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    match rng.u8(..3) {
        0 => packet.version = rng.u8(..16),
        1 => packet.spoil = rng.u16(1..0xffff),
        _ => {
            packet.ttl = rng.u8(1..);
            packet.tos = rng.u8(..);
            packet.id = rng.u16(..);
            changed(&mut packet.options[2..], rng);
        }
    }
    Made::Whole(packet.bytes())
}

fn broken_datagram(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.datagram.spoil = rng.u16(1..0xffff);
    Made::Whole(packet.bytes())
}

fn open_socket(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.datagram.ports.1 = OPEN_PORT;
    packet.source = if rng.bool() { MEMBER } else { STRANGER };
    match rng.u8(..3) {
        0 => packet.options.clear(),
        1 => changed(&mut packet.options[2..], rng),
        _ => {}
    }
    Made::Whole(packet.bytes())
}

/// A datagram in fragments, which carry these options, the first one and the later ones.
fn fragments(
    packet: &Packet,
    number: u64,
    first: &[u8],
    later: &[u8],
    size: usize,
    rng: &mut Rng,
) -> Made {
    let mut packet = packet.clone();
    let payload = packet.datagram.bytes(packet.ends());
    packet.id = (number % 0xf000) as u16;
    packet.options = first.to_vec();
    let whole = packet.carrying(&payload);
    let mut made = Vec::new();
    for (index, part) in payload.chunks(size).enumerate() {
        let more = (index + 1) * size < payload.len();
        packet.fragment = (u16::from(more) << 13) | (index * size / 8) as u16;
        packet.options = if index == 0 { first } else { later }.to_vec();
        made.push(packet.carrying(part));
    }
    if rng.bool() {
        made.reverse();
    }
    Made::Fragments(made, whole)
}

/// Long enough for several fragments.
fn long(number: u64, tag: &[u8; 6], rng: &mut Rng) -> (Packet, usize) {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.datagram.data.resize(rng.usize(30..68), b'x');
    // The shortest holds the ports only.
    (packet, rng.usize(1..4) * 8)
}

fn first_labelled(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, size) = long(number, tag, rng);
    fragments(&packet, number, &packet.options, &[], size, rng)
}

fn later_labelled(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, size) = long(number, tag, rng);
    fragments(&packet, number, &[], &packet.options, size, rng)
}

fn changed_fragments(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, size) = long(number, tag, rng);
    let mut wrong = packet.options.clone();
    changed(&mut wrong[2..], rng);
    let later = if rng.bool() { &packet.options } else { &wrong };
    fragments(&packet, number, &wrong, later, size, rng)
}

fn incomplete(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, size) = long(number, tag, rng);
    let Made::Fragments(mut made, whole) =
        fragments(&packet, number, &packet.options, &packet.options, size, rng)
    else {
        return Made::Known(Vec::new(), Vec::new());
    };
    if made.len() < 2 {
        return Made::Whole(whole);
    }
    made.remove(rng.usize(..made.len()));
    for packet in &mut made {
        // Under a number of its own: it waits for half a minute.
        let id = 0xf000 | (number / INCOMPLETE_EACH % 0x1000) as u16;
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[10..12].fill(0);
        let header = usize::from(packet[0] & 15) * 4;
        let sum = checksum(&packet[..header]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let counts = vec!["Ip:ReasmReqds"; made.len()];
    Made::Known(made, counts)
}

fn other_data(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.id = rng.u16(..);
    packet.datagram.data.resize(rng.usize(6..64), b'y');
    Made::Whole(packet.bytes())
}

fn sealed_then_changed(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.datagram.ports.0 = rng.u16(1024..);
    let mut packet = packet.relabel(COLBY, ZONE, EPOCH);
    match rng.u8(..4) {
        0 => packet.datagram.ports.0 = packet.datagram.ports.0.wrapping_add(1),
        1 => packet.source = STRANGER,
        2 => packet.destination = SECOND,
        _ => changed(&mut packet.options[4..], rng),
    }
    Made::Whole(packet.bytes())
}
