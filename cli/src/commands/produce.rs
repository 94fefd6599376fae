//! `produce`: records from lines, NDJSON or CSV, out of files or standard input.
//!
//! Invariant: it succeeds only if every line became a record and every record was acknowledged; what was not is told
//! with its file and line.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sawlog_client::types::Header;
use sawlog_client::{AckLevel, Codec, ErrorKind, Producer, Receipt, Record};
use serde::Serialize;

use crate::amounts;
use crate::arguments::Common;
use crate::client::{self, failed};
use crate::commands::topic::AckChoice;
use crate::failure::{Exit, Failure, Outcome};
use crate::input::{self, CsvValue, InputForm, InputRecord, Records};
use crate::output::{self, DataStream};

/// Append records to a topic: a line is a record, or a JSON object, or a row of CSV.
#[derive(Debug, Args)]
#[command(
    after_help = "With --json a line is an object: key or key_base64, value (a text; null: a tombstone; anything else: its \
                  JSON) or value_base64, headers (an object or a list of {key, value}), timestamp_ms or timestamp.\n\n\
                  Examples:\n  echo hello | sawlog produce demo\n  \
                  sawlog produce orders --csv --key-column InvoiceNo --time-column InvoiceDate orders.csv\n  \
                  sawlog consume orders --output json | sawlog produce copy --json\n  \
                  printf 'user-1\\tlogged in\\n' | sawlog produce logins -K '\\t' -H source=shell"
)]
pub(crate) struct Produce {
    /// Name of the topic.
    topic: String,
    /// Files to read; none or `-`: standard input.
    files: Vec<PathBuf>,
    /// Key of every record that brings none.
    #[arg(short, long)]
    key: Option<String>,
    /// What stands between key and value in a line, such as `:` or `\t`.
    #[arg(short = 'K', long, value_parser = amounts::separator, value_name = "SEPARATOR", conflicts_with_all = ["json", "csv"])]
    key_separator: Option<std::vec::Vec<u8>>,
    /// A header of every record; may be given again.
    #[arg(short = 'H', long, value_parser = amounts::pair, value_name = "NAME=VALUE")]
    header: Vec<(String, String)>,
    /// Each line is a JSON object, as `consume --output json` prints them.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// The input is CSV with a heading.
    #[arg(long)]
    csv: bool,
    /// Column of the key.
    #[arg(long, requires = "csv", value_name = "COLUMN")]
    key_column: Option<String>,
    /// Column of the event time: RFC 3339, or date and time in UTC.
    #[arg(long, requires = "csv", value_name = "COLUMN")]
    time_column: Option<String>,
    /// What a row becomes: an object of its columns, or the line itself.
    #[arg(long, requires = "csv", value_enum, default_value_t)]
    csv_value: CsvValue,
    /// Empty payloads become tombstones.
    #[arg(short = 'Z', long)]
    tombstones: bool,
    /// Partition, on a topic without keys.
    #[arg(short, long)]
    partition: Option<u32>,
    /// How safe a record is when it counts as produced; default: what the topic demands.
    #[arg(long, value_enum)]
    ack: Option<AckChoice>,
    /// Compression of batches.
    #[arg(long, value_enum, default_value_t)]
    compression: Compression,
    /// Tell bad lines and go on, instead of stopping at the first; the exit code is 1 all the same.
    #[arg(long)]
    skip_bad: bool,
    /// Show no progress bar.
    #[arg(long)]
    no_progress: bool,
}

/// Compression of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Compression {
    /// None.
    #[default]
    None,
    /// Fast.
    Lz4,
    /// Small.
    Zstd,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// Where a record came from.
#[derive(Debug, Clone)]
struct Place {
    file: Arc<str>,
    number: u64,
}

