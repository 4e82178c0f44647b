//! Nodes in QEMU: boots any number of them on a stock Debian kernel, joins them to one network, runs
//! commands on them, and tells a test that failed from a harness that did.
//!
//! A [`Cluster`] is a set of [`Node`]s on one [`switch`]; a [`suite::Suite`] boots one and runs its
//! tests on it. Nothing here may touch the host's network: frames travel between QEMU and the switch
//! over sockets in the run's own directory.

pub mod agent;
pub mod attack;
pub mod cluster;
pub mod console;
pub mod control;
pub mod enrol;
pub mod fault;
pub mod images;
pub mod label;
pub mod leaks;
pub mod node;
pub mod pcap;
pub mod probe;
pub mod protocol;
pub mod regime;
pub mod runner;
pub mod scenario;
pub mod shell;
pub mod signer;
pub mod suite;
pub mod suites;
pub mod switch;
pub mod vm;

pub use cluster::{Cluster, NodeSpec};
pub use fault::{Failure, Fault};
pub use node::{Node, Output, Process};
pub use suite::{Need, Suite, Test, TestResult};
