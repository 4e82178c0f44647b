//! What is done to the kernel: whole operations, made of the module's small commands, each with one outcome.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use dsi_proto::netlink::{NetlinkError, Status, TxKey};
use dsi_proto::policy::VerifiedPolicy;

use crate::kernel::{Kernel, KernelAccess};
use crate::peers::{Peers, Taken};
use crate::persist::Identity;

/// An operation.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Connects to the module and brings it to what this node knows: configuration, peers, last good policy.
    BringUp {
        /// The other nodes, if any are known.
        peers: Option<Arc<Peers>>,
        /// The last good policy, if there is one.
        policy: Option<Arc<VerifiedPolicy>>,
    },
    /// Makes the other nodes known.
    SetPeers(Arc<Peers>),
    /// Installs a policy.
    Install(Arc<VerifiedPolicy>),
    /// Asks how the module is.
    Poll,
}

/// What an operation came to.
#[derive(Debug)]
pub enum Outcome {
    /// Of [`Operation::BringUp`].
    BroughtUp(Result<BroughtUp, Fault>),
    /// Of [`Operation::SetPeers`].
    PeersSet(Arc<Peers>, Result<(), Fault>),
    /// Of [`Operation::Install`].
    Installed(Arc<VerifiedPolicy>, Result<Status, Fault>),
    /// Of [`Operation::Poll`].
    Polled(Result<Status, Fault>),
}

/// How the module is after it was brought up.
#[derive(Clone, Debug)]
pub struct BroughtUp {
    /// Its state.
    pub status: Status,
    /// What it has of the other nodes and the keys from us; none if it got none.
    pub taken: Option<Taken>,
    /// Whether this process got the management's ScID only now, so that older sockets do not have it.
    pub relabelled: bool,
    /// Why the module does not take who this node is.
    pub configuration_fault: Option<String>,
    /// Why it does not take the other nodes.
    pub peers_fault: Option<String>,
    /// Why it does not take the last good policy.
    pub policy_fault: Option<String>,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The module cannot be reached any more; it has to be brought up again.
    pub gone: bool,
    /// What to tell.
    pub message: String,
}

impl From<NetlinkError> for Fault {
    fn from(error: NetlinkError) -> Self {
        let gone = matches!(
            error,
            NetlinkError::ModuleNotLoaded
                | NetlinkError::Socket { .. }
                | NetlinkError::NoAnswer { .. }
        );
        Self {
            gone,
            message: error.to_string(),
        }
    }
}

/// The module, or its absence, and who this node is.
pub struct Operator {
    access: Arc<dyn KernelAccess>,
    kernel: Option<Box<dyn Kernel>>,
    identity: Identity,
}

impl Operator {
    /// Not connected yet.
    pub fn new(access: Arc<dyn KernelAccess>, identity: Identity) -> Self {
        Self {
            access,
            kernel: None,
            identity,
        }
    }

    /// Carries an operation out. Blocks.
    pub fn run(&mut self, operation: Operation) -> Outcome {
        let outcome = match operation {
            Operation::BringUp { peers, policy } => {
                Outcome::BroughtUp(self.bring_up(peers.as_deref(), policy.as_deref()))
            }
            Operation::SetPeers(peers) => {
                let own = self.identity.node.snid;
                let result = self.with(|kernel| set_peers(kernel, own, &peers));
                Outcome::PeersSet(peers, result)
            }
            Operation::Install(policy) => {
                let result = self.with(|kernel| {
                    kernel.install_policy(&policy.bundle().image, &policy.bundle().signature)?;
                    kernel.status()
                });
                Outcome::Installed(policy, result)
            }
            Operation::Poll => Outcome::Polled(self.with(|kernel| kernel.status())),
        };
        if outcome.is_gone() {
            self.kernel = None;
        }
        outcome
    }

    fn with<T>(
        &mut self,
        act: impl FnOnce(&mut dyn Kernel) -> Result<T, NetlinkError>,
    ) -> Result<T, Fault> {
        let kernel = self
            .kernel
            .as_deref_mut()
            .ok_or(NetlinkError::ModuleNotLoaded)?;
        Ok(act(kernel)?)
    }

