// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl policy can` and `dsictl policy test`: what a policy decides, asked before it is in force, or while it is.

use std::{
    io::{self, Write},
    path::Path,
};

use dsi_proto::files;
use dsp_schema::{
    MAX_SOURCE_LEN,
    foresight::{
        Answer, Brief, Case, Compiled, Finding, Matter, Question, Space, Step, Verdict, Words,
    },
};
use serde::Serialize;

use super::{fetch, parse_file};
use crate::{
    cli::{PolicyCan, PolicyTest},
    failure::{Exit, Failure},
    output::{Output, Report},
};

/// Cases of an answer that people are shown; machines get all of them.
const SHOWN_CASES: usize = 12;

/// A policy that can be asked, and what it is called.
pub struct Asked {
    /// Its file, or its version on the server.
    pub name: String,
    /// The policy.
    pub policy: Compiled,
}

impl Asked {
    /// The policy of a file; without one the newest that the server holds: its own image, as it was signed.
    pub fn open(file: Option<&Path>, profile: &Path) -> Result<Self, Failure> {
        let (name, made) = match file {
            Some(file) => (file.display().to_string(), Compiled::new(parse_file(file)?)),
            None => {
                let (info, policy) = fetch(profile, None)?;
                let bundle = policy.into_bundle();
                let name = format!("policy {}", info.version);
                let document = dsp_schema::parse(&name, &bundle.source)
                    .map_err(|faults| Failure::Faults(Box::new(faults)))?;
                (name, Compiled::with_image(document, bundle.image))
            }
        };
        match made {
            Ok(policy) => Ok(Self { name, policy }),
            Err(source) => Err(Failure::Foresight {
                policy: name,
                source,
            }),
        }
    }

    /// The rule of a decision, for machines.
    pub fn rule(&self, id: u32) -> Option<RuleReport> {
        self.policy.rule(id).map(|rule| RuleReport {
            number: rule.id,
            kind: rule.body.kind(),
            id: rule.xml_id.clone(),
            comment: rule.comment.clone(),
            line: rule.line,
        })
    }

    fn is_permissive(&self) -> bool {
        !self.policy.policy().meta().enforcing()
    }
}

/// A rule of a policy.
#[derive(Serialize)]
pub struct RuleReport {
    number: u32,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    line: usize,
}

/// A part of what a question is about. What is missing is not restricted.
#[derive(Serialize)]
pub struct Where {
    #[serde(skip_serializing_if = "Option::is_none")]
    source_nodes: Option<Brief>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_nodes: Option<Brief>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<Brief>,
    /// Ports of the end that is outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_ports: Option<Brief>,
    /// Ports of the end that is a zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    own_ports: Option<Brief>,
}

impl Where {
    /// A part of a whole.
    pub fn of(words: &Words<'_>, space: &Space, whole: &Space) -> Self {
        Self {
            source_nodes: words.nodes(space.source_nodes(), whole.source_nodes()),
            target_nodes: words.nodes(space.target_nodes(), whole.target_nodes()),
            addresses: words.addresses(space.addresses(), whole.addresses()),
            remote_ports: words.ports(space.remote_ports(), whole.remote_ports()),
            own_ports: words.ports(space.own_ports(), whole.own_ports()),
        }
    }
}

