//! What the agent remembers, as a person wants to know it: what is delivered, and what of it is on disk.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use super::render::{age, count};
use super::report::Check;
use crate::checkpoint::{self, Checkpoint, Error};
use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::pipeline::state::CHECKPOINT;
use crate::source::matching::Location;

const NAME: &str = "state.checkpoint";

/// A checkpoint beside what is on disk.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CheckpointView {
    /// Where it is.
    pub path: String,
    /// When it was written (RFC 3339); none where the file system does not tell.
    pub written: Option<String>,
    /// Cluster it belongs to.
    pub cluster_id: String,
    /// Stream in which sequence numbers count.
    pub stream: String,
    /// By the path of the live log.
    pub sources: Vec<SourceView>,
}

/// One log of a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SourceView {
    /// Path of the live log.
    pub path: String,
    /// Sequence number of the last chunk of which nothing is missing.
    pub committed: u64,
    /// Chunks that are fixed, perhaps sent, and have no receipt or wait for one before them.
    pub pending: usize,
    /// Its files, in the order in which they were first seen.
    pub files: Vec<FileView>,
}

/// One file of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct FileView {
    /// Name without the directory: the one it has now, else the last one known.
    pub name: String,
    /// Every byte before this offset is delivered, set aside or reported lost; of a `.gz`, decompressed bytes.
    pub delivered_bytes: u64,
    /// Bytes on disk, of a `.gz` compressed ones; none where the file is gone.
    pub size_bytes: Option<u64>,
    /// Nothing more is to be delivered.
    pub complete: bool,
}

/// Reads the checkpoint and says what the agent would make of it.
pub(super) fn check<D: Disk>(disk: &D, directory: &Path, cluster_id: &str) -> (Check, Option<CheckpointView>) {
    let path = directory.join(CHECKPOINT);
    let bytes = match disk.load_state(CHECKPOINT.as_ref()) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return (Check::ok(NAME, "none yet: the first start begins where source.start_at says"), None),
        Err(error) => {
            let found = format!("{} cannot be read: {error}", path.display());
            return (
                Check::fail(NAME, found, "run as the user the agent runs as, and see that the disk is sound"),
                None,
            );
        }
    };
    match checkpoint::decode(&bytes) {
        Ok(found) => {
            let written = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
            (judge(&found, cluster_id, written), Some(view(disk, &path, written, &found)))
        }
        Err(error) => (unusable(&error), None),
    }
}

fn unusable(error: &Error) -> Check {
    let remedy = match error {
        Error::Newer(_) => "the agent does not start; its state is intact",
        Error::Damaged(_) => {
            "look for a failing disk. The agent starts: it keeps the damaged file beside the new one and delivers everything \
             on disk again, in a new stream, so that nothing is lost"
        }
    };
    Check::fail(NAME, error.to_string(), remedy)
}

fn judge(checkpoint: &Checkpoint, cluster_id: &str, written: Option<SystemTime>) -> Check {
    if checkpoint.cluster_id != cluster_id {
        let found = format!("belongs to cluster_id {:?}, and this is {cluster_id:?}", checkpoint.cluster_id);
        return Check::fail(NAME, found, "correct cluster_id, or give this cluster a state_directory of its own");
    }
    let pending: usize = checkpoint.sources.values().map(|ledger| ledger.entries.len()).sum();
    let when = written.map_or_else(String::new, |written| format!("written {}; ", age(written, SystemTime::now())));
    let logs = count(checkpoint.sources.len() as u64, "log");
    Check::ok(NAME, format!("{when}{logs}, {} pending", count(pending as u64, "chunk")))
}

fn view<D: Disk>(disk: &D, path: &Path, written: Option<SystemTime>, checkpoint: &Checkpoint) -> CheckpointView {
    let source = |(path, ledger): (&String, &Ledger)| SourceView {
        path: path.clone(),
        committed: ledger.committed,
        pending: ledger.entries.len(),
        files: files(ledger, &on_disk(disk, Path::new(path))),
    };
    CheckpointView {
        path: path.display().to_string(),
        written: written.map(|written| humantime::format_rfc3339_seconds(written).to_string()),
        cluster_id: checkpoint.cluster_id.clone(),
        stream: checkpoint.stream.to_string(),
        sources: checkpoint.sources.iter().map(source).collect(),
    }
}

/// Names and sizes of what is in the directory of a log, by what a rename does not change.
fn on_disk<D: Disk>(disk: &D, log: &Path) -> HashMap<Location, (String, u64)> {
    let directory = log.parent().unwrap_or(Path::new("/"));
    let entries = disk.list(directory).unwrap_or_default();
    let located = entries.into_iter().filter_map(|entry| {
        let stat = disk.stat_path(&directory.join(&entry.name)).ok()?;
        let at = Location { device: stat.device, inode: stat.inode, birth_ns: stat.birth_ns };
        Some((at, (entry.name, stat.len)))
    });
    located.collect()
}

fn files(ledger: &Ledger, on_disk: &HashMap<Location, (String, u64)>) -> Vec<FileView> {
    let file = |record: &crate::ledger::FileRecord| {
        let found = on_disk.get(&record.at);
        FileView {
            name: found.map_or(&record.name, |(name, _)| name).clone(),
            delivered_bytes: record.delivered,
            size_bytes: found.map(|(_, bytes)| *bytes),
            complete: record.complete,
        }
    };
    ledger.files.values().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::report::Status;
    use crate::ledger::FileRecord;
    use crate::types::{FileId, Fingerprint, StreamId};

    // Fails if a renamed file is shown as gone, or a reused name as the file that had it before.
    #[test]
    fn files_are_found_by_what_a_rename_does_not_change() {
        let at = |inode| Location { device: 1, inode, birth_ns: 5 };
        let record = |inode| FileRecord {
            identified: true,
            id: FileId { device: 1, inode, birth_ns: 5, fingerprint: Fingerprint::of(b"a\n") },
            at: at(inode),
            name: "audit.log".into(),
            delivered: 7,
            complete: false,
        };
        let mut ledger = Ledger::default();
        ledger.add_file(record(10));
        ledger.add_file(record(11));
        let on_disk = HashMap::from([(at(10), ("audit.log.1".into(), 9)), (at(12), ("audit.log".into(), 3))]);
        let expected =
            |name: &str, size_bytes| FileView { name: name.into(), delivered_bytes: 7, size_bytes, complete: false };
        assert_eq!(files(&ledger, &on_disk), [expected("audit.log.1", Some(9)), expected("audit.log", None)]);
    }

    // Fails if a checkpoint with which the agent refuses to start passes for a good one.
    #[test]
    fn what_the_agent_refuses_fails() {
        let checkpoint = Checkpoint { cluster_id: "c1".into(), stream: StreamId([0; 16]), sources: Default::default() };
        assert_eq!(judge(&checkpoint, "c1", None).status, Status::Ok);
        assert_eq!(judge(&checkpoint, "c2", None).status, Status::Fail);
        assert_eq!(unusable(&Error::Newer(9)).status, Status::Fail);
        assert_eq!(unusable(&Error::Damaged("cut".into())).status, Status::Fail);
    }
}
