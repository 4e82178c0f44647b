//! The ways that a process tries by itself. Each leaves things as they were, should it succeed.

use crate::Outcome;
use std::ffi::{CString, c_int, c_long, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::ptr::{null, null_mut};

/// `fcntl`: the signal that tells that a file is ready. Not in the libc crate.
const F_SETSIG: c_int = 10;
/// What attackers look for in the victim's memory.
const SECRET: &[u8; 16] = b"sixteen secrets!";

pub fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub fn c_string(text: &str) -> CString {
    CString::new(text).expect("no NUL in an argument")
}

/// Becomes an ordinary user, who can be traced like any other.
pub fn become_user(uid: u32) -> Outcome {
    // SAFETY: plain numbers, and a list of none.
    unsafe {
        check(libc::setgroups(0, null()).into())?;
        check(libc::setgid(uid).into())?;
        check(libc::setuid(uid).into())?;
        check(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into())?;
    }
    Ok(())
}

/// Says `ready ADDRESS DESCRIPTOR` and stays.
pub fn victim() -> ! {
    let secret = Box::leak(Box::new(*SECRET));
    let file = File::open("/etc/hostname").expect("every machine has a name");
    // SAFETY: neither signal has a handler in this program; all zeros is an empty set.
    unsafe {
        libc::signal(libc::SIGUSR1, libc::SIG_IGN);
        let mut held: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut held, libc::SIGUSR2);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const held, null_mut());
    }
    crate::say(
        "ready",
        &format!("{} {}", secret.as_ptr() as usize, file.as_raw_fd()),
    );
    loop {
        std::thread::park();
    }
}

fn number<T: std::str::FromStr>(arguments: &[&str], index: usize) -> T {
    arguments
        .get(index)
        .and_then(|text| text.parse().ok())
        .expect("a number as an argument")
}

fn path<'a>(arguments: &[&'a str]) -> &'a str {
    arguments.first().copied().expect("a path as an argument")
}

fn word<'a>(arguments: &[&'a str], index: usize) -> &'a str {
    arguments.get(index).copied().expect("another argument")
}

