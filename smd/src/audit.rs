//! The way of a refusal out of the kernel: turned into a message, queued, sent when a server listens.
//!
//! The queue is bounded. What does not fit is dropped, oldest first, and counted: an auditor can see that he has not
//! seen everything. What was sent is kept until a server says that it has written it, and sent again on the next
//! connection otherwise.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dsi_proto::netlink::{Event, NetlinkError, Notice};
use dsi_proto::v1::{AuditBatch, AuditEvent};
use dsi_proto::{AUDIT_BATCH, AUDIT_WINDOW};
use tokio::sync::mpsc;

use crate::kernel::{Events, KernelAccess};

/// Events kept while no server listens.
pub const QUEUE: usize = 16_384;

/// Notices between the listening thread and the driver.
const NOTICES: usize = 1024;

/// How often the listening thread looks up from its socket.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long it waits before it tries again to listen.
const RETRY: Duration = Duration::from_secs(1);

/// A refusal as it is told to the servers. `boot` tells one life of the kernel from another.
pub fn message(event: &Event, snid: u32, boot: &str) -> AuditEvent {
    AuditEvent {
        id: format!("{snid}-{boot}-{}", event.id),
        node_snid: snid,
        node_name: String::new(),
        time_unix_ns: i64::try_from(event.time_ns).unwrap_or(i64::MAX),
        enforced: event.enforced,
        reason: event.reason.to_string(),
        class: event.class.to_string(),
        permission: event.permission.clone(),
        sscid: event.sscid,
        ssnid: event.ssnid,
        tscid: event.tscid,
        tsnid: event.tsnid,
        protocol: match event.protocol {
            0 => String::new(),
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        },
        source_address: event
            .source
            .map(|address| address.to_string())
            .unwrap_or_default(),
        source_port: event.source_port.into(),
        target_address: event
            .target
            .map(|address| address.to_string())
            .unwrap_or_default(),
        target_port: event.target_port.into(),
        pid: event.pid,
        comm: event.comm.clone(),
        rule: event.rule,
        policy_version: event.policy_version,
        suppressed: event.suppressed,
        hook: event.hook.clone(),
    }
}

/// Events that wait for a server, and batches that wait for its answer.
#[derive(Debug)]
pub struct Queue {
    stream: u64,
    events: VecDeque<AuditEvent>,
    dropped: u64,
    /// Not answered yet, oldest first.
    unanswered: VecDeque<AuditBatch>,
    /// How many of `unanswered` were sent on this connection.
    sent: usize,
    sequence: u64,
}

impl Queue {
    /// An empty queue; `stream` tells this life of the manager from another.
    pub fn new(stream: u64) -> Self {
        Self {
            stream,
            events: VecDeque::new(),
            dropped: 0,
            unanswered: VecDeque::new(),
            sent: 0,
            sequence: 0,
        }
    }

    /// Puts an event in; the oldest that was not sent makes room.
    pub fn push(&mut self, event: AuditEvent) {
        if self.events.len() == QUEUE {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back(event);
    }

    /// Events that were lost elsewhere.
    pub fn lose(&mut self, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
    }

    /// Events that no server is known to have.
    pub fn len(&self) -> usize {
        let unanswered = self.unanswered.iter().map(|batch| batch.events.len());
        self.events.len() + unanswered.sum::<usize>()
    }

    /// Whether every event is known to be at a server.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.dropped == 0 && self.unanswered.is_empty()
    }

    /// Whether there is something to send now.
    pub fn has_next(&self) -> bool {
        let new = !self.events.is_empty() || self.dropped > 0;
        self.sent < self.unanswered.len() || (new && self.unanswered.len() < AUDIT_WINDOW)
    }

    /// The next message; none if there is nothing to tell, or if the server owes too many answers.
    pub fn next_batch(&mut self) -> Option<AuditBatch> {
        if !self.has_next() {
            return None;
        }
        if self.sent == self.unanswered.len() {
            let count = self.events.len().min(AUDIT_BATCH);
            self.sequence += 1;
            self.unanswered.push_back(AuditBatch {
                events: self.events.drain(..count).collect(),
                dropped: std::mem::take(&mut self.dropped),
                stream: self.stream,
                sequence: self.sequence,
            });
        }
        let next = self.unanswered.get(self.sent).cloned();
        self.sent += 1;
        next
    }

    /// The server has the batch of this number and all before it. What it was not sent on this connection it cannot
    /// answer.
    pub fn taken(&mut self, sequence: u64) {
        while self.sent > 0
            && let Some(first) = self.unanswered.front()
            && first.sequence <= sequence
        {
            self.unanswered.pop_front();
            self.sent -= 1;
        }
    }

    /// What no server is known to have, for the next life of this manager, which gives it numbers of its own.
    pub fn left(self) -> AuditBatch {
        let mut left = AuditBatch {
            dropped: self.dropped,
            ..AuditBatch::default()
        };
        for batch in self.unanswered {
            left.dropped = left.dropped.saturating_add(batch.dropped);
            left.events.extend(batch.events);
        }
        left.events.extend(self.events);
        left
    }

    /// Takes what a former life has left.
    pub fn take_over(&mut self, left: AuditBatch) {
        self.lose(left.dropped);
        left.events.into_iter().for_each(|event| self.push(event));
    }

    /// There is a new connection: what was not answered is sent again.
    pub fn connected(&mut self) {
        self.sent = 0;
    }
}

/// The thread that listens to the kernel.
pub struct Listener {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    generation: AtomicU64,
    lost: AtomicU64,
    stop: AtomicBool,
}

