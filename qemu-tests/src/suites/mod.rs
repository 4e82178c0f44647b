//! The suites. Each file's first lines tell what it proves.

pub mod administration;
pub mod attack;
pub mod forgery;
pub mod harness;
pub mod label;
pub mod module;
pub mod policy_load;
pub mod sockets;
pub mod twins;
pub mod two_operators;

use crate::suite::Suite;

/// All suites, in the order in which they run.
pub const ALL: &[Suite] = &[
    harness::SUITE,
    module::SUITE,
    label::SUITE,
    policy_load::SUITE,
    twins::SUITE,
    sockets::SUITE,
    forgery::SUITE,
    attack::SUITE,
    two_operators::SUITE,
    administration::SUITE,
];
