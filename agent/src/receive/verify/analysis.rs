//! What an archive proves, from its manifests and the facts measured of its bodies. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use super::chains::{Chain, ChainKey, Chains, Slot};
use super::coverage::{self, Piece};
use super::report::{ChainSummary, Finding, Loss, Report, Totals, What};
use crate::manifest::{Kind, Manifest};
use crate::receive::body::BodyFacts;
use crate::receive::index::chain_digest;
use crate::receive::layout::{self, StoredManifest};
use crate::types::{ChunkId, Digest, FileId, Span};

/// A chunk of an archive and what its body turned out to hold.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Path below the archive's root, without extension.
    pub name: String,
    /// Its manifest.
    pub stored: StoredManifest,
    /// What its body holds, or why that is not known.
    pub body: Result<BodyFacts, Finding>,
    /// The record in the body of a loss chunk.
    pub loss: Option<LossRecord>,
}

/// What is read of a loss record.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LossRecord {
    /// Why the bytes could not be delivered.
    pub reason: String,
    /// First lost byte and, where known, the byte behind the last.
    pub span: (u64, Option<u64>),
}

/// Judges an archive. `wholes` has, for every split chunk, the digest of its parts' contents put together.
pub fn analyse(chunks: &[Chunk], wholes: &HashMap<ChunkId, Digest>) -> Report {
    let manifests: Vec<&Manifest> = chunks.iter().map(|chunk| &chunk.stored.manifest).collect();
    let Chains { chains, duplicates } = Chains::group(&manifests);
    let mut analysis = Analysis { chunks, wholes, problems: Vec::new(), notes: Vec::new(), losses: Vec::new() };
    if chunks.is_empty() {
        analysis.problem(What::Empty, "archive", "holds no chunk");
    }
    for chunk in chunks {
        analysis.check_chunk(chunk);
    }
    for (at, earlier) in duplicates {
        let detail = format!("has the chunk id of {}", chunks[earlier].name);
        analysis.problem(What::DuplicateId, &chunks[at].name, detail);
    }
    let mut summaries = Vec::new();
    for (key, chain) in &chains {
        analysis.check_chain(key, chain);
        summaries.push(analysis.summary(key, chain));
    }
    analysis.check_ranges(&chains);
    analysis.check_streams(&chains);
    let mut totals = Totals::default();
    summaries.iter().for_each(|summary| totals.add(&summary.totals));
    Report {
        complete: analysis.problems.is_empty(),
        chains: summaries,
        totals,
        losses: analysis.losses,
        problems: analysis.problems,
        notes: analysis.notes,
    }
}

struct Analysis<'a> {
    chunks: &'a [Chunk],
    wholes: &'a HashMap<ChunkId, Digest>,
    problems: Vec<Finding>,
    notes: Vec<Finding>,
    losses: Vec<Loss>,
}

impl<'a> Analysis<'a> {
    fn problem(&mut self, what: What, at: &str, detail: impl Into<String>) {
        self.problems.push(Finding::new(what, at, detail));
    }

