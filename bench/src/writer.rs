//! Writes an audit log and rotates it as kube-apiserver does, or as other programs rotate it.
//!
//! One write per event; the file is never larger than its limit and no line is split over two files. At a rotation
//! the file is closed, renamed (it keeps its inode) and created anew without `O_APPEND`, as strace shows for a
//! 1.36 server. [`Rotation`] has the other styles.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::backup::{self, Compression, with_suffix};
use crate::generate::parse_serial;

/// Permissions of an audit log.
const MODE: u32 = 0o600;

/// Who compresses backups named after their time of rotation, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compress {
    /// Nobody.
    Never,
    /// The writer, before it goes on: what a test sees is then always the same.
    Inline,
    /// A thread, while writing goes on, as in the server.
    Background,
}

/// How a full log makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// As kube-apiserver: renamed to `audit-TIME.log`.
    Stamped(Compress),
    /// As logrotate: `audit.log` becomes `audit.log.1`, that `audit.log.2`, and so on.
    Numbered {
        /// Whether `.1` is compressed at once.
        compress: bool,
    },
    /// As logrotate's `copytruncate`: copied to `audit.log.1`, then cut to nothing under the writer. A writer
    /// without `O_APPEND` (after a [`Rotation::Stamped`] one) goes on at its old offset, behind a hole of NUL bytes.
    CopyTruncate,
}

/// How a log grows.
#[derive(Clone, Debug)]
pub struct Options {
    /// The live file.
    pub path: PathBuf,
    /// Bytes a file may have.
    pub bytes_max: u64,
    /// Backups that are kept; 0 keeps all.
    pub backups_max: usize,
    /// What happens when an event does not fit any more.
    pub rotation: Rotation,
}

/// What a writer has done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Serial numbers of the whole events written, in order; see [`parse_serial`].
    pub serials: Vec<u64>,
    /// Whole lines written, with or without a serial number.
    pub lines: u64,
    /// Bytes written, those of partial lines included.
    pub bytes: u64,
    /// Rotations, of any kind.
    pub rotations: u64,
}

/// Writes one audit log.
#[derive(Debug)]
pub struct LogWriter {
    options: Options,
    /// Open from the first event on.
    file: Option<File>,
    /// What the writer believes the file's size to be; others may have truncated or moved it meanwhile.
    size: u64,
    /// Time in the name of the newest backup, in milliseconds since the epoch.
    rotated_ms: u64,
    tally: Tally,
    janitor: Option<Janitor>,
}

impl LogWriter {
    /// Makes the directory and the file where they are missing, as the server does at its start.
    ///
    /// # Errors
    /// Either cannot be made.
    pub fn open(options: Options) -> io::Result<Self> {
        fs::create_dir_all(backup::directory_of(&options.path))?;
        OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(&options.path)?;
        let janitor = match options.rotation {
            Rotation::Stamped(Compress::Background) => Some(Janitor::spawn(&options)?),
            _ => None,
        };
        Ok(Self { options, file: None, size: 0, rotated_ms: 0, tally: Tally::default(), janitor })
    }

