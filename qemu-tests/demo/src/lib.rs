//! The programs of the article's scenario: two operators who sell telephone quotations.
//!
//! An entry point takes a client's request, asks a back end, and returns the quotation. All of it
//! is plain UDP between unprivileged processes. These programs know nothing of DSI, and must never
//! learn: what the demonstration shows is that software need not be changed to be kept apart.

pub mod args;
pub mod backend;
pub mod client;
pub mod entry_point;
pub mod message;
pub mod operator;
pub mod stream;
pub mod traffic;

/// What ends a program: the text for standard error and the exit code.
#[derive(Debug)]
pub struct Exit {
    /// What happened, for the person at the terminal.
    pub message: String,
    /// The process' exit code.
    pub code: u8,
}

impl Exit {
    /// The code of a command line that cannot be understood.
    pub const USAGE: u8 = 2;

    /// An end with this code and message.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code,
        }
    }
}

/// Turns a program's result into its exit code, telling a failure on standard error.
pub fn finish(result: Result<(), Exit>) -> std::process::ExitCode {
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("{}", exit.message);
            std::process::ExitCode::from(exit.code)
        }
    }
}

/// An I/O error with its number, so that a reader can tell a refusal by the kernel from a dead peer.
pub fn describe(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{error} [errno {number}]"),
        None => error.to_string(),
    }
}
