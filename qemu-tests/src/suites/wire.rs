//! Measures what DSI costs a machine that another one sends to over an emulated network card: the receiver's and the
//! sender's instructions for each MB, and how many packets it took, without the module, with a label in the handshake,
//! and with one on each segment. The guests' clocks are counts of instructions, so that no time of this machine's is in
//! the figures; how many packets a card hands over at once does depend on it. Written to `target/bench/wire.json`. It
//! asserts no figure, only that what was measured is what it is called. No servers.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{enrol, load};
use crate::fault::{Failure, Fault};
use crate::images::repository;
use crate::node::{Node, PATIENCE, Process};
use crate::regime::{
    Counters, Denial, Regime, WITHIN_10, ZONES, delivered, document, every_packet,
};
use crate::suite::{Need, Suite, Test, TestResult, no_setup};
use crate::{check, check_eq, tests};

/// A nanosecond of such a guest's clock is an instruction.
const ICOUNT: &[&str] = &["-icount", "shift=0,sleep=on"];

/// The suite.
pub const SUITE: Suite = Suite {
    name: "wire",
    proves: "what a stream over a network card costs at either end, with DSI and without, is known",
    nodes: &[
        NodeSpec::new("munster").qemu_args(ICOUNT),
        NodeSpec::new("colby").qemu_args(ICOUNT),
    ],
    needs: &[Need::Module, Need::Servers],
    setup: no_setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "streams-are-measured-ok" => measured,
    "stream-of-another-zone-denied" => refused,
};

const NAMES: [&str; 2] = ["munster", "colby"];
const TRAFFIC: &str = "/opt/dsi/bin/dsi-traffic";
const MTUS: [usize; 2] = [1500, 9000];
const MB: u64 = 1_000_000;
/// What a stream carries, but for `DSI_WIRE_MB`.
const STREAM_MB: u64 = 16;

/// How packets are labelled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Without,
    Handshake,
    Each,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Without => "without",
            Self::Handshake => "handshake",
            Self::Each => "every-packet",
        }
    }
}

/// What one stream took.
struct Figures {
    protocol: &'static str,
    mtu: usize,
    mode: Mode,
    /// Instructions for each MB.
    receiver: u64,
    sender: u64,
    /// From sender to receiver: on the wire, and up the receiver's stack.
    frames: usize,
    delivered: usize,
}

impl Figures {
    fn json(&self) -> Value {
        json!({
            "protocol": self.protocol, "mtu": self.mtu, "mode": self.mode.name(),
            "receiver-instructions-per-mb": self.receiver, "sender-instructions-per-mb": self.sender,
            "frames": self.frames, "delivered": self.delivered,
        })
    }
}

fn megabytes() -> u64 {
    let wanted = std::env::var("DSI_WIRE_MB").ok();
    wanted
        .and_then(|text| text.parse().ok())
        .unwrap_or(STREAM_MB)
}

fn of_zone(zone: &str) -> String {
    format!("/srv/zone{zone}/dsi-traffic")
}

