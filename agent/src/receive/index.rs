//! What a receiver remembers of the chunks it has: enough to dedupe and to check the chain. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::manifest::Manifest;
use crate::types::{ChunkId, Digest, StreamId};

/// What is to be done with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is new: store it.
    New,
    /// It is already here.
    Duplicate,
    /// It contradicts what is already here.
    Conflict(&'static str),
}

/// Ids and chain digests of everything stored: about 200 bytes a chunk.
#[derive(Debug, Default)]
pub struct Index {
    digests: HashMap<ChunkId, Digest>,
    chains: HashMap<StreamId, HashMap<String, Chain>>,
}

/// The digests that count as the content of a sequence number. More than one only where a chunk was stored and its
/// sender, not knowing, declared it lost.
type Chain = BTreeMap<u64, Vec<Digest>>;

/// The digest that the next chunk names as its predecessor's: of a part, that of the whole.
pub fn chain_digest(manifest: &Manifest) -> Digest {
    manifest.part_of.map_or(manifest.digest, |part| part.digest)
}

impl Index {
    /// Remembers a stored chunk.
    pub fn insert(&mut self, manifest: &Manifest) {
        self.digests.insert(manifest.id, manifest.digest);
        let chains = self.chains.entry(manifest.stream).or_default();
        let digests = chains.entry(manifest.source.clone()).or_default().entry(manifest.sequence).or_default();
        let digest = chain_digest(manifest);
        if !digests.contains(&digest) {
            digests.push(digest);
        }
    }

    /// Chunks remembered.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Decides by the manifest alone. A part of a chunk that is here as a whole is a duplicate too.
    pub fn decide(&self, manifest: &Manifest) -> Decision {
        let whole = manifest.part_of.map(|part| (part.id, part.digest));
        for (id, digest) in std::iter::once((manifest.id, manifest.digest)).chain(whole) {
            match self.digests.get(&id) {
                Some(known) if *known == digest => return Decision::Duplicate,
                Some(_) => return Decision::Conflict("another content is stored under this chunk id"),
                None => {}
            }
        }
        match self.predecessor(manifest) {
            Some(digests) if !digests.contains(&manifest.previous) => {
                Decision::Conflict("the previous digest is not that of the stored predecessor")
            }
            _ => Decision::New,
        }
    }

    /// What is known of the content before; nothing is fine, since chunks arrive in any order.
    fn predecessor(&self, manifest: &Manifest) -> Option<&[Digest]> {
        match manifest.sequence.checked_sub(1)? {
            0 => Some(&[Digest::ZERO]),
            before => Some(self.chains.get(&manifest.stream)?.get(&manifest.source)?.get(&before)?),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::manifest::{Kind, PartOf};
    use crate::types::{FileId, Fingerprint, Span};

    /// A chunk of one 10-byte line at `sequence`, which tiles the file with its neighbours.
    pub(in crate::receive) fn chunk(sequence: u8, previous: Digest) -> Manifest {
        let span = Span::new(u64::from(sequence - 1) * 10, u64::from(sequence) * 10);
        Manifest {
            id: ChunkId([sequence; 16]),
            kind: Kind::Lines,
            cluster_id: "cluster".into(),
            service_id: String::new(),
            node_id: "node".into(),
            stream: StreamId([7; 16]),
            source: "/audit.log".into(),
            path: "/audit.log".into(),
            file: FileId { device: 1, inode: 2, birth_ns: 3, fingerprint: Fingerprint::of(b"x\n") },
            span,
            sequence: sequence.into(),
            previous,
            digest: Digest([sequence; 32]),
            content_bytes: 10,
            events: 1,
            malformed: 0,
            first_audit_id: None,
            last_audit_id: None,
            part_of: None,
        }
    }

    // Fails if a re-sent chunk is stored twice, or if other content under a known id passes as re-sent.
    #[test]
    fn an_id_is_stored_once() {
        let mut index = Index::default();
        let first = chunk(1, Digest::ZERO);
        assert_eq!(index.decide(&first), Decision::New);
        index.insert(&first);
        assert_eq!(index.decide(&first), Decision::Duplicate);
        assert!(matches!(index.decide(&Manifest { digest: Digest([9; 32]), ..first }), Decision::Conflict(_)));
    }

    // Fails if a broken chain is stored, or if an unknown predecessor is taken for a broken chain.
    #[test]
    fn the_chain_is_checked_where_the_predecessor_is_known() {
        let mut index = Index::default();
        let (first, second) = (chunk(1, Digest::ZERO), chunk(2, Digest([1; 32])));
        assert!(matches!(index.decide(&chunk(1, Digest([8; 32]))), Decision::Conflict(_)));
        assert_eq!(index.decide(&chunk(2, Digest([8; 32]))), Decision::New);
        index.insert(&first);
        assert_eq!(index.decide(&second), Decision::New);
        assert!(matches!(index.decide(&chunk(2, Digest([8; 32]))), Decision::Conflict(_)));
        let elsewhere = Manifest { source: "/other.log".into(), ..chunk(2, Digest([8; 32])) };
        assert_eq!(index.decide(&elsewhere), Decision::New);
    }

    // Fails if the successor of a split chunk has to name a part's digest, or parts of a stored whole are stored again.
    #[test]
    fn parts_count_as_the_whole() {
        let whole = chunk(1, Digest::ZERO);
        let part_of = Some(PartOf { id: whole.id, span: whole.span, digest: whole.digest });
        let part = Manifest { id: ChunkId([50; 16]), digest: Digest([50; 32]), part_of, ..chunk(1, Digest::ZERO) };
        let mut index = Index::default();
        index.insert(&part);
        assert_eq!(index.decide(&chunk(2, whole.digest)), Decision::New);
        assert!(matches!(index.decide(&chunk(2, part.digest)), Decision::Conflict(_)));
        let mut index = Index::default();
        index.insert(&whole);
        assert_eq!(index.decide(&part), Decision::Duplicate);
    }

    // Fails if a chunk stored unknown to its sender and then declared lost breaks the chain for good.
    #[test]
    fn a_lost_chunk_that_was_stored_leaves_two_predecessors() {
        let mut index = Index::default();
        index.insert(&chunk(1, Digest::ZERO));
        index.insert(&Manifest {
            id: ChunkId([60; 16]),
            kind: Kind::Loss,
            digest: Digest([60; 32]),
            ..chunk(1, Digest::ZERO)
        });
        assert_eq!(index.len(), 2);
        assert_eq!(index.decide(&chunk(2, Digest([60; 32]))), Decision::New);
        assert_eq!(index.decide(&chunk(2, Digest([1; 32]))), Decision::New);
    }
}
