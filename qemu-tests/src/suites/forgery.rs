//! Proves that nobody gets a packet into a zone's socket who may not: neither a machine that is no node,
//! nor a node's administrator with raw sockets. Packets without label, with labels that are made up,
//! copied from elsewhere or broken are refused, counted one by one under their reason, and not
//! delivered, whichever byte of the label was changed; the same packets with the right label are
//! delivered, so that a broken network cannot pass. No servers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::attack::fate::{checksum, transport_checksum};
use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{YNL_DO, enrol, load, pair_key, siphash};
use crate::fault::Failure;
use crate::label::{LEN, OPTION};
use crate::node::{Node, Process};
use crate::pcap::Frame;
use crate::regime::{self, Counters, Denial, Regime, document, every_packet, network, until};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite. The stranger has no module and is in nobody's node map; colby's administrator forges.
pub const SUITE: Suite = Suite {
    name: "forgery",
    proves: "no forged, copied or missing label gets a packet into a zone's socket, and each is counted by its reason",
    nodes: &[
        NodeSpec::new("munster"),
        NodeSpec::new("colby"),
        NodeSpec::new("stranger"),
    ],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "right-label-from-raw-socket-ok" => right_label,
    "right-label-made-by-scapy-ok" => scapy_right,
    "made-up-code-by-scapy-denied" => scapy_wrong,
    "no-label-from-stranger-denied" => |c| no_label(c, "stranger"),
    "no-label-from-member-denied" => |c| no_label(c, "colby"),
    "raw-ip-socket-of-member-speaks-for-its-own-zone-only-denied" => |c| raw_ip(c, "colby"),
    "raw-ip-socket-of-same-node-speaks-for-its-own-zone-only-denied" => |c| raw_ip(c, "munster"),
    "stranger-in-a-members-name-denied" => |c| made_up_code(c, "stranger"),
    "made-up-code-from-member-denied" => |c| made_up_code(c, "colby"),
    "key-of-the-other-direction-denied" => other_direction,
    "label-copied-to-other-ports-denied" => other_ports,
    "label-copied-to-another-address-denied" => other_address,
    "label-copied-to-tcp-denied" => other_protocol,
    "label-of-another-node-denied" => wrong_source,
    "members-label-from-strangers-address-denied" => unknown_node,
    "unknown-epoch-denied" => unknown_epoch,
    "broken-option-denied" => broken_option,
    "kernels-label-with-data-denied" => kernel_label,
    "managements-label-denied" => management_label,
    "another-zones-right-label-denied" => other_zone,
    "stranger-to-default-without-rule-for-outside-denied" => outside_denied,
    "stranger-to-default-by-rule-for-outside-ok" => outside_allowed,
    "tcp-openings-forged-denied" => tcp_denied,
    "tcp-opening-with-right-label-ok" => tcp_allowed,
    "data-slipped-into-a-flow-denied" => slipped_denied,
    "data-slipped-into-a-flow-with-its-label-ok" => slipped_allowed,
    "every-byte-of-the-label-changed-denied" => sweep,
};

const MEMBERS: [&str; 2] = ["munster", "colby"];
const MUNSTER: u32 = 1;
const COLBY: u32 = 2;
const EPOCH: u8 = 1;
/// Ports of munster: two of zone 10, and one of the default zone.
const ZONE_PORT: u16 = 7010;
const ZONE_PORT_TOO: u16 = 7011;
const FLOW_PORT: u16 = 7012;
const DEFAULT_PORT: u16 = 7002;
const ECHO_PORT: &str = "7003";
/// Port that the forgers send from; nothing is bound to it.
const FROM: u16 = 5555;
/// An address of munster's besides its own.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
const UDP: u8 = 17;
const TCP: u8 = 6;
const SYN: u8 = 2;
const ACK: u8 = 16;
const PSH: u8 = 8;

const COMMON: &str = "
<socket_label><protocol>udp</protocol><port>7010-7019</port><new_ScID>10</new_ScID></socket_label>
<socket_label><protocol>tcp</protocol><port>7010-7019</port><new_ScID>10</new_ScID></socket_label>
<socket_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>
  <grant>create bind connect listen accept send receive</grant></socket_permission>
