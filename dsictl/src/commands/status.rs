// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl status`: the cluster as the server sees it, or this node as its kernel does.

use std::{
    io::{self, Write},
    path::Path,
};

use dsi_proto::{netlink::Netlink, v1};
use serde::Serialize;
use uuid::Uuid;

use super::node::{NodeReport, node_table};
use crate::{
    failure::Failure,
    output::{Output, Report, moment_ms},
    session::Session,
};

#[derive(Serialize)]
struct ClusterStatus {
    cluster: String,
    uuid: String,
    servers: Vec<String>,
    server_version: String,
    /// RFC 3339.
    server_started: String,
    policy_version: u64,
    mode: String,
    key_epoch: u32,
    /// Being handed out.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_key_epoch: Option<u32>,
    connected: usize,
    lagging: usize,
    nodes: Vec<NodeReport>,
}

impl Report for ClusterStatus {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "cluster  {} ({})", self.cluster, self.uuid)?;
        writeln!(
            out,
            "server   {}, ssd {}, since {}",
            self.servers.join(", "),
            self.server_version,
            self.server_started
        )?;
        match self.policy_version {
            0 => writeln!(out, "policy   none")?,
            version => writeln!(out, "policy   {version}, {}", self.mode)?,
        }
        write!(out, "keys     epoch {}", self.key_epoch)?;
        match self.next_key_epoch {
            None => writeln!(out)?,
            Some(next) => writeln!(out, ", those of {next} are being handed out")?,
        }
        write!(
            out,
            "nodes    {} of {} connected",
            self.connected,
            self.nodes.len()
        )?;
        match self.lagging {
            0 => writeln!(out)?,
            lagging => writeln!(out, ", {lagging} without the newest policy")?,
        }
        if self.nodes.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        node_table(out, &self.nodes)
    }
}

/// `dsictl status`
pub fn cluster(profile: &Path, output: &Output) -> Result<(), Failure> {
    let session = Session::open(profile)?;
    let status = session.talk(async |mut client| {
        let answer = client.get_status(v1::GetStatusRequest {}).await;
        Ok(answer
            .map_err(Failure::server("asking for the status"))?
            .into_inner())
    })?;
    let newest = status.policy_version;
    let nodes: Vec<_> = status
        .nodes
        .into_iter()
        .map(|node| NodeReport::new(node, Some(newest)))
        .collect();
    output.report(&ClusterStatus {
        cluster: status.cluster_name,
        uuid: Uuid::from_slice(&status.cluster_uuid)
            .map_or_else(|_| "-".to_owned(), |uuid| uuid.to_string()),
        servers: session
            .profile
            .cluster
            .servers
            .iter()
            .map(ToString::to_string)
            .collect(),
        server_version: status.server_version,
        server_started: moment_ms(status.started_unix_ms),
        policy_version: newest,
        mode: status.mode,
        key_epoch: status.key_epoch,
        next_key_epoch: Some(status.next_key_epoch).filter(|next| *next != 0),
        connected: nodes.iter().filter(|node| node.is_connected()).count(),
        lagging: nodes.iter().filter(|node| node.lags()).count(),
        nodes,
    })
}

#[derive(Serialize)]
struct LocalStatus {
    module_version: String,
    mode: String,
    /// Not told to everybody.
    #[serde(flatten)]
    details: Option<LocalDetails>,
}

#[derive(Serialize)]
struct LocalDetails {
    policy_version: u64,
    policy_epoch: u64,
    snid: u32,
    cluster: Option<String>,
    key_epoch: u32,
    nodes: u32,
    tasks: u64,
    sockets: u64,
    anchor: bool,
    hooks: Vec<String>,
    counters: serde_json::Map<String, serde_json::Value>,
    /// 16 hex digits: another number, another load of the module.
    instance: String,
}

impl Report for LocalStatus {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "module   dsm {}", self.module_version)?;
        writeln!(out, "mode     {}", self.mode)?;
        match &self.details {
            Some(details) => details.text(out),
            None => writeln!(
                out,
                "the rest, and the counters, need CAP_MAC_ADMIN, and in a zone the permission `label`"
            ),
        }
    }
}

impl LocalDetails {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.policy_version {
            0 => writeln!(out, "policy   none")?,
            version => writeln!(
                out,
                "policy   {version} (installation {})",
                self.policy_epoch
            )?,
        }
        match (&self.cluster, self.snid) {
            (Some(cluster), snid) => writeln!(out, "node     SnID {snid} of cluster {cluster}")?,
            (None, _) => writeln!(out, "node     not enrolled")?,
        }
        writeln!(
            out,
            "anchor   {}",
            if self.anchor {
                "loaded"
            } else {
                "none: no policy can be installed"
            }
        )?;
        writeln!(out, "keys     epoch {}", self.key_epoch)?;
        writeln!(
            out,
            "tables   {} nodes, {} tasks, {} sockets",
            self.nodes, self.tasks, self.sockets
        )?;
        writeln!(out, "hooks    {}", self.hooks.join(" "))?;
        let width = self
            .counters
            .keys()
            .map(|name| name.chars().count())
            .max()
            .unwrap_or(0);
        for (number, (name, value)) in self.counters.iter().enumerate() {
            let head = if number == 0 { "counters" } else { "" };
            writeln!(out, "{head:8} {name:width$}  {value}")?;
        }
        Ok(())
    }
}

/// `dsictl status --local`
pub fn local(output: &Output) -> Result<(), Failure> {
    let status = Netlink::open()?.status()?;
    output.report(&LocalStatus {
        module_version: status.module_version,
        mode: status.mode.to_string(),
        details: status.is_whole.then(|| LocalDetails {
            policy_version: status.policy_version,
            policy_epoch: status.policy_epoch,
            snid: status.snid,
            cluster: status
                .cluster
                .map(|uuid| Uuid::from_bytes(uuid).to_string()),
            key_epoch: status.key_epoch,
            nodes: status.nodes,
            tasks: status.tasks,
            sockets: status.sockets,
            anchor: status.anchor,
            hooks: status.hooks,
            counters: status
                .counters
                .into_iter()
                .map(|counter| (counter.name, counter.value.into()))
                .collect(),
            instance: format!("{:016x}", status.instance),
        }),
    })
}
