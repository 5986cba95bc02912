//! Files that are read to their end, were emptied, or have gone: when they are closed, forgotten or reported lost.

use std::time::Duration;

use tokio::time::Instant;

use super::scan::{MISSING_PATIENCE, ScanReport};

use super::source::{LostRange, Source, Tracked};
use crate::disk::Disk;
use crate::ledger::FileKey;
use crate::record::LossReason;
use crate::source::name::Order;
use crate::types::Span;

/// How long a finished file is kept open, for a writer that was left with it.
const LINGER: Duration = Duration::from_secs(10);

/// As [`MISSING_PATIENCE`], while there are files that could not be looked into.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(60);

impl<D: Disk> Source<D> {
    /// Finished files are closed after a while. This comes before the look at the directory, so that what it finds in
    /// their place can be told from copies.
    pub(super) fn close_finished(&mut self, now: Instant) {
        for (key, file) in &mut self.files {
            let lingered = file.finished_at.is_some_and(|finished| now.duration_since(finished) >= LINGER);
            // What has no receipt may have to be read again, and the file may be removed before that.
            let delivered = self.ledger.files.get(key).is_none_or(|record| record.delivered >= file.read);
            if lingered && delivered {
                file.handle = None;
            }
        }
    }

    /// Finished files that are still open and have grown are read on.
    pub(super) fn reopen_grown(&mut self, disk: &D) {
        for (key, file) in &mut self.files {
            let len = file.handle.as_ref().and_then(|handle| disk.stat(handle).ok()).map(|stat| stat.len);
            if file.finished_at.is_some() && !file.compressed && len.is_some_and(|len| len > file.read) {
                file.len = len;
                file.finished_at = None;
                file.end_confirmed = false;
                if let Some(record) = self.ledger.files.get_mut(key) {
                    record.complete = false;
                }
            }
        }
    }

    /// Files that are held open, have no name any more, and were emptied: what was in them is gone.
    pub(super) fn drop_emptied(&mut self, disk: &D, report: &mut ScanReport) {
        let emptied = |file: &Tracked<D::File>| {
            let len = file.handle.as_ref().and_then(|handle| disk.stat(handle).ok()).map(|stat| stat.len);
            !file.found && !file.compressed && len.is_some_and(|len| len < file.read)
        };
        let keys: Vec<FileKey> = self.files.iter().filter(|(_, file)| emptied(file)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.displace(key, report));
    }

    /// Forgets files that are delivered and have stayed away. Not at their first absence: a look may fall between two
    /// renames, or between the removal of a file and the finding of its compressed form, and would take what was
    /// forgotten for new.
    pub(super) fn forget_gone(&mut self, now: Instant) {
        let ledger = &mut self.ledger;
        self.files.retain(|key, file| {
            if file.found || file.handle.is_some() {
                return true;
            }
            let since = *file.missing_since.get_or_insert(now);
            let done = file.finished_at.is_some() || file.len == Some(file.read);
            let record = ledger.files.get(key);
            let delivered = record.is_none_or(|record| record.complete || record.delivered == file.read);
            let forget = done && delivered && now.duration_since(since) >= LINGER;
            !(forget && ledger.forget_file(*key))
        });
    }

    /// How long a file may be absent. A file that could not be looked into may be what it has become.
    pub(super) fn patience(&self) -> Duration {
        if self.embryos.is_empty() { MISSING_PATIENCE } else { UNKNOWN_PATIENCE }
    }

    /// Reports what is missing of files that have stayed away.
    pub(super) fn give_up_missing(&mut self, now: Instant, report: &mut ScanReport) {
        let patience = self.patience();
        for (&key, file) in &mut self.files {
            let record = self.ledger.files.get_mut(&key);
            let complete = record.as_ref().is_none_or(|record| record.complete);
            if file.found || file.handle.is_some() || complete || !file.has_unread() {
                continue;
            }
            let since = *file.missing_since.get_or_insert(now);
            if now.duration_since(since) < patience {
                report.again_in = Some(MISSING_PATIENCE);
                continue;
            }
            let end = file.len.filter(|_| !file.compressed);
            let span = Span::new(file.read, end.unwrap_or(file.read));
            let displaced = record.as_ref().is_some_and(|record| record.at.inode == 0);
            let reason = if displaced { LossReason::Truncated } else { LossReason::Removed };
            self.lost.push(LostRange { file: key, span, end_known: end.is_some(), reason });
            file.read = span.end;
            file.finished_at = Some(now);
            if let Some(record) = record {
                record.complete = true;
            }
        }
    }

    /// A file with unread bytes has gone since the look before.
    pub(super) fn misses_something_new(&self) -> bool {
        self.files.iter().any(|(key, file)| {
            let complete = self.ledger.files.get(key).is_none_or(|record| record.complete);
            !file.found && file.handle.is_none() && file.missing_since.is_none() && !complete && file.has_unread()
        })
    }

    /// A file that is held open has a copy or a compressed form. Where that is all that is left of it, the copy's name
    /// tells its place in the history.
    pub(super) fn copied(&mut self, key: FileKey, order: Order) {
        if let Some(file) = self.files.get_mut(&key).filter(|file| !file.found) {
            file.found = true;
            file.missing_since = None;
            file.order = order;
        }
    }
}
