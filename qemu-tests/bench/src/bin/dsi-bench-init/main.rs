//! `dsi-bench-init`, the first process of a benchmark guest: loads the module as the configuration asks,
//! lets the guest settle, runs the workload and switches the machine off. Its answer goes to the second
//! serial port (see `outcome.rs` for its lines); the first one is the console.
//!
//! It must never let the workload count for a configuration that was not really in force.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use full::Full;
use peers::Peer;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, finit_module, reboot};
use twin::Failure;

mod full;
mod memory;
mod peers;
mod twin;

/// What the guest does before anything is measured: timers, RCU and kernel threads come to rest.
const SETTLE: Duration = Duration::from_secs(20);

/// Most open files of a process here.
const DESCRIPTORS: u64 = 300_000;

fn main() {
    let mut answer = match open_answer() {
        Ok(port) => port,
        Err(e) => {
            eprintln!("dsi-bench-init: no second serial port: {e}");
            switch_off();
            return;
        }
    };
    let last = match run(&mut answer) {
        Ok(()) => "done".to_owned(),
        Err(e) => format!("fault {}", e.to_string().replace('\n', "; ")),
    };
    if let Err(e) = writeln!(answer, "{last}").and_then(|()| answer.flush()) {
        eprintln!("dsi-bench-init: cannot write the answer: {e}");
    }
    switch_off();
}

fn run(answer: &mut File) -> Result<(), Failure> {
    let config =
        std::env::var("dsi_bench").map_err(|_| "the kernel's command line has no dsi_bench=")?;
    let (mut full, mut peer) = (None, None);
    // Before anything is in force that could refuse it.
    let most = Some(DESCRIPTORS);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: most,
            maximum: most,
        },
    )?;
    match config.as_str() {
        "bare" => {}
        "bare_memory" => return memory::measure(answer, None),
        "memory" => {
            memory::of_module(answer, |answer| load_module(answer, ""))?;
            let mut full = Full::establish(answer, None)?;
            memory::measure(answer, Some(&mut full))?;
            return full.prove_by_twin(answer);
        }
        "hooks" => load_module(answer, "hooks_only=1")?,
        "dsm" => {
            load_module(answer, "")?;
            full = Some(Full::establish(answer, number("dsi_bench_rules")?)?);
        }
        "nft_map" => peer = Some(Peer::nft_map()?),
        "bpf_lsm" => peer = Some(Peer::bpf_lsm()?),
        "cipso" => peer = Some(Peer::cipso()?),
        other => return Err(format!("dsi_bench={other} is no configuration").into()),
    }
    std::thread::sleep(SETTLE);
    measure(answer)?;
    if std::env::var_os("dsi_bench_only").is_some() {
        tell_symbols(answer)?;
    } else if let Some(full) = &mut full {
        full.prove(answer)?;
    } else if let Some(peer) = &peer {
        peer.prove(answer)?;
    }
    Ok(())
}

/// A number from the kernel's command line, if it is there.
fn number(name: &str) -> Result<Option<u32>, Failure> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(
            text.parse().map_err(|e| format!("{name}={text}: {e}"))?,
        )),
        Err(_) => Ok(None),
    }
}

/// Where each function of the kernel and its modules lies, for the profile of a single operation.
fn tell_symbols(answer: &mut File) -> Result<(), Failure> {
    let mut lines = String::new();
    for symbol in std::fs::read_to_string("/proc/kallsyms")?.lines() {
        let mut words = symbol.split_whitespace();
        if let (Some(address), Some("t" | "T" | "w" | "W"), Some(name)) =
            (words.next(), words.next(), words.next())
        {
            lines += &format!("symbol {address} {name}{}\n", words.next().unwrap_or(""));
        }
    }
    answer.write_all(lines.as_bytes())?;
    Ok(())
}

/// The workload, which writes its own lines.
fn measure(answer: &File) -> Result<(), Failure> {
    let status = Command::new("/workload")
        .arg("measure")
        .stdin(Stdio::null())
        .stdout(answer.try_clone()?)
        .status()
        .map_err(|e| format!("the workload could not be executed: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the workload ended with {status}").into())
    }
}

fn load_module(answer: &mut File, parameters: &str) -> Result<(), Failure> {
    let module = File::open("/dsm.ko")?;
    let text = std::ffi::CString::new(parameters)?;
    finit_module(&module, &text, 0)
        .map_err(|e| format!("dsm.ko {parameters} was not loaded: {e}"))?;
    writeln!(answer, "fact module dsm.ko {parameters}")?;
    Ok(())
}

fn open_answer() -> Result<File, Failure> {
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        std::fs::create_dir_all(place)?;
        mount(kind, place, kind, MountFlags::empty(), None)?;
    }
    Ok(OpenOptions::new().write(true).open("/dev/ttyS1")?)
}

fn switch_off() {
    if let Err(e) = reboot(RebootCommand::PowerOff) {
        eprintln!("dsi-bench-init: cannot switch off: {e}");
    }
}
