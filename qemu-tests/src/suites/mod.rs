//! The suites. Each file's first lines tell what it proves.

pub mod harness;

use crate::suite::Suite;

/// All suites, in the order in which they run.
pub const ALL: &[Suite] = &[harness::SUITE];
