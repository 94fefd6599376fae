//! Appends of the log engine to the page cache, beside limit A: the same bytes written bare.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sawlog_benches::limits::{AppendLoad, bare_append};
use sawlog_benches::log_files::LogOnDisk;
use sawlog_benches::timing::Stopwatch;

/// Records of a batch, bytes of a record, batches in one write.
const SHAPES: [(u32, usize, usize); 4] = [(1, 1_024, 1), (1, 1_024, 16), (100, 100, 1), (1_000, 100, 1)];
/// A new log now and then: the measured folder stays below a few GiB.
const BYTES_PER_LOG: u64 = 1 << 30;
const SEGMENT_BYTES: u64 = 256 << 20;

fn append(criterion: &mut Criterion) {
    for (records, record_bytes, batches) in SHAPES {
        let name = format!("{batches}x{records}x{record_bytes}B");
        let folder = tempfile::tempdir_in(".").expect("the working directory can be written");
        let mut log = new_log(&folder, records, record_bytes);
        let bytes_each = log.batch_bytes() * batches;
        let mut group = criterion.benchmark_group("append");
        group.throughput(Throughput::Bytes(bytes_each as u64));
        let mut written = 0;
        group.bench_function(BenchmarkId::new("log", &name), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut time = Duration::ZERO;
                for _ in 0..iterations {
                    if written >= BYTES_PER_LOG {
                        std::fs::remove_dir_all(folder.path().join("data")).expect("the log is ours");
                        log = new_log(&folder, records, record_bytes);
                        written = 0;
                    }
                    let clock = Stopwatch::start();
                    written += log.append(batches).expect("the disk has room");
                    time += clock.elapsed();
                }
                time
            });
        });
        group.bench_function(BenchmarkId::new("limit_a", &name), |bencher| {
            bencher.iter_custom(|iterations| {
                let load = AppendLoad { bytes_each, count: iterations };
                let rate = bare_append(folder.path(), load).expect("the disk has room");
                Duration::from_secs_f64(iterations as f64 * bytes_each as f64 / rate)
            });
        });
    }
}

fn new_log(folder: &tempfile::TempDir, records: u32, record_bytes: usize) -> LogOnDisk {
    LogOnDisk::create(folder.path(), records, record_bytes, SEGMENT_BYTES).expect("the folder is empty")
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700));
    targets = append
}
criterion_main!(benches);
