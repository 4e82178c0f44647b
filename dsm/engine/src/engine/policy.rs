// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The view of a validated image: look-ups, each in one bucket per question asked. It says what the rules name; what
//! follows from that is `decide`'s matter.

use super::ids::{ScId, SnId};
use super::image::{
    flags, port_mask, AccessEntry, Entry, HostingEntry, NetworkEntry, PolicyMeta, SocketLabelEntry,
    SystemEntry, Table, TransitionEntry, REFUSE_ALL,
};
use super::outside::{OutsideEntry, Remote, IPV4_PREFIX, MAX_PREFIX};

/// Defines a set of permissions: one bit and one name each.
macro_rules! permissions {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $bit:literal, $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum $name { $($(#[$vmeta])* $variant = 1 << $bit,)+ }

        impl $name {
            /// All of them, in the order of their bits.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// Name and bit of each, in the order of their bits.
            pub const NAMED: &'static [(&'static str, u16)] = &[$(($text, 1 << $bit),)+];
            /// The bits of all of them.
            pub const MASK: u16 = 0 $(| 1 << $bit)+;

            /// Its bit in an entry of the image.
            #[inline(always)]
            pub const fn bit(self) -> u16 {
                self as u16
            }

            /// Its name in the policy language and in the audit.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The permission of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|permission| permission.name() == name)
            }
        }
    };
}

permissions! {
    /// What a process may do with a socket of a ScID.
    SocketPermission {
        /// Make one.
        Create = 0, "create";
        /// Give it a local address.
        Bind = 1, "bind";
        /// Connect it to a peer.
        Connect = 2, "connect";
        /// Wait for connections.
        Listen = 3, "listen";
        /// Take a connection.
        Accept = 4, "accept";
        /// Send through it.
        Send = 5, "send";
        /// Receive through it.
        Receive = 6, "receive";
        /// Make one whose traffic DSI cannot label or check (raw, packet, other protocols).
        CreateUnmediated = 7, "create_unmediated";
    }
}

permissions! {
    /// What a zone may do to another zone, on one node or across nodes.
    NetworkPermission {
        /// Datagrams from source to target.
        Send = 0, "send";
        /// Datagrams from target to source.
        Receive = 1, "receive";
        /// TCP connections opened by the source, both directions of their packets.
        Connect = 2, "connect";
        /// Datagrams to a group or broadcast address; such a packet carries no label, so one end is always outside.
        Multicast = 3, "multicast";
    }
}

permissions! {
    /// What a process may do to a process of another zone on its node.
    ProcessPermission {
        /// Send it a signal, or ask whether one could be sent.
        Signal = 0, "signal";
        /// Read or change its memory, registers or descriptors.
        Trace = 1, "trace";
        /// Connect to its AF_UNIX socket.
        UnixConnect = 2, "unix_connect";
        /// Send datagrams to its AF_UNIX socket.
        UnixSend = 3, "unix_send";
        /// Use a file descriptor that it opened.
        UseFd = 4, "use_fd";
    }
}

permissions! {
    /// What of the machine itself a zone may use, for which a capability alone does not do.
    SystemPermission {
        /// Load a module into the kernel, or take one out.
        LoadModule = 0, "load_module";
        /// Load programs and maps of BPF.
        Bpf = 1, "bpf";
        /// Boot another kernel, or the same again.
        Boot = 2, "boot";
        /// Reach hardware and block devices past the file systems.
        RawIo = 3, "raw_io";
        /// Look into the running kernel: tracing, probes, performance counters.
        TraceKernel = 4, "trace_kernel";
        /// Configure the network: devices, addresses, routes, filters.
        NetAdmin = 5, "net_admin";
        /// Label files and processes, and command the module.
        Label = 6, "label";
        /// The rest of the administration: mounts, name spaces, quotas.
        SysAdmin = 7, "sys_admin";
    }
}

/// What a network permission is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source zone.
    pub source: ScId,
    /// Its node; none is any.
    pub source_node: SnId,
    /// Target zone.
    pub target: ScId,
    /// Its node; none is any.
    pub target_node: SnId,
}

/// What the rules say about one permission: the first rule that grants it and the first that denies it, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) grant: u32,
    pub(super) deny: u32,
}

impl Finding {
    #[inline(always)]
    pub(super) fn note(&mut self, bit: u16, allow: u16, deny: u16, rule: u32) {
        if allow & bit != 0 && self.grant == 0 {
            self.grant = rule;
        }
        if deny & bit != 0 && self.deny == 0 {
            self.deny = rule;
        }
    }
}

