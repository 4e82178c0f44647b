//! How a node becomes a member: a key of its own, a signing request, and a token that proves that it may.
//!
//! The private key never leaves the node. The server is known from the first packet on, by the CA in the token.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use dsi_proto::files::FileError;
use dsi_proto::pki::{Identity as CertificateIdentity, PkiError, PrivateKey, Role};
use dsi_proto::tls::{self, ClientCredentials, ConnectError, CredentialError, OwnCredentials};
use dsi_proto::token::JoinToken;
use dsi_proto::v1::enrolment_client::EnrolmentClient;
use dsi_proto::v1::{JoinRequest, JoinResponse};
use uuid::Uuid;

use crate::persist::{Directory, Identity, NodeDescription};

/// Longest answer to a node that joins.
const MAX_RESPONSE: usize = 64 << 10;

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It has joined before.
    #[error("{}: this node has joined a cluster already; remove the directory to join anew", .0.display())]
    Joined(PathBuf),
    /// No server can be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The own address is not known.
    #[error(
        "this node's address cannot be told from its way to the server: {0}; give it with --address"
    )]
    Address(std::io::Error),
    /// The server refuses.
    #[error("the server refuses: {}", .0.message())]
    Refused(Box<tonic::Status>),
    /// The server's answer is not what it should be.
    #[error("the server's answer makes no sense: {0}")]
    Answer(&'static str),
    /// The certificate is not usable.
    #[error("the server's certificate for this node is not usable: {0}")]
    Certificate(#[from] CredentialError),
    /// The key could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The result could not be stored.
    #[error(
        "the token is spent, but the result could not be stored: {0}; make another token when that is mended"
    )]
    Store(FileError),
    /// The directory cannot be written.
    #[error(transparent)]
    Directory(FileError),
}

/// Makes this node a member. Without `addresses`, the one by which it reaches the server is its address.
///
/// # Errors
/// See [`JoinError`]. Unless it says otherwise, the token is not spent.
pub async fn join(
    directory: &Directory,
    token: &JoinToken,
    addresses: &[IpAddr],
) -> Result<NodeDescription, JoinError> {
    if directory.has_joined() {
        return Err(JoinError::Joined(directory.path().to_owned()));
    }
    // Before the token is spent: whether there is a place for what it buys.
    dsi_proto::files::create_private_directory(directory.path()).map_err(JoinError::Directory)?;
    let probe = directory.path().join("join.check");
    dsi_proto::files::write_private(&probe, b"").map_err(JoinError::Directory)?;
    // Left over, it does no harm.
    let _ = std::fs::remove_file(&probe);

    let key = PrivateKey::generate()?;
    let csr_der = key.signing_request(&token.name)?;
    let strangers = ClientCredentials {
        ca_der: token.ca_der.clone(),
        own: None,
    };
    let channel = tls::connect(&token.servers, &strangers).await?;
    let addresses = match addresses {
        [] => own_addresses(token).await.map_err(JoinError::Address)?,
        given => given.to_vec(),
    };
    let request = JoinRequest {
        token: token.secret.to_text().to_string(),
        name: token.name.clone(),
        csr_der,
        addresses: addresses.iter().map(ToString::to_string).collect(),
    };
    let response = EnrolmentClient::new(channel)
        .max_decoding_message_size(MAX_RESPONSE)
        .join(request)
        .await
        .map_err(|status| JoinError::Refused(Box::new(status)))?
        .into_inner();
    let (node, credentials, anchor_der) = check(response, token, addresses, key)?;
    let identity = Identity { node, anchor_der };
    directory
        .save_identity(&identity, &credentials)
        .map_err(JoinError::Store)?;
    Ok(identity.node)
}

fn check(
    response: JoinResponse,
    token: &JoinToken,
    addresses: Vec<IpAddr>,
    key: PrivateKey,
) -> Result<(NodeDescription, ClientCredentials, Vec<u8>), JoinError> {
    let JoinResponse {
        snid,
        certificate_der,
        ca_der,
        anchor_der,
        cluster_uuid,
    } = response;
    let cluster = Uuid::from_slice(&cluster_uuid)
        .map_err(|_| JoinError::Answer("its cluster has no UUID"))?;
    if ca_der != token.ca_der {
        return Err(JoinError::Answer("it names another CA than the token"));
    }
    if anchor_der.is_empty() {
        return Err(JoinError::Answer("it has no policy anchor"));
    }
    let expected = CertificateIdentity {
        cluster,
        role: Role::Manager { snid },
    };
    if CertificateIdentity::of_certificate(&certificate_der)? != expected {
        return Err(JoinError::Answer("the certificate is for somebody else"));
    }
    let credentials = ClientCredentials {
        ca_der,
        own: Some(OwnCredentials {
            certificate_der,
            key,
        }),
    };
    // Tells whether certificate and key belong together.
    tls::client_config(&credentials)?;
    let node = NodeDescription {
        name: token.name.clone(),
        snid,
        cluster,
        servers: token.servers.clone(),
        addresses,
    };
    Ok((node, credentials, anchor_der))
}

/// The addresses by which this node reaches the first server that it can find a way to: one of IPv4 and one of IPv6 if
/// both lead there. One that is good on one link only is none. No packet is sent.
async fn own_addresses(token: &JoinToken) -> std::io::Result<Vec<IpAddr>> {
    let mut last = std::io::Error::other("the token names no server");
    for server in &token.servers {
        let targets = match tokio::net::lookup_host((server.host(), server.port())).await {
            Ok(targets) => targets,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let mut own: Vec<IpAddr> = Vec::new();
        for target in targets {
            match toward(target).await {
                Ok(IpAddr::V6(address)) if address.is_unicast_link_local() => {}
                Ok(address) if own.iter().all(|a| a.is_ipv4() != address.is_ipv4()) => {
                    own.push(address);
                }
                Ok(_) => {}
                Err(error) => last = error,
            }
        }
        if !own.is_empty() {
            return Ok(own);
        }
    }
    Err(last)
}

async fn toward(target: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if target.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0; 16], 0).into()
    };
    let socket = tokio::net::UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket.local_addr()?.ip().to_canonical())
}
