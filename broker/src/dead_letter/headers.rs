//! The headers that a dead letter gets on top of its own (rules DL-2, DL-3), and how they are read back.
//!
//! Owns: names, texts and bounds of these headers, and the text of a dead letter's id. Must not know: how records are
//! encoded, where copies lie, what becomes of entries.
//!
//! Beside ours stand the six names that Kafka's share groups give dead letters (KIP-1191), so that tools that know
//! those can show where a dead letter comes from. All values are text.
//!
//! Invariants: what is added has at most [`limits::DEAD_LETTER_BYTES`]; the record's own headers stay as they are, but
//! for those of these very names, which a repeat overwrites; what was written is read back, but for texts that were cut.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::fingerprint::cut;
use crate::group::entry::{DeadReason, EntryKey, EntryKind};
use crate::group::record::ErrorInfo;
use crate::limits;
use crate::model::{GroupId, MemberId, Offset, PartitionEpoch, PartitionId, Source, TopicUuid};

/// Names of our headers, in the order in which they are written.
const NAMES: [&str; 25] = [
    "dlq.id",
    "dlq.kind",
    "dlq.topic",
    "dlq.partition",
    "dlq.epoch",
    "dlq.offset",
    "dlq.key_seq",
    "dlq.append_ts",
    "dlq.event_id",
    "dlq.group",
    "dlq.attempts",
    "dlq.first_failure_ts",
    "dlq.last_failure_ts",
    "dlq.dead_ts",
    "dlq.reason",
    "dlq.error.class",
    "dlq.error.message",
    "dlq.error.stack",
    "dlq.error.fingerprint",
    "dlq.member",
    "dlq.client_version",
    "dlq.blocked_by",
    "dlq.cycle",
    "dlq.edited",
    "dlq.trace",
];
/// Kafka's names.
const KAFKA_NAMES: [&str; 6] = [
    "__dlq.errors.topic",
    "__dlq.errors.partition",
    "__dlq.errors.offset",
    "__dlq.errors.group",
    "__dlq.errors.delivery.count",
    "__dlq.errors.message",
];
/// Names of the headers that only an edited version has: who stored it, when, and why (rule RD-6).
pub(super) const EDIT_NAMES: [&str; 3] = ["dlq.edit.actor", "dlq.edit.ts", "dlq.edit.note"];
/// Bytes of a short text: a class, an id, a version.
const SHORT_BYTES: usize = 255;
/// Bytes of one name, or of a number or an id as text.
const NUMBER_BYTES: usize = 128;

const _: () = assert!(
    (NAMES.len() + KAFKA_NAMES.len()) * 2 * NUMBER_BYTES
        + limits::ERROR_MESSAGE_BYTES * 2
        + limits::ERROR_STACK_BYTES
        + limits::ERROR_CLASS_BYTES
        + 5 * SHORT_BYTES
        <= limits::DEAD_LETTER_BYTES,
    "what is added stays within its limit"
);

/// The id of a dead letter, the same for ever (rule DL-4).
///
/// As text: `<group>-<topic>-<partition>-<epoch>-<offset>`, the group in 16 hexadecimal digits, the topic as a UUID, the
/// rest decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId {
    /// The group.
    pub group: GroupId,
    /// The record.
    pub key: EntryKey,
}

/// What a dead letter says of itself (rule DL-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterHeaders {
    /// Its id: the group's number and the position of the record.
    pub id: DeadLetterId,
    /// Why it is here.
    pub kind: EntryKind,
    /// Why exactly.
    pub reason: DeadReason,
    /// Name of the source topic.
    pub topic: String,
    /// Name of the group.
    pub group: String,
    /// Number of the record in its key, on topics that count.
    pub key_seq: Option<u64>,
    /// When the record was appended, milliseconds since 1970.
    pub append_ms: i64,
    /// Its event id, if it has one; one of more than 255 bytes is left to the record's own headers.
    pub event_id: Option<String>,
    /// Deliveries that counted.
    pub attempts: u32,
    /// When it first failed, milliseconds since 1970; `None`: never.
    pub first_failure_ms: Option<i64>,
    /// When it last failed, milliseconds since 1970; `None`: never.
    pub last_failure_ms: Option<i64>,
    /// When it died or was parked, milliseconds since 1970.
    pub dead_ms: i64,
    /// The last error; empty texts are not written. Cut to the limits.
    pub error: ErrorInfo,
    /// Member that had it last.
    pub member: Option<MemberId>,
    /// Version of that member's client; empty: not known.
    pub client_version: String,
    /// Head of its lane, if it is parked.
    pub blocked_by: Option<EntryKey>,
    /// 0 at first, one more with each redrive or death anew.
    pub cycle: u32,
    /// Version of the record: 0 as it was, else the number of the edit.
    pub edited: u32,
}

/// Headers that are not those of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// One that each dead letter has is not there.
    #[error("header {name} is missing")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// One does not say what it should.
    #[error("header {name} says {found:?}")]
    Malformed {
        /// Its name.
        name: &'static str,
        /// The beginning of what it says.
        found: String,
    },
}

