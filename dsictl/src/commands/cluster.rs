// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl cluster`: DciInit of old. What a cluster consists of is the server's to know; here it is only told.

use std::{
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use serde::Serialize;
use ssd::bootstrap::{self, NewCluster};

use crate::{
    cli::ClusterInit,
    failure::Failure,
    output::{Output, Report},
};

#[derive(Serialize)]
struct Made {
    cluster: String,
    uuid: String,
    servers: Vec<String>,
    server_directory: String,
    profile: String,
    signer_key: String,
    anchor: String,
}

impl Report for Made {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "cluster  {} ({})", self.cluster, self.uuid)?;
        writeln!(
            out,
            "server   {}, its data in {}",
            self.servers.join(", "),
            self.server_directory
        )?;
        writeln!(out, "profile  {}", self.profile)?;
        writeln!(out, "signer   {}", self.signer_key)?;
        writeln!(out, "anchor   {}", self.anchor)
    }
}

/// `dsictl cluster init`
pub fn init(arguments: &ClusterInit, profile: &Path, output: &Output) -> Result<(), Failure> {
    let new = NewCluster {
        name: &arguments.name,
        servers: &arguments.servers,
        administrator: &arguments.admin,
    };
    let made = bootstrap::init(&arguments.data_dir, profile, &new, SystemTime::now())?;
    output.report(&Made {
        cluster: arguments.name.clone(),
        uuid: made.uuid.to_string(),
        servers: arguments.servers.iter().map(ToString::to_string).collect(),
        server_directory: made.server_directory.display().to_string(),
        profile: made.profile_directory.display().to_string(),
        signer_key: made.signer_key.display().to_string(),
        anchor: made.anchor.display().to_string(),
    })?;
    output.note(&format!(
        "start the server with `ssd --dir {}`; keep a copy of {} in a safe place: who has it can make every node \
         enforce his policy, and without it none can be changed",
        made.server_directory.display(),
        made.signer_key.display()
    ));
    Ok(())
}
