//! One node: what a test does on it and asks of it.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::console::Console;
use crate::fault::{Failure, Fault};
use crate::protocol::{Answer, Ask, Bytes, Command, Ended, Request, Response};
use crate::vm::{Phase, Vm, VmSpec};

/// How long things may take in an emulated guest on a busy machine, where a test does not say.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// What the harness waits beyond a deadline that runs in the guest.
const GRACE: Duration = Duration::from_secs(60);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The control channel of one node.
struct Link {
    node: String,
    writer: Mutex<UnixStream>,
    waiting: Mutex<Option<HashMap<u64, Sender<Answer>>>>,
    next: AtomicU64,
}

impl Link {
    /// Begins to listen; what is received then is the agent's report. A write that makes no headway for `patience` fails.
    fn new(
        node: &str,
        control: UnixStream,
        patience: Duration,
    ) -> io::Result<(Arc<Self>, Receiver<Answer>)> {
        control.set_write_timeout(Some(patience))?;
        let reader = control.try_clone()?;
        let (sender, ready) = channel();
        let link = Arc::new(Self {
            node: node.into(),
            writer: Mutex::new(control),
            waiting: Mutex::new(Some(HashMap::from([(0, sender)]))),
            next: AtomicU64::new(1),
        });
        let listener = Arc::clone(&link);
        std::thread::spawn(move || listener.listen(reader));
        Ok((link, ready))
    }

    /// Takes answers until the agent is gone; then nobody waits any longer.
    fn listen(&self, socket: UnixStream) {
        for line in BufReader::new(socket).lines() {
            let Ok(line) = line else { break };
            let Ok(Response { id, answer }) = serde_json::from_str(&line) else {
                continue;
            };
            let sender = lock(&self.waiting)
                .as_mut()
                .and_then(|waiting| waiting.remove(&id));
            if let Some(sender) = sender {
                // Who no longer waits needs no answer.
                let _ = sender.send(answer);
            }
        }
        *lock(&self.waiting) = None;
    }

    fn expect(&self, id: u64) -> Result<Receiver<Answer>, Fault> {
        let (sender, receiver) = channel();
        match lock(&self.waiting).as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(self.lost("it has gone")),
        };
        Ok(receiver)
    }

    fn lost(&self, detail: impl Into<String>) -> Fault {
        Fault::Agent {
            node: self.node.clone(),
            detail: detail.into(),
        }
    }

    fn ask(&self, ask: Ask, patience: Duration) -> Result<Answer, Fault> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let receiver = self.expect(id)?;
        let request = Request { id, ask };
        let mut line =
            serde_json::to_vec(&request).map_err(|error| self.lost(error.to_string()))?;
        line.push(b'\n');
        self.send(&line)
            .map_err(|error| self.lost(format!("cannot be asked: {error}")))?;
        receiver.recv_timeout(patience + GRACE).map_err(|error| {
            let what = match request.ask {
                Ask::Write { path, .. } => format!("writing {path}"),
                ask => format!("{ask:?}"),
            };
            match error {
                RecvTimeoutError::Timeout => self.lost(format!("no answer in time to: {what}")),
                RecvTimeoutError::Disconnected => self.lost(format!("it was lost during: {what}")),
            }
        })
    }

    /// A guest that takes nothing is lost: nobody can say how much of the line it has, so no other may follow.
    fn send(&self, line: &[u8]) -> io::Result<()> {
        let mut writer = lock(&self.writer);
        writer.write_all(line).inspect_err(|_| {
            // It may be closed already.
            let _ = writer.shutdown(Shutdown::Both);
        })
    }

    /// An answer that does not fit the request.
    fn odd(&self, what: &str, answer: &Answer) -> Fault {
        self.lost(format!("{what}: {answer:?}"))
    }
}

/// How a command ended, with what it printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, for reports.
    pub command: String,
    /// Exit code; `None` if a signal ended it, or it could not be started.
    pub code: Option<i32>,
    /// True if it did not end in time.
    pub timed_out: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error, or why it could not be started.
    pub stderr: String,
}

