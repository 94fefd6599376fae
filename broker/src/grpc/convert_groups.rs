//! Between the messages of the wire and what sessions say: joins, credits, offsets, errors, states.

use sawlog_proto::v1;

use super::status::{self, Problem};
use super::{convert, ids};
use crate::coordinator::types::{
    Credit, DeadReason, EntryKind, EntryState, ErrorInfo, GapReason, InWork, Join, Mode, PauseReason,
};
use crate::coordinator::{Expect, JoinGroup};
use crate::limits;
use crate::model::topic::DEAD_LETTER_SUFFIX;
use crate::model::{
    AssignmentEpoch, GroupName, MemberEpoch, Offset, OffsetRange, PartitionId, SlotRange, Source, TopicName,
    VersionName,
};

/// Bytes of a note or reason that is kept.
pub(super) const NOTE_BYTES: usize = 4 << 10;
/// The most records of credit.
const CREDIT_RECORDS: u64 = 1 << 31;
/// The most bytes of credit.
const CREDIT_BYTES: u64 = 1 << 40;
/// Sources, or runs, or entries that a resuming member may name.
const IN_WORK: usize = 100_000;

/// A checked name of a version.
pub(super) fn version_name(field: &'static str, name: &str) -> Result<VersionName, Problem> {
    VersionName::parse(name).map_err(|rule| status::invalid_name(field, name, rule))
}

/// A checked name of a group.
pub(super) fn group_name(field: &'static str, name: &str) -> Result<GroupName, Problem> {
    GroupName::parse(name).map_err(|rule| status::invalid_name(field, name, rule))
}

/// A checked name of a topic that a group may consume: also a dead-letter topic's (rule DL-1).
pub(super) fn source_topic(field: &'static str, name: &str) -> Result<TopicName, Problem> {
    let parsed = match name.ends_with(DEAD_LETTER_SUFFIX) {
        true => TopicName::parse_dead_letter(name),
        false => TopicName::parse(name),
    };
    parsed.map_err(|rule| status::invalid_name(field, name, rule))
}

/// A text of at most `max` bytes.
pub(super) fn text(field: &'static str, text: String, max: usize) -> Result<String, Problem> {
    if text.len() <= max {
        return Ok(text);
    }
    Err(status::invalid_field(field, format!("{} bytes", text.len()), &format!("at most {max} bytes")))
}

/// `text` cut to at most `max` bytes, at a character.
pub(super) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// The first frame of a session.
pub(super) fn join(join: v1::Join) -> Result<JoinGroup, Problem> {
    let group = group_name("group", &join.group)?;
    let member = ids::parse_member_id("member_id", &join.member_id)?;
    let mode = match v1::GroupMode::try_from(join.expected_mode) {
        Ok(mode) => mode_of(mode),
        Err(_) => return Err(status::invalid_field("expected_mode", join.expected_mode, "0 to 3")),
    };
    let batches = match v1::ReadForm::try_from(join.form) {
        Ok(v1::ReadForm::Unspecified | v1::ReadForm::Records) => false,
        Ok(v1::ReadForm::Batches) => true,
        Err(_) => return Err(status::invalid_field("form", join.form, "0, 1 (records) or 2 (batches)")),
    };
    if join.instance_id.as_deref() == Some("") {
        return Err(status::invalid_field("instance_id", "nothing", "absent, or 1 to 255 bytes"));
    }
    if u128::from(join.max_wait_ms) > limits::LONG_POLL.as_millis() {
        return Err(status::invalid_field("max_wait_ms", join.max_wait_ms, "at most 60000"));
    }
    if join.expected_topics.len() > limits::TOPICS_PER_GROUP {
        return Err(status::invalid_field("expected_topics", join.expected_topics.len(), "at most 100"));
    }
    let topics: Result<Vec<_>, _> =
        join.expected_topics.iter().map(|name| source_topic("expected_topics", name)).collect();
    let topics = Some(topics?).filter(|topics| !topics.is_empty());
    let version = join.version.as_deref().map(|version| version_name("version", version)).transpose()?;
    let instance = join.instance_id.map(|id| text("instance_id", id, limits::CLIENT_ID_BYTES)).transpose()?;
    Ok(JoinGroup {
        group,
        join: Join {
            member,
            resume: join.member_epoch.map(MemberEpoch),
            instance,
            client_id: text("client_id", join.client_id, limits::CLIENT_ID_BYTES)?,
            client_version: text("client_version", join.client_version, limits::CLIENT_ID_BYTES)?,
            credit: credit(join.credit.unwrap_or_default()),
            in_work: in_work(&join.in_work)?,
        },
        expect: Expect { mode, topics, version },
        batches,
        min_bytes: join.min_bytes.min(limits::DELIVERY_FRAME_BYTES as u64) as u32,
        max_wait_ms: join.max_wait_ms.into(),
    })
}

