//! The cluster's audit: events of all nodes, newest kept in memory, all appended to a file, shown live.
//!
//! Everything here is bounded: a reader who is slow loses his own events, never another's, and is told how many. The
//! file loses none: while it cannot be written, managers get no answer and keep what they have. An answer means that
//! the disk has it. A manager says what happened on its node and cannot speak for another.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dsi_proto::AUDIT_WINDOW;
use dsi_proto::v1::{AuditBatch, AuditEvent};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;
use crate::state::SnId;

/// Longest text in an event; the kernel sends shorter ones.
const MAX_TEXT: usize = 96;

/// Events that wait for one reader.
const READER_QUEUE: usize = 1024;

/// Batches that wait for the file.
const FILE_QUEUE: usize = 256;

/// Batches that are written, and told of, together.
const GROUP: usize = 16;

/// Pause between two attempts to write the file.
const RETRY: Duration = Duration::from_secs(1);

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

/// The audit ends before the batch was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit has ended")]
pub struct Ended;

/// The audit of a cluster.
#[derive(Clone)]
pub struct Audit {
    shared: Arc<Mutex<Shared>>,
    file: mpsc::Sender<Job>,
    metrics: Arc<Metrics>,
}

struct Shared {
    limit: usize,
    ring: VecDeque<AuditEvent>,
    readers: Vec<Reader>,
    /// Stream and number of each node's newest batch.
    newest: BTreeMap<SnId, (u64, u64)>,
}

