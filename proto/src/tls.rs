//! Who may speak to whom: TLS 1.3 with the cluster's certificates, on both ends of every connection.
//!
//! A server answers all its services on one port and asks for a client certificate without insisting on one: a
//! node that joins has none yet. What a caller may then do is decided per service, by [`require_manager`] and
//! [`require_administrator`], from the certificate that the handshake verified and from nothing else. There is
//! no fallback to an older version of TLS, to another authority than the cluster's, or to plain text.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
pub use rustls::ServerConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use uuid::Uuid;

use crate::address::ServerAddress;
use crate::pki::{Identity, PrivateKey, Role};

/// How long a connection may take to be made, name look-up and handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a caller may take for his part of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Handshakes that a server carries on at the same time; further callers wait in the listen queue.
const MAX_HANDSHAKES: usize = 256;

/// A silent connection is asked for a sign of life so often.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// It is given up when no sign came for so long.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Protocol that both ends must agree on (RFC 7301).
const ALPN: &[u8] = b"h2";

/// Credentials that TLS does not take.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The authority's certificate is no trust anchor.
    #[error("the cluster CA's certificate cannot be used: {0}")]
    Authority(rustls::Error),
    /// Client certificates cannot be verified with it.
    #[error("callers cannot be verified with the cluster CA's certificate: {0}")]
    Verifier(rustls::server::VerifierBuilderError),
    /// The own certificate and key do not fit.
    #[error("the own certificate and private key cannot be used: {0}")]
    Own(rustls::Error),
}

/// A connection that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The credentials are not usable.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// No server answered as it should.
    #[error("no server of the cluster can be reached: {}", .0.iter().map(|(server, why)| format!("{server}: {why}")).collect::<Vec<_>>().join("; "))]
    Unreachable(Vec<(ServerAddress, String)>),
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct OwnCredentials {
    /// The certificate, DER.
    pub certificate_der: Vec<u8>,
    /// Its private key.
    pub key: PrivateKey,
}

/// What a caller needs to reach a server: whom he trusts, and, once he is a member, who he is.
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    /// The cluster CA's certificate, DER.
    pub ca_der: Vec<u8>,
    /// The caller's own; none while joining.
    pub own: Option<OwnCredentials>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca_der: &[u8]) -> Result<Arc<RootCertStore>, CredentialError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(ca_der.to_vec()))
        .map_err(CredentialError::Authority)?;
    Ok(Arc::new(roots))
}

/// The TLS side of a server. Replace it in the channel given to [`accept`] to change credentials at run time.
pub fn server_config(
    ca_der: &[u8],
    own: &OwnCredentials,
) -> Result<Arc<ServerConfig>, CredentialError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca_der)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(CredentialError::Verifier)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(CredentialError::Own)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from(own.certificate_der.clone())],
            own.key.to_rustls(),
        )
        .map_err(CredentialError::Own)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would carry yesterday's verdict on a certificate; every connection is verified anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The TLS side of a caller.
pub fn client_config(
    credentials: &ClientCredentials,
) -> Result<Arc<ClientConfig>, CredentialError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(CredentialError::Own)?
        .with_root_certificates(roots(&credentials.ca_der)?);
    let mut config = match &credentials.own {
        Some(own) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from(own.certificate_der.clone())],
                own.key.to_rustls(),
            )
            .map_err(CredentialError::Own)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Connects to the first of the servers that answers as one of the cluster.
pub async fn connect(
    servers: &[ServerAddress],
    credentials: &ClientCredentials,
) -> Result<Channel, ConnectError> {
    let config = client_config(credentials)?;
    let mut failures = Vec::new();
    for server in servers {
        match connect_one(server.clone(), config.clone()).await {
            Ok(channel) => return Ok(channel),
            Err(why) => failures.push((server.clone(), why)),
        }
    }
    Err(ConnectError::Unreachable(failures))
}