impl DeadLetterHeaders {
    /// The headers to put behind the record's own, see [`is_added`].
    pub fn added(&self) -> Vec<(&'static str, Bytes)> {
        let values = self.values();
        let ours = NAMES.iter().zip(values);
        let kafka = KAFKA_NAMES.iter().zip(self.kafka_values());
        let all = ours.chain(kafka);
        let added: Vec<_> = all
            .filter_map(|(name, value)| value.map(|value| (*name, Bytes::from(value.into_owned().into_bytes()))))
            .collect();
        let bytes: usize = added.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(bytes <= limits::DEAD_LETTER_BYTES, "added headers have {bytes} bytes (rule DL-5)");
        added
    }

    /// Reads the headers of a dead letter; of several of one name the last counts. Others are passed over.
    ///
    /// # Errors
    /// One is missing or does not say what it should: the record is no dead letter of this broker.
    pub fn parse<'a>(headers: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Result<Self, HeaderError> {
        let found = Found::new(headers);
        let id: DeadLetterId = found.value("dlq.id")?;
        let blocked_by = found.optional::<DeadLetterId>("dlq.blocked_by")?.map(|head| head.key);
        Ok(Self {
            id,
            kind: found.named("dlq.kind", &KINDS)?,
            reason: found.named("dlq.reason", &REASONS)?,
            topic: found.value("dlq.topic")?,
            group: found.value("dlq.group")?,
            key_seq: found.optional("dlq.key_seq")?,
            append_ms: found.value("dlq.append_ts")?,
            event_id: found.optional("dlq.event_id")?,
            attempts: found.value("dlq.attempts")?,
            first_failure_ms: found.optional("dlq.first_failure_ts")?,
            last_failure_ms: found.optional("dlq.last_failure_ts")?,
            dead_ms: found.value("dlq.dead_ts")?,
            error: ErrorInfo {
                class: found.text("dlq.error.class")?,
                message: found.text("dlq.error.message")?,
                stack: found.text("dlq.error.stack")?,
                fingerprint: found.text("dlq.error.fingerprint")?,
                trace: found.text("dlq.trace")?,
            },
            member: found.optional::<Uuid>("dlq.member")?.map(|uuid| MemberId(uuid.0)),
            client_version: found.text("dlq.client_version")?,
            blocked_by,
            cycle: found.value("dlq.cycle")?,
            edited: found.value("dlq.edited")?,
        })
    }

    /// Texts in the order of [`NAMES`]; `None`: not written.
    fn values(&self) -> [Option<Cow<'_, str>>; NAMES.len()] {
        let text = |text: &'_ str, bytes| Some(Cow::Owned(cut(text, bytes).to_owned())).filter(|_| !text.is_empty());
        let short = |value| text(value, SHORT_BYTES);
        let EntryKey { source, offset, epoch } = self.id.key;
        let group = self.id.group;
        [
            number(self.id),
            name_of(self.kind, &KINDS),
            text(&self.topic, NUMBER_BYTES),
            number(source.partition),
            number(epoch),
            number(offset),
            self.key_seq.and_then(number),
            number(self.append_ms),
            self.event_id.as_deref().filter(|id| id.len() <= SHORT_BYTES).map(Cow::Borrowed),
            text(&self.group, NUMBER_BYTES),
            number(self.attempts),
            self.first_failure_ms.and_then(number),
            self.last_failure_ms.and_then(number),
            number(self.dead_ms),
            name_of(self.reason, &REASONS),
            text(&self.error.class, limits::ERROR_CLASS_BYTES),
            text(&self.error.message, limits::ERROR_MESSAGE_BYTES),
            text(&self.error.stack, limits::ERROR_STACK_BYTES),
            short(&self.error.fingerprint),
            self.member.and_then(number),
            short(&self.client_version),
            self.blocked_by.and_then(|key| number(DeadLetterId { group, key })),
            number(self.cycle),
            number(self.edited),
            short(&self.error.trace),
        ]
    }

    /// Texts in the order of [`KAFKA_NAMES`].
    fn kafka_values(&self) -> [Option<Cow<'_, str>>; KAFKA_NAMES.len()] {
        let message = cut(&self.error.message, limits::ERROR_MESSAGE_BYTES);
        [
            Some(Cow::Borrowed(cut(&self.topic, NUMBER_BYTES))),
            number(self.id.key.source.partition),
            number(self.id.key.offset),
            Some(Cow::Borrowed(cut(&self.group, NUMBER_BYTES))),
            number(self.attempts),
            Some(Cow::Borrowed(message)).filter(|message| !message.is_empty()),
        ]
    }
}

/// Whether a header of this name is one that a dead letter gets: of the record's own headers those are left out, so
/// that a repeat does not pile up.
pub fn is_added(name: &[u8]) -> bool {
    NAMES.iter().chain(&KAFKA_NAMES).chain(&EDIT_NAMES).any(|added| added.as_bytes() == name)
}

/// A reason as text (rule DL-3).
pub fn reason_name(reason: DeadReason) -> &'static str {
    REASONS.iter().find(|(known, _)| *known == reason).map_or("", |(_, name)| name)
}

