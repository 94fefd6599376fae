//! What is asked and told about rebuilds: plain data.

use std::fmt;
use std::str::FromStr;

use super::replay_views::Progress;
use super::views::Caller;
use crate::group::rebuild::Rebuild;
use crate::group::replay::ReplayRate;
use crate::model::{GroupId, GroupName, Offset, PartitionId, VersionName};

/// A rebuild's id: its group and its number in it. As text `<group in 16 hexadecimal digits>-b<number>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RebuildId {
    /// The group.
    pub group: GroupId,
    /// The number.
    pub number: u64,
}

impl fmt::Display for RebuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-b{}", self.group.0, self.number)
    }
}

/// A swap's id: its rebuild and its number in it. As text `<rebuild>-s<number>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SwapId {
    /// The rebuild.
    pub rebuild: RebuildId,
    /// The number.
    pub swap: u64,
}

impl fmt::Display for SwapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-s{}", self.rebuild, self.swap)
    }
}

/// A text that is no swap's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a swap's id is as it was told")]
pub struct SwapIdError;

impl FromStr for SwapId {
    type Err = SwapIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (rebuild, swap) = text.split_once("-s")?;
            let (group, number) = rebuild.split_once("-b").filter(|(group, _)| group.len() == 16)?;
            let group = GroupId(u64::from_str_radix(group, 16).ok()?);
            let id = Self { rebuild: RebuildId { group, number: number.parse().ok()? }, swap: swap.parse().ok()? };
            // Other spellings of the same numbers are no ids.
            Some(id).filter(|id| id.to_string() == text)
        };
        parse().ok_or(SwapIdError)
    }
}

/// What the user's database says of a swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwapOutcome {
    /// It is done.
    Done,
    /// It is not, and never will be; why.
    Undone(String),
}

/// A member's answer.
#[derive(Debug, Clone)]
pub struct SwapAnswer {
    /// The swap.
    pub swap: SwapId,
    /// What it says.
    pub outcome: SwapOutcome,
}

/// A rebuild to start (rule RP-6).
#[derive(Debug, Clone)]
pub struct StartRebuild {
    /// The group.
    pub group: String,
    /// The version to make.
    pub version: VersionName,
    /// How fast.
    pub rate: ReplayRate,
    /// Also if the log begins later than the group did.
    pub accept_gap: bool,
    /// Who and why.
    pub caller: Caller,
}

/// Where a rebuild stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildState {
    /// It is behind.
    Filling,
    /// It has caught up.
    Ready,
    /// It is taking its group's place.
    Swapping,
    /// It has.
    Swapped,
    /// It was given up.
    Aborted,
}

impl RebuildState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filling => "FILLING",
            Self::Ready => "READY",
            Self::Swapping => "SWAPPING",
            Self::Swapped => "SWAPPED",
            Self::Aborted => "ABORTED",
        }
    }
}

/// A rebuild of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildPartitionView {
    /// Name of the topic.
    pub topic: String,
    /// Partition.
    pub partition: PartitionId,
    /// Where it began.
    pub from: Offset,
    /// The next offset to apply.
    pub next: Offset,
    /// End of what is readable.
    pub high_watermark: Offset,
}

/// A rebuild at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct RebuildView {
    /// Its id.
    pub id: RebuildId,
    /// Name of its group.
    pub group: GroupName,
    /// What it is.
    pub rebuild: Rebuild,
    /// Where it stands.
    pub state: RebuildState,
    /// One a partition, in order of topics and partitions; none once it has ended.
    pub partitions: Vec<RebuildPartitionView>,
    /// How far it is.
    pub progress: Progress,
    /// Members of the version.
    pub members: u32,
    /// Those of them with a stream.
    pub connected: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_swap_has_one_spelling() {
        let id = SwapId { rebuild: RebuildId { group: GroupId(0x2a), number: 7 }, swap: 3 };
        assert_eq!(id.to_string(), "000000000000002a-b7-s3");
        assert_eq!("000000000000002a-b7-s3".parse(), Ok(id));
        for text in ["", "000000000000002a-b7", "2a-b7-s3", "000000000000002a-b07-s3", "000000000000002A-b7-s3"] {
            assert!(text.parse::<SwapId>().is_err(), "{text}");
        }
    }
}
