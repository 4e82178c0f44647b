//! Proves that no call on a socket leads out of a zone, whoever makes it: on streams that were inherited, encrypted by the
//! kernel or not, by read, splice, sendfile, without copying and by io_uring; on inherited sockets for datagrams; by
//! threads; and with credentials of somebody else's. Each `...-denied` has a twin `...-ok` with the same steps. No
//! servers; a native helper does the steps.

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::ynl_all;
use crate::fault::Failure;
use crate::node::{Output, Process};
use crate::probe::{
    ALLOWED_MS, DENIED_MS, EACCES, EAGAIN, EPERM, GO, Kind, OUTSIDE, OUTSIDE6, PLAIN, PLAIN6,
    enforce, fails, nodes, policy, process_rule, program, run, setup, socket_rule, start,
};
use crate::regime::{self, Counters, Denial, Regime, network, until};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "calls",
    proves: "no call on a socket leads out of a zone, whoever makes it",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup: setup_beside_older,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "stream-of-another-zone-denied" => |c| foreign_stream_denied(c, PLAIN, &[&READS, &WRITES]),
    "stream-of-the-own-zone-ok" => |c| own_stream(c, PLAIN, &[&READS, &WRITES]),
    "ipv6-stream-of-another-zone-denied" => |c| foreign_stream_denied(c, PLAIN6, &[&READS, &WRITES]),
    "ipv6-stream-of-the-own-zone-ok" => |c| own_stream(c, PLAIN6, &[&READS, &WRITES]),
    "ktls-stream-of-another-zone-denied" => |c| foreign_stream_denied(c, KTLS, &[&KTLS_WAYS]),
    "ktls-stream-of-the-own-zone-ok" => |c| own_stream(c, KTLS, &[&KTLS_WAYS]),
    "ktls-stream-to-another-zone-denied" => |c| ktls_denied(c, KTLS),
    "ipv6-ktls-stream-of-another-zone-denied" => |c| foreign_stream_denied(c, KTLS6, &[&KTLS_WAYS]),
    "ipv6-ktls-stream-of-the-own-zone-ok" => |c| own_stream(c, KTLS6, &[&KTLS_WAYS]),
    "ipv6-ktls-stream-to-another-zone-denied" => |c| ktls_denied(c, KTLS6),
    "stream-of-another-zone-by-permission-ok" => |c| foreign_stream_allowed(c, PLAIN),
    "ipv6-stream-of-another-zone-by-permission-ok" => |c| foreign_stream_allowed(c, PLAIN6),
    "datagrams-of-another-zone-denied" => |c| foreign_datagrams(c, PLAIN, "20", false),
    "datagrams-of-another-zone-by-permission-ok" => |c| foreign_datagrams(c, PLAIN, "20", true),
    "datagrams-of-the-own-zone-ok" => |c| foreign_datagrams(c, PLAIN, "10", true),
    "ipv6-datagrams-of-another-zone-denied" => |c| foreign_datagrams(c, PLAIN6, "20", false),
    "ipv6-datagrams-of-another-zone-by-permission-ok" => |c| foreign_datagrams(c, PLAIN6, "20", true),
    "ipv6-datagrams-of-the-own-zone-ok" => |c| foreign_datagrams(c, PLAIN6, "10", true),
    "message-of-a-thread-to-another-zone-denied" => |c| of_thread(c, PLAIN, None, "20"),
    "message-of-a-thread-within-its-zone-ok" => |c| of_thread(c, PLAIN, None, "10"),
    "message-of-a-thread-over-ipv6-to-another-zone-denied" => |c| of_thread(c, PLAIN6, None, "20"),
    "message-of-a-thread-over-ipv6-within-its-zone-ok" => |c| of_thread(c, PLAIN6, None, "10"),
    "message-of-a-thread-beside-one-that-was-given-another-zone-denied" => |c| of_thread(c, PLAIN, Some(20), "10"),
    "message-of-a-thread-beside-one-that-was-given-its-zone-ok" => |c| of_thread(c, PLAIN, Some(10), "10"),
    "exec-by-a-thread-without-transition-denied" => |c| exec_by_thread(c, "20", "10"),
    "exec-by-a-thread-with-transition-ok" => |c| exec_by_thread(c, "10", "20"),
    "process-older-than-the-module-to-a-zone-denied" => |c| older(c, 0),
    "process-older-than-the-module-is-the-default-zone's-ok" => |c| older(c, 1),
    "io-uring-to-another-zone-denied" => |c| uring_denied(c, PLAIN),
    "io-uring-within-a-zone-ok" => |c| uring_allowed(c, PLAIN),
    "io-uring-over-ipv6-to-another-zone-denied" => |c| uring_denied(c, PLAIN6),
    "io-uring-over-ipv6-within-a-zone-ok" => |c| uring_allowed(c, PLAIN6),
    "socket-handed-over-by-io-uring-to-another-zone-denied" => |c| handed_by_ring(c, PLAIN, "20", &[]),
    "socket-handed-over-by-io-uring-by-permission-ok" => |c| handed_by_ring(c, PLAIN, "20", &["send receive"]),
    "socket-handed-over-by-io-uring-within-a-zone-ok" => |c| handed_by_ring(c, PLAIN, "10", &[]),
    "ipv6-socket-handed-over-by-io-uring-to-another-zone-denied" => |c| handed_by_ring(c, PLAIN6, "20", &[]),
    "ipv6-socket-handed-over-by-io-uring-within-a-zone-ok" => |c| handed_by_ring(c, PLAIN6, "10", &[]),
    "io-uring-by-earlier-credentials-denied" => |c| earlier_credentials(c, "10", "", EPERM),
    "io-uring-by-earlier-credentials-of-default-ok" => |c| earlier_credentials(c, "2", "", 0),
    "io-uring-by-earlier-credentials-by-permission-ok" => |c| earlier_credentials(c, "10", SYS_ADMIN, 0),
    "io-uring-by-inherited-credentials-of-another-zone-denied" => |c| inherited_credentials(c, "10", EACCES),
    "io-uring-by-inherited-credentials-of-the-own-zone-ok" => |c| inherited_credentials(c, "2", 0),
    "inherited-sqpoll-ring-of-another-zone-denied" => |c| inherited_thread(c, &[("10", "20"), ("2", "10")]),
    "inherited-sqpoll-ring-of-the-own-zone-ok" => |c| inherited_thread(c, &[("10", "10")]),
    "io-uring-makes-packet-socket-denied" => |c| ring_makes_packet_socket(c, false),
    "io-uring-makes-packet-socket-by-permission-ok" => |c| ring_makes_packet_socket(c, true),
    "io-uring-connects-outside-denied" => |c| ring_connects_outside(c, false),
    "io-uring-connects-outside-ok" => |c| ring_connects_outside(c, true),
    "io-uring-labels-a-file-denied" => |c| ring_labels(c, false),
    "io-uring-labels-a-file-ok" => |c| ring_labels(c, true),
    "inherited-listener-of-another-zone-denied" => |c| inherited_listener(c, "20"),
    "inherited-listener-of-the-own-zone-ok" => |c| inherited_listener(c, "10"),
};

