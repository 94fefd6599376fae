//! Ways in to the decoders of this module, for tests that feed them bytes that no writer writes.
//!
//! Not there outside tests. It must not decide anything: it passes on what the decoders say.

use std::time::Duration;

use super::producers::{Kept, Producers};
use super::{Monotonic, Offset, PartitionEpoch, ProducerStamp, RequestStamp, extension, producer_snapshot};

/// How long the producers of a snapshot are known.
const TIME_TO_LIVE: Duration = Duration::from_secs(3_600);
/// When a snapshot is read, in milliseconds since 1970.
const NOW_MS: i64 = 2_000;

/// The block that keeps this stamp.
pub fn encoded_extension(request: &RequestStamp) -> Vec<u8> {
    extension::encode(request).to_vec()
}

/// The stamp kept in a frame's extension block.
pub fn extension(block: &[u8]) -> Option<RequestStamp> {
    extension::request_of(block)
}

/// A snapshot of two producers after so many batches and requests, one of each per round.
pub fn encoded_producers(rounds: u16) -> Vec<u8> {
    let mut producers = Producers::new(TIME_TO_LIVE);
    let epoch = PartitionEpoch::new(3).expect("small");
    for round in 0..i32::from(rounds) {
        let stamp = ProducerStamp { producer_id: 9, producer_epoch: 2, base_sequence: round };
        let request = RequestStamp { producer_id: 11, producer_epoch: 0, request_number: round as u64 };
        let mut kept = Kept {
            base_offset: Offset::new(round as u64 * 2).expect("small"),
            record_count: 1,
            epoch,
            append_time_ms: 1_000 + i64::from(round),
        };
        producers.found(Some(stamp), None, kept, Monotonic::default(), NOW_MS);
        kept.base_offset = kept.end();
        producers.found(None, Some(request), kept, Monotonic::default(), NOW_MS);
    }
    let end = Offset::new(u64::from(rounds) * 2).expect("small");
    producer_snapshot::encode(&producers, end, Some(epoch))
}

/// Number of producers and of batches and requests in a snapshot file, after one more append by each and a cut.
pub fn producers(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut snapshot = producer_snapshot::decode(bytes, TIME_TO_LIVE, Monotonic::default(), NOW_MS)?;
    let known = &snapshot.producers.known;
    let counts = (known.len(), known.values().map(|producer| producer.batches.len() + producer.requests.len()).sum());
    // What was believed is worked with: none of it may be a trap.
    let again = producer_snapshot::encode(&snapshot.producers, snapshot.end, snapshot.epoch);
    assert!(again.len() <= bytes.len(), "nothing is made up");
    let ids: Vec<_> = known.iter().map(|(id, producer)| (*id, producer.epoch)).collect();
    for (producer_id, producer_epoch) in ids {
        let epoch = snapshot.epoch.unwrap_or(PartitionEpoch::ZERO);
        let kept = Kept { base_offset: snapshot.end, record_count: 1, epoch, append_time_ms: NOW_MS };
        let stamp = ProducerStamp { producer_id, producer_epoch, base_sequence: 0 };
        snapshot.producers.found(Some(stamp), None, kept, Monotonic::default(), NOW_MS);
    }
    snapshot.producers.truncate(snapshot.end);
    snapshot.producers.expire(Monotonic::default());
    Some(counts)
}
