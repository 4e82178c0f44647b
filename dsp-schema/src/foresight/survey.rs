// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Where decisions can differ. A decision between two zones depends on nodes, and if one end is outside on an address
//! and two ports. That is a space of five dimensions; each entry of an image is about a box in it. Cut along the sides
//! of these boxes the space falls into few parts, within each of which nothing can make a difference: one question to
//! the engine answers for a whole part.
//!
//! This module says which questions are worth asking. It never says what the answer is.

use super::set::{Ranges, Set};
use dsi_engine::image::{
    HostingEntry, Image, NetworkEntry, ProcessEntry, SocketEntry, SystemEntry,
};
use dsi_engine::outside::{Address, IPV4_PREFIX, OutsideEntry};
use dsi_engine::{
    Decision, NetworkPermission, Peer, Policy, ProcessPermission, Remote, ScId, SnId,
    SocketPermission, SystemPermission,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a permission is about: one kind of question of the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    /// A process on a socket.
    Socket(SocketPermission),
    /// A process on a process.
    Process(ProcessPermission),
    /// A process on the machine.
    System(SystemPermission),
    /// A datagram from a zone to another: `send` of the one, or `receive` of the other.
    Datagram,
    /// A TCP connection that a zone opens to another.
    Connection,
    /// A datagram to a group: one end is outside.
    Multicast,
}

impl Deed {
    /// Its bit in the masks of a claim.
    fn bit(self) -> u16 {
        match self {
            Self::Socket(permission) => permission.bit(),
            Self::Process(permission) => permission.bit(),
            Self::System(permission) => permission.bit(),
            Self::Datagram => NetworkPermission::Send.bit(),
            Self::Connection => NetworkPermission::Connect.bit(),
            Self::Multicast => NetworkPermission::Multicast.bit(),
        }
    }

    pub(super) fn family(self) -> Family {
        match self {
            Self::Socket(_) => Family::Socket,
            Self::Process(_) => Family::Process,
            Self::System(_) => Family::System,
            Self::Datagram | Self::Connection | Self::Multicast => Family::Network,
        }
    }

    /// The class of its permission, as the audit names it.
    pub fn class(self) -> &'static str {
        match self.family() {
            Family::Socket => "socket",
            Family::Process => "process",
            Family::System => "system",
            Family::Network => "network",
        }
    }

    /// The permission's name in the policy language; of a datagram the sender's.
    pub fn permission(self) -> &'static str {
        match self {
            Self::Socket(permission) => permission.name(),
            Self::Process(permission) => permission.name(),
            Self::System(permission) => permission.name(),
            Self::Datagram => NetworkPermission::Send.name(),
            Self::Connection => NetworkPermission::Connect.name(),
            Self::Multicast => NetworkPermission::Multicast.name(),
        }
    }
}

/// Deeds whose entries lie in the same sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    Socket,
    Process,
    System,
    Network,
}

impl Family {
    pub(super) fn deeds(self) -> Vec<Deed> {
        match self {
            Self::Socket => SocketPermission::ALL
                .iter()
                .copied()
                .map(Deed::Socket)
                .collect(),
            Self::Process => ProcessPermission::ALL
                .iter()
                .copied()
                .map(Deed::Process)
                .collect(),
            Self::System => SystemPermission::ALL
                .iter()
                .copied()
                .map(Deed::System)
                .collect(),
            Self::Network => vec![Deed::Datagram, Deed::Connection, Deed::Multicast],
        }
    }
}

/// Who does a deed to whom. The machine, to which system permissions are, has ScID 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Matter {
    /// What is done.
    pub deed: Deed,
    /// Who does it.
    pub source: ScId,
    /// To whom.
    pub target: ScId,
}

impl Matter {
    /// Whether anybody asks. A kernel asks of packets that a zone of its own sends or gets, and of a group only if the
    /// other end is outside.
    pub fn is_asked(&self) -> bool {
        let outside = [self.source, self.target].map(|end| end == ScId::OUTSIDE);
        match self.deed {
            Deed::Datagram | Deed::Connection => outside != [true, true],
            Deed::Multicast => outside == [true, false] || outside == [false, true],
            _ => true,
        }
    }

