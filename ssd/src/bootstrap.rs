//! The making of a cluster: its UUID, its CA, its first server and its first administrator.
//!
//! Runs once, on the machine that becomes the server, before any daemon. The policy signer's key is made here too,
//! but stays with the administrator: it is no part of the server's directory, and a server never needs it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dsi_proto::address::ServerAddress;
use dsi_proto::files::{self, FileError};
use dsi_proto::pki::{self, Authority, Identity, NameError, PkiError, PrivateKey, Role};
use dsi_proto::profile::{Description, Profile};
use dsi_proto::signature::{self, SignatureError};
use dsi_proto::tls::{ClientCredentials, OwnCredentials};
use uuid::Uuid;

use crate::config;
use crate::state::Cluster;
use crate::store::{LocalStore, StoreError};

/// Why a cluster could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one already.
    #[error("{} holds a cluster already; choose another directory, or remove it if you mean to lose that cluster", .0.display())]
    Exists(PathBuf),
    /// The cluster needs a server.
    #[error("name at least one address at which the server is reached")]
    NoServer,
    /// A name cannot be borne.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The policy signer could not be made.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The store could not be made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory's state cannot be told.
    #[error("{}: {source}", path.display())]
    Look {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct NewCluster<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where its server answers. The server's certificate names all of them.
    pub servers: &'a [ServerAddress],
    /// Name of the first administrator.
    pub administrator: &'a str,
}

/// What was made, and where.
#[derive(Clone, Debug)]
pub struct ClusterFiles {
    /// The cluster's UUID.
    pub uuid: Uuid,
    /// The server's directory (`ssd --dir`).
    pub server_directory: PathBuf,
    /// The administrator's profile.
    pub profile_directory: PathBuf,
    /// The policy signer's private key, in the profile.
    pub signer_key: PathBuf,
    /// The policy signer's certificate (PEM), in the profile.
    pub signer_certificate: PathBuf,
    /// The policy anchor (DER), in the profile: for `insmod dsm.ko anchor=…`.
    pub anchor: PathBuf,
    /// The administrator's profile, as saved.
    pub profile: Profile,
}

/// Makes a cluster: `server_directory` for `ssd`, `profile_directory` for `dsictl`.
///
/// Interrupted, it can be run again: the store, which is written last, is what makes a cluster.
///
/// # Errors
/// See [`InitError`]. An existing cluster is never touched.
pub fn init(
    server_directory: &Path,
    profile_directory: &Path,
    new: &NewCluster<'_>,
    now: SystemTime,
) -> Result<ClusterFiles, InitError> {
    pki::check_name(new.name)?;
    pki::check_name(new.administrator)?;
    let first = new.servers.first().ok_or(InitError::NoServer)?;
    let store = server_directory.join(config::STORE);
    for existing in [&store, &profile_directory.join("cluster.json")] {
        match existing.try_exists() {
            Ok(false) => {}
            Ok(true) => {
                return Err(InitError::Exists(
                    existing.parent().unwrap_or(existing).to_owned(),
                ));
            }
            Err(source) => {
                return Err(InitError::Look {
                    path: existing.clone(),
                    source,
                });
            }
        }
    }
    files::create_private_directory(server_directory)?;
    files::create_private_directory(profile_directory)?;

    let uuid = Uuid::new_v4();
    let authority = Authority::create(new.name, uuid, now)?;
    let server_key = PrivateKey::generate()?;
    let server = Identity {
        cluster: uuid,
        role: Role::Server {
            name: server_name(first),
        },
    };
    let mut hosts: Vec<String> = new
        .servers
        .iter()
        .map(|server| server.host().to_owned())
        .collect();
    hosts.dedup();
    let server_certificate = authority.issue_server(&server, &hosts, &server_key, now)?;

    let administrator_key = PrivateKey::generate()?;
    let administrator = Identity {
        cluster: uuid,
        role: Role::Administrator {
            name: new.administrator.to_owned(),
        },
    };
    let certificate_der = authority.issue_client(&administrator, &administrator_key, now)?;
    let signer = signature::generate_signer(&format!("DSI cluster {} policy signer", new.name))?;

    let in_profile = |name| profile_directory.join(name);
    let (signer_key, signer_certificate, anchor) = (
        in_profile("signer.key"),
        in_profile("signer.pem"),
        in_profile("anchor.der"),
    );
    files::write_private(&signer_key, signer.key_pem().as_bytes())?;
    files::write_public(
        &signer_certificate,
        pki::certificate_pem(signer.certificate_der()).as_bytes(),
    )?;
    files::write_public(&anchor, signer.certificate_der())?;

    let in_server = |name: &str| server_directory.join(name);
    files::write_private(
        &in_server(config::CA_KEY),
        authority.key().to_pem().as_bytes(),
    )?;
    files::write_public(
        &in_server(config::CA),
        pki::certificate_pem(authority.certificate_der()).as_bytes(),
    )?;
    files::write_private(
        &in_server(config::SERVER_KEY),
        server_key.to_pem().as_bytes(),
    )?;
    files::write_public(
        &in_server(config::SERVER),
        pki::certificate_pem(&server_certificate).as_bytes(),
    )?;
    files::write_public(
        &in_server(config::CONFIG),
        config::template(first.port()).as_bytes(),
    )?;
    let cluster = Cluster {
        name: new.name.to_owned(),
        uuid,
        anchor_der: signer.certificate_der().to_vec(),
    };
    LocalStore::create(&store, &cluster)?;

    let profile = Profile {
        cluster: Description {
            name: new.name.to_owned(),
            uuid,
            servers: new.servers.to_vec(),
        },
        credentials: ClientCredentials {
            ca_der: authority.certificate_der().to_vec(),
            own: Some(OwnCredentials {
                certificate_der,
                key: administrator_key,
            }),
        },
    };
    profile.save(profile_directory)?;
    Ok(ClusterFiles {
        uuid,
        server_directory: server_directory.to_owned(),
        profile_directory: profile_directory.to_owned(),
        signer_key,
        signer_certificate,
        anchor,
        profile,
    })
}

