//! Traffic for tests: echo servers, clients that tell refused from timed out from denied, and load.
//!
//! Every client ends with one line that a test can read:
//! `result=denied op=connect errno=13 sent=0 answered=0 lost=0`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::args::{Args, resolve};
use crate::stream::{self, Plan};
use crate::{Exit, describe};

const USAGE: &str = "usage: dsi-traffic udp-server|tcp-server --bind HOST:PORT [--count N]
       dsi-traffic udp-client|tcp-client --to HOST:PORT [options]
       dsi-traffic udp-sink|tcp-sink --bind HOST:PORT --bytes N
       dsi-traffic udp-source|tcp-source --to HOST:PORT --bytes N --size N
Servers send back whatever they receive, until they are stopped or have served --count datagrams
(connections); they print 'serving HOST:PORT' when they are ready.
Sources send so many bytes to a sink, and both print what that took of their processor.
Clients send messages one after the other and wait for the echo of each.
--count N          messages to send (1)
--connections N    tcp-client: connections to make, each with --count messages (1)
--size N           bytes of a message (64; at least 8)
--timeout-ms N     for a connection or an echo to come (3000)
--interval-ms N    waits between two messages (0)
--until-file PATH  goes on until PATH exists, and once more then, with at least --count messages (load)
--bind HOST:PORT   udp-client: the own address
--unconnected      udp-client: sends with sendto() instead of connecting the socket
--keep-going       goes on after a loss or a refusal
exit code: 0 all answered, 2 usage, 10 refused (ECONNREFUSED), 11 timed out, 12 denied (EPERM or
EACCES), 13 reset or aborted, 14 another error; of several, the first that happened
example: dsi-traffic tcp-client --to 10.77.0.1:9001 --count 10";

/// Shortest message: its number.
const MIN_SIZE: usize = 8;

/// What became of a client's run, as told by its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every message was echoed.
    Ok,
    /// ECONNREFUSED: nobody listens, or a reset answered.
    Refused,
    /// Nothing came.
    TimedOut,
    /// EPERM or EACCES: this node's kernel denied it.
    Denied,
    /// ECONNRESET, ECONNABORTED or EPIPE: a connection that stood was ended.
    Reset,
    /// Anything else.
    Error,
}

impl Verdict {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::TimedOut,
            ErrorKind::PermissionDenied => Self::Denied,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof => Self::Reset,
            _ => Self::Error,
        }
    }

    /// The name in the `result=` line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::TimedOut => "timeout",
            Self::Denied => "denied",
            Self::Reset => "reset",
            Self::Error => "error",
        }
    }

    /// The process' exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Refused => 10,
            Self::TimedOut => 11,
            Self::Denied => 12,
            Self::Reset => 13,
            Self::Error => 14,
        }
    }
}

/// The system call that failed, and how.
struct Failed {
    op: &'static str,
    error: io::Error,
}

impl Failed {
    fn at(op: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { op, error }
    }
}

struct Client {
    to: SocketAddr,
    bind: Option<SocketAddr>,
    count: u64,
    connections: u64,
    size: usize,
    timeout: Duration,
    interval: Duration,
    until: Option<String>,
    unconnected: bool,
    keep_going: bool,
}

#[derive(Default)]
struct Tally {
    sent: u64,
    answered: u64,
    first: Option<Failed>,
}

impl Tally {
    fn fail(&mut self, failed: Failed) {
        self.first.get_or_insert(failed);
    }
}

/// Runs the tool.
pub fn run(args: impl IntoIterator<Item = String>) -> Result<(), Exit> {
    let mut args = args.into_iter();
    let mode = args.next().unwrap_or_default();
    let options = [
        "--bind",
        "--to",
        "--count",
        "--connections",
        "--size",
        "--timeout-ms",
        "--interval-ms",
        "--until-file",
        "--bytes",
    ];
    if mode == "--help" {
        return Err(Exit::new(0, USAGE));
    }
    let args = Args::parse(USAGE, &options, &["--unconnected", "--keep-going"], args)?;
    match mode.as_str() {
        "udp-server" => serve_udp(required(&args, "--bind")?, args.value("--count", u64::MAX)?),
        "tcp-server" => serve_tcp(required(&args, "--bind")?, args.value("--count", u64::MAX)?),
        "udp-sink" => stream::udp_sink(plan(&args, "--bind")?),
        "tcp-sink" => stream::tcp_sink(plan(&args, "--bind")?),
        "udp-source" => stream::udp_source(plan(&args, "--to")?),
        "tcp-source" => stream::tcp_source(plan(&args, "--to")?),
        "udp-client" => report(Client::from_args(&args, false)?.udp()),
        "tcp-client" => report(Client::from_args(&args, true)?.tcp()),
        other => Err(Exit::new(
            Exit::USAGE,
            format!("unknown mode '{other}'\n{USAGE}"),
        )),
    }
}

