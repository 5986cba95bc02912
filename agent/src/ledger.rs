//! Receipts to contiguous offsets: the only place that decides how far a checkpoint may move. Pure.
//!
//! One ledger per source. A chunk is *decided* when its identity and range are fixed (they become durable before it is
//! sent), *settled* when the destination has it or it has been set aside, and *committed* when it and every chunk
//! before it are settled; only then does the delivered offset of its file move.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::manifest::Kind;
use crate::record::Loss;
use crate::source::matching::Location;
use crate::types::{ChunkId, Digest, FileId, Span, StreamId};

/// Names a file within one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileKey(pub u32);

/// A file that is, or was, part of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Identity in manifests: fixed once a byte of the file has been decided.
    pub id: FileId,
    /// Whether its fingerprint covers a whole first line, or all that a fingerprint covers.
    pub identified: bool,
    /// Where it was seen last.
    pub at: Location,
    /// Name it was seen under last, without the directory.
    pub name: String,
    /// Every byte before this offset has been delivered, set aside or reported lost.
    pub delivered: u64,
    /// Nothing will follow `delivered`: the whole of a compressed file, or a file given up.
    pub complete: bool,
}

/// Whether the destination has a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Decided, perhaps sent, no receipt.
    Open,
    /// The destination has it.
    Delivered,
    /// Refused for good and kept in the state directory.
    Aside,
}

/// What the content of a chunk came to; fixed with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Digest of the content.
    pub digest: Digest,
    /// Bytes of the content.
    pub content_bytes: u64,
    /// Events in it.
    pub events: u64,
    /// Wrapped malformed lines in it.
    pub malformed: u64,
}

/// A part of a chunk that the destination found too large.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its own id.
    pub id: ChunkId,
    /// Its share of the chunk's span.
    pub span: Span,
    /// Its content.
    pub tally: Tally,
    /// Set when the range cannot be read any more: the record that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Its state.
    pub state: State,
}

/// A range of a decided chunk that has no receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The range.
    pub span: Span,
    /// Whether the range is that of a decided chunk or part; else it is still to be cut into parts.
    pub decided: bool,
}

/// A decided chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Position in the chain of the source.
    pub sequence: u64,
    /// Idempotency key.
    pub id: ChunkId,
    /// Lines or loss.
    pub kind: Kind,
    /// File the range belongs to.
    pub file: FileKey,
    /// The range.
    pub span: Span,
    /// Digest of the chunk before it in the chain.
    pub previous: Digest,
    /// Its content.
    pub tally: Tally,
    /// For a loss: the record that stands for the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Set once the chunk is being delivered in parts: those decided so far, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<Part>>,
    /// Its state.
    pub state: State,
}

impl Entry {
    /// What has to be read again to deliver the rest of this chunk, in the order of the file.
    pub fn unsettled(&self) -> Vec<Unsettled> {
        let Some(parts) = &self.parts else {
            let open = self.state == State::Open;
            return open.then_some(Unsettled { span: self.span, decided: true }).into_iter().collect();
        };
        let mut rest = Vec::new();
        let mut at = self.span.start;
        let gap = |from, to| (from < to).then_some(Unsettled { span: Span::new(from, to), decided: false });
        for part in parts {
            rest.extend(gap(at, part.span.start));
            if part.state == State::Open {
                rest.push(Unsettled { span: part.span, decided: true });
            }
            at = part.span.end;
        }
        rest.extend(gap(at, self.span.end));
        rest
    }

    fn settle_if_parts_are(&mut self) {
        let Some(parts) = &self.parts else { return };
        if !parts.is_empty() && self.unsettled().is_empty() {
            let aside = parts.iter().any(|part| part.state == State::Aside);
            self.state = if aside { State::Aside } else { State::Delivered };
        }
    }
}

/// The ledger of one source. Its serialised form is the source's share of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Files of the source, in the order in which they were first seen.
    pub files: BTreeMap<FileKey, FileRecord>,
    /// Sequence number of the last committed chunk; 0 before the first.
    pub committed: u64,
    /// Its digest.
    pub committed_digest: Digest,
    /// Decided chunks that are not committed, in sequence.
    pub entries: VecDeque<Entry>,
    next_file: u32,
}

impl Default for Ledger {
    fn default() -> Self {
        let (files, entries) = (BTreeMap::new(), VecDeque::new());
        Self { files, committed: 0, committed_digest: Digest::ZERO, entries, next_file: 0 }
    }
}

