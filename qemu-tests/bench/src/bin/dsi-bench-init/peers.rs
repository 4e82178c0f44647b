//! The configurations `nft_map`, `bpf_lsm` and `cipso`: what DSI is compared with, each in force as its own
//! administrator would have it, and the proof of that. Their programs and policies are in `/peers`, made by
//! `scripts/bench-peers`.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use rustix::mount::{MountFlags, mount};
use rustix::system::finit_module;

use crate::twin::{Companion, Failure, PERMITTED, Sender, expect, reach};

/// Port at which the proof takes place.
const PORT: &str = "4010";
/// The program that sends.
const WORKLOAD: &str = "/workload";
/// An address of this machine that is not among the senders of the verdict map.
const UNLISTED_ADDRESS: Sender = Sender {
    address: "127.0.0.2",
    ..PERMITTED
};
/// A user who is not in the map of the BPF programs.
const UNLISTED_USER: Sender = Sender {
    user: 5000,
    ..PERMITTED
};
/// Where SELinux is told and asked.
const SELINUX: &str = "/sys/fs/selinux";
/// The context of all processes, and the one level above, of which they may receive nothing.
const ABOVE: &str = "user_u:base_r:base_t:s1";

/// A system that DSI is compared with, in force.
pub enum Peer {
    /// nftables: a map from the sender's address to a verdict.
    NftMap,
    /// BPF programs in LSM hooks, each of which looks a user up.
    BpfLsm,
    /// SELinux with CIPSO labels.
    Cipso,
}

impl Peer {
    /// Loads the rules with the verdict map.
    pub fn nft_map() -> Result<Self, Failure> {
        let module = File::open("/peers/nf_tables.ko")?;
        finit_module(&module, c"", 0).map_err(|e| format!("nf_tables.ko was not loaded: {e}"))?;
        tool("nft", &["-f", "/peers/verdicts.nft"])?;
        Ok(Self::NftMap)
    }

    /// Attaches the programs and fills their map.
    pub fn bpf_lsm() -> Result<Self, Failure> {
        const PINS: &str = "/sys/fs/bpf";
        mount("bpf", PINS, "bpf", MountFlags::empty(), None)?;
        // The map is filled before the hooks ask it, or this program could not go on.
        tool(
            "bpftool",
            &[
                "prog",
                "loadall",
                "/peers/hooks.bpf.o",
                "/sys/fs/bpf/programs",
                "pinmaps",
                PINS,
            ],
        )?;
        tool("bpftool", &["batch", "file", "/peers/verdicts.bpf"])?;
        fs::remove_dir_all("/sys/fs/bpf/programs")?;
        tool(
            "bpftool",
            &[
                "prog",
                "loadall",
                "/peers/hooks.bpf.o",
                "/sys/fs/bpf/programs",
                "map",
                "name",
                "verdicts",
                "pinned",
                "/sys/fs/bpf/verdicts",
                "autoattach",
            ],
        )?;
        Ok(Self::BpfLsm)
    }

    /// Loads the policy, enforces it, and has each packet labelled with its sender's level.
    pub fn cipso() -> Result<Self, Failure> {
        mount("selinuxfs", SELINUX, "selinuxfs", MountFlags::empty(), None)?;
        fs::write(
            format!("{SELINUX}/load"),
            fs::read("/peers/policy.selinux")?,
        )?;
        fs::write(format!("{SELINUX}/enforce"), "1")?;
        for arguments in [
            &["cipsov4", "add", "pass", "doi:16", "tags:1"][..],
            &["map", "del", "default"],
            &["map", "add", "default", "protocol:cipsov4,16"],
        ] {
            tool("netlabelctl", arguments)?;
        }
        Ok(Self::Cipso)
    }

    /// Whether, as things stand, what the system permits is delivered, and what it forbids is not.
    pub fn prove(&self, answer: &mut File) -> Result<(), Failure> {
        let mut echo = Companion::start("echo", PORT)?;
        expect(reach(WORKLOAD, PORT, &PERMITTED)?, || {
            "a permitted datagram was not answered".into()
        })?;
        let forbidden = match self {
            Self::NftMap => reach(WORKLOAD, PORT, &UNLISTED_ADDRESS)?,
            Self::BpfLsm => reach(WORKLOAD, PORT, &UNLISTED_USER)?,
            Self::Cipso => {
                fs::write("/proc/self/attr/exec", ABOVE)?;
                reach(WORKLOAD, PORT, &PERMITTED)?
            }
        };
        expect(!forbidden, || "a forbidden datagram was answered".into())?;
        echo.stop()?;
        writeln!(answer, "fact twin permitted answered, forbidden refused")?;
        Ok(())
    }
}

/// Runs one of Debian's programs with the libraries that came with it.
fn tool(name: &str, arguments: &[&str]) -> Result<(), Failure> {
    let run = Command::new("/peers/ld-linux-x86-64.so.2")
        .args(["--library-path", "/peers", &format!("/peers/{name}")])
        .args(arguments)
        .output()?;
    expect(run.status.success(), || {
        let said = [run.stdout, run.stderr].concat();
        format!(
            "{name} {}: {}: {}",
            arguments.join(" "),
            run.status,
            String::from_utf8_lossy(&said).trim()
        )
    })
}
