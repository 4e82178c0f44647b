//! Traffic that is verified byte by byte: echo servers, and clients whose streams carry a pattern in which each byte
//! depends on its connection and its place.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, Protocol, SocketType, ipproto, sockopt};

use crate::{Outcome, at};

/// How long an answer may take in an emulated guest on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two exchanges of a flow: the cycles are to have most of the CPUs.
const PACE: Duration = Duration::from_millis(300);
/// What is sent at once, at most: less than a receive buffer, so that both ends never wait for each other.
const MOST: usize = 30_000;
/// Exchanges of a connection that others follow, at most.
const YOUNG: u64 = 60;

/// How a flow is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Udp,
    Tcp,
    Mptcp,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Mptcp];

    /// The port of its echo server, by family.
    pub(crate) fn port(self, base: u16, ip: IpAddr) -> u16 {
        base + 2 * self as u16 + u16::from(ip.is_ipv6())
    }
}

/// Whether this kernel has MPTCP, and it is on.
pub(crate) fn has_mptcp() -> bool {
    std::fs::read_to_string("/proc/sys/net/mptcp/enabled").is_ok_and(|text| text.trim() == "1")
}

/// The kinds that this kernel has.
pub(crate) fn kinds() -> Vec<Kind> {
    let mptcp = has_mptcp();
    let has = |kind: &Kind| mptcp || *kind != Kind::Mptcp;
    Kind::ALL.into_iter().filter(has).collect()
}

fn stream_socket(ip: IpAddr, kind: Kind) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let protocol: Option<Protocol> = (kind == Kind::Mptcp).then_some(ipproto::MPTCP);
    Ok(rustix::net::socket(family, SocketType::STREAM, protocol)?)
}

/// Connects by TCP or MPTCP.
pub(crate) fn connect(to: SocketAddr, kind: Kind) -> io::Result<TcpStream> {
    let socket = stream_socket(to.ip(), kind)?;
    rustix::net::connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn listen(on: SocketAddr, kind: Kind) -> io::Result<TcpListener> {
    let socket = stream_socket(on.ip(), kind)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if on.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &on)?;
    rustix::net::listen(&socket, 16)?;
    Ok(TcpListener::from(socket))
}

/// Any address of each family.
const ANY: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
];

/// The sockets of a set of echo servers.
pub(crate) struct Servers {
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
}

impl Servers {
    /// One of each kind and family, on ports from `base` on.
    pub(crate) fn open(base: u16) -> Outcome<Self> {
        let (mut listeners, mut datagrams) = (Vec::new(), Vec::new());
        for kind in kinds() {
            for ip in ANY {
                let on = SocketAddr::new(ip, kind.port(base, ip));
                let fail = at(format!("{kind:?} server on {on}"));
                if kind == Kind::Udp {
                    datagrams.push(UdpSocket::bind(on).map_err(fail)?);
                } else {
                    listeners.push(listen(on, kind).map_err(fail)?);
                }
            }
        }
        Ok(Self {
            listeners,
            datagrams,
        })
    }

    /// Serves by threads of their own, each until its socket fails.
    pub(crate) fn start(self) {
        for socket in self.datagrams {
            std::thread::spawn(move || echo_datagrams(&socket, None));
        }
        for listener in self.listeners {
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || echo(stream));
                }
            });
        }
    }

    /// Serves so many connections of each listener and datagrams until `over`; returns when all is done.
    pub(crate) fn serve(&self, over: &AtomicBool) {
        std::thread::scope(|scope| {
            for socket in &self.datagrams {
                scope.spawn(move || echo_datagrams(socket, Some(over)));
            }
            for listener in &self.listeners {
                scope.spawn(move || {
                    if let Ok((stream, _)) = listener.accept() {
                        echo(stream);
                    }
                });
            }
        });
    }
}

