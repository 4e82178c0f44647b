//! An entry point: forwards clients' requests to a back end and returns its quotations.
//!
//! It must keep on serving whatever becomes of the back end: a request that is refused by the
//! kernel, or not answered in time, is told to the client and to the log, and the next one is taken.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::message::{MAX_LEN, Message};
use crate::operator::Operator;
use crate::{Exit, describe};

const USAGE: &str =
    "usage: ENTRY_POINT -h HOST -p PORT -b BACKEND_HOST -r BACKEND_PORT [--timeout-ms N]
Takes quotation requests on UDP HOST:PORT and forwards them to the back end until it is stopped.
A request that the back end does not answer within --timeout-ms (1000) is told to be unavailable.
example: PhoneManiaEP -h 10.77.0.2 -p 8800 -b 10.77.0.1 -r 8801";

/// How often requests are looked through for those whose time is over.
const SWEEP: Duration = Duration::from_millis(50);

/// A request that was forwarded and not answered yet.
struct Pending {
    client: SocketAddr,
    client_id: u64,
    deadline: Instant,
}

/// What the two directions of an entry point share.
struct EntryPoint {
    operator: Operator,
    front: UdpSocket,
    back: UdpSocket,
    pending: Mutex<HashMap<u64, Pending>>,
}

/// Runs the entry point of `operator`; returns only with an error.
pub fn run(operator: Operator, args: impl IntoIterator<Item = String>) -> Result<(), Exit> {
    let args = Args::parse(USAGE, &["-h", "-p", "-b", "-r", "--timeout-ms"], &[], args)?;
    let (address, backend) = (args.address("-h", "-p")?, args.address("-b", "-r")?);
    let timeout = args.millis("--timeout-ms", 1000)?;
    let failed = |what: &str, error: std::io::Error| {
        Exit::new(
            1,
            format!("{}: cannot {what}: {}", operator.brand(), describe(&error)),
        )
    };
    let front =
        UdpSocket::bind(address).map_err(|error| failed(&format!("bind {address}"), error))?;
    operator.log(&format!(": bind on {address}"));
    let back = UdpSocket::bind((address.ip(), 0))
        .and_then(|socket| socket.connect(backend).map(|()| socket))
        .map_err(|error| failed(&format!("connect {backend}"), error))?;
    operator.log(&format!(": connect on {backend}"));
    front
        .set_read_timeout(Some(SWEEP))
        .map_err(|error| failed("set a time-out", error))?;

    let entry_point = Arc::new(EntryPoint {
        operator,
        front,
        back,
        pending: Mutex::default(),
    });
    let answers = Arc::clone(&entry_point);
    std::thread::spawn(move || answers.return_answers());
    entry_point.forward_requests(timeout)
}

impl EntryPoint {
    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forward_requests(&self, timeout: Duration) -> ! {
        let mut buffer = [0; MAX_LEN];
        let mut next = 0u64;
        loop {
            self.give_up_late_ones();
            let (len, client) = match self.front.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(error) => {
                    self.operator
                        .log(&format!(": cannot receive a request: {}", describe(&error)));
                    continue;
                }
            };
            let Some(Message::Request {
                id: client_id,
                company,
            }) = Message::parse(&buffer[..len])
            else {
                continue;
            };
            self.operator.log(": Quotation request received");
            next += 1;
            let pending = Pending {
                client,
                client_id,
                deadline: Instant::now() + timeout,
            };
            self.pending().insert(next, pending);
            let request = Message::Request { id: next, company }.to_string();
            // A connected socket first reports what an earlier datagram met (ECONNREFUSED): once more.
            let sent = match self.back.send(request.as_bytes()) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    self.back.send(request.as_bytes())
                }
                sent => sent,
            };
            if let Err(error) = sent {
                let reason = format!("the request could not be forwarded: {}", describe(&error));
                self.operator.log(&format!(": {reason}"));
                self.answer(next, |id| Message::Unavailable { id, reason });
            }
        }
    }

    fn return_answers(&self) {
        let mut buffer = [0; MAX_LEN];
        loop {
            match self.back.recv(&mut buffer) {
                Ok(len) => {
                    if let Some(Message::Quote { id, price, company }) =
                        Message::parse(&buffer[..len])
                    {
                        self.answer(id, |id| {
                            self.operator.log(&format!(": Quote {company} {price}"));
                            Message::Quote { id, price, company }
                        });
                    }
                }
                Err(error) => self.operator.log(&format!(
                    ": cannot receive a quotation: {}",
                    describe(&error)
                )),
            }
        }
    }

    /// Ends the request `id` with the message that `make` builds for the client's own number. A
    /// request that was ended before, for example by its time-out, is let be.
    fn answer(&self, id: u64, make: impl FnOnce(u64) -> Message) {
        let Some(pending) = self.pending().remove(&id) else {
            return;
        };
        let message = make(pending.client_id).to_string();
        if let Err(error) = self.front.send_to(message.as_bytes(), pending.client) {
            self.operator.log(&format!(
                ": cannot answer {}: {}",
                pending.client,
                describe(&error)
            ));
        }
    }

    fn give_up_late_ones(&self) {
        let now = Instant::now();
        let late: Vec<u64> = self
            .pending()
            .iter()
            .filter(|(_, request)| request.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.answer(id, |id| {
                self.operator.log(": the back end does not answer");
                Message::Unavailable {
                    id,
                    reason: "the back end does not answer".into(),
                }
            });
        }
    }
}
