//! Proves that TCP by handshake lets nobody in who would not be let in by a label on each packet: the labels of a
//! handshake cover where its sequence numbers start, data goes without them at full size only once both ends are bound,
//! and neither SYN cookies, Fast Open, a lost segment nor a change of the policy leaves a gap or loses an allowed flow.
//! No servers. Labels are read and made here, by nothing of the module's.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::attack::fate::{checksum, transport_checksum};
use crate::cluster::{Cluster, NodeSpec, address};
use crate::enrol::{enrol, load, pair_key, siphash, ynl};
use crate::fault::Failure;
use crate::label::{LEN, Label, OPTION};
use crate::node::{Node, Output, Process};
use crate::pcap::{Frame, Ipv4};
use crate::regime::{
    self, Counters, Regime, WITHIN_10, ZONES, document, every_packet, network, until,
};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "handshake",
    proves: "a TCP connection's label is in its handshake, and holds for all of it and for nothing else",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "handshake-carries-authentic-labels-ok" => labels,
    "data-goes-bare-at-full-size-ok" => |c| bulk(c, V4),
    "data-goes-bare-at-full-size-over-ipv6-ok" => |c| bulk(c, V6),
    "every-packet-policy-labels-data-ok" => each,
    "data-is-merged-on-its-way-up-ok" => merged,
    "opening-with-another-start-denied" => copied,
    "opening-by-hand-ok" => by_hand,
    "reset-of-a-listener-in-no-zones-name-ok" => reset,
    "end-of-handshake-with-another-start-denied" => |c| finished(c, 1),
    "end-of-handshake-by-hand-ok" => |c| finished(c, 0),
    "segment-of-another-zone-in-a-bare-flow-denied" => other_zone,
    "without-handshake-denied" => without,
    "syn-cookies-10-to-20-denied" => |c| cookies(c, V4, false),
    "syn-cookies-20-to-20-ok" => |c| cookies(c, V4, true),
    "syn-cookies-over-ipv6-10-to-20-denied" => |c| cookies(c, V6, false),
    "syn-cookies-over-ipv6-20-to-20-ok" => |c| cookies(c, V6, true),
    "fast-open-10-to-20-denied" => |c| fast_open(c, V4, false),
    "fast-open-20-to-20-ok" => |c| fast_open(c, V4, true),
    "fast-open-over-ipv6-10-to-20-denied" => |c| fast_open(c, V6, false),
    "fast-open-over-ipv6-20-to-20-ok" => |c| fast_open(c, V6, true),
    "lost-end-of-handshake-10-to-10-ok" => lost,
    "policy-changes-under-traffic-ok" => |c| changes(c, V4),
    "policy-changes-under-traffic-over-ipv6-ok" => |c| changes(c, V6),
};

const NAMES: [&str; 2] = ["munster", "colby"];
const MUNSTER: u32 = 1;
const COLBY: u32 = 2;
const EPOCH: u8 = 1;
const TRAFFIC: &str = "/opt/dsi/bin/dsi-traffic";
const PROBE: &str = "/opt/dsi/bin/dsi-sock-probe";
const TCP: u8 = 6;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
/// How the servers on colby are reached.
const V4: &str = "10.77.0.2";
const V6: &str = "[fd77::2]";
const ALLOWED_MS: &str = "170000";
const DENIED_MS: &str = "1500";
const STOP: &str = "/tmp/stop";

struct Kept {
    regime: Regime,
    mac: [u8; 6],
    /// What came up without the module: segments, and how many of them were on the wire.
    without: (usize, usize),
    _servers: Vec<Process>,
}

fn by_handshake() -> String {
    document("enforcing", &[ZONES, WITHIN_10])
}

