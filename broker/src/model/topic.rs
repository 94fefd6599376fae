//! Names and ids of topics and partitions, and the levels of acknowledgement.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Most bytes of a topic or group name, so that `{topic}.{group}.dlq` stays within Kafka's 249.
pub const NAME_BYTES: usize = crate::limits::NAME_BYTES;
/// Suffix of the names of dead-letter topics; clients may not make a topic with it (rule DL-1).
pub const DEAD_LETTER_SUFFIX: &str = ".dlq";
/// Most bytes of the name of a dead-letter topic: Kafka's limit.
pub const DEAD_LETTER_NAME_BYTES: usize = 249;

const _: () = assert!(2 * NAME_BYTES + 1 + DEAD_LETTER_SUFFIX.len() <= DEAD_LETTER_NAME_BYTES);

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// It is empty.
    Empty,
    /// It is longer than [`NAME_BYTES`].
    TooLong,
    /// It has a byte that is not an ASCII letter, a digit, `.`, `_` or `-`.
    Character,
    /// It is `.` or `..`.
    Dots,
    /// It begins with `__`, which is reserved.
    ReservedPrefix,
    /// It ends with a dot.
    TrailingDot,
    /// It ends with `.dlq`, which only dead-letter topics have.
    ReservedSuffix,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a name has at least one character",
            Self::TooLong => "a name has at most 120 bytes",
            Self::Character => "a name consists of ASCII letters, digits, '.', '_' and '-'",
            Self::Dots => "'.' and '..' are no names",
            Self::ReservedPrefix => "names that begin with '__' are reserved",
            Self::TrailingDot => "a name does not end with '.'",
            Self::ReservedSuffix => "names that end with '.dlq' are reserved for dead-letter topics",
        })
    }
}

impl std::error::Error for NameError {}

/// The name of a topic, checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks a name given by a client.
    ///
    /// # Errors
    /// The rule that the name breaks.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let checked = Self::parse_dead_letter(name)?;
        if name.len() > NAME_BYTES {
            return Err(NameError::TooLong);
        }
        if name.ends_with(DEAD_LETTER_SUFFIX) {
            return Err(NameError::ReservedSuffix);
        }
        Ok(checked)
    }

    /// Checks the name of a dead-letter topic (rule DL-1): longer than others, since it is made of two names, and with
    /// the suffix that others may not have, if it likes.
    ///
    /// # Errors
    /// The rule that the name breaks.
    pub fn parse_dead_letter(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > DEAD_LETTER_NAME_BYTES {
            return Err(NameError::TooLong);
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(NameError::Character);
        }
        if name == "." || name == ".." {
            return Err(NameError::Dots);
        }
        if name.starts_with("__") {
            return Err(NameError::ReservedPrefix);
        }
        if name.ends_with('.') {
            return Err(NameError::TrailingDot);
        }
        Ok(Self(name.into()))
    }

    /// The name of a group's dead-letter topic for a topic, unless another is given (rule DL-1).
    pub fn dead_letters_of(topic: &Self, group: &str) -> Result<Self, NameError> {
        Self::parse_dead_letter(&format!("{topic}.{group}{DEAD_LETTER_SUFFIX}"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic's number, given once by the metadata log; names its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u64);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic's id as clients see it, given once at creation: a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicUuid(pub [u8; 16]);

impl fmt::Display for TopicUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every answer to a produce request carries one: no formatting machinery per byte.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let (mut text, mut at) = ([b'-'; 36], 0);
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 0x0f)];
            at += 2;
        }
        f.write_str(std::str::from_utf8(&text).expect("hexadecimal digits and dashes are ASCII"))
    }
}

/// A partition's number in its topic, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How safe a record is when it is acknowledged (rule PR-2); the greater, the safer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AckLevel {
    /// In the page cache.
    Written,
    /// Synced to the device.
    Durable,
}
