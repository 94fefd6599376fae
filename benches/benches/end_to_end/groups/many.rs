//! Many groups on one topic; many members in one group, of which some die at once.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use sawlog_benches::load::client::create_topic;
use sawlog_benches::load::groups::{GroupLoad, consume_acked, fill, join, make_group};
use sawlog_benches::report::{Row, say};
use sawlog_benches::stats::Samples;
use sawlog_benches::timing::Stopwatch;
use sawlog_client::groups::{GroupMode, Member, UnitState};
use sawlog_client::{AckLevel, Client};
use tokio::sync::watch;

use super::members::SESSION_TIMEOUT_MS;
use crate::context::Bench;

const PATIENCE: Duration = Duration::from_secs(120);
/// How often the members are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Streams that one connection carries in these sections, below the broker's limit of 256.
const STREAMS_PER_CLIENT: usize = 200;
const PARTITIONS: u32 = 4;
/// Key slots of a partition.
const SLOTS: u32 = 4_096;

pub(crate) fn many(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    many_groups(bench, 1_000)?;
    many_members(bench, 1_000, 100)
}

fn one(value: f64) -> Samples {
    let mut samples = Samples::new();
    samples.push(value);
    samples
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
        create_topic(&client, &topic, PARTITIONS, true, AckLevel::Written).await?;
        fill(&client, &topic, RECORDS, 100, 100).await?;
        let mut members = tokio::task::JoinSet::new();
        for group in 0..groups {
            let load = GroupLoad::new(format!("group-{group}"), topic.as_str(), GroupMode::Keyed);
            let client = clients[group / STREAMS_PER_CLIENT].clone();
            members.spawn(async move {
                make_group(&client, &load).await?;
                consume_acked(&client, &load.group, RECORDS, |_| false).await
            });
        }
        while let Some(done) = tokio::time::timeout(PATIENCE, members.join_next()).await? {
            assert_eq!(done??.records, RECORDS);
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    let what = format!("{groups} groups made, joined, 1,000 records settled by each");
    bench.row(Row::shown(what, "s", one(clock.seconds())))?;
    let rss = one(broker.server.resident_mib()?);
    bench.row(Row::shown(format!("memory with {groups} groups"), "MiB", rss))
}

/// What the members that live have got, by member, and how many records are settled.
#[derive(Debug, Default)]
struct Progress {
    received: HashMap<usize, u64>,
    settled: u64,
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
        create_topic(&client, &topic, PARTITIONS, true, AckLevel::Written).await?;
        make_group(&client, &load).await
    })?;
    let own = {
        let _guard = mortal.enter();
        Client::builder(&url).connect_lazy()?
    };
    let (progress, mut progressed) = watch::channel(Progress::default());
    let clock = Stopwatch::start();
    let doomed = mortal.block_on(async {
        let mut doomed = Vec::new();
        for _ in 0..dying {
            doomed.push(join(&own, "members").await?);
        }
        Ok::<_, sawlog_client::Error>(doomed)
    })?;
    bench.runtime.block_on(join_living(&clients, dying..members, &progress))?;
    let joined = clock.seconds();
    let joined_stable = bench.runtime.block_on(stable(&client, members, clock))?;
    say(&format!("  {members} members joined in {joined:.1} s"))?;
    bench.runtime.block_on(fill(&client, &topic, RECORDS, 100, 10_000))?;
    std::mem::forget(doomed);
    mortal.shutdown_background();
    let clock = Stopwatch::start();
    let (reassigned, settled) = bench.runtime.block_on(async {
        let settled = async {
            progressed.wait_for(|progress| progress.settled >= RECORDS).await?;
            Ok::<_, Box<dyn Error>>(clock.seconds())
        };
        let both = async { tokio::try_join!(stable(&client, members - dying, clock), settled) };
        tokio::time::timeout(PATIENCE, both).await?
    })?;
    let living = progress.borrow().received.len();
    if living != members - dying {
        return Err(format!("{living} of {} members received records", members - dying).into());
    }
    bench.row(Row::shown(format!("{members} members joined, one after the other"), "s", one(joined)))?;
    bench.row(Row::shown("the same, until the last assignment is told", "s", one(joined_stable)))?;
    let what = format!("{dying} of {members} members killed, session timeout 2 s");
    bench.row(Row::shown(format!("{what}: to a stable assignment"), "s", one(reassigned)))?;
    bench.row(Row::shown(format!("{what}: to 100,000 records of 10,000 keys settled"), "s", one(settled)))?;
    let journal = broker.server.metric("sawlog_journal_record_bytes_total{journal=\"groups\"}")? / f64::from(1 << 20);
    bench.row(Row::shown(format!("{what}: group journal written in all, unframed"), "MiB", one(journal)))
}

/// Members that acknowledge one record after the other, each once the one before is settled.
async fn join_living(
    clients: &[Client],
    numbers: std::ops::Range<usize>,
    progress: &watch::Sender<Progress>,
) -> Result<(), sawlog_client::Error> {
    for number in numbers {
        let mut member = join(&clients[number / STREAMS_PER_CLIENT], "members").await?;
        let progress = progress.clone();
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = member.next_delivery().await {
                let settled = delivery.ack().await.is_ok_and(|outcome| outcome.is_settled());
                progress.send_modify(|progress| {
                    *progress.received.entry(number).or_default() += 1;
                    progress.settled += u64::from(settled);
                });
            }
        });
    }
    Ok(())
}

/// Seconds until every slot belongs to one of so many members, none on its way.
async fn stable(client: &Client, members: usize, clock: Stopwatch) -> Result<f64, Box<dyn Error>> {
    loop {
        let seen = client.groups().members("members").await?;
        let at = clock.seconds();
        if is_stable(&seen, members) {
            return Ok(at);
        }
        if at > PATIENCE.as_secs_f64() {
            return Err(format!("{} members after {at:.0} s, and no stable assignment", seen.len()).into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_stable(seen: &[Member], members: usize) -> bool {
    let units = || seen.iter().flat_map(|member| &member.units);
    let slots: u32 = units().map(|unit| unit.slot_to - unit.slot_from).sum();
    seen.len() == members
        && seen.iter().all(|member| member.connected)
        && slots == PARTITIONS * SLOTS
        && units().all(|unit| unit.state == Some(UnitState::Assigned))
}

fn clients(bench: &Bench, url: &str, streams: usize) -> Result<Vec<Client>, Box<dyn Error>> {
    (0..streams.div_ceil(STREAMS_PER_CLIENT)).map(|_| bench.client(url)).collect()
}