    /// Asks the engine.
    pub fn ask(&self, policy: &Policy<'_>, at: &Point) -> Decision {
        let end = |scid: ScId, snid: SnId| match scid {
            ScId::OUTSIDE => Peer::OUTSIDE,
            scid => Peer { scid, snid },
        };
        let (source, target) = (
            end(self.source, at.source_node),
            end(self.target, at.target_node),
        );
        let remote = Remote {
            address: at.address,
            port: at.remote_port,
            own_port: at.own_port,
        };
        match self.deed {
            Deed::Socket(permission) => {
                policy.socket(self.source, at.source_node, self.target, permission)
            }
            Deed::Process(permission) => {
                policy.process(self.source, at.source_node, self.target, permission)
            }
            Deed::System(permission) => policy.system(self.source, at.source_node, permission),
            Deed::Datagram => policy.network_datagram(source, target, &remote),
            Deed::Connection => policy.network_connect(source, target, &remote),
            Deed::Multicast => policy.network_multicast(source, target, &remote),
        }
    }

    /// All that a decision on it can depend on. A dimension that it does not depend on has one value, 0.
    pub fn domain(&self) -> Space {
        let nodes = || Set::range(1, u128::from(SnId::MAX));
        let nothing = || Set::one(0);
        // Port 0 is a packet without ports, such as a ping; a connection has them.
        let ports = || match self.deed {
            Deed::Connection => Set::range(1, 0xFFFF),
            _ => Set::range(0, 0xFFFF),
        };
        let mut space = Space([nodes(), nothing(), nothing(), nothing(), nothing()]);
        if self.deed.family() != Family::Network {
            return space;
        }
        let datagram = self.deed == Deed::Datagram;
        if self.source == ScId::OUTSIDE {
            space.0[SOURCE_NODE] = nothing();
        }
        if self.target != ScId::OUTSIDE {
            space.0[TARGET_NODE] = nodes();
        }
        if self.source == ScId::OUTSIDE || self.target == ScId::OUTSIDE {
            space.0[ADDRESS] = Set::range(0, u128::MAX);
            // Rules name the port of their target. A datagram has two: a rule may be about its answers.
            if datagram || self.target == ScId::OUTSIDE {
                space.0[REMOTE_PORT] = ports();
            }
            if datagram || self.source == ScId::OUTSIDE {
                space.0[OWN_PORT] = ports();
            }
        }
        space
    }
}

pub(super) const SOURCE_NODE: usize = 0;
pub(super) const TARGET_NODE: usize = 1;
pub(super) const ADDRESS: usize = 2;
pub(super) const REMOTE_PORT: usize = 3;
pub(super) const OWN_PORT: usize = 4;
const DIMENSIONS: usize = 5;

/// A box: all combinations of these nodes, addresses and ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(pub(super) [Set; DIMENSIONS]);

impl Space {
    /// Nodes of the source.
    pub fn source_nodes(&self) -> &Set {
        &self.0[SOURCE_NODE]
    }

    /// Nodes of the target.
    pub fn target_nodes(&self) -> &Set {
        &self.0[TARGET_NODE]
    }

    /// Addresses of the end that is outside, IPv4's as `::ffff:a.b.c.d`.
    pub fn addresses(&self) -> &Set {
        &self.0[ADDRESS]
    }

    /// Ports of the end that is outside.
    pub fn remote_ports(&self) -> &Set {
        &self.0[REMOTE_PORT]
    }

    /// Ports of the end that is a zone, if the other one is outside.
    pub fn own_ports(&self) -> &Set {
        &self.0[OWN_PORT]
    }

    /// Whether a point lies in it.
    pub fn contains(&self, at: &Point) -> bool {
        let place = [
            u128::from(at.source_node.get()),
            u128::from(at.target_node.get()),
            number_of(at.address),
            u128::from(at.remote_port),
            u128::from(at.own_port),
        ];
        self.0.iter().zip(place).all(|(set, n)| set.contains(n))
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|dimension| {
            self.0[dimension].intersection(&other.0[dimension])
        }))
    }

    /// A point of it; `None` if it is empty.
    pub(super) fn point(&self) -> Option<Point> {
        let first = |dimension: usize| self.0[dimension].first();
        // Values of a domain fit; what did not would only ask about something else.
        let node = |n: u128| SnId::from_u16(u16::try_from(n).unwrap_or(0));
        let port = |n: u128| u16::try_from(n).unwrap_or(0);
        Some(Point {
            source_node: node(first(SOURCE_NODE)?),
            target_node: node(first(TARGET_NODE)?),
            address: address_of(first(ADDRESS)?),
            remote_port: port(first(REMOTE_PORT)?),
            own_port: port(first(OWN_PORT)?),
        })
    }
}

