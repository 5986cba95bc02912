//! What the pipeline tells: metrics, and progress for a display. All of it in one place, so that the stages read as
//! what they do.

use std::cell::Cell;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tokio::time::Instant;

use super::Pipeline;
use super::scan::ScanReport;
use super::source::Source;
use crate::chunk::CloseReason;
use crate::disk::Disk;
use crate::frame::Framed;
use crate::manifest::{Kind, Manifest};
use crate::observe::metrics::names;
use crate::record::Loss;
use crate::upload::deliver::AttemptReport;
use crate::upload::{Delivery, Destination, Outcome};

/// Running totals of one run, for `ship`.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of log read.
    pub bytes_read: Cell<u64>,
    /// Events found in them.
    pub events_read: Cell<u64>,
    /// Bytes of log with a receipt.
    pub bytes_delivered: Cell<u64>,
    /// Events with a receipt.
    pub events_delivered: Cell<u64>,
    /// Malformed lines with a receipt.
    pub malformed_delivered: Cell<u64>,
    /// Chunks the destination refused for good.
    pub chunks_aside: Cell<u64>,
    /// Loss records with a receipt.
    pub losses: Cell<u64>,
}

fn add(cell: &Cell<u64>, amount: u64) {
    cell.set(cell.get() + amount);
}

impl Progress {
    pub(super) fn read(&self, bytes: u64) {
        add(&self.bytes_read, bytes);
    }

    pub(super) fn framed(&self, events: u64) {
        add(&self.events_read, events);
    }

    pub(super) fn delivered(&self, manifest: &Manifest) {
        match manifest.kind {
            Kind::Lines => {
                add(&self.bytes_delivered, manifest.span.len());
                add(&self.events_delivered, manifest.events);
                add(&self.malformed_delivered, manifest.malformed);
            }
            Kind::Loss => add(&self.losses, 1),
        }
    }

    pub(super) fn set_aside(&self) {
        add(&self.chunks_aside, 1);
    }
}

impl<D: Disk, T: Destination> Pipeline<D, T> {
    /// Brings gauges and readiness up to date.
    pub(super) fn report(&self, now: Instant) {
        let unreadable = |source: &Source<D>| source.told_problem.is_some();
        if self.state.failures() > 0 {
            self.health.set_unready("the checkpoint cannot be written");
        } else if !self.sources.is_empty() && self.sources.iter().all(unreadable) {
            self.health.set_unready("no log can be read");
        } else {
            self.health.set_ready();
        }
        gauge!(names::UPLOADS_IN_FLIGHT).set(self.uploads.len() as f64);
        gauge!(names::POOL_PAGES).set(self.pool.capacity() as f64);
        gauge!(names::POOL_PAGES_AVAILABLE).set(self.pool.available() as f64);
        counter!(names::POOL_OVERFLOW).absolute(self.pool.overflow_count());
        for source in &self.sources {
            let label = || source.name.clone();
            let lag = source.unread_bytes() + source.unread_compressed_bytes() + source.undelivered_bytes();
            let since = source.oldest_unconfirmed().filter(|_| lag > 0);
            gauge!(names::LAG_BYTES, "source" => label()).set(lag as f64);
            gauge!(names::LAG_SECONDS, "source" => label())
                .set(since.map_or(0.0, |since| now.duration_since(since).as_secs_f64()));
        }
    }
}

pub(super) fn wake_up(kind: &'static str) {
    counter!(names::WAKE_UPS, "kind" => kind).increment(1);
}

/// Tells what a look has found. A problem is told when the next look finds it too: between the rename and the creation of
/// a rotation there is no live file either.
pub(super) fn scanned<D: Disk>(source: &mut Source<D>, found: &ScanReport, problem_before: Option<&str>) {
    let label = || source.name.clone();
    // From the start, so that the first one counts as an increase.
    for name in [names::LOSS_RECORDS, names::LOST_BYTES, names::QUARANTINED_LINES] {
        counter!(name, "source" => label()).increment(0);
    }
    counter!(names::ROTATIONS, "source" => label()).increment(found.rotations);
    counter!(names::TRUNCATIONS, "source" => label()).increment(found.truncations);
    gauge!(names::FILES_TRACKED, "source" => label()).set(source.files.len() as f64);
    let open = source.files.values().filter(|file| file.handle.is_some()).count();
    gauge!(names::FILES_OPEN, "source" => label()).set(open as f64);
    gauge!(names::SOURCE_READABLE, "source" => label()).set(if source.live_problem.is_none() { 1.0 } else { 0.0 });
    match (&source.live_problem, &source.told_problem) {
        (Some(problem), told) if Some(problem) != told.as_ref() && Some(problem.as_str()) == problem_before => {
            tracing::error!(
                source = source.name,
                problem,
                "the log cannot be read; what is written to it waits until this is mended"
            );
            source.told_problem = source.live_problem.clone();
        }
        (None, Some(_)) => {
            tracing::info!(source = source.name, "the log can be read");
            source.told_problem = None;
        }
        _ => {}
    }
}

