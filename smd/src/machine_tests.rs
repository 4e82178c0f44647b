//! The machine against every story that matters, and against random ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dsi_proto::netlink::{NetlinkError, Status};
use dsi_proto::signature::{self, Signer};
use dsp_schema::CompileInput;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::persist::NodeDescription;

const SOURCE: &str = r#"<DSP xmlns="urn:dsi:dsp:1" version_label="t" mode="enforcing" default="deny">
<contexts><context ScID="10" name="a"/></contexts>
<rules><transition><parent_ScID>2</parent_ScID><binary_ScID>10</binary_ScID><new_ScID>10</new_ScID></transition></rules>
</DSP>"#;

const CLUSTER: Uuid = Uuid::from_u128(7);

fn bundle(signer: &Signer, version: u64, cluster: Uuid) -> v1::PolicyBundle {
    let document = dsp_schema::parse("t.xml", SOURCE.as_bytes()).unwrap();
    let input = CompileInput {
        cluster_uuid: *cluster.as_bytes(),
        version,
    };
    let image = dsp_schema::compile(&document, &input).unwrap();
    let signature = signature::sign_detached(signer, &image).unwrap();
    v1::PolicyBundle {
        version,
        image,
        source: SOURCE.into(),
        signature,
    }
}

fn map(version: u64, nodes: &[u32]) -> ToManager {
    let nodes = nodes.iter().map(|&snid| v1::Node {
        snid,
        addresses: vec![format!("192.0.2.{snid}")],
        ..v1::Node::default()
    });
    let map = v1::NodeMap {
        version,
        nodes: nodes.collect(),
        self_snid: 1,
    };
    ToManager {
        body: Some(to_manager::Body::Nodes(map)),
    }
}

fn keys(epoch: u32) -> ToManager {
    let keys = v1::Keys {
        epoch,
        receive_secret: vec![1; 16],
        send: vec![],
        active: true,
    };
    ToManager {
        body: Some(to_manager::Body::Keys(keys)),
    }
}

fn policy(bundle: v1::PolicyBundle) -> Event {
    Event::Received(ToManager {
        body: Some(to_manager::Body::Policy(bundle)),
    })
}

/// A machine with a world around it that does what the machine says.
struct World {
    machine: Machine,
    signer: Signer,
    now: Instant,
    kernel: Option<Status>,
    kernel_refuses: Option<&'static str>,
    operation: Option<Operation>,
    disk_policy: u64,
    disk_peers: u64,
    connects: Vec<v1::Hello>,
    disconnects: usize,
    installed: Vec<u64>,
    ready: usize,
}

impl World {
    fn new() -> Self {
        let signer = signature::generate_signer("signer").unwrap();
        let node = NodeDescription {
            name: "munster".into(),
            snid: 1,
            cluster: CLUSTER,
            servers: vec!["ss.example".parse().unwrap()],
            addresses: vec!["192.0.2.1".parse().unwrap()],
        };
        let identity = Identity {
            node,
            anchor_der: signer.certificate_der().to_vec(),
        };
        let now = Instant::now();
        let machine = Machine::new(identity, "00000000".into(), Timing::default(), 1, now);
        Self {
            machine,
            signer,
            now,
            kernel: Some(fresh_module()),
            kernel_refuses: None,
            operation: None,
            disk_policy: 0,
            disk_peers: 0,
            connects: Vec::new(),
            disconnects: 0,
            installed: Vec::new(),
            ready: 0,
        }
    }

    fn bundle(&self, version: u64) -> v1::PolicyBundle {
        bundle(&self.signer, version, CLUSTER)
    }

    fn tell(&mut self, event: Event) {
        for action in self.machine.on(event, self.now) {
            match action {
                Action::Operate(operation) => {
                    assert!(
                        self.operation.replace(operation).is_none(),
                        "one operation at a time"
                    );
                }
                Action::Connect(hello) => self.connects.push(hello),
                Action::Disconnect => self.disconnects += 1,
                Action::StorePolicy(policy) => {
                    assert!(policy.version() > self.disk_policy, "what is stored rises");
                    assert!(
                        self.installed.contains(&policy.version()),
                        "the kernel has taken what is stored"
                    );
                    self.disk_policy = policy.version();
                }
                Action::StorePeers(peers) => {
                    self.disk_peers = peers.map.as_ref().map_or(0, |map| map.version)
                }
                Action::Listen => {}
                Action::Ready => self.ready += 1,
            }
        }
    }

