//! Reading an archive back: what is on disk, without judging it. Used by the receiver when it starts and by
//! `auditail verify`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::layout::{self, Named, StoredManifest};
use crate::manifest::Encoding;

/// Bytes of a manifest file that are read; the largest possible one has far fewer.
const MANIFEST_BYTES_MAX: u64 = 256 * 1024;

/// One chunk's files, by their common name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Whether there is a manifest.
    pub manifest: bool,
    /// Bodies, normally one.
    pub bodies: Vec<Encoding>,
}

/// Every chunk of an archive: folder and stem (both without extension, relative to the archive's root) and files.
///
/// Files that are not the archive's are left out.
///
/// # Errors
/// A folder that cannot be read.
pub fn scan(root: &Path) -> io::Result<BTreeMap<PathBuf, Files>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(PathBuf::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let is_dir = entry.file_type()?.is_dir();
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if is_dir && depth < layout::DEPTH && !hidden {
                folders.push((path, depth + 1));
            } else if !is_dir && depth == layout::DEPTH {
                note(&mut found, &folder, layout::parse(&path));
            }
        }
    }
    Ok(found)
}

fn note(found: &mut BTreeMap<PathBuf, Files>, folder: &Path, named: Option<Named>) {
    match named {
        Some(Named::Manifest(stem)) => found.entry(folder.join(stem)).or_default().manifest = true,
        Some(Named::Body(stem, encoding)) => found.entry(folder.join(stem)).or_default().bodies.push(encoding),
        None => {}
    }
}

/// The path of a chunk's file. A stem holds no dot, but its extension is put behind it all the same.
pub fn with_extension(stem: &Path, extension: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(extension);
    path.into()
}

/// Reads the manifest of the chunk at `stem`.
///
/// # Errors
/// The file cannot be read, is too large, or is no manifest ([`io::ErrorKind::InvalidData`]).
pub fn read_manifest(stem: &Path) -> io::Result<StoredManifest> {
    let file = fs::File::open(with_extension(stem, layout::MANIFEST_EXTENSION))?;
    let mut json = Vec::new();
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut json)?;
    serde_json::from_slice(&json).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
