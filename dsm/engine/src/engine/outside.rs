// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Network permissions for peers outside of the cluster by address and port: their entry in the image, and the look-up
//! by longest to shortest prefix. Addresses are kept as IPv6 ones, IPv4's as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), so
//! that one table serves both.

use super::bytes::{array_at, u16_at, u32_at, u8_at};
use super::ids::{ScId, SnId};
use super::image::{mask_fault, Entry, Kind};
use super::label::Flow;
use super::policy::{NetworkPermission, Tuple};
use core::net::IpAddr;

/// Bits of an address, and so of the longest prefix.
pub const MAX_PREFIX: u8 = 128;
/// Bits of the prefix that says that an address is one of IPv4.
pub const IPV4_PREFIX: u8 = 96;

/// An address as two words, the first bytes in the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64, pub u64);

impl Address {
    /// The words of an address.
    #[inline]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self(0, 0xFFFF_0000_0000 | v4.to_bits() as u64),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = v6.octets();
                Self(
                    u64::from_be_bytes([a, b, c, d, e, f, g, h]),
                    u64::from_be_bytes([i, j, k, l, m, n, o, p]),
                )
            }
        }
    }

    /// Only the first bits of it.
    #[inline]
    pub const fn first(self, bits: u8) -> Self {
        const fn top(bits: u8) -> u64 {
            match bits {
                0 => 0,
                1..=63 => u64::MAX << (64 - bits),
                _ => u64::MAX,
            }
        }
        Self(self.0 & top(bits), self.1 & top(bits.saturating_sub(64)))
    }

    /// Whether it stands for an IPv4 address.
    #[inline]
    pub const fn is_ipv4(self) -> bool {
        self.0 == 0 && self.1 >> 32 == 0xFFFF
    }
}

/// Lengths of prefixes, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefixes([u64; 3]);

impl Prefixes {
    pub(super) const NONE: Self = Self([0; 3]);

    pub(super) fn add(&mut self, bits: u8) {
        if let Some(word) = self.0.get_mut(usize::from(bits / 64)) {
            *word |= 1 << (bits % 64);
        }
    }

    #[inline]
    pub(super) fn has(&self, bits: u8) -> bool {
        self.0
            .get(usize::from(bits / 64))
            .is_some_and(|word| word >> (bits % 64) & 1 != 0)
    }
}

/// Where a flow goes if its other end is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Address of the other end.
    pub address: Address,
    /// Its port; 0 of what has none.
    pub port: u16,
    /// Port of the end that is a zone.
    pub own_port: u16,
}

impl Remote {
    /// Of a packet on its way in: its sender.
    #[inline]
    pub const fn sender_of(flow: &Flow) -> Self {
        Self {
            address: Address::of(flow.saddr),
            port: flow.sport,
            own_port: flow.dport,
        }
    }

    /// Of a packet on its way out: its receiver.
    #[inline]
    pub const fn receiver_of(flow: &Flow) -> Self {
        Self {
            address: Address::of(flow.daddr),
            port: flow.dport,
            own_port: flow.sport,
        }
    }
}

/// Network permission between a zone and some addresses outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideEntry {
    /// Source zone, or outside.
    pub source: ScId,
    /// Target zone, or outside: one of the two is.
    pub target: ScId,
    /// Node of the zone, or none for any.
    pub node: SnId,
    /// Permissions granted.
    pub allow: u16,
    /// Permissions denied.
    pub deny: u16,
    /// Bits of `address` that count.
    pub prefix: u8,
    /// Zero.
    pub reserved: u8,
    /// The addresses outside; the bits that do not count are zero.
    pub address: Address,
    /// First port of the target.
    pub first: u16,
    /// Last port of the target.
    pub last: u16,
    /// Rule id.
    pub rule: u32,
}

impl OutsideEntry {
    /// The words of a key.
    #[inline]
    pub const fn words(
        source: ScId,
        target: ScId,
        node: SnId,
        prefix: u8,
        address: Address,
    ) -> (u64, u64) {
        (
            (source.0 as u64 | (target.0 as u64) << 32)
                ^ address.0.rotate_left(17)
                ^ address.1.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            Kind::OutsidePermission as u64 | (node.get() as u64) << 16 | (prefix as u64) << 32,
        )
    }

    /// Whether it is about this tuple and network, and about this port of the target.
    #[inline]
    pub(super) fn covers(
        &self,
        tuple: &Tuple,
        node: SnId,
        (network, prefix): (Address, u8),
        port: u16,
    ) -> bool {
        self.source == tuple.source
            && self.target == tuple.target
            && self.node == node
            && self.prefix == prefix
            && self.address == network
            && self.first <= port
            && port <= self.last
    }
}

impl Entry for OutsideEntry {
    const LEN: usize = 40;
    const KIND: Kind = Kind::OutsidePermission;

    #[inline]
    fn read(bytes: &[u8], at: usize) -> Self {
        let e: [u8; 40] = array_at(bytes, at);
        Self {
            source: ScId(u32_at(&e, 0)),
            target: ScId(u32_at(&e, 4)),
            node: SnId::from_u16(u16_at(&e, 8)),
            allow: u16_at(&e, 10),
            deny: u16_at(&e, 12),
            prefix: u8_at(&e, 14),
            reserved: u8_at(&e, 15),
            address: Address(
                u64::from_be_bytes(array_at(&e, 16)),
                u64::from_be_bytes(array_at(&e, 24)),
            ),
            first: u16_at(&e, 32),
            last: u16_at(&e, 34),
            rule: u32_at(&e, 36),
        }
    }

    fn key(&self) -> (u64, u64) {
        Self::words(
            self.source,
            self.target,
            self.node,
            self.prefix,
            self.address,
        )
    }

    fn rule(&self) -> u32 {
        self.rule
    }

    fn order(&self) -> (u64, u64, u32) {
        let (a, b) = self.key();
        (a, b, self.rule)
    }

    fn fault(&self) -> Option<(usize, &'static str, u64)> {
        let zone = |offset, scid: ScId| {
            (!scid.is_zone()).then_some((offset, "a ScID from 2 beside outside", scid.0 as u64))
        };
        let ends = match (self.source, self.target) {
            (ScId::OUTSIDE, ScId::OUTSIDE) => zone(4, self.target),
            (ScId::OUTSIDE, target) => zone(4, target),
            (source, ScId::OUTSIDE) => zone(0, source),
            (_, target) => Some((4, "outside as one end", target.0 as u64)),
        };
        ends.or_else(|| mask_fault(10, self.allow, self.deny, NetworkPermission::MASK))
            .or_else(|| {
                (self.prefix > MAX_PREFIX).then_some((
                    14,
                    "a prefix of 0 to 128 bits",
                    self.prefix as u64,
                ))
            })
            .or_else(|| {
                (self.reserved != 0).then_some((
                    15,
                    "a reserved byte of zero",
                    self.reserved as u64,
                ))
            })
            .or_else(|| {
                (self.address != self.address.first(self.prefix)).then_some((
                    16,
                    "an address without bits below its prefix",
                    self.address.1,
                ))
            })
            .or_else(|| {
                (self.first > self.last).then_some((
                    32,
                    "a first port not above the last one",
                    self.first as u64,
                ))
            })
    }
}
