//! The result: one table for people, the same as JSON for programs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::outcome::{Config, Growth, MEMORY, OLD_OPERATIONS, OPERATIONS, Outcome, SCALES};

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
        let bare = self.bare?.costs.get(operation)?.median;
        Some(outcome.costs.get(operation)?.median / bare)
    }

    /// The table as it is shown on a terminal.
    pub fn text(&self, release: &str, revision: &str) -> String {
        let mut text = format!(
            "Instructions per operation on loopback, and ratio to the bare kernel\n\
             kernel {release}, revision {revision}\n\n{:<44}",
            ""
        );
        let columns = || {
            self.outcomes
                .iter()
                .filter(|o| Config::ALL.contains(&o.config))
        };
        for outcome in columns() {
            text += &format!("{:>18}", outcome.config.name());
        }
        for (name, meaning) in OPERATIONS {
            text += &format!("\n{meaning:<44}");
            for outcome in columns() {
                let instructions = outcome.costs[name].median;
                text += &match self.ratio(outcome, name) {
                    Some(ratio) => format!("{instructions:>11.0} {ratio:>6.3}"),
                    None => format!("{instructions:>18.0}"),
                };
            }
        }
        text += "\n\n";
        text += &self.scales();
        text += &self.memory();
        for outcome in self.outcomes {
            for (name, value) in &outcome.facts {
                text += &format!("{:<6} {name}: {value}\n", outcome.config.name());
            }
        }
        text
    }

    /// What grows with rules and with sockets: each count beside its ratio to the same with the fewest.
    fn scales(&self) -> String {
        let mut text = String::new();
        for scale in SCALES {
            let of = |config| self.outcomes.iter().find(|o| o.config == config);
            let outcomes: Vec<_> = scale.iter().filter_map(|config| of(*config)).collect();
            let [first, _, ..] = outcomes[..] else {
                continue;
            };
            text += &format!("{:<44}", format!("Ratio to {}", first.config.name()));
            for outcome in &outcomes {
                text += &format!("{:>24}", outcome.config.name());
            }
            for (name, meaning) in OPERATIONS.into_iter().chain(OLD_OPERATIONS) {
                let Some(least) = first.costs.get(name) else {
                    continue;
                };
                text += &format!("\n{meaning:<44}");
                for outcome in &outcomes {
                    let instructions = outcome.costs[name].median;
                    let ratio = instructions / least.median;
                    text += &format!("{instructions:>16.0} {ratio:>7.4}");
                }
            }
            text += "\n\n";
        }
        text
    }

    /// Bytes that the module adds to one of each kind, by place.
    fn added(&self) -> Vec<(&'static str, &'static str, u32, BTreeMap<&str, f64>)> {
        let of = |config| self.outcomes.iter().find(|o| o.config == config);
        let Some(with) = of(Config::Memory) else {
            return Vec::new();
        };
        let without = of(Config::BareMemory);
        let bytes = |growth: Option<&Growth>, place: &str| {
            growth
                .and_then(|growth| growth.bytes.get(place))
                .copied()
                .unwrap_or(0)
        };
        let growths = MEMORY.into_iter().filter_map(|(kind, meaning)| {
            let with = with.growths.get(kind)?;
            let without = without.and_then(|o| o.growths.get(kind));
            let places: BTreeSet<&str> = [Some(with), without]
                .into_iter()
                .flatten()
                .flat_map(|growth| growth.bytes.keys().map(String::as_str))
                .collect();
            let added = places
                .into_iter()
                .map(|place| {
                    let added = bytes(Some(with), place) - bytes(without, place);
                    (place, added as f64 / f64::from(with.count))
                })
                .collect();
            Some((kind, meaning, with.count, added))
        });
        growths.collect()
    }

    /// What the module adds to the kernel's memory.
    fn memory(&self) -> String {
        let mut text = String::new();
        for (_, meaning, count, places) in self.added() {
            if text.is_empty() {
                text += "Bytes of memory that the module adds to each of so many, and where that is a hundredth or more\n";
            }
            let sum: f64 = places.values().sum();
            text += &format!("{meaning:<40}{count:>8}{sum:>12.1}  ");
            for (place, bytes) in places {
                if bytes.abs() >= sum / 100.0 {
                    text += &format!(" {place} {bytes:.1}");
                }
            }
            text += "\n";
        }
        if !text.is_empty() {
            text += "\n";
        }
        text
    }

    /// The table as `target/bench/kernel.json` holds it.
    pub fn json(&self, release: &str, revision: &str) -> String {
        let mut operations = Map::new();
        for (name, _) in OPERATIONS.into_iter().chain(OLD_OPERATIONS) {
            let mut configs = Map::new();
            for outcome in self.outcomes {
                let Some(cost) = outcome.costs.get(name) else {
                    continue;
                };
                let mut entry = json!({
                    "instructions": cost.median,
                    "lowest": cost.lowest,
                    "highest": cost.highest,
                });
                if let Some(ratio) = self.ratio(outcome, name) {
                    entry["ratio"] = json!((ratio * 1e4).round() / 1e4);
                }
                configs.insert(outcome.config.name(), entry);
            }
            if !configs.is_empty() {
                operations.insert(name.into(), Value::Object(configs));
            }
        }
        let facts: Map<String, Value> = self
            .outcomes
            .iter()
            .map(|o| (o.config.name(), json!(o.facts)))
            .collect();
        let mut all =
            json!({"kernel": release, "revision": revision, "ops": operations, "guests": facts});
        let memory: Map<String, Value> = self
            .added()
            .into_iter()
            .map(|(kind, _, count, places)| {
                let bytes: f64 = places.values().sum();
                (
                    kind.into(),
                    json!({"count": count, "bytes": bytes, "places": places}),
                )
            })
            .collect();
        if !memory.is_empty() {
            all["memory"] = Value::Object(memory);
        }
        format!("{all:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::Table;
    use crate::outcome::{Config, MEMORY, OPERATIONS, Outcome};

    fn counted(config: Config, instructions: u32) -> Outcome {
        let line = |(name, _)| format!("op {name} {instructions} 1 9 7\n");
        let answer: String = OPERATIONS.map(line).concat() + "done\n";
        Outcome::parse(config, None, &answer).unwrap()
    }

    fn measured(config: Config, bytes: u32) -> Outcome {
        let line = |(kind, _)| format!("mem {kind} 10 kmalloc-64 {bytes}\n");
        let answer: String = MEMORY.map(line).concat() + "done\n";
        Outcome::parse(config, None, &answer).unwrap()
    }

    #[test]
    fn each_configuration_is_in_its_own_table() {
        let outcomes = [
            counted(Config::Bare, 100),
            counted(Config::Dsm, 110),
            counted(Config::Rules(10), 200),
            counted(Config::Rules(1_000_000), 210),
            measured(Config::BareMemory, 20),
            measured(Config::Memory, 660),
        ];
        let table = Table::new(&outcomes);
        let text = table.text("7", "abc");
        let row = |start: &str| {
            let lines = text.lines().filter(|line| line.starts_with(start));
            lines
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            row("execve"),
            ["execve 100 1.000 110 1.100", "execve 200 1.0000 210 1.0500"]
        );
        assert_eq!(
            row("process of a zone"),
            ["process of a zone 10 64.0 kmalloc-64 64.0"]
        );
        let json: serde_json::Value = serde_json::from_str(&table.json("7", "abc")).unwrap();
        assert_eq!(json["memory"]["process"]["bytes"], 64.0);
        assert_eq!(json["ops"]["execve"]["dsm"]["ratio"], 1.1);
        assert_eq!(json["ops"]["execve"]["memory"], serde_json::Value::Null);
    }
}
