//! Does to sockets what its arguments say, one step after the other, in one process: `VERB,ARG,ARG...`. Each step
//! prints a line; the first that fails prints `VERB errno=N` and ends the program with 12. A process so small starts
//! at once in an emulated guest, and does what no ordinary program would.
//!
//! Sockets have names. An address is `1.2.3.4:5`, `[::1]:5`, `@NAME` (AF_UNIX, abstract), `netlink:PORT` or `unspec`.

mod address;
mod ring;

use address::Address;
use std::collections::HashMap;
use std::io::{Error, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

type Result<T> = std::io::Result<T>;

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, what.to_owned())
}

/// What a system call returned, or why it failed.
fn check(result: i64) -> Result<i64> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Whose id this file names, root does all steps as. A suite that has it runs the tests of another one as a user.
const USER: &str = "/etc/dsi-sock-probe.user";

fn main() -> ExitCode {
    // SAFETY: asks only.
    let root = unsafe { libc::getuid() } == 0;
    if let Some(uid) = std::fs::read_to_string(USER).ok().filter(|_| root)
        && let Err(error) = become_user(uid.trim())
    {
        println!("{USER}: {error}");
        return ExitCode::from(13);
    }
    let steps: Vec<String> = std::env::args().skip(1).collect();
    ExitCode::from(Process::default().run(&steps))
}

fn say(step: &str, what: &str) {
    println!("{step} ok {what}");
    let _ = std::io::stdout().flush();
}

/// Becomes an ordinary user.
fn become_user(uid: &str) -> Result<i64> {
    let uid = number(uid)? as u32;
    // SAFETY: plain numbers, and a list of none.
    unsafe {
        check(i64::from(libc::setgroups(0, std::ptr::null())))?;
        check(i64::from(libc::setgid(uid)))?;
        check(i64::from(libc::setuid(uid)))?;
        check(i64::from(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0)))
    }
}

/// A user and a network name space of this process' own, in which it is root.
fn own_name_space() -> Result<()> {
    // SAFETY: plain numbers.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: plain numbers.
    check(i64::from(unsafe {
        libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)
    }))?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// An address at which nothing is but what [`place`] puts there.
const PLACE: usize = 0x1000_0000_0000;

/// Puts data where another process that knows the address has this one's memory read.
fn place(data: &str) -> Result<i64> {
    const LEN: usize = 4096;
    if data.len() > LEN {
        return Err(wrong("so much data"));
    }
    // SAFETY: a new mapping, which replaces none and is as long as it is written to.
    unsafe {
        let at = libc::mmap(
            PLACE as *mut libc::c_void,
            LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        );
        if at == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        std::ptr::copy_nonoverlapping(data.as_ptr(), at.cast(), data.len());
    }
    Ok(PLACE as i64)
}

/// A child does the steps that follow. This process waits for it, with all that it has open, and ends as the child has.
fn go_on_in_child() -> Result<()> {
    // SAFETY: this thread is the only one that runs code of this program; a status is asked for.
    unsafe {
        let child = check(i64::from(libc::fork()))? as i32;
        if child == 0 {
            return Ok(());
        }
        let mut status = 0;
        check(i64::from(libc::waitpid(child, &raw mut status, 0)))?;
        libc::_exit(libc::WEXITSTATUS(status) | libc::WTERMSIG(status));
    }
}

/// The ids that this process has and acts with, and whether its loader was told to be careful.
fn ids() -> String {
    // SAFETY: asks only.
    unsafe {
        format!(
            "{} {} {}",
            libc::getuid(),
            libc::geteuid(),
            u8::from(libc::getauxval(libc::AT_SECURE) != 0)
        )
    }
}

#[derive(Default)]
struct Process {
    sockets: HashMap<String, i32>,
    rings: HashMap<String, ring::Ring>,
}

impl Process {
    /// Does the steps, and returns what the program ends with.
    fn run(&mut self, steps: &[String]) -> u8 {
        for (at, step) in steps.iter().enumerate() {
            if step == "thread" {
                return self.run_in_thread(&steps[at + 1..]);
            }
            let words: Vec<&str> = step.split(',').collect();
            match self.step(&words, &steps[at + 1..]) {
                Ok(said) => say(words[0], &said),
                Err(error) => {
                    match error.raw_os_error() {
                        Some(errno) => println!("{} errno={errno}", words[0]),
                        None => println!("{step}: {error}"),
                    }
                    return 12;
                }
            }
        }
        0
    }

