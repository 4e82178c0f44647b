//! The dull part of the manager: waits for whatever happens next, tells the machine, does what it says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime};

use dsi_proto::address::ServerAddress;
use dsi_proto::pki;
use dsi_proto::tls::ClientCredentials;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::audit::Listener;
use crate::config::Config;
use crate::kernel::KernelAccess;
use crate::link::{Heard, Link};
use crate::machine::{Action, Event, Machine, Stored, Timing};
use crate::metrics::Metrics;
use crate::operations::{Operation, Operator, Outcome};
use crate::persist::{Directory, Identity, PersistError};

/// Why a manager could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory is not usable.
    #[error(transparent)]
    Directory(#[from] PersistError),
    /// The metrics' address cannot be listened on.
    #[error("listening on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("starting a thread: {0}")]
    Thread(io::Error),
}

/// A manager that has everything it needs and has not begun.
pub struct Manager {
    directory: Directory,
    identity: Identity,
    servers: Vec<ServerAddress>,
    metrics_listener: Option<TcpListener>,
    access: Arc<dyn KernelAccess>,
    timing: Timing,
}

impl Manager {
    /// Reads who the node is and binds the metrics' socket.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn build(
        config: &Config,
        access: Arc<dyn KernelAccess>,
        timing: Timing,
    ) -> Result<Self, StartError> {
        let directory = Directory::new(&config.directory);
        let identity = directory.identity()?;
        // Found wanting now rather than at the first connection.
        warn_of_expiry(&directory.credentials()?);
        let servers = config
            .servers
            .clone()
            .unwrap_or_else(|| identity.node.servers.clone());
        let metrics_listener = match config.metrics {
            Some(address) => Some(
                dsi_daemon::metrics::bind(address)
                    .await
                    .map_err(|source| StartError::Listen { address, source })?,
            ),
            None => None,
        };
        Ok(Self {
            directory,
            identity,
            servers,
            metrics_listener,
            access,
            timing,
        })
    }

    /// Who the node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where metrics are shown.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }

    /// Does the manager's work until `shutdown`; calls `ready` when the kernel was first looked after. The kernel
    /// goes on enforcing afterwards.
    ///
    /// # Errors
    /// A thread could not be started.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        ready: impl FnOnce(),
    ) -> Result<(), StartError> {
        let Self {
            directory,
            identity,
            servers,
            metrics_listener,
            access,
            timing,
        } = self;
        let (metrics, registry) = Metrics::new();
        if let Some(listener) = metrics_listener {
            tokio::spawn(dsi_daemon::metrics::serve(
                listener,
                Arc::new(registry),
                shutdown.clone(),
            ));
        }
        let (listener, notices) = Listener::start(access.clone()).map_err(StartError::Thread)?;
        let kernel = KernelThread::start(Operator::new(access, identity.clone()))
            .map_err(StartError::Thread)?;
        // Of two lives of a manager no server may take one for the other.
        let seed = getrandom::u64().unwrap_or_else(|_| fastrand::u64(..));
        let machine = Machine::new(identity, boot_id(), timing, seed, Instant::now());
        let mut driver = Driver {
            machine,
            directory,
            servers,
            kernel,
            listener,
            notices,
            link: None,
            ready: Some(ready),
            metrics,
        };
        driver.run(shutdown).await;
        driver.keep_audit().await;
        Ok(())
    }
}

struct Driver<F> {
    machine: Machine,
    directory: Directory,
    servers: Vec<ServerAddress>,
    kernel: KernelThread,
    listener: Listener,
    notices: mpsc::Receiver<dsi_proto::netlink::Notice>,
    link: Option<Link>,
    ready: Option<F>,
    metrics: Arc<Metrics>,
}

