//! The label on the wire, read as docs/wire-format describes it: the tests' own reader, which shares no
//! code with the module or its engine.

use std::net::Ipv4Addr;

use crate::enrol::siphash;
use crate::pcap::{Frame, Ipv4};

/// Type of the IPv4 option.
pub const OPTION: u8 = 158;
/// Its length.
pub const LEN: usize = 20;

/// A label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Format version.
    pub version: u8,
    /// Flags.
    pub flags: u8,
    /// Low byte of the key epoch.
    pub epoch: u8,
    /// The sender's node.
    pub snid: u32,
    /// The sender's class.
    pub scid: u32,
    /// The authentication code.
    pub mac: u64,
}

/// SnID and ScID.
pub type Claim = (u32, u32);

/// Those of a frame's label, over either family.
pub fn claim(frame: &Frame) -> Option<Claim> {
    const DESTINATION_OPTIONS: u8 = 60;
    if let Some(packet) = frame.ipv4() {
        return Label::of(&packet).map(|label| (label.snid, label.scid));
    }
    let packet = frame.ipv6()?;
    let is_label =
        |(kind, header): &&(u8, Vec<u8>)| *kind == DESTINATION_OPTIONS && header.len() == 24;
    let (_, header) = packet.extensions.iter().find(is_label)?;
    let word = |at: usize| {
        let bytes = header[at..at + 4].try_into();
        bytes.map(u32::from_be_bytes).unwrap_or_default()
    };
    Some((word(8), word(12)))
}

impl Label {
    /// The label of a packet, if it carries one.
    pub fn of(packet: &Ipv4) -> Option<Self> {
        let option: &[u8; LEN] = packet.option(OPTION)?.try_into().ok()?;
        let word = |at: usize| {
            u32::from_be_bytes([option[at], option[at + 1], option[at + 2], option[at + 3]])
        };
        Some(Self {
            version: option[2] >> 4,
            flags: option[2] & 15,
            epoch: option[3],
            snid: word(4),
            scid: word(8),
            mac: u64::from(word(12)) << 32 | u64::from(word(16)),
        })
    }

    /// The code that this label must carry on this packet under `key`. A fragment behind the first one
    /// has no ports and takes its first one's label: those of a whole packet are asked for.
    pub fn expected_mac(&self, packet: &Ipv4, ports: (u16, u16), key: &[u8; 16]) -> u64 {
        siphash(key, &self.covered(packet, ports))
    }

    /// The same for a label that also covers where the sequence numbers of its connection start: the
    /// sender's and, but on its first packet, the receiver's.
    pub fn expected_stream_mac(
        &self,
        packet: &Ipv4,
        (sender, receiver): (u32, Option<u32>),
        key: &[u8; 16],
    ) -> u64 {
        let [head, source, target] = self.covered(packet, packet.ports().unwrap_or_default());
        let opening = u64::from(receiver.is_none()) << 40;
        let starts = u64::from(sender) << 32 | u64::from(receiver.unwrap_or(0));
        siphash(key, &[head | 1 << 56 | opening, source, target, starts])
    }

    fn covered(&self, packet: &Ipv4, ports: (u16, u16)) -> [u64; 3] {
        let address = |address: Ipv4Addr| u64::from(u32::from(address));
        [
            u64::from(self.version) << 60
                | u64::from(self.epoch) << 48
                | u64::from(packet.protocol) << 32
                | u64::from(self.snid),
            u64::from(self.scid) << 32 | address(packet.source),
            address(packet.destination) << 32 | u64::from(ports.0) << 16 | u64::from(ports.1),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_where_it_stands() {
        let mut options = vec![OPTION, 20, 0x10, 7, 0, 0, 0, 1, 0, 0, 0, 10];
        options.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        let packet = Ipv4 {
            source: Ipv4Addr::LOCALHOST,
            destination: Ipv4Addr::LOCALHOST,
            protocol: 17,
            options,
            payload: vec![0; 8],
        };
        let label = Label {
            version: 1,
            flags: 0,
            epoch: 7,
            snid: 1,
            scid: 10,
            mac: 0x0102_0304_0506_0708,
        };
        assert_eq!(Label::of(&packet), Some(label));
        let other = Ipv4 {
            options: vec![OPTION, 4, 0, 0],
            ..packet
        };
        assert_eq!(Label::of(&other), None);
    }
}
