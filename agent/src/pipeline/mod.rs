//! The whole, in one direction: watch -> tail -> frame -> chunk -> upload -> commit.
//!
//! One thread (the ring thread) runs [`Pipeline::run`]: an event loop over what the kernel, the framing threads, the
//! destination and the clock have to say. After each event it does everything that needs no waiting
//! (`Pipeline::advance`), then waits for the next. No state is shared with another thread.

mod absent;
pub mod aside;
mod closing;
mod delivery;
pub mod discover;
mod framing;
mod intake;
mod order;
mod peek;
mod queue;
mod reader;
mod report;
mod scan;
mod segments;
mod source;
pub mod state;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::checkpoint::{self, Checkpoint};
use crate::config::{Config, StartAt};
use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::limits;
use crate::limits::{BLOCK_BYTES, ONCE_FILES_MAX, PAGE_BYTES, SOURCES_MAX};
use crate::observe::http::Health;
use crate::pool::PagePool;
use crate::types::StreamId;
use crate::upload::Destination;
use crate::watch::{Targets, Watcher, shared_prefix};

use delivery::{Outgoing, Uploaded};
use framing::Framing;
use intake::ReadDone;
pub use report::Progress;
use scan::Moment;
use source::Source;
use state::{Recovered, StateKeeper};

/// How far the agent goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Follows the configured logs until it is told to stop.
    Follow,
    /// Delivers these files, each on its own, and ends.
    Once(Vec<PathBuf>),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that had been read was delivered.
    Settled,
    /// The grace period was over first; what is missing is delivered after the next start, under the same ids.
    GraceOver,
}

/// After a wake-up the agent looks at most so often whether enough has gathered for a read; sooner where chunks are
/// to leave sooner.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Between looks at the directories reading goes on, however often names come and go: for so many times as long as the
/// look took. Not longer, since in a storm of rotations a backup may be there for some ten milliseconds only.
const SCAN_PAUSE_FACTOR: u32 = 4;

/// The shortest pause between looks.
const SCAN_PAUSE_MIN: Duration = Duration::from_millis(1);

/// When to look again whether a live log that was not there is there: in a rotation it is gone for some microseconds.
const MISSING_LOOK: Duration = Duration::from_millis(100);

/// The agent.
pub struct Pipeline<D: Disk, T: Destination> {
    config: Rc<Config>,
    mode: Mode,
    /// Files of [`Mode::Once`] that have not been taken up.
    waiting: VecDeque<PathBuf>,
    disk: Rc<D>,
    destination: Rc<T>,
    watcher: Watcher,
    health: Health,
    progress: Rc<Progress>,
    stream: StreamId,
    start_at: StartAt,
    state_lost: bool,
    /// Ledgers of the checkpoint whose source has not been seen in this run.
    remembered: BTreeMap<String, Ledger>,
    state: StateKeeper<D>,
    sources: Vec<Source<D>>,
    pool: PagePool,
    /// Buffers for blocks that are not in use.
    buffers: Vec<Vec<u8>>,
    blocks_in_framing: usize,
    framing: Framing,
    reads: FuturesUnordered<LocalBoxFuture<'static, ReadDone<D::File>>>,
    uploads: FuturesUnordered<LocalBoxFuture<'static, Uploaded>>,
    outbox: VecDeque<Outgoing>,
    /// When to look at the directories again at the latest.
    next_scan: Instant,
    /// When to look at them again at the earliest.
    scan_not_before: Instant,
    /// Writes have been noticed; when to look how much was written.
    look_at: Option<Instant>,
    /// Set when the agent has been told to stop: until when it may deliver.
    stop_by: Option<Instant>,
}

/// What the event loop waits for.
enum Event<F> {
    Framed,
    Read(Box<ReadDone<F>>),
    Uploaded(Box<Uploaded>),
    Saved(io::Result<()>),
    StructureChanged,
    DataWritten,
    Deadline,
    Stop,
}

/// What a pipeline is made of, besides its configuration.
pub struct Parts<D: Disk, T: Destination> {
    /// Files and state.
    pub disk: Rc<D>,
    /// Where chunks go.
    pub destination: Rc<T>,
    /// What notices writes.
    pub watcher: Watcher,
    /// Told that the agent is alive.
    pub health: Health,
    /// What is remembered.
    pub recovered: Recovered,
}

