// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Runs the built `dsictl` and looks at what it leaves behind.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// What a run of `dsictl` said and how it ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The standard error as JSON.
    #[track_caller]
    pub fn error_json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Requires an exit code.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("dsictl was not killed"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

/// A `dsictl` that knows no profile but the one it is given.
pub fn command<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dsictl"));
    command
        .args(arguments)
        .env("DSI_PROFILE", "/nonexistent/dsi/profile")
        .env("NO_COLOR", "1");
    command
}

/// Runs `dsictl`.
pub fn dsictl<A: AsRef<OsStr>>(arguments: &[A]) -> Run {
    command(arguments).output().expect("dsictl starts").into()
}

/// An example policy of the project.
pub fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../dsp-schema/examples")
        .join(name);
    path.display().to_string()
}

/// A cluster made by `dsictl cluster init`, with nobody serving it yet.
pub struct Cluster {
    _directory: tempfile::TempDir,
    pub data: PathBuf,
    pub profile: PathBuf,
}

impl Cluster {
    /// Makes one whose server is said to answer at this address.
    pub fn init(server: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (data, profile) = (
            directory.path().join("server"),
            directory.path().join("admin"),
        );
        let cluster = Self {
            _directory: directory,
            data,
            profile,
        };
        let data = cluster.data.clone();
        cluster
            .dsictl(&[
                OsStr::new("cluster"),
                "init".as_ref(),
                "telecom".as_ref(),
                "--server".as_ref(),
                server.as_ref(),
                "--data-dir".as_ref(),
                data.as_ref(),
            ])
            .ends(0);
        cluster
    }

    /// Runs `dsictl` as this cluster's administrator.
    pub fn dsictl<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Run {
        command(arguments)
            .env("DSI_PROFILE", &self.profile)
            .output()
            .expect("dsictl starts")
            .into()
    }

    /// A file in the profile.
    pub fn file(&self, name: &str) -> PathBuf {
        self.profile.join(name)
    }
}