    /// A thread of this process does the steps, with the sockets that there are.
    fn run_in_thread(&self, steps: &[String]) -> u8 {
        let (sockets, steps) = (self.sockets.clone(), steps.to_vec());
        let thread = std::thread::spawn(move || {
            // SAFETY: asks only.
            say("thread", &text(unsafe { libc::syscall(libc::SYS_gettid) }));
            let mut process = Self {
                sockets,
                ..Self::default()
            };
            process.run(&steps)
        });
        thread.join().unwrap_or(13)
    }

    fn fd(&self, name: &str) -> Result<i32> {
        self.sockets
            .get(name)
            .copied()
            .ok_or_else(|| wrong("no such socket"))
    }

    fn put(&mut self, name: &str, fd: i64) -> String {
        self.sockets.insert(name.to_owned(), fd as i32);
        fd.to_string()
    }

    fn step(&mut self, words: &[&str], rest: &[String]) -> Result<String> {
        match *words {
            ["socket", name, family, kind, protocol] => {
                // SAFETY: plain numbers.
                let fd = check(i64::from(unsafe {
                    libc::socket(number(family)?, number(kind)?, number(protocol)?)
                }))?;
                Ok(self.put(name, fd))
            }
            ["pair", a, b, kind] => {
                let mut fds = [0; 2];
                // SAFETY: room for two descriptors.
                check(i64::from(unsafe {
                    libc::socketpair(libc::AF_UNIX, number(kind)?, 0, fds.as_mut_ptr())
                }))?;
                self.put(a, i64::from(fds[0]));
                Ok(self.put(b, i64::from(fds[1])))
            }
            ["bind", name, to] => {
                let to = Address::parse(to)?;
                // SAFETY: the address is as long as it says.
                check(i64::from(unsafe {
                    libc::bind(self.fd(name)?, to.pointer(), to.len())
                }))
                .map(text)
            }
            ["connect", name, to] => {
                let to = Address::parse(to)?;
                // SAFETY: the address is as long as it says.
                check(i64::from(unsafe {
                    libc::connect(self.fd(name)?, to.pointer(), to.len())
                }))
                .map(text)
            }
            ["listen", name] => {
                // SAFETY: plain numbers.
                check(i64::from(unsafe { libc::listen(self.fd(name)?, 8) })).map(text)
            }
            ["listen-in-vain", name] => {
                // SAFETY: plain numbers.
                match check(i64::from(unsafe { libc::listen(self.fd(name)?, 8) })) {
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        Ok(String::new())
                    }
                    Err(error) => Err(error),
                    Ok(_) => Err(wrong("the socket listens")),
                }
            }
            ["accept", new, name] => {
                // SAFETY: the peer's address is not asked for.
                let fd = check(i64::from(unsafe {
                    libc::accept(self.fd(name)?, std::ptr::null_mut(), std::ptr::null_mut())
                }))?;
                Ok(self.put(new, fd))
            }
            ["send", name, data] => self.send(name, data, None, &[], 0),
            ["send", name, data, to] => self.send(name, data, Some(to), &[], 0),
            ["sendmany", name, data, ref to @ ..] => self.send_many(name, data, to),
            ["fastopen", name, data, to] => {
                self.send(name, data, Some(to), &[], libc::MSG_FASTOPEN)
            }
            ["zerocopy", name, data] => {
                self.option(name, "1", "60", "1")?;
                self.send(name, data, None, &[], libc::MSG_ZEROCOPY)
            }
            ["srr", name, data, to, via] => self.source_route(name, data, to, via),
            ["sendfile", name, path] => self.sendfile(name, path),
            ["recv", name] => self.receive(name),
            ["fill", name, bytes] => {
                self.send(name, &"x".repeat(number(bytes)? as usize), None, &[], 0)
            }
            ["drain", name, bytes] => self.drain(name, bytes),
            ["end", name] => self.end(name),
            ["splice", name] => self.splice(name),
            ["read", name] => {
                let mut buffer = [0; 256];
                // SAFETY: the buffer is as long as it says.
                let got = check(unsafe {
                    libc::read(self.fd(name)?, buffer.as_mut_ptr().cast(), buffer.len())
                } as i64)?;
                Ok(String::from_utf8_lossy(&buffer[..got as usize]).into_owned())
            }
            ["map", name] => self.zerocopy_receive(name),
            ["sendfd", name, what] => self.send_fd(name, what),
            ["recvfd", name, new] => self.receive_fd(name, new),
            ["getfd", new, pid, fd] => self.get_fd(new, pid, fd),
            ["option", name, level, option, value] => {
                self.option(name, level, option, value).map(text)
            }
            ["ktls", name] => self.ktls(name).map(text),
            ["timeout", name, ms] => self.timeout(name, ms),
            ["join", name, group, interface] => self.join(name, group, interface),
            ["rawudp", name, from, to, data] => self.raw_udp(name, from, to, data, 0),
            ["rawfragment", name, from, to, data] => self.raw_udp(name, from, to, data, 0x2000),
            ["udp", name, from, to, data] => self.udp(name, from, to, data),
            ["ping", name, to] => self.ping(name, to),
            ["icmperror", name, from, to, data] => self.icmp_error(name, from, to, data),
            ["errors", name] => self.errors(name),
            ["errorsmany", name] => self.errors_many(name),
            ["ringerrors", ring, name] => {
                let fd = self.fd(name)?;
                self.ring(ring)?.errors(fd)
            }
            ["ring", name, flags] => {
                let ring = ring::Ring::new(number(flags)? as u32)?;
                self.rings.insert(name.to_owned(), ring);
                Ok(String::new())
            }
            ["ringof", name, fd] => {
                let ring = ring::Ring::inherited(number(fd)?)?;
                self.rings.insert(name.to_owned(), ring);
                Ok(String::new())
            }
            ["ringkeep", name, fd] => {
                let ring = self.ring(name)?.descriptor();
                // SAFETY: plain numbers. The new descriptor is not closed at exec.
                check(i64::from(unsafe { libc::dup2(ring, number(fd)?) })).map(text)
            }
            ["ringtrusted", name, path, personality] => {
                let personality = number(personality)? as u16;
                self.ring(name)?
                    .set_attribute(path, (c"trusted.dsi-test", "value"), personality)
                    .map(text)
            }
            ["ringlabel", name, path, value] => self
                .ring(name)?
                .set_attribute(path, (c"security.dsi", value), 0)
                .map(text),
            ["ringsocket", ring, name, family, kind, protocol] => {
                let (family, kind) = (number(family)?, number(kind)? as u64);
                let fd = self
                    .ring(ring)?
                    .socket(family, kind, number(protocol)? as u32)?;
                Ok(self.put(name, fd))
            }
            ["ringconnect", ring, name, to] => {
                let (fd, to) = (self.fd(name)?, Address::parse(to)?);
                self.ring(ring)?.connect(fd, &to).map(text)
            }
            ["ringaccept", ring, new, name] => {
                let fd = self.fd(name)?;
                let fd = self.ring(ring)?.accept(fd)?;
                Ok(self.put(new, fd))
            }
            ["place", data] => place(data).map(text),
            ["ringsendplaced", ring, name, len] => {
                let (fd, len) = (self.fd(name)?, number(len)? as u32);
                self.ring(ring)?.send_from(fd, PLACE as u64, len).map(text)
            }
            ["ringroom", name] => self.ring(name)?.register_file(-1).map(text),
            ["ringfile", ring, name] => {
                let fd = self.fd(name)?;
                self.ring(ring)?.register_file(fd).map(text)
            }
            ["ringhand", from, to] => {
                let to = self.ring(to)?.descriptor();
                self.ring(from)?.hand_over(to).map(text)
            }
            ["ringtake", ring, name] => {
                let fd = self.ring(ring)?.take()?;
                Ok(self.put(name, fd))
            }
            ["ringrecvfile", ring] => self.ring(ring)?.receive_fixed(),
            ["ringsendfile", ring, data] => self.ring(ring)?.send_fixed(data.as_bytes()).map(text),
            ["newcreds"] => {
                // SAFETY: a list of none.
                check(i64::from(unsafe { libc::setgroups(0, std::ptr::null()) })).map(text)
            }
            ["personality", name] => self.ring(name)?.register_personality().map(text),
            ["ringsend", ring, name, data] => {
                let fd = self.fd(name)?;
                self.ring(ring)?.send(fd, data.as_bytes(), 0).map(text)
            }
            ["ringsendas", ring, name, data, personality] => {
                let fd = self.fd(name)?;
                let personality = number(personality)? as u16;
                self.ring(ring)?
                    .send(fd, data.as_bytes(), personality)
                    .map(text)
            }
            ["ringrecv", ring, name] => {
                let fd = self.fd(name)?;
                self.ring(ring)?.receive(fd)
            }
            ["ringsplice", ring, name] => {
                let fd = self.fd(name)?;
                self.ring(ring)?.splice(fd)
            }
            ["fd", name, fd] => Ok(self.put(name, i64::from(number(fd)?))),
            ["keep", name, fd] => {
                // SAFETY: plain numbers. The new descriptor is not closed at exec.
                check(i64::from(unsafe {
                    libc::dup2(self.fd(name)?, number(fd)?)
                }))
                .map(text)
            }
            ["close", name] => {
                // SAFETY: plain numbers.
                check(i64::from(unsafe { libc::close(self.fd(name)?) })).map(text)
            }
            ["user", uid] => become_user(uid).map(text),
            ["userns"] => own_name_space().map(|()| String::new()),
            ["ids"] => Ok(ids()),
            // IPV6_DSTOPTS: a header that is padding.
            ["headers", name] => {
                let header = [0_u8, 0, 1, 4, 0, 0, 0, 0];
                self.set(name, libc::IPPROTO_IPV6, 59, &header).map(text)
            }
            ["sockmap", name] => self.sockmap(name),
            ["unshare"] => {
                // SAFETY: plain numbers.
                check(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNET) })).map(text)
            }
            ["netns", path] => {
                let file = std::fs::File::open(path)?;
                use std::os::fd::AsRawFd;
                // SAFETY: plain numbers.
                check(i64::from(unsafe {
                    libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET)
                }))
                .map(text)
            }
            ["until", path] => {
                while !std::path::Path::new(path).exists() {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                Ok(String::new())
            }
            ["say", what] => Ok(what.to_owned()),
            ["fork"] => go_on_in_child().map(|()| String::new()),
            ["exec", program] => {
                use std::os::unix::process::CommandExt;
                Err(std::process::Command::new(program).args(rest).exec())
            }
            _ => Err(wrong("no such step")),
        }
    }

    fn ring(&mut self, name: &str) -> Result<&mut ring::Ring> {
        self.rings
            .get_mut(name)
            .ok_or_else(|| wrong("no such ring"))
    }

    fn send(
        &self,
        name: &str,
        data: &str,
        to: Option<&str>,
        control: &[u8],
        flags: i32,
    ) -> Result<String> {
        let to = to.map(Address::parse).transpose()?;
        let mut part = libc::iovec {
            iov_base: data.as_ptr().cast_mut().cast(),
            iov_len: data.len(),
        };
        // SAFETY: all zero is a message without anything.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        if let Some(to) = &to {
            message.msg_name = to.pointer().cast_mut().cast();
            message.msg_namelen = to.len();
        }
        if !control.is_empty() {
            message.msg_control = control.as_ptr().cast_mut().cast();
            message.msg_controllen = control.len();
        }
        // SAFETY: everything that the message points at lives on.
        check(unsafe { libc::sendmsg(self.fd(name)?, &message, flags) } as i64).map(text)
    }

    /// One call that sends to each of these addresses: how many it has sent, if it has sent one.
    fn send_many(&self, name: &str, data: &str, to: &[&str]) -> Result<String> {
        let to = to.iter().map(|to| Address::parse(to));
        let to = to.collect::<Result<Vec<_>>>()?;
        let mut part = libc::iovec {
            iov_base: data.as_ptr().cast_mut().cast(),
            iov_len: data.len(),
        };
        let mut messages: Vec<_> = to
            .iter()
            .map(|to| {
                // SAFETY: all zero is a message without anything.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = &raw mut part;
                message.msg_hdr.msg_iovlen = 1;
                message.msg_hdr.msg_name = to.pointer().cast_mut().cast();
                message.msg_hdr.msg_namelen = to.len();
                message
            })
            .collect();
        // SAFETY: as many messages as is said; everything that they point at lives on.
        check(i64::from(unsafe {
            libc::sendmmsg(
                self.fd(name)?,
                messages.as_mut_ptr(),
                messages.len() as u32,
                0,
            )
        }))
        .map(text)
    }

    /// With a loose source route to `to` by way of `via`.
    fn source_route(&self, name: &str, data: &str, to: &str, via: &str) -> Result<String> {
        let via: Ipv4Addr = via.parse().map_err(|_| wrong("an address"))?;
        let mut option = vec![131, 7, 4];
        option.extend(via.octets());
        option.push(0);
        self.send(name, data, Some(to), &control(0, 7, &option), 0)
    }

    fn sendfile(&self, name: &str, path: &str) -> Result<String> {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open(path)?;
        let (to, from) = (self.fd(name)?, file.as_raw_fd());
        // SAFETY: plain numbers.
        check(unsafe { libc::sendfile(to, from, std::ptr::null_mut(), 64) } as i64).map(text)
    }

    fn receive(&self, name: &str) -> Result<String> {
        let mut buffer = [0; 2048];
        // SAFETY: the buffer is as long as it says.
        let got =
            check(
                unsafe { libc::recv(self.fd(name)?, buffer.as_mut_ptr().cast(), buffer.len(), 0) }
                    as i64,
            )?;
        Ok(String::from_utf8_lossy(&buffer[..got as usize]).into_owned())
    }

    /// Receives so many bytes.
    fn drain(&self, name: &str, bytes: &str) -> Result<String> {
        let wanted = number(bytes)? as usize;
        let mut got = 0;
        while got < wanted {
            match self.receive(name)?.len() {
                0 => return Err(Error::from_raw_os_error(libc::EPIPE)),
                more => got += more,
            }
        }
        Ok(got.to_string())
    }

    /// Says that no more comes, and waits until the other end has said so, too, or is gone.
    fn end(&self, name: &str) -> Result<String> {
        // The other end may be gone already.
        // SAFETY: plain numbers.
        let _ = unsafe { libc::shutdown(self.fd(name)?, libc::SHUT_WR) };
        loop {
            match self.receive(name) {
                Ok(rest) if rest.is_empty() => return Ok(rest),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {
                    return Ok(String::new());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads by way of a pipe, past `recvmsg`.
    fn splice(&self, name: &str) -> Result<String> {
        let mut pipe = [0; 2];
        let mut buffer = [0; 256];
        let none = std::ptr::null_mut();
        // SAFETY: room for two descriptors; the buffer is as long as it says.
        unsafe {
            check(i64::from(libc::pipe(pipe.as_mut_ptr())))?;
            check(libc::splice(self.fd(name)?, none, pipe[1], none, 256, 0) as i64)?;
            let got = check(libc::read(pipe[0], buffer.as_mut_ptr().cast(), 256) as i64)?;
            Ok(String::from_utf8_lossy(&buffer[..got as usize]).into_owned())
        }
    }

    /// Reads by TCP_ZEROCOPY_RECEIVE, into its buffer for what is too small to be mapped.
    fn zerocopy_receive(&self, name: &str) -> Result<String> {
        let fd = self.fd(name)?;
        // Blocks until there is something.
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut copy = [0_u8; 256];
        // struct tcp_zerocopy_receive: address, length, recv_skip_hint, inq, err, copybuf_address, copybuf_len, ...
        let mut words = [0_u64; 8];
        let mut len = 64_u32;
        // SAFETY: one poll entry; a mapping of the socket; the option's structure is 64 bytes long, and the
        // buffer that it names as long as it says.
        unsafe {
            check(i64::from(libc::poll(&mut poll, 1, -1)))?;
            let page = libc::mmap(
                std::ptr::null_mut(),
                65536,
                libc::PROT_READ,
                libc::MAP_SHARED,
                fd,
                0,
            );
            if page == libc::MAP_FAILED {
                return Err(Error::last_os_error());
            }
            words[0] = page as u64;
            words[1] = 65536;
            words[3] = copy.as_mut_ptr() as u64;
            words[4] = copy.len() as u64;
            check(i64::from(libc::getsockopt(
                fd,
                6,
                35,
                words.as_mut_ptr().cast(),
                &mut len,
            )))?;
        }
        let got = (words[4] as u32 as usize).min(copy.len());
        Ok(String::from_utf8_lossy(&copy[..got]).into_owned())
    }

    fn send_fd(&self, name: &str, what: &str) -> Result<String> {
        let fd = self.fd(what)?.to_ne_bytes();
        self.send(name, "f", None, &control(libc::SOL_SOCKET, 1, &fd), 0)
    }

    fn receive_fd(&mut self, name: &str, new: &str) -> Result<String> {
        let (mut byte, mut space) = ([0_u8; 1], [0_u64; 8]);
        let mut part = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        // SAFETY: all zero is a message without anything; what it points at lives on.
        let fd = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &mut part;
            message.msg_iovlen = 1;
            message.msg_control = space.as_mut_ptr().cast();
            message.msg_controllen = 64;
            check(libc::recvmsg(self.fd(name)?, &mut message, 0) as i64)?;
            let header = libc::CMSG_FIRSTHDR(&message);
            if header.is_null() || (*header).cmsg_len < 20 {
                // The kernel leaves out what the receiver may not have.
                return Err(Error::from_raw_os_error(libc::EACCES));
            }
            libc::CMSG_DATA(header).cast::<i32>().read_unaligned()
        };
        Ok(self.put(new, i64::from(fd)))
    }

    fn get_fd(&mut self, new: &str, pid: &str, fd: &str) -> Result<String> {
        // SAFETY: plain numbers.
        let fd = unsafe {
            let of = check(libc::syscall(libc::SYS_pidfd_open, number(pid)?, 0))?;
            check(libc::syscall(libc::SYS_pidfd_getfd, of, number(fd)?, 0))?
        };
        Ok(self.put(new, fd))
    }

    fn option(&self, name: &str, level: &str, option: &str, value: &str) -> Result<i64> {
        let value = number(value)?;
        self.set(name, number(level)?, number(option)?, &value)
    }

    fn timeout(&self, name: &str, ms: &str) -> Result<String> {
        let ms = i64::from(number(ms)?);
        let value = libc::timeval {
            tv_sec: ms / 1000,
            tv_usec: ms % 1000 * 1000,
        };
        for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            self.set(name, libc::SOL_SOCKET, option, &value)?;
        }
        Ok(String::new())
    }

    fn join(&self, name: &str, group: &str, interface: &str) -> Result<String> {
        if let Ok(group) = group.parse::<Ipv6Addr>() {
            let value = libc::ipv6_mreq {
                ipv6mr_multiaddr: libc::in6_addr {
                    s6_addr: group.octets(),
                },
                ipv6mr_interface: number(interface)? as u32,
            };
            return self
                .set(name, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &value)
                .map(text);
        }
        let ip = |text: &str| {
            text.parse::<Ipv4Addr>()
                .map(|ip| libc::in_addr {
                    s_addr: u32::from(ip).to_be(),
                })
                .map_err(|_| wrong("an address"))
        };
        let value = libc::ip_mreq {
            imr_multiaddr: ip(group)?,
            imr_interface: ip(interface)?,
        };
        self.set(name, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &value)
            .map(text)
    }

    /// Sets an option to a value that is plain bytes.
    fn set<T: Copy>(&self, name: &str, level: i32, option: i32, value: &T) -> Result<i64> {
        // SAFETY: a value's address and size.
        check(i64::from(unsafe {
            libc::setsockopt(
                self.fd(name)?,
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
            )
        }))
    }

    /// Hands encryption to the kernel, both ways, under keys that everybody knows.
    fn ktls(&self, name: &str) -> Result<i64> {
        const SOL_TLS: i32 = 282;
        self.set(name, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")?;
        // struct tls12_crypto_info_aes_gcm_128: version 1.2, cipher, then IV, key, salt and number, all zero.
        let mut info = [0_u8; 40];
        info[..2].copy_from_slice(&0x0303_u16.to_ne_bytes());
        info[2..4].copy_from_slice(&51_u16.to_ne_bytes());
        self.set(name, SOL_TLS, 1, &info)?;
        self.set(name, SOL_TLS, 2, &info)
    }

    /// Makes a map of sockets for BPF, and puts this one into it.
    fn sockmap(&self, name: &str) -> Result<String> {
        // BPF_MAP_CREATE: BPF_MAP_TYPE_SOCKMAP, keys and values of 4 bytes, one entry.
        let create = [15_u32, 4, 4, 1, 0, 0, 0, 0];
        let (key, value) = (0_u32, self.fd(name)?);
        // SAFETY: the attributes are as long as is said, and key and value are what the map has.
        unsafe {
            let map = check(libc::syscall(
                libc::SYS_bpf,
                0,
                create.as_ptr(),
                size_of_val(&create),
            ))?;
            // BPF_MAP_UPDATE_ELEM: map, key, value, no flags.
            let update = [
                map as u64,
                std::ptr::from_ref(&key) as u64,
                std::ptr::from_ref(&value) as u64,
                0,
            ];
            check(libc::syscall(
                libc::SYS_bpf,
                2,
                update.as_ptr(),
                size_of_val(&update),
            ))
            .map(text)
        }
    }

    /// A UDP packet with a header of its own making, whose sender may be anybody.
    fn raw_udp(&self, name: &str, from: &str, to: &str, data: &str, flags: u16) -> Result<String> {
        let (from, to) = (address::ipv4(from)?, address::ipv4(to)?);
        let len = (28 + data.len()) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend(len.to_be_bytes());
        packet.extend([0x12, 0x34]);
        packet.extend(flags.to_be_bytes());
        packet.extend([64, 17, 0, 0]);
        packet.extend(from.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend((len - 20).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(data.as_bytes());
        self.send_to(name, &packet, &to.to_string())
    }

    /// A UDP header, and data behind it, by a raw socket.
    fn udp(&self, name: &str, from: &str, to: &str, data: &str) -> Result<String> {
        let at: std::net::SocketAddr = to.parse().map_err(|_| wrong("an address"))?;
        let mut packet = Vec::new();
        packet.extend((number(from)? as u16).to_be_bytes());
        packet.extend(at.port().to_be_bytes());
        packet.extend((8 + data.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(data.as_bytes());
        // A raw IPv6 socket takes no port.
        self.send_to(
            name,
            &packet,
            &std::net::SocketAddr::new(at.ip(), 0).to_string(),
        )
    }

    fn send_to(&self, name: &str, packet: &[u8], to: &str) -> Result<String> {
        let to = Address::parse(to)?;
        // SAFETY: packet and address are as long as they say.
        check(unsafe {
            libc::sendto(
                self.fd(name)?,
                packet.as_ptr().cast(),
                packet.len(),
                0,
                to.pointer(),
                to.len(),
            )
        } as i64)
        .map(text)
    }

    /// Asks for an echo and waits for it.
    fn ping(&self, name: &str, to: &str) -> Result<String> {
        // What IPv6 has for it; the kernel sums that up itself.
        let kind = if to.starts_with('[') { 128 } else { 8 };
        let mut request = [kind, 0, 0, 0, 0, 7, 0, 1, b'd', b's'];
        let sum = request
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum::<u32>();
        request[2..4].copy_from_slice(&(!(sum as u16 + (sum >> 16) as u16)).to_be_bytes());
        self.send_to(name, &request, &format!("{to}:0"))?;
        self.receive(name).map(|got| got.len().to_string())
    }

    /// An error of ICMP's to who sent, it says, a datagram: one that nobody can be reached on a port.
    fn icmp_error(&self, name: &str, from: &str, to: &str, data: &str) -> Result<String> {
        use std::net::{IpAddr, SocketAddr};
        let parse = |text: &str| -> Result<SocketAddr> {
            text.parse().map_err(|_| wrong("an address and port"))
        };
        let (from, to) = (parse(from)?, parse(to)?);
        let len = 8 + data.len() as u16;
        let mut packet = vec![3, 3, 0, 0, 0, 0, 0, 0];
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet.extend([0x45, 0]);
                packet.extend((20 + len).to_be_bytes());
                packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                packet[..2].copy_from_slice(&[1, 4]);
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(len.to_be_bytes());
                packet.extend([17, 64]);
                packet.extend(from.octets());
                packet.extend(to.octets());
            }
            _ => return Err(wrong("addresses of two families")),
        }
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend(len.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(data.as_bytes());
        // The kernel sums up those of IPv6.
        if from.is_ipv4() {
            let mut sum = packet
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
                .sum::<u32>();
            while sum > 0xFFFF {
                sum = (sum & 0xFFFF) + (sum >> 16);
            }
            packet[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        self.send_to(name, &packet, &SocketAddr::new(from.ip(), 0).to_string())
    }

    /// Waits until a socket has an error to tell, and reads it: where it comes from, its errno, and what it quotes.
    fn errors(&self, name: &str) -> Result<String> {
        let fd = self.fd(name)?;
        wait_for_errors(fd)?;
        let mut message = Message::new();
        // SAFETY: the message's parts live on.
        let got =
            check(unsafe { libc::recvmsg(fd, &mut message.header(), libc::MSG_ERRQUEUE) } as i64)?;
        message.said(got)
    }

    /// The same, of two at a time.
    fn errors_many(&self, name: &str) -> Result<String> {
        let fd = self.fd(name)?;
        wait_for_errors(fd)?;
        let mut messages = [Message::new(), Message::new()];
        let mut headers = messages.each_mut().map(|message| libc::mmsghdr {
            msg_hdr: message.header(),
            msg_len: 0,
        });
        // SAFETY: two messages, whose parts live on.
        let got = check(i64::from(unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                2,
                libc::MSG_ERRQUEUE,
                std::ptr::null_mut(),
            )
        }))?;
        let said = headers
            .iter()
            .zip(&messages)
            .take(got as usize)
            .map(|(header, message)| message.said(i64::from(header.msg_len)));
        Ok(said.collect::<Result<Vec<_>>>()?.join(" then "))
    }
}

fn wait_for_errors(fd: i32) -> Result<()> {
    let mut poll = libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    // SAFETY: one poll entry.
    check(i64::from(unsafe { libc::poll(&mut poll, 1, -1) })).map(drop)
}

/// Room for one message of a socket's errors.
pub(crate) struct Message {
    data: [u8; 2048],
    control: [u64; 64],
    part: libc::iovec,
}

impl Message {
    pub(crate) fn new() -> Self {
        Self {
            data: [0; 2048],
            control: [0; 64],
            part: libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            },
        }
    }

    /// What a call reads into it by. It may not be moved meanwhile.
    pub(crate) fn header(&mut self) -> libc::msghdr {
        self.part = libc::iovec {
            iov_base: self.data.as_mut_ptr().cast(),
            iov_len: self.data.len(),
        };
        // SAFETY: all zero is a message without anything.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &mut self.part;
        header.msg_iovlen = 1;
        header.msg_control = self.control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&self.control);
        header
    }

    /// What was read: the `sock_extended_err` of whichever family, and so many bytes.
    pub(crate) fn said(&self, got: i64) -> Result<String> {
        // SAFETY: all zero is a message without anything; the control messages live on, and the kernel, or nobody, has
        // written them into room that was zero.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_control = self.control.as_ptr().cast_mut().cast();
            header.msg_controllen = size_of_val(&self.control);
            let mut at = libc::CMSG_FIRSTHDR(&header);
            while !at.is_null() && (*at).cmsg_len != 0 {
                let is = ((*at).cmsg_level, (*at).cmsg_type);
                if is == (libc::SOL_IP, libc::IP_RECVERR)
                    || is == (libc::SOL_IPV6, libc::IPV6_RECVERR)
                {
                    let error = libc::CMSG_DATA(at)
                        .cast::<libc::sock_extended_err>()
                        .read_unaligned();
                    return Ok(format!(
                        "origin={} errno={} bytes={got} {}",
                        error.ee_origin,
                        error.ee_errno,
                        String::from_utf8_lossy(&self.data[..got as usize])
                    ));
                }
                at = libc::CMSG_NXTHDR(&header, at);
            }
        }
        Err(wrong("no error told"))
    }
}

fn text(value: i64) -> String {
    value.to_string()
}

fn number(text: &str) -> Result<i32> {
    text.parse().map_err(|_| wrong("a number"))
}

/// One control message.
fn control(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend((16 + data.len()).to_ne_bytes());
    message.extend(level.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(data);
    message.resize(message.len().next_multiple_of(8), 0);
    message
}
