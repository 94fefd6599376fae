//! Row 12 of the test programme for what the broker reads back from its own disk and its settings, at its small size:
//! stored inputs and the golden files of format 1, each changed a bounded number of times from a fixed seed. Nothing
//! may panic, whatever is accepted is no larger than its input, and working with it must not panic either.
//!
//! Most changed inputs get checksums that fit, or the run would end at the first check. The stored ones say in their
//! name which decoder they are for and whether it takes them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use sawlog_broker::config::BrokerConfig;
use sawlog_broker::log::data_dir::{CleanEnd, CleanMarker, decode_format};
use sawlog_broker::log::format::{
    CHECKPOINT_HEADER_BYTES, INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, SEGMENT_HEADER_BYTES, checkpoint_field,
    frame_field, index_field, segment_field,
};
use sawlog_broker::log::frame::{FrameContext, FrameHeader};
use sawlog_broker::log::index::OffsetIndex;
use sawlog_broker::log::scan::{FrameAt, FrameWalker};
use sawlog_broker::log::segment_header::{FoundHeader, SegmentHeader, read_header};
use sawlog_broker::log::storage::{OpenMode, SimDisk};
use sawlog_broker::log::time_index::TimeIndex;
use sawlog_broker::log::{Checkpoint, FrameDraft, LocalLog, LogEnvironment, LogIdentity, index, time_index};
use sawlog_broker::model::{Offset, PartitionEpoch, PartitionId, TopicId, TopicUuid};
use sawlog_broker::partition::journal::{Journal, JournalSpec};
use sawlog_broker::partition::{RequestStamp, decoders};
use sawlog_broker::topics::metadata::record;
use sawlog_broker::topics::metadata::state::MetadataState;
use sawlog_proto::batch::{BatchBuilder, Codec};

const SEED: u64 = 0x5eed_0012;
/// The largest frame and its header, which no decoder may ask more memory for.
const FRAME_BYTES: u64 = 8 << 20;
const UUID: [u8; 16] = [0xD1; 16];
const IDENTITY: LogIdentity =
    LogIdentity { data_dir: UUID, topic_uuid: TopicUuid([0x70; 16]), topic_id: TopicId(5), partition: PartitionId(3) };

/// A decoder: what it takes, how its checksums are made to fit, what is done with its answer.
struct Target {
    name: &'static str,
    runs: u32,
    seeds: fn() -> Vec<Vec<u8>>,
    seal: fn(&mut [u8]),
    /// Whether the bytes were taken.
    drive: fn(&[u8]) -> bool,
}

/// A small generator: the run must be the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// One to four edits.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            bytes.push(random.next() as u8);
        }
        // Half of the edits where the lengths and counts stand.
        let reach = if random.below(2) == 0 { bytes.len().min(96) } else { bytes.len() };
        let at = random.below(reach);
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff][random.below(6)],
            2 if random.below(4) == 0 => bytes.truncate(at),
            2 => bytes[at..].iter_mut().take(8).for_each(|byte| *byte = 0xff),
            3 => drop(bytes.splice(at..at, std::iter::repeat_n(random.next() as u8, random.below(16)))),
            4 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
            _ => {
                let from = random.below(bytes.len());
                let run = bytes[from..(from + random.below(32)).min(bytes.len())].to_vec();
                bytes.splice(at..at, run);
            }
        }
    }
    bytes
}

