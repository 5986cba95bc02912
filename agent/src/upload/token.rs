//! The bearer token: given literally, or read from a file and read again when the file changes.
//!
//! A look at the file's metadata precedes every request, so that a rotated Kubernetes secret (a symbolic link that
//! now leads to another file) is used at once. After the destination refused a token the file is read whatever its
//! metadata says. The last token that could be read is kept while the file is missing, empty or unreadable: a
//! secret that is being rewritten is no reason to stop delivering.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::header::HeaderValue;

use super::UploadSetupError;
use crate::config::{Secret, TokenSource};
use crate::limits::TOKEN_BYTES_MAX;

/// A token in the form it is sent in. Its `Debug` form shows nothing.
#[derive(Clone, Debug)]
pub struct Bearer {
    secret: Secret,
    header: HeaderValue,
}

impl Bearer {
    /// Takes the token in `text`, white space around it left out.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let token = text.trim();
        if token.is_empty() {
            return Err("is empty");
        }
        const UNUSABLE: &str = "holds characters that a token cannot have in an HTTP header";
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UNUSABLE);
        }
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| UNUSABLE)?;
        header.set_sensitive(true);
        Ok(Self { secret: Secret(token.to_owned()), header })
    }

    /// The `Authorization` header.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// `text` without the token: an answer may quote what was sent.
    pub fn hide_in(&self, text: &str) -> String {
        text.replace(&self.secret.0, "(hidden)")
    }
}

/// Where the token for each request comes from.
#[derive(Debug)]
pub struct Token(Source);

#[derive(Debug)]
enum Source {
    /// No token is configured: requests go without one.
    Absent,
    Literal(Bearer),
    File {
        path: PathBuf,
        cache: Mutex<Cache>,
    },
}

/// What is known of a token file.
#[derive(Debug, Default)]
struct Cache {
    /// The file as it was when `last` was read; `None` asks for another look.
    stamp: Option<Stamp>,
    /// The last token that could be read.
    last: Option<Bearer>,
    /// Whether the file is unusable at present and this has been logged.
    failing: bool,
}

/// Metadata that changes when the content does. The change time catches what the modification time, which its
/// writer may set, does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(meta: &Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Token {
    /// Takes a configured source. A file need not exist yet; a literal that cannot be sent is an error.
    pub fn new(source: Option<&TokenSource>) -> Result<Self, UploadSetupError> {
        Ok(Self(match source {
            None => Source::Absent,
            Some(TokenSource::Literal(secret)) => {
                Source::Literal(Bearer::parse(&secret.0).map_err(|problem| UploadSetupError::new("token", problem))?)
            }
            Some(TokenSource::File(path)) => Source::File { path: path.clone(), cache: Mutex::default() },
        }))
    }

    /// The token for the next request; `None` where none is configured. The error is a reason for the log that
    /// names the file; it comes only while no token has ever been read.
    pub fn current(&self) -> Result<Option<Bearer>, String> {
        match &self.0 {
            Source::Absent => Ok(None),
            Source::Literal(bearer) => Ok(Some(bearer.clone())),
            Source::File { path, cache } => lock(cache).refresh(path).map(Some),
        }
    }

    /// Told that the destination refused the token: the next one is read from the file in any case.
    pub fn refused(&self) {
        if let Source::File { cache, .. } = &self.0 {
            lock(cache).stamp = None;
        }
    }
}

/// A panic elsewhere leaves the cache as it was, which is always a valid state.
fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    fn refresh(&mut self, path: &Path) -> Result<Bearer, String> {
        let seen = fs::metadata(path).ok().map(|meta| Stamp::from(&meta));
        if let (Some(last), true) = (&self.last, seen.is_some() && seen == self.stamp) {
            return Ok(last.clone());
        }
        match read(path) {
            Ok((stamp, bearer)) => {
                *self = Self { stamp: Some(stamp), last: Some(bearer.clone()), failing: false };
                Ok(bearer)
            }
            Err(problem) => {
                let reason = format!("token file {} {problem}", path.display());
                self.stamp = None;
                let last = self.last.clone().ok_or_else(|| reason.clone())?;
                if !self.failing {
                    tracing::warn!(reason, "using the last token that could be read");
                    self.failing = true;
                }
                Ok(last)
            }
        }
    }
}

