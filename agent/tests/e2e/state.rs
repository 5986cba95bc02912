//! Checkpoints that cannot be used.

use std::fs;

use auditail_bench::compare::compare;
use auditail_bench::writer::{Compress, Rotation};

use crate::support::site::Receiver;
use crate::support::{Log, Site};

const BURST: usize = 40;

/// A site whose agent delivered a burst and then ended.
fn delivered() -> (Site, Receiver, Log) {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::unbounded(&site.log(), Rotation::Stamped(Compress::Never));
    log.write(BURST);
    let agent = site.run(receiver.address, &[]);
    site.wait_for(&log);
    agent.stop();
    (site, receiver, log)
}

/// Changes the checkpoint.
fn alter(site: &Site, change: impl FnOnce(String) -> String) {
    let path = site.path("state/checkpoint");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, change(text)).unwrap();
}

// Fails if a damaged checkpoint is silently taken for none, ends delivery, or is thrown away.
#[test]
fn damaged() {
    let (site, receiver, mut log) = delivered();
    alter(&site, |text| text.replace("\"delivered\": ", "\"delivered\": 1"));
    log.write(BURST);
    let agent = site.run(receiver.address, &[]);
    agent.wait_line(&["\"ERROR\"", "the checkpoint is damaged"]);
    site.wait_events(3 * BURST as u64);
    agent.wait_metric("auditail_loss_records_total", 1.0);
    agent.stop();
    let kept = fs::read_dir(site.path("state")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(kept.into_iter().any(|name| name.to_string_lossy().starts_with("checkpoint.damaged-")));

    let verified = site.verify();
    assert!(!verified.ok);
    let reasons: Vec<_> = verified.report["losses"].as_array().unwrap().iter().map(|loss| &loss["reason"]).collect();
    assert_eq!(reasons, ["state_lost"], "{:#}", verified.report);
    let compared = compare(log.serials(), verified.content.as_slice()).unwrap();
    assert_eq!((compared.lost.len(), compared.duplicated), (0, BURST as u64), "{compared:?}");
}

// Fails if a state that is intact, but not for this agent, is used or replaced.
#[test]
fn not_ours() {
    let (site, receiver, _log) = delivered();
    let before = fs::read(site.path("state/checkpoint")).unwrap();
    let mut other = site.start(receiver.address, &["cluster_id: another"]);
    assert_eq!(other.wait().code(), Some(1));
    assert!(other.find(&["belongs to cluster_id", "e2e", "another"]).is_some(), "{:?}", other.lines());
    assert_eq!(fs::read(site.path("state/checkpoint")).unwrap(), before);

    alter(&site, |text| text.replacen("checkpoint 1 ", "checkpoint 2 ", 1));
    let mut older = site.start(receiver.address, &[]);
    assert_eq!(older.wait().code(), Some(1));
    assert!(older.find(&["version 2"]).is_some(), "{:?}", older.lines());
}
