// SPDX-License-Identifier: GPL-2.0

//! What the audit needs of the kernel: rate limits, time, the current process, the multicast
//! group. Any context but NMI.

use super::bindings::{self, dsm_nl_address, dsm_nl_blob, dsm_nl_event};
use crate::audit::Denial;
use crate::engine::{ScId, SnId};
use core::net::IpAddr;

/// Where a denial is told.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Channel {
    /// The kernel log.
    Log = bindings::DSM_AUDIT_LOG,
    /// The netlink group.
    Event = bindings::DSM_AUDIT_EVENT,
}

/// Whose budget a denial is told from.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    /// That of a ScID's processes on this node.
    Own(ScId),
    /// That of all who send packets and prove nothing.
    Strangers,
    /// That of a node whose label was proven.
    Node(SnId),
}

/// Name of a process, zero-padded.
pub(crate) type Comm = [u8; bindings::DSM_NL_COMM as usize];

/// Sets up the rate limits. For the module's init, before anything is denied.
pub(crate) fn init() {
    // SAFETY: init is the only caller, and nothing asks yet.
    unsafe { bindings::dsm_audit_init() };
}

/// Whether one more denial of this kind, from there, may be told.
pub(crate) fn admit(channel: Channel, origin: Origin, kind: u32) -> bool {
    let (origin, scid) = match origin {
        Origin::Own(scid) => (bindings::DSM_AUDIT_OWN, scid.0),
        Origin::Strangers => (u32::MAX, 0),
        Origin::Node(snid) => (snid.get(), 0),
    };
    // SAFETY: any context but NMI.
    unsafe { bindings::dsm_audit_admit(channel as u32, origin, scid, kind) }
}

/// Id and name of the current process.
pub(crate) fn current() -> (u32, Comm) {
    let mut comm = Comm::default();
    // SAFETY: `comm` holds DSM_NL_COMM bytes.
    let pid = unsafe { bindings::dsm_audit_current(comm.as_mut_ptr()) };
    (pid, comm)
}

/// The time, in nanoseconds.
pub(crate) fn now() -> u64 {
    // SAFETY: any context.
    unsafe { bindings::dsm_audit_now() }
}

/// Whether anybody listens to events.
pub(crate) fn listening() -> bool {
    // SAFETY: any context.
    unsafe { bindings::dsm_nl_listening() }
}

fn blob(text: &str) -> dsm_nl_blob {
    dsm_nl_blob {
        data: text.as_ptr(),
        len: text.len() as u32,
    }
}

/// An address in network order, and its length.
pub(super) fn address(address: IpAddr) -> dsm_nl_address {
    let mut to = dsm_nl_address::default();
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            to.bytes = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            to.len = 4;
        }
        IpAddr::V6(address) => {
            to.bytes = address.octets();
            to.len = 16;
        }
    }
    to
}

/// Sends a denial to those who listen; false if it did not get out.
pub(crate) fn send_denial(id: u64, denial: &Denial<'_>, version: u64, suppressed: u64) -> bool {
    let event = dsm_nl_event {
        id,
        time_ns: now(),
        policy_version: version,
        suppressed,
        reason: denial.reason.number(),
        class: denial.class.number(),
        sscid: denial.source.scid.0,
        ssnid: denial.source.snid.get(),
        tscid: denial.target.scid.0,
        tsnid: denial.target.snid.get(),
        pid: denial.pid,
        rule: denial.rule,
        enforced: denial.enforced,
        protocol: denial.protocol,
        saddr: address(denial.saddr),
        daddr: address(denial.daddr),
        sport: denial.sport,
        dport: denial.dport,
        comm: denial.comm,
        permission: blob(denial.permission),
        hook: blob(denial.hook),
        ..Default::default()
    };
    // SAFETY: the event and the text that it points at are valid for the call.
    unsafe { bindings::dsm_nl_send_denial(&event) == 0 }
}

/// Tells those who listen that another policy is in force.
pub(crate) fn send_policy_changed(id: u64, mode: u32, version: u64) {
    let event = dsm_nl_event {
        id,
        time_ns: now(),
        policy_version: version,
        mode,
        ..Default::default()
    };
    // That nobody listens is no fault.
    // SAFETY: the event is valid for the call.
    let _ = unsafe { bindings::dsm_nl_send_policy_changed(&event) };
}
