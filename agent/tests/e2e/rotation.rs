//! Rotation of every kind, while the log is being written.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use auditail_bench::backup::Compression;
use auditail_bench::compare::compare;
use auditail_bench::writer::{Compress, Rotation};

use crate::support::{Log, Site, pause};

/// Events per burst; about 150 kB.
const BURST: usize = 50;

/// Writes in bursts through many rotations. Between bursts the agent sometimes catches up, sometimes gets a moment, and
/// sometimes nothing, so that several rotations fall between two of its looks.
fn follow(rotation: Rotation, settings: &[&str]) {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::open(&site.log(), rotation, 400_000);
    let agent = site.run(receiver.address, settings);
    let mut rng = fastrand::Rng::with_seed(11);
    for _ in 0..30 {
        log.write(BURST);
        match rng.u32(..6) {
            0 => site.wait_for(&log),
            1 | 2 => pause(Duration::from_millis(rng.u64(1..80))),
            _ => {}
        }
    }
    assert!(log.tally().rotations >= 5);
    site.wait_for(&log);
    assert_eq!(agent.metric("auditail_loss_records_total"), 0.0);
    agent.stop();
    site.assert_exact(&log);
}

// Fails if a renamed file is not read to its end before the new one, or is read twice under its new name.
#[test]
fn renamed_as_the_server_does() {
    follow(Rotation::Stamped(Compress::Never), &[]);
}

// Fails if a backup that becomes a .gz is read again, or only as far as the .gz had come.
#[test]
fn renamed_and_compressed_in_the_background() {
    follow(Rotation::Stamped(Compress::Background), &[]);
}

// Fails if a backup that is a .gz by the next look is not found to be the file that was being read.
#[test]
fn renamed_and_compressed_at_once() {
    follow(Rotation::Stamped(Compress::Inline), &[]);
}

// Fails if files whose names all move up at each rotation are taken for new ones, or read in the order of their names.
#[test]
fn numbered() {
    follow(Rotation::Numbered { compress: false }, &[]);
}

// Fails if the same goes wrong when the newest backup becomes a .gz at once.
#[test]
fn numbered_and_compressed() {
    follow(Rotation::Numbered { compress: true }, &[]);
}

// Fails if the lower rungs do not do the same job.
#[test]
fn renamed_on_pread_and_poll() {
    follow(
        Rotation::Stamped(Compress::Background),
        &["source.read: pread", "source.watch: poll", "source.poll_interval: 50ms"],
    );
}

// Fails if framing on the reading thread, or the other encoding, loses its place.
#[test]
fn renamed_without_workers_in_zstd() {
    follow(Rotation::Stamped(Compress::Never), &["limits.workers: 0", "chunk.encoding: zstd"]);
}

// Fails if a file that was copied and emptied is not read on from its copy, or the copy is read from its start.
#[test]
fn copied_and_emptied() {
    follow(Rotation::CopyTruncate, &[]);
}

// Fails if a writer that goes on at its old offset costs an event, or the hole before it is taken for one.
#[test]
fn copied_and_emptied_under_a_writer_that_does_not_append() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::unbounded(&site.log(), Rotation::CopyTruncate);
    let agent = site.run(receiver.address, &[]);
    log.write(BURST);
    // From here on the file is open without O_APPEND.
    log.rotate_as(Rotation::Stamped(Compress::Never)).unwrap();
    for _ in 0..4 {
        log.write(BURST);
        site.wait_for(&log);
        log.rotate().unwrap();
    }
    log.write(BURST);
    site.wait_for(&log);
    agent.stop();
    let verified = site.verify();
    assert!(verified.ok, "{:#}", verified.report);
    let compared = compare(log.serials(), verified.content.as_slice()).unwrap();
    assert!(compared.lost.is_empty() && compared.duplicated == 0 && compared.in_order, "{compared:?}");
    assert_eq!(verified.report["totals"]["malformed"], compared.foreign);
}

// Fails if a .gz that is not complete yet is read instead of its original, or the file a second time once it is.
#[test]
fn a_partial_gz_is_not_taken_for_the_file() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::unbounded(&site.log(), Rotation::Stamped(Compress::Never));
    log.write(BURST);
    log.rotate().unwrap();
    let mut compression = Compression::begin(&backup(&site.path("log"))).unwrap();
    assert!(compression.advance().unwrap());
    log.write(BURST);
    let agent = site.run(receiver.address, &[]);
    site.wait_for(&log);
    compression.finish().unwrap();
    // A further rotation makes the agent look at the directory again.
    log.rotate().unwrap();
    log.write(BURST);
    site.wait_for(&log);
    agent.stop();
    site.assert_exact(&log);
}

// Fails if what the writer still writes to a file that somebody moved away is not read, or is read after the new file.
#[test]
fn moved_away_by_somebody_else() {
    for place in ["log/audit.log.saved", "elsewhere"] {
        let site = Site::new();
        let receiver = site.receive(&[]);
        let mut log = Log::open(&site.log(), Rotation::Stamped(Compress::Never), 400_000);
        let agent = site.run(receiver.address, &[]);
        log.write(BURST);
        site.wait_for(&log);
        log.move_away(&site.path(place)).unwrap();
        log.write(20);
        site.wait_for(&log);
        log.write(BURST * 6);
        site.wait_for(&log);
        agent.stop();
        site.assert_exact(&log);
    }
}

// Fails if a removed file is given up while the writer writes to it, or its successor is not noticed.
#[test]
fn removed_and_made_again() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::unbounded(&site.log(), Rotation::Stamped(Compress::Never));
    let agent = site.run(receiver.address, &[]);
    for _ in 0..3 {
        log.write(BURST);
        site.wait_for(&log);
        fs::remove_file(site.log()).unwrap();
        log.write(BURST);
        log.restart();
        log.write(BURST);
    }
    site.wait_for(&log);
    assert_eq!(agent.metric("auditail_loss_records_total"), 0.0);
    agent.stop();
    site.assert_exact(&log);
}

/// The only backup in a directory.
fn backup(directory: &Path) -> PathBuf {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    names.into_iter().find(|path| path.file_name().is_some_and(|name| name != "audit.log")).unwrap()
}
