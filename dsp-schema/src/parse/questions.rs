// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Questions to a policy, and expectations of its answers, as text: one a line, words apart by white space.
//!
//! ```text
//! [allow|deny] SUBJECT [CLASS:]PERMISSION [OBJECT] [port PORTS] [from port PORTS] [becomes ZONE]
//! ```

use super::values::{Zone, bad_word, nearest, shown};
use super::xml::Value;
use super::{Declared, Reader};
use crate::MAX_SOURCE_LEN;
use crate::fault::{Fault, FaultKind, Faults};
use crate::foresight::{Deed, End, Expectation, Question};
use crate::model::Dsp;
use crate::source::Source;
use dsi_engine::{
    NetworkPermission, ProcessPermission, ScId, SnId, SocketPermission, SystemPermission,
};
use std::ops::Range;

/// What a word between subject and object asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Deed(Deed),
    /// The other way round: the object sends.
    Receive,
    Execute,
    Host,
}

const CLASSES: [&str; 6] = [
    "socket",
    "network",
    "process",
    "system",
    "transition",
    "hosting",
];

/// Every permission with its class.
fn verbs() -> Vec<(&'static str, &'static str, Verb)> {
    let mut verbs = Vec::new();
    for permission in SocketPermission::ALL {
        verbs.push((
            "socket",
            permission.name(),
            Verb::Deed(Deed::Socket(*permission)),
        ));
    }
    for permission in NetworkPermission::ALL {
        let verb = match permission {
            NetworkPermission::Send => Verb::Deed(Deed::Datagram),
            NetworkPermission::Receive => Verb::Receive,
            NetworkPermission::Connect => Verb::Deed(Deed::Connection),
            NetworkPermission::Multicast => Verb::Deed(Deed::Multicast),
        };
        verbs.push(("network", permission.name(), verb));
    }
    for permission in ProcessPermission::ALL {
        verbs.push((
            "process",
            permission.name(),
            Verb::Deed(Deed::Process(*permission)),
        ));
    }
    for permission in SystemPermission::ALL {
        verbs.push((
            "system",
            permission.name(),
            Verb::Deed(Deed::System(*permission)),
        ));
    }
    verbs.push(("transition", "execute", Verb::Execute));
    verbs.push(("hosting", "host", Verb::Host));
    verbs
}

/// What follows the object.
#[derive(Default)]
struct Tail {
    port: Option<((u16, u16), Range<usize>)>,
    from: Option<((u16, u16), Range<usize>)>,
    becomes: Option<(Option<ScId>, Range<usize>)>,
}

/// Reads one question. A permission without its class is a question of each class that has it.
pub(crate) fn questions(name: &str, text: &str, dsp: &Dsp) -> Result<Vec<Question>, Faults> {
    let source = Source::new(name, text);
    let mut reader = reader(&source, dsp);
    let words = words(text, 0);
    let end = text.trim_end().len();
    let found = reader.question(&words, end..end);
    let faults = reader.faults;
    match found {
        Some(found) if faults.is_empty() => Ok(found),
        _ => Err(Faults::new(source, faults)),
    }
}

/// Reads a file of expectations; `#` starts a comment.
pub(crate) fn expectations(
    name: &str,
    bytes: &[u8],
    dsp: &Dsp,
) -> Result<Vec<Expectation>, Faults> {
    let refuse = |text: &str, kind: FaultKind, span: Range<usize>| {
        Faults::new(Source::new(name, text), vec![Fault::new(kind, span)])
    };
    if bytes.len() > MAX_SOURCE_LEN {
        return Err(refuse("", FaultKind::TooLarge { len: bytes.len() }, 0..0));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        let valid = std::str::from_utf8(&bytes[..offset]).unwrap_or("");
        refuse(valid, FaultKind::NotUtf8 { offset }, offset..offset)
    })?;
    let source = Source::new(name, text);
    let mut reader = reader(&source, dsp);
    let mut found = Vec::new();
    let mut offset = 0;
    for (line, whole) in (1..).zip(text.split('\n')) {
        let said = whole.split('#').next().unwrap_or("");
        let words = words(said, offset);
        if let [first, question @ ..] = words.as_slice() {
            let end = offset + said.trim_end().len();
            let allowed = reader.keyword(first, "expectation", &["allow", "deny"]);
            let asked = reader.question(question, end..end);
            if let (Some(allowed), Some(asked)) = (allowed, asked) {
                let (perhaps, span) = (asked.len() > 1, question[1].span.clone());
                match asked.into_iter().next() {
                    Some(question) if !perhaps => found.push(Expectation {
                        line,
                        text: said.trim().to_owned(),
                        allowed: allowed == "allow",
                        question,
                    }),
                    _ => {
                        let word = question[1].text.clone();
                        let classes = classes_of(&word);
                        reader.fault(FaultKind::Ambiguous { word, classes }, span);
                    }
                }
            }
        }
        offset += whole.len() + 1;
    }
    if found.is_empty() && reader.faults.is_empty() {
        // What expects nothing is met by everything.
        let kind = FaultKind::MissingPart {
            what: "expectation",
        };
        reader.fault(kind, text.len()..text.len());
    }
    let faults = reader.faults;
    if faults.is_empty() {
        Ok(found)
    } else {
        Err(Faults::new(source, faults))
    }
}

