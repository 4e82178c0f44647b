//! What an administrator can ask.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dsi_proto::pki;
use dsi_proto::token::TokenSecret;
use dsi_proto::v1::admin_server::Admin;
use dsi_proto::v1::{self, ApplyPolicyProgress, AuditEvent};
use sha2::{Digest as _, Sha256};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{status_of, status_of_refusal};
use crate::metrics::{Cause, Metrics};
use crate::policies;
use crate::rotation::{self, BeginError};
use crate::session::Context;
use crate::state::{Command, Outcome, PolicyRecord, SnId};
use crate::store::ProposeError;

/// Longest comment of a policy.
const MAX_COMMENT: usize = 4096;

/// How long a join token is good unless asked otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(60 * 60);

/// Longest life of a join token.
const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The administrator who calls, as his certificate says. Set by the interceptor.
#[derive(Clone, Debug)]
pub struct CallingAdministrator(pub String);

/// What the interceptor has put into a request.
pub(super) fn extension<E: Clone + Send + Sync + 'static, T>(
    request: &Request<T>,
) -> Result<E, Status> {
    request
        .extensions()
        .get::<E>()
        .cloned()
        .ok_or_else(|| Status::unauthenticated("the caller is not known"))
}

/// The service.
pub struct AdminService {
    /// State, managers, audit and time.
    pub context: Context,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The CA's certificate, for join tokens.
    pub ca_der: Vec<u8>,
    /// When the server started.
    pub started_unix_ms: i64,
    /// Ends streams when the server stops.
    pub shutdown: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn mode_of(record: &PolicyRecord) -> &'static str {
    if record.enforcing {
        "enforcing"
    } else {
        "permissive"
    }
}

fn info_of(record: &PolicyRecord) -> v1::PolicyInfo {
    v1::PolicyInfo {
        version: record.version,
        mode: mode_of(record).to_owned(),
        label: record.label.clone(),
        comment: record.comment.clone(),
        applied_by: record.applied_by.clone(),
        applied_unix_ms: record.applied_unix_ms,
        rules: record.rules,
        image_bytes: record.image_bytes,
        source_sha256: record.source_sha256.to_vec(),
    }
}

impl AdminService {
    fn nodes(&self) -> Vec<v1::Node> {
        let state = self.context.store.state();
        state
            .nodes()
            .values()
            .map(|node| self.context.hub.describe(node))
            .collect()
    }

    /// Streams what `report` tells until it has told all, or the server stops: `what` is stored all the same.
    fn follow<T, F>(
        &self,
        what: &'static str,
        report: impl FnOnce(Context, mpsc::Sender<Result<T, Status>>) -> F,
    ) -> Response<Answers<T>>
    where
        T: Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (answers, answered) = mpsc::channel(16);
        let shutdown = self.shutdown.clone();
        let reported = report(self.context.clone(), answers.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {
                    let stops = format!("the server stops; {what} is stored");
                    // Whoever waits may be gone already.
                    let _ = answers.send(Err(Status::unavailable(stops))).await;
                }
                () = reported => {}
            }
        });
        Response::new(Box::pin(ReceiverStream::new(answered)))
    }
}

/// Tells of each node's change until all connected nodes enforce the policy or have refused it.
async fn report_progress(
    context: Context,
    version: u64,
    mut changes: broadcast::Receiver<SnId>,
    answers: mpsc::Sender<Result<ApplyPolicyProgress, Status>>,
) {
    let mut node = None;
    loop {
        let progress = context.hub.progress(version);
        let message = ApplyPolicyProgress {
            version,
            node,
            enforcing: progress.enforcing,
            expected: progress.expected,
            done: progress.is_done(),
        };
        if answers.send(Ok(message)).await.is_err() || progress.is_done() {
            return;
        }
        let changed = tokio::select! {
            changed = changes.recv() => changed,
            () = answers.closed() => return,
        };
        node = match changed {
            Ok(snid) => context
                .store
                .state()
                .nodes()
                .get(&snid)
                .map(|node| context.hub.describe(node)),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => return,
        };
    }
}

/// Who of the members refuses an expelled node, since their kernels have a node map without it.
fn expulsion(context: &Context, node: v1::Node, node_map_version: u64) -> v1::RemoveNodeProgress {
    let connected = context.hub.connected();
    let mut progress = v1::RemoveNodeProgress {
        node: Some(node),
        ..v1::RemoveNodeProgress::default()
    };
    for member in context.store.state().nodes().values() {
        let list = match connected.get(&member.snid) {
            Some(report) if report.node_map_version >= node_map_version => &mut progress.refusing,
            Some(_) => &mut progress.waiting,
            None => &mut progress.away,
        };
        list.push(member.name.clone());
    }
    progress.done = progress.waiting.is_empty();
    progress
}

