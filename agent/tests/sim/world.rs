//! Runs a schedule against the real pipeline, and judges what arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use auditail::checkpoint;
use auditail::config::{self, Config, StartAt, WatchRung};
use auditail::manifest::{Encoding, Kind};
use auditail::observe::http::Health;
use auditail::pipeline::state::{CHECKPOINT, recover};
use auditail::pipeline::{Mode, Parts, Pipeline};
use auditail::types::{ChunkId, Span};
use auditail::watch::Watcher;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::destination::{Mood, SimDestination, Stored};
use crate::disk::{Faults, SimDisk};
use crate::schedule::{Action, Schedule, Settings};
use crate::writer::{Act, LogWriter, serials};

/// Virtual time within which everything has to be delivered once faults have stopped.
const SETTLE_LIMIT: Duration = Duration::from_secs(600);

/// More requests or reads than this in one run mean that the agent turns in circles.
const CALLS_MAX: u64 = 200_000;

/// What is wrong with a run.
pub(crate) type Verdict = Result<Summary, String>;

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub written: usize,
    pub delivered: usize,
    pub excused: usize,
    pub chunks: usize,
}

impl Summary {
    /// Adds another run's figures.
    pub(crate) fn add(&mut self, other: &Self) {
        self.written += other.written;
        self.delivered += other.delivered;
        self.excused += other.excused;
        self.chunks += other.chunks;
    }
}

struct World {
    disk: Rc<SimDisk>,
    destination: Rc<SimDestination>,
    writer: LogWriter,
    settings: Settings,
    agent: Option<(JoinHandle<()>, Rc<Notify>)>,
    trace: bool,
    started: Instant,
}

/// Runs a schedule. Everything in it follows from the schedule, so that a failure can be had again.
pub(crate) fn run(schedule: &Schedule, trace: bool) -> Verdict {
    fastrand::seed(schedule.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let disk = Rc::new(SimDisk::new(schedule.seed, schedule.settings.births));
        let mut world = World {
            writer: LogWriter::new(disk.clone(), schedule.seed),
            disk,
            destination: Rc::new(SimDestination::new(schedule.seed)),
            settings: schedule.settings,
            agent: None,
            trace,
            started: Instant::now(),
        };
        world.start();
        for &(pause_ms, action) in &schedule.steps {
            tokio::time::sleep(Duration::from_millis(pause_ms.into())).await;
            world.apply(action).await?;
        }
        world.settle().await?;
        world.judge(schedule)
    })
}

impl World {
    fn tell(&self, what: impl std::fmt::Display) {
        if self.trace {
            println!("{:>9} ms  {what}", self.started.elapsed().as_millis());
        }
    }

    fn start(&mut self) {
        self.tell("agent starts");
        let stop = Rc::new(Notify::new());
        let (disk, destination, settings, stopped) =
            (self.disk.clone(), self.destination.clone(), self.settings, stop.clone());
        let agent = tokio::task::spawn_local(async move {
            let config = configuration(&settings);
            let recovered = recover(&*disk, "sim").await.expect("a state the agent wrote itself");
            let watcher =
                Watcher::choose(WatchRung::Poll, &Default::default(), Duration::from_millis(settings.poll_ms))
                    .expect("polling")
                    .0;
            let parts = Parts { disk, destination, watcher, health: Health::new(Duration::from_secs(60)), recovered };
            let mut pipeline = Pipeline::new(config, Mode::Follow, parts).expect("a pipeline");
            pipeline.run(async move { stopped.notified().await }).await;
        });
        self.agent = Some((agent, stop));
    }

    async fn apply(&mut self, action: Action) -> Result<(), String> {
        self.tell(format!("{action:?}"));
        match action {
            Action::Log(act) => self.writer.act(act),
            Action::Destination(mood) => self.destination.mood.set(mood),
            Action::Disk { .. } => self.disk.faults.set(action.faults().unwrap_or_default()),
            Action::Kill { down_ms } => {
                self.kill().await;
                self.judge_checkpoint()?;
                tokio::time::sleep(Duration::from_millis(down_ms.into())).await;
                self.start();
            }
            Action::Stop { down_ms } => {
                self.stop().await?;
                tokio::time::sleep(Duration::from_millis(down_ms.into())).await;
                self.start();
            }
            Action::ClockJump(seconds) => self.disk.advance_wall(i64::from(seconds) * 1_000_000_000),
        }
        self.check_bounds()
    }

