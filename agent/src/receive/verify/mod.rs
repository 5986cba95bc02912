//! The offline check of an archive: reads every body once, in constant memory, and leaves judging to [`analysis`].
//! Manifests are held in memory, about 1 KiB a chunk.

pub mod analysis;
pub mod chains;
pub mod coverage;
pub mod report;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;

use self::analysis::{Chunk, LossRecord};
use self::chains::Chains;
use self::report::{Finding, Report, What};
use super::archive::{self, Files};
use super::body::{BodyError, BodyFacts, inspect};
use super::layout::{self, StoredManifest};
use crate::manifest::{Encoding, Kind, Manifest};
use crate::types::{ChunkId, Digest};

/// Bytes of a loss record that are looked at.
const LOSS_RECORD_BYTES_MAX: usize = 64 * 1024;
/// Bytes read from or written to the disk at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// Checks the archive in `directory`. With `extract`, writes what was delivered of every log there: chain by chain
/// (ordered by cluster, node, stream, source), each in its order, without loss records and superseded chunks.
///
/// # Errors
/// The folder cannot be listed, or `extract` cannot be written. Damage to the archive is no error but a finding.
pub fn verify(directory: &Path, extract: Option<&Path>) -> io::Result<Report> {
    let mut found = list(directory)?;
    let manifests: Vec<Manifest> = found.chunks.iter().map(|(chunk, _)| chunk.stored.manifest.clone()).collect();
    let chains = Chains::group(&manifests.iter().collect::<Vec<_>>());
    let mut out = match extract {
        Some(path) => Some(BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?)),
        None => None,
    };
    let mut wholes = HashMap::new();
    for slot in chains.chains.values().flat_map(|chain| chain.values()) {
        for (rank, at) in slot.all().into_iter().enumerate() {
            let counts = rank < slot.content().len();
            let out = out.as_mut().filter(|_| counts && manifests[at].kind == Kind::Lines);
            found.measure(directory, at, out, &mut wholes)?;
        }
    }
    for (at, _) in &chains.duplicates {
        found.measure(directory, *at, None, &mut HashMap::new())?;
    }
    if let Some(mut out) = out {
        out.flush()?;
    }
    let wholes = wholes.into_iter().map(|(id, hasher)| (id, Digest(*hasher.finalize().as_bytes()))).collect();
    let chunks: Vec<Chunk> = found.chunks.into_iter().map(|(chunk, _)| chunk).collect();
    let mut report = analysis::analyse(&chunks, &wholes);
    report.problems.splice(0..0, found.problems);
    report.notes.splice(0..0, found.notes);
    report.complete = report.problems.is_empty();
    Ok(report)
}

/// What the names and manifests of an archive say.
#[derive(Default)]
struct Found {
    chunks: Vec<(Chunk, Files)>,
    problems: Vec<Finding>,
    notes: Vec<Finding>,
}

fn list(directory: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    for (stem, files) in archive::scan(directory)? {
        let name = stem.to_string_lossy().into_owned();
        if !files.manifest {
            let detail = "a body without manifest: a crash's garbage, or its manifest was removed";
            found.notes.push(Finding::new(What::LeftOver, name, detail));
            continue;
        }
        match archive::read_manifest(&directory.join(&stem)) {
            Ok(stored) => {
                let body = Err(Finding::new(What::MissingBody, &name, "has a manifest and no body"));
                found.chunks.push((Chunk { name, stored, body, loss: None }, files));
            }
            Err(error) => found.problems.push(Finding::new(What::DamagedManifest, name, error.to_string())),
        }
    }
    Ok(found)
}

impl Found {
    /// Reads the body of the chunk at `at`. The content of parts is also hashed together, in the order of the calls.
    fn measure(
        &mut self,
        directory: &Path,
        at: usize,
        mut out: Option<&mut BufWriter<File>>,
        wholes: &mut HashMap<ChunkId, blake3::Hasher>,
    ) -> io::Result<()> {
        let (chunk, files) = &mut self.chunks[at];
        if !files.bodies.contains(&chunk.stored.encoding) {
            return Ok(());
        }
        let mut whole = chunk.stored.manifest.part_of.map(|part| wholes.entry(part.id).or_default());
        let mut record = Vec::new();
        let mut write_error = None;
        let sink = |piece: &[u8]| {
            if let Some(hasher) = &mut whole {
                hasher.update(piece);
            }
            let room = LOSS_RECORD_BYTES_MAX.saturating_sub(record.len()).min(piece.len());
            record.extend_from_slice(&piece[..room]);
            let written = out.as_mut().map_or(Ok(()), |out| out.write_all(piece));
            written.map_err(|error| {
                write_error = Some(error);
                io::ErrorKind::Other.into()
            })
        };
        let facts = read_body(&directory.join(&chunk.name), &chunk.stored, sink);
        if let Some(error) = write_error {
            return Err(error);
        }
        chunk.body = facts.map_err(|detail| Finding::new(What::DamagedBody, &chunk.name, detail));
        if chunk.stored.manifest.kind == Kind::Loss {
            chunk.loss = serde_json::from_slice::<LossRecord>(&record).ok();
        }
        Ok(())
    }
}

fn read_body(
    stem: &Path,
    stored: &StoredManifest,
    sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<BodyFacts, String> {
    let encoding: Encoding = stored.encoding;
    let file = File::open(archive::with_extension(stem, layout::body_extension(encoding)));
    let file = file.map_err(|error| error.to_string())?;
    let body_bytes = file.metadata().map_err(|error| error.to_string())?.len();
    if body_bytes != stored.body_bytes {
        return Err(format!("the body had {} bytes and has {body_bytes}", stored.body_bytes));
    }
    let body = BufReader::with_capacity(BUFFER_BYTES, file);
    inspect(body, encoding, stored.manifest.content_bytes, sink).map_err(|error: BodyError| error.to_string())
}
