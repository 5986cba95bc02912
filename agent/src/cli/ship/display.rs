//! Progress for whoever waits: a bar on a terminal, else a line every few seconds.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::pipeline::Progress;

const BAR: &str = "{bar:30} {decimal_bytes}/{decimal_total_bytes}  {msg}  {decimal_bytes_per_sec}  {eta_precise} left";
/// Where the size of a compressed file is not known before it is read.
const NO_BAR: &str = "{spinner} {decimal_bytes}  {msg}  {decimal_bytes_per_sec}  {elapsed_precise}";

/// How often the bar moves.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// How often a line is written where there is no bar.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows progress on standard error.
pub(super) struct Display {
    bar: ProgressBar,
    started: Instant,
    /// Bytes that were delivered before this run.
    before: u64,
    total: Option<u64>,
}

impl Display {
    /// A display that shows nothing yet.
    pub(super) fn new() -> Self {
        Self { bar: ProgressBar::hidden(), started: Instant::now(), before: 0, total: None }
    }

    /// A writer whose lines appear above the bar.
    pub(super) fn writer(&self) -> AboveBar {
        AboveBar(self.bar.clone())
    }

    /// Writes a line to standard error, above the bar.
    pub(super) fn say(&self, line: std::fmt::Arguments<'_>) {
        // With standard error closed nobody wants to know.
        let _ = writeln!(self.writer(), "auditail ship: {line}");
    }

    /// Shows the bar, where there is a terminal. `before` bytes of the `total` were delivered by an earlier run.
    pub(super) fn start(&mut self, before: u64, total: Option<u64>) {
        (self.started, self.before, self.total) = (Instant::now(), before, total);
        if !io::stderr().is_terminal() {
            return;
        }
        let template = if total.is_some() { BAR } else { NO_BAR };
        self.bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_length(total.unwrap_or(0));
        self.bar.set_position(before);
        self.bar.reset_eta();
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
    }

    /// How often [`Display::show`] is to be called.
    pub(super) fn interval(&self) -> Duration {
        if self.bar.is_hidden() { LINE_INTERVAL } else { BAR_INTERVAL }
    }

    /// Brings the display up to date.
    pub(super) fn show(&self, progress: &Progress) {
        let (delivered, events) = (progress.bytes_delivered.get(), progress.events_delivered.get());
        let done = self.before + delivered;
        if !self.bar.is_hidden() {
            self.bar.set_length(self.total.unwrap_or(0).max(done));
            self.bar.set_message(format!("{} events", HumanCount(events)));
            self.bar.set_position(done);
            return;
        }
        let rate = delivered as f64 / self.started.elapsed().as_secs_f64();
        let (of, left) = match self.total {
            Some(total) => (format!(" of {}", DecimalBytes(total)), left(total.saturating_sub(done), rate)),
            None => Default::default(),
        };
        let (done, events, rate) = (DecimalBytes(done), HumanCount(events), DecimalBytes(rate as u64));
        self.say(format_args!("{done}{of}, {events} events, {rate}/s{left}"));
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Time since [`Display::start`].
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

fn left(bytes: u64, rate: f64) -> String {
    let seconds = Duration::try_from_secs_f64(bytes as f64 / rate);
    seconds.map_or_else(|_| String::new(), |time| format!(", {} left", HumanDuration(time)))
}

/// Writes to standard error, the bar out of the way.
#[derive(Clone)]
pub(super) struct AboveBar(ProgressBar);

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.suspend(|| io::stderr().lock().write_all(bytes))
    }

    fn write_fmt(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        // In one piece: the bar is taken away and drawn again for each.
        self.write_all(text.to_string().as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for AboveBar {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a rate of nothing, as before the first receipt, panics or promises an end.
    #[test]
    fn time_left_needs_a_rate() {
        assert_eq!(left(1000, 0.0), "");
        assert_eq!(left(0, 0.0), "");
        assert_eq!(left(90_000, 1000.0), ", 2 minutes left");
    }

    // Fails if a template asks for something that indicatif does not know.
    #[test]
    fn templates_are_valid() {
        for template in [BAR, NO_BAR] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