/// Acknowledgements under way, and what came of those before.
struct Sending<'a> {
    arguments: &'a Produce,
    common: &'a Common,
    producer: Producer,
    waiting: VecDeque<(Receipt, Place)>,
    acknowledged: u64,
    bad: u64,
    progress: ProgressBar,
    out: DataStream,
}

#[derive(Serialize)]
struct Acknowledged {
    partition: u32,
    offset: u64,
    epoch: u32,
    append_time_ms: i64,
}

impl Produce {
    pub(crate) fn run(self, common: &Common) -> Outcome {
        client::run(common, async |client| {
            let mut producer = client.producer(&self.topic).compression(self.compression.into());
            if let Some(level) = self.ack {
                producer = producer.ack(AckLevel::from(level));
            }
            let producer = producer.build().await.map_err(failed)?;
            let read = Arc::new(AtomicU64::new(0));
            let mut sending = Sending {
                arguments: &self,
                common,
                producer,
                waiting: VecDeque::new(),
                acknowledged: 0,
                bad: 0,
                progress: self.progress(),
                out: DataStream::new(),
            };
            let sent = sending.all_files(&read).await;
            let finished = sending.finish().await;
            sending.progress.finish_and_clear();
            output::talk(&format!("{} records acknowledged", output::grouped(sending.acknowledged)));
            sent.and(finished)?;
            if sending.bad == 0 {
                return Ok(());
            }
            let what = format!("{} lines were left out", output::grouped(sending.bad));
            Err(Failure::new(Exit::Failure, what, "mend the lines told above and produce them alone"))
        })
    }

    fn form(&self) -> InputForm {
        if self.json {
            InputForm::Json
        } else if self.csv {
            InputForm::Csv {
                key_column: self.key_column.clone(),
                time_column: self.time_column.clone(),
                value: self.csv_value,
            }
        } else {
            InputForm::Lines { separator: self.key_separator.clone() }
        }
    }

    fn common_parts(&self) -> input::Common {
        input::Common {
            key: self.key.as_ref().map(|key| Bytes::copy_from_slice(key.as_bytes())),
            headers: self.header.iter().map(|(name, value)| (name.clone(), Bytes::from(value.clone()))).collect(),
            tombstones: self.tombstones,
        }
    }

    /// A bar over the bytes of the files, a count for standard input, nothing unless someone looks.
    fn progress(&self) -> ProgressBar {
        let stdin = self.files.is_empty() || self.files.iter().any(|file| file.as_os_str() == "-");
        if self.no_progress || !output::stderr_is_terminal() || (stdin && io::stdin().is_terminal()) {
            return ProgressBar::hidden();
        }
        if stdin {
            let style = ProgressStyle::with_template("{spinner} {msg} records").expect("the template is fixed");
            return ProgressBar::new_spinner().with_style(style);
        }
        let total = self.files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
        let template = "{bar:40} {bytes}/{total_bytes} {msg} records {eta}";
        ProgressBar::new(total).with_style(ProgressStyle::with_template(template).expect("the template is fixed"))
    }
}

