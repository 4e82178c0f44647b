//! Proves that an enforcing policy keeps zones apart and lets each be: allowed and denied twins for UDP
//! and TCP, on one node and across nodes, in both directions; and that what a stranger or a forger
//! sends is refused, and counted by its reason. The policy is `policies/zones.xml`; no servers.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{enrol, load, pair_key, status};
use crate::fault::{Failure, Fault};
use crate::label::{Label, OPTION};
use crate::node::{Node, Output, PATIENCE, Process};
use crate::pcap::{Frame, Ipv4};
use crate::regime::Counters;
use crate::signer::{Signer, image, install, set_anchor};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq};

/// The suite. The stranger has no module and is in nobody's node map.
pub const SUITE: Suite = Suite {
    name: "zones",
    proves: "an enforcing policy keeps zones apart, lets each be, and refuses strangers and forgers by reason",
    nodes: &[
        NodeSpec::new("munster"),
        NodeSpec::new("colby"),
        NodeSpec::new("stranger"),
    ],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: &[
        Test {
            name: "udp-same-node-own-zone-ok",
            run: |c| own_zone(c, "udp", "munster", "munster"),
        },
        Test {
            name: "udp-same-node-other-zone-denied",
            run: |c| other_zone(c, "udp", "munster", "munster"),
        },
        Test {
            name: "udp-colby-to-munster-own-zone-ok",
            run: |c| own_zone(c, "udp", "colby", "munster"),
        },
        Test {
            name: "udp-colby-to-munster-other-zone-denied",
            run: |c| other_zone(c, "udp", "colby", "munster"),
        },
        Test {
            name: "udp-munster-to-colby-own-zone-ok",
            run: |c| own_zone(c, "udp", "munster", "colby"),
        },
        Test {
            name: "udp-munster-to-colby-other-zone-denied",
            run: |c| other_zone(c, "udp", "munster", "colby"),
        },
        Test {
            name: "tcp-same-node-own-zone-ok",
            run: |c| own_zone(c, "tcp", "munster", "munster"),
        },
        Test {
            name: "tcp-same-node-other-zone-denied",
            run: |c| other_zone(c, "tcp", "munster", "munster"),
        },
        Test {
            name: "tcp-colby-to-munster-own-zone-ok",
            run: |c| own_zone(c, "tcp", "colby", "munster"),
        },
        Test {
            name: "tcp-colby-to-munster-other-zone-denied",
            run: |c| other_zone(c, "tcp", "colby", "munster"),
        },
        Test {
            name: "tcp-munster-to-colby-own-zone-ok",
            run: |c| own_zone(c, "tcp", "munster", "colby"),
        },
        Test {
            name: "tcp-munster-to-colby-other-zone-denied",
            run: |c| other_zone(c, "tcp", "munster", "colby"),
        },
        Test {
            name: "unlabelled-binary-to-a-zone-denied",
            run: default_to_zone,
        },
        Test {
            name: "unlabelled-binaries-among-themselves-ok",
            run: default_to_default,
        },
        Test {
            name: "zone-to-default-denied",
            run: zone_to_default,
        },
        Test {
            name: "hosted-zone-from-its-node-ok",
            run: hosted,
        },
        Test {
            name: "hosted-zone-from-another-node-denied",
            run: not_hosted,
        },
        Test {
            name: "stranger-to-default-ok",
            run: stranger_to_default,
        },
        Test {
            name: "stranger-to-zone-denied",
            run: stranger_to_zone,
        },
        Test {
            name: "exact-copy-within-epoch-ok",
            run: |c| replayed(c, "udp", |_| {}, None),
        },
        Test {
            name: "udp-with-forged-code-denied",
            run: |c| replayed(c, "udp", flip_code, Some("bad-mac")),
        },
        Test {
            name: "udp-with-another-zone-under-old-code-denied",
            run: |c| replayed(c, "udp", other_scid, Some("bad-mac")),
        },
        Test {
            name: "udp-of-another-nodes-id-denied",
            run: |c| replayed(c, "udp", other_snid, Some("wrong-source")),
        },
        Test {
            name: "udp-of-unknown-epoch-denied",
            run: |c| replayed(c, "udp", other_epoch, Some("unknown-epoch")),
        },
        Test {
            name: "udp-as-kernel-under-good-code-denied",
            run: |c| replayed(c, "udp", as_kernel, Some("kernel-label")),
        },
        Test {
            name: "udp-without-label-from-a-members-address-denied",
            run: |c| replayed(c, "udp", strip, Some("no-label")),
        },
        Test {
            name: "udp-with-cut-label-denied",
            run: |c| replayed(c, "udp", cut, Some("bad-label")),
        },
        Test {
            name: "tcp-opening-copied-ok",
            run: |c| replayed(c, "tcp", |_| {}, None),
        },
        Test {
            name: "tcp-opening-with-forged-code-denied",
            run: |c| replayed(c, "tcp", flip_code, Some("bad-mac")),
        },
    ],
};

