// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl key`: the keys of the labels.

use std::{
    io::{self, Write},
    path::Path,
};

use dsi_proto::v1;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::{
    cli::RotateKeys,
    failure::Failure,
    output::{Output, Report},
    session::Session,
};

const ROTATING: &str = "changing the keys";

/// How far the change has come, one JSON line each.
#[derive(Serialize)]
struct Step {
    epoch: u32,
    /// `handing-out`: nodes get their new receive secrets; `in-use`: nodes send with the new keys.
    step: &'static str,
    done: Vec<String>,
    waiting: Vec<String>,
    away: Vec<String>,
    finished: bool,
}

impl From<v1::RotateKeysProgress> for Step {
    fn from(progress: v1::RotateKeysProgress) -> Self {
        Self {
            epoch: progress.epoch,
            step: if progress.active {
                "in-use"
            } else {
                "handing-out"
            },
            done: progress.done,
            waiting: progress.waiting,
            away: progress.away,
            finished: progress.finished,
        }
    }
}

impl Report for Step {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { epoch, .. } = self;
        let (done, all) = (self.done.len(), self.done.len() + self.waiting.len());
        if self.finished {
            write!(
                out,
                "keys of epoch {epoch} are in use on all {done} connected nodes"
            )?;
            return if self.away.is_empty() {
                writeln!(out)
            } else {
                let away = self.away.join(", ");
                writeln!(
                    out,
                    "; not there, and sent to with the former keys until they are back: {away}"
                )
            };
        }
        let verb = if self.step == "in-use" {
            "send with"
        } else {
            "verify with"
        };
        write!(
            out,
            "epoch {epoch}: {done} of {all} nodes {verb} the new keys"
        )?;
        if self.waiting.is_empty() {
            writeln!(out)
        } else {
            writeln!(out, "; waiting for {}", self.waiting.join(", "))
        }
    }
}

/// `dsictl key rotate`
pub fn rotate(arguments: &RotateKeys, profile: &Path, output: &Output) -> Result<(), Failure> {
    let request = v1::RotateKeysRequest {
        force: arguments.force,
    };
    let (finished, mut waiting) = Session::open(profile)?.talk(async |mut client| {
        let deadline = Instant::now() + arguments.timeout;
        let answer = client.rotate_keys(request).await;
        let mut progress = answer.map_err(Failure::server(ROTATING))?.into_inner();
        let (mut finished, mut waiting) = (false, Vec::new());
        while let Ok(next) = timeout_at(deadline, progress.message()).await {
            let Some(message) = next.map_err(Failure::server(ROTATING))? else {
                break;
            };
            finished = message.finished;
            waiting.clone_from(&message.waiting);
            output.line(&Step::from(message))?;
            if finished {
                break;
            }
        }
        Ok((finished, waiting))
    })?;
    if finished {
        return Ok(());
    }
    if waiting.is_empty() {
        // Between two steps.
        waiting.push("any node".to_owned());
    }
    Err(Failure::KeysNotInUse { nodes: waiting })
}
