//! A kernel that keeps what it is told and checks what dsm.ko checks, without a kernel.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dsi_engine::Image;
use dsi_proto::netlink::{Event, Mode, NetlinkError, NodeEntry, Notice, Status, TxKey};
use dsi_proto::signature;
use parking_lot::{Condvar, Mutex};
use smd::kernel::{Events, Kernel, KernelAccess};

#[derive(Clone, Default)]
pub struct NodeState {
    pub addresses: Vec<IpAddr>,
    pub keys: BTreeMap<u32, [u8; 16]>,
}

#[derive(Clone, Default)]
pub struct State {
    pub snid: u32,
    pub cluster: Option<[u8; 16]>,
    pub anchor: Option<Vec<u8>>,
    pub nodes: BTreeMap<u32, NodeState>,
    pub secrets: BTreeMap<u32, [u8; 16]>,
    pub active_epoch: u32,
    pub policy_version: u64,
    pub image: Vec<u8>,
    pub enforcing: bool,
    pub scid: u32,
    pub installs: u32,
    pub instance: u64,
}

impl State {
    /// Epoch and key with which it labels a packet to another node.
    pub fn label_to(&self, snid: u32) -> Option<(u32, [u8; 16])> {
        let keys = &self.nodes.get(&snid)?.keys;
        let active = keys.get_key_value(&self.active_epoch);
        let (epoch, key) = active.or_else(|| keys.last_key_value())?;
        Some((*epoch, *key))
    }

    /// Whether it takes such a label of another node for one.
    pub fn verifies(&self, snid: u32, (epoch, key): (u32, [u8; 16])) -> bool {
        let sender = dsi_engine::SnId::node(snid).unwrap();
        self.nodes.contains_key(&snid)
            && self.secrets.get(&epoch).is_some_and(|secret| {
                dsi_engine::label::pair_key::<ssd::keys::SipHash>(secret, sender) == key
            })
    }
}

/// Keeps keys of two epochs, as the module does: a third one takes the place of the older one that is not active.
fn keep(
    keys: &mut BTreeMap<u32, [u8; 16]>,
    epoch: u32,
    key: [u8; 16],
    active: u32,
) -> Result<(), NetlinkError> {
    if keys.len() == 2 && !keys.contains_key(&epoch) {
        let mut known = keys.keys().copied();
        let (older, newer) = (known.next().unwrap(), known.next().unwrap());
        if epoch < older {
            return Err(refused(
                "key-set",
                116,
                "the epoch is older than those known",
            ));
        }
        keys.remove(if active == older { &newer } else { &older });
    }
    keys.insert(epoch, key);
    Ok(())
}

#[derive(Default)]
struct Shared {
    /// None while the module is not loaded.
    state: Option<State>,
    loads: u64,
    refuse_policies: Option<String>,
    notices: VecDeque<Notice>,
}

/// The module of a node. Clones are the same module.
#[derive(Clone)]
pub struct FakeKernel {
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

impl FakeKernel {
    /// A kernel with the module loaded, as `insmod dsm.ko` leaves it.
    pub fn new() -> Self {
        let kernel = Self {
            shared: Arc::default(),
        };
        kernel.load();
        kernel
    }

    /// `insmod dsm.ko`
    pub fn load(&self) {
        let mut shared = self.shared.0.lock();
        shared.loads += 1;
        shared.state = Some(State {
            scid: 2,
            instance: shared.loads,
            ..State::default()
        });
    }

    /// `rmmod dsm`
    pub fn unload(&self) {
        self.shared.0.lock().state = None;
    }

    /// From now on the module refuses policies with this message; none ends it.
    pub fn refuse_policies(&self, message: Option<&str>) {
        self.shared.0.lock().refuse_policies = message.map(str::to_owned);
    }

    /// What the module holds.
    pub fn state(&self) -> State {
        self.shared
            .0
            .lock()
            .state
            .clone()
            .expect("the module is loaded")
    }

    /// Whether the manager has taken every notice.
    pub fn is_heard(&self) -> bool {
        self.shared.0.lock().notices.is_empty()
    }

    /// The module refuses a packet.
    pub fn deny(&self, event: Event) {
        self.shared
            .0
            .lock()
            .notices
            .push_back(Notice::Denial(Box::new(event)));
        self.shared.1.notify_all();
    }
}

impl KernelAccess for FakeKernel {
    fn open(&self) -> Result<Box<dyn Kernel>, NetlinkError> {
        let shared = self.shared.0.lock();
        shared.state.as_ref().ok_or(NetlinkError::ModuleNotLoaded)?;
        Ok(Box::new(Handle {
            kernel: self.clone(),
        }))
    }

    fn subscribe(&self) -> Result<Box<dyn Events>, NetlinkError> {
        let shared = self.shared.0.lock();
        shared.state.as_ref().ok_or(NetlinkError::ModuleNotLoaded)?;
        Ok(Box::new(Subscription {
            kernel: self.clone(),
            load: shared.loads,
        }))
    }
}

struct Handle {
    kernel: FakeKernel,
}

fn refused(operation: &'static str, errno: i32, message: &str) -> NetlinkError {
    NetlinkError::Refused {
        operation,
        errno,
        message: Some(message.to_owned()),
    }
}

impl Handle {
    fn with<T>(
        &mut self,
        act: impl FnOnce(&mut State) -> Result<T, NetlinkError>,
    ) -> Result<T, NetlinkError> {
        act(self
            .kernel
            .shared
            .0
            .lock()
            .state
            .as_mut()
            .ok_or(NetlinkError::ModuleNotLoaded)?)
    }
}

impl Kernel for Handle {
    fn status(&mut self) -> Result<Status, NetlinkError> {
        self.with(|state| {
            Ok(Status {
                is_whole: true,
                module_version: "0.1.0-fake".into(),
                mode: match (state.policy_version, state.enforcing) {
                    (0, _) => Mode::NoPolicy,
                    (_, true) => Mode::Enforcing,
                    (_, false) => Mode::Permissive,
                },
                policy_version: state.policy_version,
                policy_epoch: state.installs.into(),
                snid: state.snid,
                cluster: state.cluster,
                key_epoch: state.active_epoch,
                nodes: state.nodes.len() as u32,
                tasks: 1,
                sockets: 0,
                anchor: state.anchor.is_some(),
                hooks: vec![],
                counters: vec![],
                instance: state.instance,
            })
        })
    }

