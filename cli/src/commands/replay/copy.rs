//! A range of a topic copied to a topic or a file, by a reader and a producer of this process.
//!
//! Invariants: the bounds are made concrete before the first record, so nothing appended later is copied; records of a
//! partition are sent in their order, until the target refuses one; of a copy that is begun again no record stands twice,
//! unless the target has lost it, or two copies run at once; a file has its name only once it is whole.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sawlog_client::reader::Start as ReadStart;
use sawlog_client::replays::ReplayRate;
use sawlog_client::types::{OffsetAt, Topic};
use sawlog_client::{Client, Producer, ReadEvent, ReadRecord, ReaderFrom, ReaderTo, Receipt, Record, StreamExt as _};

use super::copied::{self, Copied};
use super::start::{Bound, Start, no_last};
use crate::amounts::Place;
use crate::arguments::Common;
use crate::client::failed;
use crate::clock::{self, Stopwatch};
use crate::commands::consume::gap;
use crate::failure::{Exit, Failure, Outcome};
use crate::filter::Filter;
use crate::format::{RecordView, write_json};
use crate::output::{self, DataStream};

/// Records that are on their way to a topic at most.
const UNDER_WAY: usize = 10_000;

/// A range of a partition.
#[derive(Debug, Clone, Copy)]
struct Part {
    partition: u32,
    from: u64,
    to: u64,
}

/// What a copy goes into.
enum Target {
    Topic { producer: Producer, copied: Copied, waiting: VecDeque<(ReadRecordPlace, Receipt)> },
    File { out: BufWriter<File>, partial: PathBuf, path: PathBuf, line: Vec<u8> },
    Output { out: DataStream, line: Vec<u8> },
}

/// Partition and offset of a record in its source.
type ReadRecordPlace = (u32, u64);

/// A copy at work.
struct Copy<'a> {
    start: &'a Start,
    source: Topic,
    target: Target,
    began: Stopwatch,
    first_append_ms: Option<i64>,
    paced: Paced,
    progress: ProgressBar,
    counts: Counts,
}

/// What became of the records.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    copied: u64,
    /// The target had them, from an earlier run or under their event ids.
    there: u64,
}

/// What came from the source, for the pace.
#[derive(Debug, Default, Clone, Copy)]
struct Paced {
    records: u64,
    bytes: u64,
}

/// Copies to a topic that is there.
pub(super) async fn to_topic(start: &Start, name: &str, client: &Client, common: &Common) -> Outcome {
    let source = client.admin().get_topic(&start.topic).await.map_err(failed)?;
    let target = client.admin().get_topic(name).await.map_err(failed)?;
    if source.topic_id == target.topic_id {
        return Err(Failure::usage("a topic cannot be copied into itself", "name another topic"));
    }
    let parts = parts(start, &source, client).await?;
    let ranges = parts.iter().map(|part| (part.partition, part.from, part.to));
    let mut copied = Copied::new(source.topic_id.as_str(), ranges);
    if parts.iter().any(|part| part.from < part.to) {
        look_for_copies(&mut copied, &source, name, client).await?;
    }
    let producer = client.producer(name).build().await.map_err(failed)?;
    let target = Target::Topic { producer, copied, waiting: VecDeque::new() };
    let counts = Copy::new(start, source, target, &parts).run(client, &parts).await?;
    told(start, &format!("topic {name}"), counts, common, true)
}

/// Copies to a file that is not there, or to standard output.
pub(super) async fn to_file(start: &Start, path: &Path, client: &Client, common: &Common) -> Outcome {
    let source = client.admin().get_topic(&start.topic).await.map_err(failed)?;
    let stdout = path.as_os_str() == "-";
    if !stdout && path.exists() {
        let what = format!("{} is there already", path.display());
        return Err(Failure::usage(what, "name another file, or remove this one first"));
    }
    let parts = parts(start, &source, client).await?;
    let target = if stdout {
        Target::Output { out: DataStream::new(), line: Vec::new() }
    } else {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(|error| Failure::file("create", &partial, &error))?;
        Target::File {
            out: BufWriter::with_capacity(256 << 10, file),
            partial,
            path: path.to_owned(),
            line: Vec::new(),
        }
    };
    let counts = Copy::new(start, source, target, &parts).run(client, &parts).await?;
    told(start, &path.display().to_string(), counts, common, !stdout)
}

