// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The policy image, version 3: its layout and its validation. Normative together with `docs/policy-image.md`.
//!
//! An image is a header, eight section descriptors and eight hash tables (bucket index, then the entries sorted by
//! bucket), all little-endian. Validation walks it once and accepts exactly one spelling of each policy: padding is
//! zero, sections lie back to back, entries are sorted, the flags say what is there. Afterwards look-ups need no
//! checks of meaning, and reads beyond the end are impossible (and would still be harmless).

use super::bytes::{array_at, u16_at, u32_at, u64_at, u8_at};
use super::ids::{ScId, SnId};
use super::outside::{OutsideEntry, Prefixes};
use super::policy::{Policy, Tuple};
use core::fmt;

/// First bytes of every image; the last one is the format's version.
pub const MAGIC: [u8; 8] = *b"DSIPOL\0\x03";
/// Bytes of the header.
pub const HEADER_LEN: usize = 128;
/// Bytes of one section descriptor.
pub const DESCRIPTOR_LEN: usize = 16;
/// Sections, one of each kind, in the order of their kinds.
pub const SECTIONS: usize = 8;
/// Where the first section starts.
pub const BODY: usize = HEADER_LEN + SECTIONS * DESCRIPTOR_LEN;
/// Bytes of the largest image that is accepted.
pub const MAX_LEN: usize = 64 << 20;
/// Largest logarithm of a section's number of buckets.
pub const MAX_BUCKET_BITS: u32 = 22;
/// Most entries that one bucket may hold: the bound of every look-up.
pub const MAX_BUCKET_LEN: u32 = 64;

/// Offsets of the header's fields.
pub mod header {
    /// `[u8; 8]`: [`MAGIC`](super::MAGIC).
    pub const MAGIC: usize = 0;
    /// `u32`: bytes of the whole image.
    pub const TOTAL_LEN: usize = 8;
    /// `u32`: bytes of the header.
    pub const HEADER_LEN: usize = 12;
    /// `u64`: version of the policy, 1 or more.
    pub const VERSION: usize = 16;
    /// `[u8; 16]`: UUID of the cluster that the policy is for.
    pub const CLUSTER: usize = 24;
    /// `[u8; 32]`: SHA-256 of the XML that it was compiled from.
    pub const SOURCE: usize = 40;
    /// `u32`: see [`flags`](super::flags).
    pub const FLAGS: usize = 72;
    /// `u32`: seed of the hash.
    pub const SEED: usize = 76;
    /// `u32`: rules of the document; the largest rule id.
    pub const RULES: usize = 80;
    /// `u32`: number of sections.
    pub const SECTIONS: usize = 84;
    /// `u32`: bit n is set if there is a socket label whose port prefix has n bits.
    pub const PORT_PREFIXES: usize = 88;
    /// Zero from here to the end of the header.
    pub const RESERVED: usize = 92;
}

/// Bits of the header's flags.
pub mod flags {
    /// Refusals are carried out; otherwise they are only audited.
    pub const ENFORCING: u32 = 1 << 0;
    /// What no rule names is allowed.
    pub const DEFAULT_ALLOW: u32 = 1 << 1;
    /// There are network permissions that name a source node.
    pub const SOURCE_NODES: u32 = 1 << 2;
    /// There are network permissions that name a target node.
    pub const TARGET_NODES: u32 = 1 << 3;
    /// There are network permissions that deny, by node or by address.
    pub const NETWORK_DENIES: u32 = 1 << 4;
    /// There are socket permissions that name a source node.
    pub const SOCKET_NODES: u32 = 1 << 5;
    /// Refused packets are answered with a rejection; otherwise they are dropped.
    pub const REJECT: u32 = 1 << 6;
    /// The module may be unloaded while the policy is enforcing.
    pub const UNLOAD: u32 = 1 << 7;
    /// Each TCP segment carries a label; otherwise those of the handshake do.
    pub const EVERY_PACKET: u32 = 1 << 8;
    /// All bits that version 3 knows.
    pub const KNOWN: u32 = (1 << 9) - 1;
}

/// Kinds of section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    /// (protocol, port prefix) → ScID of the socket.
    SocketLabel = 1,
    /// (subject, its node, target) → permissions.
    SocketPermission = 2,
    /// (sender, its node, receiver, its node) → permissions.
    NetworkPermission = 3,
    /// (parent, binary) → new ScID.
    Transition = 4,
    /// (node, ScID): the node may speak for the ScID; (0, ScID): only nodes that are named may.
    Hosting = 5,
    /// (subject, its node, target) → what it may do to processes of the target.
    ProcessPermission = 6,
    /// (subject, its node) → what of the machine it may use with its capabilities.
    SystemPermission = 7,
    /// (source, target, node of the one that is a zone, address prefix) → ports and permissions.
    OutsidePermission = 8,
}

