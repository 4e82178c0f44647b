// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Writes policy images. The format is the engine's (`dsi_engine::image`, `docs/policy-image.md`); this module knows
//! only how to fill it, and what it writes always validates.

use dsi_engine::ScId;
use dsi_engine::image::{
    AccessEntry, BODY, DESCRIPTOR_LEN, Entry, HEADER_LEN, HostingEntry, Kind, MAGIC,
    MAX_BUCKET_BITS, MAX_BUCKET_LEN, MAX_LEN, NetworkEntry, ProcessEntry, SECTIONS, SocketEntry,
    SocketLabelEntry, SystemEntry, TransitionEntry, flags, hash, header,
};
use dsi_engine::outside::OutsideEntry;

/// A bucket length that nearly every seed achieves; the search for a seed ends there.
const GOOD_BUCKET_LEN: u32 = 16;
/// Seeds that are tried.
const SEEDS: u32 = 64;

/// What an image is to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Version of the policy, 1 or more.
    pub version: u64,
    /// UUID of the cluster.
    pub cluster: [u8; 16],
    /// SHA-256 of the XML.
    pub source_sha256: [u8; 32],
    /// Refusals are carried out.
    pub enforcing: bool,
    /// What no rule names is allowed.
    pub default_allow: bool,
    /// Refused packets are answered.
    pub reject: bool,
    /// The module may be unloaded while the policy is enforcing.
    pub unload: bool,
    /// Each TCP segment carries a label; otherwise those of the handshake do.
    pub every_packet: bool,
    /// Number of rules: the largest rule id.
    pub rules: u32,
    /// Socket labels, no key twice.
    pub labels: Vec<SocketLabelEntry>,
    /// Socket permissions, no key twice with the same rule.
    pub sockets: Vec<SocketEntry>,
    /// Network permissions, no key twice with the same rule.
    pub networks: Vec<NetworkEntry>,
    /// Transitions, no key twice.
    pub transitions: Vec<TransitionEntry>,
    /// Hostings, no key twice; for each ScID also the one of node 0.
    pub hostings: Vec<HostingEntry>,
    /// Process permissions, no key twice with the same rule.
    pub processes: Vec<ProcessEntry>,
    /// System permissions, no key twice with the same rule.
    pub systems: Vec<SystemEntry>,
    /// Network permissions for addresses outside, no key twice with the same rule.
    pub outsides: Vec<OutsideEntry>,
}

/// Why contents do not fit in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It would be larger than the kernel accepts.
    #[error(
        "the image would have {len} bytes, and the kernel accepts {MAX_LEN}; merge rules or split the cluster"
    )]
    TooLarge {
        /// Bytes.
        len: usize,
    },
    /// Some key has more entries than a look-up may visit.
    #[error(
        "a look-up would have to visit {len} entries, and {MAX_BUCKET_LEN} is the bound; merge rules of one tuple"
    )]
    Crowded {
        /// Entries in the fullest bucket, under the best seed.
        len: u32,
    },
}

/// Writes the fields of an entry, in the layout that [`Entry::read`] reads.
trait Write: Entry {
    fn write(&self, out: &mut Vec<u8>);
}

impl Write for SocketLabelEntry {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend([self.protocol, self.prefix]);
        out.extend(self.port.to_le_bytes());
        out.extend(self.scid.0.to_le_bytes());
        out.extend(self.rule.to_le_bytes());
    }
}

impl<const PROCESS: bool> Write for AccessEntry<PROCESS> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.subject.0.to_le_bytes());
        out.extend(self.target.0.to_le_bytes());
        out.extend(node16(self.node));
        out.extend(self.allow.to_le_bytes());
        out.extend(self.deny.to_le_bytes());
        out.extend(self.reserved.to_le_bytes());
        out.extend(self.rule.to_le_bytes());
    }
}