impl Output {
    fn new(command: &Command, ended: Ended) -> Self {
        Self {
            command: command.argv.join(" "),
            code: ended.code,
            timed_out: ended.timed_out,
            stdout: String::from_utf8_lossy(&ended.stdout.0).into_owned(),
            stderr: String::from_utf8_lossy(&ended.stderr.0).into_owned(),
        }
    }

    /// Fails unless the exit code is 0.
    pub fn ok(self) -> Result<Self, Failure> {
        self.exits_with(0)
    }

    /// Fails unless the exit code is this one.
    pub fn exits_with(self, code: i32) -> Result<Self, Failure> {
        if self.code == Some(code) {
            return Ok(self);
        }
        Err(Failure::new(format!(
            "expected exit code {code}: {}",
            self.describe()
        )))
    }

    /// Fails unless standard output or standard error contains the text.
    pub fn says(self, text: &str) -> Result<Self, Failure> {
        if self.stdout.contains(text) || self.stderr.contains(text) {
            return Ok(self);
        }
        Err(Failure::new(format!(
            "expected '{text}' in the output: {}",
            self.describe()
        )))
    }

    /// Fails if standard output or standard error contains the text.
    pub fn says_not(self, text: &str) -> Result<Self, Failure> {
        if !self.stdout.contains(text) && !self.stderr.contains(text) {
            return Ok(self);
        }
        Err(Failure::new(format!(
            "expected no '{text}' in the output: {}",
            self.describe()
        )))
    }

    /// Command, exit code and output, for a report.
    pub fn describe(&self) -> String {
        let code = match self.code {
            Some(code) => format!("exit code {code}"),
            None if self.timed_out => "not ended in time".into(),
            None => "ended by a signal or not started".into(),
        };
        format!(
            "'{}': {code}\n{}{}",
            self.command,
            indent(&self.stdout),
            indent(&self.stderr)
        )
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    | {line}\n")).collect()
}

/// A command that is being put together.
#[must_use = "a command does nothing until it is run or spawned"]
pub struct CommandOn<'a> {
    node: &'a Node,
    command: Command,
    timeout: Duration,
}

impl CommandOn<'_> {
    /// Adds a variable to the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env.insert(name.into(), value.into());
        self
    }

    /// Sets the working directory.
    pub fn cwd(mut self, dir: &str) -> Self {
        self.command.cwd = Some(dir.into());
        self
    }

    /// Sets what the program reads on standard input.
    pub fn stdin(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.command.stdin = Bytes(data.into());
        self
    }

    /// Sets the time after which the program is killed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end. That it could not be started is an output, too: a refused exec is a result.
    pub fn run(self) -> Result<Output, Fault> {
        let Self {
            node,
            command,
            timeout,
        } = self;
        let ask = Ask::Exec {
            command: command.clone(),
            timeout_ms: millis(timeout),
        };
        match node.link.ask(ask, timeout)? {
            Answer::Ended(ended) => Ok(Output::new(&command, ended)),
            Answer::Error { detail, errno } => Ok(Output {
                command: command.argv.join(" "),
                code: None,
                timed_out: false,
                stdout: String::new(),
                stderr: format!("{detail} [errno {errno}]"),
            }),
            answer => Err(node.link.odd("exec", &answer)),
        }
    }

    /// Starts it in the background; its output goes to a file in the guest that is kept with the run's.
    pub fn spawn(self, name: &str) -> Result<Process, Failure> {
        let Self { node, command, .. } = self;
        let log = format!("/var/log/dsi-test/{name}.log");
        {
            let mut logs = lock(&node.logs);
            if !logs.contains(&log) {
                logs.push(log.clone());
            }
        }
        let from = node.log_len(&log)?;
        let text = command.argv.join(" ");
        match node.link.ask(
            Ask::Spawn {
                command,
                log: log.clone(),
            },
            PATIENCE,
        )? {
            Answer::Started { pid } => Ok(Process {
                link: Arc::clone(&node.link),
                name: name.into(),
                pid,
                log,
                seen: AtomicU64::new(from),
                ended: AtomicBool::new(false),
            }),
            Answer::Error { detail, errno } => Err(Failure::new(format!(
                "{}: '{text}' cannot be started: {detail} [errno {errno}]",
                node.name
            ))),
            answer => Err(node.link.odd("spawn", &answer).into()),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A program in the background of a node. It is killed when this is dropped, with all that it has
/// started, so that a failed test leaves nothing to the next.
pub struct Process {
    link: Arc<Link>,
    name: String,
    pid: i32,
    log: String,
    seen: AtomicU64,
    ended: AtomicBool,
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Relaxed) {
            // A node that is gone has no programs.
            let _ = self.link.ask(Ask::Kill { pid: self.pid }, PATIENCE);
        }
    }
}