pub(super) fn read(source: &str, bytes: u64) {
    counter!(names::READ_BYTES, "source" => source.to_owned()).increment(bytes);
}

pub(super) fn framed(source: &str, framed: &Framed) {
    counter!(names::READ_EVENTS, "source" => source.to_owned()).increment(framed.events);
    if framed.malformed > 0 {
        counter!(names::QUARANTINED_LINES, "source" => source.to_owned()).increment(framed.malformed);
        counter!(names::QUARANTINED_BYTES, "source" => source.to_owned()).increment(framed.malformed_bytes);
    }
}

pub(super) fn closed(reason: CloseReason, raw_bytes: u64, body_bytes: u64, age: Duration) {
    counter!(names::CHUNKS_CLOSED, "reason" => reason.as_str()).increment(1);
    histogram!(names::CHUNK_CONTENT_BYTES).record(raw_bytes as f64);
    histogram!(names::CHUNK_BODY_BYTES).record(body_bytes as f64);
    histogram!(names::CHUNK_AGE).record(age.as_secs_f64());
}

pub(super) fn lost(loss: &Loss) {
    let bytes = loss.end.map_or(0, |end| end.saturating_sub(loss.start));
    counter!(names::LOSS_RECORDS, "source" => loss.source.clone()).increment(1);
    counter!(names::LOST_BYTES, "source" => loss.source.clone()).increment(bytes);
    tracing::error!(
        source = loss.source, file = loss.path, identity = %loss.file, start = loss.start, end = loss.end,
        reason = loss.reason.as_str(), "bytes of the audit log are lost; a loss record is delivered in their place"
    );
}

pub(super) fn attempt(attempt: AttemptReport<'_>) {
    let outcome = match attempt.outcome {
        Outcome::Delivered => "delivered",
        Outcome::TooLarge => "too_large",
        Outcome::Refused { .. } => "refused",
        Outcome::Unauthorized { .. } => "unauthorized",
        Outcome::Retry { .. } => "retry",
    };
    counter!(names::UPLOAD_ATTEMPTS, "outcome" => outcome).increment(1);
    counter!(names::UPLOAD_RETRIES).increment(u64::from(attempt.attempt > 1));
    histogram!(names::UPLOAD_DURATION).record(attempt.elapsed.as_secs_f64());
    gauge!(names::UNAUTHORIZED).set(if outcome == "unauthorized" { 1.0 } else { 0.0 });
}

pub(super) fn delivered(delivery: &Delivery, latency: Option<Duration>) {
    let manifest = &delivery.manifest;
    let label = || manifest.source.clone();
    if manifest.kind == Kind::Lines {
        // The range of a loss record has not been delivered.
        counter!(names::DELIVERED_BYTES, "source" => label()).increment(manifest.span.len());
    }
    counter!(names::DELIVERED_EVENTS, "source" => label()).increment(manifest.events);
    counter!(names::DELIVERED_BODY_BYTES, "source" => label()).increment(delivery.body_bytes());
    if let Some(latency) = latency {
        histogram!(names::DELIVERY_LATENCY).record(latency.as_secs_f64());
    }
}

pub(super) fn set_aside(delivery: &Delivery) {
    counter!(names::ASIDE_CHUNKS).increment(1);
    counter!(names::ASIDE_BYTES).increment(delivery.body_bytes());
}

pub(super) fn saved(result: &std::io::Result<()>) {
    match result {
        Ok(()) => {
            counter!(names::CHECKPOINT_WRITES).increment(1);
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            gauge!(names::CHECKPOINT_TIMESTAMP).set(now.as_secs_f64());
        }
        Err(_) => counter!(names::CHECKPOINT_WRITE_FAILURES).increment(1),
    }
}
