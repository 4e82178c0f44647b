// SPDX-License-Identifier: GPL-2.0

//! The addresses of this node's interfaces, as they come and go.

use super::bindings;
use crate::state::nodes;
use core::net::Ipv4Addr;
use kernel::{error::to_result, prelude::*};

/// While it lives, the node map hears of every change.
pub(crate) struct Watch(());

impl Watch {
    /// Tells the node map of the addresses that there are, and of changes from now on.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: process context without locks; the callback's locks have been set up before.
        to_result(unsafe { bindings::dsm_addrs_watch() })?;
        Ok(Self(()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: `new` registered it.
        unsafe { bindings::dsm_addrs_unwatch() };
    }
}

#[no_mangle]
extern "C" fn dsm_addrs_on_change(address: u32, here: bool) {
    nodes::on_local_address(Ipv4Addr::from_bits(address), here);
}
const _: unsafe extern "C" fn(u32, bool) = bindings::dsm_addrs_on_change;

#[no_mangle]
unsafe extern "C" fn dsm_addrs_on_change6(addresses: *const [u8; 16], count: usize) {
    let addresses = if count == 0 {
        &[]
    } else {
        // SAFETY: the shim hands over an array of so many addresses, for the call.
        unsafe { core::slice::from_raw_parts(addresses, count) }
    };
    nodes::on_local_addresses6(addresses);
}
const _: unsafe extern "C" fn(*const [u8; 16], usize) = bindings::dsm_addrs_on_change6;
