//! Members that die, come and go.

use std::collections::HashSet;
use std::error::Error;
use std::time::Duration;

use sawlog_benches::load::client::create_topic;
use sawlog_benches::load::groups::{GroupLoad, fill, join, key_of, make_group};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::stats::Samples;
use sawlog_benches::timing::Stopwatch;
use sawlog_client::consumer::Consumer;
use sawlog_client::groups::GroupMode;
use sawlog_client::{AckLevel, Client};
use tokio::sync::oneshot;

use crate::context::Bench;

/// The least that a group may have; a member that is dead is not told from one that is silent any sooner.
pub(super) const SESSION_TIMEOUT_MS: u64 = 2_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// Keys that the dying member has in work.
const IN_WORK: usize = 500;

pub(crate) fn rebalance(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let [mut half, mut last, mut planned] = [const { Samples::new() }; 3];
    for _ in 0..bench.options.rounds {
        let (half_ms, last_ms) = after_death(bench)?;
        half.push(half_ms);
        last.push(last_ms);
        planned.push(planned_move(bench)? as f64);
    }
    let what = "a member's death with 500 keys in work, session timeout 2 s";
    bench.row(Row::shown(format!("{what}: to the next delivery of half of them"), "ms", half))?;
    let row = Row::shown(format!("{what}: of the last of them"), "ms", last);
    bench.row(row.with_target(Target::AtMost(2.0 * SESSION_TIMEOUT_MS as f64)))?;
    let row = Row::shown("records delivered twice by a planned move", "records", planned);
    bench.row(row.with_target(Target::AtMost(0.0)))
}

/// Two members work; one dies with records in work. Milliseconds until the other has had half of their keys, and all.
fn after_death(bench: &mut Bench) -> Result<(f64, f64), Box<dyn Error>> {
    const RECORDS: u64 = 20_000;
    let broker = bench.broker()?;
    let url = broker.server.url();
    let client = bench.client(&url)?;
    let topic = bench.topic_name("death");
    let mut load = GroupLoad::new("death", topic.as_str(), GroupMode::Keyed);
    load.session_timeout_ms = SESSION_TIMEOUT_MS;
    let heir = bench.runtime.block_on(async {
        create_topic(&client, &topic, 1, true, AckLevel::Written).await?;
        make_group(&client, &load).await?;
        join(&client, "death").await
    })?;
    // The member that dies has a runtime of its own: dropped, nothing of it goes on.
    let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let own = {
        let _guard = dying.enter();
        Client::builder(&url).connect_lazy()?
    };
    let member = dying.block_on(join(&own, "death"))?;
    bench.runtime.block_on(fill(&client, &topic, RECORDS, 100, RECORDS))?;
    let (died, death) = oneshot::channel();
    let working = std::thread::spawn(move || {
        let held = dying.block_on(work_and_hold(member, RECORDS / 4));
        dying.shutdown_background();
        let _ = died.send((held, Stopwatch::start()));
    });
    let times = bench.runtime.block_on(inherit(heir, death))?;
    working.join().map_err(|_| "the dying member panicked")?;
    Ok(times)
}

/// Works for a while, as the other does: one crash is no reason for the breaker. Then takes keys and is forgotten, with
/// neither verdicts nor a leave; the keys that it had in work.
async fn work_and_hold(mut member: Consumer, acks: u64) -> Result<HashSet<u64>, sawlog_client::Error> {
    let mut acked = 0;
    let (mut held, mut kept) = (HashSet::new(), Vec::new());
    while held.len() < IN_WORK {
        let Some(delivery) = member.next_delivery().await else { break };
        let delivery = delivery?;
        acked += 1;
        if acked < acks {
            delivery.ack_later();
        } else if acked == acks {
            // With its answer all before it have reached the broker.
            delivery.ack().await?;
        } else {
            held.insert(key_of(&delivery));
            kept.push(delivery);
        }
    }
    std::mem::forget((member, kept));
    Ok(held)
}

type Death = oneshot::Receiver<(Result<HashSet<u64>, sawlog_client::Error>, Stopwatch)>;

/// Works until every key that the dead member had in work has come; milliseconds from the death to half of them, and all.
async fn inherit(mut heir: Consumer, death: Death) -> Result<(f64, f64), Box<dyn Error>> {
    let mut death = std::pin::pin!(death);
    let (mut missing, mut clock, mut half) = (None::<HashSet<u64>>, Stopwatch::start(), None);
    loop {
        let next = tokio::select! {
            biased;
            dead = &mut death, if missing.is_none() => {
                let (held, at) = dead?;
                (missing, clock) = (Some(held?), at);
                continue;
            }
            next = tokio::time::timeout(PATIENCE, heir.next_delivery()) => next?,
        };
        let Some(delivery) = next else { return Err("the heir's session ended".into()) };
        let delivery = delivery?;
        let key = key_of(&delivery);
        delivery.ack_later();
        let Some(missing) = &mut missing else { continue };
        if missing.remove(&key) && missing.len() <= IN_WORK / 2 {
            half.get_or_insert_with(|| clock.seconds() * 1e3);
        }
        if missing.is_empty() {
            break;
        }
    }
    let last = clock.seconds() * 1e3;
    heir.shutdown(PATIENCE).await?;
    Ok((half.unwrap_or(last), last))
}

/// A second member joins while the first works; returns how many records came twice.
fn planned_move(bench: &mut Bench) -> Result<u64, Box<dyn Error>> {
    const RECORDS: u64 = 100_000;
    let broker = bench.broker()?;
    let client = bench.client(&broker.server.url())?;
    let topic = bench.topic_name("move");
    bench.runtime.block_on(async {
        create_topic(&client, &topic, 2, true, AckLevel::Written).await?;
        fill(&client, &topic, RECORDS, 100, 1_000).await?;
        make_group(&client, &GroupLoad::new("move", topic.as_str(), GroupMode::Keyed)).await?;
        let (mut seen, mut twice, mut of_second) = (HashSet::new(), 0, 0_u64);
        let mut first = join(&client, "move").await?;
        let mut second = None;
        while (seen.len() as u64) < RECORDS {
            if seen.len() as u64 == RECORDS / 4 && second.is_none() {
                second = Some(join(&client, "move").await?);
            }
            let next = async {
                match &mut second {
                    Some(second) => tokio::select! {
                        delivery = first.next_delivery() => (delivery, 0),
                        delivery = second.next_delivery() => (delivery, 1),
                    },
                    None => (first.next_delivery().await, 0),
                }
            };
            let (delivery, second) = tokio::time::timeout(PATIENCE, next).await?;
            let Some(delivery) = delivery else { return Err("a session ended".into()) };
            let delivery = delivery?;
            of_second += second;
            twice += u64::from(!seen.insert((delivery.partition(), delivery.offset)));
            delivery.ack_later();
        }
        first.shutdown(PATIENCE).await?;
        if let Some(second) = second {
            second.shutdown(PATIENCE).await?;
        }
        if of_second == 0 { Err("nothing moved".into()) } else { Ok(twice) }
    })
}
