// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl` against a real server in this process, with managers that are played: what an administrator sees when
//! nodes join, take a policy or refuse it, and when kernels refuse something.

use std::{
    fs,
    net::SocketAddr,
    process::Stdio,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::common::{Cluster, Run, command, example};
use dsi_proto::{
    address::ServerAddress,
    pki::PrivateKey,
    profile::Description,
    tls::{self, ClientCredentials, OwnCredentials},
    token::JoinToken,
    v1::{
        self, FromManager, ToManager, enrolment_client::EnrolmentClient, from_manager::Body,
        manager_client::ManagerClient, to_manager,
    },
};
use ssd::{
    clock::Clock,
    config::{Config, Overrides},
    server::Server,
};
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster with its server running.
struct World {
    cluster: Cluster,
    runtime: Runtime,
    shutdown: CancellationToken,
}

impl World {
    fn start() -> Self {
        let cluster = Cluster::init("127.0.0.1");
        fs::write(cluster.data.join("ssd.toml"), "metrics = false\n").unwrap();
        let runtime = Runtime::new().unwrap();
        let shutdown = CancellationToken::new();
        let listen = Overrides {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            metrics: None,
        };
        let config = Config::load(&cluster.data, None, &listen).unwrap();
        let server = runtime
            .block_on(Server::build(&config, Clock::system()))
            .unwrap();
        // The port is known only now; the certificate names the host, not the port.
        let path = cluster.file("cluster.json");
        let mut description: Description =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        description.servers =
            vec![ServerAddress::new("127.0.0.1", server.address().unwrap().port()).unwrap()];
        fs::write(&path, serde_json::to_vec(&description).unwrap()).unwrap();
        runtime.spawn(server.run(shutdown.clone()));
        Self {
            cluster,
            runtime,
            shutdown,
        }
    }

    fn dsictl(&self, arguments: &[&str]) -> Run {
        self.cluster.dsictl(arguments)
    }

    /// Admits a node and connects its manager.
    fn join(&self, name: &str, snid: u32, temper: Temper) -> Manager {
        let snid = snid.to_string();
        let made = self
            .dsictl(&["node", "join-token", name, "--snid", &snid])
            .ends(0);
        assert!(made.stderr.contains(&format!("SnID {snid}")), "{made:?}");
        let token: JoinToken = made.stdout.parse().unwrap();
        let manager = self.runtime.block_on(Manager::connect(token, temper));
        let connected = format!("{snid} {name} connected");
        self.poll(&["node", "list"], |run| {
            run.stdout.lines().any(|line| {
                line.split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" ")
                    .starts_with(&connected)
            })
        });
        manager
    }

    /// Runs `dsictl` until it says what is awaited.
    fn poll(&self, arguments: &[&str], awaited: impl Fn(&Run) -> bool) -> Run {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let run = self.dsictl(arguments);
            if awaited(&run) {
                return run;
            }
            assert!(
                Instant::now() < deadline,
                "{arguments:?} never said so: {run:?}"
            );
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// What a played manager does with a policy.
#[derive(Clone, Copy, PartialEq)]
enum Temper {
    Willing,
    Refusing,
    Silent,
}

/// A played manager's stream; dropped, the node is away.
struct Manager {
    out: mpsc::Sender<FromManager>,
    stop: CancellationToken,
    batches: AtomicU64,
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Spends a token as smd does.
async fn join(token: &JoinToken) -> (v1::JoinResponse, PrivateKey) {
    /// Each node has an address of its own.
    static HOST: AtomicU8 = AtomicU8::new(1);
    let key = PrivateKey::generate().unwrap();
    let stranger = ClientCredentials {
        ca_der: token.ca_der.clone(),
        own: None,
    };
    let channel = tls::connect(&token.servers, &stranger).await.unwrap();
    let request = v1::JoinRequest {
        token: token.secret.to_text().to_string(),
        name: token.name.clone(),
        csr_der: key.signing_request(&token.name).unwrap(),
        addresses: vec![format!("10.0.0.{}", HOST.fetch_add(1, Ordering::Relaxed))],
    };
    (
        EnrolmentClient::new(channel)
            .join(request)
            .await
            .unwrap()
            .into_inner(),
        key,
    )
}

impl Manager {
    async fn connect(token: JoinToken, temper: Temper) -> Self {
        let (joined, key) = join(&token).await;
        let own = Some(OwnCredentials {
            certificate_der: joined.certificate_der,
            key,
        });
        let credentials = ClientCredentials {
            ca_der: token.ca_der,
            own,
        };
        let channel = tls::connect(&token.servers, &credentials).await.unwrap();
        let (out, queue) = mpsc::channel(16);
        let hello = v1::Hello {
            protocol: dsi_proto::PROTOCOL,
            ..v1::Hello::default()
        };
        out.send(FromManager {
            body: Some(Body::Hello(hello)),
        })
        .await
        .unwrap();
        let mut orders = ManagerClient::new(channel)
            .max_decoding_message_size(dsi_proto::policy::MAX_MESSAGE)
            .sync(ReceiverStream::new(queue))
            .await
            .unwrap()
            .into_inner();
        let stop = CancellationToken::new();
        let (answers, stopped) = (out.clone(), stop.clone());
        tokio::spawn(async move {
            let mut state = v1::State::default();
            loop {
                let order = tokio::select! {
                    order = orders.message() => order,
                    () = stopped.cancelled() => return,
                };
                let Ok(Some(ToManager { body: Some(order) })) = order else {
                    return;
                };
                if temper.takes(order, &mut state) {
                    let state = Body::State(state.clone());
                    let _ = answers.send(FromManager { body: Some(state) }).await;
                }
            }
        });
        Self {
            out,
            stop,
            batches: AtomicU64::new(0),
        }
    }

    /// Reports a refusal of its kernel.
    fn refused(&self, world: &World, event: v1::AuditEvent) {
        let batch = v1::AuditBatch {
            events: vec![event],
            dropped: 0,
            stream: 1,
            sequence: self.batches.fetch_add(1, Ordering::Relaxed) + 1,
        };
        world
            .runtime
            .block_on(self.out.send(FromManager {
                body: Some(Body::Audit(batch)),
            }))
            .unwrap();
    }
}

impl Temper {
    /// What becomes of the node's state; whether it is told.
    fn takes(self, order: to_manager::Body, state: &mut v1::State) -> bool {
        match (self, order) {
            (Self::Silent, _) | (_, to_manager::Body::AuditTaken(_)) => return false,
            (Self::Willing, to_manager::Body::Policy(policy)) => {
                state.policy_version = policy.version;
                state.mode = "enforcing".to_owned();
            }
            (Self::Refusing, to_manager::Body::Policy(policy)) => {
                state.error = "policy-commit: the kernel has no memory".to_owned();
                state.refused_policy_version = policy.version;
            }
            (_, to_manager::Body::Nodes(map)) => {
                state.node_map_version = map.version;
                state.mode = "no-policy".to_owned();
            }
            (Self::Refusing, to_manager::Body::Keys(_)) => return false,
            (Self::Willing, to_manager::Body::Keys(keys)) => {
                state.newest_key_epoch = keys.epoch.max(state.newest_key_epoch);
                if keys.active {
                    state.key_epoch = keys.epoch;
                    state.oldest_key_epoch = keys.epoch;
                }
            }
        }
        true
    }
}

/// A refusal of PhoneMania's datagram to RingBell.
fn refusal(serial: u32) -> v1::AuditEvent {
    v1::AuditEvent {
        id: format!("2-0badcafe-{serial}"),
        time_unix_ns: 1_700_000_000_000_000_000,
        enforced: true,
        reason: "no-permission".to_owned(),
        class: "network".to_owned(),
        permission: "send".to_owned(),
        sscid: 10,
        ssnid: 1,
        tscid: 20,
        tsnid: 2,
        protocol: "udp".to_owned(),
        source_address: "10.0.0.1".to_owned(),
        source_port: 8800,
        target_address: "10.0.0.2".to_owned(),
        target_port: 9001,
        pid: 42,
        comm: "RingBellBE".to_owned(),
        policy_version: 1,
        ..v1::AuditEvent::default()
    }
}

#[test]
fn a_policy_goes_to_every_node_and_its_history_is_kept() {
    let world = World::start();
    let empty = world.dsictl(&["status"]).ends(0);
    assert!(empty.stdout.starts_with("cluster  telecom ("), "{empty:?}");
    assert!(empty.stdout.contains("policy   none\n"), "{empty:?}");
    let none = world.dsictl(&["policy", "show"]).ends(1);
    assert!(
        none.stderr.contains("no policy has been applied yet"),
        "{none:?}"
    );

    let _colby = world.join("colby", 1, Temper::Willing);
    let munster = world.join("munster", 2, Temper::Willing);
    let file = example("two-operators.xml");
    let applied = world
        .dsictl(&["policy", "apply", &file, "--comment", "ticket 4711"])
        .ends(0);
    assert!(
        applied
            .stdout
            .starts_with("policy 1 is signed and stored: enforcing, 24 rules"),
        "{applied:?}"
    );
    assert!(
        applied
            .stdout
            .ends_with("policy 1 is in force on 2 of 2 connected nodes\n"),
        "{applied:?}"
    );

    let status = world.dsictl(&["--json", "status"]).ends(0).json();
    assert_eq!(
        (&status["policy_version"], &status["mode"]),
        (&1.into(), &"enforcing".into())
    );
    assert_eq!(
        (&status["connected"], &status["lagging"]),
        (&2.into(), &0.into())
    );

    // The second version: rises by itself, and says which nodes are away.
    drop(munster);
    world.poll(&["--json", "status"], |run| run.json()["connected"] == 1);
    let applied = world
        .dsictl(&[
            "--json",
            "policy",
            "apply",
            &example("two-operators-permissive.xml"),
        ])
        .ends(0);
    let steps: Vec<serde_json::Value> = applied
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (first, last) = (steps.first().unwrap(), steps.last().unwrap());
    assert_eq!(
        (&first["step"], &first["version"], &first["mode"]),
        (&"stored".into(), &2.into(), &"permissive".into())
    );
    assert_eq!(last["step"], "done");
    assert_eq!(
        (&last["in_force"], &last["away"]),
        (
            &serde_json::json!(["colby"]),
            &serde_json::json!(["munster"])
        )
    );

    let history = world
        .dsictl(&["--json", "policy", "history"])
        .ends(0)
        .json();
    let versions: Vec<_> = history["policies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["version"].as_u64().unwrap())
        .collect();
    assert_eq!(versions, [2, 1]);
    assert_eq!(history["policies"][1]["comment"], "ticket 4711");
    assert_eq!(history["policies"][1]["applied_by"], "admin");

    let xml = world.dsictl(&["policy", "show", "1", "--xml"]).ends(0);
    assert_eq!(
        xml.stdout,
        fs::read_to_string(&file).unwrap(),
        "byte for byte"
    );
    let shown = world.dsictl(&["policy", "show", "1"]).ends(0);
    assert!(
        shown
            .stdout
            .contains("signed by  CN=DSI cluster telecom policy signer (verified)"),
        "{shown:?}"
    );
    world.dsictl(&["policy", "show", "9"]).ends(1);
}

#[test]
fn the_policy_in_force_is_asked_and_compared() {
    let world = World::start();
    let question = ["policy", "can", "maintenance", "network:send", "ringbell"];
    // Before there is one there is no answer, which is not 'no'.
    let none = world.dsictl(&question).ends(2);
    assert!(
        none.stderr.contains("no policy has been applied yet"),
        "{none:?}"
    );
    let (old, new) = (
        example("two-operators.xml"),
        example("two-operators-changed.xml"),
    );
    world.dsictl(&["policy", "apply", &old]).ends(0);
    let run = world.dsictl(&question).ends(0);
    assert!(
        run.stdout.contains("\"maintenance-ringbell\" (policy 1:"),
        "{run:?}"
    );
    world
        .dsictl(&["policy", "diff", "--in-force", &old])
        .ends(0);
    let run = world
        .dsictl(&["policy", "diff", "--in-force", &new])
        .ends(1);
    assert!(
        run.stdout
            .contains("- maintenance may no longer send datagrams to ringbell (network)\n"),
        "{run:?}"
    );
    world.dsictl(&["policy", "apply", &new]).ends(0);
    let run = world.dsictl(&question).ends(1);
    assert!(run.stdout.contains("denied: no rule grants it"), "{run:?}");
    let directory = tempfile::tempdir().unwrap();
    let expectations = directory.path().join("after.expect");
    fs::write(&expectations, "deny maintenance network:send ringbell\n").unwrap();
    let run = world
        .dsictl(&["policy", "test", &expectations.display().to_string()])
        .ends(0);
    assert_eq!(run.stdout, "policy 2: 1 passed, 0 failed\n");

    // A policy that the policy signers did not sign answers nothing.
    let stranger = dsi_proto::signature::generate_signer("stranger").unwrap();
    fs::write(world.cluster.file("anchor.der"), stranger.certificate_der()).unwrap();
    let run = world.dsictl(&question).ends(2);
    assert!(run.stderr.contains("is not to be trusted"), "{run:?}");
}

#[test]
fn a_node_that_refuses_or_is_silent_is_named() {
    let world = World::start();
    let _colby = world.join("colby", 1, Temper::Willing);
    let _munster = world.join("munster", 2, Temper::Refusing);
    let file = example("two-operators.xml");
    let run = world.dsictl(&["policy", "apply", &file]).ends(1);
    assert!(
        run.stdout
            .contains("munster: refused: policy-commit: the kernel has no memory"),
        "{run:?}"
    );
    assert!(
        run.stdout.contains("in force on 1 of 2 connected nodes"),
        "{run:?}"
    );
    assert!(
        run.stderr
            .contains("policy 1 is not in force on munster (policy-commit"),
        "{run:?}"
    );
    let status = world.dsictl(&["status"]).ends(0);
    assert!(status.stdout.contains("LAGS"), "{status:?}");

    let _limerick = world.join("limerick", 3, Temper::Silent);
    let run = world
        .dsictl(&["policy", "apply", &file, "--timeout", "5s"])
        .ends(1);
    assert!(
        run.stderr.contains("limerick (still at policy 0)"),
        "{run:?}"
    );
    // Who does not wait is not told, and has not failed.
    let run = world
        .dsictl(&["policy", "apply", &file, "--no-wait"])
        .ends(0);
    assert_eq!(run.stdout.lines().count(), 1, "{run:?}");
}

#[test]
fn a_policy_of_a_foreign_signer_is_refused_and_nothing_changes() {
    let world = World::start();
    let file = example("two-operators.xml");
    world.dsictl(&["policy", "apply", &file]).ends(0);
    let stranger = dsi_proto::signature::generate_signer("stranger").unwrap();
    fs::write(world.cluster.file("signer.key"), stranger.key_pem()).unwrap();
    let run = world.dsictl(&["policy", "apply", &file]).ends(1);
    assert!(
        run.stderr
            .contains("does not belong to the signer's certificate"),
        "{run:?}"
    );
    fs::write(world.cluster.file("anchor.der"), stranger.certificate_der()).unwrap();
    let run = world.dsictl(&["policy", "apply", &file]).ends(5);
    assert!(run.stderr.contains("CN=stranger"), "{run:?}");
    assert_eq!(
        world.dsictl(&["--json", "status"]).ends(0).json()["policy_version"],
        1
    );
    // And what such an administrator is shown, he does not believe.
    let run = world.dsictl(&["policy", "show"]).ends(1);
    assert!(run.stderr.contains("is not to be trusted"), "{run:?}");
}

#[test]
fn refusals_of_the_kernels_are_followed_with_their_names() {
    let world = World::start();
    let _colby = world.join("colby", 1, Temper::Willing);
    let munster = world.join("munster", 2, Temper::Willing);
    world
        .dsictl(&["policy", "apply", &example("two-operators.xml")])
        .ends(0);

    // Live: the follower is there first.
    let follower = command(&["audit", "tail", "--count", "2", "--node", "munster"])
        .env("DSI_PROFILE", &world.cluster.profile)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whether it listens yet cannot be seen from here, so events go on until it has had its two.
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(follower.wait_with_output().unwrap()));
    let deadline = Instant::now() + PATIENCE;
    let mut serial = 0;
    let output = loop {
        serial += 1;
        munster.refused(&world, refusal(serial));
        match ended.recv_timeout(Duration::from_millis(50)) {
            Ok(output) => break output,
            Err(_) => assert!(
                Instant::now() < deadline,
                "the follower saw nothing of {serial} events"
            ),
        }
    };
    let followed = Run::from(output).ends(0);
    let line = followed.stdout.lines().next().unwrap();
    assert_eq!(
        line,
        "2023-11-14T22:13:20.000Z munster REFUSED: network send, 10 (phonemania)@colby -> 20 (ringbell)@munster, udp \
         10.0.0.1:8800 -> 10.0.0.2:9001, RingBellBE[42], no-permission by no rule (the policy's default), policy 1"
    );

    let replayed = world
        .dsictl(&["--json", "audit", "tail", "--replay", "1", "--count", "1"])
        .ends(0);
    let event: serde_json::Value = serde_json::from_str(replayed.stdout.trim()).unwrap();
    assert_eq!(
        (&event["sscid"], &event["source"]["context"]),
        (&10.into(), &"phonemania".into())
    );
    assert_eq!(
        (&event["node_name"], &event["node_snid"]),
        (&"munster".into(), &2.into())
    );
    let run = world
        .dsictl(&["audit", "tail", "--node", "nowhere"])
        .ends(1);
    assert!(run.stderr.contains("no node `nowhere`"), "{run:?}");
}

#[test]
fn a_node_is_numbered_before_it_joins_and_its_token_stays_private() {
    let world = World::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token").display().to_string();
    let made = world
        .dsictl(&[
            "--json",
            "node",
            "join-token",
            "colby",
            "--ttl",
            "10m",
            "--out",
            &file,
        ])
        .ends(0)
        .json();
    assert_eq!(
        (&made["name"], &made["file"]),
        (&"colby".into(), &file.clone().into())
    );
    assert!(
        made.get("token").is_none(),
        "a secret in a file is not printed as well"
    );
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let moved = world
        .dsictl(&["--json", "node", "set-id", "colby", "77"])
        .ends(0)
        .json();
    assert_eq!(moved, serde_json::json!({ "name": "colby", "snid": 77 }));
    let token: JoinToken = fs::read_to_string(&file).unwrap().parse().unwrap();
    let manager = world
        .runtime
        .block_on(Manager::connect(token, Temper::Willing));
    world.poll(&["--json", "node", "list"], |run| {
        run.json()["nodes"][0]["connected"] == true
    });
    assert_eq!(
        world.dsictl(&["--json", "node", "list"]).json()["nodes"][0]["snid"],
        77
    );

    // Its certificate binds the number now.
    let run = world.dsictl(&["node", "set-id", "colby", "78"]).ends(1);
    assert!(run.stderr.contains("has joined as SnID 77"), "{run:?}");
    world.dsictl(&["node", "set-id", "nowhere", "78"]).ends(1);
    drop(manager);
}

#[test]
fn an_expelled_node_is_refused_by_all_that_say_so() {
    let world = World::start();
    let run = world.dsictl(&["node", "remove", "nowhere"]).ends(1);
    assert!(run.stderr.contains("no node `nowhere`"), "{run:?}");
    let _colby = world.join("colby", 1, Temper::Willing);
    let munster = world.join("munster", 2, Temper::Willing);
    let limerick = world.join("limerick", 3, Temper::Willing);
    let run = world.dsictl(&["node", "remove", "munster"]).ends(0);
    assert_eq!(
        run.stdout,
        "munster: SnID 2 is expelled, and refused by 2 of 2 connected nodes\n"
    );
    assert!(
        world
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, munster.out.closed()).await })
            .is_ok(),
        "its stream ends"
    );
    world.dsictl(&["node", "remove", "munster"]).ends(1);
    let run = world
        .dsictl(&["node", "join-token", "munster", "--snid", "2"])
        .ends(1);
    assert!(run.stderr.contains("never reused"), "{run:?}");

    // One is away, one says nothing.
    drop(limerick);
    world.poll(&["--json", "status"], |run| run.json()["connected"] == 1);
    let _cork = world.join("cork", 4, Temper::Silent);
    let dublin = world.join("dublin", 5, Temper::Willing);
    drop(dublin);
    world.poll(&["--json", "status"], |run| run.json()["connected"] == 2);
    let run = world
        .dsictl(&["--json", "node", "remove", "dublin", "--timeout", "5s"])
        .ends(1);
    let expected = serde_json::json!({
        "name": "dublin", "snid": 5, "refused_by": ["colby"], "waiting": ["cork"], "away": ["limerick"],
    });
    assert_eq!(run.json(), expected);
    assert!(
        run.stderr
            .contains("`dublin` is expelled, and not refused yet by cork"),
        "{run:?}"
    );
}

