//! Proves that of floods of forged packets, `DSI_ATTACK_PACKETS` of them in all (100,000; `make check-attack`
//! takes a million), half of them IPv4 and half IPv6 to the same sockets, nothing is delivered but copies of what was rightly labelled, and that each packet
//! is counted once, under the reason or by the layer that must have dropped it. Afterwards the rightful
//! sender still gets through, by datagram and in the connection that was attacked. No servers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::attack::{
    ECHO_PORT, FLOW_PORT, Family, Flood, OPEN_PORT, Plan, Running, SECOND6, Sender, Tally, ZONE,
    ZONE_PORTS,
};
use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{YNL_DO, enrol, load};
use crate::fault::Failure;
use crate::node::{Node, Output, PATIENCE, Process};
use crate::pcap::Frame;
use crate::regime::{self, Counters, Regime, document, every_packet, network, until};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "attack",
    proves: "of floods of forged packets only copies of rightful ones are delivered, and every packet is accounted for",
    nodes: &[
        NodeSpec::new("munster"),
        NodeSpec::new("colby"),
        NodeSpec::new("stranger"),
    ],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: &[
        Test {
            name: "rightful-sender-before-ok",
            run: |cluster| twin(cluster, "before"),
        },
        Test {
            name: "flood-of-a-stranger-denied",
            run: |cluster| flood(cluster, "stranger", Sender::Stranger, Family::V4),
        },
        Test {
            name: "ipv6-flood-of-a-stranger-denied",
            run: |cluster| flood(cluster, "stranger", Sender::Stranger, Family::V6),
        },
        Test {
            name: "flood-of-a-members-root-denied",
            run: |cluster| flood(cluster, "colby", Sender::Member, Family::V4),
        },
        Test {
            name: "ipv6-flood-of-a-members-root-denied",
            run: |cluster| flood(cluster, "colby", Sender::Member, Family::V6),
        },
        Test {
            name: "flood-of-claims-leaves-room-in-the-log-ok",
            run: claims,
        },
        Test {
            name: "flood-of-claims-leaves-room-for-events-ok",
            run: claims_by_events,
        },
        Test {
            name: "rightful-sender-after-ok",
            run: |cluster| twin(cluster, "after"),
        },
        Test {
            name: "attacked-connections-ok",
            run: connections,
        },
    ],
};

const MEMBERS: [&str; 2] = ["munster", "colby"];
/// Where the rightful sender sends from.
const RIGHTFUL: u16 = 5600;
/// The receiver, as a sender of either family calls it.
const RECEIVERS: [&str; 2] = ["munster", "fd77::1"];
/// Names of the connections.
const FLOWS: [&str; 2] = ["ipv4-flow", "ipv6-flow"];
/// The file that ends a connection's pause, but for the connection's name.
const OVER: &str = "/tmp/over";

/// Opens a packet socket as standard input of a program.
const WITH_SOCKET: &str = "import os, socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); \
                           s.bind(('eth0', 0)); os.dup2(s.fileno(), 0); os.execvp(sys.argv[1], sys.argv[1:])";

struct Kept {
    zone: Process,
    open: Process,
    connections: [Process; 2],
    running: [Running; 2],
    mac: [u8; 6],
    text: String,
    _echo: Process,
}

fn policy() -> String {
    let rules = [
        "<socket_label><protocol>udp</protocol><port>7010-7019</port><new_ScID>10</new_ScID></socket_label>\
         <socket_label><protocol>tcp</protocol><port>7010-7019</port><new_ScID>10</new_ScID></socket_label>\
         <socket_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>\
         <grant>create bind connect listen accept send receive</grant></socket_permission>"
            .to_owned(),
        network("10", "", "10", "send receive connect"),
        network("2", "", "2", "send receive connect"),
        network("2", "", "outside", "send connect"),
        network("outside", "", "2", "send"),
    ];
    // Each segment is to be judged by its own label.
    every_packet(&document(
        "enforcing",
        &rules.each_ref().map(String::as_str),
    ))
}

fn in_zone(node: &Node, name: &str, args: &str) -> Result<Process, Failure> {
    let script = format!(
        "echo \"[\\\"task-set\\\", {{\\\"pid\\\": $$, \\\"scid\\\": {ZONE}}}]\" | {YNL_DO} >/dev/null && exec dsi-attack {args}"
    );
    node.spawn(name, &["bash", "-c", &script])
}