fn setup(cluster: &mut Cluster) -> TestResult {
    let without = handled_without(cluster)?;
    for name in NAMES {
        let node = cluster.node(name)?;
        load(node, &[])?;
        for zone in ["10", "20"] {
            for program in [TRAFFIC, PROBE] {
                let copy = of_zone(program, zone);
                node.run(&["install", "-D", program, &copy])?.ok()?;
                node.run(&["setfattr", "-n", "security.dsi", "-v", zone, &copy])?
                    .ok()?;
            }
        }
        // Without a cookie: the first SYN brings data.
        node.sh("sysctl -qw net.ipv4.tcp_fastopen=1543")?.ok()?;
    }
    enrol(cluster, &NAMES, EPOCH)?;
    for name in NAMES {
        let requests: Vec<_> = [MUNSTER, COLBY]
            .into_iter()
            .map(|snid| {
                let both = [format!("10.77.0.{snid}"), format!("fd77::{snid}")];
                json!(["node-set", {"snid": snid, "address": both}])
            })
            .collect();
        ynl(cluster.node(name)?, &requests)?.ok()?;
    }
    let regime = Regime::establish(cluster, &NAMES)?;
    for name in NAMES {
        regime.enforce(cluster.node(name)?, &by_handshake())?;
    }
    let colby = cluster.node("colby")?;
    let mut servers = Vec::new();
    for (zone, port) in [("10", 7010), ("20", 7020)] {
        let bind = format!("[::]:{port}");
        let server = colby.spawn(
            &format!("server-{port}"),
            &[&of_zone(TRAFFIC, zone), "tcp-server", "--bind", &bind],
        )?;
        server.wait_line("serving")?;
        servers.push(server);
    }
    cluster.kept = Some(Box::new(Kept {
        regime,
        mac: colby.mac()?,
        without,
        _servers: servers,
    }));
    Ok(())
}

fn enforce(cluster: &Cluster, policy: &str) -> TestResult {
    NAMES
        .iter()
        .try_for_each(|name| enforce_on(cluster, name, policy))
}

fn enforce_on(cluster: &Cluster, name: &str, policy: &str) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    kept.regime.enforce(cluster.node(name)?, policy)
}

fn of_zone(program: &str, zone: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    format!("/srv/zone{zone}/{name}")
}

/// A client of a zone on munster.
fn client(
    cluster: &Cluster,
    zone: &str,
    to: &str,
    timeout_ms: &str,
    more: &[&str],
) -> Result<Output, Failure> {
    client_of(cluster, &of_zone(TRAFFIC, zone), to, timeout_ms, more)
}

fn client_of(
    cluster: &Cluster,
    program: &str,
    to: &str,
    timeout_ms: &str,
    more: &[&str],
) -> Result<Output, Failure> {
    let mut argv = vec![
        program,
        "tcp-client",
        "--to",
        to,
        "--timeout-ms",
        timeout_ms,
    ];
    argv.extend(more);
    Ok(cluster.node("munster")?.run(&argv)?)
}

/// The counters of both nodes.
fn counters(cluster: &Cluster) -> Result<[Counters; 2], Failure> {
    Ok([
        Counters::of(cluster.node("munster")?)?,
        Counters::of(cluster.node("colby")?)?,
    ])
}

/// Nothing has been refused on any node.
fn unrefused(cluster: &Cluster, before: &[Counters; 2]) -> TestResult {
    for (after, before) in counters(cluster)?.iter().zip(before) {
        let refusals = after.refusals(before)?;
        check!(refusals.is_empty(), "refused: {refusals:?}");
    }
    Ok(())
}

/// The segments of a port since a mark.
fn segments(cluster: &Cluster, mark: u64, port: u16) -> Result<Vec<Ipv4>, Failure> {
    let of_port = |packet: &Ipv4| {
        packet.protocol == TCP && packet.ports().is_some_and(|(a, b)| a == port || b == port)
    };
    let frames = cluster.switch.frames_since(mark)?;
    Ok(frames
        .iter()
        .filter_map(Frame::ipv4)
        .filter(of_port)
        .collect())
}

