//! From the bytes of a file, in whatever portions they were read, to blocks that can be framed independently. Pure.
//!
//! A block is whole lines; or a piece of a line longer than `max_event_bytes`; or the unterminated end of a file that
//! will not grow. Where a line is cut into pieces depends on the bytes and offsets alone, never on how they were read,
//! so that reading a range a second time gives the same records.

use crate::frame::{Shape, leading_nuls};
use crate::record::Piece;
use crate::types::Span;

/// A run of bytes that is framed as one.
#[derive(Debug)]
pub struct Block {
    /// Where the bytes are in their file.
    pub span: Span,
    /// What they are.
    pub shape: Shape,
    /// The bytes: as many as the span is long.
    pub bytes: Vec<u8>,
}

/// Collects bytes and cuts blocks off their front.
#[derive(Debug)]
pub struct BlockCutter {
    /// Bytes that are not part of a block yet. May hold at most `line_bytes_max`: see [`BlockCutter::room`].
    pub bytes: Vec<u8>,
    /// Offset of the first of them.
    start: u64,
    /// Whether they begin inside a line of which something has been cut off already.
    mid_line: bool,
    line_bytes_max: usize,
    /// Blocks of several lines are not to be longer than this.
    lines_bytes_max: usize,
}

impl BlockCutter {
    /// A cutter for the bytes from `start` on. `mid_line` says that the byte before is there and not a newline.
    pub fn new(start: u64, mid_line: bool, line_bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), start, mid_line, line_bytes_max, lines_bytes_max: usize::MAX }
    }

    /// The same, for blocks that have no more than one line where they are longer than `bytes`.
    pub fn with_lines_of(self, bytes: usize) -> Self {
        Self { lines_bytes_max: bytes, ..self }
    }

    /// Offset of the first byte that is not part of a block yet.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Offset of the next byte to be appended.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Whether the bytes that were cut off last do not end in a newline.
    pub fn is_mid_line(&self) -> bool {
        self.mid_line
    }

    /// How many bytes may be appended before [`BlockCutter::cut`] has to be called.
    pub fn room(&self) -> usize {
        self.line_bytes_max.saturating_sub(self.bytes.len())
    }

    /// Cuts the next block off, if there is one. Its bytes are the collected ones, what is left over moves into `spare`.
    /// `finish` says that nothing will ever follow, so that an unterminated end becomes a block too.
    pub fn cut(&mut self, finish: bool, spare: impl FnOnce() -> Vec<u8>) -> Option<Block> {
        let (len, shape) = self.next_cut(finish)?;
        let mut rest = spare();
        rest.clear();
        rest.extend_from_slice(&self.bytes[len..]);
        let mut bytes = std::mem::replace(&mut self.bytes, rest);
        bytes.truncate(len);
        let span = Span::new(self.start, self.start + len as u64);
        self.start = span.end;
        self.mid_line = bytes.last() != Some(&b'\n');
        Some(Block { span, shape, bytes })
    }

    fn next_cut(&self, finish: bool) -> Option<(usize, Shape)> {
        let bytes = &self.bytes[..];
        let first = !self.mid_line;
        let few = &bytes[..bytes.len().min(self.lines_bytes_max)];
        let last = first.then(|| memchr::memrchr(b'\n', few)).flatten();
        let newline = last.or_else(|| memchr::memchr(b'\n', bytes));
        match newline {
            Some(at) if first => Some((at + 1, Shape::Lines)),
            Some(at) => Some((at + 1, Shape::Piece(Piece { first, last: true }))),
            None if self.room() == 0 && !bytes.is_empty() => {
                Some((piece_len(bytes), Shape::Piece(Piece { first, last: false })))
            }
            None if !finish || bytes.is_empty() => None,
            None if first => Some((bytes.len(), Shape::Lines)),
            None => Some((bytes.len(), Shape::Piece(Piece { first, last: true }))),
        }
    }
}

