//! One manager's stream: what it says comes in, what is due to it goes out.
//!
//! What is due follows from the state and from what was sent before ([`Sent::due`]); a revision of the state only
//! means that it is time to look again. So a manager that reads slowly gets the newest, not everything in between,
//! and one that does not read at all costs a bounded queue.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use dsi_proto::v1::{self, FromManager, ToManager, from_manager, to_manager};
use dsi_proto::{AUDIT_BATCH, AUDIT_WINDOW};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::hub::{Hub, Session};
use crate::keys;
use crate::rotation;
use crate::state::{MAX_ADDRESSES, SnId, State};
use crate::store::Store;

/// How long a manager may take for its first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages that wait for one manager.
pub const OUT_QUEUE: usize = 4;

/// Oldest and newest protocol spoken here.
const PROTOCOLS: std::ops::RangeInclusive<u32> = 2..=dsi_proto::PROTOCOL;

/// What a manager has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    node_map_version: Option<u64>,
    policy_version: u64,
}

/// What to send next.
#[derive(Clone, Debug, PartialEq)]
enum Due {
    /// The node map and the keys that go with it.
    Peers {
        nodes: v1::NodeMap,
        keys: Vec<v1::Keys>,
    },
    /// The newest policy.
    Policy { version: u64 },
}

impl Sent {
    /// What the manager lacks most. Peers come first: under an enforcing policy a node that does not know its peers
    /// refuses them.
    fn due(&self, state: &State, snid: SnId) -> Option<Due> {
        if self.node_map_version != Some(state.node_map_version())
            && let Some(keys) = keys::keys_of(state, snid)
        {
            let nodes = state.nodes().values().map(|node| v1::Node {
                snid: node.snid,
                name: node.name.clone(),
                addresses: node.addresses.iter().map(ToString::to_string).collect(),
                ..v1::Node::default()
            });
            let nodes = v1::NodeMap {
                version: state.node_map_version(),
                nodes: nodes.collect(),
                self_snid: snid,
            };
            return Some(Due::Peers { nodes, keys });
        }
        let version = state.newest_policy();
        (version > self.policy_version).then_some(Due::Policy { version })
    }
}

/// What a session needs of its server.
#[derive(Clone)]
pub struct Context {
    /// The state.
    pub store: Arc<dyn Store>,
    /// Who is connected.
    pub hub: Hub,
    /// Where events go.
    pub audit: Audit,
    /// The time.
    pub clock: Clock,
}

/// Takes a manager's first message; then serves it until either side ends the stream.
pub async fn start(
    context: Context,
    snid: SnId,
    mut incoming: Streaming<FromManager>,
) -> Result<mpsc::Receiver<Result<ToManager, Status>>, Status> {
    let name = member(&context, snid)?;
    let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello came"))??;
    let Some(FromManager {
        body: Some(from_manager::Body::Hello(hello)),
    }) = first
    else {
        return Err(Status::invalid_argument(
            "the first message of a manager is Hello",
        ));
    };
    if !PROTOCOLS.contains(&hello.protocol) {
        return Err(Status::failed_precondition(format!(
            "the manager speaks protocol {}, this server {} to {}; upgrade the older of the two",
            hello.protocol,
            PROTOCOLS.start(),
            PROTOCOLS.end()
        )));
    }
    tell_of_other_addresses(&context, snid, &hello);
    let session = context.hub.connect(snid, &hello, context.clock.unix_ms());
    // It may have been expelled since; whoever expels it from here on ends the session.
    member(&context, snid)?;
    tracing::info!(
        node = name,
        snid,
        policy = hello.policy_version,
        module = hello.module_version,
        "manager connected"
    );
    let newest = context.store.state().newest_policy();
    if hello.policy_version > newest {
        tracing::warn!(
            node = name,
            snid,
            has = hello.policy_version,
            newest,
            "the node's policy is newer than any known here"
        );
    }

    let (outgoing, to_manager) = mpsc::channel(OUT_QUEUE);
    let sent = Sent {
        node_map_version: None,
        policy_version: hello.policy_version,
    };
    let (audit, batches) = mpsc::channel(AUDIT_WINDOW);
    tokio::spawn(async move {
        tokio::select! {
            biased;
            // First: what comes after a newer session began is not this one's to say.
            () = session.ended().cancelled() => {
                // The manager is told, if it still reads, that this is no fault of its own.
                let _ = outgoing.try_send(Err(Status::unavailable("this session has ended; connect again")));
            }
            () = receive(&context, &session, snid, &name, &mut incoming, audit) => {}
            () = audited(&context, snid, &name, batches, &outgoing) => {}
            () = send(&context, snid, sent, &outgoing) => {}
        }
        drop(session);
        tracing::info!(node = name, snid, "manager disconnected");
    });
    Ok(to_manager)
}

