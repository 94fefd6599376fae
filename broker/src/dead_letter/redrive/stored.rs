//! A job as it stands in the entries journal: JSON, versioned by its fields.

use serde::{Deserialize, Serialize};

use super::Piece;
use crate::dead_letter::views::{JobState, RedriveRequest};
use crate::group::entry::EntryKey;
use crate::model::{LaneKey, Offset, Source, TopicUuid};

/// What a job was asked for and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredJob {
    pub(super) request: RedriveRequest,
    pub(super) state: JobState,
    pub(super) pause_reason: String,
    pub(super) created_ms: i64,
    pub(super) ended_ms: Option<i64>,
    pub(super) selected: u64,
    pub(super) resolved: u64,
    pub(super) failed: u64,
    pub(super) passed: u64,
    /// Failures since it was started or resumed (rule RD-7).
    pub(super) failures: u32,
    /// What failed and is not taken again.
    pub(super) failed_pieces: Vec<StoredPiece>,
    /// Entries that are being appended to a topic (rule RD-3).
    #[serde(default)]
    pub(super) moving: Option<Moving>,
    /// Of source topics that entries are moved into: where each partition ended when the job began.
    #[serde(default)]
    pub(super) ends: Vec<(TopicUuid, Vec<Offset>)>,
}

/// A piece as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredPiece {
    source: Source,
    lane: LaneKey,
    entry: Option<EntryKey>,
}

/// Entries on their way to a topic: durable before they are appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moving {
    /// Name of the topic.
    pub(super) topic: String,
    /// The entries.
    pub(super) entries: Vec<EntryKey>,
    /// End of each of its partitions before.
    pub(super) ends: Vec<Offset>,
}

impl From<Piece> for StoredPiece {
    fn from(piece: Piece) -> Self {
        let (source, lane) = piece.lane();
        let entry = match piece {
            Piece::Lane(..) => None,
            Piece::One(key, _) => Some(key),
        };
        Self { source, lane, entry }
    }
}

impl StoredPiece {
    pub(super) fn piece(self) -> Piece {
        match self.entry {
            Some(key) => Piece::One(key, self.lane),
            None => Piece::Lane(self.source, self.lane),
        }
    }
}

impl StoredJob {
    pub(super) fn new(request: RedriveRequest, now_ms: i64, selected: u64) -> Self {
        Self {
            request,
            state: JobState::Running,
            pause_reason: String::new(),
            created_ms: now_ms,
            ended_ms: None,
            selected,
            resolved: 0,
            failed: 0,
            passed: 0,
            failures: 0,
            failed_pieces: Vec::new(),
            moving: None,
            ends: Vec::new(),
        }
    }

    /// Whether an entry's record came into its topic after the job began to append there: moved, its record would come
    /// back, be parked behind what is left of its key, and be moved again without end.
    pub(super) fn came_after(&self, key: &EntryKey) -> bool {
        let of_topic = self.ends.iter().find(|(topic, _)| *topic == key.source.topic);
        let end = of_topic.and_then(|(_, ends)| ends.get(key.source.partition.0 as usize));
        end.is_some_and(|end| key.offset >= *end)
    }

    /// Entries that it is done with.
    pub(super) fn done(&self) -> u64 {
        self.resolved + self.failed + self.passed
    }

    pub(super) fn halt(&mut self, state: JobState, why: &str, now_ms: i64) {
        self.state = state;
        why.clone_into(&mut self.pause_reason);
        if state.is_ended() {
            self.ended_ms = Some(now_ms);
        }
    }

    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists always have a JSON form")
    }

    pub(super) fn decode(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}