fn setup(cluster: &mut Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    munster
        .sh(&format!("ip addr add 10.77.0.101/24 dev eth0 && ip addr add {SECOND6}/64 dev eth0 nodad && sysctl -qw net.core.rmem_default=8388608 net.core.rmem_max=8388608"))?
        .ok()?;
    let mac = munster.mac()?;
    let text = mac.map(|byte| format!("{byte:02x}")).join(":");
    for name in MEMBERS {
        load(cluster.node(name)?, &[])?;
    }
    enrol(cluster, &MEMBERS, crate::attack::EPOCH)?;
    let regime = Regime::establish(cluster, &MEMBERS)?;
    for name in MEMBERS {
        regime.enforce(cluster.node(name)?, &policy())?;
    }
    let echo = format!("[::]:{ECHO_PORT}");
    let echo = munster.spawn("echo", &["dsi-traffic", "udp-server", "--bind", &echo])?;
    echo.wait_line("serving")?;
    let [one, two] = ZONE_PORTS;
    let zone = in_zone(munster, "zone", &format!("receive {one} {two}"))?;
    zone.wait_line("serving")?;
    let open = munster.spawn("open", &["dsi-attack", "receive", &OPEN_PORT.to_string()])?;
    open.wait_line("serving")?;
    let mut held = Vec::new();
    for (receiver, name) in RECEIVERS.iter().zip(FLOWS) {
        let mark = cluster.switch.mark();
        let connection = in_zone(
            cluster.node("colby")?,
            name,
            &format!("hold {receiver} {OVER}-{name} {name}"),
        )?;
        connection.wait_line("connected")?;
        zone.wait_line(&format!("report {name}-begins"))?;
        held.push((connection, running(cluster, mark)?));
    }
    let [(first, of_first), (second, of_second)]: [_; 2] = held
        .try_into()
        .map_err(|_| Failure::new("not two connections"))?;
    cluster.kept = Some(Box::new(Kept {
        zone,
        open,
        connections: [first, second],
        running: [of_first, of_second],
        mac,
        text,
        _echo: echo,
    }));
    Ok(())
}

/// Where the connection stands, as whoever sees its packets knows.
fn running(cluster: &Cluster, mark: u64) -> Result<Running, Failure> {
    let greeting = |frame: &Frame| {
        let (ports, payload) = match (frame.ipv4(), frame.ipv6()) {
            (Some(packet), _) => (packet.ports()?, packet.payload),
            (None, Some(packet)) => (packet.ports()?, packet.payload),
            (None, None) => return None,
        };
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| payload[at + i]));
        let header = usize::from(payload.get(12)? >> 4) * 4;
        let data = payload.get(header..)?;
        (ports.1 == FLOW_PORT && data.starts_with(b"report ")).then(|| Running {
            port: ports.0,
            next: word(4).wrapping_add(data.len() as u32),
            acknowledged: word(8),
        })
    };
    let frames = cluster.switch.frames_since(mark)?;
    let running = frames.iter().find_map(greeting);
    running.ok_or_else(|| Failure::new("the greeting was not captured"))
}

/// What a receiver tells when a rightful sender asks it to: copies, breaches.
fn report(
    cluster: &Cluster,
    to: &str,
    (receiver, port, zone): (&Process, u16, u32),
    what: &str,
) -> Result<(u64, u64), Failure> {
    let colby = cluster.node("colby")?;
    let args = format!("say {RIGHTFUL} {to} {port} 'report {what}'");
    if zone == ZONE {
        check_eq!(in_zone(colby, "say", &args)?.join()?, Some(0), "{args}");
    } else {
        colby.sh(&format!("dsi-attack {args}"))?.ok()?;
    }
    let line = receiver.wait_line(&format!("report {what} port {port}"))?;
    let number = |name: &str| {
        let mut words = line.split_whitespace();
        words.find(|word| *word == name)?;
        words.next()?.parse::<u64>().ok()
    };
    match (number("copies"), number("breaches")) {
        (Some(copies), Some(breaches)) => Ok((copies, breaches)),
        _ => Err(Failure::new(format!("not a report: '{line}'"))),
    }
}

/// All that has been delivered so far, as told to a rightful sender of one family; nothing of it a breach.
fn delivered(cluster: &Cluster, family: Family, what: &str) -> Result<u64, Failure> {
    let kept: &Kept = regime::kept(cluster)?;
    let to = RECEIVERS[family as usize];
    let mut all = 0;
    for at in [
        (&kept.zone, ZONE_PORTS[0], ZONE),
        (&kept.zone, ZONE_PORTS[1], ZONE),
        (&kept.open, OPEN_PORT, 2),
    ] {
        let (receiver, port, _) = at;
        let what = format!("{what}-{family:?}-{port}");
        let (copies, breaches) = report(cluster, to, at, &what)?;
        check_eq!(
            breaches,
            0,
            "what came through at port {port}:\n{}",
            receiver.output()?
        );
        all += copies;
    }
    Ok(all)
}

