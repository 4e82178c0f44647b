//! IPv6: packets of every kind of forgery that a header of options, and the headers around it, can be put to.

use std::net::{IpAddr, Ipv6Addr};

use fastrand::Rng;

use super::fate::{Ends, TCP};
use super::fate6::{DEST, FRAGMENT, HOP, LEN, OPTION, ROUTING, fate, reassembled};
use super::kinds::{CLAIMS, INCOMPLETE_EACH, Kind, Made, Makes, changed, other};
use super::packet::{self, Datagram, Packet as _};
use super::{COLBY, EPOCH, MEMBER6, OPEN_PORT, Plan, RECEIVER6, SECOND6, STRANGER6, ZONE, local};

/// Where behind the fixed header the label's data begins, if its header is the first.
const DATA: usize = 6;

/// A header: its number, and its bytes; the first one of these is made to say what comes next.
type Header = (u8, Vec<u8>);

/// An IPv6 packet in the making.
#[derive(Clone, Debug)]
struct Packet {
    version: u8,
    /// Traffic class and flow label.
    flow: u32,
    /// Length, if not the true one.
    said: Option<u16>,
    hops: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    headers: Vec<Header>,
    datagram: Datagram,
}

impl Packet {
    fn ends(&self) -> Ends {
        (IpAddr::V6(self.source), IpAddr::V6(self.destination))
    }

    /// The label that the member's key makes for this tuple, in its header.
    fn label(&self, snid: u32, scid: u32, epoch: u8) -> Header {
        let label = self.datagram.label(self.ends(), snid, scid, epoch);
        let mut header = vec![0, 2, 1, 0, OPTION, 18];
        header.extend(&label[2..]);
        (DEST, header)
    }

    /// The label's bytes; it is the only header so far.
    fn label_mut(&mut self) -> &mut Vec<u8> {
        &mut self.headers[0].1
    }

    /// The headers, the last of which says that this comes next, and this behind them.
    fn carrying(&self, next: u8, payload: &[u8]) -> Vec<u8> {
        let (first, area) = chain(&self.headers, next);
        let said = self
            .said
            .unwrap_or_else(|| (area.len() + payload.len()) as u16);
        let mut packet = Vec::with_capacity(40 + area.len() + payload.len());
        packet.extend((u32::from(self.version) << 28 | (self.flow & 0x0fff_ffff)).to_be_bytes());
        packet.extend(said.to_be_bytes());
        packet.extend([first, self.hops]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(area);
        packet.extend(payload);
        packet
    }

    fn with(mut self, headers: impl Into<Vec<Header>>) -> Self {
        self.headers = headers.into();
        self
    }
}

impl packet::Packet for Packet {
    fn seen(tuple: usize, tag: &[u8; 6], number: u64) -> Self {
        let mut packet = Self {
            version: 6,
            flow: 0,
            said: None,
            hops: 64,
            source: MEMBER6,
            destination: RECEIVER6,
            headers: Vec::new(),
            datagram: Datagram::seen(tuple, tag, number),
        };
        packet.headers = vec![packet.label(COLBY, ZONE, EPOCH)];
        packet
    }

    fn relabel(mut self, snid: u32, scid: u32, epoch: u8) -> Self {
        self.headers = vec![self.label(snid, scid, epoch)];
        self
    }

    fn datagram(&mut self) -> &mut Datagram {
        &mut self.datagram
    }

    fn bytes(&self) -> Vec<u8> {
        self.carrying(self.datagram.protocol, &self.datagram.bytes(self.ends()))
    }

    fn attacked_segment(mut self, rng: &mut Rng) -> Made {
        self.datagram.protocol = TCP;
        let of_datagram = self.headers.clone();
        self.headers = vec![self.label(COLBY, ZONE, EPOCH)];
        match rng.u8(..7) {
            0 => self.headers.clear(),
            1 => self.headers = of_datagram,
            2 => rng.fill(&mut self.label_mut()[16..]),
            3 => self.source = STRANGER6,
            4 => self.headers.push(self.headers[0].clone()),
            5 => self.headers.push(padding(DEST)),
            _ => changed(&mut self.label_mut()[DATA..], rng),
        }
        Made::Whole(self.bytes())
    }
}

/// Headers, each saying which is next: the number of the first, and all bytes.
fn chain(headers: &[Header], last: u8) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (index, (_, header)) in headers.iter().enumerate() {
        let at = bytes.len();
        bytes.extend(header);
        bytes[at] = headers.get(index + 1).map_or(last, |next| next.0);
    }
    (headers.first().map_or(last, |first| first.0), bytes)
}