/// Says what was done; as data only where standard output is free.
fn told(start: &Start, into: &str, counts: Counts, common: &Common, data: bool) -> Outcome {
    if data && common.json() {
        let told = serde_json::json!({
            "topic": start.topic, "into": into, "copied": counts.copied, "there_already": counts.there,
        });
        return output::json_line(&told);
    }
    let (copied, there) = (output::grouped(counts.copied), output::grouped(counts.there));
    output::talk(&format!("{copied} records copied to {into}, {there} were there already"));
    Ok(())
}

/// The ranges that the bounds mean now.
async fn parts(start: &Start, source: &Topic, client: &Client) -> Outcome<Vec<Part>> {
    let (from, to) = start.bounds();
    let all = |at| async move {
        let offsets = client.admin().offsets(&start.topic, &[], at).await.map_err(failed)?;
        Ok(offsets.into_iter().map(|found| (found.partition, found.offset)).collect::<Vec<_>>())
    };
    let earliest = all(OffsetAt::Earliest).await?;
    let latest = all(OffsetAt::Latest).await?;
    let resolve = async |bound: Bound<'_>| match bound {
        Bound::Group(group) => group_positions(client, group, source).await,
        Bound::Place(place) => match place.at(clock::wall_ms()) {
            Place::Earliest => Ok(earliest.clone()),
            Place::Latest => Ok(latest.clone()),
            Place::TimeMs(time) => all(OffsetAt::TimestampMs(time)).await,
            Place::Offset(offset) => {
                Ok((0..source.partitions()).map(|partition| (partition, offset.unsigned_abs())).collect())
            }
            Place::Last(_) | Place::Ago(_) => Err(no_last()),
        },
    };
    let (from, to) = (resolve(from).await?, resolve(to).await?);
    let at =
        |bounds: &[(u32, u64)], partition| bounds.iter().find(|(at, _)| *at == partition).map(|(_, offset)| *offset);
    let mut parts = Vec::new();
    let (mut gone, mut backwards) = (None, None);
    for partition in 0..source.partitions() {
        let (first, end) = (at(&earliest, partition).unwrap_or(0), at(&latest, partition).unwrap_or(0));
        let (asked, to) = (at(&from, partition).unwrap_or(first), at(&to, partition).unwrap_or(end));
        if asked > end || to > end {
            let what = format!("partition {partition} ends at {end}, but {} was asked for", asked.max(to));
            return Err(Failure::new(
                Exit::Failure,
                what,
                "give bounds within the log; `sawlog topic show` tells them",
            ));
        }
        if to < asked {
            backwards = Some((partition, asked, to));
        }
        if to <= first && asked < to {
            gone = Some((partition, asked, to, first));
        }
        if asked < first && to > first {
            output::talk(&format!("partition {partition}: offsets {asked} to {first} are gone from the log"));
        }
        let from = asked.max(first);
        parts.push(Part { partition, from, to: to.max(from) });
    }
    if parts.iter().any(|part| part.from < part.to) {
        return Ok(parts);
    }
    match (gone, backwards) {
        (Some((partition, asked, to, first)), _) => {
            let what = format!("offsets {asked} to {to} of partition {partition} are gone: the log begins at {first}");
            Err(Failure::new(Exit::Failure, what, "give bounds within the log; `sawlog topic show` tells them"))
        }
        (None, Some((partition, asked, to))) => {
            let what = format!("the range ends before it begins: partition {partition} from {asked} to {to}");
            Err(Failure::usage(what, "exchange --from and --to"))
        }
        (None, None) => Ok(parts),
    }
}