fn plan(args: &Args, at: &str) -> Result<Plan, Exit> {
    Ok(Plan {
        at: required(args, at)?,
        bytes: args.value("--bytes", 1 << 20)?,
        size: args.value("--size", 1400)?,
    })
}

fn address(text: &str) -> Result<SocketAddr, Exit> {
    let wrong = || {
        Exit::new(
            Exit::USAGE,
            format!("'{text}': expected HOST:PORT\n{USAGE}"),
        )
    };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    resolve(host, port.parse().map_err(|_| wrong())?)
}

fn required(args: &Args, name: &str) -> Result<SocketAddr, Exit> {
    let text = args
        .text(name)
        .ok_or_else(|| Exit::new(Exit::USAGE, format!("{name} is missing\n{USAGE}")))?;
    address(text)
}

fn report(tally: Tally) -> Result<(), Exit> {
    let Tally {
        sent,
        answered,
        first,
    } = tally;
    let (verdict, cause) = match &first {
        None => (Verdict::Ok, String::new()),
        Some(Failed { op, error }) => (
            Verdict::of(error),
            format!(
                " op={op} errno={}",
                error.raw_os_error().unwrap_or_default()
            ),
        ),
    };
    println!(
        "result={}{cause} sent={sent} answered={answered} lost={}",
        verdict.name(),
        sent - answered
    );
    match first {
        None => Ok(()),
        Some(Failed { op, error }) => Err(Exit::new(
            verdict.code(),
            format!("{op}: {}", describe(&error)),
        )),
    }
}

/// A server's failure, with the same exit codes as a client's.
fn server_failure(failed: Failed) -> Exit {
    let verdict = Verdict::of(&failed.error);
    println!(
        "result={} op={} errno={}",
        verdict.name(),
        failed.op,
        failed.error.raw_os_error().unwrap_or_default()
    );
    Exit::new(
        verdict.code(),
        format!("{}: {}", failed.op, describe(&failed.error)),
    )
}

fn serve_udp(bind: SocketAddr, count: u64) -> Result<(), Exit> {
    let socket = UdpSocket::bind(bind)
        .map_err(Failed::at("bind"))
        .map_err(server_failure)?;
    println!("serving {bind}");
    let mut buffer = vec![0; 65536];
    let mut served = 0;
    while served < count {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                served += 1;
                if let Err(error) = socket.send_to(&buffer[..len], from) {
                    println!("cannot answer {from}: {}", describe(&error));
                }
            }
            // What an earlier answer met; the next datagram is another matter.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => {
                return Err(server_failure(Failed {
                    op: "recvfrom",
                    error,
                }));
            }
        }
    }
    Ok(())
}

fn serve_tcp(bind: SocketAddr, count: u64) -> Result<(), Exit> {
    let listener = TcpListener::bind(bind)
        .map_err(Failed::at("bind"))
        .map_err(server_failure)?;
    println!("serving {bind}");
    let mut last = None;
    for _ in 0..count {
        match listener.accept() {
            Ok((stream, from)) => last = Some(std::thread::spawn(move || echo(stream, from))),
            Err(error) => println!("cannot accept: {}", describe(&error)),
        }
    }
    if let Some(last) = last {
        // A connection that ends badly is told by its thread.
        let _ = last.join();
    }
    Ok(())
}

fn echo(mut stream: TcpStream, from: SocketAddr) {
    let mut buffer = vec![0; 65536];
    loop {
        let done = match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => stream.write_all(&buffer[..len]),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            println!("connection of {from} ended: {}", describe(&error));
            return;
        }
    }
}

impl Client {
    fn from_args(args: &Args, tcp: bool) -> Result<Self, Exit> {
        if tcp && args.text("--bind").is_some() {
            return Err(Exit::new(Exit::USAGE, "tcp-client takes no --bind"));
        }
        Ok(Self {
            to: required(args, "--to")?,
            bind: args.text("--bind").map(address).transpose()?,
            count: args.value("--count", 1)?,
            connections: args.value("--connections", 1)?,
            size: args.value("--size", 64)?.max(MIN_SIZE),
            timeout: args.millis("--timeout-ms", 3000)?,
            interval: args.millis("--interval-ms", 0)?,
            until: args.text("--until-file").map(str::to_owned),
            unconnected: args.flag("--unconnected"),
            keep_going: args.flag("--keep-going"),
        })
    }

    /// Whether to go on after `done` of `count`; `last` says that what has just been done was begun when the file was
    /// there: whoever makes the file knows that all went well even then.
    fn goes_on(&self, done: u64, count: u64, last: bool, tally: &Tally) -> bool {
        if tally.first.is_some() && !self.keep_going {
            return false;
        }
        done < count || (self.until.is_some() && !last)
    }

    /// Whether there is the file until which to go on.
    fn is_told_to_end(&self) -> bool {
        self.until
            .as_ref()
            .is_some_and(|path| Path::new(path).exists())
    }

