//! The bytes of records in the group journal, as the head of [`super`] has them.
//!
//! Bytes that do not fit are errors, never panics.

use std::collections::HashMap;

use super::{GroupRecord, OwnedRun, SettledAs, TAG_ASSIGNED, TAG_SETTLED, TAG_TRIED, Tried};
use crate::limits::KEY_SLOTS;
use crate::model::{
    AssignmentEpoch, GroupId, KeySlot, LaneKey, MemberId, Offset, OffsetRange, PartitionEpoch, PartitionId, SlotRange,
    Source, TopicUuid,
};

/// A record with the group that it belongs to, as the journal has it: `group: u64 LE | record`.
pub fn encode(group: GroupId, record: &GroupRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&group.0.to_le_bytes());
    match record {
        GroupRecord::Settled { source, how, runs } => {
            out.push(TAG_SETTLED);
            put_source(&mut out, *source);
            let how = SettledAs::ALL.iter().position(|one| one == how).expect("every value is in the list");
            put(&mut out, how as u64);
            put(&mut out, runs.len() as u64);
            let mut end = 0;
            for run in runs {
                put(&mut out, run.from.get().wrapping_sub(end));
                put(&mut out, run.to.distance_from(run.from));
                end = run.to.get();
            }
        }
        GroupRecord::Tried { source, tries } => {
            out.push(TAG_TRIED);
            put_source(&mut out, *source);
            put(&mut out, tries.len() as u64);
            for tried in tries {
                put(&mut out, tried.offset.get());
                put(&mut out, tried.epoch.get().into());
                put(&mut out, tried.attempts.into());
                put(&mut out, tried.due_ms as u64);
                put(&mut out, tried.delay_ms);
                put(&mut out, tried.first_ms as u64);
                out.extend_from_slice(&tried.lane.0.to_le_bytes());
                put(&mut out, tried.slot.get().into());
                put(&mut out, tried.class.len() as u64);
                out.extend_from_slice(tried.class.as_bytes());
            }
        }
        GroupRecord::Assigned { epoch, runs } => put_assigned(&mut out, *epoch, runs),
        other => serde_json::to_writer(&mut out, other).expect("records have no keys that are no strings"),
    }
    out
}

/// Reads a record.
///
/// # Errors
/// What does not fit, in words.
pub fn decode(bytes: &[u8]) -> Result<(GroupId, GroupRecord), String> {
    let (group, rest) = bytes.split_first_chunk::<8>().ok_or("too short for a group's number")?;
    let group = GroupId(u64::from_le_bytes(*group));
    let record = match rest.first() {
        Some(&TAG_SETTLED) => decode_settled(&mut Input(&rest[1..]))?,
        Some(&TAG_TRIED) => decode_tried(&mut Input(&rest[1..]))?,
        Some(&TAG_ASSIGNED) => decode_assigned(&mut Input(&rest[1..]))?,
        _ => serde_json::from_slice(rest).map_err(|error| error.to_string())?,
    };
    Ok((group, record))
}

pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_source(out: &mut Vec<u8>, source: Source) {
    out.extend_from_slice(&source.topic.0);
    put(out, source.partition.0.into());
}

