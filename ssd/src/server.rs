//! A server put together: configuration, then everything bound, then running until told to stop.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dsi_proto::files::{self, FileError};
use dsi_proto::pki::{self, Authority, PkiError, PrivateKey};
use dsi_proto::tls::{self, AcceptObserver, CredentialError, OwnCredentials, ServerConfig};
use dsi_proto::v1::admin_server::AdminServer;
use dsi_proto::v1::enrolment_server::EnrolmentServer;
use dsi_proto::v1::manager_server::ManagerServer;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::service::interceptor::InterceptedService;
use uuid::Uuid;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::rotation;
use crate::services::admin::{AdminService, CallingAdministrator};
use crate::services::enrolment::EnrolmentService;
use crate::services::manager::{CallingNode, ManagerService};
use crate::services::{MAX_FROM_MANAGER, MAX_JOIN};
use crate::session::Context;
use crate::store::{LocalStore, Store, StoreError};

/// How long connections may take to end when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A server's certificate is complained about from so long before it expires.
const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file of its directory is missing or wrong.
    #[error("server's directory: {0}{cure}", cure = cure(.0))]
    File(#[from] FileError),
    /// A certificate or key is damaged.
    #[error("{}: {source}", path.display())]
    Credential {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: PkiError,
    },
    /// Certificate, key and CA do not fit together.
    #[error("server's certificate: {0}")]
    Tls(#[from] CredentialError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address cannot be listened on.
    #[error("listening on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The audit's file cannot be opened.
    #[error("audit file: {0}")]
    Audit(io::Error),
}

fn cure(error: &FileError) -> &'static str {
    if error.is_not_found() {
        "; `dsictl cluster init` makes it"
    } else {
        ""
    }
}

/// A server that has everything it needs and does not answer yet.
pub struct Server {
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    credentials: watch::Sender<Arc<ServerConfig>>,
    authority: Arc<Authority>,
    cluster: Uuid,
    context: Context,
    metrics: Arc<Metrics>,
    registry: Registry,
}

impl Server {
    /// Reads the server's directory, opens its store and binds its sockets.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind.
    pub async fn build(config: &Config, clock: Clock) -> Result<Self, StartError> {
        let (authority, own) = read_credentials(&config.directory)?;
        let tls = tls::server_config(authority.certificate_der(), &own)?;
        warn_of_expiry(&own, &clock);
        let store = LocalStore::open(&config.directory.join(config::STORE))?;
        let listener = listen(config.listen).await?;
        let metrics_listener = match config.metrics {
            Some(address) => Some(
                dsi_daemon::metrics::bind(address)
                    .await
                    .map_err(|source| StartError::Listen { address, source })?,
            ),
            None => None,
        };
        let (metrics, registry) = Metrics::new();
        let audit = Audit::start(&config.directory, &config.audit, metrics.clone())
            .map_err(StartError::Audit)?;
        let (cluster, newest) = {
            let state = store.state();
            (state.cluster().uuid, state.newest_policy())
        };
        metrics
            .policy_version
            .set(i64::try_from(newest).unwrap_or(i64::MAX));
        let context = Context {
            store: Arc::new(store),
            hub: Hub::new(metrics.clone()),
            audit,
            clock,
        };
        Ok(Self {
            listener,
            metrics_listener,
            credentials: watch::channel(tls).0,
            authority: Arc::new(authority),
            cluster,
            context,
            metrics,
            registry,
        })
    }

    /// Where managers and administrators reach it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where metrics are shown.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }

    /// Answers until `shutdown`; then ends streams, lets connections drain and returns.
    ///
    /// # Errors
    /// The server's transport failed.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), tonic::transport::Error> {
        let Self {
            listener,
            metrics_listener,
            credentials,
            authority,
            cluster,
            context,
            metrics,
            registry,
        } = self;
        if let Some(listener) = metrics_listener {
            tokio::spawn(dsi_daemon::metrics::serve(
                listener,
                Arc::new(registry),
                shutdown.clone(),
            ));
        }
        let enrolment = EnrolmentService {
            store: context.store.clone(),
            authority: authority.clone(),
            metrics: metrics.clone(),
            clock: context.clock.clone(),
        };
        let admin = AdminService {
            context: context.clone(),
            metrics: metrics.clone(),
            ca_der: authority.certificate_der().to_vec(),
            started_unix_ms: context.clock.unix_ms(),
            shutdown: shutdown.clone(),
        };
        let manager = ManagerService {
            context: context.clone(),
        };

