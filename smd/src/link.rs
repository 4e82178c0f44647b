//! One connection to a server: made, used and lost in a task of its own, which tells the driver what it hears.

use dsi_proto::address::ServerAddress;
use dsi_proto::policy::MAX_MESSAGE;
use dsi_proto::tls;
use dsi_proto::v1::manager_client::ManagerClient;
use dsi_proto::v1::{FromManager, Hello, ToManager, from_manager};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;

use crate::persist::Directory;

/// Messages that wait for the server, and for the driver.
const QUEUE: usize = 4;

/// What the link tells.
#[derive(Debug)]
pub enum Heard {
    /// The server answers.
    Connected,
    /// The server says something.
    Message(ToManager),
    /// It is over.
    Ended(String),
}

/// A connection, or the attempt at one. Dropped, it is closed.
pub struct Link {
    /// To the server.
    pub outgoing: mpsc::Sender<FromManager>,
    /// From the server; its last word is [`Heard::Ended`].
    pub heard: mpsc::Receiver<Heard>,
    task: AbortHandle,
}

impl Link {
    /// Connects to one of the servers and begins with `hello`.
    pub fn start(directory: Directory, servers: Vec<ServerAddress>, hello: Hello) -> Self {
        let (outgoing, to_server) = mpsc::channel(QUEUE);
        let (tell, heard) = mpsc::channel(QUEUE);
        let first = FromManager {
            body: Some(from_manager::Body::Hello(hello)),
        };
        // There is room: the queue is new.
        let _ = outgoing.try_send(first);
        let task = tokio::spawn(async move {
            let why = match run(&directory, &servers, to_server, &tell).await {
                Ok(()) => "the server has ended the stream".to_owned(),
                Err(why) => why,
            };
            // Without a driver there is nobody to tell.
            let _ = tell.send(Heard::Ended(why)).await;
        })
        .abort_handle();
        Self {
            outgoing,
            heard,
            task,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    directory: &Directory,
    servers: &[ServerAddress],
    to_server: mpsc::Receiver<FromManager>,
    tell: &mpsc::Sender<Heard>,
) -> Result<(), String> {
    // Read for each connection: a renewed certificate needs no restart.
    let credentials = directory.credentials().map_err(|error| error.to_string())?;
    let channel = tls::connect(servers, &credentials)
        .await
        .map_err(|error| error.to_string())?;
    let mut client = ManagerClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let described = |status: tonic::Status| format!("{}: {}", status.code(), status.message());
    let mut incoming = client
        .sync(ReceiverStream::new(to_server))
        .await
        .map_err(described)?
        .into_inner();
    if tell.send(Heard::Connected).await.is_err() {
        return Ok(());
    }
    while let Some(message) = incoming.message().await.map_err(described)? {
        if tell.send(Heard::Message(message)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
