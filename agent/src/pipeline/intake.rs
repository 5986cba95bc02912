//! Tail and frame: deciding what is read when, cutting it into blocks, and putting framed blocks in order.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::peek::{Expected, Prefix};
use super::reader::{Filled, Reader};
use super::scan::location;
use super::source::{Again, LostRange, Source};
use super::{Mode, Pipeline, report};
use crate::chunk::Purpose;
use crate::disk::Disk;
use crate::ledger::FileKey;
use crate::limits::{BLOCK_BYTES, FINGERPRINT_BYTES_MAX, blocks};
use crate::record::LossReason;
use crate::source::blocks::Block;
use crate::source::matching::Location;
use crate::source::name::Order;
use crate::types::{Fingerprint, Span};
use crate::upload::Destination;

/// Pause after a read error, and before a `.gz` that ends early is tried again.
const READ_RETRY: Duration = Duration::from_secs(2);

/// How often in a row a file that cannot be read, or a `.gz` that ends early, is tried again before its rest is given up:
/// the files behind it wait.
const READ_TRIES_MAX: u32 = 30;

/// A read that has ended.
pub(super) struct ReadDone<F> {
    source: usize,
    reader: Reader<F>,
    filled: Filled,
    /// The file does not start with what it started with before: it was emptied and has grown since.
    replaced: bool,
}

impl<D: Disk, T: Destination> Pipeline<D, T> {
    /// Looks how much has been written to the files that are being read, or will be: that the next one has data tells
    /// that the one before it is finished.
    pub(super) fn look(&mut self) {
        for source in &mut self.sources {
            // Not the front alone: that a younger file has data is what ends the one before it.
            for (place, key) in source.queue.iter().enumerate() {
                let Some(file) = source.files.get_mut(key) else { continue };
                let Some(stat) = file.handle.as_ref().and_then(|handle| self.disk.stat(handle).ok()) else { continue };
                let reader = source.reader.as_ref().filter(|_| place == 0);
                if !file.compressed && stat.len < reader.map_or(file.read, Reader::end) {
                    // Emptied: which file this is now, the next look at the directory finds out. What was known to be
                    // there stays known, so that it can be reported lost.
                    self.next_scan = Instant::now();
                    continue;
                }
                source.drained &= file.len == Some(stat.len);
                file.len = Some(stat.len);
            }
        }
    }

    /// Starts the clock of the next chunk when there is something to send, and calls it due when it has run out.
    pub(super) fn note_unsent(&mut self, index: usize, now: Instant) {
        let source = &mut self.sources[index];
        let unread = source.unread_bytes() > 0 && !source.only_a_remainder();
        if unread || source.open.is_some() || !source.framing.is_empty() {
            source.oldest_unsent.get_or_insert(now);
        }
        let run_out = |since: Instant| now.saturating_duration_since(since) >= self.config.chunk.offload_after;
        if !source.due && source.oldest_unsent.is_some_and(run_out) {
            source.due = true;
            // What was written since the last look belongs to the chunk.
            self.look();
        }
    }

