// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The label in a packet: a 20-byte IPv4 option, and what its authentication code covers, in IPv6 too.
//!
//! Nothing here decides; a parsed label is a claim until its code has been verified. SipHash is not implemented here:
//! kernel and host each bring their own through [`Prf`].

use super::ids::{ScId, SnId};
use core::fmt;
use core::net::IpAddr;

/// Type byte of the IPv4 option: copied into fragments, class 0, experimental number 30 (RFC 4727).
pub const OPTION_TYPE: u8 = 158;
/// Bytes of the option, type and length bytes included.
pub const OPTION_LEN: usize = 20;
/// Bytes of it behind these two.
pub const DATA_LEN: usize = OPTION_LEN - 2;
/// Version of the format.
pub const VERSION: u8 = 1;
/// Flag: the code also covers where the sequence numbers of its TCP connection start.
pub const STREAM: u8 = 1;
/// What a socket reserves for a label that the way out fills in. Its version, 0, makes every receiver refuse it should
/// it ever leave unstamped.
pub const PLACEHOLDER: [u8; OPTION_LEN] = [
    OPTION_TYPE,
    OPTION_LEN as u8,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
];

const EOL: u8 = 0;
const NOP: u8 = 1;

/// Keyed pseudo-random function: SipHash-2-4 over little-endian words.
pub trait Prf {
    /// The function over one word.
    fn siphash_u64x1(key: &[u8; 16], word: u64) -> u64;
    /// The function over three words.
    fn siphash_u64x3(key: &[u8; 16], words: [u64; 3]) -> u64;
    /// The function over four words.
    fn siphash_u64x4(key: &[u8; 16], words: [u64; 4]) -> u64;
    /// The function over six words.
    fn siphash_u64x6(key: &[u8; 16], words: [u64; 6]) -> u64;
    /// The function over seven words.
    fn siphash_u64x7(key: &[u8; 16], words: [u64; 7]) -> u64;
}

/// A label as it stands in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Whether its code covers where the sequence numbers of its TCP connection start.
    pub stream: bool,
    /// Low 8 bits of the key epoch that the code was made in.
    pub epoch: u8,
    /// Node that claims to have sent the packet.
    pub snid: SnId,
    /// Zone that claims to have sent the packet.
    pub scid: ScId,
    /// Message authentication code.
    pub mac: u64,
}

/// What of a packet, apart from the label, its code covers. Both addresses are of one family; ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Source address.
    pub saddr: IpAddr,
    /// Destination address.
    pub daddr: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// Where the sequence numbers of a TCP connection start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The sender's of the packet.
    pub sender: u32,
    /// The receiver's; the packet that opens the connection cannot know it.
    pub receiver: Option<u32>,
}

/// Why an options area holds no usable label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelError {
    /// An option's length byte is missing, below 2, or reaches beyond the area.
    Truncated {
        /// Where in the options area.
        offset: usize,
    },
    /// Another option than a label.
    Kind {
        /// Its type byte.
        found: u8,
    },
    /// Option 158 with another length than 20.
    Length {
        /// Where in the options area.
        offset: usize,
        /// Its length byte.
        found: u8,
    },
    /// A second label.
    Duplicate {
        /// Where in the options area.
        offset: usize,
    },
    /// An IPv6 label's option elsewhere than right before the transport header, or not in a label's header.
    Place {
        /// Where behind the fixed header.
        offset: usize,
    },
    /// An extension header that is none, or another transport header than the one that follows.
    Header {
        /// Its number.
        found: u8,
    },
    /// Another version, or an unstamped placeholder.
    Version {
        /// The high nibble.
        found: u8,
    },
    /// Flags that version 1 does not know.
    Flags {
        /// The low nibble.
        found: u8,
    },
    /// A SnID that no node has.
    Node {
        /// The number.
        found: u32,
    },
    /// A ScID that no sender has.
    Context {
        /// The number.
        found: u32,
    },
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { offset } => write!(f, "option at byte {offset} is cut off"),
            Self::Kind { found } => {
                write!(f, "expected option {OPTION_TYPE}, found option {found}")
            }
            Self::Length { offset, found } => {
                write!(
                    f,
                    "label at byte {offset}: expected length {OPTION_LEN}, found {found}"
                )
            }
            Self::Duplicate { offset } => write!(f, "second label at byte {offset}"),
            Self::Place { offset } => {
                write!(f, "label at byte {offset} is not where a label stands")
            }
            Self::Header { found } => write!(f, "unexpected header {found}"),
            Self::Version { found } => {
                write!(f, "label: expected version {VERSION}, found {found}")
            }
            Self::Flags { found } => {
                write!(f, "label: expected flags 0 or {STREAM}, found {found}")
            }
            Self::Node { found } => write!(
                f,
                "label: expected a SnID from 1 to {}, found {found}",
                SnId::MAX
            ),
            Self::Context { found } => write!(f, "label: ScID {found} cannot send"),
        }
    }
}

