//! Rotation of every kind, while the log is being written.

use std::fs;
use std::path::Path;
use std::time::Duration;

use auditail_bench::backup::Compression;
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
