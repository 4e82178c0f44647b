// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! From the bytes of a document to its model, or to all of its faults. Never stops at the first fault, except where
//! the text is no XML at all; accepts nothing that `dsp.xsd` refuses.

use crate::fault::{Fault, FaultKind, Faults, Id};
use crate::model::{Context, Dsp, Node as NamedNode, Permissions, Rule, RuleBody};
use crate::source::{Position, Source};
use crate::{MAX_SOURCE_LEN, NAMESPACE, check};
use dsi_engine::policy::Tuple;
use dsi_engine::{Mode, NetworkPermission, ScId, SnId, SocketPermission};
use roxmltree::{Document, Node, ParsingOptions};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Most nodes of a document's tree; a bound on memory.
const MAX_NODES: u32 = 16_000_000;
/// Deepest nesting of elements that is handed to the XML parser.
const MAX_DEPTH: usize = 64;
/// Longest name of a zone or node.
const MAX_NAME: usize = 64;
/// Characters of a faulty value that a message shows.
const SHOWN: usize = 40;
const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

const SECTIONS: &[&str] = &["contexts", "nodes", "rules"];
const RULES: &[&str] = &[
    "socket_label",
    "socket_permission",
    "network_permission",
    "transition",
    "hosting",
];
const RULE_ATTRIBUTES: &[&str] = &["id", "comment"];

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
    if let Some(offset) = too_deep(text) {
        return Err(refuse(text, FaultKind::TooDeep, offset..offset + 1));
    }
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

/// Where elements become nested too deep for a recursive reader. Counts start and end tags, and knows just enough of
/// comments, CDATA and processing instructions to skip them; what it misjudges is no well-formed DSP anyway.
fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('<')) {
        let start = at + found;
        let rest = &text[start..];
        let skipped = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")]
            .into_iter()
            .find_map(|(open, close)| {
                let body = rest.strip_prefix(open)?;
                Some(
                    body.find(close)
                        .map_or(bytes.len(), |end| start + open.len() + end + close.len()),
                )
            });
        if let Some(next) = skipped {
            at = next;
            continue;
        }
        if rest.starts_with("</") {
            depth = depth.saturating_sub(1);
            at = start + 2;
            continue;
        }
        let end = tag_end(bytes, start);
        if bytes.get(end.wrapping_sub(1)) != Some(&b'/') {
            depth += 1;
            if depth > MAX_DEPTH {
                return Some(start);
            }
        }
        at = end.max(start + 1);
    }
    None
}

/// The offset of the `>` that ends a start tag, quotes heeded.
fn tag_end(bytes: &[u8], start: usize) -> usize {
    let mut quote = None;
    for (offset, byte) in bytes[start..].iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return start + offset,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    bytes.len()
}

/// The names and numbers that the document declares.
#[derive(Default)]
struct Declared {
    scid_of: HashMap<String, ScId>,
    scids: HashSet<u32>,
    snid_of: HashMap<String, SnId>,
}

/// Text of an element or attribute, white space around it taken off, and where it stands.
struct Value {
    text: String,
    span: Range<usize>,
}

/// Which ScIDs an element may name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zone {
    Inside,
    InsideOrOutside,
}

/// What a numeral says.
enum Numeral {
    Not,
    Malformed,
    TooLarge,
    Number(u64),
}