<network_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID><grant>send receive connect</grant></network_permission>
<network_permission><source_ScID>2</source_ScID><target_ScID>2</target_ScID><grant>send receive connect</grant></network_permission>
<network_permission><source_ScID>2</source_ScID><target_ScID>outside</target_ScID><grant>send connect</grant></network_permission>";

/// Tells each datagram's data; a line break in it cannot look like another one.
const UDP_RECEIVER: &str = "
import socket, sys
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(('0.0.0.0', int(sys.argv[1])))
print('serving', flush=True)
while True:
    print('got', ascii(receiver.recv(65536).decode('latin-1')), flush=True)
";

/// Tells each piece of data of each connection.
const TCP_RECEIVER: &str = "
import socket, sys, threading
def serve(connection):
    while data := connection.recv(65536):
        print('got', ascii(data.decode('latin-1')), flush=True)
listener = socket.create_server(('0.0.0.0', int(sys.argv[1])))
print('serving', flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
";

/// Connects, sends a greeting, and waits for its end.
const TCP_SENDER: &str = "
import signal, socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connection.sendall(b'greeting')
print('connected', flush=True)
signal.pause()
";

/// Sends a datagram under an IPv4 header of its own making.
const RAW_IP: &str = "
import socket, sys
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
raw.sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 0))
";

/// What the tests share.
struct Kept {
    regime: Regime,
    mac: [u8; 6],
    zone: Process,
    zone_too: Process,
    default: Process,
    flow: Process,
    _echo: Process,
}

fn kept(cluster: &Cluster) -> Result<&Kept, Failure> {
    regime::kept(cluster)
}

/// The policy; with or without a rule that lets strangers in to the default zone.
fn policy(outside: bool) -> String {
    let rule = network("outside", "", "2", "send");
    let rules: &[&str] = if outside { &[COMMON, &rule] } else { &[COMMON] };
    // Each segment is to be judged by its own label.
    every_packet(&document("enforcing", rules))
}

fn setup(cluster: &mut Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    munster
        .run(&["ip", "addr", "add", "10.77.0.101/24", "dev", "eth0"])?
        .ok()?;
    let mac = munster.mac()?;
    for node in cluster.nodes() {
        node.write(
            "/srv/send-frames.py",
            include_str!("../../guest/send-frames.py"),
        )?;
        node.write(
            "/srv/scapy-label.py",
            include_str!("../../guest/scapy-label.py"),
        )?;
    }
    for name in MEMBERS {
        load(cluster.node(name)?, &[])?;
    }
    enrol(cluster, &MEMBERS, EPOCH)?;
    let regime = Regime::establish(cluster, &MEMBERS)?;
    for name in MEMBERS {
        regime.enforce(cluster.node(name)?, &policy(true))?;
    }
    let echo = munster.spawn(
        "echo",
        &[
            "dsi-traffic",
            "udp-server",
            "--bind",
            &format!("0.0.0.0:{ECHO_PORT}"),
        ],
    )?;
    echo.wait_line("serving")?;
    cluster.kept = Some(Box::new(Kept {
        regime,
        mac,
        zone: python(
            munster,
            "zone",
            10,
            UDP_RECEIVER,
            &[&ZONE_PORT.to_string()],
            "serving",
        )?,
        zone_too: python(
            munster,
            "zone-too",
            10,
            UDP_RECEIVER,
            &[&ZONE_PORT_TOO.to_string()],
            "serving",
        )?,
        default: python(
            munster,
            "default",
            2,
            UDP_RECEIVER,
            &[&DEFAULT_PORT.to_string()],
            "serving",
        )?,
        flow: python(
            munster,
            "flow",
            10,
            TCP_RECEIVER,
            &[&FLOW_PORT.to_string()],
            "serving",
        )?,
        _echo: echo,
    }));
    Ok(())
}

/// Starts a python program as a process of a zone, and waits until it is ready.
fn python(
    node: &Node,
    name: &str,
    scid: u32,
    program: &str,
    args: &[&str],
    ready: &str,
) -> Result<Process, Failure> {
    let path = format!("/srv/{name}.py");
    node.write(&path, program)?;
    let script = format!(
        "echo \"[\\\"task-set\\\", {{\\\"pid\\\": $$, \\\"scid\\\": {scid}}}]\" | {YNL_DO} >/dev/null && exec python3 {path} {}",
        args.join(" ")
    );
    let process = node.spawn(name, &["bash", "-c", &script])?;
    process.wait_line(ready)?;
    Ok(process)
}