/// A chunk that is to be decided.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Lines or loss.
    pub kind: Kind,
    /// File of the range.
    pub file: FileKey,
    /// The range.
    pub span: Span,
    /// Its content.
    pub tally: Tally,
    /// For a loss: its record.
    pub loss: Option<Loss>,
}

impl Ledger {
    /// Adds a file.
    pub fn add_file(&mut self, record: FileRecord) -> FileKey {
        let key = FileKey(self.next_file);
        self.next_file += 1;
        self.files.insert(key, record);
        key
    }

    /// Forgets a file, unless a chunk that is not committed needs it.
    pub fn forget_file(&mut self, key: FileKey) -> bool {
        let needed = self.entries.iter().any(|entry| entry.file == key);
        if !needed {
            self.files.remove(&key);
        }
        !needed
    }

    /// Offset up to which chunks of a file have been decided.
    pub fn decided_end(&self, key: FileKey) -> u64 {
        let decided = self.entries.iter().rev().find(|entry| entry.file == key).map(|entry| entry.span.end);
        decided.unwrap_or_else(|| self.files.get(&key).map_or(0, |file| file.delivered))
    }

    /// Whether what is delivered of a file begins at `start`, and nothing of it has been decided: its identity may still
    /// become that of its whole first line. A file that is begun behind a hole has a first line too, which ends behind
    /// what was there when it was found.
    pub fn begins_at(&self, key: FileKey, start: u64) -> bool {
        let inside = |record: &FileRecord| !record.identified && start < record.id.fingerprint.len.into();
        self.decided_end(key) == start && (start == 0 || self.files.get(&key).is_some_and(inside))
    }

    /// Fixes identity, range and place in the chain of the next chunk.
    pub fn decide(&mut self, stream: StreamId, source: &str, proposal: Proposal) -> &Entry {
        let (sequence, previous) = match self.entries.back() {
            Some(last) => (last.sequence + 1, last.tally.digest),
            None => (self.committed + 1, self.committed_digest),
        };
        let Proposal { kind, file, span, tally, loss } = proposal;
        let id = chunk_id(stream, source, sequence, span);
        let entry = Entry { sequence, id, kind, file, span, previous, tally, loss, parts: None, state: State::Open };
        self.entries.push_back(entry);
        &self.entries[self.entries.len() - 1]
    }

    /// The decided chunk with a sequence number, unless it is committed.
    pub fn entry(&self, sequence: u64) -> Option<&Entry> {
        let first = self.entries.front()?.sequence;
        self.entries.get(usize::try_from(sequence.checked_sub(first)?).ok()?)
    }