/// Tells of each node's change until all connected nodes refuse the expelled one.
async fn report_expulsion(
    context: Context,
    node: v1::Node,
    node_map_version: u64,
    mut changes: broadcast::Receiver<SnId>,
    answers: mpsc::Sender<Result<v1::RemoveNodeProgress, Status>>,
) {
    let mut told = None;
    loop {
        let progress = expulsion(&context, node.clone(), node_map_version);
        let done = progress.done;
        if told.as_ref() != Some(&progress) {
            told = Some(progress.clone());
            if answers.send(Ok(progress)).await.is_err() {
                return;
            }
        }
        if done {
            return;
        }
        tokio::select! {
            changed = changes.recv() => if let Err(broadcast::error::RecvError::Closed) = changed { return },
            () = answers.closed() => return,
        }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    type ApplyPolicyStream = Answers<ApplyPolicyProgress>;
    type RotateKeysStream = Answers<v1::RotateKeysProgress>;
    type RemoveNodeStream = Answers<v1::RemoveNodeProgress>;
    type TailAuditStream = Answers<AuditEvent>;

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let nodes = self.nodes();
        let state = self.context.store.state();
        let newest = state.policies().last_key_value().map(|(_, record)| record);
        Ok(Response::new(v1::GetStatusResponse {
            cluster_name: state.cluster().name.clone(),
            cluster_uuid: state.cluster().uuid.as_bytes().to_vec(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            policy_version: state.newest_policy(),
            mode: newest.map_or("no-policy", mode_of).to_owned(),
            key_epoch: state.key_epochs().active,
            nodes,
            started_unix_ms: self.started_unix_ms,
            next_key_epoch: state.key_epochs().next.unwrap_or(0),
        }))
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Result<Response<Self::ApplyPolicyStream>, Status> {
        let CallingAdministrator(administrator) = extension(&request)?;
        let v1::ApplyPolicyRequest {
            policy,
            comment,
            wait,
        } = request.into_inner();
        let bundle =
            policy.ok_or_else(|| Status::invalid_argument("the request holds no policy"))?;
        if comment.len() > MAX_COMMENT || comment.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "the comment is not one line of at most {MAX_COMMENT} bytes"
            )));
        }
        let refused = |cause, status: Status| {
            self.metrics
                .policies_refused
                .get_or_create(&Cause { cause })
                .inc();
            tracing::warn!(
                administrator,
                cause,
                message = status.message(),
                "a policy was refused"
            );
            status
        };
        let cluster = self.context.store.state().cluster().clone();
        let accepted = tokio::task::spawn_blocking(move || policies::check(bundle, &cluster))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|refusal| refused("check", status_of_refusal(&refusal)))?;
        let record = accepted.record(&comment, &administrator, self.context.clock.unix_ms());
        let command = Command::AddPolicy {
            record: record.clone(),
            cluster: accepted.cluster(),
        };
        // From before it is stored, or a fast node's answer would be missed.
        let changes = self.context.hub.changes();
        self.context
            .store
            .propose(command, Some(Arc::new(accepted.into_files())))
            .await
            .map_err(|error| {
                let cause = if matches!(error, ProposeError::Rejected(_)) {
                    "version"
                } else {
                    "store"
                };
                refused(cause, status_of(&error))
            })?;
        self.metrics.policies.inc();
        self.metrics
            .policy_version
            .set(i64::try_from(record.version).unwrap_or(i64::MAX));
        tracing::info!(
            administrator,
            version = record.version,
            mode = mode_of(&record),
            rules = record.rules,
            "policy applied"
        );

        if wait {
            return Ok(self.follow("the policy", |context, answers| {
                report_progress(context, record.version, changes, answers)
            }));
        }
        let progress = self.context.hub.progress(record.version);
        let only = ApplyPolicyProgress {
            version: record.version,
            node: None,
            enforcing: progress.enforcing,
            expected: progress.expected,
            done: true,
        };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(only)))))
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let wanted = request.into_inner().version;
        let record = {
            let state = self.context.store.state();
            let version = if wanted == 0 {
                state.newest_policy()
            } else {
                wanted
            };
            state.policies().get(&version).cloned()
        };
        let record = record.ok_or_else(|| match wanted {
            0 => Status::not_found("no policy has been applied yet"),
            version => Status::not_found(format!(
                "there is no policy version {version}; `dsictl policy history` lists them"
            )),
        })?;
        let files = self
            .context
            .store
            .policy_files(record.version)
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let files = files.ok_or_else(|| {
            Status::data_loss(format!(
                "the files of policy {} are missing",
                record.version
            ))
        })?;
        let policy = v1::PolicyBundle {
            version: record.version,
            image: files.image.clone(),
            source: files.source.clone(),
            signature: files.signature.clone(),
        };
        Ok(Response::new(v1::GetPolicyResponse {
            info: Some(info_of(&record)),
            policy: Some(policy),
        }))
    }

    async fn list_policies(
        &self,
        _: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let state = self.context.store.state();
        let policies = state.policies().values().rev().map(info_of).collect();
        Ok(Response::new(v1::ListPoliciesResponse { policies }))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let CallingAdministrator(administrator) = extension(&request)?;
        let v1::CreateJoinTokenRequest {
            name,
            snid,
            ttl_seconds,
        } = request.into_inner();
        pki::check_name(&name).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let ttl = match ttl_seconds {
            0 => DEFAULT_TTL,
            seconds => u64::try_from(seconds)
                .ok()
                .map(Duration::from_secs)
                .filter(|ttl| *ttl <= MAX_TTL)
                .ok_or_else(|| {
                    Status::invalid_argument(format!(
                        "a join token lives 1 to {} seconds",
                        MAX_TTL.as_secs()
                    ))
                })?,
        };
        let secret = TokenSecret::generate();
        let now_unix_ms = self.context.clock.unix_ms();
        let expires_unix_ms =
            now_unix_ms.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let command = Command::CreateToken {
            name: name.clone(),
            snid: (snid != 0).then_some(snid),
            hash: Sha256::digest(secret.as_bytes()).into(),
            expires_unix_ms,
            created_by: administrator.clone(),
            now_unix_ms,
        };
        match self
            .context
            .store
            .propose(command, None)
            .await
            .map_err(|error| status_of(&error))?
        {
            Outcome::TokenCreated { snid } => {
                tracing::info!(administrator, node = name, snid, "join token made");
                Ok(Response::new(v1::CreateJoinTokenResponse {
                    token: secret.to_text().to_string(),
                    snid,
                    expires_unix_ms,
                    ca_der: self.ca_der.clone(),
                }))
            }
            other => Err(Status::internal(format!("the store answered {other:?}"))),
        }
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        Ok(Response::new(v1::ListNodesResponse {
            nodes: self.nodes(),
        }))
    }

    async fn set_node_id(
        &self,
        request: Request<v1::SetNodeIdRequest>,
    ) -> Result<Response<v1::SetNodeIdResponse>, Status> {
        let CallingAdministrator(administrator) = extension(&request)?;
        let v1::SetNodeIdRequest { name, snid } = request.into_inner();
        let command = Command::SetTokenSnId {
            name: name.clone(),
            snid,
        };
        self.context
            .store
            .propose(command, None)
            .await
            .map_err(|error| status_of(&error))?;
        tracing::info!(administrator, node = name, snid, "node id set");
        let state = self.context.store.state();
        let node = match state.node_named(&name) {
            Some(node) => self.context.hub.describe(node),
            None => v1::Node {
                snid,
                name,
                ..v1::Node::default()
            },
        };
        Ok(Response::new(v1::SetNodeIdResponse { node: Some(node) }))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<Self::RemoveNodeStream>, Status> {
        let CallingAdministrator(administrator) = extension(&request)?;
        let v1::RemoveNodeRequest { name } = request.into_inner();
        let node = {
            let state = self.context.store.state();
            state
                .node_named(&name)
                .map(|node| self.context.hub.describe(node))
        };
        // From before it is stored, or a fast node's answer would be missed.
        let changes = self.context.hub.changes();
        let command = Command::RemoveNode { name: name.clone() };
        let outcome = self.context.store.propose(command, None).await;
        let outcome = outcome.map_err(|error| status_of(&error))?;
        let Outcome::Removed {
            snid,
            node_map_version,
        } = outcome
        else {
            return Err(Status::internal(format!("the store answered {outcome:?}")));
        };
        // After it is stored: it finds no way back.
        self.context.hub.disconnect(snid);
        tracing::info!(administrator, node = name, snid, "node expelled");
        let node = v1::Node {
            snid,
            name,
            connected: false,
            ..node.unwrap_or_default()
        };
        Ok(self.follow("the expulsion", |context, answers| {
            report_expulsion(context, node, node_map_version, changes, answers)
        }))
    }

    async fn rotate_keys(
        &self,
        request: Request<v1::RotateKeysRequest>,
    ) -> Result<Response<Self::RotateKeysStream>, Status> {
        let CallingAdministrator(administrator) = extension(&request)?;
        let v1::RotateKeysRequest { force } = request.into_inner();
        let watch = rotation::Watch::new(&self.context);
        let epoch = rotation::begin(&self.context, force)
            .await
            .map_err(|error| match error {
                BeginError::Propose(error) => status_of(&error),
                BeginError::Answer(_) | BeginError::Random(_) => {
                    Status::internal(error.to_string())
                }
            })?;
        tracing::info!(
            administrator,
            epoch,
            force,
            "the label keys are being changed"
        );
        Ok(self.follow("the change of keys", |context, answers| {
            rotation::report(context, epoch, watch, answers)
        }))
    }

    async fn tail_audit(
        &self,
        request: Request<v1::TailAuditRequest>,
    ) -> Result<Response<Self::TailAuditStream>, Status> {
        let v1::TailAuditRequest { replay, node_snid } = request.into_inner();
        let node = (node_snid != 0).then_some(node_snid);
        let events = self
            .context
            .audit
            .subscribe(usize::try_from(replay).unwrap_or(usize::MAX), node)
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(events).map(Ok))))
    }
}
