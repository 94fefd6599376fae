//! Members that die, come and go; many groups; many members.

use std::collections::HashSet;
use std::error::Error;
use std::time::Duration;

use sawlog_benches::load::client::create_topic;
use sawlog_benches::load::groups::{GroupLoad, consume_acked, fill, join, key_of, make_group};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::stats::Samples;
use sawlog_benches::timing::Stopwatch;
use sawlog_client::groups::GroupMode;
use sawlog_client::{AckLevel, Client};

use crate::context::Bench;

/// The least that a group may have; a member that is dead is not told from one that is silent any sooner.
const SESSION_TIMEOUT_MS: u64 = 2_000;
const PATIENCE: Duration = Duration::from_secs(120);
/// Streams that one connection carries in these sections, below the broker's limit of 256.
const STREAMS_PER_CLIENT: usize = 200;

pub(crate) fn rebalance(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let [mut death, mut planned] = [const { Samples::new() }; 2];
    for _ in 0..bench.options.rounds {
        death.push(after_death(bench)?);
        planned.push(planned_move(bench)? as f64);
    }
    let row = Row::shown("a member's death to the next delivery of its last key, session timeout 2 s", "ms", death);
    bench.row(row.with_target(Target::AtMost(2.0 * SESSION_TIMEOUT_MS as f64)))?;
    let row = Row::shown("records delivered twice by a planned move", "records", planned);
    bench.row(row.with_target(Target::AtMost(0.0)))
}

/// A member dies with records in work; returns the milliseconds until another has had each of their keys.
fn after_death(bench: &mut Bench) -> Result<f64, Box<dyn Error>> {
    let broker = bench.broker()?;
    let url = broker.server.url();
    let client = bench.client(&url)?;
    let topic = bench.topic_name("death");
    let mut load = GroupLoad::new("death", topic.as_str(), GroupMode::Keyed);
    load.session_timeout_ms = SESSION_TIMEOUT_MS;
    // The member that dies has a runtime of its own: dropped, nothing of it goes on.
    let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let held = {
        let _guard = dying.enter();
        let own = Client::builder(&url).connect_lazy()?;
        dying.block_on(async {
            create_topic(&client, &topic, 1, true, AckLevel::Written).await?;
            fill(&client, &topic, 1_000, 100, 1_000).await?;
            make_group(&client, &load).await?;
            let mut member = join(&own, "death").await?;
            let mut held = HashSet::new();
            let mut kept = Vec::new();
            while held.len() < 500 {
                let Some(delivery) = member.next_delivery().await else { break };
                let delivery = delivery?;
                held.insert(key_of(&delivery));
                kept.push(delivery);
            }
            // Neither verdicts nor a leave: they go with the process.
            std::mem::forget((member, kept));
            Ok::<_, sawlog_client::Error>(held)
        })?
    };
    dying.shutdown_background();
    let clock = Stopwatch::start();
    bench.runtime.block_on(async {
        let mut heir = join(&client, "death").await?;
        let mut missing = held;
        while !missing.is_empty() {
            let next = tokio::time::timeout(PATIENCE, heir.next_delivery()).await?;
            let Some(delivery) = next else { break };
            let delivery = delivery?;
            missing.remove(&key_of(&delivery));
            delivery.ack_later();
        }
        let milliseconds = clock.seconds() * 1e3;
        heir.shutdown(PATIENCE).await?;
        Ok::<_, Box<dyn Error>>(milliseconds)
    })
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
        let (mut seen, mut twice) = (HashSet::new(), 0);
        let mut first = join(&client, "move").await?;
        let mut second = None;
        while (seen.len() as u64) < RECORDS {
            if seen.len() as u64 == RECORDS / 4 && second.is_none() {
                second = Some(join(&client, "move").await?);
            }
            let next = async {
                match &mut second {
                    Some(second) => tokio::select! {
                        delivery = first.next_delivery() => delivery,
                        delivery = second.next_delivery() => delivery,
                    },
                    None => first.next_delivery().await,
                }
            };
            let Some(delivery) = tokio::time::timeout(PATIENCE, next).await? else { break };
            let delivery = delivery?;
            twice += u64::from(!seen.insert((delivery.partition(), delivery.offset)));
            delivery.ack_later();
        }
        first.shutdown(PATIENCE).await?;
        if let Some(second) = second {
            second.shutdown(PATIENCE).await?;
        }
        Ok(twice)
    })
}

