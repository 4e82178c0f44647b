//! Proves what an administrator relies on when something is wrong: a bad document, a foreign signer, a
//! spent token are refused with the place and the fault, and the policy in force stays in force on every
//! node; and a manager that restarts without a server goes on enforcing.

use crate::check;
use crate::cluster::{Cluster, NodeSpec};
use crate::control::{Control, Families, insmod, start_smd, start_ssd};
use crate::fault::Failure;
use crate::images::GUEST_POLICIES;
use crate::node::Output;
use crate::suite::{Need, Suite, Test, TestResult};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "administration",
    proves: "what is wrong is refused with its place, and the policy in force stays in force on every node",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: &[
        Test {
            name: "good-policy-in-force-on-both-nodes-ok",
            run: in_force,
        },
        Test {
            name: "syntax-error-refused",
            run: |c| broken(c, "</rules>", "</rulez>", &["rulez"]),
        },
        Test {
            name: "unknown-element-refused",
            run: |c| {
                broken(
                    c,
                    "<contexts>",
                    "<contects/><contexts>",
                    &[
                        "unknown element <contects> in <DSP>",
                        "did you mean <contexts>?",
                    ],
                )
            },
        },
        Test {
            name: "unknown-attribute-refused",
            run: |c| {
                broken(
                    c,
                    "ScID=\"10\" name",
                    "ScID=\"10\" nmae",
                    &["unknown attribute nmae of <context>", "did you mean name?"],
                )
            },
        },
        Test {
            name: "scid-out-of-range-refused",
            run: |c| {
                broken(
                    c,
                    "ScID=\"10\" name",
                    "ScID=\"4294967295\" name",
                    &["ScID 4294967295 is out of range"],
                )
            },
        },
        Test {
            name: "transition-to-undeclared-scid-refused",
            run: |c| {
                broken(
                    c,
                    "<binary_ScID>10</binary_ScID><new_ScID>10</new_ScID>",
                    "<binary_ScID>10</binary_ScID><new_ScID>11</new_ScID>",
                    &["ScID 11 is not declared"],
                )
            },
        },
        Test {
            name: "contradictory-rules-refused",
            run: |c| {
                broken(
                    c,
                    "</rules>",
                    "<transition><parent_ScID>2</parent_ScID><binary_ScID>10</binary_ScID>\
                     <new_ScID>20</new_ScID></transition></rules>",
                    &["transition"],
                )
            },
        },
        Test {
            name: "foreign-signer-refused",
            run: foreign_signer,
        },
        Test {
            name: "next-version-by-the-signer-ok",
            run: next_version,
        },
        Test {
            name: "spent-token-refused",
            run: spent_token,
        },
        Test {
            name: "label-round-trip-ok",
            run: labels,
        },
        Test {
            name: "label-by-an-ordinary-user-denied",
            run: label_by_user,
        },
        Test {
            name: "label-by-root-without-mac-admin-denied",
            run: without_capability,
        },
        Test {
            name: "label-by-a-user-with-mac-admin-alone-ok",
            run: with_capability_alone,
        },
        Test {
            name: "run-with-scid-ok",
            run: run_with_scid,
        },
        Test {
            name: "manager-restarts-without-a-server-and-enforces-ok",
            run: restart_alone,
        },
        Test {
            name: "server-comes-back-ok",
            run: server_returns,
        },
    ],
};

/// What is in force during the suite.
const POLICY: &str = "two-operators.xml";

fn setup(cluster: &mut Cluster) -> TestResult {
    for node in cluster.nodes() {
        // A test unloads it under the policy in force, which refuses that otherwise.
        insmod(node, &["unload=1"])?;
    }
    let control = Control::start(
        cluster,
        "colby",
        &[("colby", 1), ("munster", 2)],
        Families::Found,
    )?;
    control.apply(cluster, &format!("{GUEST_POLICIES}/{POLICY}"))?;
    cluster.kept = Some(Box::new(control));
    Ok(())
}

fn control(cluster: &Cluster) -> Result<&Control, Failure> {
    cluster
        .kept
        .as_ref()
        .and_then(|kept| kept.downcast_ref())
        .ok_or_else(|| Failure::new("the control plane was not started"))
}