/// A header of these options, and padding to its end.
fn options(kind: u8, tlvs: &[u8]) -> Header {
    let len = (2 + tlvs.len()).next_multiple_of(8);
    let mut header = vec![0, (len / 8 - 1) as u8];
    header.extend(tlvs);
    match len - header.len() {
        0 => {}
        1 => header.push(0),
        more => {
            header.extend([1, more as u8 - 2]);
            header.resize(len, 0);
        }
    }
    (kind, header)
}

fn padding(kind: u8) -> Header {
    options(kind, &[])
}

/// A header of a route of this type, with addresses to come and some there.
fn routing(kind: u8, left: u8, addresses: usize) -> Header {
    let mut header = vec![0, (addresses * 2) as u8, kind, left, 0, 0, 0, 0];
    for _ in 0..addresses {
        header.extend(SECOND6.octets());
    }
    (ROUTING, header)
}

/// A header that says that this is a fragment, of one.
fn atomic(number: u64) -> Header {
    fragment(0, false, number as u32)
}

fn fragment(offset: usize, more: bool, id: u32) -> Header {
    let mut header = vec![0, 0];
    header.extend((offset as u16 | u16::from(more)).to_be_bytes());
    header.extend(id.to_be_bytes());
    (FRAGMENT, header)
}

/// What IPv6 makes.
pub const MAKES: Makes = Makes {
    kinds: KINDS,
    incomplete,
    ethertype: [0x86, 0xdd],
    fate,
    reassembled,
    reassembly: ["Ip6ReasmReqds", "Ip6ReasmOKs"],
};