    /// Lets the kernel finish what it does, and all that follows from it.
    fn settle(&mut self) {
        while let Some(operation) = self.operation.take() {
            let outcome = self.operate(operation);
            self.tell(Event::Kernel(outcome));
        }
    }

    fn operate(&mut self, operation: Operation) -> Outcome {
        let gone = || Fault::from(NetlinkError::ModuleNotLoaded);
        match operation {
            Operation::BringUp { peers, policy } => Outcome::BroughtUp(match &mut self.kernel {
                None => Err(gone()),
                Some(kernel) => {
                    kernel.snid = 1;
                    kernel.cluster = Some(*CLUSTER.as_bytes());
                    if let Some(policy) =
                        policy.filter(|policy| policy.version() > kernel.policy_version)
                    {
                        kernel.policy_version = policy.version();
                        kernel.mode = Mode::Enforcing;
                        self.installed.push(policy.version());
                    }
                    Ok(BroughtUp {
                        status: kernel.clone(),
                        taken: peers.map(|peers| peers.taken()),
                        relabelled: false,
                        configuration_fault: None,
                        peers_fault: None,
                        policy_fault: None,
                    })
                }
            }),
            Operation::SetPeers(peers) => {
                let result = if self.kernel.is_some() {
                    Ok(())
                } else {
                    Err(gone())
                };
                Outcome::PeersSet(peers, result)
            }
            Operation::Install(policy) => {
                let result = match (&mut self.kernel, self.kernel_refuses) {
                    (None, _) => Err(gone()),
                    (Some(_), Some(why)) => Err(Fault {
                        gone: false,
                        message: why.into(),
                    }),
                    (Some(kernel), None) => {
                        assert!(
                            policy.version() > kernel.policy_version,
                            "what the kernel is handed rises"
                        );
                        kernel.policy_version = policy.version();
                        kernel.mode = Mode::Enforcing;
                        self.installed.push(policy.version());
                        Ok(kernel.clone())
                    }
                };
                Outcome::Installed(policy, result)
            }
            Operation::Poll => Outcome::Polled(self.kernel.clone().ok_or_else(gone)),
        }
    }

    fn start(&mut self, stored: Stored) {
        self.tell(Event::Started(stored));
        self.settle();
    }

    fn started() -> Self {
        let mut world = Self::new();
        world.start(Stored::default());
        world.tell(Event::Connected);
        world
    }

    /// Lets time pass to the next tick.
    fn tick(&mut self) {
        self.now = self
            .machine
            .next_tick()
            .expect("something is waited for")
            .max(self.now);
        self.tell(Event::Tick);
        self.settle();
    }

    fn last_batch(&mut self) -> Option<v1::AuditBatch> {
        let mut last = None;
        while let Some(message) = self.machine.next_outgoing() {
            if let Some(from_manager::Body::Audit(batch)) = message.body {
                last = Some(batch);
            }
        }
        last
    }

    fn last_report(&mut self) -> Option<v1::State> {
        let mut last = None;
        while let Some(message) = self.machine.next_outgoing() {
            if let Some(from_manager::Body::State(state)) = message.body {
                last = Some(state);
            }
        }
        last
    }
}

/// Loads of any module so far.
static LOADS: AtomicU64 = AtomicU64::new(1);

fn fresh_module() -> Status {
    Status {
        is_whole: true,
        module_version: "0.1.0".into(),
        mode: Mode::NoPolicy,
        policy_version: 0,
        policy_epoch: 0,
        snid: 0,
        cluster: None,
        key_epoch: 0,
        nodes: 0,
        tasks: 0,
        sockets: 0,
        anchor: false,
        hooks: vec![],
        counters: vec![],
        instance: LOADS.fetch_add(1, Ordering::Relaxed),
    }
}

