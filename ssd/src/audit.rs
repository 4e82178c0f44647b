//! The cluster's audit: events of all nodes, newest kept in memory, all appended to a file, shown live.
//!
//! Everything here is bounded: what does not fit is dropped and counted, and a reader who is slow loses his own
//! events, never another's. A manager says what happened on its node and cannot speak for another.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dsi_proto::v1::AuditEvent;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::state::SnId;

/// Longest text in an event; the kernel sends shorter ones.
const MAX_TEXT: usize = 96;

/// Events that wait for one reader.
const READER_QUEUE: usize = 1024;

/// Batches that wait for the file.
const FILE_QUEUE: usize = 256;

/// Readers at the same time.
const MAX_READERS: usize = 64;

/// How much is kept.
#[derive(Clone, Debug)]
pub struct AuditLimits {
    /// Events kept in memory for replay.
    pub ring: usize,
    /// Size at which the file is put aside; one older file is kept.
    pub file_bytes: u64,
}

/// No more readers are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_READERS} readers of the audit are connected, which is as many as a server takes")]
pub struct TooManyReaders;

/// The audit of a cluster.
#[derive(Clone)]
pub struct Audit {
    shared: Arc<Mutex<Shared>>,
    file: mpsc::Sender<Vec<AuditEvent>>,
    metrics: Arc<Metrics>,
}

struct Shared {
    limit: usize,
    ring: VecDeque<AuditEvent>,
    readers: Vec<Reader>,
}

struct Reader {
    node: Option<SnId>,
    queue: mpsc::Sender<AuditEvent>,
    missed: u64,
}

impl Audit {
    /// Starts the audit, with its file in `directory`.
    pub fn start(
        directory: &Path,
        limits: &AuditLimits,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let mut log = LogFile::open(directory.join("audit.jsonl"), limits.file_bytes)?;
        let (file, mut batches) = mpsc::channel::<Vec<AuditEvent>>(FILE_QUEUE);
        let counted = metrics.clone();
        std::thread::Builder::new().name("audit".into()).spawn(move || {
            let mut broken = false;
            while let Some(batch) = batches.blocking_recv() {
                let written = log.append(&batch);
                if let Err(error) = &written {
                    counted.audit_file_dropped.inc_by(batch.len() as u64);
                    if !broken {
                        tracing::error!(%error, path = %log.path.display(), "audit events cannot be written");
                    }
                }
                broken = written.is_err();
            }
        })?;
        let shared = Shared {
            limit: limits.ring.max(1),
            ring: VecDeque::new(),
            readers: Vec::new(),
        };
        Ok(Self {
            shared: Arc::new(Mutex::new(shared)),
            file,
            metrics,
        })
    }

    /// Takes a node's events. The node's id and name are set here, whatever the events say.
    pub fn ingest(&self, snid: SnId, name: &str, mut events: Vec<AuditEvent>, dropped: u64) {
        self.metrics.audit_events.inc_by(events.len() as u64);
        self.metrics.audit_dropped_by_managers.inc_by(dropped);
        for event in &mut events {
            event.node_snid = snid;
            event.node_name = name.to_owned();
            for text in [
                &mut event.id,
                &mut event.reason,
                &mut event.class,
                &mut event.permission,
                &mut event.protocol,
                &mut event.source_address,
                &mut event.target_address,
                &mut event.comm,
                &mut event.hook,
            ] {
                tame(text);
            }
        }
        if let Some(first) = events.first_mut() {
            first.suppressed = first.suppressed.saturating_add(dropped);
        }
        self.shared.lock().publish(&events);
        let count = events.len() as u64;
        if self.file.try_send(events).is_err() {
            self.metrics.audit_file_dropped.inc_by(count);
        }
    }

