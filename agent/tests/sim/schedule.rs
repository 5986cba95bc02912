//! One seed gives one schedule: what happens when, to the log, the disk, the destination and the agent.

use crate::destination::Mood;
use crate::disk::Faults;
use crate::writer::Act;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Action {
    /// To the log.
    Log(Act),
    /// To the network and the destination, until it changes again.
    Destination(Mood),
    /// To the disk, until it changes again.
    Disk { short_reads: bool, read_error_in: u32, state_full: bool },
    /// The agent is killed; after so many milliseconds it is started again.
    Kill { down_ms: u32 },
    /// The agent is asked to stop; after so many milliseconds it is started again.
    Stop { down_ms: u32 },
    /// The wall clock jumps by so many seconds.
    ClockJump(i32),
}

impl Action {
    pub(crate) fn faults(self) -> Option<Faults> {
        match self {
            Self::Disk { short_reads, read_error_in, state_full } => {
                Some(Faults { short_reads, read_error_in, state_full, lying_sync: false })
            }
            _ => None,
        }
    }
}

/// How the agent of one run is configured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub offload_amount_bytes: u64,
    pub offload_after_ms: u64,
    pub poll_ms: u64,
    pub rescan_ms: u64,
    pub in_flight: usize,
    /// Whether the file system keeps birth times.
    pub births: bool,
    pub max_event_bytes: usize,
}

/// What happens, each so many milliseconds after the one before.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub seed: u64,
    pub settings: Settings,
    pub steps: Vec<(u32, Action)>,
}

/// How the log is rotated in one run; mixtures have no order that could be checked.
#[derive(Clone, Copy)]
enum Scheme {
    Stamped,
    Numbered,
    CopyTruncate,
}

pub(crate) fn from_seed(seed: u64) -> Schedule {
    let mut rng = fastrand::Rng::with_seed(seed);
    let settings = Settings {
        offload_amount_bytes: rng.u64(500..8_000),
        offload_after_ms: [0, 50, 500, 3_000][rng.usize(..4)],
        poll_ms: [20, 200, 2_000, 30_000][rng.usize(..4)],
        rescan_ms: rng.u64(500..6_000),
        in_flight: rng.usize(1..5),
        births: rng.u8(..4) > 0,
        max_event_bytes: 512 * 1024,
    };
    let scheme = [Scheme::Stamped, Scheme::Stamped, Scheme::Numbered, Scheme::CopyTruncate][rng.usize(..4)];
    let mut steps: Vec<_> = (0..rng.usize(5..60)).map(|_| (pause_ms(&mut rng), action(&mut rng, scheme))).collect();
    keep_to_the_limits(&mut steps, scheme);
    Schedule { seed, settings, steps }
}

/// Leaves out what ARCHITECTURE.md names as known limits: a second hole before the first was read past (its beginning is
/// the same NUL bytes), and a log that is moved away while it is being emptied in place.
fn keep_to_the_limits(steps: &mut [(u32, Action)], scheme: Scheme) {
    let mut holes = 0;
    for (_, action) in steps {
        match action {
            Action::Log(Act::CopyTruncate { append: append @ false }) => {
                *append = holes > 0;
                holes += 1;
            }
            Action::Log(act @ Act::MoveAway) if matches!(scheme, Scheme::CopyTruncate) => *act = Act::Write(1),
            _ => {}
        }
    }
}

fn pause_ms(rng: &mut fastrand::Rng) -> u32 {
    match rng.u8(..10) {
        0..5 => rng.u32(..20),
        5..8 => rng.u32(..400),
        _ => rng.u32(..5_000),
    }
}

fn action(rng: &mut fastrand::Rng, scheme: Scheme) -> Action {
    let down_ms = rng.u32(..3_000);
    match rng.u8(..100) {
        0..40 => Action::Log(Act::Write(rng.u8(1..30))),
        40..44 => Action::Log(Act::WriteHalf),
        44..47 => Action::Log(Act::Tear),
        47..62 => Action::Log(rotation(rng, scheme)),
        62..67 => Action::Log(Act::CompressBegin),
        67..72 => Action::Log(Act::CompressEnd),
        72..75 => Action::Log(Act::RemoveOldest),
        75..77 => Action::Log(Act::MoveAway),
        77..79 => Action::Log(Act::Reopen),
        79..86 => Action::Destination(mood(rng)),
        86..90 => Action::Disk {
            short_reads: rng.bool(),
            read_error_in: [0, 0, 5, 30][rng.usize(..4)],
            state_full: rng.u8(..3) == 0,
        },
        90..96 => Action::Kill { down_ms },
        96..98 => Action::Stop { down_ms },
        _ => Action::ClockJump(rng.i32(-100_000..100_000)),
    }
}

fn rotation(rng: &mut fastrand::Rng, scheme: Scheme) -> Act {
    match scheme {
        Scheme::Stamped if rng.u8(..5) == 0 => Act::RotateTwice,
        Scheme::Stamped => Act::Rotate { gap: rng.bool() },
        Scheme::Numbered => Act::RotateNumbered,
        Scheme::CopyTruncate => Act::CopyTruncate { append: rng.bool() },
    }
}

fn mood(rng: &mut fastrand::Rng) -> Mood {
    let moods = [
        Mood::Fine,
        Mood::Fine,
        Mood::Slow,
        Mood::Unavailable,
        Mood::ResetBefore,
        Mood::AnswerLost,
        Mood::Unauthorized,
        Mood::SmallBodies,
        Mood::Mixed,
    ];
    moods[rng.usize(..moods.len())]
}

/// The shortest schedule found that still fails: steps are left out, more and more of them at a time first.
pub(crate) fn minimise(schedule: &Schedule, fails: impl Fn(&Schedule) -> bool) -> Schedule {
    let mut best = schedule.clone();
    let mut width = best.steps.len().max(2) / 2;
    while width > 0 {
        let mut at = 0;
        while at < best.steps.len() {
            let mut shorter = best.clone();
            shorter.steps.drain(at..(at + width).min(shorter.steps.len()));
            if fails(&shorter) {
                best = shorter;
            } else {
                at += width;
            }
        }
        width /= 2;
    }
    best
}
