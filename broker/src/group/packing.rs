//! The parts of binary journal records: numbers as LEB128 varints, texts behind their lengths, partitions.
//!
//! Owns: how a value stands in bytes, and that bytes which do not fit are errors, never panics; nothing is allocated on
//! the word of a length that the bytes do not hold. Must not know: what the records are.

use super::entry::EntryKey;
use crate::model::{KeySlot, LaneKey, Offset, PartitionEpoch, PartitionId, Source, TopicUuid};

/// Adds a number.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Adds a time or another number that may be negative, which takes ten bytes then.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, value as u64);
}

/// Adds a text.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Adds a partition.
pub(super) fn put_source(out: &mut Vec<u8>, source: Source) {
    out.extend_from_slice(&source.topic.0);
    put(out, source.partition.0.into());
}

/// Adds a lane and its slot.
pub(super) fn put_lane(out: &mut Vec<u8>, lane: LaneKey, slot: KeySlot) {
    out.extend_from_slice(&lane.0.to_le_bytes());
    put(out, slot.get().into());
}

/// Adds the place of a record in a partition that is known.
pub(super) fn put_place(out: &mut Vec<u8>, key: &EntryKey) {
    put(out, key.offset.get());
    put(out, key.epoch.get().into());
}

/// Adds the place of one of a few values in the list of all.
pub(super) fn put_one_of<T: PartialEq>(out: &mut Vec<u8>, all: &[T], value: &T) {
    let at = all.iter().position(|one| one == value).expect("every value is in the list");
    put(out, at as u64);
}

/// What is left to read.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    pub(super) fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("cut short")?;
            self.0 = rest;
            if shift == 63 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits".into())
    }

    pub(super) fn signed(&mut self) -> Result<i64, String> {
        Ok(self.varint()? as i64)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        u32::try_from(self.varint()?).map_err(|_| "a number of more than 32 bits".into())
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or("cut short")?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn text(&mut self) -> Result<String, String> {
        let length = usize::try_from(self.varint()?).map_err(|_| "a length beyond memory")?;
        let (text, rest) = self.0.split_at_checked(length).ok_or("cut short")?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|error| error.to_string())
    }

    pub(super) fn source(&mut self) -> Result<Source, String> {
        Ok(Source { topic: TopicUuid(self.array()?), partition: PartitionId(self.u32()?) })
    }

    pub(super) fn offset(&mut self) -> Result<Offset, String> {
        Offset::new(self.varint()?).ok_or_else(|| "an offset beyond the greatest".into())
    }

    pub(super) fn epoch(&mut self) -> Result<PartitionEpoch, String> {
        PartitionEpoch::new(self.u32()?).ok_or_else(|| "an epoch beyond the greatest".into())
    }

    pub(super) fn lane(&mut self) -> Result<(LaneKey, KeySlot), String> {
        let lane = LaneKey(u128::from_le_bytes(self.array()?));
        Ok((lane, KeySlot::new(self.u32()?).ok_or("a slot beyond the last")?))
    }

    pub(super) fn place(&mut self, source: Source) -> Result<EntryKey, String> {
        Ok(EntryKey { source, offset: self.offset()?, epoch: self.epoch()? })
    }

    pub(super) fn one_of<T: Copy>(&mut self, all: &[T], what: &str) -> Result<T, String> {
        let at = usize::try_from(self.varint()?).ok();
        at.and_then(|at| all.get(at).copied()).ok_or_else(|| format!("an unknown {what}"))
    }

    /// Bits of which none may be beyond those that are known.
    pub(super) fn flags(&mut self, known: u64) -> Result<u64, String> {
        let flags = self.varint()?;
        if flags & !known == 0 { Ok(flags) } else { Err(format!("unknown flags {flags:#x}")) }
    }

    pub(super) fn end(&self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("{} bytes too many", self.0.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_back_and_one_of_more_than_64_bits_is_an_error() {
        for value in [0, 1, 0x7f, 0x80, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, value);
            let mut input = Input(&out);
            assert_eq!((input.varint(), input.end()), (Ok(value), Ok(())));
        }
        let mut over = vec![0xff; 9];
        over.push(2);
        assert!(Input(&over).varint().is_err() && Input(&[0x80; 11]).varint().is_err());
    }
}
