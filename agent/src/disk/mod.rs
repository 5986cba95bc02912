//! The file system as the agent sees it: audit logs read-only, and one state directory it owns.
//!
//! [`Disk`] is one of the two seams of the agent (the other is [`crate::upload::Destination`]): the real one is
//! [`real`], tests put a simulated one in its place.

pub mod filesystem;
pub mod real;
pub mod uring;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `st_dev`.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Birth time in nanoseconds since the epoch; 0 where the file system keeps none.
    pub birth_ns: u64,
    /// Bytes in the file.
    pub len: u64,
    /// Last modification in nanoseconds since the epoch.
    pub modified_ns: u64,
    /// Whether this is a regular file.
    pub is_file: bool,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name without its directory.
    pub name: String,
    /// Whether the name is that of a directory.
    pub is_dir: bool,
}

/// Reads audit logs and keeps the agent's state.
///
/// Looking at names and metadata is synchronous: it is rare and the kernel answers it from memory. Reading log
/// data and making state durable may wait for the device, so these are asynchronous.
#[allow(async_fn_in_trait)] // One thread runs the pipeline; no `Send` bound is wanted.
pub trait Disk: 'static {
    /// An open audit log.
    type File: 'static;

    /// Names in a directory; those that are not UTF-8 are left out.
    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>>;

    /// Metadata of the file a name leads to, links followed.
    fn stat_path(&self, path: &Path) -> io::Result<Stat>;

    /// Opens an audit log for reading.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Metadata of an open file.
    fn stat(&self, file: &Self::File) -> io::Result<Stat>;

    /// Reads at most `max` bytes at `offset` and appends them to `into`, whose spare capacity is at least `max`.
    /// Gives back the buffer and the number of bytes appended; 0 means end of file.
    async fn read_at(&self, file: &Self::File, offset: u64, max: usize, into: Vec<u8>) -> (Vec<u8>, io::Result<usize>);

    /// The content of a file of the state directory; `None` where there is no such file.
    fn load_state(&self, name: &Path) -> io::Result<Option<Vec<u8>>>;

    /// Replaces a file of the state directory atomically and durably: when this returns `Ok`, the new content
    /// survives a crash; when it returns an error, the old content is still there.
    async fn replace_state(&self, name: PathBuf, content: Vec<Bytes>) -> io::Result<()>;

    /// Removes a file of the state directory; one that is not there is fine.
    fn remove_state(&self, name: &Path) -> io::Result<()>;

    /// Names and sizes in bytes of the files in a folder of the state directory, empty where there is no such folder.
    fn list_state(&self, folder: &Path) -> io::Result<Vec<(String, u64)>>;

    /// The clock that modification times are taken from: nanoseconds since the epoch. It may jump.
    fn wall_ns(&self) -> u64;
}
