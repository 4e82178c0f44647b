//! Proves that the kernel takes a policy only whole, signed by the anchor's key, for its own cluster, and
//! newer than the one in force; that each refusal names its fault; and that the policy in force stays.

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{enrol, load, status, ynl, ynl_all};
use crate::fault::{Failure, Fault};
use crate::signer::{Signer, image, image_for, install, install_requests, set_anchor};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "policy-load",
    proves: "the kernel takes only a whole, signed, newer policy of its cluster, and keeps what it has otherwise",
    nodes: &[NodeSpec::new("munster")],
    needs: &[Need::Module],
    setup,
    tests: &[
        Test {
            name: "signed-policy-ok",
            run: signed,
        },
        Test {
            name: "second-anchor-refused",
            run: second_anchor,
        },
        Test {
            name: "missing-signature-refused",
            run: missing_signature,
        },
        Test {
            name: "foreign-signature-refused",
            run: foreign_signature,
        },
        Test {
            name: "signature-of-another-image-refused",
            run: other_signature,
        },
        Test {
            name: "broken-signature-refused",
            run: broken_signature,
        },
        Test {
            name: "flipped-bit-refused",
            run: flipped_bit,
        },
        Test {
            name: "truncated-image-refused",
            run: truncated,
        },
        Test {
            name: "signed-rubbish-refused",
            run: signed_rubbish,
        },
        Test {
            name: "signed-flipped-bits-refused-or-harmless-ok",
            run: signed_flipped,
        },
        Test {
            name: "same-version-refused",
            run: |cluster| refused_version(cluster, 5),
        },
        Test {
            name: "older-version-refused",
            run: |cluster| refused_version(cluster, 4),
        },
        Test {
            name: "policy-of-another-cluster-refused",
            run: other_cluster,
        },
        Test {
            name: "newer-version-ok",
            run: newer,
        },
    ],
};

const POLICY: &str = "zones.xml";

fn setup(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    load(node, &[])?;
    enrol(cluster, &["munster"], 1)?;
    let signer = Signer::new(cluster.dir(), "signer")?;
    set_anchor(node, &signer)?.ok()?;
    cluster.kept = Some(Box::new(signer));
    Ok(())
}

fn signer(cluster: &Cluster) -> Result<&Signer, Failure> {
    cluster
        .kept
        .as_ref()
        .and_then(|kept| kept.downcast_ref())
        .ok_or_else(|| Failure::new("there is no signer"))
}

/// Installs an image that must be refused with `text`, and checks that version 5 stays in force.
fn refused(cluster: &Cluster, image: &[u8], signature: &[u8], text: &str) -> TestResult {
    let node = cluster.node("munster")?;
    install(node, image, signature)?.exits_with(1)?.says(text)?;
    stays(cluster)
}

fn stays(cluster: &Cluster) -> TestResult {
    let status = status(cluster.node("munster")?)?;
    check_eq!(status["policy-version"], 5, "version in force");
    check_eq!(status["mode"], "enforcing", "mode");
    Ok(())
}

fn signed(cluster: &mut Cluster) -> TestResult {
    let image = image(POLICY, 5)?;
    let signature = signer(cluster)?.sign(&image)?;
    install(cluster.node("munster")?, &image, &signature)?.ok()?;
    stays(cluster)
}

fn second_anchor(cluster: &mut Cluster) -> TestResult {
    let other = Signer::new(cluster.dir(), "other")?;
    set_anchor(cluster.node("munster")?, &other)?
        .exits_with(1)?
        .says("anchor")?;
    stays(cluster)
}

fn missing_signature(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let image = image(POLICY, 6)?;
    let requests = [
        serde_json::json!(["policy-begin", {"size": image.len()}]),
        serde_json::json!(["policy-data", {"offset": 0, "data": crate::enrol::hex(&image)}]),
        serde_json::json!(["policy-commit", {}]),
    ];
    ynl(node, &requests)?.exits_with(1)?.says("signature")?;
    stays(cluster)
}

