//! Which managers are connected, and what they last said about themselves.
//!
//! Kept in memory only: it is what the managers say, and they say it again when they reconnect. Of two streams of
//! one node the newer one counts; the older one is ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use dsi_proto::v1;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::state::{Node, SnId};

/// Longest text that is kept of a manager's.
const MAX_TEXT: usize = 1024;

/// Changes that a slow watcher may fall behind before it has to look at everything again.
const CHANGES: usize = 1024;

/// What a manager last said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Release of the module in its kernel; empty if none is loaded.
    pub module_version: String,
    /// Policy that its kernel enforces.
    pub policy_version: u64,
    /// What its kernel does with a refusal.
    pub mode: String,
    /// Key epoch that its kernel stamps with.
    pub key_epoch: u32,
    /// Node map that its kernel has.
    pub node_map_version: u64,
    /// Why the last thing could not be applied.
    pub error: String,
    /// The policy that it refused last.
    pub refused_policy_version: u64,
}

#[derive(Clone, Debug, Default)]
struct Live {
    session: Option<(u64, CancellationToken)>,
    report: Report,
    last_seen_unix_ms: i64,
}

/// The managers of a cluster, as this server sees them.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Mutex<Shared>>,
    changes: broadcast::Sender<SnId>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Shared {
    nodes: BTreeMap<SnId, Live>,
    sessions: u64,
}

/// How far a policy has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Connected nodes whose kernels enforce it, or a newer one.
    pub enforcing: u32,
    /// Connected nodes that have refused it.
    pub refused: u32,
    /// Connected nodes.
    pub expected: u32,
}

impl Progress {
    /// Whether every connected node has answered.
    pub fn is_done(self) -> bool {
        self.enforcing + self.refused >= self.expected
    }
}

impl Hub {
    /// Nobody is connected yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            shared: Arc::default(),
            changes: broadcast::channel(CHANGES).0,
            metrics,
        }
    }

    /// A manager has connected. Its former session, if there still is one, is ended.
    pub fn connect(&self, snid: SnId, hello: &v1::Hello, now_unix_ms: i64) -> Session {
        let ended = CancellationToken::new();
        let id = {
            let mut shared = self.shared.lock();
            shared.sessions += 1;
            let id = shared.sessions;
            let live = shared.nodes.entry(snid).or_default();
            if let Some((_, former)) = live.session.replace((id, ended.clone())) {
                former.cancel();
            } else {
                self.metrics.managers.inc();
            }
            live.last_seen_unix_ms = now_unix_ms;
            live.report = Report {
                module_version: tame(&hello.module_version),
                policy_version: hello.policy_version,
                key_epoch: hello.key_epoch,
                ..Report::default()
            };
            id
        };
        self.changed(snid);
        Session {
            hub: self.clone(),
            snid,
            id,
            ended,
        }
    }

    /// Ends all sessions.
    pub fn close(&self) {
        for live in self.shared.lock().nodes.values() {
            if let Some((_, session)) = &live.session {
                session.cancel();
            }
        }
    }

    /// Ends the session of a node.
    pub fn disconnect(&self, snid: SnId) {
        let shared = self.shared.lock();
        let live = shared.nodes.get(&snid);
        if let Some((_, session)) = live.and_then(|live| live.session.as_ref()) {
            session.cancel();
        }
    }

    /// What the connected nodes last said.
    pub fn connected(&self) -> BTreeMap<SnId, Report> {
        let shared = self.shared.lock();
        let connected = shared
            .nodes
            .iter()
            .filter(|(_, live)| live.session.is_some());
        connected
            .map(|(snid, live)| (*snid, live.report.clone()))
            .collect()
    }

    /// Tells of each change of a node. Who falls behind is told so and looks at everything again.
    pub fn changes(&self) -> broadcast::Receiver<SnId> {
        self.changes.subscribe()
    }

    /// How far a policy has come.
    pub fn progress(&self, version: u64) -> Progress {
        let shared = self.shared.lock();
        let mut progress = Progress::default();
        for live in shared.nodes.values().filter(|live| live.session.is_some()) {
            progress.expected += 1;
            if live.report.policy_version >= version {
                progress.enforcing += 1;
            } else if live.report.refused_policy_version >= version {
                progress.refused += 1;
            }
        }
        progress
    }

    /// A node as administrators see it.
    pub fn describe(&self, node: &Node) -> v1::Node {
        let live = self
            .shared
            .lock()
            .nodes
            .get(&node.snid)
            .cloned()
            .unwrap_or_default();
        v1::Node {
            snid: node.snid,
            name: node.name.clone(),
            addresses: node.addresses.iter().map(ToString::to_string).collect(),
            connected: live.session.is_some(),
            policy_version: live.report.policy_version,
            mode: live.report.mode,
            module_version: live.report.module_version,
            key_epoch: live.report.key_epoch,
            last_seen_unix_ms: live.last_seen_unix_ms,
            last_error: live.report.error,
        }
    }

    fn changed(&self, snid: SnId) {
        // Without watchers there is nobody to tell.
        let _ = self.changes.send(snid);
    }
}

