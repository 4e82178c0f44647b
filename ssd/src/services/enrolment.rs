//! How a node becomes a member: it shows a token and a key, and gets an id and a certificate.
//!
//! The one service that strangers reach. It does nothing for a caller before his token is known to be good.

use std::net::IpAddr;
use std::sync::Arc;

use dsi_proto::pki::{self, Authority, Identity, PkiError, Role};
use dsi_proto::token::TokenSecret;
use dsi_proto::v1::enrolment_server::Enrolment;
use dsi_proto::v1::{JoinRequest, JoinResponse};
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{status_of, status_of_rejection};
use crate::clock::Clock;
use crate::keys;
use crate::metrics::{Cause, Metrics};
use crate::state::{Command, MAX_ADDRESSES, Rejection};
use crate::store::{ProposeError, Store};

/// The service.
pub struct EnrolmentService {
    /// The state.
    pub store: Arc<dyn Store>,
    /// Who certifies.
    pub authority: Arc<Authority>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
}

/// A join that failed, and the word under which it is counted.
struct Refused(Status, &'static str);

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        let cause = match &rejection {
            Rejection::TokenUnknown { .. } => "unknown-token",
            Rejection::TokenSpent { .. } => "spent-token",
            Rejection::TokenExpired { .. } => "expired-token",
            Rejection::AddressTaken { .. } => "address-taken",
            _ => "other",
        };
        Self(status_of_rejection(&rejection), cause)
    }
}

fn invalid(message: impl ToString) -> Refused {
    Refused(Status::invalid_argument(message.to_string()), "invalid")
}

impl EnrolmentService {
    async fn admit(&self, request: JoinRequest) -> Result<JoinResponse, Refused> {
        let name = request.name;
        pki::check_name(&name).map_err(invalid)?;
        let now_unix_ms = self.clock.unix_ms();
        let text = Zeroizing::new(request.token);
        let secret: TokenSecret = text
            .parse()
            .map_err(|_| Rejection::TokenUnknown { name: name.clone() })?;
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let (snid, cluster) = {
            let state = self.store.state();
            (
                state.check_token(&name, &hash, now_unix_ms)?,
                state.cluster().clone(),
            )
        };

        if request.addresses.len() > MAX_ADDRESSES {
            return Err(Rejection::AddressCount {
                count: request.addresses.len(),
            }
            .into());
        }
        let addresses = request
            .addresses
            .iter()
            .map(|text| {
                text.parse::<IpAddr>()
                    .map_err(|_| invalid(format!("`{}` is no IP address", text.escape_debug())))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let identity = Identity {
            cluster: cluster.uuid,
            role: Role::Manager { snid },
        };
        let certificate_der = self
            .authority
            .issue_client_by_request(&identity, &name, &request.csr_der, self.clock.now())
            .map_err(|error| match error {
                PkiError::Request(_) | PkiError::RequestKey => invalid(error),
                other => Refused(Status::internal(other.to_string()), "other"),
            })?;

        let draw =
            || keys::draw().map_err(|error| Refused(Status::internal(error.to_string()), "other"));
        let command = Command::Join {
            name: name.clone(),
            hash,
            snid,
            addresses,
            secret: draw()?,
            next_secret: draw()?,
            now_unix_ms,
        };
        // The certificate leaves this machine only if the token could be spent for it, under the id it was made for.
        self.store
            .propose(command, None)
            .await
            .map_err(|error| match error {
                ProposeError::Rejected(rejection) => rejection.into(),
                ProposeError::Store(_) => Refused(status_of(&error), "other"),
            })?;
        tracing::info!(node = name, snid, "node joined");
        Ok(JoinResponse {
            snid,
            certificate_der,
            ca_der: self.authority.certificate_der().to_vec(),
            anchor_der: cluster.anchor_der,
            cluster_uuid: cluster.uuid.as_bytes().to_vec(),
        })
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let from = request.remote_addr();
        match self.admit(request.into_inner()).await {
            Ok(response) => {
                self.metrics.joins.inc();
                Ok(Response::new(response))
            }
            Err(Refused(status, cause)) => {
                self.metrics
                    .joins_refused
                    .get_or_create(&Cause { cause })
                    .inc();
                tracing::warn!(
                    ?from,
                    cause,
                    message = status.message(),
                    "a join was refused"
                );
                Err(status)
            }
        }
    }
}