/// What a label says, right or wrong.
#[derive(Clone, Copy)]
struct Claim {
    snid: u32,
    scid: u32,
    epoch: u8,
    key: [u8; 16],
}

/// A packet in the making: from colby's port to zone 10's on munster, with data.
#[derive(Clone)]
struct Packet {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    ports: (u16, u16),
    /// Sequence and acknowledgement number and flags of a TCP segment.
    segment: (u32, u32, u8),
    options: Vec<u8>,
    data: Vec<u8>,
}

fn node_address(index: u32) -> Ipv4Addr {
    crate::cluster::address(u8::try_from(index).unwrap_or_default())
}

/// The claim that colby may make.
fn right() -> Claim {
    Claim {
        snid: COLBY,
        scid: 10,
        epoch: EPOCH,
        key: pair_key(COLBY, MUNSTER, EPOCH),
    }
}

impl Packet {
    fn new(data: &str) -> Self {
        Self {
            source: node_address(COLBY),
            destination: node_address(MUNSTER),
            protocol: UDP,
            ports: (FROM, ZONE_PORT),
            segment: (1000, 0, SYN),
            options: Vec::new(),
            data: data.into(),
        }
    }

    /// The label that says and covers this, for this packet.
    fn label(&self, claim: &Claim) -> [u8; LEN] {
        let word = |address: Ipv4Addr| u64::from(u32::from(address));
        let code = siphash(
            &claim.key,
            &[
                1 << 60
                    | u64::from(claim.epoch) << 48
                    | u64::from(self.protocol) << 32
                    | u64::from(claim.snid),
                u64::from(claim.scid) << 32 | word(self.source),
                word(self.destination) << 32
                    | u64::from(self.ports.0) << 16
                    | u64::from(self.ports.1),
            ],
        );
        let mut label = [0; LEN];
        label[..4].copy_from_slice(&[OPTION, LEN as u8, 0x10, claim.epoch]);
        label[4..8].copy_from_slice(&claim.snid.to_be_bytes());
        label[8..12].copy_from_slice(&claim.scid.to_be_bytes());
        label[12..].copy_from_slice(&code.to_be_bytes());
        label
    }

    /// The same with the label of this claim.
    fn labelled(mut self, claim: &Claim) -> Self {
        self.options = self.label(claim).to_vec();
        self
    }

    fn from(mut self, source: Ipv4Addr) -> Self {
        self.source = source;
        self
    }

    fn to(mut self, destination: Ipv4Addr) -> Self {
        self.destination = destination;
        self
    }

    fn ports(mut self, from: u16, to: u16) -> Self {
        self.ports = (from, to);
        self
    }

    fn tcp(mut self, sequence: u32, acknowledged: u32, flags: u8) -> Self {
        self.protocol = TCP;
        self.segment = (sequence, acknowledged, flags);
        self
    }