/// What is written at once, and who is told then.
struct Job {
    events: Vec<AuditEvent>,
    written: oneshot::Sender<()>,
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
        let (file, mut jobs) = mpsc::channel::<Job>(FILE_QUEUE);
        let counted = metrics.clone();
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || {
                while let Some(first) = jobs.blocking_recv() {
                    let mut group = vec![first];
                    while group.len() < GROUP
                        && let Ok(job) = jobs.try_recv()
                    {
                        group.push(job);
                    }
                    log.append_at_last(&group, &counted);
                    for Job { written, .. } in group {
                        // Its manager may have gone.
                        let _ = written.send(());
                    }
                }
            })?;
        let shared = Shared {
            limit: limits.ring.max(1),
            ring: VecDeque::new(),
            readers: Vec::new(),
            newest: BTreeMap::new(),
        };
        Ok(Self {
            shared: Arc::new(Mutex::new(shared)),
            file,
            metrics,
        })
    }

    /// Takes a batch of a node; returns when it is on the disk. A batch that was taken before is not taken twice, as
    /// long as this server runs. The node's id and name are set here, whatever the events say.
    ///
    /// # Errors
    /// The server stops.
    pub async fn take(&self, snid: SnId, name: &str, batch: AuditBatch) -> Result<(), Ended> {
        let room = self.file.reserve().await.map_err(|_| Ended)?;
        let (written, done) = oneshot::channel();
        let (news, dropped) = ((batch.stream, batch.sequence), batch.dropped);
        let events = self.receive(snid, name, batch);
        {
            // In one step: whoever is cut off has either left no trace, or the whole batch; and who sends it again is
            // answered after it, not before.
            let mut shared = self.shared.lock();
            let events = if shared.is_news(snid, news) {
                self.metrics.audit_events.inc_by(events.len() as u64);
                self.metrics.audit_dropped_by_managers.inc_by(dropped);
                shared.publish(&events);
                events
            } else {
                Vec::new()
            };
            room.send(Job { events, written });
        }
        done.await.map_err(|_| Ended)
    }

    /// The events of a batch as they are kept.
    fn receive(&self, snid: SnId, name: &str, batch: AuditBatch) -> Vec<AuditEvent> {
        let AuditBatch {
            mut events,
            dropped,
            stream,
            sequence,
        } = batch;
        if events.is_empty() && dropped > 0 {
            events.push(loss(format!("{snid}-lost-{stream:016x}-{sequence}")));
        }
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
        events
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
    /// Whether a batch of a node, of this stream and number, is one that was not taken yet; it is from now on.
    fn is_news(&mut self, snid: SnId, batch: (u64, u64)) -> bool {
        let newest = self.newest.entry(snid).or_default();
        // What is sent again is not older than what may be unanswered. Else a node that was set back to an earlier
        // state, numbers and all, would not be heard.
        let oldest = newest.1.saturating_sub(AUDIT_WINDOW as u64);
        let again = newest.0 == batch.0 && batch.1 > oldest && batch.1 <= newest.1;
        if !again {
            *newest = batch;
        }
        !again
    }

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

/// An event that tells of events which nobody has any more; how many is in `suppressed`.
fn loss(id: String) -> AuditEvent {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    AuditEvent {
        id,
        reason: "lost".to_owned(),
        time_unix_ns: now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)),
        ..AuditEvent::default()
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
    /// Where the file has to end before anything is written: behind the last write that succeeded.
    torn: Option<u64>,
    /// Whether it ends in the middle of a line, which a server that was killed has left.
    open_line: bool,
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
            .read(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        let mut last = [b'\n'];
        if let Some(at) = file.metadata()?.len().checked_sub(1) {
            file.read_exact_at(&mut last, at)?;
        }
        Ok(Self {
            path,
            limit,
            file,
            torn: None,
            open_line: last != [b'\n'],
        })
    }

    /// Writes the events of some batches, again and again until it succeeds.
    fn append_at_last(&mut self, batches: &[Job], metrics: &Metrics) {
        let mut failed = false;
        while let Err(error) = self.append(batches.iter().flat_map(|job| &job.events)) {
            metrics.audit_write_failures.inc();
            if !failed {
                tracing::error!(
                    %error,
                    path = %self.path.display(),
                    "audit events cannot be written; managers keep theirs until they can"
                );
            }
            failed = true;
            std::thread::sleep(RETRY);
        }
        if failed {
            tracing::info!(path = %self.path.display(), "audit events are written again");
        }
    }

    /// Writes all of these events to the disk, or none.
    fn append<'a>(&mut self, events: impl Iterator<Item = &'a AuditEvent>) -> io::Result<()> {
        let mut lines = Vec::new();
        for event in events {
            serde_json::to_writer(&mut lines, &Line::from(event))?;
            lines.push(b'\n');
        }
        if lines.is_empty() {
            return Ok(());
        }
        self.make_ready()?;
        if self.open_line {
            lines.insert(0, b'\n');
        }
        let end = self.file.metadata()?.len();
        self.torn = Some(end);
        self.file.write_all(&lines)?;
        self.file.sync_data()?;
        (self.torn, self.open_line) = (None, false);
        Ok(())
    }

    /// Sees to it that the file is the one that its path names, whole, and not too long.
    fn make_ready(&mut self) -> io::Result<()> {
        if let Some(end) = self.torn {
            // Somebody else may have cut it meanwhile.
            let end = end.min(self.file.metadata()?.len());
            self.file.set_len(end)?;
            self.torn = None;
        }
        let ours = self.file.metadata()?;
        let there = match std::fs::metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if there && ours.len() >= self.limit {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            std::fs::rename(&self.path, older)?;
        } else if there {
            return Ok(());
        }
        // Put aside, now, or by an attempt that went no further; or moved by somebody else.
        *self = Self::open(self.path.clone(), self.limit)?;
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

    /// Has the audit take events of a node, as the batch of a number.
    async fn take(audit: &Audit, snid: SnId, sequence: u64, ids: impl IntoIterator<Item = usize>) {
        let batch = AuditBatch {
            events: ids.into_iter().map(event).collect(),
            dropped: 0,
            stream: 1,
            sequence,
        };
        audit.take(snid, "n", batch).await.unwrap();
    }

    #[tokio::test]
    async fn node_speaks_for_itself_only() {
        let (_directory, audit) = audit(10, 1 << 20);
        let mut all = audit.subscribe(0, None).unwrap();
        let batch = AuditBatch {
            events: vec![event(1)],
            dropped: 3,
            stream: 1,
            sequence: 1,
        };
        audit.take(7, "munster", batch).await.unwrap();
        let shown = all.try_recv().unwrap();
        assert_eq!(
            (shown.node_snid, shown.node_name.as_str(), shown.suppressed),
            (7, "munster", 3)
        );
    }

    #[tokio::test]
    async fn batch_is_in_the_file_when_it_is_taken_and_only_once() {
        let (directory, audit) = audit(10, 1 << 20);
        take(&audit, 1, 1, [0]).await;
        take(&audit, 1, 2, [1]).await;
        take(&audit, 1, 2, [1]).await;
        take(&audit, 2, 2, [2]).await;
        take(&audit, 1, 1, [0]).await;
        // A manager that was started anew counts from the beginning.
        let batch = AuditBatch {
            events: vec![event(3)],
            dropped: 0,
            stream: 2,
            sequence: 1,
        };
        audit.take(1, "n", batch).await.unwrap();
        let file = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
        let written: Vec<String> = file
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(written, ["0", "1", "2", "3"]);
        assert_eq!(ids(&mut audit.subscribe(9, None).unwrap()), written);
    }

    #[tokio::test]
    async fn replay_is_the_newest_in_order_and_filtered() {
        let (_directory, audit) = audit(4, 1 << 20);
        for id in 0..6 {
            take(&audit, 1 + id as u32 % 2, 1 + id as u64, [id]).await;
        }
        assert_eq!(ids(&mut audit.subscribe(3, None).unwrap()), ["3", "4", "5"]);
        assert_eq!(
            ids(&mut audit.subscribe(9, None).unwrap()),
            ["2", "3", "4", "5"]
        );
        assert_eq!(ids(&mut audit.subscribe(9, Some(1)).unwrap()), ["2", "4"]);
    }

    #[tokio::test]
    async fn slow_reader_loses_his_own_events_and_is_told_how_many() {
        let (_directory, audit) = audit(4, 1 << 20);
        let mut slow = audit.subscribe(0, None).unwrap();
        take(&audit, 1, 1, 0..READER_QUEUE + 5).await;
        assert_eq!(ids(&mut slow).len(), READER_QUEUE);
        take(&audit, 1, 2, [0]).await;
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
            log.append([event(id)].iter()).unwrap();
        }
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert!(read(&path).contains("\"id\":\"2\""));
        assert!(read(&directory.path().join("audit.jsonl.1")).contains("\"id\":\"1\""));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn node_that_was_set_back_is_heard() {
        let (_directory, audit) = audit(10, 1 << 20);
        take(&audit, 1, 100, [0]).await;
        take(&audit, 1, 97, [1]).await;
        take(&audit, 1, 20, [2]).await;
        take(&audit, 1, 21, [3]).await;
        assert_eq!(ids(&mut audit.subscribe(9, None).unwrap()), ["0", "2", "3"]);
    }

    #[tokio::test]
    async fn loss_alone_is_an_event() {
        let (directory, audit) = audit(10, 1 << 20);
        let batch = AuditBatch {
            events: vec![],
            dropped: 5,
            stream: 1,
            sequence: 1,
        };
        audit.take(7, "munster", batch).await.unwrap();
        let file = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(&file).unwrap();
        assert_eq!(
            (&line["reason"], &line["suppressed"], &line["node"]),
            (&"lost".into(), &5.into(), &"munster".into())
        );
    }

    fn log(directory: &tempfile::TempDir, limit: u64) -> LogFile {
        LogFile::open(directory.path().join("audit.jsonl"), limit).unwrap()
    }

    fn written(directory: &tempfile::TempDir) -> Vec<String> {
        let file = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
        file.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_cannot_be_written_is_written_whole_later() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log(&directory, 1 << 20);
        log.append([event(0)].iter()).unwrap();
        let end = log.file.metadata().unwrap().len();
        // As a disk that was full in the middle of a line leaves it.
        log.file.write_all(b"{\"id\":").unwrap();
        log.torn = Some(end);
        log.append([event(1), event(2)].iter()).unwrap();
        let lines = written(&directory);
        assert_eq!(lines.len(), 3);
        for (line, id) in lines.iter().zip(["0", "1", "2"]) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["id"], id);
        }
    }

    #[test]
    fn line_that_a_killed_server_left_takes_no_other_with_it() {
        let directory = tempfile::tempdir().unwrap();
        log(&directory, 1 << 20)
            .file
            .write_all(b"{\"id\":")
            .unwrap();
        let mut log = log(&directory, 1 << 20);
        log.append([event(1)].iter()).unwrap();
        log.append([event(2)].iter()).unwrap();
        let lines = written(&directory);
        assert_eq!((lines.len(), lines[0].as_str()), (3, "{\"id\":"));
        assert!(lines[1].contains("\"id\":\"1\"") && lines[2].contains("\"id\":\"2\""));
    }

    #[test]
    fn file_that_somebody_moved_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        for limit in [1 << 20, 1] {
            let mut log = log(&directory, limit);
            log.append([event(0)].iter()).unwrap();
            std::fs::remove_file(&log.path).unwrap();
            log.append([event(1)].iter()).unwrap();
            let lines = written(&directory);
            assert!(
                lines.len() == 1 && lines[0].contains("\"id\":\"1\""),
                "{lines:?}"
            );
            std::fs::remove_file(&log.path).unwrap();
        }
    }
}
