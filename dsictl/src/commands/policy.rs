// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl policy`: from the administrator's XML to what every kernel of the cluster enforces.

mod apply;
mod diff;
mod foresight;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use dsi_proto::{files, policy::VerifiedPolicy, profile::Profile, signature, v1};
use dsp_schema::{CompileInput, Dsp, MAX_SOURCE_LEN};
use serde::Serialize;
use uuid::Uuid;

pub use self::{
    apply::apply,
    diff::diff,
    foresight::{can, test},
};
use crate::{
    cli::{PolicyCompile, PolicyShow, PolicyValidate},
    failure::Failure,
    output::{self, Output, Report, moment_ms},
    session::{self, Session},
};

/// Reads and checks a policy.
pub fn parse_file(file: &Path) -> Result<Dsp, Failure> {
    parse(file, &read(file)?)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    // One byte more than is ever parsed, so that the parser is the one to say that it is too large.
    Ok(files::read(file, MAX_SOURCE_LEN as u64 + 1)?)
}

fn parse(file: &Path, source: &[u8]) -> Result<Dsp, Failure> {
    dsp_schema::parse(&file.display().to_string(), source)
        .map_err(|faults| Failure::Faults(Box::new(faults)))
}

fn image(file: &Path, document: &Dsp, version: u64, cluster: Uuid) -> Result<Vec<u8>, Failure> {
    let input = CompileInput {
        cluster_uuid: cluster.into_bytes(),
        version,
    };
    dsp_schema::compile(document, &input).map_err(|source| Failure::Compile {
        file: file.to_owned(),
        source,
    })
}

fn mode_name(document: &Dsp) -> String {
    document.mode.name().to_owned()
}

#[derive(Serialize)]
struct Valid {
    file: String,
    valid: bool,
    mode: String,
    default: &'static str,
    version_label: Option<String>,
    contexts: usize,
    nodes: usize,
    rules: usize,
}

impl Report for Valid {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{}: valid, {}, {} rules, what no rule names is {}",
            self.file,
            self.mode,
            self.rules,
            if self.default == "allow" {
                "allowed"
            } else {
                "denied"
            }
        )
    }
}

/// `dsictl policy validate`
pub fn validate(arguments: &PolicyValidate, output: &Output) -> Result<(), Failure> {
    let document = parse_file(&arguments.file)?;
    // A document can be valid and still give no image; better said here than at apply.
    image(&arguments.file, &document, 1, Uuid::nil())?;
    output.report(&Valid {
        file: arguments.file.display().to_string(),
        valid: true,
        mode: mode_name(&document),
        default: if document.default_allow {
            "allow"
        } else {
            "deny"
        },
        version_label: document.version_label.clone(),
        contexts: document.contexts.len(),
        nodes: document.nodes.len(),
        rules: document.rules.len(),
    })
}

#[derive(Serialize)]
struct Compiled {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    version: u64,
    cluster: String,
    bytes: usize,
    rules: usize,
}

impl Report for Compiled {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{}: {} bytes, {} rules, version {}",
            self.image, self.bytes, self.rules, self.version
        )?;
        match &self.signature {
            Some(signature) => writeln!(out, "{signature}: detached CMS signature"),
            None => Ok(()),
        }
    }
}

/// `dsictl policy compile`
pub fn compile(arguments: &PolicyCompile, profile: &Path, output: &Output) -> Result<(), Failure> {
    let document = parse_file(&arguments.file)?;
    let cluster = match arguments.cluster {
        Some(uuid) => uuid,
        None => {
            let load = |source| Failure::Profile {
                directory: profile.to_owned(),
                source,
            };
            Profile::load(profile).map_err(load)?.cluster.uuid
        }
    };
    let image = image(
        &arguments.file,
        &document,
        arguments.policy_version,
        cluster,
    )?;
    let signature = match arguments.unsigned {
        true => None,
        false => Some(
            signature::sign_detached(&session::signer(profile)?, &image)
                .map_err(Failure::Signing)?,
        ),
    };
    files::write_public(&arguments.out, &image)?;
    let signature_file = signature.as_deref().map(|signature| {
        let mut path = arguments.out.clone().into_os_string();
        path.push(".sig");
        let path = PathBuf::from(path);
        files::write_public(&path, signature).map(|()| path.display().to_string())
    });
    output.report(&Compiled {
        image: arguments.out.display().to_string(),
        signature: signature_file.transpose()?,
        version: arguments.policy_version,
        cluster: cluster.to_string(),
        bytes: image.len(),
        rules: document.rules.len(),
    })
}

