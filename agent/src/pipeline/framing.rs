//! Framing and compression: on worker threads behind a lock-free channel, or on the ring thread where there are none.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::Notify;

use crate::chunk::Purpose;
use crate::compress::{CompressError, Compressor, Segment};
use crate::frame::{Framed, Framer};
use crate::ledger::FileKey;
use crate::manifest::Encoding;
use crate::pool::Reservation;
use crate::source::blocks::Block;

/// A block to be framed and compressed.
pub(super) struct Job {
    /// Index of its source.
    pub source: usize,
    /// Its place among the blocks of the source.
    pub ticket: u64,
    /// File it was read from.
    pub file: FileKey,
    /// What it is for.
    pub purpose: Purpose,
    /// The block.
    pub block: Block,
    /// Pages for its compressed form.
    pub pages: Reservation,
}

/// A framed and compressed block.
pub(super) struct Finished {
    /// Index of its source.
    pub source: usize,
    /// Its place among the blocks of the source.
    pub ticket: u64,
    /// File it was read from.
    pub file: FileKey,
    /// What it is for.
    pub purpose: Purpose,
    /// The block; its buffer is used again.
    pub block: Block,
    /// What was found in it.
    pub framed: Framed,
    /// Its compressed content.
    pub segment: Segment,
}

/// What a thread needs to frame and compress.
struct Bench {
    framer: Framer,
    compressor: Compressor,
}

impl Bench {
    fn work(&mut self, job: Job) -> Box<Finished> {
        let Job { source, ticket, file, purpose, block, mut pages } = job;
        let framed = self.framer.frame(&block.bytes, block.span.start, block.shape);
        let segment = match self.compressor.segment(framed.content.bytes(&block.bytes), &mut pages) {
            Ok(segment) => segment,
            Err(error) => give_up(&error),
        };
        Box::new(Finished { source, ticket, file, purpose, block, framed, segment })
    }
}

/// Compressing memory to memory fails for lack of memory only. As after any crash, the next start sends again what has
/// no receipt.
pub(super) fn give_up(error: &CompressError) -> ! {
    tracing::error!(%error, "cannot compress; the agent ends, to be started again");
    std::process::exit(1)
}

/// The framing stage.
pub(super) struct Framing {
    threads: Vec<JoinHandle<()>>,
    jobs: Option<Sender<Job>>,
    finished: (Sender<Box<Finished>>, Receiver<Box<Finished>>),
    wake: Arc<Notify>,
    inline: Option<Bench>,
}

impl Framing {
    /// A stage with so many threads; at most `blocks` blocks are in it at once.
    ///
    /// # Errors
    /// Where no thread can be started, or the level is none of the encoding's.
    pub(super) fn start(workers: usize, blocks: usize, encoding: Encoding, level: u32) -> std::io::Result<Self> {
        let bench = || Ok(Bench { framer: Framer::new(), compressor: Compressor::new(encoding, level)? });
        let invalid = |error: CompressError| std::io::Error::new(std::io::ErrorKind::InvalidInput, error);
        let (jobs, queue) = crossbeam_channel::bounded::<Job>(blocks);
        let finished = crossbeam_channel::bounded(blocks);
        let wake = Arc::new(Notify::new());
        let mut threads = Vec::with_capacity(workers);
        for index in 0..workers {
            let (queue, finished, wake, mut bench) =
                (queue.clone(), finished.0.clone(), wake.clone(), bench().map_err(invalid)?);
            let work = move || {
                for job in queue {
                    if finished.send(bench.work(job)).is_err() {
                        break;
                    }
                    wake.notify_one();
                }
            };
            threads.push(std::thread::Builder::new().name(format!("frame-{index}")).spawn(work)?);
        }
        let inline = (workers == 0).then(bench).transpose().map_err(invalid)?;
        Ok(Self { threads, jobs: Some(jobs), finished, wake, inline })
    }

    /// Hands a block over. Never waits: no more blocks exist than the channels hold.
    pub(super) fn submit(&mut self, job: Job) {
        if let Some(bench) = &mut self.inline {
            // The receiver is a field of this struct, so that sending cannot fail.
            let _ = self.finished.0.send(bench.work(job));
            self.wake.notify_one();
        } else if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    /// The next finished block, in no particular order.
    pub(super) fn try_next(&self) -> Option<Box<Finished>> {
        self.finished.1.try_recv().ok()
    }

    /// Resolves when a block has been finished since the last call.
    pub(super) async fn wait(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Framing {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic in a worker has been printed by then; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}
