//! The cycles: the module comes, is configured, takes a policy that it enforces, and goes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dsi_proto::netlink::{Netlink, NetlinkError};

use crate::leaks::Ledger;
use crate::traffic::{BASE, Flows, PATIENCE, Servers, has_mptcp};
use crate::{Outcome, at, leaks};

const MODULE: &str = "/opt/dsi/dsm.ko";
/// The name space at the other end of the veth pair.
const FAR: [&str; 4] = ["ip", "netns", "exec", "far"];
/// Where the flows go: over the pair to outside and to the node itself, and within.
const ADDRESSES: [&str; 6] = [
    "10.89.0.2",
    "fd89::2",
    "10.88.0.2",
    "fd88::2",
    "127.0.0.1",
    "::1",
];
/// The node's own addresses.
const OWN: [&str; 6] = [
    "10.77.0.1",
    "fd77::1",
    "10.88.0.1",
    "fd88::1",
    "10.88.0.2",
    "fd88::2",
];
const COUNTER: &str = "refused-no-permission";

fn parsed(addresses: &[&str]) -> Outcome<Vec<IpAddr>> {
    addresses
        .iter()
        .map(|text| text.parse().map_err(at(text)))
        .collect()
}

/// What the node is given in each cycle.
struct Regime {
    cluster: [u8; 16],
    anchor: Vec<u8>,
    image: Vec<u8>,
    signature: Vec<u8>,
    own: Vec<IpAddr>,
}

impl Regime {
    fn read(dir: &Path) -> Outcome<Self> {
        let read = |name: &str| fs::read(dir.join(name)).map_err(at(name));
        Ok(Self {
            cluster: read("cluster")?
                .try_into()
                .map_err(|_| "the cluster's UUID is not 16 bytes long")?,
            anchor: read("anchor")?,
            image: read("image")?,
            signature: read("cms")?,
            own: parsed(&OWN)?,
        })
    }

    fn enrol(&self, module: &mut Netlink, epoch: u32) -> Result<(), NetlinkError> {
        module.config_set(Some(1), Some(&self.cluster), Some(&self.anchor))?;
        module.node_set(1, Some(&self.own), None)?;
        module.key_set(epoch, Some(&[epoch as u8; 16]), true)
    }
}

/// A process of ours that says lines and is told some.
struct Helper {
    name: &'static str,
    child: Child,
    said: BufReader<ChildStdout>,
    told: Option<ChildStdin>,
}

impl Helper {
    fn start(far: bool, name: &'static str, words: &[&str]) -> Outcome<Self> {
        let this = std::env::current_exe().map_err(at("this program"))?;
        let mut command = if far {
            let mut command = Command::new(FAR[0]);
            command.args(&FAR[1..]).arg(this);
            command
        } else {
            Command::new(this)
        };
        let mut child = command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(at(name))?;
        let (Some(said), told) = (child.stdout.take(), child.stdin.take()) else {
            return Err(format!("{name} has no standard output"));
        };
        Ok(Self {
            name,
            child,
            said: BufReader::new(said),
            told,
        })
    }

    /// What it waits for has a deadline of its own.
    fn says(&mut self, wanted: &str) -> Outcome<()> {
        let mut line = String::new();
        self.said.read_line(&mut line).map_err(at(self.name))?;
        if line.trim() == wanted {
            return Ok(());
        }
        Err(format!(
            "{} said '{}' instead of '{wanted}'",
            self.name,
            line.trim()
        ))
    }

    fn tell(&mut self, line: &str) -> Outcome<()> {
        let told = self.told.as_mut().ok_or("it is told nothing any more")?;
        writeln!(told, "{line}").map_err(at(self.name))
    }

