//! From what was named on the command line to what is to be delivered. Everything is looked at before anything is sent.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::source::name::{Order, classify, live_name, looks_rotated};
use crate::types::ChunkId;

/// Extensions by which a log in a directory is known.
const LOG_EXTENSIONS: [&str; 4] = ["log", "json", "jsonl", "ndjson"];

/// Deflate makes of one byte at most so many (RFC 1951).
const DEFLATE_RATIO_MAX: u64 = 1032;

const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// What is to be delivered.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Files, in the order in which they are taken up.
    pub files: Vec<LogFile>,
    /// Manifests of chunks that were set aside.
    pub aside: Vec<PathBuf>,
    /// Files of a directory that are left out, and why.
    pub left_out: Vec<String>,
}

/// A file to be delivered.
#[derive(Debug)]
pub(super) struct LogFile {
    /// Its one canonical path: the same file named differently is resumed.
    pub path: PathBuf,
    /// Bytes of its content, as far as is known before it is read.
    pub bytes: Option<u64>,
}

impl LogFile {
    /// The name of its source in checkpoint and manifests.
    pub(super) fn source(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

impl Plan {
    /// Looks at all arguments.
    ///
    /// # Errors
    /// Everything that cannot be delivered, one line each.
    pub(super) fn of(arguments: &[PathBuf]) -> Result<Self, Vec<String>> {
        let mut plan = Self::default();
        let mut complaints = Vec::new();
        let mut taken = BTreeSet::new();
        for argument in arguments {
            let complain = |error: io::Error| vec![format!("{}: {error}", argument.display())];
            let added = argument.canonicalize().map_err(complain).and_then(|path| match path.is_dir() {
                true => plan.add_directory(&path, &mut taken),
                false => plan.add(&path, &mut taken).map_err(complain),
            });
            complaints.extend(added.err().unwrap_or_default());
        }
        if complaints.is_empty() { Ok(plan) } else { Err(complaints) }
    }

    /// Adds a file, unless it has been already.
    fn add(&mut self, path: &Path, taken: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        if path.to_str().is_none() {
            return Err(io::Error::other("the path is not UTF-8"));
        }
        // Opening a FIFO would wait for its writer.
        if !path.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let file = File::open(path)?;
        if !taken.insert(path.to_owned()) {
            return Ok(());
        }
        if is_aside_manifest(path) {
            self.aside.push(path.to_owned());
        } else {
            let bytes = content_bytes(path, file)?;
            self.files.push(LogFile { path: path.to_owned(), bytes });
        }
        Ok(())
    }

    /// Adds the logs of a directory, or the chunks that were set aside in it.
    fn add_directory(&mut self, directory: &Path, taken: &mut BTreeSet<PathBuf>) -> Result<(), Vec<String>> {
        let at = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let names = list(directory).map_err(|error| vec![at(directory, error)])?;
        let aside: Vec<_> = names.iter().filter(|name| is_aside_manifest(Path::new(name))).cloned().collect();
        let is_aside = !aside.is_empty() || directory.ends_with(crate::pipeline::aside::ASIDE);
        let (names, left_out) = if is_aside { (aside, Vec::new()) } else { choose(names) };
        if names.is_empty() && !is_aside {
            return Err(vec![format!("{}: holds no log", directory.display())]);
        }
        self.left_out.extend(left_out.iter().map(|why| format!("{}/{why}", directory.display())));
        let paths = names.iter().map(|name| directory.join(name));
        let added = paths.filter_map(|path| {
            let real = path.canonicalize();
            real.and_then(|real| self.add(&real, taken)).err().map(|error| at(&path, error))
        });
        let complaints: Vec<_> = added.collect();
        if complaints.is_empty() { Ok(()) } else { Err(complaints) }
    }
}

/// Names of what is in a directory and is no directory itself; hidden ones excepted.
fn list(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b".") && !entry.path().is_dir() {
            names.push(name.into_string().map_err(|name| io::Error::other(format!("{name:?} is not UTF-8")))?);
        }
    }
    Ok(names)
}

/// The names that belong to a log, each log's oldest first, and those left out, with the reason.
fn choose(names: Vec<String>) -> (Vec<String>, Vec<String>) {
    let all: BTreeSet<String> = names.iter().cloned().collect();
    let mut left_out = Vec::new();
    let mut chosen: Vec<(String, Option<Order>, String)> = Vec::new();
    for name in names {
        let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
        if name.strip_suffix(".gz").is_some_and(|original| all.contains(original)) {
            left_out.push(format!("{name}: left out, its original is there: it is still being compressed"));
        } else if looks_rotated(&name) || extension.is_some_and(|extension| LOG_EXTENSIONS.contains(&extension)) {
            let live = live_name(&name);
            chosen.push((live.clone(), classify(&live, &name).map(|sibling| sibling.order), name));
        } else {
            left_out.push(format!("{name}: left out, not a log by its name"));
        }
    }
    chosen.sort();
    left_out.sort();
    (chosen.into_iter().map(|(.., name)| name).collect(), left_out)
}