/// Why a token file gave no token.
#[derive(Debug)]
enum Unusable {
    Io(io::Error),
    Content(&'static str),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::Content(problem) => f.write_str(problem),
        }
    }
}

/// Reads a token, and the metadata of the very file it was read from.
fn read(path: &Path) -> Result<(Stamp, Bearer), Unusable> {
    let file = File::open(path).map_err(Unusable::Io)?;
    let stamp = Stamp::from(&file.metadata().map_err(Unusable::Io)?);
    let mut text = String::new();
    file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text).map_err(Unusable::Io)?;
    if text.len() as u64 > TOKEN_BYTES_MAX {
        return Err(Unusable::Content("is too long for a token"));
    }
    Ok((stamp, Bearer::parse(&text).map_err(Unusable::Content)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_token(content: &str) -> (tempfile::TempDir, PathBuf, Token) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, content).unwrap();
        let token = Token::new(Some(&TokenSource::File(path.clone()))).unwrap();
        (directory, path, token)
    }

    fn sent(token: &Token) -> String {
        token.current().unwrap().unwrap().header().to_str().unwrap().to_owned()
    }

    // Fails if a replaced secret is only used after a restart, or if white space around it is sent.
    #[test]
    fn a_changed_file_is_read_again() {
        let (directory, path, token) = file_token("first\n");
        assert_eq!(sent(&token), "Bearer first");
        let next = directory.path().join("next");
        fs::write(&next, "  other \n").unwrap();
        fs::rename(&next, &path).unwrap();
        assert_eq!(sent(&token), "Bearer other");
    }

    // Fails if a token that vanishes, or is empty while it is rewritten, stops delivery.
    #[test]
    fn the_last_good_token_outlives_its_file() {
        let (_directory, path, token) = file_token("good");
        assert_eq!(sent(&token), "Bearer good");
        fs::write(&path, "").unwrap();
        assert_eq!(sent(&token), "Bearer good");
        fs::remove_file(&path).unwrap();
        assert_eq!(sent(&token), "Bearer good");
        fs::write(&path, "better").unwrap();
        assert_eq!(sent(&token), "Bearer better");
    }

    // Fails if an unusable file gives a token or a reason that does not name the file.
    #[test]
    fn an_unusable_file_is_named() {
        for (content, problem) in
            [("", "is empty"), (" \n", "is empty"), ("a\u{7}b", "header"), ("ä", "header"), ("two words", "header")]
        {
            let (_directory, path, token) = file_token(content);
            let reason = token.current().unwrap_err();
            assert!(reason.contains(problem) && reason.contains(path.to_str().unwrap()), "{reason}");
        }
        let (directory, path, token) = file_token(&"x".repeat(TOKEN_BYTES_MAX as usize + 1));
        assert!(token.current().unwrap_err().contains("too long"));
        fs::remove_file(&path).unwrap();
        assert!(token.current().unwrap_err().contains("cannot be read"));
        drop(directory);
    }

    // Fails if a refused token is kept because the file's metadata did not show the change.
    #[test]
    fn a_refusal_forces_another_look() {
        let (_directory, _path, token) = file_token("same");
        let Source::File { cache, .. } = &token.0 else { panic!("a file source") };
        assert_eq!(sent(&token), "Bearer same");
        lock(cache).last = Some(Bearer::parse("stale").unwrap());
        assert_eq!(sent(&token), "Bearer stale");
        token.refused();
        assert_eq!(sent(&token), "Bearer same");
    }

    // Fails if a token shows in Debug output, or in an answer that quotes it.
    #[test]
    fn a_token_shows_nowhere() {
        let literal = Token::new(Some(&TokenSource::Literal(Secret("s3cret".into())))).unwrap();
        let (_directory, _path, file) = file_token("s3cret");
        let bearer = file.current().unwrap().unwrap();
        assert!(!format!("{literal:?} {file:?} {bearer:?}").contains("s3cret"));
        assert_eq!(bearer.hide_in("no such token: s3cret!"), "no such token: (hidden)!");
    }
}
