//! The real file system.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::uring::{Ring, RingFile};
use super::{Disk, Entry, Stat};
use crate::limits;

/// The file system of this machine, read through io_uring where a ring is given, else with pread.
pub struct RealDisk {
    state_directory: PathBuf,
    ring: Option<Ring>,
}

impl RealDisk {
    /// A disk that keeps its state in `state_directory`, which has to exist.
    pub fn new(state_directory: PathBuf, ring: Option<Ring>) -> Self {
        Self { state_directory, ring }
    }
}

/// An open audit log.
pub struct LogFile {
    file: File,
    ring: Option<RingFile>,
}

impl Disk for RealDisk {
    type File = LogFile;

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let is_dir = entry.file_type().is_ok_and(|kind| {
                kind.is_dir() || kind.is_symlink() && fs::metadata(entry.path()).is_ok_and(|target| target.is_dir())
            });
            entries.extend(entry.file_name().into_string().ok().map(|name| Entry { name, is_dir }));
        }
        Ok(entries)
    }

    fn stat_path(&self, path: &Path) -> io::Result<Stat> {
        fs::metadata(path).map(|metadata| stat_of(&metadata))
    }

    fn open(&self, path: &Path) -> io::Result<LogFile> {
        // Non-blocking, so that a FIFO in the log's place does not hang the agent; it means nothing for regular files.
        let flags = rustix::fs::OFlags::NONBLOCK.bits() | rustix::fs::OFlags::NOCTTY.bits();
        let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
        let ring = self.ring.as_ref().map(|_| RingFile::new(&file)).transpose()?;
        Ok(LogFile { file, ring })
    }

    fn stat(&self, log: &LogFile) -> io::Result<Stat> {
        log.file.metadata().map(|metadata| stat_of(&metadata))
    }

    async fn read_at(&self, log: &LogFile, offset: u64, max: usize, mut into: Vec<u8>) -> (Vec<u8>, io::Result<usize>) {
        // Where all of the ring's buffers are in use, pread does it.
        if let Some(file) = &log.ring
            && let Some(buffer) = self.ring.as_ref().and_then(Ring::buffer)
        {
            return file.read_at(buffer, offset, max, into).await;
        }
        let filled = into.len();
        into.resize(filled + max, 0);
        let result = loop {
            match log.file.read_at(&mut into[filled..], offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        into.truncate(filled + result.as_ref().copied().unwrap_or(0));
        (into, result)
    }

    fn load_state(&self, name: &Path) -> io::Result<Option<Vec<u8>>> {
        let path = self.state_directory.join(name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > limits::CHECKPOINT_BYTES_MAX => {
                let what = format!("{} is larger than {} bytes", path.display(), limits::CHECKPOINT_BYTES_MAX);
                Err(io::Error::new(io::ErrorKind::InvalidData, what))
            }
            Ok(_) => fs::read(&path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn replace_state(&self, name: PathBuf, content: Vec<Bytes>) -> io::Result<()> {
        let path = self.state_directory.join(name);
        // fsync may wait for a device that etcd keeps busy: not on the ring thread.
        tokio::task::spawn_blocking(move || replace(&path, &content)).await.map_err(io::Error::other)?
    }

    fn remove_state(&self, name: &Path) -> io::Result<()> {
        match fs::remove_file(self.state_directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn list_state(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        let entries = match fs::read_dir(self.state_directory.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn wall_ns(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Writes a file beside `path`, makes it durable, renames it over `path` and makes the rename durable.
pub fn replace(path: &Path, content: &[Bytes]) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    if !directory.exists() {
        fs::create_dir_all(directory)?;
        directory.parent().map_or(Ok(()), sync_directory)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        content.iter().try_for_each(|piece| file.write_all(piece))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory(directory)
    };
    write().inspect_err(|_| {
        // What is left of a failed attempt would take room on a full disk.
        let _ = fs::remove_file(&temporary);
    })
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Those of opening the directory and of fsync(2).
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn stat_of(metadata: &Metadata) -> Stat {
    let birth = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Stat {
        device: metadata.dev(),
        inode: metadata.ino(),
        birth_ns: birth.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0)),
        len: metadata.len(),
        modified_ns: (metadata.mtime().max(0).cast_unsigned())
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec().cast_unsigned()),
        is_file: metadata.is_file(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a failed replacement damages what was there or leaves its temporary file behind.
    #[test]
    fn a_failed_replacement_leaves_the_old_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint");
        replace(&path, &[Bytes::from_static(b"old")]).unwrap();
        fs::create_dir(directory.path().join("checkpoint.new")).unwrap();
        assert!(replace(&path, &[Bytes::from_static(b"new")]).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        fs::remove_dir(directory.path().join("checkpoint.new")).unwrap();
        replace(&path, &[Bytes::from_static(b"ne"), Bytes::from_static(b"w")]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    // Fails if pread stops short of what is there, or reports bytes it did not append.
    #[tokio::test]
    async fn pread_appends_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        fs::write(&path, b"0123456789").unwrap();
        let disk = RealDisk::new(directory.path().into(), None);
        let file = disk.open(&path).unwrap();
        let (bytes, result) = disk.read_at(&file, 4, 100, b"x".to_vec()).await;
        assert_eq!((&bytes[..], result.unwrap()), (&b"x456789"[..], 6));
        let (bytes, result) = disk.read_at(&file, 10, 100, bytes).await;
        assert_eq!((bytes.len(), result.unwrap()), (7, 0));
    }
}