    fn entry_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        let first = self.entries.front()?.sequence;
        self.entries.get_mut(usize::try_from(sequence.checked_sub(first)?).ok()?)
    }

    /// Starts to deliver a chunk (or, given a part's id, that part) in smaller parts: the range is undecided again.
    pub fn split(&mut self, sequence: u64, id: ChunkId) {
        let Some(entry) = self.entry_mut(sequence) else { return };
        entry.parts.get_or_insert_with(Vec::new).retain(|part| part.id != id);
    }

    /// Fixes identity and range of the next part of a chunk that is being split, or finds it decided already.
    pub fn decide_part(
        &mut self,
        stream: StreamId,
        source: &str,
        sequence: u64,
        span: Span,
        tally: Tally,
    ) -> Option<Part> {
        self.insert_part(chunk_id(stream, source, sequence, span), sequence, span, tally, None)
    }

    /// Gives up a range of a decided chunk that cannot be read any more: a part of its own stands for it.
    pub fn abandon(&mut self, sequence: u64, span: Span, tally: Tally, loss: Loss) -> Option<Part> {
        let entry = self.entry_mut(sequence)?;
        entry.parts.get_or_insert_with(Vec::new).retain(|part| part.span != span);
        // Under the range's own id the destination may have the lines already, their receipt lost.
        let mut id = entry.id;
        id.0.copy_from_slice(&blake3::hash(&[&entry.id.0[..], &loss.to_line()].concat()).as_bytes()[..16]);
        self.insert_part(id, sequence, span, tally, Some(loss))
    }

    /// Whether a range of a decided chunk is reported lost, or its chunk committed: its bytes are wanted no more.
    pub fn is_given_up(&self, sequence: u64, span: Span) -> bool {
        let Some(entry) = self.entry(sequence) else { return true };
        let mut lost = entry.parts.iter().flatten().filter(|part| part.loss.is_some());
        lost.any(|part| part.span.start <= span.start && span.end <= part.span.end)
    }

    /// The end of the parts that have been decided of a range, from its start on without a gap.
    pub fn parts_end(&self, sequence: u64, range: Span) -> u64 {
        let parts = self.entry(sequence).and_then(|entry| entry.parts.as_ref());
        let inside = parts.into_iter().flatten().filter(|part| part.span != range && part.span.end <= range.end);
        inside.fold(range.start, |end, part| if part.span.start == end { part.span.end } else { end })
    }

    fn insert_part(
        &mut self,
        id: ChunkId,
        sequence: u64,
        span: Span,
        tally: Tally,
        loss: Option<Loss>,
    ) -> Option<Part> {
        let parts = self.entry_mut(sequence)?.parts.as_mut()?;
        if let Some(part) = parts.iter().find(|part| part.span == span) {
            return Some(part.clone());
        }
        let part = Part { id, span, tally, loss, state: State::Open };
        let at = parts.partition_point(|other| other.span.start < span.start);
        parts.insert(at, part.clone());
        Some(part)
    }

    /// Records that a chunk or a part of it needs no further delivery, and commits what has become contiguous.
    /// Returns the number of chunks committed.
    pub fn settle(&mut self, sequence: u64, id: ChunkId, state: State) -> usize {
        if let Some(entry) = self.entry_mut(sequence) {
            if entry.id == id && entry.parts.is_none() {
                entry.state = state;
            } else if let Some(part) = entry.parts.iter_mut().flatten().find(|part| part.id == id) {
                part.state = state;
            }
            entry.settle_if_parts_are();
        }
        self.commit()
    }

    fn commit(&mut self) -> usize {
        let mut commits = 0;
        while self.entries.front().is_some_and(|entry| entry.state != State::Open) {
            let Some(entry) = self.entries.pop_front() else { break };
            self.committed = entry.sequence;
            self.committed_digest = entry.tally.digest;
            if let Some(file) = self.files.get_mut(&entry.file) {
                file.delivered = file.delivered.max(entry.span.end);
            }
            commits += 1;
        }
        commits
    }
}