const KINDS: &[Kind] = &[
    ("label-byte-changed", 200, false, byte_changed),
    ("label-bits-flipped", 110, false, bits_flipped),
    ("label-made-up", 60, false, made_up),
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
    ("label-where-none-stands", 60, false, misplaced),
    ("headers-before-label", 50, false, headers_before),
    ("many-headers", 20, false, many),
    ("options-cut-or-over-long", 60, false, tlvs),
    ("options-of-chance", 40, false, chance),
    ("hop-by-hop-options", 40, false, hop_by_hop),
    ("jumbogram", 20, false, jumbo),
    ("routing-header", 40, false, routed),
    ("truncated", 40, false, truncated),
    ("over-long", 20, false, over_long),
    ("wrong-length", 20, false, wrong_length),
    ("broken-header", 20, false, broken_header),
    ("broken-datagram", 15, false, broken_datagram),
    ("socket-open-to-outside", 20, false, open_socket),
    ("opening", 60, false, packet::opening::<Packet>),
    ("slipped-into-a-flow", 60, false, packet::slipped::<Packet>),
    (
        "fragments-labelled-as-the-kernels",
        5,
        false,
        as_the_kernels,
    ),
    ("fragments-labelled-first-only", 5, false, first_labelled),
    ("fragments-labelled-later-only", 15, false, later_labelled),
    (
        "fragments-with-a-changed-label",
        15,
        false,
        changed_fragments,
    ),
    ("fragments-with-the-label-within", 15, false, label_within),
    ("fragments-labelled-twice", 10, false, labelled_twice),
    ("fragment-in-fragments", 10, false, nested),
    ("fragment-of-one", 20, false, of_one),
    (
        "fragment-without-the-datagrams-header",
        5,
        false,
        without_header,
    ),
    ("fragments-overlapping", 5, false, overlapping),
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

/// One that has its label, right or, mostly, with its data changed.
fn maybe_changed(number: u64, tag: &[u8; 6], rng: &mut Rng) -> Packet {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    if rng.u8(..3) > 0 {
        changed(&mut packet.label_mut()[DATA..], rng);
    }
    packet
}

fn byte_changed(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut bytes = packet::base::<Packet>(number, tag, rng).bytes();
    changed(&mut bytes[40..40 + LEN], rng);
    Made::Whole(bytes)
}

fn bits_flipped(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut bytes = packet::base::<Packet>(number, tag, rng).bytes();
    for _ in 0..rng.u8(1..9) {
        bytes[40 + rng.usize(2..LEN)] ^= 1 << rng.u8(..8);
    }
    Made::Whole(bytes)
}

fn made_up(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    // From nothing but the option's type and length right to nothing but the code wrong.
    let from = [6, 8, 12, 16][rng.usize(..4)];
    rng.fill(&mut packet.label_mut()[from..]);
    Made::Whole(packet.bytes())
}

fn other_destination(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.destination = match rng.u8(..3) {
        0 => local(rng.u16(0x50..0x90)),
        _ => SECOND6,
    };
    Made::Whole(packet.bytes())
}

fn other_source(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.source = match rng.u8(..8) {
        0 => RECEIVER6,
        1 => SECOND6,
        2 | 3 => STRANGER6,
        _ => local(rng.u16(2..250)),
    };
    Made::Whole(packet.bytes())
}

fn none(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.source = if rng.bool() { MEMBER6 } else { STRANGER6 };
    packet.headers = match rng.u8(..4) {
        0 => vec![padding(HOP)],
        1 => vec![padding(DEST)],
        2 => vec![routing(253, 0, 1)],
        _ => Vec::new(),
    };
    Made::Whole(packet.bytes())
}

fn twice(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = packet::base::<Packet>(number, tag, rng);
    let right = packet.headers[0].clone();
    let mut wrong = right.clone();
    changed(&mut wrong.1[DATA..], rng);
    let hop = (HOP, right.1.clone());
    let headers = match rng.u8(..8) {
        0 => vec![right.clone(), right],
        1 => vec![right, wrong],
        2 => vec![wrong, right],
        3 => vec![hop, right],
        4 => vec![(HOP, wrong.1), right],
        // A short one, before and behind.
        5 => vec![options(DEST, &[OPTION, 0]), right],
        6 => vec![right, options(DEST, &[OPTION, 2, 0x10, EPOCH])],
        // Both in one header.
        _ => {
            let both = [&[1, 0], &right.1[4..], &right.1[4..]].concat();
            vec![options(DEST, &both)]
        }
    };
    Made::Whole(packet.with(headers).bytes())
}

fn misplaced(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = maybe_changed(number, tag, rng);
    let label = packet.headers[0].clone();
    let option = &label.1[4..];
    let headers = match rng.u8(..8) {
        0 => vec![(HOP, label.1)],
        // Padded in other ways.
        1 => vec![options(DEST, option)],
        2 => vec![options(DEST, &[&[0, 0], option].concat())],
        // Beside another option.
        3 => vec![options(DEST, &[&[0x1c, 0], option].concat())],
        4 => vec![options(
            DEST,
            &[&[1, 0], option, &[0x1c, 4, 0, 0, 0, 0]].concat(),
        )],
        // Something between it and the datagram.
        5 => vec![label, padding(DEST)],
        6 => vec![label, routing(253, 0, rng.usize(..3))],
        _ => vec![label, padding(HOP)],
    };
    Made::Whole(packet.with(headers).bytes())
}

fn headers_before(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = maybe_changed(number, tag, rng);
    let label = packet.headers[0].clone();
    let mut headers = Vec::new();
    if rng.bool() {
        headers.push(padding(HOP));
    }
    for _ in 0..rng.u8(..3) {
        headers.push(match rng.u8(..3) {
            0 => padding(DEST),
            1 => options(DEST, &[0x1c, 6, 0, 0, 0, 0, 0, 0]),
            _ => routing(rng.u8(5..), 0, rng.usize(..2)),
        });
    }
    headers.push(label);
    Made::Whole(packet.with(headers).bytes())
}

fn many(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = maybe_changed(number, tag, rng);
    let label = packet.headers[0].clone();
    let mut headers = vec![padding(DEST); rng.usize(8..16)];
    if rng.bool() {
        headers[0] = padding(HOP);
    }
    headers.push(label);
    Made::Whole(packet.with(headers).bytes())
}

fn tlvs(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    let label = packet.label_mut();
    match rng.u8(..6) {
        // The option's length, the padding's, the header's.
        0 => label[5] = other(rng, 18),
        1 => label[3] = rng.u8(1..),
        2 => label[1] = other(rng, 2),
        // A longer header around it.
        3 => {
            let units = rng.u8(3..8);
            label[1] = units;
            label.resize(8 * (usize::from(units) + 1), 0);
            label[5] = rng.u8(18..64);
        }
        // Options without end.
        4 => {
            let more = [0x1c, 0].repeat(rng.usize(1..14));
            packet.headers.insert(0, options(DEST, &more));
        }
        // Padding that is none.
        _ => {
            let fill = [1, 3, 0, rng.u8(..2), 0];
            packet.headers.insert(0, options(DEST, &fill));
        }
    }
    Made::Whole(packet.bytes())
}

fn chance(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = packet::base::<Packet>(number, tag, rng);
    let label = packet.headers[0].1.clone();
    let units = rng.usize(..6);
    let mut header = vec![0; 8 * (units + 1)];
    rng.fill(&mut header);
    header[1] = units as u8;
    // Some of it looks like a label, and what is before it like padding.
    if header.len() >= LEN && rng.bool() {
        let at = rng.usize(2..header.len() - 20 + 1);
        header[2..at].fill(0);
        header[at..at + 20].copy_from_slice(&label[4..]);
        header[at + 20..].fill(0);
    }
    let kind = if rng.u8(..4) == 0 { HOP } else { DEST };
    let mut headers = vec![(kind, header)];
    if rng.bool() {
        headers.push((DEST, label));
    }
    Made::Whole(packet.with(headers).bytes())
}

fn hop_by_hop(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = maybe_changed(number, tag, rng);
    let label = packet.headers[0].clone();
    let mut tlvs = Vec::new();
    for _ in 0..rng.u8(1..4) {
        match rng.u8(..5) {
            // Router alert, of two lengths; one that nobody knows, with what is to be done about it.
            0 => tlvs.extend([5, 2, 0, 0]),
            1 => tlvs.extend([5, 3, 0, 0, 0]),
            2 => tlvs.extend([rng.u8(..4) << 6 | 0x1c, 2, 0, 0]),
            3 => tlvs.extend([1, 1, 0]),
            _ => tlvs.push(0),
        }
    }
    let mut headers = vec![options(HOP, &tlvs)];
    if rng.u8(..4) > 0 {
        headers.push(label);
    }
    Made::Whole(packet.with(headers).bytes())
}

fn jumbo(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = maybe_changed(number, tag, rng);
    let len = match rng.u8(..3) {
        0 => rng.u32(..0x1_0000),
        1 => 0x1_0000,
        _ => rng.u32(..),
    };
    let hop = match rng.u8(..4) {
        // No jumbogram at all, but a length of none.
        0 => padding(HOP),
        1 => options(HOP, &[&[0, 0xc2, 4], &len.to_be_bytes()[..]].concat()),
        _ => options(HOP, &[&[0xc2, 4], &len.to_be_bytes()[..]].concat()),
    };
    packet.headers.insert(0, hop);
    if rng.u8(..3) > 0 {
        packet.said = Some(0);
    }
    Made::Whole(packet.bytes())
}

fn routed(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = maybe_changed(number, tag, rng);
    let kind = [0, 1, 2, 5, 253, rng.u8(5..)][rng.usize(..6)];
    let route = routing(kind, rng.u8(..3), rng.usize(..3));
    let at = usize::from(rng.u8(..4) == 0);
    packet.headers.insert(at, route);
    Made::Whole(packet.bytes())
}

fn truncated(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    let whole = packet.bytes();
    let len = rng.usize(1..whole.len());
    if rng.bool() {
        // The length says so, or tells of more than there is.
        packet.said = Some(len.saturating_sub(40) as u16);
    }
    let mut bytes = packet.bytes();
    if rng.bool() {
        bytes.truncate(len);
    }
    Made::Whole(bytes)
}

fn over_long(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    if rng.bool() {
        // Data up to what a frame holds.
        packet.datagram.data.resize(rng.usize(100..1400), b'x');
        changed(&mut packet.label_mut()[DATA..], rng);
        return Made::Whole(packet.bytes());
    }
    // More behind the packet than it says.
    if rng.bool() {
        changed(&mut packet.label_mut()[DATA..], rng);
    }
    let mut bytes = packet.bytes();
    bytes.resize(bytes.len() + rng.usize(1..100), rng.u8(..));
    Made::Whole(bytes)
}

fn wrong_length(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.said = Some([rng.u16(..80), rng.u16(..), 0][rng.usize(..3)]);
    Made::Whole(packet.bytes())
}

fn broken_header(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    if rng.bool() {
        packet.version = rng.u8(..16);
    } else {
        packet.hops = rng.u8(1..);
        packet.flow = rng.u32(..);
        changed(&mut packet.label_mut()[DATA..], rng);
    }
    Made::Whole(packet.bytes())
}

fn broken_datagram(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    if rng.u8(..3) > 0 {
        packet.datagram.spoil = rng.u16(1..0xffff);
        return Made::Whole(packet.bytes());
    }
    // No checksum, which IPv6 does not allow.
    let mut bytes = packet.bytes();
    let at = 40 + LEN + 6;
    bytes[at..at + 2].fill(0);
    Made::Whole(bytes)
}

fn open_socket(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.datagram.ports.1 = OPEN_PORT;
    packet.source = if rng.bool() { MEMBER6 } else { STRANGER6 };
    match rng.u8(..3) {
        0 => packet.headers.clear(),
        1 => changed(&mut packet.label_mut()[DATA..], rng),
        _ => {}
    }
    Made::Whole(packet.bytes())
}

/// A datagram in fragments, with headers before what makes them fragments, of the first one and of the later ones, and
/// headers behind it.
fn fragments(
    packet: &Packet,
    number: u64,
    first: &[Header],
    later: &[Header],
    within: &[Header],
    rng: &mut Rng,
) -> Made {
    let (next, mut payload) = chain(within, packet.datagram.protocol);
    // The first one must hold all headers, or becomes nothing.
    let size = payload.len() + rng.usize(1..4) * 8;
    payload.extend(packet.datagram.bytes(packet.ends()));
    let whole = packet.clone().with([first, within].concat()).carrying(
        packet.datagram.protocol,
        &payload[chain(within, 0).1.len()..],
    );
    let mut made = Vec::new();
    for (index, part) in payload.chunks(size).enumerate() {
        let more = (index + 1) * size < payload.len();
        let mut headers = if index == 0 { first } else { later }.to_vec();
        headers.push(fragment(index * size, more, number as u32));
        made.push(packet.clone().with(headers).carrying(next, part));
    }
    if rng.bool() {
        made.reverse();
    }
    Made::Fragments(made, whole)
}

/// Long enough for several fragments.
fn long(number: u64, tag: &[u8; 6], rng: &mut Rng) -> (Packet, [Header; 1]) {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.datagram.data.resize(rng.usize(30..68), b'x');
    let label = packet.headers[0].clone();
    (packet, [label])
}

/// Its label with another byte.
fn wrong_label(label: &[Header; 1], rng: &mut Rng) -> [Header; 1] {
    let mut wrong = label.clone();
    changed(&mut wrong[0].1[DATA..], rng);
    wrong
}

fn as_the_kernels(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, label) = long(number, tag, rng);
    fragments(&packet, number, &label, &label, &[], rng)
}