#[derive(Serialize)]
struct FindingReport {
    step: &'static str,
    allowed: bool,
    reason: &'static str,
    rule: Option<RuleReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    becomes: Option<u32>,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct CaseReport {
    allowed: bool,
    #[serde(flatten)]
    place: Where,
    findings: Vec<FindingReport>,
    /// Source and target, if there are several cases.
    #[serde(skip)]
    ends: Option<String>,
}

#[derive(Serialize)]
struct AnswerReport {
    class: &'static str,
    permission: &'static str,
    verdict: &'static str,
    cases: Vec<CaseReport>,
    /// The rule that would allow what no rule grants.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl AnswerReport {
    fn of(asked: &Asked, question: &Question, answer: &Answer) -> Self {
        let (class, permission) = match question {
            Question::Permission { receive: true, .. } => ("network", "receive"),
            Question::Permission { deed, .. } => (deed.class(), deed.permission()),
            Question::Execute { .. } => ("transition", "execute"),
            Question::Host { .. } => ("hosting", "host"),
        };
        let words = Words::of(asked.policy.names());
        let case = |case: &Case| CaseReport {
            allowed: case.is_allowed(),
            place: Where::of(&words, &case.space, &answer.asked),
            findings: case
                .findings
                .iter()
                .map(|finding| FindingReport {
                    step: finding.step.name(),
                    allowed: finding.is_allowed(),
                    reason: finding.reason.name(),
                    rule: asked.rule(finding.rule),
                    becomes: finding.becomes.map(|scid| scid.0),
                    text: asked.policy.in_words(question, finding, &asked.name),
                })
                .collect(),
            ends: ends(&words, question, &case.space, answer),
        };
        // A rule more helps where none grants, and not against one that denies.
        let helps = |finding: &Finding| {
            !finding.is_allowed() && finding.rule == 0 && finding.becomes.is_none()
        };
        let remedy = match answer.cases.as_slice() {
            [only]
                if only.findings.iter().all(|f| f.is_allowed() || helps(f))
                    && !only.is_allowed() =>
            {
                asked.policy.remedy(question)
            }
            _ => None,
        };
        Self {
            class,
            permission,
            verdict: answer.verdict().name(),
            cases: answer.cases.iter().map(case).collect(),
            remedy,
        }
    }

    /// The lines below the verdict.
    fn text(&self, out: &mut dyn Write, indent: &str) -> io::Result<()> {
        for case in self.cases.iter().take(SHOWN_CASES) {
            // What hosting did not refuse and no rule restricts needs no words beside a permission.
            let told: Vec<&str> = case
                .findings
                .iter()
                .filter(|f| {
                    case.findings.len() == 1
                        || f.step == Step::Permission.name()
                        || f.rule.is_some()
                })
                .map(|finding| finding.text.as_str())
                .collect();
            match &case.ends {
                None => {
                    for text in told {
                        writeln!(out, "{indent}{text}")?;
                    }
                }
                Some(ends) => writeln!(out, "{indent}{ends}: {}", told.join("; "))?,
            }
        }
        if let more @ 1.. = self.cases.len().saturating_sub(SHOWN_CASES) {
            writeln!(out, "{indent}and {more} more cases; --json shows all")?;
        }
        match &self.remedy {
            Some(rule) => writeln!(out, "{indent}this would allow it: {rule}"),
            None => Ok(()),
        }
    }
}

/// Where a case is, if there are others.
fn ends(words: &Words<'_>, question: &Question, space: &Space, answer: &Answer) -> Option<String> {
    let Question::Permission {
        deed,
        source,
        target,
        ..
    } = question
    else {
        return None;
    };
    if answer.cases.len() < 2 {
        return None;
    }
    let matter = Matter {
        deed: *deed,
        source: source.scid,
        target: target.scid,
    };
    let (source, target) = words.ends(&matter, space, &answer.asked);
    Some(match deed {
        dsp_schema::foresight::Deed::System(_) => source,
        _ => format!("{source} -> {target}"),
    })
}

#[derive(Serialize)]
struct Can {
    policy: String,
    mode: &'static str,
    question: String,
    verdict: &'static str,
    answers: Vec<AnswerReport>,
}

impl Report for Can {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: {}", self.verdict, self.question)?;
        for answer in &self.answers {
            if self.answers.len() > 1 {
                writeln!(
                    out,
                    "  {}:{}: {}",
                    answer.class, answer.permission, answer.verdict
                )?;
                answer.text(out, "    ")?;
            } else {
                answer.text(out, "  ")?;
            }
        }
        Ok(())
    }
}

/// All of several answers in one.
fn together(verdicts: &[Verdict]) -> Verdict {
    match verdicts {
        [first, rest @ ..] if rest.iter().all(|verdict| verdict == first) => *first,
        _ => Verdict::Depends,
    }
}

