//! Upload and commit: several chunks on their way at once, receipts into the ledger, refused chunks set aside.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Pipeline, report};
use crate::disk::Disk;
use crate::ledger::State;
use crate::manifest::{Encoding, Manifest};
use crate::upload::deliver::{Verdict, deliver};
use crate::upload::retry::RetryPolicy;
use crate::upload::{Delivery, Destination};

/// Folder of the state directory in which refused chunks are kept.
pub const ASIDE: &str = "aside";

/// Pause between attempts to set a chunk aside, when there is no room for it.
const ASIDE_RETRY: Duration = Duration::from_secs(30);

/// What is kept beside the body of a chunk that was set aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AsideRecord {
    /// The manifest under which it was sent, and under which `ship` sends it again.
    pub manifest: Manifest,
    /// How the body is compressed.
    pub encoding: Encoding,
    /// What the destination said.
    pub reason: String,
}

/// A closed chunk on its way.
pub(super) struct Outgoing {
    pub source: usize,
    pub sequence: u64,
    pub delivery: Delivery,
    /// Generation of the state that has to be durable before this may be sent.
    pub generation: u64,
    pub oldest_event_us: Option<i64>,
}

/// How a chunk's way has ended.
pub(super) struct Uploaded {
    outgoing: Outgoing,
    end: End,
}

enum End {
    Delivered,
    TooLarge,
    SetAside { reason: String },
}

impl<D: Disk, T: Destination> Pipeline<D, T> {
    /// Sends chunks whose identity is durable, as far as requests may be in flight.
    pub(super) fn start_uploads(&mut self) {
        while self.uploads.len() < self.config.limits.in_flight {
            let Some(at) = self.outbox.iter().position(|outgoing| self.state.is_durable(outgoing.generation)) else { return };
            let Some(outgoing) = self.outbox.remove(at) else { return };
            let (disk, destination) = (self.disk.clone(), self.destination.clone());
            let policy = RetryPolicy::from(&self.config.destination);
            let aside_bytes_max = self.config.limits.aside_bytes;
            self.uploads.push(Box::pin(async move {
                let mut rng = fastrand::Rng::new();
                let verdict = deliver(&*destination, &outgoing.delivery, &policy, &mut rng, &mut report::attempt).await;
                let end = match verdict {
                    Verdict::Delivered => End::Delivered,
                    Verdict::TooLarge if is_divisible(&outgoing.delivery.manifest) => End::TooLarge,
                    Verdict::TooLarge => {
                        let reason = "a single event larger than the destination takes (413)".to_owned();
                        set_aside(&disk, &outgoing.delivery, reason, aside_bytes_max).await
                    }
                    Verdict::Refused { reason } => set_aside(&disk, &outgoing.delivery, reason, aside_bytes_max).await,
                };
                Uploaded { outgoing, end }
            }));
        }
    }

    pub(super) fn on_uploaded(&mut self, uploaded: Uploaded) {
        let Uploaded { outgoing, end } = uploaded;
        let Outgoing { source: index, sequence, delivery, oldest_event_us, .. } = outgoing;
        let (id, span) = (delivery.manifest.id, delivery.manifest.span);
        let source = &mut self.sources[index];
        let now = Instant::now();
        match end {
            End::Delivered => {
                source.ledger.settle(sequence, id, State::Delivered);
                report::delivered(&delivery, latency(oldest_event_us));
                self.progress.delivered(span.len(), delivery.manifest.events);
                self.state.changed(now);
            }
            End::TooLarge => {
                tracing::warn!(chunk = %id, body_bytes = delivery.body_bytes(), "the destination takes no body of this size: sending it in parts");
                source.split(sequence, id, span);
                self.state.changed(now);
            }
            End::SetAside { reason } => {
                tracing::error!(
                    chunk = %id, source = source.name, span = %span, reason,
                    "the destination refused a chunk for good; it is kept in the state directory: mend the cause, then `auditail ship` it"
                );
                report::set_aside(&delivery);
                source.ledger.settle(sequence, id, State::Aside);
                self.progress.set_aside();
                self.state.changed_now(now);
            }
        }
    }

    pub(super) fn on_saved(&mut self, result: &std::io::Result<()>) {
        report::saved(result);
        if let Err(error) = result
            && self.state.failures().is_power_of_two()
        {
            tracing::error!(
                %error, failures = self.state.failures(),
                "cannot write the checkpoint: nothing new is sent until it can be written; free space or mend the state directory"
            );
        }
    }
}

fn is_divisible(manifest: &Manifest) -> bool {
    manifest.events + manifest.malformed > 1
}

fn latency(event_us: Option<i64>) -> Option<Duration> {
    let event = Duration::from_micros(u64::try_from(event_us?).ok()?);
    SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(event)
}

/// Keeps a refused chunk in the state directory. Waits while there is no room: giving up would lose it.
async fn set_aside<D: Disk>(disk: &Rc<D>, delivery: &Delivery, reason: String, bytes_max: u64) -> End {
    let mut failures = 0u32;
    loop {
        match try_set_aside(disk, delivery, &reason, bytes_max).await {
            Ok(()) => return End::SetAside { reason },
            Err(error) => {
                failures += 1;
                if failures.is_power_of_two() {
                    tracing::error!(chunk = %delivery.manifest.id, %error, reason, "cannot set a refused chunk aside; delivery of its log waits");
                }
            }
        }
        tokio::time::sleep(ASIDE_RETRY).await;
    }
}

async fn try_set_aside<D: Disk>(disk: &Rc<D>, delivery: &Delivery, reason: &str, bytes_max: u64) -> std::io::Result<()> {
    let Delivery { manifest, encoding, body } = delivery;
    let stem = manifest.id.to_string();
    let kept: u64 = disk.list_state(ASIDE.as_ref())?.iter().filter(|(name, _)| !name.starts_with(&stem)).map(|(_, bytes)| bytes).sum();
    if kept + delivery.body_bytes() > bytes_max {
        return Err(std::io::Error::other(format!(
            "{kept} bytes are kept in {ASIDE}/ already and limits.aside is {bytes_max}: ship or remove them, or raise the limit"
        )));
    }
    let record = AsideRecord { manifest: manifest.clone(), encoding: *encoding, reason: reason.to_owned() };
    let record = serde_json::to_vec_pretty(&record).map_err(std::io::Error::other)?;
    // The manifest is written last: a body without one is the trace of a crash, and the chunk is then still undelivered.
    disk.replace_state(aside_body(&stem, *encoding), body.clone()).await?;
    disk.replace_state(PathBuf::from(ASIDE).join(format!("{stem}.json")), vec![Bytes::from(record)]).await
}

/// Name of a set-aside body within the state directory.
pub fn aside_body(stem: &str, encoding: Encoding) -> PathBuf {
    PathBuf::from(ASIDE).join(format!("{stem}.ndjson.{}", encoding.extension()))
}