fn in_work(work: &[v1::InWork]) -> Result<Vec<InWork>, Problem> {
    let run_count: usize = work.iter().map(|work| work.offsets.len()).sum();
    let entry_count: usize = work.iter().map(|work| work.dlq_ids.len()).sum();
    let counts = [("in_work", work.len()), ("in_work.offsets", run_count), ("in_work.dlq_ids", entry_count)];
    for (field, found) in counts {
        if found > IN_WORK {
            return Err(status::invalid_field(field, found, "at most 100000"));
        }
    }
    let mut left = u64::from(limits::HELD_RECORDS) * 100;
    let one = |work: &v1::InWork| {
        let topic = ids::parse_topic_id("in_work.topic_id", &work.topic_id)?;
        let source = Source { topic, partition: PartitionId(work.partition) };
        let entries = work.dlq_ids.iter().map(|id| ids::parse_dlq_id("in_work.dlq_ids", id).map(|(_, key)| key));
        let entries = entries.collect::<Result<_, Problem>>()?;
        let epoch = AssignmentEpoch(work.assignment_epoch);
        Ok(InWork { source, epoch, runs: runs("in_work.offsets", &work.offsets, &mut left)?, entries })
    };
    work.iter().map(one).collect()
}

/// Room for deliveries; more than anybody can use is held at what anybody can.
pub(super) fn credit(credit: v1::Credit) -> Credit {
    Credit { records: credit.records.min(CREDIT_RECORDS), bytes: credit.bytes.min(CREDIT_BYTES) }
}

/// Slots, if they are some.
pub(super) fn slots(slots: Option<&v1::Slots>) -> Option<SlotRange> {
    let slots = slots?;
    let sound = slots.from < slots.to && slots.to <= limits::KEY_SLOTS;
    sound.then_some(SlotRange { from: slots.from, to: slots.to })
}

/// Runs of offsets in order and without overlap; `left` is the number of offsets that may still be named.
pub(super) fn runs(field: &'static str, runs: &[v1::OffsetRun], left: &mut u64) -> Result<Vec<OffsetRange>, Problem> {
    let mut ranges: Vec<OffsetRange> = Vec::with_capacity(runs.len());
    let (mut sorted, mut end) = (true, Offset::ZERO);
    for run in runs {
        let from = convert::offset(field, run.from)?;
        let count = u64::from(run.count.max(1));
        let to = from.checked_add(count).ok_or_else(|| status::invalid_field(field, run.from, "below 2^63 - count"))?;
        *left = left.checked_sub(count).ok_or_else(|| {
            status::invalid_field(field, format!("a run of {count}"), "fewer offsets in all in one frame")
        })?;
        sorted &= from >= end;
        end = to;
        ranges.push(OffsetRange { from, to });
    }
    if !sorted {
        ranges.sort_unstable_by_key(|range| range.from);
        ranges.dedup_by(|next, before| {
            let overlaps = next.from < before.to;
            if overlaps {
                before.to = before.to.max(next.to);
            }
            overlaps
        });
    }
    Ok(ranges)
}

/// What a handler said, cut to what is kept.
pub(super) fn error(error: v1::HandlerError) -> ErrorInfo {
    ErrorInfo {
        class: cut(error.class, limits::ERROR_CLASS_BYTES),
        message: cut(error.message, limits::ERROR_MESSAGE_BYTES),
        stack: cut(error.stack, limits::ERROR_STACK_BYTES),
        fingerprint: cut(error.fingerprint, limits::ERROR_CLASS_BYTES),
        trace: String::new(),
    }
}

pub(super) fn mode_of(mode: v1::GroupMode) -> Option<Mode> {
    match mode {
        v1::GroupMode::Unspecified => None,
        v1::GroupMode::Keyed => Some(Mode::Keyed),
        v1::GroupMode::Offset => Some(Mode::Offset),
        v1::GroupMode::Unordered => Some(Mode::Unordered),
    }
}

pub(super) fn mode_to_wire(mode: Mode) -> v1::GroupMode {
    match mode {
        Mode::Keyed => v1::GroupMode::Keyed,
        Mode::Offset => v1::GroupMode::Offset,
        Mode::Unordered => v1::GroupMode::Unordered,
    }
}

pub(super) fn gap_reason(reason: GapReason) -> v1::GapReason {
    match reason {
        GapReason::Retention => v1::GapReason::Retention,
        GapReason::Trim => v1::GapReason::Trim,
        GapReason::Corrupt => v1::GapReason::Corrupt,
        GapReason::Truncated => v1::GapReason::Truncated,
        GapReason::Undecodable => v1::GapReason::Undecodable,
        GapReason::DlqExpired => v1::GapReason::DlqExpired,
    }
}

pub(super) fn pause_reason(reason: PauseReason) -> v1::PauseReason {
    match reason {
        PauseReason::Operator => v1::PauseReason::Operator,
        PauseReason::HeldLimit => v1::PauseReason::HeldLimit,
        PauseReason::DeadLimit => v1::PauseReason::DeadLimit,
        PauseReason::DlqFull => v1::PauseReason::DlqFull,
        PauseReason::DiskLow => v1::PauseReason::DiskLow,
        PauseReason::Gap => v1::PauseReason::Gap,
        PauseReason::Replay => v1::PauseReason::Replay,
    }
}

