//! What a chunk's body really holds, measured while it is decompressed in constant memory. Pure: it reads what it is
//! given and knows neither file nor socket.

use std::io::{self, BufRead, Read};

use serde::Serialize;

use crate::manifest::{Encoding, Kind, Manifest};
use crate::types::Digest;

/// How a record that wraps malformed bytes begins. A line of the log may begin so too: it is then an event.
const MALFORMED_PREFIX: &[u8] = br#"{"kind":"MalformedLine","apiVersion":"auditail/v1","#;
/// Bytes decompressed at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// What a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyFacts {
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// Decompressed bytes.
    pub content_bytes: u64,
    /// Newlines.
    pub lines: u64,
    /// Lines that begin as a record of malformed bytes does.
    pub records: u64,
    /// Whether the content is empty or ends with a newline.
    pub terminated: bool,
}

/// Why a body could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The body is not what its encoding says it is.
    #[error("not one complete {encoding} body: {problem}", encoding = .0.as_str(), problem = .1)]
    Corrupt(Encoding, String),
    /// There is more content than was stated; the rest was not looked at.
    #[error("more than the stated {0} bytes of content")]
    TooLong(u64),
    /// Reading the body, or handing its content on, failed.
    #[error(transparent)]
    Io(io::Error),
}

/// A stated fact the body does not bear out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    /// The content is another one.
    #[error("digest: the manifest says {stated}, the content has {found}")]
    Digest {
        /// In the manifest.
        stated: Digest,
        /// Computed.
        found: Digest,
    },
    /// The content is shorter or longer.
    #[error("content bytes: the manifest says {stated}, the body has {found}")]
    ContentBytes {
        /// In the manifest.
        stated: u64,
        /// Counted.
        found: u64,
    },
    /// Events and malformed records together are not the lines there are; a loss chunk has one line and neither.
    #[error("lines: the manifest says {stated}, the body has {found}")]
    Lines {
        /// Lines that follow from the manifest.
        stated: u64,
        /// Counted.
        found: u64,
    },
    /// Fewer lines are records of malformed bytes than stated.
    #[error("malformed records: the manifest says {stated}, the body has at most {found}")]
    Malformed {
        /// In the manifest.
        stated: u64,
        /// Lines that look like one.
        found: u64,
    },
    /// The last line has no newline.
    #[error("the last line does not end with a newline")]
    Unterminated,
}

impl BodyFacts {
    /// The first of the manifest's statements that the body does not bear out.
    pub fn check(&self, manifest: &Manifest) -> Result<(), Mismatch> {
        if self.content_bytes != manifest.content_bytes {
            return Err(Mismatch::ContentBytes { stated: manifest.content_bytes, found: self.content_bytes });
        }
        if self.digest != manifest.digest {
            return Err(Mismatch::Digest { stated: manifest.digest, found: self.digest });
        }
        if !self.terminated {
            return Err(Mismatch::Unterminated);
        }
        let counted = manifest.events.saturating_add(manifest.malformed);
        let stated = match manifest.kind {
            Kind::Lines => counted,
            Kind::Loss => counted.saturating_add(1),
        };
        if self.lines != stated {
            return Err(Mismatch::Lines { stated, found: self.lines });
        }
        if self.records < manifest.malformed {
            return Err(Mismatch::Malformed { stated: manifest.malformed, found: self.records });
        }
        Ok(())
    }
}

/// Decompresses a body, hands its content to `sink` piece by piece, and measures it.
///
/// A gzip body is exactly one member; a zstd body is any number of frames. `content_bytes_max` stops a body that
/// expands beyond what was stated.
///
/// # Errors
/// See [`BodyError`]. What was handed to `sink` before is not taken back.
pub fn inspect<R: BufRead>(
    body: R,
    encoding: Encoding,
    content_bytes_max: u64,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<BodyFacts, BodyError> {
    let corrupt = |error: io::Error| classify(encoding, error);
    let mut meter = Meter::default();
    match encoding {
        Encoding::Gzip => {
            let mut decoder = flate2::bufread::GzDecoder::new(body);
            meter.drain(&mut decoder, content_bytes_max, &mut sink, corrupt)?;
            if !decoder.into_inner().fill_buf().map_err(BodyError::Io)?.is_empty() {
                return Err(BodyError::Corrupt(encoding, "something follows the first member".into()));
            }
        }
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(BodyError::Io)?;
            meter.drain(&mut decoder, content_bytes_max, &mut sink, corrupt)?;
        }
    }
    Ok(meter.finish())
}

/// Only the operating system's errors have a number; the decoders' own say what is wrong with the data.
fn classify(encoding: Encoding, error: io::Error) -> BodyError {
    match error.raw_os_error() {
        Some(_) => BodyError::Io(error),
        None => BodyError::Corrupt(encoding, error.to_string()),
    }
}

/// Counts content as it passes.
struct Meter {
    hasher: blake3::Hasher,
    content_bytes: u64,
    lines: u64,
    records: u64,
    /// Bytes of the current line that agree with [`MALFORMED_PREFIX`]; `None` once one does not.
    matched: Option<usize>,
    terminated: bool,
}

