//! What a cluster must do, over real connections: join, apply, refuse, survive, reconnect, audit.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::kernel::FakeKernel;
use common::{
    Cluster, Node, assert_refused, bundle, collect, next, refusal, source, until, within,
};
use dsi_proto::address::ServerAddress;
use dsi_proto::netlink::{Class, Event, Reason};
use dsi_proto::pki::{Authority, Identity, PrivateKey, Role};
use dsi_proto::signature;
use dsi_proto::tls::{self, ClientCredentials, OwnCredentials};
use dsi_proto::token::TokenSecret;
use dsi_proto::v1::admin_client::AdminClient;
use dsi_proto::v1::manager_client::ManagerClient;
use dsi_proto::v1::{self, PolicyBundle};
use smd::join::JoinError;
use smd::persist::Directory;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn node_joins_and_its_kernel_learns_who_it_is() {
    let cluster = Cluster::start().await;
    let munster = cluster.node("munster", "192.0.2.1").await;
    let colby = cluster.node("colby", "192.0.2.2").await;
    assert_eq!((munster.description.snid, colby.description.snid), (1, 2));
    for (node, other) in [(&munster, &colby), (&colby, &munster)] {
        let state = until("the kernel knows both nodes and their keys", async || {
            let state = node.kernel.state();
            (state.nodes.len() == 2
                && state.active_epoch == 1
                && state.nodes[&other.description.snid].keys.len() == 1)
                .then_some(state)
        })
        .await;
        assert_eq!(state.snid, node.description.snid);
        assert_eq!(state.cluster, Some(*cluster.uuid().as_bytes()));
        assert_eq!(
            state.anchor.as_deref(),
            Some(cluster.signer.certificate_der())
        );
        assert_eq!(state.scid, 1, "the manager has the management's ScID");
        assert_eq!(
            state.nodes[&other.description.snid].addresses,
            other.description.addresses
        );
        // What this node sends with is what the other one derives from its own secret.
        let secret = until("the other one has its secret", async || {
            other.kernel.state().secrets.get(&1).copied()
        })
        .await;
        let sender = dsi_engine::SnId::node(node.description.snid).unwrap();
        let derived = dsi_engine::label::pair_key::<ssd::keys::SipHash>(&secret, sender);
        assert_eq!(state.nodes[&other.description.snid].keys[&1], derived);
    }
    for name in ["munster", "colby"] {
        cluster
            .until_node(name, "the server sees it", |node| {
                node.connected && node.module_version == "0.1.0-fake"
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_both_families_are_in_the_map() {
    let cluster = Cluster::start().await;
    let munster = cluster.node("munster", "192.0.2.1").await;
    let six = cluster.node("six", "2001:db8::6").await;
    let colby = cluster.node("colby", "192.0.2.2").await;
    for node in [&munster, &six, &colby] {
        until("the kernel knows the nodes", async || {
            let state = node.kernel.state();
            (state.nodes.keys().copied().collect::<Vec<_>>() == [1, 2, 3]
                && state.active_epoch == 1)
                .then_some(())
        })
        .await;
    }
    for name in ["munster", "six", "colby"] {
        cluster
            .until_node(name, "nothing is amiss", |node| {
                node.connected && node.last_error.is_empty()
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_refused_twice_late_for_another_name_or_unknown() {
    let cluster = Cluster::start().await;
    let token = cluster.token("munster").await;

    let mut other_name = token.clone();
    other_name.name = "colby".into();
    assert_refused(
        refusal(cluster.join(&other_name, "a", "192.0.2.1").await),
        Code::Unauthenticated,
        "colby",
    );
    let mut other_secret = token.clone();
    other_secret.secret = TokenSecret::generate();
    assert_refused(
        refusal(cluster.join(&other_secret, "b", "192.0.2.1").await),
        Code::Unauthenticated,
        "munster",
    );
    assert_refused(
        refusal(cluster.join(&token, "c", "127.0.0.1").await),
        Code::InvalidArgument,
        "127.0.0.1",
    );

    let node = cluster.join(&token, "d", "192.0.2.1").await.unwrap();
    assert_eq!((node.snid, node.name.as_str()), (1, "munster"));
    assert_refused(
        refusal(cluster.join(&token, "e", "192.0.2.2").await),
        Code::Unauthenticated,
        "used before",
    );

    let late = cluster.token("colby").await;
    let taken = refusal(cluster.join(&late, "f", "192.0.2.1").await);
    assert_refused(taken, Code::AlreadyExists, "munster");
    cluster.advance(Duration::from_secs(61));
    assert_refused(
        refusal(cluster.join(&late, "f", "192.0.2.2").await),
        Code::Unauthenticated,
        "expired",
    );
    assert!(!Directory::new(&cluster.node_directory("f")).has_joined());
    let fresh = cluster.token("colby").await;
    assert_eq!(
        cluster.join(&fresh, "f", "192.0.2.2").await.unwrap().snid,
        2
    );

    let again = cluster.join(&fresh, "d", "192.0.2.3").await;
    assert!(matches!(again, Err(JoinError::Joined(_))), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_node_talks_to_no_server_of_another_authority() {
    let cluster = Cluster::start().await;
    let mut token = cluster.token("munster").await;
    let stranger =
        Authority::create("other", Uuid::new_v4(), std::time::SystemTime::now()).unwrap();
    token.ca_der = stranger.certificate_der().to_vec();
    let refused = cluster.join(&token, "a", "192.0.2.1").await;
    assert!(matches!(refused, Err(JoinError::Connect(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_policy_is_enforced_by_every_kernel_before_apply_is_done() {
    let cluster = Cluster::start().await;
    let nodes = [
        cluster.node("munster", "192.0.2.1").await,
        cluster.node("colby", "192.0.2.2").await,
    ];
    for name in ["munster", "colby"] {
        cluster
            .until_node(name, "it is connected", |node| node.connected)
            .await;
    }
    let progress = cluster.apply_all(cluster.policy(3)).await.unwrap();
    assert_eq!(progress.first().unwrap().version, 3);
    let last = progress.last().unwrap();
    assert!(last.done);
    assert_eq!((last.enforcing, last.expected), (2, 2));
    for node in &nodes {
        let state = node.kernel.state();
        assert_eq!(
            (state.policy_version, state.image),
            (3, cluster.policy(3).image)
        );
        let stored = Directory::new(&node.directory).policy().unwrap().unwrap();
        assert_eq!(
            stored.version, 3,
            "it was stored before it was acknowledged"
        );
    }
    let permissive = bundle(&cluster.signer, cluster.uuid(), 4, &source("permissive"));
    assert!(cluster.apply(permissive).await.unwrap().done);
    assert!(
        cluster
            .nodes()
            .await
            .iter()
            .all(|node| node.policy_version == 4 && node.mode == "permissive")
    );

    let mut admin = cluster.admin().await;
    let listed = admin
        .list_policies(v1::ListPoliciesRequest {})
        .await
        .unwrap()
        .into_inner()
        .policies;
    let shown: Vec<_> = listed
        .iter()
        .map(|policy| (policy.version, policy.mode.as_str()))
        .collect();
    assert_eq!(shown, [(4, "permissive"), (3, "enforcing")]);
    assert_eq!(
        (
            listed[0].applied_by.as_str(),
            listed[0].label.as_str(),
            listed[0].comment.as_str()
        ),
        ("anna", "a test", "a test")
    );
    let shown = admin
        .get_policy(v1::GetPolicyRequest { version: 3 })
        .await
        .unwrap()
        .into_inner();
    let policy = shown.policy.unwrap();
    assert_eq!(
        (policy.image, policy.source),
        (cluster.policy(3).image, cluster.policy(3).source)
    );
    let missing = admin.get_policy(v1::GetPolicyRequest { version: 9 }).await;
    assert_refused(missing, Code::NotFound, "policy history");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_refuses_every_policy_that_is_not_as_it_should_be() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("munster", "192.0.2.1").await;
    cluster
        .until_node("munster", "it is connected", |node| node.connected)
        .await;
    assert!(cluster.apply(cluster.policy(3)).await.unwrap().done);

    let good = cluster.policy(5);
    let foreign = signature::generate_signer("DSI cluster test policy signer").unwrap();
    let with_image = |image: Vec<u8>| {
        let signature = signature::sign_detached(&cluster.signer, &image).unwrap();
        PolicyBundle {
            image,
            signature,
            ..good.clone()
        }
    };
    let mut flipped = good.clone();
    flipped.image[200] ^= 1;
    let mut bad_signature = good.clone();
    *bad_signature.signature.last_mut().unwrap() ^= 1;
    let other_rules = bundle(&cluster.signer, cluster.uuid(), 5, &source("permissive"));
    let cases = [
        (
            PolicyBundle {
                signature: vec![],
                ..good.clone()
            },
            Code::PermissionDenied,
            "not signed",
        ),
        (bad_signature, Code::PermissionDenied, "signature"),
        (flipped, Code::PermissionDenied, "signature"),
        (
            bundle(&foreign, cluster.uuid(), 5, &source("enforcing")),
            Code::PermissionDenied,
            "sign",
        ),
        (
            cluster.policy(3),
            Code::FailedPrecondition,
            "does not rise above 3",
        ),
        (
            cluster.policy(2),
            Code::FailedPrecondition,
            "does not rise above 3",
        ),
        (
            bundle(&cluster.signer, Uuid::from_u128(9), 5, &source("enforcing")),
            Code::FailedPrecondition,
            "cluster",
        ),
        (
            PolicyBundle {
                source: other_rules.source.clone(),
                ..good.clone()
            },
            Code::InvalidArgument,
            "source",
        ),
        (
            PolicyBundle {
                version: 6,
                ..good.clone()
            },
            Code::InvalidArgument,
            "version 6",
        ),
        (
            with_image(good.image[..good.image.len() / 2].to_vec()),
            Code::InvalidArgument,
            "image",
        ),
        (
            with_image(b"no image at all".to_vec()),
            Code::InvalidArgument,
            "image",
        ),
    ];
    for (bad, code, word) in cases {
        assert_refused(cluster.apply(bad).await, code, word);
        assert_eq!(cluster.newest_policy().await, 3);
    }
    assert_eq!(
        node.kernel.state().policy_version,
        3,
        "what was in force stays in force"
    );
    assert!(cluster.apply(good).await.unwrap().done);
    assert_eq!(node.kernel.state().policy_version, 5);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn image_that_is_not_what_the_source_compiles_to_is_refused() {
    let cluster = Cluster::start().await;
    // Enforcing source, permissive image: the header's hash says otherwise, and the signer has signed it.
    let honest = cluster.policy(1);
    let mut image = bundle(&cluster.signer, cluster.uuid(), 1, &source("permissive")).image;
    let hash_at =
        find(&honest.image, &sha256_of(&honest)).expect("the header holds the source's hash");
    image[hash_at..hash_at + 32].copy_from_slice(&sha256_of(&honest));
    let signature = signature::sign_detached(&cluster.signer, &image).unwrap();
    let liar = PolicyBundle {
        image,
        signature,
        ..honest.clone()
    };
    assert_refused(
        cluster.apply(liar).await,
        Code::InvalidArgument,
        "not what its source compiles to",
    );
    assert!(cluster.apply(honest).await.unwrap().done);
}

fn sha256_of(policy: &PolicyBundle) -> [u8; 32] {
    *dsi_engine::Image::validate(&policy.image)
        .unwrap()
        .meta()
        .source_sha256()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_that_refuses_is_named_with_its_words_and_keeps_what_it_has() {
    let cluster = Cluster::start().await;
    let (munster, colby) = (
        cluster.node("munster", "192.0.2.1").await,
        cluster.node("colby", "192.0.2.2").await,
    );
    for name in ["munster", "colby"] {
        cluster
            .until_node(name, "it is connected", |node| node.connected)
            .await;
    }
    assert!(cluster.apply(cluster.policy(1)).await.unwrap().done);
    colby
        .kernel
        .refuse_policies(Some("out of memory for 20 entries"));
    let last = cluster.apply(cluster.policy(2)).await.unwrap();
    assert!(last.done, "apply ends although one node refuses");
    assert_eq!((last.enforcing, last.expected), (1, 2));
    let told = cluster
        .until_node("colby", "the fault is told", |node| {
            node.last_error.contains("out of memory")
        })
        .await;
    assert_eq!(told.policy_version, 1);
    assert_eq!(
        (
            munster.kernel.state().policy_version,
            colby.kernel.state().policy_version
        ),
        (2, 1)
    );
    assert_eq!(
        Directory::new(&colby.directory)
            .policy()
            .unwrap()
            .unwrap()
            .version,
        1,
        "a refused policy is not stored"
    );

    colby.kernel.refuse_policies(None);
    let last = cluster.apply(cluster.policy(3)).await.unwrap();
    assert_eq!((last.enforcing, last.expected), (2, 2));
    cluster
        .until_node("colby", "the fault is forgotten", |node| {
            node.last_error.is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_restarts_without_a_server_enforces_from_its_disk() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node("munster", "192.0.2.1").await;
    let _peer = cluster.node("colby", "192.0.2.2").await;
    for name in ["munster", "colby"] {
        cluster
            .until_node(name, "it is connected", |node| node.connected)
            .await;
    }
    assert!(cluster.apply(cluster.policy(7)).await.unwrap().done);
    until("the keys are there", async || {
        let state = node.kernel.state();
        (state.active_epoch == 1
            && state
                .nodes
                .get(&2)
                .is_some_and(|node| !node.keys.is_empty()))
        .then_some(())
    })
    .await;
    let before = node.kernel.state();
    node.stop().await;
    cluster.stop_server().await;
    assert_eq!(
        node.kernel.state().policy_version,
        7,
        "without its manager the kernel goes on"
    );

    // The machine is switched off and on.
    node.kernel = FakeKernel::new();
    node.start().await;
    let after = until("the stored policy is in force", async || {
        let state = node.kernel.state();
        (state.policy_version == 7).then_some(state)
    })
    .await;
    assert_eq!(after.image, before.image);
    assert_eq!(
        (after.secrets, after.active_epoch, after.snid),
        (before.secrets, 1, before.snid)
    );
    assert_eq!(after.nodes[&2].keys, before.nodes[&2].keys);

    cluster.start_server().await;
    cluster
        .until_node("munster", "it is back", |node| {
            node.connected && node.policy_version == 7
        })
        .await;
    assert!(cluster.apply(cluster.policy(8)).await.unwrap().done);
    assert_eq!(node.kernel.state().policy_version, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_policy_on_the_disk_is_not_installed_and_the_server_mends_it() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node("munster", "192.0.2.1").await;
    cluster
        .until_node("munster", "it is connected", |node| node.connected)
        .await;
    assert!(cluster.apply(cluster.policy(7)).await.unwrap().done);
    node.stop().await;
    cluster.stop_server().await;
    let directory = Directory::new(&node.directory);
    let mut stored = directory.policy().unwrap().unwrap();
    stored.image[200] ^= 1;
    directory.save_policy(&stored).unwrap();
    node.kernel = FakeKernel::new();
    node.start().await;
    until("the node's kernel is configured", async || {
        (node.kernel.state().snid == 1).then_some(())
    })
    .await;
    assert_eq!(node.kernel.state().policy_version, 0);
    cluster.start_server().await;
    until("the server has sent it again", async || {
        (node.kernel.state().policy_version == 7).then_some(())
    })
    .await;
    until("it is stored again", async || {
        directory
            .policy()
            .unwrap()
            .filter(|policy| policy.image == cluster.policy(7).image)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_was_away_catches_up_when_the_server_is_back() {
    let mut cluster = Cluster::start().await;
    let mut away = cluster.node("munster", "192.0.2.1").await;
    cluster
        .until_node("munster", "it is connected", |node| node.connected)
        .await;
    away.stop().await;
    cluster
        .until_node("munster", "it is gone", |node| !node.connected)
        .await;
    let last = cluster.apply(cluster.policy(2)).await.unwrap();
    assert_eq!(
        (last.enforcing, last.expected, last.done),
        (0, 0, true),
        "nobody is waited for in vain"
    );
    cluster.stop_server().await;
    cluster.start_server().await;
    assert_eq!(
        cluster.newest_policy().await,
        2,
        "what was acknowledged survives"
    );
    away.start().await;
    until("it has caught up", async || {
        (away.kernel.state().policy_version == 2).then_some(())
    })
    .await;
    let present = cluster.node("colby", "192.0.2.2").await;
    until("both know both", async || {
        (away.kernel.state().nodes.len() == 2 && present.kernel.state().nodes.len() == 2)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn module_loaded_anew_after_a_refusal_is_brought_up_and_gets_the_refused_policy() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("munster", "192.0.2.1").await;
    cluster
        .until_node("munster", "it is connected", |node| node.connected)
        .await;
    assert!(cluster.apply(cluster.policy(2)).await.unwrap().done);
    node.kernel.refuse_policies(Some("out of memory"));
    assert!(cluster.apply(cluster.policy(3)).await.unwrap().done);
    cluster
        .until_node("munster", "the refusal is told", |node| {
            node.last_error.contains("out of memory") && node.policy_version == 2
        })
        .await;
    // Unloaded and loaded again between two looks.
    node.kernel.refuse_policies(None);
    node.kernel.load();
    cluster
        .until_node("munster", "it enforces the newest", |node| {
            node.policy_version == 3 && node.last_error.is_empty()
        })
        .await;
    let state = node.kernel.state();
    assert_eq!((state.snid, state.scid, state.nodes.len()), (1, 1, 1));
    assert_eq!(state.active_epoch, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expelled_node_is_gone_from_every_kernel_and_has_no_way_back() {
    let cluster = Cluster::start().await;
    let munster = cluster.node("munster", "192.0.2.1").await;
    let others = [
        cluster.node("colby", "192.0.2.2").await,
        cluster.node("limerick", "192.0.2.3").await,
    ];
    for name in ["munster", "colby", "limerick"] {
        cluster
            .until_node(name, "it has its keys", |node| node.key_epoch == 1)
            .await;
    }
    let mut admin = cluster.admin().await;
    let mut remove = async |name: &str| {
        let request = v1::RemoveNodeRequest { name: name.into() };
        let mut progress = admin.remove_node(request).await?.into_inner();
        let told = within("the others refuse it", collect(&mut progress)).await?;
        Ok(told.last().expect("there is a last message").clone())
    };
    assert_refused(remove("cork").await, Code::NotFound, "no node `cork`");
    let done = remove("munster").await.unwrap();
    assert!(done.done);
    assert_eq!(done.node.unwrap().snid, 1);
    assert_eq!(done.refusing, ["colby", "limerick"]);
    assert_eq!((done.waiting.len(), done.away.len()), (0, 0));
    for node in &others {
        let known: Vec<u32> = node.kernel.state().nodes.into_keys().collect();
        assert_eq!(known, [2, 3], "when the command is answered");
    }
    assert_refused(remove("munster").await, Code::NotFound, "munster");

    // Its certificate is one of this cluster's CA and opens nothing; its twin's does.
    let servers = cluster.profile().cluster.servers;
    let sync = async |name: &str| {
        let directory = Directory::new(&cluster.node_directory(name));
        greet(&servers, &directory.credentials().unwrap()).await
    };
    assert_refused(sync("munster").await, Code::PermissionDenied, "node 1");
    assert!(sync("colby").await.is_ok());

    // What comes after it does not reach it.
    cluster
        .until_node("colby", "it is back", |node| node.connected)
        .await;
    let last = cluster.apply(cluster.policy(1)).await.unwrap();
    assert_eq!((last.enforcing, last.expected), (2, 2));
    assert_eq!(munster.kernel.state().policy_version, 0);

    // Its name and address may come again, as another node.
    let token = cluster.token("munster").await;
    let again = cluster.join(&token, "munster-2", "192.0.2.1").await;
    assert_eq!(again.unwrap().snid, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_was_away_refuses_an_expelled_one_when_it_is_back() {
    let cluster = Cluster::start().await;
    let mut colby = cluster.node("colby", "192.0.2.1").await;
    let _munster = cluster.node("munster", "192.0.2.2").await;
    until("colby's kernel knows both", async || {
        (colby.kernel.state().nodes.len() == 2).then_some(())
    })
    .await;
    colby.stop().await;
    cluster
        .until_node("colby", "it is gone", |node| !node.connected)
        .await;
    let mut admin = cluster.admin().await;
    let request = v1::RemoveNodeRequest {
        name: "munster".into(),
    };
    let mut progress = admin.remove_node(request).await.unwrap().into_inner();
    let told = next("the answer", &mut progress).await;
    assert!(told.done, "nobody is waited for in vain");
    assert_eq!(told.away, ["colby"]);
    colby.start().await;
    until("colby's kernel has forgotten it", async || {
        (colby.kernel.state().nodes.len() == 1).then_some(())
    })
    .await;
}

/// Labels packets between all nodes all the time and counts those that are not taken, until it is stopped.
struct Traffic {
    stop: CancellationToken,
    task: JoinHandle<(u64, Vec<String>)>,
}

/// A test that fails must not be waited for: a runtime ends when its blocking tasks have.
impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Traffic {
    fn start(kernels: Vec<(u32, FakeKernel)>) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::task::spawn_blocking(move || {
            let (mut sent, mut lost) = (0, Vec::new());
            while !stopped.is_cancelled() {
                for (from, sender) in &kernels {
                    for (to, receiver) in kernels.iter().filter(|(to, _)| to != from) {
                        let label = sender.state().label_to(*to);
                        sent += 1;
                        let taken =
                            label.is_some_and(|label| receiver.state().verifies(*from, label));
                        // A packet may not take as long as two changes of the keys; this thread may stand still so long.
                        if !taken && sender.state().label_to(*to) == label {
                            let epoch = label.map(|(epoch, _)| epoch);
                            lost.push(format!("{from} to {to}, epoch {epoch:?}"));
                        }
                    }
                }
            }
            (sent, lost)
        });
        Self { stop, task }
    }

    async fn lost_nothing(mut self) {
        self.stop.cancel();
        let (sent, lost) = within("the traffic ends", &mut self.task).await.unwrap();
        assert!(sent > 0 && lost.is_empty(), "of {sent} packets: {lost:?}");
    }
}

/// Three nodes that know each other, and their traffic.
async fn talking(cluster: &Cluster) -> ([Node; 3], Traffic) {
    let nodes = [
        cluster.node("munster", "192.0.2.1").await,
        cluster.node("colby", "192.0.2.2").await,
        cluster.node("limerick", "192.0.2.3").await,
    ];
    until("all can send to all", async || {
        let kernels = nodes.iter().map(|node| node.kernel.state());
        kernels
            .clone()
            .all(|state| state.active_epoch == 1 && state.nodes.len() == 3)
            .then_some(())?;
        kernels
            .zip(1..)
            .all(|(state, own)| (1..=3).all(|to| to == own || state.label_to(to).is_some()))
            .then_some(())
    })
    .await;
    let kernels = nodes
        .iter()
        .map(|node| (node.description.snid, node.kernel.clone()));
    let traffic = Traffic::start(kernels.collect());
    (nodes, traffic)
}

/// Changes the keys; the last message.
async fn rotate(cluster: &Cluster, force: bool) -> Result<v1::RotateKeysProgress, tonic::Status> {
    let request = v1::RotateKeysRequest { force };
    let mut progress = cluster
        .admin()
        .await
        .rotate_keys(request)
        .await?
        .into_inner();
    let told = within("the keys are changed", collect(&mut progress)).await?;
    Ok(told.last().expect("there is a last message").clone())
}

/// The same as soon as the nodes have come through the change before.
async fn rotate_when_settled(cluster: &Cluster) -> v1::RotateKeysProgress {
    until("the nodes have come through the last change", async || {
        rotate(cluster, false).await.ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_changed_under_traffic_and_those_of_two_changes_ago_are_worthless() {
    let cluster = Cluster::start().await;
    let (nodes, traffic) = talking(&cluster).await;
    let [munster, colby, _] = &nodes;
    let first = munster.kernel.state().label_to(2).unwrap();
    assert_eq!(first.0, 1);
    let done = rotate_when_settled(&cluster).await;
    assert!(done.finished && done.active && done.epoch == 2);
    assert_eq!(done.done, ["munster", "colby", "limerick"]);
    assert!(
        colby.kernel.state().verifies(1, first),
        "valid for one change"
    );
    rotate_when_settled(&cluster).await;
    for node in &nodes {
        let state = node.kernel.state();
        assert_eq!(state.active_epoch, 3);
        assert_eq!(state.secrets.keys().copied().collect::<Vec<_>>(), [2, 3]);
    }
    assert!(!colby.kernel.state().verifies(1, first));
    let now = munster.kernel.state().label_to(2).unwrap();
    assert!(now.0 >= 2 && colby.kernel.state().verifies(1, now));
    traffic.lost_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_is_away_during_a_change_loses_nothing_and_holds_up_the_next() {
    let cluster = Cluster::start().await;
    let (mut nodes, traffic) = talking(&cluster).await;
    nodes[2].stop().await;
    cluster
        .until_node("limerick", "it is gone", |node| !node.connected)
        .await;
    let done = rotate_when_settled(&cluster).await;
    assert!(done.finished);
    assert_eq!(
        (done.done.len(), done.away.as_slice()),
        (2, ["limerick".to_owned()].as_slice())
    );
    let refused = rotate(&cluster, false).await;
    assert_refused(refused, Code::FailedPrecondition, "limerick");
    // Its kernel has gone on with what it has, and so have the others towards it.
    assert_eq!(nodes[2].kernel.state().active_epoch, 1);
    assert_eq!(nodes[0].kernel.state().label_to(3).unwrap().0, 1);
    assert_eq!(nodes[0].kernel.state().label_to(2).unwrap().0, 2);
    nodes[2].start().await;
    until("all use the new keys", async || {
        let [a, b, c] = [0, 1, 2].map(|at: usize| nodes[at].kernel.state());
        let epochs = [a.label_to(3)?.0, b.label_to(3)?.0, c.label_to(1)?.0];
        (epochs == [2, 2, 2]).then_some(())
    })
    .await;
    assert_eq!(rotate_when_settled(&cluster).await.epoch, 3);
    traffic.lost_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_stops_in_a_change_goes_on_with_it() {
    let mut cluster = Cluster::start().await;
    let (mut nodes, traffic) = talking(&cluster).await;
    // Its kernel has no use for keys that its manager never hears of.
    nodes[2].stop().await;
    cluster
        .until_node("limerick", "it is gone", |node| !node.connected)
        .await;
    // The node is played: it is connected and takes nothing.
    let credentials = Directory::new(&nodes[2].directory).credentials().unwrap();
    let servers = cluster.profile().cluster.servers;
    let channel = tls::connect(&servers, &credentials).await.unwrap();
    let (out, queue) = tokio::sync::mpsc::channel(4);
    let bodies = [
        v1::from_manager::Body::Hello(v1::Hello {
            protocol: dsi_proto::PROTOCOL,
            ..v1::Hello::default()
        }),
        v1::from_manager::Body::State(v1::State {
            mode: "enforcing".into(),
            ..v1::State::default()
        }),
    ];
    for body in bodies {
        let message = v1::FromManager { body: Some(body) };
        out.send(message).await.unwrap();
    }
    let stream = tokio_stream::wrappers::ReceiverStream::new(queue);
    let silent = ManagerClient::new(channel).sync(stream).await.unwrap();
    cluster
        .until_node("limerick", "it is there", |node| {
            node.connected && node.mode == "enforcing"
        })
        .await;
    let mut admin = cluster.admin().await;
    let request = v1::RotateKeysRequest { force: false };
    let mut progress = until("the change begins", async || {
        admin.rotate_keys(request).await.ok()
    })
    .await
    .into_inner();
    until("only the silent one is waited for", async || {
        let message = next("a step of the change", &mut progress).await;
        assert!(!message.active);
        (message.waiting == ["limerick"]).then_some(())
    })
    .await;
    let under_way = rotate(&cluster, false).await;
    assert_refused(under_way, Code::FailedPrecondition, "limerick");
    drop(progress);
    cluster.stop_server().await;
    drop((silent, out));
    cluster.start_server().await;
    let mut admin = cluster.admin().await;
    let status = admin.get_status(v1::GetStatusRequest {}).await;
    let status = status.unwrap().into_inner();
    assert_eq!((status.key_epoch, status.next_key_epoch), (1, 2));
    nodes[2].start().await;
    until("all use the new keys", async || {
        nodes
            .iter()
            .all(|node| node.kernel.state().active_epoch == 2)
            .then_some(())
    })
    .await;
    assert_eq!(rotate_when_settled(&cluster).await.epoch, 3);
    traffic.lost_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn module_that_comes_goes_and_comes_again_is_brought_up_each_time() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("munster", "192.0.2.1").await;
    cluster
        .until_node("munster", "it is connected", |node| node.connected)
        .await;
    assert!(cluster.apply(cluster.policy(2)).await.unwrap().done);
    node.kernel.unload();
    let told = cluster
        .until_node("munster", "the absence is told", |node| {
            !node.last_error.is_empty()
        })
        .await;
    assert!(
        told.last_error.contains("insmod dsm.ko"),
        "{}",
        told.last_error
    );
    assert_eq!(told.policy_version, 0);
    let last = cluster.apply(cluster.policy(3)).await.unwrap();
    assert_eq!((last.enforcing, last.expected, last.done), (0, 1, true));

    node.kernel.load();
    cluster
        .until_node("munster", "it enforces again", |node| {
            node.policy_version == 3
        })
        .await;
    assert_eq!(node.kernel.state().nodes.len(), 1);
    // Loaded anew between two looks.
    node.kernel.load();
    until("it enforces again", async || {
        (node.kernel.state().policy_version == 3).then_some(())
    })
    .await;
    cluster
        .until_node("munster", "nothing is amiss", |node| {
            node.policy_version == 3 && node.last_error.is_empty()
        })
        .await;
    node.stop().await;
}

fn denial(id: u64) -> Event {
    Event {
        id,
        time_ns: 1_700_000_000_000_000_000,
        enforced: true,
        reason: Reason::NoPermission,
        class: Class::Network,
        permission: "send".into(),
        sscid: 10,
        ssnid: 2,
        tscid: 20,
        tsnid: 1,
        protocol: 17,
        source: Some("192.0.2.2".parse().unwrap()),
        target: Some("192.0.2.1".parse().unwrap()),
        source_port: 4000,
        target_port: 9001,
        pid: 42,
        comm: "RingBellBE\u{1b}[2J".into(),
        rule: 0,
        policy_version: 3,
        suppressed: 0,
        hook: "socket_sock_rcv_skb".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_of_all_nodes_reach_an_administrator_live_and_those_meanwhile_later() {
    let mut cluster = Cluster::start().await;
    let nodes = [
        cluster.node("munster", "192.0.2.1").await,
        cluster.node("colby", "192.0.2.2").await,
    ];
    let mut admin = cluster.admin().await;
    let mut tail = admin
        .tail_audit(v1::TailAuditRequest::default())
        .await
        .unwrap()
        .into_inner();
    for (node, name) in nodes.iter().zip(["munster", "colby"]) {
        node.kernel.deny(denial(1));
        let event = next("the refusal", &mut tail).await;
        assert_eq!(
            (event.node_name.as_str(), event.node_snid),
            (name, node.description.snid)
        );
        assert_eq!(
            (
                event.reason.as_str(),
                event.protocol.as_str(),
                event.target_port
            ),
            ("no-permission", "udp", 9001)
        );
        assert_eq!(
            event.comm, "RingBellBE\u{fffd}[2J",
            "a process cannot steer the administrator's terminal"
        );
        assert!(
            event.id.starts_with(&format!("{}-", event.node_snid)) && event.id.ends_with("-1"),
            "{}",
            event.id
        );
    }
    drop((tail, admin));
    cluster.stop_server().await;
    nodes[0].kernel.deny(denial(2));
    cluster.start_server().await;
    let mut admin = cluster.admin().await;
    let request = v1::TailAuditRequest {
        replay: 10,
        node_snid: 1,
    };
    let mut tail = admin.tail_audit(request).await.unwrap().into_inner();
    let event = next("the refusal meanwhile", &mut tail).await;
    assert!(event.id.ends_with("-2"), "{}", event.id);
    let file = std::fs::read_to_string(cluster.files.server_directory.join("audit.jsonl")).unwrap();
    assert!(file.lines().count() >= 2 && file.contains("\"reason\":\"no-permission\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refusal_is_lost_while_a_server_goes_and_comes() {
    const EVENTS: u64 = 600;
    let mut cluster = Cluster::start().await;
    let node = cluster.node("munster", "192.0.2.1").await;
    cluster
        .until_node("munster", "it is connected", |node| node.connected)
        .await;
    let kernel = node.kernel.clone();
    let refusals = tokio::task::spawn_blocking(move || {
        for id in 1..=EVENTS {
            kernel.deny(denial(id));
            std::thread::sleep(Duration::from_micros(500));
        }
    });
    while !refusals.is_finished() {
        cluster.stop_server().await;
        cluster.start_server().await;
    }
    let path = cluster.files.server_directory.join("audit.jsonl");
    until("all are in the file", async || {
        let file = std::fs::read_to_string(&path).unwrap();
        let ids: BTreeSet<u64> = file
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .map(|line| {
                let id = line["id"].as_str().unwrap();
                id.rsplit('-').next().unwrap().parse().unwrap()
            })
            .collect();
        ids.into_iter().eq(1..=EVENTS).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_outlive_a_manager_that_has_nobody_to_tell() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node("munster", "192.0.2.1").await;
    cluster
        .until_node("munster", "it is connected", |node| node.connected)
        .await;
    cluster.stop_server().await;
    for id in 1..=3 {
        node.kernel.deny(denial(id));
    }
    until("the manager has them", async || {
        node.kernel.is_heard().then_some(())
    })
    .await;
    node.stop().await;
    node.start().await;
    node.stop().await;
    cluster.start_server().await;
    node.start().await;
    let mut admin = cluster.admin().await;
    let request = v1::TailAuditRequest {
        replay: 10,
        node_snid: 1,
    };
    let mut tail = admin.tail_audit(request).await.unwrap().into_inner();
    for id in 1..=3 {
        let event = next("what was kept", &mut tail).await;
        assert!(event.id.ends_with(&format!("-{id}")), "{}", event.id);
    }
    until("it is kept no longer", async || {
        (!node.directory.join("audit.bin").exists()).then_some(())
    })
    .await;
}

/// Says Hello to the servers as a manager does.
async fn greet(servers: &[ServerAddress], credentials: &ClientCredentials) -> Result<(), Status> {
    let channel = tls::connect(servers, credentials).await.unwrap();
    let hello = v1::Hello {
        protocol: dsi_proto::PROTOCOL,
        ..v1::Hello::default()
    };
    let hello = v1::FromManager {
        body: Some(v1::from_manager::Body::Hello(hello)),
    };
    let mut client = ManagerClient::new(channel);
    client.sync(tokio_stream::once(hello)).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_do_what_another_role_may() {
    let cluster = Cluster::start().await;
    let token = cluster.token("munster").await;
    cluster.join(&token, "munster", "192.0.2.1").await.unwrap();
    let manager = Directory::new(&cluster.node_directory("munster"))
        .credentials()
        .unwrap();
    let administrator = cluster.profile().credentials;
    let nobody = ClientCredentials {
        ca_der: administrator.ca_der.clone(),
        own: None,
    };
    let servers = cluster.profile().cluster.servers;

    let status = async |credentials: &ClientCredentials| {
        let channel = tls::connect(&servers, credentials).await.unwrap();
        AdminClient::new(channel)
            .get_status(v1::GetStatusRequest {})
            .await
    };
    assert_eq!(
        status(&administrator)
            .await
            .unwrap()
            .into_inner()
            .cluster_name,
        "test"
    );
    assert_refused(
        status(&manager).await,
        Code::PermissionDenied,
        "no administrator",
    );
    assert_refused(status(&nobody).await, Code::Unauthenticated, "certificate");

    assert!(greet(&servers, &manager).await.is_ok());
    assert_refused(
        greet(&servers, &administrator).await,
        Code::PermissionDenied,
        "no manager",
    );
    assert_refused(
        greet(&servers, &nobody).await,
        Code::Unauthenticated,
        "certificate",
    );

    // A certificate of this CA, but for a cluster or a node that is none.
    let key = std::fs::read(cluster.files.server_directory.join("ca.key")).unwrap();
    let authority = Authority::load(
        administrator.ca_der.clone(),
        PrivateKey::from_pem(&key).unwrap(),
    )
    .unwrap();
    let issue = |cluster: Uuid, role: Role| {
        let key = PrivateKey::generate().unwrap();
        let identity = Identity { cluster, role };
        let certificate_der = authority
            .issue_client(&identity, &key, std::time::SystemTime::now())
            .unwrap();
        ClientCredentials {
            own: Some(OwnCredentials {
                certificate_der,
                key,
            }),
            ..administrator.clone()
        }
    };
    let elsewhere = issue(
        Uuid::new_v4(),
        Role::Administrator {
            name: "anna".into(),
        },
    );
    assert_refused(status(&elsewhere).await, Code::Unauthenticated, "cluster");
    let no_member = issue(cluster.uuid(), Role::Manager { snid: 99 });
    assert_refused(
        greet(&servers, &no_member).await,
        Code::PermissionDenied,
        "99",
    );
    let signed_off = issue(
        cluster.uuid(),
        Role::Administrator {
            name: "berta".into(),
        },
    );
    assert!(
        status(&signed_off).await.is_ok(),
        "the twin: what this CA certifies for this cluster is believed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_of_another_authority_does_not_get_through_the_handshake() {
    let cluster = Cluster::start().await;
    let ours = cluster.profile().credentials;
    let stranger = Authority::create("test", cluster.uuid(), std::time::SystemTime::now()).unwrap();
    let key = PrivateKey::generate().unwrap();
    let identity = Identity {
        cluster: cluster.uuid(),
        role: Role::Administrator {
            name: "anna".into(),
        },
    };
    let certificate_der = stranger
        .issue_client(&identity, &key, std::time::SystemTime::now())
        .unwrap();
    let forged = ClientCredentials {
        own: Some(OwnCredentials {
            certificate_der,
            key,
        }),
        ..ours
    };
    let servers = cluster.profile().cluster.servers;
    // In TLS 1.3 the client may hear of it only with its first request.
    let reached = match tls::connect(&servers, &forged).await {
        Ok(channel) => AdminClient::new(channel)
            .get_status(v1::GetStatusRequest {})
            .await
            .is_ok(),
        Err(_) => false,
    };
    assert!(!reached);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_shown_as_prometheus_reads_them() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let cluster = Cluster::start().await;
    let _node = cluster.node("munster", "192.0.2.1").await;
    cluster
        .until_node("munster", "it is connected", |node| node.connected)
        .await;
    let mut connection = tokio::net::TcpStream::connect(cluster.metrics)
        .await
        .unwrap();
    connection
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    for line in [
        "dsi_ssd_managers_connected 1",
        "dsi_ssd_joins_total 1",
        "# EOF",
    ] {
        assert!(answer.contains(line), "`{line}` is not in: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_ids_are_set_before_a_node_joins_and_never_after() {
    let cluster = Cluster::start().await;
    let token = cluster.token("munster").await;
    let mut admin = cluster.admin().await;
    let mut set = async |name: &str, snid| {
        admin
            .set_node_id(v1::SetNodeIdRequest {
                name: name.into(),
                snid,
            })
            .await
    };
    assert_refused(set("colby", 7).await, Code::NotFound, "colby");
    assert_eq!(
        set("munster", 7)
            .await
            .unwrap()
            .into_inner()
            .node
            .unwrap()
            .snid,
        7
    );
    assert_eq!(
        cluster
            .join(&token, "munster", "192.0.2.1")
            .await
            .unwrap()
            .snid,
        7
    );
    assert_refused(
        set("munster", 8).await,
        Code::FailedPrecondition,
        "certificate",
    );
}
