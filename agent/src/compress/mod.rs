//! Compresses content into segments, and segments into the body of one chunk.
//!
//! Segments are independent of each other, so that workers make them in parallel, and end at a byte, so that a body
//! is their concatenation. They live in pages of the body pool. How the encodings do this is told in [`gzip`] and
//! [`zstd`].

pub mod gzip;
pub mod inflate;
pub mod zstd;

use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::limits::PAGE_BYTES;
use crate::manifest::Encoding;
use crate::pool::{Page, Reservation};

/// Why nothing can be compressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// A level the encoding does not have.
    #[error("{} has levels {} to {}, not {level}", .encoding.as_str(), level_range(*.encoding).start(), level_range(*.encoding).end())]
    Level {
        /// The encoding.
        encoding: Encoding,
        /// The level asked for.
        level: u32,
    },
    /// The compressor cannot be set up or broke down, for which there is no reason besides lack of memory.
    #[error("compressor failed: {0}")]
    Codec(String),
}

/// Levels of an encoding, fastest first.
pub fn level_range(encoding: Encoding) -> RangeInclusive<u32> {
    match encoding {
        Encoding::Gzip => 1..=9,
        Encoding::Zstd => 1..=19,
    }
}

/// Pages that a segment of `content_bytes` bytes needs at most, whatever the content and the encoding.
pub fn worst_case_pages(content_bytes: usize) -> usize {
    // Deflate at level 1 codes literals with up to nine bits; zstd adds one byte in 256 at most.
    let body_bytes = content_bytes + content_bytes.div_ceil(8) + 256;
    body_bytes.div_ceil(PAGE_BYTES)
}

/// Compressed content: a part of a body.
#[derive(Debug)]
pub struct Segment {
    /// The compressed bytes; every page but the last is full.
    pages: Vec<Page>,
    /// CRC-32 and length of the content.
    crc32: crc32fast::Hasher,
}

impl Segment {
    /// Bytes before compression.
    pub fn content_bytes(&self) -> u64 {
        self.crc32.total_len()
    }

    /// Bytes after compression.
    pub fn body_bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.len() as u64).sum()
    }
}

/// Makes segments; one for each worker, since it keeps the compressor's state from one segment to the next.
pub struct Compressor(Codec);

enum Codec {
    Gzip(gzip::Deflater),
    Zstd(zstd::Encoder),
}

impl Compressor {
    /// A compressor for `encoding` at a `level` within [`level_range`].
    pub fn new(encoding: Encoding, level: u32) -> Result<Self, CompressError> {
        if !level_range(encoding).contains(&level) {
            return Err(CompressError::Level { encoding, level });
        }
        Ok(Self(match encoding {
            Encoding::Gzip => Codec::Gzip(gzip::Deflater::new(level)),
            Encoding::Zstd => Codec::Zstd(zstd::Encoder::new(level)?),
        }))
    }

    /// Compresses `content` into pages of the reservation, of which it needs at most [`worst_case_pages`].
    pub fn segment(&mut self, content: &[u8], reservation: &mut Reservation) -> Result<Segment, CompressError> {
        let mut pages = PageWriter { reservation, pages: Vec::new() };
        match &mut self.0 {
            Codec::Gzip(deflater) => deflater.compress(content, &mut pages)?,
            Codec::Zstd(encoder) => encoder.compress(content, &mut pages)?,
        }
        let mut crc32 = crc32fast::Hasher::new();
        crc32.update(content);
        Ok(Segment { pages: pages.pages, crc32 })
    }
}

/// Hands out the spare part of the last page, and a new page when it is full.
struct PageWriter<'a> {
    reservation: &'a mut Reservation,
    pages: Vec<Page>,
}

impl PageWriter<'_> {
    /// Lets `write` fill spare room, of which there always is some, and returns what else it says. `write` returns
    /// the number of bytes it wrote first.
    fn fill<T, E>(&mut self, write: impl FnOnce(&mut [u8]) -> Result<(usize, T), E>) -> Result<T, E> {
        let mut page = match self.pages.pop_if(|page| page.spare() > 0) {
            Some(page) => page,
            None => self.reservation.take(),
        };
        let result = write(page.spare_mut()).map(|(written, rest)| {
            page.advance(written);
            rest
        });
        if !page.is_empty() {
            self.pages.push(page);
        }
        result
    }
}

/// Puts the body of one chunk together from its segments, in their order.
///
/// A segment's page is packed into the last page of the body where it fits, so that the many small segments of a
/// quiet log do not hold a page each.
#[derive(Debug)]
pub struct BodyBuilder {
    encoding: Encoding,
    pages: Vec<Page>,
    crc32: crc32fast::Hasher,
    body_bytes: u64,
}

impl BodyBuilder {
    /// An empty body.
    pub fn new(encoding: Encoding) -> Self {
        let framing = match encoding {
            Encoding::Gzip => gzip::HEADER.len() + gzip::TRAILER_BYTES,
            Encoding::Zstd => 0,
        };
        Self { encoding, pages: Vec::new(), crc32: crc32fast::Hasher::new(), body_bytes: framing as u64 }
    }

    /// Appends a segment.
    pub fn push(&mut self, segment: Segment) {
        self.body_bytes += segment.body_bytes();
        self.crc32.combine(&segment.crc32);
        for page in segment.pages {
            match self.pages.last_mut() {
                Some(last) if last.spare() >= page.len() => {
                    last.push(&page);
                }
                _ => self.pages.push(page),
            }
        }
    }

    /// Bytes the body has before compression.
    pub fn content_bytes(&self) -> u64 {
        self.crc32.total_len()
    }

