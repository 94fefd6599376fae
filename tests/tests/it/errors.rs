//! Every reason that produce, read and topics can give, reached and with its facts.

use std::sync::Arc;
use std::time::Duration;

use sawlog_broker::clock::ManualClock;
use sawlog_broker::log::storage::SimDisk;
use sawlog_broker::log::storage::sim_disk::{Effect, Fault, OpKind};
use sawlog_proto::batch::{BatchBuilder, Codec};
use sawlog_proto::v1::{self, ErrorReason, read_start::At as Start};
use sawlog_testing::TestBroker;
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt as _};

use crate::wire::{Wire, all_of, from, keyed, plain, ready, unkeyed, value};

const EIO: i32 = 5;

/// The details of a status.
pub(crate) fn info(status: &Status) -> ErrorInfo {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "sawlog");
    assert!(!status.message().is_empty());
    info
}

/// All metrics, as Prometheus gets them.
pub(crate) async fn metrics(broker: &TestBroker) -> String {
    http_get(broker, "/metrics").await
}

/// An HTTP/1 request by hand.
pub(crate) async fn http_get(broker: &TestBroker, path: &str) -> String {
    http_at(broker.url().strip_prefix("http://").unwrap(), path).await
}

/// The same, to an address.
pub(crate) async fn http_at(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

fn fail(disk: &SimDisk, kinds: &[OpKind], path: &str) {
    let fault = Fault {
        from_op: disk.op_count(),
        kinds: kinds.to_vec(),
        path_contains: path.into(),
        effect: Effect::Errno(EIO),
        forever: true,
    };
    disk.inject(fault);
}

/// From now on syncs of files on this path fail.
pub(crate) fn fail_syncs(disk: &SimDisk, path: &str) {
    fail(disk, &[OpKind::Sync], path);
}

fn check(status: &Status, code: Code, reason: ErrorReason, facts: &[&str]) {
    let info = info(status);
    assert_eq!(format!("ERROR_REASON_{}", info.reason), reason.as_str_name(), "{status:?}");
    assert_eq!(status.code(), code, "{reason:?}");
    for fact in facts {
        assert!(info.metadata.contains_key(*fact), "{reason:?} has no fact {fact}: {:?}", info.metadata);
    }
}

fn check_failure(failure: Option<&v1::Failure>, reason: ErrorReason, facts: &[&str]) {
    let failure = failure.unwrap_or_else(|| panic!("{reason:?} did not happen"));
    assert_eq!(failure.reason(), reason, "{failure:?}");
    assert!(failure.facts.contains_key("outcome"), "{failure:?}");
    for fact in facts {
        assert!(failure.facts.contains_key(*fact), "{reason:?} has no fact {fact}: {:?}", failure.facts);
    }
}

async fn part(wire: &mut Wire, request: v1::ProduceRequest) -> v1::PartResult {
    wire.produce.produce(request).await.unwrap().into_inner().parts.remove(0)
}

#[tokio::test]
async fn errors_of_topics() {
    use ErrorReason as R;
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    let topic = wire.topic("a", unkeyed(2)).await;
    let create =
        |name: &str, config| v1::CreateTopicRequest { name: name.into(), config: Some(config), ..Default::default() };
    for name in ["", ".", "..", "../x", "a/b", "__x", "x.", "x.dlq", "naïve", "a\u{0}b", &"x".repeat(121)] {
        let status = wire.topics.create_topic(create(name, unkeyed(1))).await.unwrap_err();
        check(&status, Code::InvalidArgument, R::InvalidName, &["field", "name", "rule"]);
        assert!(status.get_details_bad_request().is_some());
    }
    let status = wire.topics.create_topic(create("a", unkeyed(3))).await.unwrap_err();
    check(&status, Code::AlreadyExists, R::TopicExists, &["name", "fields"]);
    for config in [
        unkeyed(0),
        unkeyed(1_025),
        v1::TopicConfig { segment_bytes: Some(1), ..unkeyed(1) },
        v1::TopicConfig { retention_ms: Some(-7), ..unkeyed(1) },
        v1::TopicConfig { max_record_bytes: Some(1 << 40), ..unkeyed(1) },
    ] {
        let status = wire.topics.create_topic(create("b", config)).await.unwrap_err();
        check(&status, Code::InvalidArgument, R::InvalidField, &["field", "found", "bounds"]);
    }
    let get = v1::GetTopicRequest { name: "nowhere".into() };
    let status = wire.topics.get_topic(get).await.unwrap_err();
    check(&status, Code::NotFound, R::TopicNotFound, &["topic"]);
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "nowhere");
    let describe = v1::DescribePartitionsRequest { name: "a".into(), partitions: vec![2] };
    let status = wire.topics.describe_partitions(describe).await.unwrap_err();
    check(&status, Code::NotFound, R::PartitionNotFound, &["topic", "partition", "partitions"]);
    let update = v1::UpdateTopicRequest {
        name: "a".into(),
        revision: Some(topic.revision + 1),
        owner: "me".into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["owner".into()] }),
        ..Default::default()
    };
    let status = wire.topics.update_topic(update).await.unwrap_err();
    check(&status, Code::Aborted, R::StaleRevision, &["topic", "current"]);
    let before = vec![v1::PartitionOffset { partition: 0, offset: 1 }];
    let status = wire.topics.trim_topic(v1::TrimTopicRequest { name: "a".into(), before }).await.unwrap_err();
    check(&status, Code::OutOfRange, R::OffsetOutOfRange, &["partition", "offset", "earliest", "latest"]);
    let list = v1::ListTopicsRequest { page_size: 1_001, ..Default::default() };
    let status = wire.topics.list_topics(list).await.unwrap_err();
    check(&status, Code::InvalidArgument, R::InvalidField, &["field"]);
    let status = wire.produce.init_producer(v1::InitProducerRequest { name: "a b".into() }).await.unwrap_err();
    check(&status, Code::InvalidArgument, R::InvalidField, &["field", "found", "bounds"]);
}

