//! Row 12 of the test programme for the record batch decoder, at its small size: a corpus of seeds, each mutated a
//! bounded number of times from a printed seed. Nothing may panic, and memory stays bounded.

use bytes::Bytes;
use sawlog_proto::batch::{self, BatchBuilder, BatchHeader, BatchLimits, Codec, HEADER_BYTES, ProducerStamp};

const SEED: u64 = 0x5eed_0012;
const MUTATIONS_PER_SEED: u32 = 2_500;

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

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        for records in [1, 3, 200] {
            let mut builder = BatchBuilder::new(codec);
            if records == 3 {
                builder.set_producer(ProducerStamp { producer_id: 1, producer_epoch: 0, base_sequence: 0 });
            }
            for index in 0..records {
                let (key, value) = (format!("key-{}", index % 7), vec![index as u8; index * 3]);
                let headers = [("name", &b"value"[..]), ("name", &b""[..])];
                let headers = headers.into_iter().take(index % 3);
                builder.push(1_700_000_000_000 + index as i64, Some(key.as_bytes()), Some(&value), headers);
            }
            seeds.push(builder.finish().to_vec());
        }
    }
    seeds
}

/// One to four edits, most of them where lengths and counts stand; then, often, a CRC and a length that fit, so that
/// the edit is not stopped at the envelope.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff][random.below(6)],
            2 => bytes.truncate(at.max(1)),
            3 => drop(bytes.splice(at..at, std::iter::repeat_n(random.next() as u8, random.below(16)))),
            4 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
            _ => {
                let from = random.below(bytes.len());
                let end = (from + random.below(32)).min(bytes.len());
                let run = bytes[from..end].to_vec();
                bytes.splice(at..at, run);
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    if bytes.len() > HEADER_BYTES && random.below(4) > 0 {
        let length = bytes.len() as i32 - 12;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    bytes
}

/// Everything that a broker and a reader do with bytes that they do not know.
fn drive(bytes: Vec<u8>, limits: &BatchLimits) -> (bool, bool) {
    let bytes = Bytes::from(bytes);
    let _ = BatchHeader::decode(&bytes);
    let shallow = batch::check(&bytes, limits, false);
    let deep = batch::check(&bytes, limits, true);
    assert!(shallow.is_ok() || deep.is_err(), "a deep check finds all that a shallow one finds");
    let mut opened = false;
    if let Ok(records) = batch::records(&bytes, limits) {
        assert!(records.body_bytes() <= limits.decompressed_bytes.max(bytes.len()));
        let walked = records.views().filter(Result::is_ok).count();
        let shared =
            records.filter(|record| record.as_ref().is_ok_and(|record| record.headers.len() <= bytes.len() * 64));
        assert_eq!(walked, shared.count());
        opened = true;
    }
    if let Ok(header) = &deep
        && header.codec == Codec::None
    {
        assert_eq!(batch::walk(header, &bytes).filter(Result::is_ok).count(), header.record_count as usize);
    }
    (deep.is_ok(), opened)
}

/// The most memory that this process ever had, in bytes; `None` where the system does not tell.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[test]
fn row_12_mutated_batches_neither_panic_nor_take_unbounded_memory() {
    let limits = BatchLimits { decompressed_bytes: 256 << 10, ..BatchLimits::DEFAULT };
    let mut random = Random(SEED);
    let before = peak_bytes();
    let (mut runs, mut good, mut opened) = (0, 0, 0);
    for seed in seeds() {
        assert_eq!(drive(seed.clone(), &limits), (true, true), "a seed is good");
        for _ in 0..MUTATIONS_PER_SEED {
            let (deep, open) = drive(mutate(&seed, &mut random), &limits);
            runs += 1;
            good += u32::from(deep);
            opened += u32::from(open);
        }
    }
    println!("seed {SEED:#x}: {runs} runs, {opened} opened, {good} good");
    // The mutations reach what lies behind the envelope, or the run proves little.
    assert!(opened > runs / 10, "{opened} of {runs} got past the envelope");
    if let (Some(before), Some(after)) = (before, peak_bytes()) {
        assert!(after - before < 48 << 20, "{} bytes more at the peak", after - before);
    }
}

#[test]
fn row_12_the_stored_corpus_gives_the_answers_that_stand_in_its_names() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{} files", files.len());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let (deep, _) = drive(bytes.clone(), &BatchLimits::DEFAULT);
        let read = batch::records(&bytes.into(), &BatchLimits::DEFAULT)
            .and_then(|records| records.collect::<Result<Vec<_>, _>>());
        match name.split('-').next() {
            Some("good") => assert!(deep && read.is_ok(), "{name}: {read:?}"),
            Some("refused") => assert!(!deep, "{name}"),
            // Compressed: the envelope is good, the records are not.
            Some("undecodable") => assert!(deep && read.is_err(), "{name}"),
            _ => panic!("{name}: no answer in the name"),
        }
    }
}
