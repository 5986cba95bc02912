//! The report as text. Pure.

use std::time::{Duration, SystemTime};

use indicatif::HumanBytes;

use super::checkpoint::{CheckpointView, FileView, SourceView};
use super::report::{Check, Report, SettingView, Status};

/// Space between two columns.
const GAP: usize = 2;

/// The whole report: settings, checks, checkpoint, and last, where a terminal shows it, what it comes to.
pub(super) fn text(report: &Report) -> String {
    let mut out = settings(&report.settings);
    out.push('\n');
    out += &checks(&report.checks);
    out.push('\n');
    if let Some(view) = &report.checkpoint {
        out += &checkpoint(view);
        out.push('\n');
    }
    out += &summary(report);
    out
}

fn settings(settings: &[SettingView]) -> String {
    let mut rows = vec![["SETTING".to_owned(), "VALUE".to_owned(), "ORIGIN".to_owned()]];
    rows.extend(settings.iter().map(|setting| {
        let value = if setting.value.is_empty() { "-" } else { &setting.value };
        [setting.key.to_owned(), value.to_owned(), setting.origin.clone()]
    }));
    table(&rows)
}

/// A check's remedy stands below what was found.
fn checks(checks: &[Check]) -> String {
    let mut rows = vec![["STATUS".to_owned(), "CHECK".to_owned(), "FOUND".to_owned()]];
    for check in checks {
        rows.push([word(check.status).to_owned(), check.check.to_owned(), check.found.clone()]);
        rows.extend(check.remedy.iter().map(|remedy| [String::new(), String::new(), format!("-> {remedy}")]));
    }
    table(&rows)
}

/// What needs somebody stands out without colour.
fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Warn => "WARN",
        Status::Fail => "FAIL",
    }
}

fn checkpoint(view: &CheckpointView) -> String {
    let CheckpointView { path, written, cluster_id, stream, sources } = view;
    let written = written.as_deref().unwrap_or("at an unknown time");
    let mut out = printable(&format!("CHECKPOINT {path}, written {written}, cluster {cluster_id}, stream {stream}"));
    out.push('\n');
    sources.iter().for_each(|view| out += &source(view));
    out
}

/// Files of which nothing is left to deliver are counted only.
fn source(view: &SourceView) -> String {
    let SourceView { path, committed, pending, files } = view;
    let (complete, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.complete);
    let mut out = printable(&format!("{path}: {} delivered, {pending} pending", count(*committed, "chunk")));
    if !complete.is_empty() {
        out += &format!(", {} complete", count(complete.len() as u64, "file"));
    }
    out.push('\n');
    if !others.is_empty() {
        let mut rows = vec![["  FILE", "DELIVERED", "ON DISK", "LEFT"].map(str::to_owned)];
        rows.extend(others.iter().map(|file| file_row(file)));
        out += &table(&rows);
    }
    out
}

fn file_row(file: &FileView) -> [String; 4] {
    let (on_disk, left) = match file.size_bytes {
        None => ("gone".to_owned(), "not known".to_owned()),
        // The position counts decompressed bytes.
        Some(bytes) if file.name.ends_with(".gz") => (format!("{bytes} compressed"), "not known".to_owned()),
        Some(bytes) if bytes < file.delivered_bytes => (bytes.to_string(), "emptied since".to_owned()),
        Some(bytes) => (bytes.to_string(), HumanBytes(bytes - file.delivered_bytes).to_string()),
    };
    [format!("  {}", file.name), file.delivered_bytes.to_string(), on_disk, left]
}

fn summary(report: &Report) -> String {
    let (failed, warned) = (report.count(Status::Fail), report.count(Status::Warn));
    let verdict = match report.status {
        Status::Ok => "all is well".to_owned(),
        Status::Warn => count(warned as u64, "warning"),
        Status::Fail => format!("{failed} failed, {}", count(warned as u64, "warning")),
    };
    format!("auditail {}: {}, {verdict}\n", report.version, count(report.checks.len() as u64, "check"))
}

