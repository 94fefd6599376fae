//! Ids as text: those of groups, members, topics, dead-letter entries and jobs.
//!
//! ```text
//! group   16 hexadecimal digits
//! entry   <group>-<topic: UUID>-<partition>-<epoch>-<offset>      rule DL-4: stable, whatever becomes of the entry
//! job     <group>-<number>
//! ```
//!
//! Each has one spelling alone: lower case, no leading zeros in decimal numbers.

use super::status::{self, Problem};
use crate::coordinator::types::EntryKey;
use crate::dead_letter::views::JobId;
use crate::model::{GroupId, MemberId, Offset, PartitionEpoch, PartitionId, Source, TopicUuid};

/// Bytes of a UUID as text.
const UUID_BYTES: usize = 36;
/// Bytes of a group's id as text.
const GROUP_BYTES: usize = 16;

pub(super) fn group_id(group: GroupId) -> String {
    format!("{:016x}", group.0)
}

pub(super) fn dlq_id(group: GroupId, key: &EntryKey) -> String {
    let EntryKey { source, offset, epoch } = key;
    format!("{:016x}-{}-{}-{}-{}", group.0, source.topic, source.partition.0, epoch.get(), offset.get())
}

pub(super) fn job_id(group: GroupId, job: u64) -> String {
    JobId { group, number: job }.to_string()
}

/// A group's id.
pub(super) fn parse_group_id(text: &str) -> Option<GroupId> {
    let digits = text.len() == GROUP_BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    digits.then(|| u64::from_str_radix(text, 16).ok().map(GroupId))?
}

fn split_group(text: &str) -> Option<(GroupId, &str)> {
    let (group, rest) = text.split_at_checked(GROUP_BYTES)?;
    Some((parse_group_id(group)?, rest.strip_prefix('-')?))
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let uuid = uuid::Uuid::try_parse(text).ok().filter(|_| text.len() == UUID_BYTES)?;
    Some(uuid.into_bytes())
}

/// A decimal number in its one spelling.
fn parse_number(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

fn entry_of(text: &str) -> Option<(GroupId, EntryKey)> {
    let (group, rest) = split_group(text)?;
    let (topic, rest) = rest.split_at_checked(UUID_BYTES)?;
    let topic = TopicUuid(parse_uuid(topic).filter(|_| !topic.bytes().any(|b| b.is_ascii_uppercase()))?);
    let mut numbers = rest.strip_prefix('-')?.split('-').map(parse_number);
    let (partition, epoch, offset) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if numbers.next().is_some() {
        return None;
    }
    let source = Source { topic, partition: PartitionId(u32::try_from(partition).ok()?) };
    let epoch = PartitionEpoch::new(u32::try_from(epoch).ok()?)?;
    Some((group, EntryKey { source, offset: Offset::new(offset)?, epoch }))
}

/// The group and the entry that an id names.
pub(super) fn parse_dlq_id(field: &'static str, text: &str) -> Result<(GroupId, EntryKey), Problem> {
    entry_of(text).ok_or_else(|| status::invalid_field(field, text, "the id of a dead-letter entry"))
}

pub(super) fn parse_member_id(field: &'static str, text: &str) -> Result<MemberId, Problem> {
    parse_uuid(text).map(MemberId).ok_or_else(|| status::invalid_field(field, text, "a UUID of 36 characters"))
}

pub(super) fn parse_topic_id(field: &'static str, text: &str) -> Result<TopicUuid, Problem> {
    parse_uuid(text).map(TopicUuid).ok_or_else(|| status::invalid_field(field, text, "the UUID of a topic"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> EntryKey {
        let source = Source { topic: TopicUuid([0xab; 16]), partition: PartitionId(7) };
        EntryKey { source, offset: Offset::new(12).expect("small"), epoch: PartitionEpoch::new(3).expect("small") }
    }

    #[test]
    fn dl_4_the_id_of_an_entry_is_its_group_and_position_and_reads_back() {
        let id = dlq_id(GroupId(0x2a), &key());
        assert_eq!(id, "000000000000002a-abababab-abab-abab-abab-abababababab-7-3-12");
        assert_eq!(parse_dlq_id("dlq_id", &id).expect("it was just made"), (GroupId(0x2a), key()));
    }

    #[test]
    fn an_id_has_one_spelling_and_nothing_else_is_one() {
        let id = dlq_id(GroupId(0x2a), &key());
        for cut in 0..id.len() {
            // What is left of the last number is a number too, so the last digits may go.
            if entry_of(&id[..cut]).is_some() {
                assert!(cut == id.len() - 1, "{}", &id[..cut]);
            }
        }
        let changed = [
            id.to_uppercase(),
            id.replace("-7-", "-07-"),
            id.replace("-7-", "-+7-"),
            id.replace("-7-", "-4294967296-"),
            id.replace("-3-", "-4294967295-"),
            id.replace("-12", "-99999999999999999999"),
            format!("{id}-1"),
            format!("{id}é"),
            id.replacen('0', "é", 1),
        ];
        for text in changed {
            assert!(entry_of(&text).is_none(), "{text}");
        }
    }

    #[test]
    fn jobs_and_groups_read_back() {
        let job = JobId { group: GroupId(u64::MAX), number: 9 };
        assert_eq!(job_id(job.group, job.number).parse(), Ok(job));
        assert_eq!(parse_group_id(&group_id(GroupId(1))), Some(GroupId(1)));
        for text in ["", "1", "000000000000000g", "+00000000000000a", "0000000000000001-"] {
            assert!(parse_group_id(text).is_none() && text.parse::<JobId>().is_err(), "{text}");
        }
        let member = "01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(parse_member_id("member_id", member).expect("a UUID").to_string(), member);
        assert!(parse_member_id("member_id", "0123456789abcdef0123456789abcdef").is_err());
    }
}
