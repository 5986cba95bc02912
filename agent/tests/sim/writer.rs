//! What writes, rotates, compresses, empties and removes the log: kube-apiserver, logrotate, and people.

use std::collections::BTreeSet;
use std::io::Write;
use std::rc::{Rc, Weak};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::disk::{Inode, SimDisk};

const LIVE: &str = "audit.log";

/// Names under which nobody looks for the log.
const MOVED: &str = "moved-by-hand-";

/// Something that happens to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// So many events, one write each.
    Write(u8),
    /// The beginning of an event; the next write finishes it.
    WriteHalf,
    /// The writer is killed in the middle of an event and started again: the next event is glued on.
    Tear,
    /// Rename to a lumberjack name and create anew; with a gap in which the live file does not exist.
    Rotate { gap: bool },
    /// Two rotations with a few events between them.
    RotateTwice,
    /// Begins to compress the oldest uncompressed backup: a partial `.gz` beside it.
    CompressBegin,
    /// Finishes what was begun: complete `.gz`, original removed.
    CompressEnd,
    /// Removes the oldest backup.
    RemoveOldest,
    /// Numbered rotation: `.1` becomes `.2`, the live file becomes `.1`.
    RotateNumbered,
    /// A copy to `.1`, then the live file is emptied; a writer that does not append leaves a hole.
    CopyTruncate { append: bool },
    /// Somebody moves the live file away; the writer goes on with it.
    MoveAway,
    /// The writer opens the live file anew (after `MoveAway`).
    Reopen,
}

pub(crate) struct LogWriter {
    disk: Rc<SimDisk>,
    live: Rc<Inode>,
    offset: usize,
    serial: u64,
    half: Option<Vec<u8>>,
    stamp_ms: u64,
    compressing: Option<String>,
    rng: fastrand::Rng,
    /// Serials of events completely written.
    pub written: BTreeSet<u64>,
    /// Serials of events that the writer or somebody else destroyed before they had to be read.
    pub excused: BTreeSet<u64>,
    moved_away: u32,
    /// Files without a name that the agent may hold open.
    orphans: Vec<Weak<Inode>>,
}

impl LogWriter {
    pub(crate) fn new(disk: Rc<SimDisk>, seed: u64) -> Self {
        let live = disk.create(LIVE);
        Self {
            disk,
            live,
            offset: 0,
            serial: 0,
            half: None,
            stamp_ms: 0,
            compressing: None,
            rng: fastrand::Rng::with_seed(seed),
            written: BTreeSet::new(),
            excused: BTreeSet::new(),
            moved_away: 0,
            orphans: Vec::new(),
        }
    }

    pub(crate) fn act(&mut self, act: Act) {
        match act {
            Act::Write(count) => (0..count).for_each(|_| self.write_event()),
            Act::WriteHalf => self.write_half(),
            Act::Tear => {
                self.write_half();
                self.half = None;
            }
            Act::Rotate { gap } => self.rotate(gap),
            Act::RotateTwice => {
                self.rotate(false);
                (0..3).for_each(|_| self.write_event());
                self.rotate(false);
            }
            Act::CompressBegin => self.compress_begin(),
            Act::CompressEnd => self.compress_end(),
            Act::RemoveOldest => {
                let oldest = self.backups().into_iter().next();
                if let Some(name) = oldest {
                    self.destroy(&name);
                    // Who removes backups is who compresses them: no half of a compressed form outlives the original.
                    if self.compressing.take_if(|compressing| *compressing == name).is_some() {
                        self.disk.remove(&format!("{name}.gz"));
                    }
                }
            }
            Act::RotateNumbered => self.rotate_numbered(),
            Act::CopyTruncate { append } => self.copy_truncate(append),
            Act::MoveAway => {
                self.moved_away += 1;
                // What nobody has opened, nobody can read to its end.
                if let Some(inode) = self.disk.get(LIVE)
                    && Rc::strong_count(&inode) == 2 + usize::from(Rc::ptr_eq(&inode, &self.live))
                {
                    self.excused.extend(serials_of(LIVE, &inode));
                }
                self.disk.rename(LIVE, &format!("{MOVED}{}", self.moved_away));
            }
            Act::Reopen => self.reopen(),
        }
    }