/// What goes wrong here, the client sees: its bytes do not come back.
fn echo_datagrams(socket: &UdpSocket, over: Option<&AtomicBool>) {
    let mut buffer = vec![0; 65536];
    let tick = over.map(|_| Duration::from_millis(50));
    let _ = socket.set_read_timeout(tick);
    while !over.is_some_and(|over| over.load(Ordering::Relaxed)) {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], from);
        }
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) if stream.write_all(&buffer[..len]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// The port from which on the servers of the default zone have theirs.
pub(crate) const BASE: u16 = 9000;

/// The servers of the default zone, for as long as the process lives.
pub(crate) fn serve_for_ever() -> Outcome<()> {
    Servers::open(BASE)?.start();
    println!("serving");
    loop {
        std::thread::park();
    }
}

/// The bytes of a connection from a place on: each word is a mixture of the seed and its number.
fn pattern(seed: u64, from: u64, len: usize) -> Vec<u8> {
    let word = |number: u64| {
        let mut mixed = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    };
    let first = from / 8;
    let skipped = (from % 8) as usize;
    (first..).flat_map(word).skip(skipped).take(len).collect()
}

/// A connection whose bytes are verified.
pub(crate) struct Verified {
    stream: TcpStream,
    seed: u64,
    place: u64,
}

impl Verified {
    pub(crate) fn open(to: SocketAddr, kind: Kind) -> Outcome<Self> {
        let stream = connect(to, kind).map_err(at("connect"))?;
        let seed = fastrand::u64(..);
        let place = 0;
        Ok(Self {
            stream,
            seed,
            place,
        })
    }

    /// Sends so many bytes and verifies what comes back.
    pub(crate) fn exchange(&mut self, len: usize) -> Outcome<()> {
        let place = self.place;
        let fail = |what: &'static str| at(format!("{what} at byte {place} of a connection"));
        let sent = pattern(self.seed, place, len);
        self.stream.write_all(&sent).map_err(fail("send"))?;
        let mut got = vec![0; len];
        self.stream.read_exact(&mut got).map_err(fail("receive"))?;
        if let Some(wrong) = sent.iter().zip(&got).position(|(a, b)| a != b) {
            return Err(format!(
                "byte {} of a connection is wrong",
                place + wrong as u64
            ));
        }
        self.place += len as u64;
        Ok(())
    }

    /// Ends it from this side, and verifies that the other end has sent nothing more.
    pub(crate) fn end(mut self) -> Outcome<()> {
        let fail = |what| at(format!("{what} after {} bytes of a connection", self.place));
        self.stream
            .shutdown(std::net::Shutdown::Write)
            .map_err(fail("shutdown"))?;
        let mut more = [0; 1];
        match self.stream.read(&mut more).map_err(fail("end"))? {
            0 => Ok(()),
            _ => Err(format!("a byte too many after {}", self.place)),
        }
    }
}

/// A socket whose datagrams are verified.
pub(crate) struct Datagrams {
    socket: UdpSocket,
    sent: u64,
}

impl Datagrams {
    pub(crate) fn open(to: SocketAddr) -> Outcome<Self> {
        let any = ANY[usize::from(to.is_ipv6())];
        let socket = UdpSocket::bind((any, 0)).map_err(at("bind"))?;
        socket.connect(to).map_err(at("connect"))?;
        Ok(Self { socket, sent: 0 })
    }

    /// Sends one and verifies that it comes back. The policy allows each of these, so that none may be lost.
    pub(crate) fn exchange(&mut self, len: usize) -> Outcome<()> {
        let fail = |what: &'static str, number| at(format!("{what} of datagram {number}"));
        let sent = pattern(self.sent, 0, len);
        self.socket
            .send(&sent)
            .map_err(fail("sending", self.sent))?;
        self.socket
            .set_read_timeout(Some(PATIENCE))
            .map_err(fail("waiting", self.sent))?;
        let mut got = vec![0; len + 1];
        let taken = self
            .socket
            .recv(&mut got)
            .map_err(fail("receiving", self.sent))?;
        if got[..taken] != sent {
            return Err(format!("datagram {} is wrong", self.sent));
        }
        self.sent += 1;
        Ok(())
    }

    /// Sends one that nobody waits for.
    pub(crate) fn send(&self) -> Outcome<()> {
        self.socket.send(b"refused").map_err(at("send")).map(drop)
    }
}

/// What all flows have done.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) connections: AtomicU64,
    pub(crate) stream_bytes: AtomicU64,
    pub(crate) datagrams: AtomicU64,
    over: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Tally {
    fn fail(&self, what: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(what);
    }

    /// Fails if a flow has.
    pub(crate) fn check(&self) -> Outcome<()> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone().map_or(Ok(()), Err)
    }
}