/// Version and mode that a node's kernel has.
fn kernel_policy(cluster: &Cluster, node: &str) -> Result<(u64, String), Failure> {
    let output = cluster
        .node(node)?
        .run(&["dsictl", "--json", "status", "--local"])?
        .ok()?;
    let status: serde_json::Value = serde_json::from_str(&output.stdout)
        .map_err(|error| Failure::new(format!("{error}: {}", output.describe())))?;
    Ok((
        status["policy_version"].as_u64().unwrap_or(0),
        status["mode"].as_str().unwrap_or_default().to_owned(),
    ))
}

fn unchanged(cluster: &Cluster, version: u64) -> TestResult {
    for node in ["munster", "colby"] {
        let found = kernel_policy(cluster, node)?;
        check!(
            found == (version, "enforcing".to_owned()),
            "{node} should enforce version {version}, it has {found:?}"
        );
    }
    Ok(())
}

fn in_force(cluster: &mut Cluster) -> TestResult {
    unchanged(cluster, 1)?;
    control(cluster)?
        .dsictl(cluster, &["policy", "history"])?
        .ok()?
        .says("two operators")?;
    Ok(())
}

/// Applies the good policy with a fault put into it.
fn broken(cluster: &mut Cluster, good: &str, bad: &str, says: &[&str]) -> TestResult {
    let colby = cluster.node("colby")?;
    let text =
        String::from_utf8_lossy(&colby.read(&format!("{GUEST_POLICIES}/{POLICY}"))?).into_owned();
    check!(text.contains(good), "the policy has no '{good}'");
    let faulty = text.replacen(good, bad, 1);
    let line = 1 + faulty
        .find(bad)
        .map_or(0, |at| faulty[..at].matches('\n').count());
    colby.write("/root/faulty.xml", faulty)?;
    let before = kernel_policy(cluster, "munster")?.0;
    for command in ["validate", "apply"] {
        let output = control(cluster)?
            .dsictl(cluster, &["policy", command, "/root/faulty.xml"])?
            .exits_with(4)?
            .says(&format!("faulty.xml:{line}:"))?;
        for text in says {
            said(&output, text)?;
        }
    }
    unchanged(cluster, before)
}

fn said(output: &Output, text: &str) -> TestResult {
    output.clone().says(text).map(drop)
}

/// Somebody with an administrator's certificate, but without the signer's key.
fn foreign_signer(cluster: &mut Cluster) -> TestResult {
    let colby = cluster.node("colby")?;
    let before = kernel_policy(cluster, "munster")?.0;
    colby
        .sh(
            "set -e; rm -rf /root/other /root/mixed
             dsictl --profile /root/other cluster init other --server 10.77.0.9:7430 --data-dir /root/other-data
             cp -a /etc/dsi/admin /root/mixed
             cp /root/other/signer.* /root/other/anchor.der /root/mixed/",
        )?
        .ok()?;
    let policy = format!("{GUEST_POLICIES}/{POLICY}");
    let output = control(cluster)?.dsictl(
        cluster,
        &["--profile", "/root/mixed", "policy", "apply", &policy],
    )?;
    check!(
        output.code.is_some_and(|code| code != 0),
        "a foreign signer's policy was taken: {}",
        output.describe()
    );
    said(&output, "sign")?;
    unchanged(cluster, before)
}

fn next_version(cluster: &mut Cluster) -> TestResult {
    let before = kernel_policy(cluster, "munster")?.0;
    control(cluster)?.apply(cluster, &format!("{GUEST_POLICIES}/{POLICY}"))?;
    unchanged(cluster, before + 1)
}

fn spent_token(cluster: &mut Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    let output = munster.run(&[
        "smd",
        "join",
        "--token-file",
        "/root/join.token",
        "--dir",
        "/root/again",
    ])?;
    check!(
        output.code == Some(1),
        "a token was good for two: {}",
        output.describe()
    );
    said(&output, "token")?;
    munster
        .run(&["test", "-e", "/root/again/node.json"])?
        .exits_with(1)?;
    Ok(())
}

