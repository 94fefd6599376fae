//! The extension block of a frame: what the broker keeps beside a batch. Typed, and skipped where not known.
//!
//! ```text
//! entry:  tag u16, length u16, so many bytes      all integers little-endian; entries follow each other
//! tag 1:  producer id i64, producer epoch i16, request number u64: an idempotent request of plain records (PR-7)
//! ```
//!
//! The frame's second checksum covers the block. A tag occurs at most once; entries stand in no order.

use bytes::{BufMut, Bytes, BytesMut};

use super::RequestStamp;

/// Tag of a [`RequestStamp`].
const TAG_REQUEST: u16 = 1;
/// Bytes of an entry before its value.
const ENTRY_HEAD: usize = 4;
/// Bytes of a [`RequestStamp`].
const REQUEST_BYTES: usize = 18;

/// The block that keeps this stamp.
pub(crate) fn encode(request: &RequestStamp) -> Bytes {
    let mut block = BytesMut::with_capacity(ENTRY_HEAD + REQUEST_BYTES);
    block.put_u16_le(TAG_REQUEST);
    block.put_u16_le(REQUEST_BYTES as u16);
    block.put_i64_le(request.producer_id);
    block.put_i16_le(request.producer_epoch);
    block.put_u64_le(request.request_number);
    block.freeze()
}

/// The stamp kept in a block, if it has one. What is not known or not whole is skipped: the frame's checksum has
/// vouched for the bytes, so it was written by a later version.
pub(crate) fn request_of(mut block: &[u8]) -> Option<RequestStamp> {
    while let Some((head, rest)) = block.split_first_chunk::<ENTRY_HEAD>() {
        let tag = u16::from_le_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let value = rest.get(..length)?;
        if tag == TAG_REQUEST {
            let value: &[u8; REQUEST_BYTES] = value.try_into().ok()?;
            let (id, rest) = value.split_first_chunk::<8>()?;
            let (epoch, rest) = rest.split_first_chunk::<2>()?;
            let (number, _) = rest.split_first_chunk::<8>()?;
            return Some(RequestStamp {
                producer_id: i64::from_le_bytes(*id),
                producer_epoch: i16::from_le_bytes(*epoch),
                request_number: u64::from_le_bytes(*number),
            });
        }
        block = &rest[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: RequestStamp = RequestStamp { producer_id: -7, producer_epoch: 3, request_number: 1 << 40 };

    #[test]
    fn a_stamp_comes_back_as_it_was() {
        assert_eq!(request_of(&encode(&STAMP)), Some(STAMP));
        assert_eq!(request_of(&[]), None);
    }

    #[test]
    fn entries_that_are_not_known_are_skipped() {
        let mut block = vec![9, 0, 3, 0, 1, 2, 3];
        block.extend_from_slice(&encode(&STAMP));
        assert_eq!(request_of(&block), Some(STAMP));
    }

    #[test]
    fn a_block_cut_short_anywhere_has_no_stamp_and_no_panic() {
        let block = encode(&STAMP);
        for length in 0..block.len() {
            assert_eq!(request_of(&block[..length]), None, "cut to {length}");
        }
    }
}
