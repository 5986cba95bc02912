//! Every metric there is, in one table: name, kind, unit, labels and meaning. `docs/metrics.md` shows the same table.
//!
//! Elsewhere a metric is emitted as `metrics::counter!(names::READ_BYTES, "source" => source)`. Label values come from
//! the configuration or from fixed sets, so that the number of series is bounded.

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Name as it is exported.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Unit of its value.
    pub unit: Unit,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells, in one sentence.
    pub help: &'static str,
}

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only upwards, from 0 at start.
    Counter,
    /// Up and down.
    Gauge,
    /// Counts values into buckets with these upper bounds; fixed, so that its memory is.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The kind as Prometheus calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Bytes, from a nearly empty chunk to one of several times the default amount.
const SIZE_BUCKETS: &[f64] = &[4e3, 16e3, 64e3, 256e3, 1e6, 2.5e6, 5e6, 10e6, 25e6, 50e6, 100e6, 250e6];

/// Seconds a chunk was open; the default closes it at 60.
const AGE_BUCKETS: &[f64] = &[0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 90.0, 300.0, 900.0, 3600.0];

/// Seconds one request took; the default time-out is 60.
const REQUEST_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Seconds from event to receipt; outages last hours.
const LATENCY_BUCKETS: &[f64] = &[0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0];

/// Writes the table and one constant for each name.
macro_rules! metrics_table {
    ($($constant:ident $name:literal $kind:expr, $unit:ident, $labels:expr, $help:literal;)*) => {
        /// Names of the metrics, as constants.
        pub mod names {
            $(#[doc = $help] pub const $constant: &str = concat!("auditail_", $name);)*
        }

        /// Every metric.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: names::$constant,
            kind: $kind,
            unit: Unit::$unit,
            labels: &$labels,
            help: $help,
        }),*];
    };
}

use Kind::{Counter, Gauge, Histogram};