/// All reasons as text.
pub fn reason_names() -> impl Iterator<Item = &'static str> {
    REASONS.iter().map(|(_, name)| *name)
}

/// Which dead letter a copy is, and of which cycle and version: all that a search for a copy needs (rule DL-4).
/// `None` if it is no dead letter.
pub fn identity<'a>(
    headers: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Option<(DeadLetterId, u32, u32)> {
    let found = Found::new(headers);
    Some((found.value("dlq.id").ok()?, found.value("dlq.cycle").ok()?, found.value("dlq.edited").ok()?))
}

/// Kinds as text.
const KINDS: [(EntryKind, &str); 2] = [(EntryKind::Failed, "failed"), (EntryKind::Parked, "parked")];

/// Reasons as text (rule DL-3).
const REASONS: [(DeadReason, &str); 8] = [
    (DeadReason::Attempts, "ATTEMPTS"),
    (DeadReason::NonRetryable, "NON_RETRYABLE"),
    (DeadReason::ConsumerDeadNack, "CONSUMER_DEAD_NACK"),
    (DeadReason::LeaseExpired, "LEASE_EXPIRED"),
    (DeadReason::ConsumerCrash, "CONSUMER_CRASH"),
    (DeadReason::Undecodable, "UNDECODABLE"),
    (DeadReason::Spill, "SPILL"),
    (DeadReason::Parked, "PARKED"),
];

fn number(value: impl fmt::Display) -> Option<Cow<'static, str>> {
    Some(Cow::Owned(value.to_string()))
}

fn name_of<T: PartialEq>(value: T, names: &[(T, &'static str)]) -> Option<Cow<'static, str>> {
    names.iter().find(|(known, _)| *known == value).map(|(_, name)| Cow::Borrowed(*name))
}

/// Our headers among those of a record.
struct Found<'a>(HashMap<&'static str, &'a [u8]>);

impl<'a> Found<'a> {
    fn new(headers: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Self {
        let mut found = HashMap::new();
        for (name, value) in headers {
            if let Some(known) = NAMES.iter().find(|known| known.as_bytes() == name) {
                found.insert(*known, value.unwrap_or_default());
            }
        }
        Self(found)
    }

    fn value<T: FromStr>(&self, name: &'static str) -> Result<T, HeaderError> {
        self.optional(name)?.ok_or(HeaderError::Missing { name })
    }

    fn optional<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, HeaderError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let text = std::str::from_utf8(value).map_err(|_| malformed(name, value))?;
        text.parse().map(Some).map_err(|_| malformed(name, value))
    }

    fn text(&self, name: &'static str) -> Result<String, HeaderError> {
        Ok(self.optional(name)?.unwrap_or_default())
    }

    fn named<T: Copy>(&self, name: &'static str, names: &[(T, &'static str)]) -> Result<T, HeaderError> {
        let value = *self.0.get(name).ok_or(HeaderError::Missing { name })?;
        let known = names.iter().find(|(_, text)| text.as_bytes() == value);
        known.map(|(known, _)| *known).ok_or_else(|| malformed(name, value))
    }
}

fn malformed(name: &'static str, value: &[u8]) -> HeaderError {
    let text = String::from_utf8_lossy(value);
    HeaderError::Malformed { name, found: cut(&text, 64).to_owned() }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EntryKey { source: Source { topic, partition }, offset, epoch } = self.key;
        write!(f, "{:016x}-{topic}-{partition}-{epoch}-{offset}", self.group.0)
    }
}

/// A text that is no id of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no id of a dead letter")]
pub struct DeadLetterIdError;

impl FromStr for DeadLetterId {
    type Err = DeadLetterIdError;

    fn from_str(text: &str) -> Result<Self, DeadLetterIdError> {
        let parse = || {
            let (group, rest) = text.split_once('-')?;
            let (topic, rest) = rest.split_at_checked(36)?;
            let mut numbers = rest.strip_prefix('-')?.split('-').map(|number| number.parse::<u64>().ok());
            let partition = PartitionId(u32::try_from(numbers.next()??).ok()?);
            let epoch = PartitionEpoch::new(u32::try_from(numbers.next()??).ok()?)?;
            let offset = Offset::new(numbers.next()??)?;
            let Uuid(topic) = topic.parse().ok()?;
            let source = Source { topic: TopicUuid(topic), partition };
            let group = GroupId(u64::from_str_radix(group, 16).ok()?);
            numbers.next().is_none().then_some(Self { group, key: EntryKey { source, offset, epoch } })
        };
        // There is one text for each id: no signs, no zeros in front, no capitals.
        parse().filter(|id| id.to_string() == text).ok_or(DeadLetterIdError)
    }
}

/// Sixteen bytes as a UUID.
struct Uuid([u8; 16]);

impl FromStr for Uuid {
    type Err = DeadLetterIdError;

    fn from_str(text: &str) -> Result<Self, DeadLetterIdError> {
        uuid::Uuid::try_parse(text).map(|uuid| Self(uuid.into_bytes())).map_err(|_| DeadLetterIdError)
    }
}

#[cfg(test)]
mod tests;
