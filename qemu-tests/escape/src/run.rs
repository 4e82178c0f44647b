//! The ways that lead through an exec: `run=HOW,PROGRAM,WAY`. The program, a dsi-escape itself, is started in some
//! state or from some place, and tells what came of the way there.

use crate::ways::{c_string, check, memory_copy, perf, unshare};
use crate::{Outcome, word};
use std::ffi::{CString, c_int, c_long};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

/// A directory that every user may write to.
const ROOM: &str = "/srv/room";

/// A file whose server answers to its being closed when [`GATE_OPEN`] is there, and makes [`GATE_REACHED`] before.
const GATE: &str = "/srv/remote/gate";
const GATE_REACHED: &str = "/srv/room/gate-reached";
const GATE_OPEN: &str = "/srv/room/gate-open";

/// What a child said and how it ended, in a word.
pub fn run(arguments: &str) -> String {
    let mut parts = arguments.splitn(3, ',');
    let (Some(how), Some(program), Some(way)) = (parts.next(), parts.next(), parts.next()) else {
        return "no-way".into();
    };
    match child_says(how, program, way) {
        Ok(said) => said,
        Err(error) => word(&error),
    }
}

fn child_says(how: &str, program: &str, way: &str) -> io::Result<String> {
    let place = Place::of(how, program)?;
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) }.into())?;
    // SAFETY: two new descriptors of ours.
    let (out, into) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // A child that shares root and working directory with this process, or not.
    let shared = if how == "shared" { libc::CLONE_FS } else { 0 };
    let flags = c_long::from(shared | libc::SIGCHLD);
    // SAFETY: as fork: no stack is given, so the child goes on on its own copy; this program has one thread.
    let child = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })? as c_int;
    if child == 0 {
        // SAFETY: plain numbers.
        unsafe { libc::dup2(into.as_raw_fd(), 1) };
        let error = match prepare(how) {
            Ok(()) => execute(&place.path, way),
            Err(error) => error,
        };
        crate::say("x", &word(&error));
        // SAFETY: ends this process without what its parent has yet to do.
        unsafe { libc::_exit(1) };
    }
    drop(into);
    if how == "traced" {
        let_go(child);
    }
    if how == "measured-late" {
        measure_late(child)?;
    }
    let mut said = String::new();
    File::from(out).read_to_string(&mut said)?;
    let mut status = 0;
    // SAFETY: a status is asked for.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if how == "core" {
        let dumped = libc::WIFSIGNALED(status) && libc::WCOREDUMP(status);
        if dumped {
            // Where the kernel is told to write it; others could not write over it.
            fs::remove_file(format!("{ROOM}/core"))?;
        }
        return Ok(if dumped { "done" } else { "ENOENT" }.into());
    }
    Ok(said
        .trim()
        .rsplit(' ')
        .next()
        .filter(|word| !word.is_empty())
        .unwrap_or("silence")
        .into())
}

/// What a child does before it executes the program.
fn prepare(how: &str) -> Outcome {
    // SAFETY: plain numbers, and a limit that is valid for the call.
    let result = unsafe {
        match how {
            "nnp" => libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            "traced" => libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) as c_int,
            "loose" => libc::personality(libc::ADDR_NO_RANDOMIZE as _).min(0),
            "core" => {
                let limit = libc::rlimit {
                    rlim_cur: libc::RLIM_INFINITY,
                    rlim_max: libc::RLIM_INFINITY,
                };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const limit)
            }
            _ => 0,
        }
    };
    check(result.into())?;
    if how == "core" {
        std::env::set_current_dir(ROOM)?;
    }
    if how == "measured" {
        perf(0)?;
    }
    if how == "measured-late" {
        // Closed by the exec, which has asked all that it asks by then.
        std::mem::forget(File::open(GATE)?);
    }
    if how == "userns" {
        unshare(libc::CLONE_NEWUSER)?;
    }
    if how == "preload" {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("LD_PRELOAD", "libresolv.so.2") };
    }
    Ok(())
}

/// Executes a program in this process; returns only why it could not.
fn execute(path: &CString, way: &str) -> io::Error {
    let way = c_string(&format!("x:{way}"));
    // SAFETY: strings, the last of them null.
    unsafe {
        libc::execv(
            path.as_ptr(),
            [path.as_ptr(), way.as_ptr(), null()].as_ptr(),
        )
    };
    io::Error::last_os_error()
}

/// Lets a traced child go on when its exec has stopped it.
fn let_go(child: c_int) {
    let mut status = 0;
    loop {
        // SAFETY: a status is asked for.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 || !libc::WIFSTOPPED(status) {
            return;
        }
        // SAFETY: no address and no signal.
        unsafe { libc::ptrace(libc::PTRACE_CONT, child, 0, 0) };
    }
}

