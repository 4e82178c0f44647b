// SPDX-License-Identifier: GPL-2.0

//! dsm: the kernel part of DSI. This file registers things in their order and takes them back in
//! the reverse one; it decides nothing.

use kernel::prelude::*;

mod sys;

module! {
    type: Dsm,
    name: "dsm",
    authors: ["The DSI authors"],
    description: "DSI: mandatory, distributed access control over labelled sockets",
    license: "GPL",
}

/// The loaded module.
struct Dsm {
    hooks: Option<sys::lsm::Claimed>,
}

impl kernel::Module for Dsm {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let found = sys::lsm::find()?;
        let hooks = found.claim();
        pr_info!(
            "loaded, {} hooks, enrolled={} hooks_only={} anchor={:?}\n",
            sys::lsm::names().count(),
            sys::params::enrolled(),
            sys::params::hooks_only(),
            sys::params::anchor()
        );
        Ok(Dsm { hooks: Some(hooks) })
    }
}

impl Drop for Dsm {
    fn drop(&mut self) {
        if let Some(hooks) = self.hooks.take() {
            hooks.disable().release();
        }
        pr_info!("unloaded\n");
    }
}