impl Kind {
    /// All kinds in the order of their sections.
    pub const ALL: [Self; SECTIONS] = [
        Self::SocketLabel,
        Self::SocketPermission,
        Self::NetworkPermission,
        Self::Transition,
        Self::Hosting,
        Self::ProcessPermission,
        Self::SystemPermission,
        Self::OutsidePermission,
    ];

    /// Bytes of an entry.
    #[inline]
    pub const fn entry_len(self) -> usize {
        match self {
            Self::SocketLabel => SocketLabelEntry::LEN,
            Self::SocketPermission => SocketEntry::LEN,
            Self::NetworkPermission => NetworkEntry::LEN,
            Self::Transition => TransitionEntry::LEN,
            Self::Hosting => HostingEntry::LEN,
            Self::ProcessPermission => ProcessEntry::LEN,
            Self::SystemPermission => SystemEntry::LEN,
            Self::OutsidePermission => OutsideEntry::LEN,
        }
    }
}

/// The hash of a key, given as two words; few instructions, and the compiler checks the length of each bucket.
#[inline(always)]
pub const fn hash(seed: u32, a: u64, b: u64) -> u64 {
    let x = (a ^ seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 32) ^ b).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^ (x >> 32)
}

/// An entry of a section: a key, which says its bucket, and what it maps to.
pub trait Entry: Copy {
    /// Bytes.
    const LEN: usize;
    /// The section's kind.
    const KIND: Kind;
    /// Reads the entry that starts `at`.
    fn read(bytes: &[u8], at: usize) -> Self;
    /// The two words of the key that are hashed.
    fn key(&self) -> (u64, u64);
    /// Rule that it comes from.
    fn rule(&self) -> u32;
    /// Place in the order of a bucket; strictly rising.
    fn order(&self) -> (u64, u64, u32);
    /// What is wrong with its values: offset in the entry, what was expected, what was found.
    fn fault(&self) -> Option<(usize, &'static str, u64)>;
}

/// Socket label: the sockets bound to the ports of a prefix get a ScID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketLabelEntry {
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// Bits of `port` that count, from the top: 16 is one port, 0 all of them.
    pub prefix: u8,
    /// First port of the prefix.
    pub port: u16,
    /// ScID of the sockets.
    pub scid: ScId,
    /// Rule id.
    pub rule: u32,
}

/// The bits of a port that a prefix of so many bits keeps.
#[inline]
pub const fn port_mask(prefix: u8) -> u16 {
    match prefix {
        0 => 0,
        1..=16 => (0xFFFF_0000_u32 >> prefix) as u16,
        _ => 0xFFFF,
    }
}

impl SocketLabelEntry {
    /// The words of a key.
    #[inline]
    pub const fn words(protocol: u8, prefix: u8, port: u16) -> (u64, u64) {
        (
            (protocol as u64) << 32 | (prefix as u64) << 16 | port as u64,
            Kind::SocketLabel as u64,
        )
    }
}

impl Entry for SocketLabelEntry {
    const LEN: usize = 12;
    const KIND: Kind = Kind::SocketLabel;

    #[inline(always)]
    fn read(bytes: &[u8], at: usize) -> Self {
        let e: [u8; 12] = array_at(bytes, at);
        Self {
            protocol: u8_at(&e, 0),
            prefix: u8_at(&e, 1),
            port: u16_at(&e, 2),
            scid: ScId(u32_at(&e, 4)),
            rule: u32_at(&e, 8),
        }
    }

    fn key(&self) -> (u64, u64) {
        Self::words(self.protocol, self.prefix, self.port)
    }

    fn rule(&self) -> u32 {
        self.rule
    }

    fn order(&self) -> (u64, u64, u32) {
        let (a, b) = self.key();
        (a, b, 0)
    }

    fn fault(&self) -> Option<(usize, &'static str, u64)> {
        if self.protocol != 6 && self.protocol != 17 {
            return Some((0, "protocol 6 (TCP) or 17 (UDP)", self.protocol as u64));
        }
        if self.prefix > 16 {
            return Some((1, "a port prefix of 0 to 16 bits", self.prefix as u64));
        }
        if self.port & !port_mask(self.prefix) != 0 {
            return Some((2, "a port without bits below its prefix", self.port as u64));
        }
        zone_fault(4, self.scid)
    }
}

