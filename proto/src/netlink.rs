//! Typed client of the `dsi` generic netlink family: what user space may ask of dsm.ko.
//!
//! Blocking, one request at a time; a daemon gives it a thread. The bytes are laid out by the rust-netlink
//! crates, the numbers come from `proto/netlink/dsi.yaml` (see [`spec`]). It interprets no policy and keeps
//! no state but the family's number.

mod audit;
mod channel;
mod error;
mod message;
pub mod spec;

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, NLM_F_CAPPED, NLM_F_DUMP, NetlinkPayload};
use netlink_packet_generic::GenlMessage;
use rustix::io::Errno;

pub use self::{
    audit::{AuditSubscription, Event, Notice},
    error::NetlinkError,
    spec::{Class, Mode, Reason},
};
use self::{
    channel::{Channel, Family},
    message::{Attributes, Payload},
    spec::{config, counter, key, node, operation, operation_name, policy, status, task},
};

/// Bytes of an image in one message. An attribute's length has 16 bits.
const CHUNK: usize = 32 << 10;
/// Longest value of an attribute.
const LONGEST_VALUE: usize = 0xFFFF - 4;

/// The module's state. Who lacks `CAP_MAC_ADMIN`, and in a zone the permission `label`, is told version and mode only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// More than version and mode was told: without, everything else here is zero, empty or none.
    pub is_whole: bool,
    /// Release of the module.
    pub module_version: String,
    /// What it does with a refusal.
    pub mode: Mode,
    /// Version of the policy in force; 0 is none.
    pub policy_version: u64,
    /// Rises by one at each installation.
    pub policy_epoch: u64,
    /// This node's id; 0 if it is not enrolled.
    pub snid: u32,
    /// UUID of its cluster, if it is enrolled.
    pub cluster: Option<[u8; 16]>,
    /// Key epoch with which packets are stamped.
    pub key_epoch: u32,
    /// Entries of the node map.
    pub nodes: u32,
    /// Tasks with a ScID of their own.
    pub tasks: u64,
    /// Sockets with an entry.
    pub sockets: u64,
    /// A policy anchor is loaded.
    pub anchor: bool,
    /// Each claimed LSM hook and its slot, as `hook:slot`.
    pub hooks: Vec<String>,
    /// Counters, in the module's order.
    pub counters: Vec<Counter>,
    /// Drawn at random when the module was loaded; 0 is told by a module that draws none.
    pub instance: u64,
}

/// One counter of the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// What it counts.
    pub name: String,
    /// How many.
    pub value: u64,
}

/// A node of the module's map. Keys are never shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its id.
    pub snid: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Newest epoch of which a key is there; 0 if none.
    pub key_epoch: u32,
}

/// The ScID of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskEntry {
    /// In the caller's pid namespace.
    pub pid: u32,
    /// Its ScID.
    pub scid: u32,
}

/// The pair key with which this node stamps packets to another one.
#[derive(Clone, Copy)]
pub struct TxKey<'a> {
    /// Epoch of the key.
    pub epoch: u32,
    /// K(self → node).
    pub key: &'a [u8; 16],
}

/// A connection to the module.
pub struct Netlink {
    channel: Channel,
    family: Family,
}

