// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The values: numbers, names, ports, words and lists of permissions. Each is read in exactly one spelling, apart from
//! the white space around it.

use super::Reader;
use super::xml::Value;
use crate::fault::{Fault, FaultKind, Id};
use crate::model::Permissions;
use dsi_engine::{ScId, SnId};
use roxmltree::Node;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// Longest name of a zone or node.
const MAX_NAME: usize = 64;
/// Characters of a faulty value that a message shows.
const SHOWN: usize = 40;

/// Which ScIDs an element may name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone {
    Inside,
    InsideOrOutside,
}

/// What a numeral says.
pub(super) enum Numeral {
    Not,
    Malformed,
    TooLarge,
    Number(u64),
}

impl Reader<'_> {
    /// The bits of `<grant>` and `<deny>`; a rule with neither denies all.
    pub(super) fn permissions(
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

    pub(super) fn permission_list(
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
    pub(super) fn words(&self, value: &Value) -> Vec<(String, Range<usize>)> {
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

    pub(super) fn scid(&mut self, node: Node<'_, '_>, zone: Zone) -> Option<ScId> {
        let value = self.value(node)?;
        self.scid_of(&value, zone, node.tag_name().name())
    }

    /// The ScID that a value gives by number or name; `what` has it.
    pub(super) fn scid_of(&mut self, value: &Value, zone: Zone, what: &str) -> Option<ScId> {
        let scid = match numeral(&value.text) {
            Numeral::Not => match value.text.as_str() {
                "default" => ScId::DEFAULT,
                "outside" => ScId::OUTSIDE,
                name => match self.declared.scid_of.get(name) {
                    Some(scid) => *scid,
                    None => return self.unknown_name(Id::ScId, value),
                },
            },
            Numeral::Number(found @ 0..=1) => {
                return self.none(FaultKind::Reserved { found }, value.span.clone());
            }
            number => {
                let scid = self.in_range(Id::ScId, number, value)?;
                if scid != ScId::DEFAULT.0 && !self.declared.scids.contains(&scid) {
                    return self.none(FaultKind::Undeclared { found: scid }, value.span.clone());
                }
                ScId(scid)
            }
        };
        if scid == ScId::OUTSIDE && zone == Zone::Inside {
            let element = what.to_owned();
            return self.none(FaultKind::OutsideNotAllowed { element }, value.span.clone());
        }
        Some(scid)
    }

    /// `Some(NONE)` if the element is not there, `None` if it is faulty.
    pub(super) fn optional_snid(&mut self, node: Option<Node<'_, '_>>) -> Option<SnId> {
        match node {
            Some(node) => self.snid(node),
            None => Some(SnId::NONE),
        }
    }

    pub(super) fn snid(&mut self, node: Node<'_, '_>) -> Option<SnId> {
        let value = self.value(node)?;
        self.snid_of(&value)
    }

    /// The SnID that a value gives by number or name.
    pub(super) fn snid_of(&mut self, value: &Value) -> Option<SnId> {
        match numeral(&value.text) {
            Numeral::Not => match self.declared.snid_of.get(&value.text) {
                Some(snid) => Some(*snid),
                None => self.unknown_name(Id::SnId, value),
            },
            number => self.in_range(Id::SnId, number, value).and_then(SnId::node),
        }
    }

    pub(super) fn unknown_name<T>(&mut self, id: Id, value: &Value) -> Option<T> {
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

    pub(super) fn in_range(&mut self, id: Id, number: Numeral, value: &Value) -> Option<u32> {
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

    pub(super) fn ports(&mut self, value: &Value) -> Option<(u16, u16)> {
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

    /// An address, or a network as its first address and the length of its prefix.
    pub(super) fn network(&mut self, value: &Value) -> Option<(IpAddr, u8)> {
        let (address, bits) = match value.text.split_once('/') {
            Some((address, bits)) => (address, Some(numeral(bits))),
            None => (value.text.as_str(), None),
        };
        let found = address.parse::<IpAddr>().ok().and_then(|address| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = match bits {
                None => most,
                Some(Numeral::Number(bits)) => u8::try_from(bits).ok().filter(|n| *n <= most)?,
                Some(_) => return None,
            };
            Some((address, bits))
        });
        let Some((address, bits)) = found else {
            return self.bad_address(value, None);
        };
        if let IpAddr::V6(v6) = address
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            // There is one spelling of each address.
            let instead = match bits {
                128 => Some(v4.to_string()),
                96..128 => Some(format!("{v4}/{}", bits - 96)),
                _ => None,
            };
            return self.bad_address(value, instead);
        }
        let first = first_address(address, bits);
        if first != address {
            let fault = FaultKind::HostBits {
                address: address.to_string(),
                network: format!("{first}/{bits}"),
            };
            return self.none(fault, value.span.clone());
        }
        Some((address, bits))
    }

    fn bad_address<T>(&mut self, value: &Value, instead: Option<String>) -> Option<T> {
        let found = shown(&value.text);
        self.none(FaultKind::BadAddress { found, instead }, value.span.clone())
    }

    pub(super) fn keyword(
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

    pub(super) fn name(&mut self, value: Value) -> Option<Value> {
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
    pub(super) fn once<K: std::hash::Hash + Eq + ToString>(
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
}

/// The first address of the network that an address is in.
fn first_address(address: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

pub(super) fn is_name(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    first && rest && text.len() <= MAX_NAME
}

pub(super) fn numeral(text: &str) -> Numeral {
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
pub(super) fn shown(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        text.to_owned()
    } else {
        text.chars().take(SHOWN).chain("...".chars()).collect()
    }
}

pub(super) fn bad_word(what: &str, found: &str, known: &[&'static str]) -> FaultKind {
    FaultKind::BadWord {
        what: what.to_owned(),
        found: shown(found),
        nearest: nearest(found, known.iter().copied()),
        known: known.to_vec(),
    }
}

/// The known word that somebody probably meant; of equally near ones the first in the alphabet.
pub(super) fn nearest<'k>(found: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
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