    /// Starts the next read of a source, if there is reason to.
    pub(super) fn start_read(&mut self, index: usize, now: Instant) {
        let blocked = self.stop_by.is_some() || self.blocks_in_framing >= self.buffer_count();
        let source = &mut self.sources[index];
        // Also where something else is in the way: a deadline that has passed and stays would wake the loop for ever.
        source.retry_at.take_if(|at| *at <= now);
        if blocked || source.retry_at.is_some() || source.reading || !source.ready.is_empty() {
            return;
        }
        if !source.again.is_empty() && source.reader.as_ref().is_some_and(|reader| reader.purpose == Purpose::Next) {
            source.paused = source.reader.take();
        }
        let live = self.mode == Mode::Follow && source.queue.len() == 1;
        if source.again.is_empty() && !source.wants_read(live) {
            return;
        }
        if self.sources[index].needs_look() {
            self.next_scan = now;
            return;
        }
        let Some(mut reader) = self.take_reader(index, now) else { return };
        let spare = self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES));
        let returned = reader.lend(spare);
        self.take_back(returned);
        let source = &mut self.sources[index];
        source.reading = true;
        let compare = source.to_be_compared(&mut reader);
        source.drained = false;
        let (disk, handle) = (self.disk.clone(), reader.handle());
        self.reads.push(Box::pin(async move {
            let there = match compare {
                Some(expected) => expected.is_in(&*disk, &*handle).await,
                None => Ok(true),
            };
            let filled = match there {
                Ok(true) => reader.fill(&*disk).await,
                Ok(false) => Filled::End,
                Err(ref error) => Filled::Failed(std::io::Error::new(error.kind(), error.to_string())),
            };
            ReadDone { source: index, reader, filled, replaced: matches!(there, Ok(false)) }
        }));
    }

    /// Buffers that exist at most, lent out or not.
    pub(super) fn buffer_count(&self) -> usize {
        blocks(self.config.limits.workers)
    }

    pub(super) fn take_back(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() < BLOCK_BYTES || self.buffers.len() >= self.buffer_count() {
            return;
        }
        // A buffer that grew for a long line is not kept: it would stay resident.
        let kept = if buffer.capacity() > BLOCK_BYTES * 2 { Vec::with_capacity(BLOCK_BYTES) } else { buffer };
        self.buffers.push(kept);
    }

    /// The reader waits or has done its work: its buffer goes back, what it has read of an unfinished line stays.
    fn park(&mut self, reader: &mut Reader<D::File>) {
        if let Some(buffer) = reader.give_back() {
            self.take_back(buffer);
        }
    }

    fn take_reader(&mut self, index: usize, now: Instant) -> Option<Reader<D::File>> {
        let line_bytes_max = self.config.source.max_event_bytes;
        let source = &mut self.sources[index];
        if let Some(reader) = source.reader.take() {
            return Some(reader);
        }
        if let Some(&Again { file: key, purpose, from }) = source.again.front() {
            let Some(handle) = source.handle_of(&*self.disk, key) else {
                self.cannot_read_again(index, now);
                return None;
            };
            let compressed = source.files.get(&key)?.compressed;
            return Some(Reader::new(key, handle, from, purpose, compressed, line_bytes_max));
        }
        if let Some(reader) = source.paused.take() {
            return Some(reader);
        }
        let key = *source.queue.front()?;
        let file = source.files.get(&key)?;
        Some(Reader::new(key, file.handle.clone()?, file.read, Purpose::Next, file.compressed, line_bytes_max))
    }

    pub(super) fn on_read(&mut self, done: ReadDone<D::File>) {
        let ReadDone { source: index, mut reader, filled, replaced } = done;
        let (now, once) = (Instant::now(), self.is_once());
        let source = &mut self.sources[index];
        source.reading = false;
        let out_of_place = reader.purpose == Purpose::Next && source.queue.front() != Some(&reader.file);
        if replaced || out_of_place || self.stop_by.is_some() || !source.reads_the_file(&reader) {
            if replaced {
                // Where the look does not find the file (it has no name any more), nothing has changed after it.
                source.retry_at = Some(now + READ_RETRY);
                self.next_scan = now;
            }
            source.note_position(&reader);
            return self.park(&mut reader);
        }
        let more = matches!(filled, Filled::More);
        self.cut(index, &mut reader, false);
        let source = &mut self.sources[index];
        match (reader.purpose, filled) {
            (_, Filled::More) => source.reader = Some(reader),
            (purpose @ Purpose::Again { .. }, Filled::End) => self.finish_again(index, reader, purpose, now),
            (Purpose::Next, Filled::End) => self.at_end(index, reader, now),
            (_, Filled::Failed(error)) => {
                tracing::error!(source = source.name, file = source.path_of(reader.file), %error, "cannot read the file; it will be tried again");
                match source.once_more(reader.file) {
                    true => self.read_on_later(index, reader, now),
                    false => self.give_up_rest(index, reader, LossReason::Unreadable, now),
                }
            }
            (Purpose::Again { .. }, Filled::Corrupt) => self.give_up_rest(index, reader, LossReason::CorruptGzip, now),
            (_, Filled::Incomplete | Filled::Corrupt) if !once && source.once_more(reader.file) => {
                self.read_on_later(index, reader, now);
            }
            (_, Filled::Incomplete | Filled::Corrupt) => self.give_up_rest(index, reader, LossReason::CorruptGzip, now),
        }
        if more && let Some(file) = self.sources[index].queue.front().copied() {
            self.sources[index].note_more(file);
        }
    }

    /// A read has failed and may succeed later. Of a range that was decided a part may have gone through framing: its
    /// reader goes on where it was, else the chunk would not be the one that was decided.
    fn read_on_later(&mut self, index: usize, mut reader: Reader<D::File>, now: Instant) {
        self.park(&mut reader);
        let source = &mut self.sources[index];
        source.retry_at = Some(now + READ_RETRY);
        source.reader = (reader.purpose != Purpose::Next).then_some(reader);
    }

    fn is_once(&self) -> bool {
        self.mode != Mode::Follow
    }

    /// Cuts blocks off a reader and queues them for framing.
    fn cut(&mut self, index: usize, reader: &mut Reader<D::File>, finish: bool) {
        while let Some(block) = reader.cut(finish, || self.buffers.pop().unwrap_or_default()) {
            let source = &mut self.sources[index];
            report::read(&source.name, block.span.len());
            source.fix_identity(reader.file, &block);
            self.progress.read(block.span.len());
            source.ready.push_back((reader.file, reader.purpose, block));
        }
        if reader.purpose == Purpose::Next
            && let Some(file) = self.sources[index].files.get_mut(&reader.file)
            && file.read < reader.start()
        {
            file.read = reader.start();
            file.tries = 0;
            file.line_end = (!reader.is_mid_line()).then_some(file.read);
        }
    }

    /// The front of the queue has been read to its end, for now.
    fn at_end(&mut self, index: usize, mut reader: Reader<D::File>, now: Instant) {
        let once = self.is_once();
        let source = &mut self.sources[index];
        let successor = source.successor_has_data();
        let Some(file) = source.files.get_mut(&reader.file) else { return };
        if !file.compressed {
            file.len = Some(reader.end());
        }
        if file.compressed || once || successor && file.end_confirmed {
            self.cut(index, &mut reader, true);
            self.park(&mut reader);
            let source = &mut self.sources[index];
            if let Some(file) = source.files.get_mut(&reader.file) {
                file.len = file.len.max(Some(reader.end()));
            }
            source.finish_front(now);
            // Nothing more is to be waited for that the chunk could take.
            source.due |= once;
            self.state.changed(now);
        } else {
            // What the writer wrote before it turned to the next file is all there once the next file has data: one
            // more read after that was seen is the last.
            file.end_confirmed = successor;
            source.drained = !successor;
            self.park(&mut reader);
            self.sources[index].reader = Some(reader);
        }
    }

    /// A decided range has been read, unless the file has become shorter than the range: then it was emptied, and its content
    /// may be found elsewhere.
    fn finish_again(&mut self, index: usize, mut reader: Reader<D::File>, purpose: Purpose, now: Instant) {
        let Purpose::Again { span, .. } = purpose else { return };
        if reader.end() < span.end {
            self.park(&mut reader);
            self.sources[index].note_position(&reader);
            return self.cannot_read_again(index, now);
        }
        self.cut(index, &mut reader, true);
        self.park(&mut reader);
        self.sources[index].again.pop_front();
    }

    /// A decided range whose file cannot be opened. Where it is there, or nobody can tell, that may be mended; where it is
    /// not, it may come back under another name, so it is given some time.
    fn cannot_read_again(&mut self, index: usize, now: Instant) {
        let source = &mut self.sources[index];
        let Some(&Again { file: key, purpose: Purpose::Again { sequence, span, .. }, .. }) = source.again.front()
        else {
            return;
        };
        let may_be_there =
            !source.sees_all || source.files.get(&key).is_some_and(|file| file.found && file.handle.is_none());
        let patience = source.patience();
        let since = source.files.get_mut(&key).map(|file| *file.missing_since.get_or_insert(now));
        if may_be_there || since.is_some_and(|since| now.duration_since(since) < patience) {
            source.retry_at = Some(now + super::scan::MISSING_PATIENCE);
            self.next_scan = now;
            return;
        }
        source.again.pop_front();
        self.give_up_decided(index, key, sequence, span, LossReason::Removed, now);
    }

    /// The rest of a file cannot be read, or that of a `.gz` not be decoded.
    fn give_up_rest(&mut self, index: usize, mut reader: Reader<D::File>, reason: LossReason, now: Instant) {
        self.cut(index, &mut reader, true);
        let (end, file, purpose) = (reader.start(), reader.file, reader.purpose);
        self.park(&mut reader);
        let once = self.is_once();
        let source = &mut self.sources[index];
        match purpose {
            Purpose::Again { sequence, span, .. } => {
                source.again.pop_front();
                self.give_up_decided(index, file, sequence, span, reason, now);
            }
            Purpose::Next => {
                let known_end = source.files.get(&file).filter(|file| !file.compressed).and_then(|file| file.len);
                let span = Span::new(end, known_end.unwrap_or(end));
                source.lost.push(LostRange { file, span, end_known: known_end.is_some(), reason });
                if let Some(file) = source.files.get_mut(&file) {
                    // A backup on a node stays as it is; a copy that was shipped may be replaced by a whole one.
                    file.try_again = once;
                }
                source.finish_front(now);
            }
        }
    }
}