/// Goes one way.
pub fn go(name: &str, a: &[&str]) -> Outcome {
    match name {
        "kill" => kill(number(a, 0), number(a, 1)),
        "pidfd-signal" => pidfd_signal(number(a, 0)),
        "sigio" => sigio(number(a, 0)),
        "ptrace" => ptrace(number(a, 0)),
        "mem" => mem(number(a, 0), number(a, 1)),
        "environ" => fs::read(format!("/proc/{}/environ", path(a))).map(drop),
        "fd-link" => fs::read_link(format!("/proc/{}/fd/0", path(a))).map(drop),
        "vm-read" => vm(true, number(a, 0), number(a, 1)),
        "vm-write" => vm(false, number(a, 0), number(a, 1)),
        "getfd" => getfd(number(a, 0), number(a, 1)),
        "perf" => perf(number(a, 0)),
        "limit" => limit(number(a, 0)),
        "nice" => nice(number(a, 0)),
        "ioprio" => ioprio(number(a, 0)),
        "affinity" => affinity(number(a, 0)),
        "give" => give(path(a)),
        "open-up" => open_up(path(a)),
        "hand-to-group" => hand_to_group(path(a)),
        "traceme" => traceme(),
        "cgroup" => crate::run::in_child(|| cgroup(path(a))),
        "tun" => tun(path(a)),
        "unshared-tun" => crate::run::in_child(|| {
            unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
            tun("mine")
        }),
        "put" => use_device(path(a), |fd| {
            // A frame behind the header of virtio that a tap of macvtap takes.
            let frame = [0_u8; 80];
            // SAFETY: the frame is as long as is said.
            unsafe { libc::write(fd, frame.as_ptr().cast(), frame.len()) as c_long }
        }),
        "ask" => use_device(path(a), |fd| {
            let mut answer = 0_u64;
            // SAFETY: whatever of these is asked, the answer has room.
            unsafe { libc::ioctl(fd, number::<u64>(a, 1) as _, &raw mut answer).into() }
        }),
        "map" => use_device(path(a), |fd| {
            let kinds = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a mapping that nothing touches.
            let at = unsafe { libc::mmap(null_mut(), 4096, kinds, libc::MAP_SHARED, fd, 0) };
            if at == libc::MAP_FAILED { -1 } else { 0 }
        }),
        "label" => label(path(a)),
        "unlabel" => unlabel(path(a)),
        "read" => File::open(path(a)).map(drop),
        "write" => write(path(a)),
        "mkdir" => fs::create_dir(path(a)).and_then(|()| fs::remove_dir(path(a))),
        "insmod" => insmod(),
        "insmod-file" => insmod_file(path(a)),
        "rmmod" => rmmod(),
        "bpf" => bpf(),
        "audit" => audit(),
        "audit-rule" => audit_rule(),
        "kexec" => kexec(),
        "kexec-file" => kexec_file(),
        "ioperm" => ioperm(),
        "kernel-perf" => kernel_perf(),
        "ctrl-alt-del" => ctrl_alt_del(),
        "mount" => mount(path(a)),
        "bind" => bind(path(a), word(a, 1)),
        "move-mount" => move_mount(path(a), word(a, 1)),
        "chroot" => chroot(path(a)),
        "setns" => crate::run::in_child(|| enter_network(path(a))),
        "lo" => lo(),
        "unshared-lo" => crate::run::in_child(|| {
            unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
            lo()
        }),
        "unshared-write" => crate::run::in_child(|| {
            unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
            write(path(a))
        }),
        "kept-write" => crate::run::in_child(|| kept_write(path(a))),
        "unshared-label" => crate::run::in_child(|| {
            unshare(libc::CLONE_NEWUSER)?;
            label(path(a))
        }),
        "preloaded" => preloaded(path(a)),
        "secure" => secure(),
        "strict" => strict(),
        // SAFETY: ends this process.
        "crash" => unsafe { libc::abort() },
        other => Err(io::Error::other(format!("no way {other}"))),
    }
}

fn kill(pid: i32, signal: c_int) -> Outcome {
    // SAFETY: plain numbers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

fn pidfd_signal(pid: i32) -> Outcome {
    let fd = pidfd(pid)?;
    // SAFETY: no siginfo is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            libc::SIGUSR1,
            null::<c_void>(),
            0,
        )
    };
    check(result).map(drop)
}

/// Has the kernel signal somebody when a socket is ready, and makes it ready. The victim holds SIGUSR2 back, so that it
/// shows among the pending ones.
fn sigio(pid: i32) -> Outcome {
    let (here, mut there) = UnixStream::pair()?;
    let fd = here.as_raw_fd();
    // SAFETY: plain numbers.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETOWN, pid).into())?;
        check(libc::fcntl(fd, F_SETSIG, libc::SIGUSR2).into())?;
        check(libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK).into())?;
    }
    there.write_all(b"x")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending =
        u64::from_str_radix(pending.unwrap_or("").trim(), 16).map_err(io::Error::other)?;
    if pending & 1 << (libc::SIGUSR2 - 1) != 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

fn ptrace(pid: i32) -> Outcome {
    let none = null_mut::<c_void>();
    // SAFETY: neither request takes an address. The kernel lets go of the target when this process ends.
    unsafe {
        check(libc::ptrace(libc::PTRACE_SEIZE, pid, none, none))?;
        check(libc::ptrace(libc::PTRACE_INTERRUPT, pid, none, none))?;
        libc::waitpid(pid, null_mut(), libc::__WALL);
        check(libc::ptrace(libc::PTRACE_DETACH, pid, none, none)).map(drop)
    }
}

/// Reads the victim's secret and writes it back.
fn mem(pid: i32, address: u64) -> Outcome {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    let mut found = [0; 16];
    file.read_exact_at(&mut found, address)?;
    file.write_all_at(&found, address)?;
    expect_secret(&found)
}

