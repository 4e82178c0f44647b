// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The command line: what can be written, with examples. Nothing is done here.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use dsi_proto::address::ServerAddress;
use uuid::Uuid;

use crate::scid::ScidArgument;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or failed
  2  the command line is wrong
  3  no server, or no kernel module, could be reached
  4  the policy is invalid
  5  not permitted
`policy can`, `policy test` and `policy diff` end with 0 or 1 to answer yes or no: 1 is denied, an expectation not met,
a decision that differs; 2 and above say that there is no answer.
`dsictl run` ends as its command does; 126 and 127 say that the command could not be executed or found.

Examples:
  dsictl status
  dsictl policy apply telecom.xml --comment 'ticket 4711'
  dsictl audit tail --json | jq .sscid";

/// Administers a DSI cluster: nodes, labels of binaries, the distributed security policy, the audit.
#[derive(Debug, Parser)]
#[command(name = "dsictl", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// Print JSON instead of text: one document, or one line an event
    #[arg(long, global = true)]
    pub json: bool,
    /// Directory of the administrator's profile, as `cluster init` makes it
    #[arg(
        long,
        global = true,
        env = "DSI_PROFILE",
        default_value = "/etc/dsi/admin",
        value_name = "DIR"
    )]
    pub profile: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a cluster
    #[command(subcommand)]
    Cluster(Cluster),
    /// Admit, list and number nodes
    #[command(subcommand)]
    Node(Node),
    /// Change the keys of the labels
    #[command(subcommand)]
    Key(Key),
    /// Give binaries their ScID (security.dsi)
    #[command(subcommand)]
    Label(Label),
    /// Validate, sign, apply and show policies
    #[command(subcommand)]
    Policy(Policy),
    /// Run a program under a ScID
    #[command(
        after_help = "Examples:\n  dsictl run --scid 10 -- ./PhoneManiaEP -p 8800\n  dsictl run --scid phonemania --policy telecom.xml -- ./PhoneManiaEP"
    )]
    Run(Run),
    /// Read what the kernels refused
    #[command(subcommand)]
    Audit(Audit),
    /// Show the cluster's state, or this node's
    #[command(
        after_help = "Examples:\n  dsictl status\n  dsictl status --local\n  dsictl --json status | jq '.nodes[] | select(.lags)'"
    )]
    Status(Status),
    /// List this node's processes that have a ScID of their own, not the default (2)
    #[command(after_help = "Examples:\n  dsictl ps\n  dsictl ps --policy telecom.xml")]
    Ps(Ps),
}

/// `dsictl cluster`
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Make a new cluster: the server's data and the administrator's profile with the policy signer
    #[command(
        after_help = "Examples:\n  dsictl cluster init telecom --server ss.example --data-dir /var/lib/dsi/server\n  dsictl cluster init telecom --server 10.0.0.1:7430 --data-dir ./ss --profile ./admin"
    )]
    Init(ClusterInit),
}

/// `dsictl cluster init`
#[derive(Debug, Args)]
pub struct ClusterInit {
    /// Name of the cluster
    pub name: String,
    /// Where its server answers: name:port, 192.0.2.1:port or [2001:db8::1]:port
    #[arg(long = "server", required = true, value_name = "ADDRESS")]
    pub servers: Vec<ServerAddress>,
    /// Directory of the server's data, to be made on the machine of the server
    #[arg(long, default_value = "/var/lib/dsi/server", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Name of the first administrator
    #[arg(long, default_value = "admin")]
    pub admin: String,
}

/// `dsictl node`
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Make a one-time token with which a node joins
    #[command(
        after_help = "Examples:\n  dsictl node join-token munster > munster.token\n  dsictl node join-token colby --snid 7 --ttl 10m --out colby.token"
    )]
    JoinToken(JoinToken),
    /// List the nodes
    #[command(
        after_help = "Examples:\n  dsictl node list\n  dsictl --json node list | jq -r '.nodes[].name'"
    )]
    List,
    /// Give a node that has not joined yet another SnID (SetNodeID)
    #[command(after_help = "Examples:\n  dsictl node set-id munster 12")]
    SetId(SetId),
    /// Expel a node: its certificate, its labels and its SnID are worthless from then on
    ///
    /// The other nodes' kernels refuse its packets and end its connections. It may join again as a new node.
    #[command(
        after_help = "Examples:\n  dsictl node remove munster\n  dsictl --json node remove munster | jq '.refused_by'"
    )]
    Remove(RemoveNode),
}

