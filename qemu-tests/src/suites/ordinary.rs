//! Proves that an ordinary user does not get out of a zone by sockets either, nor by programs that make him root: the ways
//! of the suites `sockets`, `unix` and `calls` that need no root, by the same steps in processes of a user, where it takes
//! one in name spaces of his own; and set-uid programs. No servers.

use super::calls::{
    READS, WRITES, exec_by_thread, foreign_datagrams, foreign_stream_allowed,
    foreign_stream_denied, of_thread, own_stream, uring_allowed, uring_denied,
};
use super::sockets::{OPTIONS, families_allowed, families_denied, namespace, unmediated};
use super::unix::{descriptor, getfd, handed_over, unix_allowed, unix_denied, unix_within};
use crate::check;
use crate::cluster::{Cluster, NodeSpec};
use crate::probe::{
    self, EACCES, EPERM, NAMES, PLAIN, PLAIN6, enforce, fails, nodes, policy, program, run, start,
};
use crate::regime::Denial;
use crate::suite::{Need, Suite, Test, TestResult};
use crate::tests;

/// The suite.
pub const SUITE: Suite = Suite {
    name: "ordinary",
    proves: "no socket leads an ordinary user out of his zone, and no program that makes him root",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "sockets-without-labels-in-an-own-name-space-denied" => |c| families_denied(c, OWN),
    "sockets-without-labels-in-an-own-name-space-of-default-ok" => |c| families_allowed(c, "2", &[], OWN),
    "sockets-without-labels-in-an-own-name-space-by-permission-ok" => |c| families_allowed(c, "10", &[&unmediated()], OWN),
    "ip-options-of-a-zone-denied" => |c| options(c, "10"),
    "ip-options-of-default-ok" => |c| options(c, "2"),
    "ipv6-options-in-an-own-name-space-denied" => |c| options6(c, "10"),
    "ipv6-options-in-an-own-name-space-of-default-ok" => |c| options6(c, "2"),
    "unix-stream-to-another-zone-denied" => |c| unix_denied(c, "1"),
    "unix-stream-by-permission-ok" => |c| unix_allowed(c, "1"),
    "unix-datagram-to-another-zone-denied" => |c| unix_denied(c, "2"),
    "unix-datagram-within-a-zone-ok" => |c| unix_within(c, "2"),
    "descriptor-from-another-zone-denied" => |c| descriptor(c, ""),
    "descriptor-by-permission-ok" => |c| descriptor(c, "use_fd"),
    "datagram-socket-handed-over-to-another-zone-denied" => |c| handed_over(c, PLAIN, "2", false),
    "datagram-socket-handed-over-by-permission-ok" => |c| handed_over(c, PLAIN, "2", true),
    "ipv6-stream-handed-over-to-another-zone-denied" => |c| handed_over(c, PLAIN6, "1", false),
    "ipv6-stream-handed-over-by-permission-ok" => |c| handed_over(c, PLAIN6, "1", true),
    "pidfd-getfd-from-another-zone-denied" => |c| getfd(c, "trace"),
    "pidfd-getfd-by-permission-ok" => |c| getfd(c, "trace use_fd"),
    "stream-of-another-zone-denied" => |c| foreign_stream_denied(c, PLAIN, &[&READS, &WRITES]),
    "stream-of-the-own-zone-ok" => |c| own_stream(c, PLAIN, &[&READS, &WRITES]),
    "ipv6-stream-of-another-zone-denied" => |c| foreign_stream_denied(c, PLAIN6, &[&READS, &WRITES]),
    "ipv6-stream-of-another-zone-by-permission-ok" => |c| foreign_stream_allowed(c, PLAIN6),
    "datagrams-of-another-zone-denied" => |c| foreign_datagrams(c, PLAIN, "20", false),
    "datagrams-of-the-own-zone-ok" => |c| foreign_datagrams(c, PLAIN, "10", true),
    "io-uring-to-another-zone-denied" => |c| uring_denied(c, PLAIN),
    "io-uring-within-a-zone-ok" => |c| uring_allowed(c, PLAIN),
    "io-uring-over-ipv6-to-another-zone-denied" => |c| uring_denied(c, PLAIN6),
    "io-uring-over-ipv6-within-a-zone-ok" => |c| uring_allowed(c, PLAIN6),
    "network-namespace-to-another-zone-denied" => |c| namespace(c, PLAIN, "20"),
    "network-namespace-within-a-zone-ok" => |c| namespace(c, PLAIN, "10"),
    "network-namespace-over-ipv6-to-another-zone-denied" => |c| namespace(c, PLAIN6, "20"),
    "network-namespace-over-ipv6-within-a-zone-ok" => |c| namespace(c, PLAIN6, "10"),
    "message-of-a-thread-to-another-zone-denied" => |c| of_thread(c, PLAIN, None, "20"),
    "message-of-a-thread-within-its-zone-ok" => |c| of_thread(c, PLAIN, None, "10"),
    "exec-by-a-thread-without-transition-denied" => |c| exec_by_thread(c, "20", "10"),
    "exec-by-a-thread-with-transition-ok" => |c| exec_by_thread(c, "10", "20"),
    "message-of-a-set-uid-program-without-label-to-another-zone-denied" => |c| set_uid(c, "plain", "20"),
    "message-of-a-set-uid-program-without-label-within-the-zone-ok" => |c| set_uid(c, "plain", "10"),
    "message-of-a-set-uid-program-of-another-zone-to-the-callers-denied" => |c| set_uid(c, "zone20", "10"),
    "message-of-a-set-uid-program-of-another-zone-within-that-ok" => |c| set_uid(c, "zone20", "20"),
    "set-uid-program-of-another-zone-without-transition-denied" => |c| untransitioned(c, "20", "10"),
    "set-uid-program-of-the-own-zone-ok" => |c| untransitioned(c, "10", "10"),
    "packet-socket-of-a-set-uid-program-without-label-denied" => |c| packets(c, &[]),
    "packet-socket-of-a-set-uid-program-without-label-by-permission-ok" => |c| packets(c, &[&unmediated()]),
};

