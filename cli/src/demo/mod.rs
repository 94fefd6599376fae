//! `demo`: the main job on real order lines, from produce to a check of all that was read back.
//!
//! It runs a broker of its own on a fresh folder and talks to it through the public API alone. Invariant: it succeeds
//! only if every line came back once, unchanged, and in order within its invoice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use sawlog_client::{Client, NewTopic, ReadEvent, Record, StreamExt as _};
use serde::Serialize;

use crate::arguments::Common;
use crate::client::{self, failed};
use crate::clock::Stopwatch;
use crate::commands::dev::ephemeral_folder;
use crate::config::{FlagValue, Settings};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Rows, grouped};
use crate::{broker, input};

mod check;
mod orders;

use check::{Check, LineRead};
use orders::OrderLine;

/// Name of the topic.
const TOPIC: &str = "order-lines";
/// Its partitions.
const PARTITIONS: u32 = 4;

/// Run the main job on real order lines: produce them keyed by invoice, read them back in order, check every one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sawlog demo\n  sawlog demo --file online-retail.csv --keep")]
pub(crate) struct Demo {
    /// Order lines as CSV with the columns InvoiceNo and InvoiceDate; default: those of one day, shipped inside.
    #[arg(long, value_name = "CSV")]
    file: Option<PathBuf>,
    /// Keep the data folder, and tell where it is.
    #[arg(long)]
    keep: bool,
}

/// A step that was done.
#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    records: u64,
    seconds: f64,
    records_per_second: f64,
}

impl Step {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 50 bits")]
    fn new(step: &'static str, records: usize, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-9);
        Self { step, records: records as u64, seconds, records_per_second: records as f64 / seconds }
    }
}

impl Demo {
    pub(crate) fn run(self, common: &Common) -> Outcome {
        let lines = orders::read(self.file.as_deref())?;
        let folder = ephemeral_folder()?;
        let done = in_broker(folder.path(), &lines, common.timeout);
        if self.keep {
            let folder = folder.keep();
            output::talk(&format!("the data is kept; look at it with: sawlog dev --data-dir {}", folder.display()));
        }
        let (steps, check) = done?;
        print(&steps, &check, common)?;
        let differences = check.differences();
        if differences.is_empty() {
            return Ok(());
        }
        let failure = Failure::new(
            Exit::CheckFailed,
            format!("{} differences between what was produced and what was read", grouped(check.difference_count())),
            "report this with the lines above; --keep keeps the data",
        );
        Err(differences.iter().fold(failure, Failure::fact))
    }
}

/// Starts a broker, does the job and stops the broker.
fn in_broker(folder: &Path, lines: &[OrderLine], timeout: Duration) -> Outcome<(Vec<Step>, Check)> {
    let flags = [
        FlagValue::new("listen", "127.0.0.1:0", "demo"),
        FlagValue::new("storage.data_dir", folder.display().to_string(), "demo"),
    ];
    let settings = Settings::load(None, std::iter::empty(), &flags)?;
    let started = Stopwatch::start();
    let broker = broker::start(settings.to_config()?, &settings)?;
    let mut steps = vec![Step::new("start a broker", 0, started.elapsed())];
    let url = format!("http://{}", broker.local_addr());
    let runtime = client::runtime()?;
    let done = runtime.block_on(async {
        let client = client::connect(&url, timeout)?;
        job(&client, lines, &mut steps).await
    });
    drop(runtime);
    let clean = broker.shutdown();
    let check = done?;
    if !clean {
        return Err(Failure::new(
            Exit::Failure,
            "the broker did not stop cleanly",
            "report this with the log lines above",
        ));
    }
    Ok((steps, check))
}

async fn job(client: &Client, lines: &[OrderLine], steps: &mut Vec<Step>) -> Outcome<Check> {
    let topic = NewTopic::new(TOPIC).partitions(PARTITIONS).keyed(true);
    client.admin().create_topic(topic).await.map_err(failed)?;

    let producing = Stopwatch::start();
    let producer = client.producer(TOPIC).build().await.map_err(failed)?;
    let mut receipts = Vec::with_capacity(lines.len());
    for line in lines {
        let record = Record::keyed(line.invoice.clone(), line.text.clone()).timestamp_ms(line.time_ms);
        receipts.push(producer.send(record).await.map_err(failed)?);
    }
    producer.flush().await.map_err(failed)?;
    let mut check = Check::new(lines);
    for (index, receipt) in receipts.into_iter().enumerate() {
        let position = receipt.await.map_err(failed)?;
        check.acknowledged(index, position.partition, position.offset);
    }
    producer.close().await.map_err(failed)?;
    steps.push(Step::new("produce, durable", lines.len(), producing.elapsed()));

    let reading = Stopwatch::start();
    let mut reader = client.reader(TOPIC).open().await.map_err(failed)?;
    let mut read = 0;
    while let Some(event) = reader.next().await {
        match event.map_err(failed)? {
            ReadEvent::Record(record) => {
                read += 1;
                check.read(&LineRead {
                    partition: record.partition,
                    offset: record.offset,
                    invoice: record.key.as_deref().unwrap_or_default(),
                    text: record.value.as_deref().unwrap_or_default(),
                    time_ms: record.timestamp_ms,
                });
            }
            ReadEvent::Gap { partition, from, to, .. } => check.gap(partition, from, to),
            ReadEvent::CaughtUp { .. } | ReadEvent::FellBehind { .. } | ReadEvent::PartitionEnd { .. } => {}
        }
    }
    check.end();
    steps.push(Step::new("read back, check", read, reading.elapsed()));
    Ok(check)
}

#[derive(Serialize)]
struct Answer<'a> {
    steps: &'a [Step],
    lines: u64,
    invoices: u64,
    differences: u64,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are shown as whole numbers")]
fn print(steps: &[Step], check: &Check, common: &Common) -> Outcome {
    if common.json() {
        return output::json_line(&Answer {
            steps,
            lines: check.lines(),
            invoices: check.invoices(),
            differences: check.difference_count(),
        });
    }
    let mut rows = Rows::new(&["step", ">records", ">ms", ">records/s"]);
    for step in steps {
        let (records, rate) = if step.records == 0 {
            (String::new(), String::new())
        } else {
            (grouped(step.records), grouped(step.records_per_second as u64))
        };
        rows.add([step.step.to_owned(), records, format!("{:.1}", step.seconds * 1e3), rate]);
    }
    rows.print()?;
    let (lines, invoices) = (grouped(check.lines()), grouped(check.invoices()));
    output::data_line(&format!(
        "\n{lines} order lines of {invoices} invoices: {} differences",
        grouped(check.difference_count())
    ))?;
    if check.difference_count() == 0 {
        output::data_line("every line came back once, unchanged, and in order within its invoice")?;
    }
    Ok(())
}

/// The form in which order lines are read.
fn order_form() -> input::InputForm {
    input::InputForm::Csv {
        key_column: Some("InvoiceNo".to_owned()),
        time_column: Some("InvoiceDate".to_owned()),
        value: input::CsvValue::Line,
    }
}
