//! How much may be sent: of a member's credit, of the group's bounds, of its rate (rules FC-2, RT-9).

/// What is leased in all.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Records.
    pub(super) records: u64,
    /// Bytes.
    pub(super) bytes: u64,
}

/// Deliveries a second (rule RT-9): a bucket that holds what a tenth of a second allows, at least one record.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// Deliveries a second; 0: no limit.
    per_second: u64,
    /// Thousandths of records that may go out now.
    tokens: u64,
    /// Until when tokens were filled in.
    filled_ms: u64,
}

impl Rate {
    /// Fills the bucket and tells how many records may go out; `None`: any number.
    pub(super) fn room(&mut self, per_second: u64, now_ms: u64) -> Option<u64> {
        let most = (per_second * 100).max(1_000);
        if self.per_second != per_second {
            (self.per_second, self.tokens, self.filled_ms) = (per_second, most, now_ms);
        }
        if per_second == 0 {
            return None;
        }
        let passed = now_ms.saturating_sub(self.filled_ms);
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(per_second)).min(most);
        self.filled_ms = now_ms;
        Some(self.tokens / 1_000)
    }

    /// When the next record may go out.
    pub(super) fn next_ms(&self) -> u64 {
        let lacking = 1_000_u64.saturating_sub(self.tokens);
        self.filled_ms + lacking.div_ceil(self.per_second.max(1)).max(1)
    }

    /// Records went out.
    pub(super) fn take(&mut self, records: u64) {
        self.tokens = self.tokens.saturating_sub(records.saturating_mul(1_000));
    }
}

/// What a member may be sent now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Records.
    pub(super) records: u64,
    /// Bytes; the first record may be larger if `alone`.
    pub(super) bytes: u64,
    /// The member has nothing: one record of any size may be sent (rule FC-2).
    pub(super) alone: bool,
}

impl Room {
    /// Whether a record of this size fits.
    pub(super) fn fits(&self, size: u64) -> bool {
        self.records > 0 && (size <= self.bytes || self.alone)
    }

    /// A record of this size was taken.
    pub(super) fn take(&mut self, records: u64, bytes: u64) {
        self.records = self.records.saturating_sub(records);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.alone = false;
    }

    /// What both leave.
    pub(super) fn within(self, other: Self) -> Self {
        Self {
            records: self.records.min(other.records),
            bytes: self.bytes.min(other.bytes),
            alone: self.alone && other.alone,
        }
    }
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    /// Records.
    pub(super) records: u64,
    /// Bytes.
    pub(super) bytes: u64,
    /// There is more to send as soon as there is room.
    pub(super) more: bool,
}

impl Room {
    /// Something was taken, if anything.
    pub(super) fn take_if(&mut self, used: Used) {
        if used.records > 0 {
            self.take(used.records, used.bytes);
        }
    }
}
