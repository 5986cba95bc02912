//! Noticing that something was written or rotated. A wake-up is a hint and never the truth: what is read is decided by
//! looking at the files, and a slow rescan finds what no wake-up told.

mod inotify;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::WatchRung;
use crate::disk::filesystem;
use crate::rung::Rung;

/// What is to be watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Directories in which names may come and go.
    pub directories: BTreeSet<PathBuf>,
    /// Names that begin with one of these matter in them; sub-directories always do.
    pub prefixes: BTreeSet<String>,
    /// Files that are being written.
    pub files: BTreeSet<PathBuf>,
}

/// Watches directories and files by one of the rungs.
pub enum Watcher {
    /// The kernel tells.
    Inotify(inotify::Inotify),
    /// We look, so often, and next at this time.
    Poll(Duration, Cell<Instant>),
}

impl Watcher {
    /// A watcher that looks so often.
    pub fn poll(interval: Duration) -> Self {
        Self::Poll(interval, Cell::new(Instant::now()))
    }

    /// The best rung that works for these directories, or the one that was asked for.
    ///
    /// # Errors
    /// When inotify was asked for and does not work.
    pub fn choose(
        wanted: WatchRung,
        directories: &BTreeSet<PathBuf>,
        poll_interval: Duration,
    ) -> io::Result<(Self, Rung)> {
        let poll = |why: String| (Self::poll(poll_interval), Rung::below("poll", "inotify", why));
        if wanted == WatchRung::Poll {
            return Ok(poll("source.watch is set to poll".into()));
        }
        let remote = directories.iter().find_map(|directory| {
            let kind = filesystem::of(directory).ok()?;
            kind.remote.then(|| format!("{} is on {}, which does not report changes", directory.display(), kind.name))
        });
        match (inotify::Inotify::new(), remote, wanted) {
            (Ok(_), Some(why), WatchRung::Auto) => Ok(poll(why)),
            (Ok(inotify), ..) => Ok((Self::Inotify(inotify), Rung::best("inotify"))),
            (Err(error), _, WatchRung::Auto) => Ok(poll(format!("inotify is not available: {error}"))),
            (Err(error), ..) => Err(error),
        }
    }

    /// Watches these targets and no others. Targets that cannot be watched are left to the slow rescan; the first
    /// reason is returned.
    ///
    /// # Errors
    /// Most likely ENOSPC, when the user's limit of watches is used up.
    pub fn watch(&mut self, targets: Targets) -> io::Result<()> {
        match self {
            Self::Inotify(inotify) => inotify.watch(targets),
            Self::Poll(..) => Ok(()),
        }
    }

    /// Resolves when names may have come or gone.
    pub async fn structure_changed(&self) {
        match self {
            Self::Inotify(inotify) => inotify.structure_changed().await,
            // The caller gives up waiting whenever something else happens: the time of the next look stays.
            Self::Poll(interval, next) => {
                tokio::time::sleep_until(next.get()).await;
                next.set(Instant::now() + *interval);
            }
        }
    }

    /// Resolves when something may have been written. Polling looks at names and sizes at once.
    pub async fn data_written(&self) {
        match self {
            Self::Inotify(inotify) => inotify.data_written().await,
            Self::Poll(..) => std::future::pending().await,
        }
    }
}

/// The part of a file name that its rotated siblings share: everything before the extension.
pub fn shared_prefix(base: &str) -> &str {
    Path::new(base).file_stem().and_then(|stem| stem.to_str()).unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if polling starts over whenever the caller had something else to do: on a busy node it would never look.
    #[tokio::test]
    async fn polling_keeps_its_time() {
        let (watcher, _) = Watcher::choose(WatchRung::Poll, &BTreeSet::new(), Duration::from_millis(100)).unwrap();
        watcher.structure_changed().await;
        let interrupted = async {
            while tokio::time::timeout(Duration::from_millis(10), watcher.structure_changed()).await.is_err() {}
        };
        assert!(tokio::time::timeout(Duration::from_secs(10), interrupted).await.is_ok());
    }
}
