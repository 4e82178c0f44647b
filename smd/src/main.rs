//! `smd`: the security manager's process. Reads the command line, joins or runs, stops when told.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use dsi_daemon::logs::{self, LogFormat};
use dsi_daemon::{label, service};
use dsi_proto::files;
use dsi_proto::token::JoinToken;
use smd::addresses;
use smd::config::{Config, DEFAULT_DIRECTORY};
use smd::driver::Manager;
use smd::join::join;
use smd::kernel::RunningKernel;
use smd::machine::Timing;
use smd::persist::Directory;
use zeroize::Zeroizing;

/// Longest token file.
const MAX_TOKEN: u64 = 16 << 10;

/// The security manager of DSI: one a node, between the servers and the kernel.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done or stopped, 1 failed, 2 wrong usage."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Shape of the log lines
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this node a member of a cluster, with a token from `dsictl node join-token`
    #[command(after_help = "Example:\n  smd join --token-file munster.token --address 192.0.2.11")]
    Join(Join),
    /// Do the manager's work until stopped
    #[command(after_help = "Example:\n  smd run --dir /var/lib/dsi/node --log-format json")]
    Run(Run),
}

#[derive(Debug, Args)]
struct Join {
    /// File that holds the join token; `-` for standard input
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Where to keep the node's credentials and state
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
    dir: PathBuf,
    /// An address of this node, IPv4 or IPv6; repeat for more. What goes to or comes from one that is not named is outside.
    /// By default those by which it reaches the server: of one family only, if the server has one of that only
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpAddr>,
}

#[derive(Debug, Args)]
struct Run {
    /// The node's directory, as made by `smd join`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
    dir: PathBuf,
    /// Configuration, instead of smd.toml in the directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to show metrics, instead of what the configuration says
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logs::start(arguments.log_format);
    // Before any socket and any other thread.
    if let Err(error) = label::claim() {
        tracing::warn!(%error, "this process has no management ScID; a policy may cut it off");
    }
    let done = match &arguments.command {
        Command::Join(arguments) => run_join(arguments),
        Command::Run(arguments) => run_manager(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run_join(arguments: &Join) -> Result<(), Failure> {
    let token = read_token(&arguments.token_file)?;
    let directory = Directory::new(&arguments.dir);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let node = runtime.block_on(join(&directory, &token, &arguments.address))?;
    tracing::info!(
        node = node.name,
        snid = node.snid,
        cluster = %node.cluster,
        addresses = ?node.addresses,
        directory = %arguments.dir.display(),
        "this node is a member; start `smd run`"
    );
    match addresses::here() {
        Ok(own) => {
            let left_out = addresses::left_out(&own, &node.addresses);
            if let Some(text) = addresses::warning(&node, directory.path(), &left_out) {
                tracing::warn!("{text}");
            }
        }
        Err(error) => tracing::warn!(%error, "cannot look for addresses that were left out"),
    }
    Ok(())
}

fn read_token(path: &Path) -> Result<JoinToken, Failure> {
    let text = if path == Path::new("-") {
        let mut text = Zeroizing::new(Vec::new());
        std::io::stdin().take(MAX_TOKEN).read_to_end(&mut text)?;
        text
    } else {
        match files::read_private(path, MAX_TOKEN) {
            Err(error @ files::FileError::NotPrivate { .. }) => {
                tracing::warn!(%error, "the token is used all the same");
                Zeroizing::new(files::read(path, MAX_TOKEN)?)
            }
            other => Zeroizing::new(other?),
        }
    };
    Ok(std::str::from_utf8(&text)?.parse()?)
}

fn run_manager(arguments: &Run) -> Result<(), Failure> {
    let config = Config::load(
        &arguments.dir,
        arguments.config.as_deref(),
        arguments.metrics,
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let shutdown = service::shutdown_signals()?;
        let manager = Manager::build(&config, Arc::new(RunningKernel), Timing::default()).await?;
        let node = manager.identity().node.clone();
        tracing::info!(node = node.name, snid = node.snid, cluster = %node.cluster, metrics = ?manager.metrics_address(), "smd starts");
        tokio::spawn(service::watchdog(shutdown.clone()));
        let ready = || service::ready(&format!("node {} (SnID {})", node.name, node.snid));
        manager.run(shutdown, ready).await?;
        tracing::info!("stopped; the kernel goes on enforcing");
        Ok(())
    })
}
