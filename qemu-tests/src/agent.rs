//! The guest's side: serves the harness' requests, each in a thread of its own.
//!
//! It must do only what it is asked, as root and without a label of its own, and must end when the
//! harness closes the port.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::protocol::{Answer, Ask, Bytes, Command, Ended, PORT, Request, Response};

/// How long to wait between two looks at something that cannot be waited for otherwise.
const LOOK: Duration = Duration::from_millis(20);

/// The programs that were started in the background, with their ends.
#[derive(Default)]
struct Children {
    ended: Mutex<HashMap<i32, Option<ExitStatus>>>,
    changed: Condvar,
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Option<ExitStatus>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the harness until it closes the port.
pub fn serve() -> io::Result<()> {
    let device = find_port()?;
    let port = OpenOptions::new().read(true).write(true).open(&device)?;
    let writer = Arc::new(Mutex::new(port.try_clone()?));
    let children = Arc::new(Children::default());
    respond(&writer, 0, Answer::Done)?;
    for line in BufReader::new(port).lines() {
        let line = line?;
        let request: Request = match serde_json::from_str(&line) {
            Ok(request) => request,
            Err(error) => {
                eprintln!("dsi-guest-agent: not a request: {error}: {line}");
                continue;
            }
        };
        let (writer, children) = (Arc::clone(&writer), Arc::clone(&children));
        thread::spawn(move || {
            let answer = perform(&request.ask, &children).unwrap_or_else(|error| Answer::Error {
                detail: error.to_string(),
                errno: error.raw_os_error().unwrap_or_default(),
            });
            if let Err(error) = respond(&writer, request.id, answer) {
                eprintln!("dsi-guest-agent: cannot answer: {error}");
            }
        });
    }
    Ok(())
}

fn find_port() -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name"))?.trim() == PORT {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no virtio-serial port is named {PORT}"),
    ))
}

fn respond(writer: &Mutex<File>, id: u64, answer: Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Response { id, answer })?;
    line.push(b'\n');
    writer
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .write_all(&line)
}

fn perform(ask: &Ask, children: &Arc<Children>) -> io::Result<Answer> {
    match ask {
        Ask::Ping => Ok(Answer::Done),
        Ask::Exec {
            command,
            timeout_ms,
        } => exec(command, Duration::from_millis(*timeout_ms)).map(Answer::Ended),
        Ask::Spawn { command, log } => spawn(command, log, children),
        Ask::Join { pid, timeout_ms } => {
            Ok(join(*pid, Duration::from_millis(*timeout_ms), children))
        }
        Ask::Signal { pid, signal } => {
            send_signal(*pid, *signal)?;
            Ok(Answer::Done)
        }
        Ask::Kill { pid } => {
            if matches!(children.lock().get(pid), Some(None)) {
                send_group_signal(*pid);
            }
            // What it held, such as a port, is free only when it has ended.
            Ok(join(*pid, Duration::from_secs(180), children))
        }
        Ask::WaitLine {
            path,
            text,
            from,
            timeout_ms,
            pid,
        } => wait_line(
            path,
            text,
            *from,
            Duration::from_millis(*timeout_ms),
            *pid,
            children,
        ),
        Ask::Poll {
            command,
            text,
            timeout_ms,
        } => poll(command, text, Duration::from_millis(*timeout_ms)),
        Ask::Read { path } => Ok(Answer::Content(Bytes(fs::read(path).map_err(at(path))?))),
        Ask::Write { path, data, mode } => {
            write(path, data, *mode).map_err(at(path))?;
            Ok(Answer::Done)
        }
    }
}

/// Puts what was worked on before the system's message, and keeps the error's number.
fn at(what: &str) -> impl FnOnce(io::Error) -> io::Error {
    let what = what.to_owned();
    move |error| {
        if error.raw_os_error().is_some() {
            eprintln!("dsi-guest-agent: {what}: {error}");
            return error;
        }
        io::Error::new(error.kind(), format!("{what}: {error}"))
    }
}

fn prepare(command: &Command) -> io::Result<std::process::Command> {
    let (program, args) = command
        .argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program was named"))?;
    let mut prepared = std::process::Command::new(program);
    // A group of its own, so that a time-out ends what the program started, too.
    prepared.args(args).envs(&command.env).process_group(0);
    if let Some(cwd) = &command.cwd {
        prepared.current_dir(cwd);
    }
    Ok(prepared)
}

fn exec(command: &Command, timeout: Duration) -> io::Result<Ended> {
    let deadline = Instant::now() + timeout;
    let mut child = prepare(command)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(at(&command.argv[0]))?;
    let stdin = child.stdin.take();
    let data = command.stdin.0.clone();
    thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A program that ends without reading it all is no error of this one.
            let _ = stdin.write_all(&data);
        }
    });
    let mut outputs = [
        Output::of(child.stdout.take())?,
        Output::of(child.stderr.take())?,
    ];
    let (status, timed_out) = wait_until(&mut child, deadline, &mut outputs)?;
    // A grandchild may still have to say something, but must not hold up the answer for ever. What the program itself
    // has said is in the pipes and is read, however late that is.
    let said = Instant::now() + Duration::from_secs(1);
    loop {
        let over = Instant::now() >= said;
        outputs.iter_mut().try_for_each(Output::read)?;
        if over || outputs.iter().all(|output| output.pipe.is_none()) {
            break;
        }
        thread::sleep(LOOK);
    }
    let [stdout, stderr] = outputs.map(|output| Bytes(output.data));
    Ok(Ended {
        code: status.code(),
        signal: status.signal(),
        timed_out,
        stdout,
        stderr,
    })
}

