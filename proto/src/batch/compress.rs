//! The codecs of records. What comes out of a decompression is bounded while it comes, never only afterwards: equal
//! records honestly compress a thousand times, so the bound is on bytes, not on a ratio.

use std::io::{self, Read, Write};

use lz4_flex::frame::{FrameDecoder, FrameEncoder};

use super::Codec;
use super::error::{BatchBound, BatchError, Flaw};

/// Level of zstd: higher ones cost twice the time for a few per cent.
const ZSTD_LEVEL: i32 = 1;
/// Largest window that a zstd frame may ask for, as a power of two: 16 MiB, the most that decompresses at all.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;
/// Bytes by which the output grows.
const STEP_BYTES: usize = 64 << 10;

/// A compressor with what it keeps from batch to batch.
#[derive(Default)]
pub(super) struct Compressor {
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl Compressor {
    /// Appends `records`, compressed, to `out`.
    pub(super) fn compress(&mut self, codec: Codec, records: &[u8], out: &mut Vec<u8>) {
        match codec {
            Codec::None => out.extend_from_slice(records),
            Codec::Lz4 => {
                let mut encoder = FrameEncoder::new(&mut *out);
                encoder.write_all(records).expect("writing into memory does not fail");
                encoder.finish().expect("writing into memory does not fail");
            }
            Codec::Zstd => {
                let zstd = self.zstd.get_or_insert_with(|| {
                    zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("the level is one that zstd knows")
                });
                let packed = zstd.compress(records).expect("zstd compresses any bytes into a buffer of its bound");
                out.extend_from_slice(&packed);
            }
        }
    }
}

/// Decompresses `packed` into at most `max` bytes.
pub(super) fn decompress(codec: Codec, packed: &[u8], max: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::with_capacity(packed.len().saturating_mul(3).min(max));
    let result = match codec {
        Codec::None => append(packed, &mut out, max).map(|_| ()),
        Codec::Lz4 => lz4(packed, &mut out, max),
        Codec::Zstd => zstd(packed, &mut out, max),
    };
    match result {
        Ok(()) => Ok(out),
        Err(Stop::Bound) => {
            Err(BatchError::TooLarge { bound: BatchBound::DecompressedBytes, found: max as u64 + 1, max: max as u64 })
        }
        Err(Stop::Malformed) => {
            Err(BatchError::Invalid { what: Flaw::Compression, index: None, expected: 0, found: out.len() as i64 })
        }
    }
}

enum Stop {
    Bound,
    Malformed,
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Malformed
    }
}

fn lz4(packed: &[u8], out: &mut Vec<u8>, max: usize) -> Result<(), Stop> {
    let mut decoder = FrameDecoder::new(packed);
    loop {
        let before = decoder.get_ref().len();
        append(&mut decoder, out, max)?;
        let after = decoder.get_ref().len();
        if after == 0 {
            return Ok(());
        }
        // The end of a frame; another one may follow. Without progress nothing would.
        if after == before {
            return Err(Stop::Malformed);
        }
    }
}

fn zstd(packed: &[u8], out: &mut Vec<u8>, max: usize) -> Result<(), Stop> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    append(decoder, out, max)
}

/// Reads to the end, growing `out` stepwise and never beyond `max`.
fn append(mut from: impl Read, out: &mut Vec<u8>, max: usize) -> Result<(), Stop> {
    loop {
        let start = out.len();
        // One byte beyond the bound tells an output that just fits from one that does not.
        let step = STEP_BYTES.min(max + 1 - start);
        out.resize(start + step, 0);
        let read = from.read(&mut out[start..]);
        out.truncate(start + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => return Ok(()),
            Ok(_) if out.len() > max => return Err(Stop::Bound),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
