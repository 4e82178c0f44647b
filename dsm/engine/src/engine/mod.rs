// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The policy engine: what a label says, what a policy image says, and what follows from both.
//!
//! One source serves two crates: `dsi-engine` on the host and dsm.ko in the kernel. Hence it uses `core` only, never
//! allocates, knows no socket, task, clock or errno, and must never panic, whatever bytes it is handed.
#![forbid(unsafe_code)]
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "dsm.ko includes this module privately and uses a part of it; the host crate exports all of it"
)]

mod bytes;
pub mod decide;
pub mod header6;
pub mod ids;
pub mod image;
pub mod label;
pub mod outside;
pub mod policy;
pub mod reason;
pub mod told;
pub mod xattr;

pub use decide::{Decision, Peer, Transition};
pub use ids::{ScId, SnId};
pub use image::{Image, ImageError, PolicyMeta};
pub use label::{Flow, Label, LabelError, Prf, Start};
pub use outside::Remote;
pub use policy::{
    NetworkPermission, Policy, ProcessPermission, SocketPermission, SystemPermission,
};
pub use reason::{Class, Mode, Reason};
pub use told::Told;
pub use xattr::XattrError;