fn labels(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    node.sh("rm -rf /srv/labels && mkdir -p /srv/labels && cp /bin/true /srv/labels/tool")?
        .ok()?;
    node.run(&["dsictl", "label", "set", "/srv/labels/tool", "--scid", "10"])?
        .ok()?;
    node.run(&["dsictl", "label", "get", "/srv/labels/tool"])?
        .ok()?
        .says("10")?;
    node.run(&[
        "getfattr",
        "--only-values",
        "-n",
        "security.dsi",
        "/srv/labels/tool",
    ])?
    .ok()?
    .says("10")?;
    node.run(&["dsictl", "label", "ls", "/srv/labels"])?
        .ok()?
        .says("tool")?;
    node.run(&["dsictl", "label", "rm", "/srv/labels/tool"])?
        .ok()?;
    let output = node.run(&["getfattr", "-n", "security.dsi", "/srv/labels/tool"])?;
    check!(
        output.code != Some(0),
        "the label is still there: {}",
        output.describe()
    );
    Ok(())
}

fn label_by_user(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    node.sh("cp /bin/true /tmp/mine && chown 1000:1000 /tmp/mine")?
        .ok()?;
    let user = [
        "setpriv",
        "--reuid",
        "1000",
        "--regid",
        "1000",
        "--clear-groups",
    ];
    let mut argv = user.to_vec();
    argv.extend(["dsictl", "label", "set", "/tmp/mine", "--scid", "10"]);
    node.run(&argv)?.exits_with(5)?;
    node.run(&["dsictl", "label", "set", "/tmp/mine", "--scid", "10"])?
        .ok()?;
    Ok(())
}

/// What CAP_MAC_ADMIN alone decides: a file's label, whether it is set or taken away, and a command to the module.
fn labelling(file: &str) -> [String; 3] {
    [
        format!("setfattr -n security.dsi -v 10 {file}"),
        format!("setfattr -x security.dsi {file}"),
        "dsictl ps".into(),
    ]
}

/// Root of the default zone, who lacks it and nothing else; his twin lacks another one.
fn without_capability(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    const FILE: &str = "/tmp/of-root";
    node.sh(&format!(
        "cp /bin/true {FILE} && setfattr -n security.dsi -v 20 {FILE}"
    ))?
    .ok()?;
    let without = |capability: &str, act: &str| {
        node.sh(&format!(
            "setpriv --bounding-set -{capability} --inh-caps -{capability} {act}"
        ))
    };
    for act in labelling(FILE) {
        let (code, why) = if act.starts_with("dsictl") {
            (5, "CAP_MAC_ADMIN")
        } else {
            (1, "Operation not permitted")
        };
        without("mac_admin", &act)?.exits_with(code)?.says(why)?;
        without("sys_admin", &act)?.ok()?;
    }
    Ok(())
}

/// A user who has it and nothing else, on a file of his own; his twin has another one.
fn with_capability_alone(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    const FILE: &str = "/tmp/of-user";
    node.sh(&format!("cp /bin/true {FILE} && chown 1000:1000 {FILE}"))?
        .ok()?;
    let with = |capability: &str, act: &str| {
        node.sh(&format!(
            "setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps -all,+{capability} \
             --ambient-caps -all,+{capability} {act}"
        ))
    };
    let [set, remove, command] = labelling(FILE);
    let get = || node.run(&["getfattr", "--only-values", "-n", "security.dsi", FILE]);
    with("sys_admin", &set)?.exits_with(1)?;
    get()?.exits_with(1)?;
    with("mac_admin", &set)?.ok()?;
    check!(get()?.ok()?.stdout == "10", "no label");
    with("sys_admin", &remove)?.exits_with(1)?;
    get()?.ok()?;
    with("mac_admin", &remove)?.ok()?;
    get()?.exits_with(1)?;
    with("sys_admin", &command)?.exits_with(5)?;
    with("mac_admin", &command)?.ok()?;
    Ok(())
}