    fn bring_up(
        &mut self,
        peers: Option<&Peers>,
        policy: Option<&VerifiedPolicy>,
    ) -> Result<BroughtUp, Fault> {
        let kernel = self.kernel.insert(self.access.open()?);
        let instance = kernel.status()?.instance;
        let relabelled = kernel.claim_management()?;
        let node = &self.identity.node;
        let configured = kernel.configure(
            node.snid,
            node.cluster.as_bytes(),
            &self.identity.anchor_der,
        );
        let peers_set = peers.map(|peers| set_peers(kernel.as_mut(), node.snid, peers));
        let taken = match (&peers_set, peers) {
            (Some(Ok(())), Some(peers)) => Some(peers.taken()),
            _ => None,
        };
        let mut status = kernel.status()?;
        let mut policy_fault = None;
        if let Some(policy) = policy
            && policy.version() > status.policy_version
        {
            let bundle = policy.bundle();
            match kernel.install_policy(&bundle.image, &bundle.signature) {
                Ok(_) => status = kernel.status()?,
                Err(error) => policy_fault = Some(error.to_string()),
            }
        }
        if status.instance != instance {
            return Err(Fault {
                gone: true,
                message: "the kernel module was loaded anew while it was brought up".to_owned(),
            });
        }
        Ok(BroughtUp {
            status,
            taken,
            relabelled,
            configuration_fault: configured.err().map(|error| error.to_string()),
            peers_fault: peers_set
                .and_then(Result::err)
                .map(|error| error.to_string()),
            policy_fault,
        })
    }
}

impl Outcome {
    fn is_gone(&self) -> bool {
        match self {
            Self::BroughtUp(result) => result.is_err(),
            Self::PeersSet(_, result) => result.as_ref().is_err_and(|fault| fault.gone),
            Self::Installed(_, result) | Self::Polled(result) => {
                result.as_ref().is_err_and(|fault| fault.gone)
            }
        }
    }
}

/// Brings the module's node map and keys to what is wanted. Nodes that go, or whose addresses others want, go first.
/// The module keeps two epochs and gives the older one up for a third; the active one goes first, so that it stays. To
/// a node whose key of that epoch it does not have, it goes on sending with the key that it has. A node that the module
/// refuses costs no other its place: it is told of when all is done.
fn set_peers(kernel: &mut dyn Kernel, own: u32, wanted: &Peers) -> Result<(), NetlinkError> {
    let labelled = &wanted.map.nodes;
    let owners: BTreeMap<IpAddr, u32> = labelled
        .iter()
        .flat_map(|(snid, addresses)| addresses.iter().map(|address| (*address, *snid)))
        .collect();
    for node in kernel.nodes()? {
        let in_the_way = node
            .addresses
            .iter()
            .any(|address| owners.get(address).is_some_and(|owner| *owner != node.snid));
        if in_the_way || !labelled.contains_key(&node.snid) {
            kernel.delete_node(node.snid)?;
        }
    }
    let mut epochs: Vec<_> = wanted.keys.iter().collect();
    epochs.sort_by_key(|keys| !keys.active);
    for keys in &epochs {
        kernel.set_key(keys.epoch, Some(&keys.secret), keys.active)?;
    }
    let mut refused = Ok(());
    for (snid, addresses) in labelled {
        // The module derives the key to itself from its own secret.
        let send = epochs.iter().filter(|_| *snid != own).filter_map(|keys| {
            keys.send.get(snid).map(|key| TxKey {
                epoch: keys.epoch,
                key,
            })
        });
        let mut keys: Vec<_> = send.map(Some).collect();
        if keys.is_empty() {
            keys.push(None);
        }
        for key in keys {
            match kernel.set_node(*snid, Some(addresses), key) {
                Err(error @ NetlinkError::Refused { .. }) => {
                    tracing::error!(snid, %error, "the module does not take a node");
                    refused = refused.and(Err(error));
                    break;
                }
                other => other?,
            }
        }
    }
    refused
}
