//! Starting, stopping, and logs that come, go and are not there yet.

use std::fs;
use std::time::{Duration, Instant};

use auditail_bench::compare::compare;
use auditail_bench::faults::{Fault, FaultProxy};
use auditail_bench::writer::{Compress, Rotation};

use crate::support::{Log, PATIENCE, Process, Site, text};

const BURST: usize = 40;
const PLAIN: Rotation = Rotation::Stamped(Compress::Never);

// Fails if SIGTERM leaves what has been read undelivered, or the agent does not end well.
#[test]
fn a_signal_delivers_the_open_chunk() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::unbounded(&site.log(), PLAIN);
    // More than a block is read at once; chunks are closed by the signal alone.
    log.write(8 * BURST);
    let agent = site.run(receiver.address, &["chunk.offload_after: 1h", "chunk.offload_amount: 50MB"]);
    agent.wait_metric("auditail_read_events_total", BURST as f64);
    assert!(site.manifests().is_empty());
    agent.stop();
    assert!(!site.manifests().is_empty());
    let agent = site.run(receiver.address, &[]);
    site.wait_for(&log);
    agent.stop();
    site.assert_exact(&log);
}

// Fails if the agent outlives its grace period, or what it could not deliver is lost or repeated by the next start.
#[test]
fn the_grace_period_ends() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let proxy = FaultProxy::start(receiver.address, []).unwrap();
    proxy.otherwise(Fault::Hang);
    let mut log = Log::unbounded(&site.log(), PLAIN);
    log.write(BURST);
    let agent = site.run(proxy.address(), &["shutdown_grace: 300ms"]);
    assert!(proxy.wait_until(PATIENCE, |seen| !seen.is_empty()));
    let asked = Instant::now();
    agent.stop();
    assert!(asked.elapsed() < Duration::from_secs(10));
    proxy.heal();
    let agent = site.run(proxy.address(), &[]);
    site.wait_for(&log);
    agent.stop();
    site.assert_exact(&log);
}

// Fails if a second signal does not end the agent at once, or that costs anything.
#[test]
fn a_second_signal_ends_at_once() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let proxy = FaultProxy::start(receiver.address, []).unwrap();
    proxy.otherwise(Fault::Hang);
    let mut log = Log::unbounded(&site.log(), PLAIN);
    log.write(BURST);
    let mut agent = site.run(proxy.address(), &["shutdown_grace: 10m"]);
    assert!(proxy.wait_until(PATIENCE, |seen| !seen.is_empty()));
    agent.signal("TERM");
    agent.wait_line(&["stopping"]);
    agent.signal("INT");
    assert_eq!(agent.wait().code(), Some(1));
    proxy.heal();
    let agent = site.run(proxy.address(), &[]);
    site.wait_for(&log);
    agent.stop();
    site.assert_exact(&log);
}

// Fails if a log, or its directory, that is not there at the start is not found once it is made.
#[test]
fn a_log_that_appears_later() {
    for path in ["log/audit.log", "log/later/still/audit.log"] {
        let site = Site::new();
        let receiver = site.receive(&[]);
        let log_path = site.path(path);
        let agent = site.run(receiver.address, &[&format!("source.paths: {}", text(&log_path))]);
        agent.wait_line(&["\"ERROR\"", "the log cannot be read"]);
        let mut log = Log::unbounded(&log_path, PLAIN);
        log.write(BURST);
        site.wait_for(&log);
        assert_eq!(agent.metric("auditail_source_readable"), 1.0);
        agent.stop();
        site.assert_exact(&log);
    }
}

// Fails if a directory in the log's place ends the agent, is not reported (by /readyz too), or is not recovered
// from.
#[test]
fn a_directory_in_its_place() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    fs::create_dir(site.log()).unwrap();
    let agent = site.run(receiver.address, &[]);
    agent.wait_line(&["\"ERROR\"", "the log cannot be read", "not a regular file"]);
    assert_eq!(agent.metric("auditail_source_readable"), 0.0);
    assert!(agent.get("/readyz").unwrap().contains("no log can be read"), "an agent without a log is ready");
    fs::remove_dir(site.log()).unwrap();
    let mut log = Log::unbounded(&site.log(), PLAIN);
    log.write(BURST);
    site.wait_for(&log);
    assert!(agent.get("/readyz").unwrap().starts_with("HTTP/1.0 200"));
    agent.stop();
    site.assert_exact(&log);
}

// Fails if one of several logs is not followed, a later one is not found, or their chains are mixed up.
#[test]
fn several_logs_by_a_pattern() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let open = |name: &str, serial| {
        Log::open(&site.path(&format!("log/{name}/audit.log")), PLAIN, 100_000).numbered_from(serial)
    };
    let mut logs = vec![open("kube-apiserver", 0), open("oauth-apiserver", 100_000)];
    let pattern = format!("source.paths: {}/*-apiserver/audit*.log", text(&site.path("log")));
    let agent = site.run(receiver.address, &[&pattern]);
    for _ in 0..3 {
        logs.iter_mut().for_each(|log| log.write(BURST));
    }
    logs.push(open("openshift-apiserver", 200_000));
    logs.iter_mut().for_each(|log| log.write(BURST));
    site.wait_events(logs.iter().map(Log::events).sum());
    agent.stop();
    let verified = site.verify();
    assert!(verified.ok, "{:#}", verified.report);
    // The chains are extracted one after the other, in the order of their names.
    let serials: Vec<u64> = logs.iter().flat_map(|log| log.serials().iter().copied()).collect();
    let compared = compare(&serials, verified.content.as_slice()).unwrap();
    assert!(compared.is_exact() && compared.in_order, "{compared:?}");
}

// Fails if `start_at: end` delivers what was there, or misses what is written afterwards.
#[test]
fn starting_at_the_end() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::unbounded(&site.log(), PLAIN);
    log.write(BURST);
    log.rotate().unwrap();
    log.write(BURST);
    let (skipped, serials) = (log.content.len(), log.serials().len());
    let agent = site.run(receiver.address, &["source.start_at: end"]);
    agent.wait_metric("auditail_files_tracked", 2.0);
    log.write(BURST);
    site.wait_events(BURST as u64);
    agent.stop();
    log.write(BURST);
    let agent = site.run(receiver.address, &["source.start_at: end"]);
    site.wait_events(2 * BURST as u64);
    agent.stop();
    let verified = site.verify();
    assert!(verified.content == log.content[skipped..], "{:#}", verified.report);
    assert!(compare(&log.serials()[serials..], verified.content.as_slice()).unwrap().is_exact());
}

// Fails if two agents can share a state directory.
#[test]
fn a_state_directory_belongs_to_one_agent() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let first = site.run(receiver.address, &[]);
    let mut second: Process = site.start(receiver.address, &[]);
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.find(&["state_directory", "in use by another"]).is_some(), "{:?}", second.lines());
    first.stop();
    site.run(receiver.address, &[]).stop();
}
