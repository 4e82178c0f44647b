//! What a suite is: a cluster that is booted once, and named tests that run on it in order.

use crate::cluster::{Cluster, NodeSpec};
use crate::fault::Failure;

/// What a test returns.
pub type TestResult = Result<(), Failure>;

/// What a suite needs to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// dsm.ko for the kernel in use, and the spec of its netlink family.
    Module,
    /// smd, ssd and dsictl.
    Servers,
    /// The kernel's own network selftests.
    Selftests,
    /// Redis, nginx and PostgreSQL as Debian ships them, on a disk.
    Programs,
}

/// A test. Its name ends in what happens: `...-ok`, `...-denied`.
#[derive(Clone, Copy)]
pub struct Test {
    /// The name.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&mut Cluster) -> TestResult,
}

/// A table of tests: `"name" => function,`.
#[macro_export]
macro_rules! tests {
    ($($name:literal => $run:expr,)+) => {
        &[$($crate::suite::Test { name: $name, run: $run },)+]
    };
}

/// A suite.
#[derive(Clone, Copy)]
pub struct Suite {
    /// The name; a test's whole name is `suite/test`.
    pub name: &'static str,
    /// What it proves, in one sentence.
    pub proves: &'static str,
    /// Its nodes.
    pub nodes: &'static [NodeSpec],
    /// What has to be built for it.
    pub needs: &'static [Need],
    /// What is done once before the first test.
    pub setup: fn(&mut Cluster) -> TestResult,
    /// Its tests, in order.
    pub tests: &'static [Test],
}

/// A suite's setup that does nothing.
pub fn no_setup(_: &mut Cluster) -> TestResult {
    Ok(())
}