metrics_table! {
    // Completeness: what was read, delivered, marked and lost.
    READ_BYTES "read_bytes_total" Counter, Bytes, ["source"], "Bytes of log read, decompressed.";
    READ_EVENTS "read_events_total" Counter, Count, ["source"], "Events found in what was read.";
    DELIVERED_BYTES "delivered_bytes_total" Counter, Bytes, ["source"], "Bytes of log the destination has confirmed.";
    DELIVERED_EVENTS "delivered_events_total" Counter, Count, ["source"], "Events the destination has confirmed.";
    DELIVERED_BODY_BYTES "delivered_body_bytes_total" Counter, Bytes, ["source"],
        "Compressed bytes the destination has confirmed.";
    QUARANTINED_LINES "quarantined_lines_total" Counter, Count, ["source"],
        "Malformed lines, delivered wrapped in a record of their own.";
    QUARANTINED_BYTES "quarantined_bytes_total" Counter, Bytes, ["source"], "Bytes of malformed lines.";
    LOST_BYTES "lost_bytes_total" Counter, Bytes, ["source"],
        "Bytes lost, as far as their number is known; each range is reported in a delivered loss record.";
    LOSS_RECORDS "loss_records_total" Counter, Count, ["source"], "Ranges lost, also those whose end is not known; each is a delivered loss record.";
    LAG_BYTES "lag_bytes" Gauge, Bytes, ["source"], "Bytes written and not yet confirmed; a compressed file that is not read counts with its compressed bytes.";
    LAG_SECONDS "lag_seconds" Gauge, Seconds, ["source"], "Age of the oldest byte not yet confirmed; 0 where there is none.";
    DELIVERY_LATENCY "delivery_latency_seconds" Histogram(LATENCY_BUCKETS), Seconds, [],
        "From the timestamp of a chunk's first event to its receipt.";

    // Sources.
    SOURCE_READABLE "source_readable" Gauge, Count, ["source"], "1 where the live file can be read, else 0.";
    FILES_TRACKED "files_tracked" Gauge, Count, ["source"], "Files known, live and rotated.";
    FILES_OPEN "files_open" Gauge, Count, ["source"], "Files held open.";
    ROTATIONS "rotations_total" Counter, Count, ["source"], "Times the live file was replaced.";
    TRUNCATIONS "truncations_total" Counter, Count, ["source"], "Times a file became shorter.";
    WAKE_UPS "wake_ups_total" Counter, Count, ["kind"], "Hints that there may be something to read: data (written) or structure (names changed).";

    // Chunks.
    CHUNKS_CLOSED "chunks_closed_total" Counter, Count, ["reason"],
        "Chunks closed: amount, age, memory, shutdown, file_end or body_limit.";
    CHUNK_CONTENT_BYTES "chunk_content_bytes" Histogram(SIZE_BUCKETS), Bytes, [], "Uncompressed bytes of a chunk.";
    CHUNK_BODY_BYTES "chunk_body_bytes" Histogram(SIZE_BUCKETS), Bytes, [], "Compressed bytes of a chunk.";
    CHUNK_AGE "chunk_age_seconds" Histogram(AGE_BUCKETS), Seconds, [], "Age of a chunk when it was closed.";

    // Delivery.
    UPLOAD_ATTEMPTS "upload_attempts_total" Counter, Count, ["outcome"],
        "Requests: delivered, too_large, refused, unauthorized (token, URL or proxy) or retry.";
    UPLOAD_RETRIES "upload_retries_total" Counter, Count, [], "Requests that repeated an earlier one.";
    UPLOAD_DURATION "upload_duration_seconds" Histogram(REQUEST_BUCKETS), Seconds, [], "How long one request took.";
    UPLOADS_IN_FLIGHT "uploads_in_flight" Gauge, Count, [], "Requests under way.";
    UNAUTHORIZED "unauthorized" Gauge, Count, [], "1 while the destination takes nothing from us as configured (token, URL, proxy), else 0.";
    ASIDE_CHUNKS "aside_chunks_total" Counter, Count, [], "Chunks set aside because the destination refused them for good.";
    ASIDE_BYTES "aside_bytes_total" Counter, Bytes, [], "Compressed bytes of chunks set aside.";

    // State.
    CHECKPOINT_WRITES "checkpoint_writes_total" Counter, Count, [], "Checkpoints made durable.";
    CHECKPOINT_WRITE_FAILURES "checkpoint_write_failures_total" Counter, Count, [],
        "Checkpoints that could not be made durable.";
    CHECKPOINT_TIMESTAMP "checkpoint_timestamp_seconds" Gauge, Seconds, [],
        "When the last checkpoint was made durable, since the epoch; its age is time() minus this.";

    // The agent itself.
    POOL_PAGES "pool_pages" Gauge, Count, [], "Pages of the body pool, 64 KiB each.";
    POOL_PAGES_AVAILABLE "pool_pages_available" Gauge, Count, [], "Pages of the body pool that are free.";
    POOL_OVERFLOW "pool_overflow_total" Counter, Count, [], "Pages allocated beside the body pool because none was free.";
    RUNG "rung" Gauge, Count, ["kind", "rung"], "1 for the way of reading (kind read) and of watching (kind watch) in use.";
    BUILD_INFO "build_info" Gauge, Count, ["version"], "Always 1; the label names the version.";
}

/// Ways of reading a log, best first: values of the label `rung` where `kind` is `read`.
pub const READ_RUNGS: [&str; 2] = ["uring", "pread"];

/// Ways of noticing writes, best first: values of the label `rung` where `kind` is `watch`.
pub const WATCH_RUNGS: [&str; 2] = ["inotify", "poll"];

/// Reports which of the `rungs` of a `kind` is in use, and that the others are not.
pub fn set_rung(kind: &'static str, rungs: &[&'static str], in_use: &str) {
    for rung in rungs {
        metrics::gauge!(names::RUNG, "kind" => kind, "rung" => *rung).set(if *rung == in_use { 1.0 } else { 0.0 });
    }
}

