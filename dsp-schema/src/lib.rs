// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The distributed security policy (DSP): its XML schema, a parser that tells every fault with its place and its cure,
//! and the compiler to the image that the kernel reads.
//!
//! ```text
//! bytes ──parse──▶ Dsp (model, checked) ──compile──▶ image ──dsi_engine::Image::validate──▶ view
//!                                                              view ──foresight──▶ answers, differences
//! ```
//!
//! Pure functions: nothing here reads a file, a clock or the network, and equal input gives equal bytes.

mod check;
pub mod compile;
pub mod fault;
pub mod foresight;
pub mod image;
pub mod model;
pub mod names;
mod parse;
pub mod report;
mod source;

pub use compile::{CompileError, CompileInput, compile};
pub use fault::{Fault, FaultKind, Faults};
pub use model::{Dsp, Rule, RuleBody};
pub use names::Names;
pub use parse::parse;
pub use source::{Position, Source};

/// The XML schema, normative for the shape of a document.
pub const XSD: &str = include_str!("../dsp.xsd");
/// The namespace of every element of a DSP.
pub const NAMESPACE: &str = "urn:dsi:dsp:1";
/// Bytes of the largest document that is read.
pub const MAX_SOURCE_LEN: usize = 64 << 20;
