//! The end user's program: requests quotations from an entry point.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::message::{MAX_LEN, Message};
use crate::{Exit, describe};

const USAGE: &str = "usage: TelecomClient -h HOST -p PORT [--company NAME] [--timeout-ms N]
                     [--count N] [--until-file PATH] [--interval-ms N]
Requests a quotation of the entry point at UDP HOST:PORT (company: Ericsson; time-out: 3000 ms).
--count N           requests N, one after the other, and reports how many were answered and lost
--until-file PATH   goes on until PATH exists (with --count: at least N)
--interval-ms N     waits between two requests (0)
exit code: 0 every request was answered, 1 one was not (denied, lost or unavailable), 2 usage
example: TelecomClient -h 10.77.0.2 -p 8800";

/// What became of one request.
enum Outcome {
    Quote(u32),
    Lost(String),
}

/// Runs the client.
pub fn run(args: impl IntoIterator<Item = String>) -> Result<(), Exit> {
    let options = [
        "-h",
        "-p",
        "--company",
        "--timeout-ms",
        "--count",
        "--until-file",
        "--interval-ms",
    ];
    let args = Args::parse(USAGE, &options, &[], args)?;
    let address = args.address("-h", "-p")?;
    let company: String = args.value("--company", "Ericsson".to_owned())?;
    let timeout = args.millis("--timeout-ms", 3000)?;
    let interval = args.millis("--interval-ms", 0)?;
    let (count, until) = (
        args.value("--count", 1u64)?,
        args.text("--until-file").map(Path::new),
    );
    let counted = args.text("--count").is_some() || until.is_some();

    println!("Connecting to : {address}");
    let unspecified = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(unspecified)
        .and_then(|socket| socket.connect(address).map(|()| socket))
        .map_err(|error| {
            Exit::new(
                1,
                format!("cannot connect to {address}: {}", describe(&error)),
            )
        })?;

    let (mut sent, mut answered) = (0u64, 0u64);
    let mut why = String::new();
    while sent < count || until.is_some_and(|path| !path.exists()) {
        if sent > 0 && !interval.is_zero() {
            std::thread::sleep(interval);
        }
        sent += 1;
        if !counted {
            println!("Requesting quotation for {company}");
        }
        match request(&socket, sent, &company, timeout) {
            Outcome::Quote(price) => {
                answered += 1;
                if !counted {
                    println!("Quote {company} {price}");
                }
            }
            Outcome::Lost(reason) => {
                if counted {
                    println!("request {sent} was lost: {reason}");
                }
                why = reason;
            }
        }
    }
    let lost = sent - answered;
    if counted {
        println!("sent {sent} answered {answered} lost {lost}");
    }
    if lost == 0 {
        return Ok(());
    }
    Err(Exit::new(
        1,
        format!("no quotation for {company} from {address}: {why}"),
    ))
}

fn request(socket: &UdpSocket, id: u64, company: &str, timeout: Duration) -> Outcome {
    let deadline = Instant::now() + timeout;
    let request = Message::Request {
        id,
        company: company.to_owned(),
    }
    .to_string();
    if let Err(error) = socket.send(request.as_bytes()) {
        return Outcome::Lost(format!(
            "the request could not be sent: {}",
            describe(&error)
        ));
    }
    let mut buffer = [0; MAX_LEN];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Outcome::Lost(format!("no answer within {} ms", timeout.as_millis()));
        }
        if let Err(error) = socket.set_read_timeout(Some(left)) {
            return Outcome::Lost(describe(&error));
        }
        match socket
            .recv(&mut buffer)
            .map(|len| Message::parse(&buffer[..len]))
        {
            Ok(Some(Message::Quote {
                id: answer, price, ..
            })) if answer == id => return Outcome::Quote(price),
            Ok(Some(Message::Unavailable { id: answer, reason })) if answer == id => {
                return Outcome::Lost(reason);
            }
            // The answer to a request that was given up before.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => {
                return Outcome::Lost(format!(
                    "the answer could not be received: {}",
                    describe(&error)
                ));
            }
        }
    }
}
