//! One position in one file, read forward: plain or gzip, to the end of what is there or to a fixed end.

use std::io;
use std::rc::Rc;

use crate::chunk::Purpose;
use crate::compress::inflate::{GzipReader, State};
use crate::disk::Disk;
use crate::ledger::FileKey;
use crate::limits::BLOCK_BYTES;
use crate::source::blocks::{Block, BlockCutter};

/// Compressed bytes read at once.
const GZIP_INPUT_BYTES: usize = 64 * 1024;

/// A line longer than the part it is to be in is read in steps of this at least.
const PART_STEP_BYTES: usize = 4096;

/// How a read ended.
#[derive(Debug)]
pub(super) enum Filled {
    /// There may be more.
    More,
    /// Nothing more is there now; for a fixed end, all of it has been read.
    End,
    /// A gzip file ends before its stream does: it is still being written, or was cut.
    Incomplete,
    /// A gzip file is damaged.
    Corrupt,
    /// The file could not be read.
    Failed(io::Error),
}

/// Reads a file forward from an offset of its content.
pub(super) struct Reader<F> {
    /// File that is read.
    pub file: FileKey,
    /// What its blocks are for.
    pub purpose: Purpose,
    handle: Rc<F>,
    cutter: BlockCutter,
    gzip: Option<Gzip>,
    positioned: bool,
    line_bytes_max: usize,
}

struct Gzip {
    decoder: GzipReader,
    input: Vec<u8>,
    used: usize,
    offset: u64,
    /// Content bytes to be thrown away before the wanted ones.
    skip: u64,
    state: State,
}