const MEMBERS: [&str; 2] = ["munster", "colby"];
const MUNSTER: u32 = 1;
const COLBY: u32 = 2;
/// How long a client waits for what must not come. What is denied here stays so, however long.
const DENIED_MS: &str = "1500";

fn setup(cluster: &mut Cluster) -> TestResult {
    let signer = Signer::new(cluster.dir(), "signer")?;
    let image = image("zones.xml", 1)?;
    let signature = signer.sign(&image)?;
    for name in MEMBERS {
        let node = cluster.node(name)?;
        load(node, &[])?;
        for zone in ["10", "20", "40"] {
            let program = program(zone);
            node.run(&["install", "-D", "/opt/dsi/bin/dsi-traffic", &program])?
                .ok()?;
            node.run(&["setfattr", "-n", "security.dsi", "-v", zone, &program])?
                .ok()?;
        }
    }
    enrol(cluster, &MEMBERS, 1)?;
    for name in MEMBERS {
        let node = cluster.node(name)?;
        set_anchor(node, &signer)?.ok()?;
        install(node, &image, &signature)?.ok()?;
        check_eq!(status(node)?["mode"], "enforcing", "mode of {name}");
    }
    Ok(())
}

/// The traffic tool with the label of a zone; `2` is the one without a label.
fn program(zone: &str) -> String {
    match zone {
        "2" => "/opt/dsi/bin/dsi-traffic".into(),
        zone => format!("/srv/zone{zone}/dsi-traffic"),
    }
}

fn serve(node: &Node, zone: &str, protocol: &str) -> Result<Process, Failure> {
    let mode = format!("{protocol}-server");
    let name = format!("zone{zone}-{mode}");
    let server = node.spawn(&name, &[&program(zone), &mode, "--bind", "0.0.0.0:7100"])?;
    server.wait_line("serving")?;
    Ok(server)
}

fn client(
    node: &Node,
    zone: &str,
    protocol: &str,
    to: &Node,
    timeout_ms: &str,
) -> Result<Output, Fault> {
    let (mode, to) = (format!("{protocol}-client"), format!("{}:7100", to.ip));
    node.run(&[
        &program(zone),
        &mode,
        "--to",
        &to,
        "--timeout-ms",
        timeout_ms,
    ])
}

/// Fails unless the client was refused or got nothing.
fn refused(output: Output) -> TestResult {
    match output.code {
        Some(10..=12) => Ok(()),
        _ => Err(Failure::new(format!(
            "expected no way through: {}",
            output.describe()
        ))),
    }
}

fn own_zone(cluster: &mut Cluster, protocol: &str, from: &str, to: &str) -> TestResult {
    let (from, to) = (cluster.node(from)?, cluster.node(to)?);
    for zone in ["10", "20"] {
        let server = serve(to, zone, protocol)?;
        client(from, zone, protocol, to, "60000")?
            .ok()?
            .says("result=ok sent=1 answered=1 lost=0")?;
        server.stop()?;
    }
    Ok(())
}

fn other_zone(cluster: &mut Cluster, protocol: &str, from: &str, to: &str) -> TestResult {
    let (from, to) = (cluster.node(from)?, cluster.node(to)?);
    for (zone, other) in [("10", "20"), ("20", "10")] {
        let server = serve(to, other, protocol)?;
        let mark = to.kernel_mark();
        refused(client(from, zone, protocol, to, DENIED_MS)?)?;
        // The receiver's kernel refuses it, and says whose packet it was and whose socket.
        let expected = format!(
            "denied sscid={zone} ssnid={} tscid={other} tsnid={}",
            from.index, to.index
        );
        to.wait_kernel_line(mark, &expected)?;
        check!(
            server.is_running()?,
            "the server ended: {}",
            server.output()?
        );
        server.stop()?;
    }
    Ok(())
}

fn default_to_zone(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let server = serve(munster, "10", "udp")?;
    let mark = munster.kernel_mark();
    refused(client(colby, "2", "udp", munster, DENIED_MS)?)?;
    munster.wait_kernel_line(mark, "denied sscid=2 ssnid=2 tscid=10 tsnid=1")?;
    server.stop()?;
    Ok(())
}

fn default_to_default(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    for protocol in ["udp", "tcp"] {
        let server = serve(munster, "2", protocol)?;
        client(colby, "2", protocol, munster, "60000")?.ok()?;
        server.stop()?;
    }
    Ok(())
}

fn zone_to_default(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    for protocol in ["udp", "tcp"] {
        let server = serve(munster, "2", protocol)?;
        refused(client(colby, "10", protocol, munster, DENIED_MS)?)?;
        server.stop()?;
    }
    Ok(())
}

fn hosted(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let server = serve(colby, "10", "udp")?;
    client(munster, "40", "udp", colby, "60000")?.ok()?;
    server.stop()?;
    Ok(())
}

fn not_hosted(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let server = serve(munster, "10", "udp")?;
    refused(client(colby, "40", "udp", munster, DENIED_MS)?)?;
    server.stop()?;
    Ok(())
}

