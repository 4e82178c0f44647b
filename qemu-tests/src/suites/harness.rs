//! Proves the harness itself: two nodes boot a stock kernel, reach each other, do what they are asked,
//! and a kernel that complains is noticed. Needs neither the module nor the servers.

use crate::cluster::{Cluster, NodeSpec};
use crate::fault::Failure;
use crate::suite::{Suite, Test, TestResult, no_setup};
use crate::{check, check_eq};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "harness",
    proves: "two nodes boot, talk, do what they are asked, and a complaining kernel is noticed",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[],
    setup: no_setup,
    tests: &[
        Test {
            name: "stock-kernel-runs-ok",
            run: stock_kernel_runs,
        },
        Test {
            name: "nodes-ping-each-other-ok",
            run: nodes_ping_each_other,
        },
        Test {
            name: "command-with-input-and-environment-ok",
            run: command_is_run,
        },
        Test {
            name: "command-that-hangs-is-killed",
            run: hanging_command_is_killed,
        },
        Test {
            name: "file-round-trip-ok",
            run: file_round_trip,
        },
        Test {
            name: "background-program-is-followed-and-stopped",
            run: background_program,
        },
        Test {
            name: "overlay-keeps-the-label-xattr-ok",
            run: overlay_keeps_xattr,
        },
        Test {
            name: "udp-and-tcp-cross-the-network-ok",
            run: traffic_crosses,
        },
        Test {
            name: "nobody-listens-refused",
            run: nobody_listens,
        },
        Test {
            name: "unplugged-node-timed-out",
            run: unplugged,
        },
        Test {
            name: "telecom-client-gets-its-quote-ok",
            run: telecom_client,
        },
        Test {
            name: "entry-point-outlives-its-back-end-ok",
            run: entry_point_survives,
        },
        Test {
            name: "kernel-complaint-is-noticed",
            run: complaint_is_noticed,
        },
    ],
};

/// How long is waited for what must come.
const ALLOWED_MS: &str = "170000";

fn stock_kernel_runs(cluster: &mut Cluster) -> TestResult {
    for node in cluster.nodes() {
        let uname = node.run(&["uname", "-r"])?.ok()?;
        check_eq!(
            uname.stdout.trim(),
            cluster.images.release,
            "{}: release",
            node.name
        );
        check_eq!(
            node.run(&["hostname"])?.ok()?.stdout.trim(),
            node.name,
            "host name"
        );
    }
    Ok(())
}

fn nodes_ping_each_other(cluster: &mut Cluster) -> TestResult {
    for (from, to) in [("munster", "colby"), ("colby", "munster")] {
        cluster
            .node(from)?
            .run(&["ping", "-c", "2", "-W", "60", to])?
            .ok()?
            .says("2 received")?;
    }
    let frames = cluster.switch.frames_since(0)?;
    let (munster, colby) = (cluster.node("munster")?.ip, cluster.node("colby")?.ip);
    let seen = frames
        .iter()
        .filter_map(|frame| frame.ipv4())
        .any(|ip| ip.source == munster && ip.destination == colby);
    check!(
        seen,
        "the capture holds no packet from {munster} to {colby}"
    );
    Ok(())
}

fn command_is_run(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let output = node
        .command(&["sh", "-c", "cat; echo $GREETING >&2; exit 7"])
        .env("GREETING", "hello")
        .stdin("in\n")
        .run()?;
    let output = output.exits_with(7)?;
    check_eq!(output.stdout, "in\n", "standard output");
    check_eq!(output.stderr, "hello\n", "standard error");
    let absent = node.run(&["/no/such/program"])?;
    check!(
        absent.code.is_none() && absent.stderr.contains("errno 2"),
        "{}",
        absent.describe()
    );
    Ok(())
}

fn hanging_command_is_killed(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let hanging = node
        .command(&["sh", "-c", "echo begun; sleep 1000"])
        .timeout(std::time::Duration::from_secs(15))
        .run()?;
    check!(
        hanging.timed_out && hanging.code.is_none(),
        "{}",
        hanging.describe()
    );
    check_eq!(hanging.stdout, "begun\n", "output until then");
    Ok(())
}

fn file_round_trip(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("colby")?;
    let content: Vec<u8> = (0..200_000u32)
        .map(|byte| byte.wrapping_mul(31) as u8)
        .collect();
    node.write_mode("/root/deep/file", content.clone(), 0o600)?;
    check!(
        node.read("/root/deep/file")? == content,
        "the file came back otherwise"
    );
    node.run(&["stat", "-c", "%a", "/root/deep/file"])?
        .ok()?
        .says("600")?;
    check!(
        node.read("/no/such/file").is_err(),
        "a file that is not there was read"
    );
    Ok(())
}

fn background_program(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("colby")?;
    let program = node.spawn(
        "counter",
        &[
            "sh",
            "-c",
            "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done",
        ],
    )?;
    program.wait_line("line 3")?;
    check!(program.is_running()?, "it is not running");
    check_eq!(program.stop()?, None, "exit code of a stopped program");
    let short = node.spawn("short", &["sh", "-c", "echo done; exit 4"])?;
    check_eq!(short.join()?, Some(4), "exit code");
    check!(
        short.wait_line("never").is_err(),
        "a line was seen that was not printed"
    );
    Ok(())
}

