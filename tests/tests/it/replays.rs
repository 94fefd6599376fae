//! Replays as a stock gRPC client sees them (rules RP-1 to RP-5): bounds, marks, ends, pace, restarts, what is refused.

use std::future::Future;
use std::time::Duration;

use sawlog_proto::v1::consume_request::Frame as Ask;
use sawlog_proto::v1::consume_response::Frame as Told;
use sawlog_proto::v1::group_position::At;
use sawlog_proto::v1::replay_rate::Rate;
use sawlog_proto::v1::replay_service_client::ReplayServiceClient;
use sawlog_proto::v1::replay_target::Target;
use sawlog_proto::v1::{self, GroupMode, ReplayState};
use sawlog_testing::TestBroker;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::member::{Member, create, groups, join, settings, work};
use crate::wire::{Wire, keyed};

const PATIENCE: Duration = Duration::from_secs(30);

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

fn replays(wire: &Wire) -> ReplayServiceClient<Channel> {
    ReplayServiceClient::new(wire.channel.clone())
}

/// A topic of one partition with records `0..count`, whose keys are `k0` to `k9` in turn.
async fn topic(wire: &mut Wire, name: &str, count: u32) {
    wire.topic(name, v1::TopicConfig { partitions: Some(1), ..Default::default() }).await;
    write(wire, name, 0..count).await;
}

async fn write(wire: &mut Wire, name: &str, numbers: std::ops::Range<u32>) {
    if !numbers.is_empty() {
        let records = numbers.map(|number| keyed(&format!("k{}", number % 10), number.to_string()));
        wire.write(name, records.collect()).await;
    }
}

fn offsets(topic: &str, offset: i64) -> Option<v1::GroupPosition> {
    let offsets = vec![v1::TopicPartitionOffset { topic: topic.into(), partition: 0, offset, epoch: None }];
    Some(v1::GroupPosition { at: Some(At::Offsets(v1::TopicPartitionOffsets { offsets })) })
}

fn into(target: Target) -> Option<v1::ReplayTarget> {
    Some(v1::ReplayTarget { target: Some(target) })
}

/// A group to make, with the mode and quick retries of [`settings`].
fn group(name: &str, mode: GroupMode) -> v1::ReplayGroup {
    let config = v1::GroupConfig { subscription: None, ..settings("", mode) };
    v1::ReplayGroup { name: name.into(), config: Some(config) }
}

fn request(topic: &str, target: Target) -> v1::StartReplayRequest {
    v1::StartReplayRequest { topics: vec![topic.into()], target: into(target), ..Default::default() }
}

async fn start(wire: &Wire, request: v1::StartReplayRequest) -> v1::Replay {
    replays(wire).start_replay(request).await.unwrap().into_inner().replay.unwrap()
}

async fn get(wire: &Wire, replay_id: &str) -> v1::Replay {
    let request = v1::GetReplayRequest { replay_id: replay_id.into() };
    replays(wire).get_replay(request).await.unwrap().into_inner().replay.unwrap()
}

fn slow() -> Option<v1::ReplayRate> {
    Some(v1::ReplayRate { rate: Some(Rate::RecordsPerSecond(1)) })
}

/// What a member was sent, up to the end of the whole replay, all acked: offsets with their marks.
async fn run(member: &mut Member, replay_id: &str) -> Vec<(i64, bool)> {
    let (mut seen, mut sequence) = (Vec::new(), 100);
    loop {
        match in_time(member.told()).await.unwrap() {
            Told::Records(records) => {
                let marked = records.deliveries.iter().any(|delivery| delivery.replay);
                assert_eq!(records.replay_id, if marked { replay_id } else { "" }, "the frame names the replay");
                seen.extend(records.deliveries.iter().map(|delivery| (delivery.offset, delivery.replay)));
                let work = work(&records, records.deliveries.iter().map(|delivery| delivery.offset));
                sequence += 1;
                member.ask(Ask::Ack(v1::Ack { sequence, work: vec![work] })).await;
            }
            Told::ReplayDone(done) if done.source_id.is_none() => {
                assert_eq!((done.replay_id.as_str(), done.cancelled), (replay_id, false));
                return seen;
            }
            _ => {}
        }
    }
}