impl Write for NetworkEntry {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.source.0.to_le_bytes());
        out.extend(self.target.0.to_le_bytes());
        out.extend(node16(self.source_node));
        out.extend(node16(self.target_node));
        out.extend(self.allow.to_le_bytes());
        out.extend(self.deny.to_le_bytes());
        out.extend(self.rule.to_le_bytes());
    }
}

impl Write for TransitionEntry {
    fn write(&self, out: &mut Vec<u8>) {
        for ScId(scid) in [self.parent, self.binary, self.new] {
            out.extend(scid.to_le_bytes());
        }
        out.extend(self.rule.to_le_bytes());
    }
}

impl Write for HostingEntry {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.scid.0.to_le_bytes());
        out.extend(node16(self.node));
        out.extend(self.reserved.to_le_bytes());
        out.extend(self.rule.to_le_bytes());
    }
}

impl Write for SystemEntry {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.subject.0.to_le_bytes());
        out.extend(node16(self.node));
        out.extend(self.allow.to_le_bytes());
        out.extend(self.deny.to_le_bytes());
        out.extend(self.reserved.to_le_bytes());
        out.extend(self.rule.to_le_bytes());
    }
}

impl Write for OutsideEntry {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.source.0.to_le_bytes());
        out.extend(self.target.0.to_le_bytes());
        out.extend(node16(self.node));
        out.extend(self.allow.to_le_bytes());
        out.extend(self.deny.to_le_bytes());
        out.extend([self.prefix, self.reserved]);
        out.extend(self.address.0.to_be_bytes());
        out.extend(self.address.1.to_be_bytes());
        out.extend(self.first.to_le_bytes());
        out.extend(self.last.to_le_bytes());
        out.extend(self.rule.to_le_bytes());
    }
}

/// A SnID in an entry; it never has more than 16 bits.
fn node16(node: dsi_engine::SnId) -> [u8; 2] {
    let [low, high, ..] = node.get().to_le_bytes();
    [low, high]
}

/// Buckets so that each holds one to two entries on average: with the index, four bytes at most for each entry.
fn bucket_bits(entries: usize) -> u32 {
    entries.checked_ilog2().unwrap_or(0).min(MAX_BUCKET_BITS)
}

fn bucket_of<E: Entry>(entry: &E, seed: u32, bits: u32) -> u32 {
    let (a, b) = entry.key();
    // Truncation is the point: the low bits are the bucket.
    hash(seed, a, b) as u32 & ((1_u32 << bits) - 1)
}

/// Entries in the fullest bucket.
fn fullest<E: Entry>(entries: &[E], seed: u32) -> u32 {
    let bits = bucket_bits(entries.len());
    let mut lens = vec![0_u32; 1 << bits];
    for entry in entries {
        lens[bucket_of(entry, seed, bits) as usize] += 1;
    }
    lens.into_iter().max().unwrap_or(0)
}

