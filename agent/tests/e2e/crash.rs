//! The agent is killed at random points, while it reads, sends and remembers, and while the log rotates.

use std::time::Duration;

use auditail_bench::writer::{Compress, Rotation};

use crate::support::{Log, Site, pause};

/// Kills in one test.
const KILLS: usize = 15;

fn killed_again_and_again(seed: u64, rotation: Rotation, settings: &[&str]) {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut log = Log::open(&site.log(), rotation, 300_000);
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..KILLS {
        log.write(rng.usize(1..60));
        let mut agent = site.run(receiver.address, settings);
        for _ in 0..rng.u32(1..4) {
            log.write(rng.usize(1..40));
            pause(Duration::from_millis(rng.u64(0..60)));
        }
        agent.kill();
    }
    let agent = site.run(receiver.address, settings);
    site.wait_for(&log);
    agent.stop();
    site.assert_exact(&log);
}

/// Chunks small and young, so that each life of the agent decides and sends several.
const BUSY: [&str; 2] = ["chunk.offload_after: 20ms", "chunk.offload_amount: 30kB"];

// Fails if anything is decided, sent or remembered in an order in which a crash in between loses or repeats events.
#[test]
fn while_files_are_renamed() {
    killed_again_and_again(1, Rotation::Stamped(Compress::Never), &BUSY);
}

// Fails if the same goes wrong where the files that were being read become .gz files.
#[test]
fn while_files_are_renamed_and_compressed() {
    killed_again_and_again(2, Rotation::Stamped(Compress::Inline), &BUSY);
}

// Fails if the same goes wrong where files are copied and emptied.
#[test]
fn while_files_are_copied_and_emptied() {
    killed_again_and_again(3, Rotation::CopyTruncate, &BUSY);
}