/// A descriptor that is closed.
const EBADF: i32 = 9;

/// What reads from and writes to a stream, and what a server's greeting looks like then.
pub(super) const READS: [&str; 6] = [
    "recv,a",
    "read,a",
    "splice,a",
    "map,a",
    "ring,r,0 ringrecv,r,a",
    "ring,r,0 ringsplice,r,a",
];
pub(super) const WRITES: [&str; 5] = [
    "send,a,more",
    "zerocopy,a,more",
    "sendfile,a,/etc/hostname",
    "ring,r,0 ringsend,r,a,more",
    "ring,r,2 ringsend,r,a,more",
];
/// An end that is closed with the greeting unread resets the connection, and what it has written may be lost.
const TAKES_GREETING: &str = "recv,a";

const KTLS: Kind = Kind {
    begin: "ktls",
    ..PLAIN
};
const KTLS6: Kind = Kind {
    begin: "ktls",
    ..PLAIN6
};
/// What the kernel's TLS has: neither MSG_ZEROCOPY nor TCP_ZEROCOPY_RECEIVE.
const KTLS_WAYS: [&str; 7] = [
    "recv,a",
    "read,a",
    "splice,a",
    "ring,r,0 ringrecv,r,a",
    "send,a,more",
    "sendfile,a,/etc/hostname",
    "ring,r,0 ringsend,r,a,more",
];