#[tokio::test]
async fn limit_reached_at_too_many_partitions() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    let mut refused = None;
    for index in 0..25 {
        let config = Some(unkeyed(1_024));
        let request = v1::CreateTopicRequest { name: format!("t{index}"), config, ..Default::default() };
        if let Err(status) = wire.topics.create_topic(request).await {
            refused = Some(status);
            break;
        }
    }
    let status = refused.expect("20,000 partitions are the limit");
    check(&status, Code::ResourceExhausted, ErrorReason::LimitReached, &["limit", "max"]);
}

#[tokio::test]
async fn errors_of_a_produce_request() {
    use ErrorReason as R;
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let record = || vec![value("x")];
    let with = |change: fn(&mut v1::ProduceRequest)| {
        let mut request = plain("a", record());
        change(&mut request);
        request
    };
    let cases = [
        (plain("nowhere", record()), Code::NotFound, R::TopicNotFound),
        (plain("a", vec![]), Code::InvalidArgument, R::InvalidField),
        (with(|request| request.payload = None), Code::InvalidArgument, R::InvalidField),
        (with(|request| request.ack = 77), Code::InvalidArgument, R::InvalidField),
        (with(|request| request.ack = v1::AckLevel::Written.into()), Code::FailedPrecondition, R::AckBelowFloor),
        (plain("a", vec![value("x"); 10_001]), Code::InvalidArgument, R::BatchTooLarge),
    ];
    for (request, code, reason) in cases {
        let status = wire.produce.produce(request).await.unwrap_err();
        check(&status, code, reason, &["outcome"]);
        assert_eq!(info(&status).metadata["outcome"], "not_written");
    }
}

