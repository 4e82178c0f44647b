//! The door of a manager's stream; the stream itself is [`crate::session`]'s.

use std::pin::Pin;

use dsi_proto::v1::manager_server::Manager;
use dsi_proto::v1::{FromManager, ToManager};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::admin::extension;
use crate::session::{self, Context};
use crate::state::SnId;

/// The manager that calls, as its certificate says. Set by the interceptor.
#[derive(Clone, Copy, Debug)]
pub struct CallingNode(pub SnId);

/// The service.
pub struct ManagerService {
    /// What sessions need.
    pub context: Context,
}

#[tonic::async_trait]
impl Manager for ManagerService {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<ToManager, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<FromManager>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let CallingNode(snid) = extension(&request)?;
        let outgoing = session::start(self.context.clone(), snid, request.into_inner()).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}
