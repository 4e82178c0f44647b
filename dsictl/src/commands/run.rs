// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl run`: takes a ScID and becomes the program.

use std::{os::unix::process::CommandExt, process::Command};

use dsi_proto::netlink::Netlink;

use crate::{cli::Run, failure::Failure};

/// `dsictl run`. Returns only if it failed.
pub fn run(arguments: &Run) -> Result<(), Failure> {
    let scid = arguments.scid.resolve(arguments.policy.as_deref())?;
    let (program, rest) = arguments
        .command
        .split_first()
        .expect("the command line requires a command");
    Netlink::open()?.task_set(None, scid.0)?;
    let source = Command::new(program).args(rest).exec();
    Err(Failure::Execute {
        command: program.to_string_lossy().into_owned(),
        source,
    })
}
