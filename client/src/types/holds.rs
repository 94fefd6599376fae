//! Whose unread records a topic keeps.

use sawlog_proto::v1;

/// Groups whose unread records retention keeps beyond the limits of a topic, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HoldGroups {
    /// Names of groups, at most 16; one that does not exist holds nothing.
    pub groups: Vec<String>,
    /// Milliseconds for which a segment is kept for them beyond its time; `None`: 7 days.
    pub max_ms: Option<i64>,
    /// Bytes of a partition that are kept for them beyond its limits; `None`: its share of 20 % of the disk.
    pub max_bytes: Option<i64>,
}

impl HoldGroups {
    pub(super) fn to_wire(&self) -> v1::HoldGroups {
        let (max_ms, max_bytes) = (self.max_ms.unwrap_or(0), self.max_bytes.unwrap_or(0));
        v1::HoldGroups { groups: self.groups.clone(), max_ms, max_bytes }
    }

    pub(super) fn from_wire(wire: &v1::HoldGroups) -> Self {
        let given = |value: i64| Some(value).filter(|value| *value > 0);
        Self { groups: wire.groups.clone(), max_ms: given(wire.max_ms), max_bytes: given(wire.max_bytes) }
    }
}
