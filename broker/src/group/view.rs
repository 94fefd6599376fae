//! What people and metrics ask of a live group: leases, credits, bounds. Nothing durable hangs on it.

use super::machine::Machine;
use super::record::GapReason;
use crate::model::{AssignedUnit, MemberId, Offset, OffsetRange, Source};

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
}

impl Machine {
    /// A member's live side.
    pub fn member_live(&self, member: MemberId) -> Option<MemberLive> {
        self.state.members.get(&member).map(|_| MemberLive::default())
    }

    /// A partition's live side.
    pub fn partition_live(&self, source: Source) -> Option<PartitionLive> {
        let partition = self.state.partitions.get(&source)?;
        Some(PartitionLive { read_to: partition.settled.floor(), ..PartitionLive::default() })
    }

    /// The circuit breaker.
    pub fn breaker_view(&self) -> BreakerView {
        BreakerView { forced: self.state.breaker.as_ref().map(|(forced, _)| *forced), ..BreakerView::default() }
    }
}