    async fn kill(&mut self) {
        if let Some((agent, _)) = self.agent.take() {
            self.writer.agent_ends();
            agent.abort();
            let _ = agent.await;
        }
        self.disk.crash();
        self.tell("agent is gone");
    }

    async fn stop(&mut self) -> Result<(), String> {
        if let Some((agent, stop)) = self.agent.take() {
            self.writer.agent_ends();
            stop.notify_one();
            let ended = tokio::time::timeout(Duration::from_secs(60), agent).await;
            ended
                .map_err(|_| "the agent does not stop within its grace period")?
                .map_err(|error| format!("the agent: {error}"))?;
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), String> {
        if let Some((agent, _)) = &self.agent
            && agent.is_finished()
        {
            return Err("the agent has ended by itself".into());
        }
        let calls = self.disk.reads.get() + self.destination.requests.get();
        if calls > CALLS_MAX { Err(format!("{calls} reads and requests: the agent turns in circles")) } else { Ok(()) }
    }

    /// The checkpoint counts nothing as delivered that the destination does not have.
    fn judge_checkpoint(&self) -> Result<(), String> {
        let Some(bytes) = self.disk.state(CHECKPOINT) else { return Ok(()) };
        let checkpoint = checkpoint::decode(&bytes).map_err(|error| error.to_string())?;
        let stored = self.destination.stored.borrow();
        let there: BTreeSet<u64> = stored.values().map(|chunk| chunk.manifest.sequence).collect();
        let mut counted = checkpoint.sources.values().flat_map(|ledger| 1..=ledger.committed);
        counted.find(|sequence| !there.contains(sequence)).map_or(Ok(()), |sequence| {
            Err(format!("the checkpoint counts chunk {sequence} as delivered, and the destination does not have it"))
        })
    }

    /// Faults stop; the agent has to catch up.
    async fn settle(&mut self) -> Result<(), String> {
        self.tell("faults stop");
        self.destination.mood.set(Mood::Fine);
        self.disk.faults.set(Faults::default());
        self.writer.settle();
        let limit = Instant::now() + SETTLE_LIMIT;
        while !self.missing().is_empty() {
            self.check_bounds()?;
            if Instant::now() > limit {
                return Err(format!("not delivered: events {:?}", shorten(&self.missing())));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // What is delivered too much would be so soon.
        tokio::time::sleep(Duration::from_secs(20)).await;
        self.stop().await
    }

    fn missing(&self) -> Vec<u64> {
        let stored = self.destination.stored.borrow();
        let delivered: BTreeSet<u64> = stored.values().flat_map(|chunk| serials(&chunk.content)).collect();
        let excused = &self.writer.excused;
        self.writer
            .written
            .iter()
            .filter(|serial| !delivered.contains(serial) && !excused.contains(serial))
            .copied()
            .collect()
    }

    fn judge(&self, schedule: &Schedule) -> Verdict {
        if let Some(complaint) = self.destination.complaints.borrow().first() {
            return Err(complaint.clone());
        }
        let stored = self.destination.stored.borrow();
        let chunks: Vec<&Stored> = stored.values().collect();
        self.judge_ranges(&chunks)?;
        self.judge_chain(&stored)?;
        let mut in_order: Vec<&Stored> = chunks.clone();
        in_order.sort_by_key(|chunk| (chunk.manifest.sequence, chunk.manifest.span.start));
        let delivered: Vec<u64> = in_order.iter().flat_map(|chunk| serials(&chunk.content)).collect();
        let mut seen = BTreeSet::new();
        let twice: Vec<u64> = delivered.iter().copied().filter(|serial| !seen.insert(*serial)).collect();
        if !twice.is_empty() {
            return Err(format!("delivered twice: events {:?}", shorten(&twice)));
        }
        let strangers: Vec<u64> = seen.difference(&self.writer.written).copied().collect();
        if !strangers.is_empty() {
            return Err(format!("delivered but never written: {:?}", shorten(&strangers)));
        }
        let by_hand = schedule
            .steps
            .iter()
            .any(|(_, action)| matches!(action, Action::Log(Act::MoveAway | Act::CopyTruncate { append: false })));
        // A file without a name, or one emptied before it was looked at, has no place in the order; a file that cannot be read
        // for a while is passed over.
        let passed_over =
            schedule.steps.iter().any(|(_, action)| action.faults().is_some_and(|faults| faults.read_error_in > 0));
        if !by_hand && !passed_over && !delivered.is_sorted() {
            let at = delivered.windows(2).position(|pair| pair[0] > pair[1]).unwrap_or(0);
            return Err(format!("out of order: event {} before {}", delivered[at], delivered[at + 1]));
        }
        Ok(Summary {
            written: self.writer.written.len(),
            delivered: seen.len(),
            excused: self.writer.excused.len(),
            chunks: chunks.len(),
        })
    }

    /// Ranges of one file do not overlap, and leave no gap between them.
    fn judge_ranges(&self, chunks: &[&Stored]) -> Result<(), String> {
        let mut files: BTreeMap<String, Vec<Span>> = BTreeMap::new();
        // A record of loss may stand beside the lines it is about: their receipt was lost, and then their file.
        let covered = |chunk: &Stored| {
            let lines = chunks.iter().filter(|other| other.manifest.kind == Kind::Lines);
            let same = |other: &Stored| other.manifest.sequence == chunk.manifest.sequence;
            let within = |other: &Stored| {
                other.manifest.span.start <= chunk.manifest.span.start
                    && chunk.manifest.span.end <= other.manifest.span.end
            };
            chunk.manifest.kind == Kind::Loss && lines.into_iter().any(|other| same(other) && within(other))
        };
        for chunk in chunks.iter().filter(|chunk| !covered(chunk)) {
            files.entry(chunk.manifest.file.to_string()).or_default().push(chunk.manifest.span);
        }
        for (file, mut spans) in files {
            spans.sort();
            if let Some(pair) = spans.windows(2).find(|pair| pair[0].end != pair[1].start) {
                return Err(format!("file {file}: range {} is followed by {}", pair[0], pair[1]));
            }
        }
        Ok(())
    }

    /// Sequence numbers have no gap, and each chunk names the digest of the one before.
    fn judge_chain(&self, stored: &BTreeMap<ChunkId, Stored>) -> Result<(), String> {
        let mut digests = BTreeMap::new();
        for chunk in stored.values() {
            let manifest = &chunk.manifest;
            let whole = manifest.part_of.map_or(manifest.digest, |part| part.digest);
            if manifest.kind == Kind::Lines || manifest.part_of.is_some() || !digests.contains_key(&manifest.sequence) {
                digests.insert(manifest.sequence, (whole, manifest.previous));
            }
        }
        for (expected, (&sequence, (_, previous))) in (1..).zip(&digests) {
            if sequence != expected {
                return Err(format!("the chain lacks {expected}"));
            }
            if let Some((before, _)) = digests.get(&(sequence - 1))
                && before != previous
            {
                return Err(format!("chunk {sequence} does not name the digest of the one before"));
            }
        }
        Ok(())
    }
}

fn configuration(settings: &Settings) -> Config {
    let flags = [
        ("source.paths", "/log/audit.log".to_owned()),
        ("state_directory", "/state".to_owned()),
        ("cluster_id", "sim".to_owned()),
        ("node_id", "node".to_owned()),
        ("destination.url", "http://127.0.0.1:1/".to_owned()),
    ];
    let mut config = config::load(None, &flags, |_| None).expect("a configuration").config;
    config.source.start_at = StartAt::Beginning;
    config.source.watch = WatchRung::Poll;
    config.source.poll_interval = Duration::from_millis(settings.poll_ms);
    config.source.rescan_interval = Duration::from_millis(settings.rescan_ms);
    config.source.max_event_bytes = settings.max_event_bytes;
    config.chunk.offload_amount_bytes = settings.offload_amount_bytes;
    config.chunk.offload_after = Duration::from_millis(settings.offload_after_ms);
    config.chunk.encoding = Encoding::Gzip;
    config.chunk.level = 1;
    config.limits.in_flight = settings.in_flight;
    config.limits.workers = 0;
    config.destination.retry_initial = Duration::from_millis(100);
    config.destination.retry_max = Duration::from_secs(5);
    config.destination.unauthorized_retry = Duration::from_secs(5);
    config.shutdown_grace = Duration::from_secs(5);
    config
}

fn shorten(serials: &[u64]) -> Vec<u64> {
    serials.iter().take(10).copied().collect()
}
