// SPDX-License-Identifier: GPL-2.0

//! What the commands of the netlink family mean (`proto/netlink/dsi.yaml`). Senders and attribute
//! types have been checked in `sys/genl.c`; here each command is carried out whole or refused with
//! a reason. Decides nothing about packets or processes.

pub(crate) mod refusal;
pub(crate) mod text;
pub(crate) mod transfer;

use crate::audit;
use crate::engine::{Mode, ScId, SnId};
use crate::hooks::revoke;
use crate::state::{
    self,
    keys::Key,
    nodes::{self, Map, NodeSet, Shown, MOST_ADDRESSES},
    policy, sockets, tasks,
};
use crate::sys::{
    addrs, cms,
    genl::{self, attribute},
    lock, params, ptrmap,
    secret::Secret,
    task::TaskRef,
};
use core::net::IpAddr;
use kernel::{alloc::KVec, prelude::*};
use refusal::{errno, Refusal};
use transfer::Port;

/// What commands and packet path share: anchor, node map, keys, policy. Made before the hooks are
/// claimed, dropped after they have been given back.
pub(crate) struct State {
    // Dropped in this order.
    _addresses: addrs::Watch,
    _shared: Shared,
    _anchor: cms::Keyring,
}

/// Node map and policy, while the module is loaded.
struct Shared;

impl Drop for Shared {
    fn drop(&mut self) {
        policy::clear();
        let map = {
            let mut map = lock::NODES.lock();
            if let Some(map) = map.as_mut() {
                // In its place, for what is taken out is a copy.
                map.forget_keys();
            }
            map.take()
        };
        // Waits for readers, so not under the lock.
        drop(map);
    }
}

impl State {
    /// Sets it up, and reads the anchor if the module was given one.
    pub(crate) fn new() -> Result<Self> {
        lock::init();
        audit::init();
        let anchor = cms::Keyring::new()?;
        if let Some(path) = params::anchor() {
            if let Err(error) = cms::read_anchor(path) {
                pr_err!(
                    "parameter anchor={path}: error {}; name a readable X.509 certificate in DER\n",
                    -error.to_errno()
                );
                return Err(error);
            }
        }
        let map = Map::new()?;
        *lock::NODES.lock() = Some(map);
        let shared = Shared;
        Ok(Self {
            _addresses: addrs::Watch::new()?,
            _shared: shared,
            _anchor: anchor,
        })
    }
}

/// The registered family: commands come in. The last thing at load, the first to go at unload.
pub(crate) struct Family(Option<genl::Registration>);

impl Family {
    /// Registers it.
    pub(crate) fn register() -> Result<Self> {
        Ok(Self(Some(genl::Registration::new()?)))
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.0 = None;
        lock::TRANSFERS.lock().clear();
    }
}

/// `status-get`, as far as it is not the counters.
pub(crate) struct Status {
    /// What becomes of a refusal.
    pub(crate) mode: Mode,
    /// Version of the policy in force, or 0.
    pub(crate) policy_version: u64,
    /// Installations so far.
    pub(crate) policy_epoch: u64,
    /// This node.
    pub(crate) snid: SnId,
    /// Its cluster.
    pub(crate) cluster: Option<[u8; 16]>,
    /// Epoch that is stamped with, or 0.
    pub(crate) key_epoch: u32,
    /// Nodes in the map.
    pub(crate) nodes: usize,
    /// Tasks with a ScID of their own.
    pub(crate) tasks: u64,
    /// Sockets with an entry.
    pub(crate) sockets: u64,
    /// Whether there is an anchor.
    pub(crate) anchor: bool,
}

/// `status-get`.
pub(crate) fn status() -> Status {
    let mut map = lock::NODES.lock();
    let map = map.as_mut();
    Status {
        mode: policy::mode(),
        policy_version: policy::version(),
        policy_epoch: policy::epoch(),
        snid: nodes::own(),
        cluster: map.as_ref().and_then(|map| map.cluster().copied()),
        key_epoch: map.as_ref().map_or(0, |map| map.key_epoch()),
        nodes: map.as_ref().map_or(0, |map| map.count()),
        tasks: tasks::count(),
        sockets: sockets::count(),
        anchor: cms::has_anchor(),
    }
}

/// Runs a change of the node map.
fn change<T>(f: impl FnOnce(&mut Map) -> Result<T, Refusal>) -> Result<T, Refusal> {
    let mut map = lock::NODES.lock();
    // Without a map nothing is set up, and no command comes in.
    let result = f(map.as_mut().ok_or(Refusal::NoMemory)?)?;
    state::changed();
    Ok(result)
}

fn need<T>(value: Option<T>, attr: u16, name: &'static str) -> Result<T, Refusal> {
    value.ok_or(Refusal::Missing { attr, name })
}

fn node_of(attr: u16, number: u32) -> Result<SnId, Refusal> {
    SnId::node(number).ok_or(Refusal::SnidRange {
        attr,
        found: number,
    })
}

/// What `config-set` carries.
pub(crate) struct Config<'a> {
    /// This node's id.
    pub(crate) snid: Option<u32>,
    /// Its cluster.
    pub(crate) cluster: Option<&'a [u8; 16]>,
    /// The policy signers' certificate.
    pub(crate) anchor: Option<&'a [u8]>,
}