fn word(packet: &Ipv4, at: usize) -> u32 {
    let bytes = packet.payload.get(at..at + 4);
    bytes.map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn sequence(packet: &Ipv4) -> u32 {
    word(packet, 4)
}

fn flags(packet: &Ipv4) -> u8 {
    packet.payload.get(13).copied().unwrap_or_default()
}

/// Checks that a packet carries the label of zone 10 over these starts.
fn authentic(packet: &Ipv4, from: u32, to: u32, starts: (u32, Option<u32>)) -> TestResult {
    let Some(label) = Label::of(packet) else {
        return Err(Failure::new(format!("it carries no label: {packet:?}")));
    };
    check_eq!((label.version, label.flags), (1, 1), "version and flags");
    check_eq!((label.snid, label.scid), (from, 10), "SnID and ScID");
    let key = pair_key(from, to, EPOCH);
    check_eq!(
        label.mac,
        label.expected_stream_mac(packet, starts, &key),
        "code of {label:?}"
    );
    Ok(())
}

fn labels(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let before = counters(cluster)?;
    let mark = cluster.switch.mark();
    client(
        cluster,
        "10",
        "10.77.0.2:7010",
        ALLOWED_MS,
        &["--count", "5"],
    )?
    .ok()?;
    let packets = segments(cluster, mark, 7010)?;
    // A slow node's openings and answers may be sent again before they are answered.
    let first = |wanted: u8| {
        let found = packets
            .iter()
            .position(|p| flags(p) & (SYN | ACK) == wanted);
        found.ok_or_else(|| Failure::new(format!("no handshake in {} segments", packets.len())))
    };
    let (syn, answer, end) = (first(SYN)?, first(SYN | ACK)?, first(ACK)?);
    check!(syn < answer && answer < end, "{syn}, {answer}, {end}");
    let (ours, theirs) = (sequence(&packets[syn]), sequence(&packets[answer]));
    authentic(&packets[end], MUNSTER, COLBY, (ours, Some(theirs)))?;
    let mut bare = 0;
    for packet in &packets {
        let to_colby = packet.ports().is_some_and(|(_, to)| to == 7010);
        let opening = flags(packet) & SYN != 0;
        if !opening && packet.options.is_empty() {
            bare += 1;
        } else if opening || Label::of(packet).is_some_and(|label| label.scid == 10) {
            if to_colby {
                let theirs = (!opening).then_some(theirs);
                authentic(packet, MUNSTER, COLBY, (ours, theirs))?;
            } else {
                authentic(packet, COLBY, MUNSTER, (theirs, Some(ours)))?;
            }
        }
    }
    check!(bare >= 8, "{bare} segments went bare: {packets:?}");
    for (after, before) in counters(cluster)?.iter().zip(&before) {
        check!(after.rise(before, "flow-bound")? >= 1, "no flow was bound");
        check!(after.rise(before, "out-bare")? > 0, "nothing left bare");
        check!(after.rise(before, "in-bare")? > 0, "nothing came in bare");
    }
    unrefused(cluster, &before)
}

fn bulk(cluster: &mut Cluster, to: &str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let before = counters(cluster)?;
    let mark = cluster.switch.mark();
    let size = ["--size", "300000", "--count", "2"];
    client(cluster, "10", &format!("{to}:7010"), ALLOWED_MS, &size)?.ok()?;
    let frames = cluster.switch.frames_since(mark)?;
    // Length of each TCP packet, and whether it has a label or room for one.
    let mut packets: Vec<(usize, bool)> = Vec::new();
    for frame in &frames {
        if let Some(packet) = frame.ipv4().filter(|packet| packet.protocol == TCP) {
            let len = 20 + packet.options.len() + packet.payload.len();
            packets.push((len, !packet.options.is_empty()));
        } else if let Some(packet) = frame.ipv6().filter(|packet| packet.protocol == TCP) {
            packets.push((packet.len, !packet.extensions.is_empty()));
        }
    }
    let full = packets.iter().filter(|(len, _)| *len == 1500).count();
    let bare = packets.iter().filter(|packet| **packet == (1500, false));
    check!(
        bare.count() > full / 2 && full > 300,
        "of {full} full packets too few went bare"
    );
    let labelled = packets.iter().filter(|(_, labelled)| *labelled).count();
    check!(
        labelled < packets.len() / 4,
        "{labelled} of {} packets carry labels",
        packets.len()
    );
    check!(
        packets.iter().all(|(len, _)| *len <= 1500),
        "a packet is too large"
    );
    unrefused(cluster, &before)
}

fn each(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &every_packet(&by_handshake()))?;
    let before = counters(cluster)?;
    let mark = cluster.switch.mark();
    let size = ["--size", "30000"];
    client(cluster, "10", "10.77.0.2:7010", ALLOWED_MS, &size)?.ok()?;
    let packets = segments(cluster, mark, 7010)?;
    // Of this connection: an earlier one may still be ending.
    let opening = packets.iter().find(|p| flags(p) & (SYN | ACK) == SYN);
    let ours = opening.and_then(Ipv4::ports).map(|(from, _)| from);
    let ours = ours.ok_or_else(|| Failure::new("no connection was opened"))?;
    let packets = segments(cluster, mark, ours)?;
    check!(packets.len() > 30, "{} segments", packets.len());
    for packet in &packets {
        let label = Label::of(packet);
        check_eq!(label.map(|label| label.flags), Some(0), "{packet:?}");
    }
    unrefused(cluster, &before)
}

