//! Files that are finished, gone, or missing: when they are closed, forgotten, and reported lost.

use std::time::Duration;

use tokio::time::Instant;

use super::scan::ScanReport;
use super::source::{LostRange, Source};
use crate::disk::Disk;
use crate::ledger::FileKey;
use crate::record::LossReason;
use crate::types::Span;

/// How long a file may be absent before what is missing of it is reported lost.
pub(super) const MISSING_PATIENCE: Duration = Duration::from_secs(2);

/// How long a finished file is kept open, for a writer that was left with it.
const LINGER: Duration = Duration::from_secs(10);

impl<D: Disk> Source<D> {
    /// Finished files are closed after a while, unless they have grown in the meantime.
    pub(super) fn close_finished(&mut self, disk: &D, now: Instant) {
        for (key, file) in &mut self.files {
            let Some(finished) = file.finished_at else { continue };
            let len = file.handle.as_ref().and_then(|handle| disk.stat(handle).ok()).map(|stat| stat.len);
            if !file.compressed && len.is_some_and(|len| len > file.read) {
                file.len = len;
                file.finished_at = None;
                file.end_confirmed = false;
                if let Some(record) = self.ledger.files.get_mut(key) {
                    record.complete = false;
                }
            } else if now.duration_since(finished) >= LINGER {
                file.handle = None;
            }
        }
    }

    /// Files that are gone and delivered are forgotten; not at once, because a copy of one may turn up that was not there
    /// when the directory was listed, and would be delivered again.
    pub(super) fn forget_gone(&mut self, now: Instant) {
        let absent = self.files.iter_mut().filter(|(_, file)| !file.found && file.handle.is_none());
        let gone: Vec<FileKey> = absent
            .filter_map(|(key, file)| {
                let since = *file.missing_since.get_or_insert(now);
                (now.duration_since(since) >= LINGER).then_some(*key)
            })
            .collect();
        for key in gone {
            let done =
                self.files.get(&key).is_some_and(|file| file.finished_at.is_some() || file.len == Some(file.read));
            let delivered = self.ledger.files.get(&key).is_none_or(|record| {
                record.complete || Some(record.delivered) == self.files.get(&key).map(|file| file.read)
            });
            if done && delivered && self.ledger.forget_file(key) {
                self.files.remove(&key);
            }
        }
    }

    /// Reports what is missing of files that have stayed away.
    pub(super) fn give_up_missing(&mut self, now: Instant, report: &mut ScanReport) {
        for (&key, file) in &mut self.files {
            let record = self.ledger.files.get_mut(&key);
            let complete = record.as_ref().is_none_or(|record| record.complete);
            if file.found || file.handle.is_some() || complete || !file.has_unread() {
                continue;
            }
            let since = *file.missing_since.get_or_insert(now);
            if now.duration_since(since) < MISSING_PATIENCE {
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
}
