//! What it costs that repeats of event ids are found out: the same records with a window and without.

use std::error::Error;

use sawlog_benches::load::payload;
use sawlog_benches::report::Row;
use sawlog_benches::stats::Samples;
use sawlog_benches::timing::Stopwatch;
use sawlog_client::producer::RecordRef;
use sawlog_client::types::Header;
use sawlog_client::{AckLevel, Client, NewTopic};

use super::context::Bench;

const RECORDS: u64 = 500_000;
const RECORD_BYTES: usize = 100;
const PARTITIONS: u32 = 4;
/// Milliseconds for which repeats are found out.
const WINDOW_MS: i64 = 3_600_000;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let [mut without, mut with, mut repeats, mut memory] = [const { Samples::new() }; 4];
    for round in 0..bench.options.rounds {
        for window in if round % 2 == 0 { [0, WINDOW_MS] } else { [WINDOW_MS, 0] } {
            // A broker of its own each time: what ids take of its memory shows.
            let broker = bench.broker()?;
            let client = bench.client(&broker.server.url())?;
            let topic = bench.topic_name("events");
            let (first, again) = bench.runtime.block_on(async {
                let mut new = NewTopic::new(topic.as_str()).partitions(PARTITIONS).keyed(false);
                new.config.ack_floor = Some(AckLevel::Written);
                new.config.dedup_window_ms = Some(window);
                client.admin().create_topic(new).await?;
                let first = produce(&client, &topic).await?;
                let again = if window == 0 { f64::NAN } else { produce(&client, &topic).await? };
                Ok::<_, sawlog_client::Error>((first, again))
            })?;
            let rss = broker.server.resident_mib()?;
            if window == 0 {
                without.push(first);
                memory.push(-rss);
            } else {
                with.push(first);
                repeats.push(again);
                memory.push(rss);
            }
        }
    }
    let row = Row::shown("produce 100 B with event ids, written, repeats found out", "records/s", with.clone());
    bench.row(row.beside("not found out", &without))?;
    let row = Row::shown("the same, all of them repeats", "records/s", repeats);
    bench.row(row.beside("the first time", &with))?;
    let pairs =
        memory.values().chunks(2).map(|pair| pair.iter().sum::<f64>().abs() * f64::from(1 << 20) / RECORDS as f64);
    bench.row(Row::shown("memory of an event id", "B", pairs.collect()))
}

/// Writes the same events each time it is called; records a second.
async fn produce(client: &Client, topic: &str) -> Result<f64, sawlog_client::Error> {
    let producer = client.producer(topic).build().await?;
    let value = payload(RECORD_BYTES);
    let clock = Stopwatch::start();
    for id in 0..RECORDS {
        let headers = [Header { key: "event_id".to_owned(), value: format!("order-{id:012}").into() }];
        drop(producer.send_ref(RecordRef { value: Some(&value), headers: &headers, ..RecordRef::default() }).await?);
    }
    producer.close().await?;
    Ok(RECORDS as f64 / clock.seconds())
}