/// Takes `count` deliveries and acks those below an offset; gives the frames.
async fn handle(member: &mut Member, count: usize, below: i64) -> Vec<v1::Records> {
    let (mut frames, mut got) = (Vec::new(), 0);
    while got < count {
        let records = in_time(member.records(1)).await.remove(0);
        got += records.deliveries.len();
        let done = records.deliveries.iter().map(|delivery| delivery.offset).filter(|offset| *offset < below);
        let done = work(&records, done);
        let acks = !done.offsets.is_empty();
        if acks {
            member.ask(Ask::Ack(v1::Ack { sequence: got as u64, work: vec![done] })).await;
        }
        frames.push(records);
        if acks && got >= count {
            in_time(member.result(got as u64)).await;
        }
    }
    frames
}

fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().expect("every failure has its reason");
    (status.code(), info.reason)
}

fn all(from: i64, to: i64, marked: bool) -> Vec<(i64, bool)> {
    (from..to).map(|offset| (offset, marked)).collect()
}

#[tokio::test]
async fn rp_1_a_new_group_gets_the_range_marked_and_nothing_after_it() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    topic(&mut wire, "orders", 100).await;
    let started = v1::StartReplayRequest {
        from: offsets("orders", 10),
        to: offsets("orders", 60),
        note: "again".into(),
        ..request("orders", Target::NewGroup(group("audit", GroupMode::Keyed)))
    };
    let replay = start(&wire, started).await;
    assert_eq!(
        (replay.state(), replay.records, replay.left, replay.note.as_str()),
        (ReplayState::Running, 50, 50, "again")
    );
    let (mut member, _) = Member::joined(&wire, join("audit", 1)).await;
    let mut seen = run(&mut member, &replay.replay_id).await;
    seen.sort_unstable();
    assert_eq!(seen, all(10, 60, true));
    let ended = get(&wire, &replay.replay_id).await;
    assert_eq!((ended.state(), ended.done, ended.left, ended.eta_ms), (ReplayState::Done, 50, 0, Some(0)));
    assert!(ended.end_time.is_some());
    // Its group stays, and is not behind: what lies after the bound is none of its business.
    let lag = groups(&wire).get_lag(v1::GetLagRequest { name: "audit".into(), topics: Vec::new() }).await.unwrap();
    assert!(lag.into_inner().partitions.iter().all(|partition| partition.lag_records == 0));
    write(&mut wire, "orders", 100..110).await;
    member.ask(Ask::Ping(v1::Ping { nonce: 7 })).await;
    let pong = member.until(|told| match told {
        Told::Pong(pong) => Some(pong.nonce),
        Told::Records(records) => panic!("{records:?} after the end"),
        _ => None,
    });
    assert_eq!(in_time(pong).await, 7);
    // Who comes late is told that it is over.
    let (mut late, _) = Member::joined(&wire, join("audit", 2)).await;
    assert_eq!(run(&mut late, &replay.replay_id).await, []);
    broker.shutdown().await;
}

