//! Nodes for a developer: boots some and runs on them what comes on standard input, line by line,
//! `NODE COMMAND...`. Ends with the input; nothing of it is a test.

use std::io::BufRead;

use crate::cluster::{Cluster, NodeSpec};
use crate::fault::Failure;
use crate::runner::boot_with;
use crate::suite::{Need, TestResult};

/// Boots nodes with these names (comma-separated) and all that this checkout builds, and serves `input`.
pub fn run(names: &str, needs: &[Need], no_build: bool, input: impl BufRead) -> TestResult {
    let nodes: Vec<NodeSpec> = names
        .split(',')
        .map(|name| NodeSpec::new(String::leak(name.to_owned())))
        .collect();
    boot_with("shell", &nodes, needs, no_build, |cluster| {
        serve(cluster, input)
    })
}

fn serve(cluster: &Cluster, input: impl BufRead) -> TestResult {
    for line in input.lines() {
        let line = line.map_err(|error| Failure::new(format!("standard input: {error}")))?;
        let Some((name, command)) = line.trim().split_once(' ') else {
            continue;
        };
        match cluster.node(name) {
            Ok(node) => println!("{name}# {}", node.sh(command)?.describe()),
            Err(fault) => println!("{fault}"),
        }
        for complaint in cluster.new_complaints() {
            println!("COMPLAINT {complaint}");
        }
    }
    cluster.collect_logs();
    Ok(())
}