/// Socket permission.
pub type SocketEntry = AccessEntry<false>;
/// Process permission.
pub type ProcessEntry = AccessEntry<true>;

/// What processes of one ScID may do with sockets of another, or to its processes: two sections of one layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessEntry<const PROCESS: bool> {
    /// The process.
    pub subject: ScId,
    /// The socket, or the other process.
    pub target: ScId,
    /// Node of the process, or none for any.
    pub node: SnId,
    /// Permissions granted.
    pub allow: u16,
    /// Permissions denied.
    pub deny: u16,
    /// Zero.
    pub reserved: u16,
    /// Rule id.
    pub rule: u32,
}

impl<const PROCESS: bool> AccessEntry<PROCESS> {
    /// The section's kind.
    const ACCESS: Kind = if PROCESS {
        Kind::ProcessPermission
    } else {
        Kind::SocketPermission
    };
    /// The permissions that it may name.
    const MASK: u16 = if PROCESS {
        super::policy::ProcessPermission::MASK
    } else {
        super::policy::SocketPermission::MASK
    };

    /// The words of a key.
    #[inline(always)]
    pub const fn words(subject: ScId, node: SnId, target: ScId) -> (u64, u64) {
        (
            subject.0 as u64 | (target.0 as u64) << 32,
            Self::ACCESS as u64 | (node.get() as u64) << 16,
        )
    }
}

impl<const PROCESS: bool> Entry for AccessEntry<PROCESS> {
    const LEN: usize = 20;
    const KIND: Kind = Self::ACCESS;

    #[inline(always)]
    fn read(bytes: &[u8], at: usize) -> Self {
        let e: [u8; 20] = array_at(bytes, at);
        Self {
            subject: ScId(u32_at(&e, 0)),
            target: ScId(u32_at(&e, 4)),
            node: SnId::from_u16(u16_at(&e, 8)),
            allow: u16_at(&e, 10),
            deny: u16_at(&e, 12),
            reserved: u16_at(&e, 14),
            rule: u32_at(&e, 16),
        }
    }

    fn key(&self) -> (u64, u64) {
        Self::words(self.subject, self.node, self.target)
    }

    fn rule(&self) -> u32 {
        self.rule
    }

    fn order(&self) -> (u64, u64, u32) {
        let (a, b) = self.key();
        (a, b, self.rule)
    }

    fn fault(&self) -> Option<(usize, &'static str, u64)> {
        zone_fault(0, self.subject)
            .or_else(|| zone_fault(4, self.target))
            .or_else(|| mask_fault(10, self.allow, self.deny, Self::MASK))
            .or_else(|| {
                (self.reserved != 0).then_some((14, "reserved bytes of zero", self.reserved as u64))
            })
    }
}

/// Network permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkEntry {
    /// Source zone, or outside.
    pub source: ScId,
    /// Target zone, or outside.
    pub target: ScId,
    /// Node of the source, or none for any.
    pub source_node: SnId,
    /// Node of the target, or none for any.
    pub target_node: SnId,
    /// Permissions granted.
    pub allow: u16,
    /// Permissions denied.
    pub deny: u16,
    /// Rule id.
    pub rule: u32,
}

impl NetworkEntry {
    /// The words of a key.
    #[inline(always)]
    pub const fn words(tuple: &Tuple) -> (u64, u64) {
        (
            tuple.source.0 as u64 | (tuple.target.0 as u64) << 32,
            Kind::NetworkPermission as u64
                | (tuple.source_node.get() as u64) << 16
                | (tuple.target_node.get() as u64) << 32,
        )
    }
}

impl Entry for NetworkEntry {
    const LEN: usize = 20;
    const KIND: Kind = Kind::NetworkPermission;

    #[inline(always)]
    fn read(bytes: &[u8], at: usize) -> Self {
        let e: [u8; 20] = array_at(bytes, at);
        Self {
            source: ScId(u32_at(&e, 0)),
            target: ScId(u32_at(&e, 4)),
            source_node: SnId::from_u16(u16_at(&e, 8)),
            target_node: SnId::from_u16(u16_at(&e, 10)),
            allow: u16_at(&e, 12),
            deny: u16_at(&e, 14),
            rule: u32_at(&e, 16),
        }
    }

    fn key(&self) -> (u64, u64) {
        Self::words(&Tuple {
            source: self.source,
            source_node: self.source_node,
            target: self.target,
            target_node: self.target_node,
        })
    }

    fn rule(&self) -> u32 {
        self.rule
    }

    fn order(&self) -> (u64, u64, u32) {
        let (a, b) = self.key();
        (a, b, self.rule)
    }

