//! The gRPC services: messages in, commands and questions out. The only place that knows both.

use tonic::Status;

use crate::policies::Refusal;
use crate::state::Rejection;
use crate::store::ProposeError;

pub mod admin;
pub mod enrolment;
pub mod manager;

/// Longest message of a node that joins.
pub const MAX_JOIN: usize = 64 << 10;

/// Longest message of a manager: a full batch of audit events, each text of which is as long as it may be, is 200 KiB.
pub const MAX_FROM_MANAGER: usize = 256 << 10;

fn status_of(error: &ProposeError) -> Status {
    match error {
        ProposeError::Rejected(rejection) => status_of_rejection(rejection),
        ProposeError::Store(store) => Status::internal(store.to_string()),
    }
}

fn status_of_rejection(rejection: &Rejection) -> Status {
    let message = rejection.to_string();
    match rejection {
        Rejection::TokenUnknown { .. }
        | Rejection::TokenSpent { .. }
        | Rejection::TokenExpired { .. } => Status::unauthenticated(message),
        Rejection::NameTaken { .. }
        | Rejection::SnIdUsed { .. }
        | Rejection::AddressTaken { .. } => Status::already_exists(message),
        Rejection::SnIdRange { .. }
        | Rejection::AddressCount { .. }
        | Rejection::AddressUnusable { .. } => Status::invalid_argument(message),
        Rejection::NoSuchName { .. } | Rejection::NoSuchNode { .. } => Status::not_found(message),
        Rejection::SnIdMoved { .. } | Rejection::NodesChanged => Status::aborted(message),
        Rejection::SnIdsExhausted | Rejection::EpochsExhausted(_) => {
            Status::resource_exhausted(message)
        }
        Rejection::AlreadyJoined { .. }
        | Rejection::RotationUnderWay { .. }
        | Rejection::KeysInUse { .. }
        | Rejection::VersionNotRising { .. }
        | Rejection::ForeignCluster { .. } => Status::failed_precondition(message),
    }
}

fn status_of_refusal(refusal: &Refusal) -> Status {
    use dsi_proto::policy::PolicyFault;
    let message = refusal.to_string();
    match refusal {
        Refusal::Fault(fault) if fault.is_untrusted() => Status::permission_denied(message),
        Refusal::Fault(PolicyFault::ForeignCluster { .. }) => Status::failed_precondition(message),
        Refusal::Fault(_)
        | Refusal::Source(_)
        | Refusal::Compile(_)
        | Refusal::OtherImage { .. } => Status::invalid_argument(message),
    }
}