fn twin(cluster: &mut Cluster, what: &str) -> TestResult {
    let munster = cluster.node("munster")?;
    let before = Counters::of(munster)?;
    for family in [Family::V4, Family::V6] {
        delivered(cluster, family, what)?;
    }
    let refusals = Counters::of(munster)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// The counters of the kernel's network, as `Ip:InReceives` and `Ip6InReceives`.
fn kernel_counters(node: &Node) -> Result<BTreeMap<String, u64>, Failure> {
    let output = node
        .sh("cat /proc/net/snmp /proc/net/netstat; echo; cat /proc/net/stat/rt_cache; echo; cat /proc/net/snmp6")?
        .ok()?;
    let mut counters = BTreeMap::new();
    let mut parts = output.stdout.split("\n\n");
    let (tables, routes, ipv6) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let lines: Vec<&str> = tables.lines().collect();
    for pair in lines.chunks(2) {
        let [names, values] = pair else { continue };
        let mut names = names.split_whitespace();
        let table = names.next().unwrap_or_default();
        for (name, value) in names.zip(values.split_whitespace().skip(1)) {
            // A few are signed.
            counters.insert(format!("{table}{name}"), value.parse().unwrap_or(0));
        }
    }
    for line in ipv6.lines() {
        if let Some((name, value)) = line.split_once(char::is_whitespace) {
            counters.insert(name.to_owned(), value.trim().parse().unwrap_or(0));
        }
    }
    // One line a processor, in hexadecimal.
    let mut lines = routes.lines().map(str::split_whitespace);
    let at = lines
        .next()
        .and_then(|mut names| names.position(|name| name == "in_martian_src"))
        .ok_or_else(|| Failure::new("the kernel does not count martian sources"))?;
    let martian = lines
        .filter_map(|mut values| u64::from_str_radix(values.nth(at)?, 16).ok())
        .sum();
    counters.insert("martian".into(), martian);
    Ok(counters)
}

/// Frames of a test: there are four.
fn frames() -> u64 {
    let wanted = std::env::var("DSI_ATTACK_PACKETS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(100_000) / 4
}

/// Has a node send what a plan makes.
fn send(
    cluster: &Cluster,
    node: &str,
    plan: Plan,
    mac: &str,
    names: [&str; 2],
) -> Result<Output, Failure> {
    let running = plan.running;
    let words = [
        plan.seed,
        plan.frames,
        u64::from(running.port),
        u64::from(running.next),
        u64::from(running.acknowledged),
    ];
    let [seed, frames, port, next, acknowledged] = words.map(|word| word.to_string());
    let mut argv = vec!["python3", "-c", WITH_SOCKET, "dsi-attack", "send"];
    argv.extend(names);
    argv.extend([&seed, &frames, mac, &port, &next, &acknowledged]);
    cluster
        .node(node)?
        .command(&argv)
        .timeout(PATIENCE + Duration::from_millis(plan.frames * 2))
        .run()?
        .ok()
}

/// What of all refusals the kernel's log tells of one node in five seconds, at most: its part of the limit, which may
/// be used up at the end of one such time and again at the beginning of the next.
const TOLD: usize = 2 * 20;

/// A member's root claims more zones than the log has room for. It tells of his node no more than of any node, how much
/// it has left out, and of somebody else's refusal meanwhile.
fn claims(cluster: &mut Cluster) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    let munster = cluster.node("munster")?;
    let plan = Plan {
        seed: 2026,
        frames: 5000,
        sender: Sender::Claimant,
        family: Family::V4,
        mac: kept.mac,
        running: kept.running[0],
    };
    let (before, mark) = (Counters::of(munster)?, munster.kernel_mark());
    send(cluster, "colby", plan, &kept.text, ["claimant", "ipv4"])?;
    munster.sh(&format!(
        "dsi-attack say {RIGHTFUL} munster {} forged",
        ZONE_PORTS[0]
    ))?;
    munster.wait_kernel_line(mark, "dsm: denied sscid=2 ssnid=1 tscid=10")?;
    // What comes from colby now comes behind the flood.
    report(cluster, "munster", (&kept.open, OPEN_PORT, 2), "claims")?;
    let after = Counters::of(munster)?;
    let refused: u64 = after.refusals(&before)?.values().sum();
    let held = after.rise(&before, "log-held")?;
    let mut denials = Vec::new();
    until("lines of all that were not held back", || {
        denials = munster.kernel_lines_since(mark);
        denials.retain(|line| line.contains("dsm: denied"));
        Ok(denials.len() as u64 + held >= refused)
    })?;
    check_eq!(
        denials.len() as u64 + held,
        refused,
        "lines and those held back"
    );
    let seconds = |line: &str| -> Option<f64> {
        let stamp = line.split_once('[')?.1.split_once(']')?.0;
        stamp.trim().parse().ok()
    };
    let mut times = Vec::new();
    for line in denials.iter().filter(|line| line.contains(" ssnid=2 ")) {
        times.push(
            seconds(line)
                .ok_or_else(|| Failure::new(format!("no time of the kernel's: {line}")))?,
        );
    }
    check!(
        held > 10 * times.len() as u64 && !times.is_empty(),
        "{} lines, {held} held back: nothing was to be shared",
        times.len()
    );
    for (index, begin) in times.iter().enumerate() {
        let within = times[index..]
            .iter()
            .take_while(|time| **time < begin + 5.0)
            .count();
        check!(
            within <= TOLD,
            "{within} lines of one node's within five seconds of {begin}"
        );
    }
    println!(
        "     {refused} refused, {} told, of which of the claimant {}",
        denials.len(),
        times.len()
    );
    Ok(())
}

/// As [`TOLD`], of the events of one second.
const EVENTS: usize = 2 * 200;

/// Prints each event's sender's node and time, read by the kernel's own client.
const LISTENER: &str = "
import socket, sys
sys.path.insert(0, '/opt/ynl')
from pyynl.lib import YnlFamily
family = YnlFamily('/opt/ynl/specs/dsi.yaml', schema='')
SO_RCVBUFFORCE = 33
family.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
family.ntf_subscribe('audit')
print('listening', flush=True)
for event in family.poll_ntf():
    said = event['msg']
    if 'ssnid' in said:
        print('event', said['ssnid'], said['time-ns'], flush=True)
";

/// The same flood, as those see it who listen to events.
fn claims_by_events(cluster: &mut Cluster) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    let munster = cluster.node("munster")?;
    let plan = Plan {
        seed: 2027,
        frames: 5000,
        sender: Sender::Claimant,
        family: Family::V4,
        mac: kept.mac,
        running: kept.running[0],
    };
    let listener = munster.spawn("events", &["python3", "-c", LISTENER])?;
    listener.wait_line("listening")?;
    let before = Counters::of(munster)?;
    send(cluster, "colby", plan, &kept.text, ["claimant", "ipv4"])?;
    munster.sh(&format!(
        "dsi-attack say {RIGHTFUL} munster {} forged",
        ZONE_PORTS[0]
    ))?;
    listener.wait_line("event 1 ")?;
    // What comes from colby now comes behind the flood.
    report(cluster, "munster", (&kept.open, OPEN_PORT, 2), "events")?;
    let after = Counters::of(munster)?;
    let refused: u64 = after.refusals(&before)?.values().sum();
    let held = after.rise(&before, "events-held")?;
    let mut output = String::new();
    until("all events that were not held back", || {
        output = listener.output()?;
        let events = output.lines().filter(|line| line.starts_with("event "));
        Ok(events.count() as u64 + held >= refused)
    })?;
    listener.stop()?;
    let events: Vec<&str> = output
        .lines()
        .filter(|line| line.starts_with("event "))
        .collect();
    check_eq!(
        events.len() as u64 + held,
        refused,
        "events and those held back"
    );
    let times: Vec<u64> = events
        .iter()
        .filter_map(|line| line.strip_prefix("event 2 ")?.parse().ok())
        .collect();
    check!(
        held > times.len() as u64 && !times.is_empty(),
        "{} events, {held} held back: nothing was to be shared",
        times.len()
    );
    for (index, begin) in times.iter().enumerate() {
        let within = times[index..]
            .iter()
            .take_while(|time| **time < begin + 1_000_000_000)
            .count();
        check!(
            within <= EVENTS,
            "{within} events of one node's within a second of {begin}"
        );
    }
    println!(
        "     {refused} refused, {} told, of which of the claimant {}",
        events.len(),
        times.len()
    );
    Ok(())
}