#[tokio::test]
async fn rp_2_a_group_that_was_there_sees_the_mark_on_the_range_alone() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    for mode in [GroupMode::Keyed, GroupMode::Unordered] {
        let (topic_name, name) = (format!("orders{}", mode as i32), format!("billing{}", mode as i32));
        topic(&mut wire, &topic_name, 40).await;
        create(&wire, &name, settings(&topic_name, mode)).await;
        let (mut member, _) = Member::joined(&wire, join(&name, 1)).await;
        for records in handle(&mut member, 40, 40).await {
            assert!(records.deliveries.iter().all(|delivery| !delivery.replay) && records.replay_id.is_empty());
        }
        let replay = start(
            &wire,
            v1::StartReplayRequest {
                topics: Vec::new(),
                from: offsets(&topic_name, 5),
                to: offsets(&topic_name, 25),
                ..request(&topic_name, Target::Existing(name.clone()))
            },
        )
        .await;
        assert_eq!(replay.topics.join(","), topic_name);
        let mut seen = run(&mut member, &replay.replay_id).await;
        seen.sort_unstable();
        assert_eq!(seen, all(5, 25, true), "{mode:?}");
        write(&mut wire, &topic_name, 40..41).await;
        let live = in_time(member.records(1)).await;
        assert_eq!((live[0].deliveries[0].offset, live[0].deliveries[0].replay), (40, false));
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn rp_5_in_mode_offset_batches_name_their_replay_and_the_commit_ends_it() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    topic(&mut wire, "orders", 30).await;
    let mut started = request("orders", Target::NewGroup(group("audit", GroupMode::Offset)));
    started.to = offsets("orders", 20);
    let replay = start(&wire, started).await;
    let first = v1::Join { form: v1::ReadForm::Batches.into(), ..join("audit", 1) };
    let (mut member, _) = Member::joined(&wire, first).await;
    let epoch = in_time(member.until(|told| match told {
        Told::Assign(assign) => Some(assign.units[0].assignment_epoch),
        _ => None,
    }));
    let assignment_epoch = epoch.await;
    let mut reached = 0;
    while reached < 20 {
        let batches =
            in_time(member.until(|told| if let Told::Batches(batches) = told { Some(batches) } else { None }));
        let batches = batches.await;
        assert_eq!(batches.replay_id, replay.replay_id);
        reached = batches.reached_offset;
    }
    assert_eq!(reached, 20, "no batch reaches over the bound");
    let commit = v1::Commit { sequence: 1, source_id: 0, assignment_epoch, next_offset: 20, ..Default::default() };
    let source_id = 1;
    member.ask(Ask::Commit(v1::Commit { source_id, ..commit })).await;
    let done = in_time(member.until(|told| match told {
        Told::ReplayDone(done) => Some(done),
        Told::CommitResult(result) => {
            assert_eq!(result.failure, None);
            None
        }
        _ => None,
    }));
    assert_eq!(done.await.source_id, Some(source_id));
    assert_eq!(get(&wire, &replay.replay_id).await.state(), ReplayState::Done);
    broker.shutdown().await;
}

#[tokio::test]
async fn rp_3_a_replay_goes_on_after_a_kill_in_its_middle_and_its_rate_can_be_changed() {
    let mut broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    topic(&mut wire, "orders", 200).await;
    let mut started = request("orders", Target::NewGroup(group("audit", GroupMode::Keyed)));
    started.rate = slow();
    let replay = start(&wire, started).await;
    let (mut member, _) = Member::joined(&wire, join("audit", 1)).await;
    let first = in_time(member.records(1)).await;
    let done = work(&first[0], [first[0].deliveries[0].offset]);
    in_time(member.ack(1, done)).await;
    broker.kill().await;
    broker.restart().await;
    let wire = Wire::new(&broker).await;
    let running = get(&wire, &replay.replay_id).await;
    assert_eq!((running.state(), running.records), (ReplayState::Running, 200));
    assert!((1..10).contains(&running.done), "{} were acked before", running.done);
    assert_eq!(running.rate.and_then(|rate| rate.rate), Some(Rate::RecordsPerSecond(1)), "its rate is kept");
    // At one a second the rest would take minutes.
    let update = v1::UpdateReplayRequest { replay_id: replay.replay_id.clone(), rate: None };
    let updated = replays(&wire).update_replay(update).await.unwrap().into_inner().replay.unwrap();
    assert_eq!(updated.rate, None);
    let (mut member, _) = Member::joined(&wire, v1::Join { member_epoch: None, ..join("audit", 1) }).await;
    let seen = run(&mut member, &replay.replay_id).await;
    assert!(seen.len() >= 200 - running.done as usize && seen.iter().all(|(_, marked)| *marked), "{}", seen.len());
    let ended = get(&wire, &replay.replay_id).await;
    assert_eq!((ended.state(), ended.done), (ReplayState::Done, 200));
    broker.shutdown().await;
}