/// `config-set`. What can be refused for its value is looked at before anything is set; the anchor
/// goes first, because only it cannot be taken back.
pub(crate) fn config_set(config: &Config<'_>) -> Result<(), Refusal> {
    if config.snid.is_none() && config.cluster.is_none() && config.anchor.is_none() {
        return Err(Refusal::Missing {
            attr: 0,
            name: "snid, cluster or anchor",
        });
    }
    let snid = config
        .snid
        .map(|snid| node_of(attribute::CONFIG_SNID, snid))
        .transpose()?;
    if let Some(cluster) = config.cluster {
        policy::check_cluster(cluster)?;
    }
    if let Some(anchor) = config.anchor {
        cms::set_anchor(anchor).map_err(|error| match -error.to_errno() {
            errno::EXISTS => Refusal::AnchorTaken,
            errno::NO_MEMORY => Refusal::NoMemory,
            error => Refusal::AnchorUnusable { error },
        })?;
    }
    if let Some(cluster) = config.cluster {
        policy::set_cluster(cluster)?;
    }
    if let Some(snid) = snid {
        change(|map| map.set_snid(snid))?;
        revoke::connections();
    }
    Ok(())
}

/// `policy-begin`.
pub(crate) fn policy_begin(port: Port, size: Option<u32>) -> Result<(), Refusal> {
    let size = need(size, attribute::POLICY_SIZE, "size")?;
    lock::TRANSFERS.lock().begin(port, size)
}

/// `policy-data`.
pub(crate) fn policy_data(
    port: Port,
    offset: Option<u32>,
    data: Option<&[u8]>,
) -> Result<(), Refusal> {
    let offset = need(offset, attribute::POLICY_OFFSET, "offset")?;
    let data = need(data, attribute::POLICY_DATA, "data")?;
    lock::TRANSFERS.lock().data(port, offset, data)
}

/// `policy-commit`; the version that is in force now. Closes the transaction in any case.
pub(crate) fn policy_commit(port: Port, signature: Option<&[u8]>) -> Result<u64, Refusal> {
    let transfer = lock::TRANSFERS.lock().take(port);
    let image = transfer.ok_or(Refusal::NoTransfer)?.complete()?;
    let signature = need(signature, attribute::POLICY_SIGNATURE, "signature")?;
    let version = policy::install(image, signature)?;
    revoke::connections();
    audit::policy_changed();
    Ok(version)
}

/// `policy-abort`.
pub(crate) fn policy_abort(port: Port) -> Result<(), Refusal> {
    let transfer = lock::TRANSFERS.lock().take(port);
    transfer.map(drop).ok_or(Refusal::NoTransfer)
}

/// A netlink socket was closed.
pub(crate) fn port_released(port: Port) {
    let transfer = lock::TRANSFERS.lock().take(port);
    drop(transfer);
}

/// What `node-set` carries.
pub(crate) struct NodeRequest<'a> {
    /// Node.
    pub(crate) snid: Option<u32>,
    /// Addresses as they came; the first [`MOST_ADDRESSES`] of them.
    pub(crate) addresses: [Option<&'a [u8]>; MOST_ADDRESSES],
    /// How many came.
    pub(crate) count: u32,
    /// Epoch of the key.
    pub(crate) key_epoch: Option<u32>,
    /// Key for packets to the node.
    pub(crate) tx_key: Option<&'a [u8; 16]>,
}

/// `node-set`.
pub(crate) fn node_set(request: &NodeRequest<'_>) -> Result<(), Refusal> {
    let snid = need(request.snid, attribute::NODE_SNID, "snid")?;
    let snid = node_of(attribute::NODE_SNID, snid)?;
    if request.count as usize > MOST_ADDRESSES {
        return Err(Refusal::Addresses {
            found: request.count,
            most: MOST_ADDRESSES,
        });
    }
    let mut addresses = KVec::new();
    for bytes in request.addresses.iter().flatten() {
        let address = if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
            IpAddr::from(four)
        } else if let Ok(sixteen) = <[u8; 16]>::try_from(*bytes) {
            IpAddr::from(sixteen)
        } else {
            return Err(Refusal::AddressLength { found: bytes.len() });
        };
        addresses.push(address, GFP_KERNEL)?;
    }
    let key = match (request.key_epoch, request.tx_key) {
        (Some(epoch), Some(bytes)) => Some(Key {
            epoch,
            secret: Secret::new(*bytes),
        }),
        (None, None) => None,
        (Some(_), None) => return Err(Refusal::EpochWithoutKey),
        (None, Some(_)) => return Err(Refusal::KeyWithoutEpoch),
    };
    let addresses = (request.count > 0).then_some(addresses);
    let lost = change(|map| {
        map.set_node(NodeSet {
            snid,
            addresses,
            key,
        })
    })?;
    if lost {
        revoke::connections();
    }
    Ok(())
}

/// `node-del`.
pub(crate) fn node_del(snid: Option<u32>) -> Result<(), Refusal> {
    let snid = need(snid, attribute::NODE_SNID, "snid")?;
    let snid = node_of(attribute::NODE_SNID, snid)?;
    change(|map| map.delete_node(snid))?;
    revoke::connections();
    Ok(())
}

/// One step of `node-get`: the node after `after`.
pub(crate) fn node_next(after: u32) -> Option<Shown> {
    lock::NODES.lock().as_mut()?.next(after)
}

/// `key-set`.
pub(crate) fn key_set(
    epoch: Option<u32>,
    secret: Option<&[u8; 16]>,
    activate: bool,
) -> Result<(), Refusal> {
    let epoch = need(epoch, attribute::KEY_EPOCH, "epoch")?;
    let secret = secret.map(|bytes| Secret::new(*bytes));
    change(|map| map.set_key(epoch, secret, activate))
}

/// `task-get`. Any context.
pub(crate) fn task_get(task: TaskRef<'_>) -> ScId {
    ptrmap::read(|held| tasks::scid(task, held))
}

/// `task-set`: all threads of the task's process.
pub(crate) fn task_set(task: TaskRef<'_>, scid: ScId) -> Result {
    tasks::set_process(task, scid)?;
    revoke::connections_of(task, scid);
    Ok(())
}