/// `dsictl key`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Change the label keys of all nodes, without losing a packet
    ///
    /// Labels under the former keys stay valid until the next change begins. It is refused while a node still depends
    /// on keys that it would retire.
    #[command(
        after_help = "Examples:\n  dsictl key rotate\n  dsictl key rotate --timeout 10m\n  dsictl --json key rotate | jq '.waiting'"
    )]
    Rotate(RotateKeys),
}

/// `dsictl key rotate`
#[derive(Debug, Args)]
pub struct RotateKeys {
    /// Wait for no node: end the change that is under way, or begin one although a node has not come through the last
    /// one, which cuts that node off until it is back
    #[arg(long)]
    pub force: bool,
    /// How long to wait for the nodes; the change goes on without
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// `dsictl node remove`
#[derive(Debug, Args)]
pub struct RemoveNode {
    /// Name of the node
    pub name: String,
    /// How long to wait until the others refuse it; the server goes on telling them
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// `dsictl node join-token`
#[derive(Debug, Args)]
pub struct JoinToken {
    /// Name that the node will bear
    pub name: String,
    /// SnID that it will have; the server chooses if it is left out
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65535))]
    pub snid: Option<u32>,
    /// How long the token is good for, as in 10m or 2h; one hour if it is left out
    #[arg(long, value_parser = humantime::parse_duration)]
    pub ttl: Option<Duration>,
    /// Write the token to a file that only its owner can read, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `dsictl node set-id`
#[derive(Debug, Args)]
pub struct SetId {
    /// Name of the node
    pub name: String,
    /// Its new SnID
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65535))]
    pub snid: u32,
}

/// `dsictl label`
#[derive(Debug, Subcommand)]
pub enum Label {
    /// Label files (SetSID)
    #[command(
        after_help = "Examples:\n  dsictl label set PhoneManiaEP PhoneManiaBE --scid 10\n  dsictl label set PhoneManiaEP --scid phonemania --policy telecom.xml"
    )]
    Set(LabelSet),
    /// Print the label of files
    #[command(after_help = "Examples:\n  dsictl label get PhoneManiaEP")]
    Get(LabelFiles),
    /// List a directory with labels (ls_dsi)
    #[command(
        after_help = "Examples:\n  dsictl label ls\n  dsictl label ls /opt/telecom/bin --policy telecom.xml"
    )]
    Ls(LabelLs),
    /// Take the label off files
    #[command(after_help = "Examples:\n  dsictl label rm PhoneManiaEP")]
    Rm(LabelFiles),
}