    fn fault(&self) -> Option<(usize, &'static str, u64)> {
        if self.source.is_exempt() {
            return Some((0, "a ScID from 2, or outside", self.source.0 as u64));
        }
        if self.target.is_exempt() {
            return Some((4, "a ScID from 2, or outside", self.target.0 as u64));
        }
        if self.source == ScId::OUTSIDE && !self.source_node.is_none() {
            return Some((
                8,
                "no node for a source outside",
                self.source_node.get() as u64,
            ));
        }
        if self.target == ScId::OUTSIDE && !self.target_node.is_none() {
            return Some((
                10,
                "no node for a target outside",
                self.target_node.get() as u64,
            ));
        }
        mask_fault(
            12,
            self.allow,
            self.deny,
            super::policy::NetworkPermission::MASK,
        )
    }
}

/// Transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransitionEntry {
    /// ScID of the process before exec.
    pub parent: ScId,
    /// ScID of the binary.
    pub binary: ScId,
    /// ScID of the process after exec.
    pub new: ScId,
    /// Rule id.
    pub rule: u32,
}

impl TransitionEntry {
    /// The words of a key.
    #[inline]
    pub const fn words(parent: ScId, binary: ScId) -> (u64, u64) {
        (
            parent.0 as u64 | (binary.0 as u64) << 32,
            Kind::Transition as u64,
        )
    }
}

impl Entry for TransitionEntry {
    const LEN: usize = 16;
    const KIND: Kind = Kind::Transition;

    #[inline]
    fn read(bytes: &[u8], at: usize) -> Self {
        let e: [u8; 16] = array_at(bytes, at);
        Self {
            parent: ScId(u32_at(&e, 0)),
            binary: ScId(u32_at(&e, 4)),
            new: ScId(u32_at(&e, 8)),
            rule: u32_at(&e, 12),
        }
    }

    fn key(&self) -> (u64, u64) {
        Self::words(self.parent, self.binary)
    }

    fn rule(&self) -> u32 {
        self.rule
    }

    fn order(&self) -> (u64, u64, u32) {
        let (a, b) = self.key();
        (a, b, 0)
    }

    fn fault(&self) -> Option<(usize, &'static str, u64)> {
        zone_fault(0, self.parent)
            .or_else(|| zone_fault(4, self.binary))
            .or_else(|| zone_fault(8, self.new))
    }
}

/// Hosting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostingEntry {
    /// The ScID.
    pub scid: ScId,
    /// The node that may speak for it, or none for the mark that others may not.
    pub node: SnId,
    /// Zero.
    pub reserved: u16,
    /// Rule id.
    pub rule: u32,
}

impl HostingEntry {
    /// The words of a key.
    #[inline(always)]
    pub const fn words(node: SnId, scid: ScId) -> (u64, u64) {
        (
            scid.0 as u64,
            Kind::Hosting as u64 | (node.get() as u64) << 16,
        )
    }
}

impl Entry for HostingEntry {
    const LEN: usize = 12;
    const KIND: Kind = Kind::Hosting;

    #[inline(always)]
    fn read(bytes: &[u8], at: usize) -> Self {
        let e: [u8; 12] = array_at(bytes, at);
        Self {
            scid: ScId(u32_at(&e, 0)),
            node: SnId::from_u16(u16_at(&e, 4)),
            reserved: u16_at(&e, 6),
            rule: u32_at(&e, 8),
        }
    }

    fn key(&self) -> (u64, u64) {
        Self::words(self.node, self.scid)
    }

    fn rule(&self) -> u32 {
        self.rule
    }

    fn order(&self) -> (u64, u64, u32) {
        let (a, b) = self.key();
        (a, b, 0)
    }

    fn fault(&self) -> Option<(usize, &'static str, u64)> {
        zone_fault(0, self.scid).or_else(|| {
            (self.reserved != 0).then_some((6, "reserved bytes of zero", self.reserved as u64))
        })
    }
}

/// System permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemEntry {
    /// The process.
    pub subject: ScId,
    /// Its node, or none for any.
    pub node: SnId,
    /// Permissions granted.
    pub allow: u16,
    /// Permissions denied.
    pub deny: u16,
    /// Zero.
    pub reserved: u16,
    /// Rule id.
    pub rule: u32,
}

impl SystemEntry {
    /// The words of a key.
    #[inline(always)]
    pub const fn words(subject: ScId, node: SnId) -> (u64, u64) {
        (
            subject.0 as u64,
            Kind::SystemPermission as u64 | (node.get() as u64) << 16,
        )
    }
}

