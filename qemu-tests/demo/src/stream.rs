//! A stream of data from one machine to another, and how much of a processor it takes at either end.
//!
//! Both ends print `bytes=N elapsed-ns=N busy-ns=N` when it is over. Busy is a processor that a thread which runs only
//! if nothing else wants to could not use: interrupts and all of the kernel included. On a guest whose clock is a count
//! of instructions (QEMU's `-icount shift=0`) a nanosecond is one of them. Only one processor is looked at.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Exit, describe};

/// What to stream.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where the receiver is.
    pub at: SocketAddr,
    /// How much.
    pub bytes: u64,
    /// Of a datagram, or of one call's data.
    pub size: usize,
}

/// Datagrams are acknowledged so often that no queue overflows.
const WINDOW: usize = 32 * 1024;
/// How long an acknowledgement, or a moment without other work, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Turns of the idle thread for which its speed is measured.
const TURNS: u64 = 100_000_000;

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> Exit {
    let what = what.to_owned();
    move |error| Exit::new(14, format!("{what}: {}", describe(&error)))
}

/// A thread that runs when nothing else does, and counts its turns.
struct Idle {
    turns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// Nanoseconds of a thousand million turns.
    pace: u128,
}

impl Idle {
    /// Starts it and measures how long a turn takes, which wants a machine that has nothing else to do.
    fn start() -> Result<Self, Exit> {
        let (turns, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (said, told) = std::sync::mpsc::channel();
        std::thread::spawn({
            let (turns, stop) = (Arc::clone(&turns), Arc::clone(&stop));
            move || {
                // The thread's own number is where this link of /proc leads.
                let _ = said.send(std::fs::read_link("/proc/thread-self"));
                let mut turn = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    turns.store(turn, Ordering::Relaxed);
                }
            }
        });
        let link = told
            .recv()
            .map_err(|_| Exit::new(14, "the idle thread ended"))?
            .map_err(failed("/proc/thread-self"))?;
        let tid = link.file_name().unwrap_or_default().to_owned();
        let changed = Command::new("chrt")
            .args(["--idle", "--pid", "0"])
            .arg(tid)
            .status()
            .map_err(failed("chrt"))?;
        if !changed.success() {
            return Err(Exit::new(14, format!("chrt: {changed}")));
        }
        let mut idle = Self {
            turns,
            stop,
            pace: 0,
        };
        let (first, begin) = (idle.turns(), Instant::now());
        while idle.turns() - first < TURNS {
            if begin.elapsed() > PATIENCE {
                return Err(Exit::new(14, "the machine is never idle"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let (last, elapsed) = (idle.turns(), begin.elapsed());
        idle.pace = elapsed.as_nanos() * 1_000_000_000 / u128::from(last - first);
        Ok(idle)
    }

    fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    fn begin(&self) -> (u64, Instant) {
        (self.turns(), Instant::now())
    }

    fn report(&self, (turns, begin): (u64, Instant), bytes: u64) {
        let elapsed = begin.elapsed().as_nanos();
        let idle = u128::from(self.turns() - turns) * self.pace / 1_000_000_000;
        println!(
            "bytes={bytes} elapsed-ns={elapsed} busy-ns={}",
            elapsed.saturating_sub(idle)
        );
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Receives a stream over TCP.
pub fn tcp_sink(plan: Plan) -> Result<(), Exit> {
    let idle = Idle::start()?;
    let listener = TcpListener::bind(plan.at).map_err(failed("bind"))?;
    println!("serving {}", plan.at);
    let (mut stream, _) = listener.accept().map_err(failed("accept"))?;
    let (begin, mut got) = (idle.begin(), 0);
    let mut buffer = vec![0; 65536];
    while got < plan.bytes {
        match stream.read(&mut buffer).map_err(failed("read"))? {
            0 => return Err(Exit::new(14, format!("the stream ended after {got} bytes"))),
            more => got += more as u64,
        }
    }
    idle.report(begin, got);
    stream.write_all(b"!").map_err(failed("write"))
}

/// Sends one.
pub fn tcp_source(plan: Plan) -> Result<(), Exit> {
    let idle = Idle::start()?;
    let mut stream = TcpStream::connect(plan.at).map_err(failed("connect"))?;
    let (begin, mut sent) = (idle.begin(), 0);
    let buffer = vec![0x55; plan.size];
    while sent < plan.bytes {
        let next = plan.size.min((plan.bytes - sent) as usize);
        stream.write_all(&buffer[..next]).map_err(failed("write"))?;
        sent += next as u64;
    }
    stream.read_exact(&mut [0]).map_err(failed("read"))?;
    idle.report(begin, sent);
    Ok(())
}

/// Receives datagrams, and acknowledges each window of them.
pub fn udp_sink(plan: Plan) -> Result<(), Exit> {
    let idle = Idle::start()?;
    let socket = UdpSocket::bind(plan.at).map_err(failed("bind"))?;
    println!("serving {}", plan.at);
    let mut buffer = vec![0; 65536];
    let (mut begin, mut got, mut since) = (None, 0, 0);
    while got < plan.bytes {
        let (len, from) = socket.recv_from(&mut buffer).map_err(failed("recvfrom"))?;
        begin.get_or_insert_with(|| idle.begin());
        got += len as u64;
        since += len;
        if since >= WINDOW || got >= plan.bytes {
            since = 0;
            socket.send_to(b"!", from).map_err(failed("sendto"))?;
        }
    }
    idle.report(begin.unwrap_or_else(|| idle.begin()), got);
    Ok(())
}

/// Sends them. One that is lost ends it.
pub fn udp_source(plan: Plan) -> Result<(), Exit> {
    let idle = Idle::start()?;
    let any: SocketAddr = if plan.at.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).map_err(failed("bind"))?;
    socket.connect(plan.at).map_err(failed("connect"))?;
    socket
        .set_read_timeout(Some(PATIENCE))
        .map_err(failed("setsockopt"))?;
    let buffer = vec![0x55; plan.size];
    let (begin, mut sent, mut since) = (idle.begin(), 0, 0);
    while sent < plan.bytes {
        let len = socket.send(&buffer).map_err(failed("send"))?;
        sent += len as u64;
        since += len;
        if since >= WINDOW || sent >= plan.bytes {
            since = 0;
            socket
                .recv(&mut [0; 8])
                .map_err(failed("waiting for an acknowledgement"))?;
        }
    }
    idle.report(begin, sent);
    Ok(())
}
