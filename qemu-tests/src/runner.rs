//! Runs suites and tells what came of each test.
//!
//! A test fails if it says so, if it panics, or if a kernel complained while it ran. A fault of the
//! harness ends its suite, is told as such, and decides the exit code: what was not seen must never be
//! counted as passed.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, NodeSpec};
use crate::fault::{Failure, Fault};
use crate::images::{Images, Payload, build_programs, program_dir};
use crate::leaks;
use crate::node::Guest;
use crate::suite::{Need, Suite, Test, TestResult};

/// A test that takes so long is told of while it runs.
const LONG: Duration = Duration::from_secs(300);

/// How much longer tests may take on a kernel with its checkers on.
const DEBUG_SLOWNESS: u32 = 8;

/// After so many failures in a row the nodes are not what the tests behind them suppose, and each of those would wait for
/// its deadlines in vain: the suite ends there.
const HOPELESS: u32 = 4;

/// What each suite ends with on a kernel that can tell.
const LEAKS: Test = Test {
    name: "module-has-lost-no-memory-ok",
    run: leaks::none,
};

/// How often the watch looks.
const LOOK: Duration = Duration::from_secs(5);

/// Lines of each log that a failure's report shows.
const TAIL: usize = 15;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel's release, or `newest`.
    pub kernel: String,
    /// Only tests whose whole name contains this, or one of these between commas.
    pub filter: Option<String>,
    /// Only tell the tests' names.
    pub list: bool,
    /// Do not build programs: they are there.
    pub no_build: bool,
    /// Suites that run at the same time.
    pub jobs: usize,
    /// A test that takes longer will not end: its guests are ended, which is a fault of the harness.
    pub bound: Duration,
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed.
    pub passed: u32,
    /// Failed.
    pub failed: u32,
    /// Not run because the harness failed.
    pub skipped: u32,
    /// Faults of the harness.
    pub faults: u32,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.faults += other.faults;
    }

    /// 0 all passed, 1 a test failed, 3 the harness did.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self { faults: 1.., .. } => 3,
            Self { failed: 1.., .. } => 1,
            _ => 0,
        }
    }
}

fn whole_name(suite: &Suite, test: &Test) -> String {
    format!("{}/{}", suite.name, test.name)
}

/// Each suite with those of its tests that the filter leaves.
fn select(suites: &[Suite], filter: Option<&str>) -> Vec<(Suite, Vec<Test>)> {
    suites
        .iter()
        .map(|suite| {
            let wanted = |test: &&Test| {
                filter.is_none_or(|filter| {
                    let name = whole_name(suite, test);
                    filter.split(',').any(|part| name.contains(part))
                })
            };
            (
                *suite,
                suite
                    .tests
                    .iter()
                    .filter(wanted)
                    .copied()
                    .collect::<Vec<_>>(),
            )
        })
        .filter(|(_, tests)| !tests.is_empty())
        .collect()
}

/// Runs the suites as asked and prints what came of them; returns the process' exit code.
pub fn run(suites: &[Suite], options: &Options) -> u8 {
    let selected = select(suites, options.filter.as_deref());
    if options.list {
        for (suite, tests) in &selected {
            println!("{}: {}", suite.name, suite.proves);
            tests
                .iter()
                .for_each(|test| println!("  {}", whole_name(suite, test)));
        }
        return 0;
    }
    let total: usize = selected.iter().map(|(_, tests)| tests.len()).sum();
    if total == 0 {
        println!(
            "FAULT no test's name contains '{}'",
            options.filter.as_deref().unwrap_or_default()
        );
        println!("0 passed, 0 failed, 0 skipped");
        return 3;
    }
    let mut needs: Vec<Need> = selected
        .iter()
        .flat_map(|(suite, _)| suite.needs)
        .copied()
        .collect();
    needs.sort();
    needs.dedup();
    let counts = match prepare(&needs, &options.kernel, options.no_build) {
        Ok(ready) => run_selected(selected, options, &ready),
        Err(fault) => {
            println!("FAULT {fault}");
            let skipped = u32::try_from(total).unwrap_or(u32::MAX);
            Counts {
                skipped,
                faults: 1,
                ..Counts::default()
            }
        }
    };
    println!(
        "{} passed, {} failed, {} skipped",
        counts.passed, counts.failed, counts.skipped
    );
    counts.exit_code()
}

/// What all suites share.
struct Ready {
    images: Images,
    payload: PathBuf,
    dir: PathBuf,
    // Held while the run lasts.
    _lock: File,
}

/// Boots nodes for something that is not a suite, and runs it on them; logs go to `target/qemu/NAME`.
pub fn boot_for(
    name: &str,
    nodes: &[NodeSpec],
    needs: &[Need],
    run: impl FnOnce(&mut Cluster) -> TestResult,
) -> TestResult {
    boot_with(name, nodes, needs, false, run)
}

