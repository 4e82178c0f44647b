//! `dsi-bench`, the host's side of `make bench-kernel`: boots the same guest once for each configuration,
//! reads how many instructions each operation took, prints one table and writes it as JSON.
//!
//! It must never report a figure of a run that was not complete and checked: whatever is missing or strange
//! in a guest's answer ends the whole run with a message and exit code 2.

use std::path::PathBuf;
use std::process::ExitCode;

mod boot;
mod cpio;
mod outcome;
mod profile;
mod table;

use boot::{Guest, Profiler};
use outcome::{Config, Fault, Outcome};

const USAGE: &str = "usage: dsi-bench --kernel VMLINUZ --module DSM.KO --init PROGRAM --workload PROGRAM \
--peers DIRECTORY --out DIRECTORY --release RELEASE --revision REVISION \
[--config bare,hooks,dsm,nft_map,bpf_lsm,cipso,scale,memory] \
[--profile OPERATION --plugin SHARED-OBJECT --marks BEGIN,END]";

/// What is measured where nothing is asked for.
const EVERYTHING: &str = "bare,hooks,dsm,nft_map,bpf_lsm,cipso,scale,memory";

/// What the command line asks for.
struct Arguments {
    guest: Guest,
    out: PathBuf,
    release: String,
    revision: String,
    configs: Vec<Config>,
}

fn main() -> ExitCode {
    match arguments().and_then(|a| run(&a)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("error: {fault}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Fault> {
    let outcomes = outcomes(arguments)?;
    if let Some(profiler) = &arguments.guest.profiler {
        print!(
            "{}",
            profile::text(&outcomes, &profiler.operation, &arguments.out)?
        );
        return Ok(());
    }
    let table = table::Table::new(&outcomes);
    print!("{}", table.text(&arguments.release, &arguments.revision));
    let file = arguments.out.join("kernel.json");
    let json = table.json(&arguments.release, &arguments.revision);
    std::fs::write(&file, json).map_err(|source| Fault::File { path: file, source })
}

/// One guest for each configuration, as many at a time as there are processors; memory for more may be missing.
fn outcomes(arguments: &Arguments) -> Result<Vec<Outcome>, Fault> {
    let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
    let mut outcomes = Vec::new();
    for configs in arguments.configs.chunks(at_a_time) {
        outcomes.extend(std::thread::scope(|scope| {
            let guests: Vec<_> = configs
                .iter()
                .map(|&config| scope.spawn(move || arguments.guest.run(config, &arguments.out)))
                .collect();
            guests
                .into_iter()
                .map(|guest| guest.join().expect("the thread of a guest does not panic"))
                .collect::<Result<Vec<Outcome>, Fault>>()
        })?);
    }
    Ok(outcomes)
}

fn arguments() -> Result<Arguments, Fault> {
    let mut values = std::collections::BTreeMap::new();
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next().ok_or_else(|| Fault::Usage(USAGE.into()))?;
        values.insert(name, value);
    }
    let mut take = |name: &str| {
        values
            .remove(name)
            .ok_or_else(|| Fault::Usage(USAGE.into()))
    };
    let configs = take("--config").unwrap_or_else(|_| EVERYTHING.into());
    let profiler = match take("--profile") {
        Ok(operation) => Some(Profiler {
            plugin: take("--plugin")?.into(),
            marks: marks(&take("--marks")?)?,
            operation: known(operation)?,
        }),
        Err(_) => None,
    };
    let arguments = Arguments {
        guest: Guest {
            kernel: take("--kernel")?.into(),
            module: take("--module")?.into(),
            init: take("--init")?.into(),
            workload: take("--workload")?.into(),
            peers: take("--peers")?.into(),
            profiler,
        },
        out: take("--out")?.into(),
        release: take("--release")?,
        revision: take("--revision")?,
        configs: configs
            .split(',')
            .map(outcome::configs)
            .collect::<Result<Vec<_>, _>>()?
            .concat(),
    };
    match values.keys().next() {
        None => Ok(arguments),
        Some(unknown) => Err(Fault::Usage(format!("{unknown} is unknown; {USAGE}"))),
    }
}

fn known(operation: String) -> Result<String, Fault> {
    let names = outcome::OPERATIONS.map(|(name, _)| name);
    if names.contains(&operation.as_str()) {
        Ok(operation)
    } else {
        Err(Fault::Usage(format!(
            "operation '{operation}' is none of {}",
            names.join(", ")
        )))
    }
}

/// "BEGIN,END" in hexadecimal, as nm prints them.
fn marks(text: &str) -> Result<(u64, u64), Fault> {
    let hex = |word| u64::from_str_radix(word, 16).ok();
    text.split_once(',')
        .and_then(|(begin, end)| Some((hex(begin)?, hex(end)?)))
        .ok_or_else(|| Fault::Usage(format!("--marks '{text}' is not BEGIN,END in hexadecimal")))
}