/// A policy in the server's store.
#[derive(Serialize)]
struct Stored {
    version: u64,
    mode: String,
    version_label: String,
    comment: String,
    applied_by: String,
    /// RFC 3339.
    applied: String,
    rules: u32,
    image_bytes: u64,
    source_sha256: String,
}

impl From<v1::PolicyInfo> for Stored {
    fn from(info: v1::PolicyInfo) -> Self {
        Self {
            version: info.version,
            mode: info.mode,
            version_label: info.label,
            comment: info.comment,
            applied_by: info.applied_by,
            applied: moment_ms(info.applied_unix_ms),
            rules: info.rules,
            image_bytes: info.image_bytes,
            source_sha256: info
                .source_sha256
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct History {
    policies: Vec<Stored>,
}

impl Report for History {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows: Vec<_> = self
            .policies
            .iter()
            .map(|policy| {
                vec![
                    policy.version.to_string(),
                    policy.mode.clone(),
                    policy.rules.to_string(),
                    policy.applied.clone(),
                    policy.applied_by.clone(),
                    policy.version_label.clone(),
                    policy.comment.clone(),
                ]
            })
            .collect();
        output::table(
            out,
            &[
                "VERSION", "MODE", "RULES", "APPLIED", "BY", "LABEL", "COMMENT",
            ],
            &rows,
        )
    }
}

/// `dsictl policy history`
pub fn history(profile: &Path, output: &Output) -> Result<(), Failure> {
    let policies = Session::open(profile)?.talk(async |mut client| {
        let answer = client.list_policies(v1::ListPoliciesRequest {}).await;
        Ok(answer
            .map_err(Failure::server("listing the policies"))?
            .into_inner()
            .policies)
    })?;
    output.report(&History {
        policies: policies.into_iter().map(Stored::from).collect(),
    })
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    policy: Stored,
    signed_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Report for Shown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let policy = &self.policy;
        writeln!(out, "version    {}", policy.version)?;
        writeln!(out, "label      {}", policy.version_label)?;
        writeln!(out, "mode       {}", policy.mode)?;
        writeln!(out, "rules      {}", policy.rules)?;
        writeln!(out, "image      {} bytes", policy.image_bytes)?;
        writeln!(out, "source     SHA-256 {}", policy.source_sha256)?;
        writeln!(out, "signed by  {} (verified)", self.signed_by)?;
        writeln!(
            out,
            "applied    {} by {}",
            policy.applied, policy.applied_by
        )?;
        writeln!(out, "comment    {}", policy.comment)
    }
}

/// A policy from the server, the newest if no version is given, and what the server says of it.
fn fetch(
    profile: &Path,
    version: Option<u64>,
) -> Result<(v1::PolicyInfo, VerifiedPolicy), Failure> {
    let session = Session::open(profile)?;
    let request = v1::GetPolicyRequest {
        version: version.unwrap_or_default(),
    };
    let answer = session.talk(async |mut client| {
        let answer = client.get_policy(request).await;
        Ok(answer
            .map_err(Failure::server("fetching the policy"))?
            .into_inner())
    })?;
    let (Some(info), Some(bundle)) = (answer.info, answer.policy) else {
        return Err(Failure::Protocol {
            detail: "it holds no policy".to_owned(),
        });
    };
    let version = bundle.version;
    // The server is trusted to keep policies, not to make them.
    let policy =
        dsi_proto::policy::verify(bundle, &session.anchor()?, session.profile.cluster.uuid)
            .map_err(|source| Failure::Untrusted { version, source })?;
    Ok((info, policy))
}

/// `dsictl policy show`
pub fn show(arguments: &PolicyShow, profile: &Path, output: &Output) -> Result<(), Failure> {
    let (info, policy) = fetch(profile, arguments.version)?;
    let signed_by = policy.signer().subject.clone();
    let source = policy.into_bundle().source;
    if arguments.xml && !output.is_json() {
        return output.raw(&source);
    }
    let source = arguments
        .xml
        .then(|| String::from_utf8_lossy(&source).into_owned());
    output.report(&Shown {
        policy: info.into(),
        signed_by,
        source,
    })
}