impl<D: Disk, T: Destination> Pipeline<D, T> {
    /// An agent that has not looked at anything yet. All memory of the data path is allocated here.
    ///
    /// # Errors
    /// Where framing threads cannot be started.
    pub fn new(config: Config, mode: Mode, parts: Parts<D, T>) -> io::Result<Self> {
        let Recovered { checkpoint: Checkpoint { stream, sources, .. }, first_start, state_lost } = parts.recovered;
        let blocks = limits::blocks(config.limits.workers);
        let start_at = if first_start && mode == Mode::Follow { config.source.start_at } else { StartAt::Beginning };
        let state = StateKeeper::new(parts.disk.clone());
        let waiting = match &mode {
            Mode::Follow => VecDeque::new(),
            Mode::Once(files) => files.iter().cloned().collect(),
        };
        Ok(Self {
            framing: Framing::start(config.limits.workers, blocks, config.chunk.encoding, config.chunk.level)?,
            pool: PagePool::new(config.limits.body_pool_bytes / PAGE_BYTES),
            buffers: (0..blocks).map(|_| Vec::with_capacity(BLOCK_BYTES)).collect(),
            config: Rc::new(config),
            mode,
            waiting,
            disk: parts.disk,
            destination: parts.destination,
            watcher: parts.watcher,
            health: parts.health,
            progress: Rc::default(),
            stream,
            start_at,
            state_lost,
            remembered: sources,
            state,
            sources: Vec::new(),
            blocks_in_framing: 0,
            reads: FuturesUnordered::new(),
            uploads: FuturesUnordered::new(),
            outbox: VecDeque::new(),
            next_scan: Instant::now(),
            scan_not_before: Instant::now(),
            look_at: None,
            stop_by: None,
        })
    }

    /// Figures that a progress display can read while [`Pipeline::run`] goes on.
    pub fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    /// Runs until `stop` resolves and what has been read is delivered or the grace period is over; or, for
    /// [`Mode::Once`], until everything is delivered.
    pub async fn run(&mut self, stop: impl Future<Output = ()>) -> Ended {
        let mut stop = std::pin::pin!(stop);
        // The stream's identity has to survive before anything is decided in it.
        self.state.changed_now(Instant::now());
        loop {
            let now = Instant::now();
            self.health.beat();
            if self.scan_due() <= now || self.room_for_files() > 0 {
                self.scan(now).await;
            }
            self.advance(now);
            self.report(now);
            let out_of_time = self.stop_by.is_some_and(|by| by <= now);
            if out_of_time || self.is_done() && self.state.is_clean() {
                return if self.is_done() { Ended::Settled } else { Ended::GraceOver };
            }
            match self.next_event(stop.as_mut()).await {
                Event::Read(done) => self.on_read(*done),
                Event::Uploaded(uploaded) => self.on_uploaded(*uploaded),
                Event::Saved(result) => self.on_saved(&result),
                Event::StructureChanged => {
                    report::wake_up("structure");
                    self.next_scan = now;
                }
                Event::DataWritten => {
                    report::wake_up("data");
                    self.look_at = Some(now + self.look_interval());
                }
                Event::Stop => self.stop(Instant::now()),
                Event::Framed | Event::Deadline => {}
            }
        }
    }