    fn event(&mut self) -> Vec<u8> {
        self.serial += 1;
        let pad = "x".repeat(self.rng.usize(0..300));
        let serial = self.serial;
        format!(
            "{{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":\"Metadata\",\"auditID\":\"{serial:012}\",\"pad\":\"{pad}\",\
             \"stageTimestamp\":\"2026-11-21T02:17:46.037000Z\"}}\n"
        )
        .into_bytes()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.disk.write_at(&self.live, self.offset, bytes);
        self.offset += bytes.len();
        self.disk.advance_wall(1_000_000);
    }

    fn write_event(&mut self) {
        if self.disk.get(LIVE).is_none() && self.rng.u8(..) < 64 {
            self.reopen();
        }
        let line = match self.half.take() {
            Some(rest) => rest,
            None => self.event(),
        };
        self.put(&line);
        self.written.insert(self.serial);
        self.orphan_check();
    }

    fn write_half(&mut self) {
        if self.half.is_none() {
            let line = self.event();
            // Without its newline alone, an event is whole.
            let cut = self.rng.usize(1..line.len() - 1);
            self.put(&line[..cut]);
            self.half = Some(line[cut..].to_vec());
        }
    }

    /// Events written to a file that no look at the directory finds can only be read by who holds it open.
    fn orphan_check(&mut self) {
        let holder = |name: &String| self.disk.get(name).is_some_and(|inode| Rc::ptr_eq(&inode, &self.live));
        let name = self.disk.names().into_iter().find(holder);
        // The writer has one reference, the name another.
        let held = Rc::strong_count(&self.live) > 1 + usize::from(name.is_some());
        if !held && name.is_none_or(|name| name.starts_with(MOVED)) {
            self.excused.insert(self.serial);
        }
    }

    fn finish_half(&mut self) {
        if self.half.is_some() {
            self.write_event();
        }
    }

    fn stamp(&mut self) -> String {
        self.stamp_ms += 37;
        let (ms, s) = (self.stamp_ms % 1000, self.stamp_ms / 1000);
        format!("audit-2026-11-21T02-{:02}-{:02}.{ms:03}.log", 10 + s / 60, s % 60)
    }

    fn rotate(&mut self, gap: bool) {
        // A server that was killed in the middle of an event does not finish it; one that lives does.
        self.finish_half();
        let name = self.stamp();
        self.disk.rename(LIVE, &name);
        if !gap {
            self.reopen();
        }
    }

    fn reopen(&mut self) {
        self.finish_half_quietly();
        self.live = match self.disk.get(LIVE) {
            Some(there) => there,
            None => self.disk.create(LIVE),
        };
        self.offset = self.live.data.borrow().len();
    }

    fn finish_half_quietly(&mut self) {
        if let Some(rest) = self.half.take() {
            self.put(&rest);
            self.written.insert(self.serial);
            self.orphan_check();
        }
    }

    fn backups(&self) -> Vec<String> {
        // What the writer still has open is no backup yet.
        let open = |name: &String| self.disk.get(name).is_some_and(|inode| Rc::ptr_eq(&inode, &self.live));
        let mut names = self.disk.names();
        names.retain(|name| name != LIVE && !name.starts_with(MOVED) && !open(name));
        names.sort_by_key(|name| auditail::source::name::classify(LIVE, name).map(|sibling| sibling.order));
        names
    }

    fn compress_begin(&mut self) {
        if self.compressing.is_some() {
            return;
        }
        let Some(name) = self.backups().into_iter().find(|name| !name.ends_with(".gz")) else { return };
        let whole = self.gzip(&name);
        let partial = self.disk.create(&format!("{name}.gz"));
        let cut = self.rng.usize(..whole.len());
        self.disk.write_at(&partial, 0, &whole[..cut]);
        self.compressing = Some(name);
    }

    fn compress_end(&mut self) {
        let Some(name) = self.compressing.take() else { return };
        let compressed = format!("{name}.gz");
        if self.disk.get(&name).is_none() {
            return self.disk.remove(&compressed);
        }
        let whole = self.gzip(&name);
        if let Some(inode) = self.disk.get(&compressed) {
            self.disk.truncate(&inode);
            self.disk.write_at(&inode, 0, &whole);
            self.disk.remove(&name);
        }
    }