fn first_labelled(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, label) = long(number, tag, rng);
    fragments(&packet, number, &label, &[], &[], rng)
}

fn later_labelled(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, label) = long(number, tag, rng);
    fragments(&packet, number, &[], &label, &[], rng)
}

fn changed_fragments(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, label) = long(number, tag, rng);
    let wrong = wrong_label(&label, rng);
    let later = if rng.bool() { &label } else { &wrong };
    fragments(&packet, number, &wrong, later, &[], rng)
}

fn label_within(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, label) = long(number, tag, rng);
    let within = if rng.u8(..4) == 0 {
        label
    } else {
        wrong_label(&label, rng)
    };
    let before = [padding(HOP)];
    let before = if rng.bool() { &before[..] } else { &[] };
    fragments(&packet, number, before, before, &within, rng)
}

fn labelled_twice(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, label) = long(number, tag, rng);
    let wrong = wrong_label(&label, rng);
    let (before, within) = match rng.u8(..3) {
        0 => (&label, &label),
        1 => (&wrong, &label),
        _ => (&label, &wrong),
    };
    fragments(&packet, number, before, before, within, rng)
}

/// What the fragments become is a fragment again, of one.
fn nested(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, label) = long(number, tag, rng);
    let inner = atomic(number);
    let within = match rng.u8(..3) {
        0 => vec![inner],
        1 => vec![label[0].clone(), inner],
        _ => vec![inner, label[0].clone()],
    };
    fragments(&packet, number, &[], &[], &within, rng)
}

