//! The archive a receiver writes: a chunk is in it when its manifest is, and then it survives a crash.
//!
//! A body arrives in `.incoming/`, is checked there, synced and renamed to its place; then its manifest goes the same
//! way. A crash leaves at worst a body without manifest, which the next start removes. One receiver at a time writes.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::archive;
use super::body::{BodyError, inspect};
use super::index::{Decision, Index};
use super::layout::{self, StoredManifest};
use crate::disk::real::sync_directory;
use crate::manifest::{Encoding, Manifest};

/// Bytes of a body read from the disk at a time.
const READ_BYTES: usize = 64 * 1024;

/// Why a chunk was not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The body is not what the manifest says. It will not be next time either.
    #[error("{0}")]
    Refused(String),
    /// The archive could not be written. Nothing of the chunk is left in it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An archive open for writing.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    next_incoming: AtomicU64,
    /// Held shortly, also on the event loop.
    index: Mutex<Index>,
    /// Held while files move: one chunk at a time becomes part of the archive.
    commit: Mutex<()>,
    _lock: File,
}

/// A body on its way in. Dropped, it is gone.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Incoming {
    /// Appends to the body.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.bytes += data.len() as u64;
        self.file.write_all(data)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After a rename there is nothing here; what cannot be removed now goes at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    /// Opens an archive, making the folder if needed, and removes what a crash left behind.
    ///
    /// # Errors
    /// The folder cannot be made, read or locked; another receiver's lock is [`io::ErrorKind::WouldBlock`].
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let lock = File::create(root.join(layout::LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::WouldBlock, "another receiver writes to this archive")
            }
            TryLockError::Error(error) => error,
        })?;
        let incoming = root.join(layout::INCOMING);
        if incoming.exists() {
            fs::remove_dir_all(&incoming)?;
        }
        fs::create_dir(&incoming)?;
        // The root may be new, and what it will hold is worth nothing without it.
        root.canonicalize()?.parent().map_or(Ok(()), sync_directory)?;
        Ok(Self {
            root: root.to_owned(),
            next_incoming: AtomicU64::new(0),
            index: Mutex::new(load(root)?),
            commit: Mutex::new(()),
            _lock: lock,
        })
    }

    /// Chunks in the archive.
    pub fn len(&self) -> usize {
        lock(&self.index).len()
    }

    /// Whether the archive holds no chunk.
    pub fn is_empty(&self) -> bool {
        lock(&self.index).is_empty()
    }

    /// What would be done with a chunk, by its manifest alone.
    pub fn decide(&self, manifest: &Manifest) -> Decision {
        lock(&self.index).decide(manifest)
    }

    /// Makes room for a body to arrive in.
    pub fn incoming(&self) -> io::Result<Incoming> {
        let path = self.incoming_path();
        Ok(Incoming { file: File::create_new(&path)?, path, bytes: 0 })
    }

    /// Checks a body against its manifest and makes both part of the archive, durably. Blocks on the disk.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn commit(&self, incoming: Incoming, encoding: Encoding, manifest: Manifest) -> Result<Decision, StoreError> {
        check(&incoming.path, encoding, &manifest)?;
        incoming.file.sync_all()?;
        let _turn = lock(&self.commit);
        // Decided again: the same chunk may have arrived twice at once.
        let decision = self.decide(&manifest);
        if decision != Decision::New {
            return Ok(decision);
        }
        let stored = StoredManifest { encoding, body_bytes: incoming.bytes, manifest };
        self.place(&incoming, &stored)?;
        lock(&self.index).insert(&stored.manifest);
        Ok(Decision::New)
    }

    /// Moves a body and its manifest to their places; on failure neither is left.
    fn place(&self, incoming: &Incoming, stored: &StoredManifest) -> io::Result<()> {
        let relative = layout::folder(&stored.manifest);
        make_folders(&self.root, &relative)?;
        let folder = self.root.join(relative);
        let stem = folder.join(layout::stem(&stored.manifest));
        let body = archive::with_extension(&stem, layout::body_extension(stored.encoding));
        let manifest = archive::with_extension(&stem, layout::MANIFEST_EXTENSION);
        let placed = fs::rename(&incoming.path, &body)
            .and_then(|()| sync_directory(&folder))
            .and_then(|()| self.write_manifest(stored, &manifest))
            .and_then(|()| sync_directory(&folder));
        if placed.is_err() {
            // The manifest first, so that no crash leaves it alone.
            let _ = fs::remove_file(&manifest);
            let _ = fs::remove_file(&body);
        }
        placed
    }

    fn write_manifest(&self, stored: &StoredManifest, to: &Path) -> io::Result<()> {
        let mut json = serde_json::to_vec_pretty(stored)?;
        json.push(b'\n');
        let mut incoming = self.incoming()?;
        incoming.write(&json)?;
        incoming.file.sync_all()?;
        fs::rename(&incoming.path, to)
    }

    fn incoming_path(&self) -> PathBuf {
        let number = self.next_incoming.fetch_add(1, Ordering::Relaxed);
        self.root.join(layout::INCOMING).join(number.to_string())
    }
}