/// First offset of each partition that a group has not settled.
async fn group_positions(client: &Client, group: &str, source: &Topic) -> Outcome<Vec<(u32, u64)>> {
    let lag = client.groups().lag(group, &[]).await.map_err(failed)?;
    let of_topic = lag.partitions.iter().filter(|partition| partition.topic_id == source.topic_id.as_str());
    let positions: Vec<_> = of_topic.map(|partition| (partition.partition, partition.floor)).collect();
    if positions.is_empty() {
        let what = format!("group {group} does not read topic {}", source.name);
        return Err(Failure::usage(what, "`sawlog group show` tells the topics of a group"));
    }
    Ok(positions)
}

/// Finds in the target what an earlier run has copied.
async fn look_for_copies(copied: &mut Copied, source: &Topic, target: &str, client: &Client) -> Outcome {
    let reader = client.reader(target).to(ReaderTo::HighWatermark).skip_damaged(true);
    let mut reader =
        reader.header_equals(copied::TOPIC_ID, source.topic_id.as_str().to_owned()).open().await.map_err(failed)?;
    while let Some(event) = reader.next().await {
        if let ReadEvent::Record(record) = event.map_err(failed)? {
            copied.note(&record.headers);
        }
    }
    Ok(())
}

impl<'a> Copy<'a> {
    fn new(start: &'a Start, source: Topic, target: Target, parts: &[Part]) -> Self {
        let progress = if output::stderr_is_terminal() {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
            let all = parts.iter().map(|part| part.to - part.from).sum();
            ProgressBar::new(all).with_style(style.expect("the template is right"))
        } else {
            ProgressBar::hidden()
        };
        let (paced, counts) = (Paced::default(), Counts::default());
        Self { start, source, target, began: Stopwatch::start(), first_append_ms: None, paced, progress, counts }
    }

    /// One partition after the other, so that the pace is that of the whole.
    async fn run(mut self, client: &Client, parts: &[Part]) -> Outcome<Counts> {
        let mut copied = Ok(());
        for part in parts.iter().filter(|part| part.from < part.to) {
            copied = self.part(client, *part).await;
            if copied.is_err() {
                break;
            }
        }
        let finished = self.finish(copied.is_ok()).await;
        self.progress.finish_and_clear();
        copied.and(finished).map_err(|failure| match &self.target {
            Target::Topic { .. } => {
                let copied = output::grouped(self.counts.copied);
                failure.fact(format!("{copied} records are copied; the same command goes on behind them"))
            }
            Target::File { partial, .. } => failure.fact(format!("{} is not whole", partial.display())),
            Target::Output { .. } => failure,
        })?;
        Ok(self.counts)
    }

    async fn part(&mut self, client: &Client, part: Part) -> Outcome {
        let start = ReadStart { partition: part.partition, offset: part.from, epoch: None };
        let reader =
            client.reader(&self.source.name).from(ReaderFrom::Starts(vec![start])).to(ReaderTo::Offset(part.to));
        let mut reader = Filter::apply(&self.start.filter, reader).open().await.map_err(failed)?;
        let before = self.progress.position();
        while let Some(event) = reader.next().await {
            match event.map_err(failed)? {
                ReadEvent::Record(record) => {
                    self.wait_for(&record).await;
                    self.progress.set_position(before + record.offset - part.from);
                    self.one(record).await?;
                }
                ReadEvent::Gap { partition, from, to, reason } => {
                    output::talk(&format!(
                        "partition {partition}: offsets {from} to {to} are missing: {}",
                        gap(reason)
                    ));
                }
                ReadEvent::CaughtUp { .. } | ReadEvent::FellBehind { .. } | ReadEvent::PartitionEnd { .. } => {}
            }
        }
        self.progress.set_position(before + part.to - part.from);
        Ok(())
    }

    /// Waits until a record is due. Stored batches come whole, so that the pace is kept here, record by record.
    async fn wait_for(&mut self, record: &ReadRecord) {
        let Some(rate) = self.start.pace.rate() else { return };
        let first_ms = *self.first_append_ms.get_or_insert(record.append_time_ms);
        let since_ms = (record.append_time_ms - first_ms).max(0).unsigned_abs();
        let due = match rate {
            ReplayRate::Records(records) => span(self.paced.records, records),
            ReplayRate::Bytes(bytes) => span(self.paced.bytes, bytes),
            ReplayRate::SpeedPermille(speed) => span(since_ms, speed),
        };
        self.paced.records += 1;
        self.paced.bytes += bytes_of(record);
        let early = due.saturating_sub(self.began.elapsed());
        if !early.is_zero() {
            tokio::time::sleep(early).await;
        }
    }

