// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! What people call the numbers that decisions speak of. For the audit and the tools; never an input to a decision.

use crate::model::Dsp;
use dsi_engine::ScId;
use std::collections::BTreeMap;

/// Where a rule comes from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RuleName {
    /// Its element.
    pub kind: String,
    /// Line of its start tag.
    pub line: usize,
    /// Its `id` attribute.
    pub id: Option<String>,
    /// Its `comment` attribute.
    pub comment: Option<String>,
}

/// The names of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Names {
    contexts: BTreeMap<u32, String>,
    nodes: BTreeMap<u32, String>,
    rules: Vec<RuleName>,
}

impl Names {
    /// The names of a document.
    pub fn of(dsp: &Dsp) -> Self {
        Self {
            contexts: dsp
                .contexts
                .iter()
                .map(|c| (c.scid.0, c.name.clone()))
                .collect(),
            nodes: dsp
                .nodes
                .iter()
                .map(|n| (n.snid.get(), n.name.clone()))
                .collect(),
            rules: dsp
                .rules
                .iter()
                .map(|rule| RuleName {
                    kind: rule.body.kind().to_owned(),
                    line: rule.line,
                    id: rule.xml_id.clone(),
                    comment: rule.comment.clone(),
                })
                .collect(),
        }
    }

    /// The name of a ScID, of the reserved ones too.
    pub fn context(&self, scid: u32) -> Option<&str> {
        if let Some(name) = self.contexts.get(&scid) {
            return Some(name);
        }
        match ScId(scid) {
            ScId::KERNEL => Some("kernel"),
            ScId::MANAGEMENT => Some("management"),
            ScId::DEFAULT => Some("default"),
            ScId::OUTSIDE => Some("outside"),
            _ => None,
        }
    }

    /// The names that the policy gives to ScIDs.
    pub fn contexts(&self) -> impl Iterator<Item = (u32, &str)> {
        self.contexts
            .iter()
            .map(|(scid, name)| (*scid, name.as_str()))
    }

    /// The name of a node.
    pub fn node(&self, snid: u32) -> Option<&str> {
        self.nodes.get(&snid).map(String::as_str)
    }

    /// Where the rule of an id comes from; `None` for 0, which is no rule.
    pub fn rule(&self, id: u32) -> Option<&RuleName> {
        self.rules.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }

    /// A rule in words: `socket_permission "own-sockets", line 17`, or `no rule (the policy's default)`.
    pub fn explain_rule(&self, id: u32) -> String {
        match self.rule(id) {
            None if id == 0 => "no rule (the policy's default)".to_owned(),
            None => format!("rule {id}, which this policy does not have"),
            Some(RuleName {
                kind,
                line,
                id: Some(name),
                ..
            }) => format!("{kind} \"{name}\", line {line}"),
            Some(RuleName { kind, line, .. }) => format!("{kind}, line {line}"),
        }
    }

    /// A ScID with its name: `10 (phonemania)`.
    pub fn explain_context(&self, scid: u32) -> String {
        match self.context(scid) {
            Some(name) if ScId(scid) == ScId::OUTSIDE => name.to_owned(),
            Some(name) => format!("{scid} ({name})"),
            None => scid.to_string(),
        }
    }
}