/// The name of a member.
fn member(context: &Context, snid: SnId) -> Result<String, Status> {
    let state = context.store.state();
    let node = state.nodes().get(&snid);
    node.map(|node| node.name.clone()).ok_or_else(|| {
        Status::permission_denied(format!("node {snid} is no member of this cluster"))
    })
}

/// An address is what others know a node by; a node cannot change it by saying so.
fn tell_of_other_addresses(context: &Context, snid: SnId, hello: &v1::Hello) {
    let state = context.store.state();
    if let Some(node) = state.nodes().get(&snid) {
        let told: Vec<_> = hello
            .addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        let other = |address: &&std::net::IpAddr| !node.addresses.contains(address);
        for address in told.iter().filter(other).take(MAX_ADDRESSES) {
            tracing::warn!(node = node.name, snid, %address, "the node names an address that it did not join with");
        }
    }
}

async fn receive(
    context: &Context,
    session: &Session,
    snid: SnId,
    name: &str,
    incoming: &mut Streaming<FromManager>,
    audit: mpsc::Sender<v1::AuditBatch>,
) {
    loop {
        match incoming.message().await {
            Ok(Some(FromManager { body: Some(body) })) => match body {
                from_manager::Body::State(state) => {
                    if !state.error.is_empty() {
                        tracing::warn!(
                            node = name,
                            snid,
                            error = state.error,
                            "the node could not apply what it got"
                        );
                    }
                    session.report(&state, context.clock.unix_ms());
                    rotation::note(context, snid, &state).await;
                }
                // What a manager says of itself does not wait behind a slow disk.
                from_manager::Body::Audit(batch) => {
                    let is_one = batch.events.len() <= AUDIT_BATCH && batch.sequence > 0;
                    if !is_one || audit.try_send(batch).is_err() {
                        tracing::warn!(
                            node = name,
                            snid,
                            "a batch of audit events without a number, with more than {AUDIT_BATCH} events, or \
                             beside {AUDIT_WINDOW} unanswered ones ends the stream"
                        );
                        return;
                    }
                }
                from_manager::Body::Hello(_) => {
                    tracing::warn!(node = name, snid, "a second Hello ends the stream");
                    return;
                }
            },
            // A kind of message that a newer manager knows.
            Ok(Some(FromManager { body: None })) => {}
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(node = name, snid, %status, "the manager's stream broke");
                return;
            }
        }
    }
}

