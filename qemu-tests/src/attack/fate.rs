//! What a receiver must do with an IPv4 packet, read from the packet's bytes alone.
//!
//! The first half follows the kernel's IP layer (`ip_rcv_core`, `ip_options_compile`, `udp_rcv`), the second
//! what docs say of labels. `None` is an honest answer: not for sure.

use std::net::Ipv4Addr;

use super::{
    COLBY, Counts, ECHO_PORT, EPOCH, FLOW_PORT, MEMBER, MUNSTER, OPEN_PORT, RECEIVER, SECOND, ZONE,
    ZONE_PORTS,
};
use crate::enrol::{pair_key, siphash};

/// IP protocol numbers.
pub const UDP: u8 = 17;
/// TCP's.
pub const TCP: u8 = 6;
/// Type of the option.
const OPTION: u8 = 158;

/// The sum that a header or a segment with its checksum in place has as 0.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a segment or datagram, with its pseudo header.
pub fn transport_checksum(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    payload: &[u8],
) -> u16 {
    let mut pseudo = Vec::with_capacity(payload.len() + 12);
    pseudo.extend(source.octets());
    pseudo.extend(destination.octets());
    pseudo.extend([0, protocol]);
    pseudo.extend((payload.len() as u16).to_be_bytes());
    pseudo.extend(payload);
    checksum(&pseudo)
}

/// What an options area is to the kernel.
enum Area {
    /// Dropped by it.
    Broken,
    /// Not for sure.
    Unsure,
    /// Passed on.
    Fine,
}

/// As `ip_options_compile` reads it.
fn area(options: &[u8]) -> Area {
    let (mut at, mut record_route) = (0, false);
    while let Some(&kind) = options.get(at) {
        match kind {
            0 => return Area::Fine,
            1 => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let Some(&len) = options.get(at + 1) else {
            return Area::Broken;
        };
        if len < 2 || at + usize::from(len) > options.len() {
            return Area::Broken;
        }
        let third = options.get(at + 2).copied().unwrap_or_default();
        match kind {
            // Routes and stamps, and another project's labels: what becomes of them depends on more.
            68 | 131 | 134 | 137 => return Area::Unsure,
            7 if record_route || len < 3 || third < 4 => return Area::Broken,
            7 if third <= len && third.wrapping_add(3) > len => return Area::Broken,
            7 => record_route = true,
            148 if len < 4 => return Area::Broken,
            _ => {}
        }
        at += usize::from(len);
    }
    Area::Fine
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(word(bytes, at))
}

/// The code of a label, whose first 12 bytes these are, for a tuple.
pub fn code(
    key: &[u8; 16],
    label: &[u8],
    protocol: u8,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    ports: (u16, u16),
) -> u64 {
    siphash(
        key,
        &[
            u64::from(label[2] >> 4) << 60
                | u64::from(label[3]) << 48
                | u64::from(protocol) << 32
                | u64::from(word(label, 4)),
            u64::from(word(label, 8)) << 32 | u64::from(u32::from(source)),
            u64::from(u32::from(destination)) << 32 | u64::from(ports.0) << 16 | u64::from(ports.1),
        ],
    )
}

/// What the label of an options area proves.
enum Claim<'a> {
    None,
    Bad,
    Label(&'a [u8]),
}

fn claim(options: &[u8]) -> Claim<'_> {
    let (mut at, mut found) = (0, None);
    while let Some(&kind) = options.get(at) {
        if kind == 0 {
            break;
        }
        if kind == 1 {
            at += 1;
            continue;
        }
        let len = usize::from(options[at + 1]);
        if kind == OPTION && (len != 20 || found.is_some()) {
            return Claim::Bad;
        }
        if kind == OPTION {
            found = Some(&options[at..at + len]);
        }
        at += len;
    }
    let Some(label) = found else {
        return Claim::None;
    };
    let (node, zone) = (word(label, 4), word(label, 8));
    if label[2] != 0x10 || node == 0 || node > 0xffff || zone == u32::MAX {
        return Claim::Bad;
    }
    Claim::Label(label)
}

/// Why the module refuses a packet for a socket of this zone; `None` if it does not.
fn refusal(
    options: &[u8],
    protocol: u8,
    addresses: (Ipv4Addr, Ipv4Addr),
    ports: (u16, u16),
    zone: u32,
) -> Option<&'static str> {
    let label = match claim(options) {
        Claim::None => return (zone == ZONE).then_some("refused-no-label"),
        Claim::Bad => return Some("refused-bad-label"),
        Claim::Label(label) => label,
    };
    let node = match addresses.0 {
        MEMBER => COLBY,
        RECEIVER => MUNSTER,
        _ => return Some("refused-unknown-node"),
    };
    if word(label, 4) != node {
        return Some("refused-wrong-source");
    }
    if label[3] != EPOCH {
        return Some("refused-unknown-epoch");
    }
    let key = pair_key(node, MUNSTER, EPOCH);
    let mac = u64::from(word(label, 12)) << 32 | u64::from(word(label, 16));
    if code(&key, label, protocol, addresses, ports) != mac {
        return Some("refused-bad-mac");
    }
    match word(label, 8) {
        // No reply of a kernel's is among what is sent: openings and data only.
        0 => Some("refused-kernel-label"),
        claimed if claimed == zone => None,
        _ => Some("refused-no-permission"),
    }
}