    fn manifest(&self, at: usize) -> &'a Manifest {
        &self.chunks[at].stored.manifest
    }

    /// One chunk by itself: its place and its body.
    fn check_chunk(&mut self, chunk: &Chunk) {
        let manifest = &chunk.stored.manifest;
        let place = layout::folder(manifest).join(layout::stem(manifest));
        if place.to_str() != Some(&chunk.name) {
            self.problem(What::Misplaced, &chunk.name, format!("its manifest belongs at {}", place.display()));
        }
        match &chunk.body {
            Err(finding) => self.problems.push(finding.clone()),
            Ok(facts) => {
                if let Err(mismatch) = facts.check(manifest) {
                    self.problem(What::FalseManifest, &chunk.name, mismatch.to_string());
                } else if manifest.kind == Kind::Loss && chunk.loss.is_none() {
                    self.problem(What::FalseManifest, &chunk.name, "its body is no loss record");
                }
            }
        }
    }

    fn check_chain(&mut self, key: &ChainKey<'_>, chain: &Chain) {
        // What stands before sequence 1.
        let start = BTreeSet::from([Digest::ZERO]);
        let (mut before, mut known) = (0, Some(start));
        for (&sequence, slot) in chain {
            if sequence > before + 1 {
                let at = format!("{} of stream {} on {}/{}", key.source, key.stream, key.cluster, key.node);
                self.problem(What::SequenceGap, &at, format!("no chunk for sequence {}-{}", before + 1, sequence - 1));
                known = None;
            }
            self.check_slot(slot);
            let all = slot.all();
            if let Some(known) = &known {
                let detail = format!("its previous digest is not that of sequence {}", sequence - 1);
                let broken = all.iter().filter(|&&at| !known.contains(&self.chunks[at].stored.manifest.previous));
                for &at in broken {
                    self.problems.push(Finding::new(What::BrokenChain, &self.chunks[at].name, &detail));
                }
            }
            known = Some(all.iter().map(|&at| chain_digest(self.manifest(at))).collect());
            before = sequence;
        }
    }

    /// Everything delivered for one sequence number.
    fn check_slot(&mut self, slot: &Slot) {
        let content = slot.content();
        for (id, parts) in &slot.parts {
            self.check_parts(id, parts);
        }
        let Some(&first) = content.first() else { return };
        let chosen = self.manifest(first);
        for at in slot.all().split_off(content.len()) {
            let (chunk, other) = (&self.chunks[at], self.manifest(at));
            let superseded = match other.kind {
                Kind::Loss => chosen.kind == Kind::Lines,
                Kind::Lines => other.part_of.is_some_and(|part| part.id == chosen.id),
            };
            let detail = format!("{} has the same sequence number and counts", self.chunks[first].name);
            if superseded {
                self.notes.push(Finding::new(What::Superseded, &chunk.name, detail));
            } else {
                self.problem(What::SequenceConflict, &chunk.name, detail);
            }
        }
        if chosen.kind == Kind::Loss {
            self.record_loss(&self.chunks[first]);
        }
    }

    fn check_parts(&mut self, id: &ChunkId, parts: &[usize]) {
        let Some(whole) = parts.first().and_then(|&at| self.manifest(at).part_of) else { return };
        let name = &self.chunks[parts[0]].name;
        let mut reached = whole.span.start;
        let problems_before = self.problems.len();
        for &at in parts {
            let part = self.manifest(at);
            if part.part_of != Some(whole) {
                self.problem(What::IncompleteParts, &self.chunks[at].name, "disagrees with its siblings on the whole");
            }
            if part.span.start != reached {
                let detail = format!("bytes {reached} and {} of chunk {id} do not meet", part.span.start);
                self.problem(What::IncompleteParts, &self.chunks[at].name, detail);
            }
            reached = part.span.end;
        }
        if reached != whole.span.end {
            let detail = format!("the parts of chunk {id} end at {reached}, the chunk at {}", whole.span.end);
            self.problem(What::IncompleteParts, name, detail);
        } else if self.problems.len() == problems_before && self.wholes.get(id) != Some(&whole.digest) {
            self.problem(What::IncompleteParts, name, format!("the parts of chunk {id} do not have its digest"));
        }
    }

    fn record_loss(&mut self, chunk: &Chunk) {
        let manifest = &chunk.stored.manifest;
        let known = Some(manifest.span.end).filter(|_| !manifest.span.is_empty());
        let (reason, end) = match &chunk.loss {
            Some(record) => (record.reason.clone(), record.span.1),
            None => ("unknown".to_owned(), known),
        };
        let (start, path) = (manifest.span.start, manifest.path.clone());
        let range = end.map_or_else(|| format!("from {start} on"), |end| format!("{start}-{end}"));
        self.problem(What::Loss, &chunk.name, format!("{path}: bytes {range} are lost: {reason}"));
        self.losses.push(Loss { at: chunk.name.clone(), path, start, end, reason });
    }

    fn summary(&self, key: &ChainKey<'_>, chain: &Chain) -> ChainSummary {
        let mut totals = Totals::default();
        let mut files = BTreeSet::new();
        for &at in chain.values().flat_map(Slot::content) {
            let chunk = &self.chunks[at];
            let stored = &chunk.stored;
            if !chunk.body.as_ref().is_ok_and(|facts| facts.check(&stored.manifest).is_ok()) {
                continue;
            }
            let lost = stored.manifest.kind == Kind::Loss;
            files.insert(stored.manifest.file.to_string());
            totals.add(&Totals {
                chunks: 1,
                events: stored.manifest.events,
                malformed: stored.manifest.malformed,
                content_bytes: stored.manifest.content_bytes,
                body_bytes: stored.body_bytes,
                losses: u64::from(lost),
                lost_bytes: if lost { stored.manifest.span.len() } else { 0 },
            });
        }
        ChainSummary {
            cluster: key.cluster.to_owned(),
            node: key.node.to_owned(),
            stream: key.stream,
            source: key.source.to_owned(),
            first: chain.first_key_value().map_or(0, |(sequence, _)| *sequence),
            last: chain.last_key_value().map_or(0, |(sequence, _)| *sequence),
            files: files.len() as u64,
            totals,
        }
    }

    /// Ranges, file by file. An inode means something on its own node only.
    fn check_ranges(&mut self, chains: &BTreeMap<ChainKey<'_>, Chain>) {
        let mut files: HashMap<(&str, &str, FileId), Vec<Piece<'_>>> = HashMap::new();
        for (number, (key, chain)) in chains.iter().enumerate() {
            for &at in chain.values().flat_map(Slot::content) {
                let (chunk, manifest) = (&self.chunks[at], self.manifest(at));
                let open_ended = chunk.loss.as_ref().is_some_and(|loss| loss.span.1.is_none());
                files.entry((key.cluster, key.node, manifest.file)).or_default().push(Piece {
                    span: Span::new(manifest.span.start, manifest.span.end),
                    chain: number,
                    open_ended,
                    at: &chunk.name,
                    path: &manifest.path,
                });
            }
        }
        let mut findings: Vec<_> = files.values_mut().map(|pieces| coverage::check(pieces)).collect();
        // The order of a hash map says nothing.
        findings.sort_by(|a, b| a.0.iter().chain(&a.1).map(|f| &f.at).cmp(b.0.iter().chain(&b.1).map(|f| &f.at)));
        for (problems, notes) in findings {
            self.problems.extend(problems);
            self.notes.extend(notes);
        }
    }

    fn check_streams(&mut self, chains: &BTreeMap<ChainKey<'_>, Chain>) {
        let mut streams: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
        for key in chains.keys() {
            *streams.entry((key.cluster, key.node, key.source)).or_default() += 1;
        }
        for ((cluster, node, source), count) in streams.into_iter().filter(|(_, count)| *count > 1) {
            let detail = format!("{count} streams: the agent's state was made anew");
            self.notes.push(Finding::new(What::SeveralStreams, format!("{source} on {cluster}/{node}"), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Encoding, PartOf};
    use crate::receive::index::tests::chunk as manifest;
    use crate::types::StreamId;

    /// A chunk whose body is what its manifest says.
    fn chunk(manifest: Manifest) -> Chunk {
        let name = layout::folder(&manifest).join(layout::stem(&manifest)).display().to_string();
        let lost = manifest.kind == Kind::Loss;
        let body = Ok(BodyFacts {
            digest: manifest.digest,
            content_bytes: manifest.content_bytes,
            lines: manifest.events + manifest.malformed + u64::from(lost),
            records: manifest.malformed,
            terminated: true,
        });
        let loss = lost.then(|| LossRecord { reason: "removed".into(), span: (manifest.span.start, None) });
        Chunk { name, stored: StoredManifest { encoding: Encoding::Gzip, body_bytes: 5, manifest }, body, loss }
    }

    /// Four chunks that are as they should be.
    fn archive() -> Vec<Chunk> {
        (1..=4).map(|n| chunk(manifest(n, Digest([n - 1; 32])))).collect()
    }

    fn loss(sequence: u8) -> Manifest {
        let lines = manifest(sequence, Digest([sequence - 1; 32]));
        let id = ChunkId([sequence + 100; 16]);
        Manifest { id, kind: Kind::Loss, events: 0, digest: Digest([sequence + 100; 32]), ..lines }
    }

    /// The two halves of chunk `sequence`.
    fn parts(sequence: u8) -> [Manifest; 2] {
        let whole = manifest(sequence, Digest([sequence - 1; 32]));
        let part_of = Some(PartOf { id: whole.id, span: whole.span, digest: whole.digest });
        [0, 5].map(|offset| {
            let start = whole.span.start + offset;
            let id = ChunkId([sequence * 10 + offset as u8; 16]);
            Manifest {
                id,
                span: Span::new(start, start + 5),
                digest: Digest(id.0.repeat(2).try_into().unwrap()),
                part_of,
                ..whole.clone()
            }
        })
    }

    fn problems(chunks: &[Chunk]) -> Vec<What> {
        let whole = |n: u8| (ChunkId([n; 16]), Digest([n; 32]));
        let report = analyse(chunks, &HashMap::from([whole(2)]));
        assert_eq!(report.complete, report.problems.is_empty());
        report.problems.iter().map(|problem| problem.what).collect()
    }

    fn notes(chunks: &[Chunk]) -> Vec<What> {
        let report = analyse(chunks, &HashMap::new());
        assert_eq!(report.problems, []);
        report.notes.iter().map(|note| note.what).collect()
    }

    // Fails if a sound archive is found fault with, or counted wrongly.
    #[test]
    fn a_sound_archive_is_complete() {
        let report = analyse(&archive(), &HashMap::new());
        assert!(report.complete && report.notes.is_empty());
        let Totals { chunks, events, content_bytes, body_bytes, .. } = report.totals;
        assert_eq!((chunks, events, content_bytes, body_bytes), (4, 4, 40, 20));
        assert_eq!((report.chains[0].first, report.chains[0].last, report.chains[0].files), (1, 4, 1));
        assert_eq!(problems(&[]), [What::Empty]);
    }

    // Fails if a missing chunk goes unnoticed: by number, by range, or both.
    #[test]
    fn a_missing_chunk_is_found() {
        let mut chunks = archive();
        chunks.remove(1);
        assert_eq!(problems(&chunks), [What::SequenceGap, What::RangeGap]);
        let mut chunks = archive();
        chunks.remove(0);
        assert_eq!(problems(&chunks), [What::SequenceGap]);
    }

    // Fails if content may be altered, exchanged or moved.
    #[test]
    fn altered_and_swapped_chunks_are_found() {
        let mut chunks = archive();
        chunks[2].body = Ok(BodyFacts { digest: Digest([99; 32]), ..chunks[2].body.clone().unwrap() });
        assert_eq!(problems(&chunks), [What::FalseManifest]);
        let mut chunks = archive();
        (chunks[1].body, chunks[2].body) = (chunks[2].body.clone(), chunks[1].body.clone());
        assert_eq!(problems(&chunks), [What::FalseManifest; 2]);
        let mut chunks = archive();
        (chunks[1].stored.manifest.sequence, chunks[2].stored.manifest.sequence) = (3, 2);
        let broken = [What::Misplaced, What::Misplaced, What::BrokenChain, What::BrokenChain, What::BrokenChain];
        assert_eq!(problems(&chunks), broken);
    }

    // Fails if chunks may repeat each other: by id, by number or by range.
    #[test]
    fn repeated_chunks_are_found() {
        let mut chunks = archive();
        chunks.push(chunks[1].clone());
        assert_eq!(problems(&chunks), [What::DuplicateId]);
        let mut chunks = archive();
        chunks.push(chunk(Manifest { id: ChunkId([77; 16]), ..chunks[3].stored.manifest.clone() }));
        assert_eq!(problems(&chunks), [What::SequenceConflict]);
        let mut chunks = archive();
        chunks[3] = chunk(Manifest { span: Span::new(25, 40), ..chunks[3].stored.manifest.clone() });
        assert_eq!(problems(&chunks), [What::RangeOverlap]);
    }

    // Fails if parts are not judged as the chunk they make up.
    #[test]
    fn parts_make_up_the_whole() {
        let split = |parts: &[Manifest]| {
            let mut chunks = archive();
            chunks.remove(1);
            chunks.extend(parts.iter().cloned().map(chunk));
            problems(&chunks)
        };
        let [first, second] = parts(2);
        assert_eq!(split(&[second.clone(), first.clone()]), []);
        assert_eq!(split(std::slice::from_ref(&first)), [What::IncompleteParts, What::RangeGap]);
        assert_eq!(split(std::slice::from_ref(&second)), [What::IncompleteParts, What::RangeGap]);
        let mut chunks: Vec<_> = archive();
        chunks[2] = chunk(parts(3)[0].clone());
        chunks.push(chunk(parts(3)[1].clone()));
        // No digest of the parts of chunk 3 put together was handed in.
        assert_eq!(problems(&chunks), [What::IncompleteParts]);
        let mut chunks = archive();
        chunks.extend([first, second].map(chunk));
        assert_eq!(analyse(&chunks, &HashMap::from([(ChunkId([2; 16]), Digest([2; 32]))])).totals.events, 4);
        assert_eq!(problems(&chunks), []);
    }

    // Fails if a declared loss passes for complete, or counts although the lines did arrive.
    #[test]
    fn losses_are_listed_and_lines_win() {
        let mut chunks = archive();
        let lost = loss(3);
        chunks[3] = chunk(Manifest { previous: lost.digest, ..chunks[3].stored.manifest.clone() });
        chunks.push(chunk(lost));
        assert_eq!(notes(&chunks), [What::Superseded]);
        chunks.remove(2);
        assert_eq!(problems(&chunks), [What::Loss]);
        let report = analyse(&chunks, &HashMap::new());
        assert_eq!(report.losses.len(), 1);
        assert_eq!((report.losses[0].start, report.losses[0].end), (20, None));
    }

    // Fails if a new stream of the same source is a fault by itself, or if what it delivers again goes unnoticed.
    #[test]
    fn a_new_stream_is_noted_and_repeats_are_reported() {
        let other = |n: u8, span| {
            let manifest = manifest(n, Digest([n - 1; 32]));
            chunk(Manifest { stream: StreamId([8; 16]), id: ChunkId([n + 50; 16]), span, ..manifest })
        };
        let mut chunks = archive();
        chunks.push(other(1, Span::new(40, 60)));
        assert_eq!(notes(&chunks), [What::LateStart, What::SeveralStreams]);
        chunks[4] = other(1, Span::new(30, 60));
        assert_eq!(problems(&chunks), [What::DuplicateRange]);
    }
}