/// Has a manager's events written, and tells it of each batch that is.
async fn audited(
    context: &Context,
    snid: SnId,
    name: &str,
    mut batches: mpsc::Receiver<v1::AuditBatch>,
    outgoing: &mpsc::Sender<Result<ToManager, Status>>,
) {
    while let Some(batch) = batches.recv().await {
        let sequence = batch.sequence;
        if context.audit.take(snid, name, batch).await.is_err() {
            return;
        }
        let taken = to_manager::Body::AuditTaken(v1::AuditTaken { sequence });
        if outgoing
            .send(Ok(ToManager { body: Some(taken) }))
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn send(
    context: &Context,
    snid: SnId,
    mut sent: Sent,
    outgoing: &mpsc::Sender<Result<ToManager, Status>>,
) {
    let mut revisions = context.store.revisions();
    loop {
        revisions.mark_unchanged();
        let due = sent.due(&context.store.state(), snid);
        let bodies = match due {
            Some(Due::Peers { nodes, keys }) => {
                sent.node_map_version = Some(nodes.version);
                let keys = keys.into_iter().map(to_manager::Body::Keys);
                iter::once(to_manager::Body::Nodes(nodes))
                    .chain(keys)
                    .collect()
            }
            Some(Due::Policy { version }) => {
                sent.policy_version = version;
                match context.store.policy_files(version).await {
                    Ok(Some(files)) => vec![to_manager::Body::Policy(v1::PolicyBundle {
                        version,
                        image: files.image.clone(),
                        source: files.source.clone(),
                        signature: files.signature.clone(),
                    })],
                    Ok(None) => {
                        tracing::error!(version, "the policy's files are not in the store");
                        Vec::new()
                    }
                    Err(error) => {
                        tracing::error!(version, %error, "the policy's files cannot be read");
                        Vec::new()
                    }
                }
            }
            None => {
                tokio::select! {
                    changed = revisions.changed() => if changed.is_err() { return },
                    () = outgoing.closed() => return,
                }
                continue;
            }
        };
        for body in bodies {
            if outgoing
                .send(Ok(ToManager { body: Some(body) }))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;
    use crate::state::{Change, Cluster, KeyEpochs, Node, NodeSecret, PolicyRecord};

    fn state(nodes: u32, policy: u64) -> State {
        let mut state = State::new(Cluster {
            name: "t".into(),
            uuid: Uuid::from_u128(1),
            anchor_der: vec![],
        });
        for snid in 1..=nodes {
            state.absorb(Change::PutNode(Node {
                name: format!("n{snid}"),
                snid,
                addresses: vec![[192, 0, 2, snid as u8].into()],
                secrets: BTreeMap::from([(1, NodeSecret::new([snid as u8; 16]))]),
                joined_unix_ms: 0,
                verifies_epoch: 0,
                sends_epoch: 0,
            }));
            state.absorb(Change::NodeMapVersion(snid.into()));
        }
        if policy > 0 {
            state.absorb(Change::PutPolicy(PolicyRecord {
                version: policy,
                enforcing: true,
                label: String::new(),
                comment: String::new(),
                applied_by: String::new(),
                applied_unix_ms: 0,
                rules: 0,
                image_bytes: 0,
                source_sha256: [0; 32],
            }));
        }
        state
    }

    #[test]
    fn new_session_gets_peers_first_then_the_policy_then_nothing() {
        let state = state(2, 5);
        let mut sent = Sent {
            node_map_version: None,
            policy_version: 0,
        };
        let Some(Due::Peers { nodes, keys }) = sent.due(&state, 1) else {
            panic!("peers come first")
        };
        assert_eq!(
            (nodes.version, nodes.nodes.len(), nodes.self_snid),
            (2, 2, 1)
        );
        assert_eq!(
            keys[0].send.iter().map(|key| key.snid).collect::<Vec<_>>(),
            [2],
            "none for itself"
        );
        sent.node_map_version = Some(2);
        assert_eq!(sent.due(&state, 1), Some(Due::Policy { version: 5 }));
        sent.policy_version = 5;
        assert_eq!(sent.due(&state, 1), None);
    }

    #[test]
    fn manager_that_has_the_policy_or_a_newer_one_is_not_sent_it() {
        let state = state(1, 5);
        for policy_version in [5, 6] {
            assert_eq!(
                Sent {
                    node_map_version: Some(1),
                    policy_version
                }
                .due(&state, 1),
                None
            );
        }
    }

    #[test]
    fn nobody_is_sent_to_with_keys_that_he_is_not_known_to_have() {
        let mut state = state(3, 0);
        let node = |state: &State, snid: u32, verifies_epoch| {
            let mut node = state.nodes()[&snid].clone();
            let secret = NodeSecret::new([0x20 | snid as u8; 16]);
            node.secrets.insert(2, secret);
            node.verifies_epoch = verifies_epoch;
            Change::PutNode(node)
        };
        let epochs = |active, next| Change::KeyEpochs(KeyEpochs { active, next });
        for (snid, verifies) in [(1, 2), (2, 2), (3, 1)] {
            state.absorb(node(&state, snid, verifies));
        }
        let told = |state: &State| -> Vec<(u32, bool, Vec<u32>)> {
            let keys = keys::keys_of(state, 1).unwrap();
            let to = |keys: &v1::Keys| keys.send.iter().map(|pair| pair.snid).collect();
            keys.iter()
                .map(|keys| (keys.epoch, keys.active, to(keys)))
                .collect()
        };
        state.absorb(epochs(1, Some(2)));
        assert_eq!(told(&state), [(1, true, vec![2, 3]), (2, false, vec![])]);
        state.absorb(epochs(2, None));
        assert_eq!(told(&state), [(2, true, vec![2]), (1, false, vec![2, 3])]);
        state.absorb(node(&state, 3, 2));
        assert_eq!(
            told(&state),
            [(2, true, vec![2, 3]), (1, false, vec![2, 3])]
        );
    }

    #[test]
    fn sender_and_receiver_derive_the_same_pair_key_and_no_other() {
        let state = state(3, 0);
        let keys = |snid| keys::keys_of(&state, snid).unwrap().remove(0);
        let send = |from: u32, to: u32| {
            keys(from)
                .send
                .iter()
                .find(|key| key.snid == to)
                .unwrap()
                .key
                .clone()
        };
        let secret: [u8; 16] = keys(2).receive_secret.try_into().unwrap();
        let derived = dsi_engine::label::pair_key::<keys::SipHash>(
            &secret,
            dsi_engine::SnId::node(1).unwrap(),
        );
        assert_eq!(send(1, 2), derived);
        assert_ne!(send(1, 2), send(2, 1), "keys are directed");
        assert_ne!(send(1, 2), send(3, 2), "each sender has its own");
        assert!(keys::keys_of(&state, 9).is_none());
    }
}
