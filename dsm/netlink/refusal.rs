// SPDX-License-Identifier: GPL-2.0

//! Why a command was refused: each fault with its fields, its errno, the attribute at fault, and
//! a message that names the fault and the fix in the 79 bytes that netlink has for it.

use crate::sys::errors;
use crate::sys::genl::attribute;
use core::{fmt, net::IpAddr};
use kernel::prelude::*;

/// A command that was not carried out. Nothing has changed.
#[derive(Clone, Copy)]
pub(crate) enum Refusal {
    /// An attribute that the command cannot do without.
    Missing { attr: u16, name: &'static str },
    /// Memory for it could not be had.
    NoMemory,
    /// A SnID that no node can have.
    SnidRange { attr: u16, found: u32 },
    /// `config-set` would give the node another cluster under a policy of the present one.
    ClusterInForce,
    /// Another anchor is loaded already.
    AnchorTaken,
    /// The anchor is no certificate that the kernel reads.
    AnchorUnusable { error: i32 },

    /// An image of no or too many bytes.
    ImageSize { found: u32, most: usize },
    /// As many transactions as there may be are open.
    Transfers { most: usize },
    /// No transaction is open on this socket.
    NoTransfer,
    /// A chunk that is not the next one.
    ChunkOffset { found: u32, next: usize },
    /// A chunk that reaches beyond the size that was announced.
    ChunkBeyond { end: usize, size: usize },
    /// The chunks so far are not the whole image.
    Incomplete { have: usize, size: usize },
    /// There is no anchor to verify with.
    NoAnchor,
    /// There is no cluster to compare with.
    NoCluster,
    /// The signature is not one over this image.
    SignatureWrong,
    /// The signature is by nobody whom the anchor vouches for.
    SignatureForeign,
    /// The signature is no CMS that the kernel reads.
    SignatureUnreadable { error: i32 },
    /// The image is no valid one. The fix comes first: what does not fit may then be cut off.
    Image {
        offset: usize,
        expected: &'static str,
        found: u64,
    },
    /// The policy is for another cluster.
    OtherCluster { found: [u8; 16] },
    /// The policy is not newer than the one in force.
    VersionNotRising { found: u64, in_force: u64 },

    /// The map has as many nodes as it may have.
    Nodes { most: usize },
    /// A node with too many addresses.
    Addresses { found: u32, most: usize },
    /// An address of another length than IPv4's or IPv6's.
    AddressLength { found: usize },
    /// An address that no single node can have.
    AddressUnusable { address: IpAddr },
    /// An address twice in one request.
    AddressTwice { address: IpAddr },
    /// An address of another node.
    AddressTaken { address: IpAddr, snid: u32 },
    /// A node that is not in the map.
    UnknownNode { snid: u32 },
    /// A new node must come with its addresses.
    NewNodeWithoutAddress { snid: u32 },
    /// A key without its epoch.
    KeyWithoutEpoch,
    /// An epoch without its key.
    EpochWithoutKey,
    /// The key to the node itself is derived, never set.
    OwnKey,

    /// Epochs count from 1.
    EpochZero { attr: u16 },
    /// An epoch older than both that are kept.
    EpochOld { attr: u16, found: u32, oldest: u32 },
    /// An epoch that a label could not tell from another that is kept.
    EpochClash { attr: u16, found: u32, other: u32 },
    /// An epoch to be activated that has no secret.
    EpochUnknown { found: u32 },
    /// Neither a secret nor an activation.
    KeyWithoutEffect,
}

impl From<kernel::alloc::AllocError> for Refusal {
    fn from(_: kernel::alloc::AllocError) -> Self {
        Self::NoMemory
    }
}

impl Refusal {
    /// The errno that says it best.
    pub(crate) fn errno(&self) -> Error {
        match self {
            Self::NoMemory => ENOMEM,
            Self::Transfers { .. } | Self::Nodes { .. } | Self::Addresses { .. } => ENOSPC,
            Self::ImageSize { .. } => EFBIG,
            Self::ClusterInForce | Self::AnchorTaken => EBUSY,
            Self::NoTransfer | Self::UnknownNode { .. } | Self::EpochUnknown { .. } => ENOENT,
            Self::NoAnchor | Self::SignatureForeign => Error::from_errno(-ENOKEY),
            Self::SignatureWrong | Self::OtherCluster { .. } => Error::from_errno(-EKEYREJECTED),
            Self::SignatureUnreadable { .. } | Self::Image { .. } => errors::bad_message(),
            Self::VersionNotRising { .. } | Self::EpochOld { .. } => Error::from_errno(-ESTALE),
            Self::AddressTaken { .. } | Self::EpochClash { .. } => EEXIST,
            Self::AddressLength { .. } => Error::from_errno(-EAFNOSUPPORT),
            _ => EINVAL,
        }
    }

