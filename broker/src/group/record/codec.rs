//! The bytes of records in the group journal, as the head of [`super`] has them.
//!
//! Bytes that do not fit are errors, never panics.

use std::collections::HashMap;

use super::super::packing::{Input, put, put_lane, put_one_of, put_place, put_signed, put_source, put_text};
use super::{DeadReason, EntryKind, ErrorInfo, GroupRecord, Intent, OwnedRun, SettledAs, Tried};
use crate::limits::KEY_SLOTS;
use crate::model::{AssignmentEpoch, GroupId, MemberId, Offset, OffsetRange, SlotRange, Source};

/// First byte of a binary [`GroupRecord::Settled`].
pub const TAG_SETTLED: u8 = 1;
/// First byte of a binary [`GroupRecord::Tried`].
pub const TAG_TRIED: u8 = 2;
/// First byte of a binary [`GroupRecord::Assigned`].
pub const TAG_ASSIGNED: u8 = 3;
/// First byte of a binary [`GroupRecord::Intended`].
pub const TAG_INTENDED: u8 = 4;
/// First byte of a binary [`GroupRecord::Arrived`].
pub const TAG_ARRIVED: u8 = 5;

/// Flags of an intent.
const SPILLED: u64 = 1;
const HOLDS: u64 = 1 << 1;
const SOURCE_LOST: u64 = 1 << 2;
const CLEARED: u64 = 1 << 3;
/// Parts that an intent has.
const ERROR: u64 = 1 << 4;
const MEMBER: u64 = 1 << 5;
const BLOCKED: u64 = 1 << 6;
/// What blocks it is of another partition, which is told then.
const ELSEWHERE: u64 = 1 << 7;
const KNOWN_FLAGS: u64 = (1 << 8) - 1;

/// A record with the group that it belongs to, as the journal has it: `group: u64 LE | record`.
pub fn encode(group: GroupId, record: &GroupRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    encode_into(&mut out, group, record);
    out
}

/// As [`encode`], behind what is there.
pub fn encode_into(out: &mut Vec<u8>, group: GroupId, record: &GroupRecord) {
    out.extend_from_slice(&group.0.to_le_bytes());
    match record {
        GroupRecord::Settled { source, how, runs } => put_settled(out, *source, *how, runs),
        GroupRecord::Tried { source, tries } => put_tried(out, *source, tries),
        GroupRecord::Assigned { epoch, runs } => put_assigned(out, *epoch, runs),
        GroupRecord::Intended { number, intent } => put_intended(out, *number, intent),
        GroupRecord::Arrived { source, number, how } => {
            out.push(TAG_ARRIVED);
            put_source(out, *source);
            put(out, *number);
            match how {
                None => put(out, 0),
                Some(how) => put(out, 1 + place_of(*how)),
            }
        }
        other => serde_json::to_writer(out, other).expect("records have no keys that are no strings"),
    }
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
        Some(&TAG_INTENDED) => decode_intended(&mut Input(&rest[1..]))?,
        Some(&TAG_ARRIVED) => decode_arrived(&mut Input(&rest[1..]))?,
        _ => serde_json::from_slice(rest).map_err(|error| error.to_string())?,
    };
    Ok((group, record))
}

fn place_of(how: SettledAs) -> u64 {
    SettledAs::ALL.iter().position(|one| *one == how).expect("every value is in the list") as u64
}

fn put_settled(out: &mut Vec<u8>, source: Source, how: SettledAs, runs: &[OffsetRange]) {
    out.push(TAG_SETTLED);
    put_source(out, source);
    put_one_of(out, &SettledAs::ALL, &how);
    put(out, runs.len() as u64);
    let mut end = 0;
    for run in runs {
        put(out, run.from.get().wrapping_sub(end));
        put(out, run.to.distance_from(run.from));
        end = run.to.get();
    }
}