fn overlay_keeps_xattr(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let program = "/opt/dsi/bin/TelecomClient";
    node.run(&["setfattr", "-n", "security.dsi", "-v", "30", program])?
        .ok()?;
    node.run(&["getfattr", "--only-values", "-n", "security.dsi", program])?
        .ok()?
        .says("30")?;
    node.run(&["setfattr", "-x", "security.dsi", program])?
        .ok()?;
    Ok(())
}

fn traffic_crosses(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    for (server, client) in [("udp-server", "udp-client"), ("tcp-server", "tcp-client")] {
        let serving = munster.spawn(server, &["dsi-traffic", server, "--bind", "0.0.0.0:7000"])?;
        serving.wait_line("serving")?;
        for node in [munster, colby] {
            let args = [
                "dsi-traffic",
                client,
                "--to",
                "munster:7000",
                "--count",
                "50",
                "--size",
                "1000",
                "--timeout-ms",
                ALLOWED_MS,
            ];
            node.run(&args)?
                .ok()?
                .says("result=ok sent=50 answered=50 lost=0")?;
        }
        serving.stop()?;
    }
    Ok(())
}

fn nobody_listens(cluster: &mut Cluster) -> TestResult {
    let colby = cluster.node("colby")?;
    for client in ["udp-client", "tcp-client"] {
        colby
            .run(&[
                "dsi-traffic",
                client,
                "--to",
                "munster:7999",
                "--timeout-ms",
                ALLOWED_MS,
            ])?
            .exits_with(10)?
            .says("result=refused")?;
    }
    Ok(())
}

fn unplugged(cluster: &mut Cluster) -> TestResult {
    let colby = cluster.node("colby")?;
    let ask = |ms| {
        let to = ["--to", "10.77.0.1:7999", "--timeout-ms", ms];
        colby.run(&[&["dsi-traffic", "udp-client"], &to[..]].concat())
    };
    cluster.switch.set_link("munster", false);
    let output = ask("500");
    cluster.switch.set_link("munster", true);
    output?.exits_with(11)?.says("result=timeout")?;
    ask(ALLOWED_MS)?.exits_with(10)?;
    Ok(())
}

fn telecom_client(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let back_end = munster.spawn("RingBellBE", &["RingBellBE", "-h", "munster", "-p", "9001"])?;
    back_end.wait_line("RINGBELL: bind on 10.77.0.1:9001")?;
    let entry_point = colby.spawn(
        "RingBellEP",
        &[
            "RingBellEP",
            "-h",
            "colby",
            "-p",
            "9000",
            "-b",
            "munster",
            "-r",
            "9001",
            "--timeout-ms",
            "120000",
        ],
    )?;
    entry_point.wait_line("RINGBELL: connect on 10.77.0.1:9001")?;
    let client = colby
        .run(&[
            "TelecomClient",
            "-h",
            "colby",
            "-p",
            "9000",
            "--timeout-ms",
            ALLOWED_MS,
        ])?
        .ok()?;
    client
        .says("Connecting to : 10.77.0.2:9000")?
        .says("Requesting quotation for Ericsson")?
        .says("Quote Ericsson 83")?;
    back_end.wait_line("RINGBELL backend : quotation for Ericsson is 83")?;
    let counted = [
        "TelecomClient",
        "-h",
        "colby",
        "-p",
        "9000",
        "--count",
        "100",
        "--timeout-ms",
        ALLOWED_MS,
    ];
    munster
        .run(&counted)?
        .ok()?
        .says("sent 100 answered 100 lost 0")?;
    entry_point.stop()?;
    back_end.stop()?;
    Ok(())
}

fn entry_point_survives(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let entry_point = colby.spawn(
        "PhoneManiaEP",
        &[
            "PhoneManiaEP",
            "-h",
            "colby",
            "-p",
            "8800",
            "-b",
            "munster",
            "-r",
            "8801",
            "--timeout-ms",
            "10000",
        ],
    )?;
    entry_point.wait_line("connect on")?;
    let request = [
        "TelecomClient",
        "-h",
        "colby",
        "-p",
        "8800",
        "--timeout-ms",
        ALLOWED_MS,
    ];
    colby
        .run(&request)?
        .exits_with(1)?
        .says("no quotation for Ericsson")?;
    let back_end = munster.spawn(
        "PhoneManiaBE",
        &["PhoneManiaBE", "-h", "munster", "-p", "8801"],
    )?;
    back_end.wait_line("bind on")?;
    colby.run(&request)?.ok()?.says("Quote Ericsson 83")?;
    entry_point.stop()?;
    back_end.stop()?;
    Ok(())
}

fn complaint_is_noticed(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let mark = node.kernel_mark();
    node.sh("echo '<4>BUG: dsi-harness made this line up' >/dev/kmsg")?
        .ok()?;
    node.wait_kernel_line(mark, "made this line up")?;
    let complaints = node.new_complaints();
    if complaints.len() != 1 || !complaints[0].contains("made this line up") {
        return Err(Failure::new(format!("noticed: {complaints:?}")));
    }
    check!(
        cluster.node("colby")?.new_complaints().is_empty(),
        "the other node is blamed"
    );
    Ok(())
}