impl Label {
    #[inline]
    fn flags(&self) -> u8 {
        if self.stream {
            STREAM
        } else {
            0
        }
    }

    /// The option's bytes.
    #[inline]
    pub fn encode(&self) -> [u8; OPTION_LEN] {
        let [n0, n1, n2, n3] = self.snid.get().to_be_bytes();
        let [c0, c1, c2, c3] = self.scid.0.to_be_bytes();
        let [m0, m1, m2, m3, m4, m5, m6, m7] = self.mac.to_be_bytes();
        [
            OPTION_TYPE,
            OPTION_LEN as u8,
            VERSION << 4 | self.flags(),
            self.epoch,
            n0,
            n1,
            n2,
            n3,
            c0,
            c1,
            c2,
            c3,
            m0,
            m1,
            m2,
            m3,
            m4,
            m5,
            m6,
            m7,
        ]
    }

    /// Reads one option. Type and length must be right: [`locate`] has seen to it, others get the error.
    #[inline]
    pub fn parse(option: &[u8; OPTION_LEN]) -> Result<Self, LabelError> {
        let [kind, len, data @ ..] = option;
        let (kind, len) = (*kind, *len);
        if kind != OPTION_TYPE {
            return Err(LabelError::Kind { found: kind });
        }
        if len as usize != OPTION_LEN {
            return Err(LabelError::Length {
                offset: 0,
                found: len,
            });
        }
        Self::read(data)
    }

    /// Reads what stands behind type and length, the same in both families.
    #[inline]
    pub fn read(data: &[u8; DATA_LEN]) -> Result<Self, LabelError> {
        let [version_flags, epoch, n0, n1, n2, n3, c0, c1, c2, c3, m0, m1, m2, m3, m4, m5, m6, m7] =
            *data;
        if version_flags >> 4 != VERSION {
            return Err(LabelError::Version {
                found: version_flags >> 4,
            });
        }
        if version_flags & 0x0F & !STREAM != 0 {
            return Err(LabelError::Flags {
                found: version_flags & 0x0F,
            });
        }
        let snid = u32::from_be_bytes([n0, n1, n2, n3]);
        let Some(snid) = SnId::node(snid) else {
            return Err(LabelError::Node { found: snid });
        };
        let scid = ScId(u32::from_be_bytes([c0, c1, c2, c3]));
        if scid == ScId::OUTSIDE {
            return Err(LabelError::Context { found: scid.0 });
        }
        Ok(Self {
            stream: version_flags & STREAM != 0,
            epoch,
            snid,
            scid,
            mac: u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]),
        })
    }

    /// Makes a label with its code under the pair key of sender and receiver; with a `start`, one of a stream.
    #[inline]
    pub fn sealed<P: Prf>(
        epoch: u8,
        snid: SnId,
        scid: ScId,
        flow: &Flow,
        start: Option<Start>,
        pair_key: &[u8; 16],
    ) -> Self {
        let mut label = Self {
            stream: start.is_some(),
            epoch,
            snid,
            scid,
            mac: 0,
        };
        label.mac = mac::<P>(&label, flow, start, pair_key);
        label
    }

    /// Whether the code is that of this label in this packet under this pair key. A stream's label is none without the
    /// stream's start, and any other label is none with one.
    #[inline]
    pub fn verify<P: Prf>(&self, flow: &Flow, start: Option<Start>, pair_key: &[u8; 16]) -> bool {
        // One comparison of two registers: its time tells nothing about where they differ.
        self.stream == start.is_some() && mac::<P>(self, flow, start, pair_key) == self.mac
    }
}

/// What the message authentication code is made of. The families differ in length, which SipHash covers, and so do the
/// labels of streams and others: no code of one is good for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacWords {
    /// IPv4: 24 bytes.
    V4([u64; 3]),
    /// IPv4, with a stream's start: 32 bytes.
    V4Stream([u64; 4]),
    /// IPv6: 48 bytes.
    V6([u64; 6]),
    /// IPv6, with a stream's start: 56 bytes.
    V6Stream([u64; 7]),
}

/// Set in the first word for a packet that opens a connection, which knows one start only.
const OPENING: u64 = 1 << 40;