/// `<chunk id>.json`.
fn is_aside_manifest(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    path.extension().is_some_and(|extension| extension == "json")
        && stem.is_some_and(|stem| stem.parse::<ChunkId>().is_ok())
}

/// Bytes of a file's content. What a gzip file says of itself (ISIZE, RFC 1952) is modulo 2^32 and of its last member:
/// good enough for a progress bar.
fn content_bytes(path: &Path, mut file: File) -> io::Result<Option<u64>> {
    let compressed = path.extension().is_some_and(|extension| extension == "gz");
    let len = file.metadata()?.len();
    let mut start = Vec::new();
    file.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut start)?;
    if start == ZSTD_MAGIC {
        return Err(io::Error::other("compressed with zstd: decompress it first"));
    }
    if !compressed {
        let disguised = start.starts_with(&GZIP_MAGIC);
        let refusal = || io::Error::other("compressed with gzip: its name has to end in .gz");
        return if disguised { Err(refusal()) } else { Ok(Some(len)) };
    }
    let mut trailer = [0; 4];
    if len < trailer.len() as u64 {
        return Ok(None);
    }
    file.seek(SeekFrom::End(-4))?;
    file.read_exact(&mut trailer)?;
    let bytes = u64::from(u32::from_le_bytes(trailer));
    Ok((bytes <= len.saturating_mul(DEFLATE_RATIO_MAX)).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    // Fails if a directory's logs are not taken oldest first, if one log's files are mixed with another's, or if an
    // unfinished .gz is taken for complete.
    #[test]
    fn logs_of_a_directory_oldest_first() {
        let names = [
            "README.md",
            "audit.log",
            "audit.log.2.gz",
            "b.log",
            "audit.log.10",
            "audit.log.1",
            "audit.log.1.gz",
            "b-2026-11-21T02-17-51.468.log.gz",
            "b-2026-11-21T02-17-46.037.log",
        ];
        let (chosen, left_out) = choose(texts(&names));
        let expected = [
            "audit.log.10",
            "audit.log.2.gz",
            "audit.log.1",
            "audit.log",
            "b-2026-11-21T02-17-46.037.log",
            "b-2026-11-21T02-17-51.468.log.gz",
            "b.log",
        ];
        assert_eq!(chosen, expected);
        assert_eq!(left_out.len(), 2);
        assert!(left_out[0].starts_with("README.md:") && left_out[1].starts_with("audit.log.1.gz:"), "{left_out:?}");
    }

    // Fails if one bad argument hides another, if a file named twice is delivered twice, or if what cannot be read as a
    // log is sent.
    #[test]
    fn arguments_are_all_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("a.log"), "{}\n").unwrap();
        fs::write(path("z.log"), ZSTD_MAGIC).unwrap();
        fs::write(path("g.log"), GZIP_MAGIC).unwrap();
        fs::create_dir(path("empty")).unwrap();
        let bad = ["missing", "z.log", "g.log", "empty"].map(path);
        let complaints = Plan::of(&[&bad[..], &[path("a.log")]].concat()).unwrap_err();
        assert_eq!(complaints.len(), bad.len());
        for (complaint, path) in complaints.iter().zip(&bad) {
            assert!(complaint.contains(path.to_str().unwrap()), "{complaint}");
        }
        let plan = Plan::of(&[path("a.log"), path("empty/../a.log")]).unwrap();
        assert_eq!(plan.files.iter().map(|file| file.bytes).collect::<Vec<_>>(), [Some(3)]);
    }

    // Fails if chunks that were set aside are taken for logs.
    #[test]
    fn chunks_set_aside_are_told_from_logs() {
        let root = tempfile::tempdir().unwrap();
        let aside = root.path().join("aside");
        fs::create_dir(&aside).unwrap();
        assert!(Plan::of(std::slice::from_ref(&aside)).unwrap().aside.is_empty());
        for name in ["00112233445566778899aabbccddeeff.json", "00112233445566778899aabbccddeeff.ndjson.gz"] {
            fs::write(aside.join(name), "{}").unwrap();
        }
        let plan = Plan::of(&[aside]).unwrap();
        assert_eq!((plan.aside.len(), plan.files.len()), (1, 0));
    }
}
