//! Consumer groups as a pure state machine.
//!
//! [`machine::Machine`] takes events with the time, and gives effects: records for the journals, frames for members,
//! ranges to read, dead letters to move, the next deadline. It owns everything that a group knows and does nothing
//! itself: no I/O, no clock, no randomness, so that every history can be repeated from a seed.
//!
//! ```text
//!            events + now                    records          +---------------+
//!  session, log, timer, admin --> handle --> GroupRecord  --> | group journal |--> replay --> GroupState
//!                                   |        EntryRecord  --> | entry journal |--> replay --> EntryTable
//!                                   +------> frames, reads, moves: out once the records they stand on are durable
//! ```
//!
//! Invariants: durable state ([`state::GroupState`], [`entry::EntryTable`]) changes by `replay` alone, live as at
//! start; a lane's records are leased in order, to one member (rules KO-1, KO-2); a settled record is not delivered
//! again (rule AK-10); a dead letter is copied only under a durable intent, and settled only after its copy and its
//! entry are durable (rule DL-4).

mod admin;
mod answers;
mod arrivals;
pub mod assignor;
pub mod breaker;
mod claims;
pub mod config;
pub mod cursor_cut;
mod dead;
mod dead_lanes;
mod deadlines;
mod delivery;
pub mod effect;
pub mod entry;
mod entry_verbs;
pub mod event;
mod failing;
mod gaps;
mod held;
mod idle;
mod intents;
mod joining;
mod lane_moves;
mod lanes;
mod leases;
#[cfg(test)]
mod letters_support;
pub mod machine;
mod members;
mod offset_mode;
mod outcomes;
mod packing;
mod pauses;
mod read_ahead;
mod reading;
pub mod rebuild;
pub mod record;
mod redriven;
pub mod replay;
pub mod retry;
mod room;
pub mod settled;
pub mod skips;
mod slab;
mod spent;
mod spill;
pub mod state;
#[cfg(test)]
mod test_support;
pub mod took;
mod units;
mod verbs;
pub mod view;

pub use config::{ConfigError, GroupConfig, GroupTopic, Mode, OnGap, Positions, StartAt};

use serde::{Deserialize, Serialize};

/// A partition by its topic's name, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceName {
    /// Name of the topic.
    pub topic: String,
    /// Partition, from 0.
    pub partition: u32,
}

/// The time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic time in milliseconds since the start of the broker: leases, sessions, delays.
    pub monotonic_ms: u64,
    /// Wall time in milliseconds since 1970: what people read and what must outlive a restart (rule F6).
    pub wall_ms: i64,
}

/// Maps whose keys are no strings, as lists of pairs: JSON has no other keys.
pub(crate) mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the pairs in order.
    pub(crate) fn serialize<K, V, S>(map: &BTreeMap<K, V>, serializer: S) -> Result<S::Ok, S::Error>
    where
        K: Serialize,
        V: Serialize,
        S: Serializer,
    {
        serializer.collect_seq(map.iter())
    }

    /// Reads them back.
    pub(crate) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Vec::<(K, V)>::deserialize(deserializer).map(|pairs| pairs.into_iter().collect())
    }
}