/// Puts the CRC-32 of `from..until` at `at`, where both are there.
fn seal(bytes: &mut [u8], from: usize, until: usize, at: usize) {
    if let Some(summed) = bytes.get(from..until)
        && bytes.len() >= at + 4
    {
        let checksum = crc32fast::hash(summed);
        bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/v1").join(name)).unwrap()
}

fn golden_log() -> Vec<u8> {
    golden("topics_5_3_00000000000000000000.log")
}

fn context() -> FrameContext {
    FrameContext::new(&IDENTITY, SegmentHeader::decode(&golden_log()).unwrap().salt)
}

/// The frames and marks of the golden segment.
fn frames() -> Vec<Vec<u8>> {
    let (log, mut at, mut found) = (golden_log(), SEGMENT_HEADER_BYTES, Vec::new());
    while let Ok(header) = FrameHeader::decode(&log[at..]) {
        let end = at + header.frame_bytes() as usize;
        found.push(log[at..end].to_vec());
        at = end;
    }
    assert!(found.len() > 4, "{} frames", found.len());
    found
}

fn seal_frame(bytes: &mut [u8]) {
    let end = bytes.len();
    seal(bytes, frame_field::END, end, frame_field::BODY_CHECKSUM);
    seal(bytes, 0, frame_field::HEADER_CHECKSUM, frame_field::HEADER_CHECKSUM);
}

fn drive_frame(bytes: &[u8]) -> bool {
    let context = context();
    let Ok(header) = FrameHeader::decode(bytes) else { return false };
    assert!(header.frame_bytes() <= FRAME_BYTES + 8, "{header:?}");
    assert!(header.durable_end <= header.base_offset && header.base_offset <= header.end_offset(), "{header:?}");
    let own = FrameHeader::decode_in(bytes, &context).is_ok();
    header.check_body(&bytes[frame_field::END..], &context).is_ok() && own
}

fn seal_segment(bytes: &mut [u8]) {
    seal(bytes, 0, segment_field::CHECKSUM, segment_field::CHECKSUM);
}

/// A whole log file: its header, if need be from its frames, and all frames in it.
fn drive_segment(bytes: &[u8]) -> bool {
    let disk = SimDisk::new();
    disk.put_file("segment.log", bytes.to_vec());
    let file = disk.storage().open(Path::new("segment.log"), OpenMode::Read).unwrap();
    let salt = match read_header(&*file, &IDENTITY, Offset::ZERO).unwrap() {
        Ok(FoundHeader::Good(header) | FoundHeader::MadeGood(header)) => header.salt,
        Ok(FoundHeader::Lost) | Err(_) => return false,
    };
    let context = FrameContext::new(&IDENTITY, salt);
    let mut walker = FrameWalker::new(&*file, context, bytes.len() as u64, 4 << 10);
    let (mut at, mut whole) = (SEGMENT_HEADER_BYTES as u64, true);
    loop {
        at += match walker.frame_at(at).unwrap() {
            FrameAt::End => break,
            FrameAt::Good(header) => header.frame_bytes(),
            FrameAt::BadBody(header, _) => {
                whole = false;
                header.frame_bytes()
            }
            FrameAt::BadHeader(_) => {
                whole = false;
                8
            }
        };
    }
    whole
}

fn seal_index(bytes: &mut [u8]) {
    let end = bytes.len();
    seal(bytes, INDEX_HEADER_BYTES, end, index_field::ENTRIES_CHECKSUM);
    seal(bytes, 0, index_field::HEADER_CHECKSUM, index_field::HEADER_CHECKSUM);
}

fn drive_index(bytes: &[u8]) -> bool {
    let Ok(coverage) = OffsetIndex::check(bytes, &context(), Offset::ZERO) else { return false };
    assert!(coverage.base <= coverage.end);
    let entries = index::entries(bytes).count();
    assert_eq!(INDEX_HEADER_BYTES + entries * INDEX_ENTRY_BYTES, bytes.len());
    true
}

fn drive_time_index(bytes: &[u8]) -> bool {
    let Ok(coverage) = TimeIndex::check(bytes, &context(), Offset::ZERO) else { return false };
    assert!(coverage.base <= coverage.end);
    let entries = time_index::entries(bytes).count();
    assert_eq!(INDEX_HEADER_BYTES + entries * INDEX_ENTRY_BYTES, bytes.len());
    true
}

fn seal_checkpoint(bytes: &mut [u8]) {
    let end = bytes.len();
    seal(bytes, CHECKPOINT_HEADER_BYTES, end, checkpoint_field::ENTRIES_CHECKSUM);
    seal(bytes, 0, checkpoint_field::HEADER_CHECKSUM, checkpoint_field::HEADER_CHECKSUM);
}

fn drive_checkpoint(bytes: &[u8]) -> bool {
    let Ok(checkpoint) = Checkpoint::decode(bytes, &UUID) else { return false };
    assert!(checkpoint.entries().len() * 24 <= bytes.len());
    checkpoint.entries().iter().all(|entry| checkpoint.proven_end(entry.topic, entry.partition).is_some())
}

fn format_file() -> Vec<Vec<u8>> {
    let mut bytes = b"SAWLOG\x01F\x01\0\0\0".to_vec();
    bytes.extend_from_slice(&UUID);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    vec![bytes]
}

fn clean_markers() -> Vec<Vec<u8>> {
    let end = |partition| CleanEnd { topic: TopicId(7), partition: PartitionId(partition), end: Offset::ZERO };
    [0, 1, 5].map(|count| CleanMarker { ends: (0..count).map(end).collect() }.encode(UUID)).to_vec()
}

fn seal_clean(bytes: &mut [u8]) {
    let at = bytes.len().saturating_sub(8);
    seal(bytes, 0, at, at);
}

fn drive_clean(bytes: &[u8]) -> bool {
    let Ok(marker) = CleanMarker::decode(bytes, UUID) else { return false };
    assert!(marker.ends.len() * 24 <= bytes.len());
    marker.ends.iter().all(|end| marker.end_of(end.topic, end.partition).is_some())
}

fn extensions() -> Vec<Vec<u8>> {
    let stamp = RequestStamp { producer_id: 4, producer_epoch: 1, request_number: 9 };
    let known = decoders::encoded_extension(&stamp);
    vec![[&[9, 0, 3, 0, 1, 2, 3], &known[..]].concat(), known]
}

fn metadata() -> Vec<Vec<u8>> {
    let revision = r#"{"revision":1,"updated_ms":5,"partitions":3,"keyed":true,"ack_floor":"durable",
        "validation":"full","retention_ms":1000,"retention_bytes":null,"segment_bytes":1048576,"segment_ms":1000,
        "max_record_bytes":1048576,"flush_interval_ms":10,"owner":"","description":"","labels":{"a":"b"}}"#;
    let topic = format!(
        r#"{{"type":"topic_created","topic":1,"uuid":"70707070-7070-7070-7070-707070707070","name":"orders",
        "hash_version":1,"slot_hash_version":1,"created_ms":5,"revision":{revision}}}"#
    );
    let others = r#"{"type":"log_starts","starts":[{"topic":1,"partition":2,"offset":7}]},
        {"type":"quarantined","topic":1,"partition":0,"from":3,"to":9},{"type":"epoch","epoch":7},
        {"type":"truncated","topic":1,"partition":1,"offset":3,"epoch":2,"bytes":9,"time_ms":-1},
        {"type":"producer_named","name":"p","id":4,"epoch":3,"time_ms":1},{"type":"producer_ids","next":1000}"#;
    let updated = format!(r#"{{"type":"topic_updated","topic":1,"revision":{revision}}}"#).replacen(":1,", ":2,", 1);
    let updated = updated.replacen("\"topic\":2", "\"topic\":1", 1).replacen("\"revision\":1", "\"revision\":2", 1);
    let change = |records: &str| format!(r#"{{"version":1,"records":[{records}]}}"#).into_bytes();
    vec![change(&topic), change(&format!("{topic},{others}")), change(&format!("{topic},{updated}"))]
}

/// A metadata record: decoded, applied, and what comes of it written and applied again.
fn drive_metadata(bytes: &[u8]) -> bool {
    let Ok(records) = record::decode(bytes) else { return false };
    let mut state = MetadataState::default();
    for record in &records {
        if state.apply(record).is_err() {
            return false;
        }
    }
    let mut again = MetadataState::default();
    let written = record::encode(state.to_records().collect());
    for record in record::decode(&written).expect("what is written is read") {
        again.apply(&record).expect("what was applied can be applied again");
    }
    assert_eq!(again, state);
    true
}

/// Journal entries as `key length, key, value length, value`: a snapshot of one part and a record, and a record alone.
fn journal_entries() -> Vec<Vec<u8>> {
    let entry = |kind: u8, sequence: u64, value: &[u8]| {
        let key = [&[kind][..], &sequence.to_be_bytes()].concat();
        [&[key.len() as u8], &key[..], &[value.len() as u8], value].concat()
    };
    let summary = [1_u32.to_be_bytes(), crc32fast::hash(b"part").to_be_bytes()].concat();
    let run = [entry(b's', 0, &summary), entry(b'p', 0, b"part"), entry(b'e', 0, &summary)].concat();
    vec![entry(b'r', 1, b"change"), [run, entry(b'r', 1, b"change")].concat()]
}

/// A journal with one frame, whose checksums fit, opened; what its batch holds is `batch`.
fn open_journal(batch: &Bytes, record_count: u32) -> bool {
    let disk = SimDisk::new();
    let mut log = LogEnvironment::new(disk.storage(), PathBuf::from("meta"), IDENTITY, 5);
    log.settings.allocation_step_bytes = 0;
    let mut writer = LocalLog::create(log.clone(), PartitionEpoch::ZERO).unwrap();
    let draft = FrameDraft {
        base_offset: Offset::ZERO,
        record_count,
        append_time_ms: 1_000,
        epoch: PartitionEpoch::ZERO,
        extensions: Bytes::new(),
        batch_head: batch.slice(..16.min(batch.len())),
        batch_rest: batch.slice(16.min(batch.len())..),
    };
    writer.append(&[draft]).unwrap();
    writer.close(1_000, PartitionEpoch::ZERO).unwrap();
    drop(writer);
    let spec = JournalSpec { log, proven_end: Offset::ZERO, clean_end: None, may_create: true };
    let (_, replayed) = Journal::open(spec).expect("damage inside is no reason not to open");
    replayed.damage.is_none() && replayed.snapshot.len() + replayed.records.len() > 0
}

fn drive_journal_entries(mut bytes: &[u8]) -> bool {
    let mut builder = BatchBuilder::new(Codec::None);
    let take = |bytes: &mut &[u8]| -> Option<Vec<u8>> {
        let (length, rest) = bytes.split_first()?;
        let (taken, rest) = rest.split_at_checked(usize::from(*length))?;
        *bytes = rest;
        Some(taken.to_vec())
    };
    let mut count = 0;
    while let (Some(key), Some(value)) = (take(&mut bytes), take(&mut bytes)) {
        builder.push(0, Some(&key), Some(&value), std::iter::empty());
        count += 1;
    }
    count > 0 && open_journal(&builder.finish(), count)
}

fn journal_batches() -> Vec<Vec<u8>> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(0, Some(b"r\0\0\0\0\0\0\0\x01"), Some(b"change"), std::iter::empty());
    vec![builder.finish().to_vec()]
}

