// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl node`: tokens, list, numbers (SetNodeID of old).

use std::{
    io::{self, Write},
    path::Path,
};

use dsi_proto::{
    files,
    token::{JoinToken, TokenSecret},
    v1,
};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::{
    cli,
    failure::Failure,
    output::{self, Output, Report, moment_ms},
    session::Session,
};

/// A node as the server sees it.
#[derive(Serialize)]
pub struct NodeReport {
    name: String,
    snid: u32,
    addresses: Vec<String>,
    connected: bool,
    policy_version: u64,
    mode: String,
    module_version: String,
    key_epoch: u32,
    /// RFC 3339, or `-`.
    last_seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// Connected, and not at the newest policy; only where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    lags: Option<bool>,
}

impl NodeReport {
    /// From the server's message. `newest`, if given, is the policy that it should have.
    pub fn new(node: v1::Node, newest: Option<u64>) -> Self {
        Self {
            lags: newest.map(|version| node.connected && node.policy_version != version),
            name: node.name,
            snid: node.snid,
            addresses: node.addresses,
            connected: node.connected,
            policy_version: node.policy_version,
            mode: node.mode,
            module_version: node.module_version,
            key_epoch: node.key_epoch,
            last_seen: moment_ms(node.last_seen_unix_ms),
            last_error: Some(node.last_error).filter(|error| !error.is_empty()),
        }
    }

    /// It is connected without the newest policy.
    pub fn lags(&self) -> bool {
        self.lags == Some(true)
    }

    /// It is connected.
    pub fn is_connected(&self) -> bool {
        self.connected
    }
}

/// The nodes as a table.
pub fn node_table(out: &mut dyn Write, nodes: &[NodeReport]) -> io::Result<()> {
    let or_dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            let state = match (node.connected, node.lags()) {
                (true, false) => "connected",
                (true, true) => "LAGS",
                (false, _) => "away",
            };
            vec![
                node.snid.to_string(),
                node.name.clone(),
                state.to_owned(),
                node.policy_version.to_string(),
                or_dash(&node.mode),
                node.key_epoch.to_string(),
                or_dash(&node.module_version),
                node.last_seen.clone(),
                or_dash(&node.addresses.join(",")),
                node.last_error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let heads = [
        "SnID",
        "NAME",
        "STATE",
        "POLICY",
        "MODE",
        "KEYS",
        "MODULE",
        "LAST SEEN",
        "ADDRESSES",
        "ERROR",
    ];
    output::table(out, &heads, &rows)
}

#[derive(Serialize)]
struct Nodes {
    nodes: Vec<NodeReport>,
}

impl Report for Nodes {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        node_table(out, &self.nodes)
    }
}

/// `dsictl node list`
pub fn list(profile: &Path, output: &Output) -> Result<(), Failure> {
    let nodes = Session::open(profile)?.talk(async |mut client| {
        let answer = client.list_nodes(v1::ListNodesRequest {}).await;
        Ok(answer
            .map_err(Failure::server("listing the nodes"))?
            .into_inner()
            .nodes)
    })?;
    output.report(&Nodes {
        nodes: nodes
            .into_iter()
            .map(|node| NodeReport::new(node, None))
            .collect(),
    })
}

/// `dsictl node set-id`
pub fn set_id(arguments: &cli::SetId, profile: &Path, output: &Output) -> Result<(), Failure> {
    let request = v1::SetNodeIdRequest {
        name: arguments.name.clone(),
        snid: arguments.snid,
    };
    let answer = Session::open(profile)?.talk(async |mut client| {
        let answer = client.set_node_id(request).await;
        Ok(answer
            .map_err(Failure::server("numbering the node"))?
            .into_inner())
    })?;
    let node = answer.node.ok_or_else(|| Failure::Protocol {
        detail: "it names no node".to_owned(),
    })?;
    output.report(&Numbered {
        name: node.name,
        snid: node.snid,
    })
}

#[derive(Serialize)]
struct Numbered {
    name: String,
    snid: u32,
}

impl Report for Numbered {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: SnID {}", self.name, self.snid)
    }
}