/// Input of the message authentication code of a label, whose own code has no part in it.
#[inline]
pub fn mac_words(label: &Label, flow: &Flow, start: Option<Start>) -> MacWords {
    let opening = match start {
        Some(Start { receiver: None, .. }) => OPENING,
        _ => 0,
    };
    let head = ((VERSION << 4 | label.flags()) as u64) << 56
        | (label.epoch as u64) << 48
        | opening
        | (flow.protocol as u64) << 32
        | label.snid.get() as u64;
    let ports = (flow.sport as u64) << 16 | flow.dport as u64;
    let scid = (label.scid.0 as u64) << 32;
    let starts =
        start.map(|start| (start.sender as u64) << 32 | start.receiver.unwrap_or(0) as u64);
    match (flow.saddr, flow.daddr) {
        (IpAddr::V4(saddr), IpAddr::V4(daddr)) => {
            let source = scid | u32::from_be_bytes(saddr.octets()) as u64;
            let target = (u32::from_be_bytes(daddr.octets()) as u64) << 32 | ports;
            match starts {
                None => MacWords::V4([head, source, target]),
                Some(starts) => MacWords::V4Stream([head, source, target, starts]),
            }
        }
        (saddr, daddr) => {
            let [s0, s1] = halves(saddr);
            let [d0, d1] = halves(daddr);
            match starts {
                None => MacWords::V6([head, scid | ports, s0, s1, d0, d1]),
                Some(starts) => MacWords::V6Stream([head, scid | ports, s0, s1, d0, d1, starts]),
            }
        }
    }
}

/// An IPv6 address as the two numbers that its bytes spell in network order.
#[inline]
fn halves(address: IpAddr) -> [u64; 2] {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7] = address.octets();
    [
        u64::from_be_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        u64::from_be_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
    ]
}

#[inline]
fn mac<P: Prf>(label: &Label, flow: &Flow, start: Option<Start>, pair_key: &[u8; 16]) -> u64 {
    match mac_words(label, flow, start) {
        MacWords::V4(words) => P::siphash_u64x3(pair_key, words),
        MacWords::V4Stream(words) => P::siphash_u64x4(pair_key, words),
        MacWords::V6(words) => P::siphash_u64x6(pair_key, words),
        MacWords::V6Stream(words) => P::siphash_u64x7(pair_key, words),
    }
}

/// The key of packets from `sender` to the node whose secret of the epoch is given.
pub fn pair_key<P: Prf>(receiver_secret: &[u8; 16], sender: SnId) -> [u8; 16] {
    let word = (sender.get() as u64) << 8;
    let [a0, a1, a2, a3, a4, a5, a6, a7] =
        P::siphash_u64x1(receiver_secret, word | 1).to_le_bytes();
    let [b0, b1, b2, b3, b4, b5, b6, b7] =
        P::siphash_u64x1(receiver_secret, word | 2).to_le_bytes();
    [
        a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7,
    ]
}

/// Where in an IPv4 options area the label's option starts, stamped or placeholder; `None` if there is none.
///
/// Refuses an area that a receiver could read in two ways: broken lengths, a second label.
#[inline]
pub fn locate(options: &[u8]) -> Result<Option<usize>, LabelError> {
    let mut found = None;
    let mut offset: usize = 0;
    while let Some(kind) = options.get(offset).copied() {
        if kind == EOL {
            break;
        }
        if kind == NOP {
            offset = offset.wrapping_add(1);
            continue;
        }
        let Some(len) = options.get(offset.wrapping_add(1)).copied() else {
            return Err(LabelError::Truncated { offset });
        };
        let next = offset.wrapping_add(len as usize);
        if len < 2 || next > options.len() {
            return Err(LabelError::Truncated { offset });
        }
        if kind == OPTION_TYPE {
            if len as usize != OPTION_LEN {
                return Err(LabelError::Length { offset, found: len });
            }
            if found.is_some() {
                return Err(LabelError::Duplicate { offset });
            }
            found = Some(offset);
        }
        offset = next;
    }
    Ok(found)
}

/// Finds and reads the label of an IPv4 options area; `None` if there is none.
#[inline]
pub fn find(options: &[u8]) -> Result<Option<Label>, LabelError> {
    match locate(options)? {
        None => Ok(None),
        Some(offset) => match options
            .get(offset..)
            .and_then(|tail| tail.first_chunk::<OPTION_LEN>())
        {
            Some(option) => Label::parse(option).map(Some),
            None => Err(LabelError::Truncated { offset }),
        },
    }
}