fn stranger_to_default(cluster: &mut Cluster) -> TestResult {
    let (munster, stranger) = (cluster.node("munster")?, cluster.node("stranger")?);
    for protocol in ["udp", "tcp"] {
        let server = serve(munster, "2", protocol)?;
        client(stranger, "2", protocol, munster, "60000")?.ok()?;
        server.stop()?;
    }
    Ok(())
}

fn stranger_to_zone(cluster: &mut Cluster) -> TestResult {
    let (munster, stranger) = (cluster.node("munster")?, cluster.node("stranger")?);
    for protocol in ["udp", "tcp"] {
        let server = serve(munster, "10", protocol)?;
        let before = refusals(munster, "no-label")?;
        let mark = munster.kernel_mark();
        refused(client(stranger, "2", protocol, munster, DENIED_MS)?)?;
        munster.wait_kernel_line(mark, "tscid=10")?;
        check!(
            refusals(munster, "no-label")? > before,
            "{protocol}: refused-no-label has not risen"
        );
        server.stop()?;
    }
    Ok(())
}

fn refusals(node: &Node, reason: &str) -> Result<u64, Failure> {
    Counters::of(node)?.value(&format!("refused-{reason}"))
}

/// Captures the first packet of a conversation of zone 10 between colby and munster, changes it, and
/// puts it on the wire again. Without a reason it must be answered as the first one was; with one, it
/// must be refused for that reason and stay without an answer.
fn replayed(
    cluster: &mut Cluster,
    protocol: &str,
    change: fn(&mut Frame),
    reason: Option<&str>,
) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let mark = cluster.switch.mark();
    let server = serve(munster, "10", protocol)?;
    client(colby, "10", protocol, munster, "60000")?.ok()?;
    let frames = cluster.switch.frames_since(mark)?;
    let is_first = |frame: &&Frame| {
        frame
            .ipv4()
            .and_then(|packet| packet.ports())
            .is_some_and(|(_, to)| to == 7100)
    };
    let mut frame = frames
        .iter()
        .find(is_first)
        .cloned()
        .ok_or_else(|| Failure::new("the conversation was not captured"))?;
    let Some((port, _)) = frame.ipv4().and_then(|packet| packet.ports()) else {
        return Err(Failure::new("the packet has no ports"));
    };
    change(&mut frame);
    mend_checksum(&mut frame);

    let before = reason.map(|reason| refusals(munster, reason)).transpose()?;
    let mark = cluster.switch.mark();
    cluster.switch.inject(&frame.0);
    let answered = || -> Result<bool, Failure> {
        let frames = cluster.switch.frames_since(mark)?;
        let is_answer = |packet: Ipv4| packet.ports() == Some((7100, port));
        Ok(frames
            .iter()
            .filter_map(|frame| frame.ipv4())
            .any(is_answer))
    };
    match (reason, before) {
        (Some(reason), Some(before)) => {
            until(&format!("refused-{reason} to rise"), || {
                Ok(refusals(munster, reason)? > before)
            })?;
            check!(!answered()?, "it was counted as refused, yet answered");
        }
        _ => until("an answer on the wire", answered)?,
    }
    server.stop()?;
    Ok(())
}

/// Asks again and again, with the harness' patience.
fn until(what: &str, mut holds: impl FnMut() -> Result<bool, Failure>) -> TestResult {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if holds()? {
            return Ok(());
        }
        check!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Octet of a frame where the option begins that is the packet's first.
const AT: usize = 14 + 20;

fn flip_code(frame: &mut Frame) {
    frame.0[AT + 19] ^= 1;
}

fn other_scid(frame: &mut Frame) {
    frame.0[AT + 11] = 20;
}

fn other_snid(frame: &mut Frame) {
    frame.0[AT + 7] = MUNSTER as u8;
}

fn other_epoch(frame: &mut Frame) {
    frame.0[AT + 3] = 200;
}

/// As colby could, who has the key: the kernel's ScID on a datagram.
fn as_kernel(frame: &mut Frame) {
    frame.0[AT + 8..AT + 12].fill(0);
    if let Some(packet) = frame.ipv4()
        && let Some(label) = Label::of(&packet)
        && let Some(ports) = packet.ports()
    {
        let code = label.expected_mac(&packet, ports, &pair_key(COLBY, MUNSTER, 1));
        frame.0[AT + 12..AT + 20].copy_from_slice(&code.to_be_bytes());
    }
}

/// No-operation options in the label's place.
fn strip(frame: &mut Frame) {
    frame.0[AT..AT + 20].fill(1);
}

/// A label of 12 octets, and no-operations.
fn cut(frame: &mut Frame) {
    frame.0[AT] = OPTION;
    frame.0[AT + 1] = 12;
    frame.0[AT + 12..AT + 20].fill(1);
}

/// Makes the IPv4 header's checksum right again.
fn mend_checksum(frame: &mut Frame) {
    let header_len = usize::from(frame.0[14] & 15) * 4;
    frame.0[24..26].fill(0);
    let sum: u32 = frame.0[14..14 + header_len]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame.0[24..26].copy_from_slice(&checksum.to_be_bytes());
}
