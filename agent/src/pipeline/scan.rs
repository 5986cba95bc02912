//! Looking at a source's directory: which files there are, which of them are known, in which order they are read.
//!
//! Rotation is a chain of renames, copies and removals that this look may fall into the middle of. So nothing is
//! concluded from one absence: a file that is missing is given up only when it has stayed away for
//! [`MISSING_PATIENCE`], and a name that cannot be told yet (a copy or `.gz` that has just been begun) is left for
//! the next look.

use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::peek::{self, Expected, Prefix};
use super::source::{Source, Tracked};
use crate::config::StartAt;
use crate::disk::{Disk, Stat};
use crate::ledger::{FileKey, FileRecord};
use crate::limits::{FILES_PER_SOURCE_MAX, OPEN_FILES_PER_SOURCE_MAX};
use crate::source::matching::{Known, Location, Match, recognise};
use crate::source::name::{Order, Sibling, classify};
use crate::types::{FileId, Fingerprint};

/// How long a file may be absent before what is missing of it is reported lost.
pub(super) const MISSING_PATIENCE: Duration = Duration::from_secs(2);

/// A rotated file whose first line stays unfinished for this long is taken as it is.
const EMBRYO_PATIENCE_NS: u64 = 10_000_000_000;

/// How far from its end a first start looks for the beginning of a line.
const START_WINDOW_BYTES: u64 = 64 * 1024;

/// How often one look lists the directory at most, while something that was there has gone.
const LISTINGS_MAX: usize = 3;

/// What a look came to.
#[derive(Debug, Default)]
pub(super) struct ScanReport {
    /// Names that led to another file than at the look before.
    pub rotations: u64,
    /// Files that were emptied or replaced in place.
    pub truncations: u64,
    /// A name led to another file when it was opened than when it was listed.
    pub overtaken: bool,
    /// When to look again, because something could not be decided yet.
    pub again_in: Option<Duration>,
}

/// A name in the directory that belongs to the source.
struct Candidate {
    name: String,
    sibling: Sibling,
    stat: Stat,
    at: Location,
}

/// How a file that is taken up begins.
#[derive(Clone, Copy)]
struct Begin {
    /// Offset of the first byte that is read.
    start: u64,
    /// Its place was that of a file that was emptied or replaced.
    emptied: bool,
}

/// What the caller knows about the moment of the look.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// Monotonic time.
    pub now: Instant,
    /// Nanoseconds since the epoch, to compare with modification times.
    pub wall_ns: u64,
    /// Where new files are begun: `End` only at the first look of a first start.
    pub start_at: StartAt,
}

impl<D: Disk> Source<D> {
    /// Looks at the directory and brings files and queue up to date.
    pub(super) async fn scan(&mut self, disk: &D, moment: Moment) -> ScanReport {
        let mut report = ScanReport::default();
        self.embryos.clear();
        let (first_look, files_before) = (self.seen.is_empty(), self.files.len());
        self.reopen_grown(disk);
        self.close_finished(moment.now);
        let mut candidates = Vec::new();
        for _ in 0..LISTINGS_MAX {
            let truncations = report.truncations;
            report.overtaken = false;
            candidates = self.candidates(disk);
            self.files.values_mut().for_each(|file| file.found = false);
            let all_identified = self.complete_fingerprints(disk).await;
            for candidate in &candidates {
                self.place(disk, candidate, all_identified, moment, &mut report).await;
            }
            // What has just gone from its place may be under a name that came after the listing, and comes before
            // what is in its place now.
            if !report.overtaken && report.truncations == truncations && !self.misses_something_new() {
                break;
            }
        }
        if !first_look {
            report.rotations = self.files.len().saturating_sub(files_before) as u64;
        }
        let names: HashSet<&str> = candidates.iter().map(|candidate| candidate.name.as_str()).collect();
        self.seen.retain(|name, _| names.contains(name.as_str()));
        self.drop_emptied(disk, &mut report);
        if self.sees_all {
            self.forget_gone(moment.now);
            self.give_up_missing(moment.now, &mut report);
        }
        self.rebuild_queue();
        self.open_queued(disk);
        if report.overtaken || !self.embryos.is_empty() {
            report.again_in = Some(report.again_in.map_or(MISSING_PATIENCE, |at| at.min(MISSING_PATIENCE)));
        }
        report
    }

