// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl policy diff`: every decision in which two policies differ, and the rules that make it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::Path,
};

use dsi_engine::ScId;
use dsp_schema::foresight::{Change, Deed, Matter, Setting, Space, What, Words, difference};
use serde::Serialize;

use super::foresight::{Asked, RuleReport, Where};
use crate::{
    cli::PolicyDiff,
    failure::{Exit, Failure},
    output::{Output, Report},
};

/// Rules of one side that people are shown; machines get all of them.
const SHOWN_RULES: usize = 4;

#[derive(Serialize)]
struct End {
    scid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// What a decision is about.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum About {
    Permission {
        class: &'static str,
        permission: &'static str,
        source: End,
        #[serde(skip_serializing_if = "Option::is_none")]
        target: Option<End>,
        #[serde(flatten)]
        place: Box<Where>,
        now: &'static str,
    },
    Transition {
        parent: End,
        binary: End,
        /// What the process became, if it might execute it.
        was: Option<End>,
        now: Option<End>,
    },
    SocketLabel {
        protocol: &'static str,
        ports: Vec<String>,
        /// Whose the sockets were; their process' if it is none.
        was: Option<End>,
        now: Option<End>,
    },
    Hosting {
        zone: End,
        #[serde(skip_serializing_if = "Option::is_none")]
        nodes: Option<dsp_schema::foresight::Brief>,
        now: &'static str,
    },
}

#[derive(Serialize)]
struct ChangeReport {
    #[serde(flatten)]
    about: About,
    before: Vec<RuleReport>,
    after: Vec<RuleReport>,
}

/// A line for people, with the rules of both sides.
struct Line {
    text: String,
    before: Vec<String>,
    after: Vec<String>,
}

#[derive(Serialize)]
struct Differs {
    before: String,
    after: String,
    settings: Vec<Setting>,
    changes: Vec<ChangeReport>,
    #[serde(skip)]
    lines: Vec<Line>,
}

impl Report for Differs {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for Setting {
            name,
            before,
            after,
        } in &self.settings
        {
            writeln!(
                out,
                "! {name} is {after}, was {before}{}",
                meaning(name, after)
            )?;
        }
        for line in &self.lines {
            writeln!(out, "{}", line.text)?;
            writeln!(out, "    before: {}", listed(&line.before))?;
            writeln!(out, "    after:  {}", listed(&line.after))?;
        }
        if self.settings.is_empty() && self.changes.is_empty() {
            return writeln!(
                out,
                "no decision differs between {} and {}",
                self.before, self.after
            );
        }
        let of = |sign: char| {
            self.lines
                .iter()
                .filter(|line| line.text.starts_with(sign))
                .count()
        };
        writeln!(
            out,
            "{} -> {}: {} allowed, {} denied, {} changed otherwise, {} settings",
            self.before,
            self.after,
            of('+'),
            of('-'),
            of('~'),
            self.settings.len()
        )
    }
}

fn meaning(name: &str, after: &str) -> &'static str {
    match (name, after) {
        ("mode", "permissive") => ": nothing is refused any more, what would be is audited",
        ("mode", _) => ": what is denied is refused",
        ("default", "allow") => ": what no rule of either policy names was denied and is allowed",
        ("default", _) => ": what no rule of either policy names was allowed and is denied",
        _ => "",
    }
}

fn listed(rules: &[String]) -> String {
    let shown = rules.len().min(SHOWN_RULES);
    let more = match rules.len() - shown {
        0 => String::new(),
        more => format!("; and {more} more rules"),
    };
    match shown {
        0 => "no rule".to_owned(),
        _ => format!("{}{more}", rules[..shown].join("; ")),
    }
}

/// The two policies.
struct Pair {
    before: Asked,
    after: Asked,
}

impl Pair {
    fn words(&self) -> Words<'_> {
        Words::of_both(self.before.policy.names(), self.after.policy.names())
    }

    fn end(&self, scid: ScId) -> End {
        let name = |asked: &Asked| asked.policy.names().context(scid.0).map(str::to_owned);
        End {
            scid: scid.0,
            name: name(&self.after).or_else(|| name(&self.before)),
        }
    }

    /// A change, for machines.
    fn report(&self, words: &Words<'_>, change: &Change) -> ChangeReport {
        let rules = |asked: &Asked, ids: &BTreeSet<u32>| {
            ids.iter().filter_map(|id| asked.rule(*id)).collect()
        };
        let about = match &change.what {
            What::Permission {
                matter,
                space,
                allowed,
            } => About::Permission {
                class: matter.deed.class(),
                permission: matter.deed.permission(),
                source: self.end(matter.source),
                target: (!matches!(matter.deed, Deed::System(_))).then(|| self.end(matter.target)),
                place: Box::new(Where::of(words, space, &matter.domain())),
                now: verdict(*allowed),
            },
            What::Transition {
                parent,
                binary,
                before,
                after,
            } => About::Transition {
                parent: self.end(*parent),
                binary: self.end(*binary),
                was: before.map(|scid| self.end(scid)),
                now: after.map(|scid| self.end(scid)),
            },
            What::SocketLabel {
                protocol,
                ports,
                before,
                after,
            } => About::SocketLabel {
                protocol: protocol_name(*protocol),
                ports: words.port_list(ports),
                was: before.map(|scid| self.end(scid)),
                now: after.map(|scid| self.end(scid)),
            },
            What::Hosting {
                scid,
                nodes,
                allowed,
            } => About::Hosting {
                zone: self.end(*scid),
                nodes: words.all_nodes(nodes),
                now: verdict(*allowed),
            },
        };
        ChangeReport {
            about,
            before: rules(&self.before, &change.before),
            after: rules(&self.after, &change.after),
        }
    }

    /// The changes for people: what may be done by the same to the same in one line.
    fn lines(&self, words: &Words<'_>, changes: &[Change]) -> Vec<Line> {
        type Rules = (BTreeSet<u32>, BTreeSet<u32>);
        let mut lines: Vec<(Sentence, Rules)> = Vec::new();
        let mut known: BTreeMap<(&'static str, bool, String, String), usize> = BTreeMap::new();
        for change in changes {
            let rules = (change.before.clone(), change.after.clone());
            let What::Permission {
                matter,
                space,
                allowed,
            } = &change.what
            else {
                lines.push((Sentence::Whole(other(words, &change.what)), rules));
                continue;
            };
            let (source, target) = ends(words, matter, space);
            let key = (
                matter.deed.class(),
                *allowed,
                source.clone(),
                target.clone(),
            );
            let verb = verb(matter.deed);
            match known.get(&key).and_then(|n| lines.get_mut(*n)) {
                Some((Sentence::May { verbs, .. }, all)) => {
                    verbs.push(verb);
                    all.0.extend(rules.0);
                    all.1.extend(rules.1);
                }
                _ => {
                    known.insert(key, lines.len());
                    lines.push((
                        Sentence::May {
                            allowed: *allowed,
                            class: matter.deed.class(),
                            source,
                            verbs: vec![verb],
                            target,
                        },
                        rules,
                    ));
                }
            }
        }
        let told = |asked: &Asked, rules: BTreeSet<u32>| {
            rules
                .into_iter()
                .map(|id| asked.policy.rule_in_words(id, &asked.name))
                .collect()
        };
        lines
            .into_iter()
            .map(|(sentence, (before, after))| Line {
                text: sentence.text(),
                before: told(&self.before, before),
                after: told(&self.after, after),
            })
            .collect()
    }
}