    /// The live file.
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// What has been written so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Writes one event, which includes its newline, in one piece; rotates first where it does not fit.
    /// An event larger than a file may be is not written, as in the server: `false`.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_line(&mut self, line: &[u8]) -> io::Result<bool> {
        if line.len() as u64 > self.options.bytes_max {
            return Ok(false);
        }
        self.append(line)?;
        self.tally.lines += 1;
        self.tally.serials.extend(parse_serial(line));
        Ok(true)
    }

    /// Writes a part of an event, as a server does that is killed or whose disk is full. What is written next
    /// follows on the same line; the event is not in the tally.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_partial(&mut self, part: &[u8]) -> io::Result<()> {
        self.append(part)
    }

    /// Rotates now, in the configured style.
    ///
    /// # Errors
    /// The file system's.
    pub fn rotate(&mut self) -> io::Result<()> {
        self.rotate_as(self.options.rotation)
    }

    /// Rotates now, in the given style; a background compression is done inline where none was configured.
    ///
    /// # Errors
    /// The file system's.
    pub fn rotate_as(&mut self, rotation: Rotation) -> io::Result<()> {
        match rotation {
            Rotation::Stamped(compress) => self.rotate_stamped(compress)?,
            Rotation::Numbered { compress } => self.rotate_numbered(compress)?,
            Rotation::CopyTruncate => self.copy_truncate()?,
        }
        self.size = 0;
        self.tally.rotations += 1;
        Ok(())
    }

    /// Moves the live file elsewhere behind the writer's back: writing goes on there until the limit is reached;
    /// then a new live file is made and nothing is renamed.
    ///
    /// # Errors
    /// The file system's.
    pub fn move_away(&mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.options.path, to)
    }

    /// Starts again, as a restarted server does: the next event opens the file with `O_APPEND`.
    pub fn restart(&mut self) {
        self.file = None;
    }

    /// Waits for the background compression and tells what was written.
    ///
    /// # Errors
    /// The background compression's.
    pub fn finish(mut self) -> io::Result<Tally> {
        self.janitor.take().map_or(Ok(()), Janitor::finish)?;
        Ok(self.tally)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        let mut file = match self.file.take() {
            Some(file) if self.size + len <= self.options.bytes_max => file,
            open => {
                self.file = open;
                self.file_with_room(len)?
            }
        };
        file.write_all(bytes)?;
        self.file = Some(file);
        self.size += len;
        self.tally.bytes += len;
        Ok(())
    }

    /// The live file, opened or rotated so that `len` bytes fit.
    fn file_with_room(&mut self, len: u64) -> io::Result<File> {
        if self.file.is_none() && self.options.path.exists() {
            let file = OpenOptions::new().append(true).open(&self.options.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        if self.file.is_some() && self.size + len > self.options.bytes_max {
            self.rotate()?;
        }
        match self.file.take() {
            Some(file) => Ok(file),
            None => create(&self.options.path, MODE),
        }
    }

    fn rotate_stamped(&mut self, compress: Compress) -> io::Result<()> {
        self.file = None;
        let backup = self.next_backup()?;
        let live = &self.options.path;
        match fs::metadata(live) {
            Ok(metadata) => {
                fs::rename(live, backup)?;
                // The server makes the file twice: once to give it the old owner, once to write to it.
                drop(create(live, MODE)?);
                self.file = Some(create(live, MODE)?);
                fs::set_permissions(live, metadata.permissions())?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.file = Some(create(live, MODE)?),
            Err(error) => return Err(error),
        }
        match &self.janitor {
            Some(janitor) => janitor.wake(),
            None => backup::tidy(live, self.options.backups_max, compress != Compress::Never)?,
        }
        Ok(())
    }

    /// A path for a backup made now. Names must sort by rotation, though here two rotations may fall into one
    /// millisecond, and the name of the first may be free again when the second happens.
    fn next_backup(&mut self) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let mut epoch_ms = (now.as_millis() as u64).max(self.rotated_ms + 1);
        loop {
            let path = self.options.path.with_file_name(backup::backup_name(&self.options.path, epoch_ms));
            if !path.exists() && !with_suffix(&path, ".gz").exists() {
                self.rotated_ms = epoch_ms;
                return Ok(path);
            }
            epoch_ms += 1;
        }
    }

    fn rotate_numbered(&mut self, compress: bool) -> io::Result<()> {
        self.shift_numbers()?;
        let (live, first) = (&self.options.path, with_suffix(&self.options.path, ".1"));
        fs::rename(live, &first)?;
        // logrotate's `create`, after which it makes the writer open the file again.
        drop(create(live, MODE)?);
        self.file = Some(OpenOptions::new().append(true).open(live)?);
        if compress { Compression::begin(&first)?.finish() } else { Ok(()) }
    }

    fn copy_truncate(&mut self) -> io::Result<()> {
        self.shift_numbers()?;
        fs::copy(&self.options.path, with_suffix(&self.options.path, ".1"))?;
        OpenOptions::new().write(true).open(&self.options.path)?.set_len(0)
    }

    /// Makes `.1` free: removes what is beyond the limit, then moves every number up by one, highest first.
    fn shift_numbers(&self) -> io::Result<()> {
        let numbered = |number: usize, suffix: &str| with_suffix(&self.options.path, &format!(".{number}{suffix}"));
        let there = |number: usize| ["", ".gz"].into_iter().find(|suffix| numbered(number, suffix).exists());
        let count = (1..).take_while(|number| there(*number).is_some()).count();
        for number in (1..=count).rev() {
            let Some(suffix) = there(number) else { continue };
            match self.options.backups_max {
                keep if keep > 0 && number >= keep => fs::remove_file(numbered(number, suffix))?,
                _ => fs::rename(numbered(number, suffix), numbered(number + 1, suffix))?,
            }
        }
        Ok(())
    }
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)
}

/// Removes and compresses backups in a thread.
#[derive(Debug)]
struct Janitor {
    wake: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Janitor {
    fn spawn(options: &Options) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let (path, keep) = (options.path.clone(), options.backups_max);
        let work = move || woken.iter().try_for_each(|()| backup::tidy(&path, keep, true));
        Ok(Self { wake, thread: std::thread::Builder::new().name("janitor".into()).spawn(work)? })
    }

    fn wake(&self) {
        // A full channel means that it will look again anyway; a closed one, that `finish` has an error to tell.
        let _ = self.wake.try_send(());
    }

