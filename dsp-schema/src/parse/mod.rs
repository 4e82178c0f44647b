// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! From the bytes of a document to its model, or to all of its faults. Never stops at the first fault, except where
//! the text is no XML at all; accepts nothing that `dsp.xsd` refuses.
//!
//! Nesting needs no bound of its own: neither the XML parser nor this reader recurses, and an element deeper than a
//! rule's values is an unknown element that is not entered.

mod questions;
mod rules;
mod values;
mod xml;

use crate::fault::{Fault, FaultKind, Faults, Id};
use crate::model::{Context, Dsp, Node as NamedNode};
use crate::source::{Position, Source};
use crate::{MAX_SOURCE_LEN, NAMESPACE, check};
use dsi_engine::{Mode, ScId, SnId};
use roxmltree::{Document, Node, ParsingOptions};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use values::{Numeral, numeral, shown};
use xml::Value;

pub(crate) use questions::{expectations, questions};

/// Most nodes of a document's tree; a bound on memory.
const MAX_NODES: u32 = 16_000_000;

const SECTIONS: &[&str] = &["contexts", "nodes", "rules"];

/// Reads and checks a document. `name` is what errors call it: usually the file's name.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Dsp, Faults> {
    let refuse = |text: &str, kind: FaultKind, span: Range<usize>| {
        Faults::new(Source::new(name, text), vec![Fault::new(kind, span)])
    };
    if bytes.len() > MAX_SOURCE_LEN {
        return Err(refuse("", FaultKind::TooLarge { len: bytes.len() }, 0..0));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let offset = error.valid_up_to();
            let valid = std::str::from_utf8(&bytes[..offset]).unwrap_or("");
            return Err(refuse(valid, FaultKind::NotUtf8 { offset }, offset..offset));
        }
    };
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let document = match Document::parse_with_options(text, options) {
        Ok(document) => document,
        Err(error) => {
            let source = Source::new(name, text);
            let at = error.pos();
            let start = source.offset(Position {
                line: at.row as usize,
                column: at.col as usize,
            });
            let end = text[start..]
                .chars()
                .next()
                .map_or(start, |c| start + c.len_utf8());
            let fault = Fault::new(
                FaultKind::Syntax {
                    message: syntax_message(&error),
                },
                start..end,
            );
            return Err(Faults::new(source, vec![fault]));
        }
    };
    let source = Source::new(name, text);
    let mut reader = Reader {
        source: &source,
        faults: Vec::new(),
        declared: Declared::default(),
        meant: Vec::new(),
    };
    let dsp = reader.dsp(document.root_element(), bytes);
    let mut faults = reader.faults;
    match dsp {
        Some(dsp) if faults.is_empty() => {
            faults = check::contradictions(&dsp.rules);
            if faults.is_empty() {
                return Ok(dsp);
            }
        }
        Some(dsp) => faults.extend(check::contradictions(&dsp.rules)),
        None => {}
    }
    Err(Faults::new(source, faults))
}

/// What the XML parser says, without the place that it puts at the end: the fault carries a better one.
fn syntax_message(error: &roxmltree::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at ") {
        Some(at)
            if message[at + 4..]
                .bytes()
                .all(|b| b.is_ascii_digit() || b == b':') =>
        {
            message[..at].to_owned()
        }
        _ => message,
    }
}

/// The names and numbers that the document declares.
#[derive(Default)]
struct Declared {
    scid_of: HashMap<String, ScId>,
    scids: HashSet<u32>,
    snid_of: HashMap<String, SnId>,
}

impl Declared {
    /// What a document declared.
    fn by(dsp: &Dsp) -> Self {
        Self {
            scid_of: dsp
                .contexts
                .iter()
                .map(|context| (context.name.clone(), context.scid))
                .collect(),
            scids: dsp.contexts.iter().map(|context| context.scid.0).collect(),
            snid_of: dsp
                .nodes
                .iter()
                .map(|node| (node.name.clone(), node.snid))
                .collect(),
        }
    }
}

struct Reader<'s> {
    source: &'s Source,
    faults: Vec<Fault>,
    declared: Declared,
    /// Known elements that unknown ones were probably meant to be; they are not also reported as missing.
    meant: Vec<&'static str>,
}

