//! `ssd`: the security server's process. Reads the command line, starts the server, stops it when told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use dsi_daemon::logs::{self, LogFormat};
use dsi_daemon::{label, service};
use ssd::clock::Clock;
use ssd::config::{Config, Overrides};
use ssd::server::Server;

/// The security server of DSI.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  ssd\n  ssd --dir /srv/dsi --listen 192.0.2.1:7430 --log-format json\n\nThe directory is made by `dsictl cluster init`. Exit codes: 0 stopped, 1 failed, 2 wrong usage."
)]
struct Arguments {
    /// The server's directory: credentials, store, ssd.toml
    #[arg(
        long,
        visible_alias = "data-dir",
        value_name = "DIR",
        default_value = "/var/lib/dsi/server"
    )]
    dir: PathBuf,
    /// Configuration, instead of ssd.toml in the directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, instead of what the configuration says
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where to show metrics, instead of what the configuration says
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Shape of the log lines
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logs::start(arguments.log_format);
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let overrides = Overrides {
        listen: arguments.listen,
        metrics: arguments.metrics,
    };
    let config = Config::load(&arguments.dir, arguments.config.as_deref(), &overrides)?;
    // Before any socket and any other thread.
    if let Err(error) = label::claim() {
        tracing::warn!(%error, "this process has no management ScID; a policy may cut it off");
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(&config))
}

async fn serve(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = service::shutdown_signals()?;
    let server = Server::build(config, Clock::system()).await?;
    let address = server.address()?;
    tracing::info!(%address, metrics = ?server.metrics_address(), directory = %config.directory.display(), "ssd answers");
    service::ready(&format!("answering on {address}"));
    tokio::spawn(service::watchdog(shutdown.clone()));
    tokio::spawn(label::keep(shutdown.clone()));
    server.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}