/// One combination: what a decision is asked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Node of the source; none of what is outside.
    pub source_node: SnId,
    /// Node of the target; none of what is outside.
    pub target_node: SnId,
    /// Address of the end that is outside.
    pub address: Address,
    /// Its port.
    pub remote_port: u16,
    /// Port of the end that is a zone.
    pub own_port: u16,
}

/// An address as a number.
pub(super) fn number_of(address: Address) -> u128 {
    u128::from(address.0) << 64 | u128::from(address.1)
}

fn address_of(number: u128) -> Address {
    // The upper and the lower half.
    Address((number >> 64) as u64, number as u64)
}

/// The IPv4 addresses among all.
pub(super) const IPV4: (u128, u128) = (0xFFFF_0000_0000, 0xFFFF_FFFF_FFFF);

/// The addresses of a prefix, as the engine's look-up takes them: one that is shorter than IPv4's says nothing of IPv4.
pub(super) fn network(address: Address, prefix: u8) -> Set {
    let first = number_of(address.first(prefix));
    let last = first | u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    let whole = Set::range(first, last);
    if prefix < IPV4_PREFIX {
        whole.minus(&Set::range(IPV4.0, IPV4.1))
    } else {
        whole
    }
}

const ANY_PORT: (u16, u16) = (0, u16::MAX);

/// What one entry of an image is about, as far as one matter goes.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    source_node: SnId,
    target_node: SnId,
    network: Option<(Address, u8)>,
    remote_ports: (u16, u16),
    own_ports: (u16, u16),
    allow: u16,
    deny: u16,
}

impl Claim {
    pub(super) const ALL: Self = Self {
        source_node: SnId::NONE,
        target_node: SnId::NONE,
        network: None,
        remote_ports: ANY_PORT,
        own_ports: ANY_PORT,
        allow: 0,
        deny: 0,
    };

    /// What does not depend on more than the node of the process.
    fn on(node: SnId, allow: u16, deny: u16) -> Self {
        Self {
            source_node: node,
            allow,
            deny,
            ..Self::ALL
        }
    }

    /// Its side of a dimension; `None` for all of it.
    fn side(&self, dimension: usize) -> Option<Set> {
        let node = |node: SnId| (!node.is_none()).then(|| Set::one(u128::from(node.get())));
        let ports = |ports: (u16, u16)| {
            (ports != ANY_PORT).then(|| Set::range(u128::from(ports.0), u128::from(ports.1)))
        };
        match dimension {
            SOURCE_NODE => node(self.source_node),
            TARGET_NODE => node(self.target_node),
            ADDRESS => self
                .network
                .map(|(address, prefix)| network(address, prefix)),
            REMOTE_PORT => ports(self.remote_ports),
            _ => ports(self.own_ports),
        }
    }

    /// All that matters of it for one deed once the dimensions before this one are settled; not the rule.
    fn sense(&self, deed: u16, dimension: usize) -> impl Ord {
        let rest = |own: usize| dimension <= own;
        (
            rest(SOURCE_NODE).then_some(self.source_node),
            rest(TARGET_NODE).then_some(self.target_node),
            rest(ADDRESS).then_some(self.network),
            rest(REMOTE_PORT).then_some(self.remote_ports),
            rest(OWN_PORT).then_some(self.own_ports),
            self.allow & deed != 0,
            self.deny & deed != 0,
        )
    }
}

/// A claim, and which of two policies makes it.
pub(super) type Held<'c> = (usize, &'c Claim);

/// The claims of an image by family, source and target.
pub(super) type Claims = BTreeMap<(Family, ScId, ScId), Vec<Claim>>;