impl<'s> Reader<'s> {
    fn dsp(&mut self, root: Node<'_, '_>, bytes: &[u8]) -> Option<Dsp> {
        if root.tag_name().name() != "DSP" || root.tag_name().namespace() != Some(NAMESPACE) {
            let kind = FaultKind::WrongRoot {
                found: shown(root.tag_name().name()),
                namespace: root.tag_name().namespace().map(shown),
            };
            self.fault(kind, self.tag(root));
            return None;
        }
        self.attributes(
            root,
            &[
                "version_label",
                "mode",
                "default",
                "refusal",
                "unload",
                "tcp_labels",
            ],
        );
        let version_label = root.attribute("version_label").map(str::to_owned);
        let mode = match self.keyword_attribute(root, "mode", &["enforcing", "permissive"]) {
            Some("enforcing") => Some(Mode::Enforcing),
            Some(_) => Some(Mode::Permissive),
            None => {
                if root.attribute("mode").is_none() {
                    self.missing_attribute(root, "mode");
                }
                None
            }
        };
        let default_allow =
            self.keyword_attribute(root, "default", &["deny", "allow"]) == Some("allow");
        let reject = self.keyword_attribute(root, "refusal", &["drop", "reject"]) == Some("reject");
        let unload =
            self.keyword_attribute(root, "unload", &["refuse", "permit"]) == Some("permit");
        let every_packet =
            self.keyword_attribute(root, "tcp_labels", &["handshake", "every-packet"])
                == Some("every-packet");

        let [contexts, nodes, rules] = self.children(root, SECTIONS, [false, false, true]);
        let contexts = contexts.map_or_else(Vec::new, |section| self.contexts(section));
        let nodes = nodes.map_or_else(Vec::new, |section| self.nodes(section));
        let rules = rules.map_or_else(Vec::new, |section| self.rules(section));
        Some(Dsp {
            version_label,
            mode: mode.unwrap_or(Mode::Enforcing),
            default_allow,
            reject,
            unload,
            every_packet,
            contexts,
            nodes,
            rules,
            source_sha256: Sha256::digest(bytes).into(),
        })
    }

    fn contexts(&mut self, section: Node<'_, '_>) -> Vec<Context> {
        let mut contexts = Vec::new();
        let mut names: HashMap<String, Range<usize>> = HashMap::new();
        let mut numbers: HashMap<u32, Range<usize>> = HashMap::new();
        for (node, name, number) in self.declarations(section, "context", "ScID") {
            let scid = number.and_then(|value| match numeral(&value.text) {
                Numeral::Number(n @ 0..=1) => {
                    self.none(FaultKind::Reserved { found: n }, value.span)
                }
                other => self.in_range(Id::ScId, other, &value),
            });
            if let Some(scid) = scid {
                self.declared.scids.insert(scid);
                self.once(&mut numbers, scid, "ScID", self.tag(node));
            }
            if let Some(name) = &name
                && ["default", "outside"].contains(&name.text.as_str())
            {
                self.fault(
                    FaultKind::ReservedName {
                        found: name.text.clone(),
                    },
                    name.span.clone(),
                );
                continue;
            }
            if let (Some(name), Some(scid)) = (name, scid) {
                self.once(&mut names, name.text.clone(), "name", name.span.clone());
                self.declared.scid_of.insert(name.text.clone(), ScId(scid));
                contexts.push(Context {
                    scid: ScId(scid),
                    name: name.text,
                });
            }
        }
        contexts
    }

    fn nodes(&mut self, section: Node<'_, '_>) -> Vec<NamedNode> {
        let mut nodes = Vec::new();
        let mut names: HashMap<String, Range<usize>> = HashMap::new();
        let mut numbers: HashMap<u32, Range<usize>> = HashMap::new();
        for (node, name, number) in self.declarations(section, "node", "SnID") {
            let snid = number
                .and_then(|value| self.in_range(Id::SnId, numeral(&value.text), &value))
                .and_then(SnId::node);
            if let Some(snid) = snid {
                self.once(&mut numbers, snid.get(), "SnID", self.tag(node));
            }
            if let (Some(name), Some(snid)) = (name, snid) {
                self.once(&mut names, name.text.clone(), "name", name.span.clone());
                self.declared.snid_of.insert(name.text.clone(), snid);
                nodes.push(NamedNode {
                    snid,
                    name: name.text,
                });
            }
        }
        nodes
    }

    /// The name and number attributes of each declaration of a section.
    fn declarations<'a, 'i>(
        &mut self,
        section: Node<'a, 'i>,
        element: &'static str,
        number: &'static str,
    ) -> Vec<(Node<'a, 'i>, Option<Value>, Option<Value>)> {
        let known: &'static [&'static str] = if element == "node" {
            &["node"]
        } else {
            &["context"]
        };
        let attributes: &'static [&'static str] = if element == "node" {
            &["SnID", "name"]
        } else {
            &["ScID", "name"]
        };
        self.attributes(section, &[]);
        let mut found = Vec::new();
        for node in self.elements(section, known) {
            self.attributes(node, attributes);
            self.children::<0>(node, &[], []);
            let number = self.required_attribute(node, number);
            let name = self
                .required_attribute(node, "name")
                .and_then(|name| self.name(name));
            found.push((node, name, number));
        }
        found
    }
}