    /// Events from now on, after up to `replay` older ones; of one node, or of all. A reader who does not keep up
    /// misses events; how many is in `suppressed` of the next one that he gets.
    pub fn subscribe(
        &self,
        replay: usize,
        node: Option<SnId>,
    ) -> Result<mpsc::Receiver<AuditEvent>, TooManyReaders> {
        let mut shared = self.shared.lock();
        shared.readers.retain(|reader| !reader.queue.is_closed());
        if shared.readers.len() >= MAX_READERS {
            return Err(TooManyReaders);
        }
        let (queue, events) = mpsc::channel(READER_QUEUE);
        let wanted = |event: &&AuditEvent| node.is_none_or(|node| event.node_snid == node);
        let newest: Vec<_> = shared
            .ring
            .iter()
            .rev()
            .filter(wanted)
            .take(replay.min(READER_QUEUE / 2))
            .collect();
        for event in newest.into_iter().rev() {
            // There is room: the queue is new and twice as long.
            let _ = queue.try_send(event.clone());
        }
        shared.readers.push(Reader {
            node,
            queue,
            missed: 0,
        });
        Ok(events)
    }

    /// Ends all readers.
    pub fn close(&self) {
        self.shared.lock().readers.clear();
    }
}

impl Shared {
    fn publish(&mut self, events: &[AuditEvent]) {
        self.readers.retain_mut(|reader| reader.offer(events));
        for event in events {
            if self.ring.len() == self.limit {
                self.ring.pop_front();
            }
            self.ring.push_back(event.clone());
        }
    }
}

impl Reader {
    /// Whether the reader is still there.
    fn offer(&mut self, events: &[AuditEvent]) -> bool {
        for event in events
            .iter()
            .filter(|event| self.node.is_none_or(|node| event.node_snid == node))
        {
            let mut event = event.clone();
            event.suppressed = event.suppressed.saturating_add(self.missed);
            match self.queue.try_send(event) {
                Ok(()) => self.missed = 0,
                Err(mpsc::error::TrySendError::Full(_)) => self.missed += 1,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
        }
        !self.queue.is_closed()
    }
}

/// Bounds a text from outside and takes out what could steer an administrator's terminal.
fn tame(text: &mut String) {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        *text = text
            .chars()
            .take(MAX_TEXT)
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
    }
}

struct LogFile {
    path: PathBuf,
    limit: u64,
    file: File,
    length: u64,
}

/// One line of the file.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    node: &'a str,
    node_snid: u32,
    time_unix_ns: i64,
    enforced: bool,
    reason: &'a str,
    class: &'a str,
    permission: &'a str,
    sscid: u32,
    ssnid: u32,
    tscid: u32,
    tsnid: u32,
    protocol: &'a str,
    source_address: &'a str,
    source_port: u32,
    target_address: &'a str,
    target_port: u32,
    pid: u32,
    comm: &'a str,
    rule: u32,
    policy_version: u64,
    suppressed: u64,
    hook: &'a str,
}

impl<'a> From<&'a AuditEvent> for Line<'a> {
    fn from(event: &'a AuditEvent) -> Self {
        Self {
            id: &event.id,
            node: &event.node_name,
            node_snid: event.node_snid,
            time_unix_ns: event.time_unix_ns,
            enforced: event.enforced,
            reason: &event.reason,
            class: &event.class,
            permission: &event.permission,
            sscid: event.sscid,
            ssnid: event.ssnid,
            tscid: event.tscid,
            tsnid: event.tsnid,
            protocol: &event.protocol,
            source_address: &event.source_address,
            source_port: event.source_port,
            target_address: &event.target_address,
            target_port: event.target_port,
            pid: event.pid,
            comm: &event.comm,
            rule: event.rule,
            policy_version: event.policy_version,
            suppressed: event.suppressed,
            hook: &event.hook,
        }
    }
}

