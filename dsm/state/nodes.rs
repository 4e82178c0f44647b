// SPDX-License-Identifier: GPL-2.0

//! The node map: which node an address belongs to, and the keys for packets to and from it.
//! The packet path only looks up, without lock or allocation; commands build whole new entries,
//! and nothing becomes visible before all of a change has been allocated.

use crate::engine::{label, SnId};
use crate::netlink::{refusal::Refusal, text::Text};
use crate::state::keys::{Key, Keys, Ring};
use crate::sys::{
    genl::attribute,
    lock,
    prf::KernelPrf,
    rcu::{Prepared, RcuMap, Writer},
    secret::Secret,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{
    alloc::{AllocError, KVVec, KVec},
    prelude::*,
    rbtree::RBTree,
    sync::Arc,
};

/// Most nodes of a map.
pub(crate) const MOST_NODES: usize = SnId::MAX as usize;
/// Most addresses of a node.
pub(crate) const MOST_ADDRESSES: usize = crate::sys::genl::MOST_ADDRESSES;

/// All of 127.0.0.0/8 stands under this one.
const LOOPBACK: u32 = 0x7F00_0001;

/// IPv4 addresses, in host order, to nodes: what the packet path reads.
static BY_V4: RcuMap<u32, Arc<Node>> = RcuMap::empty();
/// IPv6 addresses to nodes.
static BY_V6: RcuMap<[u64; 2], Arc<Node>> = RcuMap::empty();
/// This node's SnID, 0 before enrolment.
static OWN: AtomicU32 = AtomicU32::new(0);

struct PairKey {
    epoch: u8,
    key: Secret,
}

/// A node as the packet path sees it.
pub(crate) struct Node {
    snid: SnId,
    tx: Option<PairKey>,
    rx: [Option<PairKey>; 2],
}

impl Node {
    /// Its id; none only for this node itself before enrolment.
    #[inline]
    pub(crate) fn snid(&self) -> SnId {
        self.snid
    }

    /// Key epoch (as a label carries it) and pair key to stamp packets to it with.
    #[inline]
    pub(crate) fn tx(&self) -> Option<(u8, &[u8; 16])> {
        self.tx.as_ref().map(|tx| (tx.epoch, tx.key.bytes()))
    }

    /// Pair key to verify its packets of a key epoch with.
    #[inline]
    pub(crate) fn rx(&self, epoch: u8) -> Option<&[u8; 16]> {
        self.rx
            .iter()
            .flatten()
            .find(|rx| rx.epoch == epoch)
            .map(|rx| rx.key.bytes())
    }
}

#[inline(always)]
fn key_of(address: u32) -> u32 {
    if address >> 24 == 127 {
        LOOPBACK
    } else {
        address
    }
}

#[inline(always)]
fn key6_of(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64]
}

/// Shows the node of an address to `f`. This node's own addresses and loopback belong to itself.
/// Any context; `f` must not sleep.
#[inline]
pub(crate) fn with<R>(address: IpAddr, f: impl FnOnce(Option<&Node>) -> R) -> R {
    match address {
        IpAddr::V4(address) => {
            BY_V4.with(
                key_of(address.to_bits()),
                |node| f(node.map(|node| &**node)),
            )
        }
        IpAddr::V6(address) => BY_V6.with(key6_of(address), |node| f(node.map(|node| &**node))),
    }
}

/// Whether an address is no node's. Any context.
#[inline]
pub(crate) fn is_unmapped(address: IpAddr) -> bool {
    !address.is_loopback() && with(address, |node| node.is_none())
}

/// An entry that is allocated and not visible yet.
enum Entry {
    V4(Prepared<u32, Arc<Node>>),
    V6(Prepared<[u64; 2], Arc<Node>>),
}

impl Entry {
    fn new(address: IpAddr, node: Arc<Node>) -> Result<Self, AllocError> {
        Ok(match address {
            IpAddr::V4(address) => Self::V4(Prepared::new(address.to_bits(), node)?),
            IpAddr::V6(address) => Self::V6(Prepared::new(key6_of(address), node)?),
        })
    }
}

