//! What people and metrics ask of a live group: leases, credits, bounds. Nothing durable hangs on it.

use super::breaker::BreakerState;
use super::lanes::QueueKind;
use super::machine::Machine;
use super::record::GapReason;
use crate::model::{AssignedUnit, MemberId, Offset, OffsetRange, SlotRange, Source};

/// Where a circuit breaker stands (rules CB-1 to CB-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BreakerMode {
    /// Deliveries flow.
    #[default]
    Closed,
    /// Probes alone are delivered.
    Open,
    /// It has closed and deliveries rise again.
    Ramping,
    /// Switched off by configuration.
    Off,
}

/// A circuit breaker at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BreakerView {
    /// Where it stands.
    pub mode: BreakerMode,
    /// Open or closed by hand.
    pub forced: Option<bool>,
    /// Why it is open.
    pub reason: String,
    /// Since when, by the wall clock; 0: since ever.
    pub since_ms: i64,
    /// When the next probe is sent, by the wall clock.
    pub next_probe_ms: Option<i64>,
    /// The most frequent failures: fingerprint, class, count.
    pub top: Vec<(String, String, u64)>,
}

/// A member's live side.
#[derive(Debug, Clone, Default)]
pub struct MemberLive {
    /// It has a stream.
    pub connected: bool,
    /// Monotonic time at which something was last heard of it.
    pub last_seen_ms: u64,
    /// Monotonic time at which it is lost without a sign of life.
    pub lost_at_ms: Option<u64>,
    /// Records leased to it.
    pub in_flight: u64,
    /// Credit left in records.
    pub credit_records: u64,
    /// Credit left in bytes.
    pub credit_bytes: u64,
    /// Units that it is handing over.
    pub revoking: Vec<AssignedUnit>,
}

/// That a unit waits for what its reader depends on, such as its database (rule RM-6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// Why, as its reader said.
    pub reason: String,
    /// Since when, by the wall clock.
    pub since_ms: i64,
}

/// A partition's live side.
#[derive(Debug, Clone, Default)]
pub struct PartitionLive {
    /// First offset that was not delivered yet, of those that can be; `None`: all were.
    pub undelivered: Option<(Offset, i64)>,
    /// First offset that was not looked at.
    pub read_to: Offset,
    /// Records leased.
    pub in_flight: u64,
    /// Records read ahead and not settled.
    pub held: u64,
    /// Lanes that wait for a retry.
    pub blocked_lanes: u64,
    /// A gap at which the group has stopped.
    pub gap: Option<(OffsetRange, GapReason)>,
    /// That gap is accepted, and passed once its reader is there (rule RM-1).
    pub gap_accepted: bool,
    /// Its reader waits (mode OFFSET).
    pub stalled: Option<Stall>,
}

impl Machine {
    /// A member's live side.
    pub fn member_live(&self, member: MemberId) -> Option<MemberLive> {
        let one = self.members.get(member)?;
        let drains = self.hand_over.drains_of(member).iter().map(|drain| drain.unit);
        let pending = self.hand_over.pending.keys().filter(|source| {
            self.state.owners.get(source).is_some_and(|runs| runs.iter().any(|run| run.member == member))
        });
        let pending = pending.map(|source| AssignedUnit { source: *source, slots: SlotRange::ALL });
        Some(MemberLive {
            connected: one.attached,
            last_seen_ms: one.last_seen_ms,
            lost_at_ms: (!one.lapsed).then(|| one.last_seen_ms + self.state.config.session_timeout_ms),
            in_flight: one.leased_records,
            credit_records: u64::try_from(one.records_left).unwrap_or(0),
            credit_bytes: u64::try_from(one.bytes_left).unwrap_or(0),
            revoking: drains.chain(pending).collect(),
        })
    }

    /// A partition's live side.
    pub fn partition_live(&self, source: Source) -> Option<PartitionLive> {
        let work = self.works.get(&source)?;
        let reading = &work.reading;
        let unread = (reading.next < reading.high_watermark).then_some((reading.next, reading.last_append_ms));
        let ready = (0..work.owners.len() as u32).flat_map(|owner| {
            [QueueKind::Exempt, QueueKind::Suspect, QueueKind::Ready].map(|kind| work.next_ready(owner, kind))
        });
        let ready = ready.flatten().map(|index| (work.record(index).offset, work.record(index).append_ms)).min();
        let (gap, gap_accepted) = self.gap_of(source);
        Some(PartitionLive {
            undelivered: ready.or(unread),
            read_to: reading.next,
            in_flight: work.leased().into(),
            held: work.held().into(),
            blocked_lanes: work.blocked().into(),
            gap,
            gap_accepted,
            stalled: self.stall_of(source).cloned(),
        })
    }

    /// The circuit breaker, as of the last event.
    pub fn breaker_view(&self) -> BreakerView {
        let now = self.now;
        let wall = |at_ms: u64| {
            let ahead = i64::try_from(at_ms).unwrap_or(i64::MAX) - i64::try_from(now.monotonic_ms).unwrap_or(i64::MAX);
            now.wall_ms.saturating_add(ahead)
        };
        let forced = self.breaker.forced();
        let (mode, since_ms, next_probe_ms, reason) = match self.breaker.state(now.monotonic_ms) {
            BreakerState::Closed if !self.state.config.breaker.enabled && forced.is_none() => {
                (BreakerMode::Off, 0, None, None)
            }
            BreakerState::Closed => (BreakerMode::Closed, 0, None, None),
            BreakerState::Ramp { .. } => (BreakerMode::Ramping, 0, None, None),
            BreakerState::Open { since_ms, reason, next_probe_ms } => {
                (BreakerMode::Open, wall(since_ms), next_probe_ms.map(wall), Some(reason))
            }
            BreakerState::Probing { since_ms, reason, .. } => (BreakerMode::Open, wall(since_ms), None, Some(reason)),
        };
        let top = self.breaker.top_failures().into_iter();
        BreakerView {
            mode,
            forced,
            reason: reason.map(super::idle::reason_text).unwrap_or_default(),
            since_ms,
            next_probe_ms,
            top: top.map(|one| (one.fingerprint, one.class, u64::from(one.keys))).collect(),
        }
    }
}