fn of_one(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let packet = maybe_changed(number, tag, rng);
    let (label, one) = (packet.headers[0].clone(), atomic(number));
    let headers = match rng.u8(..4) {
        0 => vec![one, label],
        1 => vec![label, one],
        2 => vec![padding(HOP), one, label],
        _ => vec![one.clone(), one, label],
    };
    Made::Whole(packet.with(headers).bytes())
}

/// Under a number of its own: it may wait for a minute.
fn apart(number: u64) -> u32 {
    0x8000_0000 | number as u32
}

/// The label's header, or the datagram's, goes on in a second fragment that never comes.
fn without_header(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, label) = long(number, tag, rng);
    let (next, within) = chain(&label, packet.datagram.protocol);
    let part = &within[..rng.usize(1..4) * 8];
    let headers = [fragment(0, true, apart(number))];
    let packet = packet.with(headers).carrying(next, part);
    Made::Known(vec![packet], vec!["Ip6ReasmReqds", "Ip6InHdrErrors"])
}

/// The second one says anew what the end of the first one said: neither is heard any more.
fn overlapping(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, label) = long(number, tag, rng);
    let payload = packet.datagram.bytes(packet.ends());
    let part = |from: usize, to: usize| {
        let mut headers = label.to_vec();
        headers.push(fragment(from, true, apart(number)));
        let packet = packet.clone().with(headers);
        packet.carrying(packet.datagram.protocol, &payload[from..to])
    };
    Made::Known(vec![part(0, 24), part(16, 32)], vec!["Ip6ReasmReqds"; 2])
}

