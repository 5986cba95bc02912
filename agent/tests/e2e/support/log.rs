//! The log that is written, and a record of what was written to it.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use auditail_bench::generate::Generator;
use auditail_bench::writer::{LogWriter, Options, Rotation};

/// A log, its writer, and everything written so far.
pub struct Log {
    writer: LogWriter,
    generator: Generator,
    /// Every byte written, in order.
    pub content: Vec<u8>,
}

impl Log {
    /// A log at `path` that makes room as `rotation` says whenever it has `bytes_max` bytes.
    pub fn open(path: &Path, rotation: Rotation, bytes_max: u64) -> Self {
        let options = Options { path: path.to_owned(), bytes_max, backups_max: 0, rotation };
        let generator = Generator::new(7).with_large_bytes_max(0);
        Self { writer: LogWriter::open(options).unwrap(), generator, content: Vec::new() }
    }

    /// A log that only rotates when told to.
    pub fn unbounded(path: &Path, rotation: Rotation) -> Self {
        Self::open(path, rotation, u64::MAX / 2)
    }

    /// Serial numbers from another start, for several logs of one archive.
    pub fn numbered_from(mut self, serial: u64) -> Self {
        self.generator = self.generator.starting_at(serial);
        self
    }

    /// Writes so many events.
    pub fn write(&mut self, count: usize) {
        for _ in 0..count {
            let line = self.line();
            self.write_line(&line);
        }
    }

    /// The next event, not yet written.
    pub fn line(&mut self) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut line = Vec::new();
        self.generator.next_line(now.as_micros() as u64, &mut line);
        line
    }

    /// Writes one whole line.
    pub fn write_line(&mut self, line: &[u8]) {
        assert!(self.writer.write_line(line).unwrap());
        self.content.extend_from_slice(line);
    }

    /// Writes a piece of a line.
    pub fn write_partial(&mut self, part: &[u8]) {
        self.writer.write_partial(part).unwrap();
        self.content.extend_from_slice(part);
    }

    /// Whole events written.
    pub fn events(&self) -> u64 {
        self.writer.tally().lines
    }

    /// Serial numbers of the events written, in order.
    pub fn serials(&self) -> &[u64] {
        &self.writer.tally().serials
    }
}

impl Deref for Log {
    type Target = LogWriter;

    fn deref(&self) -> &LogWriter {
        &self.writer
    }
}

impl DerefMut for Log {
    fn deref_mut(&mut self) -> &mut LogWriter {
        &mut self.writer
    }
}
