// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! What `dsictl` promises to scripts without a server and without the module: help, exit codes, JSON, labels, and
//! policies compiled and signed into files.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use crate::common::{Cluster, dsictl, example};
use serde_json::json;
use tokio::net::TcpSocket;

/// Every command, with what it needs to be understood.
const COMMANDS: &[&[&str]] = &[
    &["cluster", "init"],
    &["node", "join-token"],
    &["node", "list"],
    &["node", "set-id"],
    &["label", "set"],
    &["label", "get"],
    &["label", "ls"],
    &["label", "rm"],
    &["policy", "validate"],
    &["policy", "compile"],
    &["policy", "apply"],
    &["policy", "show"],
    &["policy", "history"],
    &["policy", "can"],
    &["policy", "test"],
    &["policy", "diff"],
    &["run"],
    &["audit", "tail"],
    &["status"],
    &["ps"],
];

#[test]
fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        let mut arguments = command.to_vec();
        arguments.push("--help");
        let help = dsictl(&arguments).ends(0);
        assert!(help.stdout.contains("Examples:"), "{command:?}");
        assert!(help.stderr.is_empty(), "{command:?}");
    }
    let help = dsictl(&["--help"]).ends(0);
    assert!(help.stdout.contains("Exit codes:"));
    assert!(dsictl(&["--version"]).ends(0).stdout.starts_with("dsictl "));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for wrong in [
        &["frobnicate"][..],
        &[],
        &["label", "set", "file"],
        &["label", "set", "file", "--scid", "010"],
        &["label", "set", "file", "--scid", "4294967295"],
        &["node", "set-id", "munster", "65536"],
        &["node", "set-id", "munster", "0"],
        &["policy", "show", "0"],
        &["policy", "can", "default"],
        &["policy", "test", "--policy", "x.xml"],
        &["policy", "diff", "x.xml"],
        &["policy", "diff", "--in-force"],
        &["policy", "diff", "--in-force", "x.xml", "y.xml"],
        &["run", "--scid", "10"],
        &["cluster", "init", "telecom", "--server", "a b"],
        &["policy", "apply", "x.xml", "--no-wait", "--timeout", "1s"],
    ] {
        let run = dsictl(wrong).ends(2);
        assert!(run.stdout.is_empty(), "{wrong:?}: {run:?}");
    }
}

#[test]
fn without_a_profile_the_error_says_how_to_get_one() {
    for command in [
        &["status"][..],
        &["node", "list"],
        &["policy", "history"],
        &["audit", "tail"],
    ] {
        let run = dsictl(command).ends(1);
        assert!(
            run.stderr.starts_with("error: administrator's profile:"),
            "{run:?}"
        );
        assert!(
            run.stderr.contains("help: `dsictl cluster init`"),
            "{run:?}"
        );
    }
    let error = dsictl(&["--json", "status"]).ends(1).error_json();
    assert_eq!(error["exit"], 1);
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .contains("/nonexistent/dsi/profile"),
        "{error}"
    );
}

#[test]
fn without_the_module_its_commands_end_with_3() {
    if std::path::Path::new("/sys/module/dsm").exists() {
        return;
    }
    for command in [
        &["status", "--local"][..],
        &["ps"],
        &["run", "--scid", "10", "--", "true"],
    ] {
        let run = dsictl(command).ends(3);
        assert!(run.stderr.contains("insmod dsm.ko"), "{run:?}");
    }
}

#[test]
fn a_profile_whose_server_is_down_ends_with_3() {
    // The port is bound by nobody else while the test holds it, and nobody listens on it.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = socket.local_addr().unwrap().to_string();
    let cluster = Cluster::init(&server);
    let run = cluster.dsictl(&["status"]).ends(3);
    assert!(run.stderr.contains(&server), "{run:?}");
    let run = cluster
        .dsictl(&["policy", "apply", &example("two-operators.xml")])
        .ends(3);
    assert!(run.stdout.is_empty(), "{run:?}");
}

