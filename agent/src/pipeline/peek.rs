//! Looking into files without reading them through: how they begin, whether they are what they were.

use std::io;

use crate::compress::inflate::{GzipReader, State};
use crate::disk::Disk;
use crate::limits::FINGERPRINT_BYTES_MAX;
use crate::types::Fingerprint;

/// Compressed bytes that hold the first [`FINGERPRINT_BYTES_MAX`] bytes of content, however badly they compress.
const GZIP_PREFIX_BYTES: usize = 64 * 1024;

/// How the content of a file begins.
pub(super) struct Prefix {
    /// At most [`FINGERPRINT_BYTES_MAX`] bytes.
    pub bytes: Vec<u8>,
    /// They are the whole content.
    pub all: bool,
}

impl Prefix {
    /// Whether the bytes identify the file for good: they hold its first line, or as much as a fingerprint covers.
    pub(super) fn is_final(&self) -> bool {
        self.bytes.contains(&b'\n') || self.bytes.len() >= FINGERPRINT_BYTES_MAX
    }
}

/// Reads `max` bytes at `offset`, fewer only where the file ends.
pub(super) async fn bytes_at<D: Disk>(disk: &D, handle: &D::File, offset: u64, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(max);
    while bytes.len() < max {
        let (grown, read) = disk.read_at(handle, offset + bytes.len() as u64, max - bytes.len(), bytes).await;
        bytes = grown;
        if read? == 0 {
            break;
        }
    }
    Ok(bytes)
}

/// How the content of a file begins; of a gzip file that ends early or is damaged, what could be decoded of it.
pub(super) async fn prefix<D: Disk>(disk: &D, handle: &D::File, compressed: bool) -> io::Result<Prefix> {
    let max = if compressed { GZIP_PREFIX_BYTES } else { FINGERPRINT_BYTES_MAX };
    let bytes = bytes_at(disk, handle, 0, max).await?;
    let all = bytes.len() < max;
    if !compressed {
        return Ok(Prefix { bytes, all });
    }
    let mut content = Vec::new();
    // One push fills the prefix or uses the input up.
    let pushed = GzipReader::new().push(&bytes, &mut content, FINGERPRINT_BYTES_MAX);
    let complete = pushed.is_ok_and(|progress| progress.state == State::Complete);
    Ok(Prefix { bytes: content, all: all && complete })
}

/// What the trailer of a gzip file of `len` bytes says about the length of its content, modulo 2^32 (RFC 1952, ISIZE).
pub(super) async fn gzip_content_len<D: Disk>(disk: &D, handle: &D::File, len: u64) -> Option<u32> {
    let trailer = bytes_at(disk, handle, len.checked_sub(4)?, 4).await.ok()?;
    trailer.try_into().ok().map(u32::from_le_bytes)
}

/// What has to be in a file that has been read up to some offset, unless it was emptied or replaced since.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    /// How it begins.
    pub fingerprint: Fingerprint,
    /// Where the last line that was read ends: there is a newline before this offset. After copytruncate there may be
    /// a hole instead, whose bytes look the same from one time to the next at the beginning of the file.
    pub line_end: Option<u64>,
}

impl Expected {
    /// Whether the file still holds it. What cannot be read now is not held against it.
    pub(super) async fn is_in<D: Disk>(self, disk: &D, handle: &D::File) -> bool {
        let begins = match prefix(disk, handle, false).await {
            Ok(prefix) => self.fingerprint.matches(&prefix.bytes),
            Err(_) => true,
        };
        begins && self.has_line_end(disk, handle).await
    }

    /// Whether there still is a newline where there was one.
    pub(super) async fn has_line_end<D: Disk>(self, disk: &D, handle: &D::File) -> bool {
        let Some(before) = self.line_end.and_then(|end| end.checked_sub(1)) else { return true };
        // Beyond the end of the file: it has become shorter, which shows in its length.
        bytes_at(disk, handle, before, 1).await.map_or(true, |byte| byte.is_empty() || byte == b"\n")
    }
}
