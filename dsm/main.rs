// SPDX-License-Identifier: GPL-2.0

//! dsm: the kernel part of DSI. This file registers things in their order and takes them back in
//! the reverse one; it decides nothing.

use kernel::prelude::*;

mod audit;
mod counters;
#[path = "engine/src/engine/mod.rs"]
mod engine;
mod hooks;
mod netlink;
mod state;
mod sys;

module! {
    type: Dsm,
    name: "dsm",
    authors: ["The DSI authors"],
    description: "DSI: mandatory, distributed access control over labelled sockets",
    license: "GPL",
}

/// The loaded module. Fields are dropped in their order, which is that of unloading.
struct Dsm {
    _family: netlink::Family,
    _workers: sys::revoke::Workers,
    _hooks: Hooks,
    _state: netlink::State,
}

/// Hooks and labelling, as long as it lives.
struct Hooks {
    claimed: Option<sys::lsm::Claimed>,
    out: Option<sys::net::Out>,
    _tables: Tables,
}

/// The tables of tasks and sockets.
struct Tables;

impl Tables {
    fn new() -> Self {
        sys::lsm::prepare();
        Self
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        state::owners::exit();
        state::sockets::exit();
        state::tasks::exit();
    }
}

impl Hooks {
    /// Packets are labelled before any is refused for the lack of a label.
    fn start() -> Result<Self> {
        let found = sys::lsm::find()?;
        let tables = Tables::new();
        let out = if sys::params::hooks_only() {
            None
        } else {
            Some(sys::net::Out::register()?)
        };
        Ok(Self {
            claimed: Some(found.claim()),
            out,
            _tables: tables,
        })
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        // Nothing reserves room any more, then the room is taken back; packets go on being
        // labelled by insertion until nothing is refused any more. Labelling ends before sockets
        // can go without their entries being taken out: an entry never speaks for another socket.
        state::close();
        state::sockets::unreserve_all();
        let Some(claimed) = self.claimed.take() else {
            return;
        };
        claimed.deafen();
        self.out = None;
        claimed.disable().release();
    }
}

impl kernel::Module for Dsm {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let state = netlink::State::new()?;
        let hooks = Hooks::start()?;
        let workers = sys::revoke::Workers::new()?;
        let family = netlink::Family::register()?;
        pr_info!("loaded, {} hooks\n", sys::lsm::names().count());
        Ok(Self {
            _family: family,
            _workers: workers,
            _hooks: hooks,
            _state: state,
        })
    }
}

impl Drop for Dsm {
    fn drop(&mut self) {
        pr_info!("unloading\n");
    }
}