impl<F: 'static> Reader<F> {
    /// A reader that starts at offset `start` of the content.
    pub(super) fn new(
        file: FileKey,
        handle: Rc<F>,
        start: u64,
        purpose: Purpose,
        compressed: bool,
        line_bytes_max: usize,
    ) -> Self {
        let gzip = compressed.then(|| Gzip {
            decoder: GzipReader::new(),
            input: Vec::new(),
            used: 0,
            offset: 0,
            skip: start,
            state: State::NeedsInput,
        });
        let mut reader = Self {
            file,
            purpose,
            handle,
            cutter: BlockCutter::new(start, false, line_bytes_max),
            gzip,
            positioned: false,
            line_bytes_max,
        };
        reader.set_position(start, false);
        reader.positioned = start == 0;
        reader
    }

    fn set_position(&mut self, start: u64, mid_line: bool) {
        let lines_bytes_max = self.part_bytes().unwrap_or(usize::MAX);
        self.cutter = BlockCutter::new(start, mid_line, self.line_bytes_max).with_lines_of(lines_bytes_max);
        self.positioned = true;
    }

    /// The open file.
    pub(super) fn handle(&self) -> Rc<F> {
        self.handle.clone()
    }

    /// Offset up to which the content has been cut into blocks.
    pub(super) fn start(&self) -> u64 {
        self.cutter.start()
    }

    /// Offset up to which the content has been read.
    pub(super) fn end(&self) -> u64 {
        self.cutter.end()
    }

    /// Whether what has been cut off ends inside a line, or without its newline.
    pub(super) fn is_mid_line(&self) -> bool {
        self.cutter.is_mid_line()
    }

    /// Takes a pooled buffer to read into, unless there is one; gives back the one it had instead.
    pub(super) fn lend(&mut self, mut buffer: Vec<u8>) -> Vec<u8> {
        if self.cutter.bytes.capacity() >= BLOCK_BYTES {
            return buffer;
        }
        buffer.clear();
        buffer.extend_from_slice(&self.cutter.bytes);
        std::mem::replace(&mut self.cutter.bytes, buffer)
    }

    /// Gives the pooled buffer back while the reader waits for more; a remainder is kept aside.
    pub(super) fn give_back(&mut self) -> Option<Vec<u8>> {
        if self.cutter.bytes.capacity() < BLOCK_BYTES {
            return None;
        }
        let remainder = self.cutter.bytes.as_slice().into();
        Some(std::mem::replace(&mut self.cutter.bytes, remainder))
    }

    /// Cuts the next block off what has been read; see [`BlockCutter::cut`].
    pub(super) fn cut(&mut self, finish: bool, spare: impl FnOnce() -> Vec<u8>) -> Option<Block> {
        // A range that was decided ends where it ended then, be it inside a line.
        let finish = finish || self.fixed_end().is_some_and(|end| self.cutter.end() >= end);
        self.cutter.cut(finish, spare)
    }

    /// Reads until a block's worth of bytes is there, a line longer than a block has grown by one, or nothing is left.
    pub(super) async fn fill<D: Disk<File = F>>(&mut self, disk: &D) -> Filled {
        if let Err(ended) = self.position(disk).await {
            return ended;
        }
        let target = match self.part_bytes() {
            Some(bytes) if self.cutter.bytes.len() < bytes => bytes,
            Some(bytes) => self.cutter.bytes.len() + bytes.max(PART_STEP_BYTES),
            None => (self.cutter.bytes.len() + BLOCK_BYTES / 2).max(BLOCK_BYTES),
        };
        loop {
            let left = self.fixed_end().map_or(u64::MAX, |end| end.saturating_sub(self.cutter.end()));
            if left == 0 {
                return Filled::End;
            }
            let wanted = target.saturating_sub(self.cutter.bytes.len()).min(self.cutter.room());
            if wanted == 0 {
                return Filled::More;
            }
            let wanted = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
            match self.read(disk, wanted).await {
                Filled::More => {}
                ended => return ended,
            }
        }
    }

    fn fixed_end(&self) -> Option<u64> {
        match self.purpose {
            Purpose::Next => None,
            Purpose::Again { span, .. } => Some(span.end),
        }
    }

    /// Parts of a split chunk may have to be smaller than a block.
    fn part_bytes(&self) -> Option<usize> {
        match self.purpose {
            Purpose::Again { part_bytes: Some(bytes), .. } => {
                Some(usize::try_from(bytes).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES))
            }
            _ => None,
        }
    }

    /// Learns whether the first wanted byte is inside a line: it is, unless the byte before it is a newline.
    async fn position<D: Disk<File = F>>(&mut self, disk: &D) -> Result<(), Filled> {
        let start = self.cutter.start();
        let mut last = None;
        while !self.positioned {
            let before = match &mut self.gzip {
                None => {
                    let (byte, read) = disk.read_at(&self.handle, start - 1, 1, Vec::with_capacity(1)).await;
                    read.map_err(Filled::Failed)?;
                    Some(byte.first().copied().ok_or(Filled::End)?)
                }
                Some(gzip) => {
                    let mut discarded = Vec::with_capacity(GZIP_INPUT_BYTES);
                    let skip = usize::try_from(gzip.skip).unwrap_or(usize::MAX).min(GZIP_INPUT_BYTES);
                    let state = gzip.read(disk, &self.handle, skip, &mut discarded).await;
                    gzip.skip -= discarded.len() as u64;
                    last = discarded.last().copied().or(last);
                    if gzip.skip > 0 && !matches!(state, Filled::More) {
                        return Err(state);
                    }
                    (gzip.skip == 0).then_some(last).flatten()
                }
            };
            if let Some(before) = before {
                self.set_position(start, before != b'\n');
            }
        }
        Ok(())
    }

    async fn read<D: Disk<File = F>>(&mut self, disk: &D, wanted: usize) -> Filled {
        if let Some(gzip) = &mut self.gzip {
            return gzip.read(disk, &self.handle, wanted, &mut self.cutter.bytes).await;
        }
        let offset = self.cutter.end();
        let bytes = std::mem::take(&mut self.cutter.bytes);
        let (bytes, read) = disk.read_at(&self.handle, offset, wanted, bytes).await;
        self.cutter.bytes = bytes;
        match read {
            Ok(0) => Filled::End,
            Ok(_) => Filled::More,
            Err(error) => Filled::Failed(error),
        }
    }
}

impl Gzip {
    /// Appends at most `wanted` bytes of content to `out`.
    async fn read<D: Disk>(&mut self, disk: &D, handle: &D::File, wanted: usize, out: &mut Vec<u8>) -> Filled {
        if self.used == self.input.len() && self.state != State::OutputFull {
            self.input.clear();
            self.used = 0;
            let input = std::mem::take(&mut self.input);
            let (input, read) = disk.read_at(handle, self.offset, GZIP_INPUT_BYTES, input).await;
            self.input = input;
            match read {
                Ok(0) if self.state == State::Complete => return Filled::End,
                Ok(0) => return Filled::Incomplete,
                Ok(read) => self.offset += read as u64,
                Err(error) => return Filled::Failed(error),
            }
        }
        match self.decoder.push(&self.input[self.used..], out, wanted) {
            Ok(progress) => {
                self.used += progress.consumed;
                self.state = progress.state;
                Filled::More
            }
            Err(_) => Filled::Corrupt,
        }
    }
}
