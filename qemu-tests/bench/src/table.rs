//! The result: one table for people, the same as JSON for programs.

use serde_json::{Map, Value, json};

use crate::outcome::{Config, OPERATIONS, Outcome};

/// All outcomes of one run, with the bare kernel as their base.
pub struct Table<'a> {
    outcomes: &'a [Outcome],
    bare: Option<&'a Outcome>,
}

impl<'a> Table<'a> {
    /// Takes the outcomes of one run. Without a bare one among them there are no ratios.
    pub fn new(outcomes: &'a [Outcome]) -> Self {
        let bare = outcomes.iter().find(|o| o.config == Config::Bare);
        Self { outcomes, bare }
    }

    fn ratio(&self, outcome: &Outcome, operation: &str) -> Option<f64> {
        let bare = self.bare?.costs[operation].median;
        Some(outcome.costs[operation].median / bare)
    }

    /// The table as it is shown on a terminal.
    pub fn text(&self, release: &str, revision: &str) -> String {
        let mut text = format!(
            "Instructions per operation on loopback, and ratio to the bare kernel\n\
             kernel {release}, revision {revision}\n\n{:<44}",
            ""
        );
        for outcome in self.outcomes {
            text += &format!("{:>18}", outcome.config.name());
        }
        for (name, meaning) in OPERATIONS {
            text += &format!("\n{meaning:<44}");
            for outcome in self.outcomes {
                let instructions = outcome.costs[name].median;
                text += &match self.ratio(outcome, name) {
                    Some(ratio) => format!("{instructions:>11.0} {ratio:>6.3}"),
                    None => format!("{instructions:>18.0}"),
                };
            }
        }
        text += "\n\n";
        for outcome in self.outcomes {
            for (name, value) in &outcome.facts {
                text += &format!("{:<6} {name}: {value}\n", outcome.config.name());
            }
        }
        text
    }

    /// The table as `target/bench/kernel.json` holds it.
    pub fn json(&self, release: &str, revision: &str) -> String {
        let mut operations = Map::new();
        for (name, _) in OPERATIONS {
            let mut configs = Map::new();
            for outcome in self.outcomes {
                let cost = outcome.costs[name];
                let mut entry = json!({
                    "instructions": cost.median,
                    "lowest": cost.lowest,
                    "highest": cost.highest,
                });
                if let Some(ratio) = self.ratio(outcome, name) {
                    entry["ratio"] = json!((ratio * 1e4).round() / 1e4);
                }
                configs.insert(outcome.config.name().into(), entry);
            }
            operations.insert(name.into(), Value::Object(configs));
        }
        let facts: Map<String, Value> = self
            .outcomes
            .iter()
            .map(|o| (o.config.name().into(), json!(o.facts)))
            .collect();
        let all =
            json!({"kernel": release, "revision": revision, "ops": operations, "guests": facts});
        format!("{all:#}\n")
    }
}