#[test]
fn kernel_is_looked_after_before_a_server_is_called() {
    let mut world = World::new();
    world.tell(Event::Started(Stored::default()));
    assert!(world.connects.is_empty() && world.operation.is_some());
    world.settle();
    assert_eq!((world.connects.len(), world.ready), (1, 1));
    assert_eq!(world.connects[0].module_version, "0.1.0");
}

#[test]
fn good_policy_is_installed_then_stored_then_reported() {
    let mut world = World::started();
    world.tell(policy(world.bundle(3)));
    assert_eq!(world.disk_policy, 0, "not before the kernel has it");
    world.settle();
    assert_eq!(
        (world.installed.as_slice(), world.disk_policy),
        ([3].as_slice(), 3)
    );
    let report = world.last_report().unwrap();
    assert_eq!(
        (
            report.policy_version,
            report.mode.as_str(),
            report.error.as_str()
        ),
        (3, "enforcing", "")
    );
}

#[test]
fn unbelievable_policies_are_refused_and_change_nothing() {
    let mut world = World::started();
    world.tell(policy(world.bundle(3)));
    world.settle();
    let foreign = signature::generate_signer("signer").unwrap();
    let good = world.bundle(5);
    let mut flipped = good.clone();
    flipped.image[200] ^= 1;
    let mut truncated = good.clone();
    truncated.image.truncate(100);
    let cases = [
        (
            v1::PolicyBundle {
                signature: vec![],
                ..good.clone()
            },
            "not signed",
        ),
        (bundle(&foreign, 5, CLUSTER), "sign"),
        (flipped, "signature"),
        (truncated, "signature"),
        (bundle(&world.signer, 5, Uuid::from_u128(8)), "cluster"),
        (
            v1::PolicyBundle {
                source: b"<other/>".to_vec(),
                ..good.clone()
            },
            "source",
        ),
        (
            v1::PolicyBundle {
                version: 6,
                ..good.clone()
            },
            "version",
        ),
        (world.bundle(2), "does not rise"),
    ];
    for (bad, word) in cases {
        let version = bad.version;
        world.tell(policy(bad));
        world.settle();
        let report = world.last_report().unwrap();
        assert_eq!(
            (report.policy_version, report.refused_policy_version),
            (3, version),
            "{word}"
        );
        assert!(report.error.contains(word), "{word}: {}", report.error);
        assert_eq!(
            (world.installed.as_slice(), world.disk_policy),
            ([3].as_slice(), 3),
            "{word}"
        );
    }
    world.tell(policy(good));
    world.settle();
    let report = world.last_report().unwrap();
    assert_eq!(
        (report.policy_version, report.error.as_str()),
        (5, ""),
        "the good one is taken after them all"
    );
}

#[test]
fn policy_that_the_kernel_refuses_is_not_stored_and_told_in_its_words() {
    let mut world = World::started();
    world.kernel_refuses = Some("image: bucket 7 is too long");
    world.tell(policy(world.bundle(3)));
    world.settle();
    let report = world.last_report().unwrap();
    assert_eq!(
        (
            report.policy_version,
            report.refused_policy_version,
            world.disk_policy
        ),
        (0, 3, 0)
    );
    assert!(report.error.contains("bucket 7"), "{}", report.error);
    world.kernel_refuses = None;
    world.tell(policy(world.bundle(4)));
    world.settle();
    assert_eq!(world.last_report().unwrap().error, "");
    assert_eq!(world.disk_policy, 4);
}

#[test]
fn of_policies_that_come_together_the_newest_is_installed() {
    let mut world = World::started();
    for version in [3, 4, 6, 5] {
        world.tell(policy(world.bundle(version)));
    }
    world.settle();
    assert_eq!(world.installed, [3, 6]);
    assert_eq!(world.disk_policy, 6);
}

