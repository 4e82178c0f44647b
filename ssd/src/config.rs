//! How a server is configured: one TOML file in its directory, and what the command line says instead.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use dsi_proto::files::{self, FileError};
use serde::Deserialize;

use crate::audit::AuditLimits;

/// The configuration, in the server's directory.
pub const CONFIG: &str = "ssd.toml";
/// The store.
pub const STORE: &str = "store.redb";
/// The CA's certificate, PEM.
pub const CA: &str = "ca.pem";
/// The CA's private key, PEM, private.
pub const CA_KEY: &str = "ca.key";
/// The server's certificate, PEM.
pub const SERVER: &str = "server.pem";
/// The server's private key, PEM, private.
pub const SERVER_KEY: &str = "server.key";

/// Largest configuration or credential file.
pub const MAX_FILE: u64 = 64 * 1024;

/// Where metrics are shown unless configured otherwise.
const DEFAULT_METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 7431);

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration: {0}")]
    File(#[from] FileError),
    /// The file is not text.
    #[error("configuration {}: it is not UTF-8 text", .0.display())]
    Text(PathBuf),
    /// The file does not say what it should.
    #[error("configuration {}: {source}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with the line.
        source: toml::de::Error,
    },
}

/// `ssd.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    listen: SocketAddr,
    metrics: MetricsSetting,
    audit: AuditSection,
}

/// `metrics = "address:port"` or `metrics = false`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "an address and port, or false")]
enum MetricsSetting {
    At(SocketAddr),
    Off(Off),
}

/// The value `false`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "bool")]
struct Off;

impl TryFrom<bool> for Off {
    type Error = &'static str;

    fn try_from(on: bool) -> Result<Self, Self::Error> {
        if on {
            Err("`metrics` is an address and port, or false")
        } else {
            Ok(Self)
        }
    }
}

impl MetricsSetting {
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::At(address) => Some(*address),
            Self::Off(Off) => None,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AuditSection {
    ring_events: usize,
    file_bytes: u64,
}

impl Default for File {
    fn default() -> Self {
        Self {
            listen: default_listen(dsi_proto::DEFAULT_PORT),
            metrics: MetricsSetting::At(SocketAddr::from(DEFAULT_METRICS)),
            audit: AuditSection::default(),
        }
    }
}

impl Default for AuditSection {
    fn default() -> Self {
        Self {
            ring_events: 10_000,
            file_bytes: 64 << 20,
        }
    }
}

fn default_listen(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

/// The file that a new cluster starts with.
pub fn template(port: u16) -> String {
    format!(
        "# The security server (ssd). What is left out has the value shown.\n\
         \n\
         # Where managers and administrators reach it; [::] takes IPv4 as well.\n\
         listen = \"{}\"\n\
         \n\
         # Where Prometheus scrapes it (plain HTTP); false for nowhere.\n\
         metrics = \"{}\"\n\
         \n\
         [audit]\n\
         # Events kept in memory for `dsictl audit tail --replay`.\n\
         ring_events = 10000\n\
         # Size at which audit.jsonl is put aside as audit.jsonl.1.\n\
         file_bytes = 67108864\n",
        default_listen(port),
        SocketAddr::from(DEFAULT_METRICS)
    )
}

/// What the command line says instead of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// Where to show metrics.
    pub metrics: Option<SocketAddr>,
}

/// A server's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server's directory.
    pub directory: PathBuf,
    /// Where managers and administrators reach it.
    pub listen: SocketAddr,
    /// Where metrics are shown.
    pub metrics: Option<SocketAddr>,
    /// How much audit is kept.
    pub audit: AuditLimits,
}

impl Config {
    /// Reads the configuration: `file`, which must be there, or the one in the directory, if there is one.
    ///
    /// # Errors
    /// The file is missing or wrong; the message names the line.
    pub fn load(
        directory: &Path,
        file: Option<&Path>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let path = file.map_or_else(|| directory.join(CONFIG), Path::to_owned);
        let settings: File = match files::read(&path, MAX_FILE) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| ConfigError::Text(path.clone()))?;
                toml::from_str(&text).map_err(|source| ConfigError::Syntax { path, source })?
            }
            Err(error) if error.is_not_found() && file.is_none() => File::default(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            directory: directory.to_owned(),
            listen: overrides.listen.unwrap_or(settings.listen),
            metrics: overrides.metrics.or(settings.metrics.address()),
            audit: AuditLimits {
                ring: settings.audit.ring_events,
                file_bytes: settings.audit.file_bytes,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: Option<&str>) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        if let Some(text) = text {
            std::fs::write(directory.path().join(CONFIG), text).unwrap();
        }
        Config::load(directory.path(), None, &Overrides::default())
    }

    #[test]
    fn template_says_what_holds_without_it() {
        let (written, without) = (load(Some(&template(7430))).unwrap(), load(None).unwrap());
        assert_eq!(
            (written.listen, written.metrics),
            (without.listen, without.metrics)
        );
        assert_eq!(written.audit.ring, without.audit.ring);
        assert_eq!(written.audit.file_bytes, without.audit.file_bytes);
    }

    #[test]
    fn fault_is_shown_with_its_place() {
        let error = load(Some("listen = \"[::]:7430\"\nlisten_port = 3\n"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ssd.toml") && error.contains("line 2") && error.contains("listen_port"),
            "{error}"
        );
        assert_eq!(load(Some("metrics = false")).unwrap().metrics, None);
        assert!(load(Some("metrics = true")).is_err());
        let error = load(Some("listen = \"nowhere\"")).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn named_file_must_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("other.toml");
        let error =
            Config::load(directory.path(), Some(&missing), &Overrides::default()).unwrap_err();
        assert!(error.to_string().contains("other.toml"), "{error}");
    }
}