    /// The attribute at fault, 0 if none is.
    pub(crate) fn attribute(&self) -> u16 {
        match *self {
            Self::Missing { attr, .. }
            | Self::SnidRange { attr, .. }
            | Self::EpochZero { attr }
            | Self::EpochOld { attr, .. }
            | Self::EpochClash { attr, .. } => attr,
            Self::ClusterInForce => attribute::CONFIG_CLUSTER,
            Self::AnchorTaken | Self::AnchorUnusable { .. } => attribute::CONFIG_ANCHOR,
            Self::ImageSize { .. } => attribute::POLICY_SIZE,
            Self::ChunkOffset { .. } => attribute::POLICY_OFFSET,
            Self::ChunkBeyond { .. } => attribute::POLICY_DATA,
            Self::SignatureWrong | Self::SignatureForeign | Self::SignatureUnreadable { .. } => {
                attribute::POLICY_SIGNATURE
            }
            Self::Addresses { .. }
            | Self::AddressLength { .. }
            | Self::AddressUnusable { .. }
            | Self::AddressTwice { .. }
            | Self::AddressTaken { .. }
            | Self::NewNodeWithoutAddress { .. } => attribute::NODE_ADDRESS,
            Self::UnknownNode { .. } => attribute::NODE_SNID,
            Self::KeyWithoutEpoch => attribute::NODE_KEY_EPOCH,
            Self::EpochWithoutKey | Self::OwnKey => attribute::NODE_TX_KEY,
            Self::EpochUnknown { .. } => attribute::KEY_EPOCH,
            Self::KeyWithoutEffect => attribute::KEY_SECRET,
            _ => 0,
        }
    }
}

const ENOKEY: i32 = 126;
const EKEYREJECTED: i32 = 129;
const ESTALE: i32 = 116;
const EAFNOSUPPORT: i32 = 97;

/// The positive errnos of the kernel's key code that a refusal tells apart.
pub(crate) mod errno {
    /// No key in the keyring matches.
    pub(crate) const NO_KEY: i32 = super::ENOKEY;
    /// The signature does not verify.
    pub(crate) const KEY_REJECTED: i32 = super::EKEYREJECTED;
    /// The anchor is there and another one.
    pub(crate) const EXISTS: i32 = 17;
    /// Memory could not be had.
    pub(crate) const NO_MEMORY: i32 = 12;
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing { name, .. } => write!(f, "attribute {name} is missing: send it"),
            Self::NoMemory => write!(f, "the kernel has no memory for it: try again"),
            Self::SnidRange { found, .. } => {
                write!(f, "SnID {found} is no node's: use 1 to 65535")
            }
            Self::ClusterInForce => write!(
                f,
                "cluster differs from that of the policy in force: reload dsm to change it"
            ),
            Self::AnchorTaken => write!(
                f,
                "another anchor is loaded and stays until rmmod: reload dsm to change it"
            ),
            Self::AnchorUnusable { error } => write!(
                f,
                "anchor is no usable X.509 certificate (error {error}): send it in DER"
            ),