#[test]
fn peers_go_to_the_kernel_before_a_policy() {
    let mut world = World::started();
    world.tell(Event::Tick);
    world.now += Duration::from_secs(60);
    world.tell(Event::Tick);
    assert!(matches!(world.operation, Some(Operation::Poll)));
    world.tell(policy(world.bundle(3)));
    world.tell(Event::Received(map(9, &[1, 2])));
    world.tell(Event::Received(keys(1)));
    let operation = world.operation.take().unwrap();
    let outcome = world.operate(operation);
    world.tell(Event::Kernel(outcome));
    assert!(matches!(world.operation, Some(Operation::SetPeers(_))));
    world.settle();
    assert_eq!(
        (world.installed.as_slice(), world.disk_peers),
        ([3].as_slice(), 9)
    );
    assert_eq!(world.last_report().unwrap().node_map_version, 9);
}

#[test]
fn broken_peers_are_told_and_those_known_stay() {
    let mut world = World::started();
    world.tell(Event::Received(map(1, &[1, 2])));
    world.settle();
    world.tell(Event::Received(map(2, &[1, 1])));
    world.settle();
    let report = world.last_report().unwrap();
    assert!(report.error.contains("192.0.2.1"), "{}", report.error);
    assert_eq!((report.node_map_version, world.disk_peers), (1, 1));
}

#[test]
fn stored_policy_is_in_force_again_without_any_server() {
    let mut world = World::new();
    let stored = Stored {
        policy: Some(world.bundle(3)),
        ..Stored::default()
    };
    world.start(stored);
    assert_eq!(world.installed, [3]);
    assert_eq!(world.connects[0].policy_version, 3);
}

#[test]
fn stored_policy_that_is_not_believed_is_not_installed() {
    let mut world = World::new();
    let mut policy = world.bundle(3);
    policy.image[200] ^= 1;
    world.start(Stored {
        policy: Some(policy),
        ..Stored::default()
    });
    world.tell(Event::Connected);
    assert!(world.installed.is_empty());
    assert!(world.last_report().unwrap().error.contains("not believed"));
}

#[test]
fn module_that_is_absent_is_looked_for_and_then_brought_up() {
    let mut world = World::new();
    world.kernel = None;
    let stored = Stored {
        policy: Some(world.bundle(3)),
        ..Stored::default()
    };
    world.start(stored);
    assert_eq!(
        (world.ready, world.connects.len()),
        (1, 1),
        "a server hears of it all the same"
    );
    world.tell(Event::Connected);
    assert!(world.last_report().unwrap().error.contains("insmod dsm.ko"));
    world.tell(policy(world.bundle(4)));
    let report = world.last_report().unwrap();
    assert_eq!(report.refused_policy_version, 4);
    assert!(report.error.contains("insmod dsm.ko"), "{}", report.error);

    world.kernel = Some(fresh_module());
    world.tick();
    assert_eq!(world.installed, [3]);
    assert_eq!(
        (world.disconnects, world.connects.len()),
        (1, 2),
        "a new Hello says what is in force"
    );
    assert_eq!(world.connects[1].policy_version, 3);
}

#[test]
fn module_that_was_loaded_anew_gets_everything_back() {
    let mut world = World::started();
    world.tell(Event::Received(map(9, &[1, 2])));
    world.tell(Event::Received(keys(1)));
    world.tell(policy(world.bundle(3)));
    world.settle();
    world.kernel = Some(fresh_module());
    world.tick();
    assert_eq!(world.installed, [3, 3]);
    assert_eq!(world.kernel.as_ref().unwrap().policy_version, 3);
    world.tell(Event::Connected);
    assert_eq!(world.last_report().unwrap().node_map_version, 9);
}

