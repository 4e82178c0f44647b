// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl audit`: what the kernels of the cluster refused, live, with the names that the policy gives.

use std::{
    io::{self, Write},
    path::Path,
};

use dsi_proto::v1;
use serde::Serialize;

use crate::{
    cli::AuditTail,
    failure::Failure,
    naming::Naming,
    output::{Output, Report, moment_ns},
    session::Session,
};

/// One end of what was refused.
#[derive(Serialize)]
struct Party {
    scid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    snid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

impl Party {
    fn text(&self) -> String {
        let context = match &self.context {
            Some(name) if self.scid == u32::MAX => printable(name),
            Some(name) => format!("{} ({})", self.scid, printable(name)),
            None => self.scid.to_string(),
        };
        match (&self.node, self.snid) {
            (Some(node), _) => format!("{context}@{}", printable(node)),
            (None, 0) => context,
            (None, snid) => format!("{context}@node {snid}"),
        }
    }
}

/// An event; the flat numbers are those of the kernel's own notice.
#[derive(Serialize)]
struct Event {
    id: String,
    /// RFC 3339.
    time: String,
    time_unix_ns: i64,
    node_name: String,
    node_snid: u32,
    enforced: bool,
    reason: String,
    class: String,
    permission: String,
    sscid: u32,
    ssnid: u32,
    tscid: u32,
    tsnid: u32,
    source: Party,
    target: Party,
    protocol: String,
    source_address: String,
    source_port: u32,
    target_address: String,
    target_port: u32,
    pid: u32,
    comm: String,
    rule: u32,
    rule_text: String,
    policy_version: u64,
    suppressed: u64,
    hook: String,
}

impl Report for Event {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let verdict = if self.enforced {
            "REFUSED"
        } else {
            "would refuse"
        };
        write!(
            out,
            "{} {} {verdict}: {} {}, {} -> {}",
            self.time,
            printable(&self.node_name),
            printable(&self.class),
            printable(&self.permission),
            self.source.text(),
            self.target.text(),
        )?;
        if !self.source_address.is_empty() || !self.target_address.is_empty() {
            write!(
                out,
                ", {} {} -> {}",
                printable(&self.protocol),
                endpoint(&self.source_address, self.source_port),
                endpoint(&self.target_address, self.target_port),
            )?;
        }
        if self.pid != 0 {
            write!(out, ", {}[{}]", printable(&self.comm), self.pid)?;
        }
        write!(
            out,
            ", {} by {}, policy {}",
            printable(&self.reason),
            printable(&self.rule_text),
            self.policy_version
        )?;
        match self.suppressed {
            0 => writeln!(out),
            suppressed => writeln!(out, " ({suppressed} more before it were not recorded)"),
        }
    }
}

fn endpoint(address: &str, port: u32) -> String {
    match (address, port) {
        ("", _) => "-".to_owned(),
        (address, 0) => printable(address),
        (address, port) if address.contains(':') => format!("[{}]:{port}", printable(address)),
        (address, port) => format!("{}:{port}", printable(address)),
    }
}

/// Names come from processes and documents; they must not steer the administrator's terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// `dsictl audit tail`
pub fn tail(arguments: &AuditTail, profile: &Path, output: &Output) -> Result<(), Failure> {
    Session::open(profile)?.talk(async |mut client| {
        let mut naming = Naming::fetch(client.clone()).await?;
        let node_snid = match &arguments.node {
            Some(name) => naming
                .node_number(name)
                .ok_or_else(|| Failure::UnknownNode { name: name.clone() })?,
            None => 0,
        };
        let request = v1::TailAuditRequest {
            replay: arguments.replay,
            node_snid,
        };
        let following = "following the audit";
        let mut events = client
            .tail_audit(request)
            .await
            .map_err(Failure::server(following))?
            .into_inner();
        let mut left = arguments.count;
        while left != Some(0) {
            let Some(event) = events.message().await.map_err(Failure::server(following))? else {
                let status = tonic::Status::unavailable("the server has ended the stream");
                return Err(Failure::Server {
                    action: following,
                    status,
                });
            };
            let event = name(event, &mut naming).await;
            output.line(&event)?;
            left = left.map(|left| left - 1);
        }
        Ok(())
    })
}

