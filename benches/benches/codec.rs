//! Encoding, checking and walking record batches: what client and broker pay for each record besides the network.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;
use sawlog_benches::load::payload;
use sawlog_broker::coordinator::DeliveredRecord;
use sawlog_broker::coordinator::types::Delivery;
use sawlog_broker::grpc::DeliveryEncoder;
use sawlog_broker::model::{Offset, PartitionEpoch};
use sawlog_proto::batch::{self, BatchBuilder, BatchRecord, Codec};
use sawlog_proto::v1;

const SHAPES: [(u32, usize); 3] = [(100, 100), (1_000, 100), (100, 1_024)];

fn build(builder: &mut BatchBuilder, records: u32, value: &[u8]) -> Bytes {
    for number in 0..records {
        let key = number.to_be_bytes();
        builder.push(1_700_000_000_000, Some(&key), Some(value), std::iter::empty());
    }
    builder.finish()
}

fn codec(criterion: &mut Criterion) {
    let limits = batch::BatchLimits::default();
    for (records, record_bytes) in SHAPES {
        let name = format!("{records}x{record_bytes}B");
        let value = payload(record_bytes);
        for (codec_name, codec) in [("none", Codec::None), ("lz4", Codec::Lz4), ("zstd", Codec::Zstd)] {
            let mut group = criterion.benchmark_group(format!("codec/{codec_name}"));
            group.throughput(Throughput::Elements(u64::from(records)));
            let mut builder = BatchBuilder::new(codec);
            group.bench_function(BenchmarkId::new("encode", &name), |bencher| {
                bencher.iter(|| build(&mut builder, records, black_box(&value)));
            });
            let bytes = build(&mut builder, records, &value);
            group.bench_function(BenchmarkId::new("check_envelope", &name), |bencher| {
                bencher.iter(|| batch::check(black_box(&bytes), &limits, false).expect("it was just built"));
            });
            group.bench_function(BenchmarkId::new("check_deep", &name), |bencher| {
                bencher.iter(|| batch::check(black_box(&bytes), &limits, true).expect("it was just built"));
            });
            group.bench_function(BenchmarkId::new("views", &name), |bencher| {
                bencher.iter(|| batch::records(black_box(&bytes), &limits).expect("it was just built").views().count());
            });
            group.bench_function(BenchmarkId::new("records", &name), |bencher| {
                bencher.iter(|| batch::records(black_box(&bytes), &limits).expect("it was just built").count());
            });
        }
    }
}

/// What a delivery costs on its way to a member: by hand, and by the generated code.
fn delivery(criterion: &mut Criterion) {
    for (records, record_bytes) in SHAPES {
        let value = payload(record_bytes);
        let record = |number: u32| DeliveredRecord {
            delivery: Delivery { offset: Offset::new(number.into()).expect("small"), attempt: 1, more: None },
            epoch: PartitionEpoch::new(1).expect("small"),
            append_ms: 1_700_000_000_000,
            timestamp_ms: 1_700_000_000_000,
            payload: BatchRecord {
                key: Some(Bytes::copy_from_slice(&number.to_be_bytes())),
                value: Some(value.clone()),
                ..BatchRecord::default()
            },
        };
        let delivered: Vec<DeliveredRecord> = (0..records).map(record).collect();
        let name = format!("{records}x{record_bytes}B");
        let mut group = criterion.benchmark_group("codec/delivery");
        group.throughput(Throughput::Elements(u64::from(records)));
        let mut encoder = DeliveryEncoder::default();
        group.bench_function(BenchmarkId::new("by_hand", &name), |bencher| {
            bencher.iter(|| encoder.encode(black_box(&delivered)));
        });
        group.bench_function(BenchmarkId::new("generated", &name), |bencher| {
            bencher.iter(|| generated(black_box(&delivered)).encode_to_vec().len());
        });
    }
}

fn generated(records: &[DeliveredRecord]) -> v1::ConsumeResponse {
    let one = |record: &DeliveredRecord| v1::Delivery {
        offset: record.delivery.offset.to_wire(),
        record: Some(v1::Record {
            key: record.payload.key.clone(),
            value: record.payload.value.clone(),
            headers: Vec::new(),
            timestamp_ms: Some(record.timestamp_ms),
        }),
        append_time_ms: record.append_ms,
        epoch: record.epoch.get(),
        attempt: 1,
        ..Default::default()
    };
    let deliveries = records.iter().map(one).collect();
    let frame =
        v1::Records { source_id: 1, assignment_epoch: 7, max_attempts: 6, deliveries, ..v1::Records::default() };
    v1::ConsumeResponse { frame: Some(v1::consume_response::Frame::Records(frame)) }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = codec, delivery
}
criterion_main!(benches);
