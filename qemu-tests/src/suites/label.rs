//! Proves what the label looks like on the wire, with readers that share nothing with the module: the
//! harness' own, tshark on the host, and scapy in a guest. No policy is in force.

use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{YNL_DO, enrol, load, members, pair_key, requests, secret, ynl};
use crate::fault::{Failure, Fault};
use crate::label::{LEN, Label, OPTION};
use crate::node::{Output, Process};
use crate::pcap::{self, Ipv4};
use crate::regime::until;
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq};

/// The suite. The stranger has no module and is in nobody's node map.
pub const SUITE: Suite = Suite {
    name: "label",
    proves: "each packet of a member carries the label that the wire format describes, and no other does",
    nodes: &[
        NodeSpec::new("munster"),
        NodeSpec::new("colby"),
        NodeSpec::new("stranger"),
    ],
    needs: &[Need::Module],
    setup,
    tests: &[
        Test {
            name: "udp-datagram-carries-authentic-label-ok",
            run: udp,
        },
        Test {
            name: "unconnected-udp-carries-authentic-label-ok",
            run: udp_unconnected,
        },
        Test {
            name: "every-tcp-segment-carries-authentic-label-ok",
            run: tcp,
        },
        Test {
            name: "reset-of-closed-port-carries-kernels-label-ok",
            run: reset,
        },
        Test {
            name: "tshark-finds-option-where-it-is-described-ok",
            run: tshark,
        },
        Test {
            name: "scapy-finds-option-where-it-is-described-ok",
            run: scapy,
        },
        Test {
            name: "bulk-fits-the-mtu-ok",
            run: bulk,
        },
        Test {
            name: "large-datagram-is-fragmented-ok",
            run: fragments,
        },
        Test {
            name: "loopback-carries-own-label-ok",
            run: loopback,
        },
        Test {
            name: "process-of-a-zone-carries-its-scid-ok",
            run: zone,
        },
        Test {
            name: "stranger-gets-no-label-ok",
            run: stranger,
        },
        Test {
            name: "new-key-epoch-is-stamped-ok",
            run: new_epoch,
        },
    ],
};

const NAMES: [&str; 2] = ["munster", "colby"];
/// SnIDs, as the indices of the nodes.
const MUNSTER: u32 = 1;
const COLBY: u32 = 2;
/// The class of every process that nobody has given another.
const DEFAULT_SCID: u32 = 2;
const UDP: u8 = 17;
const TCP: u8 = 6;
const RST: u8 = 4;

fn setup(cluster: &mut Cluster) -> TestResult {
    for name in NAMES {
        load(cluster.node(name)?, &[])?;
    }
    enrol(cluster, &NAMES, 1)
}

fn serve(cluster: &Cluster, mode: &str, port: u16) -> Result<Process, Failure> {
    let bind = format!("0.0.0.0:{port}");
    let server = cluster.node("munster")?.spawn(
        &format!("{mode}-{port}"),
        &["dsi-traffic", mode, "--bind", &bind],
    )?;
    server.wait_line("serving")?;
    Ok(server)
}

/// A client on colby; with whether it has to succeed left to the caller.
fn client(cluster: &Cluster, mode: &str, port: u16, more: &[&str]) -> Result<Output, Fault> {
    let to = format!("10.77.0.1:{port}");
    let mut argv = vec!["dsi-traffic", mode, "--to", &to, "--timeout-ms", "170000"];
    argv.extend(more);
    cluster.node("colby")?.run(&argv)
}

/// The packets with this port since a mark.
fn packets(cluster: &Cluster, mark: u64, port: u16) -> Result<Vec<Ipv4>, Failure> {
    Ok(of_port(cluster.switch.frames_since(mark)?, port))
}

fn of_port(frames: Vec<pcap::Frame>, port: u16) -> Vec<Ipv4> {
    let wanted = |packet: &Ipv4| {
        packet
            .ports()
            .is_some_and(|(from, to)| from == port || to == port)
    };
    frames
        .iter()
        .filter_map(|frame| frame.ipv4())
        .filter(wanted)
        .collect()
}