    /// With other options, padded to whole words.
    fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// The whole IPv4 packet.
    fn bytes(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend(self.ports.0.to_be_bytes());
        payload.extend(self.ports.1.to_be_bytes());
        let checksum_at = if self.protocol == TCP {
            payload.extend(self.segment.0.to_be_bytes());
            payload.extend(self.segment.1.to_be_bytes());
            payload.extend([5 << 4, self.segment.2, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            payload.extend((self.data.len() as u16 + 8).to_be_bytes());
            payload.extend([0, 0]);
            6
        };
        payload.extend(&self.data);
        let ends = (self.source.into(), self.destination.into());
        let sum = transport_checksum(ends, self.protocol, &payload);
        payload[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());

        let header_len = 20 + self.options.len();
        let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
        packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(&self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    /// The same in a frame to this address.
    fn frame(&self, mac: [u8; 6]) -> Frame {
        let mut frame = mac.to_vec();
        frame.extend([2, 0, 0, 0, 0, 0x66, 8, 0]);
        frame.extend(self.bytes());
        Frame(frame)
    }
}

/// Puts packets on the wire from a node's packet socket; returns when munster has handled them.
fn send(cluster: &Cluster, sender: &str, packets: &[Packet]) -> TestResult {
    let mac = kept(cluster)?.mac;
    let lines: String = packets
        .iter()
        .map(|packet| {
            let Frame(bytes) = packet.frame(mac);
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
                + "\n"
        })
        .collect();
    let munster = cluster.node("munster")?.ip.to_string();
    cluster
        .node(sender)?
        .command(&["python3", "/srv/send-frames.py", &munster, ECHO_PORT])
        .stdin(lines)
        .run()?
        .ok()?
        .says(&format!("sent {}", packets.len()))?;
    Ok(())
}

/// What the receivers have told so far.
fn delivered(cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let kept = kept(cluster)?;
    let mut all = Vec::new();
    for receiver in [&kept.zone, &kept.zone_too, &kept.default, &kept.flow] {
        all.push(receiver.output()?);
    }
    Ok(all)
}

/// Runs something; it must have munster refuse exactly this, by reason, and deliver nothing.
fn refuses(
    cluster: &Cluster,
    expected: &[(&str, u64)],
    run: impl FnOnce() -> TestResult,
) -> TestResult {
    let munster = cluster.node("munster")?;
    let (told, before) = (delivered(cluster)?, Counters::of(munster)?);
    run()?;
    let refusals = Counters::of(munster)?.refusals(&before)?;
    let mut wanted = BTreeMap::new();
    for (reason, count) in expected {
        *wanted.entry(format!("refused-{reason}")).or_default() += *count;
    }
    check_eq!(refusals, wanted, "what was refused");
    check_eq!(delivered(cluster)?, told, "what was delivered");
    // The counters are exact; the log is limited, so that an earlier test may have had the lines.
    for (reason, _) in expected {
        munster.wait_kernel_line(0, &format!("reason={reason} hook=socket_sock_rcv_skb"))?;
    }
    Ok(())
}

/// These packets of this node must be refused for this reason, all of them.
fn refused(cluster: &Cluster, sender: &str, reason: &str, packets: &[Packet]) -> TestResult {
    refuses(cluster, &[(reason, packets.len() as u64)], || {
        send(cluster, sender, packets)
    })
}

/// Five of a packet, which differ in their data.
fn five(make: impl Fn(&str) -> Packet) -> Vec<Packet> {
    (0..5)
        .map(|number| make(&format!("forged-{number}")))
        .collect()
}

/// The packet, sent by this node, must be delivered.
fn arrives(cluster: &Cluster, sender: &str, receiver: &Process, packet: &Packet) -> TestResult {
    let munster = cluster.node("munster")?;
    let before = Counters::of(munster)?;
    send(cluster, sender, std::slice::from_ref(packet))?;
    let data = String::from_utf8_lossy(&packet.data);
    receiver.wait_line(&format!("got '{data}'"))?;
    let refusals = Counters::of(munster)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// The way is free for who may go it; whatever else fails to arrive was refused.
fn twin(cluster: &Cluster, data: &str) -> TestResult {
    let packet = Packet::new(data).labelled(&right());
    arrives(cluster, "colby", &kept(cluster)?.zone, &packet)
}

fn right_label(cluster: &mut Cluster) -> TestResult {
    twin(cluster, "right label")?;
    // Whoever has the key could be that node; where the packet comes from tells nothing more.
    let packet = Packet::new("right label too")
        .labelled(&right())
        .ports(FROM, ZONE_PORT);
    arrives(cluster, "stranger", &kept(cluster)?.zone, &packet)
}

/// Has scapy on colby make and send a datagram with a label under a key.
fn scapy(cluster: &Cluster, key: &[u8; 16], data: &str) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let (snid, epoch, scid) = (COLBY.to_string(), EPOCH.to_string(), "10");
    let (source, destination) = (colby.ip.to_string(), munster.ip.to_string());
    let (sport, dport) = ("5556", ZONE_PORT.to_string());
    let argv = [
        "python3",
        "/srv/scapy-label.py",
        &key,
        &snid,
        scid,
        &epoch,
        &source,
        sport,
        &destination,
        &dport,
        data,
    ];
    colby.run(&argv)?.ok()?.says("sent 9e14100100000002")?;
    send(cluster, "colby", &[])
}

fn scapy_right(cluster: &mut Cluster) -> TestResult {
    scapy(cluster, &right().key, "by-scapy")?;
    kept(cluster)?.zone.wait_line("got 'by-scapy'")?;
    Ok(())
}

fn scapy_wrong(cluster: &mut Cluster) -> TestResult {
    refuses(cluster, &[("bad-mac", 1)], || {
        scapy(cluster, &[7; 16], "forged-by-scapy")
    })
}

fn no_label(cluster: &mut Cluster, sender: &str) -> TestResult {
    let node = cluster.node(sender)?;
    let mark = cluster.node("munster")?.kernel_mark();
    refused(
        cluster,
        sender,
        "no-label",
        &five(|data| Packet::new(data).from(node.ip)),
    )?;
    let denial = Denial::wait(
        cluster.node("munster")?,
        mark,
        "denied sscid=outside ssnid=0 tscid=10 tsnid=1 udp",
    )?;
    let (from, to) = (
        format!("{}:{FROM}", node.ip),
        format!("10.77.0.1:{ZONE_PORT}"),
    );
    check_eq!(
        denial.ends()?,
        (from.as_str(), to.as_str()),
        "ends of {denial:?}"
    );
    twin(cluster, &format!("twin of no label from {sender}"))
}

fn raw_ip(cluster: &mut Cluster, sender: &str) -> TestResult {
    let node = cluster.node(sender)?;
    let packet = Packet::new("forged-raw").from(node.ip);
    let hex: String = packet
        .bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let to = packet.destination.to_string();
    // The module labels what a raw socket sends as what its process is, and that is of the default zone.
    refuses(cluster, &[("no-permission", 1)], || {
        node.run(&["python3", "-c", RAW_IP, &hex, &to])?.ok()?;
        send(cluster, "colby", &[])
    })?;
    twin(cluster, &format!("twin of raw from {sender}"))
}

fn made_up_code(cluster: &mut Cluster, sender: &str) -> TestResult {
    let claim = Claim {
        key: *b"not anyone's key",
        ..right()
    };
    refused(
        cluster,
        sender,
        "bad-mac",
        &five(|data| Packet::new(data).labelled(&claim)),
    )?;
    twin(cluster, &format!("twin of made up code from {sender}"))
}

fn other_direction(cluster: &mut Cluster) -> TestResult {
    // Colby derives the key by which munster labels to it, and munster's to itself is nobody else's.
    for key in [
        pair_key(MUNSTER, COLBY, EPOCH),
        pair_key(COLBY, COLBY, EPOCH),
    ] {
        let claim = Claim { key, ..right() };
        refused(
            cluster,
            "colby",
            "bad-mac",
            &five(|data| Packet::new(data).labelled(&claim)),
        )?;
    }
    Ok(())
}

fn other_ports(cluster: &mut Cluster) -> TestResult {
    let copied = |data: &str, from, to| Packet::new(data).labelled(&right()).ports(from, to);
    let packets = [
        copied("forged-from", FROM + 1, ZONE_PORT),
        copied("forged-to", FROM, ZONE_PORT_TOO),
        copied("forged-swapped", ZONE_PORT, FROM).ports(ZONE_PORT_TOO, ZONE_PORT),
    ];
    refused(cluster, "colby", "bad-mac", &packets)?;
    // To the other port with its own label.
    let packet = Packet::new("other port")
        .ports(FROM, ZONE_PORT_TOO)
        .labelled(&right());
    arrives(cluster, "colby", &kept(cluster)?.zone_too, &packet)
}

fn other_address(cluster: &mut Cluster) -> TestResult {
    refused(
        cluster,
        "colby",
        "bad-mac",
        &five(|data| Packet::new(data).labelled(&right()).to(SECOND)),
    )?;
    let packet = Packet::new("other address").to(SECOND).labelled(&right());
    arrives(cluster, "colby", &kept(cluster)?.zone, &packet)
}

fn other_protocol(cluster: &mut Cluster) -> TestResult {
    let packet = Packet::new("")
        .ports(FROM, FLOW_PORT)
        .labelled(&right())
        .tcp(1, 0, SYN);
    refused(cluster, "colby", "bad-mac", &[packet])
}

fn wrong_source(cluster: &mut Cluster) -> TestResult {
    let claims = [
        (MUNSTER, pair_key(MUNSTER, MUNSTER, EPOCH)),
        (MUNSTER, right().key),
        (3, right().key),
    ];
    for (snid, key) in claims {
        let claim = Claim {
            snid,
            key,
            ..right()
        };
        refused(
            cluster,
            "colby",
            "wrong-source",
            &five(|data| Packet::new(data).labelled(&claim)),
        )?;
    }
    twin(cluster, "twin of wrong source")
}

fn unknown_node(cluster: &mut Cluster) -> TestResult {
    let stranger = cluster.node("stranger")?.ip;
    let packets = five(|data| Packet::new(data).from(stranger).labelled(&right()));
    refused(cluster, "stranger", "unknown-node", &packets)?;
    twin(cluster, "twin of unknown node")
}

fn unknown_epoch(cluster: &mut Cluster) -> TestResult {
    for epoch in [0, 2, 255] {
        let claim = Claim { epoch, ..right() };
        refused(
            cluster,
            "colby",
            "unknown-epoch",
            &five(|data| Packet::new(data).labelled(&claim)),
        )?;
    }
    twin(cluster, "twin of unknown epoch")
}

fn broken_option(cluster: &mut Cluster) -> TestResult {
    let right = Packet::new("").label(&right());
    let with = |at: usize, value: u8| {
        let mut label = right;
        label[at] = value;
        label.to_vec()
    };
    let mut short = with(1, 12);
    short.truncate(12);
    let mut long = with(1, 24);
    long.extend([0; 4]);
    let options = [
        short,
        long,
        [right, right].concat(),
        // A right one behind or before a short one.
        [&right[..], &[OPTION, 4, 0x10, 1]].concat(),
        [&[OPTION, 4, 0x10, 1], &right[..]].concat(),
        // Versions 0, which is the placeholder's, and 2; flags.
        with(2, 0),
        with(2, 0x20),
        with(2, 0x11),
        with(2, 0x18),
        // No node has SnID 0 or one above 65535, and outside is nobody's label.
        with(7, 0),
        with(4, 1),
        [&right[..8], &[0xff; 4], &right[12..]].concat(),
    ];
    let packets: Vec<Packet> = options
        .iter()
        .map(|options| Packet::new("forged").options(options))
        .collect();
    refused(cluster, "colby", "bad-label", &packets)?;
    // The right label may stand behind padding.
    let packet = Packet::new("padded").options(&[&[1, 1, 1, 1], &right[..]].concat());
    arrives(cluster, "colby", &kept(cluster)?.zone, &packet)
}

fn kernel_label(cluster: &mut Cluster) -> TestResult {
    let claim = Claim { scid: 0, ..right() };
    let segment = |flags: u8, data: &str| {
        Packet::new(data)
            .ports(FROM, FLOW_PORT)
            .tcp(1, 1, flags)
            .labelled(&claim)
    };
    let mut packets = five(|data| Packet::new(data).labelled(&claim));
    packets.push(segment(ACK | PSH, "forged"));
    packets.push(segment(SYN, ""));
    packets.push(segment(SYN, "forged"));
    refused(cluster, "colby", "kernel-label", &packets)?;
    twin(cluster, "twin of kernel label")
}

fn management_label(cluster: &mut Cluster) -> TestResult {
    let claim = Claim { scid: 1, ..right() };
    let packets = five(|data| Packet::new(data).labelled(&claim));
    refused(cluster, "colby", "no-permission", &packets)
}

fn other_zone(cluster: &mut Cluster) -> TestResult {
    for scid in [2, 20, 4_000_000_000] {
        let claim = Claim { scid, ..right() };
        let packets = five(|data| Packet::new(data).labelled(&claim));
        refused(cluster, "colby", "no-permission", &packets)?;
    }
    twin(cluster, "twin of another zone")
}

/// A stranger's datagrams to the default zone.
fn to_default(cluster: &Cluster, data: &str) -> Result<Packet, Failure> {
    Ok(Packet::new(data)
        .from(cluster.node("stranger")?.ip)
        .ports(FROM, DEFAULT_PORT))
}

fn outside_denied(cluster: &mut Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    let regime = &kept(cluster)?.regime;
    regime.enforce(munster, &policy(false))?;
    let packets = [
        to_default(cluster, "forged-a")?,
        to_default(cluster, "forged-b")?,
    ];
    // The stranger's echoes are outside's, too: its frames are waited for instead.
    let result = refuses(cluster, &[("no-label", 2)], || {
        let mac = kept(cluster)?.mac;
        let before = Counters::of(munster)?;
        for packet in &packets {
            let Frame(bytes) = packet.frame(mac);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let script = "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0)); \
                          s.send(bytes.fromhex(sys.argv[1]))";
            cluster
                .node("stranger")?
                .run(&["python3", "-c", script, &hex])?
                .ok()?;
        }
        until("the refusals", || {
            Ok(Counters::of(munster)?.rise(&before, "refused-no-label")? >= 2)
        })
    });
    regime.enforce(munster, &policy(true))?;
    result
}

fn outside_allowed(cluster: &mut Cluster) -> TestResult {
    let kept = kept(cluster)?;
    kept.regime
        .enforce(cluster.node("munster")?, &policy(true))?;
    let packet = to_default(cluster, "from outside")?;
    arrives(cluster, "stranger", &kept.default, &packet)
}

/// An opening of a TCP connection to zone 10's listener.
fn opening(from: u16) -> Packet {
    Packet::new("").ports(from, FLOW_PORT).tcp(1000, 0, SYN)
}

/// Whether munster has answered an opening since a mark.
fn answered(cluster: &Cluster, mark: u64, from: u16) -> Result<bool, Failure> {
    let is_answer = |frame: &Frame| {
        frame.ipv4().is_some_and(|packet| {
            packet.ports() == Some((FLOW_PORT, from))
                && packet
                    .payload
                    .get(13)
                    .is_some_and(|f| f & (SYN | ACK) == SYN | ACK)
        })
    };
    Ok(cluster.switch.frames_since(mark)?.iter().any(is_answer))
}

fn tcp_denied(cluster: &mut Cluster) -> TestResult {
    let stranger = cluster.node("stranger")?.ip;
    let key = *b"not anyone's key";
    let packets = [
        opening(6001),
        opening(6002).from(stranger),
        opening(6003).labelled(&Claim { key, ..right() }),
        opening(6004).labelled(&Claim { snid: 1, ..right() }),
        opening(6005).labelled(&Claim {
            epoch: 9,
            ..right()
        }),
        opening(6006).options(&[OPTION, 4, 0x10, 1]),
        opening(6007).labelled(&Claim {
            scid: 20,
            ..right()
        }),
        opening(6008).from(stranger).labelled(&right()),
    ];
    let expected = [
        ("no-label", 2),
        ("bad-mac", 1),
        ("wrong-source", 1),
        ("unknown-epoch", 1),
        ("bad-label", 1),
        ("no-permission", 1),
        ("unknown-node", 1),
    ];
    let mark = cluster.switch.mark();
    refuses(cluster, &expected, || send(cluster, "colby", &packets))?;
    for packet in &packets {
        check!(
            !answered(cluster, mark, packet.ports.0)?,
            "port {} was answered",
            packet.ports.0
        );
    }
    Ok(())
}

fn tcp_allowed(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    send(cluster, "colby", &[opening(6010).labelled(&right())])?;
    until("an answer to the opening", || answered(cluster, mark, 6010))
}

/// Opens a flow from colby's zone 10, and says which segment would be its next.
fn flow(cluster: &Cluster, name: &str) -> Result<(Process, Packet), Failure> {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let mark = cluster.switch.mark();
    let args = [munster.ip.to_string(), FLOW_PORT.to_string()];
    let sender = python(
        colby,
        name,
        10,
        TCP_SENDER,
        &[&args[0], &args[1]],
        "connected",
    )?;
    kept(cluster)?.flow.wait_line("got 'greeting'")?;
    let greeting = |frame: &Frame| {
        let packet = frame.ipv4()?;
        (packet.ports()?.1 == FLOW_PORT && packet.payload.ends_with(b"greeting")).then_some(packet)
    };
    let frames = cluster.switch.frames_since(mark)?;
    let Some(packet) = frames.iter().find_map(greeting) else {
        return Err(Failure::new("the greeting was not captured"));
    };
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| packet.payload[at + i]));
    let next = word(4).wrapping_add(8);
    let ports = packet.ports().unwrap_or_default();
    let segment = Packet::new("slipped")
        .ports(ports.0, ports.1)
        .tcp(next, word(8), ACK | PSH);
    Ok((sender, segment))
}

fn slipped_denied(cluster: &mut Cluster) -> TestResult {
    let (_sender, segment) = flow(cluster, "slipped-denied")?;
    let key = *b"not anyone's key";
    let packets = [
        segment.clone(),
        segment.clone().labelled(&Claim { key, ..right() }),
        segment.clone().labelled(&Claim {
            scid: 20,
            ..right()
        }),
        segment.clone().labelled(&Claim { scid: 0, ..right() }),
        segment.clone().labelled(&Claim {
            epoch: 9,
            ..right()
        }),
    ];
    let expected = [
        ("no-label", 1),
        ("bad-mac", 1),
        ("no-permission", 1),
        ("kernel-label", 1),
        ("unknown-epoch", 1),
    ];
    refuses(cluster, &expected, || send(cluster, "colby", &packets))?;
    // A reset ends a flow only if it is labelled, too.
    let reset = segment.tcp(0, 0, 4);
    refuses(cluster, &[("no-label", 1)], || {
        send(cluster, "stranger", &[reset])
    })
}

fn slipped_allowed(cluster: &mut Cluster) -> TestResult {
    // Within one flow a copy of its label is as good as the label: the wire is not encrypted.
    let (_sender, segment) = flow(cluster, "slipped-allowed")?;
    send(cluster, "colby", &[segment.labelled(&right())])?;
    kept(cluster)?.flow.wait_line("got 'slipped'")?;
    Ok(())
}

/// Why munster must refuse colby's label with one byte changed. `None` for type and length, which the
/// kernel's own check of options may refuse before any socket is found.
fn reason(label: &[u8; LEN], at: usize) -> Option<&'static str> {
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| label[at + i]));
    match at {
        0 | 1 => None,
        2 => Some("bad-label"),
        3 => Some("unknown-epoch"),
        4..=7 if word(4) == 0 || word(4) > 0xffff => Some("bad-label"),
        4..=7 => Some("wrong-source"),
        _ => Some("bad-mac"),
    }
}

