//! Tries to leave its zone in the ways that its arguments name, and tells of each what came of it.
//!
//! `dsi-escape [--uid UID] KEY:WAY=ARGUMENT,... ...` prints a line `KEY RESULT` for each way: `done`, or the error's
//! name. `dsi-escape victim [--uid UID]` prints what its attackers need to know and stays. What must come of it is the
//! matter of the suite `escape`; this program decides nothing.

mod run;
mod ways;

use std::io::{self, Write};

/// What came of an attempt: an error is a result like any other.
pub type Outcome = io::Result<()>;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, uid, ..] = arguments.as_slice()
        && flag == "--uid"
    {
        let uid = uid.parse().expect("a user id");
        ways::become_user(uid).expect("root can become anybody");
        arguments.drain(..2);
    }
    if arguments == ["victim"] {
        ways::victim();
    }
    for argument in &arguments {
        // A script's interpreter gets the script's name, too.
        if let Some((key, way)) = argument.split_once(':') {
            say(key, &attempt(way));
        }
    }
}

fn say(key: &str, result: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{key} {result}").expect("standard output takes a line");
    out.flush().expect("standard output takes a line");
}

/// What came of one way, in a word.
fn attempt(way: &str) -> String {
    let (name, arguments) = way.split_once('=').unwrap_or((way, ""));
    if name == "run" {
        return run::run(arguments);
    }
    let arguments: Vec<&str> = arguments.split(',').collect();
    match ways::go(name, &arguments) {
        Ok(()) => "done".into(),
        Err(error) => word(&error),
    }
}

/// An error in a word.
pub fn word(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".into(),
        Some(libc::EACCES) => "EACCES".into(),
        Some(libc::ENOEXEC) => "ENOEXEC".into(),
        Some(libc::ENOENT) => "ENOENT".into(),
        Some(errno) => format!("errno-{errno}"),
        None => format!("error-{error}").replace(' ', "-"),
    }
}