    /// A file that was empty when it was first seen could have been filled, rotated and compressed since: only its own
    /// first line tells that the `.gz` is not another file. Runs behind the listing, so that what is listed is known.
    /// Whether all could be read is returned: a file that is not identified cannot be told from its copies.
    async fn complete_fingerprints(&mut self, disk: &D) -> bool {
        let mut all_read = true;
        for (key, file) in &self.files {
            let begins = self.ledger.begins_at(*key, file.read);
            let Some(record) = self.ledger.files.get_mut(key) else { continue };
            let Some(handle) = file.handle.as_ref().filter(|_| begins) else { continue };
            if record.identified {
                continue;
            }
            match peek::prefix(disk, &**handle, file.compressed).await {
                Ok(prefix) if record.id.fingerprint.matches(&prefix.bytes) => {
                    record.id.fingerprint = Fingerprint::of(&prefix.bytes);
                    record.identified = prefix.is_final();
                }
                Ok(_) => {}
                Err(_) => all_read = false,
            }
        }
        all_read
    }

    /// The files of the source, those whose place is known first, then oldest first. A `.gz` is not looked at while
    /// the file it is made from is there.
    fn candidates(&mut self, disk: &D) -> Vec<Candidate> {
        self.sees_all = true;
        let names = if self.with_siblings { self.list(disk) } else { vec![self.base.clone()] };
        let plain: HashSet<&str> = names.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        let mut live = Err(io::Error::from(io::ErrorKind::NotFound));
        for name in &names {
            let alone = Sibling { order: Order::Live, compressed: name.ends_with(".gz") };
            let sibling = if self.with_siblings { classify(&self.base, name) } else { Some(alone) };
            let Some(sibling) = sibling else { continue };
            if name.strip_suffix(".gz").is_some_and(|original| plain.contains(original)) {
                continue;
            }
            let stat = disk.stat_path(&self.directory.join(name)).and_then(|stat| match stat.is_file {
                true => Ok(stat),
                false => Err(io::Error::other("it is not a regular file")),
            });
            match &stat {
                Ok(stat) => {
                    let at = location(stat);
                    found.push(Candidate { name: name.clone(), sibling, stat: *stat, at });
                }
                Err(error) => self.sees_all &= !hides(error),
            }
            if sibling.order == Order::Live {
                live = stat.map(drop);
            }
        }
        self.live_problem = live.err().map(|error| error.to_string());
        let known: HashSet<Location> = self.ledger.files.values().map(|record| record.at).collect();
        found.sort_by_key(|candidate| (!known.contains(&candidate.at), candidate.sibling.order));
        found.truncate(FILES_PER_SOURCE_MAX);
        found
    }

    fn list(&mut self, disk: &D) -> Vec<String> {
        match disk.list(&self.directory) {
            Ok(entries) => entries
                .into_iter()
                .filter(|entry| !entry.is_dir || entry.name == self.base)
                .map(|entry| entry.name)
                .collect(),
            Err(_) => {
                self.sees_all = false;
                vec![self.base.clone()]
            }
        }
    }

    /// Finds out which file a candidate is, and updates what is known of it.
    async fn place(
        &mut self,
        disk: &D,
        candidate: &Candidate,
        all_identified: bool,
        moment: Moment,
        report: &mut ScanReport,
    ) {
        if let Some(key) = self.unchanged(candidate) {
            return self.found(key, candidate, moment.now);
        }
        let path = self.directory.join(&candidate.name);
        let (handle, prefix) = match self.look_into(disk, &path, candidate.sibling.compressed).await {
            Ok(found) => found,
            Err(error) => return self.unreadable(candidate, &error),
        };
        if disk.stat(&handle).is_ok_and(|stat| location(&stat) != candidate.at) {
            // Rotated since it was listed: what was opened is not what was listed.
            report.overtaken = true;
            return;
        }
        let known = self.known_files();
        let recognised = recognise(&known, candidate.at, &prefix.bytes);
        tracing::debug!(source = self.name, name = candidate.name, ?recognised, "looked into a file");
        match recognised {
            Match::Same(key) => {
                if self.is_truncated(key, candidate)
                    || !self.expected(key).has_line_end(disk, &handle).await.unwrap_or(true)
                {
                    return self.renew(disk, key, candidate, (handle, prefix), moment, report).await;
                }
                self.found(key, candidate, moment.now);
                self.hold(key, handle);
            }
            Match::Moved(key) => self.moved(key, candidate, handle, disk, moment.now).await,
            Match::Copy(key) => self.copied(key, candidate.sibling.order),
            Match::Replaced(key) => self.renew(disk, key, candidate, (handle, prefix), moment, report).await,
            // A copy of a file that could not be identified just now would be taken for a new one.
            Match::New if !all_identified && candidate.sibling.order != Order::Live => {
                self.embryos.insert(candidate.name.clone());
            }
            Match::New => {
                let at_end = moment.start_at == StartAt::End;
                let start = if at_end { self.last_line_start(disk, &handle, candidate).await } else { None };
                let begin = Begin { start: start.unwrap_or(0), emptied: false };
                self.adopt(candidate, handle, &prefix, moment, begin);
            }
        }
    }