/// A process of zone 10 connects, and a program of another zone goes on with its stream, once for each of these.
fn streams(
    cluster: &Cluster,
    kind: &Kind,
    zone: &str,
    ways: &[&str],
    mut judge: impl FnMut(&str, Output, &Process) -> TestResult,
) -> TestResult {
    let (munster, colby) = nodes(cluster)?;
    for way in ways {
        let then = if reads(way) { "" } else { TAKES_GREETING };
        let server = kind.greeter(colby)?;
        let output = run(
            munster,
            "10",
            &format!(
                "socket,a,{},1,0 connect,a,{}:7015 {} keep,a,9 exec,{} fd,a,9 {way} {then}",
                kind.family,
                kind.colby,
                kind.begin("a"),
                program(zone)
            ),
        )?;
        judge(way, output, &server)?;
    }
    Ok(())
}

pub(super) fn foreign_stream_denied(
    cluster: &mut Cluster,
    kind: Kind,
    ways: &[&[&str]],
) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    streams(cluster, &kind, "20", &ways.concat(), |way, output, _| {
        let step = way.split_whitespace().last().unwrap_or(way);
        let verb = step.split(',').next().unwrap_or(step);
        fails(output, verb, EACCES)
    })
}

fn reads(way: &str) -> bool {
    READS.contains(&way)
}

/// What is read is the greeting, and what is written gets there, under the label that the flow began with.
fn passes(way: &str, output: Output, server: &Process) -> TestResult {
    let output = output.ok()?;
    if reads(way) {
        output.says("ok greeting")?;
    } else {
        server.wait_line("recv ok ")?;
    }
    Ok(())
}

pub(super) fn own_stream(cluster: &mut Cluster, kind: Kind, ways: &[&[&str]]) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    let before = Counters::of(colby)?;
    streams(cluster, &kind, "10", &ways.concat(), passes)?;
    let refusals = Counters::of(colby)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// An encrypted connection is one like others: its zone is judged when it begins, and again when the policy changes.
fn ktls_denied(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let _server = kind.greeter(colby)?;
    let mark = colby.kernel_mark();
    run(
        munster,
        "20",
        &format!(
            "socket,a,{},1,0 timeout,a,{DENIED_MS} connect,a,{}:7015",
            kind.family, kind.colby
        ),
    )?
    .exits_with(12)?
    .says("connect errno=")?;
    Denial::wait(colby, mark, "denied sscid=20 ssnid=1 tscid=10 tsnid=2 tcp")?
        .says("reason", "no-permission")?;
    // Between zones by permission, until that is withdrawn.
    let with = policy(&[&network("20", "", "10", "connect")]);
    enforce(cluster, &with)?;
    let client = start(
        munster,
        "ktls-withdrawn",
        "20",
        &format!(
            "socket,a,{},1,0 connect,a,{}:7015 ktls,a recv,a say,ready until,{GO} recv,a",
            kind.family, kind.colby
        ),
    )?;
    let before = Counters::of(colby)?;
    regime::kept::<Regime>(cluster)?.enforce(colby, &policy(&[]))?;
    Counters::wait_aborted(colby, &before, 1)?;
    munster.write(GO, "")?;
    check_eq!(client.join()?, Some(12), "{}", client.output()?);
    Ok(())
}

pub(super) fn foreign_stream_allowed(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(
        cluster,
        &policy(&[&socket_rule("20", "10", "send receive")]),
    )?;
    streams(cluster, &kind, "20", &["splice,a", "send,a,more"], passes)
}

/// What takes a datagram from a socket. The last one is a thread of the process'.
const TAKES: [&str; 4] = ["recv,u", "read,u", "ring,r,0 ringrecv,r,u", "thread recv,u"];