#[tokio::test]
async fn rp_3_a_replay_pauses_and_goes_on_over_a_restart() {
    let mut broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    topic(&mut wire, "orders", 20).await;
    let replay = start(&wire, request("orders", Target::NewGroup(group("audit", GroupMode::Keyed)))).await;
    let id = replay.replay_id.clone();
    let pause = v1::PauseReplayRequest { replay_id: id.clone() };
    let paused = replays(&wire).pause_replay(pause).await.unwrap().into_inner().replay.unwrap();
    assert_eq!(paused.state(), ReplayState::Paused);
    broker.restart().await;
    let wire = Wire::new(&broker).await;
    assert_eq!(get(&wire, &id).await.state(), ReplayState::Paused);
    let (mut member, _) = Member::joined(&wire, join("audit", 1)).await;
    member.ask(Ask::Ping(v1::Ping { nonce: 1 })).await;
    let pong = member.until(|told| match told {
        Told::Pong(_) => Some(()),
        Told::Records(records) => panic!("{records:?} while it is paused"),
        _ => None,
    });
    in_time(pong).await;
    let resume = v1::ResumeReplayRequest { replay_id: id.clone() };
    let resumed = replays(&wire).resume_replay(resume).await.unwrap().into_inner().replay.unwrap();
    assert_eq!(resumed.state(), ReplayState::Running);
    assert_eq!(run(&mut member, &id).await.len(), 20);
    broker.shutdown().await;
}

#[tokio::test]
async fn rp_3_a_cancelled_replay_is_closed_and_its_ephemeral_group_goes() {
    let mut broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    topic(&mut wire, "orders", 20).await;
    let mut started = request("orders", Target::Ephemeral(group("", GroupMode::Keyed)));
    started.rate = slow();
    let replay = start(&wire, started).await;
    assert_eq!(replay.group, format!("replay-{:x}", u64::from_str_radix(&replay.group_id, 16).unwrap()));
    let (mut member, _) = Member::joined(&wire, join(&replay.group, 1)).await;
    let id = replay.replay_id.clone();
    let cancel = || v1::CancelReplayRequest { replay_id: id.clone() };
    let cancelled = replays(&wire).cancel_replay(cancel()).await.unwrap().into_inner().replay.unwrap();
    assert_eq!(cancelled.state(), ReplayState::Cancelled);
    let done = member.until(|told| if let Told::ReplayDone(done) = told { Some(done) } else { None });
    assert!(in_time(done).await.cancelled);
    member.ask(Ask::Leave(v1::Leave {})).await;
    in_time(member.end()).await;
    let refused = replays(&wire).cancel_replay(cancel()).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "JOB_CLOSED".into()));
    let gone = async {
        let name = || v1::GetGroupRequest { name: replay.group.clone() };
        while groups(&wire).get_group(name()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    in_time(gone).await;
    for _ in 0..2 {
        let wire = Wire::new(&broker).await;
        assert_eq!(get(&wire, &id).await.state(), ReplayState::Cancelled, "its end outlives its group");
        let listed = replays(&wire).list_replays(v1::ListReplaysRequest::default()).await.unwrap().into_inner();
        assert_eq!(listed.replays.len(), 1);
        broker.restart().await;
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn rp_5_an_empty_range_ends_at_once_and_a_vanished_one_is_refused() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    topic(&mut wire, "orders", 20).await;
    let mut empty = request("orders", Target::NewGroup(group("empty", GroupMode::Keyed)));
    (empty.from, empty.to) = (offsets("orders", 5), offsets("orders", 5));
    let replay = start(&wire, empty).await;
    assert_eq!((replay.state(), replay.records), (ReplayState::Done, 0));
    let mut backwards = request("orders", Target::NewGroup(group("x", GroupMode::Keyed)));
    (backwards.from, backwards.to) = (offsets("orders", 5), offsets("orders", 4));
    let refused = replays(&wire).start_replay(backwards).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::InvalidArgument, "INVALID_FIELD".into()));
    let before =
        v1::TrimTopicRequest { name: "orders".into(), before: vec![v1::PartitionOffset { partition: 0, offset: 10 }] };
    wire.topics.trim_topic(before).await.unwrap();
    let mut vanished = request("orders", Target::NewGroup(group("x", GroupMode::Keyed)));
    (vanished.from, vanished.to) = (offsets("orders", 0), offsets("orders", 8));
    let refused = replays(&wire).start_replay(vanished).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::OutOfRange, "OFFSET_OUT_OF_RANGE".into()));
    let beyond = v1::StartReplayRequest {
        to: offsets("orders", 99),
        ..request("orders", Target::NewGroup(group("x", GroupMode::Keyed)))
    };
    let refused = replays(&wire).start_replay(beyond).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::OutOfRange, "OFFSET_OUT_OF_RANGE".into()));
    // What is left of a range is read, and what is gone is told (rule OF-5).
    let mut shortened = request("orders", Target::NewGroup(group("short", GroupMode::Keyed)));
    (shortened.from, shortened.to) = (offsets("orders", 0), offsets("orders", 12));
    let replay = start(&wire, shortened).await;
    let part = &replay.partitions[0];
    assert_eq!((part.asked_from, part.from, part.to), (0, 10, 12));
    let (mut member, _) = Member::joined(&wire, join("short", 1)).await;
    let gap = in_time(member.until(|told| if let Told::Gap(gap) = told { Some(gap) } else { None })).await;
    assert_eq!((gap.from, gap.to, gap.stopped), (0, 10, false));
    assert_eq!(run(&mut member, &replay.replay_id).await, all(10, 12, true));
    broker.shutdown().await;
}

