//! Reads rotated logs that the writer compressed: gzip (RFC 1952), pushed in as it is read.

use flate2::{Decompress, FlushDecompress, Status};

/// Binary logarithm of deflate's largest window.
const WINDOW_BITS: u8 = 15;

/// Bytes decompressed in one step, while the output limit allows it.
const STEP_BYTES: usize = 64 * 1024;

/// Data that is not gzip, or whose checksum or length does not match. A file that just ends early is not corrupt:
/// then the reader stays [`State::NeedsInput`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt gzip data behind {at} compressed bytes")]
pub struct GzipError {
    /// Compressed bytes read before the damage was noticed.
    pub at: u64,
}

/// Where a reader stands when [`GzipReader::push`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All input is consumed and it ended within a member: if there is no more, the file is incomplete.
    NeedsInput,
    /// The output limit was reached; there may be more without further input.
    OutputFull,
    /// All input is consumed and it ended behind a member: if there is no more, the file is complete.
    Complete,
}

/// What one push came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that need not be given again.
    pub consumed: usize,
    /// Where the reader stands.
    pub state: State,
}

/// A gzip reader: any number of members, checksums verified, zero padding behind the last one tolerated.
pub struct GzipReader {
    inflate: Decompress,
    between_members: bool,
    consumed: u64,
}

impl Default for GzipReader {
    fn default() -> Self {
        Self::new()
    }
}

impl GzipReader {
    /// A reader at the start of a file.
    pub fn new() -> Self {
        Self { inflate: Decompress::new_gzip(WINDOW_BITS), between_members: false, consumed: 0 }
    }

    /// Decompresses `input` and appends at most `output_limit` bytes to `output`. What is appended before an error
    /// is as the file has it, but not verified by a checksum.
    pub fn push(&mut self, input: &[u8], output: &mut Vec<u8>, output_limit: usize) -> Result<Progress, GzipError> {
        let output_end = output.len().saturating_add(output_limit);
        let mut consumed = 0;
        loop {
            if self.between_members {
                consumed += self.skip_padding(&input[consumed..]);
                if consumed == input.len() {
                    return Ok(Progress { consumed, state: State::Complete });
                }
                self.inflate = Decompress::new_gzip(WINDOW_BITS);
                self.between_members = false;
            }
            let room = (output_end - output.len()).min(STEP_BYTES);
            if room == 0 {
                return Ok(Progress { consumed, state: State::OutputFull });
            }
            let (used, produced) = self.step(&input[consumed..], output, room)?;
            consumed += used;
            if !self.between_members && produced < room && consumed == input.len() {
                return Ok(Progress { consumed, state: State::NeedsInput });
            }
        }
    }

    /// Skips zero bytes, which a member never starts with.
    fn skip_padding(&mut self, input: &[u8]) -> usize {
        let zeros = input.iter().take_while(|byte| **byte == 0).count();
        self.consumed += zeros as u64;
        zeros
    }

    /// Decompresses into `room` bytes behind `output`; returns bytes used and produced.
    fn step(&mut self, input: &[u8], output: &mut Vec<u8>, room: usize) -> Result<(usize, usize), GzipError> {
        let (filled, total_in, total_out) = (output.len(), self.inflate.total_in(), self.inflate.total_out());
        output.resize(filled + room, 0);
        let result = self.inflate.decompress(input, &mut output[filled..], FlushDecompress::None);
        let used = (self.inflate.total_in() - total_in) as usize;
        let produced = (self.inflate.total_out() - total_out) as usize;
        output.truncate(filled + produced);
        self.consumed += used as u64;
        match result {
            Ok(Status::StreamEnd) => self.between_members = true,
            // Neither end nor progress although there was input and room: nothing would ever change that.
            Ok(_) if used == 0 && produced == 0 && !input.is_empty() => return Err(GzipError { at: self.consumed }),
            Ok(_) => {}
            Err(_) => return Err(GzipError { at: self.consumed }),
        }
        Ok((used, produced))
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
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn text(bytes: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(3);
        std::iter::repeat_with(|| rng.alphanumeric() as u8).take(bytes).collect()
    }

    /// Reads a file in pushes of `step` bytes with at most `limit` bytes out of each.
    fn read(file: &[u8], step: usize, limit: usize) -> Result<(Vec<u8>, State), GzipError> {
        let (mut reader, mut output, mut at) = (GzipReader::new(), Vec::new(), 0);
        loop {
            let before = output.len();
            let input = &file[at..file.len().min(at + step)];
            let Progress { consumed, state } = reader.push(input, &mut output, limit)?;
            assert!(output.len() - before <= limit);
            at += consumed;
            if at == file.len() && state != State::OutputFull {
                return Ok((output, state));
            }
            assert!(consumed > 0 || output.len() > before, "no progress");
        }
    }

    // Fails if members behind the first are dropped, or padding is taken for damage.
    #[test]
    fn members_and_padding_are_read() {
        let file = [gzip(b"one "), gzip(b""), gzip(b"two"), vec![0; 512]].concat();
        for step in [1, 7, 10_000] {
            assert_eq!(read(&file, step, 100), Ok((b"one two".to_vec(), State::Complete)));
        }
    }

    // Fails if a file that the writer has not finished passes for complete, wherever it ends.
    #[test]
    fn an_unfinished_file_is_not_complete() {
        let file = gzip(&text(300));
        for end in 0..file.len() {
            assert_eq!(read(&file[..end], 64, 1000).map(|(_, state)| state), Ok(State::NeedsInput), "{end}");
        }
    }

    // Fails if damage is passed on as data, or trailing garbage is ignored.
    #[test]
    fn damage_is_an_error() {
        let file = gzip(&text(3000));
        for at in [0, 1, 2, file.len() - 8, file.len() - 1] {
            let mut damaged = file.clone();
            damaged[at] ^= 0x55;
            assert!(read(&damaged, 100, 1000).is_err(), "{at}");
        }
        assert!(read(&[&file[..], b"garbage"].concat(), 100, 1000).is_err());
    }

    // Fails if a small file that inflates to much is not bounded by the output limit.
    #[test]
    fn output_is_bounded() {
        let file = gzip(&vec![b'x'; 10 << 20]);
        let mut output = Vec::new();
        let progress = GzipReader::new().push(&file, &mut output, 1000).unwrap();
        assert_eq!((progress.state, output.len()), (State::OutputFull, 1000));
        assert_eq!(
            read(&file, file.len(), 1 << 20).map(|(content, state)| (content.len(), state)),
            Ok((10 << 20, State::Complete))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        // Fails if the result depends on how input and output are cut.
        #[test]
        fn any_cut_gives_the_same(sizes in proptest::collection::vec(0..200_000usize, 1..4), step in 1..5000usize, limit in 1000..100_000usize) {
            let contents: Vec<_> = sizes.into_iter().map(text).collect();
            let file: Vec<u8> = contents.iter().flat_map(|content| gzip(content)).collect();
            let (content, state) = read(&file, step, limit).unwrap();
            prop_assert!(content == contents.concat() && state == State::Complete);
        }

        // Fails if hostile input panics or hangs.
        #[test]
        fn hostile_input_ends(mut file in proptest::collection::vec(any::<u8>(), 0..300), with_header: bool) {
            if with_header {
                file.splice(0..0, super::super::gzip::HEADER);
            }
            if let Ok((_, state)) = read(&file, 50, 1000) {
                prop_assert!(state != State::OutputFull);
            }
        }
    }
}
