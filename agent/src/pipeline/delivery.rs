//! Upload and commit: several chunks on their way at once, receipts into the ledger, refused chunks set aside.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::aside::set_aside;
use super::source::Source;
use super::{Pipeline, report};
use crate::disk::Disk;
use crate::ledger::State;
use crate::manifest::Manifest;
use crate::types::ChunkId;
use crate::upload::deliver::{Verdict, deliver};
use crate::upload::retry::RetryPolicy;
use crate::upload::{Delivery, Destination};

/// A closed chunk on its way.
pub(super) struct Outgoing {
    pub(super) source: usize,
    pub(super) sequence: u64,
    pub(super) delivery: Delivery,
    /// Generation of the state that has to be durable before this may be sent.
    pub(super) generation: u64,
    pub(super) oldest_event_us: Option<u64>,
    /// It was to be divided and could not be: all of it is one line.
    pub(super) indivisible: bool,
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
            let Some(at) = self.outbox.iter().position(|outgoing| self.state.is_durable(outgoing.generation)) else {
                return;
            };
            let Some(outgoing) = self.outbox.remove(at) else { return };
            let (disk, destination) = (self.disk.clone(), self.destination.clone());
            let policy = RetryPolicy::from(&self.config.destination);
            let aside_bytes_max = self.config.limits.aside_bytes;
            self.uploads.push(Box::pin(async move {
                let mut rng = fastrand::Rng::new();
                let verdict = deliver(&*destination, &outgoing.delivery, &policy, &mut rng, &mut report::attempt).await;
                let end = match verdict {
                    Verdict::Delivered => End::Delivered,
                    Verdict::TooLarge if !outgoing.indivisible && is_divisible(&outgoing.delivery.manifest) => {
                        End::TooLarge
                    }
                    Verdict::TooLarge => {
                        let reason = "a single event larger than the destination takes (413)".to_owned();
                        set_aside(&disk, &outgoing.delivery, &reason, aside_bytes_max).await;
                        End::SetAside { reason }
                    }
                    Verdict::Refused { reason } => {
                        set_aside(&disk, &outgoing.delivery, &reason, aside_bytes_max).await;
                        End::SetAside { reason }
                    }
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
                source.settle(sequence, id, State::Delivered);
                report::delivered(&delivery, latency(oldest_event_us));
                self.progress.delivered(&delivery.manifest);
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
                source.settle(sequence, id, State::Aside);
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

impl<D: Disk> Source<D> {
    /// A chunk or a part of one needs no further delivery.
    fn settle(&mut self, sequence: u64, id: ChunkId, state: State) {
        self.ledger.settle(sequence, id, state);
        self.unconfirmed = self.unconfirmed.split_off(&(self.ledger.committed + 1));
    }
}

fn is_divisible(manifest: &Manifest) -> bool {
    manifest.events + manifest.malformed > 1
}

fn latency(event_us: Option<u64>) -> Option<Duration> {
    let event = Duration::from_micros(event_us?);
    SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(event)
}