fn flood(cluster: &mut Cluster, node: &str, sender: Sender, family: Family) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    let munster = cluster.node("munster")?;
    let (name, seed) = match sender {
        Sender::Stranger => ("stranger", 2002),
        Sender::Member | Sender::Claimant => ("member", 2004),
    };
    let over = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    let plan = Plan {
        seed,
        frames: frames(),
        sender,
        family,
        mac: kept.mac,
        running: kept.running[family as usize],
    };
    let wanted = Flood::tally(plan);
    let copies = delivered(cluster, family, &format!("{name}-begin"))?;
    let (before, kernel_before) = (Counters::of(munster)?, kernel_counters(munster)?);
    let dropped = cluster.switch.dropped();
    let begin = std::time::Instant::now();
    send(cluster, node, plan, &kept.text, [name, over])?
        .says(&format!("sent {0} of {0}", wanted.frames))?;
    println!(
        "     {name} {over}: {} packets in {:.0} s",
        wanted.frames,
        begin.elapsed().as_secs_f64()
    );
    let (after, kernel_after) = (Counters::of(munster)?, kernel_counters(munster)?);
    check_eq!(
        cluster.switch.dropped(),
        dropped,
        "frames that the network lost"
    );
    let all = delivered(cluster, family, &format!("{name}-end"))?;
    account(
        family,
        &wanted,
        &after.refusals(&before)?,
        &kernel_before,
        &kernel_after,
        all - copies,
    )?;
    for (kind, number) in &wanted.kinds {
        println!("     {name} {over}: {kind}: {number}");
    }
    Ok(())
}

