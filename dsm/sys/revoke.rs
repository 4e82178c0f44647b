// SPDX-License-Identifier: GPL-2.0

//! Connections that are to end, and the module's hold on itself.

use super::bindings;
use super::net::HeldSock;
use super::task::TaskRef;
use core::net::IpAddr;
use kernel::error::to_result;
use kernel::prelude::*;

/// The workers that end connections, while the module may ask them to.
pub(crate) struct Workers(());

impl Workers {
    /// Hires them; before the first command comes in.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: process context, once.
        to_result(unsafe { bindings::dsm_sweep_init() })?;
        Ok(Self(()))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // SAFETY: `new` came first; no command comes in any more.
        unsafe { bindings::dsm_sweep_exit() };
    }
}

/// What one change ends. Process context; sleeps.
pub(crate) struct Sweep {
    raw: *mut bindings::dsm_sweep,
    asked: u64,
}

impl Sweep {
    /// Nothing yet.
    pub(crate) fn begin() -> Self {
        Self {
            // SAFETY: process context. Null is one of its answers, and taken below.
            raw: unsafe { bindings::dsm_sweep_begin() },
            asked: 0,
        }
    }

    /// Ends a TCP connection with ECONNABORTED; its peer is sent a reset.
    pub(crate) fn abort(&mut self, sock: HeldSock) {
        self.asked += 1;
        // SAFETY: process context; the reference goes over to the shim, with the value.
        unsafe { bindings::dsm_sweep_abort(self.raw, sock.into_raw()) };
    }

    /// Waits until all have ended, for a while. How many there are.
    pub(crate) fn end(self) -> u64 {
        // SAFETY: from `begin`, which it ends.
        if !unsafe { bindings::dsm_sweep_end(self.raw) } {
            pr_warn!("processes hold the locks of sockets whose connections are to end: they end later, and their packets are refused\n");
        }
        self.asked
    }
}

/// An established TCP connection, as its socket has it.
pub(crate) struct Established {
    /// The own address.
    pub(crate) local: IpAddr,
    /// The peer's address.
    pub(crate) remote: IpAddr,
    /// The peer's port.
    pub(crate) remote_port: u16,
    /// The own port.
    pub(crate) port: u16,
}

/// The connection of a socket; `None` if it has none.
pub(crate) fn established(sock: &HeldSock) -> Option<Established> {
    let mut flow = bindings::dsm_flow::default();
    // SAFETY: a reference is held, on a TCP or UDP socket.
    if !unsafe { bindings::dsm_flow_of(sock.as_raw(), &mut flow) } {
        return None;
    }
    let address = |bytes: [u8; 16]| {
        let [a, b, c, d, ..] = bytes;
        if flow.ipv4 {
            IpAddr::from([a, b, c, d])
        } else {
            IpAddr::from(bytes)
        }
    };
    Some(Established {
        local: address(flow.saddr),
        remote: address(flow.daddr),
        remote_port: flow.dport,
        port: flow.sport,
    })
}

/// Calls `f` with each TCP socket that this process alone holds. Process context; `f` may sleep.
pub(crate) fn for_each_socket(task: TaskRef<'_>, mut f: impl FnMut(HeldSock)) {
    let mut found = bindings::dsm_task_socks::default();
    loop {
        // SAFETY: the task is not freed, by the type's promise.
        let more = unsafe { bindings::dsm_task_socks(task.as_raw(), &mut found) };
        for sk in found.sock.iter().take(found.n as usize) {
            // SAFETY: the shim took a reference for each of these.
            f(unsafe { HeldSock::from_raw(*sk) });
        }
        if !more {
            return;
        }
    }
}

/// Keeps the module loaded while it lives.
pub(crate) struct Stay(());

impl Stay {
    /// `None` if the module is already going.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: any context.
        unsafe { bindings::dsm_stay() }.then_some(Self(()))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        // SAFETY: the reference is this value's own.
        unsafe { bindings::dsm_stay_no_longer() };
    }
}