/// What commands change of it.
struct Table {
    v4: Writer<u32, Arc<Node>>,
    v6: Writer<[u64; 2], Arc<Node>>,
}

impl Table {
    fn get(&self, address: IpAddr) -> Option<&Arc<Node>> {
        match address {
            IpAddr::V4(address) => self.v4.get(address.to_bits()),
            IpAddr::V6(address) => self.v6.get(key6_of(address)),
        }
    }

    fn put(&mut self, entry: Entry) {
        match entry {
            Entry::V4(entry) => self.v4.put(entry),
            Entry::V6(entry) => self.v6.put(entry),
        }
    }

    fn remove(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.v4.remove(address.to_bits()),
            IpAddr::V6(address) => self.v6.remove(key6_of(address)),
        };
    }
}

/// This node's SnID, none before enrolment. Any context.
#[inline]
pub(crate) fn own() -> SnId {
    SnId::node(OWN.load(Ordering::Relaxed)).unwrap_or(SnId::NONE)
}

/// What is known of a node beyond what packets need.
struct Record {
    addresses: KVec<IpAddr>,
    keys: Keys,
}

/// What `node-set` asks for.
pub(crate) struct NodeSet {
    /// Node.
    pub(crate) snid: SnId,
    /// All its addresses, or as before.
    pub(crate) addresses: Option<KVec<IpAddr>>,
    /// A key for packets to it.
    pub(crate) key: Option<Key>,
}

/// A node as `node-get` shows it.
pub(crate) struct Shown {
    /// Node.
    pub(crate) snid: u32,
    /// Its addresses; the first `count` count.
    pub(crate) addresses: [IpAddr; MOST_ADDRESSES],
    /// Number of addresses.
    pub(crate) count: usize,
    /// Epoch of the key that packets to it are stamped with.
    pub(crate) key_epoch: Option<u32>,
}

/// Node map, identity and keys: all that commands change. Lives in `sys::lock`.
pub(crate) struct Map {
    table: Table,
    nodes: RBTree<u16, Record>,
    count: usize,
    /// Addresses of this node's interfaces, and loopback; one for each interface that has it.
    local: KVec<IpAddr>,
    snid: SnId,
    cluster: Option<[u8; 16]>,
    ring: Ring,
}

fn number(snid: SnId) -> u16 {
    // The range of a SnId fits.
    snid.get() as u16
}

fn pair(epoch: u32, secret: &Secret, sender: SnId) -> PairKey {
    PairKey {
        epoch: epoch as u8,
        key: Secret::new(label::pair_key::<KernelPrf>(secret.bytes(), sender)),
    }
}

/// A node's entry: the key to it out of `keys`, those from it derived from our own secrets.
fn build(own: SnId, ring: &Ring, snid: SnId, keys: Option<&Keys>) -> Node {
    let mut secrets = ring.secrets.iter();
    let mut rx = || secrets.next().map(|key| pair(key.epoch, &key.secret, snid));
    let tx = if snid.is_none() {
        None
    } else if snid == own {
        ring.secrets
            .best(ring.active)
            .map(|key| pair(key.epoch, &key.secret, own))
    } else {
        keys.and_then(|keys| keys.best(ring.active))
            .map(|key| PairKey {
                epoch: key.epoch as u8,
                key: key.secret.duplicate(),
            })
    };
    Node {
        snid,
        tx,
        rx: [rx(), rx()],
    }
}

/// Entries for some addresses of one node, allocated and not visible yet.
fn prepare(addresses: &[IpAddr], node: Node, into: &mut KVVec<Entry>) -> Result<(), Refusal> {
    let node = Arc::new(node, GFP_KERNEL)?;
    for address in addresses {
        into.push(Entry::new(*address, node.clone())?, GFP_KERNEL)?;
    }
    Ok(())
}

