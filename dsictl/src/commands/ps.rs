// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl ps`: the ScIDs of this node's processes.

use std::{
    fs,
    io::{self, Write},
};

use dsi_proto::netlink::Netlink;
use dsp_schema::Names;
use serde::Serialize;

use crate::{
    cli::Ps,
    commands::policy,
    failure::Failure,
    output::{self, Output, Report},
};

#[derive(Serialize)]
struct Process {
    pid: u32,
    scid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    command: String,
}

#[derive(Serialize)]
struct Processes {
    processes: Vec<Process>,
}

impl Report for Processes {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows: Vec<_> = self
            .processes
            .iter()
            .map(|process| {
                let name = process.name.clone().unwrap_or_else(|| "-".to_owned());
                vec![
                    process.pid.to_string(),
                    process.scid.to_string(),
                    name,
                    process.command.clone(),
                ]
            })
            .collect();
        output::table(out, &["PID", "ScID", "NAME", "COMMAND"], &rows)
    }
}

/// `dsictl ps`
pub fn ps(arguments: &Ps, output: &Output) -> Result<(), Failure> {
    let names = match &arguments.policy {
        Some(file) => Names::of(&policy::parse_file(file)?),
        None => Names::default(),
    };
    let mut tasks = Netlink::open()?.task_list()?;
    tasks.sort_by_key(|task| task.pid);
    tasks.dedup();
    let processes = tasks
        .into_iter()
        .map(|task| Process {
            pid: task.pid,
            scid: task.scid,
            name: names.context(task.scid).map(str::to_owned),
            command: command_line(task.pid),
        })
        .collect();
    output.report(&Processes { processes })
}

/// The command line of a process, its name in brackets if it has none, or `-` once it is gone.
fn command_line(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        return fs::read_to_string(format!("/proc/{pid}/comm"))
            .map_or_else(|_| "-".to_owned(), |name| format!("[{}]", name.trim_end()));
    }
    let line = words
        .iter()
        .map(|word| String::from_utf8_lossy(word))
        .collect::<Vec<_>>()
        .join(" ");
    // A process chooses its own command line; it must not steer the terminal.
    line.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_those_of_proc() {
        assert!(command_line(std::process::id()).contains("dsictl"));
        assert_eq!(command_line(u32::MAX), "-");
    }
}
