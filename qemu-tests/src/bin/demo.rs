//! The demonstration: tells the two-operator scenario on the terminal, step by step, and ends with
//! exit code 0 only if everything that was expected was seen. Must do nothing that the suite
//! `two-operators` does not do: the scenario is theirs together.

use std::process::ExitCode;

use dsi_qemu_tests::cluster::Cluster;
use dsi_qemu_tests::fault::Failure;
use dsi_qemu_tests::runner::boot_for;
use dsi_qemu_tests::scenario::{NODES, Scenario, Teller};
use dsi_qemu_tests::suite::Need;

fn main() -> ExitCode {
    match tell() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("\nThe demonstration stopped: {failure}");
            ExitCode::from(match failure {
                Failure::Failed(_) => 1,
                Failure::Fault(_) => 3,
            })
        }
    }
}

fn tell() -> Result<(), Failure> {
    println!(
        "DSI: two operators share one cluster. PhoneMania and RingBell both sell telephone quotations on the\n\
         nodes munster and colby. PhoneMania's entry point secretly sends its customers' requests to RingBell's\n\
         back end. No program can be changed. What can the owner of the cluster do?\n\n\
         (booting two nodes in QEMU)"
    );
    boot_for("demo", NODES, &[Need::Module, Need::Servers], |cluster| {
        let result = steps(cluster);
        if let Err(failure) = &result {
            cluster.collect_logs();
            println!("{failure}\n{}", cluster.log_tails(15));
        }
        result
    })?;
    println!("\n== What was shown\n");
    for line in [
        "(a) without a policy the fraud works",
        "(b) a permissive policy lets it work, and the audit tells it",
        "(c) the same policy, enforcing, refuses it: the receiver's kernel does, to the same running processes",
        "(d) each operator's own traffic lost no request; maintenance reaches both",
        "(e) a changed policy took effect on both nodes while all of it ran",
    ] {
        println!("   {line}: as expected");
    }
    Ok(())
}

fn steps(cluster: &mut Cluster) -> Result<(), Failure> {
    let mut scenario = Scenario::begin(cluster, Teller::ALOUD)?;
    scenario.fraud_without_policy(cluster)?;
    scenario.permissive_audits(cluster)?;
    scenario.enforcing_denies(cluster)?;
    scenario.own_traffic_goes_on(cluster)?;
    scenario.change_takes_effect(cluster)
}