/// A flow, which runs by a thread of its own.
struct Flow {
    name: String,
    exchanges: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

/// All flows.
pub(crate) struct Flows {
    flows: Vec<Flow>,
    pub(crate) tally: Arc<Tally>,
}

impl Flows {
    /// A flow of each kind to each address.
    pub(crate) fn start(addresses: &[IpAddr]) -> Self {
        let tally = Arc::<Tally>::default();
        let mut flows = Vec::new();
        for ip in addresses {
            for kind in kinds() {
                let to = SocketAddr::new(*ip, kind.port(BASE, *ip));
                let name = format!("{kind:?} to {to}");
                let exchanges = Arc::<AtomicU64>::default();
                let (of, count, whose) = (tally.clone(), exchanges.clone(), name.clone());
                let thread = std::thread::spawn(move || {
                    let done = if kind == Kind::Udp {
                        datagrams(to, &of, &count)
                    } else {
                        streams(to, kind, &of, &count)
                    };
                    if let Err(what) = done {
                        of.fail(format!("{whose}: {what}"));
                    }
                });
                flows.push(Flow {
                    name,
                    exchanges,
                    thread,
                });
            }
        }
        Self { flows, tally }
    }

    pub(crate) fn count(&self) -> usize {
        self.flows.len()
    }

    /// Waits until each flow has done an exchange that it began after this call.
    pub(crate) fn advance(&self) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        let before: Vec<u64> = self
            .flows
            .iter()
            .map(|flow| flow.exchanges.load(Ordering::Relaxed))
            .collect();
        for (flow, before) in self.flows.iter().zip(before) {
            while flow.exchanges.load(Ordering::Relaxed) < before + 2 {
                self.tally.check()?;
                if Instant::now() > deadline {
                    return Err(format!("{} stands still", flow.name));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.tally.check()
    }

    /// Has each end what it has begun, verified to the last byte.
    pub(crate) fn finish(self) -> Outcome<Arc<Tally>> {
        self.tally.over.store(true, Ordering::Relaxed);
        for flow in self.flows {
            flow.thread
                .join()
                .map_err(|_| format!("{} panicked", flow.name))?;
        }
        self.tally.check()?;
        Ok(self.tally)
    }
}

/// Mostly short, now and then of many segments.
fn length() -> usize {
    if fastrand::u8(..) < 24 {
        fastrand::usize(1..MOST)
    } else {
        fastrand::usize(1..1400)
    }
}

fn datagrams(to: SocketAddr, tally: &Tally, exchanges: &AtomicU64) -> Outcome<()> {
    let mut socket = Datagrams::open(to)?;
    while !tally.over.load(Ordering::Relaxed) {
        socket.exchange(length())?;
        tally.datagrams.fetch_add(1, Ordering::Relaxed);
        exchanges.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// One connection from the beginning to the end, and others that begin and end at any time.
fn streams(to: SocketAddr, kind: Kind, tally: &Tally, exchanges: &AtomicU64) -> Outcome<()> {
    let open = || {
        let stream = Verified::open(to, kind)?;
        tally.connections.fetch_add(1, Ordering::Relaxed);
        Ok::<_, String>(stream)
    };
    let mut old = open()?;
    let mut young = open()?;
    let mut left = fastrand::u64(1..YOUNG);
    while !tally.over.load(Ordering::Relaxed) {
        for stream in [&mut old, &mut young] {
            let len = length();
            stream.exchange(len)?;
            tally.stream_bytes.fetch_add(len as u64, Ordering::Relaxed);
        }
        left -= 1;
        if left == 0 {
            std::mem::replace(&mut young, open()?).end()?;
            left = fastrand::u64(1..YOUNG);
        }
        exchanges.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PACE);
    }
    young.end()?;
    old.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_the_same_in_parts() {
        let whole = pattern(7, 0, 100);
        for cut in 0..100 {
            let parts = [pattern(7, 0, cut), pattern(7, cut as u64, 100 - cut)].concat();
            assert_eq!(parts, whole);
        }
        assert_ne!(pattern(8, 0, 100), whole);
        assert_ne!(pattern(7, 8, 92), whole[..92]);
    }
}