/// Segments that came up colby's stack during a transfer, and how many were on the wire.
fn handled(cluster: &Cluster, program: &str) -> Result<(usize, usize), Failure> {
    let colby = cluster.node("colby")?;
    let delivered = || -> Result<usize, Failure> {
        let output = colby
            .sh("awk '$1 == \"Ip:\" && $10 ~ /^[0-9]/ {print $10}' /proc/net/snmp")?
            .ok()?;
        let number = output.stdout.trim().parse();
        number.map_err(|_| Failure::new(output.describe()))
    };
    let mark = cluster.switch.mark();
    let before = delivered()?;
    let size = ["--size", "300000", "--count", "3"];
    client_of(cluster, program, "10.77.0.2:7010", ALLOWED_MS, &size)?.ok()?;
    // Once the connection has ended at colby, all that munster has sent over it has come.
    until("the connection's end", || {
        let open = "sport = :7010";
        let output = colby.run(&[
            "ss",
            "-Htn",
            "exclude",
            "listening",
            "exclude",
            "time-wait",
            open,
        ])?;
        Ok(output.ok()?.stdout.trim().is_empty())
    })?;
    let sent = segments(cluster, mark, 7010)?
        .iter()
        .filter(|packet| packet.ports().is_some_and(|(_, to)| to == 7010))
        .count();
    Ok((delivered()? - before, sent))
}

/// The same before the module is loaded.
fn handled_without(cluster: &Cluster) -> Result<(usize, usize), Failure> {
    let serve = [TRAFFIC, "tcp-server", "--bind", "[::]:7010"];
    let server = cluster.node("colby")?.spawn("server-without", &serve)?;
    server.wait_line("serving")?;
    handled(cluster, TRAFFIC)
}

fn merged(cluster: &mut Cluster) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    let (bare, sent_bare) = kept.without;
    check!(
        bare < sent_bare,
        "without DSI {bare} of {sent_bare} segments came up: none was merged"
    );
    let program = of_zone(TRAFFIC, "10");
    enforce(cluster, &every_packet(&by_handshake()))?;
    let (each, sent_each) = handled(cluster, &program)?;
    check!(
        each >= sent_each,
        "{each} of {sent_each} labelled segments came up"
    );
    enforce(cluster, &by_handshake())?;
    let (came, sent) = handled(cluster, &program)?;
    check!(
        came < sent,
        "of {sent} segments on the wire {came} came up: none was merged"
    );
    println!(
        "  {sent} segments came up as {came}; without DSI {sent_bare} as {bare}; labelled each {sent_each} as {each}"
    );
    Ok(())
}

/// A segment from munster's zone 10 to colby's, made by hand.
struct Segment {
    from: u16,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    /// What its label covers.
    starts: (u32, Option<u32>),
    data: &'static str,
}

impl Segment {
    fn opening(from: u16, sequence: u32) -> Self {
        Self {
            from,
            sequence,
            acknowledged: 0,
            flags: SYN,
            starts: (sequence, None),
            data: "",
        }
    }

    fn label(&self) -> Vec<u8> {
        self.label_of(10, true)
    }