/// All claims of an image.
pub(super) fn claims(image: &Image<'_>) -> Claims {
    let mut claims = Claims::new();
    let mut add = |family, source: ScId, target: ScId, claim: Claim| {
        if claim.allow | claim.deny != 0 {
            claims
                .entry((family, source, target))
                .or_default()
                .push(claim);
        }
    };
    for e in image.entries::<SocketEntry>() {
        let claim = Claim::on(e.node, e.allow, e.deny);
        add(Family::Socket, e.subject, e.target, claim);
    }
    for e in image.entries::<ProcessEntry>() {
        let claim = Claim::on(e.node, e.allow, e.deny);
        add(Family::Process, e.subject, e.target, claim);
    }
    for e in image.entries::<SystemEntry>() {
        let claim = Claim::on(e.node, e.allow, e.deny);
        add(Family::System, e.subject, ScId::KERNEL, claim);
    }
    let receive = NetworkPermission::Receive.bit();
    // `receive` of source from target is about datagrams from target to source; all else goes the rule's way.
    let forth = |bits: u16| bits & !receive;
    let back = |bits: u16| {
        if bits & receive != 0 {
            NetworkPermission::Send.bit()
        } else {
            0
        }
    };
    for e in image.entries::<NetworkEntry>() {
        let claim = Claim {
            source_node: e.source_node,
            target_node: e.target_node,
            allow: forth(e.allow),
            deny: forth(e.deny),
            ..Claim::ALL
        };
        let answer = Claim {
            source_node: e.target_node,
            target_node: e.source_node,
            allow: back(e.allow),
            deny: back(e.deny),
            ..claim.clone()
        };
        add(Family::Network, e.source, e.target, claim);
        add(Family::Network, e.target, e.source, answer);
    }
    for e in image.entries::<OutsideEntry>() {
        let leaving = e.target == ScId::OUTSIDE;
        let ports = (e.first, e.last);
        let claim = Claim {
            source_node: if leaving { e.node } else { SnId::NONE },
            target_node: if leaving { SnId::NONE } else { e.node },
            network: Some((e.address, e.prefix)),
            // The port of the rule's target, whichever way the datagram goes.
            remote_ports: if leaving { ports } else { ANY_PORT },
            own_ports: if leaving { ANY_PORT } else { ports },
            allow: forth(e.allow),
            deny: forth(e.deny),
        };
        let answer = Claim {
            source_node: claim.target_node,
            target_node: claim.source_node,
            allow: back(e.allow),
            deny: back(e.deny),
            ..claim.clone()
        };
        add(Family::Network, e.source, e.target, claim);
        add(Family::Network, e.target, e.source, answer);
    }
    claims
}

/// By ScID the nodes that hosting rules name, each with its rule.
pub(super) type Hostings = BTreeMap<ScId, BTreeMap<SnId, u32>>;

/// All hostings of an image.
pub(super) fn hostings(image: &Image<'_>) -> Hostings {
    let mut hostings = Hostings::new();
    for e in image.entries::<HostingEntry>() {
        if !e.node.is_none() {
            hostings.entry(e.scid).or_default().insert(e.node, e.rule);
        }
    }
    hostings
}

/// Claims that decide nothing and cut the space at the nodes that hosting rules name.
pub(super) fn cuts(nodes: &BTreeMap<SnId, u32>, dimension: usize) -> Vec<Claim> {
    nodes
        .keys()
        .map(|node| {
            let mut claim = Claim::ALL;
            if dimension == SOURCE_NODE {
                claim.source_node = *node;
            } else {
                claim.target_node = *node;
            }
            claim
        })
        .collect()
}

/// Those of the claims that are about a deed.
pub(super) fn about(claims: &[Claim], deed: Deed) -> impl Iterator<Item = &Claim> {
    let bit = deed.bit();
    claims
        .iter()
        .filter(move |claim| (claim.allow | claim.deny) & bit != 0)
}

