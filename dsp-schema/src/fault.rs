// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! What can be wrong with a document. Every fault has a code for scripts, a sentence for people, a place, and a cure.

use crate::source::Source;
use dsi_engine::SnId;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::fmt;
use std::ops::Range;

/// Most faults that one parse reports; the rest is only counted.
pub const MAX_FAULTS: usize = 100;

/// Number space of an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id {
    /// Security context.
    ScId,
    /// Node.
    SnId,
}

impl Id {
    const fn name(self) -> &'static str {
        match self {
            Self::ScId => "ScID",
            Self::SnId => "SnID",
        }
    }

    const fn range(self) -> (u32, u32) {
        match self {
            Self::ScId => (2, u32::MAX - 1),
            Self::SnId => (1, SnId::MAX),
        }
    }

    const fn section(self) -> (&'static str, &'static str) {
        match self {
            Self::ScId => ("contexts", "context"),
            Self::SnId => ("nodes", "node"),
        }
    }
}

/// A kind of fault, with what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The document is too large to be read.
    TooLarge {
        /// Its bytes.
        len: usize,
    },
    /// A byte that is not UTF-8.
    NotUtf8 {
        /// Its offset.
        offset: usize,
    },
    /// Not well-formed XML.
    Syntax {
        /// What the XML parser says.
        message: String,
    },
    /// The outermost element is not a DSP of this version.
    WrongRoot {
        /// Its name.
        found: String,
        /// Its namespace.
        namespace: Option<String>,
    },
    /// An element that is not known here.
    UnknownElement {
        /// Its name.
        found: String,
        /// The element that it stands in.
        parent: String,
        /// The known one that is nearest.
        nearest: Option<&'static str>,
        /// All that are known there.
        known: &'static [&'static str],
    },
    /// An element with the right name and another namespace.
    WrongNamespace {
        /// Its name.
        found: String,
    },
    /// An attribute that is not known here.
    UnknownAttribute {
        /// Its name.
        found: String,
        /// The element that it stands on.
        element: String,
        /// The known one that is nearest.
        nearest: Option<&'static str>,
        /// All that are known there.
        known: &'static [&'static str],
    },
    /// An element is missing.
    MissingElement {
        /// Its name.
        name: &'static str,
        /// Where.
        parent: String,
    },
    /// An attribute is missing.
    MissingAttribute {
        /// Its name.
        name: &'static str,
        /// Where.
        element: String,
    },
    /// An element that may stand once stands twice.
    RepeatedElement {
        /// Its name.
        name: String,
        /// Where.
        parent: String,
    },
    /// Text between elements.
    StrayText {
        /// Where.
        parent: String,
    },
    /// An element without the text that it needs.
    Empty {
        /// Its name.
        element: String,
    },
    /// One of a few words was expected.
    BadWord {
        /// What the word is for.
        what: String,
        /// The word.
        found: String,
        /// The known one that is nearest.
        nearest: Option<&'static str>,
        /// All that are known.
        known: Vec<&'static str>,
    },
    /// Neither a number nor a name.
    BadId {
        /// Of which kind.
        id: Id,
        /// What it is.
        found: String,
    },
    /// A number with leading zeros or a sign.
    BadNumber {
        /// What it is.
        found: String,
    },
    /// A number that no ScID or SnID has.
    OutOfRange {
        /// Of which kind.
        id: Id,
        /// The number.
        found: String,
    },
    /// ScID 0 or 1.
    Reserved {
        /// The number.
        found: u64,
    },
    /// A number that the document does not declare.
    Undeclared {
        /// Its number.
        found: u32,
    },
    /// A name that the document does not declare.
    UnknownName {
        /// Of which kind.
        id: Id,
        /// The name.
        found: String,
        /// The declared one that is nearest.
        nearest: Option<String>,
    },
    /// `outside` where a zone of the cluster is needed.
    OutsideNotAllowed {
        /// The element.
        element: String,
    },
    /// A node named for a peer outside.
    NodeOutside,
    /// Something that cannot be a name.
    BadName {
        /// What it is.
        found: String,
    },
    /// A name that the language has given already.
    ReservedName {
        /// The name.
        found: String,
    },
    /// A name, number or id that is declared twice.
    Redeclared {
        /// What: `name`, `ScID`, `SnID`, `id`.
        what: &'static str,
        /// The value.
        found: String,
    },
    /// Not an address or network, or one of IPv4 in the clothes of IPv6.
    BadAddress {
        /// What it is.
        found: String,
        /// What would say the same, if something does.
        instead: Option<String>,
    },
    /// A network whose address has bits below its prefix.
    HostBits {
        /// The address.
        address: String,
        /// The network that the prefix gives.
        network: String,
    },
    /// A place for a rule without an end outside, or with two.
    PlaceInside {
        /// The element.
        element: String,
    },
    /// Not a port or range of ports.
    BadPort {
        /// What it is.
        found: String,
    },
    /// A range whose last port comes before its first.
    PortsReversed {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// Two rules, or one, grant and deny the same permission on the same tuple.
    GrantAndDeny {
        /// Names of the permissions.
        permissions: Vec<&'static str>,
        /// Whether the denying rule is one that names no permission.
        empty: bool,
    },
    /// Two transitions of the same parent and binary to different ScIDs.
    TwoTransitions {
        /// ScID of the parent.
        parent: u32,
        /// ScID of the binary.
        binary: u32,
        /// New ScID of this rule.
        new: u32,
        /// New ScID of the other one.
        other: u32,
    },
    /// Two socket labels of the same port to different ScIDs.
    TwoLabels {
        /// Name of the protocol.
        protocol: &'static str,
        /// First port that both name.
        port: u16,
        /// New ScID of this rule.
        new: u32,
        /// New ScID of the other one.
        other: u32,
    },
    /// A question ends before it is one.
    MissingPart {
        /// What is missing.
        what: &'static str,
    },
    /// A word of a question that nothing can be made of.
    StrayPart {
        /// The word.
        found: String,
    },
    /// A part of a question that stands twice.
    RepeatedPart {
        /// Its word.
        what: &'static str,
    },
    /// A permission of several classes where one is needed.
    Ambiguous {
        /// The permission.
        word: String,
        /// The classes that have it.
        classes: Vec<&'static str>,
    },
    /// A port in a question whose answer does not depend on it.
    IdlePort {
        /// Whether the question is about the world outside.
        outside: bool,
    },
    /// A question that nobody asks, for want of an end that is a zone, or of one that is outside.
    WrongEnds {
        /// Whether it is multicast.
        multicast: bool,
    },
    /// A node for a socket or process, which is always on the subject's.
    NodeOfObject,
}

