//! `consume`: reads a range of a topic, or follows it, and prints its records.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use clap::Args;
use sawlog_client::reader::GapReason;
use sawlog_client::{Client, ReadEvent, ReadRecord, Reader, ReaderBuilder, ReaderFrom, ReaderTo, StreamExt as _};
use tokio_stream::Stream;

use crate::amounts::{self, Place};
use crate::arguments::Common;
use crate::client::{self, failed};
use crate::clock;
use crate::commands::group::settings::ModeChoice;
use crate::failure::{Failure, Outcome};
use crate::filter::Filter;
use crate::format::{Format, RecordView, write_json};
use crate::output::{self, DataStream};

mod group;

/// Print records of a topic, from a start to an end or for ever; or take part in a consumer group.
#[derive(Debug, Args)]
#[command(
    after_help = "Letters of --format: %t topic, %p partition, %o offset, %T time in ms, %h headers, %k key, %K its length, \
                  %s payload, %S its length, %R its length in 4 bytes, %% a per cent sign; \\n \\r \\t \\0 \\\\ \\xHH.\n\
                  Filters: key=K, key^=PREFIX, header.NAME, header.NAME=V, header.NAME^=PREFIX; all must hold.\n\n\
                  Examples:\n  sawlog consume orders --from earliest\n  \
                  sawlog consume orders --from -10 --format '%p %o %k %s\\n'\n  \
                  sawlog consume orders --from 2h --to 1h --filter key=536365 --output json\n  \
                  sawlog consume orders --follow -n 5\n  \
                  sawlog consume orders -g billing -n 100"
)]
pub(crate) struct Consume {
    /// Name of the topic; with -g it may be left out if the group exists.
    #[arg(required_unless_present = "group")]
    topic: Option<String>,
    /// Take part in this group, which is made if it is missing: its records are shared out among its members, and acked
    /// when they are printed.
    #[arg(short, long)]
    group: Option<String>,
    /// Mode of the group; needed only if it is made.
    #[arg(long, value_enum, requires = "group")]
    mode: Option<ModeChoice>,
    /// Name of a static member of the group: what it owns waits for it over a restart.
    #[arg(long, requires = "group", value_name = "NAME")]
    member: Option<String>,
    /// Where to begin: earliest, latest, an offset, -N for the last N, a span such as 2h ago, or a time [default:
    /// earliest; with --follow: latest].
    #[arg(long, value_parser = amounts::place, allow_hyphen_values = true, value_name = "PLACE")]
    from: Option<Place>,
    /// Where to stop: latest, an offset, a span such as 1h ago, or a time [default: what is the end when it begins].
    #[arg(long, value_parser = amounts::place, value_name = "PLACE")]
    to: Option<Place>,
    /// Stop after so many records.
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// Go on with what is appended later.
    #[arg(long)]
    follow: bool,
    /// Only this partition; may be given again.
    #[arg(short, long)]
    partition: Vec<u32>,
    /// How a record is printed, with kcat's letters [default: %s\n].
    #[arg(short, long, value_parser = parse_format)]
    format: Option<Format>,
    /// Only records for which this holds; may be given again.
    #[arg(long, value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// At most so many records a second.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    rate: u64,
    /// Go past damaged ranges, telling each.
    #[arg(long)]
    skip_damaged: bool,
}

fn parse_format(text: &str) -> Result<Format, String> {
    Format::parse(text)
}

impl Consume {
    pub(crate) fn run(self, common: &Common) -> Outcome {
        if self.format.is_some() && common.json() {
            return Err(Failure::usage("--format and --output json exclude each other", "give one of them"));
        }
        let format = match (&self.format, common.json()) {
            (_, true) => None,
            (Some(format), false) => Some(format.clone()),
            (None, false) => Some(Format::parse("%s\\n").expect("the default format is right")),
        };
        client::run(common, async |client| {
            if let Some(group) = &self.group {
                return group::run(&self, group, &client, format.as_ref()).await;
            }
            let reader = self.reader(&client)?.open().await.map_err(failed)?;
            self.print_all(reader, format.as_ref()).await
        })
    }

    /// The topic, which is there without a group.
    fn topic(&self) -> &str {
        self.topic.as_deref().unwrap_or_default()
    }