impl Process {
    /// Its process id in the guest.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The file in the guest that takes its output.
    pub fn log_path(&self) -> &str {
        &self.log
    }

    /// Waits for a line with `text` after the last line that was waited for, and returns it.
    pub fn wait_line(&self, text: &str) -> Result<String, Failure> {
        self.wait_line_for(text, PATIENCE)
    }

    /// As [`Process::wait_line`], with a deadline of its own.
    pub fn wait_line_for(&self, text: &str, timeout: Duration) -> Result<String, Failure> {
        let ask = Ask::WaitLine {
            path: self.log.clone(),
            text: text.into(),
            from: self.seen.load(Ordering::Relaxed),
            timeout_ms: millis(timeout),
            pid: Some(self.pid),
        };
        match self.link.ask(ask, timeout)? {
            Answer::Line { line, next } => {
                self.seen.store(next, Ordering::Relaxed);
                Ok(line)
            }
            Answer::NotSeen { detail } => Err(Failure::new(format!(
                "{}: {}: {detail}",
                self.link.node, self.name
            ))),
            answer => Err(self.link.odd("waiting for a line", &answer).into()),
        }
    }

    /// Everything that it has printed, together with earlier programs of the same name.
    pub fn output(&self) -> Result<String, Fault> {
        match self.link.ask(
            Ask::Read {
                path: self.log.clone(),
            },
            PATIENCE,
        )? {
            Answer::Content(content) => Ok(String::from_utf8_lossy(&content.0).into_owned()),
            answer => Err(self.link.odd("reading a log", &answer)),
        }
    }

