//! The way of a refusal out of the kernel: turned into a message, queued, sent when a server listens.
//!
//! The queue is bounded. What does not fit is dropped, oldest first, and counted: an auditor can see that he has not
//! seen everything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dsi_proto::netlink::{Event, NetlinkError, Notice};
use dsi_proto::v1::{AuditBatch, AuditEvent};
use tokio::sync::mpsc;

use crate::kernel::KernelAccess;

/// Events kept while no server listens.
pub const QUEUE: usize = 16_384;

/// Events in one message.
const BATCH: usize = 256;

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

/// Events that wait for a server.
#[derive(Debug, Default)]
pub struct Queue {
    events: VecDeque<AuditEvent>,
    dropped: u64,
}

impl Queue {
    /// Puts an event in; the oldest makes room.
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

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.dropped == 0
    }

    /// The next message; none if there is nothing to tell.
    pub fn next_batch(&mut self) -> Option<AuditBatch> {
        if self.is_empty() {
            return None;
        }
        let count = self.events.len().min(BATCH);
        Some(AuditBatch {
            events: self.events.drain(..count).collect(),
            dropped: std::mem::take(&mut self.dropped),
        })
    }
}

/// The thread that listens to the kernel.
pub struct Listener {
    shared: Arc<Shared>,
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
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || listen(&*access, &shared, &notices))?;
        Ok((Self { shared: ours }, heard))
    }

    /// The module was brought up anew: what was listened to may be the former one.
    pub fn renew(&self) {
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Events lost between kernel and driver since this was asked last.
    pub fn take_lost(&self) -> u64 {
        self.shared.lost.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn listen(access: &dyn KernelAccess, shared: &Shared, notices: &mpsc::Sender<Notice>) {
    let ended = || shared.stop.load(Ordering::Relaxed) || notices.is_closed();
    while !ended() {
        let generation = shared.generation.load(Ordering::Relaxed);
        let current = || shared.generation.load(Ordering::Relaxed) == generation;
        let mut events = match access.subscribe() {
            Ok(events) => events,
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
                Ok(Some(notice)) => {
                    if notices.try_send(notice).is_err() {
                        shared.lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_keeps_the_newest_and_counts_the_rest() {
        let mut queue = Queue::default();
        assert!(queue.next_batch().is_none());
        for id in 0..QUEUE + 3 {
            queue.push(AuditEvent {
                id: id.to_string(),
                ..AuditEvent::default()
            });
        }
        queue.lose(4);
        let batch = queue.next_batch().unwrap();
        assert_eq!(
            (
                batch.dropped,
                batch.events.len(),
                batch.events[0].id.as_str()
            ),
            (7, BATCH, "3")
        );
        assert_eq!(
            queue.next_batch().unwrap().dropped,
            0,
            "what was told is not told again"
        );
    }

    #[test]
    fn loss_alone_is_told_too() {
        let mut queue = Queue::default();
        queue.lose(2);
        assert_eq!(
            queue.next_batch(),
            Some(AuditBatch {
                events: vec![],
                dropped: 2
            })
        );
        assert_eq!(queue.next_batch(), None);
    }
}
