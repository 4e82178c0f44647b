//! What harness and guest agent say to each other: one JSON object a line over a virtio-serial port.
//!
//! Requests carry a number, answers repeat it and may come in any order. Each wait has its deadline
//! inside the guest, so that a lost answer is a fault of the harness and never a matter of patience.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the virtio-serial port in the guest.
pub const PORT: &str = "dsi.control";

/// Bytes that may be anything, as base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine;
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine;
        let text = String::deserialize(deserializer)?;
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// A program to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; the program is looked up in PATH.
    pub argv: Vec<String>,
    /// Variables added to the agent's environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; the agent's where absent.
    pub cwd: Option<String>,
    /// What the program reads on standard input.
    pub stdin: Bytes,
}

/// A request of the harness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Is the agent there?
    Ping,
    /// Runs a program to its end.
    Exec {
        /// The program.
        command: Command,
        /// After this it is killed.
        timeout_ms: u64,
    },
    /// Starts a program, with standard output and error in a file.
    Spawn {
        /// The program.
        command: Command,
        /// The file that takes its output.
        log: String,
    },
    /// Waits for the end of a program that `Spawn` started.
    Join {
        /// Its process id.
        pid: i32,
        /// How long.
        timeout_ms: u64,
    },
    /// Sends a signal to a program that `Spawn` started.
    Signal {
        /// Its process id.
        pid: i32,
        /// The signal's number.
        signal: i32,
    },
    /// Kills a program that `Spawn` started, with all that it has started, and waits for its end.
    Kill {
        /// Its process id.
        pid: i32,
    },
    /// Waits until a line after byte `from` of a file contains `text`.
    WaitLine {
        /// The file; it may not exist yet.
        path: String,
        /// What the line contains.
        text: String,
        /// Where to begin.
        from: u64,
        /// How long.
        timeout_ms: u64,
        /// If this program ends first, waiting is over.
        pid: Option<i32>,
    },
    /// Runs a program again and again until it exits with 0 and its output contains `text`.
    Poll {
        /// The program.
        command: Command,
        /// What its standard output must contain.
        text: String,
        /// How long.
        timeout_ms: u64,
    },
    /// Reads a file.
    Read {
        /// The file.
        path: String,
    },
    /// Writes a file, with the directories above it.
    Write {
        /// The file.
        path: String,
        /// Its content.
        data: Bytes,
        /// Its permissions.
        mode: u32,
    },
}

/// How a program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit code; absent if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// True if it was killed because its time was over.
    pub timed_out: bool,
    /// Standard output, of `Exec` and `Poll`.
    pub stdout: Bytes,
    /// Standard error, of `Exec` and `Poll`.
    pub stderr: Bytes,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// A program has ended.
    Ended(Ended),
    /// A program was started.
    Started {
        /// Its process id.
        pid: i32,
    },
    /// A program has not ended in time.
    Running,
    /// The line that was waited for.
    Line {
        /// The line.
        line: String,
        /// Where the next one begins.
        next: u64,
    },
    /// The time was over, or the program ended, before what was waited for came.
    NotSeen {
        /// What was seen instead.
        detail: String,
    },
    /// A file's content.
    Content(Bytes),
    /// The system refused.
    Error {
        /// The operation and the system's message.
        detail: String,
        /// The error's number, 0 if it has none.
        errno: i32,
    },
}

/// One line to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The number that the answer repeats.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// One line from the agent. The agent sends number 0 once when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The number of the request.
    pub id: u64,
    /// What came of it.
    pub answer: Answer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_port() {
        let request = Request {
            id: 3,
            ask: Ask::Write {
                path: "/a".into(),
                data: Bytes(vec![0, 10, 255]),
                mode: 0o600,
            },
        };
        let line = serde_json::to_string(&request).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
    }
}