/// Starts collecting metrics, for the life of the process. Without this call they cost nothing and go nowhere.
///
/// The handle renders them for [`super::http`], which must also run: until somebody renders or maintains them,
/// histograms keep every value they were given.
///
/// # Errors
/// Where metrics are collected already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    describe_all();
    metrics::gauge!(names::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// A recorder with the buckets of every histogram.
fn builder() -> Result<PrometheusBuilder, BuildError> {
    METRICS.iter().try_fold(PrometheusBuilder::new(), |builder, metric| match metric.kind {
        Histogram(buckets) => builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets),
        Counter | Gauge => Ok(builder),
    })
}

/// Tells the recorder the unit and meaning of every metric. Counters without labels begin to be exported, at 0:
/// Prometheus sees no increase in a counter that appears with its first count.
fn describe_all() {
    for Metric { name, kind, unit, labels, help } in METRICS {
        match kind {
            Counter => {
                metrics::describe_counter!(*name, *unit, *help);
                if labels.is_empty() {
                    metrics::counter!(*name).increment(0);
                }
            }
            Gauge => metrics::describe_gauge!(*name, *unit, *help),
            Histogram(_) => metrics::describe_histogram!(*name, *unit, *help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is exported after `emit`.
    fn exported(emit: impl FnOnce()) -> String {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe_all();
            emit();
        });
        handle.render()
    }

    // Fails if a name breaks the conventions dashboards rely on, or is used twice.
    #[test]
    fn names_follow_the_conventions() {
        for metric in METRICS {
            assert!(metric.name.starts_with("auditail_"));
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Counter, "{}", metric.name);
            let unit_in_name = metric.name.contains("_bytes") || metric.name.ends_with("_seconds");
            assert_eq!(unit_in_name, metric.unit != Unit::Count, "{}", metric.name);
        }
        let mut all: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), METRICS.len());
    }

    // Fails if a histogram is exported as a summary, whose memory is not bounded, or its bounds are not ascending.
    #[test]
    fn histograms_have_fixed_buckets() {
        for metric in METRICS {
            let Histogram(buckets) = metric.kind else { continue };
            assert!(buckets.is_sorted_by(|a, b| a < b), "{}", metric.name);
            let text = exported(|| metrics::histogram!(metric.name).record(1.0));
            assert!(text.contains(&format!("# TYPE {} histogram", metric.name)), "{text}");
            assert!(text.contains(&format!("# HELP {} {}", metric.name, metric.help)), "{text}");
        }
    }

    // Fails if an alert on the first chunk set aside, or the first failed checkpoint, cannot fire.
    #[test]
    fn counters_without_labels_start_at_zero() {
        let text = exported(|| {});
        for name in [names::ASIDE_CHUNKS, names::CHECKPOINT_WRITE_FAILURES] {
            assert!(text.contains(&format!("\n{name} 0\n")), "{text}");
        }
    }

    // Fails if two rungs are reported as in use at once.
    #[test]
    fn one_rung_is_in_use() {
        let text = exported(|| {
            set_rung("read", &READ_RUNGS, "uring");
            set_rung("read", &READ_RUNGS, "pread");
        });
        assert!(text.contains("auditail_rung{kind=\"read\",rung=\"pread\"} 1"), "{text}");
        assert!(text.contains("auditail_rung{kind=\"read\",rung=\"uring\"} 0"), "{text}");
    }

    // Fails if a metric is added, removed or changed without its documentation.
    #[test]
    fn the_documentation_lists_every_metric() {
        let documentation = include_str!("../../../docs/metrics.md");
        let documented: Vec<_> = documentation.lines().filter(|line| line.starts_with("| `")).collect();
        let row = |Metric { name, kind, unit, labels, help }: &Metric| {
            let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            format!("| `{name}` | {} | {} | {labels} | {help} |", kind.as_str(), unit.as_str())
        };
        let expected: Vec<_> = METRICS.iter().map(row).collect();
        assert_eq!(documented, expected, "the table should read:\n{}", expected.join("\n"));
    }
}
