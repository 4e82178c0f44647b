//! Proves that TCP by handshake lets nobody in who would not be let in by a label on each packet: the labels of a
//! handshake cover where its sequence numbers start, data goes without them at full size only once both ends are bound,
//! and neither SYN cookies, Fast Open, a lost segment nor a change of the policy leaves a gap or loses an allowed flow.
//! No servers. Labels are read and made here, by nothing of the module's.

use std::net::IpAddr;

use serde_json::json;

use crate::attack::fate::{checksum, transport_checksum};
use crate::cluster::{Cluster, NodeSpec, address, address6};
use crate::enrol::{enrol, load, pair_key, siphash, ynl};
use crate::fault::Failure;
use crate::label::{LEN, Label, OPTION, claim};
use crate::node::{Node, Output, Process};
use crate::pcap::{Frame, Ipv4};
use crate::regime::{
    self, Counters, Regime, WITHIN_10, ZONES, delivered, document, every_packet, network, tcp_ext,
    until,
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
    "opening-with-another-start-denied" => |c| copied(c, V4),
    "opening-with-another-start-over-ipv6-denied" => |c| copied(c, V6),
    "opening-by-hand-ok" => |c| by_hand(c, V4),
    "opening-by-hand-over-ipv6-ok" => |c| by_hand(c, V6),
    "reset-of-a-listener-in-no-zones-name-ok" => |c| reset(c, V4),
    "reset-of-a-listener-in-no-zones-name-over-ipv6-ok" => |c| reset(c, V6),
    "opening-with-a-resets-label-denied" => |c| with_label_of_reset(c, V4),
    "opening-with-a-resets-label-over-ipv6-denied" => |c| with_label_of_reset(c, V6),
    "opening-of-the-other-node-by-hand-ok" => |c| by_colbys_hand(c, V4),
    "opening-of-the-other-node-by-hand-over-ipv6-ok" => |c| by_colbys_hand(c, V6),
    "copy-of-a-labelled-reset-of-its-connection-ok" => |c| reset_again(c, V4),
    "copy-of-a-labelled-reset-of-its-connection-over-ipv6-ok" => |c| reset_again(c, V6),
    "reset-without-label-while-connecting-denied" => |c| reset_opening(c, V4, Forged::Bare),
    "reset-without-label-while-connecting-over-ipv6-denied" => |c| reset_opening(c, V6, Forged::Bare),
    "reset-with-a-made-up-code-while-connecting-denied" => |c| reset_opening(c, V4, Forged::MadeUp),
    "reset-with-a-made-up-code-while-connecting-over-ipv6-denied" => |c| reset_opening(c, V6, Forged::MadeUp),
    "reset-with-its-label-while-connecting-ok" => |c| reset_opening(c, V4, Forged::Right),
    "reset-with-its-label-while-connecting-over-ipv6-ok" => |c| reset_opening(c, V6, Forged::Right),
    "reset-of-a-closed-port-while-connecting-ok" => |c| closed_port(c, V4),
    "reset-of-a-closed-port-while-connecting-over-ipv6-ok" => |c| closed_port(c, V6),
    "crossed-opening-of-another-zone-denied" => |c| crossed_denied(c, V4),
    "crossed-opening-of-another-zone-over-ipv6-denied" => |c| crossed_denied(c, V6),
    "crossed-opening-ok" => |c| crossed_allowed(c, V4),
    "crossed-opening-over-ipv6-ok" => |c| crossed_allowed(c, V6),
    "end-of-handshake-with-another-start-denied" => |c| finished(c, V4, 1),
    "end-of-handshake-by-hand-ok" => |c| finished(c, V4, 0),
    "end-of-handshake-with-another-start-over-ipv6-denied" => |c| finished(c, V6, 1),
    "end-of-handshake-by-hand-over-ipv6-ok" => |c| finished(c, V6, 0),
    "segment-of-another-zone-in-a-bare-flow-denied" => |c| other_zone(c, V4),
    "segment-of-another-zone-in-a-bare-flow-over-ipv6-denied" => |c| other_zone(c, V6),
    "without-handshake-denied" => |c| without(c, V4),
    "without-handshake-over-ipv6-denied" => |c| without(c, V6),
    "syn-cookies-10-to-20-denied" => |c| cookies(c, V4, false),
    "syn-cookies-20-to-20-ok" => |c| cookies(c, V4, true),
    "syn-cookies-over-ipv6-10-to-20-denied" => |c| cookies(c, V6, false),
    "syn-cookies-over-ipv6-20-to-20-ok" => |c| cookies(c, V6, true),
    "syn-cookie-with-a-label-that-is-not-its-own-denied" => |c| cookie_end_denied(c, V4),
    "syn-cookie-with-a-label-that-is-not-its-own-over-ipv6-denied" => |c| cookie_end_denied(c, V6),
    "syn-cookie-by-hand-ok" => |c| cookie_end_allowed(c, V4),
    "syn-cookie-by-hand-over-ipv6-ok" => |c| cookie_end_allowed(c, V6),
    "fast-open-10-to-20-denied" => |c| fast_open(c, V4, false),
    "fast-open-20-to-20-ok" => |c| fast_open(c, V4, true),
    "fast-open-over-ipv6-10-to-20-denied" => |c| fast_open(c, V6, false),
    "fast-open-over-ipv6-20-to-20-ok" => |c| fast_open(c, V6, true),
    "lost-end-of-handshake-10-to-10-ok" => |c| lost(c, V4),
    "lost-end-of-handshake-over-ipv6-10-to-10-ok" => |c| lost(c, V6),
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
/// The IPv6 extension header that a label is in, and its option there.
const HEADER6: u8 = 60;
const OPTION6: u8 = 0x1e;
/// How the servers on colby are reached.
const V4: &str = "10.77.0.2";
const V6: &str = "[fd77::2]";
const ALLOWED_MS: &str = "170000";
const DENIED_MS: &str = "1500";
const STOP: &str = "/tmp/stop";

struct Kept {
    regime: Regime,
    mac: [u8; 6],
    munsters_mac: [u8; 6],
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
    lose_forged(cluster);
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
        munsters_mac: cluster.node("munster")?.mac()?,
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
    let mark = cluster.switch.mark();
    let before = delivered(colby)?;
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
    Ok((delivered(colby)? - before, sent))
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

/// A segment from munster's zone 10 to colby's, or back, made by hand.
struct Segment {
    /// Colby's address, of either family.
    to: &'static str,
    /// Munster's port.
    from: u16,
    /// From colby's server to munster.
    back: bool,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    /// What its label covers.
    starts: (u32, Option<u32>),
    data: &'static str,
}

impl Segment {
    fn opening(to: &'static str, from: u16, sequence: u32) -> Self {
        Self {
            to,
            from,
            back: false,
            sequence,
            acknowledged: 0,
            flags: SYN,
            starts: (sequence, None),
            data: "",
        }
    }

    /// SnIDs of sender and receiver.
    fn nodes(&self) -> [u32; 2] {
        if self.back {
            [COLBY, MUNSTER]
        } else {
            [MUNSTER, COLBY]
        }
    }

    /// Ports of sender and receiver.
    fn ports(&self) -> [u16; 2] {
        if self.back {
            [7010, self.from]
        } else {
            [self.from, 7010]
        }
    }

    /// Addresses of sender and receiver.
    fn ends(&self) -> [IpAddr; 2] {
        self.nodes().map(|snid| {
            if self.to == V4 {
                address(snid as u8).into()
            } else {
                address6(snid as u8).into()
            }
        })
    }

    fn label(&self) -> Vec<u8> {
        self.label_of(10, true)
    }

    /// The label of a zone's process on the sender's node, over where the numbers start or not: an option, or a whole header.
    fn label_of(&self, zone: u32, stream: bool) -> Vec<u8> {
        let (sender, receiver) = self.starts;
        let version = 0x10 | u8::from(stream);
        let head = u64::from(version) << 56
            | u64::from(EPOCH) << 48
            | u64::from(stream && receiver.is_none()) << 40
            | u64::from(TCP) << 32
            | u64::from(self.nodes()[0]);
        let [source, target] = self.ports().map(u64::from);
        let (zone_word, ports) = (u64::from(zone) << 32, source << 16 | target);
        let mut words = match self.ends() {
            [IpAddr::V4(from), IpAddr::V4(to)] => vec![
                head,
                zone_word | u64::from(from.to_bits()),
                u64::from(to.to_bits()) << 32 | ports,
            ],
            ends => {
                let mut words = vec![head, zone_word | ports];
                for end in ends {
                    if let IpAddr::V6(end) = end {
                        words.extend([(end.to_bits() >> 64) as u64, end.to_bits() as u64]);
                    }
                }
                words
            }
        };
        if stream {
            words.push(u64::from(sender) << 32 | u64::from(receiver.unwrap_or(0)));
        }
        let [from, to] = self.nodes();
        let code = siphash(&pair_key(from, to, EPOCH), &words);
        let mut label = if self.to == V4 {
            vec![OPTION, LEN as u8, version, EPOCH]
        } else {
            vec![TCP, 2, 1, 0, OPTION6, 18, version, EPOCH]
        };
        label.extend(from.to_be_bytes());
        label.extend(zone.to_be_bytes());
        label.extend(code.to_be_bytes());
        label
    }

    /// The frame, with these options or this header.
    fn frame(&self, mac: [u8; 6], options: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        for port in self.ports() {
            payload.extend(port.to_be_bytes());
        }
        payload.extend(self.sequence.to_be_bytes());
        payload.extend(self.acknowledged.to_be_bytes());
        payload.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        payload.extend(self.data.bytes());
        let ends = self.ends();
        let sum = transport_checksum((ends[0], ends[1]), TCP, &payload);
        payload[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut frame = mac.to_vec();
        frame.extend([2, 0, 0, 0, 0, 0x66]);
        match ends {
            [IpAddr::V4(from), IpAddr::V4(to)] => {
                let len = 20 + options.len();
                let mut packet = vec![0x40 | (len / 4) as u8, 0];
                packet.extend(((len + payload.len()) as u16).to_be_bytes());
                packet.extend([0, 0, 0, 0, 64, TCP, 0, 0]);
                packet.extend([from, to].map(|end| end.octets()).concat());
                packet.extend(options);
                let sum = checksum(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend([8, 0]);
                frame.extend(packet);
            }
            ends => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(((options.len() + payload.len()) as u16).to_be_bytes());
                frame.extend([if options.is_empty() { TCP } else { HEADER6 }, 64]);
                for end in ends {
                    if let IpAddr::V6(end) = end {
                        frame.extend(end.octets());
                    }
                }
                frame.extend(options);
            }
        }
        frame.extend(payload);
        frame
    }

    fn send(&self, cluster: &Cluster) -> TestResult {
        self.send_with(cluster, &self.label())
    }

    fn send_with(&self, cluster: &Cluster, options: &[u8]) -> TestResult {
        let kept: &Kept = regime::kept(cluster)?;
        let mac = if self.back {
            kept.munsters_mac
        } else {
            kept.mac
        };
        cluster.switch.inject(&self.frame(mac, options));
        Ok(())
    }
}

/// A segment of colby's server, over either family.
struct Answer {
    segment: Vec<u8>,
    /// SnID and ScID of its label.
    label: Option<(u32, u32)>,
    /// Its IP options, or the header of its label.
    options: Vec<u8>,
}

impl Answer {
    fn flags(&self) -> u8 {
        self.segment.get(13).copied().unwrap_or_default()
    }

    fn sequence(&self) -> u32 {
        let bytes = self.segment.get(4..8);
        bytes.map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// What colby has sent by one of its addresses to a port since a mark.
fn answers(cluster: &Cluster, mark: u64, to: &str, port: u16) -> Result<Vec<Answer>, Failure> {
    let of_frame = |frame: &Frame| {
        let wanted =
            |protocol, ports: Option<(u16, u16)>| protocol == TCP && ports == Some((7010, port));
        match (frame.ipv4(), frame.ipv6()) {
            (Some(packet), _) if to == V4 && wanted(packet.protocol, packet.ports()) => {
                Some(Answer {
                    label: claim(frame),
                    options: packet.options,
                    segment: packet.payload,
                })
            }
            (_, Some(packet)) if to == V6 && wanted(packet.protocol, packet.ports()) => {
                let header = packet
                    .extensions
                    .iter()
                    .find(|(kind, header)| *kind == HEADER6 && header.len() == 24);
                Some(Answer {
                    label: claim(frame),
                    options: header.map_or(Vec::new(), |(_, header)| header.clone()),
                    segment: packet.payload,
                })
            }
            _ => None,
        }
    };
    let frames = cluster.switch.frames_since(mark)?;
    Ok(frames.iter().filter_map(of_frame).collect())
}

/// Colby's answer to an opening since a mark.
fn answer(cluster: &Cluster, mark: u64, to: &str, port: u16) -> Result<Option<Answer>, Failure> {
    Ok(answers(cluster, mark, to, port)?
        .into_iter()
        .find(|answer| answer.flags() & (SYN | ACK) == SYN | ACK))
}

/// Waits until colby has refused so many for a reason, and checks that it has for no other.
fn refused(cluster: &Cluster, before: &Counters, reason: &str, times: u64) -> TestResult {
    refused_on(cluster.node("colby")?, before, reason, times)
}

fn refused_on(node: &Node, before: &Counters, reason: &str, times: u64) -> TestResult {
    let name = format!("refused-{reason}");
    until("the refusals", || {
        Ok(Counters::of(node)?.rise(before, &name)? >= times)
    })?;
    let refusals = Counters::of(node)?.refusals(before)?;
    check_eq!(refusals.keys().collect::<Vec<_>>(), [&name], "reasons");
    Ok(())
}

/// Ports of munster's that forged segments come from.
const FORGED: std::ops::Range<u16> = 6000..6100;

/// Ports, sequence number and flags of a segment, over either family.
fn segment_of(frame: &Frame) -> Option<((u16, u16), u32, u8)> {
    let (ports, segment) = match (frame.ipv4(), frame.ipv6()) {
        (Some(packet), _) if packet.protocol == TCP => (packet.ports()?, packet.payload),
        (_, Some(packet)) if packet.protocol == TCP => (packet.ports()?, packet.payload),
        _ => return None,
    };
    let sequence = segment.get(4..8)?.try_into().ok()?;
    Some((ports, u32::from_be_bytes(sequence), *segment.get(13)?))
}

/// Whether a frame is colby's answer to a forged segment. Munster's kernel, which knows nothing of that, would answer.
fn is_to_forger(frame: &Frame) -> bool {
    segment_of(frame).is_some_and(|((_, to), ..)| FORGED.contains(&to))
}

/// Such answers reach nobody, as long as the suite lasts: what was forged is sent for again, long after its test.
fn lose_forged(cluster: &Cluster) {
    cluster.switch.lose(is_to_forger);
}

fn copied(cluster: &mut Cluster, to: &'static str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let colby = cluster.node("colby")?;
    let mark = cluster.switch.mark();
    let before = Counters::of(colby)?;
    // What somebody who has seen a SYN can make of its label: other numbers, other ports, no longer a SYN.
    let seen = Segment::opening(to, 6001, 1000);
    let copies = [
        Segment {
            sequence: 2000,
            ..Segment::opening(to, 6001, 1000)
        },
        Segment::opening(to, 6002, 1000),
        Segment {
            flags: SYN | PSH,
            sequence: 1001,
            data: "data",
            ..Segment::opening(to, 6001, 1000)
        },
        Segment {
            flags: ACK,
            sequence: 1001,
            acknowledged: 1,
            ..Segment::opening(to, 6001, 1000)
        },
    ];
    for copy in &copies {
        copy.send_with(cluster, &seen.label())?;
    }
    // The last one belongs to no handshake at all: it is answered by a reset.
    refused(cluster, &before, "bad-mac", 3)?;
    for port in [6001, 6002] {
        check!(
            answer(cluster, mark, to, port)?.is_none(),
            "port {port} was answered"
        );
    }
    Ok(())
}

fn by_hand(cluster: &mut Cluster, to: &'static str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let before = Counters::of(cluster.node("colby")?)?;
    let mark = cluster.switch.mark();
    Segment::opening(to, 6003, 1000).send(cluster)?;
    // Sent again, it is the same.
    Segment::opening(to, 6003, 1000).send(cluster)?;
    until("an answer", || {
        Ok(answer(cluster, mark, to, 6003)?.is_some())
    })?;
    let refusals = Counters::of(cluster.node("colby")?)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// The answer to a segment that belongs to no connection is the kernel's, though it comes by way of a listener: a label of
/// the listener's zone on it would cover no starts, and so be good for a SYN with any.
fn reset(cluster: &mut Cluster, to: &'static str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let stray = Segment {
        flags: ACK,
        acknowledged: 1,
        ..Segment::opening(to, 6004, 1001)
    };
    let mark = cluster.switch.mark();
    let resets = || -> Result<Vec<Answer>, Failure> {
        let mut answers = answers(cluster, mark, to, stray.from)?;
        answers.retain(|answer| answer.flags() & RST != 0);
        Ok(answers)
    };
    stray.send_with(cluster, &[])?;
    until("a reset", || Ok(!resets()?.is_empty()))?;
    for reset in resets()? {
        check_eq!(reset.label, Some((COLBY, 0)), "SnID and ScID of a reset");
    }
    Ok(())
}

/// A server of zone 10 on a node besides those of the suite.
fn server(cluster: &Cluster, name: &str, port: u16) -> Result<Process, Failure> {
    let bind = format!("[::]:{port}");
    let argv = [&of_zone(TRAFFIC, "10"), "tcp-server", "--bind", &bind];
    let server = cluster
        .node(name)?
        .spawn(&format!("server-{port}-{name}"), &argv)?;
    server.wait_line("serving")?;
    Ok(server)
}

/// The label of the kernel's own reset covers no starts. On a SYN between the same ends it proves the node, and lets nobody in:
/// it is of no zone.
fn with_label_of_reset(cluster: &mut Cluster, to: &'static str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let munster = cluster.node("munster")?;
    let server = server(cluster, "munster", 7010)?;
    let mark = cluster.switch.mark();
    let stray = Segment {
        flags: ACK,
        acknowledged: 1,
        ..Segment::opening(to, 7010, 1001)
    };
    stray.send_with(cluster, &[])?;
    let mut resets = Vec::new();
    until("a reset", || {
        resets = answers(cluster, mark, to, 7010)?;
        resets.retain(|answer| answer.flags() & RST != 0);
        Ok(!resets.is_empty())
    })?;
    check_eq!(
        resets[0].label,
        Some((COLBY, 0)),
        "SnID and ScID of the reset"
    );
    let (before, mark) = (Counters::of(munster)?, cluster.switch.mark());
    let opening = Segment {
        back: true,
        ..Segment::opening(to, 7010, 5000)
    };
    opening.send_with(cluster, &resets[0].options)?;
    refused_on(munster, &before, "kernel-label", 1)?;
    check!(
        answer(cluster, mark, to, 7010)?.is_none(),
        "it was answered"
    );
    server.stop()?;
    Ok(())
}

/// The twin: what such a SYN is like under a label of its own.
fn by_colbys_hand(cluster: &mut Cluster, to: &'static str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let munster = cluster.node("munster")?;
    let server = server(cluster, "munster", 7010)?;
    let (before, mark) = (Counters::of(munster)?, cluster.switch.mark());
    let opening = Segment {
        back: true,
        ..Segment::opening(to, 7010, 6000)
    };
    opening.send(cluster)?;
    until("an answer", || {
        Ok(answer(cluster, mark, to, 7010)?.is_some())
    })?;
    let refusals = Counters::of(munster)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    server.stop()?;
    Ok(())
}

/// A reset of the kernel's, byte for byte, on the connection that it was made for: it ends that.
fn reset_again(cluster: &mut Cluster, to: &'static str) -> TestResult {
    const PORT: u16 = 7013;
    enforce(cluster, &by_handshake())?;
    let munster = cluster.node("munster")?;
    munster.run(&["rm", "-f", STOP])?.ok()?;
    let before = counters(cluster)?;
    let server = server(cluster, "colby", PORT)?;
    let (program, target) = (of_zone(TRAFFIC, "10"), format!("{to}:{PORT}"));
    let argv = [
        program.as_str(),
        "tcp-client",
        "--to",
        &target,
        "--count",
        "100000000",
        "--interval-ms",
        "20",
        "--until-file",
        STOP,
        "--timeout-ms",
        ALLOWED_MS,
    ];
    let client = munster.spawn(&format!("reset-{to}"), &argv)?;
    until("the flow to be bound", || {
        Ok(Counters::of(munster)?.rise(&before[0], "flow-bound")? > 0)
    })?;
    // Nothing of colby's arrives until one of its resets has been seen, and only copies of that one then.
    let of_colby = |frame: &Frame| segment_of(frame).is_some_and(|((from, _), ..)| from == PORT);
    let mark = cluster.switch.mark();
    cluster
        .switch
        .lose(move |frame| is_to_forger(frame) || of_colby(frame));
    let ended = (|| {
        // A connection that is gone at once leaves nothing that might acknowledge.
        let gone = format!("ss -HKtn state established sport = :{PORT}");
        cluster
            .node("colby")?
            .sh(&gone)?
            .ok()?
            .says(&format!(":{PORT}"))?;
        server.end_by(9)?;
        let mut reset = None;
        until("a labelled reset", || {
            let is_reset = |frame: &Frame| {
                let flags = segment_of(frame).map_or(0, |(.., flags)| flags);
                of_colby(frame) && flags & RST != 0 && claim(frame) == Some((COLBY, 0))
            };
            let frames = cluster.switch.frames_since(mark)?;
            reset = frames.into_iter().find(is_reset);
            Ok(reset.is_some())
        })?;
        let reset = reset.ok_or_else(|| Failure::new("no reset"))?;
        check!(client.is_running()?, "it has ended: {}", client.output()?);
        let copy = reset.clone();
        cluster
            .switch
            .lose(move |frame| is_to_forger(frame) || of_colby(frame) && *frame != copy);
        cluster.switch.inject(&reset.0);
        check_eq!(
            client.join()?,
            Some(13),
            "exit code of '{}'",
            client.output()?
        );
        Ok(())
    })();
    lose_forged(cluster);
    ended
}

/// What a reset carries that is not colby's, or might be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forged {
    Bare,
    MadeUp,
    Right,
}

/// Resets while munster waits for the answer to its SYN, which colby has given and the network loses.
fn reset_opening(cluster: &mut Cluster, to: &'static str, forged: Forged) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let munster = cluster.node("munster")?;
    let before = Counters::of(munster)?;
    let answers = |frame: &Frame| {
        segment_of(frame).is_some_and(|((from, _), _, flags)| from == 7010 && flags & SYN != 0)
    };
    while_connecting(cluster, "connecting", to, answers, |client, _, opening| {
        let (port, sequence) = opening;
        let reset = Segment {
            back: true,
            acknowledged: sequence.wrapping_add(1),
            flags: RST | ACK,
            ..Segment::opening(to, port, 0)
        };
        let mut label = match forged {
            Forged::Bare => Vec::new(),
            _ => reset.label_of(0, false),
        };
        if forged == Forged::MadeUp
            && let Some(last) = label.last_mut()
        {
            *last ^= 1;
        }
        reset.send_with(cluster, &label)?;
        if forged == Forged::Right {
            // With no answer from colby, nothing else could have ended it so.
            check_eq!(
                client.join()?,
                Some(10),
                "exit code of '{}'",
                client.output()?
            );
            return Ok(());
        }
        let reason = if forged == Forged::Bare {
            "no-label"
        } else {
            "bad-mac"
        };
        refused_on(munster, &before, reason, 1)?;
        check!(client.is_running()?, "it has ended: {}", client.output()?);
        lose_forged(cluster);
        check_eq!(
            client.join()?,
            Some(0),
            "exit code of '{}'",
            client.output()?
        );
        Ok(())
    })
}

/// Colby's kernel answers for a port on which nobody listens.
fn closed_port(cluster: &mut Cluster, to: &'static str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let before = counters(cluster)?;
    client(cluster, "10", &format!("{to}:7019"), ALLOWED_MS, &[])?.exits_with(10)?;
    unrefused(cluster, &before)
}

/// Whether a frame goes to colby's port.
fn opens(frame: &Frame) -> bool {
    segment_of(frame).is_some_and(|((_, to), ..)| to == 7010)
}

/// While munster's zone 10 connects to colby, and the network loses something of that, does something with its port and where
/// its numbers start.
fn while_connecting(
    cluster: &Cluster,
    name: &str,
    to: &'static str,
    lost: impl Fn(&Frame) -> bool + Send + 'static,
    run: impl FnOnce(&Process, u64, (u16, u32)) -> TestResult,
) -> TestResult {
    let mark = cluster.switch.mark();
    cluster
        .switch
        .lose(move |frame| lost(frame) || is_to_forger(frame));
    let result = (|| {
        let (program, target) = (of_zone(TRAFFIC, "10"), format!("{to}:7010"));
        let argv = [
            program.as_str(),
            "tcp-client",
            "--to",
            &target,
            "--size",
            "8",
            "--timeout-ms",
            ALLOWED_MS,
        ];
        let client = cluster
            .node("munster")?
            .spawn(&format!("{name}-{to}"), &argv)?;
        let mut opening = None;
        until("its SYN", || {
            let frames = cluster.switch.frames_since(mark)?;
            opening = frames
                .iter()
                .filter_map(segment_of)
                .find(|((from, port), _, flags)| {
                    *port == 7010 && flags & (SYN | ACK) == SYN && !FORGED.contains(from)
                });
            Ok(opening.is_some())
        })?;
        let Some(((port, _), ours, _)) = opening else {
            return Err(Failure::new("no SYN"));
        };
        run(&client, mark, (port, ours))
    })();
    lose_forged(cluster);
    result
}

/// Whether munster has sent such a segment to colby's port since a mark.
fn has_sent(
    cluster: &Cluster,
    mark: u64,
    port: u16,
    wanted: impl Fn(&Frame, u8) -> bool,
) -> Result<bool, Failure> {
    let frames = cluster.switch.frames_since(mark)?;
    Ok(frames.iter().any(|frame| {
        segment_of(frame)
            .is_some_and(|(ports, _, flags)| ports == (port, 7010) && wanted(frame, flags))
    }))
}

/// Where colby's numbers start in a crossed opening.
const CROSSED: u32 = 5000;

/// Both ends have sent a SYN. Colby's is of a zone that munster's may not reach, or has no label, or that of another start.
fn crossed_denied(cluster: &mut Cluster, to: &'static str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let munster = cluster.node("munster")?;
    let before = Counters::of(munster)?;
    while_connecting(
        cluster,
        "crossed-denied",
        to,
        opens,
        |client, mark, (port, _)| {
            let crossing = |sequence| Segment {
                back: true,
                ..Segment::opening(to, port, sequence)
            };
            let syn = crossing(CROSSED);
            syn.send_with(cluster, &syn.label_of(20, true))?;
            syn.send_with(cluster, &[])?;
            syn.send_with(cluster, &crossing(CROSSED + 1).label())?;
            let names = ["bad-mac", "no-label", "no-permission"];
            let wanted: Vec<_> = names.map(|reason| (format!("refused-{reason}"), 1)).into();
            until("the refusals", || {
                let refusals = Counters::of(munster)?.refusals(&before)?;
                Ok(refusals.values().sum::<u64>() >= 3)
            })?;
            let refusals: Vec<_> = Counters::of(munster)?
                .refusals(&before)?
                .into_iter()
                .collect();
            check_eq!(refusals, wanted, "what was refused");
            check!(
                !has_sent(cluster, mark, port, |_, flags| flags & ACK != 0)?,
                "it was answered"
            );
            // It waits on, and gets to whom it has asked for.
            lose_forged(cluster);
            check_eq!(
                client.join()?,
                Some(0),
                "exit code of '{}'",
                client.output()?
            );
            Ok(())
        },
    )
}

/// The twin: a connection that both ends have opened, and what its first message is answered with.
fn crossed_allowed(cluster: &mut Cluster, to: &'static str) -> TestResult {
    /// The client's first message: its first connection's, and its number there.
    const MESSAGE: &str = "\0\0\0\x01\0\0\0\0";
    enforce(cluster, &by_handshake())?;
    let munster = cluster.node("munster")?;
    let before = Counters::of(munster)?;
    while_connecting(
        cluster,
        "crossed",
        to,
        opens,
        |client, mark, (port, ours)| {
            let syn = Segment {
                back: true,
                ..Segment::opening(to, port, CROSSED)
            };
            syn.send(cluster)?;
            until("an answer with zone 10's label", || {
                has_sent(cluster, mark, port, |frame, flags| {
                    flags & (SYN | ACK) == SYN | ACK && claim(frame) == Some((MUNSTER, 10))
                })
            })?;
            let behind = |sent: u32, heard: u32, flags, data| Segment {
                sequence: CROSSED + 1 + sent,
                acknowledged: ours.wrapping_add(1 + heard),
                flags,
                starts: (CROSSED, Some(ours)),
                data,
                back: true,
                ..Segment::opening(to, port, CROSSED)
            };
            behind(0, 0, ACK, "").send(cluster)?;
            until("its message", || {
                has_sent(cluster, mark, port, |frame, _| {
                    frame.0.ends_with(MESSAGE.as_bytes())
                })
            })?;
            behind(0, 8, ACK | PSH, MESSAGE).send(cluster)?;
            check_eq!(
                client.join()?,
                Some(0),
                "exit code of '{}'",
                client.output()?
            );
            let refusals = Counters::of(munster)?.refusals(&before)?;
            check!(refusals.is_empty(), "refused: {refusals:?}");
            // Colby's kernel, which knows nothing of it, is not to be asked about it later.
            let reset = behind(8, 8, RST | ACK, "");
            until("its end", || {
                reset.send_with(cluster, &reset.label_of(0, false))?;
                let left = munster.sh(&format!("ss -Htan sport = :{port}"))?.ok()?;
                Ok(left.stdout.trim().is_empty())
            })
        },
    )
}

/// Whether colby's server has sent this back to a port.
fn echoed(cluster: &Cluster, mark: u64, to: &str, port: u16, data: &str) -> Result<bool, Failure> {
    let answers = answers(cluster, mark, to, port)?;
    let has = |answer: &Answer| answer.segment.ends_with(data.as_bytes());
    Ok(answers.iter().any(has))
}

/// What a process of another zone on munster may put on the wire: its kernel labels it. It is nobody's in a flow of zone 10,
/// where segments without label are zone 10's.
fn other_zone(cluster: &mut Cluster, to: &'static str) -> TestResult {
    // It may connect to zone 10 on its own account.
    let rule = network("20", "", "10", "connect");
    enforce(cluster, &document("enforcing", &[ZONES, WITHIN_10, &rule]))?;
    let colby = cluster.node("colby")?;
    let from = 6030;
    let (mark, theirs) = opened(cluster, to, from)?;
    // Behind so many bytes in either direction.
    let data = |at: u32, data| Segment {
        to,
        from,
        back: false,
        sequence: 1001 + at,
        acknowledged: theirs.wrapping_add(1 + at),
        flags: ACK | PSH,
        starts: (1000, Some(theirs)),
        data,
    };
    // The first one ends the handshake, the second one binds the flow.
    data(0, "12345678").send(cluster)?;
    until("an echo", || echoed(cluster, mark, to, from, "12345678"))?;
    data(8, "23456789").send(cluster)?;
    until("an echo", || echoed(cluster, mark, to, from, "23456789"))?;
    let before = Counters::of(colby)?;
    let foreign = data(16, "foreign!");
    foreign.send_with(cluster, &foreign.label_of(20, false))?;
    foreign.send_with(cluster, &foreign.label_of(20, true))?;
    refused(cluster, &before, "not-bound", 2)?;
    let own = data(16, "98765432");
    own.send_with(cluster, &[])?;
    until("an echo", || echoed(cluster, mark, to, from, "98765432"))?;
    check!(
        !echoed(cluster, mark, to, from, "foreign!")?,
        "zone 20's segment was delivered"
    );
    Ok(())
}

/// Opens a connection by hand, and waits for the answer: a mark from before it, and where colby's numbers start.
fn opened(cluster: &Cluster, to: &'static str, from: u16) -> Result<(u64, u32), Failure> {
    let mark = cluster.switch.mark();
    Segment::opening(to, from, 1000).send(cluster)?;
    let mut theirs = None;
    until("an answer", || {
        theirs = answer(cluster, mark, to, from)?.map(|answer| answer.sequence());
        Ok(theirs.is_some())
    })?;
    let theirs = theirs.ok_or_else(|| Failure::new("no answer"))?;
    Ok((mark, theirs))
}

/// The end of a handshake whose label covers where colby's numbers start, or a number beside it.
fn finished(cluster: &mut Cluster, to: &'static str, wrong: u32) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let colby = cluster.node("colby")?;
    let from = 6010 + wrong as u16;
    let (mark, theirs) = opened(cluster, to, from)?;
    let before = Counters::of(colby)?;
    let end = Segment {
        to,
        from,
        back: false,
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
    until("an echo", || echoed(cluster, mark, to, from, "12345678"))
}

/// A connection to a listener takes a label, whatever its flow's later segments do without.
fn without(cluster: &mut Cluster, to: &'static str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let before = Counters::of(cluster.node("colby")?)?;
    let mark = cluster.switch.mark();
    Segment::opening(to, 6020, 1000).send_with(cluster, &[])?;
    refused(cluster, &before, "no-label", 1)?;
    check!(
        answer(cluster, mark, to, 6020)?.is_none(),
        "it was answered"
    );
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

/// What the kernel calls its SYN cookies, drawn and taken, and data that it has taken with a SYN.
const COOKIES_SENT: &str = "SyncookiesSent";
const COOKIES_TAKEN: &str = "SyncookiesRecv";
const FAST_OPENED: &str = "TCPFastOpenPassive";

/// Does something while colby's kernel remembers no handshake, and answers each SYN with a cookie.
fn with_cookies(cluster: &Cluster, run: impl FnOnce(&Node) -> TestResult) -> TestResult {
    let colby = cluster.node("colby")?;
    colby.sh("sysctl -qw net.ipv4.tcp_syncookies=2")?.ok()?;
    let result = run(colby);
    colby.sh("sysctl -qw net.ipv4.tcp_syncookies=1")?.ok()?;
    result
}

fn cookies(cluster: &mut Cluster, to: &str, granted: bool) -> TestResult {
    enforce(cluster, &by_handshake())?;
    with_cookies(cluster, |colby| {
        let counts = || -> Result<[u64; 2], Failure> {
            Ok([
                tcp_ext(colby, COOKIES_SENT)?,
                tcp_ext(colby, COOKIES_TAKEN)?,
            ])
        };
        let before = counts()?;
        judged(cluster, to, granted)?;
        let [sent, taken] = counts()?;
        if granted {
            check!(
                taken >= before[1] + 3,
                "{taken} cookies were taken, {} before three connections",
                before[1]
            );
        } else {
            check_eq!([sent, taken], before, "cookies drawn and taken");
        }
        Ok(())
    })
}

/// The end of a handshake that brings back the number which colby has drawn: with SYN cookies a socket is made of it alone.
fn cookie_end(to: &'static str, from: u16, theirs: u32, data: &'static str) -> Segment {
    Segment {
        to,
        from,
        back: false,
        sequence: 1001,
        acknowledged: theirs.wrapping_add(1),
        flags: ACK | PSH,
        starts: (1000, Some(theirs)),
        data,
    }
}

/// The right end of such a handshake makes a connection.
fn cookie_brought_back(cluster: &Cluster, mark: u64, end: &Segment) -> TestResult {
    let colby = cluster.node("colby")?;
    let (before, taken) = (Counters::of(colby)?, tcp_ext(colby, COOKIES_TAKEN)?);
    end.send(cluster)?;
    until("an echo", || {
        echoed(cluster, mark, end.to, end.from, end.data)
    })?;
    check_eq!(
        tcp_ext(colby, COOKIES_TAKEN)?,
        taken + 1,
        "cookies that were taken"
    );
    let refusals = Counters::of(colby)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// The cookie is right each time, and the label is not: over other starts, the SYN's own, another zone's, none. What
/// was refused has used nothing up.
fn cookie_end_denied(cluster: &mut Cluster, to: &'static str) -> TestResult {
    let from = 6040;
    enforce(cluster, &by_handshake())?;
    with_cookies(cluster, |colby| {
        let (mark, theirs) = opened(cluster, to, from)?;
        let (before, taken) = (Counters::of(colby)?, tcp_ext(colby, COOKIES_TAKEN)?);
        let wrong = cookie_end(to, from, theirs, "refused!");
        for starts in [
            (1000, Some(theirs.wrapping_add(1))),
            (1001, Some(theirs)),
            (1000, None),
        ] {
            let other = Segment {
                starts,
                ..cookie_end(to, from, theirs, "refused!")
            };
            wrong.send_with(cluster, &other.label())?;
        }
        wrong.send_with(cluster, &wrong.label_of(20, true))?;
        wrong.send_with(cluster, &[])?;
        let wanted: Vec<(String, u64)> = [("bad-mac", 3), ("no-label", 1), ("no-permission", 1)]
            .map(|(reason, times)| (format!("refused-{reason}"), times))
            .into();
        until("the refusals", || {
            let refusals = Counters::of(colby)?.refusals(&before)?;
            Ok(refusals.values().sum::<u64>() >= 5)
        })?;
        let refusals: Vec<_> = Counters::of(colby)?
            .refusals(&before)?
            .into_iter()
            .collect();
        check_eq!(refusals, wanted, "what was refused");
        check_eq!(
            tcp_ext(colby, COOKIES_TAKEN)?,
            taken,
            "cookies that were taken"
        );
        cookie_brought_back(cluster, mark, &cookie_end(to, from, theirs, "12345678"))?;
        check!(
            !echoed(cluster, mark, to, from, "refused!")?,
            "what was refused was delivered"
        );
        Ok(())
    })
}

fn cookie_end_allowed(cluster: &mut Cluster, to: &'static str) -> TestResult {
    let from = 6041;
    enforce(cluster, &by_handshake())?;
    with_cookies(cluster, |colby| {
        let sent = tcp_ext(colby, COOKIES_SENT)?;
        let (mark, theirs) = opened(cluster, to, from)?;
        check!(
            tcp_ext(colby, COOKIES_SENT)? > sent,
            "the number that was drawn is no cookie"
        );
        cookie_brought_back(cluster, mark, &cookie_end(to, from, theirs, "12345678"))
    })
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
    let opened = tcp_ext(colby, FAST_OPENED)?;
    let output = munster.run(&client)?;
    if granted {
        output.ok()?.says("recv ok answer")?.says("recv ok again")?;
        check_eq!(process.join()?, Some(0), "exit code of the server");
        check!(
            tcp_ext(colby, FAST_OPENED)? > opened,
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
    check_eq!(tcp_ext(colby, FAST_OPENED)?, opened, "openings with data");
    process.stop()?;
    Ok(())
}

fn lost(cluster: &mut Cluster, to: &str) -> TestResult {
    enforce(cluster, &by_handshake())?;
    let before = counters(cluster)?;
    // The first segment that ends a handshake, and the one of data behind it.
    let mut left = 2;
    cluster.switch.lose(move |frame| {
        let ends = segment_of(frame)
            .is_some_and(|((_, to), _, flags)| to == 7010 && flags & (SYN | ACK) == ACK);
        let lose = ends && left > 0;
        left -= u32::from(lose);
        lose || is_to_forger(frame)
    });
    let many = ["--size", "20000", "--count", "3"];
    let output = client(cluster, "10", &format!("{to}:7010"), ALLOWED_MS, &many);
    lose_forged(cluster);
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
