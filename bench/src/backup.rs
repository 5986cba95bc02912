//! Rotated audit logs: their names, which of them are kept, and how they are compressed.
//!
//! This is the behaviour of lumberjack, the rotation library inside kube-apiserver, as observed with strace on a
//! 1.36 server: backups carry their time of rotation in their name, the newest are kept, and compression writes
//! `NAME.gz` in small pieces beside `NAME` before it removes `NAME`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;

use crate::utc::backup_stamp;

/// Bytes read from a backup for one step of its compression.
const PIECE_BYTES: usize = 16 * 1024;

/// Name of a backup of `live` that is rotated away at `epoch_ms`: `audit-2026-11-21T02-17-46.037.log`.
pub fn backup_name(live: &Path, epoch_ms: u64) -> String {
    let (stem, extension) = split_name(live);
    format!("{stem}-{}{extension}", backup_stamp(epoch_ms))
}

/// The time of rotation in the name of a backup of `live`, compressed or not; `None` for any other name.
/// The text sorts as the time does.
pub fn stamp_of<'a>(live: &Path, name: &'a str) -> Option<&'a str> {
    const SHAPE: &[u8] = b"dddd-dd-ddTdd-dd-dd.ddd";
    let (stem, extension) = split_name(live);
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let stamp = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
    let fits = |(byte, shape): (u8, &u8)| if *shape == b'd' { byte.is_ascii_digit() } else { byte == *shape };
    (stamp.len() == SHAPE.len() && stamp.bytes().zip(SHAPE).all(fits)).then_some(stamp)
}

/// Which of the names in the directory of `live` are backups beyond the newest `keep`; none where `keep` is 0.
/// A backup and its compressed form count as one.
pub fn surplus<'a>(live: &Path, names: &'a [String], keep: usize) -> Vec<&'a str> {
    let mut stamps: Vec<&str> = names.iter().filter_map(|name| stamp_of(live, name)).collect();
    stamps.sort_unstable_by(|a, b| b.cmp(a));
    stamps.dedup();
    let Some(oldest_kept) = keep.checked_sub(1).and_then(|last| stamps.get(last)) else { return Vec::new() };
    names.iter().map(String::as_str).filter(|name| stamp_of(live, name).is_some_and(|s| s < *oldest_kept)).collect()
}

/// What the server does after a rotation: removes surplus backups, then compresses those that are not yet.
///
/// # Errors
/// The first failure to list, remove or compress.
pub fn tidy(live: &Path, keep: usize, compress: bool) -> io::Result<()> {
    let directory = directory_of(live);
    for name in surplus(live, &names_in(directory)?, keep) {
        fs::remove_file(directory.join(name))?;
    }
    if compress {
        for name in names_in(directory)? {
            if stamp_of(live, &name).is_some() && !name.ends_with(".gz") {
                Compression::begin(&directory.join(name))?.finish()?;
            }
        }
    }
    Ok(())
}

/// A backup that is being compressed. Until [`Compression::finish`], an incomplete `.gz` is there for all to see;
/// a value dropped before leaves it there, as a killed server does.
#[derive(Debug)]
pub struct Compression {
    from: PathBuf,
    reader: File,
    writer: GzEncoder<File>,
}

impl Compression {
    /// Creates the empty `.gz` beside `from`.
    ///
    /// # Errors
    /// Either file cannot be opened.
    pub fn begin(from: &Path) -> io::Result<Self> {
        let reader = File::open(from)?;
        let into = File::create(with_suffix(from, ".gz"))?;
        into.set_permissions(reader.metadata()?.permissions())?;
        let writer = GzEncoder::new(into, flate2::Compression::default());
        Ok(Self { from: from.to_owned(), reader, writer })
    }