    /// The label of a zone's process on munster, over where the numbers start or not.
    fn label_of(&self, zone: u32, stream: bool) -> Vec<u8> {
        let address = |snid: u32| -> u64 {
            let address: Ipv4Addr = address(snid as u8);
            u32::from(address).into()
        };
        let (sender, receiver) = self.starts;
        let version = 0x10 | u8::from(stream);
        let mut words = vec![
            u64::from(version) << 56
                | u64::from(EPOCH) << 48
                | u64::from(stream && receiver.is_none()) << 40
                | u64::from(TCP) << 32
                | u64::from(MUNSTER),
            u64::from(zone) << 32 | address(MUNSTER),
            address(COLBY) << 32 | u64::from(self.from) << 16 | 7010,
        ];
        if stream {
            words.push(u64::from(sender) << 32 | u64::from(receiver.unwrap_or(0)));
        }
        let code = siphash(&pair_key(MUNSTER, COLBY, EPOCH), &words);
        let mut label = vec![OPTION, LEN as u8, version, EPOCH];
        label.extend(MUNSTER.to_be_bytes());
        label.extend(zone.to_be_bytes());
        label.extend(code.to_be_bytes());
        label
    }

    /// The frame, with these options.
    fn frame(&self, mac: [u8; 6], options: &[u8]) -> Vec<u8> {
        let ends = [address(MUNSTER as u8), address(COLBY as u8)];
        let mut payload = Vec::new();
        payload.extend(self.from.to_be_bytes());
        payload.extend(7010_u16.to_be_bytes());
        payload.extend(self.sequence.to_be_bytes());
        payload.extend(self.acknowledged.to_be_bytes());
        payload.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        payload.extend(self.data.bytes());
        let sum = transport_checksum((ends[0].into(), ends[1].into()), TCP, &payload);
        payload[16..18].copy_from_slice(&sum.to_be_bytes());
        let len = 20 + options.len();
        let mut packet = vec![0x40 | (len / 4) as u8, 0];
        packet.extend(((len + payload.len()) as u16).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, TCP, 0, 0]);
        packet.extend(ends.map(|end| end.octets()).concat());
        packet.extend(options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        let mut frame = mac.to_vec();
        frame.extend([2, 0, 0, 0, 0, 0x66, 8, 0]);
        frame.extend(packet);
        frame
    }

    fn send(&self, cluster: &Cluster) -> TestResult {
        self.send_with(cluster, &self.label())
    }

    fn send_with(&self, cluster: &Cluster, options: &[u8]) -> TestResult {
        let kept: &Kept = regime::kept(cluster)?;
        cluster.switch.inject(&self.frame(kept.mac, options));
        Ok(())
    }
}

/// Colby's answer to an opening since a mark.
fn answer(cluster: &Cluster, mark: u64, port: u16) -> Result<Option<Ipv4>, Failure> {
    Ok(segments(cluster, mark, port)?
        .into_iter()
        .find(|packet| flags(packet) & (SYN | ACK) == SYN | ACK))
}

/// Waits until colby has refused so many for a reason, and checks that it has for no other.
fn refused(cluster: &Cluster, before: &Counters, reason: &str, times: u64) -> TestResult {
    let colby = cluster.node("colby")?;
    let name = format!("refused-{reason}");
    until("the refusals", || {
        Ok(Counters::of(colby)?.rise(before, &name)? >= times)
    })?;
    let refusals = Counters::of(colby)?.refusals(before)?;
    check_eq!(refusals.keys().collect::<Vec<_>>(), [&name], "reasons");
    Ok(())
}

/// What munster's kernel knows nothing of is not answered by it: nothing of colby's reaches it.
fn without_munster<R>(
    cluster: &Cluster,
    run: impl FnOnce() -> Result<R, Failure>,
) -> Result<R, Failure> {
    cluster.switch.lose(|frame| {
        frame.ipv4().is_some_and(|packet| {
            packet.protocol == TCP && packet.source == Ipv4Addr::new(10, 77, 0, 2)
        })
    });
    let result = run();
    cluster.switch.lose_none();
    result
}

