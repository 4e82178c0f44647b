//! The configuration `dsm`: all of DSI in force on this one node, as an administrator would have it, and the
//! proof that it was in force while the workload ran.

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use dsi_engine::policy::Tuple;
use dsi_engine::{ScId, SnId};
use dsi_proto::netlink::{Mode, Netlink, Status, TxKey};
use dsi_proto::signature::{self, Signer};
use dsp_schema::model::{Permissions, Rule, RuleBody};
use dsp_schema::{CompileInput, Dsp};
use rustix::fs::{XattrFlags, setxattr};

use crate::twin::{Companion, Failure, PERMITTED, expect, reach};

/// ScID of the workload, of its ports and of its binary.
const OURS: &str = "10";
/// ScID of a zone that may use its own sockets and reach nobody else's.
const THEIRS: &str = "20";
/// The ScID in question on a program's file.
const LABEL: &str = "security.dsi";
/// The workload under the label of the other zone.
const STRANGER: &str = "/stranger";
/// Rules that have nothing to do with the workload, so that a look-up is one among many: as many as there are where
/// no number is asked for.
const BYSTANDERS: u32 = 1000;
/// Port at which the proof takes place; the policy names it.
const PORT: &str = "4010";

/// The counter that a packet of the other zone advances.
const REFUSAL: &str = "refused-no-permission";

const SNID: u32 = 1;
const CLUSTER: [u8; 16] = *b"dsi-bench-kernel";
const EPOCH: u32 = 1;
const SECRET: [u8; 16] = *b"of this run only";

/// Datagrams that the workload sends at the least: three operations, 22 batches of 1000, 2 packets each.
const PACKETS: u64 = 3 * 22 * 1000 * 2;
/// Segments of data that it sends at the least, there and back: 22 batches of 1000, 2 segments each.
const SEGMENTS: u64 = 22 * 1000 * 2;
/// Flows that it opens at the least: 22 batches of 100 TCP connections, each seen at both ends. A flow's first
/// packet is verified; the following ones are compared with it.
const FLOWS: u64 = 22 * 100 * 2;
/// A bystander's ScID and above.
const BYSTANDER: u32 = 1000;
/// Zones that a given number of bystanders is about, in all pairs: 1,000,000 rules are of 1,000 zones.
const ZONES: u32 = 1000;

/// The module with everything in force.
pub struct Full {
    netlink: Netlink,
    signer: Signer,
    before: Status,
}

impl Full {
    /// Brings a loaded module into force: labels on programs, identity, key, and a signed policy.
    /// With `rules`, that many of them are of all kinds and not the workload's.
    pub fn establish(answer: &mut File, rules: Option<u32>) -> Result<Self, Failure> {
        fs::copy("/workload", STRANGER)?;
        label("/workload", OURS)?;
        label(STRANGER, THEIRS)?;

        let signer = signature::generate_signer("dsi-bench")?;
        let mut netlink = Netlink::open()?;
        netlink.config_set(Some(SNID), Some(&CLUSTER), Some(signer.certificate_der()))?;
        netlink.key_set(EPOCH, Some(&SECRET), true)?;
        let before = netlink.status()?;
        let mut full = Self {
            netlink,
            signer,
            before,
        };
        let bytes = full.install(rules, 1)?;
        full.before = full.netlink.status()?;
        let before = &full.before;
        expect(before.mode == Mode::Enforcing, || {
            format!("the module is {:?}", before.mode)
        })?;
        expect(before.snid == SNID && before.key_epoch == EPOCH, || {
            "identity or key is missing".into()
        })?;
        writeln!(
            answer,
            "fact policy enforcing, {} rules of others, image of {bytes} bytes",
            rules.unwrap_or(BYSTANDERS),
        )?;
        Ok(full)
    }

    /// Signs and installs the policy with so many rules of others. The bytes of its image.
    pub fn install(&mut self, rules: Option<u32>, version: u64) -> Result<usize, Failure> {
        let image = policy(rules, version)?;
        let signature = signature::sign_detached(&self.signer, &image)?;
        self.netlink.policy_install(&image, &signature)?;
        Ok(image.len())
    }