impl FaultKind {
    /// A short name that never changes, for scripts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::NotUtf8 { .. } => "not-utf8",
            Self::Syntax { .. } => "syntax",
            Self::WrongRoot { .. } => "wrong-root",
            Self::UnknownElement { .. } => "unknown-element",
            Self::WrongNamespace { .. } => "wrong-namespace",
            Self::UnknownAttribute { .. } => "unknown-attribute",
            Self::MissingElement { .. } => "missing-element",
            Self::MissingAttribute { .. } => "missing-attribute",
            Self::RepeatedElement { .. } => "repeated-element",
            Self::StrayText { .. } => "stray-text",
            Self::Empty { .. } => "empty",
            Self::BadWord { .. } => "bad-word",
            Self::BadId { .. } => "bad-id",
            Self::BadNumber { .. } => "bad-number",
            Self::OutOfRange { .. } => "out-of-range",
            Self::Reserved { .. } => "reserved-ScID",
            Self::Undeclared { .. } => "undeclared-ScID",
            Self::UnknownName { .. } => "unknown-name",
            Self::OutsideNotAllowed { .. } => "outside-not-allowed",
            Self::NodeOutside => "node-outside",
            Self::BadName { .. } => "bad-name",
            Self::ReservedName { .. } => "reserved-name",
            Self::Redeclared { .. } => "redeclared",
            Self::BadAddress { .. } => "bad-address",
            Self::HostBits { .. } => "host-bits",
            Self::PlaceInside { .. } => "place-inside",
            Self::BadPort { .. } => "bad-port",
            Self::PortsReversed { .. } => "ports-reversed",
            Self::GrantAndDeny { .. } => "grant-and-deny",
            Self::TwoTransitions { .. } => "two-transitions",
            Self::TwoLabels { .. } => "two-labels",
            Self::MissingPart { .. } => "missing-part",
            Self::StrayPart { .. } => "stray-part",
            Self::RepeatedPart { .. } => "repeated-part",
            Self::Ambiguous { .. } => "ambiguous-permission",
            Self::IdlePort { .. } => "idle-port",
            Self::WrongEnds { .. } => "wrong-ends",
            Self::NodeOfObject => "node-of-object",
        }
    }

    /// What is wrong.
    pub fn message(&self) -> String {
        match self {
            Self::TooLarge { len } => {
                format!(
                    "the document has {len} bytes; at most {} are read",
                    crate::MAX_SOURCE_LEN
                )
            }
            Self::NotUtf8 { offset } => format!("byte {offset} is not UTF-8"),
            Self::Syntax { message } => format!("not well-formed XML: {message}"),
            Self::WrongRoot { found, namespace } => match namespace {
                Some(namespace) => {
                    format!("the document is a <{found}> of namespace {namespace}, not a DSP")
                }
                None => format!("the document is a <{found}> without a namespace, not a DSP"),
            },
            Self::UnknownElement { found, parent, .. } => {
                format!("unknown element <{found}> in <{parent}>")
            }
            Self::WrongNamespace { found } => format!("element <{found}> is of another namespace"),
            Self::UnknownAttribute { found, element, .. } => {
                format!("unknown attribute {found} of <{element}>")
            }
            Self::MissingElement { name, parent } => format!("<{parent}> has no <{name}>"),
            Self::MissingAttribute { name, element } => {
                format!("<{element}> has no attribute {name}")
            }
            Self::RepeatedElement { name, parent } => format!("second <{name}> in <{parent}>"),
            Self::StrayText { parent } => format!("text in <{parent}>, which holds elements only"),
            Self::Empty { element } => format!("<{element}> is empty"),
            Self::BadWord { what, found, .. } => format!("{found} is no {what}"),
            Self::BadId { id, found } => format!("{found} is neither a {} nor a name", id.name()),
            Self::BadNumber { found } => format!("the number {found} has a sign or leading zeros"),
            Self::OutOfRange { id, found } => format!("{} {found} is out of range", id.name()),
            Self::Reserved { found } => format!(
                "ScID {found} is the {}, which no policy can name",
                if *found == 0 {
                    "kernel's"
                } else {
                    "management's"
                }
            ),
            Self::Undeclared { found } => format!("ScID {found} is not declared"),
            Self::UnknownName { id, found, .. } => match id {
                Id::ScId => format!("no context is named {found}"),
                Id::SnId => format!("no node is named {found}"),
            },
            Self::OutsideNotAllowed { element } => format!("<{element}> cannot be outside"),
            Self::NodeOutside => "a node is named for a peer outside of the cluster".into(),
            Self::BadName { found } => format!("{found:?} cannot be a name"),
            Self::ReservedName { found } => format!("the name {found} has a meaning already"),
            Self::Redeclared { what, found } => format!("{what} {found} is declared twice"),
            Self::BadAddress {
                found,
                instead: None,
            } => format!("{found} is no IP address or network"),
            Self::BadAddress { found, .. } => format!("{found} is IPv4 written as IPv6"),
            Self::HostBits { .. } => "the address has bits below its prefix".into(),
            Self::PlaceInside { element } => {
                format!("<{element}> needs a rule with one end outside")
            }
            Self::BadPort { found } => format!("{found} is neither a port nor a range of ports"),
            Self::PortsReversed { first, last } => {
                format!("the range of ports {first}-{last} is empty")
            }
            Self::GrantAndDeny { permissions, .. } => {
                format!(
                    "contradictory rules: {} is granted and denied",
                    permissions.join(", ")
                )
            }
            Self::TwoTransitions {
                parent,
                binary,
                new,
                other,
            } => format!(
                "contradictory rules: a process of ScID {parent} that executes a binary of ScID {binary} becomes \
                 {new} here and {other} elsewhere"
            ),
            Self::TwoLabels {
                protocol,
                port,
                new,
                other,
            } => format!(
                "contradictory rules: sockets of {protocol} port {port} get ScID {new} here and {other} elsewhere"
            ),
            Self::MissingPart { what } => format!("the {what} is missing"),
            Self::StrayPart { found } => format!("{found} has no place here"),
            Self::RepeatedPart { what } => format!("{what} stands here twice"),
            Self::Ambiguous { word, classes } => {
                format!(
                    "{word} is a permission of several classes: {}",
                    classes.join(", ")
                )
            }
            Self::IdlePort { outside: true } => {
                "of a connection, and of multicast, no rule names this port".into()
            }
            Self::IdlePort { .. } => "no rule names a port if both ends are in the cluster".into(),
            Self::WrongEnds { multicast: true } => {
                "multicast is a permission between a zone and outside".into()
            }
            Self::WrongEnds { .. } => "one end has to be a zone".into(),
            Self::NodeOfObject => {
                "a process reaches sockets and processes of its own node only".into()
            }
        }
    }

    /// How to mend it.
    pub fn help(&self) -> String {
        match self {
            Self::TooLarge { .. } => "leave out what repeats, or use port ranges and named zones".into(),
            Self::NotUtf8 { .. } => "save the file as UTF-8".into(),
            Self::Syntax { .. } => {
                "see that each start tag has its end tag, attribute values are in quotes, and & and < are written \
                 &amp; and &lt;; DTDs and entities are not accepted"
                    .into()
            }
            Self::WrongRoot { .. } | Self::WrongNamespace { .. } => {
                format!("write <DSP xmlns=\"{}\" mode=\"enforcing\"> and leave elements without a prefix", crate::NAMESPACE)
            }
            Self::UnknownElement { nearest, known, .. } => match nearest {
                Some(name) => format!("did you mean <{name}>?"),
                None if known.is_empty() => "take it out: only text may stand here".into(),
                None => format!("known here: {}", tags(known)),
            },
            Self::UnknownAttribute { nearest, known, .. } => match nearest {
                Some(name) => format!("did you mean {name}?"),
                None if known.is_empty() => "take it out: this element has no attributes".into(),
                None => format!("known here: {}", known.join(", ")),
            },
            Self::MissingElement { name, parent } => format!("add <{name}>...</{name}> to the <{parent}>"),
            Self::MissingAttribute { name, element } => match *name {
                "mode" => "write mode=\"enforcing\", or mode=\"permissive\" to only audit what would be refused".into(),
                name => format!("write <{element} {name}=\"...\">"),
            },
            Self::RepeatedElement { name, parent } => {
                format!("keep one <{name}>; for a second value write a second <{parent}>")
            }
            Self::StrayText { .. } => "take it out, or make it a comment: <!-- ... -->".into(),
            Self::Empty { element } => match element.as_str() {
                "grant" | "deny" => format!("name the permissions, or leave <{element}> out"),
                _ => format!("give <{element}> a value"),
            },
            Self::BadWord { nearest, known, .. } => match nearest {
                Some(word) => format!("did you mean {word}?"),
                None => format!("write one of: {}", known.join(", ")),
            },
            Self::BadId { id, .. } => {
                let (low, high) = id.range();
                let (section, _) = id.section();
                format!("write a number from {low} to {high} or a name declared in <{section}>")
            }
            Self::BadNumber { .. } => "write decimal digits only, the first one not 0".into(),
            Self::OutOfRange { id, .. } => {
                let (low, high) = id.range();
                match id {
                    Id::ScId => format!(
                        "a policy's ScIDs go from {low} to {high}; a peer without a label has the name outside"
                    ),
                    Id::SnId => format!("SnIDs go from {low} to {high}; leave the element out to mean any node"),
                }
            }
            Self::Reserved { .. } => "use ScID 2 for unlabelled programs, or one of your own from 3".into(),
            Self::Undeclared { found } => {
                format!("declare it: <context ScID=\"{found}\" name=\"...\"/> in <contexts>, or correct the number")
            }
            Self::UnknownName { id, found, nearest } => match nearest {
                Some(name) => format!("did you mean {name}?"),
                None => {
                    let (section, element) = id.section();
                    format!("declare it: <{element} {}=\"...\" name=\"{found}\"/> in <{section}>", id.name())
                }
            },
            Self::OutsideNotAllowed { .. } => {
                "outside can be the source or target of a <network_permission> only; name a zone".into()
            }
            Self::NodeOutside => "leave the SnID out: peers outside have no node".into(),
            Self::BadName { .. } => {
                "a name starts with a letter or _, goes on with letters, digits, _ . or -, and has at most 64 of them"
                    .into()
            }
            Self::ReservedName { .. } => {
                "default is ScID 2 and outside is a peer without a label; choose another name".into()
            }
            Self::Redeclared { .. } => "take one of the two out or rename it".into(),
            Self::BadAddress {
                instead: Some(instead),
                ..
            } => format!("write {instead}"),
            Self::BadAddress { .. } => {
                "write an address like 192.0.2.7 or 2001:db8::7, or a network like 192.0.2.0/24 or 2001:db8::/32".into()
            }
            Self::HostBits { address, network } => {
                format!("write {network} for the network, or {address} for the one address")
            }
            Self::PlaceInside { .. } => {
                "make source_ScID or target_ScID outside; zones have no addresses: name their nodes".into()
            }
            Self::BadPort { .. } => "write a port from 1 to 65535, or two of them like 8800-8899".into(),
            Self::PortsReversed { first, last } => format!("write {last}-{first}"),
            Self::GrantAndDeny { empty, .. } => {
                if *empty {
                    "a rule without <grant> and <deny> means 'no permission at all'; take it or the grant out".into()
                } else {
                    "take the permission out of the <grant> or out of the <deny>".into()
                }
            }
            Self::TwoTransitions { .. } | Self::TwoLabels { .. } => "keep one of the two rules".into(),
            Self::MissingPart { .. } => {
                "a question is SUBJECT PERMISSION OBJECT, as in: phonemania@munster network:send ringbell".into()
            }
            Self::StrayPart { .. } => "take it out".into(),
            Self::RepeatedPart { .. } => "keep one; a range is written 8800-8899".into(),
            Self::Ambiguous { word, classes } => {
                let words: Vec<String> = classes.iter().map(|class| format!("{class}:{word}")).collect();
                format!("write {}", words.join(" or "))
            }
            Self::IdlePort { outside: true } => {
                "rules name the port of the target; leave the other one out".into()
            }
            Self::IdlePort { .. } => {
                "leave it out; a socket of such a port is of the ScID that a <socket_label> gives it".into()
            }
            Self::WrongEnds { multicast: true } => {
                "for what a zone sends to groups the object is outside, for what it receives the subject".into()
            }
            Self::WrongEnds { .. } => "packets between machines outside are none of DSI's business".into(),
            Self::NodeOfObject => "name the node of the subject: SUBJECT@NODE".into(),
        }
    }
}