fn copied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let colby = cluster.node("colby")?;
    let mark = cluster.switch.mark();
    let before = Counters::of(colby)?;
    // What somebody who has seen a SYN can make of its label: other numbers, other ports, no longer a SYN.
    let seen = Segment::opening(6001, 1000);
    let copies = [
        Segment {
            sequence: 2000,
            ..Segment::opening(6001, 1000)
        },
        Segment::opening(6002, 1000),
        Segment {
            flags: SYN | PSH,
            sequence: 1001,
            data: "data",
            ..Segment::opening(6001, 1000)
        },
        Segment {
            flags: ACK,
            sequence: 1001,
            acknowledged: 1,
            ..Segment::opening(6001, 1000)
        },
    ];
    without_munster(cluster, || {
        for copy in &copies {
            copy.send_with(cluster, &seen.label())?;
        }
        // The last one belongs to no handshake at all: it is answered by a reset.
        refused(cluster, &before, "bad-mac", 3)
    })?;
    for port in [6001, 6002] {
        check!(
            answer(cluster, mark, port)?.is_none(),
            "port {port} was answered"
        );
    }
    Ok(())
}

fn by_hand(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let before = Counters::of(cluster.node("colby")?)?;
    let mark = cluster.switch.mark();
    without_munster(cluster, || {
        Segment::opening(6003, 1000).send(cluster)?;
        // Sent again, it is the same.
        Segment::opening(6003, 1000).send(cluster)?;
        until("an answer", || Ok(answer(cluster, mark, 6003)?.is_some()))
    })?;
    let refusals = Counters::of(cluster.node("colby")?)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// The answer to a segment that belongs to no connection is the kernel's, though it comes by way of a listener: a label of
/// the listener's zone on it would cover no starts, and so be good for a SYN with any.
fn reset(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let stray = Segment {
        flags: ACK,
        acknowledged: 1,
        ..Segment::opening(6004, 1001)
    };
    let mark = cluster.switch.mark();
    let resets = || -> Result<Vec<Ipv4>, Failure> {
        let mut packets = segments(cluster, mark, stray.from)?;
        packets.retain(|packet| flags(packet) & RST != 0);
        Ok(packets)
    };
    without_munster(cluster, || {
        stray.send_with(cluster, &[])?;
        until("a reset", || Ok(!resets()?.is_empty()))
    })?;
    for packet in resets()? {
        let label = Label::of(&packet).map(|label| (label.snid, label.scid));
        check_eq!(label, Some((COLBY, 0)), "SnID and ScID of a reset");
    }
    Ok(())
}

/// Whether colby's server has sent this back to a port.
fn echoed(cluster: &Cluster, mark: u64, port: u16, data: &str) -> Result<bool, Failure> {
    let packets = segments(cluster, mark, port)?;
    Ok(packets.iter().any(|packet| {
        packet.source == address(COLBY as u8) && packet.payload.ends_with(data.as_bytes())
    }))
}

/// What a process of another zone on munster may put on the wire: its kernel labels it. It is nobody's in a flow of zone 10,
/// where segments without label are zone 10's.
fn other_zone(cluster: &mut Cluster) -> TestResult {
    // It may connect to zone 10 on its own account.
    let rule = network("20", "", "10", "connect");
    enforce(cluster, &document("enforcing", &[ZONES, WITHIN_10, &rule]))?;
    let colby = cluster.node("colby")?;
    let from = 6030;
    let mark = cluster.switch.mark();
    without_munster(cluster, || {
        Segment::opening(from, 1000).send(cluster)?;
        until("an answer", || Ok(answer(cluster, mark, from)?.is_some()))?;
        let Some(answer) = answer(cluster, mark, from)? else {
            return Err(Failure::new("no answer"));
        };
        let theirs = sequence(&answer);
        // Behind so many bytes in either direction.
        let data = |at: u32, data| Segment {
            from,
            sequence: 1001 + at,
            acknowledged: theirs.wrapping_add(1 + at),
            flags: ACK | PSH,
            starts: (1000, Some(theirs)),
            data,
        };
        // The first one ends the handshake, the second one binds the flow.
        data(0, "12345678").send(cluster)?;
        until("an echo", || echoed(cluster, mark, from, "12345678"))?;
        data(8, "23456789").send(cluster)?;
        until("an echo", || echoed(cluster, mark, from, "23456789"))?;
        let before = Counters::of(colby)?;
        let foreign = data(16, "foreign!");
        foreign.send_with(cluster, &foreign.label_of(20, false))?;
        foreign.send_with(cluster, &foreign.label_of(20, true))?;
        refused(cluster, &before, "not-bound", 2)?;
        let own = data(16, "98765432");
        own.send_with(cluster, &[])?;
        until("an echo", || echoed(cluster, mark, from, "98765432"))?;
        check!(
            !echoed(cluster, mark, from, "foreign!")?,
            "zone 20's segment was delivered"
        );
        Ok(())
    })
}

/// The end of a handshake whose label covers where colby's numbers start, or a number beside it.
fn finished(cluster: &mut Cluster, wrong: u32) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let colby = cluster.node("colby")?;
    let from = 6010 + wrong as u16;
    let mark = cluster.switch.mark();
    without_munster(cluster, || {
        Segment::opening(from, 1000).send(cluster)?;
        until("an answer", || Ok(answer(cluster, mark, from)?.is_some()))?;
        let Some(answer) = answer(cluster, mark, from)? else {
            return Err(Failure::new("no answer"));
        };
        let theirs = sequence(&answer);
        let before = Counters::of(colby)?;
        let end = Segment {
            from,
            sequence: 1001,
            acknowledged: theirs.wrapping_add(1),
            flags: ACK | PSH,
            starts: (1000, Some(theirs.wrapping_add(wrong))),
            data: "12345678",
        };
        end.send(cluster)?;
        if wrong != 0 {
            refused(cluster, &before, "bad-mac", 1)?;
            // Without a label it is nobody's.
            end.send_with(cluster, &[])?;
            return until("the second refusal", || {
                Ok(Counters::of(colby)?.rise(&before, "refused-no-label")? >= 1)
            });
        }
        // The server sends back what it has got.
        until("an echo", || echoed(cluster, mark, from, "12345678"))
    })
}