fn expect_secret(found: &[u8; 16]) -> Outcome {
    if found == SECRET {
        Ok(())
    } else {
        Err(io::Error::other("another secret"))
    }
}

fn vm(read: bool, pid: i32, address: usize) -> Outcome {
    let mut here = *SECRET;
    if read {
        here = [0; 16];
    }
    let local = libc::iovec {
        iov_base: here.as_mut_ptr().cast(),
        iov_len: here.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut c_void,
        iov_len: here.len(),
    };
    let call = if read {
        libc::process_vm_readv
    } else {
        libc::process_vm_writev
    };
    // SAFETY: the local vector is `here`; the remote one is of another address space.
    check(unsafe { call(pid, &raw const local, 1, &raw const remote, 1, 0) } as c_long)?;
    expect_secret(&here)
}

fn getfd(pid: i32, fd: c_int) -> Outcome {
    let of = pidfd(pid)?;
    // SAFETY: plain numbers; the new descriptor goes with the process.
    check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, of.as_raw_fd(), fd, 0) }).map(drop)
}

/// Counts a process' clock, for as long as this one lives.
pub fn perf(pid: i32) -> Outcome {
    // The bits exclude_kernel and exclude_hv.
    clock(pid, 1 << 5 | 1 << 6)
}

/// Counts this process' clock in the kernel, too.
fn kernel_perf() -> Outcome {
    clock(0, 0)
}

fn clock(pid: i32, without: u64) -> Outcome {
    // perf_event_attr of 64 bytes: type 1 (software), its size, config 0 (the CPU clock), and bits of what is left out.
    let mut attributes = [0_u64; 8];
    attributes[0] = 64 << 32 | 1;
    attributes[5] = without;
    // SAFETY: the attributes are as long as they say.
    check(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            pid,
            -1,
            -1,
            0,
        )
    })
    .map(drop)
}

/// Sets a process' limit of core dumps to what it is.
fn limit(pid: i32) -> Outcome {
    // SAFETY: all zeros is a limit.
    let mut limit: libc::rlimit64 = unsafe { std::mem::zeroed() };
    // SAFETY: room for a limit, then a limit.
    unsafe {
        check(libc::prlimit64(pid, libc::RLIMIT_CORE, null(), &raw mut limit).into())?;
        check(libc::prlimit64(pid, libc::RLIMIT_CORE, &raw const limit, null_mut()).into())
            .map(drop)
    }
}

/// Makes a process as nice as it is.
fn nice(pid: i32) -> Outcome {
    // SAFETY: plain numbers.
    unsafe {
        let nice = libc::getpriority(libc::PRIO_PROCESS, pid as _);
        check(libc::setpriority(libc::PRIO_PROCESS, pid as _, nice).into()).map(drop)
    }
}

/// Gives a process the priority of its input and output that it has by default.
fn ioprio(pid: i32) -> Outcome {
    const PROCESS: c_int = 1;
    const BEST_EFFORT: c_int = 2 << 13 | 4;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, pid, BEST_EFFORT) }).map(drop)
}

/// Lets a process run where it runs.
fn affinity(pid: i32) -> Outcome {
    // SAFETY: all zeros is a set; it is as large as is said.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        check(libc::sched_getaffinity(pid, size_of_val(&set), &raw mut set).into())?;
        check(libc::sched_setaffinity(pid, size_of_val(&set), &raw const set).into()).map(drop)
    }
}

/// Gives a file away, and takes it back.
fn give(file: &str) -> Outcome {
    std::os::unix::fs::chown(file, Some(1000), None)?;
    std::os::unix::fs::chown(file, Some(0), None)
}

/// Changes a file's mode so that all may write to it, and back.
fn open_up(file: &str) -> Outcome {
    let before = fs::metadata(file)?.permissions();
    fs::set_permissions(file, fs::Permissions::from_mode(0o666))?;
    fs::set_permissions(file, before)
}

