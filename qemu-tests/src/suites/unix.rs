//! Proves that what the processes of a node say and hand over to each other does not lead out of a zone: AF_UNIX,
//! netlink, descriptors by SCM_RIGHTS and pidfd_getfd, and the use of a socket that was handed over. Each `...-denied`
//! has a twin `...-ok` with the same steps. No servers; a native helper does the steps.

use crate::cluster::{Cluster, NodeSpec};
use crate::fault::Failure;
use crate::node::{Node, Output, Process};
use crate::probe::{
    EACCES, GO, Kind, PLAIN, PLAIN6, enforce, fails, nodes, policy, process_rule, run, setup,
    socket_rule, start,
};
use crate::regime::Denial;
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "unix",
    proves: "no message between processes of a node, and no descriptor handed over, leads out of a zone",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "unix-stream-to-another-zone-denied" => |c| unix_denied(c, "1"),
    "unix-stream-within-a-zone-ok" => |c| unix_within(c, "1"),
    "unix-stream-by-permission-ok" => |c| unix_allowed(c, "1"),
    "unix-seqpacket-to-another-zone-denied" => |c| unix_denied(c, "5"),
    "unix-seqpacket-by-permission-ok" => |c| unix_allowed(c, "5"),
    "unix-datagram-to-another-zone-denied" => |c| unix_denied(c, "2"),
    "unix-datagram-within-a-zone-ok" => |c| unix_within(c, "2"),
    "unix-datagram-by-permission-ok" => |c| unix_allowed(c, "2"),
    "unix-pair-within-a-process-ok" => unix_pair,
    "unix-connection-after-withdrawal-denied" => |c| unix_withdrawn(c, false),
    "unix-connection-under-another-policy-that-grants-it-ok" => |c| unix_withdrawn(c, true),
    "netlink-message-to-another-zone-denied" => |c| netlink(c, false),
    "netlink-message-by-permission-ok" => |c| netlink(c, true),
    "descriptor-from-another-zone-denied" => |c| descriptor(c, ""),
    "descriptor-by-permission-ok" => |c| descriptor(c, "use_fd"),
    "descriptor-within-a-zone-ok" => descriptor_within,
    "datagram-socket-handed-over-to-another-zone-denied" => |c| handed_over(c, PLAIN, "2", false),
    "datagram-socket-handed-over-by-permission-ok" => |c| handed_over(c, PLAIN, "2", true),
    "stream-handed-over-to-another-zone-denied" => |c| handed_over(c, PLAIN, "1", false),
    "stream-handed-over-by-permission-ok" => |c| handed_over(c, PLAIN, "1", true),
    "ipv6-datagram-socket-handed-over-to-another-zone-denied" => |c| handed_over(c, PLAIN6, "2", false),
    "ipv6-datagram-socket-handed-over-by-permission-ok" => |c| handed_over(c, PLAIN6, "2", true),
    "ipv6-stream-handed-over-to-another-zone-denied" => |c| handed_over(c, PLAIN6, "1", false),
    "ipv6-stream-handed-over-by-permission-ok" => |c| handed_over(c, PLAIN6, "1", true),
    "pidfd-getfd-from-another-zone-denied" => |c| getfd(c, "trace"),
    "pidfd-getfd-by-permission-ok" => |c| getfd(c, "trace use_fd"),
};

/// A server of zone 20 on colby's AF_UNIX socket, up to its first message.
fn unix_server(colby: &Node, kind: &str) -> Result<Process, Failure> {
    let accept = if kind == "2" {
        "recv,l"
    } else {
        "listen,l say,ready accept,c,l recv,c"
    };
    start(
        colby,
        &format!("unix-{kind}"),
        "20",
        &format!("socket,l,1,{kind},0 bind,l,@zone20 {accept} say,ready")
            .replace("recv,l say,ready", "say,ready recv,l"),
    )
}

fn unix_client(colby: &Node, zone: &str, kind: &str) -> Result<Output, Failure> {
    run(
        colby,
        zone,
        &format!("socket,a,1,{kind},0 connect,a,@zone20 send,a,message"),
    )
}

pub(super) fn unix_denied(cluster: &mut Cluster, kind: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    let _server = unix_server(colby, kind)?;
    let mark = colby.kernel_mark();
    fails(unix_client(colby, "10", kind)?, "connect", EACCES)?;
    let permission = if kind == "2" {
        "unix_send"
    } else {
        "unix_connect"
    };
    let denial = Denial::wait(colby, mark, "denied sscid=10 ssnid=2 tscid=20 tsnid=2")?;
    denial.says("perm", permission)?;
    denial.says("comm", "dsi-sock-probe")?;
    // Nor by a message to an address, nor for the default zone.
    if kind == "2" {
        let output = run(colby, "10", "socket,a,1,2,0 send,a,message,@zone20")?;
        fails(output, "send", EACCES)?;
    }
    fails(unix_client(colby, "2", kind)?, "connect", EACCES)
}

