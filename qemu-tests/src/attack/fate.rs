//! What a receiver must do with an IPv4 packet, read from the packet's bytes alone.
//!
//! The first half follows the kernel's IP layer (`ip_rcv_core`, `ip_options_compile`, `udp_rcv`), the second
//! what docs say of labels, for both families of addresses. `None` is an honest answer: not for sure.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    COLBY, Counts, ECHO_PORT, EPOCH, FLOW_PORT, MEMBER, MEMBER6, MUNSTER, OPEN_PORT, RECEIVER,
    RECEIVER6, SECOND, SECOND6, ZONE, ZONE_PORTS,
};
use crate::enrol::{pair_key, siphash};

/// IP protocol numbers.
pub const UDP: u8 = 17;
/// TCP's.
pub const TCP: u8 = 6;
/// Type of the option.
const OPTION: u8 = 158;
/// Version and flags of a label whose code covers where a connection's sequence numbers start.
const OF_HANDSHAKE: u8 = 0x11;

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

/// Source and destination.
pub type Ends = (IpAddr, IpAddr);

/// The checksum of a segment or datagram, with its pseudo header. IPv6 has more zeros in it, which add nothing.
pub fn transport_checksum(ends: Ends, protocol: u8, payload: &[u8]) -> u16 {
    let mut pseudo = Vec::with_capacity(payload.len() + 36);
    for address in [ends.0, ends.1] {
        match address {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
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

/// Four bytes of a packet.
pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// Two bytes of a packet.
pub fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(word(bytes, at))
}

/// The code of a label, whose first 12 bytes these are as IPv4 has them, for a tuple.
pub fn code(key: &[u8; 16], label: &[u8], protocol: u8, ends: Ends, ports: (u16, u16)) -> u64 {
    let head = u64::from(label[2] >> 4) << 60
        | u64::from(label[3]) << 48
        | u64::from(protocol) << 32
        | u64::from(word(label, 4));
    let zone = u64::from(word(label, 8)) << 32;
    let ports = u64::from(ports.0) << 16 | u64::from(ports.1);
    match ends {
        (IpAddr::V4(source), IpAddr::V4(destination)) => siphash(
            key,
            &[
                head,
                zone | u64::from(source.to_bits()),
                u64::from(destination.to_bits()) << 32 | ports,
            ],
        ),
        (source, destination) => {
            let halves = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
                IpAddr::V6(address) => address.to_bits(),
            };
            let (source, destination) = (halves(source), halves(destination));
            siphash(
                key,
                &[
                    head,
                    zone | ports,
                    (source >> 64) as u64,
                    source as u64,
                    (destination >> 64) as u64,
                    destination as u64,
                ],
            )
        }
    }
}

/// What the label of a packet proves.
pub enum Claim {
    /// There is none.
    None,
    /// It is none, or not where it must be.
    Bad,
    /// As IPv4 has it.
    Label([u8; 20]),
}

impl Claim {
    /// Of a label before this protocol, as IPv4 has it. Only TCP's may be that of a handshake.
    pub fn of(label: [u8; 20], protocol: u8) -> Self {
        let (node, zone) = (word(&label, 4), word(&label, 8));
        let known = label[2] == 0x10 || (protocol == TCP && label[2] == OF_HANDSHAKE);
        if !known || node == 0 || node > 0xffff || zone == u32::MAX {
            Self::Bad
        } else {
            Self::Label(label)
        }
    }
}

fn claim(options: &[u8], protocol: u8) -> Claim {
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
            found = options[at..at + len].first_chunk().copied();
        }
        at += len;
    }
    found.map_or(Claim::None, |label| Claim::of(label, protocol))
}

