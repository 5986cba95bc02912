//! Zstandard (RFC 8878): every segment is a frame of its own with its content size and a checksum; a body is their
//! concatenation, which decoders read as one stream.

use zstd::stream::raw::{self, CParameter, InBuffer, Operation, OutBuffer};

use super::{CompressError, PageWriter};

/// Binary logarithm of the window in bytes. It covers a block; larger ones would cost every worker, and every
/// receiver, up to 8 MiB at the higher levels.
const WINDOW_LOG: u32 = 19;

/// A frame compressor that keeps its tables from one segment to the next.
pub(super) struct Encoder(raw::Encoder<'static>);

impl Encoder {
    pub(super) fn new(level: u32) -> Result<Self, CompressError> {
        let level = i32::try_from(level).map_err(codec)?;
        let mut encoder = raw::Encoder::new(level).map_err(codec)?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG)).map_err(codec)?;
        encoder.set_parameter(CParameter::ChecksumFlag(true)).map_err(codec)?;
        Ok(Self(encoder))
    }

    pub(super) fn compress(&mut self, content: &[u8], pages: &mut PageWriter<'_>) -> Result<(), CompressError> {
        self.0.set_pledged_src_size(Some(content.len() as u64)).map_err(codec)?;
        let mut input = InBuffer::around(content);
        while input.pos() < content.len() {
            pages.fill(|room| {
                let mut output = OutBuffer::around(room);
                self.0.run(&mut input, &mut output).map_err(codec)?;
                Ok((output.pos(), ()))
            })?;
        }
        loop {
            let left = pages.fill(|room| {
                let mut output = OutBuffer::around(room);
                let left = self.0.finish(&mut output, true).map_err(codec)?;
                Ok((output.pos(), left))
            })?;
            if left == 0 {
                return Ok(());
            }
        }
    }
}

fn codec(error: impl std::fmt::Display) -> CompressError {
    CompressError::Codec(error.to_string())
}
