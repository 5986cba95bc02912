//! Keeping the checkpoint: what is done with the one that is found, and when a new one is written.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::time::Instant;

use crate::checkpoint::{self, Checkpoint};
use crate::disk::Disk;
use crate::types::StreamId;

/// Name of the checkpoint in the state directory.
pub const CHECKPOINT: &str = "checkpoint";

/// Receipts alone are written this late: a crash in between costs a duplicate request, which the receiver recognises,
/// while every write costs an fsync on a device that etcd needs.
const LAZY_SAVE: Duration = Duration::from_secs(1);

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Why the agent cannot start from the state it found.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The state is intact and not ours to use: the operator has to decide.
    #[error("{0}")]
    NotOurs(String),
    /// The state directory cannot be read.
    #[error("cannot read the checkpoint: {0}")]
    Unreadable(#[source] io::Error),
}

/// How the agent starts.
pub struct Recovered {
    /// What is remembered; empty on a first start.
    pub checkpoint: Checkpoint,
    /// There was no checkpoint.
    pub first_start: bool,
    /// There was one, damaged: everything on disk is delivered again rather than anything lost.
    pub state_lost: bool,
}

/// Reads the checkpoint. A damaged one is kept beside the new one and never silently replaced by nothing: delivery starts
/// over from the oldest file there is, in a new stream, and says so.
///
/// # Errors
/// See [`StateError`].
pub async fn recover<D: Disk>(disk: &D, cluster_id: &str) -> Result<Recovered, StateError> {
    let fresh = || Checkpoint {
        cluster_id: cluster_id.to_owned(),
        stream: StreamId(fastrand::u128(..).to_le_bytes()),
        sources: Default::default(),
    };
    let Some(bytes) = disk.load_state(Path::new(CHECKPOINT)).map_err(StateError::Unreadable)? else {
        return Ok(Recovered { checkpoint: fresh(), first_start: true, state_lost: false });
    };
    match checkpoint::decode(&bytes) {
        Ok(found) if found.cluster_id != cluster_id => Err(StateError::NotOurs(format!(
            "the state directory belongs to cluster_id {:?} and this is {cluster_id:?}: correct cluster_id, or give this cluster \
             a state_directory of its own",
            found.cluster_id
        ))),
        Ok(checkpoint) => Ok(Recovered { checkpoint, first_start: false, state_lost: false }),
        Err(error @ checkpoint::Error::Newer(_)) => Err(StateError::NotOurs(error.to_string())),
        Err(checkpoint::Error::Damaged(what)) => {
            let kept = PathBuf::from(format!("{CHECKPOINT}.damaged-{}", &blake3::hash(&bytes).to_hex()[..8]));
            tracing::error!(what, kept = %kept.display(), "the checkpoint is damaged: everything on disk is delivered again, in a new stream");
            disk.replace_state(kept, vec![Bytes::from(bytes)]).await.map_err(StateError::Unreadable)?;
            Ok(Recovered { checkpoint: fresh(), first_start: false, state_lost: true })
        }
    }
}

/// Writes checkpoints, one at a time, and knows which state is durable.
pub struct StateKeeper<D: Disk> {
    disk: Rc<D>,
    current: u64,
    durable: u64,
    due: Option<Instant>,
    saving: Option<(u64, LocalBoxFuture<'static, io::Result<()>>)>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl<D: Disk> StateKeeper<D> {
    /// A keeper for a state that is durable as it is.
    pub fn new(disk: Rc<D>) -> Self {
        Self { disk, current: 0, durable: 0, due: None, saving: None, failures: 0, retry_at: None }
    }

    /// The state has changed in a way that something waits for. Returns its generation.
    pub fn changed_now(&mut self, now: Instant) -> u64 {
        self.current += 1;
        self.due = Some(now);
        self.current
    }

    /// The state has changed, and nothing waits for that to be durable.
    pub fn changed(&mut self, now: Instant) {
        self.current += 1;
        self.due.get_or_insert(now + LAZY_SAVE);
    }

    /// Whether a generation survives a crash.
    pub fn is_durable(&self, generation: u64) -> bool {
        generation <= self.durable
    }

    /// Whether all changes survive a crash.
    pub fn is_clean(&self) -> bool {
        self.current == self.durable
    }

    /// When [`StateKeeper::start_if_due`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        if self.saving.is_some() { None } else { self.due.map(|due| self.retry_at.map_or(due, |retry| due.max(retry))) }
    }

    /// Starts to write the state, if that is due and no write is under way.
    pub fn start_if_due(&mut self, now: Instant, encode: impl FnOnce() -> Vec<u8>) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.due = None;
            let (disk, content) = (self.disk.clone(), vec![Bytes::from(encode())]);
            let save = async move { disk.replace_state(CHECKPOINT.into(), content).await };
            self.saving = Some((self.current, Box::pin(save)));
        }
    }

    /// Resolves when the write under way has ended, with its result; never without one.
    pub async fn saved(&mut self) -> io::Result<()> {
        let Some((generation, saving)) = &mut self.saving else { return std::future::pending().await };
        let generation = *generation;
        let result = saving.await;
        self.saving = None;
        let now = Instant::now();
        match &result {
            Ok(()) => {
                self.durable = generation;
                (self.failures, self.retry_at) = (0, None);
            }
            Err(_) => {
                let pause = RETRY_MIN.saturating_mul(1 << self.failures.min(5)).min(RETRY_MAX);
                self.failures += 1;
                self.retry_at = Some(now + pause);
                self.due.get_or_insert(now);
            }
        }
        result
    }

    /// How often writing has failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}
