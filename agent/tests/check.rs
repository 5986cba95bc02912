//! `auditail check` as an operator runs it: the real binary, its exit code and both forms of its output.
#![allow(clippy::unwrap_used)] // The exception for tests does not reach their helper functions.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use auditail::checkpoint::{self, Checkpoint};
use auditail::ledger::{FileRecord, Ledger};
use auditail::manifest::{Encoding, Kind, Manifest};
use auditail::pipeline::aside::AsideRecord;
use auditail::source::matching::Location;
use auditail::types::{ChunkId, Digest, FileId, Fingerprint, Span, StreamId};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tempfile::TempDir;

const TOKEN: &str = "t0ken-s3cret";

/// The binary with nothing of this process's environment: no proxy, no settings.
fn auditail() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_auditail"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// A receiver that asks for [`TOKEN`].
struct Receiver {
    process: Child,
    url: String,
}

impl Receiver {
    fn start(directory: &Path) -> Self {
        let mut command = auditail();
        command.args(["receive", "--listen", "127.0.0.1:0", "--dir"]).arg(directory);
        let command = command.env("AUDITAIL_RECEIVE_TOKEN", TOKEN).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        Self { url: format!("http://{address}/"), process }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A node: a log, a state directory, a token and a configuration.
struct Node {
    root: TempDir,
    state: PathBuf,
    url: String,
    listen: String,
}

impl Node {
    fn new(url: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::create_dir(root.path().join("log")).unwrap();
        fs::write(root.path().join("token"), TOKEN).unwrap();
        let node = Self { root, state, url: url.into(), listen: "127.0.0.1:0".into() };
        fs::write(node.log(), "{\"a\":1}\n").unwrap();
        node
    }

    /// A node whose destination is a port at which nobody listens, and which no other test is given.
    fn cut_off() -> Self {
        Self::new("http://127.0.0.1:1/")
    }

    fn log(&self) -> PathBuf {
        self.root.path().join("log/audit.log")
    }

    fn check(&self, output: &str) -> Output {
        let path = self.root.path().join("auditail.yaml");
        let (root, state, Self { url, listen, .. }) = (self.root.path().display(), self.state.display(), self);
        let config = format!(
            "cluster_id: c1\nstate_directory: {state}\nsource: {{paths: {root}/log/audit.log}}\n\
             destination: {{url: '{url}', token_file: {root}/token}}\nobserve: {{listen: '{listen}'}}\n"
        );
        fs::write(&path, config).unwrap();
        auditail().args(["check", "--output", output, "--config"]).arg(path).output().unwrap()
    }

    /// Exit code and JSON.
    fn report(&self) -> (i32, Value) {
        let output = self.check("json");
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

fn find<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut checks = report["checks"].as_array().unwrap().iter();
    checks.find(|check| check["check"] == name).unwrap_or_else(|| panic!("no check {name}"))
}

/// That a check came out so, with these words in what was found.
fn assert_found(report: &Value, name: &str, status: &str, words: &str) {
    let check = find(report, name);
    assert_eq!(check["status"], status, "{check}");
    assert!(check["found"].as_str().unwrap().contains(words), "{check}");
    assert_eq!(check["remedy"].is_null(), status == "ok", "{check}");
}

// Fails if a sound node does not pass, a documented key is missing, a check is not documented, a secret is shown, or
// check leaves a trace.
#[test]
fn a_sound_node_passes() {
    let archive = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(archive.path());
    let node = Node::new(&receiver.url);
    fs::write(node.root.path().join("log/audit.log.1"), "{}\n").unwrap();
    let (code, report) = node.report();
    assert_eq!(code, 0, "{report:#}");
    let keys: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["checkpoint", "checks", "memory", "settings", "status", "version"]);
    assert!(report["memory"]["ordinary_bytes"].as_u64() > Some(0) && report["checkpoint"].is_null());
    assert_found(&report, "source.live", "ok", "audit.log: 8 B");
    assert_found(&report, "source.rotated", "ok", "1 rotated file, 3 B");
    assert_found(&report, "destination.probe", "ok", "accepts us");
    assert_found(&report, "clock", "ok", "agrees");
    for name in ["read", "watch", "state.directory", "state.lock", "state.aside", "state.checkpoint", "observe.listen"]
    {
        assert_eq!(find(&report, name)["status"], "ok", "{report:#}");
    }
    for name in ["limits.memory", "limits.files", "limits.locked_memory", "limits.requests", "state.filesystem"] {
        assert_ne!(find(&report, name)["status"], "fail", "{report:#}");
    }
    let documentation = include_str!("../../docs/check.md");
    for check in report["checks"].as_array().unwrap() {
        assert!(documentation.contains(&format!("| `{}` |", check["check"].as_str().unwrap())), "{check}");
    }
    let text = node.check("text");
    let shown = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text.status.code(), Some(0), "{shown}");
    assert!(shown.contains("cluster_id") && shown.contains("auditail.yaml:1") && shown.contains("limits.memory"));
    assert!(!shown.contains(TOKEN) && !report.to_string().contains(TOKEN));
    assert_eq!(fs::read_dir(&node.state).unwrap().count(), 0);
}

// Fails if a token that the destination refuses, or a token file that cannot be used, passes.
#[test]
fn a_wrong_token_fails() {
    let archive = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(archive.path());
    let node = Node::new(&receiver.url);
    fs::write(node.root.path().join("token"), "other").unwrap();
    let (code, report) = node.report();
    assert_eq!((code, &report["status"]), (1, &Value::from("fail")));
    assert_found(&report, "destination.token", "ok", "readable");
    assert_found(&report, "destination.probe", "fail", "401");
    fs::write(node.root.path().join("token"), "").unwrap();
    let (_, report) = node.report();
    assert_found(&report, "destination.token", "fail", "is empty");
    assert_found(&report, "destination.probe", "fail", "not asked");
}

// Fails if a destination that cannot be reached passes, or the text does not say so.
#[test]
fn a_destination_that_is_down_fails() {
    let node = Node::cut_off();
    let (code, report) = node.report();
    assert_eq!(code, 1);
    assert_found(&report, "destination.probe", "fail", "not reached");
    let text = String::from_utf8(node.check("text").stdout).unwrap();
    let line = text.lines().find(|line| line.contains("destination.probe")).unwrap();
    assert!(line.starts_with("FAIL"), "{text}");
    assert!(text.lines().last().unwrap().contains(" 1 failed, "), "{text}");
}

// Fails if check takes something else for a log, hangs on it, or takes a log that may yet appear for a failure.
#[test]
fn what_is_no_log_fails() {
    let node = Node::cut_off();
    fs::remove_file(node.log()).unwrap();
    assert_found(&node.report().1, "source.live", "warn", "not there");
    mknodat(CWD, node.log(), FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_found(&node.report().1, "source.live", "fail", "not a regular file");
    fs::remove_file(node.log()).unwrap();
    fs::create_dir(node.log()).unwrap();
    assert_found(&node.report().1, "source.live", "fail", "not a regular file");
}

// Fails if nobody is told that a reboot erases the state.
#[test]
fn state_in_memory_warns() {
    let Ok(shared_memory) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: no /dev/shm here");
        return;
    };
    let mut node = Node::cut_off();
    node.state = shared_memory.path().into();
    let (_, report) = node.report();
    assert_found(&report, "state.filesystem", "warn", "reboot");
    assert_found(&report, "state.directory", "ok", "writable");
    // Not there yet: the agent would make it.
    node.state = shared_memory.path().join("a/b");
    let (_, report) = node.report();
    assert_found(&report, "state.directory", "ok", "not there yet");
    assert_found(&report, "state.filesystem", "warn", "reboot");
    assert_eq!(fs::read_dir(shared_memory.path()).unwrap().count(), 0);
    fs::write(shared_memory.path().join("a"), "a file in its place").unwrap();
    assert_eq!(find(&node.report().1, "state.directory")["status"], "fail");
}

fn sample(node: &Node) -> Checkpoint {
    let at = Location { device: 1, inode: 2, birth_ns: 3 };
    let id = FileId { device: 1, inode: 2, birth_ns: 3, fingerprint: Fingerprint::of(b"{}\n") };
    let mut ledger = Ledger::default();
    ledger.add_file(FileRecord {
        id,
        identified: true,
        at,
        name: "audit.log.1".into(),
        delivered: 77,
        complete: false,
    });
    let sources = [(node.log().to_str().unwrap().to_owned(), ledger)].into();
    Checkpoint { cluster_id: "c1".into(), stream: StreamId([7; 16]), sources }
}

// Fails if a checkpoint is not shown, one that the agent would refuse or lose passes, or check changes it.
#[test]
fn a_checkpoint_is_shown_and_judged() {
    let node = Node::cut_off();
    let path = node.state.join("checkpoint");
    let good = checkpoint::encode(&sample(&node));
    fs::write(&path, &good).unwrap();
    let (_, report) = node.report();
    assert_found(&report, "state.checkpoint", "ok", "1 log, 0 chunks pending");
    let file = &report["checkpoint"]["sources"][0]["files"][0];
    assert_eq!((&file["name"], &file["delivered_bytes"]), (&"audit.log.1".into(), &77.into()));
    let text = String::from_utf8(node.check("text").stdout).unwrap();
    assert!(
        text.lines().any(|line| line.split_whitespace().eq(["audit.log.1", "77", "gone", "not", "known"])),
        "{text}"
    );

    let other = checkpoint::encode(&Checkpoint { cluster_id: "c2".into(), ..sample(&node) });
    let newer = String::from_utf8(good.clone()).unwrap().replacen("checkpoint 1 ", "checkpoint 2 ", 1).into_bytes();
    let cut = good[..good.len() / 2].to_vec();
    for (bytes, words) in [(cut, "damaged"), (newer, "version 2"), (other, "belongs to cluster_id \"c2\"")] {
        fs::write(&path, &bytes).unwrap();
        let (code, report) = node.report();
        assert_eq!(code, 1);
        assert_found(&report, "state.checkpoint", "fail", words);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::rename(&path, node.state.join("checkpoint.damaged-0123abcd")).unwrap();
    assert_found(&node.report().1, "state.damaged", "warn", "0123abcd");
}

// Fails if chunks that were refused for good go unnoticed, or nobody learns why they were.
#[test]
fn chunks_set_aside_warn() {
    let node = Node::cut_off();
    let manifest = Manifest {
        id: ChunkId([1; 16]),
        kind: Kind::Lines,
        cluster_id: "c1".into(),
        service_id: String::new(),
        node_id: "n1".into(),
        stream: StreamId([7; 16]),
        source: "/log/audit.log".into(),
        path: "/log/audit.log".into(),
        file: FileId { device: 1, inode: 2, birth_ns: 3, fingerprint: Fingerprint::of(b"{}\n") },
        span: Span::new(0, 3),
        sequence: 1,
        previous: Digest::ZERO,
        digest: Digest::ZERO,
        content_bytes: 3,
        events: 1,
        malformed: 0,
        first_audit_id: None,
        last_audit_id: None,
        part_of: None,
    };
    let record = AsideRecord { manifest, encoding: Encoding::Gzip, reason: "422: no such cluster".into() };
    fs::create_dir(node.state.join("aside")).unwrap();
    fs::write(node.state.join("aside/a.json"), serde_json::to_vec(&record).unwrap()).unwrap();
    fs::write(node.state.join("aside/a.ndjson.gz"), "body").unwrap();
    let (_, report) = node.report();
    assert_found(&report, "state.aside", "warn", "1 × 422: no such cluster");
    assert!(find(&report, "state.aside")["remedy"].as_str().unwrap().contains("auditail ship"));
}

// Fails if check takes an agent's lock or port for a fault, or disturbs it.
#[test]
fn check_works_beside_an_agent() {
    let mut node = Node::cut_off();
    let mut lock = File::create(node.state.join("lock")).unwrap();
    writeln!(lock, "42").unwrap();
    assert_found(&node.report().1, "state.lock", "ok", "free");
    lock.try_lock().unwrap();
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    node.listen = metrics.local_addr().unwrap().to_string();
    let (_, report) = node.report();
    assert_found(&report, "state.lock", "ok", "process 42");
    assert_found(&report, "observe.listen", "ok", "an agent is running");
    drop(lock);
    assert_found(&node.report().1, "observe.listen", "fail", "cannot be listened on");
}

// Fails if a configuration that cannot work is checked any further, or only its first problem is told.
#[test]
fn a_bad_configuration_tells_all_its_problems() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("auditail.yaml");
    fs::write(&path, "cluster_idd: c1\nchunk: {offload_after: soon}\nlimits: {in_flight: 0}\n").unwrap();
    let output = auditail().args(["check", "--output", "json", "--config"]).arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["status"], "refused");
    let keys: Vec<_> = report["problems"].as_array().unwrap().iter().map(|problem| problem["key"].clone()).collect();
    for key in ["cluster_idd", "chunk.offload_after", "limits.in_flight", "source.paths", "destination.url"] {
        assert!(keys.contains(&Value::from(key)), "{report:#}");
    }
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.lines().filter(|line| line.starts_with("auditail check: ")).count(), keys.len(), "{told}");
    let output = auditail().args(["check", "--config"]).arg(&path).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(64), 0));
}