struct Reader<'s> {
    source: &'s Source,
    faults: Vec<Fault>,
    declared: Declared,
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
        self.attributes(root, &["version_label", "mode", "default"]);
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

        let [contexts, nodes, rules] = self.children(root, SECTIONS, [false, false, true]);
        let contexts = contexts.map_or_else(Vec::new, |section| self.contexts(section));
        let nodes = nodes.map_or_else(Vec::new, |section| self.nodes(section));
        let rules = rules.map_or_else(Vec::new, |section| self.rules(section));
        Some(Dsp {
            version_label,
            mode: mode.unwrap_or(Mode::Enforcing),
            default_allow,
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

    fn rules(&mut self, section: Node<'_, '_>) -> Vec<Rule> {
        self.attributes(section, &[]);
        let mut rules = Vec::new();
        let mut ids: HashMap<String, Range<usize>> = HashMap::new();
        // Counts every rule element, faulty ones too; with a fault there will be no policy, so ids cannot differ.
        for (id, node) in (1..).zip(self.elements(section, RULES)) {
            self.attributes(node, RULE_ATTRIBUTES);
            let xml_id = self
                .attribute(node, "id")
                .and_then(|value| self.name(value));
            if let Some(value) = &xml_id {
                self.once(&mut ids, value.text.clone(), "id", value.span.clone());
            }
            let body = match node.tag_name().name() {
                "socket_label" => self.socket_label(node),
                "socket_permission" => self.socket_permission(node),
                "network_permission" => self.network_permission(node),
                "transition" => self.transition(node),
                _ => self.hosting(node),
            };
            if let Some(body) = body {
                let span = self.tag(node);
                let Position { line, column } = self.source.position(span.start);
                let comment = node.attribute("comment").map(str::to_owned);
                rules.push(Rule {
                    id,
                    xml_id: xml_id.map(|v| v.text),
                    comment,
                    line,
                    column,
                    span,
                    body,
                });
            }
        }
        rules
    }

    fn socket_label(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
        let [protocol, port, new] =
            self.children(node, &["protocol", "port", "new_ScID"], [true; 3]);
        let protocol = protocol
            .and_then(|node| self.value(node))
            .and_then(|value| {
                self.keyword(&value, "protocol", &["udp", "tcp"])
                    .map(|word| if word == "udp" { 17 } else { 6 })
            });
        let ports = port
            .and_then(|node| self.value(node))
            .and_then(|value| self.ports(&value));
        let new = new.and_then(|node| self.scid(node, Zone::Inside));
        let (first, last) = ports?;
        Some(RuleBody::SocketLabel {
            protocol: protocol?,
            first,
            last,
            new: new?,
        })
    }

    fn socket_permission(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
        let known = &["source_ScID", "source_SnID", "target_ScID", "grant", "deny"];
        let [source, source_node, target, grant, deny] =
            self.children(node, known, [true, false, true, false, false]);
        let source = source.and_then(|node| self.scid(node, Zone::Inside));
        let source_node = self.optional_snid(source_node);
        let target = target.and_then(|node| self.scid(node, Zone::Inside));
        let names: Vec<_> = SocketPermission::ALL
            .iter()
            .map(|p| (p.name(), p.bit()))
            .collect();
        let permissions = self.permissions(grant, deny, "socket permission", &names);
        Some(RuleBody::SocketPermission {
            source: source?,
            source_node: source_node?,
            target: target?,
            permissions: permissions?,
        })
    }

    fn network_permission(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
        let known = &[
            "source_ScID",
            "source_SnID",
            "target_ScID",
            "target_SnID",
            "grant",
            "deny",
        ];
        let [source, source_node, target, target_node, grant, deny] =
            self.children(node, known, [true, false, true, false, false, false]);
        let (source_tag, target_tag) = (
            source_node.map(|n| self.tag(n)),
            target_node.map(|n| self.tag(n)),
        );
        let source = source.and_then(|node| self.scid(node, Zone::InsideOrOutside));
        let source_node = self.optional_snid(source_node);
        let target = target.and_then(|node| self.scid(node, Zone::InsideOrOutside));
        let target_node = self.optional_snid(target_node);
        for (scid, tag) in [(source, source_tag), (target, target_tag)] {
            if let (Some(ScId::OUTSIDE), Some(tag)) = (scid, tag) {
                self.fault(FaultKind::NodeOutside, tag);
            }
        }
        let names: Vec<_> = NetworkPermission::ALL
            .iter()
            .map(|p| (p.name(), p.bit()))
            .collect();
        let permissions = self.permissions(grant, deny, "network permission", &names);
        Some(RuleBody::NetworkPermission {
            tuple: Tuple {
                source: source?,
                source_node: source_node?,
                target: target?,
                target_node: target_node?,
            },
            permissions: permissions?,
        })
    }

    fn transition(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
        let [parent, binary, new] =
            self.children(node, &["parent_ScID", "binary_ScID", "new_ScID"], [true; 3]);
        let parent = parent.and_then(|node| self.scid(node, Zone::Inside));
        let binary = binary.and_then(|node| self.scid(node, Zone::Inside));
        let new = new.and_then(|node| self.scid(node, Zone::Inside));
        Some(RuleBody::Transition {
            parent: parent?,
            binary: binary?,
            new: new?,
        })
    }

    fn hosting(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
        let [snid, scid] = self.children(node, &["SnID", "ScID"], [true; 2]);
        let snid = snid.and_then(|node| self.snid(node));
        let scid = scid.and_then(|node| self.scid(node, Zone::Inside));
        Some(RuleBody::Hosting {
            node: snid?,
            scid: scid?,
        })
    }

    // Values

    /// The bits of `<grant>` and `<deny>`; a rule with neither denies all.
    fn permissions(
        &mut self,
        grant: Option<Node<'_, '_>>,
        deny: Option<Node<'_, '_>>,
        what: &str,
        names: &[(&'static str, u16)],
    ) -> Option<Permissions> {
        if grant.is_none() && deny.is_none() {
            return Some(Permissions {
                grant: 0,
                deny: names.iter().fold(0, |bits, (_, bit)| bits | bit),
            });
        }
        let grant = grant.map_or(Some(0), |node| self.permission_list(node, what, names));
        let deny = deny.map_or(Some(0), |node| self.permission_list(node, what, names));
        Some(Permissions {
            grant: grant?,
            deny: deny?,
        })
    }

    fn permission_list(
        &mut self,
        node: Node<'_, '_>,
        what: &str,
        names: &[(&'static str, u16)],
    ) -> Option<u16> {
        let value = self.value(node)?;
        let known: Vec<&'static str> = names.iter().map(|(name, _)| *name).collect();
        let mut bits = Some(0);
        for (word, span) in self.words(&value) {
            match names.iter().find(|(name, _)| *name == word) {
                Some((_, bit)) => bits = bits.map(|bits| bits | bit),
                None => bits = self.none(bad_word(what, &word, &known), span),
            }
        }
        bits
    }

    /// The words of a value. Each has its own place, unless the source spells the value in some other way.
    fn words(&self, value: &Value) -> Vec<(String, Range<usize>)> {
        let literal = self.source.text().get(value.span.clone()) == Some(value.text.as_str());
        value
            .text
            .split_ascii_whitespace()
            .map(|word| {
                let at = word.as_ptr() as usize - value.text.as_ptr() as usize;
                let span = if literal {
                    value.span.start + at..value.span.start + at + word.len()
                } else {
                    value.span.clone()
                };
                (word.to_owned(), span)
            })
            .collect()
    }

    fn scid(&mut self, node: Node<'_, '_>, zone: Zone) -> Option<ScId> {
        let value = self.value(node)?;
        let scid = match numeral(&value.text) {
            Numeral::Not => match value.text.as_str() {
                "default" => ScId::DEFAULT,
                "outside" => ScId::OUTSIDE,
                name => match self.declared.scid_of.get(name) {
                    Some(scid) => *scid,
                    None => return self.unknown_name(Id::ScId, &value),
                },
            },
            Numeral::Number(found @ 0..=1) => {
                return self.none(FaultKind::Reserved { found }, value.span);
            }
            number => {
                let scid = self.in_range(Id::ScId, number, &value)?;
                if scid != ScId::DEFAULT.0 && !self.declared.scids.contains(&scid) {
                    return self.none(FaultKind::Undeclared { found: scid }, value.span);
                }
                ScId(scid)
            }
        };
        if scid == ScId::OUTSIDE && zone == Zone::Inside {
            let element = node.tag_name().name().to_owned();
            return self.none(FaultKind::OutsideNotAllowed { element }, value.span);
        }
        Some(scid)
    }

    /// `Some(NONE)` if the element is not there, `None` if it is faulty.
    fn optional_snid(&mut self, node: Option<Node<'_, '_>>) -> Option<SnId> {
        match node {
            Some(node) => self.snid(node),
            None => Some(SnId::NONE),
        }
    }

    fn snid(&mut self, node: Node<'_, '_>) -> Option<SnId> {
        let value = self.value(node)?;
        match numeral(&value.text) {
            Numeral::Not => match self.declared.snid_of.get(&value.text) {
                Some(snid) => Some(*snid),
                None => self.unknown_name(Id::SnId, &value),
            },
            number => self.in_range(Id::SnId, number, &value).and_then(SnId::node),
        }
    }

    fn unknown_name<T>(&mut self, id: Id, value: &Value) -> Option<T> {
        if !is_name(&value.text) {
            return self.none(
                FaultKind::BadId {
                    id,
                    found: shown(&value.text),
                },
                value.span.clone(),
            );
        }
        let nearest = match id {
            Id::ScId => {
                let predeclared = ["default", "outside"].into_iter();
                nearest(
                    &value.text,
                    self.declared
                        .scid_of
                        .keys()
                        .map(String::as_str)
                        .chain(predeclared),
                )
            }
            Id::SnId => nearest(
                &value.text,
                self.declared.snid_of.keys().map(String::as_str),
            ),
        };
        let nearest = nearest.map(str::to_owned);
        self.none(
            FaultKind::UnknownName {
                id,
                found: shown(&value.text),
                nearest,
            },
            value.span.clone(),
        )
    }

    fn in_range(&mut self, id: Id, number: Numeral, value: &Value) -> Option<u32> {
        let (low, high) = match id {
            Id::ScId => (ScId::DEFAULT.0, ScId::OUTSIDE.0 - 1),
            Id::SnId => (1, SnId::MAX),
        };
        let kind = match number {
            Numeral::Number(n) if n >= u64::from(low) && n <= u64::from(high) => {
                return u32::try_from(n).ok();
            }
            Numeral::Number(_) | Numeral::TooLarge => FaultKind::OutOfRange {
                id,
                found: shown(&value.text),
            },
            Numeral::Malformed => FaultKind::BadNumber {
                found: shown(&value.text),
            },
            Numeral::Not => FaultKind::BadId {
                id,
                found: shown(&value.text),
            },
        };
        self.none(kind, value.span.clone())
    }

    fn ports(&mut self, value: &Value) -> Option<(u16, u16)> {
        let port = |text: &str| match numeral(text) {
            Numeral::Number(n) => u16::try_from(n).ok().filter(|port| *port != 0),
            _ => None,
        };
        let (first, last) = match value.text.split_once('-') {
            Some((first, last)) => (port(first), port(last)),
            None => (port(&value.text), port(&value.text)),
        };
        let (Some(first), Some(last)) = (first, last) else {
            return self.none(
                FaultKind::BadPort {
                    found: shown(&value.text),
                },
                value.span.clone(),
            );
        };
        if first > last {
            return self.none(FaultKind::PortsReversed { first, last }, value.span.clone());
        }
        Some((first, last))
    }

    fn keyword(
        &mut self,
        value: &Value,
        what: &str,
        known: &[&'static str],
    ) -> Option<&'static str> {
        match known.iter().find(|word| **word == value.text) {
            Some(word) => Some(word),
            None => self.none(bad_word(what, &value.text, known), value.span.clone()),
        }
    }

    fn name(&mut self, value: Value) -> Option<Value> {
        if is_name(&value.text) {
            Some(value)
        } else {
            self.none(
                FaultKind::BadName {
                    found: shown(&value.text),
                },
                value.span,
            )
        }
    }

    /// Notes a declaration, and faults it if the same was declared before.
    fn once<K: std::hash::Hash + Eq + ToString>(
        &mut self,
        seen: &mut HashMap<K, Range<usize>>,
        key: K,
        what: &'static str,
        span: Range<usize>,
    ) {
        if let Some(first) = seen.get(&key) {
            let kind = FaultKind::Redeclared {
                what,
                found: key.to_string(),
            };
            self.faults
                .push(Fault::new(kind, span).with(first.clone(), "first declared here"));
        } else {
            seen.insert(key, span);
        }
    }

    // Elements and attributes

    /// The text of an element that holds nothing else.
    fn value(&mut self, node: Node<'_, '_>) -> Option<Value> {
        self.attributes(node, &[]);
        let mut text = String::new();
        let mut span: Option<Range<usize>> = None;
        let mut pieces = 0;
        for child in node.children() {
            if child.is_element() {
                let kind = FaultKind::UnknownElement {
                    found: shown(child.tag_name().name()),
                    parent: node.tag_name().name().to_owned(),
                    nearest: None,
                    known: &[],
                };
                return self.none(kind, self.tag(child));
            }
            if child.is_text() {
                pieces += 1;
                text.push_str(child.text().unwrap_or(""));
                let range = child.range();
                span = Some(span.map_or(range.start, |s| s.start)..range.end);
            }
        }
        let trimmed = text.trim_matches(is_space).to_owned();
        if trimmed.is_empty() {
            let element = node.tag_name().name().to_owned();
            return self.none(FaultKind::Empty { element }, self.tag(node));
        }
        let span = span.unwrap_or_else(|| self.tag(node));
        let span = if pieces == 1 { self.trim(span) } else { span };
        Some(Value {
            text: trimmed,
            span,
        })
    }

    fn attribute(&mut self, node: Node<'_, '_>, name: &str) -> Option<Value> {
        let attribute = node.attribute_node(name)?;
        let text = attribute.value().trim_matches(is_space).to_owned();
        Some(Value {
            text,
            span: self.trim(attribute.range_value()),
        })
    }

    fn required_attribute(&mut self, node: Node<'_, '_>, name: &'static str) -> Option<Value> {
        let value = self.attribute(node, name);
        if value.is_none() {
            self.missing_attribute(node, name);
        }
        value
    }

    fn missing_attribute(&mut self, node: Node<'_, '_>, name: &'static str) {
        let element = node.tag_name().name().to_owned();
        self.fault(
            FaultKind::MissingAttribute { name, element },
            self.tag(node),
        );
    }

    fn keyword_attribute(
        &mut self,
        node: Node<'_, '_>,
        name: &str,
        known: &[&'static str],
    ) -> Option<&'static str> {
        let value = self.attribute(node, name)?;
        self.keyword(&value, name, known)
    }

    /// Faults the attributes that are not known. Where the schema lies may be said on any element.
    fn attributes(&mut self, node: Node<'_, '_>, known: &'static [&'static str]) {
        for attribute in node.attributes() {
            let name = attribute.name();
            let fine = match attribute.namespace() {
                None => known.contains(&name),
                Some(XSI) => ["schemaLocation", "noNamespaceSchemaLocation"].contains(&name),
                Some(_) => false,
            };
            if !fine {
                let kind = FaultKind::UnknownAttribute {
                    found: shown(name),
                    element: node.tag_name().name().to_owned(),
                    nearest: nearest(name, known.iter().copied()),
                    known,
                };
                self.fault(kind, attribute.range_qname());
            }
        }
    }

    /// The child elements of known names; others, and text, are faults.
    fn elements<'a, 'i>(
        &mut self,
        parent: Node<'a, 'i>,
        known: &'static [&'static str],
    ) -> Vec<Node<'a, 'i>> {
        let mut found = Vec::new();
        let parent_name = parent.tag_name().name();
        for child in parent.children() {
            if child.is_element() {
                let name = child.tag_name().name();
                if !known.contains(&name) {
                    let kind = FaultKind::UnknownElement {
                        found: shown(name),
                        parent: parent_name.to_owned(),
                        nearest: nearest(name, known.iter().copied()),
                        known,
                    };
                    self.fault(kind, self.tag(child));
                } else if child.tag_name().namespace() != Some(NAMESPACE) {
                    self.fault(
                        FaultKind::WrongNamespace { found: shown(name) },
                        self.tag(child),
                    );
                } else {
                    found.push(child);
                }
            } else if child.is_text()
                && !child.text().unwrap_or("").trim_matches(is_space).is_empty()
            {
                let span = self.trim(child.range());
                self.fault(
                    FaultKind::StrayText {
                        parent: parent_name.to_owned(),
                    },
                    span,
                );
            }
        }
        found
    }

    /// The child elements of known names, each at most once, in the order of `known`.
    fn children<'a, 'i, const N: usize>(
        &mut self,
        parent: Node<'a, 'i>,
        known: &'static [&'static str],
        required: [bool; N],
    ) -> [Option<Node<'a, 'i>>; N] {
        let mut slots = [None; N];
        let parent_name = parent.tag_name().name();
        for child in self.elements(parent, known) {
            let name = child.tag_name().name();
            let slot = known
                .iter()
                .position(|k| *k == name)
                .and_then(|n| slots.get_mut(n));
            if let Some(slot) = slot {
                if let Some(first) = *slot {
                    let kind = FaultKind::RepeatedElement {
                        name: name.to_owned(),
                        parent: parent_name.to_owned(),
                    };
                    let first = self.tag(first);
                    self.faults
                        .push(Fault::new(kind, self.tag(child)).with(first, "the first one"));
                } else {
                    *slot = Some(child);
                }
            }
        }
        for (n, name) in known.iter().enumerate() {
            if required.get(n) == Some(&true) && slots.get(n) == Some(&None) {
                let kind = FaultKind::MissingElement {
                    name,
                    parent: parent_name.to_owned(),
                };
                self.fault(kind, self.tag(parent));
            }
        }
        slots
    }

    // Places

    /// The name in an element's start tag.
    fn tag(&self, node: Node<'_, '_>) -> Range<usize> {
        let start = node.range().start + 1;
        let rest = self.source.text().get(start..).unwrap_or("");
        let len = rest
            .find(|c: char| is_space(c) || c == '>' || c == '/')
            .unwrap_or(rest.len());
        start..start + len
    }

    /// A range without the white space at its ends.
    fn trim(&self, span: Range<usize>) -> Range<usize> {
        let Some(text) = self.source.text().get(span.clone()) else {
            return span;
        };
        let start = span.start + (text.len() - text.trim_start_matches(is_space).len());
        let end = start + text.trim_matches(is_space).len();
        if start < end { start..end } else { span }
    }

    fn fault(&mut self, kind: FaultKind, span: Range<usize>) {
        self.faults.push(Fault::new(kind, span));
    }

    fn none<T>(&mut self, kind: FaultKind, span: Range<usize>) -> Option<T> {
        self.fault(kind, span);
        None
    }
}

/// White space of XML; other white space of Unicode is text.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_name(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    first && rest && text.len() <= MAX_NAME
}

fn numeral(text: &str) -> Numeral {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Numeral::Not;
    }
    if digits.len() != text.len() || (digits.len() > 1 && digits.starts_with('0')) {
        return Numeral::Malformed;
    }
    digits.parse().map_or(Numeral::TooLarge, Numeral::Number)
}

/// A value as messages show it: not more than a line of it.
fn shown(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        text.to_owned()
    } else {
        text.chars().take(SHOWN).chain("...".chars()).collect()
    }
}

fn bad_word(what: &str, found: &str, known: &[&'static str]) -> FaultKind {
    FaultKind::BadWord {
        what: what.to_owned(),
        found: shown(found),
        nearest: nearest(found, known.iter().copied()),
        known: known.to_vec(),
    }
}

/// The known word that somebody probably meant; of equally near ones the first in the alphabet.
fn nearest<'k>(found: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if found.len() > 2 * MAX_NAME {
        return None;
    }
    let lower = found.to_lowercase();
    known
        .map(|word| {
            (
                strsim::damerau_levenshtein(&lower, &word.to_lowercase()),
                word,
            )
        })
        .filter(|(distance, word)| *distance <= (word.chars().count() / 3).max(1))
        .min()
        .map(|(_, word)| word)
}