fn tags(names: &[&str]) -> String {
    let tags: Vec<String> = names.iter().map(|name| format!("<{name}>")).collect();
    tags.join(", ")
}

/// Another place that a fault is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Related {
    /// Range of the document's bytes.
    pub span: Range<usize>,
    /// What is there.
    pub note: &'static str,
}

/// A fault and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// Range of the document's bytes.
    pub span: Range<usize>,
    /// The other places that it is about.
    pub related: Vec<Related>,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, span: Range<usize>) -> Self {
        Self {
            kind,
            span,
            related: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, span: Range<usize>, note: &'static str) -> Self {
        self.related.push(Related { span, note });
        self
    }
}

/// All faults of a document in the order of their places. Shown plainly, a line for each; see
/// [`report`](crate::report) for underlined text, and serialized for machines.
#[derive(Clone, Debug)]
pub struct Faults {
    source: Source,
    faults: Vec<Fault>,
    omitted: usize,
}

impl Faults {
    pub(crate) fn new(source: Source, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| (fault.span.start, fault.span.end));
        let omitted = faults.len().saturating_sub(MAX_FAULTS);
        faults.truncate(MAX_FAULTS);
        Self {
            source,
            faults,
            omitted,
        }
    }

    /// The document.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The faults, at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }

    /// How many there are beyond those that are kept.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            let at = self.source.position(fault.span.start);
            if n > 0 {
                writeln!(f)?;
            }
            write!(
                f,
                "{}:{}:{}: {}",
                self.source.name(),
                at.line,
                at.column,
                fault.kind.message()
            )?;
            for related in &fault.related {
                let at = self.source.position(related.span.start);
                write!(
                    f,
                    "; {} at {}:{}:{}",
                    related.note,
                    self.source.name(),
                    at.line,
                    at.column
                )?;
            }
            write!(f, "; {}", fault.kind.help())?;
        }
        if self.omitted > 0 {
            write!(f, "\n{}: {} more faults", self.source.name(), self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// A place for machines.
#[derive(serde::Serialize)]
struct Place {
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
}

impl Place {
    fn of(source: &Source, span: &Range<usize>) -> Self {
        let (start, end) = (source.position(span.start), source.position(span.end));
        Self {
            line: start.line,
            column: start.column,
            end_line: end.line,
            end_column: end.column,
        }
    }
}

#[derive(serde::Serialize)]
struct RelatedReport {
    note: &'static str,
    #[serde(flatten)]
    place: Place,
}

#[derive(serde::Serialize)]
struct FaultReport {
    code: &'static str,
    message: String,
    help: String,
    #[serde(flatten)]
    place: Place,
    related: Vec<RelatedReport>,
}

impl Serialize for Faults {
    /// `{"file", "errors": [{"code", "message", "help", "line", "column", "end_line", "end_column", "related"}],
    /// "omitted"}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let errors: Vec<FaultReport> = self
            .faults
            .iter()
            .map(|fault| FaultReport {
                code: fault.kind.code(),
                message: fault.kind.message(),
                help: fault.kind.help(),
                place: Place::of(&self.source, &fault.span),
                related: fault
                    .related
                    .iter()
                    .map(|r| RelatedReport {
                        note: r.note,
                        place: Place::of(&self.source, &r.span),
                    })
                    .collect(),
            })
            .collect();
        let mut out = serializer.serialize_struct("Faults", 3)?;
        out.serialize_field("file", self.source.name())?;
        out.serialize_field("errors", &errors)?;
        out.serialize_field("omitted", &self.omitted)?;
        out.end()
    }
}