impl Entry for SystemEntry {
    const LEN: usize = 16;
    const KIND: Kind = Kind::SystemPermission;

    #[inline]
    fn read(bytes: &[u8], at: usize) -> Self {
        let e: [u8; 16] = array_at(bytes, at);
        Self {
            subject: ScId(u32_at(&e, 0)),
            node: SnId::from_u16(u16_at(&e, 4)),
            allow: u16_at(&e, 6),
            deny: u16_at(&e, 8),
            reserved: u16_at(&e, 10),
            rule: u32_at(&e, 12),
        }
    }

    fn key(&self) -> (u64, u64) {
        Self::words(self.subject, self.node)
    }

    fn rule(&self) -> u32 {
        self.rule
    }

    fn order(&self) -> (u64, u64, u32) {
        let (a, b) = self.key();
        (a, b, self.rule)
    }

    fn fault(&self) -> Option<(usize, &'static str, u64)> {
        zone_fault(0, self.subject)
            .or_else(|| {
                mask_fault(
                    6,
                    self.allow,
                    self.deny,
                    super::policy::SystemPermission::MASK,
                )
            })
            .or_else(|| {
                (self.reserved != 0).then_some((10, "reserved bytes of zero", self.reserved as u64))
            })
    }
}

fn zone_fault(offset: usize, scid: ScId) -> Option<(usize, &'static str, u64)> {
    (!scid.is_zone()).then_some((offset, "a ScID from 2 to 4294967294", scid.0 as u64))
}

pub(super) fn mask_fault(
    offset: usize,
    allow: u16,
    deny: u16,
    known: u16,
) -> Option<(usize, &'static str, u64)> {
    if allow & !known != 0 {
        return Some((offset, "known permissions only", allow as u64));
    }
    if deny & !known != 0 {
        return Some((
            offset.wrapping_add(2),
            "known permissions only",
            deny as u64,
        ));
    }
    if allow | deny == 0 {
        return Some((offset, "at least one permission granted or denied", 0));
    }
    None
}

/// Where in the bytes an image is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageError {
    /// First byte of the faulty field.
    pub offset: usize,
    /// What should be there.
    pub expected: &'static str,
    /// What is there.
    pub found: u64,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "policy image, byte {}: expected {}, found {}",
            self.offset, self.expected, self.found
        )
    }
}

impl core::error::Error for ImageError {}

fn check(ok: bool, offset: usize, expected: &'static str, found: u64) -> Result<(), ImageError> {
    if ok {
        Ok(())
    } else {
        Err(ImageError {
            offset,
            expected,
            found,
        })
    }
}

/// Where a section's table lies. Offsets are from the start of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) index: u32,
    pub(super) entries: u32,
    pub(super) count: u32,
    pub(super) mask: u32,
}

impl Table {
    pub(super) const EMPTY: Self = Self {
        index: 0,
        entries: 0,
        count: 0,
        mask: 0,
    };

    /// Offset of the first entry and number of entries of the bucket that a key belongs to.
    #[inline(always)]
    pub(super) fn bucket(&self, bytes: &[u8], bucket: u32, entry_len: usize) -> (usize, u32) {
        let at = (self.index as usize).wrapping_add((bucket as usize).wrapping_mul(4));
        let bounds: [u8; 8] = array_at(bytes, at);
        let (start, end) = (u32_at(&bounds, 0), u32_at(&bounds, 4));
        let first = (self.entries as usize).wrapping_add((start as usize).wrapping_mul(entry_len));
        // Validation has seen to the bound; kept here so that no look-up is ever longer, whatever the bytes.
        (first, end.wrapping_sub(start).min(MAX_BUCKET_LEN))
    }

    /// The bucket of a key.
    #[inline(always)]
    pub(super) const fn bucket_of(&self, seed: u32, words: (u64, u64)) -> u32 {
        hash(seed, words.0, words.1) as u32 & self.mask
    }
}

/// What validation learned of an image: all that a [`Policy`] needs besides the bytes. Only validation makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyMeta {
    pub(super) total_len: u32,
    pub(super) flags: u32,
    pub(super) seed: u32,
    pub(super) rules: u32,
    pub(super) port_prefixes: u32,
    pub(super) labels: Table,
    pub(super) sockets: Table,
    pub(super) networks: Table,
    pub(super) transitions: Table,
    pub(super) hostings: Table,
    pub(super) processes: Table,
    pub(super) systems: Table,
    pub(super) outsides: Table,
    pub(super) outside_prefixes: Prefixes,
    pub(super) version: u64,
    pub(super) cluster: [u8; 16],
    pub(super) source: [u8; 32],
}

