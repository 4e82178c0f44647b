// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The meaning of a document: names resolved, values in range, no rule against another. Only the parser makes one.

use dsi_engine::policy::Tuple;
use dsi_engine::{Mode, ScId, SnId};
use std::net::IpAddr;
use std::ops::Range;

/// A checked distributed security policy.
#[derive(Clone, Debug)]
pub struct Dsp {
    /// What its author calls this version of it.
    pub version_label: Option<String>,
    /// Permissive or enforcing.
    pub mode: Mode,
    /// Whether what no rule names is allowed.
    pub default_allow: bool,
    /// Whether refused packets are answered with a rejection; otherwise they are dropped.
    pub reject: bool,
    /// Whether the module may be unloaded while the policy is enforcing.
    pub unload: bool,
    /// Whether each TCP segment carries a label; otherwise those of the handshake do.
    pub every_packet: bool,
    /// Zones that it names.
    pub contexts: Vec<Context>,
    /// Nodes that it names.
    pub nodes: Vec<Node>,
    /// Rules in the order of the document; the id of each is its place, from 1.
    pub rules: Vec<Rule>,
    /// SHA-256 of the XML.
    pub source_sha256: [u8; 32],
}

/// A named zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its ScID.
    pub scid: ScId,
    /// Its name.
    pub name: String,
}

/// A named node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its SnID.
    pub snid: SnId,
    /// Its name.
    pub name: String,
}

/// A rule and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Place in the order of the rules, from 1: what decisions and the audit call it.
    pub id: u32,
    /// What the author calls it: its `id` attribute.
    pub xml_id: Option<String>,
    /// Its `comment` attribute.
    pub comment: Option<String>,
    /// Line of its start tag.
    pub line: usize,
    /// Column of its start tag.
    pub column: usize,
    /// The name in its start tag, as a range of the document's bytes.
    pub span: Range<usize>,
    /// What it says.
    pub body: RuleBody,
}

/// Permissions that a rule grants and denies, as bits of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Granted.
    pub grant: u16,
    /// Denied.
    pub deny: u16,
}

/// Addresses outside of the cluster, and the ports of a rule's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The first address and the number of its bits that count; none is any address.
    pub network: Option<(IpAddr, u8)>,
    /// First and last port; none is any port.
    pub ports: Option<(u16, u16)>,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleBody {
    /// Sockets bound to these ports get a ScID.
    SocketLabel {
        /// IP protocol number.
        protocol: u8,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
        /// ScID of the sockets.
        new: ScId,
    },
    /// What processes may do with sockets.
    SocketPermission {
        /// Zone of the processes.
        source: ScId,
        /// Their node; none is any.
        source_node: SnId,
        /// ScID of the sockets.
        target: ScId,
        /// What they may and may not do.
        permissions: Permissions,
    },
    /// What a zone may do to another one.
    NetworkPermission {
        /// Which one to which one.
        tuple: Tuple,
        /// Where the end is that is outside, if the rule is not about all of it.
        place: Option<Place>,
        /// What it may and may not do.
        permissions: Permissions,
    },
    /// What processes may do to processes of another zone on their node.
    ProcessPermission {
        /// Zone of the processes.
        source: ScId,
        /// Their node; none is any.
        source_node: SnId,
        /// Zone of the others.
        target: ScId,
        /// What they may and may not do.
        permissions: Permissions,
    },
    /// What of the machine processes may use with their capabilities.
    SystemPermission {
        /// Zone of the processes.
        source: ScId,
        /// Their node; none is any.
        source_node: SnId,
        /// What they may and may not do.
        permissions: Permissions,
    },
    /// What a process becomes that executes a labelled binary.
    Transition {
        /// ScID of the process before.
        parent: ScId,
        /// ScID of the binary.
        binary: ScId,
        /// ScID of the process after.
        new: ScId,
    },
    /// A node may speak for a ScID, and no node that is not named may.
    Hosting {
        /// The node.
        node: SnId,
        /// The ScID.
        scid: ScId,
    },
}

impl RuleBody {
    /// The name of the rule's element.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::SocketLabel { .. } => "socket_label",
            Self::SocketPermission { .. } => "socket_permission",
            Self::NetworkPermission { .. } => "network_permission",
            Self::ProcessPermission { .. } => "process_permission",
            Self::SystemPermission { .. } => "system_permission",
            Self::Transition { .. } => "transition",
            Self::Hosting { .. } => "hosting",
        }
    }
}