fn configs() -> Vec<Vec<u8>> {
    let mut config = serde_json::to_vec_pretty(&BrokerConfig::default()).unwrap();
    let small = br#"{"listen":"127.0.0.1:0","storage":{"data_dir":"d"},"topic_defaults":{"retention_ms":-1}}"#;
    config.push(b'\n');
    vec![config, small.to_vec()]
}

fn drive_config(bytes: &[u8]) -> bool {
    let Ok(config) = serde_json::from_slice::<BrokerConfig>(bytes) else { return false };
    let good = config.check().is_ok();
    let again = serde_json::from_slice::<BrokerConfig>(&serde_json::to_vec(&config).unwrap()).unwrap();
    assert_eq!((again.check().is_ok(), again), (good, config));
    good
}

fn unsealed(_: &mut [u8]) {}

fn targets() -> Vec<Target> {
    let target = |name, runs, seeds, seal, drive| Target { name, runs, seeds, seal, drive };
    vec![
        target("frame", 8_000, frames, seal_frame, drive_frame),
        target("segment", 300, || vec![golden_log()], seal_segment, drive_segment),
        target("index", 8_000, || vec![golden("topics_5_3_00000000000000000000.index")], seal_index, drive_index),
        target(
            "timeindex",
            8_000,
            || vec![golden("topics_5_3_00000000000000000000.timeindex")],
            seal_index,
            drive_time_index,
        ),
        target("checkpoint", 8_000, || vec![golden("checkpoint.a")], seal_checkpoint, drive_checkpoint),
        target("format", 8_000, format_file, |bytes| seal(bytes, 0, 28, 28), |bytes| decode_format(bytes).is_some()),
        target("clean", 8_000, clean_markers, seal_clean, drive_clean),
        target("extension", 8_000, extensions, unsealed, |bytes| decoders::extension(bytes).is_some()),
        target("metadata", 3_000, metadata, unsealed, drive_metadata),
        target("journal", 300, journal_entries, unsealed, drive_journal_entries),
        target("journalbatch", 300, journal_batches, unsealed, |bytes| {
            !bytes.is_empty() && open_journal(&Bytes::copy_from_slice(bytes), 1)
        }),
        target(
            "producers",
            3_000,
            || [1, 5, 70].map(decoders::encoded_producers).to_vec(),
            |bytes| {
                let end = bytes.len();
                seal(bytes, 12, end, 8);
            },
            |bytes| decoders::producers(bytes).is_some_and(|(producers, kept)| (producers + kept) * 20 <= bytes.len()),
        ),
        target("config", 4_000, configs, unsealed, drive_config),
    ]
}