    /// Compresses one more piece and lets it reach the file; `false` once nothing is left to compress.
    ///
    /// # Errors
    /// The backup cannot be read or the `.gz` not written.
    pub fn advance(&mut self) -> io::Result<bool> {
        let mut piece = [0; PIECE_BYTES];
        let count = self.reader.read(&mut piece)?;
        self.writer.write_all(&piece[..count])?;
        Ok(count > 0)
    }

    /// Compresses the rest, completes the `.gz` and removes the backup.
    ///
    /// # Errors
    /// As [`Compression::advance`], or the backup cannot be removed.
    pub fn finish(mut self) -> io::Result<()> {
        while self.advance()? {}
        self.writer.finish()?;
        fs::remove_file(&self.from)
    }
}

/// `path` with something appended to its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The directory a path is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// `audit.log` as `audit` and `.log`.
fn split_name(live: &Path) -> (String, String) {
    let stem = live.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = live.extension().map_or(String::new(), |text| format!(".{}", text.to_string_lossy()));
    (stem, extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = "/var/log/audit.log";

    // Fails if backups are named otherwise than the server names them, or are not recognised again.
    #[test]
    fn names_carry_the_time_of_rotation() {
        let live = Path::new(LIVE);
        let name = backup_name(live, 1_795_227_466_037);
        assert_eq!(name, "audit-2026-11-21T02-17-46.037.log");
        assert_eq!(stamp_of(live, &name), Some("2026-11-21T02-17-46.037"));
        assert_eq!(stamp_of(live, "audit-2026-11-21T02-17-46.037.log.gz"), Some("2026-11-21T02-17-46.037"));
        for other in
            ["audit.log", "audit-old.log", "audit-2026-11-21T02-17-46.037.txt", "audit-2026-11-21T02-17-46.log"]
        {
            assert_eq!(stamp_of(live, other), None, "{other}");
        }
    }

    // Fails if retention removes a backup too many or too few, or touches files that are no backups.
    #[test]
    fn the_newest_backups_are_kept() {
        let names: Vec<String> =
            ["audit.log", "audit-2026-11-21T02-17-46.037.log.gz", "audit-2026-11-21T02-17-48.788.log.gz"]
                .into_iter()
                .chain(["audit-2026-11-21T02-17-51.468.log", "audit-2026-11-21T02-17-51.468.log.gz", "other.log"])
                .map(String::from)
                .collect();
        let live = Path::new(LIVE);
        assert_eq!(surplus(live, &names, 1), [names[1].as_str(), names[2].as_str()]);
        assert_eq!(surplus(live, &names, 2), [names[1].as_str()]);
        assert!(surplus(live, &names, 3).is_empty());
        assert!(surplus(live, &names, 0).is_empty());
    }

    // Fails if no incomplete `.gz` can be seen, or the backup disappears before its `.gz` is complete.
    #[test]
    fn a_partial_gz_stands_beside_its_backup() {
        let directory = tempfile::tempdir().unwrap();
        let backup = directory.path().join("audit-2026-11-21T02-17-46.037.log");
        let mut rng = fastrand::Rng::with_seed(1);
        let content: Vec<u8> = (0..40 * PIECE_BYTES).map(|_| rng.u8(..)).collect();
        fs::write(&backup, &content).unwrap();
        let packed = with_suffix(&backup, ".gz");

        let mut compression = Compression::begin(&backup).unwrap();
        assert_eq!(fs::metadata(&packed).unwrap().len(), 0);
        for _ in 0..20 {
            assert!(compression.advance().unwrap());
        }
        assert!(fs::metadata(&packed).unwrap().len() > 1_000);
        assert!(unpack(&packed).is_err());
        assert_eq!(fs::read(&backup).unwrap(), content);

        compression.finish().unwrap();
        assert_eq!(unpack(&packed).unwrap(), content);
        assert!(!backup.exists());
    }

    fn unpack(path: &Path) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        flate2::read::GzDecoder::new(File::open(path)?).read_to_end(&mut content)?;
        Ok(content)
    }
}