fn put_tried(out: &mut Vec<u8>, source: Source, tries: &[Tried]) {
    out.push(TAG_TRIED);
    put_source(out, source);
    put(out, tries.len() as u64);
    for tried in tries {
        put(out, tried.offset.get());
        put(out, tried.epoch.get().into());
        put(out, tried.attempts.into());
        put_signed(out, tried.due_ms);
        put(out, tried.delay_ms);
        put_signed(out, tried.first_ms);
        put_lane(out, tried.lane, tried.slot);
        put_text(out, &tried.class);
    }
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

fn put_intended(out: &mut Vec<u8>, number: u64, intent: &Intent) {
    out.push(TAG_INTENDED);
    let elsewhere = intent.blocked_by.filter(|head| head.source != intent.key.source);
    let flags = [
        (SPILLED, intent.spilled),
        (HOLDS, intent.holds),
        (SOURCE_LOST, intent.source_lost),
        (CLEARED, intent.cleared),
        (ERROR, intent.error.is_some()),
        (MEMBER, intent.member.is_some()),
        (BLOCKED, intent.blocked_by.is_some()),
        (ELSEWHERE, elsewhere.is_some()),
    ];
    put(out, flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).sum());
    put(out, number);
    put_source(out, intent.key.source);
    put_place(out, &intent.key);
    put_lane(out, intent.lane, intent.slot);
    put_one_of(out, &EntryKind::ALL, &intent.kind);
    put_one_of(out, &DeadReason::ALL, &intent.reason);
    for number in [intent.size_bytes, intent.cycle, intent.attempts, intent.records] {
        put(out, number.into());
    }
    put_signed(out, intent.due_ms);
    put(out, intent.delay_ms);
    let times = [intent.first_delivery_ms, intent.first_failure_ms, intent.last_failure_ms, intent.dead_ms];
    times.into_iter().for_each(|time| put_signed(out, time));
    put(out, intent.dlq_end.get());
    put_text(out, &intent.client_version);
    if let Some(error) = &intent.error {
        let texts = [&error.class, &error.message, &error.stack, &error.fingerprint, &error.trace];
        texts.into_iter().for_each(|text| put_text(out, text));
    }
    if let Some(member) = intent.member {
        out.extend_from_slice(&member.0);
    }
    if let Some(head) = elsewhere {
        put_source(out, head.source);
    }
    if let Some(head) = intent.blocked_by {
        put_place(out, &head);
    }
}

fn decode_settled(input: &mut Input<'_>) -> Result<GroupRecord, String> {
    let source = input.source()?;
    let how = input.one_of(&SettledAs::ALL, "way to settle")?;
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
        let (offset, epoch, attempts) = (input.offset()?, input.epoch()?, input.u32()?);
        let (due_ms, delay_ms, first_ms) = (input.signed()?, input.varint()?, input.signed()?);
        let (lane, slot) = input.lane()?;
        let class = input.text()?;
        tries.push(Tried { offset, epoch, attempts, due_ms, delay_ms, first_ms, lane, slot, class });
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

fn decode_intended(input: &mut Input<'_>) -> Result<GroupRecord, String> {
    let flags = input.flags(KNOWN_FLAGS)?;
    let given = |flag| flags & flag != 0;
    let number = input.varint()?;
    let source = input.source()?;
    let key = input.place(source)?;
    let (lane, slot) = input.lane()?;
    let mut intent = Intent {
        key,
        lane,
        slot,
        kind: input.one_of(&EntryKind::ALL, "kind")?,
        reason: input.one_of(&DeadReason::ALL, "reason")?,
        spilled: given(SPILLED),
        holds: given(HOLDS),
        source_lost: given(SOURCE_LOST),
        cleared: given(CLEARED),
        size_bytes: input.u32()?,
        cycle: input.u32()?,
        attempts: input.u32()?,
        records: input.u32()?,
        due_ms: input.signed()?,
        delay_ms: input.varint()?,
        first_delivery_ms: input.signed()?,
        first_failure_ms: input.signed()?,
        last_failure_ms: input.signed()?,
        dead_ms: input.signed()?,
        dlq_end: input.offset()?,
        client_version: input.text()?,
        error: None,
        member: None,
        blocked_by: None,
    };
    if given(ERROR) {
        let (class, message, stack) = (input.text()?, input.text()?, input.text()?);
        let (fingerprint, trace) = (input.text()?, input.text()?);
        intent.error = Some(Box::new(ErrorInfo { class, message, stack, fingerprint, trace }));
    }
    if given(MEMBER) {
        intent.member = Some(MemberId(input.array()?));
    }
    match (given(BLOCKED), given(ELSEWHERE)) {
        (false, false) => {}
        (true, false) => intent.blocked_by = Some(input.place(source)?),
        (true, true) => {
            let source = input.source()?;
            intent.blocked_by = Some(input.place(source)?);
        }
        (false, true) => return Err("a partition of nothing".into()),
    }
    input.end()?;
    Ok(GroupRecord::Intended { number, intent: Box::new(intent) })
}

fn decode_arrived(input: &mut Input<'_>) -> Result<GroupRecord, String> {
    let (source, number) = (input.source()?, input.varint()?);
    let how = match input.varint()? {
        0 => None,
        how => {
            let how = usize::try_from(how - 1).ok().and_then(|how| SettledAs::ALL.get(how).copied());
            Some(how.ok_or("an unknown way to settle")?)
        }
    };
    input.end()?;
    Ok(GroupRecord::Arrived { source, number, how })
}