impl<D: Disk> Source<D> {
    /// All that is unread is an unfinished line, which has been read: there is nothing to send.
    fn only_a_remainder(&self) -> bool {
        let end = self
            .reader
            .as_ref()
            .or(self.paused.as_ref())
            .filter(|reader| reader.purpose == Purpose::Next)
            .map(Reader::end);
        let file = self.queue.front().and_then(|key| self.files.get(key));
        self.queue.len() <= 1 && end.is_some() && file.and_then(|file| file.len) <= end
    }

    /// Whether the next read is worth its wake-up: of a file that is still being written, only when a block's worth has
    /// gathered or the chunk is due. When it is due, reading goes on until a read finds nothing more, because only
    /// then the chunk is closed.
    fn wants_read(&self, live: bool) -> bool {
        let Some(file) = self.queue.front().and_then(|key| self.files.get(key)) else { return false };
        let end = self.reader.as_ref().or(self.paused.as_ref()).map_or(file.read, Reader::end);
        let unread = file.len.unwrap_or(0).saturating_sub(end);
        !self.drained && (!live || self.due || unread >= BLOCK_BYTES as u64)
    }

    /// The first line of a file is complete: from now on its identity does not change.
    fn fix_identity(&mut self, key: FileKey, block: &Block) {
        let start = block.span.start;
        if !self.ledger.begins_at(key, start) {
            return;
        }
        let Some(record) = self.ledger.files.get_mut(&key) else { return };
        let hole = usize::try_from(start).unwrap_or(usize::MAX).min(FINGERPRINT_BYTES_MAX);
        let room = block.bytes.len().min(FINGERPRINT_BYTES_MAX - hole);
        let prefix = Prefix { bytes: [&vec![0; hole], &block.bytes[..room]].concat(), all: false };
        record.id.fingerprint = Fingerprint::of(&prefix.bytes);
        record.identified = prefix.is_final();
    }

