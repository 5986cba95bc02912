//! Where an archive keeps a chunk: `CLUSTER/NODE/STREAM/SOURCE/SEQUENCE-START-ID.ndjson.gz`, its manifest beside it.
//! Pure. The manifest is the truth; names only order and separate, and are safe whatever a sender put in them.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::manifest::{Encoding, Manifest};
use crate::types::ChunkId;

/// Folder for bodies and manifests on their way in; everything in it is garbage when a receiver starts.
pub const INCOMING: &str = ".incoming";
/// Held locked by the one receiver that writes to the archive.
pub const LOCK: &str = ".lock";
/// Folders between the archive's root and a chunk.
pub const DEPTH: usize = 4;
/// Extension of manifests.
pub const MANIFEST_EXTENSION: &str = ".json";

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
/// Longest folder name: well under the 255 bytes of every file system.
const NAME_BYTES_MAX: usize = 128;

/// What stands beside a body: its manifest and how the body is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredManifest {
    /// How the body is compressed, which also gives its extension.
    pub encoding: Encoding,
    /// Bytes of the compressed body.
    pub body_bytes: u64,
    /// What the sender said.
    #[serde(flatten)]
    pub manifest: Manifest,
}

/// Extension of a body.
pub fn body_extension(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Gzip => ".ndjson.gz",
        Encoding::Zstd => ".ndjson.zst",
    }
}

/// Folder of a chunk, relative to the archive's root.
pub fn folder(manifest: &Manifest) -> PathBuf {
    [escape(&manifest.cluster_id), escape(&manifest.node_id), manifest.stream.to_string(), escape(&manifest.source)]
        .iter()
        .collect()
}

/// File name of a chunk without extension. Names sort as the chain goes, parts by their ranges.
pub fn stem(manifest: &Manifest) -> String {
    format!("{:020}-{:020}-{}", manifest.sequence, manifest.span.start, manifest.id)
}

/// What a file of an archive is, by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A manifest; the stem.
    Manifest(String),
    /// A body; the stem and the encoding.
    Body(String, Encoding),
}

/// Reads a file name; `None` for files an archive does not have.
pub fn parse(file: &Path) -> Option<Named> {
    let name = file.file_name()?.to_str()?;
    if let Some(stem) = name.strip_suffix(MANIFEST_EXTENSION) {
        return is_stem(stem).then(|| Named::Manifest(stem.to_owned()));
    }
    [Encoding::Gzip, Encoding::Zstd].into_iter().find_map(|encoding| {
        let stem = name.strip_suffix(body_extension(encoding))?;
        is_stem(stem).then(|| Named::Body(stem.to_owned(), encoding))
    })
}

fn is_stem(stem: &str) -> bool {
    let is_number = |text: &str| text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = stem.splitn(3, '-');
    parts.next().is_some_and(is_number)
        && parts.next().is_some_and(is_number)
        && parts.next().is_some_and(|id| id.parse::<ChunkId>().is_ok())
}

/// A folder name for any text: no separator, no leading dot, never empty, bounded; different texts differ.
fn escape(text: &str) -> String {
    let mut name = utf8_percent_encode(text, PLAIN).to_string();
    if name.starts_with('.') {
        name.replace_range(..1, "%2E");
    }
    if name.is_empty() {
        // No escaped text is a lone percent sign.
        name.push('%');
    }
    if name.len() > NAME_BYTES_MAX {
        let hash = blake3::hash(text.as_bytes()).to_hex();
        name.truncate(NAME_BYTES_MAX - 34);
        name.push_str("%%");
        name.push_str(&hash[..32]);
    }
    name
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Fails if some name leaves the archive, hides, is too long for a file system or merges with another.
        #[test]
        fn folder_names_are_safe_and_distinct(a in ".{0,300}", b in ".{0,300}") {
            for text in [&a, &b] {
                let name = escape(text);
                prop_assert!(name.len() <= NAME_BYTES_MAX && !name.starts_with('.') && name.is_ascii());
                let path = PathBuf::from(&name);
                prop_assert_eq!(path.components().collect::<Vec<_>>(), vec![Component::Normal(name.as_ref())]);
            }
            prop_assert_eq!(a == b, escape(&a) == escape(&b));
        }
    }

    // Fails if the well-known dangerous names get through.
    #[test]
    fn dangerous_names_are_escaped() {
        let cases =
            [("", "%"), ("..", "%2E."), ("a/../b", "a%2F..%2Fb"), (".incoming", "%2Eincoming"), ("a\0", "a%00")];
        for (text, name) in cases {
            assert_eq!(escape(text), name);
        }
    }

    // Fails if a file that is not the archive's is taken for one: left-over bodies are deleted by name.
    #[test]
    fn only_the_archives_own_files_are_recognised() {
        let stem = format!("{:020}-{:020}-{}", 7, 0, "0".repeat(32));
        let name = |extension: &str| parse(Path::new(&format!("x/{stem}{extension}")));
        assert_eq!(name(".json"), Some(Named::Manifest(stem.clone())));
        assert_eq!(name(".ndjson.gz"), Some(Named::Body(stem.clone(), Encoding::Gzip)));
        assert_eq!(name(".ndjson.zst"), Some(Named::Body(stem.clone(), Encoding::Zstd)));
        assert_eq!(name(".gz"), None);
        assert_eq!(parse(Path::new("holiday.ndjson.gz")), None);
    }
}
