//! Which chunks make up which chain, and which of them count. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::manifest::{Kind, Manifest};
use crate::types::{ChunkId, StreamId};

/// Names a chain; ordered as chains are listed and extracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainKey<'a> {
    /// Cluster id.
    pub cluster: &'a str,
    /// Node id.
    pub node: &'a str,
    /// Stream.
    pub stream: StreamId,
    /// Source.
    pub source: &'a str,
}

/// Everything delivered for one sequence number, as positions in the list of chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Whole chunks of lines; more than one is a conflict.
    pub wholes: Vec<usize>,
    /// Parts by the chunk they are parts of, in the order of their ranges.
    pub parts: BTreeMap<ChunkId, Vec<usize>>,
    /// Loss chunks.
    pub losses: Vec<usize>,
}

impl Slot {
    /// The chunks that count: lines before parts before a loss, since what was delivered is not lost.
    pub fn content(&self) -> &[usize] {
        if let Some(whole) = self.wholes.first() {
            std::slice::from_ref(whole)
        } else if let Some(parts) = self.parts.values().next() {
            parts
        } else {
            self.losses.first().map_or(&[], std::slice::from_ref)
        }
    }

    /// Every chunk, those that count first.
    pub fn all(&self) -> Vec<usize> {
        let mut all = self.content().to_vec();
        let rest = self.wholes.iter().chain(self.parts.values().flatten()).chain(&self.losses);
        all.extend(rest.copied().filter(|at| !self.content().contains(at)));
        all
    }
}

/// A chain: its slots by sequence number.
pub type Chain = BTreeMap<u64, Slot>;

/// The chains of an archive.
#[derive(Debug, Default)]
pub struct Chains<'a> {
    /// Every chain.
    pub chains: BTreeMap<ChainKey<'a>, Chain>,
    /// Chunks left out because an earlier one has the same id: position, and position of the earlier one.
    pub duplicates: Vec<(usize, usize)>,
}

impl<'a> Chains<'a> {
    /// Groups chunks; positions are those in `manifests`.
    pub fn group(manifests: &[&'a Manifest]) -> Self {
        let mut seen = HashMap::new();
        let mut this = Self::default();
        for (at, &manifest) in manifests.iter().enumerate() {
            if let Some(&earlier) = seen.get(&manifest.id) {
                this.duplicates.push((at, earlier));
                continue;
            }
            seen.insert(manifest.id, at);
            let key = ChainKey {
                cluster: &manifest.cluster_id,
                node: &manifest.node_id,
                stream: manifest.stream,
                source: &manifest.source,
            };
            let slot = this.chains.entry(key).or_default().entry(manifest.sequence).or_default();
            match (manifest.kind, manifest.part_of) {
                (Kind::Loss, _) => slot.losses.push(at),
                (Kind::Lines, None) => slot.wholes.push(at),
                (Kind::Lines, Some(part)) => slot.parts.entry(part.id).or_default().push(at),
            }
        }
        for slot in this.chains.values_mut().flat_map(BTreeMap::values_mut) {
            for parts in slot.parts.values_mut() {
                parts.sort_by_key(|&at| manifests[at].span);
            }
        }
        this
    }
}
