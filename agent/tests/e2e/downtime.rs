//! What happens to the log while the agent is not running.

use std::fs;

use auditail_bench::compare::compare;
use auditail_bench::writer::{Compress, Rotation};

use crate::support::site::Receiver;
use crate::support::{Log, Site, text};

const BURST: usize = 40;

/// A site whose agent delivered the first burst and then ended.
fn down(rotation: Rotation) -> (Site, Receiver, Log) {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::unbounded(&site.log(), rotation);
    let agent = site.run(receiver.address, &[]);
    log.write(BURST);
    site.wait_for(&log);
    agent.stop();
    (site, receiver, log)
}

/// Three rotations while the agent is down, the first of the file it was in the middle of.
fn several_rotations(rotation: Rotation) {
    let (site, receiver, mut log) = down(rotation);
    for _ in 0..3 {
        log.write(BURST);
        log.rotate().unwrap();
    }
    log.write(BURST);
    let agent = site.run(receiver.address, &[]);
    site.wait_for(&log);
    assert_eq!(agent.metric("auditail_loss_records_total"), 0.0);
    agent.stop();
    site.assert_exact(&log);
}

// Fails if the position is looked for by name, or what is newer is not read oldest first.
#[test]
fn renamed() {
    several_rotations(Rotation::Stamped(Compress::Never));
}

// Fails if the position is lost when the file it is in has become a .gz, or counts compressed bytes.
#[test]
fn renamed_and_compressed() {
    several_rotations(Rotation::Stamped(Compress::Inline));
}

// Fails if the same goes wrong for numbered files, whose names were other files' names before.
#[test]
fn numbered() {
    several_rotations(Rotation::Numbered { compress: false });
}

// Fails if the same goes wrong for numbered files that are compressed.
#[test]
fn numbered_and_compressed() {
    several_rotations(Rotation::Numbered { compress: true });
}

// Fails if the emptied live file is taken for the one that was being read, whose rest is in a copy.
#[test]
fn copied_and_emptied() {
    several_rotations(Rotation::CopyTruncate);
}

// Fails if a file that has been delivered whole is delivered again once it is a .gz.
#[test]
fn compressed_after_it_was_delivered() {
    let (site, receiver, mut log) = down(Rotation::Stamped(Compress::Inline));
    log.rotate().unwrap();
    log.write(BURST);
    let agent = site.run(receiver.address, &[]);
    site.wait_for(&log);
    agent.stop();
    site.assert_exact(&log);
}

// Fails if a restart loses or repeats anything although nothing was rotated.
#[test]
fn restarted_many_times() {
    let (site, receiver, mut log) = down(Rotation::Stamped(Compress::Never));
    for _ in 0..5 {
        log.write(BURST);
        let agent = site.run(receiver.address, &[]);
        log.write(BURST);
        agent.stop();
    }
    let agent = site.run(receiver.address, &[]);
    site.wait_for(&log);
    agent.stop();
    site.assert_exact(&log);
}

// Fails if the loss of unread bytes is not delivered, counted, logged and held against the archive, or costs what is left.
#[test]
fn a_backup_removed_unread_is_reported() {
    let (site, receiver, mut log) = down(Rotation::Stamped(Compress::Never));
    let (kept, kept_bytes) = (log.serials().len(), log.content.len());
    log.write(BURST);
    let gone = log.serials().len();
    log.rotate().unwrap();
    for entry in fs::read_dir(site.path("log")).unwrap() {
        let path = entry.unwrap().path();
        if path != site.log() {
            fs::remove_file(path).unwrap();
        }
    }
    log.write(BURST);
    let agent = site.run(receiver.address, &[]);
    agent.wait_metric("auditail_loss_records_total", 1.0);
    site.wait_events(2 * BURST as u64);
    agent.wait_line(&["\"ERROR\"", "are lost", &format!("\"start\":{kept_bytes}")]);
    agent.stop();

    let verified = site.verify();
    assert!(!verified.ok);
    let losses = verified.report["losses"].as_array().unwrap();
    assert_eq!(losses.len(), 1, "{:#}", verified.report);
    assert_eq!((&losses[0]["reason"], &losses[0]["start"]), (&"removed".into(), &kept_bytes.into()));
    assert!(losses[0]["path"].as_str().unwrap().starts_with(text(&site.path("log"))));
    let delivered = [&log.serials()[..kept], &log.serials()[gone..]].concat();
    let events: Vec<&[u8]> = verified.content.split_inclusive(|byte| *byte == b'\n').collect();
    let events: Vec<u8> =
        events.into_iter().filter(|line| !line.starts_with(b"{\"kind\":\"Loss\"")).flatten().copied().collect();
    let compared = compare(&delivered, events.as_slice()).unwrap();
    assert!(compared.is_exact() && compared.in_order, "{compared:?}");
}
