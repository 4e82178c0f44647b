// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Where results and failures go: text for people, JSON for programs. Results to the standard output only,
//! everything else to the standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::{Exit, Failure};

/// A result: the same facts, as JSON by `Serialize`, as text by `text`.
pub trait Report: Serialize {
    /// Writes it for people.
    fn text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// The two forms of output.
pub struct Output {
    json: bool,
}

#[derive(Serialize)]
struct FailureReport<'a> {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    exit: u8,
    #[serde(flatten)]
    detail: Detail<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Detail<'a> {
    Faults(&'a dsp_schema::Faults),
    Nothing {},
}

impl Output {
    /// Output in JSON or text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether it is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints the result of a command.
    pub fn report(&self, report: &impl Report) -> Result<(), Failure> {
        self.write(|out| {
            if self.json {
                serde_json::to_writer_pretty(&mut *out, report)?;
                writeln!(out)
            } else {
                report.text(out)
            }
        })
    }

    /// Prints one of many results as one line.
    pub fn line(&self, report: &impl Report) -> Result<(), Failure> {
        self.write(|out| {
            if self.json {
                serde_json::to_writer(&mut *out, report)?;
                writeln!(out)
            } else {
                report.text(out)
            }
        })
    }

    /// Prints bytes as they are.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.write(|out| out.write_all(bytes))
    }

    /// A reader that has gone away is not a failure: it has seen what it wanted.
    fn write(&self, print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match print(&mut out).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            written => written.map_err(|source| Failure::System {
                action: "writing the result",
                source,
            }),
        }
    }

    /// Remarks for people, beside the result.
    pub fn note(&self, note: &str) {
        if !self.json {
            let _ = writeln!(io::stderr(), "note: {note}");
        }
    }

    /// Prints why a command failed.
    pub fn failure(&self, failure: &Failure) {
        let mut err = io::stderr().lock();
        let exit = failure.exit();
        let failure = match failure {
            Failure::Unanswered(cause) => cause,
            other => other,
        };
        // With the standard error gone there is nobody left to tell.
        let _ = if self.json {
            json_failure(&mut err, failure, exit)
        } else {
            text_failure(&mut err, failure)
        };
    }
}

fn json_failure(err: &mut dyn Write, failure: &Failure, exit: Exit) -> io::Result<()> {
    let (error, detail) = match failure {
        Failure::Faults(faults) => ("the policy is invalid".to_owned(), Detail::Faults(faults)),
        Failure::Questions(faults) => (
            "the question is not understood".to_owned(),
            Detail::Faults(faults),
        ),
        other => (other.to_string(), Detail::Nothing {}),
    };
    let report = FailureReport {
        error,
        help: failure.help(),
        exit: exit as u8,
        detail,
    };
    serde_json::to_writer_pretty(&mut *err, &report)?;
    writeln!(err)
}

fn text_failure(err: &mut dyn Write, failure: &Failure) -> io::Result<()> {
    if let Failure::Faults(faults) | Failure::Questions(faults) = failure {
        let color = io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        return err.write_all(dsp_schema::report::render(faults, color).as_bytes());
    }
    writeln!(err, "error: {failure}")?;
    match failure.help() {
        Some(help) => writeln!(err, "help: {help}"),
        None => Ok(()),
    }
}

/// Lines up columns; the last one runs free.
pub fn table(out: &mut dyn Write, heads: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([heads[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let heads = heads
        .iter()
        .map(|head| (*head).to_owned())
        .collect::<Vec<_>>();
    for row in [&heads].into_iter().chain(rows) {
        let line = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect::<Vec<_>>()
            .join("  ");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A moment given in milliseconds since 1970, in UTC.
pub fn moment_ms(unix_ms: i64) -> String {
    u64::try_from(unix_ms).map_or_else(
        |_| "-".to_owned(),
        |ms| moment_ns(i128::from(ms) * 1_000_000),
    )
}

/// A moment given in nanoseconds since 1970, in UTC and to the millisecond.
pub fn moment_ns(unix_ns: i128) -> String {
    /// The year 9999, the last that RFC 3339 can write.
    const LAST: i128 = 253_402_300_799 * 1_000_000_000;
    let Some(ns) = u64::try_from(unix_ns)
        .ok()
        .filter(|_| (1..LAST).contains(&unix_ns))
    else {
        return "-".to_owned();
    };
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(ns);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let mut out = Vec::new();
        let rows = vec![
            vec!["1".to_owned(), "munster".to_owned(), String::new()],
            vec!["12".to_owned(), "x".to_owned(), "y".to_owned()],
        ];
        table(&mut out, &["SnID", "NAME", "ERROR"], &rows).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "SnID  NAME     ERROR\n1     munster\n12    x        y\n"
        );
    }

    #[test]
    fn moments_are_utc_and_impossible_ones_are_a_dash() {
        assert_eq!(moment_ms(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        for impossible in [i64::MIN, -1, 0] {
            assert_eq!(moment_ms(impossible), "-");
        }
        assert_eq!(moment_ns(i128::MAX), "-");
    }
}
