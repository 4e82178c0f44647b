//! How a manager is configured: an optional TOML file in its directory, and what the command line says instead.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use dsi_proto::address::ServerAddress;
use dsi_proto::files::{self, FileError};
use serde::Deserialize;

/// The configuration, in the manager's directory.
pub const CONFIG: &str = "smd.toml";

/// Where a manager's directory is unless told otherwise.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/dsi/node";

/// Largest configuration.
const MAX_FILE: u64 = 64 << 10;

/// Where metrics are shown unless configured otherwise.
const DEFAULT_METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 7432);

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
    /// Metrics are switched on without an address.
    #[error("configuration {}: `metrics` is an address and port, or false", .0.display())]
    Metrics(PathBuf),
}

/// `smd.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    metrics: Option<MetricsSetting>,
    servers: Option<Vec<ServerAddress>>,
}

/// `metrics = "address:port"` or `metrics = false`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "an address and port, or false")]
enum MetricsSetting {
    At(SocketAddr),
    Switch(bool),
}

/// A manager's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The manager's directory.
    pub directory: PathBuf,
    /// Where metrics are shown.
    pub metrics: Option<SocketAddr>,
    /// Servers, instead of those that the node joined with.
    pub servers: Option<Vec<ServerAddress>>,
}

impl Config {
    /// Reads the configuration: `file`, which must be there, or the one in the directory, if there is one.
    ///
    /// # Errors
    /// The file is missing or wrong; the message names the line.
    pub fn load(
        directory: &Path,
        file: Option<&Path>,
        metrics: Option<SocketAddr>,
    ) -> Result<Self, ConfigError> {
        let path = file.map_or_else(|| directory.join(CONFIG), Path::to_owned);
        let settings = match files::read(&path, MAX_FILE) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| ConfigError::Text(path.clone()))?;
                toml::from_str(&text).map_err(|source| ConfigError::Syntax {
                    path: path.clone(),
                    source,
                })?
            }
            Err(error) if error.is_not_found() && file.is_none() => File::default(),
            Err(error) => return Err(error.into()),
        };
        let configured = match settings.metrics {
            None => Some(SocketAddr::from(DEFAULT_METRICS)),
            Some(MetricsSetting::At(address)) => Some(address),
            Some(MetricsSetting::Switch(false)) => None,
            Some(MetricsSetting::Switch(true)) => return Err(ConfigError::Metrics(path)),
        };
        Ok(Self {
            directory: directory.to_owned(),
            metrics: metrics.or(configured),
            servers: settings.servers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(CONFIG), text).unwrap();
        Config::load(directory.path(), None, None)
    }

    #[test]
    fn file_is_optional_and_every_setting_too() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config::load(directory.path(), None, None).unwrap();
        assert_eq!(config.metrics, Some(SocketAddr::from(DEFAULT_METRICS)));
        assert_eq!(load("").unwrap().metrics, config.metrics);
        assert_eq!(load("metrics = false").unwrap().metrics, None);
        assert_eq!(
            load("servers = [\"ss.example\"]").unwrap().servers.unwrap()[0].port(),
            7430
        );
    }

    #[test]
    fn fault_is_shown_with_its_place() {
        for bad in [
            "x = 1",
            "servers = [\"a b\"]",
            "metrics = true",
            "metrics = \"x\"",
        ] {
            let error = load(bad).unwrap_err().to_string();
            assert!(error.contains("smd.toml"), "{error}");
        }
    }
}
