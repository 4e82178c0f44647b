// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! What a policy would decide, before any node has it: one question ([`Compiled::answer`]), a file of expectations
//! ([`Compiled::expectations`]), and every decision in which two policies differ ([`difference`]).
//!
//! **Invariant.** Each answer is the engine's: the functions that the kernel calls, asked about the compiled image. What
//! is here only knows which questions are worth asking (`survey`), and puts into words what came back.

mod answer;
mod difference;
mod set;
mod survey;
mod words;

pub use answer::{Answer, Case, Finding, Step, Verdict};
pub use difference::{Change, Difference, Setting, What, difference};
pub use set::Set;
pub use survey::{Deed, Matter, Point, Space};
pub use words::{Brief, Words};

use crate::compile::{CompileError, CompileInput, compile};
use crate::fault::Faults;
use crate::model::{Dsp, Rule};
use crate::names::Names;
use crate::parse;
use dsi_engine::image::ImageError;
use dsi_engine::{Image, Policy, PolicyMeta, ScId, SnId};
use std::net::IpAddr;
use survey::{Claims, Hostings};

/// One end of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its zone, or outside; 0 for the machine, and for what has no zone.
    pub scid: ScId,
    /// Its node; none for any.
    pub node: SnId,
    /// Where outside: the first address of a network, and its bits that count; none for anywhere.
    pub network: Option<(IpAddr, u8)>,
    /// Its ports, if the other end or this one is outside; none for any.
    pub ports: Option<(u16, u16)>,
}

impl End {
    /// A zone, on a node or on any.
    pub const fn of(scid: ScId, node: SnId) -> Self {
        Self {
            scid,
            node,
            network: None,
            ports: None,
        }
    }
}

/// A question to a policy. What it leaves open, a node or an address, it asks of all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// May one do this to the other?
    Permission {
        /// What.
        deed: Deed,
        /// Whether it was asked as the permission to receive, by the target.
        receive: bool,
        /// Who: of a datagram the sender.
        source: End,
        /// To whom.
        target: End,
    },
    /// May a process execute a binary?
    Execute {
        /// ScID of the process.
        parent: ScId,
        /// Label of the binary.
        binary: ScId,
        /// What it has to become; anything if it is none.
        becomes: Option<ScId>,
    },
    /// May a node speak for a zone?
    Host {
        /// The node.
        node: SnId,
        /// The zone.
        scid: ScId,
    },
}

/// What somebody expects of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Line in its file.
    pub line: usize,
    /// As it was written, without comments.
    pub text: String,
    /// Whether it is to be allowed.
    pub allowed: bool,
    /// The question.
    pub question: Question,
}

/// Why a document cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForesightError {
    /// It gives no image.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The image is none.
    #[error("{0}")]
    Image(ImageError),
    /// The image was made from another document.
    #[error("the image was not made from this document")]
    OtherDocument,
}

/// A document with its image, ready to be asked.
#[derive(Debug)]
pub struct Compiled {
    dsp: Dsp,
    names: Names,
    image: Vec<u8>,
    meta: PolicyMeta,
    claims: Claims,
    hostings: Hostings,
}

impl Compiled {
    /// Compiles a document.
    pub fn new(dsp: Dsp) -> Result<Self, ForesightError> {
        // Neither is an input to a decision.
        let input = CompileInput {
            cluster_uuid: [0; 16],
            version: 1,
        };
        let image = compile(&dsp, &input)?;
        Self::with_image(dsp, image)
    }

    /// A document with the image that was made from it, as a server keeps the two.
    pub fn with_image(dsp: Dsp, bytes: Vec<u8>) -> Result<Self, ForesightError> {
        let image = Image::validate(&bytes).map_err(ForesightError::Image)?;
        let meta = image.meta();
        if *meta.source_sha256() != dsp.source_sha256 {
            return Err(ForesightError::OtherDocument);
        }
        let (claims, hostings) = (survey::claims(&image), survey::hostings(&image));
        Ok(Self {
            names: Names::of(&dsp),
            dsp,
            image: bytes,
            meta,
            claims,
            hostings,
        })
    }

    /// The document.
    pub fn document(&self) -> &Dsp {
        &self.dsp
    }

    /// Its names.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The rule that a decision names.
    pub fn rule(&self, id: u32) -> Option<&Rule> {
        self.dsp
            .rules
            .get(usize::try_from(id.checked_sub(1)?).ok()?)
    }

    /// The view that the kernel asks.
    pub fn policy(&self) -> Policy<'_> {
        Policy::from_validated(&self.image, &self.meta)
    }

    /// Reads a question, one of each class that has the permission. `name` is what faults call the text.
    pub fn questions(&self, name: &str, text: &str) -> Result<Vec<Question>, Faults> {
        parse::questions(name, text, &self.dsp)
    }

    /// Reads expectations of this policy.
    pub fn expectations(&self, name: &str, bytes: &[u8]) -> Result<Vec<Expectation>, Faults> {
        parse::expectations(name, bytes, &self.dsp)
    }
}