    /// Everything that can be done without waiting.
    fn advance(&mut self, now: Instant) {
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.look();
        }
        self.collect_framed(now);
        for index in 0..self.sources.len() {
            self.note_unsent(index, now);
            self.hand_to_framing(index, now);
            self.start_read(index, now);
            self.close_if_due(index, now);
            self.report_losses(index, now);
        }
        self.save_if_due(now);
        self.start_uploads();
    }

    async fn next_event(&mut self, stop: std::pin::Pin<&mut impl Future<Output = ()>>) -> Event<D::File> {
        let deadline = self.deadline();
        let stopping = self.stop_by.is_some();
        let scan_is_due = self.next_scan <= Instant::now();
        tokio::select! {
            biased;
            () = stop, if !stopping => Event::Stop,
            () = self.framing.wait() => Event::Framed,
            Some(done) = self.uploads.next() => Event::Uploaded(Box::new(done)),
            result = self.state.saved() => Event::Saved(result),
            () = self.watcher.structure_changed(), if !scan_is_due => Event::StructureChanged,
            Some(done) = self.reads.next() => Event::Read(Box::new(done)),
            () = self.watcher.data_written(), if self.look_at.is_none() && !stopping => Event::DataWritten,
            () = tokio::time::sleep_until(deadline) => Event::Deadline,
        }
    }

    fn deadline(&self) -> Instant {
        let sources = self.sources.iter().flat_map(|source| {
            let due = source.oldest_unsent.filter(|_| !source.due).map(|since| since + self.config.chunk.offload_after);
            [due, source.retry_at]
        });
        let others = [Some(self.scan_due()), self.look_at, self.stop_by, self.state.deadline()];
        sources.chain(others).flatten().min().unwrap_or(self.next_scan)
    }

    fn scan_due(&self) -> Instant {
        self.next_scan.max(self.scan_not_before)
    }

    fn look_interval(&self) -> Duration {
        (self.config.chunk.offload_after / 10).min(LOOK_INTERVAL_MAX)
    }

    /// Looks for logs, and in each one's directory for what has changed.
    async fn scan(&mut self, now: Instant) {
        self.next_scan = now + self.config.source.rescan_interval;
        let mut directories = self.find_sources();
        let disk = self.disk.clone();
        let moment = Moment { now, wall_ns: disk.wall_ns(), start_at: self.start_at };
        let once = self.mode != Mode::Follow;
        for source in &mut self.sources {
            if once && source.is_finished() {
                source.close_files();
                continue;
            }
            let problem = source.live_problem.clone();
            let found = source.scan(&*disk, moment).await;
            self.next_scan = found.again_in.map_or(self.next_scan, |pause| self.next_scan.min(now + pause));
            report::scanned(source, &found, problem.as_deref());
            if source.live_problem != source.told_problem {
                self.next_scan = self.next_scan.min(now + MISSING_LOOK);
            }
            directories.insert(source.directory.clone());
            source.drained = false;
        }
        // What appears from now on was written after the start.
        self.start_at = StartAt::Beginning;
        self.state_lost = false;
        self.sources.iter_mut().for_each(Source::note_state_lost);
        let prefix = |source: &Source<D>| shared_prefix(&source.base).to_owned();
        let mut prefixes: std::collections::BTreeSet<String> = self.sources.iter().map(prefix).collect();
        if self.config.source.paths.iter().any(|path| path.contains(['*', '?', '['])) {
            prefixes.insert(String::new());
        }
        let files = self.sources.iter().map(|source| source.directory.join(&source.base)).collect();
        if let Err(error) = self.watcher.watch(Targets { directories, prefixes, files }) {
            tracing::warn!(%error, "not everything can be watched; the rest is looked at every rescan_interval");
        }
        // Of what was written between the look at a file and the watch on it nobody is told.
        self.look();
        let ended = Instant::now();
        self.scan_not_before = ended + SCAN_PAUSE_MIN.max(ended.duration_since(now) * SCAN_PAUSE_FACTOR);
    }

    fn find_sources(&mut self) -> std::collections::BTreeSet<PathBuf> {
        let (logs, directories): (Vec<PathBuf>, _) = match self.mode {
            Mode::Once(_) => (self.waiting.drain(..self.room_for_files()).collect(), Default::default()),
            Mode::Follow => {
                let found = discover::discover(&*self.disk, &self.config.source.paths);
                (found.logs.into_iter().collect(), found.directories)
            }
        };
        for path in logs {
            let name = path.to_string_lossy().into_owned();
            if self.sources.iter().any(|source| source.name == name) {
                continue;
            }
            if self.mode == Mode::Follow && self.sources.len() == SOURCES_MAX {
                tracing::error!(
                    path = name,
                    SOURCES_MAX,
                    "too many logs: this one is not followed; narrow source.paths"
                );
                continue;
            }
            let ledger = self.remembered.remove(&name).unwrap_or_default();
            let mut source = Source::new(&path, self.mode == Mode::Follow, ledger);
            source.state_lost = self.state_lost;
            self.sources.push(source);
            self.resend_losses(self.sources.len() - 1);
        }
        directories
    }

    /// How many waiting files can be taken up: each one under way holds a buffer and an open chunk. They are taken up
    /// several at a time, because each time all that are under way are looked at again.
    fn room_for_files(&self) -> usize {
        if self.waiting.is_empty() || self.stop_by.is_some() {
            return 0;
        }
        let under_way = self.sources.iter().filter(|source| !source.is_finished()).count();
        if under_way > ONCE_FILES_MAX / 2 { 0 } else { self.waiting.len().min(ONCE_FILES_MAX - under_way) }
    }

    fn is_done(&self) -> bool {
        let ends = self.stop_by.is_some() || self.mode != Mode::Follow;
        let exhausted = |source: &Source<D>| self.stop_by.is_some() || source.is_exhausted();
        let taken_up = self.stop_by.is_some() || self.waiting.is_empty();
        ends && taken_up
            && self.outbox.is_empty()
            && self.uploads.is_empty()
            && self.sources.iter().all(|source| source.is_settled() && exhausted(source))
    }

    /// No more is read; what has been read is closed and delivered, as far as the grace period allows.
    fn stop(&mut self, now: Instant) {
        tracing::info!(grace = ?self.config.shutdown_grace, "stopping: delivering what has been read");
        self.stop_by = Some(now + self.config.shutdown_grace);
        for source in &mut self.sources {
            source.again.clear();
            source.paused = None;
            source.due = true;
        }
    }

    fn save_if_due(&mut self, now: Instant) {
        let (cluster_id, stream, remembered) = (&self.config.cluster_id, self.stream, &self.remembered);
        let sources = &mut self.sources;
        self.state.start_if_due(now, || {
            sources.iter_mut().for_each(Source::note_complete);
            let current = sources.iter().map(|source| (source.name.clone(), source.ledger.clone()));
            let others = remembered.iter().map(|(name, ledger)| (name.clone(), ledger.clone()));
            checkpoint::encode(&Checkpoint {
                cluster_id: cluster_id.clone(),
                stream,
                sources: others.chain(current).collect(),
            })
        });
    }
}