/// Zone 10's socket on colby is inherited by a program of a zone, which takes datagrams from it and sends some.
pub(super) fn foreign_datagrams(
    cluster: &mut Cluster,
    kind: Kind,
    zone: &str,
    granted: bool,
) -> TestResult {
    let use_10 = socket_rule("20", "10", "send receive");
    // A datagram bears the name of who sends it.
    let reach_10 = network("20", "", "10", "send");
    let rules: &[&str] = if granted && zone == "20" {
        &[&use_10, &reach_10]
    } else {
        &[]
    };
    enforce(cluster, &policy(rules))?;
    let (munster, colby) = nodes(cluster)?;
    let answers = format!("send,u,message,{}:7017", kind.munster);
    for (at, way) in TAKES.into_iter().chain([answers.as_str()]).enumerate() {
        let sends = way == answers;
        let name = format!("datagrams-{}-{zone}-{granted}-{at}", kind.family);
        let listener = start(
            munster,
            &format!("{name}-listener"),
            "10",
            &format!(
                "socket,u,{},2,0 bind,u,{}:7017 say,ready recv,u",
                kind.family, kind.any
            ),
        )?;
        let holder = start(
            colby,
            &name,
            "10",
            &format!(
                "socket,u,{},2,0 bind,u,{}:7016 keep,u,9 exec,{} fd,u,9 say,ready until,{GO} {way}",
                kind.family,
                kind.any,
                program(zone)
            ),
        )?;
        let message = format!(
            "socket,u,{},2,0 send,u,greeting,{}:7016",
            kind.family, kind.colby
        );
        run(munster, "10", &message)?.ok()?;
        let mark = colby.kernel_mark();
        colby.write(GO, "")?;
        let code = holder.join()?;
        let said = holder.output()?;
        if !granted {
            check_eq!(code, Some(12), "{way}: {said}");
            check!(
                said.ends_with(&format!("errno={EACCES}\n")),
                "{way}: {said}"
            );
            let permission = if sends { "send" } else { "receive" };
            Denial::wait(colby, mark, "denied sscid=20 ssnid=2 tscid=10 tsnid=2")?
                .says("perm", permission)?;
            check!(listener.is_running()?, "{}", listener.output()?);
        } else {
            check_eq!(code, Some(0), "{way}: {said}");
            if sends {
                listener.wait_line("recv ok message")?;
            } else {
                check!(said.ends_with("ok greeting\n"), "{way}: {said}");
            }
        }
        listener.stop()?;
    }
    Ok(())
}

/// A thread of zone 10's on munster sends to a zone on colby; before that, its process is given a zone by way of the
/// thread itself.
pub(super) fn of_thread(
    cluster: &mut Cluster,
    kind: Kind,
    given: Option<u32>,
    to: &str,
) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let name = format!("thread-{}-{}-{to}", kind.family, given.unwrap_or_default());
    let receiver = start(
        colby,
        &format!("{name}-receiver"),
        to,
        &format!(
            "socket,u,{},2,0 bind,u,{}:70{to} say,ready thread recv,u",
            kind.family, kind.any
        ),
    )?;
    let sender = start(
        munster,
        &name,
        "10",
        &format!(
            "thread say,ready until,{GO} socket,u,{},2,0 send,u,message,{}:70{to}",
            kind.family, kind.colby
        ),
    )?;
    if let Some(given) = given {
        let said = sender.output()?;
        let thread = said
            .lines()
            .find_map(|line| line.strip_prefix("thread ok ")?.parse::<i32>().ok());
        let thread = thread.ok_or_else(|| Failure::new(said))?;
        check!(thread != sender.pid(), "it is the first thread");
        let set = serde_json::json!(["task-set", {"pid": sender.pid(), "scid": given}]);
        let get = serde_json::json!(["task-get", {"pid": thread}]);
        let answers = ynl_all(munster, &[set, get])?;
        check_eq!(
            answers.last().map(|answer| answer["scid"].clone()),
            Some(given.into()),
            "ScID of the thread"
        );
    }
    let (mark, before) = (colby.kernel_mark(), Counters::of(colby)?);
    munster.write(GO, "")?;
    check_eq!(sender.join()?, Some(0), "{}", sender.output()?);
    let zone = given.unwrap_or(10).to_string();
    if zone == to {
        receiver.wait_line("recv ok message")?;
        let refusals = Counters::of(colby)?.refusals(&before)?;
        check!(refusals.is_empty(), "refused: {refusals:?}");
        return Ok(());
    }
    let head = format!("denied sscid={zone} ssnid=1 tscid={to} tsnid=2 udp");
    Denial::wait(colby, mark, &head)?.says("reason", "no-permission")?;
    check!(receiver.is_running()?, "it ended: {}", receiver.output()?);
    Ok(())
}