#[tokio::test]
async fn errors_of_parts_and_records() {
    use ErrorReason as R;
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("k", v1::TopicConfig { partitions: Some(4), ..Default::default() }).await;
    wire.topic("u", v1::TopicConfig { max_record_bytes: Some(100), ..unkeyed(1) }).await;
    let time = |timestamp_ms| {
        let mut record = value("x");
        record.record.as_mut().unwrap().timestamp_ms = Some(timestamp_ms);
        record
    };
    let headers = |count, size| {
        let mut record = value("");
        let header = v1::Header { key: "h".into(), value: vec![0; size].into() };
        record.record.as_mut().unwrap().headers = vec![header; count];
        record
    };
    let mut elsewhere = keyed("a", "x");
    elsewhere.partition = Some((sawlog_proto::partitioner::partition_of(b"a", 4) + 1) % 4);
    let records = [
        ("k", value("no key"), R::KeyRequired),
        ("k", elsewhere, R::WrongPartition),
        ("k", keyed(&"x".repeat(1_025), ""), R::KeyTooLarge),
        ("u", value("x".repeat(101)), R::RecordTooLarge),
        ("u", headers(65, 0), R::HeadersTooLarge),
        (
            "k",
            v1::ProduceRecord {
                record: headers(1, 65_536).record.map(|record| v1::Record { key: Some("a".into()), ..record }),
                partition: None,
            },
            R::HeadersTooLarge,
        ),
        ("u", time(i64::MAX), R::InvalidTimestamp),
        ("u", time(-1), R::InvalidTimestamp),
        ("u", v1::ProduceRecord { partition: Some(9), ..value("x") }, R::PartitionNotFound),
    ];
    for (topic, record, reason) in records {
        let part = part(&mut wire, plain(topic, vec![record])).await;
        check_failure(part.failure.as_ref(), R::NotWritten, &["cause", "topic"]);
        check_failure(part.record_failures[0].failure.as_ref(), reason, &["index"]);
    }
    let mut builder = BatchBuilder::new(Codec::None);
    let mut batch = |size: usize| {
        builder.push(0, None, Some(&vec![0; size]), std::iter::empty());
        builder.finish()
    };
    let changed = |batch: bytes::Bytes, at: usize, byte: u8| {
        let mut batch = batch.to_vec();
        batch[at] = byte;
        batch
    };
    let sealed = |mut batch: Vec<u8>| {
        let crc = crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    };
    let batches = [
        (changed(batch(10), 17, 0xff), R::InvalidBatch),
        (vec![], R::InvalidBatch),
        (vec![0; 61], R::InvalidBatch),
        (sealed(changed(batch(10), 22, 1)), R::UnsupportedCodec),
        (sealed(changed(batch(10), 22, 0x20)), R::InvalidBatch),
        // Garbage where the records should be, under a good header and checksum.
        (sealed(changed(batch(10), 61, 0x7f)), R::InvalidBatch),
        (batch(4_300_000).to_vec(), R::BatchTooLarge),
    ];
    for (batch, reason) in batches {
        let part = part(&mut wire, ready("u", 0, batch.into())).await;
        check_failure(part.failure.as_ref(), reason, &["topic"]);
    }
    let part = part(&mut wire, ready("u", 0, batch(200))).await;
    let bad = part.record_failures.first().and_then(|bad| bad.failure.as_ref()).or(part.failure.as_ref());
    check_failure(bad, R::RecordTooLarge, &["found", "max"]);
    assert!(wire.values(all_of("u")).await.is_empty(), "nothing of all this is stored");
}

/// CRC-32C bit by bit: the tests forge batches without the codec's help.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (0_u32.wrapping_sub(crc & 1)));
        }
    }
    !crc
}

#[tokio::test]
async fn errors_of_producers() {
    use ErrorReason as R;
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let producer = wire.produce.init_producer(v1::InitProducerRequest::default()).await.unwrap().into_inner();
    let send = |producer_id, producer_epoch, base_sequence| {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.set_producer(sawlog_proto::batch::ProducerStamp { producer_id, producer_epoch, base_sequence });
        builder.push(0, None, Some(b"x"), std::iter::empty());
        ready("a", 0, builder.finish())
    };
    let (id, epoch) = (producer.producer_id, producer.producer_epoch as i16);
    for sequence in 0..70 {
        assert_eq!(part(&mut wire, send(id, epoch, sequence)).await.failure, None);
    }
    let cases = [
        (send(id, epoch, 99), R::SeqGap, "expected"),
        (send(id, epoch, 0), R::SeqTooOld, "oldest"),
        (send(id + 1_000, 0, 0), R::UnknownProducer, "producer_id"),
    ];
    for (request, reason, fact) in cases {
        check_failure(part(&mut wire, request).await.failure.as_ref(), reason, &["partition", fact]);
    }
}

#[tokio::test]
async fn errors_of_reads() {
    use ErrorReason as R;
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(2)).await;
    wire.write("a", vec![v1::ProduceRecord { partition: Some(0), ..value("x") }]).await;
    let starts = |starts: Vec<(u32, i64)>| {
        let starts = starts.into_iter();
        let starts = starts.map(|(partition, offset)| v1::PartitionStart { partition, offset, epoch: None }).collect();
        from(Start::Partitions(v1::PartitionStarts { starts }))
    };
    let read = |change: &dyn Fn(&mut v1::ReadRequest)| {
        let mut request = all_of("a");
        change(&mut request);
        request
    };
    let out = (Code::OutOfRange, R::OffsetOutOfRange);
    let field = (Code::InvalidArgument, R::InvalidField);
    let cases = [
        (all_of("nowhere"), (Code::NotFound, R::TopicNotFound)),
        (read(&|request| request.topic_id = "another".into()), (Code::NotFound, R::TopicNotFound)),
        (read(&|request| request.partitions = vec![0, 2]), (Code::NotFound, R::PartitionNotFound)),
        (read(&|request| request.start = from(Start::Offset(1))), out),
        (read(&|request| request.start = starts(vec![(0, 2)])), out),
        (read(&|request| request.start = from(Start::Offset(-1))), field),
        (read(&|request| request.start = from(Start::Last(-1))), field),
        (read(&|request| request.start = starts(vec![])), field),
        (read(&|request| request.start = starts(vec![(0, 0), (0, 1)])), field),
        (read(&|request| request.start = starts(vec![(5, 0)])), (Code::NotFound, R::PartitionNotFound)),
        (read(&|request| request.form = 9), field),
        (
            read(&|request| {
                request.form = v1::ReadForm::Batches.into();
                request.filter = Some(v1::ReadFilter { key: Some("x".into()), ..Default::default() });
            }),
            field,
        ),
    ];
    for (request, (code, reason)) in cases {
        let status = wire.read.read(request).await.unwrap_err();
        let facts: &[&str] = if reason == R::OffsetOutOfRange { &["earliest", "latest", "offset"] } else { &[] };
        check(&status, code, reason, facts);
    }
    let request = v1::GetOffsetsRequest { topic: "a".into(), partitions: vec![], at: None };
    check(&wire.read.get_offsets(request).await.unwrap_err(), field.0, field.1, &["field"]);
}