    /// How many the module knows of a kind of what has state in it.
    pub fn known(&mut self, kind: &str) -> Result<u64, Failure> {
        let status = self.netlink.status()?;
        Ok(if kind == "process" {
            status.tasks
        } else {
            status.sockets
        })
    }

    /// Adds so many nodes to the map, each with an address and a key.
    pub fn add_nodes(&mut self, nodes: u32) -> Result<(), Failure> {
        let before = self.netlink.status()?.nodes;
        for index in 1..=nodes {
            let address = IpAddr::from(Ipv4Addr::from_bits(0x0A00_0000 + index));
            let key = TxKey {
                epoch: EPOCH,
                key: &SECRET,
            };
            self.netlink
                .node_set(SNID + index, Some(&[address]), Some(key))?;
        }
        let more = self.netlink.status()?.nodes - before;
        expect(more == nodes, || {
            format!("of {nodes} nodes the module knows {more}")
        })
    }

    /// Whether each datagram and each handshake of the workload was labelled and verified, the flows bound by
    /// it, their data bare on both sides, and nothing refused; and whether, as things
    /// stand, a packet of the other zone is refused where one of the workload's own is delivered.
    pub fn prove(&mut self, answer: &mut File) -> Result<(), Failure> {
        let after = self.netlink.status()?;
        let moved =
            |name: &str| Ok::<u64, Failure>(value(&after, name)? - value(&self.before, name)?);
        for (name, least) in [
            ("out-labelled", PACKETS + FLOWS / 2 * 3),
            ("in-labelled", FLOWS),
            ("flow-bound", FLOWS),
            ("out-bare", SEGMENTS),
            ("in-bare", SEGMENTS),
        ] {
            let moved = moved(name)?;
            writeln!(answer, "fact {name} {moved}")?;
            expect(moved >= least, || {
                format!("{name} rose by {moved}, expected at least {least}")
            })?;
        }
        for name in ["in-unlabelled", "out-no-key", "out-no-room", "socket-lost"] {
            let moved = moved(name)?;
            expect(moved == 0, || format!("{name} rose by {moved}, expected 0"))?;
        }
        let refused = refusals(&after) - refusals(&self.before);
        expect(refused == 0, || {
            format!("{refused} acts or packets of the workload were refused")
        })?;

        self.prove_by_twin(answer)
    }

    /// Whether a packet of the other zone is refused where one of the workload's own is delivered.
    pub fn prove_by_twin(&mut self, answer: &mut File) -> Result<(), Failure> {
        let mut echo = Companion::start("echo", PORT)?;
        expect(reach("/workload", PORT, &PERMITTED)?, || {
            "a datagram of the workload's own zone was not answered".into()
        })?;
        let before = value(&self.netlink.status()?, REFUSAL)?;
        expect(!reach(STRANGER, PORT, &PERMITTED)?, || {
            "a datagram of another zone was answered".into()
        })?;
        let refused = value(&self.netlink.status()?, REFUSAL)? - before;
        expect(refused > 0, || {
            "the datagram of another zone was not counted as refused".into()
        })?;
        echo.stop()?;
        writeln!(answer, "fact twin own zone answered, other zone refused")?;
        Ok(())
    }
}

/// The image of a policy in which the workload's zone may do what the workload does, and the other zone may use
/// its own sockets; the bystanders' rules come beside.
fn policy(bystanders: Option<u32>, version: u64) -> Result<Vec<u8>, Failure> {
    let mut policy = document(if bystanders.is_none() { BYSTANDERS } else { 0 })?;
    // A million rules are more XML than a document may have: they are added to what became of the document.
    for index in 0..bystanders.unwrap_or(0) {
        let place = policy.rules.len();
        policy.rules.push(Rule {
            id: u32::try_from(place)? + 1,
            xml_id: None,
            comment: None,
            line: 0,
            column: 0,
            span: 0..0,
            body: bystander(index),
        });
    }
    let input = CompileInput {
        cluster_uuid: CLUSTER,
        version,
    };
    Ok(dsp_schema::compile(&policy, &input)?)
}