pub(super) fn unix_within(cluster: &mut Cluster, kind: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    let server = unix_server(colby, kind)?;
    unix_client(colby, "20", kind)?.ok()?;
    server.wait_line("ok message")?;
    Ok(())
}

pub(super) fn unix_allowed(cluster: &mut Cluster, kind: &str) -> TestResult {
    let rule = process_rule("10", "20", "unix_connect unix_send");
    enforce(cluster, &policy(&[&rule]))?;
    let (_, colby) = nodes(cluster)?;
    let server = unix_server(colby, kind)?;
    unix_client(colby, "10", kind)?.ok()?;
    server.wait_line("ok message")?;
    Ok(())
}

fn unix_pair(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    for kind in ["1", "2", "5"] {
        run(
            colby,
            "10",
            &format!("pair,a,b,{kind} send,a,message recv,b"),
        )?
        .ok()?
        .says("recv ok message")?;
    }
    Ok(())
}

/// Zone 10 is connected to zone 20 when another policy comes into force. Neither end sends any more, unless it grants
/// the connection, too.
fn unix_withdrawn(cluster: &mut Cluster, granted: bool) -> TestResult {
    let connect = process_rule("10", "20", "unix_connect");
    let both = process_rule("10", "20", "unix_connect unix_send");
    enforce(cluster, &policy(&[&connect]))?;
    let (_, colby) = nodes(cluster)?;
    for (kind, name) in [("1", "stream"), ("5", "seqpacket")] {
        let mark = colby.kernel_mark();
        enforce(cluster, &policy(&[&connect]))?;
        let server = start(
            colby,
            &format!("withdrawn-server-{name}-{granted}"),
            "20",
            &format!(
                "socket,l,1,{kind},0 bind,l,@{name}{granted} listen,l say,ready accept,c,l recv,c send,c,first until,{GO} send,c,second recv,c"
            ),
        )?;
        // Each takes the other's message before it ends: no one sends to an end that is gone.
        let client = format!("withdrawn-client-{name}-{granted}");
        let steps = format!(
            "socket,s,1,{kind},0 connect,s,@{name}{granted} send,s,question recv,s say,ready until,{GO} send,s,another recv,s"
        );
        let client = start(colby, &client, "10", &steps)?;
        let rules: &[&str] = if granted { &[&both] } else { &[] };
        enforce(cluster, &policy(rules))?;
        colby.write(GO, "")?;
        for (process, message) in [(&server, "second"), (&client, "another")] {
            let code = process.join()?;
            if granted {
                check_eq!(code, Some(0), "{name}: {message}: {}", process.output()?);
            } else {
                check_eq!(code, Some(12), "{name}: {message}: {}", process.output()?);
                let said = process.output()?;
                check!(
                    said.contains(&format!("send errno={EACCES}")),
                    "{name}: {said}"
                );
            }
        }
        if !granted {
            Denial::wait(colby, mark, "denied sscid=10 ssnid=2 tscid=20 tsnid=2")?
                .says("perm", "unix_connect")?;
        }
    }
    Ok(())
}

/// Of two messages to a netlink socket of zone 20, a process of zone 10 sends the first one.
fn netlink(cluster: &mut Cluster, granted: bool) -> TestResult {
    let rule = process_rule("10", "20", "unix_send");
    let rules: Vec<&str> = granted.then_some(rule.as_str()).into_iter().collect();
    enforce(cluster, &policy(&rules))?;
    let (_, colby) = nodes(cluster)?;
    let mark = colby.kernel_mark();
    let receiver = start(
        colby,
        &format!("netlink-{granted}"),
        "20",
        "socket,n,16,3,2 bind,n,netlink:777 say,ready recv,n",
    )?;
    for (zone, message) in [("10", "foreign"), ("20", "own")] {
        // Who is refused is not told: his message is lost.
        let steps = format!("socket,n,16,3,2 send,n,{message},netlink:777");
        run(colby, zone, &steps)?;
    }
    if granted {
        receiver.wait_line("recv ok foreign")?;
        return Ok(());
    }
    receiver.wait_line("recv ok own")?;
    Denial::wait(colby, mark, "denied sscid=10 ssnid=2 tscid=20 tsnid=2")?.says("perm", "unix_send")
}

