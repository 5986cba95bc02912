//! The audit logs: found, readable, and what was rotated away from them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use indicatif::HumanBytes;

use super::render::{age, count};
use super::report::Check;
use crate::disk::{Disk, Stat};
use crate::limits::SOURCES_MAX;
use crate::pipeline::discover::discover;
use crate::source::name::{Order, classify};

const PATHS: &str = "source.paths";
const LIVE: &str = "source.live";
const ROTATED: &str = "source.rotated";

const PERMISSION: &str = "kube-apiserver writes its logs with mode 0600: run as root (runAsUser: 0) or with \
                          CAP_DAC_READ_SEARCH, and look at the labels where SELinux is in use";

/// The live logs that the configured paths lead to, and what is wrong with the paths as such.
pub(super) fn find<D: Disk>(disk: &D, paths: &[String]) -> (BTreeSet<PathBuf>, Vec<Check>) {
    let (mut logs, mut checks) = (BTreeSet::new(), Vec::new());
    for path in paths {
        let found = discover(disk, std::slice::from_ref(path)).logs;
        if found.is_empty() {
            let remedy = "correct the pattern, or wait: logs that appear later are followed";
            checks.push(Check::warn(PATHS, format!("{path} matches no log"), remedy));
        }
        logs.extend(found);
    }
    if logs.len() > SOURCES_MAX {
        let found = format!("{} logs match, and {SOURCES_MAX} are followed at most", logs.len());
        checks.push(Check::fail(PATHS, found, "narrow source.paths"));
    }
    (logs, checks)
}

/// Looks at one log.
pub(super) async fn check<D: Disk>(disk: &D, log: &Path) -> [Check; 2] {
    let live = match look_into(disk, log).await {
        Ok(stat) => Check::ok(LIVE, format!("{}: {}, {}", log.display(), HumanBytes(stat.len), last_written(&stat))),
        Err(problem) => problem.check(log),
    };
    [live, rotated(disk, log).await]
}

/// Why a log cannot be read.
enum Problem {
    NotAFile,
    Io(io::Error),
}

impl Problem {
    fn check(&self, log: &Path) -> Check {
        let log = log.display();
        match self {
            Self::NotAFile => Check::fail(
                LIVE,
                format!("{log}: not a regular file"),
                "remove it. Mounting a file that does not exist makes a directory in its place: mount the log's directory",
            ),
            Self::Io(error) if error.kind() == io::ErrorKind::NotFound => Check::warn(
                LIVE,
                format!("{log}: not there; the agent waits for it"),
                "see that the directory is mounted and that kube-apiserver has --audit-log-path and --audit-policy-file",
            ),
            Self::Io(error) => Check::fail(LIVE, format!("{log}: cannot be read: {error}"), remedy(error)),
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => PERMISSION,
        _ => "see that the file system is mounted and sound (dmesg)",
    }
}

/// Opens and reads as the agent does; a FIFO or directory is told by its metadata, before it could be opened.
async fn look_into<D: Disk>(disk: &D, path: &Path) -> Result<Stat, Problem> {
    let stat = disk.stat_path(path).map_err(Problem::Io)?;
    if !stat.is_file {
        return Err(Problem::NotAFile);
    }
    let file = disk.open(path).map_err(Problem::Io)?;
    let (_, read) = disk.read_at(&file, 0, 1, Vec::with_capacity(1)).await;
    read.map(|_| stat).map_err(Problem::Io)
}

fn last_written(stat: &Stat) -> String {
    let written = SystemTime::UNIX_EPOCH + Duration::from_nanos(stat.modified_ns);
    format!("last written {}", age(written, SystemTime::now()))
}

/// Counts the rotated siblings, and opens each of them.
async fn rotated<D: Disk>(disk: &D, log: &Path) -> Check {
    let shown = log.display();
    let directory = log.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base = log.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let entries = match disk.list(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::ok(ROTATED, format!("{shown}: none; its directory is not there"));
        }
        Err(error) => {
            let found = format!("{shown}: {} cannot be listed: {error}", directory.display());
            return Check::fail(ROTATED, found, remedy(&error));
        }
    };
    let is_rotated = |name: &str| classify(&base, name).is_some_and(|sibling| sibling.order != Order::Live);
    let (mut files, mut bytes, mut unreadable) = (0u64, 0, Vec::new());
    for entry in entries.iter().filter(|entry| !entry.is_dir && is_rotated(&entry.name)) {
        match look_into(disk, &directory.join(&entry.name)).await {
            Ok(stat) => (files, bytes) = (files + 1, bytes + stat.len),
            // Removed since it was listed.
            Err(Problem::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(Problem::Io(error)) => unreadable.push((&entry.name, error)),
            Err(Problem::NotAFile) => {}
        }
    }
    let found = format!("{shown}: {}, {}", count(files, "rotated file"), HumanBytes(bytes));
    match unreadable.first() {
        None => Check::ok(ROTATED, found),
        Some((name, error)) => {
            let found = format!("{found}; {} cannot be read, {name} for one: {error}", unreadable.len());
            Check::fail(ROTATED, found, remedy(error))
        }
    }
}