    fn pause(&self) {
        if !self.interval.is_zero() {
            std::thread::sleep(self.interval);
        }
    }

    fn message(&self, number: u64) -> Vec<u8> {
        let mut message = vec![0x55; self.size];
        message[..MIN_SIZE].copy_from_slice(&number.to_be_bytes());
        message
    }

    fn udp(&self) -> Tally {
        let mut tally = Tally::default();
        let unspecified: SocketAddr = if self.to.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let socket = match UdpSocket::bind(self.bind.unwrap_or(unspecified)) {
            Ok(socket) => socket,
            Err(error) => {
                tally.fail(Failed { op: "bind", error });
                return tally;
            }
        };
        if !self.unconnected
            && let Err(error) = socket.connect(self.to)
        {
            tally.fail(Failed {
                op: "connect",
                error,
            });
            return tally;
        }
        let mut last = false;
        while self.goes_on(tally.sent, self.count, last, &tally) {
            if tally.sent > 0 {
                self.pause();
            }
            last = self.is_told_to_end();
            tally.sent += 1;
            match self.exchange_datagram(&socket, tally.sent) {
                Ok(()) => tally.answered += 1,
                Err(failed) => tally.fail(failed),
            }
        }
        tally
    }

    fn exchange_datagram(&self, socket: &UdpSocket, number: u64) -> Result<(), Failed> {
        let message = self.message(number);
        if self.unconnected {
            socket
                .send_to(&message, self.to)
                .map_err(Failed::at("sendto"))?;
        } else {
            socket.send(&message).map_err(Failed::at("send"))?;
        }
        let deadline = Instant::now() + self.timeout;
        let mut buffer = vec![0; 65536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failed {
                    op: "recv",
                    error: ErrorKind::TimedOut.into(),
                });
            }
            socket
                .set_read_timeout(Some(left))
                .map_err(Failed::at("setsockopt"))?;
            let (len, from) = socket.recv_from(&mut buffer).map_err(Failed::at("recv"))?;
            if from == self.to && buffer[..len] == message[..] {
                return Ok(());
            }
        }
    }

    fn tcp(&self) -> Tally {
        let mut tally = Tally::default();
        let (mut made, mut last) = (0, false);
        while self.goes_on(made, self.connections, last, &tally) {
            if made > 0 {
                self.pause();
            }
            let told = self.is_told_to_end();
            made += 1;
            match self.converse(&mut tally, made) {
                Ok(ended) => last = ended,
                Err(failed) => {
                    last = told;
                    if failed.op == "connect" {
                        // It lost the message that it was to be made for.
                        tally.sent += 1;
                    }
                    tally.fail(failed);
                }
            }
        }
        tally
    }

    /// One connection with `count` messages, or until the file is there: whether the last message was begun then.
    fn converse(&self, tally: &mut Tally, made: u64) -> Result<bool, Failed> {
        let mut stream =
            TcpStream::connect_timeout(&self.to, self.timeout).map_err(Failed::at("connect"))?;
        stream
            .set_read_timeout(Some(self.timeout))
            .map_err(Failed::at("setsockopt"))?;
        stream
            .set_write_timeout(Some(self.timeout))
            .map_err(Failed::at("setsockopt"))?;
        stream.set_nodelay(true).map_err(Failed::at("setsockopt"))?;
        let mut buffer = vec![0; self.size];
        let mut last = false;
        for number in 0..self.count {
            if last {
                break;
            }
            if number > 0 {
                self.pause();
            }
            last = self.is_told_to_end();
            let message = self.message(made << 32 | number);
            tally.sent += 1;
            stream.write_all(&message).map_err(Failed::at("send"))?;
            stream.read_exact(&mut buffer).map_err(Failed::at("recv"))?;
            if buffer != message {
                return Err(Failed {
                    op: "recv",
                    error: io::Error::new(ErrorKind::InvalidData, "a foreign echo"),
                });
            }
            tally.answered += 1;
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_tell_denied_from_refused() {
        assert_eq!(
            Verdict::of(&io::Error::from_raw_os_error(13)),
            Verdict::Denied
        );
        assert_eq!(
            Verdict::of(&io::Error::from_raw_os_error(1)),
            Verdict::Denied
        );
        assert_eq!(
            Verdict::of(&io::Error::from_raw_os_error(111)),
            Verdict::Refused
        );
        assert_eq!(
            Verdict::of(&io::Error::from_raw_os_error(103)),
            Verdict::Reset
        );
        assert_eq!(
            Verdict::of(&ErrorKind::WouldBlock.into()),
            Verdict::TimedOut
        );
    }

    #[test]
    fn addresses_need_a_port() {
        assert_eq!(address("127.0.0.1:9001").unwrap().port(), 9001);
        assert!(
            address("127.0.0.1")
                .unwrap_err()
                .message
                .contains("HOST:PORT")
        );
    }
}
