//! The inotify rung: one instance for names, one for writes, so that the reader can turn away from writes for a while
//! (the kernel merges what piles up) and still learn of a rotation at once.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Targets;

const STRUCTURE: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR);

/// Bytes for one read of events: some hundred.
const EVENT_BYTES: usize = 16 * 1024;

/// Two inotify instances.
pub struct Inotify {
    names: Instance,
    writes: Instance,
    targets: Targets,
}

struct Instance {
    fd: AsyncFd<OwnedFd>,
    watches: BTreeMap<PathBuf, i32>,
}

impl Inotify {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { names: Instance::new()?, writes: Instance::new()?, targets: Targets::default() })
    }

    pub(super) fn watch(&mut self, targets: Targets) -> io::Result<()> {
        let names = self.names.set(targets.directories.iter(), STRUCTURE);
        // After a rotation a path leads to another file, so paths are added anew; for a file that is watched already
        // this changes nothing. The watch on the renamed file stays until the file is removed: somebody may have moved
        // it from under its writer.
        self.writes.watches.clear();
        let writes = self.writes.set(targets.files.iter(), WatchFlags::MODIFY);
        self.targets = targets;
        names.and(writes)
    }

    pub(super) async fn structure_changed(&self) {
        let prefixes = &self.targets.prefixes;
        self.names.changed(|name| prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()))).await;
    }

    pub(super) async fn data_written(&self) {
        self.writes.changed(|_| true).await;
    }
}

impl Instance {
    fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd keeps its descriptor open, which is all it asks"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, watches: BTreeMap::new() })
    }

    fn set<'a>(&mut self, paths: impl Iterator<Item = &'a PathBuf> + Clone, flags: WatchFlags) -> io::Result<()> {
        let wanted: std::collections::BTreeSet<_> = paths.clone().collect();
        let fd = self.fd.get_ref();
        self.watches.retain(|path, watch| {
            let keep = wanted.contains(path);
            if !keep {
                // The kernel may have removed it already, with the directory.
                let _ = inotify::remove_watch(fd, *watch);
            }
            keep
        });
        let mut result = Ok(());
        // Also those that are watched already: a path may lead to another directory than it did, made anew. For the same
        // one this changes nothing.
        for path in paths {
            match inotify::add_watch(fd, path, flags) {
                Ok(watch) => drop(self.watches.insert(path.clone(), watch)),
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => result = result.and(Err(error.into())),
            }
        }
        result
    }

    /// Waits for an event whose name matters, one about a directory, or one that says that events were dropped.
    async fn changed(&self, matters: impl Fn(&[u8]) -> bool) {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        loop {
            let Ok(mut ready) = self.fd.readable().await else { return std::future::pending().await };
            let mut seen = false;
            let mut reader = inotify::Reader::new(self.fd.get_ref(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => {
                        let always = ReadFlags::ISDIR | ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED;
                        let named = event.file_name().is_none_or(|name| matters(name.to_bytes()));
                        seen |= named || event.events().intersects(always);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    // Cannot happen on an open descriptor; the slow rescan does without wake-ups.
                    Err(_) => return std::future::pending().await,
                }
            }
            if seen {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::time::Duration;

    use super::*;

    // Fails if a rotation or a write is not noticed, or if a stranger's file in the directory wakes the agent.
    #[tokio::test]
    async fn wakes_for_the_log_and_not_for_its_neighbours() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("audit.log");
        fs::write(&log, b"one\n").unwrap();
        let mut inotify = Inotify::new().unwrap();
        let targets = Targets {
            directories: BTreeSet::from([directory.path().to_owned()]),
            prefixes: BTreeSet::from(["audit".to_owned()]),
            files: BTreeSet::from([log.clone()]),
        };
        inotify.watch(targets).unwrap();
        fs::write(directory.path().join("syslog"), b"noise\n").unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(50), inotify.structure_changed()).await;
        assert!(quiet.is_err(), "a neighbour's file woke the agent");
        fs::write(&log, b"two\n").unwrap();
        inotify.data_written().await;
        fs::rename(&log, directory.path().join("audit-2026-11-21T02-17-46.037.log")).unwrap();
        inotify.structure_changed().await;
    }

    // Fails if a directory that was removed and made again is not watched any more.
    #[tokio::test]
    async fn a_directory_made_anew_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("audit");
        let targets = Targets {
            directories: BTreeSet::from([directory.clone()]),
            prefixes: BTreeSet::from(["audit".to_owned()]),
            files: BTreeSet::new(),
        };
        let mut inotify = Inotify::new().unwrap();
        for _ in 0..2 {
            fs::create_dir(&directory).unwrap();
            inotify.watch(targets.clone()).unwrap();
            fs::write(directory.join("audit.log"), b"").unwrap();
            let woken = tokio::time::timeout(Duration::from_secs(10), inotify.structure_changed()).await;
            assert!(woken.is_ok(), "a new log was not noticed");
            fs::remove_dir_all(&directory).unwrap();
            while tokio::time::timeout(Duration::from_millis(50), inotify.structure_changed()).await.is_ok() {}
        }
    }
}
