// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! On a node under DSI, a connection to the server is management's: it is opened under ScID 1, which no policy can
//! cut off.

use dsi_engine::ScId;
use dsi_proto::netlink::{Netlink, NetlinkError};

/// How it went.
#[derive(Debug)]
pub enum Management {
    /// The module is not loaded, or the ScID is taken: connections will pass.
    Ready,
    /// The module is loaded and did not give the ScID: the policy may refuse the connection.
    Without(NetlinkError),
}

/// Takes management's ScID if there is a module to ask for it. To be called before the first socket.
pub fn assume() -> Management {
    match Netlink::open().and_then(|mut module| module.task_set(None, ScId::MANAGEMENT.0)) {
        Ok(()) | Err(NetlinkError::ModuleNotLoaded) => Management::Ready,
        Err(error) => Management::Without(error),
    }
}