    /// True while it runs.
    pub fn is_running(&self) -> Result<bool, Fault> {
        let ask = Ask::Join {
            pid: self.pid,
            timeout_ms: 0,
        };
        Ok(self.link.ask(ask, Duration::ZERO)? == Answer::Running)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> Result<(), Failure> {
        match self.link.ask(
            Ask::Signal {
                pid: self.pid,
                signal,
            },
            PATIENCE,
        )? {
            Answer::Done => Ok(()),
            Answer::Error { detail, .. } => Err(Failure::new(format!(
                "{}: {}: signal {signal}: {detail}",
                self.link.node, self.name
            ))),
            answer => Err(self.link.odd("signal", &answer).into()),
        }
    }

    /// What its process waits for, in the words of the guest's kernel.
    fn whereabouts(&self) -> Result<String, Fault> {
        let script = "cd /proc/$1 && grep -E '^(Name|State|Sig|Shd)' status; head -n 20 wchan syscall stack; ls -l fd; \
                      ss -tanpe | head -n 40; uptime";
        let argv = ["sh", "-c", script, "whereabouts", &self.pid.to_string()];
        let ask = Ask::Exec {
            command: Command {
                argv: argv.map(str::to_owned).to_vec(),
                ..Command::default()
            },
            timeout_ms: millis(PATIENCE),
        };
        match self.link.ask(ask, PATIENCE)? {
            Answer::Ended(ended) => Ok(String::from_utf8_lossy(&ended.stdout.0).into_owned()),
            answer => Err(self.link.odd("a look at a process", &answer)),
        }
    }

    /// Waits for its end; fails if it goes on. Returns the exit code, or `None` if a signal ended it.
    pub fn join(&self) -> Result<Option<i32>, Failure> {
        self.join_for(PATIENCE)
    }

    /// As [`Process::join`], with a deadline of its own.
    pub fn join_for(&self, timeout: Duration) -> Result<Option<i32>, Failure> {
        match self.link.ask(
            Ask::Join {
                pid: self.pid,
                timeout_ms: millis(timeout),
            },
            timeout,
        )? {
            Answer::Ended(ended) => {
                self.ended.store(true, Ordering::Relaxed);
                Ok(ended.code)
            }
            Answer::Running => Err(Failure::new(format!(
                "{}: {} has not ended in time; it is where its process is:\n{}",
                self.link.node,
                self.name,
                self.whereabouts()?
            ))),
            answer => Err(self.link.odd("waiting for a program's end", &answer).into()),
        }
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn stop(&self) -> Result<Option<i32>, Failure> {
        self.end_by(15)
    }

    /// Ends it by a signal, unless it has ended by itself, and waits for that.
    pub fn end_by(&self, signal: i32) -> Result<Option<i32>, Failure> {
        if self.is_running()?
            && let Err(failure) = self.signal(signal)
            // It may have ended in this moment.
            && self.is_running()?
        {
            return Err(failure);
        }
        self.join()
    }
}

/// A node's QEMU, for who ends it while its node is in use.
pub(crate) type Guest = Arc<Mutex<Vm>>;

/// A booted machine of a cluster.
pub struct Node {
    /// Host name.
    pub name: String,
    /// Address on the cluster's network.
    pub ip: Ipv4Addr,
    /// Its place in the cluster, from 1.
    pub index: u8,
    dir: PathBuf,
    vm: Guest,
    link: Arc<Link>,
    ready: Receiver<Answer>,
    phase: Phase,
    console: Mutex<Console>,
    logs: Mutex<Vec<String>>,
    started: Instant,
    /// From the start of QEMU to the agent's report.
    pub boot_time: Duration,
}

impl Node {
    /// Takes over a QEMU that was just started.
    pub(crate) fn new(
        spec: &VmSpec,
        vm: Vm,
        control: UnixStream,
        dir: &Path,
    ) -> Result<Self, Fault> {
        let dir = dir.join(&spec.name);
        let (link, ready) = Link::new(&spec.name, control, PATIENCE)
            .map_err(Fault::host("use the control socket of", &dir))?;
        Ok(Self {
            name: spec.name.clone(),
            ip: spec.ip,
            index: spec.index,
            console: Mutex::new(Console::new(&dir.join("console.log"))),
            dir,
            vm: Arc::new(Mutex::new(vm)),
            link,
            ready,
            phase: Phase::Booting,
            logs: Mutex::default(),
            started: Instant::now(),
            boot_time: Duration::ZERO,
        })
    }

    /// Waits until the agent reports.
    pub(crate) fn wait_ready(&mut self, deadline: Instant) -> Result<(), Fault> {
        loop {
            match self.ready.recv_timeout(Duration::from_millis(100)) {
                Ok(_) => break,
                Err(error) => {
                    let alive = lock(&self.vm).check_alive();
                    if alive.is_err() || error == RecvTimeoutError::Disconnected {
                        self.phase = Phase::Lost;
                        alive?;
                        return Err(self.link.lost("the control channel was closed"));
                    }
                }
            }
            if Instant::now() >= deadline {
                self.phase = Phase::Lost;
                return Err(Fault::BootTimeout {
                    node: self.name.clone(),
                    console: lock(&self.console).tail(30),
                });
            }
        }
        self.boot_time = self.started.elapsed();
        self.phase = Phase::Ready;
        Ok(())
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Where the host keeps what is known of this node: console.log, qemu.log, collected logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Begins a command; the program is looked up in PATH, which has /opt/dsi/bin.
    pub fn command(&self, argv: &[&str]) -> CommandOn<'_> {
        let command = Command {
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            ..Command::default()
        };
        CommandOn {
            node: self,
            command,
            timeout: PATIENCE,
        }
    }

    /// Runs a command to its end.
    pub fn run(&self, argv: &[&str]) -> Result<Output, Fault> {
        self.command(argv).run()
    }

    /// Runs a shell script to its end.
    pub fn sh(&self, script: &str) -> Result<Output, Fault> {
        self.command(&["bash", "-c", script]).run()
    }

    /// The address of its network card.
    pub fn mac(&self) -> Result<[u8; 6], Failure> {
        let output = self.run(&["cat", "/sys/class/net/eth0/address"])?.ok()?;
        let bytes: Option<Vec<u8>> = output
            .stdout
            .trim()
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| Failure::new(format!("no address of Ethernet: {}", output.describe())))
    }

    /// Starts a program in the background.
    pub fn spawn(&self, name: &str, argv: &[&str]) -> Result<Process, Failure> {
        self.command(argv).spawn(name)
    }

    /// Runs a command again and again until it exits with 0 and prints `text`.
    pub fn poll(&self, argv: &[&str], text: &str) -> Result<Output, Failure> {
        let command = self.command(argv).command;
        let ask = Ask::Poll {
            command: command.clone(),
            text: text.into(),
            timeout_ms: millis(PATIENCE),
        };
        match self.link.ask(ask, PATIENCE)? {
            Answer::Ended(ended) => Ok(Output::new(&command, ended)),
            Answer::NotSeen { detail } | Answer::Error { detail, .. } => {
                Err(Failure::new(format!("{}: {detail}", self.name)))
            }
            answer => Err(self.link.odd("poll", &answer).into()),
        }
    }

    /// Waits until a file of the guest has a line with `text`, and returns the line.
    pub fn wait_line(&self, path: &str, text: &str) -> Result<String, Failure> {
        let ask = Ask::WaitLine {
            path: path.into(),
            text: text.into(),
            from: 0,
            timeout_ms: millis(PATIENCE),
            pid: None,
        };
        match self.link.ask(ask, PATIENCE)? {
            Answer::Line { line, .. } => Ok(line),
            Answer::NotSeen { detail } => Err(Failure::new(format!("{}: {detail}", self.name))),
            answer => Err(self.link.odd("waiting for a line", &answer).into()),
        }
    }

    /// Reads a file of the guest.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Failure> {
        match self.link.ask(Ask::Read { path: path.into() }, PATIENCE)? {
            Answer::Content(content) => Ok(content.0),
            Answer::Error { detail, .. } => {
                Err(Failure::new(format!("{}: {path}: {detail}", self.name)))
            }
            answer => Err(self.link.odd("read", &answer).into()),
        }
    }