/// A policy that can be asked. Three words; made anew from bytes and meta wherever it is needed.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    bytes: &'a [u8],
    meta: &'a PolicyMeta,
}

impl<'a> Policy<'a> {
    /// The view of bytes that validation accepted, with what it learned of them.
    ///
    /// Meta of other bytes is a fault of the caller's and can at worst give wrong answers, never a read outside of
    /// `bytes`; bytes of another length give a policy that refuses everything.
    #[inline(always)]
    pub fn from_validated(bytes: &'a [u8], meta: &'a PolicyMeta) -> Self {
        if bytes.len() == meta.len() {
            Self { bytes, meta }
        } else {
            Self {
                bytes: &[],
                meta: &REFUSE_ALL,
            }
        }
    }

    /// What validation learned.
    #[inline(always)]
    pub fn meta(&self) -> &'a PolicyMeta {
        self.meta
    }

    /// Calls `f` with each entry of the bucket of a key until it says stop (true).
    #[inline(always)]
    fn scan<E: Entry>(&self, table: &Table, words: (u64, u64), mut f: impl FnMut(&E) -> bool) {
        if table.count == 0 {
            return;
        }
        let (mut at, count) =
            table.bucket(self.bytes, table.bucket_of(self.meta.seed, words), E::LEN);
        for _ in 0..count {
            if f(&E::read(self.bytes, at)) {
                return;
            }
            at = at.wrapping_add(E::LEN);
        }
    }

    #[inline(always)]
    fn probe_access<const PROCESS: bool>(
        &self,
        table: &Table,
        subject: ScId,
        node: SnId,
        target: ScId,
        bit: u16,
        finding: &mut Finding,
    ) {
        self.scan(
            table,
            AccessEntry::<PROCESS>::words(subject, node, target),
            |e: &AccessEntry<PROCESS>| {
                if e.subject == subject && e.target == target && e.node == node {
                    finding.note(bit, e.allow, e.deny, e.rule);
                }
                false
            },
        );
    }

    /// What the socket permissions say: those for any node and those for this one.
    #[inline]
    pub(super) fn find_socket(
        &self,
        subject: ScId,
        node: SnId,
        target: ScId,
        permission: SocketPermission,
    ) -> Finding {
        let mut finding = Finding::default();
        let bit = permission.bit();
        let table = &self.meta.sockets;
        self.probe_access::<false>(table, subject, SnId::NONE, target, bit, &mut finding);
        if self.meta.flags & flags::SOCKET_NODES != 0 && !node.is_none() {
            self.probe_access::<false>(table, subject, node, target, bit, &mut finding);
        }
        finding
    }

    /// What the process permissions say: those for any node and those for this one.
    pub(super) fn find_process(
        &self,
        subject: ScId,
        node: SnId,
        target: ScId,
        permission: ProcessPermission,
    ) -> Finding {
        let mut finding = Finding::default();
        let bit = permission.bit();
        let table = &self.meta.processes;
        self.probe_access::<true>(table, subject, SnId::NONE, target, bit, &mut finding);
        if !node.is_none() {
            self.probe_access::<true>(table, subject, node, target, bit, &mut finding);
        }
        finding
    }

    fn probe_system(&self, subject: ScId, node: SnId, bit: u16, finding: &mut Finding) {
        self.scan(
            &self.meta.systems,
            SystemEntry::words(subject, node),
            |e: &SystemEntry| {
                if e.subject == subject && e.node == node {
                    finding.note(bit, e.allow, e.deny, e.rule);
                }
                false
            },
        );
    }

    /// What the system permissions say: those for any node and those for this one.
    pub(super) fn find_system(
        &self,
        subject: ScId,
        node: SnId,
        permission: SystemPermission,
    ) -> Finding {
        let mut finding = Finding::default();
        let bit = permission.bit();
        self.probe_system(subject, SnId::NONE, bit, &mut finding);
        if !node.is_none() {
            self.probe_system(subject, node, bit, &mut finding);
        }
        finding
    }

    #[inline(always)]
    fn probe_network(&self, tuple: &Tuple, bit: u16, finding: &mut Finding) {
        self.scan(
            &self.meta.networks,
            NetworkEntry::words(tuple),
            |e: &NetworkEntry| {
                if e.source == tuple.source
                    && e.target == tuple.target
                    && e.source_node == tuple.source_node
                    && e.target_node == tuple.target_node
                {
                    finding.note(bit, e.allow, e.deny, e.rule);
                }
                false
            },
        );
    }

    /// What the network permissions say: those for any node and those for these ones. One probe, and three more only
    /// where the policy names nodes.
    #[inline]
    pub(super) fn find_network(&self, tuple: &Tuple, permission: NetworkPermission) -> Finding {
        let mut finding = Finding::default();
        let bit = permission.bit();
        let any = Tuple {
            source_node: SnId::NONE,
            target_node: SnId::NONE,
            ..*tuple
        };
        self.probe_network(&any, bit, &mut finding);
        let by_source = self.meta.flags & flags::SOURCE_NODES != 0 && !tuple.source_node.is_none();
        let by_target = self.meta.flags & flags::TARGET_NODES != 0 && !tuple.target_node.is_none();
        if by_source {
            self.probe_network(
                &Tuple {
                    target_node: SnId::NONE,
                    ..*tuple
                },
                bit,
                &mut finding,
            );
        }
        if by_target {
            self.probe_network(
                &Tuple {
                    source_node: SnId::NONE,
                    ..*tuple
                },
                bit,
                &mut finding,
            );
        }
        if by_source && by_target {
            self.probe_network(tuple, bit, &mut finding);
        }
        finding
    }

    /// Adds what the network permissions for some addresses outside say of a tuple with one end outside. At most two
    /// probes for each length of prefix that is in the policy.
    pub(super) fn find_outside(
        &self,
        tuple: &Tuple,
        remote: &Remote,
        permission: NetworkPermission,
        finding: &mut Finding,
    ) {
        if self.meta.outsides.count == 0 {
            return;
        }
        let bit = permission.bit();
        let (node, port) = if tuple.source == ScId::OUTSIDE {
            (tuple.target_node, remote.own_port)
        } else {
            (tuple.source_node, remote.port)
        };
        let shortest = if remote.address.is_ipv4() {
            IPV4_PREFIX
        } else {
            0
        };
        for prefix in shortest..=MAX_PREFIX {
            if !self.meta.outside_prefixes.has(prefix) {
                continue;
            }
            let network = remote.address.first(prefix);
            let mut probe = |node: SnId| {
                self.scan(
                    &self.meta.outsides,
                    OutsideEntry::words(tuple.source, tuple.target, node, prefix, network),
                    |e: &OutsideEntry| {
                        if e.covers(tuple, node, (network, prefix), port) {
                            finding.note(bit, e.allow, e.deny, e.rule);
                        }
                        false
                    },
                );
            };
            probe(SnId::NONE);
            if !node.is_none() {
                probe(node);
            }
        }
    }

    /// Whether some network permission denies; if not, a grant settles a question that could be asked in two ways.
    #[inline(always)]
    pub(super) fn has_network_denies(&self) -> bool {
        self.meta.flags & flags::NETWORK_DENIES != 0
    }

    /// The ScID and rule that a parent's exec of a labelled binary leads to.
    pub(super) fn find_transition(&self, parent: ScId, binary: ScId) -> Option<(ScId, u32)> {
        let mut found = None;
        self.scan(
            &self.meta.transitions,
            TransitionEntry::words(parent, binary),
            |e: &TransitionEntry| {
                let hit = e.parent == parent && e.binary == binary;
                if hit {
                    found = Some((e.new, e.rule));
                }
                hit
            },
        );
        found
    }

    /// Whether there is an entry that lets this node, or with no node anybody named, speak for a ScID.
    #[inline]
    pub(super) fn has_hosting(&self, node: SnId, scid: ScId) -> bool {
        let mut found = false;
        self.scan(
            &self.meta.hostings,
            HostingEntry::words(node, scid),
            |e: &HostingEntry| {
                found = e.scid == scid && e.node == node;
                found
            },
        );
        found
    }

    /// The ScID that the policy gives to a socket bound to a local port, and the rule; `None` leaves the socket its
    /// owner's ScID. Of nested port ranges the narrower prefix wins.
    pub fn socket_label(&self, protocol: u8, port: u16) -> Option<(ScId, u32)> {
        let mut found = None;
        let mut prefix: u8 = 17;
        while found.is_none() && prefix > 0 {
            prefix = prefix.wrapping_sub(1);
            if self.meta.port_prefixes & 1_u32.wrapping_shl(prefix as u32) == 0 {
                continue;
            }
            let base = port & port_mask(prefix);
            self.scan(
                &self.meta.labels,
                SocketLabelEntry::words(protocol, prefix, base),
                |e: &SocketLabelEntry| {
                    let hit = e.protocol == protocol && e.prefix == prefix && e.port == base;
                    if hit {
                        found = Some((e.scid, e.rule));
                    }
                    hit
                },
            );
        }
        found
    }
}
