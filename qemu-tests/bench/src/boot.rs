//! Boots one guest on which time is a count of instructions, and waits for its answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cpio::Archive;
use crate::outcome::{Config, Fault, Outcome};

/// A whole run takes about half a minute on an idle core; this is for a machine that is far from idle.
const DEADLINE: Duration = Duration::from_secs(1800);

/// The parts that every guest boots from.
pub struct Guest {
    /// The stock kernel.
    pub kernel: PathBuf,
    /// `dsm.ko` for that kernel.
    pub module: PathBuf,
    /// The guest's first process (`dsi-bench-init`, statically linked).
    pub init: PathBuf,
    /// The workload (`guest/workload.c`, statically linked).
    pub workload: PathBuf,
    /// What the systems need that DSI is compared with (`scripts/bench-peers`).
    pub peers: PathBuf,
    /// Where instructions go, if that is asked.
    pub profiler: Option<Profiler>,
}

/// The plugin that counts instructions by address, and the operation it is to watch.
pub struct Profiler {
    /// The shared object made of `profile/plugin.c`.
    pub plugin: PathBuf,
    /// Addresses in the workload where counting begins and ends.
    pub marks: (u64, u64),
    /// The one operation that the guest measures.
    pub operation: String,
}

impl Guest {
    /// Runs one configuration and reads its answer. Leaves console and answer in `out`.
    pub fn run(&self, config: Config, out: &Path) -> Result<Outcome, Fault> {
        let [initramfs, console, answer] =
            ["cpio", "console", "answer"].map(|kind| place(out, config, kind));
        write(&initramfs, &self.initramfs()?)?;
        let errors = place(out, config, "qemu");
        let errors_file = fs::File::create(&errors).map_err(file(&errors))?;
        let fault = |what: String| Fault::Qemu {
            config,
            what,
            console: console.clone(),
        };
        let mut qemu = self
            .qemu(config, out)
            .stdin(Stdio::null())
            .stderr(errors_file)
            .spawn()
            .map_err(|e| {
                fault(format!(
                    "cannot be started: {e}; install it with: make setup"
                ))
            })?;
        let begin = Instant::now();
        let status = loop {
            match qemu.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begin.elapsed() < DEADLINE => {
                    std::thread::sleep(Duration::from_millis(100))
                }
                Ok(None) => {
                    // The outcome is the same whether it could still be ended or had just ended.
                    let _ = qemu.kill();
                    let _ = qemu.wait();
                    return Err(fault(format!("no answer within {} s", DEADLINE.as_secs())));
                }
                Err(e) => return Err(fault(e.to_string())),
            }
        };
        if !status.success() {
            return Err(fault(format!(
                "ended with {status}; it said: {}",
                read(&errors)?.trim()
            )));
        }
        let complaint = |what: String| Fault::Guest {
            config,
            what,
            console: console.clone(),
        };
        if let Some(line) = splat(&read(&console)?) {
            return Err(complaint(format!("the kernel complained: {line}")));
        }
        Outcome::parse(config, self.only(), &read(&answer)?).map_err(complaint)
    }

    fn only(&self) -> Option<&str> {
        self.profiler.as_ref().map(|p| p.operation.as_str())
    }

    /// The same files for every configuration, so that memory looks alike to all of them.
    fn initramfs(&self) -> Result<Vec<u8>, Fault> {
        let mut archive = Archive::default();
        for (name, path) in [
            ("init", &self.init),
            ("workload", &self.workload),
            ("dsm.ko", &self.module),
        ] {
            archive.program(name, &fs::read(path).map_err(file(path))?);
        }
        archive.directory("peers");
        let entries = fs::read_dir(&self.peers).map_err(file(&self.peers))?;
        let mut peers = entries
            .map(|entry| Ok(entry.map_err(file(&self.peers))?.path()))
            .collect::<Result<Vec<PathBuf>, Fault>>()?;
        peers.sort();
        for path in peers {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let content = fs::read(&path).map_err(file(&path))?;
            archive.program(&format!("peers/{name}"), &content);
        }
        Ok(archive.finish())
    }

    /// One processor, one instruction a nanosecond, no idle time, and the same random numbers in every run.
    /// `-erms` because string instructions would otherwise count as one, however much they copy.
    fn qemu(&self, config: Config, out: &Path) -> Command {
        let serial = |kind| format!("file:{}", place(out, config, kind).display());
        let mut line = format!(
            "console=ttyS0 quiet panic=-1 norandmaps lsm={} {}{}",
            config.lsm(),
            config.order(),
            config.tables()
        );
        if let Some(operation) = self.only() {
            line += &format!(" dsi_bench_only={operation}");
        }
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-accel",
            "tcg",
            "-icount",
            "shift=0,sleep=off",
            "-smp",
            "1",
            "-m",
            &config.memory().to_string(),
        ])
        .args([
            "-cpu",
            "max,-erms",
            "-seed",
            "1",
            "-rtc",
            "base=2026-01-01,clock=vm",
        ])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-serial", &serial("console"), "-serial", &serial("answer")])
        .arg("-kernel")
        .arg(&self.kernel)
        .arg("-initrd")
        .arg(place(out, config, "cpio"))
        .args(["-append", &line]);
        if let Some(profiler) = &self.profiler {
            let (begin, end) = profiler.marks;
            let plugin = profiler.plugin.display();
            let counts = place(out, config, "counts");
            qemu.args([
                "-plugin",
                &format!(
                    "{plugin},begin={begin:#x},end={end:#x},out={}",
                    counts.display()
                ),
            ]);
        }
        qemu
    }
}

/// Where in `out` a configuration's file of this kind is.
pub fn place(out: &Path, config: Config, kind: &str) -> PathBuf {
    out.join(format!("{}.{kind}", config.name()))
}

/// The first line of a console that no healthy kernel prints.
fn splat(console: &str) -> Option<&str> {
    const SIGNS: [&str; 6] = [
        "BUG:",
        "WARNING:",
        "Oops",
        "Kernel panic",
        "rcu_sched",
        "Call Trace",
    ];
    console
        .lines()
        .find(|line| SIGNS.iter().any(|sign| line.contains(sign)))
}

fn read(path: &Path) -> Result<String, Fault> {
    let bytes = fs::read(path).map_err(file(path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write(path: &Path, content: &[u8]) -> Result<(), Fault> {
    fs::write(path, content).map_err(file(path))
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Fault + use<> {
    let path = path.to_owned();
    |source| Fault::File { path, source }
}
