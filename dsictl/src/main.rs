// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl`: what an administrator tells his cluster, and what it tells him.
//!
//! Reads the command line, runs one command, renders its failure, and ends with an exit code that a script can
//! rely on. It holds the policy signers' key only while it signs, and starts no other program but that of `run`.

mod cli;
mod commands;
mod failure;
mod label;
mod management;
mod naming;
mod output;
mod scid;
mod session;

use std::process::ExitCode;

use clap::Parser;

use crate::{cli::Cli, output::Output};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but not to the caller.
            let code = if error.use_stderr() {
                failure::Exit::Usage
            } else {
                failure::Exit::Ok
            };
            let _ = error.print();
            return code.into();
        }
    };
    let output = Output::new(cli.json);
    match commands::run(cli, &output) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit().into()
        }
    }
}