/// `dsictl label set`
#[derive(Debug, Args)]
pub struct LabelSet {
    /// The files, and whether links are followed
    #[command(flatten)]
    pub files: LabelFiles,
    /// The ScID: a number, or with --policy a name
    #[arg(long)]
    pub scid: ScidArgument,
    /// Policy that names the ScID
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// Files of a label command.
#[derive(Debug, Args)]
pub struct LabelFiles {
    /// Files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Follow symbolic links to what they point at
    #[arg(short = 'L', long)]
    pub dereference: bool,
}

/// `dsictl label ls`
#[derive(Debug, Args)]
pub struct LabelLs {
    /// Directory
    #[arg(default_value = ".", value_name = "DIR")]
    pub directory: PathBuf,
    /// Policy whose names are shown
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// `dsictl policy`
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Check a policy, and show every fault in its place
    #[command(
        after_help = "Examples:\n  dsictl policy validate telecom.xml\n  dsictl --json policy validate telecom.xml | jq '.errors[].line'"
    )]
    Validate(PolicyValidate),
    /// Compile and sign a policy into files, without a server
    #[command(
        after_help = "Examples:\n  dsictl policy compile telecom.xml --out telecom.img\n  openssl cms -verify -binary -inform DER -in telecom.img.sig -content telecom.img \\\n    -certfile signer.pem -CAfile signer.pem -purpose any -out /dev/null"
    )]
    Compile(PolicyCompile),
    /// Validate, sign and send a policy, and wait until every connected node has it (dsiUpdatePolicy)
    #[command(
        after_help = "Examples:\n  dsictl policy apply telecom.xml\n  dsictl policy apply telecom.xml --comment 'ticket 4711' --timeout 10s"
    )]
    Apply(PolicyApply),
    /// Show a policy that the server holds
    #[command(
        after_help = "Examples:\n  dsictl policy show\n  dsictl policy show 3 --xml > three.xml"
    )]
    Show(PolicyShow),
    /// Ask what a policy decides, and which rule decides it
    ///
    /// SUBJECT and OBJECT are zones by name or ScID, with @NODE on one node, else on any; a machine that is no node is
    /// outside, outside:192.0.2.7 or outside:192.0.2.0/24. PERMISSION is one of the policy language, with its class
    /// where several have it (network:send), else each is answered; `execute` asks for a transition of SUBJECT by a
    /// binary labelled OBJECT, `host` whether node SUBJECT may speak for zone OBJECT. System permissions have no OBJECT.
    /// What is left open is asked of all nodes, addresses and ports there are; if the answer depends on it, each case
    /// is shown.
    #[command(
        after_help = "Ends with 0 if it is allowed, with 1 if not or not always, with 2 or more if there is no answer.\n\nExamples:\n  dsictl policy can phonemania@munster network:send ringbell@colby\n  dsictl policy can --policy shop.xml outside:198.51.100.7 connect shop --port 443\n  dsictl policy can --policy telecom.xml default execute phonemania\n  dsictl policy can phonemania net_admin"
    )]
    Can(PolicyCan),
    /// Hold a policy against files of expectations, without a cluster
    ///
    /// One expectation a line: allow or deny, then a question as of `policy can`, with port N, from port N and becomes
    /// ZONE instead of options. # starts a comment. What is left open has to be allowed, or denied, throughout.
    #[command(
        after_help = "Ends with 0 if all are met, with 1 if not, with 2 or more if they could not be tested.\n\nExamples:\n  dsictl policy test --policy telecom.xml telecom.expect\n  dsictl --json policy test --policy shop.xml shop.expect | jq '.expectations[] | select(.met | not)'\n\nA file:\n  allow phonemania@munster network:send ringbell@colby\n  deny  outside:198.51.100.0/24 connect shop port 443   # banned\n  allow default execute phonemania becomes phonemania\n  deny  phonemania load_module"
    )]
    Test(PolicyTest),
    /// List every decision in which two policies differ
    #[command(
        after_help = "Ends with 0 if no decision differs, with 1 if one does, with 2 or more if they could not be compared.\n\nExamples:\n  dsictl policy diff old.xml new.xml\n  dsictl policy diff --in-force new.xml\n  dsictl --json policy diff --in-force new.xml | jq '.changes[] | select(.now == \"allowed\")'"
    )]
    Diff(PolicyDiff),
    /// List the policies that the server holds, newest first
    #[command(after_help = "Examples:\n  dsictl policy history")]
    History,
}

/// `dsictl policy validate`
#[derive(Debug, Args)]
pub struct PolicyValidate {
    /// The policy (XML)
    pub file: PathBuf,
}

/// `dsictl policy compile`
#[derive(Debug, Args)]
pub struct PolicyCompile {
    /// The policy (XML)
    pub file: PathBuf,
    /// Where to write the image; its signature goes beside it, with .sig appended
    #[arg(long, value_name = "IMAGE")]
    pub out: PathBuf,
    /// Version to give it
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub policy_version: u64,
    /// UUID of the cluster; the profile's if it is left out
    #[arg(long, value_name = "UUID")]
    pub cluster: Option<Uuid>,
    /// Write no signature
    #[arg(long)]
    pub unsigned: bool,
}

