//! A cluster in one process: a real server and real managers over real TLS on loopback, with kernels that are fake.

pub mod kernel;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use dsi_proto::profile::Profile;
use dsi_proto::signature::{self, Signer};
use dsi_proto::token::{JoinToken, TokenSecret};
use dsi_proto::v1::admin_client::AdminClient;
use dsi_proto::v1::{self, ApplyPolicyProgress, PolicyBundle};
use dsp_schema::CompileInput;
use smd::config::Config as ManagerConfig;
use smd::driver::Manager;
use smd::join::{JoinError, join};
use smd::machine::Timing;
use smd::persist::{Directory, NodeDescription};
use ssd::bootstrap::{self, ClusterFiles, NewCluster};
use ssd::clock::Clock;
use ssd::config::{Config as ServerConfig, Overrides};
use ssd::server::Server;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use kernel::FakeKernel;

/// How long anything may take before a test gives up; nothing takes nearly that long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for something that has to happen; a test that waits for ever says nothing.
pub async fn within<T>(what: &str, happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, happens)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

/// Looks again and again until something is as it should be.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, looking).await
}

/// The next message of a stream.
pub async fn next<T>(what: &str, stream: &mut Streaming<T>) -> T {
    within(what, stream.message())
        .await
        .unwrap()
        .unwrap_or_else(|| panic!("the stream has ended before: {what}"))
}

/// All messages of a stream.
pub async fn collect<T>(stream: &mut Streaming<T>) -> Result<Vec<T>, Status> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.push(message);
    }
    Ok(all)
}

/// Something that runs until it is stopped.
pub struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start<F: Future<Output = ()> + Send + 'static>(
        run: impl FnOnce(CancellationToken) -> F,
    ) -> Self {
        let shutdown = CancellationToken::new();
        Self {
            task: tokio::spawn(run(shutdown.clone())),
            shutdown,
        }
    }

    /// Stops it, in order.
    pub async fn stop(self) {
        self.shutdown.cancel();
        within("it stops", self.task)
            .await
            .expect("it did not panic");
    }
}

/// A port of loopback's for the server to listen on, also when it starts again. It is bound, and not listened on: while
/// this is held the system gives it to nobody else, and who connects while the server is down is refused.
fn reserve() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    // The server's own, which is bound beside it, allows for that, too.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A cluster.
pub struct Cluster {
    pub directory: TempDir,
    pub files: ClusterFiles,
    pub signer: Signer,
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    offset_ms: Arc<AtomicI64>,
    server: Option<Running>,
    _port: TcpSocket,
}

impl Cluster {
    /// A new cluster with its server running.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (port, address) = reserve();
        let servers = [address.to_string().parse().unwrap()];
        let new = NewCluster {
            name: "test",
            servers: &servers,
            administrator: "anna",
        };
        let files = bootstrap::init(
            &directory.path().join("server"),
            &directory.path().join("admin"),
            &new,
            SystemTime::now(),
        )
        .unwrap();
        let key = std::fs::read_to_string(&files.signer_key).unwrap();
        let signer = signature::load_signer(&key, &std::fs::read(&files.anchor).unwrap()).unwrap();
        let mut cluster = Self {
            directory,
            files,
            signer,
            address,
            metrics: address,
            offset_ms: Arc::default(),
            server: None,
            _port: port,
        };
        cluster.start_server().await;
        cluster
    }

    pub async fn start_server(&mut self) {
        let overrides = Overrides {
            listen: Some(self.address),
            metrics: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        };
        let config = ServerConfig::load(&self.files.server_directory, None, &overrides).unwrap();
        let offset = self.offset_ms.clone();
        let clock = Clock::new(move || {
            SystemTime::now()
                + Duration::from_millis(offset.load(Ordering::Relaxed).try_into().unwrap())
        });
        // A server that stopped a moment ago may still hold its store.
        let server = until("the server starts", async || {
            Server::build(&config, clock.clone()).await.ok()
        })
        .await;
        self.metrics = server.metrics_address().unwrap();
        self.server = Some(Running::start(|shutdown| async {
            server.run(shutdown).await.unwrap()
        }));
    }

    pub async fn stop_server(&mut self) {
        self.server.take().expect("the server runs").stop().await;
    }

    /// Lets the server's clock jump.
    pub fn advance(&self, by: Duration) {
        self.offset_ms
            .fetch_add(by.as_millis().try_into().unwrap(), Ordering::Relaxed);
    }

    pub fn uuid(&self) -> Uuid {
        self.files.uuid
    }

    pub fn profile(&self) -> Profile {
        Profile::load(&self.files.profile_directory).unwrap()
    }

    pub async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.profile().connect().await.unwrap())
    }

    pub async fn token(&self, name: &str) -> JoinToken {
        let request = v1::CreateJoinTokenRequest {
            name: name.into(),
            snid: 0,
            ttl_seconds: 60,
        };
        let made = self
            .admin()
            .await
            .create_join_token(request)
            .await
            .unwrap()
            .into_inner();
        JoinToken {
            servers: self.profile().cluster.servers,
            name: name.into(),
            secret: made.token.parse::<TokenSecret>().unwrap(),
            ca_der: made.ca_der,
        }
    }

    pub fn node_directory(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub async fn join(
        &self,
        token: &JoinToken,
        directory: &str,
        address: &str,
    ) -> Result<NodeDescription, JoinError> {
        join(
            &Directory::new(&self.node_directory(directory)),
            token,
            &[address.parse().unwrap()],
        )
        .await
    }

    /// Joins a node and starts its manager.
    pub async fn node(&self, name: &str, address: &str) -> Node {
        let token = self.token(name).await;
        let description = self.join(&token, name, address).await.unwrap();
        let kernel = FakeKernel::new();
        let mut node = Node {
            description,
            directory: self.node_directory(name),
            kernel,
            manager: None,
        };
        node.start().await;
        node
    }

    /// A policy of this cluster, signed by its signer.
    pub fn policy(&self, version: u64) -> PolicyBundle {
        bundle(&self.signer, self.uuid(), version, &source("enforcing"))
    }

    /// Applies a policy and waits for the nodes; the last message.
    pub async fn apply(&self, policy: PolicyBundle) -> Result<ApplyPolicyProgress, Status> {
        Ok(self
            .apply_all(policy)
            .await?
            .pop()
            .expect("there is a last message"))
    }

    /// Applies a policy and waits for the nodes; all messages.
    pub async fn apply_all(
        &self,
        policy: PolicyBundle,
    ) -> Result<Vec<ApplyPolicyProgress>, Status> {
        let request = v1::ApplyPolicyRequest {
            policy: Some(policy),
            comment: "a test".into(),
            wait: true,
        };
        let mut progress = self
            .admin()
            .await
            .max_encoding_message_size(usize::MAX)
            .apply_policy(request)
            .await?
            .into_inner();
        within("every node has answered", collect(&mut progress)).await
    }

    pub async fn nodes(&self) -> Vec<v1::Node> {
        self.admin()
            .await
            .list_nodes(v1::ListNodesRequest {})
            .await
            .unwrap()
            .into_inner()
            .nodes
    }

    /// Waits until a node is as described.
    pub async fn until_node(
        &self,
        name: &str,
        what: &str,
        is: impl Fn(&v1::Node) -> bool,
    ) -> v1::Node {
        until(what, async || {
            self.nodes()
                .await
                .into_iter()
                .find(|node| node.name == name && is(node))
        })
        .await
    }

    pub async fn newest_policy(&self) -> u64 {
        self.admin()
            .await
            .get_status(v1::GetStatusRequest {})
            .await
            .unwrap()
            .into_inner()
            .policy_version
    }
}