/// What a program has said on a pipe so far.
struct Output {
    pipe: Option<File>,
    data: Vec<u8>,
}

impl Output {
    fn of(pipe: Option<impl Into<OwnedFd>>) -> io::Result<Self> {
        let pipe = pipe.map(|pipe| File::from(pipe.into()));
        if let Some(pipe) = &pipe {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self {
            pipe,
            data: Vec::new(),
        })
    }

    /// Takes what is in the pipe, if it is not filled all the while: more than a pipe holds. Forgets the pipe when nobody
    /// can say anything more.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 1 << 16];
        for _ in 0..16 {
            let Some(pipe) = &mut self.pipe else { break };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(len) => self.data.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn wait_until(
    child: &mut Child,
    deadline: Instant,
    outputs: &mut [Output],
) -> io::Result<(ExitStatus, bool)> {
    loop {
        outputs.iter_mut().try_for_each(Output::read)?;
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        if Instant::now() >= deadline {
            if let Ok(leader) = i32::try_from(child.id()) {
                send_group_signal(leader);
            }
            child.kill()?;
            return Ok((child.wait()?, true));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn spawn(command: &Command, log: &str, children: &Arc<Children>) -> io::Result<Answer> {
    if let Some(dir) = Path::new(log).parent() {
        fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .map_err(at(log))?;
    let mut child = prepare(command)?
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .map_err(at(&command.argv[0]))?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    children.lock().insert(pid, None);
    let children = Arc::clone(children);
    thread::spawn(move || {
        let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0));
        children.lock().insert(pid, Some(status));
        children.changed.notify_all();
    });
    Ok(Answer::Started { pid })
}

fn join(pid: i32, timeout: Duration, children: &Children) -> Answer {
    let deadline = Instant::now() + timeout;
    let mut ended = children.lock();
    loop {
        match ended.get(&pid) {
            None => {
                return Answer::Error {
                    detail: format!("process {pid} was not started here"),
                    errno: 0,
                };
            }
            Some(Some(status)) => {
                return Answer::Ended(Ended {
                    code: status.code(),
                    signal: status.signal(),
                    ..Ended::default()
                });
            }
            Some(None) => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Answer::Running;
        }
        ended = children
            .changed
            .wait_timeout(ended, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("no such {what}"));
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| wrong("process"))?;
    let signal = rustix::process::Signal::from_named_raw(signal).ok_or_else(|| wrong("signal"))?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

fn send_group_signal(leader: i32) {
    if let Some(group) = rustix::process::Pid::from_raw(leader) {
        // It may have ended by itself in between.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

fn wait_line(
    path: &str,
    text: &str,
    from: u64,
    timeout: Duration,
    pid: Option<i32>,
    children: &Children,
) -> io::Result<Answer> {
    let deadline = Instant::now() + timeout;
    let mut next = from;
    let mut last = String::new();
    loop {
        // Asked before the file is read, so that a program's last words are still seen.
        let over = Instant::now() >= deadline;
        let ended = pid.is_some_and(|pid| children.lock().get(&pid).is_none_or(Option::is_some));
        if let Ok(mut file) = File::open(path) {
            file.seek(SeekFrom::Start(next))?;
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
                next += line.len() as u64;
                last = String::from_utf8_lossy(&line).trim_end().to_owned();
                if last.contains(text) {
                    return Ok(Answer::Line { line: last, next });
                }
                line.clear();
            }
        }
        if over || ended {
            let why = if ended {
                "the program ended"
            } else {
                "the time was over"
            };
            return Ok(Answer::NotSeen {
                detail: format!(
                    "{why} before a line of {path} contained '{text}'; its last line: '{last}'"
                ),
            });
        }
        thread::sleep(LOOK);
    }
}

fn poll(command: &Command, text: &str, timeout: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ended = exec(command, left)?;
        if ended.code == Some(0) && String::from_utf8_lossy(&ended.stdout.0).contains(text) {
            return Ok(Answer::Ended(ended));
        }
        if Instant::now() >= deadline {
            return Ok(Answer::NotSeen {
                detail: format!(
                    "the time was over before '{}' exited with 0 and '{text}' in its output; last: exit {:?}\n{}{}",
                    command.argv.join(" "),
                    ended.code,
                    String::from_utf8_lossy(&ended.stdout.0),
                    String::from_utf8_lossy(&ended.stderr.0)
                ),
            });
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn write(path: &str, data: &Bytes, mode: u32) -> io::Result<()> {
    if let Some(dir) = Path::new(path).parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(&data.0)
}