/// A thread that is not the first one of its process executes a program of another zone, which then is all of it.
pub(super) fn exec_by_thread(cluster: &mut Cluster, from: &str, to: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let receiver = start(
        colby,
        &format!("exec-by-thread-{to}"),
        to,
        &format!("socket,u,2,2,0 bind,u,0.0.0.0:70{to} say,ready recv,u"),
    )?;
    let mark = munster.kernel_mark();
    let steps = format!(
        "thread exec,{} socket,u,2,2,0 send,u,message,{}:70{to}",
        program(to),
        colby.ip
    );
    let output = run(munster, from, &steps)?;
    if to == "20" {
        output.ok()?;
        receiver.wait_line("recv ok message")?;
        return Ok(());
    }
    fails(output, "exec", EACCES)?;
    Denial::wait(munster, mark, "denied sscid=20 ssnid=1 tscid=10 tsnid=1")?.says("perm", "execute")
}

/// Sends by io_uring: by the process itself, by its kernel thread, and with registered credentials.
const RINGS: [&str; 3] = [
    "ring,r,0 ringsend,r,u,message",
    "ring,r,2 ringsend,r,u,message",
    "ring,r,0 personality,r ringsendas,r,u,message,1",
];

fn uring(cluster: &Cluster, kind: &Kind, port: &str, way: &str) -> TestResult {
    let (munster, _) = nodes(cluster)?;
    run(
        munster,
        "10",
        &format!(
            "socket,u,{},2,0 connect,u,{}:{port} {way}",
            kind.family, kind.colby
        ),
    )?
    .ok()?;
    Ok(())
}

pub(super) fn uring_denied(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    let receiver = start(
        colby,
        &format!("uring-20-{}", kind.family),
        "20",
        &format!(
            "socket,u,{},2,0 bind,u,{}:7021 say,ready until,{GO} timeout,u,50 recv,u",
            kind.family, kind.any
        ),
    )?;
    for way in RINGS {
        let before = Counters::of(colby)?;
        uring(cluster, &kind, "7021", way)?;
        until("the refusal", || {
            Ok(Counters::of(colby)?.rise(&before, "refused-no-permission")? == 1)
        })?;
    }
    colby.write(GO, "")?;
    receiver.join()?;
    let said = receiver.output()?;
    check!(said.ends_with(&format!("recv errno={EAGAIN}\n")), "{said}");
    Ok(())
}

pub(super) fn uring_allowed(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    for way in RINGS {
        let receiver = start(
            colby,
            "uring-10",
            "10",
            &format!(
                "socket,u,{},2,0 bind,u,{}:7011 say,ready recv,u",
                kind.family, kind.any
            ),
        )?;
        uring(cluster, &kind, "7011", way)?;
        receiver.wait_line("recv ok message")?;
        receiver.join()?;
    }
    Ok(())
}

const SYS_ADMIN: &str =
    "<system_permission><source_ScID>10</source_ScID><grant>sys_admin</grant></system_permission>";
/// A file whose attributes can be set.
const FILE: &str = "/dev/shm/of-default";

/// Sets an attribute of the administrators' through a ring that has somebody's credentials, and expects this of it.
fn set_trusted(cluster: &Cluster, zone: &str, steps: &str, errno: i32) -> TestResult {
    let (munster, _) = nodes(cluster)?;
    munster.run(&["touch", FILE])?.ok()?;
    let output = run(munster, zone, steps)?;
    let came = if errno == 0 {
        "ringtrusted ok".to_owned()
    } else {
        format!("ringtrusted errno={errno}")
    };
    check!(
        output.stdout.contains(&came),
        "expected '{came}' of {steps} in zone {zone}: {}",
        output.describe()
    );
    munster
        .run(&["setfattr", "-h", "-x", "trusted.dsi-test", FILE])?
        .exits_with(i32::from(errno != 0))?;
    Ok(())
}

