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
    failure::{APPLYING, Failure},
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
            Self::Node { node, .. } => writeln!(out, "{node}: not yet"),
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
        let mut watch = Watch {
            version,
            output,
            told: BTreeMap::new(),
        };
        watch.follow(&mut progress, deadline).await?;
        watch.conclude(&mut client).await
    })
}

/// Sends the policy; returns once the server has stored it.
async fn send(
    client: &mut Client,
    request: v1::ApplyPolicyRequest,
) -> Result<Streaming<v1::ApplyPolicyProgress>, Failure> {
    let mut progress = client
        .apply_policy(request)
        .await
        .map_err(Failure::server(APPLYING))?
        .into_inner();
    match progress
        .message()
        .await
        .map_err(Failure::server(APPLYING))?
    {
        Some(_) => Ok(progress),
        None => Err(Failure::Protocol {
            detail: "it does not say that the policy is stored".to_owned(),
        }),
    }
}

/// What the nodes do with one version.
struct Watch<'a> {
    version: u64,
    output: &'a Output,
    /// By SnID: what was last told of a node, in force or the error.
    told: BTreeMap<u32, (bool, Option<String>)>,
}

impl Watch<'_> {
    /// Shows what the nodes do, until all have said something or the time is up.
    async fn follow(
        &mut self,
        progress: &mut Streaming<v1::ApplyPolicyProgress>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        while let Ok(next) = timeout_at(deadline, progress.message()).await {
            let Some(message) = next.map_err(Failure::server("watching the nodes"))? else {
                break;
            };
            if let Some(node) = &message.node {
                self.tell(node, message.enforcing, message.expected)?;
            }
            if message.done {
                break;
            }
        }
        Ok(())
    }

    /// Tells what became of the policy on a node. Nodes also report other changes, and the same state twice.
    fn tell(&mut self, node: &v1::Node, enforcing: u32, expected: u32) -> Result<(), Failure> {
        let in_force = node.policy_version >= self.version;
        let error = Some(node.last_error.clone()).filter(|error| !in_force && !error.is_empty());
        let state = (in_force, error.clone());
        if state == (false, None) || self.told.get(&node.snid) == Some(&state) {
            return Ok(());
        }
        self.told.insert(node.snid, state);
        self.output.line(&Step::Node {
            node: node.name.clone(),
            snid: node.snid,
            in_force,
            policy_version: node.policy_version,
            mode: node.mode.clone(),
            error,
            enforcing,
            expected,
        })
    }

    /// Says how it ended, by what the server knows of the nodes now: the fastest are not in its stream.
    async fn conclude(&mut self, client: &mut Client) -> Result<(), Failure> {
        let nodes = client
            .list_nodes(v1::ListNodesRequest {})
            .await
            .map_err(Failure::server("listing the nodes"))?;
        let (here, away): (Vec<_>, Vec<_>) = nodes
            .into_inner()
            .nodes
            .into_iter()
            .partition(|node| node.connected);
        let (in_force, lagging): (Vec<_>, Vec<_>) = here
            .iter()
            .partition(|node| node.policy_version >= self.version);
        let count = |nodes: &[&v1::Node]| u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        for node in &here {
            self.tell(
                node,
                count(&in_force),
                count(&in_force).saturating_add(count(&lagging)),
            )?;
        }
        let names = |nodes: &[&v1::Node]| nodes.iter().map(|node| node.name.clone()).collect();
        self.output.line(&Step::Done {
            version: self.version,
            in_force: names(&in_force),
            lagging: names(&lagging),
            away: away.into_iter().map(|node| node.name).collect(),
        })?;
        if lagging.is_empty() {
            return Ok(());
        }
        let reason = |node: &&v1::Node| match node.last_error.as_str() {
            "" => format!("{} (still at policy {})", node.name, node.policy_version),
            error => format!("{} ({error})", node.name),
        };
        Err(Failure::NotInForce {
            version: self.version,
            nodes: lagging.iter().map(reason).collect(),
        })
    }
}