#[tokio::test]
async fn re_10_a_running_replay_keeps_its_topic_and_its_group_from_being_deleted() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    topic(&mut wire, "orders", 20).await;
    let mut started = request("orders", Target::NewGroup(group("audit", GroupMode::Keyed)));
    started.rate = slow();
    let replay = start(&wire, started.clone()).await;
    let conflict = (Code::FailedPrecondition, "JOB_CONFLICT".to_owned());
    let delete = |force| v1::DeleteGroupRequest { name: "audit".into(), force, group_id: String::new() };
    let refused = groups(&wire).delete_group(delete(false)).await.unwrap_err();
    assert_eq!(reason(&refused), conflict);
    assert_eq!(refused.get_details_error_info().unwrap().metadata["job"], replay.replay_id);
    let topic = |force| v1::DeleteTopicRequest { name: "orders".into(), force };
    let refused = wire.topics.delete_topic(topic(false)).await.unwrap_err();
    assert_eq!(reason(&refused), conflict);
    let again = v1::StartReplayRequest { topics: Vec::new(), ..request("orders", Target::Existing("audit".into())) };
    let refused =
        replays(&wire).start_replay(v1::StartReplayRequest { topics: Vec::new(), ..again }).await.unwrap_err();
    assert_eq!(reason(&refused), conflict);
    let refused = replays(&wire).start_replay(started).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::AlreadyExists, "GROUP_EXISTS".into()));
    groups(&wire).delete_group(delete(true)).await.unwrap();
    assert_eq!(get(&wire, &replay.replay_id).await.state(), ReplayState::Cancelled);
    wire.topics.delete_topic(topic(false)).await.unwrap();
    for id in ["", "x", "0000000000000001-1", "00000000000000ff-r1"] {
        let missing = replays(&wire).get_replay(v1::GetReplayRequest { replay_id: id.into() }).await.unwrap_err();
        assert_eq!(reason(&missing), (Code::NotFound, "JOB_NOT_FOUND".into()), "{id}");
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn rp_1_a_filter_and_a_position_of_another_group_bound_a_replay() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    topic(&mut wire, "orders", 40).await;
    create(&wire, "billing", settings("orders", GroupMode::Keyed)).await;
    let (mut member, _) = Member::joined(&wire, join("billing", 1)).await;
    handle(&mut member, 40, 30).await;
    let started = v1::StartReplayRequest {
        to: Some(v1::GroupPosition { at: Some(At::FromGroup("billing".into())) }),
        filter: Some(v1::ReadFilter { key: Some("k3".into()), ..Default::default() }),
        rate: Some(v1::ReplayRate { rate: Some(Rate::SpeedPermille(1_000_000)) }),
        ..request("orders", Target::NewGroup(group("audit", GroupMode::Keyed)))
    };
    let replay = start(&wire, started).await;
    assert_eq!((replay.partitions[0].from, replay.partitions[0].to), (0, 30));
    let (mut member, _) = Member::joined(&wire, join("audit", 1)).await;
    let mut seen = run(&mut member, &replay.replay_id).await;
    seen.sort_unstable();
    assert_eq!(seen, [(3, true), (13, true), (23, true)]);
    broker.shutdown().await;
}

