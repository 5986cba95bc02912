//! One source: a live log, its rotated siblings, and how far each has been read.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::time::Instant;

use super::order::InOrder;
use super::reader::Reader;
use crate::chunk::{OpenChunk, Purpose};
use crate::disk::Disk;
use crate::ledger::{FileKey, Ledger};
use crate::record::LossReason;
use crate::source::blocks::Block;
use crate::source::matching::Location;
use crate::source::name::Order;
use crate::types::{FileId, Fingerprint, Span};

/// What is known of a file while the agent runs; what outlives it is in the ledger.
pub(super) struct Tracked<F> {
    /// Open while there is, or may be, something to read.
    pub handle: Option<Rc<F>>,
    /// Place in the history of the log.
    pub order: Order,
    /// Whether the content is gzip.
    pub compressed: bool,
    /// Every byte of the content before this offset has been cut into blocks.
    pub read: u64,
    /// Bytes in the file when it was last looked at; of a gzip file, compressed bytes. `None` before the first look.
    pub len: Option<u64>,
    /// Where the last line that was cut off ends, unless something else was cut off behind it.
    pub line_end: Option<u64>,
    /// The last look at the directory found it.
    pub found: bool,
    /// Since when it has not been found, at no name and without being held open.
    pub missing_since: Option<Instant>,
    /// Read to its end, and a younger file has data: nothing more is expected.
    pub finished_at: Option<Instant>,
    /// The end was reached after a younger file was seen to have data.
    pub end_confirmed: bool,
    /// The end was reached, and is to be looked for again by the next run: something whole may have taken its place.
    pub try_again: bool,
    /// The directory has been looked at since the file had its first bytes.
    pub begun: bool,
    /// How often in a row reading has failed, or a `.gz` has ended before its stream did.
    pub tries: u32,
    /// Why it cannot be opened or read, as told to the operator already.
    pub complaint: Option<String>,
}

impl<F> Tracked<F> {
    /// A file found at its place in the history, read up to `read`.
    pub(super) fn new(order: Order, compressed: bool, read: u64) -> Self {
        Self {
            handle: None,
            order,
            compressed,
            read,
            len: None,
            line_end: None,
            found: false,
            missing_since: None,
            finished_at: None,
            end_confirmed: false,
            try_again: false,
            begun: false,
            tries: 0,
            complaint: None,
        }
    }

    /// Whether bytes are known to be there that have not been read.
    pub(super) fn has_unread(&self) -> bool {
        self.finished_at.is_none() && (self.compressed || self.len.is_none_or(|len| len > self.read))
    }
}

/// A range of a decided chunk that has to be read again.
pub(super) struct Again {
    /// File of the range.
    pub file: FileKey,
    /// The range, and whether it is cut into parts.
    pub purpose: Purpose,
    /// How far it has been cut into blocks; a reader made anew goes on from there.
    pub from: u64,
}

impl Again {
    /// The whole range is still to be read.
    pub(super) fn new(file: FileKey, sequence: u64, span: Span, part_bytes: Option<u64>) -> Self {
        Self { file, purpose: Purpose::Again { sequence, span, part_bytes }, from: span.start }
    }
}

/// A range that is lost, to be reported.
pub(super) struct LostRange {
    /// File it belonged to.
    pub file: FileKey,
    /// The range; empty where its end is unknown.
    pub span: Span,
    /// Whether the end of the range is known.
    pub end_known: bool,
    /// What happened.
    pub reason: LossReason,
}

