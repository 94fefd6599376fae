//! `demo`: the main job on real order lines, from produce to a rebuilt read model, each step checked.
//!
//! It runs a broker of its own on a fresh folder and talks to it through the public API alone. Invariant: it succeeds
//! only if every invoice was dispatched in order, the dead letters are those that a sequential computation says, and the
//! read model equals that computation, before and after it was rebuilt.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;
use sawlog_client::{Client, NewTopic, Record, RecordPosition};

use crate::arguments::Common;
use crate::broker;
use crate::client::{self, failed};
use crate::clock::Stopwatch;
use crate::commands::dev::ephemeral_folder;
use crate::config::{FlagValue, Settings};
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

mod dispatch;
mod journal;
mod letters;
mod orders;
mod report;
mod revenue;
mod sales;
pub(crate) mod worker;

use dispatch::Workers;
use journal::Journal;
use letters::Letters;
use orders::OrderLine;
use report::Report;
use revenue::Revenue;
use sales::Expected;

/// Name of the topic.
const TOPIC: &str = "order-lines";
/// Its partitions.
const PARTITIONS: u32 = 4;

/// Run the main job on real order lines: dispatch them in order with workers that die and lines that fail, keep a read
/// model right, rebuild it; every step is checked.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sawlog demo\n  sawlog demo --file online-retail.csv --keep")]
pub(crate) struct Demo {
    /// Order lines as CSV; default: those of one day, shipped inside.
    #[arg(long, value_name = "CSV")]
    file: Option<PathBuf>,
    /// Leave the broker running at the end, to look around; Ctrl-C stops it. The data folder is kept.
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(crate) fn run(self, common: &Common) -> Outcome {
        let lines = orders::read(self.file.as_deref())?;
        let folder = ephemeral_folder()?;
        let settings = settings(folder.path())?;
        let started = Stopwatch::start();
        let broker = broker::start(settings.to_config()?, &settings)?;
        let url = format!("http://{}", broker.local_addr());
        let mut report = Report::new(common.json());
        report.step("start a broker", None, started.elapsed());
        let runtime = client::runtime()?;
        let done = runtime.block_on(async {
            let client = client::connect(&url, common.timeout)?;
            Job { client, url: url.clone(), folder: folder.path(), lines: &lines }.run(&mut report).await
        });
        let printed = done.and_then(|()| report.print());
        if self.keep && printed.is_ok() {
            output::talk(&look_around(&url, folder.path()));
            runtime.block_on(interrupted())?;
        }
        drop(runtime);
        let clean = broker.shutdown();
        if self.keep {
            output::talk(&format!("the data is kept in {}", folder.keep().display()));
        }
        printed?;
        if clean {
            return Ok(());
        }
        Err(Failure::new(Exit::Failure, "the broker did not stop cleanly", "report this with the log lines above"))
    }
}

fn settings(folder: &Path) -> Outcome<Settings> {
    let flags = [
        FlagValue::new("listen", "127.0.0.1:0", "demo"),
        FlagValue::new("storage.data_dir", folder.join("broker").display().to_string(), "demo"),
    ];
    Settings::load(None, std::iter::empty(), &flags)
}

fn look_around(url: &str, folder: &Path) -> String {
    format!(
        "the broker goes on at {url}; Ctrl-C stops it. Look around:
  sawlog topic show {TOPIC} --url {url}
  sawlog group lag dispatch --url {url}
  sawlog dlq list dispatch --state discarded --url {url}
  sawlog consume {TOPIC} -n 3 --url {url}
  ls {}",
        folder.display()
    )
}

async fn interrupted() -> Outcome {
    tokio::signal::ctrl_c().await.map_err(|error| {
        Failure::new(Exit::Failure, format!("cannot listen for Ctrl-C: {error}"), "run it without --keep")
    })
}

/// The job under way.
struct Job<'a> {
    client: Client,
    url: String,
    folder: &'a Path,
    lines: &'a [OrderLine],
}