impl Default for Meter {
    fn default() -> Self {
        let hasher = blake3::Hasher::new();
        Self { hasher, content_bytes: 0, lines: 0, records: 0, matched: Some(0), terminated: true }
    }
}

impl Meter {
    fn drain(
        &mut self,
        decoder: &mut impl Read,
        content_bytes_max: u64,
        sink: &mut impl FnMut(&[u8]) -> io::Result<()>,
        corrupt: impl Fn(io::Error) -> BodyError,
    ) -> Result<(), BodyError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let piece = match decoder.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => &buffer[..read],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(corrupt(error)),
            };
            self.take(piece);
            if self.content_bytes > content_bytes_max {
                return Err(BodyError::TooLong(content_bytes_max));
            }
            sink(piece).map_err(BodyError::Io)?;
        }
    }

    fn take(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.content_bytes += piece.len() as u64;
        let mut start = 0;
        for newline in memchr::memchr_iter(b'\n', piece) {
            self.continue_line(&piece[start..newline]);
            self.lines += 1;
            self.records += u64::from(self.matched == Some(MALFORMED_PREFIX.len()));
            self.matched = Some(0);
            start = newline + 1;
        }
        self.continue_line(&piece[start..]);
        self.terminated = piece.last().map_or(self.terminated, |last| *last == b'\n');
    }

    fn continue_line(&mut self, part: &[u8]) {
        if let Some(matched) = self.matched {
            let wanted = &MALFORMED_PREFIX[matched..];
            let len = wanted.len().min(part.len());
            self.matched = (part[..len] == wanted[..len]).then_some(matched + len);
        }
    }

    fn finish(self) -> BodyFacts {
        BodyFacts {
            digest: Digest(*self.hasher.finalize().as_bytes()),
            content_bytes: self.content_bytes,
            lines: self.lines,
            records: self.records,
            terminated: self.terminated,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn facts(body: &[u8], encoding: Encoding) -> Result<BodyFacts, BodyError> {
        inspect(body, encoding, u64::MAX, |_| Ok(()))
    }

    // Fails if a second member, trailing bytes or a cut member are tolerated: other receivers read only the first.
    #[test]
    fn a_gzip_body_is_exactly_one_member() {
        let one = gzip(b"{}\n");
        assert!(facts(&one, Encoding::Gzip).is_ok());
        for bad in [[one.clone(), gzip(b"{}\n")].concat(), [&one[..], b"\0"].concat(), one[..one.len() - 1].to_vec()] {
            assert!(matches!(facts(&bad, Encoding::Gzip), Err(BodyError::Corrupt(..))));
        }
    }

    // Fails if only the first frame of a zstd body is read, or a cut frame passes.
    #[test]
    fn a_zstd_body_is_any_number_of_frames() {
        let frame = zstd::bulk::compress(b"{}\n", 1).unwrap();
        assert_eq!(facts(&[&frame[..], &frame].concat(), Encoding::Zstd).unwrap().lines, 2);
        assert!(matches!(facts(&frame[..frame.len() - 1], Encoding::Zstd), Err(BodyError::Corrupt(..))));
        assert!(matches!(facts(b"no zstd at all", Encoding::Zstd), Err(BodyError::Corrupt(..))));
    }

    // Fails if a body may expand beyond what was stated.
    #[test]
    fn expansion_is_bounded() {
        let bomb = gzip(&vec![b'\n'; 10 << 20]);
        let mut seen = 0;
        let result = inspect(&bomb[..], Encoding::Gzip, 1000, |piece| {
            seen += piece.len();
            Ok(())
        });
        assert!(matches!(result, Err(BodyError::TooLong(1000))));
        assert!(seen <= 1000);
    }

    proptest! {
        // Fails if lines or records are counted differently when the content arrives in other pieces.
        #[test]
        fn counts_do_not_depend_on_the_pieces(
            kinds in proptest::collection::vec(0..4u8, 0..20), cuts in proptest::collection::vec(1..40usize, 1..20),
        ) {
            let mut content = Vec::new();
            for kind in &kinds {
                match kind {
                    0 => content.extend_from_slice(&[MALFORMED_PREFIX, b"\"reason\":\"nul\"}\n"].concat()),
                    1 => content.extend_from_slice(b"{\"kind\":\"Malf\n"),
                    2 => content.push(b'\n'),
                    _ => content.extend_from_slice(b"{\"kind\":\"Event\"}\n"),
                }
            }
            let mut meter = Meter::default();
            let (mut rest, mut cuts) = (&content[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                meter.take(piece);
                rest = after;
            }
            let facts = meter.finish();
            prop_assert_eq!(facts.lines, kinds.len() as u64);
            prop_assert_eq!(facts.records, kinds.iter().filter(|kind| **kind == 0).count() as u64);
            prop_assert_eq!(facts.digest.0, *blake3::hash(&content).as_bytes());
            prop_assert!(facts.terminated);
        }
    }
}
