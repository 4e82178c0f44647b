// SPDX-License-Identifier: GPL-2.0

//! The netlink family's commands as `genl.c` decoded them, turned into safe values and handed to
//! `crate::netlink`; the answers go back the same way. Each runs in process context.

use super::bindings::{self, dsm_nl_blob, dsm_nl_fault, dsm_nl_port, dsm_nl_u32};
use super::task::TaskRef;
use crate::counters;
use crate::engine::ScId;
use crate::netlink::{self, refusal::Refusal, text::Text, transfer::Port};
use kernel::{error::to_result, ffi::c_int, prelude::*};

/// Addresses that one node may have.
pub(crate) const MOST_ADDRESSES: usize = bindings::DSM_NL_ADDRESSES as usize;

/// The numbers of attributes that a refusal can name.
pub(crate) mod attribute {
    use super::bindings as b;

    pub(crate) const CONFIG_SNID: u16 = b::DSI_A_CONFIG_SNID as u16;
    pub(crate) const CONFIG_CLUSTER: u16 = b::DSI_A_CONFIG_CLUSTER as u16;
    pub(crate) const CONFIG_ANCHOR: u16 = b::DSI_A_CONFIG_ANCHOR as u16;
    pub(crate) const POLICY_SIZE: u16 = b::DSI_A_POLICY_SIZE as u16;
    pub(crate) const POLICY_OFFSET: u16 = b::DSI_A_POLICY_OFFSET as u16;
    pub(crate) const POLICY_DATA: u16 = b::DSI_A_POLICY_DATA as u16;
    pub(crate) const POLICY_SIGNATURE: u16 = b::DSI_A_POLICY_SIGNATURE as u16;
    pub(crate) const NODE_SNID: u16 = b::DSI_A_NODE_SNID as u16;
    pub(crate) const NODE_ADDRESS: u16 = b::DSI_A_NODE_ADDRESS as u16;
    pub(crate) const NODE_KEY_EPOCH: u16 = b::DSI_A_NODE_KEY_EPOCH as u16;
    pub(crate) const NODE_TX_KEY: u16 = b::DSI_A_NODE_TX_KEY as u16;
    pub(crate) const KEY_EPOCH: u16 = b::DSI_A_KEY_EPOCH as u16;
    pub(crate) const KEY_SECRET: u16 = b::DSI_A_KEY_SECRET as u16;
}

/// The family, while it is registered.
pub(crate) struct Registration(());

impl Registration {
    /// Registers it: from here on commands come in.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: process context; what the commands use has been set up before.
        to_result(unsafe { bindings::dsm_nl_register() })?;
        Ok(Self(()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: `new` registered it. Process context, no locks.
        unsafe { bindings::dsm_nl_unregister() };
    }
}

/// The bytes of an attribute, `None` if it is absent.
///
/// # Safety
///
/// `blob` is as `genl.c` made it of a request that outlives `'a`.
unsafe fn bytes<'a>(blob: &dsm_nl_blob) -> Option<&'a [u8]> {
    if blob.data.is_null() {
        return None;
    }
    // SAFETY: the attribute's payload, by the caller's promise.
    Some(unsafe { core::slice::from_raw_parts(blob.data, blob.len as usize) })
}

/// As [`bytes`], for an attribute whose length the netlink policy fixes at 16.
///
/// # Safety
///
/// As for [`bytes`].
unsafe fn sixteen<'a>(blob: &dsm_nl_blob) -> Option<&'a [u8; 16]> {
    // SAFETY: as promised.
    unsafe { bytes(blob) }.and_then(|bytes| bytes.try_into().ok())
}

fn number(number: &dsm_nl_u32) -> Option<u32> {
    number.present.then_some(number.value)
}

fn port(port: &dsm_nl_port) -> Port {
    Port {
        net: port.net as usize,
        portid: port.portid,
    }
}

/// Tells the fault and returns the errno.
fn answer(result: Result<(), Refusal>, command: &str, fault: &mut dsm_nl_fault) -> c_int {
    let Err(refusal) = result else {
        return 0;
    };
    let text = Text::<{ bindings::DSM_NL_TEXT as usize - 1 }>::of(&refusal);
    fault.attr = refusal.attribute();
    for (to, from) in fault.text.iter_mut().zip(text.as_bytes()) {
        *to = *from as _;
    }
    let whole = Text::<160>::of(&refusal);
    pr_warn!("{command} refused: {}\n", whole.as_str());
    refusal.errno().to_errno()
}

/// Defines the functions that `genl.c` calls, each checked against its declaration there.
macro_rules! commands {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[no_mangle]
        unsafe extern "C" fn $name($($arg: $ty),*) $(-> $ret)? $body
        const _: unsafe extern "C" fn($($ty),*) $(-> $ret)? = bindings::$name;
    )*};
}