impl LogFile {
    fn open(path: PathBuf, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            path,
            limit,
            file,
            length,
        })
    }

    fn append(&mut self, events: &[AuditEvent]) -> io::Result<()> {
        if self.length >= self.limit {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            std::fs::rename(&self.path, older)?;
            *self = Self::open(self.path.clone(), self.limit)?;
        }
        let mut lines = Vec::new();
        for event in events {
            serde_json::to_writer(&mut lines, &Line::from(event))?;
            lines.push(b'\n');
        }
        self.file.write_all(&lines)?;
        self.length += lines.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: usize) -> AuditEvent {
        AuditEvent {
            id: id.to_string(),
            node_snid: 99,
            node_name: "liar".into(),
            ..AuditEvent::default()
        }
    }

    fn audit(ring: usize, file_bytes: u64) -> (tempfile::TempDir, Audit) {
        let directory = tempfile::tempdir().unwrap();
        let limits = AuditLimits { ring, file_bytes };
        let audit = Audit::start(directory.path(), &limits, Metrics::new().0).unwrap();
        (directory, audit)
    }

    fn ids(events: &mut mpsc::Receiver<AuditEvent>) -> Vec<String> {
        std::iter::from_fn(|| events.try_recv().ok())
            .map(|event| event.id)
            .collect()
    }

    #[test]
    fn node_speaks_for_itself_only() {
        let (_directory, audit) = audit(10, 1 << 20);
        let mut all = audit.subscribe(0, None).unwrap();
        audit.ingest(7, "munster", vec![event(1)], 3);
        let shown = all.try_recv().unwrap();
        assert_eq!(
            (shown.node_snid, shown.node_name.as_str(), shown.suppressed),
            (7, "munster", 3)
        );
    }

    #[test]
    fn replay_is_the_newest_in_order_and_filtered() {
        let (_directory, audit) = audit(4, 1 << 20);
        for id in 0..6 {
            audit.ingest(1 + id as u32 % 2, "n", vec![event(id)], 0);
        }
        assert_eq!(ids(&mut audit.subscribe(3, None).unwrap()), ["3", "4", "5"]);
        assert_eq!(
            ids(&mut audit.subscribe(9, None).unwrap()),
            ["2", "3", "4", "5"]
        );
        assert_eq!(ids(&mut audit.subscribe(9, Some(1)).unwrap()), ["2", "4"]);
    }

    #[test]
    fn slow_reader_loses_his_own_events_and_is_told_how_many() {
        let (_directory, audit) = audit(4, 1 << 20);
        let mut slow = audit.subscribe(0, None).unwrap();
        audit.ingest(1, "n", (0..READER_QUEUE + 5).map(event).collect(), 0);
        assert_eq!(ids(&mut slow).len(), READER_QUEUE);
        audit.ingest(1, "n", vec![event(0)], 0);
        assert_eq!(slow.try_recv().unwrap().suppressed, 5);
    }

    #[test]
    fn readers_are_bounded_and_leave_room_when_they_go() {
        let (_directory, audit) = audit(4, 1 << 20);
        let readers: Vec<_> = (0..MAX_READERS)
            .map(|_| audit.subscribe(0, None).unwrap())
            .collect();
        assert!(audit.subscribe(0, None).is_err());
        drop(readers);
        assert!(audit.subscribe(0, None).is_ok());
    }

    #[test]
    fn text_cannot_steer_a_terminal_or_grow() {
        let mut text = "a\u{1b}[2J\nb".to_owned();
        tame(&mut text);
        assert_eq!(text, "a\u{fffd}[2J\u{fffd}b");
        let mut long = "x".repeat(10_000);
        tame(&mut long);
        assert_eq!(long.len(), MAX_TEXT);
    }

    #[test]
    fn file_is_put_aside_when_it_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let mut log = LogFile::open(path.clone(), 100).unwrap();
        for id in 0..3 {
            log.append(&[event(id)]).unwrap();
        }
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert!(read(&path).contains("\"id\":\"2\""));
        assert!(read(&directory.path().join("audit.jsonl.1")).contains("\"id\":\"1\""));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
