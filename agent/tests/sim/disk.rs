//! A file system in memory: log files with inodes that are reused at once, a state directory that forgets what was not
//! synced, and the faults of both.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use auditail::disk::{Disk, Entry, Stat};
use bytes::Bytes;

pub(crate) const DIRECTORY: &str = "/log";

/// What an inode holds.
pub(crate) struct Inode {
    pub number: u64,
    pub birth_ns: u64,
    pub data: RefCell<Vec<u8>>,
    modified_ns: Cell<u64>,
}

/// What goes wrong with reads and writes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Reads return fewer bytes than asked for.
    pub short_reads: bool,
    /// One in so many reads of a log fails with EIO; 0 for none.
    pub read_error_in: u32,
    /// Writing state fails (ENOSPC).
    pub state_full: bool,
    /// Syncing state says yes and does nothing: a crash brings an older state back.
    pub lying_sync: bool,
}

pub(crate) struct SimDisk {
    names: RefCell<BTreeMap<String, Rc<Inode>>>,
    state: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
    /// What a crash leaves of the state.
    durable: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
    free_inodes: RefCell<BTreeSet<u64>>,
    next_inode: Cell<u64>,
    /// Whether the file system keeps birth times.
    births: bool,
    wall_ns: Cell<u64>,
    pub faults: Cell<Faults>,
    rng: RefCell<fastrand::Rng>,
    pub reads: Cell<u64>,
}

impl SimDisk {
    pub(crate) fn new(seed: u64, births: bool) -> Self {
        Self {
            names: RefCell::default(),
            state: RefCell::default(),
            durable: RefCell::default(),
            free_inodes: RefCell::default(),
            next_inode: Cell::new(10),
            births,
            wall_ns: Cell::new(1_800_000_000_000_000_000),
            faults: Cell::default(),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            reads: Cell::new(0),
        }
    }

    // --- what the writer and other programs do ---

    pub(crate) fn advance_wall(&self, ns: i64) {
        self.wall_ns.set(self.wall_ns.get().saturating_add_signed(ns));
    }

    pub(crate) fn create(&self, name: &str) -> Rc<Inode> {
        let reused = self.free_inodes.borrow_mut().pop_first();
        let number = reused.unwrap_or_else(|| self.next_inode.replace(self.next_inode.get() + 1));
        self.advance_wall(1);
        let birth_ns = if self.births { self.wall_ns.get() } else { 0 };
        let inode =
            Rc::new(Inode { number, birth_ns, data: RefCell::default(), modified_ns: Cell::new(self.wall_ns.get()) });
        self.remove(name);
        self.names.borrow_mut().insert(name.to_owned(), inode.clone());
        inode
    }

    pub(crate) fn get(&self, name: &str) -> Option<Rc<Inode>> {
        self.names.borrow().get(name).cloned()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.names.borrow().keys().cloned().collect()
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        let inode = self.names.borrow_mut().remove(from);
        if let Some(inode) = inode {
            self.remove(to);
            self.names.borrow_mut().insert(to.to_owned(), inode);
        }
    }

    /// Removes a name; the inode number is free again when nobody holds the inode.
    pub(crate) fn remove(&self, name: &str) {
        if let Some(inode) = self.names.borrow_mut().remove(name)
            && Rc::strong_count(&inode) == 1
        {
            self.free_inodes.borrow_mut().insert(inode.number);
        }
    }

    /// Writes at an offset; what lies between the end and the offset becomes a hole.
    pub(crate) fn write_at(&self, inode: &Inode, offset: usize, bytes: &[u8]) {
        let mut data = inode.data.borrow_mut();
        let end = data.len().max(offset + bytes.len());
        data.resize(end, 0);
        data[offset..offset + bytes.len()].copy_from_slice(bytes);
        inode.modified_ns.set(self.wall_ns.get());
    }

    pub(crate) fn truncate(&self, inode: &Inode) {
        inode.data.borrow_mut().clear();
        inode.modified_ns.set(self.wall_ns.get());
    }

    /// The power fails or the process is killed: what had not been synced is gone.
    pub(crate) fn crash(&self) {
        self.state.replace(self.durable.borrow().clone());
    }

    pub(crate) fn state(&self, name: &str) -> Option<Vec<u8>> {
        self.state.borrow().get(Path::new(name)).cloned()
    }

    fn name_of(path: &Path) -> io::Result<String> {
        let name = path.strip_prefix(DIRECTORY).ok().and_then(Path::to_str).filter(|name| !name.is_empty());
        name.map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn stat_of(inode: &Inode) -> Stat {
        let len = inode.data.borrow().len() as u64;
        let (inode_number, birth_ns) = (inode.number, inode.birth_ns);
        Stat { device: 1, inode: inode_number, birth_ns, len, modified_ns: inode.modified_ns.get(), is_file: true }
    }
}

impl Disk for SimDisk {
    type File = Rc<Inode>;

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        if directory != Path::new(DIRECTORY) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.names().into_iter().map(|name| Entry { name, is_dir: false }).collect())
    }

    fn stat_path(&self, path: &Path) -> io::Result<Stat> {
        let inode = self.get(&Self::name_of(path)?).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self::stat_of(&inode))
    }

    fn open(&self, path: &Path) -> io::Result<Rc<Inode>> {
        self.get(&Self::name_of(path)?).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn stat(&self, file: &Rc<Inode>) -> io::Result<Stat> {
        Ok(Self::stat_of(file))
    }

    async fn read_at(
        &self,
        file: &Rc<Inode>,
        offset: u64,
        max: usize,
        mut into: Vec<u8>,
    ) -> (Vec<u8>, io::Result<usize>) {
        self.reads.set(self.reads.get() + 1);
        let (pause, error, short) = {
            let (mut rng, faults) = (self.rng.borrow_mut(), self.faults.get());
            let error = faults.read_error_in > 0 && rng.u32(..faults.read_error_in) == 0;
            (rng.bool(), error, faults.short_reads.then(|| rng.usize(1..=max)))
        };
        if pause {
            tokio::task::yield_now().await;
        }
        if error {
            return (into, Err(io::Error::other("EIO")));
        }
        let data = file.data.borrow();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
        let end = data.len().min(start + short.unwrap_or(max));
        into.extend_from_slice(&data[start..end]);
        (into, Ok(end - start))
    }

    fn load_state(&self, name: &Path) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state.borrow().get(name).cloned())
    }

    async fn replace_state(&self, name: PathBuf, content: Vec<Bytes>) -> io::Result<()> {
        let pause = self.rng.borrow_mut().u64(..5);
        tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        let faults = self.faults.get();
        if faults.state_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let content = content.concat();
        self.state.borrow_mut().insert(name.clone(), content.clone());
        if !faults.lying_sync {
            self.durable.borrow_mut().insert(name, content);
        }
        Ok(())
    }

    fn remove_state(&self, name: &Path) -> io::Result<()> {
        self.state.borrow_mut().remove(name);
        self.durable.borrow_mut().remove(name);
        Ok(())
    }

    fn list_state(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.state.borrow();
        let inside = state.iter().filter_map(|(path, content)| {
            let name = path.strip_prefix(folder).ok()?.to_str()?;
            Some((name.to_owned(), content.len() as u64))
        });
        Ok(inside.collect())
    }

    fn wall_ns(&self) -> u64 {
        self.wall_ns.get()
    }
}