/// Zone 10 hands a socket of its own to a server of zone 20.
pub(super) fn descriptor(cluster: &mut Cluster, grant: &str) -> TestResult {
    let connect = process_rule("10", "20", "unix_connect");
    let take = process_rule("20", "10", grant);
    let mut rules = vec![connect.as_str()];
    if !grant.is_empty() {
        rules.push(&take);
    }
    enforce(cluster, &policy(&rules))?;
    let (_, colby) = nodes(cluster)?;
    for (name, socket) in [
        ("udp", "socket,s,2,2,0"),
        ("tcp", "socket,s,2,1,0"),
        ("udp-over-ipv6", "socket,s,10,2,0"),
        ("tcp-over-ipv6", "socket,s,10,1,0"),
        ("unix", "pair,s,t,1"),
    ] {
        let mark = colby.kernel_mark();
        let server = start(
            colby,
            &format!("taker-{name}-{}", grant.is_empty()),
            "20",
            "socket,l,1,1,0 bind,l,@taker listen,l say,ready accept,c,l recvfd,c,s say,taken",
        )?;
        let steps = format!("{socket} socket,a,1,1,0 connect,a,@taker sendfd,a,s");
        run(colby, "10", &steps)?.ok()?;
        if grant.is_empty() {
            check_eq!(server.join()?, Some(12), "{name}: {}", server.output()?);
            Denial::wait(colby, mark, "denied sscid=20 ssnid=2 tscid=10 tsnid=2")?
                .says("perm", "use_fd")?;
        } else {
            server.wait_line("say ok taken")?;
        }
    }
    Ok(())
}

fn descriptor_within(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    run(
        colby,
        "10",
        "socket,s,2,2,0 pair,a,b,1 sendfd,a,s recvfd,b,t",
    )?
    .ok()?;
    Ok(())
}

/// Zone 10 on colby hands zone 20 a socket, which that may take, and which is zone 10's as before: a bound one for
/// datagrams (2), or a connection (1).
pub(super) fn handed_over(
    cluster: &mut Cluster,
    kind: Kind,
    sock: &str,
    granted: bool,
) -> TestResult {
    let connect = process_rule("10", "20", "unix_connect");
    let take = process_rule("20", "10", "use_fd");
    let receive = socket_rule("20", "10", "receive");
    let mut rules = vec![connect.as_str(), &take];
    rules.extend(granted.then_some(receive.as_str()));
    enforce(cluster, &policy(&rules))?;
    let (munster, colby) = nodes(cluster)?;
    let name = format!("{}-{sock}-{granted}", kind.family);
    let stream = sock == "1";
    let _greeter = stream.then(|| kind.greeter(colby)).transpose()?;
    let taker = start(
        colby,
        &format!("handed-taker-{name}"),
        "20",
        &format!(
            "socket,l,1,1,0 bind,l,@taker listen,l say,ready accept,c,l recvfd,c,s say,taken until,{GO} recv,s"
        ),
    )?;
    let own = if stream {
        format!("connect,s,{}:7015", kind.colby)
    } else {
        format!("bind,s,{}:7016", kind.any)
    };
    let giver = start(
        colby,
        &format!("handed-giver-{name}"),
        "10",
        &format!(
            "socket,s,{},{sock},0 {own} socket,a,1,1,0 connect,a,@taker sendfd,a,s say,ready until,{GO}",
            kind.family
        ),
    )?;
    taker.wait_line("say ok taken")?;
    if !stream {
        let message = format!(
            "socket,u,{},2,0 send,u,greeting,{}:7016",
            kind.family, kind.colby
        );
        run(munster, "10", &message)?.ok()?;
    }
    let mark = colby.kernel_mark();
    colby.write(GO, "")?;
    let code = taker.join()?;
    giver.join()?;
    let said = taker.output()?;
    if granted {
        check_eq!(code, Some(0), "{said}");
        check!(said.ends_with("recv ok greeting\n"), "{said}");
        return Ok(());
    }
    check!(said.ends_with(&format!("recv errno={EACCES}\n")), "{said}");
    Denial::wait(colby, mark, "denied sscid=20 ssnid=2 tscid=10 tsnid=2")?.says("perm", "receive")
}

pub(super) fn getfd(cluster: &mut Cluster, grant: &str) -> TestResult {
    enforce(cluster, &policy(&[&process_rule("20", "10", grant)]))?;
    let (_, colby) = nodes(cluster)?;
    let owner = start(
        colby,
        &format!("getfd-{}", grant.len()),
        "10",
        &format!("socket,s,2,2,0 keep,s,9 say,ready until,{GO}"),
    )?;
    let output = run(colby, "20", &format!("getfd,s,{},9", owner.pid()))?;
    colby.write(GO, "")?;
    owner.join()?;
    if grant == "trace" {
        fails(output, "getfd", EACCES)
    } else {
        output.ok().map(drop)
    }
}
