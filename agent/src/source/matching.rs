//! Which of the files found on disk is which of the files known.
//!
//! A name says nothing (rotation renames), an inode alone says nothing (inodes are reused at once), so a file is
//! recognised by where it is (device, inode, birth time) *and* what it starts with; and where a copy or a compressed
//! form has taken its place, by what it starts with alone.

use crate::types::FileId;

/// Where a file is on disk. Unlike its identity this changes when it is copied or compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Location {
    /// `st_dev`
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Birth time in nanoseconds since the epoch; 0 where the file system keeps none.
    pub birth_ns: u64,
}

impl Location {
    /// Of a file that is no longer where it was, and has not been found elsewhere.
    pub const NOWHERE: Self = Self { device: 0, inode: 0, birth_ns: 0 };
}

/// Fingerprints shorter than this (a blank first line, say) do not recognise a file by content alone.
pub const STRONG_FINGERPRINT_BYTES: u16 = 64;

/// A file known from before, as far as matching goes.
#[derive(Clone, Copy, Debug)]
pub struct Known<K> {
    /// What the caller calls it.
    pub key: K,
    /// Its identity.
    pub id: FileId,
    /// Whether the fingerprint covers a whole first line or all it can: the beginning of a line is that of many.
    pub identified: bool,
    /// Where it was seen last.
    pub at: Location,
    /// Whether it has been found already in this look at the directory, or is held open.
    pub present: bool,
}

/// What a file found on disk turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match<K> {
    /// The known file itself.
    Same(K),
    /// The known file, which was at this location, was emptied or replaced: same place, other content.
    Replaced(K),
    /// The content of a known file that has gone from where it was: its copy or its compressed form.
    Moved(K),
    /// A copy of a known file that is still where it was (copytruncate before the truncation, or a backup).
    Copy(K),
    /// Never seen.
    New,
}

/// Recognises, among files known in the order of their age, one found at `at` that starts with `prefix` (for a compressed file, of its content).
pub fn recognise<K: Copy>(known: &[Known<K>], at: Location, prefix: &[u8]) -> Match<K> {
    // Of a file that was removed and the one that got its inode both may be known.
    let mut here = known.iter().filter(|file| file.at == at);
    if let Some(file) = here.clone().find(|file| file.id.fingerprint.matches(prefix)) {
        return Match::Same(file.key);
    }
    let here = here.next();
    // Of several that start alike, such as with a hole of NUL bytes, a copy is that of the one that has gone last.
    let twin = known
        .iter()
        .filter(|file| file.at != at && strong(file) && file.id.fingerprint.matches(prefix))
        .max_by_key(|file| !file.present);
    match (twin, here) {
        (Some(file), _) if file.present => Match::Copy(file.key),
        (Some(file), _) => Match::Moved(file.key),
        (None, Some(file)) => Match::Replaced(file.key),
        (None, None) => Match::New,
    }
}

fn strong<K>(file: &Known<K>) -> bool {
    file.identified && file.id.fingerprint.len >= STRONG_FINGERPRINT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Fingerprint;

    const A: &[u8] = b"{\"kind\":\"Event\",\"auditID\":\"a\",\"requestURI\":\"/api/v1/namespaces/one\"}\n";
    const B: &[u8] = b"{\"kind\":\"Event\",\"auditID\":\"b\",\"requestURI\":\"/api/v1/namespaces/two\"}\n";

    fn at(inode: u64, birth_ns: u64) -> Location {
        Location { device: 1, inode, birth_ns }
    }

    fn known(at: Location, content: &[u8], present: bool) -> Known<u8> {
        let fingerprint = Fingerprint::of(content);
        let id = FileId { device: at.device, inode: at.inode, birth_ns: at.birth_ns, fingerprint };
        Known { key: 7, id, identified: content.ends_with(b"\n"), at, present }
    }

    // Fails if a reused inode is taken for the old file: the new file would be skipped silently.
    #[test]
    fn a_reused_inode_is_another_file() {
        assert_eq!(recognise(&[known(at(5, 100), A, false)], at(5, 200), B), Match::New);
        // Where the file system keeps no birth time the content decides.
        assert_eq!(recognise(&[known(at(5, 0), A, false)], at(5, 0), B), Match::Replaced(7));
    }

    // Fails if a file that got the inode of one that was removed a moment ago is taken for new at the second look.
    #[test]
    fn two_known_files_may_have_had_one_inode() {
        let (gone, heir) = (known(at(5, 0), A, false), Known { key: 8, ..known(at(5, 0), B, false) });
        assert_eq!(recognise(&[gone, heir], at(5, 0), B), Match::Same(8));
    }

    // Fails if a renamed file that has grown since is read again from the start.
    #[test]
    fn a_file_is_itself_after_it_grew() {
        let grown = [A, B].concat();
        assert_eq!(recognise(&[known(at(5, 100), &A[..40], false)], at(5, 100), &grown), Match::Same(7));
        assert_eq!(recognise(&[known(at(5, 100), b"", false)], at(5, 100), &grown), Match::Same(7));
    }

    // Fails if a compressed or copied file is delivered a second time, or its unread rest is not found.
    #[test]
    fn content_finds_the_file_that_moved() {
        assert_eq!(recognise(&[known(at(5, 100), A, false)], at(9, 300), A), Match::Moved(7));
        assert_eq!(recognise(&[known(at(5, 100), A, true)], at(9, 300), A), Match::Copy(7));
        assert_eq!(recognise(&[known(at(5, 100), b"\n", false)], at(9, 300), b"\n\n"), Match::New);
        // Every event begins alike.
        assert_eq!(recognise(&[known(at(5, 100), &A[..65], false)], at(9, 300), A), Match::New);
    }
}
