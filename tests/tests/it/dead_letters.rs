//! Dead letters as operators meet them on the wire: topics that only the broker writes to, and what deleting takes
//! along.

use sawlog_proto::v1::consume_request::Frame as Ask;
use sawlog_proto::v1::consume_response::Frame as Told;
use sawlog_proto::v1::{self, GroupMode, NackKind, WorkOutcome};
use sawlog_testing::TestBroker;
use tonic::{Code, Status};

use crate::errors::{info, metrics};
use crate::member::{Member, create, groups, join, letters, outcome, settings, work_of};
use crate::wire::{Wire, keyed, plain};

const DLQ: &str = "orders.billing.dlq";

/// A broker with a topic `orders` of six records of three keys, and a group `billing` in which the first record of
/// `k0` is dead and the second parked behind it; the other keys are handled.
pub(crate) async fn with_dead_letters(broker: TestBroker) -> (TestBroker, Wire) {
    let mut wire = Wire::new(&broker).await;
    wire.topic("orders", v1::TopicConfig::default()).await;
    create(&wire, "billing", settings("orders", GroupMode::Keyed)).await;
    dead_letters(&mut wire, "orders", "billing", 2).await;
    (broker, wire)
}

/// Writes six records of three keys to a topic, and kills the first of `k0` in a group: `count` entries then.
async fn dead_letters(wire: &mut Wire, topic: &str, group: &str, count: usize) {
    let record = |number: u32| keyed(&format!("k{}", number % 3), format!("value {number}"));
    wire.write(topic, (0..6).map(record).collect()).await;
    let (mut member, _) = Member::joined(wire, join(group, 1)).await;
    let (mut asked, mut settled) = (0, 0);
    while settled < 5 {
        let frame = match member.told().await.unwrap() {
            Told::Records(frame) => frame,
            Told::AckResult(result) => {
                assert_eq!(outcome(&result), WorkOutcome::Ok);
                settled += 1;
                continue;
            }
            _ => continue,
        };
        for delivery in &frame.deliveries {
            asked += 1;
            let (sequence, work) = (asked, vec![work_of(&frame, delivery)]);
            let is_first = delivery.record.as_ref().unwrap().value.as_deref() == Some(b"value 0");
            let kind = NackKind::Dead.into();
            let error = v1::HandlerError { class: "TEAPOT".into(), message: "no coffee".into(), ..Default::default() };
            let dead = v1::Nack { sequence, work: work.clone(), kind, error: Some(error), ..Default::default() };
            member.ask(if is_first { Ask::Nack(dead) } else { Ask::Ack(v1::Ack { sequence, work }) }).await;
        }
    }
    member.ask(Ask::Leave(v1::Leave::default())).await;
    member.end().await;
    // What is parked is not delivered: it follows its head by itself.
    while entries(wire, group).await.len() < count {
        tokio::task::yield_now().await;
    }
}

async fn entries(wire: &Wire, group: &str) -> Vec<v1::Entry> {
    let request = v1::ListEntriesRequest { group: group.into(), ..Default::default() };
    letters(wire).list_entries(request).await.unwrap().into_inner().entries
}

/// A redrive of everything; nobody is there to take what it gives.
async fn job(wire: &Wire, group: &str) -> v1::Job {
    let selector = v1::EntrySelector { error_class: "TEAPOT".into(), ..Default::default() };
    let request = v1::StartRedriveRequest { group: group.into(), selector: Some(selector), ..Default::default() };
    match letters(wire).start_redrive(request).await.unwrap().into_inner().result {
        Some(v1::start_redrive_response::Result::Job(job)) => job,
        other => panic!("no job: {other:?}"),
    }
}

fn check(status: &Status, reason: &str, facts: &[(&str, &str)]) {
    let info = info(status);
    assert_eq!(info.reason, reason, "{status:?}");
    for (name, value) in facts {
        assert_eq!(info.metadata.get(*name).map(String::as_str), Some(*value), "{name} of {info:?}");
    }
}

async fn delete_topic(wire: &mut Wire, name: &str, force: bool) -> Result<String, Status> {
    let request = v1::DeleteTopicRequest { name: name.into(), force };
    Ok(wire.topics.delete_topic(request).await?.into_inner().topic_id)
}

async fn delete_group(wire: &Wire, name: &str, force: bool) -> Result<v1::DeleteGroupResponse, Status> {
    let request = v1::DeleteGroupRequest { name: name.into(), force, ..Default::default() };
    Ok(groups(wire).delete_group(request).await?.into_inner())
}

async fn topic_is_gone(wire: &mut Wire, name: &str) {
    let get = v1::GetTopicRequest { name: name.into() };
    assert_eq!(wire.topics.get_topic(get).await.unwrap_err().code(), Code::NotFound, "{name}");
}

