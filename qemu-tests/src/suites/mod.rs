//! The suites. Each file's first lines tell what it proves.

pub mod administration;
pub mod attack;
pub mod calls;
pub mod escape;
pub mod forgery;
pub mod handshake;
pub mod harness;
pub mod ipv6;
pub mod label;
pub mod memory;
pub mod module;
pub mod nat;
pub mod ordinary;
pub mod outside;
pub mod policy_load;
pub mod programs;
pub mod revoke;
pub mod rotation;
pub mod routes;
pub mod selftests;
pub mod soak;
pub mod sockets;
pub mod twins;
pub mod two_operators;
pub mod unix;
pub mod wire;

#[cfg(test)]
mod claims;

use crate::suite::Suite;

/// All suites, in the order in which they run.
pub const ALL: &[Suite] = &[
    harness::SUITE,
    module::SUITE,
    label::SUITE,
    ipv6::SUITE,
    memory::SUITE,
    policy_load::SUITE,
    twins::SUITE,
    outside::SUITE,
    sockets::SUITE,
    unix::SUITE,
    calls::SUITE,
    ordinary::SUITE,
    routes::SUITE,
    nat::SUITE,
    handshake::SUITE,
    forgery::SUITE,
    attack::SUITE,
    escape::SUITE,
    revoke::SUITE,
    rotation::SUITE,
    two_operators::SUITE,
    administration::SUITE,
];

/// Suites that take long: they run only if the filter begins with their name.
pub const LONG: &[Suite] = &[programs::SUITE, selftests::SUITE, soak::SUITE, wire::SUITE];

/// The suites that a filter may choose from.
pub fn choice(filter: Option<&str>) -> &'static [Suite] {
    let named = |suite: &Suite| filter.is_some_and(|filter| filter.starts_with(suite.name));
    if LONG.iter().any(named) { LONG } else { ALL }
}