    /// A file was emptied or replaced in place: what is there now is another one.
    async fn renew(
        &mut self,
        disk: &D,
        key: FileKey,
        candidate: &Candidate,
        (handle, prefix): (D::File, Prefix),
        moment: Moment,
        report: &mut ScanReport,
    ) {
        let hole = self.hole_before(disk, &handle, key, candidate).await;
        self.displace(key, report);
        let begin = Begin { start: hole.unwrap_or(0), emptied: true };
        self.adopt(candidate, handle, &prefix, moment, begin);
    }

    /// The file a name led to at the last look, if nothing speaks against its being the same one. An inode that is
    /// held open cannot have been reused; one that is not is looked into again when its name or size changed.
    fn unchanged(&self, candidate: &Candidate) -> Option<FileKey> {
        let (key, file) = self
            .files
            .iter()
            .find(|(key, _)| self.ledger.files.get(key).is_some_and(|record| record.at == candidate.at))?;
        let same_name = self.seen.get(&candidate.name) == Some(&(candidate.at, *key));
        let same_size = file.len == Some(candidate.stat.len);
        let grown = file.compressed || file.len.is_some_and(|len| candidate.stat.len >= len.max(file.read));
        let live = candidate.sibling.order == Order::Live;
        // A live file may have been emptied and have grown past its old length since: its content is compared.
        (grown && !live && (file.handle.is_some() || same_name && same_size)).then_some(*key)
    }

    fn is_truncated(&self, key: FileKey, candidate: &Candidate) -> bool {
        self.files.get(&key).is_some_and(|file| !file.compressed && candidate.stat.len < file.read)
    }

    async fn look_into(&self, disk: &D, path: &std::path::Path, compressed: bool) -> io::Result<(D::File, Prefix)> {
        let handle = disk.open(path)?;
        let prefix = peek::prefix(disk, &handle, compressed).await?;
        Ok((handle, prefix))
    }

    /// What has to be in a file, by what was read of it.
    pub(super) fn expected(&self, key: FileKey) -> Expected {
        let fingerprint = self.ledger.files.get(&key).map_or(Fingerprint::of(b""), |record| record.id.fingerprint);
        Expected { fingerprint, line_end: self.files.get(&key).and_then(|file| file.line_end) }
    }

    fn known_files(&self) -> Vec<Known<FileKey>> {
        let known = self.ledger.files.iter().map(|(&key, record)| {
            let present = self.files.get(&key).is_some_and(|file| file.found || file.handle.is_some());
            Known { key, id: record.id, identified: record.identified, at: record.at, present }
        });
        known.collect()
    }

    /// The file is there but not ours to read, or it has gone again since its name was listed.
    fn unreadable(&mut self, candidate: &Candidate, error: &io::Error) {
        if candidate.sibling.order == Order::Live {
            self.live_problem = Some(error.to_string());
        }
        let known = self.ledger.files.iter().find(|(_, record)| record.at == candidate.at).map(|(key, _)| *key);
        if let Some(file) = known.and_then(|key| self.files.get_mut(&key)) {
            file.found = true;
            // What follows a file in the history tells when it is finished: that has to be right before it can be read.
            file.order = candidate.sibling.order;
        }
        self.embryos.insert(candidate.name.clone());
    }

    fn found(&mut self, key: FileKey, candidate: &Candidate, now: Instant) {
        if let Some(file) = self.files.get_mut(&key) {
            file.found = true;
            file.missing_since = None;
            file.order = candidate.sibling.order;
            file.compressed = candidate.sibling.compressed;
            file.len = Some(candidate.stat.len);
        }
        if let Some(record) = self.ledger.files.get_mut(&key) {
            record.name.clone_from(&candidate.name);
            record.at = candidate.at;
            if let Some(file) = self.files.get_mut(&key)
                && (record.complete || file.finished_at.is_some())
            {
                let grown = !file.compressed && candidate.stat.len > file.read;
                record.complete &= !grown;
                file.finished_at = if grown { None } else { file.finished_at.or(Some(now)) };
            }
        }
        self.seen.insert(candidate.name.clone(), (candidate.at, key));
    }

    /// The content of a known file has been found elsewhere: in a copy, or compressed.
    async fn moved(&mut self, key: FileKey, candidate: &Candidate, handle: D::File, disk: &D, now: Instant) {
        let read = self.files.get(&key).map_or(0, |file| file.read);
        if candidate.sibling.compressed {
            let whole = peek::gzip_content_len(disk, &handle, candidate.stat.len).await
                == u32::try_from(read & 0xFFFF_FFFF).ok();
            if let Some(record) = self.ledger.files.get_mut(&key) {
                record.complete |= whole && read > 0 && record.delivered == read;
            }
        } else if candidate.stat.len < read {
            // A copy that is still being made, or one of an earlier state: what it holds has been read.
            self.embryos.insert(candidate.name.clone());
            return;
        }
        self.found(key, candidate, now);
        self.hold(key, handle);
    }

