//! The attackers' and the receivers' program in the guests of the suite `attack`.
//!
//! `send` puts a flood on the wire through the packet socket that it was given as standard input, as a
//! server gets its socket of inetd; `receive` counts what comes through; `hold` keeps a connection open
//! until a file appears; `say` sends one datagram as any program would.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dsi_qemu_tests::attack::{
    COPIED, ECHO_PORT, FLOW_PORT, Family, Flood, Plan, RECEIVER, REPORT, Running, Sender, Tally,
};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

type Error = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str =
    "usage: dsi-attack send member|claimant|stranger ipv4|ipv6 SEED FRAMES MAC PORT NEXT ACKNOWLEDGED <SOCKET
       dsi-attack receive UDP-PORT...
       dsi-attack hold ADDRESS FILE NAME
       dsi-attack say FROM-PORT ADDRESS PORT TEXT";

/// Frames that one system call takes.
const BATCH: usize = 64;
/// Frames between two looks whether the receiver keeps up.
const PACE: u64 = 512;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["send", sender, family, rest @ ..] => plan(sender, family, rest).and_then(send),
        ["receive", ports @ ..] => receive(ports),
        ["hold", address, file, name] => hold(address, file, name),
        ["say", from, address, port, text] => say(from, address, port, text),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dsi-attack: {error}");
            ExitCode::FAILURE
        }
    }
}

fn plan(sender: &str, family: &str, words: &[&str]) -> Result<Plan, Error> {
    let [seed, frames, mac, port, next, acknowledged] = words else {
        return Err(USAGE.into());
    };
    let mac: Result<Vec<u8>, _> = mac
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect();
    Ok(Plan {
        seed: seed.parse()?,
        frames: frames.parse()?,
        sender: match sender {
            "member" => Sender::Member,
            "claimant" => Sender::Claimant,
            "stranger" => Sender::Stranger,
            _ => return Err(USAGE.into()),
        },
        family: match family {
            "ipv4" => Family::V4,
            "ipv6" => Family::V6,
            _ => return Err(USAGE.into()),
        },
        mac: mac?.try_into().map_err(|_| "a MAC address has six bytes")?,
        running: Running {
            port: port.parse()?,
            next: next.parse()?,
            acknowledged: acknowledged.parse()?,
        },
    })
}

/// Asks the receiver's echo for a sign of life, until it has given one: what was sent before has then
/// been handled, since a wire keeps its order.
struct Pace(UdpSocket, u64);

impl Pace {
    fn new() -> Result<Self, Error> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((RECEIVER, ECHO_PORT))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self(socket, 0))
    }

    fn wait(&mut self) -> Result<(), Error> {
        self.1 += 1;
        let token = self.1.to_be_bytes();
        let mut answer = [0; 64];
        for _ in 0..36 {
            self.0.send(&token)?;
            while let Ok(len) = self.0.recv(&mut answer) {
                if answer[..len] == token {
                    return Ok(());
                }
            }
        }
        Err("the receiver does not answer".into())
    }
}

fn send(plan: Plan) -> Result<(), Error> {
    let socket = std::io::stdin();
    let mut pace = Pace::new()?;
    pace.wait()?;
    let (mut tally, mut batch, mut sent) = (Tally::default(), Vec::new(), 0);
    for attack in Flood::new(plan) {
        tally.add(&attack);
        batch.extend(attack.frames);
        if batch.len() >= BATCH {
            sent += put(&socket, &batch)?;
            batch.clear();
            if sent / PACE != (sent - BATCH as u64) / PACE {
                pace.wait()?;
            }
        }
    }
    sent += put(&socket, &batch)?;
    pace.wait()?;
    println!("sent {sent} of {}", tally.frames);
    Ok(())
}

fn put(socket: &std::io::Stdin, frames: &[Vec<u8>]) -> Result<u64, Error> {
    let parts: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
    let mut control: Vec<SendAncillaryBuffer<'_, '_, '_>> = frames
        .iter()
        .map(|_| SendAncillaryBuffer::default())
        .collect();
    let mut messages: Vec<MMsgHdr<'_>> = parts
        .iter()
        .zip(&mut control)
        .map(|(part, control)| MMsgHdr::new(part, control))
        .collect();
    let mut done = 0;
    while done < messages.len() {
        done += sendmmsg(socket, &mut messages[done..], SendFlags::empty())?;
    }
    Ok(done as u64)
}

/// What receivers have seen.
#[derive(Default)]
struct Seen {
    copies: BTreeMap<u16, u64>,
    breaches: u64,
}

type Shared = Arc<Mutex<Seen>>;

impl Seen {
    fn take(shared: &Shared, port: u16, data: &[u8]) {
        let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if data.starts_with(COPIED) {
            *seen.copies.entry(port).or_default() += 1;
        } else if data.starts_with(REPORT) {
            let copies = seen.copies.get(&port).copied().unwrap_or_default();
            println!(
                "{} port {port} copies {copies} breaches {}",
                String::from_utf8_lossy(data).trim(),
                seen.breaches
            );
        } else {
            seen.breaches += 1;
            if seen.breaches <= 20 {
                println!("BREACH port {port}: {}", data.escape_ascii());
            }
        }
    }
}

fn receive(ports: &[&str]) -> Result<(), Error> {
    let shared = Shared::default();
    let mut threads = Vec::new();
    for port in ports {
        let port: u16 = port.parse()?;
        // For both families.
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
        let shared = Arc::clone(&shared);
        threads.push(std::thread::spawn(move || {
            let mut data = [0; 2048];
            while let Ok(len) = socket.recv(&mut data) {
                Seen::take(&shared, port, &data[..len]);
            }
        }));
    }
    if ports.len() > 1 {
        // The zone's listener, too.
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, FLOW_PORT))?;
        threads.push(std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    for line in BufReader::new(connection)
                        .split(b'\n')
                        .map_while(Result::ok)
                    {
                        Seen::take(&shared, FLOW_PORT, &line);
                    }
                });
            }
        }));
    }
    println!("serving");
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn hold(address: &str, file: &str, name: &str) -> Result<(), Error> {
    let mut connection = TcpStream::connect((address, FLOW_PORT))?;
    // In one piece: what follows it is known from it.
    connection.write_all(format!("report {name}-begins\n").as_bytes())?;
    println!("connected {}", connection.local_addr()?.port());
    while !std::fs::exists(file)? {
        std::thread::sleep(Duration::from_millis(50));
    }
    connection.write_all(format!("report {name}-ends\n").as_bytes())?;
    println!("said");
    // Ends when the other side does.
    let _ = BufReader::new(connection).lines().count();
    Ok(())
}

fn say(from: &str, address: &str, port: &str, text: &str) -> Result<(), Error> {
    let any = if address.contains(':') {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind((any, from.parse()?))?;
    socket.send_to(text.as_bytes(), (address, port.parse()?))?;
    Ok(())
}
