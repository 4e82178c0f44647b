// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Elements, attributes, text, and the places of all of them. Knows the shape of XML and nothing of policies.

use super::Reader;
use super::values::{nearest, shown};
use crate::NAMESPACE;
use crate::fault::{Fault, FaultKind};
use roxmltree::Node;
use std::ops::Range;

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Text of an element or attribute, white space around it taken off, and where it stands.
pub(super) struct Value {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

impl Reader<'_> {
    /// The text of an element that holds nothing else.
    pub(super) fn value(&mut self, node: Node<'_, '_>) -> Option<Value> {
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

    pub(super) fn attribute(&mut self, node: Node<'_, '_>, name: &str) -> Option<Value> {
        let attribute = node.attribute_node(name)?;
        let text = attribute.value().trim_matches(is_space).to_owned();
        Some(Value {
            text,
            span: self.trim(attribute.range_value()),
        })
    }

    pub(super) fn required_attribute(
        &mut self,
        node: Node<'_, '_>,
        name: &'static str,
    ) -> Option<Value> {
        let value = self.attribute(node, name);
        if value.is_none() {
            self.missing_attribute(node, name);
        }
        value
    }

    pub(super) fn missing_attribute(&mut self, node: Node<'_, '_>, name: &'static str) {
        let element = node.tag_name().name().to_owned();
        self.fault(
            FaultKind::MissingAttribute { name, element },
            self.tag(node),
        );
    }

    pub(super) fn keyword_attribute(
        &mut self,
        node: Node<'_, '_>,
        name: &str,
        known: &[&'static str],
    ) -> Option<&'static str> {
        let value = self.attribute(node, name)?;
        self.keyword(&value, name, known)
    }

    /// Faults the attributes that are not known. Where the schema lies may be said on any element.
    pub(super) fn attributes(&mut self, node: Node<'_, '_>, known: &'static [&'static str]) {
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
    pub(super) fn elements<'a, 'i>(
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
                    let nearest = nearest(name, known.iter().copied());
                    self.meant.extend(nearest);
                    let kind = FaultKind::UnknownElement {
                        found: shown(name),
                        parent: parent_name.to_owned(),
                        nearest,
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
    pub(super) fn children<'a, 'i, const N: usize>(
        &mut self,
        parent: Node<'a, 'i>,
        known: &'static [&'static str],
        required: [bool; N],
    ) -> [Option<Node<'a, 'i>>; N] {
        let mut slots = [None; N];
        let parent_name = parent.tag_name().name();
        self.meant.clear();
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
            let missing = required.get(n) == Some(&true) && slots.get(n) == Some(&None);
            if missing && !self.meant.contains(name) {
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
    pub(super) fn tag(&self, node: Node<'_, '_>) -> Range<usize> {
        let start = node.range().start + 1;
        let rest = self.source.text().get(start..).unwrap_or("");
        let len = rest
            .find(|c: char| is_space(c) || c == '>' || c == '/')
            .unwrap_or(rest.len());
        start..start + len
    }

    /// A range without the white space at its ends.
    pub(super) fn trim(&self, span: Range<usize>) -> Range<usize> {
        let Some(text) = self.source.text().get(span.clone()) else {
            return span;
        };
        let start = span.start + (text.len() - text.trim_start_matches(is_space).len());
        let end = start + text.trim_matches(is_space).len();
        if start < end { start..end } else { span }
    }

    pub(super) fn fault(&mut self, kind: FaultKind, span: Range<usize>) {
        self.faults.push(Fault::new(kind, span));
    }

    pub(super) fn none<T>(&mut self, kind: FaultKind, span: Range<usize>) -> Option<T> {
        self.fault(kind, span);
        None
    }
}

/// White space of XML; other white space of Unicode is text.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}
