//! Processes, logs and archives for the end-to-end tests.

pub mod log;
pub mod process;
pub mod site;

pub use log::Log;
pub use process::Process;
pub use site::{Agent, Site, text};

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long an effect may take on a busy machine before it counts as missing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `condition` gives something, and gives up after [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for: {what}");
        pause(LOOK_EVERY);
    }
}

/// Lets so much time pass: to pace a writer or a look, never to wait for an effect.
pub fn pause(time: Duration) {
    let (keep_open, never) = channel::<()>();
    let _ = never.recv_timeout(time);
    drop(keep_open);
}