/// Checks the label of a packet between these nodes, its code included; returns the ScID.
fn authentic(packet: &Ipv4, from: u32, to: u32, epoch: u8) -> Result<u32, Failure> {
    let Some(label) = Label::of(packet) else {
        return Err(Failure::new(format!("it carries no label: {packet:?}")));
    };
    check_eq!(packet.options[0], OPTION, "first option of {packet:?}");
    check_eq!((label.version, label.flags), (1, 0), "version and flags");
    check_eq!((label.snid, label.epoch), (from, epoch), "SnID and epoch");
    let ports = packet.ports().unwrap_or_default();
    check_eq!(
        label.mac,
        label.expected_mac(packet, ports, &pair_key(from, to, epoch)),
        "code of {label:?}"
    );
    Ok(label.scid)
}

/// Checks every packet of a conversation between colby and munster's port.
fn all_authentic(packets: &[Ipv4], port: u16, epoch: u8, scid: u32) -> TestResult {
    check!(
        packets.len() >= 2,
        "only {} packets were captured",
        packets.len()
    );
    for packet in packets {
        let to_munster = packet.ports().is_some_and(|(_, to)| to == port);
        let (from, to) = if to_munster {
            (COLBY, MUNSTER)
        } else {
            (MUNSTER, COLBY)
        };
        check_eq!(
            authentic(packet, from, to, epoch)?,
            scid,
            "ScID of {packet:?}"
        );
    }
    Ok(())
}

fn udp(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let server = serve(cluster, "udp-server", 7000)?;
    client(cluster, "udp-client", 7000, &["--count", "3"])?.ok()?;
    server.stop()?;
    let packets = packets(cluster, mark, 7000)?;
    check_eq!(packets.len(), 6, "datagrams there and back");
    all_authentic(&packets, 7000, 1, DEFAULT_SCID)
}

fn udp_unconnected(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let server = serve(cluster, "udp-server", 7001)?;
    client(cluster, "udp-client", 7001, &["--unconnected"])?.ok()?;
    server.stop()?;
    all_authentic(&packets(cluster, mark, 7001)?, 7001, 1, DEFAULT_SCID)
}

fn tcp(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let server = serve(cluster, "tcp-server", 7002)?;
    client(cluster, "tcp-client", 7002, &["--count", "3"])?.ok()?;
    server.stop()?;
    let packets = packets(cluster, mark, 7002)?;
    check!(
        packets.len() >= 8,
        "a conversation of {} segments",
        packets.len()
    );
    for packet in &packets {
        let (from, to) = if packet.ports().is_some_and(|(_, to)| to == 7002) {
            (COLBY, MUNSTER)
        } else {
            (MUNSTER, COLBY)
        };
        let scid = authentic(packet, from, to, 1)?;
        // What the kernel answers for a socket that is gone is the kernel's own.
        let bare = tcp_data_len(packet) == 0;
        check!(
            scid == DEFAULT_SCID || (scid == 0 && bare),
            "ScID {scid} on {packet:?}"
        );
    }
    Ok(())
}

fn tcp_data_len(packet: &Ipv4) -> usize {
    let header = packet
        .payload
        .get(12)
        .map_or(0, |byte| usize::from(byte >> 4) * 4);
    packet.payload.len().saturating_sub(header)
}

fn reset(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    client(cluster, "tcp-client", 7999, &[])?
        .exits_with(10)?
        .says("result=refused")?;
    let packets = packets(cluster, mark, 7999)?;
    let is_reset = |packet: &&Ipv4| {
        packet.protocol == TCP && packet.payload.get(13).is_some_and(|flags| flags & RST != 0)
    };
    let Some(reset) = packets.iter().find(is_reset) else {
        return Err(Failure::new(format!("no reset was captured: {packets:?}")));
    };
    check_eq!(authentic(reset, MUNSTER, COLBY, 1)?, 0, "ScID of a reset");
    Ok(())
}

