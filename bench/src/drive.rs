//! Writes generated events into a log at a given rate, in a thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::generate::Generator;
use crate::writer::{LogWriter, Tally};

/// How often a batch of events is due.
const TICK: Duration = Duration::from_millis(5);

/// A log that is being written.
#[derive(Debug)]
pub struct Drive {
    counts: Arc<Counts>,
    /// Dropped to stop the thread.
    stop: Sender<()>,
    thread: JoinHandle<io::Result<Tally>>,
}

#[derive(Debug, Default)]
struct Counts {
    lines: AtomicU64,
    bytes: AtomicU64,
    rotations: AtomicU64,
}

impl Drive {
    /// Starts writing `events_per_second`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(writer: LogWriter, generator: Generator, events_per_second: u64) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let work = move || write(writer, generator, events_per_second, &stopped, &shared);
        let thread = std::thread::Builder::new().name("writer".into()).spawn(work)?;
        Ok(Self { counts, stop, thread })
    }

    /// Events written so far.
    pub fn lines(&self) -> u64 {
        self.counts.lines.load(Ordering::Relaxed)
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// Rotations so far.
    pub fn rotations(&self) -> u64 {
        self.counts.rotations.load(Ordering::Relaxed)
    }

    /// Stops writing, waits for the compression of backups and tells what was written.
    ///
    /// # Errors
    /// The writer's; writing ends at the first one.
    pub fn stop(self) -> io::Result<Tally> {
        drop(self.stop);
        self.thread.join().map_err(|_| io::Error::other("the writing thread panicked"))?
    }
}

fn write(
    mut writer: LogWriter,
    mut generator: Generator,
    events_per_second: u64,
    stopped: &Receiver<()>,
    counts: &Counts,
) -> io::Result<Tally> {
    let started = Instant::now();
    let mut line = Vec::new();
    let mut made = 0;
    while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        // What is due counts from the start, so that a late tick is made up for.
        let due = started.elapsed().as_micros() as u64 * events_per_second / 1_000_000;
        while made < due {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
            line.clear();
            generator.next_line(now.as_micros() as u64, &mut line);
            writer.write_line(&line)?;
            made += 1;
        }
        let tally = writer.tally();
        counts.lines.store(tally.lines, Ordering::Relaxed);
        counts.bytes.store(tally.bytes, Ordering::Relaxed);
        counts.rotations.store(tally.rotations, Ordering::Relaxed);
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::compare;
    use crate::writer::{Options, Rotation};

    // Fails if the driver's counts, its tally and the file disagree, or it does not stop when told.
    #[test]
    fn what_is_counted_is_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let rotation = Rotation::Numbered { compress: false };
        let options = Options { path: path.clone(), bytes_max: u64::MAX / 2, backups_max: 0, rotation };
        let drive = Drive::start(LogWriter::open(options).unwrap(), Generator::new(1), 5_000).unwrap();
        while drive.lines() < 200 {
            std::thread::yield_now();
        }
        let seen = drive.lines();
        let tally = drive.stop().unwrap();
        assert!(tally.lines >= seen);
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content.len() as u64, tally.bytes);
        assert!(compare(&tally.serials, content.as_slice()).unwrap().is_exact());
    }
}