    /// The file has gone from its place without a rename; its content may turn up elsewhere.
    pub(super) fn displace(&mut self, key: FileKey, report: &mut ScanReport) {
        report.truncations += 1;
        if let Some(record) = self.ledger.files.get_mut(&key) {
            record.at = Location::NOWHERE;
        }
        if let Some(file) = self.files.get_mut(&key) {
            file.handle = None;
            file.order = Order::Live;
        }
        self.retry_at = None;
        self.queue.retain(|queued| *queued != key);
        self.paused.take_if(|reader| reader.file == key);
        if let Some(reader) = self.reader.take_if(|reader| reader.file == key) {
            self.note_position(&reader);
        }
        tracing::warn!(source = self.name, file = self.path_of(key), "the log was emptied or replaced in place");
    }

    /// Takes a file up that was never seen.
    fn adopt(
        &mut self,
        candidate: &Candidate,
        handle: D::File,
        prefix: &Prefix,
        moment: Moment,
        Begin { start, emptied }: Begin,
    ) {
        let fingerprint = Fingerprint::of(&prefix.bytes);
        let live = candidate.sibling.order == Order::Live;
        let settled = moment.wall_ns.saturating_sub(candidate.stat.modified_ns) > EMBRYO_PATIENCE_NS;
        // A .gz that has not changed for a while and still does not decode is taken up too: its loss has to be reported.
        let as_it_is = settled && candidate.stat.len > 0 && (prefix.all || candidate.sibling.compressed);
        if !live && !prefix.is_final() && !as_it_is {
            // An empty backup holds nothing; anything else may be a copy or a .gz that is being made.
            if candidate.stat.len > 0 {
                self.embryos.insert(candidate.name.clone());
            }
            return;
        }
        let Candidate { at, sibling, stat, name } = candidate;
        // A file that was emptied is born again: what it held before, perhaps from the same first bytes on, is another file.
        let birth_ns = if emptied { moment.wall_ns } else { at.birth_ns };
        let id = FileId { device: at.device, inode: at.inode, birth_ns, fingerprint };
        let skipped = moment.start_at == StartAt::End && sibling.compressed;
        let identified = prefix.is_final();
        let record = FileRecord { id, identified, at: *at, name: name.clone(), delivered: start, complete: skipped };
        let key = self.ledger.add_file(record);
        let mut file = Tracked::new(sibling.order, sibling.compressed, start);
        // The oldest come first, and are the first to be removed.
        file.handle = (self.open_files() < OPEN_FILES_PER_SOURCE_MAX).then(|| Rc::new(handle));
        file.found = true;
        file.len = Some(stat.len);
        file.finished_at = skipped.then_some(moment.now);
        self.files.insert(key, file);
        self.seen.insert(name.clone(), (*at, key));
    }

    /// After copytruncate a writer that does not append goes on at its old offset, behind a hole of NUL bytes. When the
    /// emptying itself was not seen, all that is new is behind the offset that has been read.
    async fn hole_before(&self, disk: &D, handle: &D::File, key: FileKey, candidate: &Candidate) -> Option<u64> {
        let read = self.files.get(&key)?.read;
        if read == 0 || candidate.stat.len < read || candidate.sibling.compressed {
            return None;
        }
        let max = read.min(START_WINDOW_BYTES);
        let room = usize::try_from(max).ok()?;
        let before = peek::bytes_at(disk, handle, read - max, room).await.ok()?;
        (before.len() == room && before.iter().all(|&byte| byte == 0)).then_some(read)
    }

    /// Where the last line of a file starts that `start_at: end` begins behind.
    async fn last_line_start(&self, disk: &D, handle: &D::File, candidate: &Candidate) -> Option<u64> {
        if candidate.sibling.compressed {
            return None;
        }
        let len = candidate.stat.len;
        let window = len.min(START_WINDOW_BYTES);
        let room = usize::try_from(window).ok()?;
        let end = peek::bytes_at(disk, handle, len - window, room).await.ok()?;
        Some(memchr::memrchr(b'\n', &end).map_or(len, |at| len - window + at as u64 + 1))
    }
}

/// Whether a file whose metadata cannot be read may be there all the same.
fn hides(error: &io::Error) -> bool {
    // A name without an operating system's error code is that of something else than a file.
    error.raw_os_error().is_some() && error.kind() != io::ErrorKind::NotFound
}

pub(super) fn location(stat: &Stat) -> Location {
    Location { device: stat.device, inode: stat.inode, birth_ns: stat.birth_ns }
}