/// Begins to measure a child in the middle of its exec.
fn measure_late(child: c_int) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::exists(GATE_REACHED)? {
        if Instant::now() > deadline {
            return Err(io::Error::other("no exec closes the gate"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let measured = perf(child);
    File::create(GATE_OPEN)?;
    measured
}

/// Does something in a child, and returns what came of it.
pub fn in_child(act: impl FnOnce() -> Outcome) -> Outcome {
    // SAFETY: this program has one thread.
    let child = check(unsafe { libc::fork() }.into())? as c_int;
    if child == 0 {
        let errno = act()
            .err()
            .map_or(0, |error| error.raw_os_error().unwrap_or(255));
        // SAFETY: ends this process without what its parent has yet to do.
        unsafe { libc::_exit(errno) };
    }
    let mut status = 0;
    // SAFETY: a status is asked for.
    check(unsafe { libc::waitpid(child, &raw mut status, 0) }.into())?;
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// A child in name spaces of its own, whose overlay over the program's directory is reached through its root directory.
fn overlay_of_a_user(program: &str) -> io::Result<(String, Mounter)> {
    let (dir, name) = program
        .rsplit_once('/')
        .ok_or_else(|| io::Error::other("no path"))?;
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) }.into())?;
    // SAFETY: two new descriptors of ours.
    let (out, into) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: this program has one thread.
    let child = check(unsafe { libc::fork() }.into())? as c_int;
    if child == 0 {
        let mounted = mount_overlay(dir);
        let errno = mounted.map_or_else(|error| error.raw_os_error().unwrap_or(255) as u8, |()| 0);
        // SAFETY: one byte; then it waits to be ended.
        unsafe {
            libc::write(into.as_raw_fd(), (&raw const errno).cast(), 1);
            loop {
                libc::pause();
            }
        }
    }
    drop(into);
    let mounter = Mounter(child);
    let mut errno = [0];
    File::from(out).read_exact(&mut errno)?;
    if errno[0] != 0 {
        return Err(io::Error::from_raw_os_error(errno[0].into()));
    }
    Ok((format!("/proc/{child}/root/srv/mnt/{name}"), mounter))
}

/// Mounts an overlay that shows a directory on `/srv/mnt`, as who is root in a user name space of his own may.
fn mount_overlay(dir: &str) -> Outcome {
    unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
    let (kind, at) = (c_string("overlay"), c_string("/srv/mnt"));
    let options = c_string(&format!("lowerdir={dir}:/srv/plain"));
    // SAFETY: strings.
    check(
        unsafe {
            libc::mount(
                kind.as_ptr(),
                at.as_ptr(),
                kind.as_ptr(),
                0,
                options.as_ptr().cast(),
            )
        }
        .into(),
    )
    .map(drop)
}

/// A process that is ended with its mounts when this goes.
struct Mounter(c_int);

impl Drop for Mounter {
    fn drop(&mut self) {
        // SAFETY: plain numbers, and no status is asked for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, null_mut(), 0);
        }
    }
}

/// The file to execute, made from the program as `how` says, and taken away afterwards.
struct Place {
    path: CString,
    made: Option<String>,
    _memory: Option<OwnedFd>,
    _mounter: Option<Mounter>,
}

impl Place {
    fn of(how: &str, program: &str) -> io::Result<Self> {
        let file = format!("{ROOM}/dsi-escape-{}-{how}", std::process::id());
        let (mut path, mut made, mut memory) = (program.to_owned(), None, None);
        let mut mounter = None;
        match how {
            "copied" | "deleted" => {
                fs::copy(program, &file)?;
                made = Some(file);
            }
            "foreign" => {
                let (at, who) = overlay_of_a_user(program)?;
                path = at;
                mounter = Some(who);
            }
            "linked" | "linked-unasked" => {
                fs::hard_link(program, &file)?;
                made = Some(file);
            }
            "memfd" => {
                let fd = memory_copy(program)?;
                path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                memory = Some(fd);
            }
            _ => {}
        }
        if let Some(file) = &made {
            path.clone_from(file);
        }
        if how == "deleted" {
            // SAFETY: a string.
            let fd = check(unsafe { libc::open(c_string(&path).as_ptr(), libc::O_PATH) }.into())?
                as c_int;
            fs::remove_file(&path)?;
            path = format!("/proc/self/fd/{fd}");
            // SAFETY: a new descriptor of ours.
            memory = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            made = None;
        }
        Ok(Self {
            path: c_string(&path),
            made,
            _memory: memory,
            _mounter: mounter,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(file) = &self.made {
            // It is in a directory of this boot.
            let _ = fs::remove_file(file);
        }
    }
}
