//! Lines that are not what they should be.

use std::fs::OpenOptions;
use std::io::Write;

use auditail_bench::writer::{Compress, Rotation};

use crate::support::{Log, Site};

const BURST: usize = 20;
const PLAIN: Rotation = Rotation::Stamped(Compress::Never);

// Fails if a half-written event is delivered before it is finished.
#[test]
fn an_unfinished_line_waits() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::unbounded(&site.log(), PLAIN);
    let agent = site.run(receiver.address, &[]);
    log.write(BURST);
    let line = log.line();
    log.write_partial(&line[..line.len() / 2]);
    site.wait_events(BURST as u64);
    assert!(agent.metric("auditail_lag_bytes") > 0.0 || agent.metric("auditail_read_bytes_total") > 0.0);
    log.write_partial(&line[line.len() / 2..]);
    site.wait_events(BURST as u64 + 1);
    agent.stop();
    let verified = site.verify();
    assert!(verified.ok, "{:#}", verified.report);
    assert!(verified.content == log.content);
    assert_eq!(verified.report["totals"]["malformed"], 0);
}

// Fails if the event behind a torn one is lost with it, or the torn one is lost.
#[test]
fn an_event_behind_a_torn_one_is_salvaged() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::unbounded(&site.log(), PLAIN);
    let agent = site.run(receiver.address, &[]);
    log.write(BURST);
    let before = log.content.len();
    let torn = log.line();
    let torn = &torn[..torn.len() / 3];
    log.write_partial(torn);
    log.restart();
    log.write(BURST);
    site.wait_for(&log);
    assert_eq!(agent.metric("auditail_quarantined_lines_total"), 1.0);
    agent.stop();
    let verified = site.verify();
    assert!(verified.ok, "{:#}", verified.report);
    let record = &verified.content[before..];
    let end = record.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let record: serde_json::Value = serde_json::from_slice(&record[..end]).unwrap();
    assert_eq!((&record["kind"], &record["reason"]), (&"MalformedLine".into(), &"torn".into()));
    assert_eq!(record["text"].as_str().unwrap().as_bytes(), torn);
    let rest = [&verified.content[..before], &verified.content[before + end..]].concat();
    assert!(rest == [&log.content[..before], &log.content[before + torn.len()..]].concat());
}

// Fails if a line longer than an event may be is lost, or holds up what follows.
#[test]
fn a_line_that_is_too_long_comes_in_pieces() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::unbounded(&site.log(), PLAIN);
    let agent = site.run(receiver.address, &["source.max_event_bytes: 512KiB"]);
    log.write(BURST);
    let long = [b"{\"kind\":\"Event\",\"long\":\"".as_slice(), &b"x".repeat(1_200_000), b"\"}\n"].concat();
    OpenOptions::new().append(true).open(site.log()).unwrap().write_all(&long).unwrap();
    log.restart();
    log.write(BURST);
    site.wait_for(&log);
    agent.stop();
    let verified = site.verify();
    assert!(verified.ok, "{:#}", verified.report);
    let records =
        verified.content.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"kind\":\"MalformedLine\""));
    let text: Vec<String> = records
        .map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    assert!(text.len() >= 3);
    assert!(text.concat().trim_end().as_bytes() == long.trim_ascii_end());
}