impl Netlink {
    /// Opens a socket and looks the family up.
    ///
    /// # Errors
    /// [`NetlinkError::ModuleNotLoaded`] if there is no such family.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut channel = Channel::open()?;
        let family = channel.resolve()?;
        Ok(Self { channel, family })
    }

    /// Listens to refusals, on a socket of its own.
    ///
    /// # Errors
    /// The module is not loaded, or the caller may not listen.
    pub fn subscribe_audit() -> Result<AuditSubscription, NetlinkError> {
        AuditSubscription::open()
    }

    /// State and counters of the module. Needs no capability, but for [`Status::is_whole`].
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn status(&mut self) -> Result<Status, NetlinkError> {
        self.one(Payload::new(operation::STATUS_GET), read_status)
    }

    /// Gives the node its id, its cluster and, once, the anchor of the policy signers (DER).
    ///
    /// # Errors
    /// Refused if the anchor differs from the one that the module holds.
    pub fn config_set(
        &mut self,
        snid: Option<u32>,
        cluster: Option<&[u8; 16]>,
        anchor: Option<&[u8]>,
    ) -> Result<(), NetlinkError> {
        let mut request = Payload::new(operation::CONFIG_SET);
        if let Some(snid) = snid {
            request = request.u32(config::SNID, snid);
        }
        if let Some(cluster) = cluster {
            request = request.bytes(config::CLUSTER, cluster);
        }
        if let Some(anchor) = anchor {
            request = request.bytes(
                config::ANCHOR,
                fits(operation::CONFIG_SET, "anchor certificate", anchor)?,
            );
        }
        self.order(request)
    }

    /// Hands a policy image and its detached signature (CMS, DER) to the module, which verifies both before
    /// anything changes. Returns the version now in force.
    ///
    /// # Errors
    /// Refused, with the module's reason; the policy in force stays in force.
    pub fn policy_install(&mut self, image: &[u8], signature: &[u8]) -> Result<u64, NetlinkError> {
        let signature = fits(operation::POLICY_COMMIT, "signature", signature)?;
        let size = u32::try_from(image.len()).map_err(|_| NetlinkError::Argument {
            operation: operation_name(operation::POLICY_BEGIN),
            detail: format!(
                "the image has {} bytes, more than a 32-bit size can say",
                image.len()
            ),
        })?;
        self.order(Payload::new(operation::POLICY_BEGIN).u32(policy::SIZE, size))?;
        if let Err(error) = self.send_image(image) {
            // The first error is the one to report; a transaction left open would be dropped with the socket.
            let _ = self.order(Payload::new(operation::POLICY_ABORT));
            return Err(error);
        }
        // Ends the transaction, however it ends.
        let commit = Payload::new(operation::POLICY_COMMIT).bytes(policy::SIGNATURE, signature);
        self.one(commit, |a| required(a.u64(policy::VERSION)?, "version"))
    }

    fn send_image(&mut self, image: &[u8]) -> Result<(), NetlinkError> {
        let mut offset = 0u32;
        for chunk in image.chunks(CHUNK) {
            let request = Payload::new(operation::POLICY_DATA)
                .u32(policy::OFFSET, offset)
                .bytes(policy::DATA, chunk);
            self.order(request)?;
            offset = offset.saturating_add(chunk.len() as u32);
        }
        Ok(())
    }

    /// Adds a node to the map, or changes it: addresses, if given, replace all that it has; a key is added to
    /// those of other epochs. The node itself gets no key: the module derives that one from its own secret.
    ///
    /// # Errors
    /// Refused if an address belongs to another node, or is not a unicast address of more than one link.
    pub fn node_set(
        &mut self,
        snid: u32,
        addresses: Option<&[IpAddr]>,
        key: Option<TxKey<'_>>,
    ) -> Result<(), NetlinkError> {
        let mut request = Payload::new(operation::NODE_SET).u32(node::SNID, snid);
        for address in addresses.unwrap_or_default() {
            request = request.address(node::ADDRESS, *address);
        }
        if let Some(key) = key {
            request = request
                .u32(node::KEY_EPOCH, key.epoch)
                .bytes(node::TX_KEY, key.key);
        }
        self.order(request)
    }

    /// Takes a node and its keys out of the map.
    ///
    /// # Errors
    /// Refused if it is not there.
    pub fn node_del(&mut self, snid: u32) -> Result<(), NetlinkError> {
        self.order(Payload::new(operation::NODE_DEL).u32(node::SNID, snid))
    }

    /// The node map.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn node_list(&mut self) -> Result<Vec<NodeEntry>, NetlinkError> {
        self.many(Payload::new(operation::NODE_GET), read_node)
    }

    /// Sets this node's receive secret of an epoch; `active` stamps with that epoch from now on.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn key_set(
        &mut self,
        epoch: u32,
        secret: Option<&[u8; 16]>,
        active: bool,
    ) -> Result<(), NetlinkError> {
        let mut request = Payload::new(operation::KEY_SET).u32(key::EPOCH, epoch);
        if let Some(secret) = secret {
            request = request.bytes(key::SECRET, secret);
        }
        self.order(request.u8(key::ACTIVE, u8::from(active)))
    }

    /// The ScID of a process, or of the caller.
    ///
    /// # Errors
    /// Refused if there is no such process.
    pub fn task_get(&mut self, pid: Option<u32>) -> Result<TaskEntry, NetlinkError> {
        let request = Payload::new(operation::TASK_GET);
        let request = match pid {
            Some(pid) => request.u32(task::PID, pid),
            None => request,
        };
        self.one(request, read_task)
    }

    /// Gives a process, or the caller, a ScID: all its threads.
    ///
    /// # Errors
    /// Refused if there is no such process, or somebody traces or measures it, or shares its memory.
    pub fn task_set(&mut self, pid: Option<u32>, scid: u32) -> Result<(), NetlinkError> {
        let mut request = Payload::new(operation::TASK_SET);
        if let Some(pid) = pid {
            request = request.u32(task::PID, pid);
        }
        self.order(request.u32(task::SCID, scid))
    }

    /// The ScIDs of the processes that have one of their own.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn task_list(&mut self) -> Result<Vec<TaskEntry>, NetlinkError> {
        self.many(Payload::new(operation::TASK_GET), read_task)
    }

    /// A request that is only acknowledged.
    fn order(&mut self, request: Payload) -> Result<(), NetlinkError> {
        self.send(request, 0).map(|_| ())
    }

    /// A request with exactly one answer.
    fn one<R>(
        &mut self,
        request: Payload,
        read: impl FnOnce(Attributes<'_>) -> Result<R, DecodeError>,
    ) -> Result<R, NetlinkError> {
        let operation = operation_name(request.command);
        let answers = self.send(request, 0)?;
        let answer = answers.first().ok_or_else(|| NetlinkError::Protocol {
            operation,
            detail: "acknowledged without an answer".to_owned(),
        })?;
        read(answer.attributes()).map_err(|e| NetlinkError::Protocol {
            operation,
            detail: e.to_string(),
        })
    }

    /// A request for a table.
    fn many<R>(
        &mut self,
        request: Payload,
        read: impl Fn(Attributes<'_>) -> Result<R, DecodeError>,
    ) -> Result<Vec<R>, NetlinkError> {
        let operation = operation_name(request.command);
        self.send(request, NLM_F_DUMP)?
            .iter()
            .map(|answer| {
                read(answer.attributes()).map_err(|e| NetlinkError::Protocol {
                    operation,
                    detail: e.to_string(),
                })
            })
            .collect()
    }

    fn send(&mut self, request: Payload, flags: u16) -> Result<Vec<Payload>, NetlinkError> {
        let operation = operation_name(request.command);
        let known = self.family;
        let message = |payload, family: Family| {
            let mut message = GenlMessage::from_payload(payload);
            message.set_resolved_family_id(family.id);
            message
        };
        match self
            .channel
            .request(operation, message(request.clone(), known), flags)
        {
            // The kernel's own words for a family that has gone; the module's refusals carry a message.
            Err(NetlinkError::Refused {
                errno,
                message: None,
                ..
            }) if errno == Errno::NOENT.raw_os_error() => {
                self.family = self.channel.resolve()?;
                self.channel
                    .request(operation, message(request, self.family), flags)
            }
            other => other,
        }
    }
}

fn fits<'a>(command: u8, what: &str, value: &'a [u8]) -> Result<&'a [u8], NetlinkError> {
    if value.is_empty() || value.len() > LONGEST_VALUE {
        return Err(NetlinkError::Argument {
            operation: operation_name(command),
            detail: format!(
                "the {what} has {} bytes; 1 to {LONGEST_VALUE} are possible",
                value.len()
            ),
        });
    }
    Ok(value)
}

