//! The state directory: usable, on what, who uses it, and what was set aside in it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use indicatif::HumanBytes;
use rustix::fs::Access;

use super::render::count;
use super::report::Check;
use crate::cli::setup;
use crate::disk::{Disk, filesystem};
use crate::pipeline::aside::{ASIDE, AsideRecord};
use crate::pipeline::state::CHECKPOINT;

const DIRECTORY: &str = "state.directory";
const FILE_SYSTEM: &str = "state.filesystem";
const SPACE: &str = "state.space";
const LOCK: &str = "state.lock";
const DAMAGED: &str = "state.damaged";
const SET_ASIDE: &str = "state.aside";

/// Room that the checkpoint wants beside chunks set aside; it is written twice for a moment.
const CHECKPOINT_ROOM_BYTES: u64 = 16 * 1024 * 1024;

const REASONS_SHOWN: usize = 5;

/// What was found in the state directory.
pub(super) struct State {
    /// The checks.
    pub checks: Vec<Check>,
    /// Whether an agent holds the directory.
    pub agent_runs: bool,
}

/// Looks at the state directory, and changes nothing in it that stays.
pub(super) fn check<D: Disk>(disk: &D, directory: &Path, aside_bytes_max: u64) -> State {
    let (existing, usable) = usable(directory);
    let mut checks = vec![usable];
    checks.push(file_system(existing));
    let (aside, kept_bytes) = aside(disk, directory, aside_bytes_max);
    checks.push(space(existing, aside_bytes_max.saturating_sub(kept_bytes)));
    let holder = setup::lock_holder(directory);
    let agent_runs = matches!(holder, Ok(Some(_)));
    checks.push(match holder {
        Ok(Some(holder)) => Check::ok(LOCK, format!("an agent is running ({holder})")),
        Ok(None) => Check::ok(LOCK, "free: no agent is running"),
        Err(error) => {
            Check::fail(LOCK, format!("cannot be tested: {error}"), "run check as the user the agent runs as")
        }
    });
    checks.push(aside);
    checks.extend(damaged(disk));
    State { checks, agent_runs }
}

/// Writes, syncs and removes a small file. A directory that is not there is made by the agent: then it is enough that
/// it can be. Also gives the directory, or the nearest one above it that exists.
fn usable(directory: &Path) -> (&Path, Check) {
    const REMEDY: &str = "mount a writable directory of the node there, owned by the user the agent runs as";
    let shown = directory.display();
    let existing = directory.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let check = if existing == directory {
        match write_and_remove(directory) {
            Ok(()) => Check::ok(DIRECTORY, format!("{shown}: writable")),
            Err(error) => Check::fail(DIRECTORY, format!("{shown}: cannot be written: {error}"), REMEDY),
        }
    } else {
        match rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Check::ok(DIRECTORY, format!("{shown}: not there yet; the agent makes it")),
            Err(error) => Check::fail(DIRECTORY, format!("{shown}: not there, and cannot be made: {error}"), REMEDY),
        }
    };
    (existing, check)
}

fn write_and_remove(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".check-{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(b"auditail check\n")?;
        file.sync_all()
    };
    let written = write();
    let removed = fs::remove_file(&path);
    written.and(removed)
}

fn file_system(existing: &Path) -> Check {
    match filesystem::of(existing) {
        Ok(kind) if kind.volatile => Check::warn(
            FILE_SYSTEM,
            format!("{}: a reboot erases it, and with it how far delivery got", kind.name),
            "put state_directory on a disk of the node (hostPath); else everything on disk is delivered again after a reboot",
        ),
        Ok(kind) if kind.name == "overlayfs" => Check::warn(
            FILE_SYSTEM,
            "overlayfs: most likely the container's own layer, which goes when the container is replaced",
            "mount a directory of the node (hostPath) at state_directory",
        ),
        Ok(kind) if kind.remote => Check::warn(
            FILE_SYSTEM,
            format!("{}: a network file system, on which locks and durability depend on the server", kind.name),
            "put state_directory on a disk of the node",
        ),
        Ok(kind) => Check::ok(FILE_SYSTEM, kind.name),
        Err(error) => Check::warn(FILE_SYSTEM, format!("not known: {error}"), "see that it is mounted and sound"),
    }
}

fn space(existing: &Path, aside_bytes: u64) -> Check {
    let needed = aside_bytes + CHECKPOINT_ROOM_BYTES;
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let found = format!("{} free, up to {} wanted", HumanBytes(free), HumanBytes(needed));
            if free >= needed {
                Check::ok(SPACE, found)
            } else {
                Check::warn(
                    SPACE,
                    found,
                    "make room, or lower limits.aside; a full disk stops delivery, never loses events",
                )
            }
        }
        Err(error) => Check::warn(SPACE, format!("not known: {error}"), "see that it is mounted and sound"),
    }
}

/// The chunks that were set aside, and their bytes on disk.
fn aside<D: Disk>(disk: &D, directory: &Path, bytes_max: u64) -> (Check, u64) {
    let files = match disk.list_state(ASIDE.as_ref()) {
        Ok(files) => files,
        Err(error) => {
            let found = format!("cannot be listed: {error}");
            return (Check::fail(SET_ASIDE, found, "run check as the user the agent runs as"), 0);
        }
    };
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let mut reasons = BTreeMap::<String, u64>::new();
    for (name, _) in files.iter().filter(|(name, _)| name.ends_with(".json")) {
        *reasons.entry(reason(disk, name)).or_default() += 1;
    }
    let chunks: u64 = reasons.values().sum();
    if chunks == 0 {
        return (Check::ok(SET_ASIDE, "no chunk was refused for good"), bytes);
    }
    let mut told: Vec<_> = reasons.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
    let more = told.len().saturating_sub(REASONS_SHOWN);
    told.truncate(REASONS_SHOWN);
    told.extend((more > 0).then(|| format!("{more} further reasons")));
    let found = format!(
        "{} that the destination refused for good, {} of {}: {}",
        count(chunks, "chunk"),
        HumanBytes(bytes),
        HumanBytes(bytes_max),
        told.join("; ")
    );
    let remedy = format!("mend the cause, then: auditail ship {}", directory.join(ASIDE).display());
    (Check::warn(SET_ASIDE, found, remedy), bytes)
}

/// Checkpoints that were found damaged and kept.
fn damaged<D: Disk>(disk: &D) -> Option<Check> {
    let files = disk.list_state(Path::new("")).unwrap_or_default();
    let prefix = format!("{CHECKPOINT}.damaged-");
    let kept: Vec<_> = files.into_iter().map(|(name, _)| name).filter(|name| name.starts_with(&prefix)).collect();
    let found = || format!("delivery has started over from a damaged checkpoint; kept: {}", kept.join(", "));
    (!kept.is_empty()).then(|| Check::warn(DAMAGED, found(), "look for a failing disk, then remove what was kept"))
}

/// What the destination said about a chunk.
fn reason<D: Disk>(disk: &D, name: &str) -> String {
    let record = disk.load_state(&Path::new(ASIDE).join(name)).ok().flatten();
    let record = record.and_then(|bytes| serde_json::from_slice::<AsideRecord>(&bytes).ok());
    record.map_or_else(|| "its manifest cannot be read".to_owned(), |record| record.reason)
}