/// A hole that copytruncate leaves (NUL bytes) is cut off as a piece of its own, so that the event behind it is whole.
fn piece_len(bytes: &[u8]) -> usize {
    match leading_nuls(bytes) {
        0 => bytes.len(),
        hole => hole,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cuts `data` into blocks, reading it in portions of the given sizes.
    fn cut_all(data: &[u8], portions: &[usize], max: usize) -> Vec<Block> {
        let mut cutter = BlockCutter::new(0, false, max);
        let mut blocks = Vec::new();
        let mut portions = portions.iter().cycle();
        let mut at = 0;
        while at < data.len() {
            let len = (*portions.next().unwrap()).clamp(1, data.len() - at).min(cutter.room());
            cutter.bytes.extend_from_slice(&data[at..at + len]);
            at += len;
            while let Some(block) = cutter.cut(false, Vec::new) {
                blocks.push(block);
            }
        }
        while let Some(block) = cutter.cut(true, Vec::new) {
            blocks.push(block);
        }
        blocks
    }

    /// The pieces and lines of the blocks, independent of how many lines share a block.
    fn cuts(blocks: &[Block]) -> Vec<(u64, Vec<u8>, bool)> {
        let mut cuts = Vec::new();
        for block in blocks {
            let mut at = block.span.start;
            for line in block.bytes.split_inclusive(|&byte| byte == b'\n') {
                cuts.push((at, line.to_vec(), matches!(block.shape, Shape::Piece(_))));
                at += line.len() as u64;
            }
        }
        cuts
    }

    // Fails if a half-written line is handed on before it is finished.
    #[test]
    fn an_unfinished_line_waits() {
        let mut cutter = BlockCutter::new(100, false, 1000);
        cutter.bytes.extend_from_slice(b"one\ntwo\nthr");
        let block = cutter.cut(false, Vec::new).unwrap();
        assert_eq!((block.span, &block.bytes[..]), (Span::new(100, 108), &b"one\ntwo\n"[..]));
        assert!(cutter.cut(false, Vec::new).is_none());
        cutter.bytes.extend_from_slice(b"ee\n");
        assert_eq!(cutter.cut(false, Vec::new).unwrap().span, Span::new(108, 114));
    }

    // Fails if a range that is to be divided comes as one block although it has several lines.
    #[test]
    fn blocks_of_a_part_have_few_lines_or_one() {
        for (data, spans) in [("aaaaaaaa\nb\n", [(0, 9), (9, 11)]), ("a\nbbbbbbbb\n", [(0, 2), (2, 11)])] {
            let mut cutter = BlockCutter::new(0, false, 1000).with_lines_of(5);
            cutter.bytes.extend_from_slice(data.as_bytes());
            let blocks: Vec<_> = std::iter::from_fn(|| cutter.cut(false, Vec::new)).collect();
            assert_eq!(blocks.iter().map(|block| (block.span.start, block.span.end)).collect::<Vec<_>>(), spans);
        }
    }

    // Fails if an event behind a hole longer than a line may be is cut in two.
    #[test]
    fn a_hole_is_a_piece_of_its_own() {
        let data = [&[0u8; 25][..], b"{\"a\":1}\n{\"b\":2}\n"].concat();
        let blocks = cut_all(&data, &[7], 10);
        let spans: Vec<_> = blocks.iter().map(|block| (block.span.start, block.span.end)).collect();
        assert_eq!(spans, [(0, 10), (10, 20), (20, 25), (25, 33), (33, 41)]);
    }

    proptest! {
        // Fails if where a line is cut depends on how the file was read: a re-sent chunk would differ from the first.
        #[test]
        fn cuts_do_not_depend_on_reads(
            data in prop::collection::vec(prop::sample::select(&b"abc\n\0"[..]), 0..200),
            one in prop::collection::vec(1..40usize, 1..5),
            other in prop::collection::vec(1..40usize, 1..5),
            max in 3..30usize,
        ) {
            let (one, other) = (cut_all(&data, &one, max), cut_all(&data, &other, max));
            prop_assert_eq!(cuts(&one), cuts(&other));
            let all: Vec<u8> = one.iter().flat_map(|block| block.bytes.clone()).collect();
            prop_assert_eq!(all, data);
        }
    }
}