/// Each byte with each other value, in a flow whose right label munster knows: 5,100 packets.
fn sweep(cluster: &mut Cluster) -> TestResult {
    twin(cluster, "before the sweep")?;
    let right = Packet::new("").label(&right());
    let (mut certain, mut uncertain) = (Vec::new(), Vec::new());
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for at in 0..LEN {
        for value in (0..=u8::MAX).filter(|value| *value != right[at]) {
            let mut label = right;
            label[at] = value;
            let packet = Packet::new(&format!("forged-{at}-{value}")).options(&label);
            match reason(&label, at) {
                Some(reason) => {
                    *expected.entry(reason).or_default() += 1;
                    certain.push(packet);
                }
                None => uncertain.push(packet),
            }
        }
    }
    let expected: Vec<(&str, u64)> = expected.into_iter().collect();
    refuses(cluster, &expected, || send(cluster, "colby", &certain))?;

    let munster = cluster.node("munster")?;
    let (told, before) = (delivered(cluster)?, Counters::of(munster)?);
    send(cluster, "colby", &uncertain)?;
    let refusals = Counters::of(munster)?.refusals(&before)?;
    let reasons: Vec<&str> = refusals.keys().map(String::as_str).collect();
    check_eq!(
        reasons,
        ["refused-bad-label", "refused-no-label"],
        "reasons in {refusals:?}"
    );
    let refused: u64 = refusals.values().sum();
    check!(
        refused <= uncertain.len() as u64,
        "{refused} refusals of {}",
        uncertain.len()
    );
    check_eq!(delivered(cluster)?, told, "what was delivered");
    twin(cluster, "after the sweep")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_back_as_it_was_made() {
        let packet = Packet::new("some data").labelled(&right());
        let read = packet.frame([2; 6]).ipv4().unwrap();
        assert_eq!(
            (read.source, read.destination),
            (packet.source, packet.destination)
        );
        assert_eq!(read.ports(), Some(packet.ports));
        assert_eq!(read.payload[8..], *b"some data");
        let label = crate::label::Label::of(&read).unwrap();
        assert_eq!(
            label.mac,
            label.expected_mac(&read, packet.ports, &right().key)
        );
        // A checksum over what it covers, itself included, is zero.
        assert_eq!(checksum(&packet.bytes()[..40]), 0);
    }
}
