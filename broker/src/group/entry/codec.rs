//! The bytes of entry records in the entry journal, as the head of [`super`] has them.
//!
//! Bytes that do not fit are errors, never panics.

use super::super::packing::{Input, put, put_lane, put_one_of, put_place, put_signed, put_source, put_text};
use super::{Act, DeadReason, Entry, EntryKey, EntryKind, EntryRecord, EntryState};

/// First byte of a binary [`EntryRecord::Opened`].
const TAG_OPENED: u8 = 1;
/// First byte of a binary [`EntryRecord::Tried`].
const TAG_TRIED: u8 = 2;
/// First byte of a binary [`EntryRecord::Changed`].
const TAG_CHANGED: u8 = 3;

/// Flags of an entry.
const HOLDS: u64 = 1;
const SOURCE_LOST: u64 = 1 << 1;
/// Parts that an entry has.
const JOB: u64 = 1 << 2;
const CLASS: u64 = 1 << 3;
const FINGERPRINT: u64 = 1 << 4;
const BLOCKED: u64 = 1 << 5;
const VERSIONS: u64 = 1 << 6;
const ACT: u64 = 1 << 7;
const OPENED_FLAGS: u64 = (1 << 8) - 1;
const CHANGED_FLAGS: u64 = JOB | CLASS | FINGERPRINT;

/// Bytes that most records have at most.
const USUAL_BYTES: usize = 112;
/// Number of [`EntryState::Resolved`], behind which its version stands.
const RESOLVED: u64 = 2;

impl EntryRecord {
    /// Its bytes in the journal.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(USUAL_BYTES);
        self.encode_into(&mut out);
        out
    }

    /// As [`EntryRecord::encode`], behind what is there.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            // An entry that waits for one of another partition has no binary form: the table refuses it.
            Self::Opened { key, entry } if entry.blocked_by.is_none_or(|head| head.source == key.source) => {
                put_opened(out, key, entry);
            }
            Self::Tried { key, attempts, due_ms, delay_ms, class } => {
                out.push(TAG_TRIED);
                put(out, flag(CLASS, class.is_some()));
                put_key(out, key);
                put(out, (*attempts).into());
                put_signed(out, *due_ms);
                put(out, *delay_ms);
                class.iter().for_each(|class| put_text(out, class));
            }
            Self::Changed { key, state, kind, cycle, job, attempts, reason, class, fingerprint, act } => {
                out.push(TAG_CHANGED);
                let named = flag(CLASS, class.is_some()) | flag(FINGERPRINT, fingerprint.is_some());
                put(out, flag(JOB, job.is_some()) | named);
                put_key(out, key);
                put_state(out, *state);
                put_one_of(out, &EntryKind::ALL, kind);
                put(out, (*cycle).into());
                put(out, (*attempts).into());
                put_one_of(out, &DeadReason::ALL, reason);
                job.iter().for_each(|job| put(out, *job));
                class.iter().chain(fingerprint).for_each(|text| put_text(out, text));
                put_act(out, act);
            }
            other => serde_json::to_writer(out, other).expect("entry records have no keys that are no strings"),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (tag, rest) = bytes.split_first().ok_or("an entry record without bytes")?;
        let mut input = Input(rest);
        let record = match *tag {
            TAG_OPENED => decode_opened(&mut input)?,
            TAG_TRIED => decode_tried(&mut input)?,
            TAG_CHANGED => decode_changed(&mut input)?,
            _ => return serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        };
        input.end()?;
        Ok(record)
    }
}

fn flag(flag: u64, given: bool) -> u64 {
    if given { flag } else { 0 }
}

fn put_key(out: &mut Vec<u8>, key: &EntryKey) {
    put_source(out, key.source);
    put_place(out, key);
}

fn put_state(out: &mut Vec<u8>, state: EntryState) {
    let number = match state {
        EntryState::Open => 0,
        EntryState::Spilled => 1,
        EntryState::Resolved { version } => {
            put(out, RESOLVED);
            return put(out, version.into());
        }
        EntryState::Discarded => 3,
        EntryState::Moved => 4,
        EntryState::Cleared => 5,
        EntryState::Expired => 6,
    };
    put(out, number);
}

fn put_act(out: &mut Vec<u8>, act: &Act) {
    put_text(out, &act.actor);
    put_signed(out, act.time_ms);
    put_text(out, &act.note);
}

