// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl policy apply`: validate, compile, sign, send, and watch it arrive.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use dsi_engine::Image;
use dsi_proto::{signature, v1};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tonic::{Streaming, transport::Channel};

use super::{image, mode_name, parse, read};
use crate::{
    cli::PolicyApply,
    failure::Failure,
    output::{Output, Report},
    session::Session,
};

type Client = v1::admin_client::AdminClient<Channel>;

/// A step of the way, one JSON line each.
#[derive(Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Step {
    /// The server has stored it.
    Stored {
        version: u64,
        mode: String,
        rules: usize,
        image_bytes: usize,
    },
    /// A node has taken or refused it.
    Node {
        node: String,
        snid: u32,
        in_force: bool,
        policy_version: u64,
        mode: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        enforcing: u32,
        expected: u32,
    },
    /// All is said.
    Done {
        version: u64,
        in_force: Vec<String>,
        lagging: Vec<String>,
        away: Vec<String>,
    },
}

impl Report for Step {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Stored {
                version,
                mode,
                rules,
                image_bytes,
            } => {
                writeln!(
                    out,
                    "policy {version} is signed and stored: {mode}, {rules} rules, {image_bytes} bytes"
                )
            }
            Self::Node {
                node,
                in_force: true,
                mode,
                enforcing,
                expected,
                ..
            } => {
                writeln!(out, "{node}: in force, {mode} ({enforcing} of {expected})")
            }
            Self::Node {
                node,
                error: Some(error),
                ..
            } => writeln!(out, "{node}: refused: {error}"),
            Self::Node {
                node,
                policy_version,
                ..
            } => writeln!(out, "{node}: still at policy {policy_version}"),
            Self::Done {
                version,
                in_force,
                lagging,
                away,
            } => {
                let connected = in_force.len() + lagging.len();
                writeln!(
                    out,
                    "policy {version} is in force on {} of {connected} connected nodes",
                    in_force.len()
                )?;
                match away.as_slice() {
                    [] => Ok(()),
                    away => writeln!(out, "not connected, will get it later: {}", away.join(", ")),
                }
            }
        }
    }
}

/// `dsictl policy apply`
pub fn apply(arguments: &PolicyApply, profile: &Path, output: &Output) -> Result<(), Failure> {
    let source = read(&arguments.file)?;
    let document = parse(&arguments.file, &source)?;
    let session = Session::open(profile)?;
    let signer = session.signer()?;
    session.talk(async |mut client| {
        let status = client.get_status(v1::GetStatusRequest {}).await;
        let newest = status
            .map_err(Failure::server("asking for the newest policy"))?
            .into_inner()
            .policy_version;
        let version = newest + 1;
        let image = image(
            &arguments.file,
            &document,
            version,
            session.profile.cluster.uuid,
        )?;
        // Nothing is signed that a kernel would refuse.
        Image::validate(&image).map_err(|error| Failure::Protocol {
            detail: error.to_string(),
        })?;
        let signature = signature::sign_detached(&signer, &image).map_err(Failure::Signing)?;
        let stored = Step::Stored {
            version,
            mode: mode_name(&document),
            rules: document.rules.len(),
            image_bytes: image.len(),
        };
        let request = v1::ApplyPolicyRequest {
            policy: Some(v1::PolicyBundle {
                version,
                image,
                source,
                signature,
            }),
            comment: arguments.comment.clone(),
            wait: !arguments.no_wait,
        };
        let deadline = Instant::now() + arguments.timeout;
        let mut progress = send(&mut client, request).await?;
        output.line(&stored)?;
        if arguments.no_wait {
            return Ok(());
        }
        watch(&mut progress, version, deadline, output).await?;
        conclude(&mut client, version, output).await
    })
}

/// Sends the policy; returns once the server has stored it.
async fn send(
    client: &mut Client,
    request: v1::ApplyPolicyRequest,
) -> Result<Streaming<v1::ApplyPolicyProgress>, Failure> {
    const ACTION: &str = "applying the policy";
    let mut progress = client
        .apply_policy(request)
        .await
        .map_err(Failure::server(ACTION))?
        .into_inner();
    match progress.message().await.map_err(Failure::server(ACTION))? {
        Some(_) => Ok(progress),
        None => Err(Failure::Protocol {
            detail: "it does not say that the policy is stored".to_owned(),
        }),
    }
}

/// Shows what the nodes do, until all have said something or the time is up.
async fn watch(
    progress: &mut Streaming<v1::ApplyPolicyProgress>,
    version: u64,
    deadline: Instant,
    output: &Output,
) -> Result<(), Failure> {
    let mut said = BTreeMap::new();
    while let Ok(next) = timeout_at(deadline, progress.message()).await {
        let Some(message) = next.map_err(Failure::server("watching the nodes"))? else {
            break;
        };
        if let Some(node) = message.node {
            let in_force = node.policy_version == version;
            let error = Some(node.last_error).filter(|error| !in_force && !error.is_empty());
            // A node may report the same state twice; it is told once.
            let state = (in_force, error.clone());
            if said.insert(node.snid, state.clone()) != Some(state) {
                output.line(&Step::Node {
                    node: node.name,
                    snid: node.snid,
                    in_force,
                    policy_version: node.policy_version,
                    mode: node.mode,
                    error,
                    enforcing: message.enforcing,
                    expected: message.expected,
                })?;
            }
        }
        if message.done {
            break;
        }
    }
    Ok(())
}

/// Says how it ended, by what the server knows of the nodes now.
async fn conclude(client: &mut Client, version: u64, output: &Output) -> Result<(), Failure> {
    let nodes = client
        .list_nodes(v1::ListNodesRequest {})
        .await
        .map_err(Failure::server("listing the nodes"))?;
    let (mut in_force, mut lagging, mut away) = (Vec::new(), Vec::new(), Vec::new());
    let mut reasons = Vec::new();
    for node in nodes.into_inner().nodes {
        if !node.connected {
            away.push(node.name);
        } else if node.policy_version >= version {
            in_force.push(node.name);
        } else {
            reasons.push(match node.last_error.as_str() {
                "" => format!("{} (still at policy {})", node.name, node.policy_version),
                error => format!("{} ({error})", node.name),
            });
            lagging.push(node.name);
        }
    }
    output.line(&Step::Done {
        version,
        in_force,
        lagging,
        away,
    })?;
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Failure::NotInForce {
            version,
            nodes: reasons,
        }),
    }
}