#[tokio::test]
async fn a_follower_learns_that_its_topic_is_gone() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let mut stream = wire.open(v1::ReadRequest { follow: true, ..all_of("a") }).await;
    stream.message().await.unwrap().unwrap();
    let delete = v1::DeleteTopicRequest { name: "a".into(), force: false };
    wire.topics.delete_topic(delete).await.unwrap();
    let status = stream.message().await.unwrap_err();
    check(&status, Code::NotFound, ErrorReason::TopicNotFound, &["topic"]);
}

#[tokio::test]
async fn undecodable_batches_are_told_and_can_be_had_raw() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    wire.write("a", vec![value("0")]).await;
    let mut builder = BatchBuilder::new(Codec::Zstd);
    builder.push(0, None, Some(b"x"), std::iter::empty());
    let mut batch = builder.finish().to_vec();
    let last = batch.len() - 1;
    batch[65] ^= 0xff;
    batch[last] ^= 0xff;
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(part(&mut wire, ready("a", 0, batch.into())).await.failure, None, "compressed ones are not opened");
    wire.write("a", vec![value("2")]).await;
    let mut stream = wire.open(all_of("a")).await;
    let status = loop {
        match stream.message().await {
            Ok(response) => assert!(response.is_some()),
            Err(status) => break status,
        }
    };
    check(&status, Code::DataLoss, ErrorReason::Undecodable, &["topic", "partition", "first_offset", "last_offset"]);
    let skip = wire.values(v1::ReadRequest { skip_damaged: true, ..all_of("a") }).await;
    assert_eq!(skip.iter().map(|(_, offset, _)| *offset).collect::<Vec<_>>(), [0, 2]);
    let raw = v1::ReadRequest { form: v1::ReadForm::Batches.into(), ..all_of("a") };
    assert_eq!(wire.frames(raw).await.len(), 2, "the batches, and the end");
}

#[tokio::test]
async fn errors_of_a_failing_disk() {
    use ErrorReason as R;
    let disk = SimDisk::new();
    let broker = TestBroker::builder().storage(disk.storage()).start().await;
    let mut wire = Wire::new(&broker).await;
    for name in ["w", "s", "r"] {
        wire.topic(name, unkeyed(1)).await;
        wire.write(name, vec![value("before")]).await;
    }
    fail(&disk, &[OpKind::Write], "topics/");
    let failed = part(&mut wire, plain("w", vec![value("x")])).await;
    check_failure(failed.failure.as_ref(), R::WriteFailed, &["topic", "partition", "errno"]);
    assert!(failed.failure.unwrap().retry_after_ms.is_some());
    disk.clear_faults();
    wire.write("w", vec![value("after")]).await;

    fail_syncs(&disk, "topics/");
    let fenced = part(&mut wire, plain("s", vec![value("x")])).await;
    check_failure(fenced.failure.as_ref(), R::PartitionFenced, &["topic", "partition", "durable_end"]);
    disk.clear_faults();
    let fenced = part(&mut wire, plain("s", vec![value("x")])).await;
    check_failure(fenced.failure.as_ref(), R::PartitionFenced, &[]);
    assert_eq!(fenced.failure.unwrap().facts["outcome"], "not_written", "it was fenced before");
    let reopen = v1::ReopenPartitionRequest { name: "s".into(), partition: 0 };
    let state = wire.topics.reopen_partition(reopen).await.unwrap().into_inner().partition.unwrap();
    assert_eq!((state.state(), state.high_watermark), (v1::PartitionState::Online, 1));
    wire.write("s", vec![value("after")]).await;

    fail(&disk, &[OpKind::Read], "topics/");
    let mut stream = wire.open(all_of("r")).await;
    let status = stream.message().await.unwrap_err();
    check(&status, Code::Unavailable, R::ReadFailed, &["topic", "partition", "offset", "errno"]);
    disk.clear_faults();
    assert_eq!(wire.values(all_of("r")).await.len(), 1);

    fail_syncs(&disk, "meta/");
    let create = v1::CreateTopicRequest { name: "n".into(), ..Default::default() };
    let status = wire.topics.create_topic(create).await.unwrap_err();
    check(&status, Code::Unavailable, R::BrokerReadOnly, &["cause"]);
    let refused = part(&mut wire, plain("w", vec![value("x")])).await;
    check_failure(refused.failure.as_ref(), R::BrokerReadOnly, &["cause"]);
    assert_eq!(wire.values(all_of("w")).await.len(), 2, "reads go on");
    let text = metrics(&broker).await;
    for reason in ["WRITE_FAILED", "PARTITION_FENCED", "READ_FAILED", "BROKER_READ_ONLY"] {
        assert!(text.contains(&format!("reason=\"{reason}\"")), "{reason} is not counted");
    }
}

