//! Policies without servers: compiled on the host, signed by openssl as an administrator could, and
//! handed to the kernel by its own netlink client.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dsp_schema::{CompileInput, compile, parse};
use serde_json::{Value, json};

use crate::enrol::{CLUSTER, hex, ynl};
use crate::fault::{Failure, Fault};
use crate::images::repository;
use crate::node::{Node, Output};

/// Bytes of an image that go into one netlink message.
const CHUNK: usize = 16 << 10;

fn fault(what: &str, detail: impl ToString) -> Fault {
    Fault::Prepare {
        what: what.into(),
        detail: detail.to_string(),
    }
}

/// A policy signer with a key and a certificate of its own, in a directory of the run.
#[derive(Debug)]
pub struct Signer {
    dir: PathBuf,
    name: String,
}

impl Signer {
    /// Makes key and certificate.
    pub fn new(dir: &Path, name: &str) -> Result<Self, Fault> {
        let signer = Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
        };
        let (key, certificate) = (signer.path("key.pem"), signer.path("pem"));
        openssl(
            Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                    "-sha256",
                ])
                .args([
                    "-days",
                    "30",
                    "-subj",
                    &format!("/CN={name}"),
                    "-addext",
                    "keyUsage=critical,digitalSignature",
                ])
                .arg("-keyout")
                .arg(key)
                .arg("-out")
                .arg(&certificate),
        )?;
        openssl(
            Command::new("openssl")
                .args(["x509", "-outform", "DER", "-in"])
                .arg(certificate)
                .arg("-out")
                .arg(signer.path("der")),
        )?;
        Ok(signer)
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.name))
    }

    /// Its certificate in DER, the anchor.
    pub fn certificate(&self) -> Result<Vec<u8>, Fault> {
        let path = self.path("der");
        fs::read(&path).map_err(Fault::host("read", &path))
    }

    /// A detached signature over an image.
    pub fn sign(&self, image: &[u8]) -> Result<Vec<u8>, Fault> {
        let (input, output) = (self.path("image"), self.path("cms"));
        fs::write(&input, image).map_err(Fault::host("write", &input))?;
        openssl(
            Command::new("openssl")
                .args([
                    "cms", "-sign", "-binary", "-noattr", "-nocerts", "-md", "sha256", "-outform",
                    "DER", "-in",
                ])
                .arg(&input)
                .arg("-signer")
                .arg(self.path("pem"))
                .arg("-inkey")
                .arg(self.path("key.pem"))
                .arg("-out")
                .arg(&output),
        )?;
        fs::read(&output).map_err(Fault::host("read", &output))
    }
}

fn openssl(command: &mut Command) -> Result<(), Fault> {
    let output = command
        .output()
        .map_err(|error| fault("openssl", format!("{error}; it is needed: make setup")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(fault("openssl", String::from_utf8_lossy(&output.stderr)))
}

/// The cluster's UUID in suites without servers.
pub fn cluster_uuid() -> [u8; 16] {
    let digits = CLUSTER.as_bytes();
    std::array::from_fn(|i| {
        let nibble = |at: usize| char::from(digits[at]).to_digit(16).unwrap_or_default() as u8;
        nibble(2 * i) << 4 | nibble(2 * i + 1)
    })
}

/// The image of a policy of `qemu-tests/policies` for a cluster.
pub fn image_for(file: &str, version: u64, cluster_uuid: [u8; 16]) -> Result<Vec<u8>, Fault> {
    let path = repository().join("qemu-tests/policies").join(file);
    let source = fs::read(&path).map_err(Fault::host("read", &path))?;
    let policy = parse(file, &source)
        .map_err(|faults| fault(file, dsp_schema::report::render(&faults, false)))?;
    compile(
        &policy,
        &CompileInput {
            cluster_uuid,
            version,
        },
    )
    .map_err(|error| fault(file, error))
}

/// The same for the cluster of the suites without servers.
pub fn image(file: &str, version: u64) -> Result<Vec<u8>, Fault> {
    image_for(file, version, cluster_uuid())
}

/// Gives a node the anchor. It is taken once.
pub fn set_anchor(node: &Node, signer: &Signer) -> Result<Output, Failure> {
    ynl(
        node,
        &[json!(["config-set", {"anchor": hex(&signer.certificate()?)}])],
    )
}

/// The requests that hand an image with its signature to a kernel; the last one commits.
pub fn install_requests(image: &[u8], signature: &[u8]) -> Vec<Value> {
    let mut requests = vec![json!(["policy-begin", {"size": image.len()}])];
    for (number, chunk) in image.chunks(CHUNK).enumerate() {
        requests.push(json!(["policy-data", {"offset": number * CHUNK, "data": hex(chunk)}]));
    }
    requests.push(json!(["policy-commit", {"signature": hex(signature)}]));
    requests
}

/// Hands an image with its signature to a node's kernel.
pub fn install(node: &Node, image: &[u8], signature: &[u8]) -> Result<Output, Failure> {
    ynl(node, &install_requests(image, signature))
}

/// Reads a counter of a status.
pub fn counter(status: &Value, name: &str) -> Option<u64> {
    status["counter"]
        .as_array()?
        .iter()
        .find(|counter| counter["name"] == name)?["value"]
        .as_u64()
}
