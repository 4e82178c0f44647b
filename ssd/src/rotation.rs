//! Changes of the label keys. Which step is next follows from the state and from what the managers say, so that a
//! server that was killed in between goes on where it was.
//!
//! 1. Each node gets a second receive secret, the next one ([`Command::RotateKeys`]).
//! 2. When every connected node verifies with it, it is in use ([`Command::ActivateKeys`]). This spares messages; what
//!    spares packets is [`Node::takes`](crate::state::Node::takes): nobody is sent to with keys that he is not known
//!    to have.
//! 3. A node that comes late says so ([`Command::KeysTaken`]), and is sent to with the new keys from then on.
//! 4. The former secrets are retired by the next change, which is refused while anybody sends with them.

use std::collections::BTreeMap;
use std::time::Duration;

use dsi_proto::v1::{self, RotateKeysProgress};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::hub::Report;
use crate::keys;
use crate::session::Context;
use crate::state::{Command, Outcome, Rejection, SnId, State};
use crate::store::{ProposeError, Revision};

/// How long a server that finds a change under way when it starts waits for the managers to come back. Their longest
/// pause between two attempts is as long.
const RETURN: Duration = Duration::from_secs(30);

/// How often the secrets are drawn again because a node has joined meanwhile.
const ATTEMPTS: usize = 16;

/// Why a change of keys could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The state or the store does not allow it.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The store has done something else.
    #[error("the store answered {0:?}")]
    Answer(Outcome),
    /// There is no randomness.
    #[error("drawing the new keys: {0}")]
    Random(#[from] getrandom::Error),
}

/// Begins a change of keys, or with `force` ends the one that is under way; the epoch of the new ones.
///
/// # Errors
/// See [`Rejection::RotationUnderWay`] and [`Rejection::KeysInUse`].
pub async fn begin(context: &Context, force: bool) -> Result<u32, BeginError> {
    let mut attempts = 0..ATTEMPTS;
    loop {
        attempts.next();
        let nodes: Vec<SnId> = context.store.state().nodes().keys().copied().collect();
        let drawn = nodes.into_iter().map(|snid| Ok((snid, keys::draw()?)));
        let secrets = drawn.collect::<Result<_, getrandom::Error>>()?;
        let command = Command::RotateKeys { secrets, force };
        return match context.store.propose(command, None).await {
            Err(ProposeError::Rejected(Rejection::NodesChanged)) if !attempts.is_empty() => {
                continue;
            }
            Ok(Outcome::Rotating { epoch }) => Ok(epoch),
            Ok(other) => Err(BeginError::Answer(other)),
            Err(error) => Err(error.into()),
        };
    }
}

/// How far the change to an epoch has come.
pub fn progress(
    state: &State,
    connected: &BTreeMap<SnId, Report>,
    epoch: u32,
) -> RotateKeysProgress {
    let active = state.key_epochs().active >= epoch;
    let mut progress = RotateKeysProgress {
        epoch,
        active,
        ..RotateKeysProgress::default()
    };
    for node in state.nodes().values() {
        let done = |report: &Report| {
            if active {
                report.key_epoch >= epoch && report.node_map_version >= state.node_map_version()
            } else {
                node.verifies_epoch >= epoch
            }
        };
        let list = match connected.get(&node.snid) {
            // Its manager is there, the module is not: it has neither keys nor packets to lose.
            Some(report) if report.mode.is_empty() => &mut progress.away,
            Some(report) if done(report) => &mut progress.done,
            Some(_) => &mut progress.waiting,
            None => &mut progress.away,
        };
        list.push(node.name.clone());
    }
    progress.finished = active && progress.waiting.is_empty();
    progress
}

/// What a change of keys depends on. From before it begins, or a fast node's answer would be missed.
pub struct Watch {
    changes: broadcast::Receiver<SnId>,
    revisions: watch::Receiver<Revision>,
}

impl Watch {
    /// From now on.
    pub fn new(context: &Context) -> Self {
        Self {
            changes: context.hub.changes(),
            revisions: context.store.revisions(),
        }
    }

    /// Waits for something to have changed; false if nothing will any more.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            // Who has fallen behind looks at everything anyway.
            changed = self.changes.recv() => !matches!(changed, Err(broadcast::error::RecvError::Closed)),
            changed = self.revisions.changed() => changed.is_ok(),
        }
    }
}

/// Tells of each step of a change until all connected nodes send with the new keys.
pub async fn report(
    context: Context,
    epoch: u32,
    mut watch: Watch,
    answers: mpsc::Sender<Result<RotateKeysProgress, Status>>,
) {
    let mut told = None;
    loop {
        let progress = progress(&context.store.state(), &context.hub.connected(), epoch);
        let finished = progress.finished;
        if told.as_ref() != Some(&progress) {
            told = Some(progress.clone());
            if answers.send(Ok(progress)).await.is_err() {
                return;
            }
        }
        if finished {
            return;
        }
        tokio::select! {
            goes_on = watch.changed() => if !goes_on { return },
            () = answers.closed() => return,
        }
    }
}

/// Takes the steps that are due, as long as the server runs.
pub async fn drive(context: Context) {
    let mut watch = Watch::new(&context);
    let found = context.store.state().key_epochs().next;
    let returned = Instant::now() + RETURN;
    loop {
        let resumed = found.is_some() && Instant::now() < returned;
        let due = {
            let state = context.store.state();
            state.key_epochs().next.filter(|&epoch| {
                let progress = progress(&state, &context.hub.connected(), epoch);
                let waits_for_return = resumed && found == Some(epoch);
                progress.waiting.is_empty() && (!waits_for_return || progress.away.is_empty())
            })
        };
        if let Some(epoch) = due {
            let command = Command::ActivateKeys { epoch };
            match context.store.propose(command, None).await {
                Ok(_) => tracing::info!(epoch, "the new label keys are in use"),
                Err(error) => tracing::error!(epoch, %error, "the new label keys cannot be used"),
            }
        }
        tokio::select! {
            goes_on = watch.changed() => if !goes_on { return },
            () = tokio::time::sleep_until(returned), if resumed => {}
        }
    }
}

/// A manager has said which keys its kernel has: that decides with which ones others send to the node.
pub async fn note(context: &Context, snid: SnId, told: &v1::State) {
    let (verifies, sends) = (told.newest_key_epoch, told.oldest_key_epoch);
    let news = {
        let state = context.store.state();
        let node = state.nodes().get(&snid);
        node.is_some_and(|node| verifies > node.verifies_epoch || sends > node.sends_epoch)
    };
    if news {
        let command = Command::KeysTaken {
            snid,
            verifies,
            sends,
        };
        if let Err(error) = context.store.propose(command, None).await {
            tracing::error!(snid, %error, "which keys the node has could not be stored");
        }
    }
}
