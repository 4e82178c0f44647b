//! What can go wrong between a program and the module, each with what to do about it.

use std::io;

/// What a refusal without words of the module's own comes from.
const NEEDS: &str = "it needs CAP_MAC_ADMIN, and CAP_SYS_ADMIN to listen, in the initial user namespace: run it as root";

/// Why a request to the module was not answered as hoped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The kernel has no family `dsi`.
    #[error("the kernel module dsm is not loaded: load it with `modprobe dsm` or `insmod dsm.ko`")]
    ModuleNotLoaded,
    /// The caller lacks the capability.
    #[error("{operation}: not permitted: {}", .message.as_deref().unwrap_or(NEEDS))]
    Permission {
        /// The operation of the family.
        operation: &'static str,
        /// What the module said about it.
        message: Option<String>,
    },
    /// The module refused the request.
    #[error("{operation}: the module refused: {}", words(.message, *.errno))]
    Refused {
        /// The operation of the family.
        operation: &'static str,
        /// The kernel's error number, positive.
        errno: i32,
        /// The extended acknowledgement: what is wrong and how to mend it.
        message: Option<String>,
    },
    /// The module's message could not be understood.
    #[error(
        "{operation}: the module's answer is not understood: {detail}: are module and tools of the same release?"
    )]
    Protocol {
        /// The operation of the family.
        operation: &'static str,
        /// What was wrong with it.
        detail: String,
    },
    /// An argument that no message can carry.
    #[error("{operation}: {detail}")]
    Argument {
        /// The operation of the family.
        operation: &'static str,
        /// What is wrong with the argument.
        detail: String,
    },
    /// The kernel gave no answer in time.
    #[error("{operation}: no answer from the kernel within {seconds} s")]
    NoAnswer {
        /// The operation of the family.
        operation: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The socket itself failed.
    #[error("{operation}: netlink socket: {source}")]
    Socket {
        /// The operation of the family.
        operation: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Permission { .. } => Some(rustix::io::Errno::PERM.raw_os_error()),
            Self::Socket { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The module's own words, if it said any.
    pub fn kernel_message(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } | Self::Permission { message, .. } => message.as_deref(),
            _ => None,
        }
    }
}

/// The module's words, or the kernel's for the error number.
fn words(message: &Option<String>, errno: i32) -> String {
    match message {
        Some(message) => format!("{message} (errno {errno})"),
        None => io::Error::from_raw_os_error(errno).to_string(),
    }
}