/// Whether one single node can have the address, and no other on another link.
fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => {
            let [first, ..] = address.segments();
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || first & 0xFFC0 == 0xFE80
                || address.to_ipv4_mapped().is_some())
        }
    }
}

impl Map {
    /// A map that knows loopback and nothing else.
    pub(crate) fn new() -> Result<Self> {
        let mut map = Self {
            table: Table {
                v4: Writer::new(&BY_V4)?,
                v6: Writer::new(&BY_V6)?,
            },
            nodes: RBTree::new(),
            count: 0,
            local: KVec::new(),
            snid: SnId::NONE,
            cluster: None,
            ring: Ring::none(),
        };
        let loopback = IpAddr::V4(Ipv4Addr::from_bits(LOOPBACK));
        map.local.push(loopback, GFP_KERNEL)?;
        let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
        map.local.push(loopback, GFP_KERNEL)?;
        map.republish().map_err(|refusal| refusal.errno())?;
        Ok(map)
    }

    /// The cluster, if it has been set.
    pub(crate) fn cluster(&self) -> Option<&[u8; 16]> {
        self.cluster.as_ref()
    }

    /// Sets the cluster.
    pub(crate) fn set_cluster(&mut self, cluster: [u8; 16]) {
        self.cluster = Some(cluster);
    }

    /// Nodes in the map.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Wipes this node's receive secrets. What packets are judged by has copies of its own.
    pub(crate) fn forget_keys(&mut self) {
        self.ring = Ring::none();
    }

    /// Epoch that is stamped with, 0 if none is.
    pub(crate) fn key_epoch(&self) -> u32 {
        self.ring.active.unwrap_or(0)
    }

    /// Who has an address by the map: not merely by an interface of ours.
    fn owner(&self, address: IpAddr) -> Option<SnId> {
        let snid = self.table.get(address)?.snid;
        self.nodes
            .get(&number(snid))
            .filter(|record| record.addresses.contains(&address))
            .map(|_| snid)
    }

    /// Entries for all addresses, as identity and keys now are.
    fn prepare_all(&self, own: SnId, ring: &Ring) -> Result<KVVec<Entry>, Refusal> {
        let mut all = KVVec::new();
        let mut mine = KVec::new();
        for address in self.local.iter() {
            if self.owner(*address).is_none() {
                mine.push(*address, GFP_KERNEL)?;
            }
        }
        prepare(&mine, build(own, ring, own, None), &mut all)?;
        for (snid, record) in self.nodes.iter() {
            let node = build(own, ring, SnId::from_u16(*snid), Some(&record.keys));
            prepare(&record.addresses, node, &mut all)?;
        }
        Ok(all)
    }

    fn put_all(&mut self, entries: KVVec<Entry>) {
        for entry in entries {
            self.table.put(entry);
        }
    }

    fn republish(&mut self) -> Result<(), Refusal> {
        let entries = self.prepare_all(self.snid, &self.ring)?;
        self.put_all(entries);
        Ok(())
    }

    /// Gives the node its id. Another id than before makes all keys and the map void: they were
    /// made for the old one.
    pub(crate) fn set_snid(&mut self, snid: SnId) -> Result<(), Refusal> {
        if snid == self.snid {
            return Ok(());
        }
        let mut entries = KVVec::new();
        prepare(
            &self.local,
            build(snid, &Ring::none(), snid, None),
            &mut entries,
        )?;
        for record in self.nodes.values() {
            for address in record.addresses.iter() {
                self.table.remove(*address);
            }
        }
        self.nodes = RBTree::new();
        self.count = 0;
        self.ring = Ring::none();
        self.snid = snid;
        OWN.store(snid.get(), Ordering::Relaxed);
        self.put_all(entries);
        Ok(())
    }

