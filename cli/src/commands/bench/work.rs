//! The loads: produce, consume, end to end.

use std::time::Duration;

use hdrhistogram::Histogram;
use sawlog_client::producer::RecordRef;
use sawlog_client::reader::BatchEvent;
use sawlog_client::{AckLevel, Client, Producer, ReaderFrom, ReaderTo, Receipt};
use tokio::sync::mpsc;

use super::Load;
use super::report::Measured;
use crate::client::failed;
use crate::clock::Stopwatch;
use crate::failure::{Exit, Failure, Outcome};

/// Of a load without a rate, one record in so many is timed.
const SAMPLE_EVERY: u64 = 64;
/// Timed records that may wait for their answers.
const SAMPLES_WAITING: usize = 64 << 10;
/// Pause between two looks at what is due.
const TICK: Duration = Duration::from_millis(1);

async fn producer(client: &Client, topic: &str, load: &Load) -> Outcome<Producer> {
    let producer = client
        .producer(topic)
        .ack(AckLevel::from(load.ack))
        .compression(load.compression.into())
        .batch_bytes(usize::try_from(load.batch_bytes).unwrap_or(usize::MAX))
        .linger(load.linger);
    producer.build().await.map_err(failed)
}

/// Latencies up to ten minutes with three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are fixed and right")
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// When a record is due: at once, or at the rate.
fn due(number: u64, rate: u64) -> Duration {
    number.saturating_mul(1_000_000_000).checked_div(rate).map_or(Duration::ZERO, Duration::from_nanos)
}

/// Waits until a record is due.
async fn until_due(number: u64, rate: u64, since: Stopwatch) {
    while rate > 0 && since.elapsed() < due(number, rate) {
        tokio::time::sleep(TICK).await;
    }
}

/// Produces, and times from the moment a record is due (without a rate: given to the producer) until its answer.
pub(super) async fn produce(client: &Client, topic: &str, load: &Load) -> Outcome<Measured> {
    let producer = producer(client, topic, load).await?;
    let payload = vec![b'x'; load.size];
    let (samples, mut waiting) = mpsc::channel::<(Duration, Receipt)>(SAMPLES_WAITING);
    let since = Stopwatch::start();
    let timed = tokio::spawn(async move {
        let mut latency = histogram();
        while let Some((begun, receipt)) = waiting.recv().await {
            if receipt.await.is_ok() {
                latency.saturating_record(microseconds(since.elapsed().saturating_sub(begun)));
            }
        }
        latency
    });
    for number in 0..load.records {
        until_due(number, load.rate, since).await;
        let record = RecordRef { value: Some(&payload), ..RecordRef::default() };
        let sampled = load.rate > 0 || number % SAMPLE_EVERY == 0;
        let begun = if load.rate > 0 {
            due(number, load.rate)
        } else if sampled {
            since.elapsed()
        } else {
            Duration::ZERO
        };
        let receipt = producer.send_ref(record).await.map_err(failed)?;
        if sampled {
            // A full channel costs a sample, never a pause.
            let _ = samples.try_send((begun, receipt));
        }
    }
    producer.flush().await.map_err(failed)?;
    let time = since.elapsed();
    drop(samples);
    let latency = timed.await.map_err(|panic| Failure::new(Exit::Failure, panic.to_string(), "report this"))?;
    Ok(Measured { records: load.records, bytes: load.records * load.size as u64, time, latency_us: Some(latency) })
}

/// Reads all that is there.
pub(super) async fn consume(client: &Client, topic: &str) -> Outcome<Measured> {
    let since = Stopwatch::start();
    let mut reader = client.reader(topic).from(ReaderFrom::Earliest).open().await.map_err(failed)?;
    let (mut records, mut bytes) = (0, 0);
    while let Some(event) = reader.next_batch().await {
        if let BatchEvent::Batch(batch) = event.map_err(failed)? {
            let unpacked = batch.for_each(|record| bytes += record.value.map_or(0, |value| value.len() as u64));
            records += unpacked.map_err(failed)? as u64;
        }
    }
    Ok(Measured { records, bytes, time: since.elapsed(), latency_us: None })
}

/// Produces at a rate and follows; each payload begins with the time at which it was due.
pub(super) async fn end_to_end(client: &Client, topic: &str, load: &Load) -> Outcome<Measured> {
    let reader = client.reader(topic).from(ReaderFrom::Latest).follow(true).to(ReaderTo::Count(load.records));
    let mut reader = reader.open().await.map_err(failed)?;
    let producer = producer(client, topic, load).await?;
    let since = Stopwatch::start();
    let total = load.records;
    let reading = tokio::spawn(async move {
        let mut latency = histogram();
        let mut records = 0;
        while records < total {
            let Some(event) = reader.next_batch().await else { break };
            if let BatchEvent::Batch(batch) = event? {
                let now = since.elapsed();
                records += batch.for_each(|record| {
                    if let Some(due) = record.value.and_then(due_of) {
                        latency.saturating_record(microseconds(now.saturating_sub(due)));
                    }
                })? as u64;
            }
        }
        Ok::<_, sawlog_client::Error>((records, latency))
    });
    let mut payload = vec![b'x'; load.size];
    for number in 0..load.records {
        until_due(number, load.rate, since).await;
        let due_ns = u64::try_from(due(number, load.rate).as_nanos()).unwrap_or(u64::MAX);
        payload[..8].copy_from_slice(&due_ns.to_be_bytes());
        let record = RecordRef { value: Some(&payload), ..RecordRef::default() };
        // Dropping a receipt changes nothing; the flush below tells every failure.
        drop(producer.send_ref(record).await.map_err(failed)?);
    }
    producer.flush().await.map_err(failed)?;
    let read = reading.await.map_err(|panic| Failure::new(Exit::Failure, panic.to_string(), "report this"))?;
    let (records, latency) = read.map_err(failed)?;
    Ok(Measured { records, bytes: records * load.size as u64, time: since.elapsed(), latency_us: Some(latency) })
}

fn due_of(payload: &[u8]) -> Option<Duration> {
    Some(Duration::from_nanos(u64::from_be_bytes(payload.get(..8)?.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_due_at_the_rate() {
        assert_eq!(due(5_000, 5_000), Duration::from_secs(1));
        assert_eq!(due(7, 0), Duration::ZERO);
        assert_eq!(due_of(&[0, 0, 0, 0, 0, 0, 0, 9, 1]), Some(Duration::from_nanos(9)));
        assert_eq!(due_of(b"short"), None);
    }
}