    fn gzip(&self, name: &str) -> Vec<u8> {
        let data = self.disk.get(name).map(|inode| inode.data.borrow().clone()).unwrap_or_default();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&data).and_then(|()| encoder.finish()).unwrap()
    }

    fn rotate_numbered(&mut self) {
        self.finish_half();
        self.shift_numbers();
        self.disk.rename(LIVE, "audit.log.1");
        self.reopen();
    }

    fn shift_numbers(&mut self) {
        for number in (1..40).rev() {
            for extension in ["", ".gz"] {
                self.disk
                    .rename(&format!("audit.log.{number}{extension}"), &format!("audit.log.{}{extension}", number + 1));
            }
        }
        if let Some(name) = self.compressing.take_if(|name| name.starts_with("audit.log.")) {
            // Its original has another name now: the compressor starts over some time.
            let number: u32 = name["audit.log.".len()..].parse().unwrap();
            self.disk.remove(&format!("audit.log.{}.gz", number + 1));
        }
    }

    fn copy_truncate(&mut self, append: bool) {
        if self.disk.get(LIVE).is_none_or(|inode| !Rc::ptr_eq(&inode, &self.live)) {
            return;
        }
        self.finish_half();
        self.shift_numbers();
        let copy = self.disk.create("audit.log.1");
        let data = self.live.data.borrow().clone();
        self.disk.write_at(&copy, 0, &data);
        self.disk.truncate(&self.live);
        if append {
            self.offset = 0;
        }
    }

    /// Removes a file; what is in it has to be read only if the agent holds it open.
    fn destroy(&mut self, name: &str) {
        let Some(inode) = self.disk.get(name) else { return };
        let serials = serials_of(name, &inode);
        self.disk.remove(name);
        // One reference is ours.
        if Rc::strong_count(&inode) == 1 {
            self.excused.extend(serials);
        } else {
            self.orphans.push(Rc::downgrade(&inode));
        }
    }

    /// The agent's process is about to end: what it alone holds open goes with it.
    pub(crate) fn agent_ends(&mut self) {
        for orphan in std::mem::take(&mut self.orphans) {
            if let Some(inode) = orphan.upgrade() {
                self.excused.extend(serials_of("", &inode));
            }
        }
        for name in self.disk.names().into_iter().filter(|name| name.starts_with(MOVED)) {
            self.excused.extend(self.disk.get(&name).map(|inode| serials_of(&name, &inode)).unwrap_or_default());
        }
        self.orphan_live();
    }

    /// The writer's file may have no name at all.
    fn orphan_live(&mut self) {
        if !self.disk.names().iter().any(|name| self.disk.get(name).is_some_and(|inode| Rc::ptr_eq(&inode, &self.live)))
        {
            self.excused.extend(serials_of("", &self.live));
        }
    }

    /// Ends well: the last event is finished, and written to a file that has a name.
    pub(crate) fn settle(&mut self) {
        self.finish_half_quietly();
        self.compress_end();
        if self.disk.get(LIVE).is_none_or(|inode| !Rc::ptr_eq(&inode, &self.live)) {
            self.reopen();
        }
        (0..2).for_each(|_| self.write_event());
    }
}

fn serials_of(name: &str, inode: &Inode) -> Vec<u64> {
    let data = inode.data.borrow();
    let mut content = Vec::new();
    if name.ends_with(".gz") || data.starts_with(&[0x1f, 0x8b]) {
        let mut decoder = flate2::bufread::GzDecoder::new(&data[..]);
        // A partial file gives what it has.
        let _ = std::io::Read::read_to_end(&mut decoder, &mut content);
    } else {
        content.extend_from_slice(&data);
    }
    serials(&content)
}

/// Serials of the events in some content, in order.
pub(crate) fn serials(content: &[u8]) -> Vec<u64> {
    let marker = b"\"auditID\":\"";
    let lines = content.split(|&byte| byte == b'\n').filter(|line| line.ends_with(b"}"));
    let numbers = lines.filter_map(|line| {
        let at = memchr::memmem::rfind(line, marker)? + marker.len();
        std::str::from_utf8(line.get(at..at + 12)?).ok()?.parse().ok()
    });
    numbers.collect()
}