enum Sentence {
    May {
        allowed: bool,
        class: &'static str,
        source: String,
        verbs: Vec<&'static str>,
        target: String,
    },
    Whole(String),
}

impl Sentence {
    fn text(self) -> String {
        match self {
            Self::Whole(text) => text,
            Self::May {
                allowed,
                class,
                source,
                verbs,
                target,
            } => {
                let (sign, may) = match allowed {
                    true => ('+', "may now"),
                    false => ('-', "may no longer"),
                };
                let object = match class {
                    "network" => format!(" to {target}"),
                    "socket" => format!(" sockets of {target}"),
                    "process" => format!(" processes of {target}"),
                    _ => String::new(),
                };
                format!(
                    "{sign} {source} {may} {}{object} ({class})",
                    verbs.join(", ")
                )
            }
        }
    }
}

fn ends(words: &Words<'_>, matter: &Matter, space: &Space) -> (String, String) {
    words.ends(matter, space, &matter.domain())
}

fn verb(deed: Deed) -> &'static str {
    match deed {
        Deed::Datagram => "send datagrams",
        deed => deed.permission(),
    }
}

const fn verdict(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
}

const fn protocol_name(protocol: u8) -> &'static str {
    if protocol == 6 { "tcp" } else { "udp" }
}

/// A change that is none of a permission.
fn other(words: &Words<'_>, what: &What) -> String {
    match what {
        What::Transition {
            parent,
            binary,
            before,
            after,
        } => {
            let who = format!(
                "{} that executes a binary of {}",
                words.zone(*parent),
                words.zone(*binary)
            );
            let became = |scid: &ScId| words.zone(*scid);
            match (before, after) {
                (Some(before), Some(after)) => {
                    format!(
                        "~ {who} now becomes {}, became {} (transition)",
                        became(after),
                        became(before)
                    )
                }
                (None, Some(after)) => {
                    format!("+ {who} now becomes {} (transition)", became(after))
                }
                (before, _) => format!(
                    "- {who} is now refused, became {} (transition)",
                    before.as_ref().map_or_else(String::new, became)
                ),
            }
        }
        What::SocketLabel {
            protocol,
            ports,
            before,
            after,
        } => {
            let whose = |scid: &Option<ScId>| {
                scid.map_or_else(
                    || "their process'".to_owned(),
                    |scid| format!("{}'s", words.zone(scid)),
                )
            };
            format!(
                "~ sockets of {} port {} are now {}, were {} (socket_label)",
                protocol_name(*protocol),
                words.port_list(ports).join(", "),
                whose(after),
                whose(before)
            )
        }
        What::Hosting {
            scid,
            nodes,
            allowed,
        } => {
            let nodes = words
                .all_nodes(nodes)
                .map_or_else(|| "any node".to_owned(), |nodes| format!("node {nodes}"));
            let (sign, may) = match allowed {
                true => ('+', "may now"),
                false => ('-', "may no longer"),
            };
            format!(
                "{sign} {nodes} {may} speak for {} (hosting)",
                words.zone(*scid)
            )
        }
        // Told with others of its kind.
        What::Permission { .. } => String::new(),
    }
}

/// `dsictl policy diff`
pub fn diff(arguments: &PolicyDiff, profile: &Path, output: &Output) -> Result<Exit, Failure> {
    // With one file, the policy before is the one in force.
    let before = arguments.second.as_ref().map(|_| arguments.first.as_path());
    let after = arguments.second.as_deref().unwrap_or(&arguments.first);
    let pair = Pair {
        before: Asked::open(before, profile)?,
        after: Asked::open(Some(after), profile)?,
    };
    let found = difference(&pair.before.policy, &pair.after.policy);
    let words = pair.words();
    output.report(&Differs {
        before: pair.before.name.clone(),
        after: pair.after.name.clone(),
        changes: found
            .changes
            .iter()
            .map(|change| pair.report(&words, change))
            .collect(),
        lines: pair.lines(&words, &found.changes),
        settings: found.settings.clone(),
    })?;
    Ok(if found.is_empty() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}