commands! {
    /// # Safety
    ///
    /// `status` is `genl.c`'s, valid and its alone.
    fn dsm_nl_on_status(status: *mut bindings::dsm_nl_status) {
        // SAFETY: as promised.
        let to = unsafe { &mut *status };
        let from = netlink::status();
        to.mode = from.mode.number();
        to.policy_version = from.policy_version;
        to.policy_epoch = from.policy_epoch;
        to.snid = from.snid.get();
        if let Some(cluster) = from.cluster {
            to.has_cluster = true;
            to.cluster = cluster;
        }
        to.key_epoch = from.key_epoch;
        to.nodes = from.nodes as u32;
        to.tasks = from.tasks;
        to.sockets = from.sockets;
        to.anchor = from.anchor;
    }

    /// # Safety
    ///
    /// `counter` is `genl.c`'s, valid and its alone.
    fn dsm_nl_on_counter(index: u32, counter: *mut bindings::dsm_nl_counter) -> bool {
        let Some((prefix, name)) = counters::name(index) else {
            return false;
        };
        // SAFETY: as promised.
        let to = unsafe { &mut *counter };
        to.name.fill(0);
        // The last byte stays zero.
        let last = to.name.len() - 1;
        let text = Iterator::chain(prefix.bytes(), name.bytes());
        for (to, from) in to.name.iter_mut().take(last).zip(text) {
            *to = from;
        }
        to.value = counters::value(index);
        true
    }

    /// # Safety
    ///
    /// `request` and what it points at, and `fault`, are valid for the call.
    fn dsm_nl_on_config(request: *const bindings::dsm_nl_config, fault: *mut dsm_nl_fault) -> c_int {
        // SAFETY: as promised.
        let (request, fault) = unsafe { (&*request, &mut *fault) };
        // SAFETY: as promised.
        let (cluster, anchor) = unsafe { (sixteen(&request.cluster), bytes(&request.anchor)) };
        let config = netlink::Config { snid: number(&request.snid), cluster, anchor };
        answer(netlink::config_set(&config), "config-set", fault)
    }

    /// # Safety
    ///
    /// The arguments are valid for the call.
    fn dsm_nl_on_policy_begin(from: *const dsm_nl_port, size: *const dsm_nl_u32, fault: *mut dsm_nl_fault) -> c_int {
        // SAFETY: as promised.
        let (from, size, fault) = unsafe { (&*from, &*size, &mut *fault) };
        answer(netlink::policy_begin(port(from), number(size)), "policy-begin", fault)
    }

    /// # Safety
    ///
    /// The arguments, and what they point at, are valid for the call.
    fn dsm_nl_on_policy_data(from: *const dsm_nl_port, offset: *const dsm_nl_u32, data: *const dsm_nl_blob, fault: *mut dsm_nl_fault) -> c_int {
        // SAFETY: as promised.
        let (from, offset, data, fault) = unsafe { (&*from, &*offset, bytes(&*data), &mut *fault) };
        answer(netlink::policy_data(port(from), number(offset), data), "policy-data", fault)
    }

    /// # Safety
    ///
    /// The arguments, and what they point at, are valid for the call.
    fn dsm_nl_on_policy_commit(from: *const dsm_nl_port, signature: *const dsm_nl_blob, version: *mut u64, fault: *mut dsm_nl_fault) -> c_int {
        // SAFETY: as promised.
        let (from, signature, version, fault) = unsafe { (&*from, bytes(&*signature), &mut *version, &mut *fault) };
        let installed = netlink::policy_commit(port(from), signature).map(|new| *version = new);
        answer(installed, "policy-commit", fault)
    }

    /// # Safety
    ///
    /// The arguments are valid for the call.
    fn dsm_nl_on_policy_abort(from: *const dsm_nl_port, fault: *mut dsm_nl_fault) -> c_int {
        // SAFETY: as promised.
        let (from, fault) = unsafe { (&*from, &mut *fault) };
        answer(netlink::policy_abort(port(from)), "policy-abort", fault)
    }

    /// # Safety
    ///
    /// The argument is valid for the call.
    fn dsm_nl_on_release(from: *const dsm_nl_port) {
        // SAFETY: as promised.
        netlink::port_released(port(unsafe { &*from }));
    }

    /// # Safety
    ///
    /// `request` and what it points at, and `fault`, are valid for the call.
    fn dsm_nl_on_node_set(request: *const bindings::dsm_nl_node_set, fault: *mut dsm_nl_fault) -> c_int {
        // SAFETY: as promised.
        let (request, fault) = unsafe { (&*request, &mut *fault) };
        let node = netlink::NodeRequest {
            snid: number(&request.snid),
            // SAFETY: as promised.
            addresses: core::array::from_fn(|i| unsafe { bytes(&request.address[i]) }),
            count: request.n_addresses,
            key_epoch: number(&request.key_epoch),
            // SAFETY: as promised.
            tx_key: unsafe { sixteen(&request.tx_key) },
        };
        answer(netlink::node_set(&node), "node-set", fault)
    }

    /// # Safety
    ///
    /// The arguments are valid for the call.
    fn dsm_nl_on_node_del(snid: *const dsm_nl_u32, fault: *mut dsm_nl_fault) -> c_int {
        // SAFETY: as promised.
        let (snid, fault) = unsafe { (&*snid, &mut *fault) };
        answer(netlink::node_del(number(snid)), "node-del", fault)
    }

    /// # Safety
    ///
    /// `node` is `genl.c`'s, valid and its alone.
    fn dsm_nl_on_node_next(after: u32, node: *mut bindings::dsm_nl_node) -> bool {
        let Some(from) = netlink::node_next(after) else {
            return false;
        };
        // SAFETY: as promised.
        let to = unsafe { &mut *node };
        to.snid = from.snid;
        to.n_addresses = from.count as u32;
        to.address = from.addresses.map(super::audit::address);
        to.has_key = from.key_epoch.is_some();
        to.key_epoch = from.key_epoch.unwrap_or(0);
        true
    }

    /// # Safety
    ///
    /// `request` and what it points at, and `fault`, are valid for the call.
    fn dsm_nl_on_key_set(request: *const bindings::dsm_nl_key, fault: *mut dsm_nl_fault) -> c_int {
        // SAFETY: as promised.
        let (request, fault) = unsafe { (&*request, &mut *fault) };
        // SAFETY: as promised.
        let secret = unsafe { sixteen(&request.secret) };
        answer(netlink::key_set(number(&request.epoch), secret, request.active), "key-set", fault)
    }

    /// # Safety
    ///
    /// The task is not freed during the call. May be called under `rcu_read_lock`.
    fn dsm_nl_on_task_get(task: *const bindings::task_struct) -> u32 {
        // SAFETY: as promised.
        netlink::task_get(unsafe { TaskRef::from_raw(task) }).0
    }

    /// # Safety
    ///
    /// The caller holds a reference on the task.
    fn dsm_nl_on_task_set(task: *const bindings::task_struct, scid: u32) -> c_int {
        // SAFETY: as promised.
        let set = netlink::task_set(unsafe { TaskRef::from_raw(task) }, ScId(scid));
        set.map_or_else(|error| error.to_errno(), |()| 0)
    }
}