/// Gives a file to another group, and back.
fn hand_to_group(file: &str) -> Outcome {
    std::os::unix::fs::chown(file, None, Some(1000))?;
    std::os::unix::fs::chown(file, None, Some(0))
}

/// Opens a file to write to it, and does not.
fn write(file: &str) -> Outcome {
    OpenOptions::new().write(true).open(file).map(drop)
}

/// The same by a handle from before this process had a network of its own. In a child.
fn kept_write(file: &str) -> Outcome {
    // SAFETY: a string.
    let fd = check(unsafe { libc::open(c_string(file).as_ptr(), libc::O_PATH) }.into())?;
    unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
    write(&format!("/proc/self/fd/{fd}"))
}

/// Asks this process' parent to trace it. It ends with this process.
fn traceme() -> Outcome {
    // SAFETY: plain numbers.
    check(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }).map(drop)
}

/// Makes a cgroup in the name of somebody else, and opens it to move processes there, with the capabilities of root
/// that he did not take off. In a child.
fn cgroup(dir: &str) -> Outcome {
    // struct __user_cap_header_struct of version 3, and twice struct __user_cap_data_struct.
    let header = [0x2008_0522_u32, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: plain numbers; header and sets are as the version says.
    unsafe {
        libc::setfsuid(1000);
        check(libc::syscall(
            libc::SYS_capget,
            header.as_ptr(),
            sets.as_mut_ptr(),
        ))?;
        // What is effective, out of what is permitted.
        sets[0] = sets[1];
        sets[3] = sets[4];
        check(libc::syscall(
            libc::SYS_capset,
            header.as_ptr(),
            sets.as_ptr(),
        ))?;
    }
    fs::create_dir(dir)?;
    let opened = OpenOptions::new()
        .write(true)
        .open(format!("{dir}/cgroup.procs"))
        .map(drop);
    fs::remove_dir(dir)?;
    opened
}

/// Opens a device, and does something with it.
fn use_device(file: &str, act: impl FnOnce(c_int) -> c_long) -> Outcome {
    let file = OpenOptions::new().read(true).write(true).open(file)?;
    check(act(file.as_raw_fd())).map(drop)
}

/// Attaches to a tunnel device, or makes it.
fn tun(name: &str) -> Outcome {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const TUN_WITHOUT_HEADER: i16 = 0x1001;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: all zeros is a request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as _;
    }
    request.ifr_ifru.ifru_flags = TUN_WITHOUT_HEADER;
    // SAFETY: the request is valid for the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) }.into())
        .map(drop)
}

fn label(file: &str) -> Outcome {
    let (file, name, value) = (c_string(file), c_string("security.dsi"), b"20");
    // SAFETY: strings, and a value as long as it says.
    check(
        unsafe {
            libc::setxattr(
                file.as_ptr(),
                name.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                0,
            )
        }
        .into(),
    )
    .map(drop)
}

fn unlabel(file: &str) -> Outcome {
    let (file, name) = (c_string(file), c_string("security.dsi"));
    // SAFETY: strings.
    check(unsafe { libc::removexattr(file.as_ptr(), name.as_ptr()) }.into()).map(drop)
}

/// Hands something to the kernel that is no module, so that none is loaded.
fn insmod() -> Outcome {
    let (image, parameters) = ([0_u8; 128], c_string(""));
    // SAFETY: the image is as long as it says, the parameters are a string.
    check(unsafe {
        libc::syscall(
            libc::SYS_init_module,
            image.as_ptr(),
            image.len(),
            parameters.as_ptr(),
        )
    })
    .map(drop)
}

/// The same of a file.
fn insmod_file(file: &str) -> Outcome {
    let (file, parameters) = (File::open(file)?, c_string(""));
    // SAFETY: plain numbers and a string.
    check(unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    })
    .map(drop)
}