/// The field of what an end of a stream has printed.
fn field(text: &str, name: &str) -> Result<u64, Failure> {
    let words = text.split_whitespace();
    let value = words
        .filter_map(|word| word.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
        .and_then(|value| value.parse().ok());
    value.ok_or_else(|| Failure::new(format!("no {name} in '{text}'")))
}

fn serve(colby: &Node, program: &str, protocol: &str, bytes: &str) -> Result<Process, Failure> {
    let argv = [
        program,
        &format!("{protocol}-sink"),
        "--bind",
        "0.0.0.0:7010",
        "--bytes",
        bytes,
    ];
    let sink = colby.spawn(&format!("sink-{protocol}"), &argv)?;
    sink.wait_line("serving")?;
    Ok(sink)
}

/// One stream from munster to colby.
fn stream(
    cluster: &Cluster,
    protocol: &'static str,
    mtu: usize,
    mode: Mode,
) -> Result<Figures, Failure> {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let program = if mode == Mode::Without {
        TRAFFIC.to_owned()
    } else {
        of_zone("10")
    };
    let bytes = (megabytes() * MB).to_string();
    // What fits with a label, too: a datagram that does not is cut in two, which is another matter.
    let size = if protocol == "udp" { mtu - 100 } else { 65536 }.to_string();
    let sink = serve(colby, &program, protocol, &bytes)?;
    let (mark, before) = (cluster.switch.mark(), delivered(colby)?);
    let argv = [
        &program,
        &format!("{protocol}-source"),
        "--to",
        "10.77.0.2:7010",
        "--bytes",
        &bytes,
        "--size",
        &size,
    ];
    let source = munster.command(&argv).timeout(PATIENCE * 4).run()?.ok()?;
    let line = sink.wait_line("busy-ns=")?;
    let delivered = delivered(colby)? - before;
    check_eq!(sink.join()?, Some(0), "exit code of the sink");
    check_eq!(
        cluster.switch.dropped(),
        0,
        "frames that the network has lost"
    );
    let frames = cluster.switch.frames_since(mark)?;
    let to_sink = |frame: &&crate::pcap::Frame| {
        let packet = frame.ipv4();
        packet.is_some_and(|packet| packet.ports().is_some_and(|(_, to)| to == 7010))
    };
    Ok(Figures {
        protocol,
        mtu,
        mode,
        receiver: field(&line, "busy-ns")? / megabytes(),
        sender: field(&source.stdout, "busy-ns")? / megabytes(),
        frames: frames.iter().filter(to_sink).count(),
        delivered,
    })
}

fn counters(cluster: &Cluster) -> Result<[Counters; 2], Failure> {
    Ok([
        Counters::of(cluster.node("munster")?)?,
        Counters::of(cluster.node("colby")?)?,
    ])
}

/// The streams of one mode, over each protocol and size of packets. With the module, they must have been labelled as it
/// says.
fn streams(cluster: &Cluster, mode: Mode, all: &mut Vec<Figures>) -> TestResult {
    for mtu in MTUS {
        for name in NAMES {
            let node = cluster.node(name)?;
            node.sh(&format!("ip link set eth0 mtu {mtu}"))?.ok()?;
        }
        for protocol in ["tcp", "udp"] {
            let before = match mode {
                Mode::Without => None,
                _ => Some(counters(cluster)?),
            };
            let figures = stream(cluster, protocol, mtu, mode)?;
            if let Some(before) = before {
                let after = counters(cluster)?;
                for (after, before) in after.iter().zip(&before) {
                    let refusals = after.refusals(before)?;
                    check!(refusals.is_empty(), "refused: {refusals:?}");
                }
                let labelled = after[1].rise(&before[1], "in-labelled")?;
                let frames = figures.frames as u64;
                let fits = if protocol == "udp" || mode == Mode::Each {
                    labelled >= frames
                } else {
                    labelled > 0 && labelled < frames / 2
                };
                check!(
                    fits,
                    "{protocol} {}: {labelled} of {frames} had labels",
                    mode.name()
                );
            }
            all.push(figures);
        }
    }
    Ok(())
}

fn measured(cluster: &mut Cluster) -> TestResult {
    let mut all = Vec::new();
    streams(cluster, Mode::Without, &mut all)?;
    for name in NAMES {
        let node = cluster.node(name)?;
        load(node, &[])?;
        for zone in ["10", "20"] {
            let copy = of_zone(zone);
            node.run(&["install", "-D", TRAFFIC, &copy])?.ok()?;
            node.run(&["setfattr", "-n", "security.dsi", "-v", zone, &copy])?
                .ok()?;
        }
    }
    enrol(cluster, &NAMES, 1)?;
    let regime = Regime::establish(cluster, &NAMES)?;
    let policy = document("enforcing", &[ZONES, WITHIN_10]);
    for (mode, policy) in [
        (Mode::Handshake, policy.clone()),
        (Mode::Each, every_packet(&policy)),
    ] {
        for name in NAMES {
            regime.enforce(cluster.node(name)?, &policy)?;
        }
        streams(cluster, mode, &mut all)?;
    }
    cluster.kept = Some(Box::new(regime));
    print!("{}", table(&all));
    write(cluster, &all)
}

/// A line for each stream, with the ratio to the same without DSI.
fn table(all: &[Figures]) -> String {
    let mut text = String::from(
        "     instructions for each MB, over a network card      receiver  ratio    sender  ratio   frames  came up as\n",
    );
    for figures in all {
        let base = all.iter().find(|base| {
            base.mode == Mode::Without
                && (base.protocol, base.mtu) == (figures.protocol, figures.mtu)
        });
        let ratio = |of: fn(&Figures) -> u64| {
            base.map_or(0.0, |base| of(figures) as f64 / of(base).max(1) as f64)
        };
        let _ = writeln!(
            text,
            "     {:<4} MTU {:<5} {:<36} {:>10}  {:.3} {:>10}  {:.3} {:>8} {:>8}",
            figures.protocol,
            figures.mtu,
            figures.mode.name(),
            figures.receiver,
            ratio(|figures| figures.receiver),
            figures.sender,
            ratio(|figures| figures.sender),
            figures.frames,
            figures.delivered,
        );
    }
    text
}

fn write(cluster: &Cluster, all: &[Figures]) -> TestResult {
    let dir = repository().join("target/bench");
    std::fs::create_dir_all(&dir).map_err(Fault::host("create", &dir))?;
    let file = dir.join("wire.json");
    let streams: Vec<Value> = all.iter().map(Figures::json).collect();
    let json = json!({"kernel": cluster.images.release, "mb": megabytes(), "streams": streams});
    std::fs::write(&file, format!("{json:#}\n")).map_err(Fault::host("write", &file))?;
    println!("     written: {}", file.display());
    Ok(())
}

/// The twin: what was measured is enforced.
fn refused(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let sink = serve(colby, &of_zone("10"), "tcp", "1000000")?;
    let mark = colby.kernel_mark();
    let argv = [
        &of_zone("20"),
        "tcp-client",
        "--to",
        "10.77.0.2:7010",
        "--timeout-ms",
        "1500",
    ];
    let output = munster.run(&argv)?;
    check!(output.code != Some(0), "it was answered");
    let head = "denied sscid=20 ssnid=1 tscid=10 tsnid=2 tcp";
    Denial::wait(colby, mark, head)?.says("reason", "no-permission")?;
    check!(sink.is_running()?, "it ended: {}", sink.output()?);
    Ok(())
}