/// Reads bytes as a datagram of the kernel's, whatever it was asked: each kind of answer, a notice, the text of a
/// refusal. Says how many messages and how many notices were in it. The fuzz target's, and its corpus' replay.
#[doc(hidden)]
pub fn read_any(datagram: &[u8]) -> (usize, usize) {
    let mut messages = 0;
    for message in channel::messages::<Payload>(datagram) {
        messages += 1;
        let Ok(message) = message else { break };
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                let attributes = inner.payload.attributes();
                let _ = read_status(attributes);
                let _ = read_node(attributes);
                let _ = read_task(attributes);
            }
            NetlinkPayload::Error(error) => {
                channel::extack(&error.header, message.header.flags & NLM_F_CAPPED != 0);
            }
            NetlinkPayload::Done(done) => {
                channel::extack_text(&done.extended_ack);
            }
            _ => {}
        }
    }
    (messages, audit::decode(datagram).map_or(0, |all| all.len()))
}

fn required<T>(value: Option<T>, name: &str) -> Result<T, DecodeError> {
    value.ok_or_else(|| DecodeError::from(format!("attribute {name} is missing")))
}

fn read_node(a: Attributes<'_>) -> Result<NodeEntry, DecodeError> {
    Ok(NodeEntry {
        snid: required(a.u32(node::SNID)?, "snid")?,
        addresses: a.addresses(node::ADDRESS)?,
        key_epoch: a.u32(node::KEY_EPOCH)?.unwrap_or_default(),
    })
}

