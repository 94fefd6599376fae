//! Names, ids and epochs of consumer groups and their members.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::key::SlotRange;
use super::topic::{NameError, PartitionId, TopicName, TopicUuid};

/// The name of a consumer group, checked by the rules for topic names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// Checks a name given by a client.
    ///
    /// # Errors
    /// The rule that the name breaks.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        TopicName::parse(name).map(|name| Self(name.as_str().into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl GroupName {
    /// The name of the shadow in which a version of this group's read model is rebuilt: one that no client can give.
    pub fn shadow(&self, version: &VersionName) -> Self {
        Self(format!("{self}{SHADOW_MARK}{version}").into())
    }

    /// The group's own part of the name, without the version of a shadow.
    pub fn root(&self) -> Self {
        self.0.split_once(SHADOW_MARK).map_or_else(|| self.clone(), |(root, _)| Self(root.into()))
    }
}

/// Stands between the name of a group and a version in the name of a shadow.
const SHADOW_MARK: char = '@';

/// Bytes of a version's name.
const VERSION_BYTES: usize = 64;

/// The name of a version of a read model: 1 to 64 ASCII letters, digits, `.`, `_`, `-` (rule RP-6).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionName(Arc<str>);

impl VersionName {
    /// Checks a name given by a client.
    ///
    /// # Errors
    /// The rule that the name breaks.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.len() > VERSION_BYTES {
            return Err(NameError::TooLong);
        }
        TopicName::parse(name).map(|name| Self(name.as_str().into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for VersionName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for VersionName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::borrow::Borrow<str> for GroupName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for GroupName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for GroupName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let (root, version) = name.split_once(SHADOW_MARK).map_or((&*name, None), |(root, of)| (root, Some(of)));
        let root = Self::parse(root).map_err(serde::de::Error::custom)?;
        let version = version.map(VersionName::parse).transpose().map_err(serde::de::Error::custom)?;
        Ok(version.map_or_else(|| root.clone(), |version| root.shadow(&version)))
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A group's number, given once at creation and never again: all of its state hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A member's id, a UUID that its client made (rule GM-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId(pub [u8; 16]);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TopicUuid(self.0).fmt(f)
    }
}

/// Names one session of a member; a reconnect within the session timeout resumes it (rule GM-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberEpoch(pub u64);

impl fmt::Display for MemberEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The group epoch that gave a unit to its owner; only rises (rule GM-6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct AssignmentEpoch(pub u64);

impl fmt::Display for AssignmentEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition of a topic, by the id that dies with the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The topic.
    pub topic: TopicUuid,
    /// The partition.
    pub partition: PartitionId,
}

/// What one member owns: a partition, or a run of its key slots (rule GM-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AssignedUnit {
    /// The partition.
    pub source: Source,
    /// The slots; all of them in `OFFSET` mode.
    pub slots: SlotRange,
}