/// What stands in for a policy whose bytes are not those that were validated: nothing is named, nothing is allowed.
pub(super) static REFUSE_ALL: PolicyMeta = PolicyMeta {
    total_len: 0,
    flags: flags::ENFORCING,
    seed: 0,
    rules: 0,
    port_prefixes: 0,
    labels: Table::EMPTY,
    sockets: Table::EMPTY,
    networks: Table::EMPTY,
    transitions: Table::EMPTY,
    hostings: Table::EMPTY,
    processes: Table::EMPTY,
    systems: Table::EMPTY,
    outsides: Table::EMPTY,
    outside_prefixes: Prefixes::NONE,
    version: 0,
    cluster: [0; 16],
    source: [0; 32],
};

impl PolicyMeta {
    /// Bytes of the image.
    pub const fn len(&self) -> usize {
        self.total_len as usize
    }

    /// Never true of a validated image; here because `len` is.
    pub const fn is_empty(&self) -> bool {
        self.total_len == 0
    }

    /// Version of the policy.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// UUID of the cluster that the policy is for.
    pub const fn cluster(&self) -> &[u8; 16] {
        &self.cluster
    }

    /// SHA-256 of the XML that it was compiled from.
    pub const fn source_sha256(&self) -> &[u8; 32] {
        &self.source
    }

    /// Whether refusals are carried out.
    pub const fn enforcing(&self) -> bool {
        self.flags & flags::ENFORCING != 0
    }

    /// Whether what no rule names is allowed.
    pub const fn default_allow(&self) -> bool {
        self.flags & flags::DEFAULT_ALLOW != 0
    }

    /// Whether a refused packet is answered with a rejection; otherwise it is dropped.
    pub const fn reject(&self) -> bool {
        self.flags & flags::REJECT != 0
    }

    /// Whether the module may be unloaded while this policy is in force: always while it is permissive.
    pub const fn unload(&self) -> bool {
        self.flags & flags::UNLOAD != 0 || !self.enforcing()
    }

    /// Whether each TCP segment carries a label; otherwise those of the handshake do.
    pub const fn every_packet(&self) -> bool {
        self.flags & flags::EVERY_PACKET != 0
    }

    /// Rules of the document.
    pub const fn rules(&self) -> u32 {
        self.rules
    }
}

/// An image that has been validated, with its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    meta: PolicyMeta,
}

impl<'a> Image<'a> {
    /// Checks every byte once. O(length); may run long on a large image, so not under a lock.
    pub fn validate(bytes: &'a [u8]) -> Result<Self, ImageError> {
        validate(bytes).map(|meta| Self { bytes, meta })
    }

    /// What to keep beside the bytes, for [`Policy::from_validated`].
    pub const fn meta(&self) -> PolicyMeta {
        self.meta
    }

    /// The view that answers questions.
    pub fn policy(&self) -> Policy<'_> {
        Policy::from_validated(self.bytes, &self.meta)
    }

    /// All entries of a kind, in image order; for tools and tests.
    pub fn entries<E: Entry + 'a>(&self) -> impl Iterator<Item = E> + 'a {
        let bytes = self.bytes;
        let table = match E::KIND {
            Kind::SocketLabel => self.meta.labels,
            Kind::SocketPermission => self.meta.sockets,
            Kind::NetworkPermission => self.meta.networks,
            Kind::Transition => self.meta.transitions,
            Kind::Hosting => self.meta.hostings,
            Kind::ProcessPermission => self.meta.processes,
            Kind::SystemPermission => self.meta.systems,
            Kind::OutsidePermission => self.meta.outsides,
        };
        (0..table.count).map(move |n| E::read(bytes, entry_at::<E>(&table, n)))
    }
}