#[tokio::test]
async fn rp_3_no_more_than_100_jobs_run_at_once() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    topic(&mut wire, "orders", 2).await;
    for _ in 0..100 {
        let mut started = request("orders", Target::Ephemeral(group("", GroupMode::Keyed)));
        started.rate = slow();
        start(&wire, started).await;
    }
    let more = request("orders", Target::Ephemeral(group("", GroupMode::Keyed)));
    let refused = replays(&wire).start_replay(more).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::ResourceExhausted, "LIMIT_REACHED".into()));
    let page = |page_token| v1::ListReplaysRequest { running: true, page_size: 60, page_token, ..Default::default() };
    let first = replays(&wire).list_replays(page(String::new())).await.unwrap().into_inner();
    let second = replays(&wire).list_replays(page(first.next_page_token.clone())).await.unwrap().into_inner();
    assert_eq!((first.replays.len(), second.replays.len(), second.next_page_token.as_str()), (60, 40, ""));
    broker.shutdown().await;
}

#[tokio::test]
async fn rp_2_the_client_marks_replayed_records_and_tells_the_end() {
    use sawlog_client::replays::{NewReplay, ReplayInto, ReplayState};
    use sawlog_client::{ConsumerEvent, GroupPosition, StreamExt as _};

    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    topic(&mut wire, "orders", 30).await;
    let client = broker.client();
    let mut new = NewReplay::new("orders", ReplayInto::New("audit".into(), Box::default()));
    new.from = Some(GroupPosition::Earliest);
    let replay = client.replays().start(new).await.unwrap();
    assert_eq!((replay.state, replay.left), (Some(ReplayState::Running), 30));
    let mut consumer = client.consumer("audit").open().await.unwrap();
    let mut seen = 0;
    let id = loop {
        match in_time(consumer.next()).await.unwrap().unwrap() {
            ConsumerEvent::Delivery(delivery) => {
                assert_eq!(delivery.replay_id(), Some(replay.replay_id.as_str()));
                seen += 1;
                delivery.ack_later();
            }
            ConsumerEvent::ReplayDone { replay_id, source: None, cancelled: false } => break replay_id,
            _ => {}
        }
    };
    assert_eq!((id, seen), (replay.replay_id.clone(), 30));
    let ended = client.replays().get(&replay.replay_id).await.unwrap();
    assert_eq!((ended.state, ended.done), (Some(ReplayState::Done), 30));
    assert_eq!(client.replays().list(Some("audit"), true).await.unwrap(), []);
    drop(consumer);
    broker.shutdown().await;
}