/// A name for the server's certificate: its first host, in the characters that names have.
fn server_name(address: &ServerAddress) -> String {
    let host: String = address
        .host()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    format!(
        "s-{}",
        host.chars().take(pki::MAX_NAME - 2).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn new<'a>(servers: &'a [ServerAddress]) -> NewCluster<'a> {
        NewCluster {
            name: "test",
            servers,
            administrator: "anna",
        }
    }

    #[test]
    fn cluster_is_made_once_with_private_keys() {
        let directory = tempfile::tempdir().unwrap();
        let (server, profile) = (
            directory.path().join("a/server"),
            directory.path().join("a/admin"),
        );
        let servers = ["ss.example".parse().unwrap(), "[::1]:99".parse().unwrap()];
        let made = init(&server, &profile, &new(&servers), SystemTime::now()).unwrap();
        for (directory, names) in [
            (&server, ["ca.key", "server.key", "store.redb"]),
            (&profile, ["admin.key", "signer.key", "admin.key"]),
        ] {
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(directory), 0o700);
            for name in names {
                assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
            }
        }
        assert!(
            !server.join("signer.key").exists(),
            "a server cannot sign policy"
        );
        let loaded = Profile::load(&profile).unwrap();
        assert_eq!(loaded.cluster, made.profile.cluster);
        assert_eq!(loaded.cluster.uuid, made.uuid);
        let identity =
            Identity::of_certificate(&loaded.credentials.own.unwrap().certificate_der).unwrap();
        assert_eq!(
            identity.role,
            Role::Administrator {
                name: "anna".into()
            }
        );

        let again = init(
            &server,
            &directory.path().join("b"),
            &new(&servers),
            SystemTime::now(),
        );
        assert!(matches!(again, Err(InitError::Exists(_))), "{again:?}");
        let again = init(
            &directory.path().join("b"),
            &profile,
            &new(&servers),
            SystemTime::now(),
        );
        assert!(matches!(again, Err(InitError::Exists(_))), "{again:?}");
    }

    #[test]
    fn nameless_cluster_and_no_server_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let refused = init(&path, &path, &new(&[]), SystemTime::now());
        assert!(matches!(refused, Err(InitError::NoServer)));
        let servers = ["ss.example".parse().unwrap()];
        let refused = init(
            &path,
            &path,
            &NewCluster {
                name: "",
                ..new(&servers)
            },
            SystemTime::now(),
        );
        assert!(matches!(refused, Err(InitError::Name(_))));
        assert!(!path.exists());
    }
}