    /// It ends when it is told nothing any more.
    fn end(mut self) -> Outcome<()> {
        drop(self.told.take());
        let mut rest = String::new();
        while self.said.read_line(&mut rest).map_err(at(self.name))? > 0 {}
        let status = self.child.wait().map_err(at(self.name))?;
        if status.success() {
            return Ok(());
        }
        Err(format!("{}: {status}: {}", self.name, rest.trim()))
    }
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > deadline {
            return Err(format!("waited in vain for {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn refused(module: &mut Netlink) -> Outcome<u64> {
    let status = module.status().map_err(at("status"))?;
    let counter = status.counters.iter().find(|c| c.name == COUNTER);
    counter
        .map(|counter| counter.value)
        .ok_or_else(|| format!("there is no counter {COUNTER}"))
}

/// One cycle. `loaded` looks at the machine before the module goes.
fn cycle(
    regime: &Regime,
    flows: &Flows,
    far: &mut Helper,
    number: u32,
    loaded: impl FnOnce() -> Outcome<()>,
) -> Outcome<()> {
    let began = Instant::now();
    let mut times = Vec::new();
    let mut passed =
        |what: &'static str| times.push(format!("{what} {}", began.elapsed().as_millis()));
    let file = File::open(MODULE).map_err(at(MODULE))?;
    rustix::system::finit_module(&file, c"", 0).map_err(at("loading"))?;
    passed("loaded");
    flows.advance()?;
    passed("traffic");
    let mut module = Netlink::open().map_err(at("netlink"))?;
    regime
        .enrol(&mut module, number)
        .map_err(at("enrolling the node"))?;
    flows.advance()?;
    passed("enrolled");
    module
        .policy_install(&regime.image, &regime.signature)
        .map_err(at("the policy"))?;
    passed("policy");
    let before = refused(&mut module)?;
    module
        .task_set(Some(far.child.id()), 10)
        .map_err(at("task-set"))?;
    far.tell("open")?;
    far.says("open")?;
    let mut ten = Helper::start(false, "zone 10", &["zone-talk", "10"])?;
    let mut twenty = Helper::start(false, "zone 20", &["zone-talk", "20"])?;
    ten.says("talked")?;
    twenty.says("talked")?;
    // One of each family. It may be that they are still on their way.
    until("zone 20 to be refused", || {
        Ok(refused(&mut module)? >= before + 2)
    })?;
    flows.advance()?;
    passed("zones");
    loaded()?;
    drop(module);
    rustix::system::delete_module(c"dsm", 0).map_err(at("unloading"))?;
    passed("unloaded");
    flows.advance()?;
    if !matches!(Netlink::open(), Err(NetlinkError::ModuleNotLoaded)) {
        return Err("the netlink family is still there".into());
    }
    if Path::new("/sys/module/dsm").exists() {
        return Err("/sys/module/dsm is still there".into());
    }
    ten.end()?;
    twenty.end()?;
    far.tell("close")?;
    far.says("closed")?;
    passed("over");
    if std::env::var_os("DSI_SOAK_COUNTS").is_some() {
        println!("times of cycle {number}, in ms: {}", times.join(", "));
    }
    Ok(())
}

/// MPTCP connections that were asked for, and those that have fallen back to TCP, of this name space.
fn mptcp_counters() -> Outcome<[u64; 2]> {
    let text = fs::read_to_string("/proc/net/netstat").map_err(at("netstat"))?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("MPTcpExt: "));
    let names = lines.next().unwrap_or_default().split(' ');
    let values = lines.next().unwrap_or_default().split(' ');
    let mut counts = [0; 2];
    for (name, value) in names.zip(values) {
        let value: u64 = value.parse().unwrap_or_default();
        match name {
            "MPCapableSYNACKRX" => counts[0] = value,
            "MPCapableFallbackSYNACK"
            | "MPCapableFallbackACK"
            | "DssFallback"
            | "SimultConnectFallback" => counts[1] += value,
            _ => {}
        }
    }
    Ok(counts)
}

/// All of it.
pub(crate) fn run(cycles: u32, dir: &Path) -> Outcome<()> {
    let regime = Regime::read(dir)?;
    let mut server = Helper::start(true, "the servers", &["serve"])?;
    server.says("serving")?;
    let mut far = Helper::start(true, "zone 10's servers", &["zone-serve"])?;
    far.says("ready")?;
    Servers::open(BASE)?.start();
    let flows = Flows::start(&parsed(&ADDRESSES)?);
    flows.advance()?;
    println!(
        "cycle 0 of {cycles}: {} flows run{}",
        flows.count(),
        if has_mptcp() { "" } else { ", no MPTCP" }
    );
    let mut ledger = Ledger::new(cycles);
    let (started, every) = (Instant::now(), 50.min(cycles.div_ceil(10)));
    for number in 1..=cycles {
        let look = ledger.is_due(number);
        let first = look && ledger.is_first();
        let loaded = || {
            if first {
                leaks::owns_something()
            } else {
                Ok(())
            }
        };
        cycle(&regime, &flows, &mut far, number, loaded)
            .map_err(|what| format!("cycle {number}: {what}"))?;
        if look {
            ledger
                .look(number)
                .map_err(|what| format!("after cycle {number}: {what}"))?;
        }
        if number % every == 0 {
            let tally = &flows.tally;
            println!(
                "cycle {number} of {cycles}: {} s, {} connections, {} KiB of streams, {} datagrams",
                started.elapsed().as_secs(),
                tally.connections.load(Ordering::Relaxed),
                tally.stream_bytes.load(Ordering::Relaxed) / 1024,
                tally.datagrams.load(Ordering::Relaxed)
            );
        }
    }
    flows.finish()?;
    far.end()?;
    let [asked, fallen] = mptcp_counters()?;
    println!("cycle {cycles}: MPTCP connections {asked}, fallen back to TCP {fallen}");
    if has_mptcp() && (asked < u64::from(cycles) || fallen > 0) {
        return Err("connections by MPTCP were none".into());
    }
    ledger.judge()?;
    println!("cycle {cycles}: nothing lost, nothing left");
    Ok(())
}