impl Contents {
    /// The image. The same contents give the same bytes, in whatever order they come.
    pub fn write(&self) -> Result<Vec<u8>, WriteError> {
        let seed = self.seed()?;
        let mut body = Vec::new();
        let mut descriptors = Vec::with_capacity(SECTIONS * DESCRIPTOR_LEN);
        section(&self.labels, seed, &mut body, &mut descriptors);
        section(&self.sockets, seed, &mut body, &mut descriptors);
        section(&self.networks, seed, &mut body, &mut descriptors);
        section(&self.transitions, seed, &mut body, &mut descriptors);
        section(&self.hostings, seed, &mut body, &mut descriptors);
        section(&self.processes, seed, &mut body, &mut descriptors);
        section(&self.systems, seed, &mut body, &mut descriptors);
        section(&self.outsides, seed, &mut body, &mut descriptors);

        let len = BODY + body.len();
        let total_len = u32::try_from(len)
            .ok()
            .filter(|_| len <= MAX_LEN)
            .ok_or(WriteError::TooLarge { len })?;
        let mut image = vec![0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(header::MAGIC, &MAGIC);
        put(header::TOTAL_LEN, &total_len.to_le_bytes());
        put(header::HEADER_LEN, &(HEADER_LEN as u32).to_le_bytes());
        put(header::VERSION, &self.version.to_le_bytes());
        put(header::CLUSTER, &self.cluster);
        put(header::SOURCE, &self.source_sha256);
        put(header::FLAGS, &self.flags().to_le_bytes());
        put(header::SEED, &seed.to_le_bytes());
        put(header::RULES, &self.rules.to_le_bytes());
        put(header::SECTIONS, &(SECTIONS as u32).to_le_bytes());
        let prefixes = self
            .labels
            .iter()
            .fold(0_u32, |bits, label| bits | 1 << label.prefix);
        put(header::PORT_PREFIXES, &prefixes.to_le_bytes());
        image.extend(descriptors);
        image.extend(body);
        Ok(image)
    }

    fn flags(&self) -> u32 {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        flag(self.enforcing, flags::ENFORCING)
            | flag(self.default_allow, flags::DEFAULT_ALLOW)
            | flag(self.reject, flags::REJECT)
            | flag(self.unload, flags::UNLOAD)
            | flag(self.every_packet, flags::EVERY_PACKET)
            | flag(
                self.networks.iter().any(|e| !e.source_node.is_none()),
                flags::SOURCE_NODES,
            )
            | flag(
                self.networks.iter().any(|e| !e.target_node.is_none()),
                flags::TARGET_NODES,
            )
            | flag(
                self.networks.iter().any(|e| e.deny != 0)
                    || self.outsides.iter().any(|e| e.deny != 0),
                flags::NETWORK_DENIES,
            )
            | flag(
                self.sockets.iter().any(|e| !e.node.is_none()),
                flags::SOCKET_NODES,
            )
    }

    /// The first seed with short buckets, else the one with the shortest.
    fn seed(&self) -> Result<u32, WriteError> {
        let mut best = (u32::MAX, 0);
        for seed in 0..SEEDS {
            let len = fullest(&self.labels, seed)
                .max(fullest(&self.sockets, seed))
                .max(fullest(&self.networks, seed))
                .max(fullest(&self.transitions, seed))
                .max(fullest(&self.hostings, seed))
                .max(fullest(&self.processes, seed))
                .max(fullest(&self.systems, seed))
                .max(fullest(&self.outsides, seed));
            best = best.min((len, seed));
            if len <= GOOD_BUCKET_LEN {
                break;
            }
        }
        let (len, seed) = best;
        if len <= MAX_BUCKET_LEN {
            Ok(seed)
        } else {
            Err(WriteError::Crowded { len })
        }
    }
}

fn section<E: Write>(entries: &[E], seed: u32, body: &mut Vec<u8>, descriptors: &mut Vec<u8>) {
    let bits = bucket_bits(entries.len());
    let mut sorted: Vec<_> = entries
        .iter()
        .map(|e| (bucket_of(e, seed, bits), e.order(), e))
        .collect();
    sorted.sort_by_key(|(bucket, order, _)| (*bucket, *order));

    let kind: Kind = E::KIND;
    // Lengths that do not fit in 32 bits are refused once the whole is known.
    for field in [
        kind as u32,
        (BODY + body.len()) as u32,
        entries.len() as u32,
        bits,
    ] {
        descriptors.extend(field.to_le_bytes());
    }
    let mut ends = vec![0_u32; (1 << bits) + 1];
    for (bucket, ..) in &sorted {
        ends[*bucket as usize + 1] += 1;
    }
    let mut end = 0;
    for len in ends {
        end += len;
        body.extend(end.to_le_bytes());
    }
    for (_, _, entry) in sorted {
        entry.write(body);
    }
    // The body starts at a multiple of 8, so its own length pads it.
    body.resize(body.len().next_multiple_of(8), 0);
}
