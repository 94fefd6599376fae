//! Row 1 of the test programme with groups: broker and members as processes, killed with SIGKILL under load, and a
//! judge outside of the broker that knows the members' histories alone.

use std::collections::{HashMap, HashSet};
use std::process::Stdio;
use std::time::Duration;

use sawlog_client::groups::{Backoff, GroupConfig, GroupPosition, NewGroup, ProcessedState, RetryPolicy};
use sawlog_client::reader::ReadEvent;
use sawlog_client::{Client, NewTopic, Record, RecordPosition, StreamExt as _, TopicConfig};
use sawlog_testing::BrokerProcess;
use sawlog_testing::checker::Place;
use sawlog_testing::checker::groups::{Appended, DeadSeen, GroupAct, GroupEvent, GroupHistory, check_group};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::load::Random;

/// Kills: of the broker and of members in turn. `SAWLOG_CHAOS_ROUNDS` for more.
const ROUNDS: u64 = 6;
/// Which records, and when the kills come. `SAWLOG_CHAOS_SEED` for another; what else happens is up to the machine.
const SEED: u64 = 0x5a17_1e57_0009;
/// Records for each round.
const RECORDS_PER_ROUND: u64 = 1_500;
/// Members at a time.
const MEMBERS: usize = 3;
/// Keys, of which one in [`POISON_EVERY`] meets a poison record some time.
const KEYS: u64 = 600;
const POISON_EVERY: u64 = 20;
const PARTITIONS: u32 = 4;

/// What all members have seen so far.
#[derive(Debug, Default)]
struct Seen {
    events: Vec<GroupEvent>,
    settled: HashSet<Place>,
    /// Delivered and not settled, by member.
    open: HashMap<u32, HashSet<Place>>,
}

/// A member's process.
struct Member {
    number: u32,
    child: Child,
    reader: tokio::task::JoinHandle<()>,
}

impl Member {
    fn start(number: u32, url: &str, seen: &watch::Sender<Seen>) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sawlog-group-member"))
            .args([url, "work"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = seen.clone();
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let event = event_in(number, &line).unwrap_or_else(|| panic!("member {number} wrote {line:?}"));
                seen.send_modify(|seen| seen.note(event));
            }
        });
        Self { number, child, reader }
    }

    /// kill -9, and reads what it had written.
    async fn kill(mut self, seen: &watch::Sender<Seen>) {
        self.child.kill().await.unwrap();
        self.reader.await.unwrap();
        seen.send_modify(|seen| drop(seen.open.remove(&self.number)));
    }

    /// Ends its input and waits until it has left.
    async fn leave(mut self) {
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        assert!(ended.expect("a member leaves in 30 s").unwrap().success(), "member {} failed", self.number);
        self.reader.await.unwrap();
    }
}

impl Seen {
    fn note(&mut self, event: GroupEvent) {
        match event.what {
            GroupAct::Delivered { .. } => drop(self.open.entry(event.member).or_default().insert(event.place)),
            GroupAct::Acking => {}
            GroupAct::Settled => {
                self.settled.insert(event.place);
                self.open.entry(event.member).or_default().remove(&event.place);
            }
        }
        self.events.push(event);
    }
}

fn event_in(member: u32, line: &str) -> Option<GroupEvent> {
    let mut words = line.split(' ');
    let what = words.next()?;
    let mut number = || words.next()?.parse::<u64>().ok();
    let time_us = number()?;
    let place = Place { partition: number()? as u32, epoch: number()? as u32, offset: number()? };
    let what = match what {
        "D" => GroupAct::Delivered { key: number()?, attempt: number()? as u32 },
        "A" => GroupAct::Acking,
        "S" => GroupAct::Settled,
        _ => return None,
    };
    Some(GroupEvent { time_us, member, place, what })
}

/// A number that the environment sets.
fn setting(name: &str, usual: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return usual };
    text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number"))
}

async fn make_group(client: &Client) {
    let topic = TopicConfig { partitions: Some(PARTITIONS), ..TopicConfig::default() };
    client.admin().create_topic(NewTopic::new("orders").config(topic)).await.unwrap();
    let retry = RetryPolicy { max_attempts: Some(3), backoff: Some(Backoff::List(vec![20])), ..RetryPolicy::default() };
    let mut config = GroupConfig::topics(["orders"]).start(GroupPosition::Earliest).retry(retry);
    config.session_timeout_ms = Some(2_000);
    client.groups().create(NewGroup::new("work", config)).await.unwrap();
}

/// Produces all records in the background; each answer is a record that the group must settle.
fn produce(
    client: &Client,
    total: u64,
    seed: u64,
    mut allowed: watch::Receiver<u64>,
) -> tokio::task::JoinHandle<Vec<RecordPosition>> {
    let client = client.clone();
    tokio::spawn(async move {
        let producer = client.producer("orders").name("chaos").batch_bytes(4 << 10).build().await.unwrap();
        let (mut random, mut receipts) = (Random(seed), Vec::new());
        for number in 0..total {
            allowed.wait_for(|allowed| number < *allowed).await.unwrap();
            let key = random.below(KEYS);
            // The poison of a key comes at a time of its own, so that keys die all along.
            let poison = key % POISON_EVERY == 7 && random.below(4) == 0 && number > total / 10;
            let value = if poison { format!("poison {number}") } else { format!("sound {number}") };
            receipts.push(producer.send(Record::keyed(key.to_string(), value)).await.unwrap());
        }
        producer.flush().await.unwrap();
        let mut places = Vec::new();
        for receipt in receipts {
            places.push(receipt.await.unwrap());
        }
        places
    })
}

