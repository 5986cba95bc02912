//! What `auditail verify` has to say: the same facts as a table for people and as JSON for programs.

use std::fmt;

use serde::Serialize;

use crate::types::StreamId;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// No chunk at all.
    Empty,
    /// A manifest that cannot be read.
    DamagedManifest,
    /// A chunk that is not where its manifest belongs.
    Misplaced,
    /// A manifest without body, or with two.
    MissingBody,
    /// A body that cannot be decompressed.
    DamagedBody,
    /// A body that is not what its manifest says.
    FalseManifest,
    /// One chunk id twice.
    DuplicateId,
    /// Sequence numbers without chunk.
    SequenceGap,
    /// Different chunks for one sequence number.
    SequenceConflict,
    /// A previous digest that is not the predecessor's.
    BrokenChain,
    /// Parts that do not make up the chunk they are parts of.
    IncompleteParts,
    /// Bytes of a file in no chunk.
    RangeGap,
    /// Bytes of a file in two chunks of one chain.
    RangeOverlap,
    /// Bytes of a file in chunks of two chains.
    DuplicateRange,
    /// Bytes the agent declared lost.
    Loss,
    /// A body without manifest: a crash's garbage.
    LeftOver,
    /// A file whose first chunk does not start at its beginning.
    LateStart,
    /// Several streams of one source: the agent's state was made anew.
    SeveralStreams,
    /// Chunks that were also delivered in another form, which counts.
    Superseded,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::DamagedManifest => "damaged manifest",
            Self::Misplaced => "misplaced",
            Self::MissingBody => "missing body",
            Self::DamagedBody => "damaged body",
            Self::FalseManifest => "false manifest",
            Self::DuplicateId => "duplicate id",
            Self::SequenceGap => "sequence gap",
            Self::SequenceConflict => "sequence conflict",
            Self::BrokenChain => "broken chain",
            Self::IncompleteParts => "incomplete parts",
            Self::RangeGap => "range gap",
            Self::RangeOverlap => "range overlap",
            Self::DuplicateRange => "duplicate range",
            Self::Loss => "loss",
            Self::LeftOver => "left over",
            Self::LateStart => "late start",
            Self::SeveralStreams => "several streams",
            Self::Superseded => "superseded",
        })
    }
}

/// One thing found, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub what: What,
    /// The chunk, as a path below the archive's root without extension; or the source.
    pub at: String,
    /// For people.
    pub detail: String,
}

impl Finding {
    /// A finding.
    pub fn new(what: What, at: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what, at: at.into(), detail: detail.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.what, printable(&self.at), printable(&self.detail))
    }
}

/// Text for a terminal: senders choose names and paths, and must not steer the terminal with them.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A range the agent could not deliver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The chunk.
    pub at: String,
    /// Path the bytes would have been read from.
    pub path: String,
    /// First lost byte.
    pub start: u64,
    /// Behind the last lost byte; `None` where nobody knows.
    pub end: Option<u64>,
    /// The agent's reason.
    pub reason: String,
}

/// Sums over what was proven to have arrived: every chunk once; not chunks that were superseded, nor those whose body
/// is missing or not what its manifest says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Chunks, parts counted singly.
    pub chunks: u64,
    /// Events.
    pub events: u64,
    /// Records of malformed bytes.
    pub malformed: u64,
    /// Decompressed bytes.
    pub content_bytes: u64,
    /// Compressed bytes.
    pub body_bytes: u64,
    /// Loss chunks.
    pub losses: u64,
    /// Lost bytes, where their number is known.
    pub lost_bytes: u64,
}

impl Totals {
    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        self.chunks += other.chunks;
        self.events += other.events;
        self.malformed += other.malformed;
        self.content_bytes += other.content_bytes;
        self.body_bytes += other.body_bytes;
        self.losses += other.losses;
        self.lost_bytes += other.lost_bytes;
    }
}

/// One source of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChainSummary {
    /// Cluster id.
    pub cluster: String,
    /// Node id.
    pub node: String,
    /// Stream id.
    pub stream: StreamId,
    /// Path of the live file.
    pub source: String,
    /// First sequence number present.
    pub first: u64,
    /// Last sequence number present.
    pub last: u64,
    /// Files the chunks came from.
    pub files: u64,
    /// Sums over the chain.
    #[serde(flatten)]
    pub totals: Totals,
}

/// Everything about an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is off.
    pub complete: bool,
    /// Every chain.
    pub chains: Vec<ChainSummary>,
    /// Sums over the archive.
    pub totals: Totals,
    /// What the agent declared lost.
    pub losses: Vec<Loss>,
    /// What is off.
    pub problems: Vec<Finding>,
    /// What is worth knowing but not off.
    pub notes: Vec<Finding>,
}

const HEADINGS: [&str; 9] =
    ["CLUSTER/NODE", "SOURCE", "STREAM", "SEQUENCE", "CHUNKS", "EVENTS", "MALFORMED", "CONTENT BYTES", "BODY BYTES"];
/// Columns from here on are numbers.
const FIRST_NUMBER: usize = 4;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_table(f)?;
        for loss in &self.losses {
            let end = loss.end.map_or_else(|| "?".to_owned(), |end| end.to_string());
            let text = format!("{} bytes {}-{end}: {} ({})", loss.path, loss.start, loss.reason, loss.at);
            writeln!(f, "lost     {}", printable(&text))?;
        }
        for note in &self.notes {
            writeln!(f, "note     {note}")?;
        }
        for problem in &self.problems {
            writeln!(f, "problem  {problem}")?;
        }
        match self.problems.len() {
            0 => writeln!(f, "complete: nothing missing, altered or duplicated"),
            1 => writeln!(f, "NOT complete: 1 problem"),
            count => writeln!(f, "NOT complete: {count} problems"),
        }
    }
}

impl Report {
    fn write_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![HEADINGS.map(str::to_owned)];
        rows.extend(self.chains.iter().map(|chain| {
            let stream = chain.stream.to_string()[..8].to_owned();
            let node = printable(&format!("{}/{}", chain.cluster, chain.node));
            let names = [node, printable(&chain.source), stream];
            row(names, format!("{}-{}", chain.first, chain.last), &chain.totals)
        }));
        rows.push(row(["total".into(), String::new(), String::new()], String::new(), &self.totals));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; HEADINGS.len()] = std::array::from_fn(width);
        for row in &rows {
            let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
                FIRST_NUMBER.. => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

fn row([name, source, stream]: [String; 3], sequence: String, totals: &Totals) -> [String; HEADINGS.len()] {
    let numbers = [totals.chunks, totals.events, totals.malformed, totals.content_bytes, totals.body_bytes];
    let [chunks, events, malformed, content, body] = numbers.map(|number| number.to_string());
    [name, source, stream, sequence, chunks, events, malformed, content, body]
}