async fn connect_one(server: ServerAddress, config: Arc<ClientConfig>) -> Result<Channel, String> {
    let uri: Uri = format!("https://{server}")
        .parse()
        .map_err(|error| format!("{error}"))?;
    // TLS is the connector's; to the layer above, the stream is plain.
    let plain: Uri = format!("http://{server}")
        .parse()
        .map_err(|error| format!("{error}"))?;
    let connector = tower::service_fn(move |_: Uri| {
        let (server, config) = (server.clone(), config.clone());
        async move {
            let tcp = TcpStream::connect((server.host(), server.port())).await?;
            tcp.set_nodelay(true)?;
            let tls = TlsConnector::from(config)
                .connect(server.server_name(), tcp)
                .await?;
            Ok::<_, io::Error>(TokioIo::new(tls))
        }
    });
    let endpoint = Endpoint::from(plain)
        .origin(uri)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    match timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(innermost(&error)),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

/// The text of the error at the bottom of a chain: the fault itself, not who passed it on.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Counts of what reached a server's port.
pub trait AcceptObserver: Send + Sync + 'static {
    /// A handshake succeeded.
    fn accepted(&self);
    /// A handshake failed: the caller is no member, or talks something else.
    fn refused(&self, why: &io::Error);
}

/// Accepts callers on a listener; each item is a connection whose handshake is done.
///
/// Handshakes run concurrently, bounded in number and time, so that a caller who stalls delays nobody. The
/// newest configuration in `config` serves each new connection. Ends when the returned stream is dropped.
pub fn accept(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    observer: Arc<dyn AcceptObserver>,
) -> impl futures_core::Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let (done, accepted) = mpsc::channel(16);
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            let tcp = tokio::select! {
                () = done.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((tcp, _)) => tcp,
                    Err(error) => {
                        // Out of descriptors, or a caller who left already: neither may end the service.
                        observer.refused(&error);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                },
            };
            let acceptor = TlsAcceptor::from(config.borrow().clone());
            let (done, observer) = (done.clone(), observer.clone());
            tokio::spawn(async move {
                let _slot = slot;
                let handshake = async {
                    tcp.set_nodelay(true)?;
                    acceptor.accept(tcp).await
                };
                let outcome = timeout(HANDSHAKE_TIMEOUT, handshake)
                    .await
                    .unwrap_or_else(|_| {
                        Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "the handshake was not finished",
                        ))
                    });
                match outcome {
                    Ok(tls) => {
                        observer.accepted();
                        // The receiver is gone only when the server shuts down.
                        let _ = done.send(Ok(tls)).await;
                    }
                    Err(error) => observer.refused(&error),
                }
            });
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(accepted)
}

/// The server builder's settings that go with [`accept`].
pub fn server_builder() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(Some(64))
}

/// Who the caller of a request is: the identity of the certificate that the handshake verified.
pub fn caller<T>(request: &Request<T>, cluster: Uuid) -> Result<Identity, Status> {
    let certificates = request
        .extensions()
        .get::<TlsConnectInfo<TcpConnectInfo>>()
        .and_then(TlsConnectInfo::peer_certs)
        .ok_or_else(|| {
            Status::unauthenticated("this service needs a client certificate of the cluster")
        })?;
    let leaf = certificates.first().ok_or_else(|| {
        Status::unauthenticated("this service needs a client certificate of the cluster")
    })?;
    let identity = Identity::of_certificate(leaf)
        .map_err(|error| Status::unauthenticated(error.to_string()))?;
    if identity.cluster != cluster {
        return Err(Status::unauthenticated(format!(
            "the client certificate is of cluster {}, this server of {cluster}",
            identity.cluster
        )));
    }
    Ok(identity)
}

/// The SnID of the node whose manager calls; anybody else is refused.
pub fn require_manager<T>(request: &Request<T>, cluster: Uuid) -> Result<u32, Status> {
    match caller(request, cluster)? {
        Identity {
            role: Role::Manager { snid },
            ..
        } => Ok(snid),
        other => Err(Status::permission_denied(format!(
            "{other} is no manager; this service is for managers"
        ))),
    }
}

/// The name of the administrator who calls; anybody else is refused.
pub fn require_administrator<T>(request: &Request<T>, cluster: Uuid) -> Result<String, Status> {
    match caller(request, cluster)? {
        Identity {
            role: Role::Administrator { name },
            ..
        } => Ok(name),
        other => Err(Status::permission_denied(format!(
            "{other} is no administrator; this service is for administrators"
        ))),
    }
}