fn put_assigned(out: &mut Vec<u8>, epoch: u64, sources: &[(Source, Vec<OwnedRun>)]) {
    out.push(TAG_ASSIGNED);
    put(out, epoch);
    let (mut members, mut index) = (Vec::new(), HashMap::new());
    for run in sources.iter().flat_map(|(_, runs)| runs) {
        index.entry(run.member).or_insert_with(|| {
            members.push(run.member);
            members.len() as u64 - 1
        });
    }
    put(out, members.len() as u64);
    members.iter().for_each(|member| out.extend_from_slice(&member.0));
    put(out, sources.len() as u64);
    for (source, runs) in sources {
        put_source(out, *source);
        put(out, runs.len() as u64);
        let mut end = 0;
        for run in runs {
            put(out, u64::from(run.slots.from.wrapping_sub(end)));
            put(out, u64::from(run.slots.len()));
            put(out, index[&run.member]);
            put(out, epoch.wrapping_sub(run.epoch.0));
            end = run.slots.to;
        }
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("cut short")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits".into())
    }

    fn u32(&mut self) -> Result<u32, String> {
        u32::try_from(self.varint()?).map_err(|_| "a number of more than 32 bits".into())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or("cut short")?;
        self.0 = rest;
        Ok(*array)
    }

    fn text(&mut self) -> Result<String, String> {
        let length = usize::try_from(self.varint()?).map_err(|_| "a length beyond memory")?;
        let (text, rest) = self.0.split_at_checked(length).ok_or("cut short")?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|error| error.to_string())
    }

    fn source(&mut self) -> Result<Source, String> {
        Ok(Source { topic: TopicUuid(self.array()?), partition: PartitionId(self.u32()?) })
    }

    fn offset(&mut self) -> Result<Offset, String> {
        Offset::new(self.varint()?).ok_or_else(|| "an offset beyond the greatest".into())
    }

    fn end(&self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("{} bytes too many", self.0.len())) }
    }
}

fn decode_settled(input: &mut Input<'_>) -> Result<GroupRecord, String> {
    let source = input.source()?;
    let how = usize::try_from(input.varint()?).ok().and_then(|how| SettledAs::ALL.get(how).copied());
    let how = how.ok_or("an unknown way to settle")?;
    let count = input.varint()?;
    let (mut runs, mut end) = (Vec::new(), 0_u64);
    for _ in 0..count {
        let from = end.checked_add(input.varint()?).and_then(Offset::new).ok_or("an offset beyond the greatest")?;
        let to = from.checked_add(input.varint()?).ok_or("an offset beyond the greatest")?;
        runs.push(OffsetRange { from, to });
        end = to.get();
    }
    input.end()?;
    Ok(GroupRecord::Settled { source, how, runs })
}

fn decode_tried(input: &mut Input<'_>) -> Result<GroupRecord, String> {
    let source = input.source()?;
    let count = input.varint()?;
    let mut tries = Vec::new();
    for _ in 0..count {
        tries.push(Tried {
            offset: input.offset()?,
            epoch: PartitionEpoch::new(input.u32()?).ok_or("an epoch beyond the greatest")?,
            attempts: input.u32()?,
            due_ms: input.varint()? as i64,
            delay_ms: input.varint()?,
            first_ms: input.varint()? as i64,
            lane: LaneKey(u128::from_le_bytes(input.array()?)),
            slot: KeySlot::new(input.u32()?).ok_or("a slot beyond the last")?,
            class: input.text()?,
        });
    }
    input.end()?;
    Ok(GroupRecord::Tried { source, tries })
}

fn decode_assigned(input: &mut Input<'_>) -> Result<GroupRecord, String> {
    let epoch = input.varint()?;
    let mut members = Vec::new();
    for _ in 0..input.varint()? {
        members.push(MemberId(input.array()?));
    }
    let mut sources = Vec::new();
    for _ in 0..input.varint()? {
        let source = input.source()?;
        let (mut runs, mut end) = (Vec::new(), 0_u32);
        for _ in 0..input.varint()? {
            let from = end.checked_add(input.u32()?).ok_or("a slot beyond the last")?;
            let to = from.checked_add(input.u32()?).filter(|to| *to <= KEY_SLOTS).ok_or("a slot beyond the last")?;
            let member = usize::try_from(input.varint()?).ok().and_then(|index| members.get(index).copied());
            let member = member.ok_or("a member that is not in the list")?;
            let epoch = AssignmentEpoch(epoch.wrapping_sub(input.varint()?));
            runs.push(OwnedRun { slots: SlotRange { from, to }, member, epoch });
            end = to;
        }
        sources.push((source, runs));
    }
    input.end()?;
    Ok(GroupRecord::Assigned { epoch, runs: sources })
}