/// A manager's connection; dropped, the node is disconnected.
pub struct Session {
    hub: Hub,
    snid: SnId,
    id: u64,
    ended: CancellationToken,
}

impl Session {
    /// Cancelled when the session has to end: a newer one has replaced it, or the server stops.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// The manager has said something new about itself.
    pub fn report(&self, state: &v1::State, now_unix_ms: i64) {
        self.update(now_unix_ms, |report| {
            report.policy_version = state.policy_version;
            report.mode = tame(&state.mode);
            report.key_epoch = state.key_epoch;
            report.node_map_version = state.node_map_version;
            report.error = tame(&state.error);
            report.refused_policy_version = state.refused_policy_version;
        });
    }

    fn update(&self, now_unix_ms: i64, change: impl FnOnce(&mut Report)) {
        {
            let mut shared = self.hub.shared.lock();
            let Some(live) = shared.nodes.get_mut(&self.snid) else {
                return;
            };
            if live.session.as_ref().is_none_or(|(id, _)| *id != self.id) {
                return;
            }
            live.last_seen_unix_ms = now_unix_ms;
            change(&mut live.report);
        }
        self.hub.changed(self.snid);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        {
            let mut shared = self.hub.shared.lock();
            let Some(live) = shared.nodes.get_mut(&self.snid) else {
                return;
            };
            if live.session.as_ref().is_none_or(|(id, _)| *id != self.id) {
                return;
            }
            live.session = None;
            self.hub.metrics.managers.dec();
        }
        self.hub.changed(self.snid);
    }
}

/// Bounds a manager's text and takes out what could steer a terminal; line breaks stay.
fn tame(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(policy_version: u64) -> v1::Hello {
        v1::Hello {
            protocol: dsi_proto::PROTOCOL,
            policy_version,
            ..v1::Hello::default()
        }
    }

    fn state(policy_version: u64, refused_policy_version: u64) -> v1::State {
        v1::State {
            policy_version,
            refused_policy_version,
            ..v1::State::default()
        }
    }

    #[test]
    fn progress_counts_connected_nodes_only() {
        let hub = Hub::new(Metrics::new().0);
        assert!(
            hub.progress(1).is_done(),
            "with nobody there, nobody is waited for"
        );
        let first = hub.connect(1, &hello(0), 0);
        let second = hub.connect(2, &hello(3), 0);
        assert_eq!(
            hub.progress(3),
            Progress {
                enforcing: 1,
                refused: 0,
                expected: 2
            }
        );
        first.report(&state(2, 3), 0);
        assert_eq!(
            hub.progress(3),
            Progress {
                enforcing: 1,
                refused: 1,
                expected: 2
            }
        );
        assert!(hub.progress(3).is_done());
        assert!(!hub.progress(4).is_done());
        drop(second);
        assert_eq!(
            hub.progress(3),
            Progress {
                enforcing: 0,
                refused: 1,
                expected: 1
            }
        );
    }

    #[test]
    fn newer_session_replaces_the_older_one() {
        let hub = Hub::new(Metrics::new().0);
        let older = hub.connect(1, &hello(1), 0);
        let newer = hub.connect(1, &hello(2), 0);
        assert!(older.ended().is_cancelled() && !newer.ended().is_cancelled());
        older.report(&state(9, 0), 0);
        drop(older);
        assert_eq!(
            hub.progress(2),
            Progress {
                enforcing: 1,
                refused: 0,
                expected: 1
            },
            "the older one has no say"
        );
        hub.close();
        assert!(newer.ended().is_cancelled());
    }
}