/// Waits until the group has decided about every record.
async fn await_all(client: &Client, places: &[RecordPosition]) {
    for chunk in places.chunks(1_000) {
        let mut tries = 0;
        loop {
            let answers = client.groups().await_processed("work", chunk, Duration::from_secs(20)).await.unwrap();
            let pending = answers.iter().filter(|answer| answer.state == Some(ProcessedState::Pending)).count();
            if pending == 0 {
                break;
            }
            tries += 1;
            assert!(tries < 4, "{pending} records are still pending after {tries} waits of 20 s");
        }
    }
}

async fn read_topic(client: &Client, topic: &str) -> Vec<(Place, u64, Vec<u8>, HashMap<String, String>)> {
    let mut reader = client.reader(topic).open().await.unwrap();
    let mut records = Vec::new();
    while let Some(event) = reader.next().await {
        if let ReadEvent::Record(record) = event.unwrap() {
            let place = Place { partition: record.partition, epoch: record.epoch, offset: record.offset };
            let key = String::from_utf8(record.key.as_deref().unwrap().to_vec()).unwrap().parse().unwrap();
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers = record.headers.iter().map(|header| (header.key.clone(), text(&header.value))).collect();
            records.push((place, key, record.value.as_deref().unwrap().to_vec(), headers));
        }
    }
    records
}

async fn dead_letters(client: &Client) -> Vec<DeadSeen> {
    let records = read_topic(client, "orders.work.dlq").await;
    let dead = records.into_iter().map(|(_, key, _, headers)| {
        let number = |name: &str| headers[name].parse::<u64>().unwrap();
        let place = Place {
            partition: number("dlq.partition") as u32,
            epoch: number("dlq.epoch") as u32,
            offset: number("dlq.offset"),
        };
        DeadSeen { place, key, failed: headers["dlq.kind"] == "failed" }
    });
    dead.collect()
}

/// Waits until so many records are settled while a member has others in work; returns that member.
async fn wait_for_work(progress: &mut watch::Receiver<Seen>, at: u64) -> Option<u32> {
    let busy = |seen: &Seen| seen.open.iter().find(|(_, open)| !open.is_empty()).map(|(member, _)| *member);
    let reached = progress.wait_for(|seen| seen.settled.len() as u64 >= at && busy(seen).is_some());
    let seen = tokio::time::timeout(Duration::from_secs(60), reached).await.ok()?.ok()?;
    busy(&seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ak_10_ko_8_dl_4_kills_of_broker_and_members_lose_double_and_reorder_nothing() {
    // A seed of 0 makes no numbers.
    let (rounds, seed) = (setting("SAWLOG_CHAOS_ROUNDS", ROUNDS), setting("SAWLOG_CHAOS_SEED", SEED).max(1));
    println!("again: SAWLOG_CHAOS_ROUNDS={rounds} SAWLOG_CHAOS_SEED={seed}");
    let total = rounds * RECORDS_PER_ROUND;
    let mut broker = BrokerProcess::start().await;
    let client = broker.client();
    make_group(&client).await;
    let (seen, mut progress) = watch::channel(Seen::default());
    let mut members: Vec<Member> =
        (0..MEMBERS as u32).map(|number| Member::start(number, &broker.url(), &seen)).collect();
    let (allow, allowed) = watch::channel(0);
    let load = produce(&client, total, seed, allowed);
    let (mut random, mut in_flight, mut broker_kills) = (Random(seed), 0, 0);
    for round in 0..rounds {
        // In the middle of a share of the load; the next share waits for its turn, and dead keys settle nothing.
        allow.send((round + 1) * RECORDS_PER_ROUND).unwrap();
        let at = round * RECORDS_PER_ROUND * 9 / 10 + RECORDS_PER_ROUND / 4 + random.below(RECORDS_PER_ROUND / 3);
        let victim = wait_for_work(&mut progress, at).await;
        let victim = victim.unwrap_or_else(|| panic!("round {round}: {at} records are not settled\n{}", broker.log()));
        in_flight += 1;
        if round % 2 == 1 {
            let index = members.iter().position(|member| member.number == victim).unwrap();
            let heir = Member::start(100 + round as u32, &broker.url(), &seen);
            std::mem::replace(&mut members[index], heir).kill(&seen).await;
        } else {
            // Every second time again, before it has got far with what the first kill left.
            for _ in 0..=u64::from(round % 4 == 2) {
                broker_kills += 1;
                broker.restart().await;
            }
        }
    }
    let places = load.await.unwrap();
    await_all(&client, &places).await;
    for member in members {
        member.leave().await;
    }
    let appended = read_topic(&client, "orders").await.into_iter().map(|(place, key, value, _)| Appended {
        place,
        key,
        poison: value.starts_with(b"poison"),
    });
    let history = GroupHistory {
        appended: appended.collect(),
        events: seen.borrow().events.clone(),
        dead: dead_letters(&client).await,
        max_attempts: 3,
        broker_kills,
        member_kills: (rounds / 2) as u32,
    };
    let totals = check_group(&history).unwrap_or_else(|found| {
        let first = &found[..found.len().min(10)];
        // What was seen of the records that the first ones name.
        let named = format!("{first:?}");
        let of_them = |event: &&GroupEvent| named.contains(&format!("{:?}", event.place));
        let seen: Vec<_> = history.events.iter().filter(of_them).map(|event| format!("{event:?}")).collect();
        let (count, seen) = (found.len(), seen.join("\n"));
        panic!("seed {seed}, {count} violations: {named}\n{seen}\n{}", broker.log())
    });
    let again = u64::from(broker_kills) - rounds.div_ceil(2);
    println!("{rounds} kills, {in_flight} with records in work, {again} more of a start: {totals:?}");
    assert_eq!(totals.appended, total, "every record that was acknowledged is in the log, once");
    assert!(totals.failed > 0 && totals.parked > 0, "keys died and had records behind them: {totals:?}");
}
