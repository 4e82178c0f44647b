//! What a receiver must do with an IPv6 packet, read from the packet's bytes alone: the headers as the kernel's IP layer
//! reads them (`ip6_rcv_core`, `ip6_protocol_deliver_rcu`, `ip6_parse_tlv`), the label as its format says. What both
//! families share is in [`super::fate`].

use std::net::{IpAddr, Ipv6Addr};

use super::fate::{Claim, TCP, UDP, datagram, half, segment};
use super::{Counts, RECEIVER6, SECOND6};

/// Numbers of headers: of hop-by-hop options.
pub const HOP: u8 = 0;
/// A route.
pub const ROUTING: u8 = 43;
/// A fragment.
pub const FRAGMENT: u8 = 44;
/// Options of the destination's.
pub const DEST: u8 = 60;
/// Type of the label's option.
pub const OPTION: u8 = 0x1e;
/// Bytes of the label's header.
pub const LEN: usize = 24;

/// Headers that the kernel reads, and options in one of them.
const MOST_HEADERS: usize = 12;
const MOST_OPTIONS: usize = 8;

const BROKEN: &str = "Ip6InHdrErrors";

/// What options are to the kernel.
enum Area {
    /// The packet is dropped.
    Broken,
    /// Not for sure.
    Unsure,
    /// Passed on.
    Fine,
}

/// As `ip6_parse_tlv` reads a header of options.
fn area(header: &[u8], hop_by_hop: bool) -> Area {
    let (mut at, mut padding, mut options) = (2, 0, 0);
    while let Some(&kind) = header.get(at) {
        if kind == 0 {
            padding += 1;
            at += 1;
            if padding > 7 {
                return Area::Broken;
            }
            continue;
        }
        let Some(len) = header.get(at + 1).map(|len| usize::from(*len) + 2) else {
            return Area::Broken;
        };
        let Some(option) = header.get(at..at + len) else {
            return Area::Broken;
        };
        at += len;
        if kind == 1 {
            padding += len;
            if padding > 7 || option[2..].iter().any(|byte| *byte != 0) {
                return Area::Broken;
            }
            continue;
        }
        options += 1;
        padding = 0;
        if options > MOST_OPTIONS {
            return Area::Broken;
        }
        match (kind, hop_by_hop) {
            // Router alert.
            (0x05, true) if len == 4 => {}
            (0x05, true) => return Area::Broken,
            // Another project's labels, telemetry, a mobile node's home: what becomes of them depends on more.
            (0x07 | 0x31, true) | (0xc9, false) => return Area::Unsure,
            // No frame is as long as the least jumbogram, so its length is wrong one way or another. Others say
            // themselves what is to be done if nobody knows them.
            (0xc2, true) => return Area::Broken,
            (kind, _) if kind >> 6 != 0 => return Area::Broken,
            _ => {}
        }
    }
    Area::Fine
}

/// What the extension headers claim: numbers and bytes of them, and what follows.
fn claim(headers: &[(u8, &[u8])], protocol: u8) -> Claim {
    let mut found = None;
    for (index, (kind, header)) in headers.iter().enumerate() {
        if ![HOP, DEST].contains(kind) {
            continue;
        }
        if header[1] == 2 && header[2..6] == [1, 0, OPTION, 18] {
            // Once, last, and right in front of what it is about.
            if found.is_some()
                || *kind != DEST
                || index + 1 != headers.len()
                || header[0] != protocol
            {
                return Claim::Bad;
            }
            found = header.get(6..LEN);
            continue;
        }
        let mut at = 2;
        while let Some(&kind) = header.get(at) {
            match kind {
                0 => at += 1,
                OPTION => return Claim::Bad,
                // The kernel has seen that it is there.
                _ => at += 2 + header.get(at + 1).copied().map_or(0, usize::from),
            }
        }
    }
    let Some(data) = found else {
        return Claim::None;
    };
    let mut label = [0; 20];
    label[2..].copy_from_slice(data);
    Claim::of(label, protocol)
}

/// The counters that a packet, whole and no fragment, raises at the receiver.
pub fn fate(packet: &[u8]) -> Option<Counts> {
    walk(packet, false)
}