    fn reader(&self, client: &Client) -> Outcome<ReaderBuilder> {
        let now_ms = clock::wall_ms();
        let default = if self.follow { Place::Latest } else { Place::Earliest };
        let mut reader = client
            .reader(self.topic())
            .from(start(self.from.unwrap_or(default).at(now_ms)))
            .follow(self.follow)
            .max_records_per_second(self.rate)
            .skip_damaged(self.skip_damaged);
        if !self.partition.is_empty() {
            reader = reader.partitions(self.partition.iter().copied());
        }
        // Of two ends the reader is given one; the count is also kept here.
        match (self.to, self.count) {
            (Some(place), _) => reader = reader.to(end(place.at(now_ms))?),
            (None, Some(count)) => reader = reader.to(ReaderTo::Count(count)),
            (None, None) => {}
        }
        Ok(Filter::apply(&self.filter, reader))
    }

    async fn print_all(&self, mut reader: Reader, format: Option<&Format>) -> Outcome {
        let mut out = DataStream::new();
        let mut line = Vec::new();
        let mut printed = 0;
        while self.count.is_none_or(|count| printed < count) {
            match next_or_idle(&mut reader, async || out.flush()).await? {
                None => break,
                Some(Err(error)) => {
                    out.flush()?;
                    return Err(failed(error));
                }
                Some(Ok(ReadEvent::Record(record))) => {
                    line.clear();
                    self.print(&record, format, &mut line);
                    out.write(&line)?;
                    printed += 1;
                }
                Some(Ok(ReadEvent::Gap { partition, from, to, reason })) => {
                    out.flush()?;
                    output::talk(&format!(
                        "partition {partition}: offsets {from} to {to} are missing: {}",
                        gap(reason)
                    ));
                }
                Some(Ok(
                    ReadEvent::CaughtUp { .. } | ReadEvent::FellBehind { .. } | ReadEvent::PartitionEnd { .. },
                )) => {}
            }
        }
        out.flush()?;
        if printed == 0 && !self.follow {
            output::talk("no record in this range; --follow waits for new ones, --from earliest begins at the start");
        }
        Ok(())
    }

    fn print(&self, record: &ReadRecord, format: Option<&Format>, line: &mut Vec<u8>) {
        let view = RecordView {
            topic: self.topic(),
            partition: record.partition,
            offset: record.offset,
            epoch: record.epoch,
            append_time_ms: record.append_time_ms,
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &record.headers,
        };
        write_record(&view, format, line);
    }
}

/// The next item of a stream; if there is none at the moment, `idle` is done first: who reads our output gets what there
/// is.
async fn next_or_idle<S: Stream + Unpin>(
    stream: &mut S,
    idle: impl AsyncFnOnce() -> Outcome,
) -> Outcome<Option<S::Item>> {
    match poll_fn(|context| Poll::Ready(Pin::new(&mut *stream).poll_next(context))).await {
        Poll::Ready(item) => Ok(item),
        Poll::Pending => {
            idle().await?;
            Ok(stream.next().await)
        }
    }
}

/// A record as it is asked for; without a format as JSON.
fn write_record(view: &RecordView<'_>, format: Option<&Format>, line: &mut Vec<u8>) {
    match format {
        Some(format) => format.write(view, line),
        None => write_json(view, line),
    }
}

fn start(place: Place) -> ReaderFrom {
    match place {
        Place::Earliest => ReaderFrom::Earliest,
        Place::Latest => ReaderFrom::Latest,
        Place::Offset(offset) => ReaderFrom::Offset(offset.unsigned_abs()),
        Place::Last(count) => ReaderFrom::Last(count.unsigned_abs()),
        Place::TimeMs(time) | Place::Ago(time) => ReaderFrom::TimestampMs(time),
    }
}

fn end(place: Place) -> Outcome<ReaderTo> {
    match place {
        Place::Latest => Ok(ReaderTo::HighWatermark),
        Place::Offset(offset) => Ok(ReaderTo::Offset(offset.unsigned_abs())),
        Place::TimeMs(time) | Place::Ago(time) => Ok(ReaderTo::TimestampMs(time)),
        Place::Earliest | Place::Last(_) => Err(Failure::usage(
            "--to takes latest, an offset, a span or a time",
            "to print the last N records, use --from -N",
        )),
    }
}

pub(crate) fn gap(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Retention => "retention deleted them",
        GapReason::Trim => "they were trimmed",
        GapReason::Corrupt => "they are damaged",
        GapReason::Truncated => "they were cut from the end",
        GapReason::Undecodable => "their batch cannot be decoded",
        GapReason::DlqExpired => "their dead letters were kept as long as configured",
        GapReason::Other => "for a reason that this version does not know",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_means_nothing_is_refused() {
        assert!(end(Place::Last(3)).is_err() && end(Place::Earliest).is_err());
        assert_eq!(end(Place::Offset(7)).unwrap(), ReaderTo::Offset(7));
    }
}
