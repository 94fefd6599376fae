//! Zig-zag varints as protobuf and Kafka write them (`ByteUtils.writeVarint`).
//!
//! A varint of 32 bits takes at most 5 bytes, one of 64 bits at most 10; more, or bits beyond the width, is an error.

/// Most bytes of a varint of 32 bits.
pub(super) const MAX_I32: usize = 5;
/// Most bytes of a varint of 64 bits.
pub(super) const MAX_I64: usize = 10;

const fn zigzag_i32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

const fn zigzag_i64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag_i64(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Bytes that `value` takes.
pub(super) const fn size_i32(value: i32) -> usize {
    size_u64(zigzag_i32(value) as u64)
}

/// Bytes that `value` takes.
pub(super) const fn size_i64(value: i64) -> usize {
    size_u64(zigzag_i64(value))
}

const fn size_u64(value: u64) -> usize {
    // One byte for each seven bits begun, at least one.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Writes `value` at `at` of `out`, which must have room; returns the place after it.
pub(super) fn put_i32(out: &mut [u8], at: usize, value: i32) -> usize {
    put_u64(out, at, u64::from(zigzag_i32(value)))
}

/// Writes `value` at `at` of `out`, which must have room; returns the place after it.
pub(super) fn put_i64(out: &mut [u8], at: usize, value: i64) -> usize {
    put_u64(out, at, zigzag_i64(value))
}

#[inline]
fn put_u64(out: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

/// Reads a varint of 32 bits at `at` and moves `at` behind it; `None` if it is cut short or too long.
#[inline]
pub(super) fn read_i32(bytes: &[u8], at: &mut usize) -> Option<i32> {
    let first = *bytes.get(*at)?;
    if first < 0x80 {
        *at += 1;
        return Some(i32::from(first >> 1) ^ -i32::from(first & 1));
    }
    let value = read_u64(bytes, at, MAX_I32)?;
    u32::try_from(value).ok().map(|value| (value >> 1) as i32 ^ -((value & 1) as i32))
}

/// Reads a varint of 64 bits at `at` and moves `at` behind it; `None` if it is cut short or too long.
#[inline]
pub(super) fn read_i64(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let first = *bytes.get(*at)?;
    if first < 0x80 {
        *at += 1;
        return Some(unzigzag_i64(u64::from(first)));
    }
    read_u64(bytes, at, MAX_I64).map(unzigzag_i64)
}

fn read_u64(bytes: &[u8], at: &mut usize, most: usize) -> Option<u64> {
    let mut value = 0_u64;
    for (index, byte) in bytes.get(*at..)?.iter().take(most).enumerate() {
        // The tenth byte of 64 bits has room for one bit only.
        if index == MAX_I64 - 1 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *at += index + 1;
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_comes_back_and_takes_the_bytes_announced() {
        let mut values = vec![0, -1, 1, i64::MAX, i64::MIN];
        for bit in 0..63 {
            values.extend([1 << bit, (1 << bit) - 1, -(1 << bit)]);
        }
        for value in values {
            let mut out = [0; MAX_I64];
            let end = put_i64(&mut out, 0, value);
            assert_eq!(end, size_i64(value), "{value}");
            let mut at = 0;
            assert_eq!(read_i64(&out[..end], &mut at), Some(value));
            assert_eq!(at, end);
            assert_eq!(read_i64(&out[..end - 1], &mut 0), None, "{value} cut short");
            if let Ok(small) = i32::try_from(value) {
                let end = put_i32(&mut out, 0, small);
                assert_eq!(end, size_i32(small));
                assert_eq!(read_i32(&out[..end], &mut 0), Some(small));
            } else {
                assert_eq!(read_i32(&out[..end], &mut 0), None, "{value} is too wide");
            }
        }
    }

    #[test]
    fn a_varint_without_end_is_refused() {
        assert_eq!(read_i64(&[0xff; 64], &mut 0), None);
        assert_eq!(read_i32(&[0xff; 64], &mut 0), None);
        assert_eq!(read_i64(&[], &mut 0), None);
    }
}
