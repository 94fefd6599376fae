//! A log whose end was lost below a read model, and an operator who accepts that (rule RM-1).

use sawlog_broker::log::storage::sim_disk::SimDisk;
use sawlog_client::groups::{AcceptedGap, PendingGap};
use sawlog_client::projection::Step;
use sawlog_client::reader::GapReason;
use sawlog_client::{AckLevel, Client, ErrorReason, NewTopic, TopicConfig};
use sawlog_testing::TestBroker;

use super::faults::StopAt;
use super::model::{GROUP, MEMBER, Model as _, Running, TOPIC, decided, in_time, produce};
use super::sqlite::Sqlite;

/// Records that are lost are of a topic that does not wait for the disk.
async fn loose_topic(client: &Client, name: &str) {
    let config =
        TopicConfig { ack_floor: Some(AckLevel::Written), flush_interval_ms: Some(60_000), ..TopicConfig::default() };
    client.admin().create_topic(NewTopic::new(name).config(config)).await.unwrap();
}

fn ones(count: u64) -> impl Iterator<Item = (String, &'static str)> {
    (0..count).map(|_| ("k".to_owned(), "1"))
}

/// A broker that has lost the end of what a model has applied, and grown over it: the model, and where it was cut.
async fn lost(seed: u64) -> Option<(TestBroker, Sqlite, u64)> {
    let disk = SimDisk::new();
    let mut broker = TestBroker::builder().storage(disk.storage()).start().await;
    let (model, client) = (Sqlite::new(&broker, "model"), broker.client());
    loose_topic(&client, TOPIC).await;
    let mut positions = Vec::new();
    for one in ones(10) {
        // Each in a write of its own, so that power may take any number of them.
        positions.extend(produce(&client, [one]).await);
    }
    let running = Running::of(reader(&client, &model)).await;
    decided(&client, GROUP, &positions).await;
    running.stop().await;
    let left = disk.crash(seed);
    broker.kill().await;
    broker.replace_storage(left.storage());
    broker.restart().await;
    let kept = produce(&client, ones(20)).await[0].offset;
    if kept < 10 {
        return Some((broker, model, kept));
    }
    broker.shutdown().await;
    None
}

fn reader(
    client: &Client,
    model: &Sqlite,
) -> sawlog_client::projection::ProjectionBuilder<<Sqlite as super::model::Model>::Store> {
    client.projection(GROUP, model.store()).topics([TOPIC]).create_if_missing().member_id(MEMBER)
}

async fn gap(client: &Client) -> Option<PendingGap> {
    client.groups().lag(GROUP, &[]).await.unwrap().partitions[0].gap
}

async fn refused(client: &Client, model: &Sqlite) {
    let error = Running::of(reader(client, model)).await.error().await;
    assert_eq!(error.reason(), Some(ErrorReason::CursorOfAnotherLog), "{error}");
    assert!(error.message().contains("group accept-gap totals --topic sales --partition 0"), "{error}");
    assert_eq!(model.totals().await["k"], (10, 10), "nothing was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rm_1_an_operator_accepts_a_cut_below_a_cursor_and_its_reader_goes_on_there_through_kills() {
    let mut cuts = 0;
    for seed in 0..4 {
        let Some((mut broker, model, kept)) = lost(seed).await else { continue };
        cuts += 1;
        let (client, groups) = (broker.client(), broker.client().groups());
        assert_eq!(gap(&client).await, None, "its reader was not there yet");
        assert_eq!(groups.accept_gap(GROUP, None, None).await.unwrap(), [], "nothing to accept");
        refused(&client, &model).await;
        let (from, to, reason) = (kept, 10, GapReason::Truncated);
        let pending = |accepted| Some(PendingGap { from, to, reason, accepted });
        assert_eq!(gap(&client).await, pending(false));
        refused(&client, &model).await;

        // What is not of this group is said to be so.
        loose_topic(&client, "other").await;
        for (topic, partition, field) in
            [("other", Some(0), "topic"), ("none", None, "topic"), (TOPIC, Some(7), "partition")]
        {
            let error = groups.accept_gap(GROUP, Some(topic), partition).await.unwrap_err();
            assert_eq!(
                (error.reason(), error.fact("field")),
                (Some(ErrorReason::InvalidField), Some(field)),
                "{error}"
            );
        }
        let missing = groups.accept_gap("missing", None, None).await.unwrap_err();
        assert_eq!(missing.reason(), Some(ErrorReason::GroupNotFound));

        let accepted = AcceptedGap { topic: TOPIC.to_owned(), partition: 0, from, to, expired: 0, reason };
        for _ in 0..2 {
            // Asked again, it is answered the same.
            let told = groups.accept_gap(GROUP, Some(TOPIC), Some(0)).await.unwrap();
            assert_eq!(told, std::slice::from_ref(&accepted), "seed {seed}");
        }
        // The broker is killed before it is used, then the reader, once its cursor stands at the cut.
        broker.kill().await;
        broker.restart().await;
        assert_eq!(gap(&client).await, pending(true));
        let stop = StopAt::new(Step::Committed, 1);
        let running = Running::of(reader(&client, &model).probe(stop.probe())).await;
        stop.hit().await;
        running.kill().await;
        let at = model.number("SELECT next_offset FROM projection_cursor").await;
        assert_eq!(u64::try_from(at).unwrap(), kept, "moved in one transaction");
        assert_eq!(model.totals().await["k"], (10, 10));
        let mut running = Running::of(reader(&client, &model)).await;
        let end = kept + 20;
        assert!(in_time(running.handle.wait_for(|all| all.units().any(|unit| unit.next_offset == end))).await);
        running.stop().await;
        assert_eq!(model.totals().await["k"], (30, 30), "seed {seed}: all that came since the cut, once");
        assert_eq!(gap(&client).await, None, "it is passed");
        assert_eq!(groups.accept_gap(GROUP, None, None).await.unwrap(), [], "and nothing is left to accept");
        broker.shutdown().await;
    }
    assert!(cuts > 0, "some power cut took records");
}