/// A connection to a listener takes a label, whatever its flow's later segments do without.
fn without(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let before = Counters::of(cluster.node("colby")?)?;
    let mark = cluster.switch.mark();
    Segment::opening(6020, 1000).send_with(cluster, &[])?;
    refused(cluster, &before, "no-label", 1)?;
    check!(answer(cluster, mark, 6020)?.is_none(), "it was answered");
    Ok(())
}

/// One exchange of zone 10 or 20 with zone 20, and whether it goes well as it must.
fn judged(cluster: &Cluster, to: &str, granted: bool) -> TestResult {
    let before = counters(cluster)?;
    let to = format!("{to}:7020");
    if granted {
        let many = ["--size", "20000", "--connections", "3", "--count", "2"];
        client(cluster, "20", &to, ALLOWED_MS, &many)?.ok()?;
        unrefused(cluster, &before)
    } else {
        client(cluster, "10", &to, DENIED_MS, &[])?
            .exits_with(11)?
            .says("result=timeout")?;
        refused(cluster, &before[1], "no-permission", 1)
    }
}

fn cookies(cluster: &mut Cluster, to: &str, granted: bool) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let colby = cluster.node("colby")?;
    colby.sh("sysctl -qw net.ipv4.tcp_syncookies=2")?.ok()?;
    let result = judged(cluster, to, granted);
    colby.sh("sysctl -qw net.ipv4.tcp_syncookies=1")?.ok()?;
    result
}