/// The counters that a packet, whole and no fragment, raises at the receiver.
pub fn fate(packet: &[u8]) -> Option<Counts> {
    if packet.len() < 20 {
        return Some(vec!["Ip:InHdrErrors"]);
    }
    let header = usize::from(packet[0] & 15) * 4;
    if header < 20 || packet[0] >> 4 != 4 || packet.len() < header {
        return Some(vec!["Ip:InHdrErrors"]);
    }
    if checksum(&packet[..header]) != 0 {
        return Some(vec!["IpExt:InCsumErrors", "Ip:InHdrErrors"]);
    }
    let total = usize::from(half(packet, 2));
    if packet.len() < total {
        return Some(vec!["IpExt:InTruncatedPkts"]);
    }
    if total < header {
        return Some(vec!["Ip:InHdrErrors"]);
    }
    let packet = &packet[..total];
    if half(packet, 6) & 0x3fff != 0 {
        return None;
    }
    let (source, destination) = (address(packet, 12), address(packet, 16));
    if !in_lan(source) {
        return None;
    }
    if [RECEIVER, SECOND].contains(&source) {
        // From itself, by the wire: dropped by routing, before anything is counted.
        return Some(vec!["martian"]);
    }
    let options = &packet[20..header];
    match area(options) {
        Area::Unsure => return None,
        Area::Broken => return Some(vec!["Ip:InHdrErrors"]),
        Area::Fine => {}
    }
    if ![RECEIVER, SECOND].contains(&destination) {
        return in_lan(destination).then(|| vec!["Ip:InAddrErrors"]);
    }
    let data = &packet[header..];
    match packet[9] {
        UDP => datagram(options, (source, destination), data),
        TCP => segment(options, (source, destination), data),
        253 | 254 => Some(vec!["Ip:InUnknownProtos"]),
        _ => None,
    }
}

fn in_lan(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    [a, b, c] == [10, 77, 0] && d != 0 && d != 255
}

fn datagram(options: &[u8], addresses: (Ipv4Addr, Ipv4Addr), data: &[u8]) -> Option<Counts> {
    if data.len() < 8 {
        return Some(vec!["Udp:InErrors"]);
    }
    let len = usize::from(half(data, 4));
    if len == 0 {
        return None;
    }
    if len > data.len() || len < 8 {
        return Some(vec!["Udp:InErrors"]);
    }
    let data = &data[..len];
    if half(data, 6) != 0 && transport_checksum(addresses.0, addresses.1, UDP, data) != 0 {
        // A longer one is checked when it is read.
        return (len <= 76).then(|| vec!["Udp:InCsumErrors", "Udp:InErrors"]);
    }
    let ports = (half(data, 0), half(data, 2));
    let zone = match ports.1 {
        port if ZONE_PORTS.contains(&port) => ZONE,
        OPEN_PORT => 2,
        ECHO_PORT => return None,
        _ => return Some(vec!["Udp:NoPorts"]),
    };
    Some(match refusal(options, UDP, addresses, ports, zone) {
        Some(reason) => vec![reason, "Udp:InErrors"],
        None => vec!["delivered"],
    })
}

fn segment(options: &[u8], addresses: (Ipv4Addr, Ipv4Addr), data: &[u8]) -> Option<Counts> {
    let whole = data.len() >= 20 && transport_checksum(addresses.0, addresses.1, TCP, data) == 0;
    let ports = whole.then(|| (half(data, 0), half(data, 2)))?;
    // Openings and data: an empty answer of the kernel's own is another matter.
    if ports.1 != FLOW_PORT || (data[13] & 2 == 0 && data.len() == 20) {
        return None;
    }
    // One that is let in would be a connection, and no longer this suite's.
    refusal(options, TCP, addresses, ports, ZONE).map(|reason| vec![reason])
}

/// The counters that the fragments of a datagram raise, the first of which has this header.
pub fn fate_of_fragments(whole: &[u8], fragments: usize) -> Option<Counts> {
    let mut counts = fate(whole)?;
    counts.extend(std::iter::repeat_n("Ip:ReasmReqds", fragments));
    counts.push("Ip:ReasmOKs");
    Some(counts)
}
