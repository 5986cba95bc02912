//! One gzip member (RFC 1952) from independently deflated segments.
//!
//! A segment is raw deflate (RFC 1951) that ends with a sync flush: an empty stored block, which ends at a byte and
//! is not the last block. Between a header and an empty last block any number of segments is one deflate stream.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::{CompressError, PageWriter};

/// Header of a member: deflate, no flags, no time, unknown operating system.
pub const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The last block of every member: fixed codes, end of block at once.
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

/// Bytes of [`trailer`].
pub const TRAILER_BYTES: usize = LAST_BLOCK.len() + 8;

/// What ends a member: an empty last block, then CRC-32 and length of the content modulo 2^32.
pub fn trailer(crc32: crc32fast::Hasher) -> [u8; TRAILER_BYTES] {
    let length = crc32.total_len() as u32;
    let mut trailer = [0; TRAILER_BYTES];
    trailer[..2].copy_from_slice(&LAST_BLOCK);
    trailer[2..6].copy_from_slice(&crc32.finalize().to_le_bytes());
    trailer[6..].copy_from_slice(&length.to_le_bytes());
    trailer
}

/// A raw deflate compressor, reset for every segment.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new(level: u32) -> Self {
        Self(Compress::new(Compression::new(level), false))
    }

    pub(super) fn compress(&mut self, content: &[u8], pages: &mut PageWriter<'_>) -> Result<(), CompressError> {
        self.0.reset();
        loop {
            let rest = &content[self.0.total_in() as usize..];
            let is_flushed = pages.fill(|room| {
                let before = self.0.total_out();
                let status = self.0.compress(rest, room, FlushCompress::Sync).map_err(codec)?;
                let written = (self.0.total_out() - before) as usize;
                // Room left means that all is flushed. When the flush ended with the room, the next call has
                // nothing to do and says so with a buffer error.
                Ok((written, written < room.len() || status == Status::BufError))
            })?;
            if is_flushed {
                return Ok(());
            }
        }
    }
}

fn codec(error: flate2::CompressError) -> CompressError {
    CompressError::Codec(error.to_string())
}