#[test]
fn module_that_was_loaded_anew_after_a_refusal_gets_everything_back() {
    let mut world = World::started();
    world.tell(Event::Received(map(9, &[1, 2])));
    world.tell(Event::Received(keys(1)));
    world.tell(policy(world.bundle(3)));
    world.settle();
    world.kernel_refuses = Some("no");
    world.tell(policy(world.bundle(4)));
    world.settle();
    // The twin: one that refuses and was not loaded anew is left alone.
    let connects = world.connects.len();
    world.tick();
    assert_eq!(
        (world.installed.as_slice(), world.connects.len()),
        ([3].as_slice(), connects)
    );
    world.kernel_refuses = None;
    world.kernel = Some(fresh_module());
    world.tick();
    assert_eq!(world.installed, [3, 3]);
    assert_eq!(world.kernel.as_ref().unwrap().policy_version, 3);
    // A new Hello lets the server send the refused one again.
    assert_eq!(world.connects.len(), connects + 1);
    assert_eq!(world.connects.last().unwrap().policy_version, 3);
}

#[test]
fn module_that_was_loaded_anew_with_a_policy_of_its_own_gets_everything_back() {
    let mut world = World::started();
    world.tell(Event::Received(map(9, &[1, 2])));
    world.tell(policy(world.bundle(3)));
    world.settle();
    let mut other = fresh_module();
    (other.snid, other.cluster) = (1, Some(*CLUSTER.as_bytes()));
    (other.policy_version, other.mode) = (3, Mode::Enforcing);
    world.kernel = Some(other);
    world.tick();
    assert_eq!(
        (world.disconnects, world.connects.len()),
        (1, 2),
        "it was brought up"
    );
    // One that takes the next policy before anybody has looked at it.
    let mut other = fresh_module();
    (other.snid, other.cluster) = (1, Some(*CLUSTER.as_bytes()));
    world.kernel = Some(other);
    world.tell(Event::Connected);
    world.tell(policy(world.bundle(4)));
    world.settle();
    assert_eq!(
        (world.disconnects, world.connects.len()),
        (2, 3),
        "so was this"
    );
    assert_eq!(world.kernel.as_ref().unwrap().policy_version, 4);
}

#[test]
fn report_names_the_keys_that_the_kernel_has() {
    let mut world = World::started();
    world.tell(Event::Received(map(9, &[1, 2])));
    world.tell(Event::Received(keys(1)));
    world.tell(Event::Received(keys(2)));
    world.settle();
    let report = world.last_report().unwrap();
    assert_eq!((report.newest_key_epoch, report.oldest_key_epoch), (2, 2));
    world.kernel = None;
    world.tick();
    let report = world.last_report().unwrap();
    assert_eq!((report.newest_key_epoch, report.oldest_key_epoch), (0, 0));
}

#[test]
fn lost_connections_are_made_again_later_and_later_until_a_server_speaks() {
    let mut world = World::started();
    let mut pauses = Vec::new();
    for _ in 0..12 {
        world.tell(Event::Disconnected("gone".into()));
        let before = world.connects.len();
        let lost = world.now;
        while world.connects.len() == before {
            world.tick();
        }
        pauses.push(world.now - lost);
    }
    let timing = Timing::default();
    assert!(pauses[0] <= timing.reconnect_first && pauses[0] >= timing.reconnect_first / 2);
    assert!(
        pauses
            .iter()
            .all(|pause| *pause <= timing.reconnect_longest)
    );
    assert!(pauses[11] >= timing.reconnect_longest / 2);
    world.tell(Event::Connected);
    world.tell(Event::Received(map(1, &[1])));
    world.settle();
    world.tell(Event::Disconnected("gone".into()));
    let pause = world.machine.next_tick().unwrap() - world.now;
    assert!(pause <= timing.reconnect_first, "{pause:?}");
}