/// `dsictl node remove`
pub fn remove(arguments: &cli::RemoveNode, profile: &Path, output: &Output) -> Result<(), Failure> {
    const REMOVING: &str = "expelling the node";
    let request = v1::RemoveNodeRequest {
        name: arguments.name.clone(),
    };
    let removed = Session::open(profile)?.talk(async |mut client| {
        let deadline = Instant::now() + arguments.timeout;
        let answer = client.remove_node(request).await;
        let mut progress = answer.map_err(Failure::server(REMOVING))?.into_inner();
        let mut last = None;
        while let Ok(next) = timeout_at(deadline, progress.message()).await {
            let Some(message) = next.map_err(Failure::server(REMOVING))? else {
                break;
            };
            let done = message.done;
            last = Some(Removed::from(message));
            if done {
                break;
            }
        }
        last.ok_or_else(|| Failure::Protocol {
            detail: "it does not say that the node is expelled".to_owned(),
        })
    })?;
    output.report(&removed)?;
    if removed.waiting.is_empty() {
        return Ok(());
    }
    Err(Failure::NotRefusedYet {
        name: removed.name,
        nodes: removed.waiting,
    })
}

#[derive(Serialize)]
struct Removed {
    name: String,
    snid: u32,
    refused_by: Vec<String>,
    /// Connected, and have not said that they refuse it.
    waiting: Vec<String>,
    /// Not connected; they refuse it when they are back.
    away: Vec<String>,
}

impl From<v1::RemoveNodeProgress> for Removed {
    fn from(progress: v1::RemoveNodeProgress) -> Self {
        let node = progress.node.unwrap_or_default();
        Self {
            name: node.name,
            snid: node.snid,
            refused_by: progress.refusing,
            waiting: progress.waiting,
            away: progress.away,
        }
    }
}

impl Report for Removed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (refusing, waiting) = (self.refused_by.len(), self.waiting.len());
        writeln!(
            out,
            "{}: SnID {} is expelled, and refused by {refusing} of {} connected nodes",
            self.name,
            self.snid,
            refusing + waiting
        )?;
        match self.away.as_slice() {
            [] => Ok(()),
            away => writeln!(
                out,
                "not connected, will refuse it when they are back: {}",
                away.join(", ")
            ),
        }
    }
}

#[derive(Serialize)]
struct Token {
    name: String,
    snid: u32,
    /// RFC 3339.
    expires: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

impl Report for Token {
    /// The token alone, so that it can be put into a file or a pipe.
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.token {
            Some(token) => writeln!(out, "{token}"),
            None => Ok(()),
        }
    }
}

/// `dsictl node join-token`
pub fn join_token(
    arguments: &cli::JoinToken,
    profile: &Path,
    output: &Output,
) -> Result<(), Failure> {
    let session = Session::open(profile)?;
    let request = v1::CreateJoinTokenRequest {
        name: arguments.name.clone(),
        snid: arguments.snid.unwrap_or_default(),
        ttl_seconds: arguments
            .ttl
            .map_or(0, |ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
    };
    let answer = session.talk(async |mut client| {
        let answer = client.create_join_token(request).await;
        Ok(answer
            .map_err(Failure::server("making the token"))?
            .into_inner())
    })?;
    let secret: TokenSecret = answer.token.parse().map_err(|error| Failure::Protocol {
        detail: format!("the token: {error}"),
    })?;
    let token = JoinToken {
        servers: session.profile.cluster.servers.clone(),
        name: arguments.name.clone(),
        secret,
        ca_der: answer.ca_der,
    };
    let text = token.to_text();
    let mut report = Token {
        name: token.name.clone(),
        snid: answer.snid,
        expires: moment_ms(answer.expires_unix_ms),
        token: None,
        file: None,
    };
    match &arguments.out {
        Some(path) => {
            files::write_private(path, format!("{}\n", *text).as_bytes())?;
            report.file = Some(path.display().to_string());
        }
        None => report.token = Some(text.to_string()),
    }
    output.report(&report)?;
    output.note(&format!(
        "node {} gets SnID {}; the token is good once, until {}: give it to smd on that node, over a safe way",
        report.name, report.snid, report.expires
    ));
    Ok(())
}