/// A live log and everything that was rotated away from it.
pub(super) struct Source<D: Disk> {
    /// Path of the live file: the name of the source in manifests, metrics and the checkpoint.
    pub name: String,
    /// Directory of all its files.
    pub directory: PathBuf,
    /// Name of the live file.
    pub base: String,
    /// Whether rotated siblings belong to it; `ship` takes each file alone.
    pub with_siblings: bool,
    /// What has been decided and delivered.
    pub ledger: Ledger,
    /// The files, as far as they matter while running.
    pub files: BTreeMap<FileKey, Tracked<D::File>>,
    /// Files that are being read or will be, oldest first.
    pub queue: VecDeque<FileKey>,
    /// Where names led at the last look, so that a file is opened once and not at every look.
    pub seen: HashMap<String, (Location, FileKey)>,
    /// The reader of the file at the front of the queue, unless a read is under way.
    pub reader: Option<Reader<D::File>>,
    /// Readers that wait while a range is read again.
    pub paused: Option<Reader<D::File>>,
    /// Ranges of decided chunks that have to be read again, in order.
    pub again: VecDeque<Again>,
    /// Whether a read is under way.
    pub reading: bool,
    /// Blocks cut off that could not be handed to framing yet.
    pub ready: VecDeque<(FileKey, Purpose, Block)>,
    /// Blocks in framing, put back in order.
    pub framing: InOrder,
    /// The chunk that takes further segments.
    pub open: Option<OpenChunk>,
    /// When the oldest byte that is in no closed chunk was noticed.
    pub oldest_unsent: Option<Instant>,
    /// Set when the open chunk is due: everything there is now is read, then the chunk is closed.
    pub due: bool,
    /// The last read found nothing more.
    pub drained: bool,
    /// Reading is suspended until then, after an error.
    pub retry_at: Option<Instant>,
    /// Ranges to be reported lost.
    pub lost: Vec<LostRange>,
    /// Raw bytes after which chunks are closed, once the destination has found one too large.
    pub learned_bytes_max: Option<u64>,
    /// The live file could be opened at the last look, and why not.
    pub live_problem: Option<String>,
    /// What the operator has been told about that.
    pub told_problem: Option<String>,
    /// Since when the oldest byte of each decided chunk has waited, as far as this run knows.
    pub unconfirmed: BTreeMap<u64, Instant>,
    /// The last look saw every name there is: what it did not find is not there. Else permission, or a descriptor, was
    /// missing, or the directory itself.
    pub sees_all: bool,
    /// The checkpoint was damaged, and that has not been reported for this source yet.
    pub state_lost: bool,
    /// Files that could not be identified yet because their first line is not finished.
    pub embryos: BTreeSet<String>,
}

impl<D: Disk> Source<D> {
    /// A source that has not been looked at yet.
    pub(super) fn new(path: &Path, with_siblings: bool, ledger: Ledger) -> Self {
        let name = path.to_string_lossy().into_owned();
        let base = path.file_name().map(|base| base.to_string_lossy().into_owned()).unwrap_or_default();
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let mut source = Self {
            name,
            directory,
            base,
            with_siblings,
            files: BTreeMap::new(),
            queue: VecDeque::new(),
            seen: HashMap::new(),
            reader: None,
            paused: None,
            again: VecDeque::new(),
            reading: false,
            ready: VecDeque::new(),
            framing: InOrder::default(),
            open: None,
            oldest_unsent: None,
            due: false,
            drained: false,
            retry_at: None,
            lost: Vec::new(),
            learned_bytes_max: None,
            live_problem: None,
            told_problem: None,
            unconfirmed: BTreeMap::new(),
            sees_all: false,
            state_lost: false,
            embryos: BTreeSet::new(),
            ledger,
        };
        source.recall();
        source
    }

    /// Takes up the files of the checkpoint: positions, and the ranges that were decided and have no receipt.
    fn recall(&mut self) {
        for (&key, record) in &self.ledger.files {
            let read = self.ledger.decided_end(key);
            // Where it is in the history is learned when it is found.
            let mut tracked = Tracked::new(Order::Live, record.name.ends_with(".gz"), read);
            if record.complete && read == record.delivered {
                tracked.len = Some(read);
            }
            self.files.insert(key, tracked);
        }
        for sequence in self.ledger.entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>() {
            self.read_again(sequence);
        }
    }

    /// Queues what is not settled of a decided chunk to be read again: decided ranges as they are, others in parts.
    fn read_again(&mut self, sequence: u64) {
        let Some(entry) = self.ledger.entry(sequence).filter(|entry| entry.loss.is_none()) else { return };
        for rest in entry.unsettled() {
            let lost = entry.parts.iter().flatten().any(|part| part.span == rest.span && part.loss.is_some());
            if !lost {
                let part_bytes = (!rest.decided).then_some((rest.span.len() / 2).max(1));
                self.again.push_back(Again::new(entry.file, sequence, rest.span, part_bytes));
            }
        }
    }