    /// Writes a file of the guest with mode 0644, and the directories above it.
    pub fn write(&self, path: &str, data: impl Into<Vec<u8>>) -> Result<(), Failure> {
        self.write_mode(path, data, 0o644)
    }

    /// Writes a file of the guest with this mode.
    pub fn write_mode(
        &self,
        path: &str,
        data: impl Into<Vec<u8>>,
        mode: u32,
    ) -> Result<(), Failure> {
        match self.link.ask(
            Ask::Write {
                path: path.into(),
                data: Bytes(data.into()),
                mode,
            },
            PATIENCE,
        )? {
            Answer::Done => Ok(()),
            Answer::Error { detail, .. } => {
                Err(Failure::new(format!("{}: {path}: {detail}", self.name)))
            }
            answer => Err(self.link.odd("write", &answer).into()),
        }
    }

    /// True if the agent answers.
    pub fn ping(&self) -> Result<(), Fault> {
        match self.link.ask(Ask::Ping, PATIENCE)? {
            Answer::Done => Ok(()),
            answer => Err(self.link.odd("ping", &answer)),
        }
    }

    /// A place in the kernel's log for [`Node::wait_kernel_line`] and [`Node::kernel_lines_since`].
    pub fn kernel_mark(&self) -> u64 {
        lock(&self.console).mark()
    }