async fn reason_of_job(wire: &Wire, job: &v1::Job) -> String {
    let get = v1::GetJobRequest { job_id: job.job_id.clone() };
    info(&letters(wire).get_job(get).await.unwrap_err()).reason
}

#[tokio::test]
async fn dl_1_only_the_broker_appends_to_changes_trims_or_deletes_a_dead_letter_topic() {
    let (broker, mut wire) = with_dead_letters(TestBroker::start().await).await;
    let facts = [("topic", DLQ)];
    let refused = wire.produce.produce(plain(DLQ, vec![keyed("k0", "mine")])).await.unwrap_err();
    check(&refused, "RESERVED_TOPIC", &facts);
    assert_eq!(info(&refused).metadata["outcome"], "not_written");
    let update = v1::UpdateTopicRequest {
        name: DLQ.into(),
        owner: "me".into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["owner".into()] }),
        ..Default::default()
    };
    check(&wire.topics.update_topic(update).await.unwrap_err(), "RESERVED_TOPIC", &facts);
    let before = vec![v1::PartitionOffset { partition: 0, offset: 1 }];
    let trim = v1::TrimTopicRequest { name: DLQ.into(), before };
    check(&wire.topics.trim_topic(trim).await.unwrap_err(), "RESERVED_TOPIC", &facts);
    for force in [false, true] {
        check(&delete_topic(&mut wire, DLQ, force).await.unwrap_err(), "RESERVED_TOPIC", &facts);
    }
    // Names of dead letters cannot be made by hand, whether taken or free.
    for name in [DLQ, "orders.other.dlq"] {
        let create = v1::CreateTopicRequest { name: name.into(), ..Default::default() };
        check(&wire.topics.create_topic(create).await.unwrap_err(), "INVALID_NAME", &[("name", name)]);
    }
    // It is read like any other.
    let read = wire.values(crate::wire::all_of(DLQ)).await;
    let values: Vec<_> = read.iter().map(|(_, _, value)| value.as_str()).collect();
    assert_eq!(values, ["value 0", "value 3"]);
    broker.shutdown().await;
}

#[tokio::test]
async fn of_8_deleting_a_group_says_what_would_be_lost_and_with_force_nothing_stays() {
    let (mut broker, wire) = with_dead_letters(TestBroker::start().await).await;
    let refused = delete_group(&wire, "billing", false).await.unwrap_err();
    check(&refused, "OPEN_ENTRIES", &[("name", "billing"), ("open_entries", "2")]);
    let running = job(&wire, "billing").await;
    let refused = delete_group(&wire, "billing", false).await.unwrap_err();
    let facts = [("name", "billing"), ("open_entries", "2"), ("job", &running.job_id)];
    check(&refused, "JOB_CONFLICT", &facts);
    assert_eq!(entries(&wire, "billing").await.len(), 2, "a refusal changes nothing");
    let before = entries(&wire, "billing").await.remove(0);

    let gone = delete_group(&wire, "billing", true).await.unwrap();
    assert_eq!((gone.entries_lost, gone.jobs_ended), (2, 1));
    for life in 0..2 {
        let mut wire = Wire::new(&broker).await;
        topic_is_gone(&mut wire, DLQ).await;
        assert_eq!(reason_of_job(&wire, &running).await, "JOB_NOT_FOUND");
        let jobs = letters(&wire).list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
        assert_eq!(jobs, []);
        let get = v1::GetEntryRequest { dlq_id: before.dlq_id.clone() };
        let status = letters(&wire).get_entry(get).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
        let list = v1::ListEntriesRequest { group: "billing".into(), ..Default::default() };
        check(&letters(&wire).list_entries(list).await.unwrap_err(), "GROUP_NOT_FOUND", &[("group", "billing")]);
        let told = metrics(&broker).await;
        let left: Vec<_> = told.lines().filter(|line| line.contains("billing")).collect();
        assert_eq!(left, [""; 0], "life {life}");
        if life == 0 {
            broker.restart().await;
        }
    }
    let topics = std::fs::read_dir(broker.data_dir().join("topics")).unwrap().count();
    assert_eq!(topics, 1, "the files are gone too");
    // A group of its name is another group: it has none of that, and the names are free.
    let mut wire = Wire::new(&broker).await;
    let again = create(&wire, "billing", settings("orders", GroupMode::Keyed)).await;
    assert_ne!(again.group_id, gone.group_id);
    assert_eq!(entries(&wire, "billing").await, []);
    dead_letters(&mut wire, "orders", "billing", 3).await;
    broker.shutdown().await;
}