#[tokio::test]
async fn f3_a_full_disk_refuses_produce_and_nothing_else() {
    let disk = SimDisk::new();
    let change = |config: &mut sawlog_broker::config::BrokerConfig| config.storage.min_free_bytes = 1 << 50;
    let mut broker = TestBroker::builder().storage(disk.storage()).start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    wire.write("a", vec![value("before")]).await;
    broker.reconfigure(change);
    broker.restart().await;
    let mut wire = Wire::new(&broker).await;
    let refused = part(&mut wire, plain("a", vec![value("x")])).await;
    check_failure(refused.failure.as_ref(), ErrorReason::DiskLow, &["free_bytes", "min_free_bytes"]);
    assert_eq!(wire.values(all_of("a")).await.len(), 1);
}

#[tokio::test]
async fn unary_calls_over_the_bytes_in_flight_are_refused_and_those_in_flight_go_on() {
    // 40 requests of 7 MiB on one connection: its 32 MiB hold four at a time.
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", v1::TopicConfig { max_record_bytes: Some(4 << 20), ..unkeyed(2) }).await;
    let big = bytes::Bytes::from(vec![7; 3_500_000]);
    let record = |partition| v1::ProduceRecord {
        partition: Some(partition),
        record: Some(v1::Record { value: Some(big.clone()), ..Default::default() }),
    };
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (mut produce, request) = (wire.produce.clone(), plain("a", vec![record(0), record(1)]));
        calls.spawn(async move { produce.produce(request).await.map(|response| response.into_inner()) });
    }
    let (mut written, mut refused) = (0, 0);
    while let Some(result) = calls.join_next().await {
        match result.unwrap() {
            Ok(response) => {
                assert!(response.parts.iter().all(|part| part.failure.is_none()));
                written += 1;
            }
            Err(status) => {
                check(&status, Code::ResourceExhausted, ErrorReason::InFlightLimit, &["scope", "bytes", "max"]);
                assert!(status.get_details_retry_info().is_some());
                refused += 1;
            }
        }
    }
    assert_eq!(written + refused, 40);
    assert!(written >= 4 && refused > 0, "{written} written, {refused} refused");
    assert!(metrics(&broker).await.contains("sawlog_in_flight_bytes 0"));
}

#[tokio::test]
async fn s5_streams_learn_that_the_broker_stops_and_what_was_sent_before_is_answered() {
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    let mut broker = TestBroker::builder().clock(clock).start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let mut follower = wire.open(v1::ReadRequest { follow: true, ..all_of("a") }).await;
    follower.message().await.unwrap().unwrap();
    let (send, requests) = tokio::sync::mpsc::channel(8);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = wire.produce.produce_stream(requests).await.unwrap().into_inner();
    let request = Some(plain("a", vec![value("x")]));
    send.send(v1::ProduceStreamRequest { request_id: 7, request }).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().request_id, 7);
    assert_eq!(crate::wire::values(&[follower.message().await.unwrap().unwrap().frame.unwrap()]).len(), 1);
    assert!(broker.stop().await, "a clean stop within its time");
    for status in [follower.message().await.unwrap_err(), answers.message().await.unwrap_err()] {
        check(&status, Code::Unavailable, ErrorReason::ShuttingDown, &["reconnect_after_ms"]);
        let after = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(after >= Duration::from_millis(100));
    }
}
