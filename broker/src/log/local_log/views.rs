//! What the owner of a log may ask about it; nothing here changes the log.

use super::LocalLog;
use crate::model::Offset;

/// A segment as retention and listings see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last record.
    pub end: Offset,
    /// Bytes of its log file.
    pub bytes: u64,
    /// Append time of its last frame in milliseconds since 1970; 0 if it has none. Of a segment that is damaged as a
    /// whole, that of the segment after it.
    pub last_append_time_ms: i64,
    /// Whether it takes appends.
    pub active: bool,
}

impl LocalLog {
    /// End of the log: the offset that the next record gets.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Everything below is known to be synced.
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// Bytes appended and not yet synced.
    pub fn unsynced_bytes(&self) -> u64 {
        self.active.end_position - self.active.durable_position
    }

    /// Why the log is fenced, if it is.
    pub fn fenced(&self) -> Option<&str> {
        self.fenced.as_deref()
    }

    /// Error number of the call whose failure fenced the log, if the log made the call itself and knows it.
    pub fn fence_errno(&self) -> Option<i32> {
        self.fence_errno
    }

    /// Append time of the last frame in milliseconds since 1970: no later frame may have a lower one.
    pub fn last_append_time_ms(&self) -> i64 {
        self.last_append_time_ms
    }

    /// Whether the active segment must be sealed before so many more bytes are appended.
    pub fn must_roll(&self, incoming_bytes: u64) -> bool {
        let full = self.active.end_position.saturating_add(incoming_bytes) > self.environment.settings.segment_bytes;
        full && self.end > self.active.segment.base() && self.fenced.is_none()
    }

    /// Append time of the first frame of the active segment, if it has one: for rolling by age.
    pub fn active_since_ms(&self) -> Option<i64> {
        self.active.first_append_time_ms
    }

    /// Bytes of all log files.
    pub fn size_bytes(&self) -> u64 {
        let shared = self.shared.lock();
        let sealed: u64 = shared.segments.iter().filter_map(|segment| segment.facts()).map(|facts| facts.bytes).sum();
        sealed + self.active.end_position
    }

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        self.shared.lock().segments.len()
    }

    /// Each segment; oldest first, the active last. May read the index of a segment that was not used yet.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let segments = self.shared.lock().segments.clone();
        let mut infos = Vec::with_capacity(segments.len());
        let has_frames = self.active.first_append_time_ms.is_some();
        let mut later_time_ms = self.last_append_time_ms;
        for segment in segments.iter().rev() {
            let Some(facts) = segment.facts() else {
                infos.push(SegmentInfo {
                    base: segment.base(),
                    end: self.end,
                    bytes: self.active.end_position,
                    last_append_time_ms: if has_frames { self.last_append_time_ms } else { 0 },
                    active: true,
                });
                continue;
            };
            let known = segment.known_last_append_time_ms();
            let time_ms = known.or_else(|| segment.last_append_time_ms().ok().flatten()).unwrap_or(later_time_ms);
            infos.push(SegmentInfo {
                base: segment.base(),
                end: facts.end,
                bytes: facts.bytes,
                last_append_time_ms: time_ms,
                active: false,
            });
            later_time_ms = time_ms;
        }
        infos.reverse();
        infos
    }
}