pub(crate) fn many(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    many_groups(bench, 1_000)?;
    many_members(bench, 1_000, 100)
}

/// Many groups on one topic: each receives every record.
fn many_groups(bench: &mut Bench, groups: usize) -> Result<(), Box<dyn Error>> {
    const RECORDS: u64 = 1_000;
    let broker = bench.broker()?;
    let url = broker.server.url();
    let client = bench.client(&url)?;
    let topic = bench.topic_name("many");
    let clients = clients(bench, &url, groups)?;
    let clock = Stopwatch::start();
    bench.runtime.block_on(async {
        create_topic(&client, &topic, 4, true, AckLevel::Written).await?;
        fill(&client, &topic, RECORDS, 100, 100).await?;
        let mut members = tokio::task::JoinSet::new();
        for group in 0..groups {
            let load = GroupLoad::new(format!("group-{group}"), topic.as_str(), GroupMode::Keyed);
            let client = clients[group / STREAMS_PER_CLIENT].clone();
            members.spawn(async move {
                make_group(&client, &load).await?;
                consume_acked(&client, &load.group, RECORDS, 0).await
            });
        }
        while let Some(done) = tokio::time::timeout(PATIENCE, members.join_next()).await? {
            assert_eq!(done??.records, RECORDS);
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    let mut seconds = Samples::new();
    seconds.push(clock.seconds());
    bench.row(Row::shown(format!("{groups} groups made, joined, 1,000 records settled by each"), "s", seconds))?;
    let mut rss = Samples::new();
    rss.push(broker.server.resident_mib()?);
    bench.row(Row::shown(format!("memory with {groups} groups"), "MiB", rss))
}

/// Many members in one group, of which some die at once.
fn many_members(bench: &mut Bench, members: usize, dying: usize) -> Result<(), Box<dyn Error>> {
    const RECORDS: u64 = 100_000;
    let broker = bench.broker()?;
    let url = broker.server.url();
    let client = bench.client(&url)?;
    let topic = bench.topic_name("members");
    let clients = clients(bench, &url, members)?;
    let mut load = GroupLoad::new("members", topic.as_str(), GroupMode::Keyed);
    load.session_timeout_ms = SESSION_TIMEOUT_MS;
    let mortal = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    bench.runtime.block_on(async {
        create_topic(&client, &topic, 4, true, AckLevel::Written).await?;
        make_group(&client, &load).await
    })?;
    let own = {
        let _guard = mortal.enter();
        Client::builder(&url).connect_lazy()?
    };
    let clock = Stopwatch::start();
    let doomed = mortal.block_on(async {
        let mut doomed = Vec::new();
        for _ in 0..dying {
            doomed.push(join(&own, "members").await?);
        }
        Ok::<_, sawlog_client::Error>(doomed)
    })?;
    let (settled, mut progress) = tokio::sync::watch::channel(0_u64);
    bench.runtime.block_on(async {
        for number in dying..members {
            let mut member = join(&clients[number / STREAMS_PER_CLIENT], "members").await?;
            let settled = settled.clone();
            tokio::spawn(async move {
                while let Some(Ok(delivery)) = member.next_delivery().await {
                    if delivery.ack().await.is_ok_and(|outcome| outcome.is_settled()) {
                        settled.send_modify(|settled| *settled += 1);
                    }
                }
            });
        }
        Ok::<_, sawlog_client::Error>(())
    })?;
    let joined = clock.seconds();
    std::mem::forget(doomed);
    mortal.shutdown_background();
    let clock = Stopwatch::start();
    bench.runtime.block_on(async {
        fill(&client, &topic, RECORDS, 100, 10_000).await?;
        tokio::time::timeout(PATIENCE, progress.wait_for(|settled| *settled >= RECORDS)).await??;
        Ok::<_, Box<dyn Error>>(())
    })?;
    let one = |value: f64| {
        let mut samples = Samples::new();
        samples.push(value);
        samples
    };
    bench.row(Row::shown(format!("{members} members joined, one after the other"), "s", one(joined)))?;
    let what = format!("{dying} of {members} members killed: until 100,000 records of all keys are settled");
    bench.row(Row::shown(what, "s", one(clock.seconds())))
}

fn clients(bench: &Bench, url: &str, streams: usize) -> Result<Vec<Client>, Box<dyn Error>> {
    (0..streams.div_ceil(STREAMS_PER_CLIENT)).map(|_| bench.client(url)).collect()
}