impl Listener {
    /// Starts it.
    pub fn start(access: Arc<dyn KernelAccess>) -> std::io::Result<(Self, mpsc::Receiver<Notice>)> {
        let (notices, heard) = mpsc::channel(NOTICES);
        let shared = Arc::new(Shared::default());
        let ours = shared.clone();
        let thread = thread::Builder::new()
            .name("audit".into())
            .spawn(move || listen(&*access, &shared, &notices))?;
        let listener = Self {
            shared: ours,
            thread: Some(thread),
        };
        Ok((listener, heard))
    }

    /// The module was brought up anew: what was listened to may be the former one.
    pub fn renew(&self) {
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends it soon; who waits for the thread can be sure that it has handed over all that it took from the kernel.
    pub fn end(&mut self) -> Option<JoinHandle<()>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        thread.thread().unpark();
        Some(thread)
    }

    /// Events lost between kernel and driver since this was asked last.
    pub fn take_lost(&self) -> u64 {
        self.shared.lost.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.end();
    }
}

fn listen(access: &dyn KernelAccess, shared: &Shared, notices: &mpsc::Sender<Notice>) {
    let ended = || shared.stop.load(Ordering::Relaxed) || notices.is_closed();
    let tell = |notice| {
        if notices.try_send(notice).is_err() {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    };
    let mut former: Option<Box<dyn Events>> = None;
    while !ended() {
        let generation = shared.generation.load(Ordering::Relaxed);
        let current = || shared.generation.load(Ordering::Relaxed) == generation;
        let mut events = match access.subscribe() {
            Ok(events) => {
                // What came before is with the former one; what came since is with both, and told twice rather than
                // not at all.
                if let Some(mut former) = former.take() {
                    while let Ok(Some(notice)) = former.receive(Duration::ZERO) {
                        tell(notice);
                    }
                }
                events
            }
            Err(error) => {
                if !matches!(error, NetlinkError::ModuleNotLoaded) {
                    tracing::warn!(%error, "the kernel's events cannot be listened to");
                }
                thread::park_timeout(RETRY);
                continue;
            }
        };
        while current() && !ended() {
            match events.receive(PATIENCE) {
                Ok(None) => {}
                Ok(Some(notice)) => tell(notice),
                Err(error) => {
                    tracing::warn!(%error, "an event of the kernel was not understood");
                    shared.lost.fetch_add(1, Ordering::Relaxed);
                    if matches!(error, NetlinkError::Socket { .. }) {
                        thread::park_timeout(RETRY);
                        break;
                    }
                }
            }
        }
        former = Some(events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue_of(events: usize) -> Queue {
        let mut queue = Queue::new(9);
        for id in 0..events {
            queue.push(AuditEvent {
                id: id.to_string(),
                ..AuditEvent::default()
            });
        }
        queue
    }

    #[test]
    fn queue_keeps_the_newest_and_counts_the_rest() {
        assert!(Queue::new(9).next_batch().is_none());
        let mut queue = queue_of(QUEUE + 3);
        queue.lose(4);
        let batch = queue.next_batch().unwrap();
        assert_eq!(
            (
                batch.dropped,
                batch.events.len(),
                batch.events[0].id.as_str()
            ),
            (7, AUDIT_BATCH, "3")
        );
        assert_eq!(
            queue.next_batch().unwrap().dropped,
            0,
            "what was told is not told again"
        );
    }

    #[test]
    fn loss_alone_is_told_too() {
        let mut queue = Queue::new(9);
        queue.lose(2);
        assert_eq!(
            queue.next_batch(),
            Some(AuditBatch {
                events: vec![],
                dropped: 2,
                stream: 9,
                sequence: 1,
            })
        );
        assert_eq!(queue.next_batch(), None);
    }

    #[test]
    fn what_no_server_has_answered_is_sent_again_and_nothing_else() {
        let mut queue = queue_of(3 * AUDIT_BATCH);
        let sequences = |queue: &mut Queue| -> Vec<u64> {
            std::iter::from_fn(|| queue.next_batch())
                .map(|batch| batch.sequence)
                .collect()
        };
        let first = queue.next_batch().unwrap();
        assert_eq!(sequences(&mut queue), [2, 3]);
        queue.connected();
        assert_eq!(queue.next_batch(), Some(first), "the same, with its number");
        queue.taken(3);
        assert_eq!(
            queue.len(),
            2 * AUDIT_BATCH,
            "2 and 3 were not sent to this one"
        );
        assert_eq!(sequences(&mut queue), [2, 3]);
        queue.taken(2);
        queue.connected();
        assert_eq!(sequences(&mut queue), [3]);
        queue.taken(3);
        queue.connected();
        assert!(queue.is_empty() && queue.next_batch().is_none());
    }

    #[test]
    fn server_that_does_not_answer_is_not_sent_everything() {
        let mut queue = queue_of((AUDIT_WINDOW + 1) * AUDIT_BATCH);
        for _ in 0..AUDIT_WINDOW {
            assert!(queue.next_batch().is_some());
        }
        assert!(!queue.has_next() && queue.next_batch().is_none());
        queue.taken(1);
        let next = queue.next_batch().unwrap();
        assert_eq!(next.sequence, AUDIT_WINDOW as u64 + 1);
    }

    #[test]
    fn next_life_takes_over_all_that_was_not_answered() {
        let mut queue = queue_of(AUDIT_BATCH + 2);
        queue.lose(3);
        queue.next_batch().unwrap();
        let left = queue.left();
        assert_eq!((left.events.len(), left.dropped), (AUDIT_BATCH + 2, 3));
        let mut next = Queue::new(10);
        next.take_over(left);
        let batch = next.next_batch().unwrap();
        assert_eq!((batch.stream, batch.sequence, batch.dropped), (10, 1, 3));
        assert_eq!(batch.events[0].id, "0");
        assert_eq!(next.len(), AUDIT_BATCH + 2);
    }
}
