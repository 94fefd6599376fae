//! Encoding, checking and walking record batches: what client and broker pay for each record besides the network.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sawlog_benches::load::payload;
use sawlog_proto::batch::{self, BatchBuilder, Codec};

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

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = codec
}
criterion_main!(benches);