/// `dsictl policy apply`
#[derive(Debug, Args)]
pub struct PolicyApply {
    /// The policy (XML)
    pub file: PathBuf,
    /// Why, for the history
    #[arg(long, default_value = "")]
    pub comment: String,
    /// Return as soon as the server has stored it
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the nodes
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration, conflicts_with = "no_wait")]
    pub timeout: Duration,
}

/// `dsictl policy show`
#[derive(Debug, Args)]
pub struct PolicyShow {
    /// Version; the newest if it is left out
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub version: Option<u64>,
    /// Print the XML that it was made from, byte for byte
    #[arg(long)]
    pub xml: bool,
}

/// `dsictl policy can`
#[derive(Debug, Args)]
pub struct PolicyCan {
    /// Who: ZONE, ZONE@NODE or outside[:ADDRESS]
    pub subject: String,
    /// May do what: PERMISSION or CLASS:PERMISSION
    pub permission: String,
    /// To whom: ZONE, ZONE@NODE or outside[:ADDRESS]
    pub object: Option<String>,
    /// Policy that is asked; the newest that the server holds if it is left out
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Port or range of the object, if one end is outside
    #[arg(long, value_name = "PORTS")]
    pub port: Option<String>,
    /// Port or range of the subject, of datagrams to or from outside
    #[arg(long, value_name = "PORTS")]
    pub from_port: Option<String>,
    /// Of `execute`: what the process has to become
    #[arg(long, value_name = "ZONE")]
    pub becomes: Option<String>,
}

/// `dsictl policy test`
#[derive(Debug, Args)]
pub struct PolicyTest {
    /// Files of expectations
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Policy that is tested; the newest that the server holds if it is left out
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// `dsictl policy diff`
#[derive(Debug, Args)]
pub struct PolicyDiff {
    /// The policy before (XML), or with --in-force the one after
    #[arg(value_name = "A")]
    pub first: PathBuf,
    /// The policy after (XML)
    #[arg(
        value_name = "B",
        required_unless_present = "in_force",
        conflicts_with = "in_force"
    )]
    pub second: Option<PathBuf>,
    /// Compare with the newest policy that the server holds
    #[arg(long)]
    pub in_force: bool,
}

/// `dsictl run`
#[derive(Debug, Args)]
pub struct Run {
    /// The ScID: a number, or with --policy a name
    #[arg(long)]
    pub scid: ScidArgument,
    /// Policy that names the ScID
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<OsString>,
}

/// `dsictl audit`
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Follow what the kernels of all nodes refuse
    #[command(
        after_help = "Examples:\n  dsictl audit tail\n  dsictl audit tail --replay 20 --node munster\n  dsictl audit tail --replay 100 --count 100 --json"
    )]
    Tail(AuditTail),
}

/// `dsictl audit tail`
#[derive(Debug, Args)]
pub struct AuditTail {
    /// Start with so many of the newest events
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub replay: u32,
    /// Only what this node decided: its name or SnID
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// `dsictl status`
#[derive(Debug, Args)]
pub struct Status {
    /// Ask this node's kernel module, not the server
    #[arg(long)]
    pub local: bool,
}

/// `dsictl ps`
#[derive(Debug, Args)]
pub struct Ps {
    /// Policy whose names are shown
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn leaves(command: &clap::Command, path: String, missing: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            if command.has_subcommands() {
                command
                    .get_subcommands()
                    .for_each(|sub| leaves(sub, path.clone(), missing));
            } else if !command
                .get_after_help()
                .is_some_and(|help| help.to_string().contains("Examples:"))
            {
                missing.push(path);
            }
        }
        let mut missing = Vec::new();
        leaves(&Cli::command(), String::new(), &mut missing);
        assert_eq!(missing, [""; 0]);
    }
}