/// A panic elsewhere does not make what the lock guards wrong: every change to it is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads every manifest and removes bodies without one.
fn load(root: &Path) -> io::Result<Index> {
    let mut index = Index::default();
    for (stem, files) in archive::scan(root)? {
        let path = root.join(&stem);
        if !files.manifest {
            for encoding in files.bodies {
                let body = archive::with_extension(&path, layout::body_extension(encoding));
                tracing::info!(body = %body.display(), "removing a body that a crash left without manifest");
                fs::remove_file(body)?;
            }
            continue;
        }
        match archive::read_manifest(&path) {
            Ok(stored) => index.insert(&stored.manifest),
            // Its sender may send it again; `auditail verify` names it.
            Err(error) => tracing::error!(chunk = %stem.display(), %error, "ignoring a chunk with a damaged manifest"),
        }
    }
    Ok(index)
}

fn check(path: &Path, encoding: Encoding, manifest: &Manifest) -> Result<(), StoreError> {
    let body = BufReader::with_capacity(READ_BYTES, File::open(path)?);
    let facts = match inspect(body, encoding, manifest.content_bytes, |_| Ok(())) {
        Ok(facts) => facts,
        Err(BodyError::Io(error)) => return Err(error.into()),
        Err(error) => return Err(StoreError::Refused(error.to_string())),
    };
    facts.check(manifest).map_err(|mismatch| StoreError::Refused(mismatch.to_string()))
}

/// Makes the folders of `relative` below `root`; each new name is synced with the folder that holds it.
fn make_folders(root: &Path, relative: &Path) -> io::Result<()> {
    let mut folder = root.to_owned();
    for name in relative {
        let holder = folder.clone();
        folder.push(name);
        match fs::create_dir(&folder) {
            Ok(()) => sync_directory(&holder)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::super::index::tests::chunk;
    use super::*;
    use crate::types::Digest;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn filled() -> (Manifest, Vec<u8>) {
        let content = b"{\"a\":12}\n";
        let digest = Digest(*blake3::hash(content).as_bytes());
        (Manifest { digest, content_bytes: 9, ..chunk(1, Digest::ZERO) }, gzip(content))
    }

    fn put(store: &Store, manifest: &Manifest, body: &[u8]) -> Result<Decision, StoreError> {
        let mut incoming = store.incoming().unwrap();
        incoming.write(body).unwrap();
        store.commit(incoming, Encoding::Gzip, manifest.clone())
    }

    fn files(root: &Path) -> Vec<PathBuf> {
        let mut folders = vec![root.to_owned()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }

    // Fails if a chunk is forgotten over a restart, or if what a crash left behind is kept or taken for a chunk.
    #[test]
    fn a_restart_keeps_chunks_and_removes_left_overs() {
        let root = tempfile::tempdir().unwrap();
        let (manifest, body) = filled();
        let store = Store::open(root.path()).unwrap();
        assert_eq!(put(&store, &manifest, &body).unwrap(), Decision::New);
        drop(store);
        let left_over = root
            .path()
            .join(layout::folder(&manifest))
            .join(format!("{}.ndjson.gz", layout::stem(&chunk(2, Digest::ZERO))));
        let stranger = root.path().join("holiday.ndjson.gz");
        fs::write(&left_over, b"half").unwrap();
        fs::write(&stranger, b"mine").unwrap();
        fs::write(root.path().join(layout::INCOMING).join("0"), b"half").unwrap();
        let store = Store::open(root.path()).unwrap();
        assert_eq!(store.len(), 1);
        assert_eq!(put(&store, &manifest, &body).unwrap(), Decision::Duplicate);
        assert!(!left_over.exists() && stranger.exists());
        assert_eq!(files(root.path()).len(), 4, "body, manifest, lock and the stranger");
    }

    // Fails if a body is stored that is not what its manifest says, or if a refused one leaves a file.
    #[test]
    fn a_false_manifest_leaves_no_trace() {
        let root = tempfile::tempdir().unwrap();
        let (manifest, body) = filled();
        let store = Store::open(root.path()).unwrap();
        let false_ones = [
            Manifest { digest: Digest([1; 32]), ..manifest.clone() },
            Manifest { content_bytes: 8, ..manifest.clone() },
            Manifest { content_bytes: 10, ..manifest.clone() },
            Manifest { events: 2, ..manifest.clone() },
            Manifest { events: 0, malformed: 1, ..manifest },
        ];
        for manifest in false_ones {
            assert!(matches!(put(&store, &manifest, &body), Err(StoreError::Refused(_))));
        }
        assert_eq!(files(root.path()), [root.path().join(layout::LOCK)]);
    }

    // Fails if a chunk whose place cannot be written leaves a part of itself, or is remembered as stored.
    #[test]
    fn a_failed_write_leaves_no_trace() {
        let root = tempfile::tempdir().unwrap();
        let (manifest, body) = filled();
        let store = Store::open(root.path()).unwrap();
        let folder = root.path().join(layout::folder(&manifest));
        // A folder stands where the manifest belongs, so that the last rename fails.
        let obstacle = folder.join(format!("{}.json", layout::stem(&manifest)));
        fs::create_dir_all(obstacle.join("x")).unwrap();
        assert!(matches!(put(&store, &manifest, &body), Err(StoreError::Io(_))));
        assert_eq!(files(root.path()), [root.path().join(layout::LOCK)]);
        fs::remove_dir_all(obstacle).unwrap();
        assert_eq!(put(&store, &manifest, &body).unwrap(), Decision::New);
    }

    // Fails if two receivers may write to one archive: each would remove the other's incoming bodies.
    #[test]
    fn an_archive_has_one_writer() {
        let root = tempfile::tempdir().unwrap();
        let _store = Store::open(root.path()).unwrap();
        assert_eq!(Store::open(root.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