#[test]
fn events_wait_for_a_server_and_come_after_the_report() {
    let mut world = World::new();
    world.start(Stored::default());
    let event = dsi_proto::netlink::Event {
        id: 5,
        time_ns: 1,
        enforced: true,
        reason: dsi_proto::netlink::Reason::NoPermission,
        class: dsi_proto::netlink::Class::Network,
        permission: "send".into(),
        sscid: 10,
        ssnid: 1,
        tscid: 20,
        tsnid: 2,
        protocol: 17,
        source: Some("192.0.2.1".parse().unwrap()),
        target: None,
        source_port: 1,
        target_port: 2,
        pid: 3,
        comm: "x".into(),
        rule: 0,
        policy_version: 3,
        suppressed: 0,
        hook: "h".into(),
    };
    world.tell(Event::Notice(Notice::Denial(Box::new(event))));
    assert!(!world.machine.has_outgoing() && world.machine.next_outgoing().is_none());
    world.tell(Event::Connected);
    let bodies: Vec<_> = std::iter::from_fn(|| world.machine.next_outgoing())
        .map(|message| message.body)
        .collect();
    let [
        Some(from_manager::Body::State(_)),
        Some(from_manager::Body::Audit(batch)),
    ] = bodies.as_slice()
    else {
        panic!("{bodies:?}")
    };
    let told = batch.clone();
    assert_eq!(batch.events[0].id, "1-00000000-5");
    assert_eq!(
        (
            batch.events[0].protocol.as_str(),
            batch.events[0].reason.as_str()
        ),
        ("udp", "no-permission")
    );

    // The connection was lost before the server had written it.
    world.tell(Event::Disconnected("gone".into()));
    world.tell(Event::Connected);
    assert_eq!(world.last_batch(), Some(told.clone()));
    let sequence = told.sequence;
    let taken = to_manager::Body::AuditTaken(v1::AuditTaken { sequence });
    world.tell(Event::Received(ToManager { body: Some(taken) }));
    world.tell(Event::Disconnected("gone".into()));
    world.tell(Event::Connected);
    assert_eq!(world.last_batch(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Policy(u64),
    Damaged(u64),
    Map(u64),
    Connected,
    Disconnected,
    KernelGone,
    KernelBack,
    KernelReloaded,
    KernelRefuses(bool),
    Settle,
    Tick,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..8).prop_map(Step::Policy),
        1 => (1u64..8).prop_map(Step::Damaged),
        1 => (1u64..8).prop_map(Step::Map),
        1 => Just(Step::Connected),
        1 => Just(Step::Disconnected),
        1 => Just(Step::KernelGone),
        1 => Just(Step::KernelBack),
        1 => Just(Step::KernelReloaded),
        1 => any::<bool>().prop_map(Step::KernelRefuses),
        4 => Just(Step::Settle),
        2 => Just(Step::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The assertions in [`World`] hold in any story; and when the world is kind again, the newest policy is in force.
    #[test]
    fn any_story_keeps_the_promises_and_ends_well(steps in prop::collection::vec(any_step(), 0..40)) {
        let mut world = World::started();
        for step in steps {
            match step {
                Step::Policy(version) => {
                    let bundle = world.bundle(version);
                    world.tell(policy(bundle));
                }
                Step::Damaged(version) => {
                    let mut bundle = world.bundle(version);
                    bundle.image[130] ^= 4;
                    world.tell(policy(bundle));
                }
                Step::Map(version) => world.tell(Event::Received(map(version, &[1, 2]))),
                Step::Connected => world.tell(Event::Connected),
                Step::Disconnected => world.tell(Event::Disconnected("gone".into())),
                Step::KernelGone => world.kernel = None,
                Step::KernelBack => { world.kernel.get_or_insert_with(fresh_module); }
                Step::KernelReloaded => world.kernel = Some(fresh_module()),
                Step::KernelRefuses(refuses) => world.kernel_refuses = refuses.then_some("no"),
                Step::Settle => world.settle(),
                Step::Tick => {
                    world.settle();
                    if world.machine.next_tick().is_some() {
                        world.tick();
                    }
                }
            }
        }
        world.kernel.get_or_insert_with(fresh_module);
        world.kernel_refuses = None;
        world.settle();
        for _ in 0..8 {
            world.tick();
        }
        world.tell(Event::Connected);
        let bundle = world.bundle(9);
        world.tell(policy(bundle));
        world.settle();
        prop_assert_eq!(world.kernel.as_ref().map(|kernel| kernel.policy_version), Some(9));
        prop_assert_eq!(world.disk_policy, 9);
        let report = world.last_report().unwrap();
        prop_assert_eq!(report.policy_version, 9);
    }
}
