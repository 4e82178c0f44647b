//! Loads, configures and unloads the module again and again while verified traffic of all kinds runs, and looks for what
//! it leaves behind. Runs in a guest that the suite `soak` has prepared; all of a cycle happens here, because a question
//! of the harness for each step would take longer than the step.

mod cycle;
mod leaks;
mod traffic;
mod zone;

use std::process::ExitCode;

const USAGE: &str = "usage: dsi-soak run CYCLES DIR | serve | zone-serve | zone-talk ZONE
run         the cycles; DIR has the policy's image, its signature (cms), the anchor and the cluster's UUID
serve       echoes what comes by UDP, TCP and MPTCP
zone-serve  echoes, too, on ports of zone 10: from a line 'open' on standard input to a line 'close'
zone-talk   puts itself into a zone, talks to zone-serve, and stays until standard input ends
exit code: 0 nothing was lost or left, 1 something was, 2 usage";

/// What went wrong, in words.
type Outcome<T> = Result<T, String>;

/// Says what failed.
fn at<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match *words {
        ["run", cycles, dir] => match cycles.parse() {
            Ok(cycles) if cycles > 0 => cycle::run(cycles, dir.as_ref()),
            _ => return usage(),
        },
        ["serve"] => traffic::serve_for_ever(),
        ["zone-serve"] => zone::serve(),
        ["zone-talk", zone] => match zone.parse() {
            Ok(zone) => zone::talk(zone),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            println!("failed: {what}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
