//! Which way of reading and of noticing writes would be used, and why not the better one.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use super::report::Check;
use crate::cli::{Failure, setup};
use crate::config::{ReadRung, SourceConfig};
use crate::disk::Disk;
use crate::disk::uring::{Ring, Runtime};
use crate::pipeline::discover::discover;
use crate::watch::{Targets, Watcher};

const READ: &str = "read";
const WATCH: &str = "watch";

/// Starts the event loop as `run` does; where that is refused, one that is good enough for the other checks. The lower
/// rungs are what many nodes run, so being on one is no warning.
///
/// # Errors
/// Where no event loop can be started at all.
pub(super) fn read(wanted: ReadRung) -> Result<(Runtime, Option<Ring>, Check), Failure> {
    match setup::start_runtime(wanted) {
        Ok((runtime, ring, rung)) => Ok((runtime, ring, Check::ok(READ, rung.to_string()))),
        Err(failure) => {
            let runtime = Runtime::plain().map_err(|error| Failure::machine("cannot start the event loop", error))?;
            let remedy =
                "set source.read: auto, or allow io_uring (seccomp profile, kernel.io_uring_disabled, locked memory)";
            Ok((runtime, None, Check::fail(READ, failure.message, remedy)))
        }
    }
}

/// Sets up the watches that the agent would use.
pub(super) fn watch<D: Disk>(disk: &D, source: &SourceConfig, logs: &BTreeSet<PathBuf>) -> Check {
    let directories = discover(disk, &source.paths).directories;
    let (mut watcher, rung) = match Watcher::choose(source.watch, &directories, source.poll_interval) {
        Ok(chosen) => chosen,
        Err(error) => {
            let remedy = "set source.watch: auto, or raise fs.inotify.max_user_instances";
            return Check::fail(WATCH, format!("inotify is not available: {error}"), remedy);
        }
    };
    let targets = Targets { directories, prefixes: BTreeSet::new(), files: logs.clone() };
    match watcher.watch(targets) {
        Ok(()) => Check::ok(WATCH, rung.to_string()),
        Err(error) => {
            let remedy = match error.kind() {
                io::ErrorKind::PermissionDenied => "let the agent read the logs and their directories",
                _ => "raise fs.inotify.max_user_watches; until then the rest is looked at every source.rescan_interval",
            };
            Check::warn(WATCH, format!("{rung}; not everything can be watched: {error}"), remedy)
        }
    }
}