#[tokio::test]
async fn re_10_deleting_a_topic_says_what_would_be_lost_and_with_force_nothing_stays() {
    let (mut broker, mut wire) = with_dead_letters(TestBroker::start().await).await;
    let refused = delete_topic(&mut wire, "orders", false).await.unwrap_err();
    check(&refused, "OPEN_ENTRIES", &[("topic", "orders"), ("open_entries", "2")]);
    let running = job(&wire, "billing").await;
    let refused = delete_topic(&mut wire, "orders", false).await.unwrap_err();
    let facts = [("topic", "orders"), ("open_entries", "2"), ("job", &running.job_id)];
    check(&refused, "JOB_CONFLICT", &facts);

    delete_topic(&mut wire, "orders", true).await.unwrap();
    // The job has nothing left and ends by itself.
    loop {
        let get = v1::GetJobRequest { job_id: running.job_id.clone() };
        let found = letters(&wire).get_job(get).await.unwrap().into_inner().job.unwrap();
        if found.state() == v1::JobState::Done {
            break;
        }
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        let mut wire = Wire::new(&broker).await;
        topic_is_gone(&mut wire, "orders").await;
        topic_is_gone(&mut wire, DLQ).await;
        assert_eq!(entries(&wire, "billing").await, []);
        let told = metrics(&broker).await;
        let left: Vec<_> = told.lines().filter(|line| line.contains("orders")).collect();
        assert_eq!(left, [""; 0]);
        broker.restart().await;
    }
    assert_eq!(std::fs::read_dir(broker.data_dir().join("topics")).unwrap().count(), 0, "the files are gone too");
    // The group lives on; a topic of that name is another topic, taken from its begin, with dead letters of its own.
    let mut wire = Wire::new(&broker).await;
    wire.topic("orders", v1::TopicConfig::default()).await;
    dead_letters(&mut wire, "orders", "billing", 2).await;
    assert!(delete_group(&wire, "billing", false).await.is_err());
    broker.shutdown().await;
}

#[tokio::test]
async fn of_8_a_topic_is_taken_out_of_a_group_with_its_dead_letters_alone() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    for topic in ["orders", "refunds"] {
        wire.topic(topic, v1::TopicConfig::default()).await;
    }
    let names = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Some(v1::group_config::Subscription::Topics(v1::TopicNames { names }))
    };
    let both = v1::GroupConfig { subscription: names(&["orders", "refunds"]), ..settings("orders", GroupMode::Keyed) };
    create(&wire, "billing", both).await;
    dead_letters(&mut wire, "orders", "billing", 2).await;
    dead_letters(&mut wire, "refunds", "billing", 4).await;
    let running = job(&wire, "billing").await;
    assert_eq!(running.selected, 4);
    let without = |force| v1::UpdateGroupRequest {
        name: "billing".into(),
        config: Some(v1::GroupConfig { subscription: names(&["refunds"]), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["config.topics".into()] }),
        force,
        ..Default::default()
    };
    let refused = groups(&wire).update_group(without(false)).await.unwrap_err();
    check(&refused, "JOB_CONFLICT", &[("job", &running.job_id), ("open_entries", "2")]);
    groups(&wire).update_group(without(true)).await.unwrap();
    topic_is_gone(&mut wire, DLQ).await;
    let left = entries(&wire, "billing").await;
    assert!(left.len() == 2 && left.iter().all(|entry| entry.topic == "refunds"), "{left:?}");
    // The job goes on with what is left to it, and holds that.
    let refused = delete_topic(&mut wire, "refunds", false).await.unwrap_err();
    check(&refused, "JOB_CONFLICT", &[("job", &running.job_id), ("open_entries", "2")]);
    delete_topic(&mut wire, "orders", false).await.unwrap();
    broker.shutdown().await;
}

#[tokio::test]
async fn rd_7_an_entry_that_fails_again_shows_message_and_stack_of_its_last_failure_across_a_restart() {
    let (mut broker, wire) = with_dead_letters(TestBroker::start().await).await;
    job(&wire, "billing").await;
    let (mut member, _) = Member::joined(&wire, join("billing", 2)).await;
    let frame = member.records(1).await.remove(0);
    let error = v1::HandlerError {
        class: "KETTLE".into(),
        message: "no water".into(),
        stack: "at boil()\nat brew()".into(),
        ..Default::default()
    };
    let work = vec![work_of(&frame, &frame.deliveries[0])];
    let kind = NackKind::Dead.into();
    let nack = v1::Nack { sequence: 1, work, kind, error: Some(error.clone()), ..Default::default() };
    assert_eq!(outcome(&member.nack(nack).await), WorkOutcome::Ok);
    let failed = entries(&wire, "billing").await.remove(0);
    let told = failed.error.clone().unwrap();
    assert_eq!((&told.class, &told.message, &told.stack), (&error.class, &error.message, &error.stack));
    assert_eq!(failed.member_id, crate::member::member_id(2));
    drop(member);
    broker.restart().await;
    let wire = Wire::new(&broker).await;
    assert_eq!(entries(&wire, "billing").await.remove(0), failed);
}
