//! A destination that recognises repeats and checks what it is given, as `auditail receive` does, behind a network that
//! fails as it is told.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use auditail::manifest::{Kind, Manifest};
use auditail::types::{ChunkId, Digest};
use auditail::upload::{Delivery, Destination, Outcome};

/// What the network and the destination do with a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Fine,
    /// Takes its time, then accepts.
    Slow,
    /// 503 with or without Retry-After.
    Unavailable,
    /// The connection breaks before the request is understood.
    ResetBefore,
    /// The chunk is stored; the answer is lost.
    AnswerLost,
    /// 401.
    Unauthorized,
    /// 413 above so many bytes.
    SmallBodies,
    /// Any of the above.
    Mixed,
}

/// Bodies above this are too large in [`Mood::SmallBodies`].
const SMALL_BODY_BYTES: u64 = 700;

pub(crate) struct Stored {
    pub manifest: Manifest,
    pub content: Vec<u8>,
}

pub(crate) struct SimDestination {
    pub mood: Cell<Mood>,
    rng: RefCell<fastrand::Rng>,
    pub stored: RefCell<BTreeMap<ChunkId, Stored>>,
    /// Order in which chunks were first stored.
    pub order: RefCell<Vec<ChunkId>>,
    pub complaints: RefCell<Vec<String>>,
    pub requests: Cell<u64>,
}

impl SimDestination {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            mood: Cell::default(),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            stored: RefCell::default(),
            order: RefCell::default(),
            complaints: RefCell::default(),
            requests: Cell::new(0),
        }
    }

    fn complain(&self, what: String) {
        self.complaints.borrow_mut().push(what);
    }

    fn accept(&self, delivery: &Delivery) {
        let manifest = &delivery.manifest;
        let body = delivery.body.concat();
        let mut content = Vec::new();
        let mut decoder = flate2::bufread::GzDecoder::new(&body[..]);
        if let Err(error) = decoder.read_to_end(&mut content) {
            self.complain(format!("{}: the body does not decode: {error}", manifest.id));
        }
        if !decoder.into_inner().is_empty() {
            self.complain(format!("{}: bytes behind the gzip member", manifest.id));
        }
        if Digest(*blake3::hash(&content).as_bytes()) != manifest.digest {
            self.complain(format!("{}: the digest is not that of the content", manifest.id));
        }
        let lines = memchr::memchr_iter(b'\n', &content).count() as u64;
        if manifest.kind == Kind::Lines && lines != manifest.events + manifest.malformed {
            self.complain(format!(
                "{}: {lines} lines, {} events, {} malformed",
                manifest.id, manifest.events, manifest.malformed
            ));
        }
        let mut stored = self.stored.borrow_mut();
        if let Some(first) = stored.get(&manifest.id) {
            if first.manifest.digest != manifest.digest || first.manifest.span != manifest.span {
                self.complain(format!("{}: sent again with other content or range", manifest.id));
            }
            return;
        }
        tracing::debug!(
            target: "auditail::sim", sequence = manifest.sequence, kind = ?manifest.kind, path = manifest.path, file = %manifest.file, span = %manifest.span,
            "stored"
        );
        stored.insert(manifest.id, Stored { manifest: manifest.clone(), content });
        self.order.borrow_mut().push(manifest.id);
    }
}

impl Destination for SimDestination {
    async fn send(&self, delivery: &Delivery) -> Outcome {
        self.requests.set(self.requests.get() + 1);
        let (mood, delay_ms) = {
            let mut rng = self.rng.borrow_mut();
            let moods =
                [Mood::Fine, Mood::Slow, Mood::Unavailable, Mood::ResetBefore, Mood::AnswerLost, Mood::Unauthorized];
            let mood = if self.mood.get() == Mood::Mixed { moods[rng.usize(..moods.len())] } else { self.mood.get() };
            (mood, rng.u64(if mood == Mood::Slow { 500..5000 } else { 1..30 }))
        };
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        let reason = || "simulated".to_owned();
        let known = self.stored.borrow().contains_key(&delivery.manifest.id);
        match mood {
            Mood::Unavailable => Outcome::Retry { reason: reason(), after: Some(Duration::from_millis(delay_ms * 10)) },
            Mood::ResetBefore => Outcome::Retry { reason: reason(), after: None },
            Mood::Unauthorized => Outcome::Unauthorized { reason: reason() },
            // A destination says that it has a chunk before it says that it is too large: docs/protocol.md.
            Mood::SmallBodies if !known && delivery.body_bytes() > SMALL_BODY_BYTES => Outcome::TooLarge,
            Mood::AnswerLost => {
                self.accept(delivery);
                Outcome::Retry { reason: reason(), after: None }
            }
            Mood::Fine | Mood::Slow | Mood::SmallBodies | Mood::Mixed => {
                self.accept(delivery);
                Outcome::Delivered
            }
        }
    }
}
