//! `consume -g`: takes part in a group, prints what it gets, and acks what it has printed.

use std::time::Duration;

use sawlog_client::consumer::{Consumer, ConsumerEvent};
use sawlog_client::{Client, ConsumedRecord, Delivery, GroupConfig, GroupMode};

use super::{Consume, gap, next_or_idle, write_record};
use crate::client::failed;
use crate::failure::{Failure, Outcome};
use crate::format::{Format, RecordView};
use crate::output::{self, DataStream};

/// Records that are printed before they are acked at the latest.
const UNACKED: usize = 500;
/// How long leaving may take.
const LEAVE: Duration = Duration::from_secs(10);

/// Prints what the group gets until the count is reached, the member is told to stop, or for ever.
pub(super) async fn run(arguments: &Consume, group: &str, client: &Client, format: Option<&Format>) -> Outcome {
    let plain = arguments.from.is_none()
        && arguments.to.is_none()
        && arguments.partition.is_empty()
        && arguments.filter.is_empty()
        && arguments.rate == 0;
    if !plain {
        let what = "a group has its own positions: --from, --to, --partition, --filter and --rate do not go with -g";
        return Err(Failure::usage(what, "move a group with `sawlog group reset`"));
    }
    let mut builder = client.consumer(group).client_id("sawlog consume");
    if let Some(count) = arguments.count {
        // No more than will be printed, so that other members get the rest at once.
        builder = builder.credit(count.clamp(1, 1024), 16 << 20);
    }
    if let Some(mode) = arguments.mode {
        builder = builder.mode(mode.into());
    }
    if let Some(member) = &arguments.member {
        builder = builder.instance_id(member);
    }
    if let Some(topic) = &arguments.topic {
        builder = builder.topics([topic]).create_if_missing(GroupConfig::default());
    }
    let mut consumer = builder.open().await.map_err(failed)?;
    let printed = tokio::select! {
        printed = print(&mut consumer, arguments.count, format) => printed,
        // What is printed is acked before the member leaves.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    consumer.shutdown(LEAVE).await.map_err(failed)?;
    printed
}

async fn print(consumer: &mut Consumer, count: Option<u64>, format: Option<&Format>) -> Outcome {
    let mut out = DataStream::new();
    let mut line = Vec::new();
    let mut unacked = Vec::new();
    let mut printed = 0;
    let mode = consumer.group().mode();
    while count.is_none_or(|count| printed < count) {
        if unacked.len() >= UNACKED {
            settle(&mut out, &mut unacked, mode).await?;
        }
        let idle = async || settle(&mut out, &mut unacked, mode).await;
        match next_or_idle(consumer, idle).await? {
            None => break,
            Some(Err(error)) => {
                out.flush()?;
                return Err(failed(error));
            }
            Some(Ok(ConsumerEvent::Delivery(delivery))) => {
                line.clear();
                write(&delivery, format, &mut line);
                out.write(&line)?;
                printed += 1;
                unacked.push(delivery);
            }
            Some(Ok(event)) => tell(&event),
        }
    }
    settle(&mut out, &mut unacked, mode).await
}

/// Flushes what is printed, and acks or commits it.
async fn settle(out: &mut DataStream, unacked: &mut Vec<Delivery>, mode: GroupMode) -> Outcome {
    out.flush()?;
    if mode != GroupMode::Offset {
        unacked.drain(..).for_each(Delivery::ack_later);
        return Ok(());
    }
    // The last one of each partition commits for those before it.
    let mut last: Vec<Delivery> = Vec::new();
    for delivery in unacked.drain(..) {
        if delivery.entry().is_some() {
            delivery.ack_later();
            continue;
        }
        match last.iter_mut().find(|known| known.source() == delivery.source()) {
            Some(known) => *known = delivery,
            None => last.push(delivery),
        }
    }
    for delivery in last {
        delivery.commit().await.map_err(failed)?;
    }
    Ok(())
}

fn write(record: &ConsumedRecord, format: Option<&Format>, line: &mut Vec<u8>) {
    let view = RecordView {
        topic: record.topic(),
        partition: record.partition(),
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

fn tell(event: &ConsumerEvent) {
    match event {
        ConsumerEvent::Gap { source, from, to, reason, stopped, .. } => {
            output::talk(&format!(
                "{}/{}: offsets {from} to {to} are missing: {}",
                source.topic,
                source.partition,
                gap(*reason)
            ));
            if *stopped {
                output::talk("the partition waits; `sawlog group accept-gap GROUP` goes on without them");
            }
        }
        ConsumerEvent::Paused { reason, topic, note, .. } => {
            let of = topic.as_ref().map(|topic| format!(" of {topic}")).unwrap_or_default();
            let why = reason.map_or("unknown", |reason| reason.as_str());
            output::talk(&format!("deliveries{of} pause: {why} {note}"));
        }
        ConsumerEvent::Resumed { topic, .. } => {
            let of = topic.as_ref().map(|topic| format!(" of {topic}")).unwrap_or_default();
            output::talk(&format!("deliveries{of} go on"));
        }
        ConsumerEvent::ReplayDone { replay_id, source, cancelled } => {
            let of = source.as_ref().map(|source| format!("{}/{} of ", source.topic, source.partition));
            let how = if *cancelled { "was cancelled" } else { "is done" };
            output::talk(&format!("{}replay {replay_id} {how}", of.unwrap_or_default()));
        }
        ConsumerEvent::Delivery(_)
        | ConsumerEvent::Assigned(_)
        | ConsumerEvent::Revoked(_)
        | ConsumerEvent::CaughtUp { .. }
        | ConsumerEvent::FellBehind { .. } => {}
    }
}
