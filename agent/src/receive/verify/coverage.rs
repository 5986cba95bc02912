//! Whether the ranges of each file tile: no byte missing, none twice. Pure.

use std::collections::BTreeMap;

use super::report::{Finding, What};
use crate::types::Span;

/// A chunk that counts, as a range of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The range.
    pub span: Span,
    /// Number of its chain.
    pub chain: usize,
    /// Whether it declares everything from the start of its range to the next chunk lost.
    pub open_ended: bool,
    /// The chunk's name.
    pub at: &'a str,
    /// Path it was read from.
    pub path: &'a str,
}

/// Checks all pieces of one file identity; gives problems and notes.
pub fn check(pieces: &mut [Piece<'_>]) -> (Vec<Finding>, Vec<Finding>) {
    pieces.sort_by_key(|piece| (piece.span, piece.at));
    let mut chains: BTreeMap<usize, Vec<Piece<'_>>> = BTreeMap::new();
    for piece in &*pieces {
        chains.entry(piece.chain).or_default().push(*piece);
    }
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    for chain in chains.values() {
        if let Some(first) = chain.first().filter(|first| first.span.start > 0) {
            let detail = format!("{}: begins at byte {}", first.path, first.span.start);
            notes.push(Finding::new(What::LateStart, first.at, detail));
        }
        problems.extend(tiling(chain));
    }
    if chains.len() > 1 {
        problems.extend(repeats(pieces));
    }
    (problems, notes)
}

/// Gaps and overlaps within one chain.
fn tiling(chain: &[Piece<'_>]) -> Vec<Finding> {
    let mut problems = Vec::new();
    let Some((first, rest)) = chain.split_first() else { return problems };
    let mut furthest = *first;
    for piece in rest {
        let (start, end) = (piece.span.start, furthest.span.end);
        if start > end && !furthest.open_ended {
            let detail = format!("{}: bytes {end}-{start} before it are in no chunk", piece.path);
            problems.push(Finding::new(What::RangeGap, piece.at, detail));
        } else if start < end && !piece.span.is_empty() {
            let detail = shared(piece, &furthest);
            problems.push(Finding::new(What::RangeOverlap, piece.at, detail));
        }
        if piece.span.end >= end {
            furthest = *piece;
        }
    }
    problems
}

/// Ranges that two chains share.
fn repeats(pieces: &[Piece<'_>]) -> Vec<Finding> {
    let mut problems = Vec::new();
    // The piece that reaches furthest, of each chain.
    let mut furthest: BTreeMap<usize, Piece<'_>> = BTreeMap::new();
    for piece in pieces.iter().filter(|piece| !piece.span.is_empty()) {
        for other in furthest.values().filter(|other| other.chain != piece.chain) {
            if piece.span.start < other.span.end {
                problems.push(Finding::new(What::DuplicateRange, piece.at, shared(piece, other)));
            }
        }
        let own = furthest.entry(piece.chain).or_insert(*piece);
        if piece.span.end > own.span.end {
            *own = *piece;
        }
    }
    problems
}

fn shared(piece: &Piece<'_>, other: &Piece<'_>) -> String {
    let (start, end) = (piece.span.start, piece.span.end.min(other.span.end));
    format!("{}: bytes {start}-{end} are also in {}", piece.path, other.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(pieces: &[(u64, u64, usize, bool)]) -> (Vec<What>, Vec<What>) {
        let piece = |&(start, end, chain, open_ended)| Piece {
            span: Span::new(start, end),
            chain,
            open_ended,
            at: "chunk",
            path: "/audit.log",
        };
        let (problems, notes) = check(&mut pieces.iter().map(piece).collect::<Vec<_>>());
        let only = |findings: Vec<Finding>| findings.into_iter().map(|finding| finding.what).collect();
        (only(problems), only(notes))
    }

    // Fails if a missing, doubled or legitimate arrangement of ranges is judged otherwise.
    #[test]
    fn ranges_must_tile() {
        use What::{DuplicateRange, LateStart, RangeGap, RangeOverlap};
        type Pieces<'a> = &'a [(u64, u64, usize, bool)];
        let cases: &[(Pieces<'_>, &[What], &[What])] = &[
            (&[(0, 10, 0, false), (10, 20, 0, false)], &[], &[]),
            (&[(10, 20, 0, false), (0, 10, 0, false)], &[], &[]),
            (&[(5, 10, 0, false), (10, 20, 0, false)], &[], &[LateStart]),
            (&[(0, 10, 0, false), (12, 20, 0, false)], &[RangeGap], &[]),
            (&[(0, 10, 0, false), (8, 20, 0, false)], &[RangeOverlap], &[]),
            (&[(0, 10, 0, false), (2, 4, 0, false), (10, 20, 0, false)], &[RangeOverlap], &[]),
            (&[(0, 10, 0, false), (10, 10, 0, true), (50, 60, 0, false)], &[], &[]),
            (&[(0, 10, 0, false), (10, 10, 0, true)], &[], &[]),
            (&[(0, 10, 0, false), (10, 20, 1, false)], &[], &[LateStart]),
            (&[(0, 10, 0, false), (5, 15, 1, false)], &[DuplicateRange], &[LateStart]),
        ];
        for (pieces, problems, notes) in cases {
            assert_eq!(whats(pieces), (problems.to_vec(), notes.to_vec()), "{pieces:?}");
        }
    }
}
