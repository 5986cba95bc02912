//! A node with an audit log, and an agent on it.

use std::cell::{Cell, RefCell};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use auditail::config;
use auditail::disk::real::RealDisk;
use auditail::manifest::Manifest;
use auditail::observe::http::Health;
use auditail::pipeline::discover::discover;
use auditail::pipeline::state::recover;
use auditail::pipeline::{Ended, Mode, Parts, Pipeline};
use auditail::upload::{Delivery, Destination, Outcome};
use auditail::watch::Watcher;
use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Settings of an agent that can run in virtual time.
pub(crate) const VIRTUAL: &str = "source.watch: poll\nlimits.workers: 0\nsource.rescan_interval: 1s";

/// An event of some length.
pub(crate) fn event(n: u64) -> Vec<u8> {
    format!("{{\"kind\":\"Event\",\"auditID\":\"{n:036}\",\"requestURI\":\"/api/v1/namespaces/{n}\"}}\n").into_bytes()
}

/// A gzip file of this content.
pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A machine: a directory of logs and one for the agent's state.
pub(crate) struct Node {
    root: tempfile::TempDir,
    settings: String,
}

impl Node {
    /// An empty one. `settings` are lines of configuration besides those every test has.
    pub(crate) fn new(settings: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("log")).unwrap();
        fs::create_dir(root.path().join("state")).unwrap();
        Self { root, settings: settings.to_owned() }
    }

    /// Runs a test on the kind of event loop that the agent has.
    pub(crate) fn run(&self, test: impl AsyncFnOnce(&Self)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test(self));
    }

    /// Runs a test in virtual time: waiting costs nothing, and nothing happens meanwhile but what the agent's timers do. For
    /// agents that poll and frame on their own thread ([`VIRTUAL`]); others would be overtaken by the clock.
    pub(crate) fn run_in_virtual_time(&self, test: impl AsyncFnOnce(&Self)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test(self));
    }

    pub(crate) fn log_directory(&self) -> PathBuf {
        self.root.path().join("log")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.log_directory().join(name)
    }

    pub(crate) fn append(&self, name: &str, bytes: &[u8]) {
        OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap().write_all(bytes).unwrap();
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn config(&self) -> config::Config {
        let root = self.root.path().display();
        let text = format!(
            "source.paths: {root}/log/audit.log\nstate_directory: {root}/state\ndestination.url: http://127.0.0.1:9/\n\
             destination.retry_initial: 50ms\ndestination.retry_max: 50ms\nchunk.offload_after: 200ms\n{}\n",
            self.settings
        );
        let file = self.root.path().join("auditail.yaml");
        fs::write(&file, text).unwrap();
        config::load(Some(&file), &[], |_| None).map_err(|problems| problems.to_string()).unwrap().config
    }
}

/// What the destination has seen.
#[derive(Default)]
struct Seen {
    delivered: RefCell<Vec<Manifest>>,
    attempts: Cell<u64>,
    changed: Notify,
}

struct Scripted<F> {
    seen: Rc<Seen>,
    answer: F,
}

impl<F: Fn(&Delivery) -> Outcome + 'static> Destination for Scripted<F> {
    async fn send(&self, delivery: &Delivery) -> Outcome {
        let outcome = (self.answer)(delivery);
        self.seen.attempts.set(self.seen.attempts.get() + 1);
        if outcome == Outcome::Delivered {
            self.seen.delivered.borrow_mut().push(delivery.manifest.clone());
        }
        assert!(self.seen.attempts.get() < 1000, "no end of attempts");
        self.seen.changed.notify_one();
        outcome
    }
}

/// A running agent.
pub(crate) struct Agent {
    seen: Rc<Seen>,
    task: JoinHandle<Ended>,
    stop: oneshot::Sender<()>,
    aside: PathBuf,
}

impl Agent {
    /// An agent whose destination takes everything.
    pub(crate) fn start(node: &Node) -> Self {
        Self::start_with(node, |_| Outcome::Delivered)
    }

    /// An agent whose destination answers so.
    pub(crate) fn start_with(node: &Node, answer: impl Fn(&Delivery) -> Outcome + 'static) -> Self {
        let (config, seen) = (node.config(), Rc::new(Seen::default()));
        let destination = Rc::new(Scripted { seen: seen.clone(), answer });
        let (stop, stopped) = oneshot::channel();
        let aside = node.root.path().join("state/aside");
        let task = tokio::task::spawn_local(async move {
            let disk = Rc::new(RealDisk::new(config.state_directory.clone(), None));
            let directories = discover(&*disk, &config.source.paths).directories;
            let (watcher, _) = Watcher::choose(config.source.watch, &directories, config.source.poll_interval).unwrap();
            let recovered = recover(&*disk, &config.cluster_id).await.unwrap();
            let health = Health::new(config.source.rescan_interval * 3);
            let parts = Parts { disk, destination, watcher, health, recovered };
            let mut pipeline = Pipeline::new(config, Mode::Follow, parts).unwrap();
            pipeline.run(async { drop(stopped.await) }).await
        });
        Self { seen, task, stop, aside }
    }

    /// What has been delivered so far.
    pub(crate) fn seen(&self) -> Vec<Manifest> {
        self.seen.delivered.borrow().clone()
    }

    async fn wait(&self, what: &str, reached: impl Fn() -> bool) {
        let all = async {
            while !reached() {
                self.seen.changed.notified().await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, all).await;
        assert!(in_time.is_ok(), "{what}: {:#?}", self.seen.delivered.borrow());
    }

    /// Waits until so many events are delivered, and finds that no more are.
    pub(crate) async fn delivered(&self, events: u64) {
        let count = || self.seen.delivered.borrow().iter().map(|manifest| manifest.events).sum::<u64>();
        self.wait("not all events are delivered", || count() >= events).await;
        assert_eq!(count(), events, "more events than were written");
    }

    /// Waits for a first attempt.
    pub(crate) async fn attempted(&self) {
        self.wait("nothing was sent", || self.seen.attempts.get() > 0).await;
    }

    /// Waits until so many bytes of log are delivered or set aside, each once.
    pub(crate) async fn covered(&self, bytes: u64) {
        let covered = || {
            let delivered = self.seen.delivered.borrow().iter().map(|manifest| manifest.span.len()).sum::<u64>();
            let aside = fs::read_dir(&self.aside).into_iter().flatten().filter_map(|entry| {
                let path = entry.ok()?.path();
                let record = path.extension().is_some_and(|extension| extension == "json").then_some(path)?;
                let record: serde_json::Value = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
                let manifest: Manifest = serde_json::from_value(record["manifest"].clone()).ok()?;
                Some(manifest.span.len())
            });
            delivered + aside.sum::<u64>()
        };
        let all = async {
            while covered() < bytes {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, all).await;
        assert!(in_time.is_ok(), "not covered: {:#?}", self.seen.delivered.borrow());
        assert_eq!(covered(), bytes, "bytes delivered twice");
    }

    /// Processor time of this thread, which is the agent's too.
    pub(crate) fn cpu_time(&self) -> Duration {
        let times = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
    }

    /// Ends as after a signal: everything read is to be delivered.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        assert_eq!(ended.unwrap().unwrap(), Ended::Settled);
    }

    /// Ends as after a crash.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}
