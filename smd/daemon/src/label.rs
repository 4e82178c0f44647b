//! The ScID of a management process: 1, so that no policy can cut it off.

use std::time::Duration;

use dsi_proto::netlink::{Netlink, NetlinkError};
use tokio_util::sync::CancellationToken;

/// ScID of the management's own processes.
pub const MANAGEMENT: u32 = 1;

/// How often a running daemon makes sure that it still has its ScID: the module may come, go and come again.
const INTERVAL: Duration = Duration::from_secs(5);

/// Gives this process the management's ScID. To be called before the first socket is opened and before other
/// threads run; where the module is not loaded there is nothing to do.
///
/// # Errors
/// The module is there, but refuses.
pub fn claim() -> Result<(), NetlinkError> {
    let mut netlink = match Netlink::open() {
        Err(NetlinkError::ModuleNotLoaded) => return Ok(()),
        other => other?,
    };
    if netlink.task_get(None)?.scid != MANAGEMENT {
        netlink.task_set(None, MANAGEMENT)?;
        tracing::info!(scid = MANAGEMENT, "this process has the management's ScID");
    }
    Ok(())
}

/// Claims the ScID again whenever the module was loaded anew; ends at shutdown.
pub async fn keep(shutdown: CancellationToken) {
    let mut refused = false;
    while shutdown
        .run_until_cancelled(tokio::time::sleep(INTERVAL))
        .await
        .is_some()
    {
        let claimed = tokio::task::spawn_blocking(claim).await;
        match claimed {
            Ok(Err(error)) if !refused => {
                refused = true;
                tracing::warn!(%error, "this process has no management ScID; a policy may cut it off");
            }
            Ok(Ok(())) => refused = false,
            _ => {}
        }
    }
}