/// As [`boot_for`]; with `no_build`, programs are taken as they are.
pub fn boot_with(
    name: &str,
    nodes: &[NodeSpec],
    needs: &[Need],
    no_build: bool,
    run: impl FnOnce(&mut Cluster) -> TestResult,
) -> TestResult {
    let ready = prepare(needs, "newest", no_build)?;
    let mut cluster = Cluster::boot(nodes, &ready.images, &ready.payload, &ready.dir.join(name))?;
    run(&mut cluster)
}

fn prepare(needs: &[Need], kernel: &str, no_build: bool) -> Result<Ready, Fault> {
    let programs = program_dir()?;
    let dir = programs.parent().unwrap_or(&programs).join("qemu");
    fs::create_dir_all(&dir).map_err(Fault::host("create", &dir))?;
    let path = dir.join("lock");
    let lock = File::create(&path).map_err(Fault::host("create", &path))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another run that uses {}", dir.display());
        lock.lock().map_err(Fault::host("lock", &path))?;
    }
    if !no_build {
        build_programs()?;
    }
    let images = Images::prepare(kernel)?.with(needs)?;
    let payload = Payload::for_needs(needs, &images.release)?.image(&dir)?;
    Ok(Ready {
        images,
        payload,
        dir,
        _lock: lock,
    })
}

/// A test that runs now.
struct Running {
    since: Instant,
    told: Instant,
    guests: Vec<Guest>,
}

/// The tests that run now, by name, and how long each may take.
struct Underway {
    running: Mutex<BTreeMap<String, Running>>,
    bound: Duration,
}

impl Underway {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a step that depends on these guests; they are ended if it takes longer than the bound.
    fn of<T>(&self, name: &str, guests: Vec<Guest>, run: impl FnOnce() -> T) -> T {
        let now = Instant::now();
        let running = Running {
            since: now,
            told: now,
            guests,
        };
        self.all().insert(name.to_owned(), running);
        let result = run();
        self.all().remove(name);
        result
    }

    /// Says which tests take long, so that whoever ends the run, and sees no more than this, knows where it stood; and
    /// ends those that will not.
    fn watch(&self, ended: &mpsc::Receiver<()>) {
        while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
            for (name, running) in &mut *self.all() {
                let since = running.since.elapsed();
                if running.told.elapsed() >= LONG {
                    running.told = Instant::now();
                    println!("     {name} has been running for {} s", since.as_secs());
                }
                if since >= self.bound && !running.guests.is_empty() {
                    println!(
                        "     {name} is not done after {} s: its guests are ended",
                        since.as_secs()
                    );
                    for guest in running.guests.drain(..) {
                        guest.lock().unwrap_or_else(PoisonError::into_inner).kill();
                    }
                }
            }
        }
    }
}