/// Those that it raises that fragments have become.
pub fn reassembled(packet: &[u8]) -> Option<Counts> {
    walk(packet, true)
}

fn address(packet: &[u8], at: usize) -> Ipv6Addr {
    let words: [u16; 8] = std::array::from_fn(|i| half(packet, at + 2 * i));
    Ipv6Addr::from(words)
}

fn in_lan(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    segments[..7] == [0xfd77, 0, 0, 0, 0, 0, 0] && segments[7] != 0
}

fn walk(packet: &[u8], mut fragmented: bool) -> Option<Counts> {
    if packet.len() < 40 || packet[0] >> 4 != 6 {
        return Some(vec![BROKEN]);
    }
    let (source, destination) = (address(packet, 8), address(packet, 24));
    if !in_lan(source) || !in_lan(destination) {
        return None;
    }
    let said = usize::from(half(packet, 4));
    let mut kind = packet[6];
    let packet = if said > 0 || kind != HOP {
        let Some(packet) = packet.get(..40 + said) else {
            return Some(vec!["Ip6InTruncatedPkts"]);
        };
        packet
    } else {
        packet
    };
    let (mut at, mut headers, mut counts) = (40, Vec::new(), Vec::new());
    let ending = |mut counts: Counts, last: &'static str| {
        counts.push(last);
        Some(counts)
    };
    loop {
        let rest = &packet[at..];
        let sized = |unit: usize| {
            let len = rest.get(1).map(|units| (usize::from(*units) + 1) * unit)?;
            rest.get(..len)
        };
        match kind {
            HOP if at == 40 => {
                let Some(header) = sized(8) else {
                    return ending(counts, BROKEN);
                };
                match area(header, true) {
                    Area::Broken => return ending(counts, BROKEN),
                    Area::Unsure => return None,
                    Area::Fine => headers.push((kind, header)),
                }
            }
            _ if headers.len() == usize::from(packet[6] == HOP)
                && ![RECEIVER6, SECOND6].contains(&destination) =>
            {
                // The route is asked for behind the hop-by-hop options.
                return ending(counts, "Ip6InAddrErrors");
            }
            DEST => {
                let Some(header) = sized(8) else {
                    return ending(counts, BROKEN);
                };
                match area(header, false) {
                    Area::Broken => return ending(counts, BROKEN),
                    Area::Unsure => return None,
                    Area::Fine => headers.push((kind, header)),
                }
            }
            ROUTING => {
                let Some(header) = sized(8) else {
                    return ending(counts, BROKEN);
                };
                match (header[2], header[3]) {
                    (3 | 4, _) => return None,
                    // A mobile node's, which this is not.
                    (2, 0) => return ending(counts, "Ip6InAddrErrors"),
                    (2, 1) if header[1] == 2 => return ending(counts, "Ip6InAddrErrors"),
                    (_, 0) => headers.push((kind, header)),
                    _ => return ending(counts, BROKEN),
                }
            }
            FRAGMENT => {
                if fragmented {
                    return ending(counts, BROKEN);
                }
                counts.push("Ip6ReasmReqds");
                let Some(header) = rest.get(..8) else {
                    return ending(counts, BROKEN);
                };
                if said == 0 {
                    return ending(counts, BROKEN);
                }
                if half(header, 2) & 0xfff9 != 0 {
                    return None;
                }
                counts.push("Ip6ReasmOKs");
                fragmented = true;
                headers.push((kind, header));
            }
            UDP | TCP => {
                let ends = (IpAddr::V6(source), IpAddr::V6(destination));
                let claim = claim(&headers, kind);
                let last = if kind == UDP {
                    datagram(&claim, ends, rest)
                } else {
                    segment(&claim, ends, rest)
                };
                counts.extend(last?);
                return Some(counts);
            }
            HOP | 253 | 254 => return ending(counts, "Ip6InUnknownProtos"),
            _ => return None,
        }
        if headers.len() > MOST_HEADERS {
            return ending(counts, "Ip6InDiscards");
        }
        let header = headers.last()?.1;
        at += header.len();
        kind = header[0];
    }
}