    fn finish(self) -> io::Result<()> {
        drop(self.wake);
        self.thread.join().map_err(|_| io::Error::other("the compressing thread panicked"))?
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn writer(directory: &Path, backups_max: usize, rotation: Rotation) -> LogWriter {
        LogWriter::open(Options { path: directory.join("audit.log"), bytes_max: 100, backups_max, rotation }).unwrap()
    }

    /// Line number `number`, 50 bytes long.
    fn line(number: u32) -> Vec<u8> {
        format!("{number:049}\n").into_bytes()
    }

    fn write(writer: &mut LogWriter, numbers: std::ops::Range<u32>) {
        for number in numbers {
            assert!(writer.write_line(&line(number)).unwrap());
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The numbers of the lines in all files whose names start with `audit`, in the order of the names given.
    fn numbers(directory: &Path, names: &[&str]) -> Vec<u32> {
        let mut text = String::new();
        for name in names {
            let file = File::open(directory.join(name)).unwrap();
            match name.strip_suffix(".gz") {
                Some(_) => flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap(),
                None => { file }.read_to_string(&mut text).unwrap(),
            };
        }
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    // Fails if a file outgrows its limit, a line is lost at a rotation, or the live file's inode is not the backup's.
    #[test]
    fn a_stamped_rotation_renames_and_creates() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path(), 0, Rotation::Stamped(Compress::Never));
        write(&mut writer, 0..2);
        let inode = fs::metadata(writer.path()).unwrap().ino();
        write(&mut writer, 2..5);

        let names = names(directory.path());
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(fs::metadata(directory.path().join(&names[0])).unwrap().ino(), inode);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(numbers(directory.path(), &names), [0, 1, 2, 3, 4]);
        assert_eq!(fs::metadata(writer.path()).unwrap().mode() & 0o777, MODE);
        assert_eq!((writer.tally().lines, writer.tally().bytes, writer.tally().rotations), (5, 250, 2));
    }

    // Fails if an event that fits no file is written after all, or spoils the file.
    #[test]
    fn an_event_larger_than_a_file_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path(), 0, Rotation::Stamped(Compress::Never));
        assert!(!writer.write_line(&[b'x'; 101]).unwrap());
        write(&mut writer, 0..1);
        assert_eq!(numbers(directory.path(), &["audit.log"]), [0]);
    }

    // Fails if surplus backups stay, or the kept ones are not compressed, in either way of doing it.
    #[test]
    fn backups_are_removed_and_compressed() {
        for compress in [Compress::Inline, Compress::Background] {
            let directory = tempfile::tempdir().unwrap();
            let mut writer = writer(directory.path(), 2, Rotation::Stamped(compress));
            write(&mut writer, 0..9);
            writer.finish().unwrap();
            let names = names(directory.path());
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(names.iter().filter(|name| name.ends_with(".log.gz")).count(), 2, "{names:?}");
            assert_eq!(numbers(directory.path(), &names), [4, 5, 6, 7, 8]);
        }
    }

    // Fails if numbers are given in the wrong order, or a compressed file loses its suffix on the way up.
    #[test]
    fn numbered_backups_move_up() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path(), 3, Rotation::Numbered { compress: false });
        write(&mut writer, 0..5);
        writer.rotate_as(Rotation::Numbered { compress: true }).unwrap();
        write(&mut writer, 5..9);
        assert_eq!(names(directory.path()), ["audit.log", "audit.log.1", "audit.log.2.gz", "audit.log.3"]);
        assert_eq!(
            numbers(directory.path(), &["audit.log.3", "audit.log.2.gz", "audit.log.1", "audit.log"]),
            [2, 3, 4, 5, 6, 7, 8]
        );
    }

    // Fails if a writer with O_APPEND leaves a hole after copytruncate, or one without it leaves none.
    #[test]
    fn copytruncate_leaves_a_hole_only_without_append() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path(), 0, Rotation::CopyTruncate);
        write(&mut writer, 0..3);
        assert_eq!(numbers(directory.path(), &["audit.log.1", "audit.log"]), [0, 1, 2]);

        writer.rotate_as(Rotation::Stamped(Compress::Never)).unwrap();
        write(&mut writer, 3..4);
        writer.rotate().unwrap();
        write(&mut writer, 4..5);
        let content = fs::read(writer.path()).unwrap();
        assert_eq!(content, [&[0; 50][..], &line(4)].concat());
    }

    // Fails if writing does not follow the moved file, or the new live file takes its place in the backups.
    #[test]
    fn a_moved_file_is_written_until_it_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path(), 0, Rotation::Stamped(Compress::Never));
        write(&mut writer, 0..1);
        writer.move_away(&directory.path().join("elsewhere")).unwrap();
        write(&mut writer, 1..3);
        assert_eq!(names(directory.path()), ["audit.log", "elsewhere"]);
        assert_eq!(numbers(directory.path(), &["elsewhere", "audit.log"]), [0, 1, 2]);
    }

    // Fails if the part of an event left by a killed server counts as an event, or a restart begins a new line.
    #[test]
    fn the_next_event_follows_a_torn_one_on_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path(), 0, Rotation::Stamped(Compress::Never));
        writer.write_partial(b"{\"kind\":\"Ev").unwrap();
        writer.restart();
        write(&mut writer, 7..8);
        assert_eq!(fs::read(writer.path()).unwrap(), [b"{\"kind\":\"Ev", line(7).as_slice()].concat());
        assert_eq!(writer.tally().lines, 1);
    }
}