#[test]
fn keys_are_changed_step_by_step_and_who_holds_it_up_is_named() {
    let world = World::start();
    let _colby = world.join("colby", 1, Temper::Willing);
    let _munster = world.join("munster", 2, Temper::Willing);
    let run = world.dsictl(&["key", "rotate"]).ends(0);
    assert!(
        run.stdout
            .ends_with("keys of epoch 2 are in use on all 2 connected nodes\n"),
        "{run:?}"
    );
    assert_eq!(world.dsictl(&["--json", "status"]).json()["key_epoch"], 2);
    // Without waiting for the nodes to say that they send with them: the next one has to.
    world.poll(&["key", "rotate"], |run| run.code == 0);

    let refusing = world.join("limerick", 3, Temper::Refusing);
    let run = world
        .poll(&["--json", "key", "rotate", "--timeout", "5s"], |run| {
            !run.stdout.is_empty()
        })
        .ends(1);
    let first: serde_json::Value =
        serde_json::from_str(run.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["epoch"], &first["step"], &first["finished"]),
        (&4.into(), &"handing-out".into(), &false.into())
    );
    assert!(run.stderr.contains("limerick"), "{run:?}");
    let status = world.dsictl(&["status"]).ends(0);
    assert!(
        status
            .stdout
            .contains("keys     epoch 3, those of 4 are being handed out\n"),
        "{status:?}"
    );
    let run = world.poll(&["key", "rotate"], |run| {
        run.stderr.contains("do not have them yet: limerick;")
    });
    for word in ["under way", "limerick", "dsictl node remove", "--force"] {
        assert!(run.stderr.contains(word), "{word}: {run:?}");
    }
    // Both ways out.
    drop(refusing);
    world.poll(&["--json", "status"], |run| {
        run.json()["key_epoch"] == 4 && run.json()["connected"] == 2
    });
    let run = world.poll(&["key", "rotate"], |run| !run.stderr.contains("under way"));
    for word in [
        "before epoch 4",
        "limerick",
        "dsictl node remove",
        "--force",
    ] {
        assert!(run.stderr.contains(word), "{word}: {run:?}");
    }
    let run = world.dsictl(&["key", "rotate", "--force"]).ends(0);
    assert!(
        run.stdout.ends_with(
            "keys of epoch 5 are in use on all 2 connected nodes; not there, and sent to with the former keys until \
             they are back: limerick\n"
        ),
        "{run:?}"
    );
    world.dsictl(&["node", "remove", "limerick"]).ends(0);
    world.poll(&["key", "rotate"], |run| run.code == 0);
}

#[test]
fn a_manager_is_no_administrator() {
    let world = World::start();
    let made = world.dsictl(&["node", "join-token", "colby"]).ends(0);
    let token: JoinToken = made.stdout.parse().unwrap();
    let (joined, key) = world.runtime.block_on(join(&token));
    // The manager's credentials in an administrator's place.
    let pem = dsi_proto::pki::certificate_pem(&joined.certificate_der);
    fs::write(world.cluster.file("admin.pem"), pem).unwrap();
    fs::write(world.cluster.file("admin.key"), key.to_pem().as_bytes()).unwrap();
    for command in [
        &["status"][..],
        &["node", "list"],
        &["policy", "history"],
        &["node", "join-token", "mole"],
    ] {
        world.dsictl(command).ends(5);
    }
}
