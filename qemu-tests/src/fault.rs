//! What can go wrong: the thing under test (a failure) or the harness around it (a fault).

use std::fmt;
use std::path::Path;

/// The harness could not do its work, so nothing is known about the thing under test.
#[derive(Debug)]
pub enum Fault {
    /// A script or tool that prepares the guests failed.
    Prepare {
        /// What was run.
        what: String,
        /// What it said.
        detail: String,
    },
    /// QEMU could not be started, or ended by itself.
    Qemu {
        /// The node.
        node: String,
        /// What happened, with the tail of QEMU's messages.
        detail: String,
    },
    /// The guest did not report in time.
    BootTimeout {
        /// The node.
        node: String,
        /// The tail of the guest's console.
        console: String,
    },
    /// The agent in the guest did not answer, or not as agreed.
    Agent {
        /// The node.
        node: String,
        /// What was asked and what came.
        detail: String,
    },
    /// A file or socket on the host could not be used.
    Host {
        /// The operation and the path.
        what: String,
        /// The system's error.
        error: std::io::Error,
    },
}

impl Fault {
    /// An I/O error at a path of the host.
    pub fn host(what: impl Into<String>, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let what = format!("{} {}", what.into(), path.display());
        move |error| Self::Host { what, error }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare { what, detail } => write!(f, "{what}: {detail}"),
            Self::Qemu { node, detail } => write!(f, "{node}: QEMU: {detail}"),
            Self::BootTimeout { node, console } => {
                write!(
                    f,
                    "{node}: the guest did not boot in time; its console ends:\n{console}"
                )
            }
            Self::Agent { node, detail } => write!(f, "{node}: agent: {detail}"),
            Self::Host { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Fault {}

/// Why a test did not pass.
#[derive(Debug)]
pub enum Failure {
    /// The thing under test behaved otherwise than expected.
    Failed(String),
    /// Nothing was learned: the harness failed.
    Fault(Fault),
}

impl Failure {
    /// A failure with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) => f.write_str(text),
            Self::Fault(fault) => write!(f, "harness: {fault}"),
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Fails the test with a formatted text unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::Failure::new(format!($($text)+)));
        }
    };
}

/// Fails the test unless both values are equal; tells both.
#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr, $($text:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    let what = format!($($text)+);
                    return Err($crate::Failure::new(format!("{what}: found {left:?}, expected {right:?}")));
                }
            }
        }
    };
}