    async fn one(&mut self, record: ReadRecord) -> Outcome {
        match &mut self.target {
            Target::Topic { producer, copied, waiting } => {
                if copied.has(&record) {
                    self.counts.there += 1;
                    return Ok(());
                }
                let headers = copied::headers(&self.source.name, self.source.topic_id.as_str(), &record);
                let place = (record.partition, record.offset);
                let (key, value, timestamp_ms) = (record.key, record.value, Some(record.timestamp_ms));
                let copy = Record { key, value, headers, timestamp_ms, partition: None };
                let receipt = producer.send(copy).await.map_err(|error| of_record(place, error))?;
                waiting.push_back((place, receipt));
                settle(waiting, UNDER_WAY, &mut self.counts).await
            }
            Target::File { out, partial, line, .. } => {
                as_line(&self.source.name, &record, line);
                self.counts.copied += 1;
                out.write_all(line).map_err(|error| Failure::file("write", partial, &error))
            }
            Target::Output { out, line } => {
                as_line(&self.source.name, &record, line);
                self.counts.copied += 1;
                out.write(line)
            }
        }
    }

    /// Waits for what is on its way; gives a file that is whole its name.
    async fn finish(&mut self, whole: bool) -> Outcome {
        match &mut self.target {
            Target::Topic { waiting, .. } => settle(waiting, 0, &mut self.counts).await,
            Target::File { out, partial, path, .. } => {
                let written = out.flush().and_then(|()| out.get_ref().sync_all());
                written.map_err(|error| Failure::file("write", partial, &error))?;
                if whole {
                    std::fs::rename(&*partial, &*path).map_err(|error| Failure::file("name", path, &error))?;
                }
                Ok(())
            }
            Target::Output { out, .. } => out.flush(),
        }
    }
}

/// Takes answers until at most `left` are awaited.
async fn settle(waiting: &mut VecDeque<(ReadRecordPlace, Receipt)>, left: usize, counts: &mut Counts) -> Outcome {
    while waiting.len() > left {
        let Some((place, receipt)) = waiting.pop_front() else { break };
        let position = receipt.await.map_err(|error| of_record(place, error))?;
        if position.duplicate {
            counts.there += 1;
        } else {
            counts.copied += 1;
        }
    }
    Ok(())
}

/// How long so many take at so many a second.
fn span(count: u64, per_second: u64) -> Duration {
    let nanos = u128::from(count) * 1_000_000_000 / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Bytes of key, value and headers.
fn bytes_of(record: &ReadRecord) -> u64 {
    let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers: usize = record.headers.iter().map(|header| header.key.len() + header.value.len()).sum();
    (length(&record.key) + length(&record.value) + headers) as u64
}

fn of_record((partition, offset): ReadRecordPlace, error: sawlog_client::Error) -> Failure {
    failed(error).fact(format!("source: partition {partition} offset {offset}"))
}

fn as_line(topic: &str, record: &ReadRecord, line: &mut Vec<u8>) {
    line.clear();
    let view = RecordView {
        topic,
        partition: record.partition,
        offset: record.offset,
        epoch: record.epoch,
        append_time_ms: record.append_time_ms,
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &record.headers,
    };
    write_json(&view, line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rp_4_a_record_is_due_when_those_before_it_have_had_their_time() {
        assert_eq!(span(0, 20), Duration::ZERO);
        assert_eq!(span(29, 20), Duration::from_millis(1_450));
        assert_eq!(span(1, 3), Duration::from_nanos(333_333_333));
        // Milliseconds since the first append, by thousandths of the original speed: a minute in a second.
        assert_eq!(span(60_000, 60_000), Duration::from_secs(1));
        assert_eq!(span(u64::MAX, 1), Duration::from_nanos(u64::MAX), "no overflow");
    }
}
