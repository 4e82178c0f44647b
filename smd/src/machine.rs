//! What the manager does, decided without sockets, clocks, disk or kernel: events in, actions out.
//!
//! Three things hold whatever happens:
//! - the kernel is handed only policies that are believed and rise in version, and only such are stored;
//! - a policy is stored only after the kernel has taken it;
//! - what goes wrong is told to the servers and changes nothing else.
//!
//! At most one operation on the kernel is under way; what comes meanwhile waits, and only the newest of each kind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dsi_proto::netlink::{Mode, Notice, Status};
use dsi_proto::policy::{self, PolicyFault, VerifiedPolicy};
use dsi_proto::v1::{self, FromManager, ToManager, from_manager, to_manager};

use crate::audit::{self, Queue};
use crate::operations::{BroughtUp, Fault, Operation, Outcome};
use crate::peers::{Peers, StoredPeers, Taken};
use crate::persist::Identity;

/// How patient the manager is.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How often it looks how the module is.
    pub poll: Duration,
    /// How often it looks for a module that is not there.
    pub kernel_retry: Duration,
    /// First pause after a lost connection.
    pub reconnect_first: Duration,
    /// Longest pause between two attempts to connect.
    pub reconnect_longest: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(5),
            kernel_retry: Duration::from_secs(2),
            reconnect_first: Duration::from_millis(250),
            reconnect_longest: Duration::from_secs(30),
        }
    }
}

/// What was on the disk when the manager started.
#[derive(Debug, Default)]
pub struct Stored {
    /// The last good policy.
    pub policy: Option<v1::PolicyBundle>,
    /// The other nodes and the keys.
    pub peers: StoredPeers,
    /// Audit events that no server was known to have.
    pub audit: v1::AuditBatch,
}

/// Something that has happened.
#[derive(Debug)]
pub enum Event {
    /// The manager starts.
    Started(Stored),
    /// The operation on the kernel is done.
    Kernel(Outcome),
    /// The kernel told something.
    Notice(Notice),
    /// The kernel's events were lost on the way here.
    NoticesLost(u64),
    /// A server answers.
    Connected,
    /// The connection is gone, or did not come about.
    Disconnected(String),
    /// A server says something.
    Received(ToManager),
    /// Something could not be stored.
    NotStored(String),
    /// It is the time that was asked for.
    Tick,
}

/// Something to do.
#[derive(Debug)]
pub enum Action {
    /// Do something to the kernel, and tell how it went.
    Operate(Operation),
    /// Listen to the kernel's events anew.
    Listen,
    /// Connect to a server and begin with this.
    Connect(v1::Hello),
    /// Let the connection go.
    Disconnect,
    /// Keep this policy as the last good one.
    StorePolicy(Arc<VerifiedPolicy>),
    /// Keep this as what is known of the other nodes.
    StorePeers(StoredPeers),
    /// The kernel was brought to what the disk says, or could not be: the service is ready.
    Ready,
}

enum Module {
    /// Nothing is known yet, or it cannot be reached.
    Absent { retry: Instant },
    /// It answers.
    Present { status: Status, poll: Instant },
}

enum Link {
    Down { retry: Instant },
    Connecting,
    Up,
}

/// What went wrong last, by what it concerned.
#[derive(Debug, Default, PartialEq, Eq)]
struct Faults {
    kernel: String,
    policy: String,
    peers: String,
    storage: String,
}

/// The manager.
pub struct Machine {
    identity: Identity,
    boot: String,
    timing: Timing,
    random: fastrand::Rng,
    module: Module,
    link: Link,
    attempts: u32,
    operating: bool,
    ready: bool,
    good: Option<Arc<VerifiedPolicy>>,
    wanted_policy: Option<Arc<VerifiedPolicy>>,
    installing: Option<Arc<VerifiedPolicy>>,
    stored_peers: StoredPeers,
    peers: Option<Arc<Peers>>,
    peers_wanted: bool,
    poll_wanted: bool,
    taken: Taken,
    refused_policy_version: u64,
    faults: Faults,
    report_due: bool,
    queue: Queue,
}