/// What a process could before it changed its credentials, its zone must be granted all the same.
fn earlier_credentials(cluster: &Cluster, zone: &str, rule: &str, errno: i32) -> TestResult {
    enforce(cluster, &policy(&[rule]))?;
    let steps = format!("ring,r,0 personality,r newcreds ringtrusted,r,{FILE},1");
    set_trusted(cluster, zone, &steps, errno)
}

/// The default zone's credentials in a ring that it leaves open for a program of a zone.
fn inherited_credentials(cluster: &Cluster, zone: &str, errno: i32) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let steps = format!(
        "ring,r,0 personality,r ringkeep,r,9 exec,{} ringof,r,9 ringtrusted,r,{FILE},1",
        program(zone)
    );
    set_trusted(cluster, "2", &steps, errno)
}

/// A process makes a ring whose thread takes up requests, and a socket, and lives on while a program that its child executes
/// has the thread send on the socket. Pairs are the zones of both.
fn inherited_thread(cluster: &Cluster, pairs: &[(&str, &str)]) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    for &(maker, child) in pairs {
        let receiver = start(
            colby,
            &format!("sqpoll-{maker}-{child}"),
            "10",
            &format!(
                "socket,u,2,2,0 bind,u,0.0.0.0:7011 say,ready until,{GO} timeout,u,{} recv,u",
                if maker == child { ALLOWED_MS } else { "50" }
            ),
        )?;
        let (mark, before) = (munster.kernel_mark(), Counters::of(munster)?);
        let output = run(
            munster,
            maker,
            &format!(
                "socket,u,2,2,0 connect,u,{}:7011 keep,u,8 place,message ring,r,2 ringkeep,r,9 ringkeep,r,11 ring,o,0 \
                 ringkeep,o,10 fork exec,{} fd,u,8 ringof,o,10 ringof,r,11 ringof,r,9 ringsendplaced,r,u,7",
                colby.ip,
                program(child)
            ),
        )?;
        colby.write(GO, "")?;
        let code = receiver.join()?;
        let said = receiver.output()?;
        if maker == child {
            output.ok()?;
            check!(said.ends_with("recv ok message\n"), "{said}");
            let refusals = Counters::of(munster)?.refusals(&before)?;
            check!(refusals.is_empty(), "refused: {refusals:?}");
            continue;
        }
        check_eq!(code, Some(12), "{said}");
        check!(said.ends_with(&format!("recv errno={EAGAIN}\n")), "{said}");
        // It keeps the ring whose requests it takes up itself.
        fails(output.says("ringof ok")?, "ringof", EBADF)?;
        let head = format!("denied sscid={maker} ssnid=1 tscid={child} tsnid=1 perm=execute");
        let denial = Denial::wait(munster, mark, &head)?;
        denial.says("reason", "unsafe-exec")?;
        denial.says("hook", "bprm_committed_creds")?;
        let told = munster.kernel_lines_since(mark);
        let told = told.iter().filter(|line| line.contains(&head)).count();
        check_eq!(told, 1, "lines of two such rings");
    }
    Ok(())
}

/// Rings of a process' own: it takes their requests up itself, or a thread of its own does.
const OWN_RINGS: [&str; 2] = ["ring,r,0", "ring,r,2"];

fn ring_makes_packet_socket(cluster: &Cluster, granted: bool) -> TestResult {
    let rule = socket_rule("10", "10", "create_unmediated");
    let rules: &[&str] = if granted { &[&rule] } else { &[] };
    enforce(cluster, &policy(rules))?;
    let (munster, _) = nodes(cluster)?;
    for ring in OWN_RINGS {
        let mark = munster.kernel_mark();
        let output = run(munster, "10", &format!("{ring} ringsocket,r,p,17,3,0"))?;
        if granted {
            output.ok()?.says("ringsocket ok")?;
        } else {
            fails(output, "ringsocket", EACCES)?;
            Denial::wait(munster, mark, "denied sscid=10 ssnid=1 tscid=10 tsnid=1")?
                .says("perm", "create_unmediated")?;
        }
    }
    Ok(())
}