fn rmmod() -> Outcome {
    let name = c_string("dsi_no_such_module");
    // SAFETY: a string and a flag.
    check(unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) })
        .map(drop)
}

/// Makes a map.
fn bpf() -> Outcome {
    // BPF_MAP_CREATE: array, keys of 4 bytes, values of 8, one entry.
    let attributes = [2_u32, 4, 8, 1, 0, 0, 0, 0];
    // SAFETY: the attributes are as long as is said.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            0,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    })
    .map(drop)
}

/// Hears what the kernel's audit reports of all processes.
fn audit() -> Outcome {
    // SAFETY: plain numbers.
    let socket = check(
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT) }.into(),
    )? as c_int;
    // SAFETY: plain numbers, of which any will do.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    // AUDIT_NLGRP_READLOG.
    address.nl_groups = 1;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is as long as is said.
    check(unsafe { libc::bind(socket, (&raw const address).cast(), len) }.into()).map(drop)
}

/// Has the kernel's audit report a system call never, which it does not, and takes that back.
fn audit_rule() -> Outcome {
    const ADD_RULE: u32 = 1011;
    const DEL_RULE: u32 = 1012;
    // struct audit_rule_data: flags (AUDIT_FILTER_EXIT), action (AUDIT_NEVER), no fields, the mask of system calls.
    let mut rule = [0_u32; 260];
    rule[0] = 4;
    rule[3] = 1;
    // SAFETY: plain numbers.
    let fd = check(
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT) }.into(),
    )?;
    // SAFETY: a new descriptor of ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd as c_int) };
    for kind in [ADD_RULE, DEL_RULE] {
        audit_request(&socket, kind, &rule)?;
    }
    Ok(())
}

/// Asks something of the kernel's audit, and returns what its acknowledgement says.
fn audit_request(socket: &OwnedFd, kind: u32, body: &[u32]) -> Outcome {
    const REQUEST_ACK: u32 = 5;
    let len = 16 + size_of_val(body) as u32;
    // struct nlmsghdr: length, type and flags, a number of ours, nobody's port.
    let mut message = vec![len, kind | REQUEST_ACK << 16, 1, 0];
    message.extend(body);
    // SAFETY: the message is as long as it says.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), len as usize, 0) };
    check(sent as c_long)?;
    let mut answer = [0_u32; 512];
    // SAFETY: room for as much as is said.
    check(unsafe {
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            size_of_val(&answer),
            0,
        )
    } as c_long)?;
    // struct nlmsgerr behind the header of NLMSG_ERROR.
    match (answer[1] & 0xFFFF, answer[4].cast_signed()) {
        (2, 0) => Ok(()),
        (2, error) => Err(io::Error::from_raw_os_error(-error)),
        (other, _) => Err(io::Error::other(format!("answer of type {other}"))),
    }
}

/// Has the kernel forget the kernel to boot next, which it has not.
fn kexec() -> Outcome {
    // SAFETY: no segments.
    check(unsafe { libc::syscall(libc::SYS_kexec_load, 0, 0, null::<c_void>(), 0) }).map(drop)
}

/// The same by its other system call.
fn kexec_file() -> Outcome {
    const UNLOAD: c_long = 1;
    // SAFETY: no files and no command line.
    check(unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            -1,
            -1,
            0,
            null::<c_void>(),
            UNLOAD,
        )
    })
    .map(drop)
}

/// Asks for a port of the machine's, which is of no use, and gives it back.
fn ioperm() -> Outcome {
    // SAFETY: plain numbers. Nothing is done with the port.
    unsafe {
        check(libc::ioperm(0x80, 1, 1).into())?;
        check(libc::ioperm(0x80, 1, 0).into()).map(drop)
    }
}

fn ctrl_alt_del() -> Outcome {
    // SAFETY: a plain number.
    check(unsafe { libc::reboot(libc::RB_DISABLE_CAD) }.into()).map(drop)
}