async fn name(event: v1::AuditEvent, naming: &mut Naming) -> Event {
    let node = |naming: &Naming, snid| naming.node(snid).map(str::to_owned);
    let (source_node, target_node) = (node(naming, event.ssnid), node(naming, event.tsnid));
    let names = naming.policy(event.policy_version).await;
    let party = |scid, snid, cluster: Option<String>| Party {
        scid,
        context: names.context(scid).map(str::to_owned),
        snid,
        node: names.node(snid).map(str::to_owned).or(cluster),
    };
    Event {
        source: party(event.sscid, event.ssnid, source_node),
        target: party(event.tscid, event.tsnid, target_node),
        rule_text: names.explain_rule(event.rule),
        id: event.id,
        time: moment_ns(event.time_unix_ns.into()),
        time_unix_ns: event.time_unix_ns,
        node_name: event.node_name,
        node_snid: event.node_snid,
        enforced: event.enforced,
        reason: event.reason,
        class: event.class,
        permission: event.permission,
        sscid: event.sscid,
        ssnid: event.ssnid,
        tscid: event.tscid,
        tsnid: event.tsnid,
        protocol: event.protocol,
        source_address: event.source_address,
        source_port: event.source_port,
        target_address: event.target_address,
        target_port: event.target_port,
        pid: event.pid,
        comm: event.comm,
        rule: event.rule,
        policy_version: event.policy_version,
        suppressed: event.suppressed,
        hook: event.hook,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            id: "2-0badcafe-5".to_owned(),
            time: "2026-11-21T23:19:43.000Z".to_owned(),
            time_unix_ns: 0,
            node_name: "munster".to_owned(),
            node_snid: 2,
            enforced: true,
            reason: "no-permission".to_owned(),
            class: "network".to_owned(),
            permission: "send".to_owned(),
            sscid: 10,
            ssnid: 1,
            tscid: 20,
            tsnid: 2,
            source: Party {
                scid: 10,
                context: Some("phonemania".to_owned()),
                snid: 1,
                node: Some("colby".to_owned()),
            },
            target: Party {
                scid: 20,
                context: None,
                snid: 2,
                node: None,
            },
            protocol: "udp".to_owned(),
            source_address: "10.0.0.1".to_owned(),
            source_port: 8800,
            target_address: "10.0.0.2".to_owned(),
            target_port: 9001,
            pid: 123,
            comm: "Ring\x1b[2JBE".to_owned(),
            rule: 0,
            rule_text: "no rule (the policy's default)".to_owned(),
            policy_version: 3,
            suppressed: 4,
            hook: "socket_sock_rcv_skb".to_owned(),
        }
    }

    #[test]
    fn an_event_is_one_line_and_cannot_steer_the_terminal() {
        let mut out = Vec::new();
        event().text(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "2026-11-21T23:19:43.000Z munster REFUSED: network send, 10 (phonemania)@colby -> 20@node 2, udp \
             10.0.0.1:8800 -> 10.0.0.2:9001, Ring?[2JBE[123], no-permission by no rule (the policy's default), policy \
             3 (4 more before it were not recorded)\n"
        );
    }

    #[test]
    fn without_a_packet_there_are_no_addresses() {
        let mut exec = event();
        exec.enforced = false;
        exec.class = "transition".to_owned();
        exec.permission = "execute".to_owned();
        exec.source_address.clear();
        exec.target_address.clear();
        exec.suppressed = 0;
        exec.comm = "sh".to_owned();
        let mut out = Vec::new();
        exec.text(&mut out).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert!(
            line.contains(
                "would refuse: transition execute, 10 (phonemania)@colby -> 20@node 2, sh[123]"
            ),
            "{line}"
        );
    }

    #[test]
    fn addresses_are_written_with_their_ports() {
        assert_eq!(endpoint("2001:db8::1", 7), "[2001:db8::1]:7");
        assert_eq!(endpoint("10.0.0.1", 0), "10.0.0.1");
        assert_eq!(endpoint("", 9), "-");
    }
}