fn note_mode(asked: &Asked, output: &Output) {
    if asked.is_permissive() {
        output.note("the policy is permissive: what it denies goes ahead and is audited");
    }
}

/// `dsictl policy can`
pub fn can(arguments: &PolicyCan, profile: &Path, output: &Output) -> Result<Exit, Failure> {
    let asked = Asked::open(arguments.policy.as_deref(), profile)?;
    let mut text = format!("{} {}", arguments.subject, arguments.permission);
    let parts = [
        ("", &arguments.object),
        ("port ", &arguments.port),
        ("from port ", &arguments.from_port),
        ("becomes ", &arguments.becomes),
    ];
    for (word, value) in parts {
        if let Some(value) = value {
            text += &format!(" {word}{value}");
        }
    }
    let questions = asked
        .policy
        .questions("question", &text)
        .map_err(|faults| Failure::Questions(Box::new(faults)))?;
    let answers: Vec<(Question, Answer)> = questions
        .into_iter()
        .map(|question| (question, asked.policy.answer(&question)))
        .collect();
    let verdicts: Vec<Verdict> = answers.iter().map(|(_, answer)| answer.verdict()).collect();
    let verdict = together(&verdicts);
    output.report(&Can {
        policy: asked.name.clone(),
        mode: asked.policy.document().mode.name(),
        question: text,
        verdict: verdict.name(),
        answers: answers
            .iter()
            .map(|(question, answer)| AnswerReport::of(&asked, question, answer))
            .collect(),
    })?;
    note_mode(&asked, output);
    Ok(match verdict {
        Verdict::Allowed => Exit::Ok,
        Verdict::Denied | Verdict::Depends => Exit::Failed,
    })
}

#[derive(Serialize)]
struct Outcome {
    file: String,
    line: usize,
    expectation: String,
    met: bool,
    #[serde(flatten)]
    answer: AnswerReport,
}

#[derive(Serialize)]
struct Tested {
    policy: String,
    mode: &'static str,
    passed: usize,
    failed: usize,
    expectations: Vec<Outcome>,
}

impl Report for Tested {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for outcome in self.expectations.iter().filter(|outcome| !outcome.met) {
            writeln!(
                out,
                "FAILED {}:{}: {}",
                outcome.file, outcome.line, outcome.expectation
            )?;
            if outcome.answer.verdict == Verdict::Depends.name() {
                writeln!(out, "  it depends:")?;
                outcome.answer.text(out, "    ")?;
            } else {
                outcome.answer.text(out, "  ")?;
            }
        }
        writeln!(
            out,
            "{}: {} passed, {} failed",
            self.policy, self.passed, self.failed
        )
    }
}

/// `dsictl policy test`
pub fn test(arguments: &PolicyTest, profile: &Path, output: &Output) -> Result<Exit, Failure> {
    let asked = Asked::open(arguments.policy.as_deref(), profile)?;
    let mut outcomes = Vec::new();
    for file in &arguments.files {
        outcomes.extend(hold(&asked, file)?);
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.met).count();
    output.report(&Tested {
        policy: asked.name.clone(),
        mode: asked.policy.document().mode.name(),
        passed: outcomes.len() - failed,
        failed,
        expectations: outcomes,
    })?;
    note_mode(&asked, output);
    Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
}

/// What becomes of the expectations of a file.
fn hold(asked: &Asked, file: &Path) -> Result<Vec<Outcome>, Failure> {
    let text = files::read(file, MAX_SOURCE_LEN as u64 + 1)?;
    let name = file.display().to_string();
    let expectations = asked
        .policy
        .expectations(&name, &text)
        .map_err(|faults| Failure::Questions(Box::new(faults)))?;
    let held = expectations.into_iter().map(|expectation| {
        let answer = asked.policy.answer(&expectation.question);
        let expected = if expectation.allowed {
            Verdict::Allowed
        } else {
            Verdict::Denied
        };
        Outcome {
            file: name.clone(),
            line: expectation.line,
            met: answer.verdict() == expected,
            answer: AnswerReport::of(asked, &expectation.question, &answer),
            expectation: expectation.text,
        }
    });
    Ok(held.collect())
}
