//! Snapshots come back as they were, and never when anything is off.

use super::*;
use crate::partition::{ProducerStamp, RequestStamp};

const TTL: Duration = Duration::from_secs(3_600);

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("a small number is an offset")
}

fn sample() -> Producers {
    let mut producers = Producers::new(TTL);
    let mut base = 0;
    for sequence in 0..70 {
        let stamp = ProducerStamp { producer_id: 9, producer_epoch: 2, base_sequence: sequence };
        let kept = Kept {
            base_offset: offset(base),
            record_count: 1,
            epoch: PartitionEpoch::new(3).expect("small"),
            append_time_ms: 1_000 + i64::from(sequence),
        };
        producers.found(Some(stamp), None, kept, Monotonic::default(), 2_000);
        base += 1;
        let request = RequestStamp { producer_id: 11, producer_epoch: 0, request_number: base * 2 };
        let kept = Kept { base_offset: offset(base), ..kept };
        producers.found(None, Some(request), kept, Monotonic::default(), 2_000);
        base += 1;
    }
    producers
}

#[test]
fn a_snapshot_comes_back_as_it_was() {
    let producers = sample();
    let epoch = PartitionEpoch::new(3);
    let bytes = encode(&producers, offset(140), epoch);
    let found = decode(&bytes, TTL, Monotonic::default(), 2_000).expect("it is whole");
    assert_eq!((found.end, found.epoch), (offset(140), epoch));
    assert_eq!(found.producers.known, producers.known);
    let empty = encode(&Producers::new(TTL), Offset::ZERO, None);
    let found = decode(&empty, TTL, Monotonic::default(), 0).expect("it is whole");
    assert_eq!((found.end, found.epoch, found.producers.known.len()), (Offset::ZERO, None, 0));
}

#[test]
fn c_4_every_flipped_bit_and_every_cut_of_a_snapshot_is_noticed() {
    let bytes = encode(&sample(), offset(140), PartitionEpoch::new(3));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bad, TTL, Monotonic::default(), 2_000).is_none(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length], TTL, Monotonic::default(), 2_000).is_none(), "cut to {length}");
    }
}

#[test]
fn producers_that_were_idle_for_their_time_to_live_do_not_come_back() {
    let bytes = encode(&sample(), offset(140), None);
    let wall_ms = 2_000 + 3_600_000;
    assert_eq!(decode(&bytes, TTL, Monotonic::default(), wall_ms).expect("whole").producers.known.len(), 0);
}