impl Machine {
    /// A manager that has not started. `boot` tells one life of the kernel from another; `seed` spreads the
    /// managers' attempts to reconnect.
    pub fn new(identity: Identity, boot: String, timing: Timing, seed: u64, now: Instant) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let queue = Queue::new(random.u64(..));
        Self {
            identity,
            boot,
            timing,
            random,
            module: Module::Absent { retry: now },
            link: Link::Down { retry: now },
            attempts: 0,
            operating: false,
            ready: false,
            good: None,
            wanted_policy: None,
            installing: None,
            stored_peers: StoredPeers::default(),
            peers: None,
            peers_wanted: false,
            poll_wanted: false,
            taken: Taken::default(),
            refused_policy_version: 0,
            faults: Faults::default(),
            report_due: false,
            queue,
        }
    }

    /// Takes an event; what is to be done, in this order.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Started(stored) => self.started(stored),
            Event::Kernel(outcome) => {
                self.operating = false;
                self.operated(outcome, now, &mut actions);
            }
            Event::Notice(notice) => self.noticed(notice),
            Event::NoticesLost(count) => self.queue.lose(count),
            Event::Connected => {
                tracing::info!("connected to a server");
                self.link = Link::Up;
                self.report_due = true;
                self.queue.connected();
            }
            Event::Disconnected(why) => self.disconnected(&why, now),
            Event::Received(message) => self.received(message, &mut actions),
            Event::NotStored(why) => {
                self.faults.storage = why;
                self.report_due = true;
            }
            Event::Tick => {}
        }
        self.operate(now, &mut actions);
        self.connect(now, &mut actions);
        actions
    }

    /// When to come again with [`Event::Tick`]; none if only other events matter.
    pub fn next_tick(&self) -> Option<Instant> {
        let kernel = match &self.module {
            _ if self.operating => None,
            Module::Absent { retry } => Some(*retry),
            Module::Present { poll, .. } => Some(*poll),
        };
        let link = match &self.link {
            Link::Down { retry } if self.ready => Some(*retry),
            _ => None,
        };
        kernel.into_iter().chain(link).min()
    }

    /// Whether a server is connected and there is something to tell it.
    pub fn has_outgoing(&self) -> bool {
        matches!(self.link, Link::Up) && (self.report_due || self.queue.has_next())
    }

    /// The next message to the server. The newest report goes first, then the events in their order.
    pub fn next_outgoing(&mut self) -> Option<FromManager> {
        if !matches!(self.link, Link::Up) {
            return None;
        }
        let body = if std::mem::take(&mut self.report_due) {
            from_manager::Body::State(self.report())
        } else {
            from_manager::Body::Audit(self.queue.next_batch()?)
        };
        Some(FromManager { body: Some(body) })
    }

    /// What the module last said about itself; none if it is not there.
    pub fn status(&self) -> Option<&Status> {
        match &self.module {
            Module::Present { status, .. } => Some(status),
            Module::Absent { .. } => None,
        }
    }

    /// Whether a server is connected.
    pub fn is_connected(&self) -> bool {
        matches!(self.link, Link::Up)
    }

    /// Events that no server is known to have.
    pub fn queued_events(&self) -> usize {
        self.queue.len()
    }

    /// The events that no server is known to have, when the manager stops.
    pub fn into_audit(self) -> v1::AuditBatch {
        self.queue.left()
    }

    /// What would be told to a server now.
    pub fn report(&self) -> v1::State {
        let status = self.status();
        let Faults {
            kernel,
            policy,
            peers,
            storage,
        } = &self.faults;
        let told: Vec<&str> = [kernel, policy, peers, storage]
            .into_iter()
            .map(String::as_str)
            .filter(|fault| !fault.is_empty())
            .collect();
        let taken = status.map_or(Taken::default(), |_| self.taken);
        v1::State {
            policy_version: status.map_or(0, |status| status.policy_version),
            mode: status.map_or(String::new(), |status| status.mode.to_string()),
            key_epoch: status.map_or(0, |status| status.key_epoch),
            node_map_version: taken.node_map_version,
            error: told.join("; "),
            refused_policy_version: self.refused_policy_version,
            newest_key_epoch: taken.newest_epoch,
            oldest_key_epoch: taken.oldest_epoch,
        }
    }

    fn started(&mut self, stored: Stored) {
        self.queue.take_over(stored.audit);
        if let Some(bundle) = stored.policy {
            match self.verify(bundle) {
                Ok(policy) => self.good = Some(Arc::new(policy)),
                Err(fault) => {
                    tracing::error!(%fault, "the stored policy is not believed");
                    self.faults.policy =
                        format!("the policy stored on this node is not believed: {fault}");
                }
            }
        }
        match stored.peers.read(self.identity.node.snid) {
            Ok(peers) => {
                self.peers = peers.map(Arc::new);
                self.stored_peers = stored.peers;
            }
            Err(fault) => {
                tracing::error!(%fault, "the stored node map is not usable");
                self.faults.peers = fault.to_string();
            }
        }
    }

    fn verify(&self, bundle: v1::PolicyBundle) -> Result<VerifiedPolicy, PolicyFault> {
        policy::verify(
            bundle,
            &self.identity.anchor_der,
            self.identity.node.cluster,
        )
    }

    fn operated(&mut self, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        match outcome {
            Outcome::BroughtUp(Ok(up)) => self.brought_up(up, now, actions),
            Outcome::BroughtUp(Err(fault)) => self.lost_module(&fault, now),
            Outcome::PeersSet(peers, result) => match result {
                Ok(()) => {
                    self.taken = peers.taken();
                    self.faults.peers.clear();
                    self.report_due = true;
                    self.poll_wanted = true;
                }
                Err(fault) => {
                    tracing::error!(
                        fault = fault.message,
                        "the kernel did not take the node map"
                    );
                    self.faults.peers.clone_from(&fault.message);
                    self.report_due = true;
                    self.look_at(&fault, now);
                }
            },
            Outcome::Installed(policy, result) => self.installed(policy, result, now, actions),
            Outcome::Polled(Ok(status)) => self.polled(status, now),
            Outcome::Polled(Err(fault)) => self.look_at(&fault, now),
        }
        if !std::mem::replace(&mut self.ready, true) {
            actions.push(Action::Ready);
        }
    }

    fn brought_up(&mut self, up: BroughtUp, now: Instant, actions: &mut Vec<Action>) {
        let BroughtUp {
            status,
            taken,
            relabelled,
            configuration_fault,
            peers_fault,
            policy_fault,
        } = up;
        tracing::info!(
            module = status.module_version,
            policy = status.policy_version,
            mode = %status.mode,
            nodes = status.nodes,
            "the kernel module is up"
        );
        for fault in [&configuration_fault, &peers_fault, &policy_fault]
            .into_iter()
            .flatten()
        {
            tracing::error!(fault, "the kernel did not take all that is known here");
        }
        self.faults.kernel = configuration_fault.unwrap_or_default();
        if let Some(fault) = peers_fault {
            self.faults.peers = fault;
        } else if taken.is_some() {
            self.faults.peers.clear();
        }
        if let Some(fault) = policy_fault {
            self.faults.policy = format!("the policy stored on this node: {fault}");
        }
        self.taken = taken.unwrap_or_default();
        self.module = Module::Present {
            status,
            poll: now + self.timing.poll,
        };
        self.report_due = true;
        actions.push(Action::Listen);
        // A connected server has to hear which policy is in force, from a Hello; and sockets that were opened before
        // this process had its ScID may be cut off by a policy.
        if !matches!(self.link, Link::Down { .. }) {
            tracing::info!(relabelled, "connecting anew");
            actions.push(Action::Disconnect);
            self.link = Link::Down { retry: now };
        }
    }

    fn installed(
        &mut self,
        policy: Arc<VerifiedPolicy>,
        result: Result<Status, Fault>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.installing = None;
        match result {
            Ok(status) => {
                tracing::info!(version = policy.version(), mode = %status.mode, "policy in force");
                self.look_after(status, false, now);
                self.faults.policy.clear();
                self.faults.storage.clear();
                self.report_due = true;
                // What is stored already was only put back into a kernel that had lost it.
                if self
                    .good
                    .as_ref()
                    .is_none_or(|good| good.version() < policy.version())
                {
                    self.good = Some(policy.clone());
                    actions.push(Action::StorePolicy(policy));
                }
            }
            Err(fault) if fault.gone => {
                self.refused_policy_version = policy.version();
                self.lost_module(&fault, now);
            }
            Err(fault) => {
                self.refuse(policy.version(), &fault.message);
                // Perhaps it does so because it was loaded anew and knows nothing yet.
                self.poll_wanted = true;
            }
        }
    }

    fn polled(&mut self, status: Status, now: Instant) {
        let known = self.good.as_ref().map_or(0, |policy| policy.version());
        let node = &self.identity.node;
        let configured =
            status.snid == node.snid && status.cluster.as_ref() == Some(node.cluster.as_bytes());
        if let Module::Present { status: former, .. } = &self.module
            && (former.policy_version, former.mode, former.key_epoch)
                != (status.policy_version, status.mode, status.key_epoch)
        {
            self.report_due = true;
        }
        // A module that refuses what is known here is not asked again and again.
        let forgot = !configured || (status.policy_version == 0 && known > 0);
        let refuses = !self.faults.kernel.is_empty() || !self.faults.policy.is_empty();
        self.look_after(status, forgot && !refuses, now);
    }

    /// Takes a module's status as the newest. One that is not the module that was brought up, or that has forgotten
    /// what it was told, is brought up.
    fn look_after(&mut self, status: Status, forgot: bool, now: Instant) {
        let anew = self
            .status()
            .is_some_and(|former| former.instance != status.instance);
        if anew || forgot {
            tracing::warn!(anew, "the kernel module has lost what it was told");
            self.module = Module::Absent { retry: now };
        } else {
            self.module = Module::Present {
                status,
                poll: now + self.timing.poll,
            };
        }
    }

    /// After a fault: whether the module itself is gone.
    fn look_at(&mut self, fault: &Fault, now: Instant) {
        if fault.gone {
            self.lost_module(fault, now);
        }
    }

    fn lost_module(&mut self, fault: &Fault, now: Instant) {
        if self.faults.kernel != fault.message {
            tracing::error!(
                fault = fault.message,
                "the kernel module cannot be used; it is looked for again and again"
            );
            self.faults.kernel.clone_from(&fault.message);
            self.report_due = true;
        }
        self.module = Module::Absent {
            retry: now + self.timing.kernel_retry,
        };
    }

    fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Denial(event) => {
                self.queue
                    .push(audit::message(&event, self.identity.node.snid, &self.boot))
            }
            Notice::PolicyChanged { .. } => self.poll_wanted = true,
            Notice::Lost => self.queue.lose(1),
            // A kind of notice that a newer module sends.
            _ => {}
        }
    }

    fn disconnected(&mut self, why: &str, now: Instant) {
        let longest = self.timing.reconnect_longest;
        let pause = self
            .timing
            .reconnect_first
            .saturating_mul(1 << self.attempts.min(16))
            .min(longest);
        // Half of it at random, so that managers that lost their server together do not come back together.
        let pause = pause.mul_f64(0.5 + self.random.f64() / 2.0);
        self.attempts = self.attempts.saturating_add(1);
        tracing::warn!(why, ?pause, "no server is connected");
        self.link = Link::Down { retry: now + pause };
    }

    fn received(&mut self, message: ToManager, actions: &mut Vec<Action>) {
        // A server that says something is a server: the next loss is a first one.
        self.attempts = 0;
        match message.body {
            Some(to_manager::Body::Policy(bundle)) => self.offered(bundle),
            Some(to_manager::Body::Nodes(map)) => {
                let mut told = self.stored_peers.clone();
                told.map = Some(map);
                self.told_of_peers(told, actions);
            }
            Some(to_manager::Body::Keys(keys)) => {
                let mut told = self.stored_peers.clone();
                told.take_keys(keys);
                self.told_of_peers(told, actions);
            }
            Some(to_manager::Body::AuditTaken(taken)) => self.queue.taken(taken.sequence),
            // A kind of message that a newer server knows.
            None => {}
        }
    }

    fn offered(&mut self, bundle: v1::PolicyBundle) {
        let claimed = bundle.version;
        let policy = match self.verify(bundle) {
            Ok(policy) => Arc::new(policy),
            Err(fault) => return self.refuse(claimed, &fault.to_string()),
        };
        let version = policy.version();
        let Some(status) = self.status() else {
            // The fault of the kernel is told in any case.
            self.refused_policy_version = version;
            self.report_due = true;
            return;
        };
        let versions = |policy: &Option<Arc<VerifiedPolicy>>| {
            policy.as_ref().map_or(0, |policy| policy.version())
        };
        let underway = status
            .policy_version
            .max(versions(&self.wanted_policy))
            .max(versions(&self.installing));
        let newest = underway.max(versions(&self.good));
        if version < newest {
            self.refuse(
                version,
                &format!(
                    "policy version {version} does not rise above {newest}, which this node has"
                ),
            );
        } else if version == underway {
            // Told twice; the server only needs to hear again what is in force.
            self.report_due = true;
        } else {
            self.wanted_policy = Some(policy);
        }
    }

    fn refuse(&mut self, version: u64, why: &str) {
        tracing::error!(
            version,
            why,
            "a policy is refused; the one in force stays in force"
        );
        self.refused_policy_version = version;
        self.faults.policy = format!("policy {version}: {why}");
        self.report_due = true;
    }

    fn told_of_peers(&mut self, told: StoredPeers, actions: &mut Vec<Action>) {
        match told.read(self.identity.node.snid) {
            Ok(peers) => {
                self.peers_wanted = peers.is_some();
                self.peers = peers.map(Arc::new);
                self.stored_peers = told;
                actions.push(Action::StorePeers(self.stored_peers.clone()));
            }
            Err(fault) => {
                tracing::error!(%fault, "a server's node map or keys are not usable; those known before stay");
                self.faults.peers = fault.to_string();
                self.report_due = true;
            }
        }
    }

    /// The next operation on the kernel, if there is one to do and none under way. Peers come before policies: under
    /// an enforcing policy a node that does not know its peers refuses them.
    fn operate(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.operating {
            return;
        }
        let operation = match &self.module {
            Module::Absent { retry } if now >= *retry => Operation::BringUp {
                peers: self.peers.clone(),
                policy: self.good.clone(),
            },
            Module::Absent { .. } => return,
            Module::Present { poll, .. } => {
                if self.peers_wanted
                    && let Some(peers) = self.peers.clone()
                {
                    self.peers_wanted = false;
                    Operation::SetPeers(peers)
                } else if let Some(policy) = self.wanted_policy.take() {
                    self.installing = Some(policy.clone());
                    Operation::Install(policy)
                } else if self.poll_wanted || now >= *poll {
                    self.poll_wanted = false;
                    Operation::Poll
                } else {
                    return;
                }
            }
        };
        self.operating = true;
        actions.push(Action::Operate(operation));
    }

    /// Connects when it is time to. Not before the kernel was looked after: the node is protected first, and the
    /// management's sockets have its ScID from their first packet.
    fn connect(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Link::Down { retry } = self.link
            && self.ready
            && now >= retry
        {
            self.link = Link::Connecting;
            let status = self.status();
            actions.push(Action::Connect(v1::Hello {
                protocol: dsi_proto::PROTOCOL,
                software_version: env!("CARGO_PKG_VERSION").to_owned(),
                module_version: status
                    .map(|status| status.module_version.clone())
                    .unwrap_or_default(),
                policy_version: status.map_or(0, |status| status.policy_version),
                key_epoch: status.map_or(0, |status| status.key_epoch),
                addresses: self
                    .identity
                    .node
                    .addresses
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            }));
        }
    }
}

/// Whether the module carries refusals out.
pub fn is_enforcing(status: &Status) -> bool {
    matches!(status.mode, Mode::Enforcing | Mode::Closed)
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
