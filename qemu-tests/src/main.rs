//! Runs the QEMU suites: `cargo run -p dsi-qemu-tests -- --help`.

use std::process::ExitCode;
use std::time::Duration;

use dsi_qemu_tests::runner::{Options, run};
use dsi_qemu_tests::suites::choice;
use dsi_qemu_tests::{Need, shell};

const USAGE: &str =
    "usage: dsi-qemu-tests [--list] [--filter TEXT] [--kernel RELEASE] [--jobs N] [--bound SECONDS]
                      [--no-build]
Boots nodes in QEMU and runs the suites on them. Logs go to target/qemu/SUITE/NODE/.
--list            tells the tests
--filter TEXT     only tests whose 'suite/test' contains TEXT, or one of TEXT,TEXT,...; 'programs', 'selftests',
                  'soak' and 'wire' only run if it begins so
--kernel RELEASE  the stock kernel to run on (newest)
--jobs N          suites at the same time (1)
--bound SECONDS   ends the guests of a test that takes longer, and its suite with them (900)
--no-build        takes the programs as they are
--shell NODES     boots the nodes (a,b,...) and runs lines 'NODE COMMAND' of standard input on them
--servers         with --shell: has smd, ssd and dsictl on them, too
exit code: 0 all passed, 1 a test failed, 2 usage, 3 the harness failed";

fn main() -> ExitCode {
    match options(std::env::args().skip(1)) {
        Ok(Do::Tests(options)) => ExitCode::from(run(choice(options.filter.as_deref()), &options)),
        Ok(Do::Shell {
            nodes,
            needs,
            no_build,
        }) => match shell::run(&nodes, &needs, no_build, std::io::stdin().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("{failure}");
                ExitCode::from(3)
            }
        },
        Ok(Do::Help) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// What a command line asks for.
enum Do {
    Tests(Options),
    Shell {
        nodes: String,
        needs: Vec<Need>,
        no_build: bool,
    },
    Help,
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Do, String> {
    let mut options = Options {
        kernel: "newest".into(),
        filter: None,
        list: false,
        no_build: false,
        jobs: 1,
        bound: Duration::from_secs(900),
    };
    let (mut shell, mut needs) = (None, vec![Need::Module]);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" | "-h" => return Ok(Do::Help),
            "--list" => options.list = true,
            "--no-build" => options.no_build = true,
            "--filter" => options.filter = Some(value()?),
            "--kernel" => options.kernel = value()?,
            "--jobs" => {
                options.jobs = value()?
                    .parse()
                    .map_err(|_| "--jobs: expected a number".to_owned())?;
            }
            "--bound" => {
                options.bound = value()?
                    .parse()
                    .map(Duration::from_secs)
                    .map_err(|_| "--bound: expected seconds".to_owned())?;
            }
            "--shell" => shell = Some(value()?),
            "--servers" => needs.push(Need::Servers),
            _ => return Err(format!("unknown argument '{arg}'")),
        }
    }
    Ok(match shell {
        Some(nodes) => Do::Shell {
            nodes,
            needs,
            no_build: options.no_build,
        },
        None => Do::Tests(options),
    })
}
