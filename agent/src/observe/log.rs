//! Log lines on standard error. They never hold audit content or tokens.

use tracing::Level;
use tracing::subscriber::{SetGlobalDefaultError, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt};

use crate::config::LogFormat;

/// Starts logging to standard error, for the life of the process.
///
/// # Errors
/// Where logging has been started before.
pub fn init(format: LogFormat, level: Level) -> Result<(), SetGlobalDefaultError> {
    init_to(format, level, std::io::stderr)
}

/// As [`init`], to another writer: one that keeps lines apart from a progress bar.
///
/// # Errors
/// Where logging has been started before.
pub fn init_to<W>(format: LogFormat, level: Level, writer: W) -> Result<(), SetGlobalDefaultError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing::subscriber::set_global_default(subscriber(format, level, writer))
}

/// Writes events at `level` or above to `writer`, one line each.
fn subscriber<W>(format: LogFormat, level: Level, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    Registry::default().with(lines.with_filter(filter(level)))
}

/// Our own events as asked for, those of libraries only as warnings: what HTTP libraries tell in detail includes
/// the headers of requests, and with them the token.
fn filter(level: Level) -> Targets {
    let of_libraries = LevelFilter::WARN.min(LevelFilter::from_level(level));
    Targets::new().with_default(of_libraries).with_target("auditail", level)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is written while `emit` runs.
    fn logged(format: LogFormat, level: Level, emit: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(format, level, move || writer.clone()), emit);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    // Fails if an event is no longer one JSON object on one line with its fields at the top.
    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, Level::INFO, || {
            tracing::warn!(source = "/a\nb", bytes = 7, "something");
            tracing::info!("else");
            tracing::debug!("hidden");
        });
        let objects: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0]["level"], "WARN");
        assert_eq!(objects[0]["message"], "something");
        assert_eq!(objects[0]["source"], "/a\nb");
        assert_eq!(objects[0]["bytes"], 7);
    }

    // Fails if details of HTTP libraries, which include the token, get into the log.
    #[test]
    fn libraries_do_not_log_details() {
        let text = logged(LogFormat::Text, Level::TRACE, || {
            tracing::debug!(target: "h2::codec", "authorization: Bearer x");
            tracing::warn!(target: "rustls", "odd");
            tracing::trace!(target: "auditail::pipeline", "ours");
        });
        assert!(!text.contains("Bearer") && text.contains("odd") && text.contains("ours"), "{text}");
        let quiet = logged(LogFormat::Text, Level::ERROR, || tracing::warn!(target: "rustls", "odd"));
        assert_eq!(quiet, "");
    }
}