/// By TCP and UDP, each over IPv4 and IPv6.
fn ring_connects_outside(cluster: &Cluster, granted: bool) -> TestResult {
    let rule = network("10", "", "outside", "send receive connect");
    // Where the connection comes from is no node's label to colby's module either: it goes bare.
    let heard = network("outside", "", "10", "send receive connect");
    let rules: &[&str] = if granted { &[&rule, &heard] } else { &[] };
    enforce(cluster, &policy(rules))?;
    let (munster, colby) = nodes(cluster)?;
    for (kind, outside) in [(PLAIN, OUTSIDE), (PLAIN6, OUTSIDE6)] {
        let at = if outside.contains(':') {
            format!("[{outside}]")
        } else {
            outside.to_owned()
        };
        for (at_once, ring) in OWN_RINGS.into_iter().enumerate() {
            let listener = start(
                colby,
                &format!("ring-outside-{}-{granted}-{at_once}", kind.family),
                "10",
                &format!(
                    "socket,l,{},1,0 option,l,1,2,1 bind,l,{}:7018 listen,l say,ready accept,c,l",
                    kind.family, kind.any
                ),
            )?;
            let mark = munster.kernel_mark();
            for socket in ["1", "2"] {
                let output = run(
                    munster,
                    "10",
                    &format!(
                        "socket,s,{},{socket},0 timeout,s,{ALLOWED_MS} {ring} ringconnect,r,s,{at}:7018",
                        kind.family
                    ),
                )?;
                if granted {
                    output.ok()?.says("ringconnect ok")?;
                } else {
                    fails(output, "ringconnect", EACCES)?;
                }
            }
            if granted {
                listener.wait_line("accept ok")?;
                listener.join()?;
            } else {
                Denial::wait(
                    munster,
                    mark,
                    "denied sscid=10 ssnid=1 tscid=outside tsnid=0",
                )?
                .says("hook", "socket_connect")?;
                check!(listener.is_running()?, "{}", listener.output()?);
                listener.stop()?;
            }
        }
    }
    Ok(())
}

fn ring_labels(cluster: &Cluster, granted: bool) -> TestResult {
    let rule =
        "<system_permission><source_ScID>10</source_ScID><grant>label</grant></system_permission>";
    let rules: &[&str] = if granted { &[rule] } else { &[] };
    enforce(cluster, &policy(rules))?;
    let (munster, _) = nodes(cluster)?;
    for ring in OWN_RINGS {
        munster.sh(&format!("rm -f {FILE}; touch {FILE}"))?.ok()?;
        let output = run(munster, "10", &format!("{ring} ringlabel,r,{FILE},20"))?;
        let label = munster.run(&["getfattr", "--only-values", "-n", "security.dsi", FILE])?;
        if granted {
            output.ok()?;
            check_eq!(label.ok()?.stdout, "20", "label");
        } else {
            fails(output, "ringlabel", EPERM)?;
            label.exits_with(1)?;
        }
    }
    Ok(())
}

/// A program of a zone takes a connection from zone 10's listener, by itself and by a ring.
fn inherited_listener(cluster: &Cluster, zone: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    for (at, way) in ["accept,c,l", "ring,r,0 ringaccept,r,c,l"]
        .into_iter()
        .enumerate()
    {
        let mark = colby.kernel_mark();
        let holder = start(
            colby,
            &format!("listener-{zone}-{at}"),
            "10",
            &format!(
                "socket,l,2,1,0 option,l,1,2,1 bind,l,0.0.0.0:7013 listen,l keep,l,9 exec,{} fd,l,9 say,ready until,{GO} {way}",
                program(zone)
            ),
        )?;
        let connect = format!("socket,a,2,1,0 connect,a,{}:7013", colby.ip);
        run(munster, "10", &connect)?.ok()?;
        colby.write(GO, "")?;
        let code = holder.join()?;
        let said = holder.output()?;
        if zone == "10" {
            check_eq!(code, Some(0), "{way}: {said}");
        } else {
            check_eq!(code, Some(12), "{way}: {said}");
            check!(
                said.ends_with(&format!("accept errno={EACCES}\n")),
                "{way}: {said}"
            );
            Denial::wait(colby, mark, "denied sscid=20 ssnid=2 tscid=10 tsnid=2")?
                .says("perm", "accept")?;
        }
    }
    Ok(())
}

/// Of a process that was there before the module: what it writes, its id, and what it waits for.
const OLDER: [[&str; 3]; 2] = [
    ["/tmp/older0", "/tmp/older0.pid", "/tmp/older0.go"],
    ["/tmp/older1", "/tmp/older1.pid", "/tmp/older1.go"],
];