fn run_selected(selected: Vec<(Suite, Vec<Test>)>, options: &Options, ready: &Ready) -> Counts {
    let slowness = match ready.images.is_debug() {
        true => DEBUG_SLOWNESS,
        false => 1,
    };
    let queue = Mutex::new(selected.into_iter());
    let counts = Mutex::new(Counts::default());
    let underway = Underway {
        running: Mutex::default(),
        bound: options.bound.saturating_mul(slowness),
    };
    let (running, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let (queue, counts, underway) = (&queue, &counts, &underway);
        scope.spawn(move || underway.watch(&ended));
        for _ in 0..options.jobs.max(1) {
            let running = running.clone();
            // One thread lives through a whole suite: its end would end the suite's guests.
            scope.spawn(move || {
                // The watch ends with the last of these.
                let _running = running;
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((suite, tests)) = next else { break };
                    let of_suite = run_suite(&suite, &tests, ready, underway);
                    counts
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(of_suite);
                }
            });
        }
        drop(running);
    });
    counts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn run_suite(suite: &Suite, tests: &[Test], ready: &Ready, underway: &Underway) -> Counts {
    let dir = ready.dir.join(suite.name);
    let mut counts = Counts::default();
    let rest = |done: usize| u32::try_from(tests.len() - done).unwrap_or(u32::MAX);
    println!("---- {}: {}", suite.name, suite.proves);
    let began = Instant::now();
    // Booting has a deadline of its own.
    let booting = underway.of(&format!("{}/boot", suite.name), Vec::new(), || {
        Cluster::boot(suite.nodes, &ready.images, &ready.payload, &dir)
    });
    let mut cluster = match booting {
        Ok(cluster) => cluster,
        Err(fault) => {
            println!("FAULT {}: {fault}", suite.name);
            return Counts {
                skipped: rest(0),
                faults: 1,
                ..counts
            };
        }
    };
    let booted: Vec<String> = cluster
        .nodes()
        .iter()
        .map(|node| format!("{} in {:.1} s", node.name, node.boot_time.as_secs_f64()))
        .collect();
    println!(
        "     booted {} on {}",
        booted.join(", "),
        ready.images.release
    );

    let marks = cluster.console_marks();
    let guests = cluster.guests();
    let setup = underway.of(&format!("{}/setup", suite.name), guests, || {
        guarded(&mut cluster, suite.setup)
    });
    if let Err(failure) = setup {
        report(&format!("{}/setup", suite.name), &failure, &cluster, &marks);
        return match failure {
            Failure::Fault(_) => Counts {
                skipped: rest(0),
                faults: 1,
                ..counts
            },
            Failure::Failed(_) => Counts {
                failed: rest(0),
                ..counts
            },
        };
    }
    let last = ready.images.is_debug().then_some(LEAKS);
    let mut in_a_row = 0;
    for (done, test) in tests.iter().chain(&last).enumerate() {
        if in_a_row == HOPELESS {
            println!(
                "FAULT {}: {HOPELESS} tests in a row have failed; the rest of the suite is not run",
                suite.name
            );
            counts.faults += 1;
            counts.skipped += rest(done);
            break;
        }
        let name = whole_name(suite, test);
        let begin = Instant::now();
        let marks = cluster.console_marks();
        let guests = cluster.guests();
        match underway.of(&name, guests, || guarded(&mut cluster, test.run)) {
            Ok(()) => {
                in_a_row = 0;
                counts.passed += 1;
                println!("PASS {name} ({:.1} s)", begin.elapsed().as_secs_f64());
            }
            Err(failure) => {
                report(&name, &failure, &cluster, &marks);
                if let Failure::Fault(_) = failure {
                    return Counts {
                        skipped: rest(done),
                        faults: 1,
                        ..counts
                    };
                }
                in_a_row += 1;
                counts.failed += 1;
            }
        }
    }
    cluster.collect_logs();
    println!("     {} took {} s", suite.name, began.elapsed().as_secs());
    counts
}

/// Runs one step; panics and complaints of the nodes' kernels are failures, lost nodes faults.
fn guarded(cluster: &mut Cluster, step: fn(&mut Cluster) -> TestResult) -> TestResult {
    let before = cluster.new_complaints();
    if !before.is_empty() {
        return Err(Failure::new(format!(
            "a kernel complained before this began:\n{}",
            before.join("\n")
        )));
    }
    let result = match catch_unwind(AssertUnwindSafe(|| step(cluster))) {
        Ok(result) => result,
        Err(panic) => Err(Failure::new(format!(
            "it panicked: {}",
            panic_text(&*panic)
        ))),
    };
    let complaints = cluster.new_complaints();
    if !complaints.is_empty() {
        let result = result
            .err()
            .map(|failure| format!("\nand: {failure}"))
            .unwrap_or_default();
        return Err(Failure::new(format!(
            "a kernel complained:\n{}{result}",
            complaints.join("\n")
        )));
    }
    result?;
    Ok(cluster.check_alive()?)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(without a text)")
}

fn report(name: &str, failure: &Failure, cluster: &Cluster, marks: &[u64]) {
    cluster.collect_logs();
    let head = match failure {
        Failure::Failed(_) => "FAIL",
        Failure::Fault(_) => "FAULT",
    };
    println!(
        "{head} {name}: {failure}\n{}     all logs: {}",
        cluster.log_tails_since(marks, TAIL),
        shown(cluster.dir())
    );
}

fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here)
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::no_setup;

    const SUITE: Suite = Suite {
        name: "some",
        proves: "",
        nodes: &[],
        needs: &[],
        setup: no_setup,
        tests: &[
            Test {
                name: "one-ok",
                run: no_setup,
            },
            Test {
                name: "two-denied",
                run: no_setup,
            },
        ],
    };

    #[test]
    fn the_filter_looks_at_whole_names() {
        assert_eq!(select(&[SUITE], None)[0].1.len(), 2);
        assert_eq!(
            select(&[SUITE], Some("some/two"))[0].1[0].name,
            "two-denied"
        );
        assert!(select(&[SUITE], Some("three")).is_empty());
        assert_eq!(select(&[SUITE], Some("three,one,two"))[0].1.len(), 2);
    }

    #[test]
    fn a_fault_outweighs_a_failure() {
        assert_eq!(
            Counts {
                passed: 1,
                ..Counts::default()
            }
            .exit_code(),
            0
        );
        assert_eq!(
            Counts {
                failed: 1,
                ..Counts::default()
            }
            .exit_code(),
            1
        );
        assert_eq!(
            Counts {
                failed: 1,
                faults: 1,
                ..Counts::default()
            }
            .exit_code(),
            3
        );
    }
}
