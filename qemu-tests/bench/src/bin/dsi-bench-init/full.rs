//! The configuration `dsm`: all of DSI in force on this one node, as an administrator would have it, and the
//! proof that it was in force while the workload ran.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use dsi_proto::netlink::{Mode, Netlink, Status};
use dsi_proto::signature;
use dsp_schema::CompileInput;
use rustix::fs::{XattrFlags, setxattr};

type Failure = Box<dyn Error>;

/// ScID of the workload, of its ports and of its binary.
const OURS: &str = "10";
/// ScID of a zone that may use its own sockets and reach nobody else's.
const THEIRS: &str = "20";
/// The ScID in question on a program's file.
const LABEL: &str = "security.dsi";
/// The workload under the label of the other zone.
const STRANGER: &str = "/stranger";
/// Rules that have nothing to do with the workload, so that a look-up is one among many.
const BYSTANDERS: u32 = 1000;
/// Port at which the proof takes place; the policy names it.
const PORT: &str = "4010";

/// The counter that a packet of the other zone advances.
const REFUSAL: &str = "refused-no-permission";

const SNID: u32 = 1;
const CLUSTER: [u8; 16] = *b"dsi-bench-kernel";
const EPOCH: u32 = 1;
const SECRET: [u8; 16] = *b"of this run only";

/// Packets that the workload sends at the least: four operations, 22 batches of 1000, 2 packets each.
const PACKETS: u64 = 4 * 22 * 1000 * 2;
/// Flows that it opens at the least: 22 batches of 100 TCP connections, each seen at both ends. A flow's first
/// packet is verified; the following ones are compared with it.
const FLOWS: u64 = 22 * 100 * 2;
/// A bystander's ScID and above.
const BYSTANDER: u32 = 1000;

/// The module with everything in force.
pub struct Full {
    netlink: Netlink,
    before: Status,
}

impl Full {
    /// Brings a loaded module into force: labels on programs, identity, key, and a signed policy.
    pub fn establish(answer: &mut File) -> Result<Self, Failure> {
        fs::copy("/workload", STRANGER)?;
        label("/workload", OURS)?;
        label(STRANGER, THEIRS)?;

        let signer = signature::generate_signer("dsi-bench")?;
        let image = policy()?;
        let mut netlink = Netlink::open()?;
        netlink.config_set(Some(SNID), Some(&CLUSTER), Some(signer.certificate_der()))?;
        netlink.key_set(EPOCH, Some(&SECRET), true)?;
        netlink.policy_install(&image, &signature::sign_detached(&signer, &image)?)?;
        let before = netlink.status()?;
        expect(before.mode == Mode::Enforcing, || {
            format!("the module is {:?}", before.mode)
        })?;
        expect(before.snid == SNID && before.key_epoch == EPOCH, || {
            "identity or key is missing".into()
        })?;
        writeln!(
            answer,
            "fact policy enforcing, {} rules of others, image of {} bytes",
            BYSTANDERS,
            image.len()
        )?;
        Ok(Self { netlink, before })
    }

    /// Whether each packet of the workload was labelled and verified, and none refused; and whether, as things
    /// stand, a packet of the other zone is refused where one of the workload's own is delivered.
    pub fn prove(&mut self, answer: &mut File) -> Result<(), Failure> {
        let after = self.netlink.status()?;
        let moved =
            |name: &str| Ok::<u64, Failure>(value(&after, name)? - value(&self.before, name)?);
        for (name, least) in [("out-labelled", PACKETS), ("in-labelled", FLOWS)] {
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

        let mut echo = Echo::start()?;
        expect(reach("/workload")?, || {
            "a datagram of the workload's own zone was not answered".into()
        })?;
        let before = value(&self.netlink.status()?, REFUSAL)?;
        expect(!reach(STRANGER)?, || {
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

/// A server of the workload's zone.
struct Echo(Child);

impl Echo {
    fn start() -> Result<Self, Failure> {
        let mut child = Command::new("/workload")
            .args(["echo", PORT])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("the echo server has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        expect(line.trim() == "ready", || {
            format!("the echo server said '{}'", line.trim())
        })?;
        Ok(Self(child))
    }

    fn stop(&mut self) -> Result<(), Failure> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

/// Whether a datagram of this program to the echo server comes back.
fn reach(program: &str) -> Result<bool, Failure> {
    let run = Command::new(program).args(["reach", PORT]).output()?;
    match run.status.code() {
        Some(0) => Ok(true),
        Some(3) => Ok(false),
        _ => Err(format!(
            "{program} reach ended with {}: {}",
            run.status,
            String::from_utf8_lossy(&run.stdout).trim()
        )
        .into()),
    }
}

/// The image of a policy in which the workload's zone may do what the workload does, and the other zone may use
/// its own sockets; the bystanders' rules come first.
fn policy() -> Result<Vec<u8>, Failure> {
    let mut rules = String::new();
    let mut contexts = format!("{}{}", context(OURS), context(THEIRS));
    for scid in BYSTANDER..=BYSTANDER + BYSTANDERS {
        contexts += &context(&scid.to_string());
    }
    for scid in BYSTANDER..BYSTANDER + BYSTANDERS {
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
    let policy = dsp_schema::parse("dsi-bench", document.as_bytes())?;
    let input = CompileInput {
        cluster_uuid: CLUSTER,
        version: 1,
    };
    Ok(dsp_schema::compile(&policy, &input)?)
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

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(otherwise().into())
    }
}