fn foreign_signature(cluster: &mut Cluster) -> TestResult {
    let image = image(POLICY, 6)?;
    let signature = Signer::new(cluster.dir(), "foreign")?.sign(&image)?;
    refused(cluster, &image, &signature, "sign")
}

fn other_signature(cluster: &mut Cluster) -> TestResult {
    let signature = signer(cluster)?.sign(&image(POLICY, 7)?)?;
    refused(cluster, &image(POLICY, 6)?, &signature, "signature")
}

fn broken_signature(cluster: &mut Cluster) -> TestResult {
    let image = image(POLICY, 6)?;
    let mut signature = signer(cluster)?.sign(&image)?;
    signature.truncate(signature.len() / 2);
    refused(cluster, &image, &signature, "signature")
}

fn flipped_bit(cluster: &mut Cluster) -> TestResult {
    let mut image = image(POLICY, 6)?;
    let signature = signer(cluster)?.sign(&image)?;
    let last = image.len() - 1;
    image[last] ^= 1;
    refused(cluster, &image, &signature, "signature")
}

fn truncated(cluster: &mut Cluster) -> TestResult {
    let mut image = image(POLICY, 6)?;
    let signature = signer(cluster)?.sign(&image)?;
    image.truncate(image.len() - 8);
    refused(cluster, &image, &signature, "signature")
}

fn signed_rubbish(cluster: &mut Cluster) -> TestResult {
    let mut requests = Vec::new();
    for image in [vec![0; 64], b"DSIPOL\0\x01".to_vec(), vec![0xff; 4096]] {
        requests.extend(install_requests(&image, &signer(cluster)?.sign(&image)?));
    }
    let answers = ynl_all(cluster.node("munster")?, &requests)?;
    let refused = answers
        .iter()
        .filter(|answer| answer["refused"].is_string())
        .count();
    check_eq!(refused, 3, "refused of three images: {answers:?}");
    stays(cluster)
}

/// A signer's own fault: images with one bit turned, signed. The kernel either finds the fault or has
/// been given another valid policy, but never comes to harm.
fn signed_flipped(cluster: &mut Cluster) -> TestResult {
    // Version 1 is refused at the end even if the bit does not matter.
    let image = image(POLICY, 1)?;
    let mut requests = Vec::new();
    // A bit of the version itself would make a newer policy of the signer's, which is taken.
    let version = 16..24;
    let places = (0..image.len()).step_by(image.len() / 40);
    for at in places.filter(|at| !version.contains(at)) {
        let mut flipped = image.clone();
        flipped[at] ^= 0x10;
        requests.extend(install_requests(
            &flipped,
            &signer(cluster)?.sign(&flipped)?,
        ));
    }
    let answers = ynl_all(cluster.node("munster")?, &requests)?;
    check_eq!(answers.len(), requests.len(), "answers");
    for (request, answer) in requests
        .iter()
        .zip(answers)
        .filter(|(request, _)| request[0] == "policy-commit")
    {
        check!(
            answer["refused"].is_string(),
            "{request} was not refused: {answer}"
        );
    }
    stays(cluster)
}

fn refused_version(cluster: &mut Cluster, version: u64) -> TestResult {
    let image = image(POLICY, version)?;
    let signature = signer(cluster)?.sign(&image)?;
    refused(cluster, &image, &signature, "version")
}

fn other_cluster(cluster: &mut Cluster) -> TestResult {
    let image: Result<_, Fault> = image_for(POLICY, 6, [7; 16]);
    let image = image?;
    let signature = signer(cluster)?.sign(&image)?;
    refused(cluster, &image, &signature, "cluster")
}

fn newer(cluster: &mut Cluster) -> TestResult {
    let image = image(POLICY, 6)?;
    let signature = signer(cluster)?.sign(&image)?;
    let node = cluster.node("munster")?;
    install(node, &image, &signature)?.ok()?;
    check_eq!(status(node)?["policy-version"], 6, "version in force");
    Ok(())
}