/// Starts processes before the module is loaded. One will send to zone 10, the other one to its own zone, and from zone 10
/// to zone 10 once it executes a program of that.
fn setup_beside_older(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = nodes(cluster)?;
    let send = |port: &str| format!("socket,u,2,2,0 send,u,message,{}:{port}", colby.ip);
    for ([out, pid, go], steps) in OLDER.into_iter().zip([
        send("7012"),
        format!("{} exec,{} {}", send("7032"), program("10"), send("7012")),
    ]) {
        munster
            .sh(&format!(
                "setsid {} until,{go} {steps} >{out} 2>&1 </dev/null & echo $! >{pid}",
                program("2")
            ))?
            .ok()?;
    }
    setup(cluster)
}

fn older(cluster: &Cluster, which: usize) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let [out, pid, go] = OLDER[which];
    let pid = munster.run(&["cat", pid])?.ok()?.stdout;
    let pid: u32 = pid.trim().parse().map_err(|_| Failure::new(pid))?;
    let asked = ynl_all(munster, &[serde_json::json!(["task-get", {"pid": pid}])])?;
    check_eq!(asked[0]["scid"], 2, "ScID of an older process: {asked:?}");
    let listen = |zone: &str, port: &str| {
        let steps = format!("socket,u,2,2,0 bind,u,0.0.0.0:{port} say,ready recv,u");
        start(colby, &format!("older-{zone}-{which}"), zone, &steps)
    };
    let (default, ten) = (listen("2", "7032")?, listen("10", "7012")?);
    let (mark, before) = (colby.kernel_mark(), Counters::of(colby)?);
    munster.write(go, "")?;
    if which == 0 {
        Denial::wait(colby, mark, "denied sscid=2 ssnid=1 tscid=10 tsnid=2 udp")?
            .says("reason", "no-permission")?;
        check!(ten.is_running()?, "it ended: {}", ten.output()?);
        ten.stop()?;
        default.stop()?;
        return Ok(());
    }
    default.wait_line("recv ok message")?;
    ten.wait_line("recv ok message")?;
    let refusals = Counters::of(colby)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    munster.run(&["cat", out])?.ok()?.says("send ok")?;
    Ok(())
}

/// What is done with a socket that lies in a ring's table of files; the last makes a descriptor of it.
const BY_RING: [&str; 3] = [
    "ringrecvfile,r",
    "ringsendfile,r,message",
    "ringtake,r,t recv,t",
];

/// Zone 10 hands its stream from one ring to another one (IORING_MSG_SEND_FD), which a program of a zone has inherited.
fn handed_by_ring(cluster: &mut Cluster, kind: Kind, zone: &str, granted: &[&str]) -> TestResult {
    let rules: Vec<String> = granted
        .iter()
        .map(|grant| socket_rule(zone, "10", grant) + &process_rule(zone, "10", "use_fd"))
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    enforce(cluster, &policy(&rules))?;
    let (munster, colby) = nodes(cluster)?;
    for way in BY_RING {
        let server = kind.greeter(colby)?;
        let mark = munster.kernel_mark();
        let sends = way.contains("send");
        let output = run(
            munster,
            "10",
            &format!(
                "socket,a,{},1,0 connect,a,{}:7015 ring,a,0 ringfile,a,a ring,r,0 ringroom,r ringhand,a,r ringkeep,r,9 \
                 exec,{} ringof,r,9 {way} {}",
                kind.family,
                kind.colby,
                program(zone),
                if sends { "ringrecvfile,r" } else { "" },
            ),
        )?;
        if zone != "10" && granted.is_empty() {
            let verb = way.split(',').next().unwrap_or(way);
            fails(output, verb, EACCES)?;
            let permission = match verb {
                "ringtake" => "use_fd",
                _ if sends => "send",
                _ => "receive",
            };
            Denial::wait(munster, mark, "denied sscid=20 ssnid=1 tscid=10 tsnid=1")?
                .says("perm", permission)?;
        } else if sends {
            output.ok()?;
            server.wait_line("recv ok message")?;
        } else {
            output.ok()?.says("ok greeting")?;
        }
    }
    Ok(())
}