    /// New bytes were read from a file: that its end was confirmed no longer holds.
    fn note_more(&mut self, key: FileKey) {
        if let Some(file) = self.files.get_mut(&key) {
            file.end_confirmed = false;
        }
    }

    /// A handle of a file that is known, opened again if it had been closed.
    fn handle_of(&self, disk: &D, key: FileKey) -> Option<Rc<D::File>> {
        let file = self.files.get(&key)?;
        if let Some(handle) = &file.handle {
            return Some(handle.clone());
        }
        let handle = disk.open(self.path_of(key).as_ref()).ok()?;
        let (stat, record) = (disk.stat(&handle).ok()?, self.ledger.files.get(&key)?);
        (file.found && location(&stat) == record.at).then(|| Rc::new(handle))
    }

    /// Whether a file that could not be read, or not be decoded to its end, is to be tried once more.
    fn once_more(&mut self, key: FileKey) -> bool {
        let Some(file) = self.files.get_mut(&key) else { return false };
        file.tries += 1;
        file.tries <= READ_TRIES_MAX
    }

    /// Whether the live file, empty at the last look, has to be looked at before its first read: it may have been filled,
    /// copied and emptied since, and what the copy holds comes first.
    fn needs_look(&mut self) -> bool {
        let Some(key) = self.queue.front().filter(|_| self.again.is_empty()) else { return false };
        let empty = self.ledger.files.get(key).is_some_and(|record| record.id.fingerprint.is_empty());
        let Some(file) = self.files.get_mut(key) else { return false };
        empty && file.order == Order::Live && !std::mem::replace(&mut file.begun, true)
    }

    /// What has to be in a file before it is read on: looked at when a reader begins, and always in the live file, the only
    /// one that can be emptied while it is read.
    fn to_be_compared(&self, reader: &mut Reader<D::File>) -> Option<Expected> {
        let file = self.files.get(&reader.file)?;
        let begins = std::mem::replace(&mut reader.begins, false);
        let compare = (begins || file.order == Order::Live) && !file.compressed;
        compare.then(|| self.expected(reader.file))
    }

    /// Whether a reader still reads what its file is taken to be: a look at the directory may have found the content
    /// elsewhere since, or not at all.
    fn reads_the_file(&self, reader: &Reader<D::File>) -> bool {
        let handle = self.files.get(&reader.file).and_then(|file| file.handle.as_ref());
        let displaced = self.ledger.files.get(&reader.file).is_none_or(|record| record.at == Location::NOWHERE);
        handle.map_or(!displaced, |handle| Rc::ptr_eq(handle, &reader.handle()))
    }

    /// A reader is given up: the next one for the same range goes on where it ended.
    pub(super) fn note_position(&mut self, reader: &Reader<D::File>) {
        if let Some(again) = self.again.front_mut().filter(|again| again.purpose == reader.purpose) {
            again.from = reader.start();
        }
    }
}
