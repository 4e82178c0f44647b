// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! What can go wrong, said once: the sentence, what to do about it, and the exit code.

use std::{io, path::PathBuf, process::ExitCode};

use dsi_proto::{
    files::FileError, netlink::NetlinkError, policy::PolicyFault, profile::ProfileError,
    signature::SignatureError, tls::ConnectError,
};
use dsp_schema::{CompileError, Faults, foresight::ForesightError};
use ssd::bootstrap::InitError;
use tonic::Code;

use crate::label::LabelError;

/// The exit codes that scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Refused or failed.
    Failed = 1,
    /// The command line is wrong. Of `policy can`, `test` and `diff` also that there is no answer.
    Usage = 2,
    /// No server, or no module, could be reached.
    Unreachable = 3,
    /// The policy is invalid.
    InvalidPolicy = 4,
    /// Not permitted.
    NotPermitted = 5,
    /// `run`: the command was found but could not be executed.
    CannotExecute = 126,
    /// `run`: the command was not found.
    NoCommand = 127,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The request to apply a policy, in whose refusals an invalid argument is an invalid policy.
pub const APPLYING: &str = "applying the policy";

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel module refused or is not there.
    #[error(transparent)]
    Module(#[from] NetlinkError),
    /// The profile cannot be used.
    #[error("{source}")]
    Profile {
        /// Its directory.
        directory: PathBuf,
        /// Why.
        source: ProfileError,
    },
    /// A file of the policy signer cannot be read.
    #[error("policy signer: {source}")]
    SignerFile {
        /// Why.
        source: FileError,
    },
    /// The policy signer cannot be used.
    #[error("{}: {source}", path.display())]
    Signer {
        /// File of its key.
        path: PathBuf,
        /// Why.
        source: SignatureError,
    },
    /// The server's policy is not one that the policy signers signed.
    #[error("policy {version}, as the server gave it, is not to be trusted: {source}")]
    Untrusted {
        /// Its version.
        version: u64,
        /// Why.
        source: PolicyFault,
    },
    /// No server answered.
    #[error("{source}")]
    Unreachable {
        /// Why.
        source: ConnectError,
        /// Why the connection was not management's, if it was not.
        management: Option<String>,
    },
    /// The server refused.
    #[error("{action}: {}", .status.message())]
    Server {
        /// What was asked.
        action: &'static str,
        /// Its answer.
        status: tonic::Status,
    },
    /// The server answered what cannot be.
    #[error("the server's answer is not understood: {detail}")]
    Protocol {
        /// What is wrong with it.
        detail: String,
    },
    /// A label cannot be read or changed.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// Some files of several could not be handled; each was reported.
    #[error("{failed} of {total} files failed")]
    SomeFiles {
        /// How many failed.
        failed: usize,
        /// Of how many.
        total: usize,
        /// The gravest of their exit codes.
        exit: Exit,
    },
    /// The policy has faults.
    #[error("{0}")]
    Faults(Box<Faults>),
    /// A question, or a file of expectations, has faults.
    #[error("{0}")]
    Questions(Box<Faults>),
    /// The policy cannot be asked.
    #[error("{policy}: {source}")]
    Foresight {
        /// What it is called.
        policy: String,
        /// Why.
        source: ForesightError,
    },
    /// Why a command has no answer, of those that end with 1 to say no.
    #[error(transparent)]
    Unanswered(Box<Failure>),
    /// The policy gives no image.
    #[error("{}: {source}", file.display())]
    Compile {
        /// The policy.
        file: PathBuf,
        /// Why.
        source: CompileError,
    },
    /// The image cannot be signed.
    #[error("signing the policy: {0}")]
    Signing(SignatureError),
    /// Not every connected node has the policy.
    #[error("policy {version} is not in force on {}", .nodes.join(", "))]
    NotInForce {
        /// Its version.
        version: u64,
        /// The nodes, each with its reason.
        nodes: Vec<String>,
    },
    /// Not every connected node refuses an expelled one.
    #[error("`{name}` is expelled, and not refused yet by {}", .nodes.join(", "))]
    NotRefusedYet {
        /// Its name.
        name: String,
        /// The nodes.
        nodes: Vec<String>,
    },
    /// The change of keys has not come to its end.
    #[error("the new keys are not in use yet on {}", .nodes.join(", "))]
    KeysNotInUse {
        /// The nodes.
        nodes: Vec<String>,
    },
    /// A node that the cluster does not have.
    #[error("the cluster has no node `{name}`")]
    UnknownNode {
        /// As it was written.
        name: String,
    },
    /// A ScID by name, without the policy that names it.
    #[error("`{name}` is a name, and no policy says which ScID has it")]
    NameWithoutPolicy {
        /// The name.
        name: String,
    },
    /// A name that the policy does not give.
    #[error("{} names no context `{name}`", policy.display())]
    UnknownName {
        /// The name.
        name: String,
        /// The policy.
        policy: PathBuf,
        /// Names that it gives.
        known: Vec<String>,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The operating system refused.
    #[error("{action}: {source}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// `run`: the program cannot be executed.
    #[error("{command}: {source}")]
    Execute {
        /// The program.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// The cluster could not be made.
    #[error("making the cluster: {0}")]
    Bootstrap(#[from] InitError),
}

impl Failure {
    /// A refusal by the server.
    pub fn server(action: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Server { action, status }
    }

    /// How the program ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Module(error) => module_exit(error),
            Self::Profile {
                source: ProfileError::File(error),
                ..
            }
            | Self::SignerFile { source: error } => file_exit(error),
            Self::File(error) => file_exit(error),
            Self::Bootstrap(InitError::File(error)) => file_exit(error),
            Self::Bootstrap(InitError::Name(_)) => Exit::Usage,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Server { action, status } => match status.code() {
                Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
                Code::InvalidArgument if *action == APPLYING => Exit::InvalidPolicy,
                Code::PermissionDenied | Code::Unauthenticated => Exit::NotPermitted,
                _ => Exit::Failed,
            },
            Self::Label(error) => error.exit(),
            Self::SomeFiles { exit, .. } => *exit,
            Self::Faults(_) | Self::Compile { .. } | Self::Foresight { .. } => Exit::InvalidPolicy,
            Self::Unanswered(cause) => match cause.exit() {
                Exit::Failed => Exit::Usage,
                other => other,
            },
            Self::Questions(_) | Self::NameWithoutPolicy { .. } | Self::UnknownName { .. } => {
                Exit::Usage
            }
            Self::Execute { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Exit::NoCommand
            }
            Self::Execute { .. } => Exit::CannotExecute,
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            Self::Profile { .. }
            | Self::Signer { .. }
            | Self::Untrusted { .. }
            | Self::Protocol { .. }
            | Self::Signing(_)
            | Self::NotInForce { .. }
            | Self::NotRefusedYet { .. }
            | Self::KeysNotInUse { .. }
            | Self::UnknownNode { .. }
            | Self::System { .. }
            | Self::Bootstrap(_) => Exit::Failed,
        }
    }

    /// What to do about it, if there is more to say than the sentence says.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Module(NetlinkError::ModuleNotLoaded) => {
                "the module is built by `make module`; `lsmod | grep dsm` shows whether it is loaded".to_owned()
            }
            Self::Profile { directory, source: ProfileError::File(error) } if error.is_not_found() => format!(
                "`dsictl cluster init` makes a profile; if yours is not in {}, name it with --profile or DSI_PROFILE",
                directory.display()
            ),
            Self::SignerFile { source } if source.is_not_found() => {
                "only a profile that holds the policy signer's signer.key and anchor.der can sign policies".to_owned()
            }
            Self::Unreachable { management: Some(reason), .. } => format!(
                "the kernel module is loaded and may have refused the connection, for dsictl could not take \
                 management's ScID ({reason}); run it as root"
            ),
            Self::Unreachable { management: None, .. } => {
                "is ssd running there? `systemctl status ssd`, and its address in the profile's cluster.json".to_owned()
            }
            Self::Server { action, status } => match status.code() {
                Code::Unauthenticated => {
                    "this needs an administrator's certificate of this cluster (admin.pem of the profile)".to_owned()
                }
                Code::FailedPrecondition if *action == APPLYING => {
                    "`dsictl policy history` and `dsictl status` show what the server holds; then try again".to_owned()
                }
                Code::Unavailable => "the connection broke; try again".to_owned(),
                _ => return None,
            },
            Self::Untrusted { .. } => {
                "do not use it; compare the profile's anchor.der with that of another administrator".to_owned()
            }
            Self::Label(error) => return error.help(),
            Self::Unanswered(cause) => return cause.help(),
            Self::NotInForce { .. } => {
                "`dsictl status` shows each node's state; a node that comes back gets the policy by itself".to_owned()
            }
            Self::NotRefusedYet { .. } => {
                "the server goes on telling them; `dsictl node list` shows what went wrong on a node".to_owned()
            }
            Self::KeysNotInUse { .. } => {
                "the server goes on by itself; a node that stays silent is expelled with `dsictl node remove`, or left \
                 behind with `dsictl key rotate --force`"
                    .to_owned()
            }
            Self::UnknownNode { .. } => "`dsictl node list` shows the nodes".to_owned(),
            Self::NameWithoutPolicy { .. } => "give the number, or the policy with --policy FILE".to_owned(),
            Self::UnknownName { known, .. } if known.is_empty() => "it names no context at all".to_owned(),
            Self::UnknownName { known, .. } => format!("it names {}", known.join(", ")),
            Self::Bootstrap(InitError::Exists(_)) => {
                "a cluster's keys are never overwritten: --data-dir and --profile name other directories".to_owned()
            }
            Self::Execute { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "if the file may be executed, then its label may not be under this ScID: `dsictl label get`, and the \
                 policy's transitions"
                    .to_owned()
            }
            _ => return None,
        };
        Some(help)
    }
}

fn module_exit(error: &NetlinkError) -> Exit {
    match error {
        NetlinkError::ModuleNotLoaded
        | NetlinkError::NoAnswer { .. }
        | NetlinkError::Socket { .. } => Exit::Unreachable,
        NetlinkError::Permission { .. } => Exit::NotPermitted,
        _ => Exit::Failed,
    }
}

fn file_exit(error: &FileError) -> Exit {
    match error {
        FileError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Exit::NotPermitted
        }
        FileError::NotPrivate { .. } => Exit::NotPermitted,
        _ => Exit::Failed,
    }
}
