//! What is to be read, oldest first, and what is held open for that.

use std::rc::Rc;

use super::scan::location;
use super::source::{Source, Tracked};
use crate::chunk::Purpose;
use crate::disk::Disk;
use crate::ledger::FileKey;
use crate::limits::OPEN_FILES_PER_SOURCE_MAX;
use crate::source::name::Order;

impl<D: Disk> Source<D> {
    /// Everything that may have unread bytes, oldest first. What is held open and has no name any more is older than what
    /// was first seen after it; what had the name of a rotated file when it lost it is older than the live one, which may
    /// have been seen before it.
    pub(super) fn rebuild_queue(&mut self) {
        let readable = |file: &Tracked<D::File>| file.finished_at.is_none() && (file.found || file.handle.is_some());
        let files = self.files.iter().filter(|(_, file)| readable(file));
        let (mut named, nameless): (Vec<_>, Vec<_>) =
            files.map(|(key, file)| (file.order, *key, file.found)).partition(|file| file.2);
        named.sort();
        self.queue = named.iter().map(|(_, key, _)| *key).collect();
        for (order, key, _) in nameless {
            let live = named.last().filter(|(last, ..)| *last == Order::Live && order != Order::Live);
            let behind = |other: &FileKey| *other > key || live.is_some_and(|live| live.1 == *other);
            let at = self.queue.iter().position(behind).unwrap_or(self.queue.len());
            self.queue.insert(at, key);
        }
        // A reader that has lost its place is made anew from the offset that has been cut into blocks.
        let front = self.queue.front().copied();
        for reader in [&mut self.reader, &mut self.paused] {
            reader.take_if(|reader| reader.purpose == Purpose::Next && Some(reader.file) != front);
        }
    }

    /// Holds the files of the queue open, so that they can be read to their end even when they are removed.
    pub(super) fn open_queued(&mut self, disk: &D) {
        for key in self.queue.iter().take(OPEN_FILES_PER_SOURCE_MAX).copied().collect::<Vec<_>>() {
            let path = self.path_of(key);
            let Some(file) = self.files.get_mut(&key) else { continue };
            if file.handle.is_some() {
                continue;
            }
            let opened = disk.open(path.as_ref()).and_then(|handle| disk.stat(&handle).map(|stat| (handle, stat)));
            match opened {
                Ok((handle, stat)) => {
                    file.complaint = None;
                    let at = location(&stat);
                    // The name may lead to another file by now; the next look finds out.
                    if self.ledger.files.get(&key).is_some_and(|record| record.at == at) {
                        file.handle = Some(Rc::new(handle));
                    }
                }
                Err(error) => {
                    let complaint = error.to_string();
                    if file.complaint.as_ref() != Some(&complaint) {
                        tracing::error!(
                            source = self.name,
                            file = path,
                            error = complaint,
                            "cannot open the file; it will be tried again"
                        );
                    }
                    file.complaint = Some(complaint);
                }
            }
        }
    }

    pub(super) fn open_files(&self) -> usize {
        self.files.values().filter(|file| file.handle.is_some()).count()
    }

    pub(super) fn hold(&mut self, key: FileKey, handle: D::File) {
        let open = self.open_files();
        if let Some(file) = self.files.get_mut(&key)
            && file.finished_at.is_none()
            && open < OPEN_FILES_PER_SOURCE_MAX
        {
            file.handle.get_or_insert(Rc::new(handle));
        }
    }
}
