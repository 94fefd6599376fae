//! Opening a log after a kill: the scan of an unproven tail, warm, by size of its frames.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sawlog_benches::log_files::LogOnDisk;
use sawlog_broker::log::{LocalLog, RecoveryHint};
use sawlog_broker::model::{Offset, PartitionEpoch};

const TAIL_BYTES: u64 = 128 << 20;
/// Records of a batch and bytes of a record: frames of 1, 11 and 111 KiB.
const SHAPES: [(u32, usize); 3] = [(1, 1_024), (100, 100), (1_000, 100)];

fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery/open");
    group.throughput(Throughput::Bytes(TAIL_BYTES));
    for (records, record_bytes) in SHAPES {
        let folder = tempfile::tempdir_in(".").expect("the working directory can be written");
        let mut log = LogOnDisk::create(folder.path(), records, record_bytes, 1 << 30).expect("the folder is empty");
        let mut written = 0;
        while written < TAIL_BYTES {
            written += log.append(16).expect("the disk has room");
        }
        let end = log.log.end();
        let environment = log.abandon();
        let hint = RecoveryHint {
            proven_end: Offset::ZERO,
            next_epoch: PartitionEpoch::new(1).expect("1 is an epoch"),
            ..RecoveryHint::default()
        };
        group.bench_function(BenchmarkId::from_parameter(format!("frames of {records}x{record_bytes}B")), |bencher| {
            bencher.iter(|| {
                let (log, report) = LocalLog::open(environment.clone(), &hint).expect("the log is whole");
                assert_eq!(report.end, end, "recovery keeps every whole frame");
                log
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2));
    targets = recovery
}
criterion_main!(benches);