fn run_with_scid(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let process = node.spawn(
        "labelled",
        &[
            "dsictl",
            "run",
            "--scid",
            "20",
            "--",
            "tail",
            "-f",
            "/dev/null",
        ],
    )?;
    let pid = process.pid().to_string();
    let ps = node.poll(&["dsictl", "ps"], &pid)?;
    let line = ps
        .stdout
        .lines()
        .find(|line| line.split_whitespace().any(|word| word == pid))
        .unwrap_or_default();
    check!(
        line.split_whitespace().any(|word| word == "20"),
        "process {pid} should have ScID 20: {}",
        ps.describe()
    );
    process.stop()?;
    Ok(())
}

/// The fraud of the two operators on munster alone: denied, with its allowed twin.
fn zones_hold(cluster: &Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    munster
        .sh("mkdir -p /srv/zones && cp /opt/dsi/bin/RingBellBE /opt/dsi/bin/TelecomClient /srv/zones/ && cp /srv/zones/TelecomClient /srv/zones/Rival &&
             cp /srv/zones/TelecomClient /srv/zones/Own && dsictl label set --scid 20 /srv/zones/RingBellBE /srv/zones/Own && dsictl label set --scid 10 /srv/zones/Rival")?
        .ok()?;
    let back_end = munster.spawn(
        "RingBellBE",
        &["/srv/zones/RingBellBE", "-h", "munster", "-p", "9001"],
    )?;
    back_end.wait_line("bind on")?;
    let ask = |program| {
        [
            program,
            "-h",
            "munster",
            "-p",
            "9001",
            "--timeout-ms",
            "5000",
        ]
    };
    let mark = munster.kernel_mark();
    let denied = munster.run(&ask("/srv/zones/Rival"))?;
    check!(
        denied.code == Some(1),
        "zone 10 got a quotation of zone 20: {}",
        denied.describe()
    );
    munster.wait_kernel_line(mark, "denied sscid=10 ssnid=2 tscid=20 tsnid=2")?;
    let own = [
        "/srv/zones/Own",
        "-h",
        "munster",
        "-p",
        "9001",
        "--timeout-ms",
        "170000",
    ];
    munster.run(&own)?.ok()?.says("Quote Ericsson 83")?;
    back_end.stop()?;
    Ok(())
}

/// The manager and even the module start again while there is no server: the policy comes from the disk.
fn restart_alone(cluster: &mut Cluster) -> TestResult {
    zones_hold(cluster)?;
    let before = kernel_policy(cluster, "munster")?.0;
    let control = control(cluster)?;
    control.ssd.stop()?;
    for (name, smd) in &control.smd {
        if name == "munster" {
            smd.stop()?;
        }
    }
    // A manager that is gone opens nothing.
    zones_hold(cluster)?;
    let munster = cluster.node("munster")?;
    munster.run(&["rmmod", "dsm"])?.ok()?;
    insmod(munster, &["enrolled=1", "unload=1"])?;
    check!(
        kernel_policy(cluster, "munster")? == (0, "closed".to_owned()),
        "an enrolled node without a policy should be closed"
    );
    let smd = start_smd(munster)?;
    munster.poll(&["dsictl", "--json", "status", "--local"], "\"enforcing\"")?;
    check!(
        kernel_policy(cluster, "munster")? == (before, "enforcing".to_owned()),
        "the last policy should be in force again"
    );
    zones_hold(cluster)?;
    keep(cluster, |control| control.smd.push(("munster".into(), smd)))
}

/// Changes what is kept from test to test: a program ends when its handle is dropped.
fn keep(cluster: &mut Cluster, change: impl FnOnce(&mut Control)) -> TestResult {
    let control = cluster.kept.as_mut().and_then(|kept| kept.downcast_mut());
    change(control.ok_or_else(|| Failure::new("the control plane was not started"))?);
    Ok(())
}

fn server_returns(cluster: &mut Cluster) -> TestResult {
    let before = kernel_policy(cluster, "munster")?.0;
    let ssd = start_ssd(cluster.node("colby")?)?;
    keep(cluster, |control| control.ssd = ssd)?;
    let control = control(cluster)?;
    for node in ["munster", "colby"] {
        control.wait_connected(cluster, node)?;
    }
    control.apply(cluster, &format!("{GUEST_POLICIES}/{POLICY}"))?;
    unchanged(cluster, before + 1)
}