    /// Waits for a line of the kernel's log (level info or above) with `text` after a mark.
    pub fn wait_kernel_line(&self, mark: u64, text: &str) -> Result<String, Failure> {
        let console = Console::new(lock(&self.console).path());
        console.wait_line(mark, text, PATIENCE).ok_or_else(|| {
            Failure::new(format!(
                "{}: the kernel's log has no line with '{text}'; it ends:\n{}",
                self.name,
                console.tail(5)
            ))
        })
    }

    /// The console's lines since a mark.
    pub fn kernel_lines_since(&self, mark: u64) -> Vec<String> {
        lock(&self.console).lines_since(mark)
    }

    /// The kernel's complaints (Oops, WARN, BUG, stall ...) since this was last asked.
    pub fn new_complaints(&self) -> Vec<String> {
        lock(&self.console).new_complaints()
    }

    /// The last lines of the console.
    pub fn console_tail(&self, lines: usize) -> String {
        lock(&self.console).tail(lines)
    }

    /// Pulls the plug.
    pub fn power_off(&mut self) {
        lock(&self.vm).kill();
        self.phase = Phase::Stopped;
    }

    /// What ends it from another thread.
    pub(crate) fn guest(&self) -> Guest {
        Arc::clone(&self.vm)
    }

    /// Copies the kernel's log and the logs of background programs to the host. Files that cannot be
    /// had are left out: this also runs when the guest is already broken.
    pub fn collect_logs(&self) {
        if self.phase != Phase::Ready {
            return;
        }
        if let Ok(output) = self
            .command(&["dmesg"])
            .timeout(Duration::from_secs(30))
            .run()
        {
            let _ = std::fs::write(self.dir.join("dmesg.log"), output.stdout);
        }
        for log in lock(&self.logs).iter() {
            let name = log.rsplit('/').next().unwrap_or(log);
            if let Ok(content) = self.read(log) {
                let _ = std::fs::write(self.dir.join(name), content);
            }
        }
    }

    /// Adds a file of the guest to those that are kept with the run's.
    pub fn keep_log(&self, path: &str) {
        lock(&self.logs).push(path.to_owned());
    }

    /// The tails of the console since a mark and of the kept logs, for a failure's report.
    pub fn log_tails(&self, mark: u64, lines: usize) -> String {
        let console = self.kernel_lines_since(mark);
        let tail = console[console.len().saturating_sub(lines)..].join("\n");
        let mut text = String::new();
        if !tail.is_empty() {
            text = format!("{}: console:\n{}", self.name, indent(&tail));
        }
        for log in lock(&self.logs).iter() {
            let name = log.rsplit('/').next().unwrap_or(log);
            let content = std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
            let all: Vec<&str> = content.lines().collect();
            let tail = all[all.len().saturating_sub(lines)..].join("\n");
            if tail.is_empty() {
                continue;
            }
            text.push_str(&format!("{}: {name}:\n{}", self.name, indent(&tail)));
        }
        text
    }

    fn log_len(&self, path: &str) -> Result<u64, Fault> {
        let output = self.run(&["stat", "-c", "%s", path])?;
        Ok(output.stdout.trim().parse().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_takes_nothing_is_lost() {
        // Nobody reads the other end.
        let (control, _guest) = UnixStream::pair().unwrap();
        let (link, ready) = Link::new("munster", control, Duration::from_millis(10)).unwrap();
        let write = Ask::Write {
            path: "/tmp/large".into(),
            data: Bytes(vec![0; 8 << 20]),
            mode: 0o644,
        };
        let fault = link.ask(write, PATIENCE).unwrap_err().to_string();
        assert!(fault.contains("cannot be asked"), "{fault}");
        // Nor does anybody wait for it any more.
        assert_eq!(
            ready.recv_timeout(PATIENCE),
            Err(RecvTimeoutError::Disconnected)
        );
        let fault = link.ask(Ask::Ping, PATIENCE).unwrap_err().to_string();
        assert!(fault.contains("it has gone"), "{fault}");
    }
}