    /// Bytes the finished body has.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Pages the body holds.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// The whole body in pieces. The pages go back to their pool when the last clones of the pieces are dropped.
    pub fn finish(self) -> Vec<Bytes> {
        let mut body: Vec<Bytes> = Vec::with_capacity(self.pages.len() + 2);
        let pages = self.pages.into_iter().map(Page::freeze);
        match self.encoding {
            Encoding::Gzip => {
                body.push(Bytes::from_static(&gzip::HEADER));
                body.extend(pages);
                body.push(Bytes::copy_from_slice(&gzip::trailer(self.crc32)));
            }
            Encoding::Zstd => body.extend(pages),
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::limits::BLOCK_BYTES;
    use crate::pool::PagePool;

    fn random(bytes: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(7);
        std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect()
    }

    /// Decodes a body as a receiver does that knows nothing of segments: one member for gzip.
    fn decode(encoding: Encoding, body: &[Bytes]) -> Vec<u8> {
        let body = body.concat();
        match encoding {
            Encoding::Gzip => {
                let mut content = Vec::new();
                let mut member = flate2::bufread::GzDecoder::new(&body[..]);
                member.read_to_end(&mut content).unwrap();
                assert!(member.into_inner().is_empty(), "bytes behind the first member");
                content
            }
            Encoding::Zstd => ::zstd::stream::decode_all(&body[..]).unwrap(),
        }
    }

    /// Compresses `contents` as one chunk and checks that the body decodes to them and returns its pages.
    fn check(encoding: Encoding, level: u32, contents: &[Vec<u8>]) {
        let pool = PagePool::new(contents.iter().map(|content| worst_case_pages(content.len())).sum());
        let mut compressor = Compressor::new(encoding, level).unwrap();
        let mut builder = BodyBuilder::new(encoding);
        for content in contents {
            let mut pages = pool.reserve(worst_case_pages(content.len())).unwrap();
            let segment = compressor.segment(content, &mut pages).unwrap();
            assert_eq!(segment.content_bytes(), content.len() as u64);
            builder.push(segment);
        }
        let (content_bytes, body_bytes) = (builder.content_bytes(), builder.body_bytes());
        let body = builder.finish();
        assert_eq!(body.iter().map(|piece| piece.len() as u64).sum::<u64>(), body_bytes);
        assert_eq!(content_bytes, contents.iter().map(|content| content.len() as u64).sum::<u64>());
        assert!(decode(encoding, &body) == contents.concat(), "{encoding:?} at level {level}");
        assert_eq!(pool.overflow_count(), 0, "{encoding:?} at level {level} needs more pages than reserved");
        drop(body);
        assert_eq!(pool.available(), pool.capacity());
    }

    // Fails if a segment can outgrow its reservation: then the memory limit is none.
    #[test]
    fn content_that_cannot_be_compressed_fits_its_reservation() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            for level in level_range(encoding).step_by(2) {
                for bytes in [1, PAGE_BYTES - 257, BLOCK_BYTES - 257, BLOCK_BYTES] {
                    check(encoding, level, &[random(bytes)]);
                }
            }
        }
    }

    // Fails if literals that fixed codes write with nine bits are not allowed for.
    #[test]
    fn content_of_long_codes_fits_its_reservation() {
        let high: Vec<u8> = random(BLOCK_BYTES - 257).iter().map(|byte| 144 + byte % 112).collect();
        (1..=9).for_each(|level| check(Encoding::Gzip, level, std::slice::from_ref(&high)));
    }

    // Fails if a body without content is not a valid stream.
    #[test]
    fn an_empty_gzip_body_is_a_member() {
        assert_eq!(decode(Encoding::Gzip, &BodyBuilder::new(Encoding::Gzip).finish()), b"");
    }

    // Fails if small segments hold a page each until their chunk is delivered.
    #[test]
    fn small_segments_share_pages() {
        let pool = PagePool::new(8);
        let mut compressor = Compressor::new(Encoding::Gzip, 6).unwrap();
        let mut builder = BodyBuilder::new(Encoding::Gzip);
        for _ in 0..100 {
            builder.push(compressor.segment(&random(100), &mut pool.reserve(1).unwrap()).unwrap());
        }
        assert_eq!((builder.pages(), pool.available()), (1, 7));
        assert_eq!(decode(Encoding::Gzip, &builder.finish()).len(), 10_000);
    }

    // Fails if a level is accepted that the encoding does not have.
    #[test]
    fn levels_are_checked() {
        for (encoding, level) in [(Encoding::Gzip, 0), (Encoding::Gzip, 10), (Encoding::Zstd, 0), (Encoding::Zstd, 20)]
        {
            assert_eq!(Compressor::new(encoding, level).err(), Some(CompressError::Level { encoding, level }));
        }
        let error = CompressError::Level { encoding: Encoding::Zstd, level: 22 };
        assert_eq!(error.to_string(), "zstd has levels 1 to 19, not 22");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        // Fails if segments depend on each other, or do not end at a byte, or their CRCs are combined wrongly.
        #[test]
        fn segments_of_any_size_make_one_body(
            sizes in proptest::collection::vec((0..3 * PAGE_BYTES, any::<bool>()), 1..6),
            level in 1..=9u32,
            gzip: bool,
        ) {
            let contents: Vec<Vec<u8>> = sizes
                .into_iter()
                .map(|(bytes, noise)| if noise { random(bytes) } else { b"{\"kind\":\"Event\"}\n".iter().copied().cycle().take(bytes).collect() })
                .collect();
            check(if gzip { Encoding::Gzip } else { Encoding::Zstd }, level, &contents);
        }
    }
}