/// Whether two policies say the same of a deed in what is left of the space.
pub(super) fn agree(deed: Deed, claims: &[Held<'_>], dimension: usize) -> bool {
    let of = |policy: usize| {
        let mut said: Vec<_> = claims
            .iter()
            .filter(|(held, _)| *held == policy)
            .map(|(_, claim)| claim.sense(deed.bit(), dimension))
            .collect();
        said.sort_unstable();
        said
    };
    of(0) == of(1)
}

/// Cuts a space along the sides of claims. `leaf` gets each part and the claims that cover it; a part for which `skip`
/// is true, from some dimension on, is left out.
pub(super) fn survey<'c>(
    claims: &[Held<'c>],
    domain: &Space,
    skip: &dyn Fn(&[Held<'c>], usize) -> bool,
    leaf: &mut dyn FnMut(&Space, &[Held<'c>]),
) {
    let mut part = domain.clone();
    descend(claims, 0, &mut part, skip, leaf);
}

fn descend<'c>(
    claims: &[Held<'c>],
    dimension: usize,
    part: &mut Space,
    skip: &dyn Fn(&[Held<'c>], usize) -> bool,
    leaf: &mut dyn FnMut(&Space, &[Held<'c>]),
) {
    if skip(claims, dimension) {
        return;
    }
    if dimension == DIMENSIONS {
        leaf(part, claims);
        return;
    }
    let sides: Vec<Option<Set>> = claims
        .iter()
        .map(|(_, claim)| claim.side(dimension))
        .collect();
    if sides.iter().all(Option::is_none) {
        descend(claims, dimension + 1, part, skip, leaf);
        return;
    }
    let whole = part.0[dimension].clone();
    for (covering, ranges) in slices(&sides) {
        let slice = whole.intersection(&Set::of(ranges));
        if slice.is_empty() {
            continue;
        }
        let kept: Vec<Held<'c>> = claims
            .iter()
            .enumerate()
            .filter(|(n, _)| sides[*n].is_none() || covering.binary_search(n).is_ok())
            .map(|(_, held)| *held)
            .collect();
        part.0[dimension] = slice;
        descend(&kept, dimension + 1, part, skip, leaf);
    }
    part.0[dimension] = whole;
}

/// The numbers by which sides they lie in; the sides by their place, in rising order.
fn slices(sides: &[Option<Set>]) -> BTreeMap<Vec<usize>, Ranges> {
    let mut edges: BTreeMap<u128, Vec<usize>> = BTreeMap::from([(0, Vec::new())]);
    for (n, side) in sides.iter().enumerate() {
        for (first, last) in side.iter().flat_map(Set::ranges) {
            edges.entry(*first).or_default().push(n);
            if let Some(next) = last.checked_add(1) {
                edges.entry(next).or_default().push(n);
            }
        }
    }
    let mut found: BTreeMap<Vec<usize>, Ranges> = BTreeMap::new();
    let mut within = BTreeSet::new();
    let mut rest = edges.iter().peekable();
    while let Some((first, crossed)) = rest.next() {
        // A side does not touch itself, so an edge of it is its begin or its end.
        for n in crossed {
            if !within.remove(n) {
                within.insert(*n);
            }
        }
        let last = rest.peek().map_or(u128::MAX, |(next, _)| *next - 1);
        let covering = within.iter().copied().collect();
        found.entry(covering).or_default().push((*first, last));
    }
    found
}

/// Puts parts of the same kind together wherever they make a larger box. What goes with them is put together by `join`.
pub(super) fn coalesce<K: Ord + Clone, R>(
    mut parts: Vec<(K, Space, R)>,
    join: impl Fn(&mut R, R),
) -> Vec<(K, Space, R)> {
    loop {
        let before = parts.len();
        for dimension in (0..DIMENSIONS).rev() {
            let mut groups: BTreeMap<(K, Space), (Ranges, R)> = BTreeMap::new();
            for (kind, mut space, with) in parts {
                let side = std::mem::take(&mut space.0[dimension]);
                match groups.entry((kind, space)) {
                    std::collections::btree_map::Entry::Vacant(slot) => {
                        slot.insert((side.ranges().to_vec(), with));
                    }
                    std::collections::btree_map::Entry::Occupied(mut slot) => {
                        let (ranges, known) = slot.get_mut();
                        ranges.extend_from_slice(side.ranges());
                        join(known, with);
                    }
                }
            }
            parts = groups
                .into_iter()
                .map(|((kind, mut space), (ranges, with))| {
                    space.0[dimension] = Set::of(ranges);
                    (kind, space, with)
                })
                .collect();
        }
        if parts.len() == before {
            return parts;
        }
    }
}