    /// Identity of a file. One that a chunk is about is never forgotten, so that the identity of no file stands for none.
    pub(super) fn id_of(&self, key: FileKey) -> FileId {
        let nowhere = FileId { device: 0, inode: 0, birth_ns: 0, fingerprint: Fingerprint::of(b"") };
        self.ledger.files.get(&key).map_or(nowhere, |record| record.id)
    }

    /// Path of a file, as it was seen last.
    pub(super) fn path_of(&self, key: FileKey) -> String {
        let name = self.ledger.files.get(&key).map_or(self.base.as_str(), |record| &record.name);
        self.directory.join(name).to_string_lossy().into_owned()
    }

    /// Bytes that are in the files and have not been read, as far as is known.
    pub(super) fn unread_bytes(&self) -> u64 {
        let plain = self.files.values().filter(|file| file.finished_at.is_none() && !file.compressed);
        plain.map(|file| file.len.unwrap_or(0).saturating_sub(file.read)).sum()
    }

    /// Compressed bytes of files that have not been read to their end; how much they hold is not known before.
    pub(super) fn unread_compressed_bytes(&self) -> u64 {
        let compressed = self.files.values().filter(|file| file.finished_at.is_none() && file.compressed);
        compressed.filter_map(|file| file.len).sum()
    }

    /// Bytes that have been read and have no receipt.
    pub(super) fn undelivered_bytes(&self) -> u64 {
        let files = self.files.iter().filter_map(|(key, file)| Some((file, self.ledger.files.get(key)?)));
        files.map(|(file, record)| file.read.saturating_sub(record.delivered)).sum()
    }

    /// Whether there is nothing left to read, frame, close or deliver.
    pub(super) fn is_settled(&self) -> bool {
        let idle = !self.reading && self.ready.is_empty() && self.framing.is_empty() && self.open.is_none();
        idle && self.again.is_empty() && self.paused.is_none() && self.ledger.entries.is_empty() && self.lost.is_empty()
    }

    /// Since when the oldest byte without a receipt has waited.
    pub(super) fn oldest_unconfirmed(&self) -> Option<Instant> {
        let decided = self.unconfirmed.range(self.ledger.committed + 1..).map(|(_, since)| *since).next();
        decided.into_iter().chain(self.oldest_unsent).min()
    }

    /// Whether nothing can be read for now: what has been read before is not to wait for that.
    pub(super) fn is_stuck(&self) -> bool {
        let front = self.queue.front().and_then(|key| self.files.get(key));
        self.retry_at.is_some() || self.reader.is_none() && front.is_some_and(|file| file.handle.is_none())
    }

    /// Whether a file that is delivered once has been looked at, and is delivered or reported lost to its end.
    pub(super) fn is_finished(&self) -> bool {
        (!self.seen.is_empty() || self.live_problem.is_some()) && self.is_exhausted() && self.is_settled()
    }

    /// Whether nothing is left to read, nor to wait for because it may come back.
    pub(super) fn is_exhausted(&self) -> bool {
        let missing = self.files.values().any(|file| file.missing_since.is_some() && file.finished_at.is_none());
        self.queue.is_empty() && self.embryos.is_empty() && !missing
    }

    /// Closes what is open.
    pub(super) fn close_files(&mut self) {
        self.files.values_mut().for_each(|file| file.handle = None);
    }

    /// Whether a file behind the front of the queue has data: then the front will not grow any more, as far as the
    /// way in which logs are rotated tells.
    pub(super) fn successor_has_data(&self) -> bool {
        self.queue.iter().skip(1).filter_map(|key| self.files.get(key)).any(|file| file.len.is_none_or(|len| len > 0))
    }

    /// The front of the queue has been read to its end and a younger file has data: on to the next.
    pub(super) fn finish_front(&mut self, now: Instant) {
        self.reader = None;
        if let Some(key) = self.queue.pop_front()
            && let Some(file) = self.files.get_mut(&key)
        {
            file.finished_at = Some(now);
        }
        self.drained = false;
    }

    /// Marks files whose whole content is delivered, so that a restart does not look for more of them.
    pub(super) fn note_complete(&mut self) {
        for (key, file) in &self.files {
            if file.finished_at.is_some()
                && !file.try_again
                && let Some(record) = self.ledger.files.get_mut(key)
                && record.delivered >= file.read
            {
                record.complete = true;
            }
        }
    }
}