impl Job<'_> {
    async fn run(&self, report: &mut Report) -> Outcome {
        let expected = Expected::of(self.lines);
        let topic = NewTopic::new(TOPIC).partitions(PARTITIONS).keyed(true);
        self.client.admin().create_topic(topic).await.map_err(failed)?;
        dispatch::create(&self.client).await?;
        let model = self.folder.join("revenue.db");
        let revenue = Revenue::start(&self.client, &model).await?;
        let places = self.produce(report).await?;
        self.dispatch(&expected, &places, report).await?;
        self.revenue(revenue, &model, &expected, &places, report).await
    }

    async fn produce(&self, report: &mut Report) -> Outcome<Vec<RecordPosition>> {
        let producing = Stopwatch::start();
        let producer = self.client.producer(TOPIC).build().await.map_err(failed)?;
        let mut receipts = Vec::with_capacity(self.lines.len());
        for line in self.lines {
            let record = Record::keyed(line.invoice.clone(), line.text.clone()).timestamp_ms(line.time_ms);
            receipts.push(producer.send(record).await.map_err(failed)?);
        }
        producer.flush().await.map_err(failed)?;
        let mut places = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            places.push(receipt.await.map_err(failed)?);
        }
        producer.close().await.map_err(failed)?;
        report.step("produce, durable, keyed by invoice", Some(self.lines.len()), producing.elapsed());
        Ok(places)
    }

    /// The group at work: dispatched in order, one worker killed; then what failed is given up, mended and redriven.
    async fn dispatch(&self, expected: &Expected, places: &[RecordPosition], report: &mut Report) -> Outcome {
        let working = Stopwatch::start();
        report.say(&format!(
            "{} workers dispatch, each invoice in order; a line that is no sale is tried {} times, after {} and {} ms",
            dispatch::WORKERS,
            dispatch::TRIES,
            dispatch::DELAYS_MS[0],
            dispatch::DELAYS_MS[1],
        ));
        let mut workers = Workers::start(&self.url, &self.folder.join("dispatch.log"))?;
        let dispatched = workers.kill_one_after(self.lines.len() / 4).await?;
        report.say(&format!("worker-1 was killed (SIGKILL) with {dispatched} lines dispatched, and started again"));
        let dead = dispatch::await_decided(&self.client, dispatch::GROUP, places).await?;
        report.step("dispatch, every line acked", Some(places.len() - dead), working.elapsed());

        let letters = Letters::of(&self.client, dispatch::GROUP).await?;
        report.letters(dispatch::GROUP, expected, letters.counts())?;
        let mending = Stopwatch::start();
        let (given_up, mended) = letters.mend(&sales::price_list(self.lines)).await?;
        let resolved = letters.redrive(report.is_told()).await?;
        report.say(&format!("{} discarded, {mended} mended with the price list, {resolved} redriven", given_up.len()));
        report.step("mend and redrive", Some(letters.counts().all()), mending.elapsed());
        dispatch::await_decided(&self.client, dispatch::GROUP, places).await?;
        let journal = Journal::read(&workers.read()?);
        workers.leave().await?;
        let all: HashSet<_> = places.iter().map(|place| (place.partition, place.offset)).collect();
        report.dispatched(&journal, &journal.faults(&all, &given_up))
    }

    /// The read model: right before and after its dead letters, and the same once it was deleted and rebuilt.
    async fn revenue(
        &self,
        mut revenue: Revenue,
        model: &Path,
        expected: &Expected,
        places: &[RecordPosition],
        report: &mut Report,
    ) -> Outcome {
        dispatch::await_decided(&self.client, revenue::GROUP, places).await?;
        let letters = Letters::of(&self.client, revenue::GROUP).await?;
        report.letters(revenue::GROUP, expected, letters.counts())?;
        let mending = Stopwatch::start();
        let given_up = letters.discard_no_sales().await?;
        let resolved = letters.redrive(report.is_told()).await?;
        report.say(&format!("{} discarded, {resolved} redriven", given_up.len()));
        report.step("revenue: discard and redrive", Some(letters.counts().all()), mending.elapsed());
        revenue.follow(self.lines.len(), false).await?;
        let lag_seconds = revenue.freshness_seconds();
        let kept = revenue.end().await?;
        kept.compare(expected)?;
        report.say("the read model equals a sequential computation; now it is deleted and rebuilt from offset 0");

        revenue::delete(model)?;
        let rebuilding = Stopwatch::start();
        let mut revenue = Revenue::start(&self.client, model).await?;
        revenue.follow(self.lines.len(), report.is_told()).await?;
        report.step("revenue: rebuild from offset 0", Some(self.lines.len()), rebuilding.elapsed());
        let rebuilt = revenue.end().await?;
        rebuilt.compare_with(&kept)?;
        let open = Letters::of(&self.client, revenue::GROUP).await?.counts().all();
        report.revenue(&rebuilt, lag_seconds, open)
    }
}