fn read_task(a: Attributes<'_>) -> Result<TaskEntry, DecodeError> {
    Ok(TaskEntry {
        pid: required(a.u32(task::PID)?, "pid")?,
        scid: required(a.u32(task::SCID)?, "scid")?,
    })
}

fn read_status(a: Attributes<'_>) -> Result<Status, DecodeError> {
    Ok(Status {
        is_whole: a.u64(status::POLICY_VERSION)?.is_some(),
        module_version: required(a.string(status::MODULE_VERSION)?, "module-version")?,
        mode: Mode::from_number(required(a.u32(status::MODE)?, "mode")?),
        policy_version: a.u64(status::POLICY_VERSION)?.unwrap_or_default(),
        policy_epoch: a.u64(status::POLICY_EPOCH)?.unwrap_or_default(),
        snid: a.u32(status::SNID)?.unwrap_or_default(),
        cluster: a.array(status::CLUSTER)?.filter(|uuid| *uuid != [0; 16]),
        key_epoch: a.u32(status::KEY_EPOCH)?.unwrap_or_default(),
        nodes: a.u32(status::NODES)?.unwrap_or_default(),
        tasks: a.u64(status::TASKS)?.unwrap_or_default(),
        sockets: a.u64(status::SOCKETS)?.unwrap_or_default(),
        anchor: a.u8(status::ANCHOR)?.unwrap_or_default() != 0,
        hooks: a.strings(status::HOOKS)?,
        counters: a.nested(status::COUNTER, |inner| {
            Ok(Counter {
                name: inner.string(counter::NAME)?.unwrap_or_default(),
                value: inner.u64(counter::VALUE)?.unwrap_or_default(),
            })
        })?,
        instance: a.u64(status::INSTANCE)?.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_and_absent_attributes_are_tolerated() {
        let payload = Payload::new(operation::STATUS_GET)
            .bytes(status::MODULE_VERSION, b"0.1.0\0")
            .u32(status::MODE, 2)
            .bytes(status::POLICY_VERSION, &7u64.to_ne_bytes())
            .bytes(status::CLUSTER, &[0; 16])
            .bytes(status::HOOKS, b"socket_sendmsg:5\0")
            .bytes(status::HOOKS, b"socket_bind:4\0");
        let status = read_status(payload.attributes()).unwrap();
        assert_eq!(
            (status.mode, status.policy_version, status.snid),
            (Mode::Enforcing, 7, 0)
        );
        assert_eq!(status.hooks, ["socket_sendmsg:5", "socket_bind:4"]);
        assert_eq!(status.cluster, None, "an all-zero UUID is no cluster");
        assert_eq!(status.instance, 0, "an older module draws none");
        assert!(status.is_whole);
        assert!(
            read_status(Payload::new(1).attributes()).is_err(),
            "an empty status is not a status"
        );
    }

    #[test]
    fn without_the_module_the_error_says_how_to_load_it() {
        match Netlink::open() {
            Ok(mut module) => assert!(!module.status().unwrap().module_version.is_empty()),
            Err(NetlinkError::ModuleNotLoaded) => {
                assert!(
                    NetlinkError::ModuleNotLoaded
                        .to_string()
                        .contains("insmod dsm.ko")
                );
            }
            Err(other) => panic!("neither loaded nor absent: {other}"),
        }
    }

    #[test]
    fn values_that_no_attribute_can_carry_are_refused_here() {
        assert!(fits(operation::POLICY_COMMIT, "signature", &[]).is_err());
        assert!(fits(operation::POLICY_COMMIT, "signature", &[0; LONGEST_VALUE]).is_ok());
        assert!(
            fits(
                operation::POLICY_COMMIT,
                "signature",
                &[0; LONGEST_VALUE + 1]
            )
            .is_err()
        );
    }
}