            Self::ImageSize { found, most } => {
                write!(f, "image size {found}: give 1 to {most} bytes")
            }
            Self::Transfers { most } => write!(
                f,
                "{most} policy transactions are open already: wait or close their sockets"
            ),
            Self::NoTransfer => write!(
                f,
                "no policy transaction is open on this socket: policy-begin first"
            ),
            Self::ChunkOffset { found, next } => {
                write!(f, "chunk at offset {found}, expected {next}: send in order")
            }
            Self::ChunkBeyond { end, size } => write!(
                f,
                "chunk ends at {end}, image size is {size}: begin with the true size"
            ),
            Self::Incomplete { have, size } => write!(
                f,
                "image is cut off, {have} of {size} bytes came: send all before commit"
            ),
            Self::NoAnchor => write!(
                f,
                "no policy anchor is loaded: insmod with anchor= or config-set anchor"
            ),
            Self::NoCluster => write!(f, "the node has no cluster yet: config-set cluster first"),
            Self::SignatureWrong => {
                write!(
                    f,
                    "signature is not over this image: sign these very bytes, -noattr"
                )
            }
            Self::SignatureForeign => write!(
                f,
                "signer is unknown to this node's anchor: sign with a key it vouches for"
            ),
            Self::SignatureUnreadable { error } => write!(
                f,
                "signature is no usable CMS in DER (error {error}): sign detached, binary"
            ),
            Self::Image {
                offset,
                expected,
                found,
            } => write!(
                f,
                "recompile; image byte {offset}: expected {expected}, found {found}"
            ),
            Self::OtherCluster { found } => {
                write!(f, "header field cluster is ")?;
                for byte in found.iter().take(4) {
                    write!(f, "{byte:02x}")?;
                }
                write!(f, "-..., not ours: compile for this cluster")
            }
            Self::VersionNotRising { found, in_force } => write!(
                f,
                "policy version {found} does not rise above {in_force} in force: raise it"
            ),

            Self::Nodes { most } => {
                write!(f, "the map is full with {most} nodes: node-del one first")
            }
            Self::Addresses { found, most } => {
                write!(
                    f,
                    "{found} addresses, a node has at most {most}: send fewer"
                )
            }
            Self::AddressLength { found } => {
                write!(f, "address of {found} bytes: IPv4 has 4, IPv6 has 16")
            }
            Self::AddressUnusable { address } => {
                write!(f, "address {address} is no node's: use its unicast address")
            }
            Self::AddressTwice { address } => {
                write!(f, "address {address} is there twice: send it once")
            }
            Self::AddressTaken { address, snid } => write!(
                f,
                "address {address} belongs to node {snid}: take it from there first"
            ),
            Self::UnknownNode { snid } => {
                write!(f, "node {snid} is not in the map: node-get shows who is")
            }
            Self::NewNodeWithoutAddress { snid } => {
                write!(f, "node {snid} is new: send its addresses too")
            }
            Self::KeyWithoutEpoch => write!(f, "tx-key without key-epoch: send both"),
            Self::EpochWithoutKey => write!(f, "key-epoch without tx-key: send both"),
            Self::OwnKey => write!(
                f,
                "the key to this node itself is derived: leave tx-key out"
            ),

            Self::EpochZero { .. } => write!(f, "key epoch 0: epochs count from 1"),
            Self::EpochOld { found, oldest, .. } => write!(
                f,
                "key epoch {found} is older than {oldest} and newer: use a later one"
            ),
            Self::EpochClash { found, other, .. } => write!(
                f,
                "key epoch {found} looks like {other} in a label: use the next one"
            ),
            Self::EpochUnknown { found } => {
                write!(f, "key epoch {found} has no secret: send it with active")
            }
            Self::KeyWithoutEffect => write!(f, "neither secret nor active=1: send one of them"),
        }
    }
}
