//! Where the instructions of one operation go: the plugin's counts by address and the guest's own symbols
//! become instructions by function, side by side for two configurations.

use std::collections::BTreeMap;
use std::path::Path;

use crate::boot::place;
use crate::outcome::{Fault, Outcome};

/// Functions below this many instructions in every configuration are summed up in one line.
const SMALL: f64 = 4.0;

/// Instructions of one operation by function.
type ByFunction = BTreeMap<String, f64>;

/// The table for `operation`, the functions that differ most between the first and the last outcome first.
pub fn text(outcomes: &[Outcome], operation: &str, out: &Path) -> Result<String, Fault> {
    let columns = outcomes
        .iter()
        .map(|outcome| by_function(outcome, operation, out))
        .collect::<Result<Vec<ByFunction>, Fault>>()?;
    let mut rows: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (index, column) in columns.iter().enumerate() {
        for (function, instructions) in column {
            let kept = columns
                .iter()
                .any(|c| c.get(function).is_some_and(|n| *n >= SMALL));
            let row = if kept { function } else { "(small ones)" };
            rows.entry(row).or_insert_with(|| vec![0.0; columns.len()])[index] += instructions;
        }
    }
    let added = |row: &[f64]| row.last().unwrap_or(&0.0) - row.first().unwrap_or(&0.0);
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|(_, a), (_, b)| {
        let key = |row: &[f64]| (added(row), row.iter().sum::<f64>());
        key(b)
            .partial_cmp(&key(a))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    rows.push(("all", columns.iter().map(|c| c.values().sum()).collect()));

    let mut text = format!("Instructions of one {operation} by function\n\n");
    for outcome in outcomes {
        text += &format!("{:>10}", outcome.config.name());
    }
    text += "     added  function\n";
    for (function, row) in rows {
        for instructions in &row {
            text += &format!("{instructions:>10.1}");
        }
        text += &format!("{:>10.1}  {function}\n", added(&row));
    }
    Ok(text)
}

fn by_function(outcome: &Outcome, operation: &str, out: &Path) -> Result<ByFunction, Fault> {
    let path = place(out, outcome.config, "counts");
    let counts = std::fs::read_to_string(&path).map_err(|source| Fault::File { path, source })?;
    let times = outcome.costs[operation].times;
    let mut sums = ByFunction::new();
    for line in counts.lines() {
        let mut words = line.split(' ');
        let address = words.next().and_then(|w| u64::from_str_radix(w, 16).ok());
        let instructions = words.next().and_then(|w| w.parse::<f64>().ok());
        if let (Some(address), Some(instructions)) = (address, instructions) {
            *sums
                .entry(function(outcome, address).to_owned())
                .or_default() += instructions / times;
        }
    }
    Ok(sums)
}

/// The function that an address lies in; user space is one line of its own.
fn function(outcome: &Outcome, address: u64) -> &str {
    const KERNEL: u64 = 1 << 63;
    if address < KERNEL {
        return "(the workload itself)";
    }
    outcome
        .symbols
        .range(..=address)
        .next_back()
        .map_or("(unknown)", |(_, name)| name.as_str())
}