/// Holds every counter that the flood must have raised against what it has risen by.
fn account(
    family: Family,
    wanted: &Tally,
    refusals: &BTreeMap<String, u64>,
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    copies: u64,
) -> TestResult {
    let rise = |name: &str| {
        let value =
            |counters: &BTreeMap<String, u64>| counters.get(name).copied().unwrap_or_default();
        value(after).saturating_sub(value(before))
    };
    let (mut seen, mut due) = (BTreeMap::new(), BTreeMap::new());
    for (name, count) in &wanted.counts {
        due.insert((*name).to_owned(), *count);
        let counted = match *name {
            "delivered" => copies,
            name if name.starts_with("refused-") => refusals.get(name).copied().unwrap_or_default(),
            name => rise(name),
        };
        seen.insert((*name).to_owned(), counted);
    }
    for (name, count) in refusals {
        seen.insert(name.clone(), *count);
    }
    // A busy host's emulated wire may lose a packet or two, which then are in two or three counters less. Nothing may
    // be counted that was not due: a forgery that came through would be.
    let none = 0;
    let names: BTreeSet<&String> = seen.keys().chain(due.keys()).collect();
    let mut missing = 0;
    for name in names {
        let (found, most) = (
            *seen.get(name).unwrap_or(&none),
            *due.get(name).unwrap_or(&none),
        );
        check!(
            found <= most,
            "munster counted {found} of {name}, and {most} were sent: {seen:?}, expected {due:?}"
        );
        missing += most - found;
    }
    let lost = wanted.frames / 1000;
    check!(
        missing <= 3 * lost,
        "munster counted {missing} too few of {} packets: {seen:?}, expected {due:?}",
        wanted.frames
    );
    // What would hide a packet from this reckoning.
    let (received, hiding) = match family {
        Family::V4 => (
            "Ip:InReceives",
            ["Udp:RcvbufErrors", "Ip:InDiscards", "IpExt:InNoRoutes"],
        ),
        Family::V6 => (
            "Ip6InReceives",
            ["Udp6RcvbufErrors", "Ip6InNoRoutes", "Ip6InTooBigErrors"],
        ),
    };
    for name in hiding {
        check_eq!(rise(name), 0, "{name}");
    }
    check!(
        rise(received) >= wanted.frames - lost,
        "{} packets came in, {} were sent",
        rise(received),
        wanted.frames
    );
    let refused: u64 = refusals.values().sum();
    println!(
        "     {} packets ({missing} counts lost on the wire): {refused} refused by the module, {copies} copies delivered, the rest dropped by the kernel: {seen:?}",
        wanted.frames
    );
    Ok(())
}

fn connections(cluster: &mut Cluster) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    let colby = cluster.node("colby")?;
    // One after the other: lines are waited for in the order in which they come.
    for (connection, name) in kept.connections.iter().zip(FLOWS) {
        colby.write(&format!("{OVER}-{name}"), "")?;
        connection.wait_line("said")?;
        let line = kept.zone.wait_line(&format!("report {name}-ends"))?;
        check!(line.ends_with("breaches 0"), "{line}");
    }
    Ok(())
}
