//! `bench`: how fast a broker is, seen from a client: rates, percentiles, and the broker's own CPU time.
//!
//! Invariant: a figure is printed only if every record it counts was acknowledged or read.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use sawlog_client::{AckLevel, Client, NewTopic, TopicConfig};

use crate::amounts;
use crate::arguments::Common;
use crate::client::{self, failed};
use crate::clock;
use crate::commands::produce::Compression;
use crate::commands::topic::AckChoice;
use crate::failure::{Exit, Failure, Outcome};

mod metrics;
mod report;
mod work;

use report::{Report, Settings};

/// Measure a running broker from here: rates, percentiles of latency, the broker's CPU time.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Produce records as fast as they are taken, or at a rate.
    #[command(after_help = "Examples:\n  sawlog bench produce --records 1000000 --size 100 --ack written\n  \
                            sawlog bench produce --rate 5000 --size 256 --output json")]
    Produce(Load),
    /// Read a topic from its start; without --topic it is filled first.
    #[command(after_help = "Examples:\n  sawlog bench consume --records 1000000\n  \
                            sawlog bench consume --topic orders --report consume.json")]
    Consume(Load),
    /// Produce at a rate and follow the topic: from the moment a record is due until it is read.
    #[command(after_help = "Examples:\n  sawlog bench e2e --rate 5000 --size 256 --records 50000\n  \
                            sawlog bench e2e --ack written --output json")]
    E2e(Load),
}

/// What is done.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// An existing topic; default: a new one, deleted at the end.
    #[arg(long)]
    topic: Option<String>,
    /// Records in all.
    #[arg(short = 'n', long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    records: u64,
    /// Bytes of a record's payload, at least 16.
    #[arg(short, long, default_value = "100", value_parser = payload_size)]
    size: usize,
    /// Partitions of the new topic.
    #[arg(short, long, default_value_t = 1)]
    partitions: u32,
    /// Records a second; 0: as fast as they are taken (e2e: 5000).
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// How safe a record is when it counts as produced.
    #[arg(long, value_enum, default_value = "durable")]
    ack: AckChoice,
    /// Compression of batches.
    #[arg(long, value_enum, default_value_t)]
    compression: Compression,
    /// Bytes at which a batch is full.
    #[arg(long, default_value = "128KiB", value_parser = amounts::size)]
    batch_bytes: u64,
    /// How long a record may wait for others of its batch.
    #[arg(long, default_value = "1ms", value_parser = amounts::span)]
    linger: Duration,
    /// Where to write the report as JSON too.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn payload_size(text: &str) -> Result<usize, String> {
    let bytes = usize::try_from(amounts::size(text)?).map_err(|_| "too large".to_owned())?;
    if (16..=4 << 20).contains(&bytes) { Ok(bytes) } else { Err("expected 16 bytes to 4MiB".to_owned()) }
}

impl Bench {
    pub(crate) fn run(self, common: &Common) -> Outcome {
        client::run(common, async |client| {
            let (name, load) = match &self.verb {
                Verb::Produce(load) => ("produce", load),
                Verb::Consume(load) => ("consume", load),
                Verb::E2e(load) => ("e2e", load),
            };
            let mut load = load.clone();
            if name == "e2e" && load.rate == 0 {
                load.rate = 5_000;
            }
            let topic = Target::prepare(&client, &load).await?;
            let report = measure(name, &client, &topic.name, &load, common).await;
            topic.clean_up(&client).await?;
            let report = report?;
            if let Some(file) = &load.report {
                let text = crate::output::to_json(&report) + "\n";
                std::fs::write(file, text).map_err(|error| Failure::file("write", file, &error))?;
            }
            report.print(common)
        })
    }
}

async fn measure(name: &str, client: &Client, topic: &str, load: &Load, common: &Common) -> Outcome<Report> {
    if name == "consume" && load.topic.is_none() {
        work::produce(client, topic, load).await?;
    }
    let cpu_before = metrics::cpu_seconds(&common.url);
    let measured = match name {
        "produce" => work::produce(client, topic, load).await?,
        "consume" => work::consume(client, topic).await?,
        _ => work::end_to_end(client, topic, load).await?,
    };
    let cpu_after = metrics::cpu_seconds(&common.url);
    if measured.records == 0 {
        return Err(Failure::new(
            Exit::Failure,
            format!("topic {topic} has no records"),
            "fill it, or leave --topic away",
        ));
    }
    let server_cpu_seconds = cpu_before.zip(cpu_after).map(|(before, after)| after - before);
    let settings = Settings {
        partitions: load.partitions,
        size_bytes: load.size,
        rate_per_second: load.rate,
        ack: AckLevel::from(load.ack).to_string(),
        compression: format!("{:?}", load.compression).to_lowercase(),
        batch_bytes: load.batch_bytes,
        linger_us: u64::try_from(load.linger.as_micros()).unwrap_or(u64::MAX),
    };
    Ok(Report::new(name, &common.url, topic, &measured, server_cpu_seconds, settings))
}

/// The topic that is measured.
struct Target {
    name: String,
    ours: bool,
}

impl Target {
    async fn prepare(client: &Client, load: &Load) -> Outcome<Self> {
        if let Some(name) = &load.topic {
            client.admin().get_topic(name).await.map_err(failed)?;
            return Ok(Self { name: name.clone(), ours: false });
        }
        let name = format!("bench-{}-{}", clock::wall_ms(), std::process::id());
        let config = TopicConfig {
            partitions: Some(load.partitions),
            keyed: Some(false),
            ack_floor: Some(AckLevel::from(load.ack)),
            max_record_bytes: Some(4 << 20),
            ..TopicConfig::default()
        };
        client.admin().create_topic(NewTopic::new(&name).config(config)).await.map_err(failed)?;
        Ok(Self { name, ours: true })
    }

    async fn clean_up(&self, client: &Client) -> Outcome {
        if self.ours {
            client.admin().delete_topic(&self.name, false).await.map_err(failed)?;
        }
        Ok(())
    }
}
