//! The suites. Each file's first lines tell what it proves.

pub mod harness;
pub mod label;
pub mod module;
pub mod two_operators;

use crate::suite::Suite;

/// All suites, in the order in which they run.
pub const ALL: &[Suite] = &[
    harness::SUITE,
    module::SUITE,
    label::SUITE,
    two_operators::SUITE,
];