/// Why the module refuses a packet for a socket of this zone; `None` if it does not.
fn refusal(
    claim: &Claim,
    protocol: u8,
    ends: Ends,
    ports: (u16, u16),
    zone: u32,
) -> Option<&'static str> {
    let label = match claim {
        Claim::None => return (zone == ZONE).then_some("refused-no-label"),
        Claim::Bad => return Some("refused-bad-label"),
        Claim::Label(label) => label,
    };
    let node = match ends.0 {
        IpAddr::V4(MEMBER) | IpAddr::V6(MEMBER6) => COLBY,
        // A node's own addresses are its, in the map or not.
        IpAddr::V4(RECEIVER | SECOND) | IpAddr::V6(RECEIVER6 | SECOND6) => MUNSTER,
        // A stranger is outside, whatever he says of himself.
        _ => return (zone == ZONE).then_some("refused-unknown-node"),
    };
    if word(label, 4) != node {
        return Some("refused-wrong-source");
    }
    if label[3] != EPOCH {
        return Some("refused-unknown-epoch");
    }
    let key = pair_key(node, MUNSTER, EPOCH);
    let mac = u64::from(word(label, 12)) << 32 | u64::from(word(label, 16));
    // Nobody here makes one of a handshake: what looks like it is another that was changed.
    if label[2] == OF_HANDSHAKE || code(&key, label, protocol, ends, ports) != mac {
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
    let (data, ends) = (
        &packet[header..],
        (IpAddr::V4(source), IpAddr::V4(destination)),
    );
    match packet[9] {
        UDP => datagram(&claim(options, UDP), ends, data),
        TCP => segment(&claim(options, TCP), ends, data),
        253 | 254 => Some(vec!["Ip:InUnknownProtos"]),
        _ => None,
    }
}

fn in_lan(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    [a, b, c] == [10, 77, 0] && d != 0 && d != 255
}

/// Counters of the kernel's UDP.
struct Names {
    errors: &'static str,
    checksum: &'static str,
    no_port: &'static str,
}

const NAMES: Names = Names {
    errors: "Udp:InErrors",
    checksum: "Udp:InCsumErrors",
    no_port: "Udp:NoPorts",
};
const NAMES6: Names = Names {
    errors: "Udp6InErrors",
    checksum: "Udp6InCsumErrors",
    no_port: "Udp6NoPorts",
};

/// What becomes of a datagram that the IP layer passes on.
pub fn datagram(claim: &Claim, ends: Ends, data: &[u8]) -> Option<Counts> {
    let names = if ends.0.is_ipv6() { &NAMES6 } else { &NAMES };
    if data.len() < 8 {
        return Some(vec![names.errors]);
    }
    let len = usize::from(half(data, 4));
    if len == 0 && ends.0.is_ipv4() {
        return None;
    }
    if len > data.len() || len < 8 {
        return Some(vec![names.errors]);
    }
    let data = &data[..len];
    // IPv4 may do without a checksum.
    let checked = ends.0.is_ipv6() || half(data, 6) != 0;
    if checked && half(data, 6) == 0 {
        return Some(vec![names.checksum, names.errors]);
    }
    if checked && transport_checksum(ends, UDP, data) != 0 {
        // A longer one is checked when it is read.
        return (len <= 76).then(|| vec![names.checksum, names.errors]);
    }
    let ports = (half(data, 0), half(data, 2));
    let zone = match ports.1 {
        port if ZONE_PORTS.contains(&port) => ZONE,
        OPEN_PORT => 2,
        ECHO_PORT => return None,
        _ => return Some(vec![names.no_port]),
    };
    Some(match refusal(claim, UDP, ends, ports, zone) {
        Some(reason) => vec![reason, names.errors],
        None => vec!["delivered"],
    })
}

/// What becomes of a segment that the IP layer passes on.
pub fn segment(claim: &Claim, ends: Ends, data: &[u8]) -> Option<Counts> {
    let whole = data.len() >= 20 && transport_checksum(ends, TCP, data) == 0;
    let ports = whole.then(|| (half(data, 0), half(data, 2)))?;
    // Openings and data: an empty answer of the kernel's own is another matter.
    if ports.1 != FLOW_PORT || data[12] >> 4 != 5 || (data[13] & 2 == 0 && data.len() == 20) {
        return None;
    }
    // One that is let in would be a connection, and no longer this suite's.
    refusal(claim, TCP, ends, ports, ZONE).map(|reason| vec![reason])
}