/// A node: its manager, its directory, its kernel.
pub struct Node {
    pub description: NodeDescription,
    pub directory: PathBuf,
    pub kernel: FakeKernel,
    manager: Option<Running>,
}

impl Node {
    pub async fn start(&mut self) {
        let config = ManagerConfig {
            directory: self.directory.clone(),
            metrics: None,
            servers: None,
        };
        let timing = Timing {
            poll: Duration::from_millis(100),
            kernel_retry: Duration::from_millis(50),
            reconnect_first: Duration::from_millis(20),
            reconnect_longest: Duration::from_millis(200),
        };
        let manager = Manager::build(&config, Arc::new(self.kernel.clone()), timing)
            .await
            .unwrap();
        self.manager = Some(Running::start(|shutdown| async {
            manager.run(shutdown, || {}).await.unwrap()
        }));
    }

    pub async fn stop(&mut self) {
        self.manager.take().expect("the manager runs").stop().await;
    }
}

/// The text of a small policy.
pub fn source(mode: &str) -> String {
    format!(
        r#"<DSP xmlns="urn:dsi:dsp:1" version_label="a test" mode="{mode}" default="deny">
  <contexts><context ScID="10" name="phonemania"/></contexts>
  <rules>
    <socket_label><protocol>udp</protocol><port>8800</port><new_ScID>10</new_ScID></socket_label>
    <transition><parent_ScID>2</parent_ScID><binary_ScID>10</binary_ScID><new_ScID>10</new_ScID></transition>
  </rules>
</DSP>
"#
    )
}

/// A policy, compiled and signed.
pub fn bundle(signer: &Signer, cluster: Uuid, version: u64, source: &str) -> PolicyBundle {
    let document = dsp_schema::parse("policy.xml", source.as_bytes()).unwrap();
    let image = dsp_schema::compile(
        &document,
        &CompileInput {
            cluster_uuid: *cluster.as_bytes(),
            version,
        },
    )
    .unwrap();
    let signature = signature::sign_detached(signer, &image).unwrap();
    PolicyBundle {
        version,
        image,
        source: source.into(),
        signature,
    }
}

/// Asserts that something was refused, how, and that the message names the fault.
pub fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, word: &str) {
    let status = result.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(
        status.message().contains(word),
        "`{word}` is not in: {}",
        status.message()
    );
}

/// The status by which a server refused a join.
pub fn refusal(result: Result<NodeDescription, JoinError>) -> Result<NodeDescription, Status> {
    result.map_err(|error| match error {
        JoinError::Refused(status) => *status,
        other => panic!("not refused by the server: {other}"),
    })
}