fn put_opened(out: &mut Vec<u8>, key: &EntryKey, entry: &Entry) {
    out.push(TAG_OPENED);
    let acted = entry.act != Act::default();
    let flags = [
        (HOLDS, entry.holds),
        (SOURCE_LOST, entry.source_lost),
        (JOB, entry.job.is_some()),
        (CLASS, entry.class.is_some()),
        (FINGERPRINT, entry.fingerprint.is_some()),
        (BLOCKED, entry.blocked_by.is_some()),
        (VERSIONS, !entry.versions.is_empty()),
        (ACT, acted),
    ];
    put(out, flags.into_iter().map(|(one, given)| flag(one, given)).sum());
    put_key(out, key);
    put_lane(out, entry.lane, entry.slot);
    put_one_of(out, &EntryKind::ALL, &entry.kind);
    put_state(out, entry.state);
    put_one_of(out, &DeadReason::ALL, &entry.reason);
    put(out, entry.cycle.into());
    put(out, entry.copy.get());
    put(out, entry.attempts.into());
    put_signed(out, entry.due_ms);
    put(out, entry.delay_ms);
    put_signed(out, entry.first_delivery_ms);
    put(out, entry.size_bytes.into());
    put(out, entry.intent);
    put_signed(out, entry.dead_ms);
    entry.job.iter().for_each(|job| put(out, *job));
    entry.class.iter().chain(&entry.fingerprint).for_each(|text| put_text(out, text));
    entry.blocked_by.iter().for_each(|head| put_place(out, head));
    if !entry.versions.is_empty() {
        put(out, entry.versions.len() as u64);
        entry.versions.iter().for_each(|copy| put(out, copy.get()));
    }
    if acted {
        put_act(out, &entry.act);
    }
}

impl Input<'_> {
    fn key(&mut self) -> Result<EntryKey, String> {
        let source = self.source()?;
        self.place(source)
    }

    fn state(&mut self) -> Result<EntryState, String> {
        Ok(match self.varint()? {
            0 => EntryState::Open,
            1 => EntryState::Spilled,
            RESOLVED => EntryState::Resolved { version: self.u32()? },
            3 => EntryState::Discarded,
            4 => EntryState::Moved,
            5 => EntryState::Cleared,
            6 => EntryState::Expired,
            state => return Err(format!("an unknown state {state}")),
        })
    }

    fn act(&mut self) -> Result<Act, String> {
        Ok(Act { actor: self.text()?, time_ms: self.signed()?, note: self.text()? })
    }

    fn given<T>(
        &mut self,
        given: bool,
        read: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        given.then(|| read(self)).transpose()
    }
}

fn decode_opened(input: &mut Input<'_>) -> Result<EntryRecord, String> {
    let flags = input.flags(OPENED_FLAGS)?;
    let given = |flag| flags & flag != 0;
    let key = input.key()?;
    let (lane, slot) = input.lane()?;
    let mut entry = Entry {
        lane,
        slot,
        kind: input.one_of(&EntryKind::ALL, "kind")?,
        state: input.state()?,
        reason: input.one_of(&DeadReason::ALL, "reason")?,
        cycle: input.u32()?,
        copy: input.offset()?,
        attempts: input.u32()?,
        due_ms: input.signed()?,
        delay_ms: input.varint()?,
        first_delivery_ms: input.signed()?,
        size_bytes: input.u32()?,
        intent: input.varint()?,
        dead_ms: input.signed()?,
        job: input.given(given(JOB), Input::varint)?,
        class: input.given(given(CLASS), Input::text)?,
        fingerprint: input.given(given(FINGERPRINT), Input::text)?,
        blocked_by: input.given(given(BLOCKED), |input| input.place(key.source))?,
        holds: given(HOLDS),
        source_lost: given(SOURCE_LOST),
        versions: Vec::new(),
        act: Act::default(),
    };
    if given(VERSIONS) {
        for _ in 0..input.varint()? {
            entry.versions.push(input.offset()?);
        }
    }
    if given(ACT) {
        entry.act = input.act()?;
    }
    Ok(EntryRecord::Opened { key, entry: Box::new(entry) })
}

fn decode_tried(input: &mut Input<'_>) -> Result<EntryRecord, String> {
    let flags = input.flags(CLASS)?;
    let key = input.key()?;
    let (attempts, due_ms, delay_ms) = (input.u32()?, input.signed()?, input.varint()?);
    let class = input.given(flags & CLASS != 0, Input::text)?;
    Ok(EntryRecord::Tried { key, attempts, due_ms, delay_ms, class })
}

fn decode_changed(input: &mut Input<'_>) -> Result<EntryRecord, String> {
    let flags = input.flags(CHANGED_FLAGS)?;
    let given = |flag| flags & flag != 0;
    let key = input.key()?;
    let (state, kind) = (input.state()?, input.one_of(&EntryKind::ALL, "kind")?);
    let (cycle, attempts) = (input.u32()?, input.u32()?);
    let reason = input.one_of(&DeadReason::ALL, "reason")?;
    let job = input.given(given(JOB), Input::varint)?;
    let class = input.given(given(CLASS), Input::text)?;
    let fingerprint = input.given(given(FINGERPRINT), Input::text)?;
    let act = input.act()?;
    Ok(EntryRecord::Changed { key, state, kind, cycle, job, attempts, reason, class, fingerprint, act })
}