    /// Checks the addresses that a node is to have.
    fn check_addresses(&self, snid: SnId, addresses: &[IpAddr]) -> Result<(), Refusal> {
        for (i, address) in addresses.iter().enumerate() {
            let shown = *address;
            if !is_unicast(*address) {
                return Err(Refusal::AddressUnusable { address: shown });
            }
            if addresses.iter().take(i).any(|other| other == address) {
                return Err(Refusal::AddressTwice { address: shown });
            }
            match self.owner(*address) {
                Some(owner) if owner != snid => {
                    return Err(Refusal::AddressTaken {
                        address: shown,
                        snid: owner.get(),
                    })
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds a node, or changes its addresses or one of its keys; whether it has lost an address.
    pub(crate) fn set_node(&mut self, request: NodeSet) -> Result<bool, Refusal> {
        let snid = request.snid;
        if request.key.is_some() && snid == self.snid {
            return Err(Refusal::OwnKey);
        }
        let before = self.nodes.get(&number(snid));
        let mut keys = before.map_or(Keys::none(), |record| record.keys.duplicate());
        if let Some(key) = request.key {
            keys.set(key, self.ring.active, attribute::NODE_KEY_EPOCH)?;
        }
        let addresses = match (request.addresses, before) {
            (Some(addresses), _) => addresses,
            (None, Some(record)) => {
                let mut addresses = KVec::new();
                addresses.extend_from_slice(&record.addresses, GFP_KERNEL)?;
                addresses
            }
            (None, None) => return Err(Refusal::NewNodeWithoutAddress { snid: snid.get() }),
        };
        if before.is_none() && self.count >= MOST_NODES {
            return Err(Refusal::Nodes { most: MOST_NODES });
        }
        self.check_addresses(snid, &addresses)?;
        let mut entries = KVVec::new();
        prepare(
            &addresses,
            build(self.snid, &self.ring, snid, Some(&keys)),
            &mut entries,
        )?;
        let gone = self.gone(snid, &addresses, &mut entries)?;
        let lost = !gone.is_empty();
        let record = Record { addresses, keys };
        if let Some(before) = self.nodes.get_mut(&number(snid)) {
            *before = record;
        } else {
            self.nodes
                .try_create_and_insert(number(snid), record, GFP_KERNEL)
                .map_err(|_| Refusal::NoMemory)?;
            self.count += 1;
        }
        for address in gone {
            self.table.remove(address);
        }
        self.put_all(entries);
        Ok(lost)
    }

    /// The addresses that a node loses; those that are an interface's of ours become our own.
    fn gone(
        &self,
        snid: SnId,
        stay: &[IpAddr],
        entries: &mut KVVec<Entry>,
    ) -> Result<KVec<IpAddr>, Refusal> {
        let mut gone = KVec::new();
        let mut ours = KVec::new();
        if let Some(record) = self.nodes.get(&number(snid)) {
            for address in record.addresses.iter().filter(|a| !stay.contains(a)) {
                if self.local.contains(address) {
                    ours.push(*address, GFP_KERNEL)?;
                } else {
                    gone.push(*address, GFP_KERNEL)?;
                }
            }
        }
        prepare(
            &ours,
            build(self.snid, &self.ring, self.snid, None),
            entries,
        )?;
        Ok(gone)
    }

    /// Takes a node and its keys out of the map.
    pub(crate) fn delete_node(&mut self, snid: SnId) -> Result<(), Refusal> {
        if self.nodes.get(&number(snid)).is_none() {
            return Err(Refusal::UnknownNode { snid: snid.get() });
        }
        let mut entries = KVVec::new();
        let gone = self.gone(snid, &[], &mut entries)?;
        if let Some(record) = self.nodes.get_mut(&number(snid)) {
            // In its place, for what is taken out of the tree is a copy.
            record.keys = Keys::none();
        }
        self.nodes.remove(&number(snid));
        self.count -= 1;
        for address in gone {
            self.table.remove(address);
        }
        self.put_all(entries);
        Ok(())
    }

    /// The node after `after` in the order of ids.
    pub(crate) fn next(&mut self, after: u32) -> Option<Shown> {
        let from = u16::try_from(after).ok()?.checked_add(1)?;
        let active = self.ring.active;
        let own = self.snid;
        let cursor = self.nodes.cursor_lower_bound(&from)?;
        let (snid, record) = cursor.current();
        let keys = if SnId::from_u16(*snid) == own {
            &self.ring.secrets
        } else {
            &record.keys
        };
        let mut shown = Shown {
            snid: u32::from(*snid),
            addresses: [IpAddr::V4(Ipv4Addr::UNSPECIFIED); MOST_ADDRESSES],
            count: record.addresses.len().min(MOST_ADDRESSES),
            key_epoch: keys.best(active).map(|key| key.epoch),
        };
        for (to, from) in shown.addresses.iter_mut().zip(record.addresses.iter()) {
            *to = *from;
        }
        Some(shown)
    }

    /// Sets this node's receive secret of an epoch, or the epoch to stamp with, or both.
    pub(crate) fn set_key(
        &mut self,
        epoch: u32,
        secret: Option<Secret>,
        activate: bool,
    ) -> Result<(), Refusal> {
        let mut ring = Ring {
            secrets: self.ring.secrets.duplicate(),
            active: self.ring.active,
        };
        match secret {
            Some(secret) => {
                let key = Key { epoch, secret };
                ring.secrets.set(key, ring.active, attribute::KEY_EPOCH)?;
            }
            None if !activate => return Err(Refusal::KeyWithoutEffect),
            None => {}
        }
        if activate {
            if ring.secrets.of(epoch).is_none() {
                return Err(Refusal::EpochUnknown { found: epoch });
            }
            ring.active = Some(epoch);
        }
        let entries = self.prepare_all(self.snid, &ring)?;
        self.ring = ring;
        self.put_all(entries);
        Ok(())
    }

    /// An address came to an interface of this node.
    fn add_local(&mut self, address: IpAddr) -> Result<(), Refusal> {
        let mut entries = KVVec::new();
        if self.owner(address).is_none() {
            let node = build(self.snid, &self.ring, self.snid, None);
            prepare(&[address], node, &mut entries)?;
        }
        self.local.push(address, GFP_KERNEL)?;
        self.put_all(entries);
        Ok(())
    }

    /// An address went from an interface of this node.
    fn remove_local(&mut self, address: IpAddr) {
        if let Some(at) = self.local.iter().position(|local| *local == address) {
            // The position is a valid one.
            let _ = self.local.remove(at);
        }
        if !self.local.contains(&address) && self.owner(address).is_none() {
            self.table.remove(address);
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        OWN.store(0, Ordering::Relaxed);
    }
}

/// Called when an IPv4 address of an interface comes or goes.
pub(crate) fn on_local_address(address: Ipv4Addr, here: bool) {
    let address = IpAddr::V4(address);
    if !is_unicast(address) {
        return;
    }
    let mut map = lock::NODES.lock();
    let Some(map) = map.as_mut() else {
        return;
    };
    if here {
        note_local(map, address);
    } else {
        map.remove_local(address);
    }
    super::changed();
}

fn note_local(map: &mut Map, address: IpAddr) {
    if map.add_local(address).is_err() {
        pr_err!(
            "no memory to note address {} as this node's own: its packets count as outside\n",
            Text::<45>::of(&address).as_str()
        );
    }
}

/// Called with all IPv6 addresses of this node's interfaces when any has come or gone.
pub(crate) fn on_local_addresses6(addresses: &[[u8; 16]]) {
    let mut map = lock::NODES.lock();
    let Some(map) = map.as_mut() else {
        return;
    };
    let is_here = |address: &IpAddr| match address {
        IpAddr::V6(address) => addresses.contains(&address.octets()),
        IpAddr::V4(_) => true,
    };
    let gone = |map: &Map| {
        let mut local = map.local.iter().copied();
        local.find(|address| is_unicast(*address) && !is_here(address))
    };
    while let Some(address) = gone(map) {
        map.remove_local(address);
    }
    for address in addresses {
        let address = IpAddr::V6(Ipv6Addr::from(*address));
        if is_unicast(address) && !map.local.contains(&address) {
            note_local(map, address);
        }
    }
    super::changed();
}