fn incomplete(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let (packet, label) = long(number, tag, rng);
    let id = u64::from(apart((number / INCOMPLETE_EACH) as u32 as u64));
    let mut made = match fragments(&packet, id, &label, &label, &[], rng) {
        Made::Fragments(made, _) => made,
        Made::Whole(_) | Made::Known(..) => Vec::new(),
    };
    if !made.is_empty() {
        made.remove(rng.usize(..made.len()));
    }
    let counts = vec!["Ip6ReasmReqds"; made.len()];
    Made::Known(made, counts)
}

fn other_data(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.flow = rng.u32(..);
    packet.datagram.data.resize(rng.usize(6..64), b'y');
    Made::Whole(packet.bytes())
}

fn sealed_then_changed(_: &Plan, number: u64, tag: &[u8; 6], rng: &mut Rng) -> Made {
    let mut packet = packet::base::<Packet>(number, tag, rng);
    packet.datagram.ports.0 = rng.u16(1024..);
    let mut packet = packet.relabel(COLBY, ZONE, EPOCH);
    match rng.u8(..4) {
        0 => packet.datagram.ports.0 = packet.datagram.ports.0.wrapping_add(1),
        1 => packet.source = STRANGER6,
        2 => packet.destination = SECOND6,
        _ => changed(&mut packet.label_mut()[8..], rng),
    }
    Made::Whole(packet.bytes())
}