/// The state of an entry; an open one that a job has is being redriven.
pub(super) fn entry_state(state: EntryState, has_job: bool) -> v1::EntryState {
    match state {
        EntryState::Open if has_job => v1::EntryState::Redriving,
        EntryState::Open => v1::EntryState::Open,
        EntryState::Spilled => v1::EntryState::Spilled,
        EntryState::Resolved { .. } => v1::EntryState::Resolved,
        EntryState::Discarded => v1::EntryState::Discarded,
        EntryState::Moved => v1::EntryState::Moved,
        EntryState::Cleared => v1::EntryState::Cleared,
        EntryState::Expired => v1::EntryState::Expired,
    }
}

pub(super) fn entry_kind(kind: EntryKind) -> v1::EntryKind {
    match kind {
        EntryKind::Failed => v1::EntryKind::Failed,
        EntryKind::Parked => v1::EntryKind::Parked,
    }
}

pub(super) fn dead_reason(reason: DeadReason) -> v1::DeadReason {
    match reason {
        DeadReason::Attempts => v1::DeadReason::Attempts,
        DeadReason::NonRetryable => v1::DeadReason::NonRetryable,
        DeadReason::ConsumerDeadNack => v1::DeadReason::ConsumerDeadNack,
        DeadReason::LeaseExpired => v1::DeadReason::LeaseExpired,
        DeadReason::ConsumerCrash => v1::DeadReason::ConsumerCrash,
        DeadReason::Undecodable => v1::DeadReason::Undecodable,
        DeadReason::Spill => v1::DeadReason::Spill,
        DeadReason::Parked => v1::DeadReason::Parked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(from: i64, count: u32) -> v1::OffsetRun {
        v1::OffsetRun { from, count }
    }

    fn ranges(given: &[v1::OffsetRun]) -> Result<Vec<(u64, u64)>, Problem> {
        let ranges = runs("offsets", given, &mut 1_000)?;
        Ok(ranges.iter().map(|range| (range.from.get(), range.to.get())).collect())
    }

    #[test]
    fn runs_come_in_order_without_overlap_whatever_was_sent() {
        assert_eq!(ranges(&[run(5, 0), run(6, 2)]).expect("sound"), [(5, 6), (6, 8)]);
        assert_eq!(ranges(&[run(10, 5), run(3, 2), run(12, 9), run(3, 1)]).expect("sound"), [(3, 5), (10, 21)]);
        assert_eq!(ranges(&[run(7, 1), run(7, 1)]).expect("a double ack"), [(7, 8)]);
        for given in [run(-1, 1), run(i64::MAX, 2), run(0, 1_001), run(0, u32::MAX)] {
            assert!(ranges(&[given]).is_err(), "{given:?}");
        }
        assert!(ranges(&[run(0, 600), run(1_000, 600)]).is_err(), "too many in all");
    }

    #[test]
    fn oversized_error_texts_are_cut_at_a_character() {
        let given = v1::HandlerError { message: "é".repeat(5_000), stack: "s".repeat(1 << 20), ..Default::default() };
        let cut = error(given);
        assert_eq!((cut.message.len(), cut.stack.len()), (4_096, 16 << 10));
        let odd = v1::HandlerError { message: format!("x{}", "é".repeat(5_000)), ..Default::default() };
        assert_eq!(error(odd).message.len(), 4_095);
    }

    #[test]
    fn fc_2_credits_of_zero_and_of_2_to_the_63_are_taken() {
        assert_eq!(credit(v1::Credit::default()), Credit::default());
        let most = credit(v1::Credit { records: 1 << 63, bytes: u64::MAX });
        assert_eq!(most, Credit { records: 1 << 31, bytes: 1 << 40 });
    }

    #[test]
    fn gm_1_a_join_is_checked_field_by_field() {
        let sound = v1::Join {
            group: "billing".into(),
            member_id: "01234567-89ab-cdef-0123-456789abcdef".into(),
            ..Default::default()
        };
        assert!(join(sound.clone()).is_ok());
        let bad = [
            v1::Join { group: "../x".into(), ..sound.clone() },
            v1::Join { member_id: "me".into(), ..sound.clone() },
            v1::Join { expected_mode: 9, ..sound.clone() },
            v1::Join { form: 9, ..sound.clone() },
            v1::Join { instance_id: Some(String::new()), ..sound.clone() },
            v1::Join { instance_id: Some("x".repeat(256)), ..sound.clone() },
            v1::Join { client_version: "x".repeat(256), ..sound.clone() },
            v1::Join { max_wait_ms: 60_001, ..sound.clone() },
            v1::Join { expected_topics: vec!["a/b".into()], ..sound.clone() },
            v1::Join { in_work: vec![v1::InWork { topic_id: "t".into(), ..Default::default() }], ..sound.clone() },
        ];
        for given in bad {
            assert!(join(given.clone()).is_err(), "{given:?}");
        }
    }

    #[test]
    fn slots_are_a_run_of_the_4096() {
        let some = |from, to| slots(Some(&v1::Slots { from, to }));
        assert_eq!(some(0, 4_096), Some(SlotRange::ALL));
        assert!(some(1, 1).is_none() && some(2, 1).is_none() && some(0, 4_097).is_none() && slots(None).is_none());
    }
}