fn classes_of(word: &str) -> Vec<&'static str> {
    verbs()
        .into_iter()
        .filter(|(_, name, _)| *name == word)
        .map(|(class, ..)| class)
        .collect()
}

fn reader<'s>(source: &'s Source, dsp: &Dsp) -> Reader<'s> {
    Reader {
        source,
        faults: Vec::new(),
        declared: Declared::by(dsp),
        meant: Vec::new(),
    }
}

/// The words of a text that starts at an offset of the source.
fn words(text: &str, offset: usize) -> Vec<Value> {
    text.split_ascii_whitespace()
        .map(|word| {
            let start = offset + (word.as_ptr() as usize - text.as_ptr() as usize);
            Value {
                text: word.to_owned(),
                span: start..start + word.len(),
            }
        })
        .collect()
}

/// The part of a word from a byte on.
fn part(word: &Value, range: Range<usize>) -> Value {
    Value {
        text: word.text[range.clone()].to_owned(),
        span: word.span.start + range.start..word.span.start + range.end,
    }
}

impl Reader<'_> {
    /// One question, or one of each class that has the permission. `end` is where a missing word is missed.
    fn question(&mut self, words: &[Value], end: Range<usize>) -> Option<Vec<Question>> {
        let Some(subject) = words.first() else {
            return self.none(FaultKind::MissingPart { what: "subject" }, end);
        };
        let Some(permission) = words.get(1) else {
            return self.none(FaultKind::MissingPart { what: "permission" }, end);
        };
        let Some(verbs) = self.verbs(permission, subject, words.get(2)) else {
            // The rest is looked at all the same, as far as it can be read without.
            if nearest(&permission.text, ["host"].into_iter()).is_none() {
                let any = [Verb::Deed(Deed::Datagram)];
                self.end(subject, "subject", &any);
                if let Some(object) = words.get(2) {
                    self.end(object, "object", &any);
                }
                self.tail(words.get(3..).unwrap_or(&[]), end);
            }
            return None;
        };
        let system = verbs
            .iter()
            .all(|verb| matches!(verb, Verb::Deed(Deed::System(_))));
        let object = if system { None } else { words.get(2) };
        if !system && object.is_none() {
            return self.none(FaultKind::MissingPart { what: "object" }, end);
        }
        let rest = words.get(if system { 2 } else { 3 }..).unwrap_or(&[]);
        let before = self.faults.len();
        let subject_end = match verbs.as_slice() {
            [Verb::Host] => self
                .snid_of(subject)
                .map(|node| End::of(ScId::KERNEL, node)),
            [Verb::Execute] => self
                .scid_of(subject, Zone::Inside, "subject")
                .map(|scid| End::of(scid, SnId::NONE)),
            verbs => self.end(subject, "subject", verbs),
        };
        let object_end = match object {
            Some(object) if verbs == [Verb::Host] || verbs == [Verb::Execute] => self
                .scid_of(object, Zone::Inside, "object")
                .map(|scid| End::of(scid, SnId::NONE)),
            Some(object) => self.end(object, "object", &verbs),
            None => Some(End::of(ScId::KERNEL, SnId::NONE)),
        };
        let tail = self.tail(rest, end);
        let (subject_end, object_end) = (subject_end?, object_end?);
        let tail = tail?;
        let questions = verbs
            .iter()
            .map(|verb| {
                let question = self.put(*verb, subject_end, object_end, &tail, object)?;
                if let Question::Permission { source, target, .. } = &question {
                    self.check_ends(*verb, source, target, permission);
                }
                Some(question)
            })
            .collect::<Option<Vec<_>>>()?;
        (self.faults.len() == before).then_some(questions)
    }

    /// What a permission can mean. Where an end is outside it can only be one of the network.
    fn verbs(
        &mut self,
        word: &Value,
        subject: &Value,
        object: Option<&Value>,
    ) -> Option<Vec<Verb>> {
        let (class, name) = match word.text.split_once(':') {
            Some((class, _)) => {
                let class_part = part(word, 0..class.len());
                self.keyword(&class_part, "class", &CLASSES)?;
                (
                    Some(class.to_owned()),
                    part(word, class.len() + 1..word.text.len()),
                )
            }
            None => (None, part(word, 0..word.text.len())),
        };
        let known: Vec<_> = verbs()
            .into_iter()
            .filter(|(of, ..)| class.as_deref().is_none_or(|class| class == *of))
            .collect();
        let mut meant: Vec<_> = known.iter().filter(|(_, of, _)| *of == name.text).collect();
        let is_outside = |word: &Value| word.text.split([':', '@']).next() == Some("outside");
        if is_outside(subject) || object.is_some_and(is_outside) {
            let of_network: Vec<_> = meant
                .iter()
                .copied()
                .filter(|(of, ..)| *of == "network")
                .collect();
            if !of_network.is_empty() {
                meant = of_network;
            }
        }
        if meant.is_empty() {
            let mut words: Vec<&'static str> = known.iter().map(|(_, name, _)| *name).collect();
            words.sort_unstable();
            words.dedup();
            let what = match &class {
                Some(class) => format!("{class} permission"),
                None => "permission".to_owned(),
            };
            return self.none(bad_word(&what, &name.text, &words), name.span);
        }
        Some(meant.into_iter().map(|(.., verb)| *verb).collect())
    }

    /// A zone, perhaps on a node, or outside, perhaps somewhere.
    fn end(&mut self, word: &Value, what: &str, verbs: &[Verb]) -> Option<End> {
        let network = verbs.iter().all(|verb| {
            matches!(
                verb,
                Verb::Receive | Verb::Deed(Deed::Datagram | Deed::Connection | Deed::Multicast)
            )
        });
        let zone = if network {
            Zone::InsideOrOutside
        } else {
            Zone::Inside
        };
        if let Some(rest) = word.text.strip_prefix("outside:") {
            let start = word.text.len() - rest.len();
            let address = part(word, start..word.text.len());
            if !network {
                let element = what.to_owned();
                return self.none(FaultKind::OutsideNotAllowed { element }, word.span.clone());
            }
            let network = self.network(&address)?;
            return Some(End {
                network: Some(network),
                ..End::of(ScId::OUTSIDE, SnId::NONE)
            });
        }
        let Some(at) = word.text.find('@') else {
            let scid = self.scid_of(word, zone, what)?;
            return Some(End::of(scid, SnId::NONE));
        };
        let node = part(word, at + 1..word.text.len());
        let scid = self.scid_of(&part(word, 0..at), zone, what);
        let snid = self.snid_of(&node);
        if scid == Some(ScId::OUTSIDE) {
            self.fault(FaultKind::NodeOutside, node.span);
        }
        Some(End::of(scid?, snid?))
    }

    fn tail(&mut self, words: &[Value], end: Range<usize>) -> Option<Tail> {
        let mut tail = Tail::default();
        let mut rest = words.iter();
        let mut whole = true;
        while let Some(word) = rest.next() {
            let known = ["port", "from", "becomes"];
            match word.text.as_str() {
                "becomes" => {
                    let Some(zone) = rest.next() else {
                        return self.none(FaultKind::MissingPart { what: "zone" }, end);
                    };
                    if tail.becomes.is_some() {
                        self.fault(
                            FaultKind::RepeatedPart { what: "becomes" },
                            word.span.clone(),
                        );
                    }
                    let scid = self.scid_of(zone, Zone::Inside, "becomes");
                    tail.becomes = Some((scid, word.span.clone()));
                }
                found @ ("port" | "from") => {
                    let from = found == "from";
                    let number = if from {
                        match rest.next() {
                            Some(port) if port.text == "port" => rest.next(),
                            Some(other) => {
                                let kind = bad_word("part of a question", &other.text, &["port"]);
                                return self.none(kind, other.span.clone());
                            }
                            None => None,
                        }
                    } else {
                        rest.next()
                    };
                    let Some(number) = number else {
                        return self.none(FaultKind::MissingPart { what: "port" }, end);
                    };
                    let slot = if from { &mut tail.from } else { &mut tail.port };
                    let twice = slot.is_some();
                    if twice {
                        let what = if from { "from port" } else { "port" };
                        self.fault(FaultKind::RepeatedPart { what }, word.span.clone());
                    }
                    let ports = self.ports(number);
                    whole &= ports.is_some();
                    let ports = ports.map(|ports| (ports, word.span.clone()));
                    if from {
                        tail.from = ports;
                    } else {
                        tail.port = ports;
                    }
                }
                other => {
                    let kind = match nearest(other, known.into_iter()) {
                        Some(_) => bad_word("part of a question", other, &known),
                        None => FaultKind::StrayPart {
                            found: shown(other),
                        },
                    };
                    self.fault(kind, word.span.clone());
                }
            }
        }
        whole.then_some(tail)
    }

    /// The question that the parts make.
    fn put(
        &mut self,
        verb: Verb,
        subject: End,
        object: End,
        tail: &Tail,
        at: Option<&Value>,
    ) -> Option<Question> {
        let stray =
            |of: &Option<((u16, u16), Range<usize>)>| of.as_ref().map(|(_, span)| span.clone());
        let (port, from) = (
            tail.port.as_ref().map(|(p, _)| *p),
            tail.from.as_ref().map(|(p, _)| *p),
        );
        let deed = match verb {
            Verb::Execute | Verb::Host => {
                for span in [stray(&tail.port), stray(&tail.from)].into_iter().flatten() {
                    self.fault(FaultKind::IdlePort { outside: false }, span);
                }
                if verb == Verb::Host {
                    if let Some((_, span)) = &tail.becomes {
                        self.fault(
                            FaultKind::StrayPart {
                                found: "becomes".to_owned(),
                            },
                            span.clone(),
                        );
                    }
                    return Some(Question::Host {
                        node: subject.node,
                        scid: object.scid,
                    });
                }
                let becomes = match &tail.becomes {
                    Some((scid, _)) => Some((*scid)?),
                    None => None,
                };
                return Some(Question::Execute {
                    parent: subject.scid,
                    binary: object.scid,
                    becomes,
                });
            }
            Verb::Deed(deed) => deed,
            Verb::Receive => Deed::Datagram,
        };
        if let Some((_, span)) = &tail.becomes {
            self.fault(
                FaultKind::StrayPart {
                    found: "becomes".to_owned(),
                },
                span.clone(),
            );
        }
        let outside = subject.scid == ScId::OUTSIDE || object.scid == ScId::OUTSIDE;
        if !outside {
            for span in [stray(&tail.port), stray(&tail.from)].into_iter().flatten() {
                self.fault(FaultKind::IdlePort { outside }, span);
            }
        } else if let (Some((_, span)), true) = (&tail.from, deed != Deed::Datagram) {
            self.fault(FaultKind::IdlePort { outside }, span.clone());
        }
        let local = matches!(deed, Deed::Socket(_) | Deed::Process(_));
        if let (Some(at), true, false) = (at, local, object.node.is_none()) {
            self.fault(FaultKind::NodeOfObject, at.span.clone());
        }
        Some(if verb == Verb::Receive {
            // A datagram comes from the object; `port` is still the object's.
            Question::Permission {
                deed,
                receive: true,
                source: End {
                    ports: port,
                    ..object
                },
                target: End {
                    ports: from,
                    ..subject
                },
            }
        } else {
            Question::Permission {
                deed,
                receive: false,
                source: End {
                    ports: from,
                    ..subject
                },
                target: End {
                    ports: port,
                    ..object
                },
            }
        })
    }

    fn check_ends(&mut self, verb: Verb, source: &End, target: &End, word: &Value) {
        let outside = [source, target].map(|end| end.scid == ScId::OUTSIDE);
        let multicast = verb == Verb::Deed(Deed::Multicast);
        if outside == [true, true] || (multicast && outside == [false, false]) {
            let multicast = multicast && outside == [false, false];
            self.fault(FaultKind::WrongEnds { multicast }, word.span.clone());
        }
    }
}