fn validate(bytes: &[u8]) -> Result<PolicyMeta, ImageError> {
    use header as h;
    let len = bytes.len();
    check(len >= BODY, 0, "at least 256 bytes", len as u64)?;
    check(len <= MAX_LEN, 0, "at most 67108864 bytes", len as u64)?;
    check(
        array_at::<8>(bytes, h::MAGIC) == MAGIC,
        h::MAGIC,
        "the magic of a DSI policy image, version 3",
        u64_at(bytes, h::MAGIC),
    )?;
    let total_len = u32_at(bytes, h::TOTAL_LEN);
    check(
        total_len as usize == len,
        h::TOTAL_LEN,
        "the number of bytes handed over",
        total_len as u64,
    )?;
    let header_len = u32_at(bytes, h::HEADER_LEN);
    check(
        header_len as usize == HEADER_LEN,
        h::HEADER_LEN,
        "a header of 128 bytes",
        header_len as u64,
    )?;
    let version = u64_at(bytes, h::VERSION);
    check(
        version != 0,
        h::VERSION,
        "a policy version of 1 or more",
        version,
    )?;
    let flags = u32_at(bytes, h::FLAGS);
    check(
        flags & !flags::KNOWN == 0,
        h::FLAGS,
        "known flags only",
        flags as u64,
    )?;
    let sections = u32_at(bytes, h::SECTIONS);
    check(
        sections as usize == SECTIONS,
        h::SECTIONS,
        "8 sections",
        sections as u64,
    )?;
    zeros(bytes, h::RESERVED, HEADER_LEN, "reserved bytes of zero")?;

    let seed = u32_at(bytes, h::SEED);
    let rules = u32_at(bytes, h::RULES);
    let mut reader = Reader {
        bytes,
        seed,
        rules,
        next: BODY,
    };
    let labels = reader.section::<SocketLabelEntry>(0)?;
    let sockets = reader.section::<SocketEntry>(1)?;
    let networks = reader.section::<NetworkEntry>(2)?;
    let transitions = reader.section::<TransitionEntry>(3)?;
    let hostings = reader.section::<HostingEntry>(4)?;
    let processes = reader.section::<ProcessEntry>(5)?;
    let systems = reader.section::<SystemEntry>(6)?;
    let outsides = reader.section::<OutsideEntry>(7)?;
    check(
        reader.next == len,
        h::TOTAL_LEN,
        "the end of the last section",
        total_len as u64,
    )?;

    let mut seen = 0;
    let mut prefixes = 0;
    each(bytes, &labels, |_, e: SocketLabelEntry| {
        prefixes |= 1_u32.wrapping_shl(e.prefix as u32);
        Ok(())
    })?;
    each(bytes, &sockets, |_, e: SocketEntry| {
        if !e.node.is_none() {
            seen |= flags::SOCKET_NODES;
        }
        Ok(())
    })?;
    each(bytes, &networks, |_, e: NetworkEntry| {
        if !e.source_node.is_none() {
            seen |= flags::SOURCE_NODES;
        }
        if !e.target_node.is_none() {
            seen |= flags::TARGET_NODES;
        }
        if e.deny != 0 {
            seen |= flags::NETWORK_DENIES;
        }
        Ok(())
    })?;
    let mut outside_prefixes = Prefixes::NONE;
    each(bytes, &outsides, |_, e: OutsideEntry| {
        outside_prefixes.add(e.prefix);
        if e.deny != 0 {
            seen |= flags::NETWORK_DENIES;
        }
        Ok(())
    })?;
    let derived =
        flags::SOCKET_NODES | flags::SOURCE_NODES | flags::TARGET_NODES | flags::NETWORK_DENIES;
    check(
        flags & derived == seen,
        h::FLAGS,
        "flags that say what the rules hold",
        flags as u64,
    )?;
    let port_prefixes = u32_at(bytes, h::PORT_PREFIXES);
    check(
        port_prefixes == prefixes,
        h::PORT_PREFIXES,
        "the port prefixes of the socket labels",
        port_prefixes as u64,
    )?;

    let meta = PolicyMeta {
        total_len,
        flags,
        seed,
        rules,
        port_prefixes,
        labels,
        sockets,
        networks,
        transitions,
        hostings,
        processes,
        systems,
        outsides,
        outside_prefixes,
        version,
        cluster: array_at(bytes, h::CLUSTER),
        source: array_at(bytes, h::SOURCE),
    };
    let policy = Policy::from_validated(bytes, &meta);
    each(bytes, &hostings, |at, e: HostingEntry| {
        check(
            policy.has_hosting(SnId::NONE, e.scid),
            at,
            "the mark of node 0 beside a hosting",
            e.scid.0 as u64,
        )
    })?;
    Ok(meta)
}

fn zeros(bytes: &[u8], from: usize, to: usize, expected: &'static str) -> Result<(), ImageError> {
    let Some(range) = bytes.get(from..to) else {
        return Err(ImageError {
            offset: from,
            expected,
            found: bytes.len() as u64,
        });
    };
    for (at, byte) in range.iter().enumerate() {
        check(*byte == 0, from.wrapping_add(at), expected, *byte as u64)?;
    }
    Ok(())
}

/// Walks over the sections; `next` is where the next one has to start.
struct Reader<'a> {
    bytes: &'a [u8],
    seed: u32,
    rules: u32,
    next: usize,
}