#[test]
fn row_12_no_mutated_file_record_or_setting_makes_its_decoder_panic() {
    for target in targets() {
        let (mut random, mut taken) = (Random(SEED), 0);
        let seeds = (target.seeds)();
        for (number, seed) in seeds.iter().enumerate() {
            assert!((target.drive)(seed), "{}: seed {number} is good", target.name);
        }
        for run in 0..target.runs {
            let mut bytes = mutate(&seeds[run as usize % seeds.len()], &mut random);
            if random.below(8) > 0 {
                (target.seal)(&mut bytes);
            }
            let answer = std::panic::catch_unwind(|| (target.drive)(&bytes));
            let answer = answer.unwrap_or_else(|_| panic!("{}: run {run} panicked on {bytes:02x?}", target.name));
            taken += u32::from(answer);
        }
        println!("{}: seed {SEED:#x}, {} runs, {taken} taken", target.name, target.runs);
        assert!(taken < target.runs, "{}: most edits are found", target.name);
    }
}

#[test]
fn row_12_the_stored_files_get_the_answers_that_stand_in_their_names() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let targets = targets();
    let mut answered = vec![0; targets.len()];
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let mut words = name.split('-');
        let (kind, answer) = (words.next(), words.next());
        let at = targets.iter().position(|target| Some(target.name) == kind).expect("the name begins with a decoder");
        let taken = (targets[at].drive)(&std::fs::read(&file).unwrap());
        assert_eq!(Some(if taken { "good" } else { "refused" }), answer, "{name}");
        answered[at] += 1;
    }
    for (target, files) in targets.iter().zip(answered) {
        assert!(files > 0, "no stored file for {}", target.name);
    }
}