fn tshark(cluster: &mut Cluster) -> TestResult {
    let server = serve(cluster, "udp-server", 7003)?;
    client(cluster, "udp-client", 7003, &[])?.ok()?;
    server.stop()?;
    let capture = cluster.switch.capture_path();
    let packet = "udp.dstport == 7003";
    let header = run_tshark(
        &capture,
        packet,
        &[
            "-T",
            "fields",
            "-e",
            "ip.hdr_len",
            "-e",
            "ip.checksum.status",
        ],
    )?;
    check_eq!(
        header.trim(),
        "40\t1",
        "header length, and checksum verified"
    );
    let dissected = run_tshark(&capture, packet, &["-V", "-O", "ip"])?;
    check!(
        dissected.contains("(0x9e) (20 bytes)"),
        "no option 158 of 20 octets: {dissected}"
    );
    // The header begins at octet 14 of the frame, its options 20 octets behind that.
    let fields = run_tshark(&capture, packet, &["-T", "pdml"])?;
    let expected = "size=\"20\" pos=\"34\" value=\"9e1410010000000200000002";
    check!(
        fields.contains(expected),
        "no options with {expected}: {fields}"
    );
    Ok(())
}

fn run_tshark(capture: &Path, filter: &str, output: &[&str]) -> Result<String, Fault> {
    let mut command = Command::new("tshark");
    command
        .arg("-r")
        .arg(capture)
        .args(["-o", "ip.check_checksum:TRUE", "-Y", filter])
        .args(output);
    let fault = |detail: String| Fault::Prepare {
        what: "tshark".into(),
        detail,
    };
    let output = command
        .output()
        .map_err(|error| fault(format!("{error}; it is needed: make setup")))?;
    if !output.status.success() {
        return Err(fault(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn scapy(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let server = serve(cluster, "udp-server", 7004)?;
    client(cluster, "udp-client", 7004, &[])?.ok()?;
    server.stop()?;
    let frames = cluster.switch.frames_since(mark)?;
    let request = frames.iter().find(|frame| {
        frame
            .ipv4()
            .and_then(|p| p.ports())
            .is_some_and(|(_, to)| to == 7004)
    });
    let Some(request) = request else {
        return Err(Failure::new("the request was not captured"));
    };
    let munster = cluster.node("munster")?;
    munster.write("/tmp/frame", request.0.clone())?;
    let script = "from scapy.layers.l2 import Ether; from scapy.layers.inet import IP; p = Ether(open('/tmp/frame', 'rb').read())[IP]; \
                  print('ihl', p.ihl, 'options', [(o.copy_flag, o.option, o.length, bytes(o)[4:12].hex()) for o in p.options])";
    let output = munster.run(&["python3", "-c", script])?.ok()?;
    // Copied flag 1, option number 30 of class 0: together 158.
    output.says("ihl 10 options [(1, 30, 20, '0000000200000002')]")?;
    Ok(())
}

fn bulk(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let server = serve(cluster, "tcp-server", 7005)?;
    client(
        cluster,
        "tcp-client",
        7005,
        &["--size", "300000", "--count", "2"],
    )?
    .ok()?;
    server.stop()?;
    let packets = packets(cluster, mark, 7005)?;
    let largest = packets
        .iter()
        .map(|p| 20 + p.options.len() + p.payload.len())
        .max()
        .unwrap_or(0);
    check_eq!(largest, 1500, "octets of the largest packet");
    all_authentic(&packets, 7005, 1, DEFAULT_SCID)
}

fn fragments(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let server = serve(cluster, "udp-server", 7006)?;
    client(cluster, "udp-client", 7006, &["--size", "8000"])?.ok()?;
    server.stop()?;
    let frames = cluster.switch.frames_since(mark)?;
    let parts: Vec<Ipv4> = frames
        .iter()
        .filter_map(|frame| frame.ipv4())
        .filter(|p| p.protocol == UDP)
        .collect();
    check!(
        parts.len() >= 12,
        "8000 octets there and back in {} parts",
        parts.len()
    );
    let bare = parts
        .iter()
        .find(|part| part.option(OPTION).map(<[u8]>::len) != Some(LEN));
    check!(bare.is_none(), "a part carries no label: {bare:?}");
    Ok(())
}

fn loopback(cluster: &mut Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    let dump = munster.spawn(
        "tcpdump",
        &[
            "tcpdump",
            "-i",
            "lo",
            "-U",
            "--immediate-mode",
            "-Z",
            "root",
            "-w",
            "/tmp/lo.pcap",
            "udp",
            "port",
            "7007",
        ],
    )?;
    dump.wait_line("listening on lo")?;
    let server = serve(cluster, "udp-server", 7007)?;
    for to in ["127.0.0.1:7007", "10.77.0.1:7007"] {
        munster
            .run(&[
                "dsi-traffic",
                "udp-client",
                "--to",
                to,
                "--timeout-ms",
                "170000",
            ])?
            .ok()?;
    }
    server.stop()?;
    let copy = cluster.dir().join("lo.pcap");
    let captured = || -> Result<_, Failure> {
        std::fs::write(&copy, munster.read("/tmp/lo.pcap")?)
            .map_err(Fault::host("write", &copy))?;
        let frames = pcap::read(&copy, 0).map_err(Fault::host("read", &copy))?;
        Ok(of_port(frames, 7007))
    };
    // It leaves out what it has not taken yet when it is ended.
    until("the capture", || Ok(captured()?.len() >= 4))?;
    dump.signal(2)?;
    dump.join()?;
    let packets = captured()?;
    check_eq!(
        packets.len(),
        4,
        "datagrams there and back, by both addresses"
    );
    for packet in &packets {
        check_eq!(
            authentic(packet, MUNSTER, MUNSTER, 1)?,
            DEFAULT_SCID,
            "ScID of {packet:?}"
        );
    }
    Ok(())
}

fn zone(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let server = serve(cluster, "udp-server", 7008)?;
    let script = format!(
        "echo \"[\\\"task-set\\\", {{\\\"pid\\\": $$, \\\"scid\\\": 10}}]\" | {YNL_DO} && \
         exec dsi-traffic udp-client --to 10.77.0.1:7008 --timeout-ms 170000"
    );
    cluster.node("colby")?.sh(&script)?.ok()?;
    server.stop()?;
    let packets = packets(cluster, mark, 7008)?;
    check_eq!(packets.len(), 2, "datagrams there and back");
    check_eq!(
        authentic(&packets[0], COLBY, MUNSTER, 1)?,
        10,
        "ScID of the request"
    );
    check_eq!(
        authentic(&packets[1], MUNSTER, COLBY, 1)?,
        DEFAULT_SCID,
        "ScID of the answer"
    );
    Ok(())
}

fn stranger(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let server = serve(cluster, "udp-server", 7009)?;
    let stranger = cluster.node("stranger")?;
    stranger
        .run(&[
            "dsi-traffic",
            "udp-client",
            "--to",
            "10.77.0.1:7009",
            "--timeout-ms",
            "170000",
        ])?
        .ok()?;
    server.stop()?;
    let packets = packets(cluster, mark, 7009)?;
    check_eq!(packets.len(), 2, "datagrams there and back");
    check!(
        packets.iter().all(|packet| packet.options.is_empty()),
        "a packet carries options: {packets:?}"
    );
    Ok(())
}

fn new_epoch(cluster: &mut Cluster) -> TestResult {
    // As in a change of keys: every receiver knows its new secret before anybody stamps with it.
    let members = members(cluster, &NAMES)?;
    for name in NAMES {
        let node = cluster.node(name)?;
        let own = u32::from(node.index);
        let hex: String = secret(own, 2)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        ynl(node, &[serde_json::json!(["key-set", {"epoch": 2, "secret": format!("hex:{hex}"), "active": 0}])])?.ok()?;
    }
    for name in NAMES {
        let node = cluster.node(name)?;
        let own = u32::from(node.index);
        // All but the first request, which gives the node an id that it already has.
        ynl(node, &requests(own, &members, 2)[1..])?.ok()?;
    }
    let mark = cluster.switch.mark();
    let server = serve(cluster, "udp-server", 7010)?;
    client(cluster, "udp-client", 7010, &[])?.ok()?;
    server.stop()?;
    all_authentic(&packets(cluster, mark, 7010)?, 7010, 2, DEFAULT_SCID)
}