impl Reader<'_> {
    /// Checks the `n`th section, which has to hold entries of type `E`, from its descriptor to its padding.
    fn section<E: Entry>(&mut self, n: usize) -> Result<Table, ImageError> {
        let bytes = self.bytes;
        let descriptor = HEADER_LEN.wrapping_add(n.wrapping_mul(DESCRIPTOR_LEN));
        let field = |which: usize| {
            let at = descriptor.wrapping_add(which.wrapping_mul(4));
            (at, u32_at(bytes, at))
        };
        let (at, kind) = field(0);
        check(
            kind == E::KIND as u32,
            at,
            "the section kinds 1 to 8 in order",
            kind as u64,
        )?;
        let (at, offset) = field(1);
        check(
            offset as usize == self.next,
            at,
            "a section right behind the one before it",
            offset as u64,
        )?;
        let (at, bits) = field(3);
        check(
            bits <= MAX_BUCKET_BITS,
            at,
            "at most 22 bits of bucket number",
            bits as u64,
        )?;
        let (at, count) = field(2);

        // 64-bit sums of 32-bit numbers times small constants: they cannot overflow.
        let buckets = 1_u64.wrapping_shl(bits);
        let index_len = buckets.wrapping_add(1).wrapping_mul(4);
        let entries = (offset as u64).wrapping_add(index_len);
        let end = entries.wrapping_add((count as u64).wrapping_mul(E::LEN as u64));
        let next = end.wrapping_add(7) & !7;
        check(
            next <= bytes.len() as u64,
            at,
            "a section within the image",
            count as u64,
        )?;
        // Both lie within the image, whose length is at most MAX_LEN.
        let table = Table {
            index: offset,
            entries: entries as u32,
            count,
            mask: (buckets as u32).wrapping_sub(1),
        };

        let first = u32_at(bytes, offset as usize);
        check(
            first == 0,
            offset as usize,
            "a bucket index that starts at 0",
            first as u64,
        )?;
        let mut start = 0_u32;
        for bucket in 0..buckets as u32 {
            let at =
                (offset as usize).wrapping_add((bucket as usize).wrapping_add(1).wrapping_mul(4));
            let end = u32_at(bytes, at);
            check(
                end >= start && end <= count,
                at,
                "a bucket index that rises up to the number of entries",
                end as u64,
            )?;
            let len = end.wrapping_sub(start);
            check(
                len <= MAX_BUCKET_LEN,
                at,
                "at most 64 entries in a bucket",
                len as u64,
            )?;
            self.bucket::<E>(&table, bucket, start, end)?;
            start = end;
        }
        check(
            start == count,
            at,
            "as many entries as the buckets hold",
            count as u64,
        )?;
        zeros(bytes, end as usize, next as usize, "padding of zero")?;
        self.next = next as usize;
        Ok(table)
    }

    /// Checks the entries of one bucket.
    fn bucket<E: Entry>(
        &self,
        table: &Table,
        bucket: u32,
        start: u32,
        end: u32,
    ) -> Result<(), ImageError> {
        let mut before: Option<(u64, u64, u32)> = None;
        for n in start..end {
            let at = entry_at::<E>(table, n);
            let entry = E::read(self.bytes, at);
            if let Some((within, expected, found)) = entry.fault() {
                return Err(ImageError {
                    offset: at.wrapping_add(within),
                    expected,
                    found,
                });
            }
            let rule = entry.rule();
            check(
                rule >= 1 && rule <= self.rules,
                at.wrapping_add(E::LEN).wrapping_sub(4),
                "the id of a rule of the document",
                rule as u64,
            )?;
            let home = table.bucket_of(self.seed, entry.key());
            check(
                home == bucket,
                at,
                "an entry in the bucket of its key",
                bucket as u64,
            )?;
            let order = entry.order();
            check(
                before.is_none_or(|b| b < order),
                at,
                "entries in rising order, no key twice",
                n as u64,
            )?;
            before = Some(order);
        }
        Ok(())
    }
}

fn entry_at<E: Entry>(table: &Table, n: u32) -> usize {
    (table.entries as usize).wrapping_add((n as usize).wrapping_mul(E::LEN))
}

/// Calls `f` with the offset and the value of each entry of a table.
fn each<E: Entry>(
    bytes: &[u8],
    table: &Table,
    mut f: impl FnMut(usize, E) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    for n in 0..table.count {
        let at = entry_at::<E>(table, n);
        f(at, E::read(bytes, at))?;
    }
    Ok(())
}