fn mount(dir: &str) -> Outcome {
    let (dir, kind) = (c_string(dir), c_string("tmpfs"));
    // SAFETY: strings, and no data.
    unsafe {
        check(libc::mount(kind.as_ptr(), dir.as_ptr(), kind.as_ptr(), 0, null()).into())?;
        check(libc::umount2(dir.as_ptr(), libc::MNT_DETACH).into()).map(drop)
    }
}

/// Shows one directory in the place of another one.
fn bind(from: &str, over: &str) -> Outcome {
    let (from, over) = (c_string(from), c_string(over));
    let none = null::<libc::c_char>();
    // SAFETY: strings, and no data.
    unsafe {
        check(
            libc::mount(
                from.as_ptr(),
                over.as_ptr(),
                none,
                libc::MS_BIND,
                none.cast(),
            )
            .into(),
        )?;
        check(libc::umount2(over.as_ptr(), libc::MNT_DETACH).into()).map(drop)
    }
}

/// Has a mount appear in the place of a directory, and takes it back.
fn move_mount(mount: &str, over: &str) -> Outcome {
    const FROM_DESCRIPTOR: c_long = 4;
    let (mount, over, nothing) = (c_string(mount), c_string(over), c_string(""));
    // SAFETY: strings and flags.
    unsafe {
        let tree = check(libc::syscall(
            libc::SYS_open_tree,
            libc::AT_FDCWD,
            mount.as_ptr(),
            libc::O_CLOEXEC,
        ))?;
        for to in [&over, &mount] {
            check(libc::syscall(
                libc::SYS_move_mount,
                tree,
                nothing.as_ptr(),
                libc::AT_FDCWD,
                to.as_ptr(),
                FROM_DESCRIPTOR,
            ))?;
        }
    }
    Ok(())
}

/// Goes into another network of the node's.
fn enter_network(file: &str) -> Outcome {
    let file = File::open(file)?;
    // SAFETY: plain numbers.
    check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }.into()).map(drop)
}

/// In a child, so that the other ways are not lost.
fn chroot(dir: &str) -> Outcome {
    let dir = c_string(dir);
    crate::run::in_child(|| {
        // SAFETY: a string.
        check(unsafe { libc::chroot(dir.as_ptr()) }.into()).map(drop)
    })
}

/// Sets the loopback device up, which it is, or in a new name space is not.
fn lo() -> Outcome {
    // SAFETY: plain numbers.
    let fd = check(
        unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into(),
    )?;
    // SAFETY: a new descriptor of ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd as c_int) };
    // SAFETY: all zeros is a request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as _;
    request.ifr_name[1] = b'o' as _;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as _;
    // SAFETY: the request is valid for the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())
        .map(drop)
}

/// Makes name spaces of this process' own, with a user name space in which it is root.
pub fn unshare(kinds: c_int) -> Outcome {
    // SAFETY: plain numbers.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: plain numbers.
    check(unsafe { libc::unshare(kinds) }.into())?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Whether a library is in this process.
fn preloaded(library: &str) -> Outcome {
    let mut maps = String::new();
    File::open("/proc/self/maps")?.read_to_string(&mut maps)?;
    if maps.contains(library) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }
}

/// Whether the loader was told to be careful.
fn secure() -> Outcome {
    // SAFETY: a plain number.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }
}

/// Whether this process' addresses are drawn by lot, whatever its caller asked for.
fn strict() -> Outcome {
    // SAFETY: asks only.
    if unsafe { libc::personality(0xFFFF_FFFF) } & libc::ADDR_NO_RANDOMIZE == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }
}

/// A descriptor of a file in memory that holds a copy of a program.
pub fn memory_copy(program: &str) -> io::Result<OwnedFd> {
    let name = c_string("copy");
    // SAFETY: a string.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), 0) }.into())?;
    // SAFETY: a new descriptor of ours.
    let mut file = unsafe { File::from_raw_fd(fd as c_int) };
    file.write_all(&fs::read(program)?)?;
    Ok(file.into())
}
