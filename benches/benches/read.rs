//! Reads of the log engine: one frame at a random offset while the log grows, and 256 KiB in order.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sawlog_benches::log_files::LogOnDisk;
use sawlog_broker::log::{LogReader, ReadMode, ReadRange};
use sawlog_broker::model::Offset;

const SIZES_MIB: [u64; 3] = [16, 128, 1_024];
const RECORDS: u32 = 4;
const RECORD_BYTES: usize = 1_024;
const SEGMENT_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: usize = 256 << 10;

fn read(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(".").expect("the working directory can be written");
    let mut log = LogOnDisk::create(folder.path(), RECORDS, RECORD_BYTES, SEGMENT_BYTES).expect("the folder is empty");
    let reader = log.log.reader();
    let mut written = 0;
    for size_mib in SIZES_MIB {
        while written < size_mib << 20 {
            written += log.append(16).expect("the disk has room");
        }
        let end = log.log.end().get();
        let mut random = 1_u64;
        criterion.bench_function(&format!("read/random_offset/{size_mib}MiB"), |bencher| {
            bencher.iter(|| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let from = Offset::new((random >> 16) % end).expect("it is below the end");
                frames(&reader, from, 1)
            });
        });
    }
    let mut group = criterion.benchmark_group("read/in_order");
    group.throughput(Throughput::Bytes(CHUNK_BYTES as u64));
    let mut from = Offset::ZERO;
    group.bench_function("256KiB", |bencher| {
        bencher.iter(|| {
            from = frames(&reader, from, CHUNK_BYTES);
            if from == log.log.end() {
                from = Offset::ZERO;
            }
        });
    });
}

fn frames(reader: &LogReader, from: Offset, max_bytes: usize) -> Offset {
    let range = ReadRange { from, until: Offset::MAX, max_bytes };
    black_box(reader.read(range, ReadMode::Blocking).expect("the log is whole")).next
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = read
}
criterion_main!(benches);