/// In these, an ordinary user is root.
const OWN: &str = "userns";
const USER: &str = "1000";

fn setup(cluster: &mut Cluster) -> TestResult {
    probe::setup(cluster)?;
    for name in NAMES {
        let node = cluster.node(name)?;
        // Owner and mode go before the label, which a change of the owner would take away.
        for (dir, label) in [("plain", ""), ("zone10", "10"), ("zone20", "20")] {
            let file = set_uid_program(dir);
            node.run(&["install", "-D", "-m", "4755", &program("2"), &file])?
                .ok()?;
            if !label.is_empty() {
                node.run(&["setfattr", "-n", "security.dsi", "-v", label, &file])?
                    .ok()?;
            }
        }
        // Debian's defaults let a user trace his own, and make name spaces.
        node.sh("echo 0 >/proc/sys/kernel/yama/ptrace_scope")?
            .ok()?;
        // From here on the steps are a user's.
        node.write("/etc/dsi-sock-probe.user", USER)?;
    }
    let (munster, _) = nodes(cluster)?;
    run(munster, "10", "ids")?
        .ok()?
        .says(&format!("ids ok {USER} {USER} "))?;
    Ok(())
}

/// Of root's, in the directory of a zone or of none.
fn set_uid_program(dir: &str) -> String {
    format!("/srv/{dir}/set-uid")
}

fn options(cluster: &mut Cluster, zone: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, _) = nodes(cluster)?;
    for kind in ["1", "2"] {
        let output = run(munster, zone, &format!("socket,u,2,{kind},0 {OPTIONS}"))?;
        if zone == "2" {
            output.ok()?;
        } else {
            fails(output, "option", EPERM)?;
        }
    }
    Ok(())
}

fn options6(cluster: &mut Cluster, zone: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, _) = nodes(cluster)?;
    for kind in ["1", "2"] {
        let output = run(
            munster,
            zone,
            &format!("{OWN} socket,u,10,{kind},0 headers,u"),
        )?;
        if zone == "2" {
            output.ok()?;
        } else {
            fails(output, "headers", EPERM)?;
        }
    }
    Ok(())
}

/// A user of zone 10 executes what makes him root, and sends: in whose name is the label's matter alone.
fn set_uid(cluster: &mut Cluster, dir: &str, to: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    for (family, any, address) in [("2", "0.0.0.0", "10.77.0.2"), ("10", "[::]", "[fd77::2]")] {
        let receiver = start(
            colby,
            &format!("set-uid-{dir}-{to}-{family}"),
            to,
            &format!("socket,u,{family},2,0 bind,u,{any}:70{to} say,ready recv,u"),
        )?;
        let mark = colby.kernel_mark();
        let steps = format!(
            "exec,{} ids socket,u,{family},2,0 send,u,message,{address}:70{to}",
            set_uid_program(dir)
        );
        run(munster, "10", &steps)?
            .ok()?
            .says(&format!("ids ok {USER} 0 1"))?;
        let zone = if dir == "plain" { "10" } else { "20" };
        if zone == to {
            receiver.wait_line("recv ok message")?;
            continue;
        }
        let head = format!("denied sscid={zone} ssnid=1 tscid={to} tsnid=2 udp");
        Denial::wait(colby, mark, &head)?.says("reason", "no-permission")?;
        check!(receiver.is_running()?, "it ended: {}", receiver.output()?);
    }
    Ok(())
}

/// What makes a user root is no reason to let him into another zone.
fn untransitioned(cluster: &mut Cluster, from: &str, to: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, _) = nodes(cluster)?;
    let mark = munster.kernel_mark();
    let program = set_uid_program(&format!("zone{to}"));
    let output = run(munster, from, &format!("exec,{program} ids"))?;
    if from == to {
        output.ok()?.says(&format!("ids ok {USER} 0 1"))?;
        return Ok(());
    }
    fails(output, "exec", EACCES)?;
    let head = format!("denied sscid={from} ssnid=1 tscid={to} tsnid=1");
    Denial::wait(munster, mark, &head)?.says("perm", "execute")
}

/// Root by such a program is root of the zone, no more.
fn packets(cluster: &mut Cluster, rules: &[&str]) -> TestResult {
    enforce(cluster, &policy(rules))?;
    let (munster, _) = nodes(cluster)?;
    let program = set_uid_program("plain");
    let output = run(munster, "10", &format!("exec,{program} socket,p,17,3,0"))?;
    if rules.is_empty() {
        return fails(output, "socket", EACCES);
    }
    output.ok().map(drop)
}