/// Columns as wide as their widest cell, the last one ragged.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + GAP;
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        out += cells.collect::<String>().trim_end();
        out.push('\n');
    }
    out
}

/// Text for a terminal: whoever names files or answers requests must not steer it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// So many of something.
pub(super) fn count(count: u64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// How long ago, in words.
pub(super) fn age(then: SystemTime, now: SystemTime) -> String {
    match now.duration_since(then) {
        Ok(since) => format!("{} ago", duration(since)),
        Err(_) => "in the future".to_owned(),
    }
}

/// A duration in its two largest units; nobody reads more of it.
pub(super) fn duration(duration: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::memory::Memory;

    fn report(checks: Vec<Check>) -> Report {
        let memory = Memory { ordinary_bytes: 0, large_events_bytes: 0, parts: Vec::new() };
        let mut report = Report::new(&[], checks, None, memory);
        let setting = |key, value: &str| SettingView { key, value: value.into(), origin: "default".into() };
        report.settings = vec![setting("cluster_id", "c1"), setting("service_id", "")];
        report.version = "1.0.0";
        report
    }

    // Fails if columns no longer line up, a remedy is left out, or the summary miscounts.
    #[test]
    fn a_report_as_text() {
        let checks = vec![
            Check::ok("read", "uring"),
            Check::warn("limits.files", "few", "raise it"),
            Check::fail("state.directory", "read-only", "mount it"),
        ];
        let expected = "\
SETTING     VALUE  ORIGIN
cluster_id  c1     default
service_id  -      default

STATUS  CHECK            FOUND
ok      read             uring
WARN    limits.files     few
                         -> raise it
FAIL    state.directory  read-only
                         -> mount it

auditail 1.0.0: 3 checks, 1 failed, 1 warning
";
        assert_eq!(text(&report(checks)), expected);
        assert!(text(&report(vec![Check::ok("read", "uring")])).ends_with("1 check, all is well\n"));
    }

    // Fails if a file's position is compared with a size it cannot be compared with, or a finished file takes a line.
    #[test]
    fn a_checkpoint_as_text() {
        let file = |name: &str, delivered_bytes, size_bytes, complete| FileView {
            name: name.into(),
            delivered_bytes,
            size_bytes,
            complete,
        };
        let files = vec![
            file("audit.log.3", 9, None, true),
            file("audit.log.2.gz", 9000, Some(100), false),
            file("audit.log.1", 4096, Some(5120), false),
            file("gone.log", 1, None, false),
            file("audit.log", 10, Some(4), false),
        ];
        let sources = vec![SourceView { path: "/log/audit.log".into(), committed: 7, pending: 1, files }];
        let (path, cluster_id, stream) = ("/state/checkpoint".into(), "c1".into(), "ab".into());
        let view = CheckpointView { path, written: None, cluster_id, stream, sources };
        let expected = "\
CHECKPOINT /state/checkpoint, written at an unknown time, cluster c1, stream ab
/log/audit.log: 7 chunks delivered, 1 pending, 1 file complete
  FILE            DELIVERED  ON DISK         LEFT
  audit.log.2.gz  9000       100 compressed  not known
  audit.log.1     4096       5120            1.00 KiB
  gone.log        1          gone            not known
  audit.log       10         4               emptied since
";
        assert_eq!(checkpoint(&view), expected);
    }

    // Fails if a file name or an answer can steer the operator's terminal.
    #[test]
    fn control_characters_are_not_printed() {
        let checks = vec![Check::ok("source.live", "/log/\u{1b}[2Jaudit.log\nok  all")];
        assert!(!text(&report(checks)).contains(['\u{1b}', '\r']));
    }

    // Fails if an age is shown to a precision that hides it.
    #[test]
    fn ages_have_two_units() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(age(at(0), at(90_061)), "1day 1h ago");
        assert_eq!(age(at(5), at(0)), "in the future");
    }
}