    fn claim_management(&mut self) -> Result<bool, NetlinkError> {
        self.with(|state| Ok(std::mem::replace(&mut state.scid, 1) != 1))
    }

    fn configure(
        &mut self,
        snid: u32,
        cluster: &[u8; 16],
        anchor: &[u8],
    ) -> Result<(), NetlinkError> {
        self.with(|state| {
            if state.anchor.as_ref().is_some_and(|known| known != anchor) {
                return Err(refused("config-set", 17, "another anchor is loaded"));
            }
            (state.snid, state.cluster, state.anchor) =
                (snid, Some(*cluster), Some(anchor.to_vec()));
            Ok(())
        })
    }

    fn install_policy(&mut self, image: &[u8], signature: &[u8]) -> Result<u64, NetlinkError> {
        let why = self.kernel.shared.0.lock().refuse_policies.clone();
        self.with(|state| {
            if let Some(why) = why {
                return Err(refused("policy-commit", 22, &why));
            }
            let anchor = state
                .anchor
                .as_ref()
                .ok_or_else(|| refused("policy-commit", 126, "no anchor"))?;
            signature::verify_detached(anchor, image, signature)
                .map_err(|error| refused("policy-commit", 129, &error.to_string()))?;
            let meta = Image::validate(image)
                .map_err(|error| refused("policy-commit", 22, &error.to_string()))?
                .meta();
            if Some(*meta.cluster()) != state.cluster {
                return Err(refused(
                    "policy-commit",
                    129,
                    "the policy is for another cluster",
                ));
            }
            if meta.version() <= state.policy_version {
                return Err(refused("policy-commit", 116, "the version does not rise"));
            }
            state.policy_version = meta.version();
            state.enforcing = meta.enforcing();
            state.image = image.to_vec();
            state.installs += 1;
            Ok(meta.version())
        })
    }

    fn nodes(&mut self) -> Result<Vec<NodeEntry>, NetlinkError> {
        self.with(|state| {
            Ok(state
                .nodes
                .iter()
                .map(|(snid, node)| NodeEntry {
                    snid: *snid,
                    addresses: node.addresses.clone(),
                    key_epoch: node.keys.last_key_value().map_or(0, |(epoch, _)| *epoch),
                })
                .collect())
        })
    }

    fn set_node(
        &mut self,
        snid: u32,
        addresses: Option<&[IpAddr]>,
        key: Option<TxKey<'_>>,
    ) -> Result<(), NetlinkError> {
        self.with(|state| {
            let wanted = addresses.unwrap_or_default();
            if wanted.is_empty() && !state.nodes.contains_key(&snid) {
                return Err(refused("node-set", 22, "a new node needs an address"));
            }
            if key.is_some() && snid == state.snid {
                return Err(refused("node-set", 22, "a node gets no key to itself"));
            }
            let taken = |node: &NodeState| {
                node.addresses
                    .iter()
                    .any(|address| wanted.contains(address))
            };
            if state
                .nodes
                .iter()
                .any(|(other, node)| *other != snid && taken(node))
            {
                return Err(refused(
                    "node-set",
                    17,
                    "the address belongs to another node",
                ));
            }
            let active = state.active_epoch;
            let node = state.nodes.entry(snid).or_default();
            if let Some(addresses) = addresses {
                node.addresses = addresses.to_vec();
            }
            if let Some(key) = key {
                keep(&mut node.keys, key.epoch, *key.key, active)?;
            }
            Ok(())
        })
    }

    fn delete_node(&mut self, snid: u32) -> Result<(), NetlinkError> {
        self.with(|state| {
            state
                .nodes
                .remove(&snid)
                .map(|_| ())
                .ok_or_else(|| refused("node-del", 2, "there is no such node"))
        })
    }

    fn set_key(
        &mut self,
        epoch: u32,
        secret: Option<&[u8; 16]>,
        active: bool,
    ) -> Result<(), NetlinkError> {
        self.with(|state| {
            if secret.is_none() && !active {
                return Err(refused("key-set", 22, "neither a secret nor an activation"));
            }
            if let Some(secret) = secret {
                keep(&mut state.secrets, epoch, *secret, state.active_epoch)?;
            }
            if active {
                if !state.secrets.contains_key(&epoch) {
                    return Err(refused("key-set", 2, "there is no secret of this epoch"));
                }
                state.active_epoch = epoch;
            }
            Ok(())
        })
    }
}

struct Subscription {
    kernel: FakeKernel,
    load: u64,
}

impl Events for Subscription {
    /// Silent, like the real one, when the module it belonged to is gone.
    fn receive(&mut self, timeout: Duration) -> Result<Option<Notice>, NetlinkError> {
        let (mutex, condition) = &*self.kernel.shared;
        let mut shared = mutex.lock();
        if shared.loads == self.load && shared.notices.is_empty() {
            condition.wait_for(&mut shared, timeout);
        }
        Ok(if shared.loads == self.load {
            shared.notices.pop_front()
        } else {
            None
        })
    }
}