impl Sending<'_> {
    async fn all_files(&mut self, read: &Arc<AtomicU64>) -> Outcome {
        let standard_input = [PathBuf::from("-")];
        let files = if self.arguments.files.is_empty() { &standard_input[..] } else { &self.arguments.files };
        for file in files {
            let (name, reader): (Arc<str>, Box<dyn BufRead>) = if file.as_os_str() == "-" {
                (
                    "standard input".into(),
                    Box::new(BufReader::new(Counted { inner: io::stdin(), read: Arc::clone(read) })),
                )
            } else {
                let opened = File::open(file).map_err(|error| Failure::file("open", file, &error))?;
                let counted = Counted { inner: opened, read: Arc::clone(read) };
                (file.display().to_string().into(), Box::new(BufReader::with_capacity(256 << 10, counted)))
            };
            self.one_file(&name, reader, read).await?;
        }
        Ok(())
    }

    async fn one_file(&mut self, name: &Arc<str>, reader: Box<dyn BufRead + '_>, read: &AtomicU64) -> Outcome {
        let common = self.arguments.common_parts();
        let records = Records::open(reader, &self.arguments.form(), &common)
            .map_err(|bad| bad_line(&Place { file: Arc::clone(name), number: bad.line }, &bad.what))?;
        let mut number = 0;
        for item in records {
            number += 1;
            match item {
                Ok(record) => self.one(record, Place { file: Arc::clone(name), number }).await?,
                Err(bad) => {
                    let failure = bad_line(&Place { file: Arc::clone(name), number: bad.line }, &bad.what);
                    if bad.fatal {
                        return Err(failure);
                    }
                    self.refuse(failure)?;
                }
            }
            if number % 1024 == 0 {
                self.progress.set_position(read.load(Ordering::Relaxed));
                self.progress.set_message(output::grouped(self.acknowledged));
            }
        }
        Ok(())
    }

    async fn one(&mut self, record: InputRecord, place: Place) -> Outcome {
        let record = Record {
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(|(key, value)| Header { key, value }).collect(),
            timestamp_ms: record.timestamp_ms,
            partition: self.arguments.partition,
        };
        match self.producer.send(record).await {
            Ok(receipt) => self.waiting.push_back((receipt, place)),
            Err(error) => self.not_taken(error, &place)?,
        }
        while let Some((receipt, _)) = self.waiting.front() {
            let Some(position) = receipt.try_position() else { break };
            let (_, place) = self.waiting.pop_front().expect("it was at the front");
            self.answered(position, &place)?;
        }
        if self.waiting.is_empty() { self.out.flush() } else { Ok(()) }
    }

    fn answered(
        &mut self,
        position: Result<sawlog_client::RecordPosition, sawlog_client::Error>,
        place: &Place,
    ) -> Outcome {
        match position {
            Ok(position) => {
                self.acknowledged += 1;
                if self.common.json() {
                    let line = output::to_json(&Acknowledged {
                        partition: position.partition,
                        offset: position.offset,
                        epoch: position.epoch,
                        append_time_ms: position.append_time_ms,
                    });
                    self.out.write(line.as_bytes())?;
                    self.out.write(b"\n")?;
                }
                Ok(())
            }
            Err(error) => self.not_taken(error, place),
        }
    }

    /// A record that is wrong in itself is a bad line; anything else ends the command.
    fn not_taken(&mut self, error: sawlog_client::Error, place: &Place) -> Outcome {
        let wrong = error.kind() == ErrorKind::Invalid;
        let mut failure = failed(error);
        failure.what = format!("{}: record {}: {}", place.file, place.number, failure.what);
        if wrong { self.refuse(failure) } else { Err(failure) }
    }

    fn refuse(&mut self, failure: Failure) -> Outcome {
        if !self.arguments.skip_bad {
            return Err(failure);
        }
        self.bad += 1;
        self.progress.suspend(|| output::talk(&failure.what));
        Ok(())
    }

    /// Waits for what is under way.
    async fn finish(&mut self) -> Outcome {
        // Its receipts tell each record's failure, with its place.
        let _ = self.producer.flush().await;
        while let Some((receipt, place)) = self.waiting.pop_front() {
            self.answered(receipt.await, &place)?;
        }
        self.out.flush()?;
        self.producer.take_lost().first().map_or(Ok(()), |lost| {
            let what = format!(
                "the broker lost {} records of partition {} that it had at `written`",
                lost.records, lost.partition
            );
            Err(Failure::new(Exit::Failure, what, "produce the input again, or use --ack durable"))
        })
    }
}

fn bad_line(place: &Place, what: &str) -> Failure {
    let what = format!("{}:{}: {what}", place.file, place.number);
    Failure::new(Exit::Failure, what, "mend the line, or leave bad lines out with --skip-bad")
}

/// Counts the bytes read, for the progress bar.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