/// A chunk's id follows from its place in the chain and its range, so that the same decision always has the same id.
fn chunk_id(stream: StreamId, source: &str, sequence: u64, span: Span) -> ChunkId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&stream.0).update(&sequence.to_le_bytes());
    hasher.update(&span.start.to_le_bytes()).update(&span.end.to_le_bytes()).update(source.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    ChunkId(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Fingerprint;

    const STREAM: StreamId = StreamId([1; 16]);

    fn with_file() -> (Ledger, FileKey) {
        let mut ledger = Ledger::default();
        let id = FileId { device: 1, inode: 2, birth_ns: 3, fingerprint: Fingerprint::of(b"x\n") };
        let at = Location { device: 1, inode: 2, birth_ns: 3 };
        let key = ledger.add_file(FileRecord {
            id,
            identified: true,
            at,
            name: "audit.log".into(),
            delivered: 0,
            complete: false,
        });
        (ledger, key)
    }

    fn tally(n: u64) -> Tally {
        Tally { digest: Digest(*blake3::hash(&n.to_le_bytes()).as_bytes()), content_bytes: n, events: 1, malformed: 0 }
    }

    fn decide(ledger: &mut Ledger, file: FileKey, span: Span) -> (u64, ChunkId) {
        let proposal = Proposal { kind: Kind::Lines, file, span, tally: tally(span.end), loss: None };
        let entry = ledger.decide(STREAM, "/log", proposal);
        (entry.sequence, entry.id)
    }

    // Fails if a receipt that overtakes an earlier chunk moves the offset past that chunk: a crash would lose it.
    #[test]
    fn the_offset_waits_for_the_oldest_chunk() {
        let (mut ledger, file) = with_file();
        let first = decide(&mut ledger, file, Span::new(0, 10));
        let second = decide(&mut ledger, file, Span::new(10, 30));
        assert_eq!(ledger.settle(second.0, second.1, State::Delivered), 0);
        assert_eq!(ledger.files[&file].delivered, 0);
        assert_eq!(ledger.settle(first.0, first.1, State::Delivered), 2);
        assert_eq!((ledger.files[&file].delivered, ledger.committed), (30, 2));
        assert_eq!(ledger.committed_digest, tally(30).digest);
    }

    // Fails if the chain does not name the chunk before, or starts over after a commit.
    #[test]
    fn the_chain_goes_on_across_commits() {
        let (mut ledger, file) = with_file();
        let (sequence, id) = decide(&mut ledger, file, Span::new(0, 10));
        assert_eq!(ledger.entry(sequence).map(|entry| entry.previous), Some(Digest::ZERO));
        ledger.settle(sequence, id, State::Delivered);
        let (sequence, _) = decide(&mut ledger, file, Span::new(10, 20));
        assert_eq!(sequence, 2);
        assert_eq!(ledger.entry(2).map(|entry| entry.previous), Some(tally(10).digest));
    }

    // Fails if a split chunk is committed before its parts cover all of it.
    #[test]
    fn parts_settle_the_chunk_only_together() {
        let (mut ledger, file) = with_file();
        let (sequence, id) = decide(&mut ledger, file, Span::new(0, 100));
        ledger.split(sequence, id);
        let one = ledger.decide_part(STREAM, "/log", sequence, Span::new(0, 60), tally(1)).unwrap();
        assert_eq!(ledger.settle(sequence, one.id, State::Delivered), 0);
        assert_eq!(ledger.settle(sequence, id, State::Delivered), 0, "the whole was given up for its parts");
        let entry = ledger.entry(sequence).unwrap();
        let rest = vec![Unsettled { span: Span::new(60, 100), decided: false }];
        assert_eq!(entry.unsettled(), rest);
        let two = ledger.decide_part(STREAM, "/log", sequence, Span::new(60, 100), tally(2)).unwrap();
        ledger.split(sequence, two.id);
        assert_eq!(ledger.entry(sequence).unwrap().unsettled(), rest);
        for span in [Span::new(60, 80), Span::new(80, 100)] {
            let part = ledger.decide_part(STREAM, "/log", sequence, span, tally(span.end)).unwrap();
            ledger.settle(sequence, part.id, State::Aside);
        }
        assert_eq!((ledger.files[&file].delivered, ledger.committed), (100, 1));
    }

    // Fails if what is delivered of a chunk is reported lost with its rest, or bytes of that rest are still taken.
    #[test]
    fn only_what_is_not_decided_in_parts_is_given_up() {
        let (mut ledger, file) = with_file();
        let (whole, rest) = (Span::new(0, 100), Span::new(60, 100));
        let (sequence, id) = decide(&mut ledger, file, whole);
        ledger.split(sequence, id);
        let one = ledger.decide_part(STREAM, "/log", sequence, Span::new(0, 60), tally(1)).unwrap();
        assert_eq!(ledger.parts_end(sequence, whole), 60);
        let FileRecord { id: file, .. } = ledger.files[&file];
        let (reason, source) = (crate::record::LossReason::Truncated, "/log".to_owned());
        let loss = Loss { reason, path: source.clone(), source, file, start: 60, end: Some(100) };
        let lost = ledger.abandon(sequence, rest, tally(2), loss).unwrap();
        assert!(ledger.is_given_up(sequence, Span::new(60, 80)) && !ledger.is_given_up(sequence, Span::new(0, 60)));
        ledger.settle(sequence, one.id, State::Delivered);
        assert_eq!(ledger.settle(sequence, lost.id, State::Delivered), 1);
        assert!(ledger.is_given_up(sequence, Span::new(0, 60)), "committed");
    }

    proptest! {
        // Fails if, in any order of receipts, the delivered offset is not exactly the end of the settled prefix.
        #[test]
        fn delivered_is_the_settled_prefix(order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(), upto in 0..12usize) {
            let (mut ledger, file) = with_file();
            let chunks: Vec<_> = (0..12u64).map(|n| decide(&mut ledger, file, Span::new(n * 10, n * 10 + 10))).collect();
            for &at in &order[..upto] {
                ledger.settle(chunks[at].0, chunks[at].1, State::Delivered);
            }
            let prefix = (0..12).take_while(|n| order[..upto].contains(n)).count() as u64;
            prop_assert_eq!(ledger.files[&file].delivered, prefix * 10);
            prop_assert_eq!(ledger.entries.len() as u64, 12 - prefix);
        }
    }
}