fn fast_open(cluster: &mut Cluster, to: &str, granted: bool) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let (family, bind) = if to == V4 {
        ("2", "0.0.0.0:7021")
    } else {
        ("10", "[::]:7021")
    };
    let steps = |zone: &str, steps: &str| -> Vec<String> {
        let program = of_zone(PROBE, zone);
        let words = steps.split_whitespace().map(str::to_owned);
        [program].into_iter().chain(words).collect()
    };
    let server = steps(
        "20",
        &format!(
            "socket,l,{family},1,0 option,l,1,2,1 bind,l,{bind} option,l,6,23,8 listen,l say,ready timeout,l,{ALLOWED_MS} \
             accept,c,l recv,c send,c,answer recv,c send,c,again"
        ),
    );
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    let process = colby.spawn(&format!("fast-open-{to}-{granted}"), &server)?;
    process.wait_line("say ok ready")?;
    let before = counters(cluster)?;
    let client = steps(
        if granted { "20" } else { "10" },
        &format!(
            "socket,a,{family},1,0 timeout,a,{} fastopen,a,hello,{to}:7021 recv,a send,a,more recv,a",
            if granted { ALLOWED_MS } else { DENIED_MS }
        ),
    );
    let client: Vec<&str> = client.iter().map(String::as_str).collect();
    let opened = fast_opened(colby)?;
    let output = munster.run(&client)?;
    if granted {
        output.ok()?.says("recv ok answer")?.says("recv ok again")?;
        check_eq!(process.join()?, Some(0), "exit code of the server");
        check!(
            fast_opened(colby)? > opened,
            "no data was taken with the SYN"
        );
        return unrefused(cluster, &before);
    }
    refused(cluster, &before[1], "no-permission", 1)?;
    check!(
        !process.output()?.contains("hello"),
        "it was delivered: {}",
        process.output()?
    );
    check_eq!(fast_opened(colby)?, opened, "openings with data");
    process.stop()?;
    Ok(())
}

/// How often a node has taken data with a SYN.
fn fast_opened(node: &Node) -> Result<u64, Failure> {
    let script = "awk '/^TcpExt:/ { if (!n) { for (i = 1; i <= NF; i++) if ($i == \"TCPFastOpenPassive\") n = i } \
                  else print $n }' /proc/net/netstat";
    let output = node.sh(script)?.ok()?;
    let number = output.stdout.trim().parse();
    number.map_err(|_| Failure::new(output.describe()))
}

fn lost(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let before = counters(cluster)?;
    // The first segment that ends a handshake, and the one of data behind it.
    let mut left = 2;
    cluster.switch.lose(move |frame| {
        let ends = frame.ipv4().is_some_and(|packet| {
            packet.protocol == TCP
                && packet.ports().is_some_and(|(_, to)| to == 7010)
                && flags(&packet) & (SYN | ACK) == ACK
        });
        let lose = ends && left > 0;
        left -= u32::from(lose);
        lose
    });
    let many = ["--size", "20000", "--count", "3"];
    let output = client(cluster, "10", "10.77.0.2:7010", ALLOWED_MS, &many);
    cluster.switch.lose_none();
    output?.ok()?;
    unrefused(cluster, &before)
}

/// One node after the other takes each kind of policy, while a connection runs and others come and go.
fn changes(cluster: &mut Cluster, to: &str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let munster = cluster.node("munster")?;
    munster.run(&["rm", "-f", STOP])?.ok()?;
    let before = counters(cluster)?;
    let program = of_zone(TRAFFIC, "10");
    let target = format!("{to}:7010");
    let start = |name: &str, more: &[&str]| -> Result<Process, Failure> {
        let mut argv = vec![program.as_str(), "tcp-client", "--to", &target];
        argv.extend(["--timeout-ms", ALLOWED_MS, "--until-file", STOP]);
        argv.extend(more);
        munster.spawn(&format!("{name}-{to}"), &argv)
    };
    let long = [
        "--count",
        "100000000",
        "--size",
        "20000",
        "--interval-ms",
        "20",
    ];
    let long = start("long", &long)?;
    until("the flow to be bound", || {
        Ok(Counters::of(munster)?.rise(&before[0], "flow-bound")? > 0)
    })?;
    let each = every_packet(&by_handshake());
    let handshake = by_handshake();
    let order = if to == V4 {
        NAMES
    } else {
        ["colby", "munster"]
    };
    for (name, policy) in [
        (order[0], &each),
        (order[1], &each),
        (order[0], &handshake),
        (order[1], &handshake),
    ] {
        enforce_on(cluster, name, policy)?;
        let many = ["--size", "3000", "--connections", "3", "--count", "3"];
        client(cluster, "10", &target, ALLOWED_MS, &many)?.ok()?;
    }
    munster.write(STOP, "")?;
    check_eq!(long.join()?, Some(0), "exit code of {}", long.output()?);
    unrefused(cluster, &before)
}
