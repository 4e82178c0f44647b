// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The rules: which values each kind has, and what they make of it. Knows nothing of how a value is spelt.

use super::Reader;
use super::values::Zone;
use crate::fault::FaultKind;
use crate::model::{Place, Rule, RuleBody};
use crate::source::Position;
use dsi_engine::policy::Tuple;
use dsi_engine::{NetworkPermission, ProcessPermission, ScId, SocketPermission, SystemPermission};
use roxmltree::Node;
use std::collections::HashMap;
use std::ops::Range;

const RULES: &[&str] = &[
    "socket_label",
    "socket_permission",
    "network_permission",
    "process_permission",
    "system_permission",
    "transition",
    "hosting",
];
const RULE_ATTRIBUTES: &[&str] = &["id", "comment"];

impl Reader<'_> {
    pub(super) fn rules(&mut self, section: Node<'_, '_>) -> Vec<Rule> {
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
                "process_permission" => self.process_permission(node),
                "system_permission" => self.system_permission(node),
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

    pub(super) fn socket_label(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
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

    pub(super) fn socket_permission(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
        let known = &["source_ScID", "source_SnID", "target_ScID", "grant", "deny"];
        let [source, source_node, target, grant, deny] =
            self.children(node, known, [true, false, true, false, false]);
        let source = source.and_then(|node| self.scid(node, Zone::Inside));
        let source_node = self.optional_snid(source_node);
        let target = target.and_then(|node| self.scid(node, Zone::Inside));
        let permissions =
            self.permissions(grant, deny, "socket permission", SocketPermission::NAMED);
        Some(RuleBody::SocketPermission {
            source: source?,
            source_node: source_node?,
            target: target?,
            permissions: permissions?,
        })
    }

    pub(super) fn network_permission(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
        let known = &[
            "source_ScID",
            "source_SnID",
            "target_ScID",
            "target_SnID",
            "address",
            "port",
            "grant",
            "deny",
        ];
        let [
            source,
            source_node,
            target,
            target_node,
            address,
            port,
            grant,
            deny,
        ] = self.children(
            node,
            known,
            [true, false, true, false, false, false, false, false],
        );
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
        if let (Some(source), Some(target)) = (source, target)
            && (source == ScId::OUTSIDE) == (target == ScId::OUTSIDE)
        {
            for node in [address, port].into_iter().flatten() {
                let element = node.tag_name().name().to_owned();
                self.fault(FaultKind::PlaceInside { element }, self.tag(node));
            }
        }
        // Each is `Some(None)` if it is not there, `None` if it is faulty.
        let network = match address {
            Some(node) => self.value(node).and_then(|v| self.network(&v)).map(Some),
            None => Some(None),
        };
        let ports = match port {
            Some(node) => self.value(node).and_then(|v| self.ports(&v)).map(Some),
            None => Some(None),
        };
        let place = network.zip(ports).map(|(network, ports)| {
            (network.is_some() || ports.is_some()).then_some(Place { network, ports })
        });
        let permissions =
            self.permissions(grant, deny, "network permission", NetworkPermission::NAMED);
        Some(RuleBody::NetworkPermission {
            tuple: Tuple {
                source: source?,
                source_node: source_node?,
                target: target?,
                target_node: target_node?,
            },
            place: place?,
            permissions: permissions?,
        })
    }

    pub(super) fn process_permission(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
        let known = &["source_ScID", "source_SnID", "target_ScID", "grant", "deny"];
        let [source, source_node, target, grant, deny] =
            self.children(node, known, [true, false, true, false, false]);
        let source = source.and_then(|node| self.scid(node, Zone::Inside));
        let source_node = self.optional_snid(source_node);
        let target = target.and_then(|node| self.scid(node, Zone::Inside));
        let permissions =
            self.permissions(grant, deny, "process permission", ProcessPermission::NAMED);
        Some(RuleBody::ProcessPermission {
            source: source?,
            source_node: source_node?,
            target: target?,
            permissions: permissions?,
        })
    }

    pub(super) fn system_permission(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
        let known = &["source_ScID", "source_SnID", "grant", "deny"];
        let [source, source_node, grant, deny] =
            self.children(node, known, [true, false, false, false]);
        let source = source.and_then(|node| self.scid(node, Zone::Inside));
        let source_node = self.optional_snid(source_node);
        let permissions =
            self.permissions(grant, deny, "system permission", SystemPermission::NAMED);
        Some(RuleBody::SystemPermission {
            source: source?,
            source_node: source_node?,
            permissions: permissions?,
        })
    }

    pub(super) fn transition(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
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

    pub(super) fn hosting(&mut self, node: Node<'_, '_>) -> Option<RuleBody> {
        let [snid, scid] = self.children(node, &["SnID", "ScID"], [true; 2]);
        let snid = snid.and_then(|node| self.snid(node));
        let scid = scid.and_then(|node| self.scid(node, Zone::Inside));
        Some(RuleBody::Hosting {
            node: snid?,
            scid: scid?,
        })
    }
}