impl<F: FnOnce()> Driver<F> {
    async fn run(&mut self, shutdown: CancellationToken) {
        let stored = self.read_stored();
        self.take(Event::Started(stored));
        loop {
            self.metrics.show(&self.machine);
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.next() => event,
            };
            if let Some(event) = event {
                self.take(event);
            }
        }
    }

    /// What happens next; none if it only was a message that could be sent.
    async fn next(&mut self) -> Option<Event> {
        let lost = self.listener.take_lost();
        if lost > 0 {
            return Some(Event::NoticesLost(lost));
        }
        let tick = self.machine.next_tick();
        let sleep = async {
            match tick {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let has_outgoing = self.machine.has_outgoing();
        let link = self.link.as_mut();
        let (heard, outgoing) = match link {
            Some(Link {
                heard, outgoing, ..
            }) => (Some(heard), has_outgoing.then_some(&*outgoing)),
            None => (None, None),
        };
        tokio::select! {
            outcome = self.kernel.outcomes.recv() => match outcome {
                Some(outcome) => Some(Event::Kernel(outcome)),
                // The thread ends only with this driver.
                None => std::future::pending().await,
            },
            notice = self.notices.recv() => match notice {
                Some(notice) => Some(Event::Notice(notice)),
                None => std::future::pending().await,
            },
            heard = optional(heard.map(mpsc::Receiver::recv)) => Some(match heard {
                Some(Heard::Connected) => Event::Connected,
                Some(Heard::Message(message)) => Event::Received(message),
                Some(Heard::Ended(why)) => Event::Disconnected(why),
                None => Event::Disconnected("the connection was lost".to_owned()),
            }),
            permit = optional(outgoing.map(mpsc::Sender::reserve)) => {
                // A closed queue shows in `heard` as well.
                if let Ok(permit) = permit
                    && let Some(message) = self.machine.next_outgoing()
                {
                    permit.send(message);
                }
                None
            },
            () = sleep => Some(Event::Tick),
        }
    }

    fn take(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            if matches!(event, Event::Disconnected(_)) {
                self.link = None;
            }
            for action in self.machine.on(event, Instant::now()) {
                events.extend(self.act(action));
            }
        }
    }

    /// Does what the machine says; what came of it at once.
    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Operate(operation) => self.kernel.start_operation(operation),
            Action::Listen => self.listener.renew(),
            Action::Connect(hello) => {
                self.link = Some(Link::start(
                    self.directory.clone(),
                    self.servers.clone(),
                    hello,
                ));
            }
            Action::Disconnect => self.link = None,
            Action::StorePolicy(policy) => {
                let stored = self.directory.save_policy(policy.bundle());
                return stored.err().map(|error| {
                    Event::NotStored(format!("the policy could not be stored: {error}"))
                });
            }
            Action::StorePeers(peers) => {
                let stored = self.directory.save_peers(&peers);
                return stored.err().map(|error| {
                    Event::NotStored(format!("the node map could not be stored: {error}"))
                });
            }
            Action::Ready => {
                if let Some(ready) = self.ready.take() {
                    ready();
                }
            }
        }
        None
    }

    /// Keeps what no server is known to have been told of for the manager's next life.
    async fn keep_audit(mut self) {
        if let Some(thread) = self.listener.end() {
            // It looks up several times a second, and cannot fail.
            let _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
        while let Ok(notice) = self.notices.try_recv() {
            self.take(Event::Notice(notice));
        }
        self.take(Event::NoticesLost(self.listener.take_lost()));
        let left = self.machine.into_audit();
        let count = left.events.len();
        if count == 0 && left.dropped == 0 {
            return;
        }
        match self.directory.save_audit(&left) {
            Ok(()) => tracing::info!(count, "events that no server has are kept on the disk"),
            Err(error) => {
                tracing::error!(%error, count, "events that no server has are lost");
            }
        }
    }

    fn read_stored(&self) -> Stored {
        let audit = self.directory.take_audit().unwrap_or_else(|error| {
            tracing::error!(%error, "the events that were kept cannot be read, and are lost");
            None
        });
        let policy = self.directory.policy().unwrap_or_else(|error| {
            tracing::error!(%error, "the stored policy cannot be read");
            None
        });
        let peers = self.directory.peers().unwrap_or_else(|error| {
            tracing::error!(%error, "the stored node map cannot be read");
            None
        });
        Stored {
            policy,
            peers: peers.unwrap_or_default(),
            audit: audit.unwrap_or_default(),
        }
    }
}

async fn optional<T>(future: Option<impl Future<Output = T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// The thread that talks to the kernel, one operation after the other.
struct KernelThread {
    operations: std::sync::mpsc::Sender<Operation>,
    outcomes: mpsc::Receiver<Outcome>,
}

impl KernelThread {
    fn start(mut operator: Operator) -> io::Result<Self> {
        let (operations, waiting) = std::sync::mpsc::channel();
        let (done, outcomes) = mpsc::channel(1);
        thread::Builder::new()
            .name("kernel".into())
            .spawn(move || {
                while let Ok(operation) = waiting.recv() {
                    if done.blocking_send(operator.run(operation)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            operations,
            outcomes,
        })
    }

    /// The machine starts one operation at a time, so that this queue holds at most one.
    fn start_operation(&self, operation: Operation) {
        if self.operations.send(operation).is_err() {
            tracing::error!("the kernel thread has ended");
        }
    }
}

/// A certificate is complained about from so long before it expires.
const EXPIRY_WARNING: i64 = 30 * 24 * 60 * 60;

fn warn_of_expiry(credentials: &ClientCredentials) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let left = credentials
        .own
        .as_ref()
        .and_then(|own| pki::not_after(&own.certificate_der).ok())
        .map(|not_after| not_after.saturating_sub_unsigned(now));
    if let Some(left) = left.filter(|left| *left < EXPIRY_WARNING) {
        tracing::warn!(
            days = left / (24 * 60 * 60),
            "this node's certificate expires soon"
        );
    }
}

/// Eight hexadecimal digits that differ from boot to boot.
fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(8)
        .collect();
    if digits.len() == 8 {
        digits
    } else {
        format!("{:08x}", fastrand::u32(..))
    }
}
