//! A place with a log, a state directory and an archive; agents and receivers to run in it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use auditail_bench::compare::compare;
use serde_json::Value;
use tempfile::TempDir;

use super::process::AUDITAIL;
use super::{Log, Process, until};

/// What receivers ask for and agents show.
pub const TOKEN: &str = "a-token-of-these-tests";

/// How long the agent may take for its metrics.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// A temporary place for one test.
pub struct Site {
    pub root: TempDir,
}

/// A running receiver; it ends with this value.
pub struct Receiver {
    _process: Process,
    pub address: SocketAddr,
}

/// A running agent.
pub struct Agent {
    process: Process,
    metrics: SocketAddr,
}

/// What `verify` said of the archive.
pub struct Verified {
    pub ok: bool,
    pub report: Value,
    pub content: Vec<u8>,
}

impl Site {
    /// A fresh place.
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("log")).unwrap();
        fs::write(root.path().join("token"), TOKEN).unwrap();
        Self { root }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The live log.
    pub fn log(&self) -> PathBuf {
        self.path("log/audit.log")
    }

    /// Starts a receiver on a free port, with further arguments.
    pub fn receive(&self, more: &[&str]) -> Receiver {
        let (archive, token) = (self.path("archive"), self.path("token-of-receiver"));
        fs::write(&token, TOKEN).unwrap();
        let fixed = ["receive", "--listen", "127.0.0.1:0", "--dir", text(&archive), "--token-file", text(&token)];
        let process = Process::start("receive", &[&fixed, more].concat(), &[]);
        let line = process.wait_line(&["listening on "]);
        let address = line.rsplit(' ').next().unwrap().parse().unwrap();
        Receiver { _process: process, address }
    }

    /// Writes a configuration: what suits a quick test, then `more`, one `key: value` each, which wins.
    pub fn configure(&self, to: SocketAddr, more: &[&str]) -> PathBuf {
        let path = self.path("auditail.yaml");
        let mut settings: Vec<String> = vec![
            "cluster_id: e2e".into(),
            "node_id: node".into(),
            format!("state_directory: {}", text(&self.path("state"))),
            format!("source.paths: {}", text(&self.log())),
            "chunk.offload_amount: 200kB".into(),
            "chunk.offload_after: 200ms".into(),
            format!("destination.url: http://{to}/chunks"),
            format!("destination.token_file: {}", text(&self.path("token"))),
            "destination.retry_initial: 20ms".into(),
            "destination.retry_max: 200ms".into(),
            "destination.unauthorized_retry: 200ms".into(),
            "observe.listen: 127.0.0.1:0".into(),
        ];
        for setting in more {
            let key = setting.split(':').next().unwrap();
            settings.retain(|old| old.split(':').next() != Some(key));
            settings.push((*setting).to_owned());
        }
        fs::write(&path, settings.join("\n")).unwrap();
        path
    }

    /// Starts an agent and waits until it serves its metrics.
    pub fn run(&self, to: SocketAddr, more: &[&str]) -> Agent {
        let process = self.start(to, more);
        let line = process.wait_line(&["serving /metrics"]);
        let line: Value = serde_json::from_str(&line).unwrap();
        let metrics = line["address"].as_str().unwrap().parse().unwrap();
        process.wait_line(&["auditail runs"]);
        Agent { process, metrics }
    }

    /// Starts an agent that may refuse to run.
    pub fn start(&self, to: SocketAddr, more: &[&str]) -> Process {
        let config = self.configure(to, more);
        Process::start("run", &["run", "--config", text(&config)], &[])
    }

    /// The manifests in the archive.
    pub fn manifests(&self) -> Vec<Value> {
        let mut found = Vec::new();
        manifests_below(&self.path("archive"), &mut found);
        found
    }

    /// Waits until so many events are in the archive.
    #[track_caller]
    pub fn wait_events(&self, count: u64) {
        let stored = || self.manifests().iter().filter_map(|manifest| manifest["events"].as_u64()).sum::<u64>();
        let mut last = 0;
        until(&format!("{count} events in the archive"), || {
            last = stored();
            (last >= count).then_some(())
        });
        assert_eq!(last, count, "events in the archive");
    }

    /// Waits until everything written is in the archive.
    #[track_caller]
    pub fn wait_for(&self, log: &Log) {
        self.wait_events(log.events());
    }

    /// Runs `auditail verify`.
    pub fn verify(&self) -> Verified {
        let (archive, extract) = (self.path("archive"), self.path("extract"));
        let args = ["verify", text(&archive), "--output", "json", "--extract", text(&extract)];
        let output = Command::new(AUDITAIL).args(args).env_clear().output().unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap();
        Verified { ok: output.status.success(), report, content: fs::read(extract).unwrap() }
    }

    /// Holds the archive to the measure: complete by its own account, every byte written there once and in order.
    #[track_caller]
    pub fn assert_exact(&self, log: &Log) -> Value {
        let verified = self.verify();
        assert!(verified.ok, "{:#}", verified.report);
        let compared = compare(log.serials(), verified.content.as_slice()).unwrap();
        assert!(compared.is_exact() && compared.in_order, "{compared:?}");
        assert!(verified.content == log.content, "other bytes arrived than were written");
        verified.report
    }
}

impl Drop for Site {
    /// Shows a failed test's files and what the agent made of them.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let list = Command::new("ls").args(["-lni", "--time-style=full-iso", text(&self.path("log"))]).output();
            let list =
                list.map_or_else(|error| error.to_string(), |out| String::from_utf8_lossy(&out.stdout).into_owned());
            let checkpoint = fs::read_to_string(self.path("state/checkpoint")).unwrap_or_default();
            let mut chunks: Vec<String> = self.manifests().iter().map(summary).collect();
            chunks.sort();
            let _ = writeln!(std::io::stderr(), "--- {list}\n{checkpoint}\n--- chunks\n{}", chunks.join("\n"));
        }
    }
}

impl Agent {
    /// The metrics page.
    pub fn metrics(&self) -> String {
        self.get("/metrics").unwrap()
    }

    /// The answer to a request of the metrics server, its head included.
    pub fn get(&self, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.metrics)?;
        stream.set_read_timeout(Some(SCRAPE_TIMEOUT))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    }

    /// Sum of a metric over its labels; 0 where it is not there yet.
    pub fn metric(&self, name: &str) -> f64 {
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            (series == name || series.starts_with(&format!("{name}{{"))).then(|| value.parse::<f64>().ok())?
        };
        self.metrics().lines().filter_map(of).sum()
    }

    /// Waits until a metric is at least `least`.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, least: f64) {
        until(&format!("{name} >= {least}"), || (self.metric(name) >= least).then_some(()));
    }

    /// Stops the agent and expects it to end well.
    #[track_caller]
    pub fn stop(mut self) {
        assert_eq!(self.process.terminate(), Some(0));
    }
}

impl Deref for Agent {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Agent {
    /// Shows what a failed test's agent, if it still runs, has to say.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(page) = self.get("/metrics")
        {
            let figures = page.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket"));
            let _ = writeln!(std::io::stderr(), "--- metrics\n{}", figures.collect::<Vec<_>>().join("\n"));
        }
    }
}

fn summary(manifest: &Value) -> String {
    let Value::Number(sequence) = &manifest["sequence"] else { return manifest.to_string() };
    let [kind, path, file, span, events] = ["kind", "path", "file", "span", "events"].map(|key| &manifest[key]);
    format!("{sequence:>6} {kind} {path} {file} {span} {events} events")
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn manifests_below(directory: &Path, found: &mut Vec<Value>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != ".incoming" {
            manifests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.extend(fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()));
        }
    }
}
