//! The kernel as the manager sees it: the few things that it asks of dsm.ko. The seam at which tests put another one.

use std::net::IpAddr;
use std::time::Duration;

use dsi_daemon::label::MANAGEMENT;
use dsi_proto::netlink::{
    AuditSubscription, Netlink, NetlinkError, NodeEntry, Notice, Status, TxKey,
};

/// An open connection to the module. Calls block.
pub trait Kernel: Send {
    /// State and counters.
    fn status(&mut self) -> Result<Status, NetlinkError>;
    /// Gives this process the management's ScID; tells whether it had another one before.
    fn claim_management(&mut self) -> Result<bool, NetlinkError>;
    /// Tells the module which node of which cluster it is on, and whom it believes policies from.
    fn configure(
        &mut self,
        snid: u32,
        cluster: &[u8; 16],
        anchor: &[u8],
    ) -> Result<(), NetlinkError>;
    /// Installs a policy; the version then in force.
    fn install_policy(&mut self, image: &[u8], signature: &[u8]) -> Result<u64, NetlinkError>;
    /// The node map.
    fn nodes(&mut self) -> Result<Vec<NodeEntry>, NetlinkError>;
    /// Adds or changes a node.
    fn set_node(
        &mut self,
        snid: u32,
        addresses: Option<&[IpAddr]>,
        key: Option<TxKey<'_>>,
    ) -> Result<(), NetlinkError>;
    /// Takes a node out of the map.
    fn delete_node(&mut self, snid: u32) -> Result<(), NetlinkError>;
    /// Sets this node's receive secret of an epoch.
    fn set_key(
        &mut self,
        epoch: u32,
        secret: Option<&[u8; 16]>,
        active: bool,
    ) -> Result<(), NetlinkError>;
}

/// A membership in the module's audit group. Calls block for at most the time given.
pub trait Events: Send {
    /// The next notice; none if there was none in time.
    fn receive(&mut self, timeout: Duration) -> Result<Option<Notice>, NetlinkError>;
}

/// The way to the module, which may come and go.
pub trait KernelAccess: Send + Sync + 'static {
    /// Connects to the module.
    fn open(&self) -> Result<Box<dyn Kernel>, NetlinkError>;
    /// Listens to its events.
    fn subscribe(&self) -> Result<Box<dyn Events>, NetlinkError>;
}

/// The module of the running kernel.
#[derive(Clone, Copy, Debug)]
pub struct RunningKernel;

impl KernelAccess for RunningKernel {
    fn open(&self) -> Result<Box<dyn Kernel>, NetlinkError> {
        Ok(Box::new(Netlink::open()?))
    }

    fn subscribe(&self) -> Result<Box<dyn Events>, NetlinkError> {
        Ok(Box::new(Netlink::subscribe_audit()?))
    }
}

impl Kernel for Netlink {
    fn status(&mut self) -> Result<Status, NetlinkError> {
        Netlink::status(self)
    }

    fn claim_management(&mut self) -> Result<bool, NetlinkError> {
        let other = self.task_get(None)?.scid != MANAGEMENT;
        if other {
            self.task_set(None, MANAGEMENT)?;
        }
        Ok(other)
    }

    fn configure(
        &mut self,
        snid: u32,
        cluster: &[u8; 16],
        anchor: &[u8],
    ) -> Result<(), NetlinkError> {
        // An anchor is taken once; a module that has one already is asked to confirm that it is this one.
        self.config_set(Some(snid), Some(cluster), Some(anchor))
    }

    fn install_policy(&mut self, image: &[u8], signature: &[u8]) -> Result<u64, NetlinkError> {
        self.policy_install(image, signature)
    }

    fn nodes(&mut self) -> Result<Vec<NodeEntry>, NetlinkError> {
        self.node_list()
    }

    fn set_node(
        &mut self,
        snid: u32,
        addresses: Option<&[IpAddr]>,
        key: Option<TxKey<'_>>,
    ) -> Result<(), NetlinkError> {
        self.node_set(snid, addresses, key)
    }

    fn delete_node(&mut self, snid: u32) -> Result<(), NetlinkError> {
        self.node_del(snid)
    }

    fn set_key(
        &mut self,
        epoch: u32,
        secret: Option<&[u8; 16]>,
        active: bool,
    ) -> Result<(), NetlinkError> {
        self.key_set(epoch, secret, active)
    }
}

impl Events for AuditSubscription {
    fn receive(&mut self, timeout: Duration) -> Result<Option<Notice>, NetlinkError> {
        AuditSubscription::receive(self, Some(timeout))
    }
}
