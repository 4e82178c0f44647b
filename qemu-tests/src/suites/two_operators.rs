//! Proves the main job: two operators on two nodes, kept apart by one policy, step by step as in the
//! article of 2004. The steps are those of the demonstration (`scenario.rs`) and build on each other.

use crate::cluster::Cluster;
use crate::fault::Failure;
use crate::scenario::{NODES, Scenario, Teller};
use crate::suite::{Need, Suite, Test, TestResult};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "two-operators",
    proves: "what one policy forbids between two operators is refused by the receiver's kernel, and nothing else is",
    nodes: NODES,
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: &[
        Test {
            name: "a-without-policy-fraud-ok",
            run: |cluster| step(cluster, Scenario::fraud_without_policy),
        },
        Test {
            name: "b-permissive-fraud-audited-ok",
            run: |cluster| step(cluster, Scenario::permissive_audits),
        },
        Test {
            name: "c-enforcing-fraud-denied",
            run: |cluster| step(cluster, Scenario::enforcing_denies),
        },
        Test {
            name: "d-own-traffic-and-maintenance-ok",
            run: |cluster| step(cluster, Scenario::own_traffic_goes_on),
        },
        Test {
            name: "e-changed-policy-maintenance-denied",
            run: |cluster| step(cluster, Scenario::change_takes_effect),
        },
    ],
};

fn setup(cluster: &mut Cluster) -> TestResult {
    cluster.kept = Some(Box::new(Scenario::begin(cluster, Teller::SILENT)?));
    Ok(())
}

fn step(
    cluster: &mut Cluster,
    step: fn(&mut Scenario, &Cluster) -> Result<(), Failure>,
) -> TestResult {
    let mut kept = cluster.kept.take();
    let scenario = kept
        .as_mut()
        .and_then(|kept| kept.downcast_mut::<Scenario>())
        .ok_or_else(|| Failure::new("the scenario was not begun"))?;
    let result = step(scenario, cluster);
    cluster.kept = kept;
    result
}