        let enrolment = EnrolmentServer::new(enrolment).max_decoding_message_size(MAX_JOIN);
        let admin =
            AdminServer::new(admin).max_decoding_message_size(dsi_proto::policy::MAX_MESSAGE);
        let manager = ManagerServer::new(manager).max_decoding_message_size(MAX_FROM_MANAGER);
        let only_administrators = move |mut request: Request<()>| {
            let name = tls::require_administrator(&request, cluster)?;
            request.extensions_mut().insert(CallingAdministrator(name));
            Ok(request)
        };
        let only_managers = move |mut request: Request<()>| {
            let snid = tls::require_manager(&request, cluster)?;
            request.extensions_mut().insert(CallingNode(snid));
            Ok(request)
        };
        let incoming = tls::accept(
            listener,
            credentials.subscribe(),
            Arc::new(Observer(metrics)),
        );
        let (driven, stop) = (context.clone(), shutdown.clone());
        let rotation = tokio::spawn(async move {
            tokio::select! {
                // Before it sees that the managers are disconnected: they are not waited for then.
                biased;
                () = stop.cancelled() => {}
                () = rotation::drive(driven) => {}
            }
        });
        let stop = shutdown.clone();
        let serving = tls::server_builder()
            .add_service(enrolment)
            .add_service(InterceptedService::new(admin, only_administrators))
            .add_service(InterceptedService::new(manager, only_managers))
            .serve_with_incoming_shutdown(incoming, async move { stop.cancelled().await });

        let drained = async {
            shutdown.cancelled().await;
            context.hub.close();
            context.audit.close();
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        let served = tokio::select! {
            served = serving => served,
            () = drained => {
                tracing::warn!("some connections did not end in time and are cut");
                Ok(())
            }
        };
        rotation.abort();
        served
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    match TcpListener::bind(address).await {
        // A machine without IPv6 is reached by IPv4 all the same.
        Err(_) if address.ip().is_unspecified() && address.is_ipv6() => {
            TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port())).await
        }
        other => other,
    }
    .map_err(|source| StartError::Listen { address, source })
}

fn read_credentials(directory: &Path) -> Result<(Authority, OwnCredentials), StartError> {
    let certificate = |name: &str| {
        let path = directory.join(name);
        pki::certificate_from_pem(&files::read(&path, config::MAX_FILE)?)
            .map_err(|source| StartError::Credential { path, source })
    };
    let key = |name: &str| {
        let path = directory.join(name);
        PrivateKey::from_pem(&files::read_private(&path, config::MAX_FILE)?)
            .map_err(|source| StartError::Credential { path, source })
    };
    let authority =
        Authority::load(certificate(config::CA)?, key(config::CA_KEY)?).map_err(|source| {
            StartError::Credential {
                path: directory.join(config::CA),
                source,
            }
        })?;
    let own = OwnCredentials {
        certificate_der: certificate(config::SERVER)?,
        key: key(config::SERVER_KEY)?,
    };
    Ok((authority, own))
}

fn warn_of_expiry(own: &OwnCredentials, clock: &Clock) {
    if let Ok(not_after) = pki::not_after(&own.certificate_der) {
        let left = not_after.saturating_sub(clock.unix_ms() / 1000);
        if left < i64::try_from(EXPIRY_WARNING.as_secs()).unwrap_or(i64::MAX) {
            tracing::warn!(
                days = left / (24 * 60 * 60),
                "the server's certificate expires soon"
            );
        }
    }
}

struct Observer(Arc<Metrics>);

impl AcceptObserver for Observer {
    fn accepted(&self) {
        self.0.connections.inc();
    }

    fn refused(&self, why: &io::Error) {
        self.0.handshakes_failed.inc();
        tracing::debug!(%why, "a connection did not come about");
    }
}