#[test]
fn a_cluster_is_made_once_and_its_keys_are_private() {
    let cluster = Cluster::init("ss.example");
    for (name, mode) in [
        ("admin.key", 0o600),
        ("signer.key", 0o600),
        ("anchor.der", 0o644),
        ("ca.pem", 0o644),
    ] {
        let found = fs::metadata(cluster.file(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    let signer = fs::read(cluster.file("signer.key")).unwrap();
    let data = cluster.data.display().to_string();
    let again = [
        "cluster",
        "init",
        "telecom",
        "--server",
        "ss.example",
        "--data-dir",
        &data,
    ];
    let run = cluster.dsictl(&again).ends(1);
    assert!(run.stderr.contains("holds a cluster already"), "{run:?}");
    assert_eq!(fs::read(cluster.file("signer.key")).unwrap(), signer);
}

#[test]
fn a_valid_policy_is_described() {
    let file = example("two-operators.xml");
    let run = dsictl(&["--json", "policy", "validate", &file]).ends(0);
    assert_eq!(
        run.json(),
        json!({
            "file": file, "valid": true, "mode": "enforcing", "default": "deny", "version_label": "two operators",
            "contexts": 3, "nodes": 0, "rules": 24,
        })
    );
    assert!(
        dsictl(&["policy", "validate", &file])
            .ends(0)
            .stdout
            .contains("valid, enforcing, 24 rules")
    );
}

#[test]
fn every_fault_of_a_policy_is_shown_in_its_place_and_ends_with_4() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broken.xml");
    let text = fs::read_to_string(example("two-operators.xml")).unwrap();
    let text = text
        .replacen("<port>8800</port>", "<port>88000</port>", 1)
        .replacen("<binary_ScID>30<", "<binary_ScID>31<", 1);
    fs::write(&file, &text).unwrap();
    let name = file.display().to_string();
    let line_of = |needle: &str| text.lines().position(|line| line.contains(needle)).unwrap() + 1;
    let lines = [line_of("88000"), line_of("<binary_ScID>31<")];

    let run = dsictl(&["policy", "validate", &name]).ends(4);
    assert!(run.stdout.is_empty());
    for (line, faulty) in lines.iter().zip(["88000", "31"]) {
        assert!(
            run.stderr.contains(&format!("{name}:{line}:")),
            "{}",
            run.stderr
        );
        assert!(run.stderr.contains(faulty), "{}", run.stderr);
    }
    assert!(
        run.stderr.contains("^^^^^"),
        "the fault is underlined: {}",
        run.stderr
    );
    assert!(!run.stderr.contains('\x1b'), "no colours into a file");

    let error = dsictl(&["--json", "policy", "validate", &name])
        .ends(4)
        .error_json();
    assert_eq!(error["exit"], 4);
    let found: Vec<_> = error["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["line"].as_u64().unwrap())
        .collect();
    assert_eq!(found, lines.map(|line| line as u64));

    // Nothing of an invalid policy is compiled, signed or sent.
    let cluster = Cluster::init("127.0.0.1:1");
    let image = directory.path().join("image").display().to_string();
    cluster
        .dsictl(&["policy", "compile", &name, "--out", &image])
        .ends(4);
    cluster.dsictl(&["policy", "apply", &name]).ends(4);
    assert!(!std::path::Path::new(&image).exists());
}

#[test]
fn a_compiled_policy_is_signed_so_that_openssl_agrees() {
    let cluster = Cluster::init("ss.example");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let arguments = [
        "--json",
        "policy",
        "compile",
        &example("two-operators.xml"),
        "--out",
        &at("image"),
        "--policy-version",
        "7",
    ];
    let made = cluster.dsictl(&arguments).ends(0).json();
    let image = fs::read(at("image")).unwrap();
    assert_eq!(
        (made["version"].as_u64(), made["bytes"].as_u64()),
        (Some(7), Some(image.len() as u64))
    );
    let validated = dsi_engine::Image::validate(&image).unwrap();
    assert_eq!(validated.meta().version(), 7);

    let signature = fs::read(at("image.sig")).unwrap();
    let anchor = fs::read(cluster.file("anchor.der")).unwrap();
    dsi_proto::signature::verify_detached(&anchor, &image, &signature).unwrap();

    let convert = [
        "x509",
        "-inform",
        "DER",
        "-in",
        &cluster.file("anchor.der").display().to_string(),
        "-out",
        &at("anchor.pem"),
    ]
    .map(str::to_owned);
    assert!(
        Command::new("openssl")
            .args(convert)
            .status()
            .expect("openssl is installed")
            .success()
    );
    let verify = |content: &str| {
        Command::new("openssl")
            .args([
                "cms",
                "-verify",
                "-binary",
                "-inform",
                "DER",
                "-in",
                &at("image.sig"),
                "-content",
                content,
            ])
            .args([
                "-certfile",
                &at("anchor.pem"),
                "-CAfile",
                &at("anchor.pem"),
                "-purpose",
                "any",
                "-out",
                "/dev/null",
            ])
            .output()
            .unwrap()
    };
    assert!(
        verify(&at("image")).status.success(),
        "{:?}",
        verify(&at("image"))
    );
    let mut flipped = image;
    flipped[40] ^= 1;
    fs::write(at("flipped"), flipped).unwrap();
    assert!(!verify(&at("flipped")).status.success());

    // Without a profile there is no signer, but an image can still be made.
    let unsigned = [
        "policy",
        "compile",
        &example("two-operators.xml"),
        "--out",
        &at("plain"),
        "--unsigned",
    ];
    dsictl(&unsigned).ends(1);
    let cluster_id = ["--cluster", "00000000-0000-0000-0000-000000000001"];
    dsictl(&[&unsigned[..], &cluster_id].concat()).ends(0);
    assert!(!std::path::Path::new(&at("plain.sig")).exists());
}

#[test]
fn a_signer_that_others_can_read_is_not_used() {
    let cluster = Cluster::init("ss.example");
    fs::set_permissions(
        cluster.file("signer.key"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image").display().to_string();
    let run = cluster
        .dsictl(&[
            "policy",
            "compile",
            &example("two-operators.xml"),
            "--out",
            &image,
        ])
        .ends(5);
    assert!(run.stderr.contains("chmod 600"), "{run:?}");
    assert!(!std::path::Path::new(&image).exists());
}

#[test]
fn labels_are_set_shown_and_taken_off() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("PhoneManiaEP");
    fs::write(&program, "#!/bin/true\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.display().to_string();

    let set = dsictl(&["label", "set", &program, "--scid", "10"]);
    if set.code == 5 || set.stderr.contains("keeps no security.* attributes") {
        eprintln!("labels cannot be set here: {}", set.stderr);
        return;
    }
    assert_eq!(
        set.ends(0).stdout,
        format!("{program}: Changing from ScID 0 to ScID 10\n")
    );
    assert_eq!(
        dsictl(&["label", "get", &program]).ends(0).stdout,
        format!("{program}: 10\n")
    );
    assert_eq!(
        dsictl(&["--json", "label", "get", &program]).ends(0).json(),
        json!({ "file": program, "scid": 10 })
    );

    let policy = example("two-operators.xml");
    let run = dsictl(&[
        "label", "set", &program, "--scid", "ringbell", "--policy", &policy,
    ])
    .ends(0);
    assert_eq!(
        run.stdout,
        format!("{program}: Changing from ScID 10 to ScID 20\n")
    );
    let run = dsictl(&[
        "label", "set", &program, "--scid", "nobody", "--policy", &policy,
    ])
    .ends(2);
    assert!(
        run.stderr.contains("phonemania, ringbell, maintenance"),
        "{run:?}"
    );

    let list = dsictl(&["label", "ls", &directory.path().display().to_string()]).ends(0);
    let fields: Vec<_> = list.stdout.split_whitespace().collect();
    assert_eq!(
        (fields[0], fields[3], fields[4]),
        ("-rwxr-xr-x", "20", "PhoneManiaEP"),
        "{list:?}"
    );
    assert_eq!(fields.len(), 5, "mode, owner, group, ScID, name: {list:?}");

    let run = dsictl(&["label", "rm", &program]).ends(0);
    assert_eq!(
        run.stdout,
        format!("{program}: Changing from ScID 20 to ScID 0\n")
    );
    assert_eq!(
        dsictl(&["label", "get", &program]).ends(0).stdout,
        format!("{program}: 0\n")
    );
}

#[test]
fn what_cannot_be_labelled_is_refused_and_the_rest_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::write(at("program"), "").unwrap();
    std::os::unix::fs::symlink(at("program"), at("link")).unwrap();
    for scid in ["0", "1"] {
        dsictl(&["label", "set", &at("program"), "--scid", scid]).ends(2);
    }
    let run = dsictl(&["label", "set", &at("link"), "--scid", "10"]).ends(1);
    assert!(
        run.stderr.contains("symbolic link") && run.stderr.contains("-L"),
        "{run:?}"
    );
    let run = dsictl(&[
        "label",
        "set",
        &directory.path().display().to_string(),
        "--scid",
        "10",
    ])
    .ends(1);
    assert!(run.stderr.contains("is a directory"), "{run:?}");

    let run = dsictl(&["label", "get", &at("missing"), &at("program"), &at("link")]).ends(1);
    assert_eq!(run.stdout, format!("{}: 0\n", at("program")));
    assert!(run.stderr.contains("2 of 3 files failed"), "{run:?}");
    assert_eq!(
        dsictl(&["label", "get", "-L", &at("link")]).ends(0).stdout,
        format!("{}: 0\n", at("link"))
    );
}