/// A rule between two of the bystanders' zones; half of them are network permissions, which each packet asks for.
fn bystander(index: u32) -> RuleBody {
    let source = ScId(BYSTANDER + index % ZONES);
    let target = ScId(BYSTANDER + index / ZONES);
    let source_node = SnId::NONE;
    let permissions = Permissions { grant: 7, deny: 0 };
    match index % 8 {
        0..=3 => RuleBody::NetworkPermission {
            tuple: Tuple {
                source,
                source_node,
                target,
                target_node: SnId::NONE,
            },
            place: None,
            permissions,
        },
        4 | 5 => RuleBody::SocketPermission {
            source,
            source_node,
            target,
            permissions,
        },
        6 => RuleBody::ProcessPermission {
            source,
            source_node,
            target,
            permissions,
        },
        _ => RuleBody::Transition {
            parent: source,
            binary: target,
            new: target,
        },
    }
}

/// The policy of the workload's zone and the other one, with so many network permissions of others in the document.
fn document(bystanders: u32) -> Result<Dsp, Failure> {
    let mut rules = String::new();
    let mut contexts = format!("{}{}", context(OURS), context(THEIRS));
    for scid in BYSTANDER..=BYSTANDER + bystanders {
        contexts += &context(&scid.to_string());
    }
    for scid in BYSTANDER..BYSTANDER + bystanders {
        rules += &network_permission(
            &scid.to_string(),
            &(scid + 1).to_string(),
            "send receive connect",
        );
    }
    for (protocol, port) in [
        ("udp", "4001"),
        ("udp", "4002"),
        ("tcp", "4003"),
        ("udp", PORT),
    ] {
        rules += &format!(
            "<socket_label><protocol>{protocol}</protocol><port>{port}</port><new_ScID>{OURS}</new_ScID></socket_label>"
        );
    }
    for zone in [OURS, THEIRS] {
        rules += &format!(
            "<socket_permission><source_ScID>{zone}</source_ScID><target_ScID>{zone}</target_ScID>\
             <grant>create bind connect listen accept send receive</grant></socket_permission>\
             <system_permission><source_ScID>{zone}</source_ScID><grant>net_admin</grant></system_permission>\
             <transition><parent_ScID>2</parent_ScID><binary_ScID>{zone}</binary_ScID><new_ScID>{zone}</new_ScID></transition>"
        );
    }
    rules += &network_permission(OURS, OURS, "send receive connect");
    let document = format!(
        "<DSP xmlns=\"{}\" mode=\"enforcing\" default=\"deny\" unload=\"permit\"><contexts>{contexts}</contexts><rules>{rules}</rules></DSP>",
        dsp_schema::NAMESPACE
    );
    Ok(dsp_schema::parse("dsi-bench", document.as_bytes())?)
}

fn context(scid: &str) -> String {
    format!("<context ScID=\"{scid}\" name=\"zone-{scid}\"/>")
}

fn network_permission(source: &str, target: &str, grant: &str) -> String {
    format!(
        "<network_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>\
         <grant>{grant}</grant></network_permission>"
    )
}

fn label(program: impl AsRef<Path>, scid: &str) -> Result<(), Failure> {
    Ok(setxattr(
        program.as_ref(),
        LABEL,
        scid.as_bytes(),
        XattrFlags::empty(),
    )?)
}

fn value(status: &Status, name: &str) -> Result<u64, Failure> {
    status
        .counters
        .iter()
        .find(|counter| counter.name == name)
        .map(|counter| counter.value)
        .ok_or_else(|| format!("the module has no counter '{name}'").into())
}

/// All refusals, enforced or not.
fn refusals(status: &Status) -> u64 {
    status
        .counters
        .iter()
        .filter(|counter| {
            counter.name.starts_with("refused-") || counter.name.starts_with("would-refuse-")
        })
        .map(|counter| counter.value)
        .sum()
}
