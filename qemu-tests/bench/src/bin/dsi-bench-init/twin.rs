//! The proof that a configuration is in force, by twins: a datagram that it must deliver, and one that it must not.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Whatever went wrong; the benchmark ends with it.
pub type Failure = Box<dyn std::error::Error>;

/// The workload's own program, as a companion that stays: `echo PORT` answers datagrams, `hold N` keeps sockets open.
pub struct Companion(Child);

impl Companion {
    /// Starts it, and waits until it says that it is ready.
    pub fn start(task: &str, argument: &str) -> Result<Self, Failure> {
        let mut child = Command::new("/workload")
            .args([task, argument])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("a companion has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        expect(line.trim() == "ready", || {
            format!("the companion '{task}' said '{}'", line.trim())
        })?;
        Ok(Self(child))
    }

    /// Ends it.
    pub fn stop(&mut self) -> Result<(), Failure> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

/// Who sends, beside what its program and the process are.
pub struct Sender {
    /// From which local address.
    pub address: &'static str,
    /// As which user.
    pub user: u32,
}

/// The sender that a configuration permits to send.
pub const PERMITTED: Sender = Sender {
    address: "127.0.0.1",
    user: 0,
};

/// Whether a datagram that a program like the workload sends comes back from the server at a port. What the sender is
/// forbidden to send does not come back either.
pub fn reach(program: &str, port: &str, sender: &Sender) -> Result<bool, Failure> {
    let user = sender.user.to_string();
    let run = Command::new(program)
        .args(["reach", port, sender.address, &user])
        .output()?;
    match run.status.code() {
        Some(0) => Ok(true),
        Some(3) => Ok(false),
        _ => Err(format!(
            "{program} reach ended with {}: {}",
            run.status,
            String::from_utf8_lossy(&run.stdout).trim()
        )
        .into()),
    }
}

/// Ends the benchmark unless `holds`.
pub fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(otherwise().into())
    }
}
