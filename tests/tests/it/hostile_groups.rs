//! Members and operators that no honest client is: frames out of order, verbs about what is not theirs, numbers beyond
//! every bound, floods, silence. Each is answered as the rules say, and nothing else is touched.

use prost::Message as _;
use sawlog_proto::v1::consume_request::Frame as Ask;
use sawlog_proto::v1::consume_response::Frame as Told;
use sawlog_proto::v1::{self, ErrorReason, GroupMode, NackKind, WorkOutcome};
use sawlog_testing::TestBroker;
use tonic::{Code, Status};

use crate::errors::info;
use crate::member::{Member, create, groups, join, letters, member_id, outcome, refusal, settings, work, work_of};
use crate::wire::{Wire, keyed};

/// A broker, a topic with one partition and `records` records of as many keys, and a group on it.
async fn with_group(mode: GroupMode, records: usize) -> (TestBroker, Wire) {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("orders", v1::TopicConfig::default()).await;
    if records > 0 {
        let record = |number| keyed(&format!("key-{number}"), format!("value {number}"));
        wire.write("orders", (0..records).map(record).collect()).await;
    }
    create(&wire, "billing", settings("orders", mode)).await;
    (broker, wire)
}

fn violation(status: &Status) -> String {
    let info = info(status);
    assert_eq!((status.code(), info.reason.as_str()), (Code::InvalidArgument, "PROTOCOL_VIOLATION"));
    info.metadata["frame"].clone()
}

#[tokio::test]
async fn gm_1_frames_out_of_order_end_the_stream_and_no_other() {
    let (broker, wire) = with_group(GroupMode::Keyed, 3).await;
    let (mut honest, _) = Member::joined(&wire, join("billing", 0)).await;
    let mut first = Member::silent(&wire).await;
    first.ask(Ask::Ping(v1::Ping::default())).await;
    assert_eq!(violation(&first.end().await), "first frame");
    let mut nothing = Member::silent(&wire).await;
    nothing.send(v1::ConsumeRequest::default()).await;
    assert_eq!(violation(&nothing.end().await), "first frame");
    let unknown = v1::Work { source_id: 77, ..Default::default() };
    let slots = Some(v1::Slots { from: 9, to: 3 });
    let frames = [
        ("Join", Ask::Join(join("billing", 1))),
        ("source_id", Ask::Ack(v1::Ack { sequence: 1, work: vec![unknown.clone()] })),
        ("source_id", Ask::Started(v1::Started { work: vec![unknown.clone()] })),
        ("source_id", Ask::Commit(v1::Commit { source_id: 0, ..Default::default() })),
        ("source_id", Ask::DeadLetter(v1::DeadLetter { source_id: u32::MAX, ..Default::default() })),
        ("source_id", Ask::Revoked(v1::Revoked { source_id: 5, slots })),
        ("source_id", Ask::ReportProgress(v1::ReportProgress { source_id: 9, ..Default::default() })),
    ];
    for (wrong, frame) in frames {
        let (mut member, _) = Member::joined(&wire, join("billing", 1)).await;
        member.ask(frame.clone()).await;
        assert_eq!(violation(&member.end().await), wrong, "{frame:?}");
    }
    let (mut member, _) = Member::joined(&wire, join("billing", 1)).await;
    member.send(v1::ConsumeRequest::default()).await;
    assert_eq!(violation(&member.end().await), "frame");
    // The honest member never noticed.
    let records = honest.records(1).await;
    let acked = honest.ack(1, work_of(&records[0], &records[0].deliveries[0])).await;
    assert_eq!(outcome(&acked), WorkOutcome::Ok);
    assert!(broker.shutdown().await);
}

#[tokio::test]
async fn gm_1_a_join_that_cannot_be_is_refused_with_its_reason() {
    let (_broker, wire) = with_group(GroupMode::Keyed, 0).await;
    let sound = || join("billing", 1);
    let cases = [
        ("GROUP_NOT_FOUND", v1::Join { group: "nobody".into(), ..sound() }),
        ("INVALID_NAME", v1::Join { group: "../x".into(), ..sound() }),
        ("INVALID_FIELD", v1::Join { member_id: "x".into(), ..sound() }),
        ("INVALID_FIELD", v1::Join { client_version: "v".repeat(300), ..sound() }),
        ("INVALID_FIELD", v1::Join { expected_mode: 77, ..sound() }),
        ("GROUP_MISMATCH", v1::Join { expected_mode: GroupMode::Offset.into(), ..sound() }),
        ("GROUP_MISMATCH", v1::Join { expected_topics: vec!["other".into()], ..sound() }),
        ("WRONG_MODE", v1::Join { form: v1::ReadForm::Batches.into(), ..sound() }),
    ];
    for (reason, join) in cases {
        let mut member = Member::silent(&wire).await;
        member.ask(Ask::Join(join.clone())).await;
        assert_eq!(info(&member.end().await).reason, reason, "{join:?}");
    }
    let (_member, joined) = Member::joined(&wire, sound()).await;
    assert_eq!((joined.mode(), joined.resumed, joined.session_timeout_ms), (GroupMode::Keyed, false, 10_000));
}

#[tokio::test]
async fn fc_2_a_credit_of_zero_gives_nothing_and_one_of_2_to_the_63_everything() {
    let (_broker, wire) = with_group(GroupMode::Keyed, 500).await;
    let none = v1::Join { credit: Some(v1::Credit::default()), ..join("billing", 1) };
    let (mut member, _) = Member::joined(&wire, none).await;
    member.ask(Ask::Credit(v1::Credit::default())).await;
    member.ask(Ask::Ping(v1::Ping { nonce: 7 })).await;
    // Nothing was delivered up to the answer to the ping.
    let nonce = member.until(|told| match told {
        Told::Records(records) => panic!("{} records without credit", records.deliveries.len()),
        Told::Pong(pong) => Some(pong.nonce),
        _ => None,
    });
    assert_eq!(nonce.await, 7);
    member.ask(Ask::Credit(v1::Credit { records: 1 << 63, bytes: u64::MAX })).await;
    member.ask(Ask::Credit(v1::Credit { records: u64::MAX, bytes: 1 << 63 })).await;
    let frames = member.records(500).await;
    assert_eq!(frames.iter().map(|frame| frame.deliveries.len()).sum::<usize>(), 500);
}

#[tokio::test]
async fn ak_2_verbs_about_what_is_not_leased_are_told_so_and_change_nothing() {
    let (_broker, wire) = with_group(GroupMode::Keyed, 4).await;
    let (mut member, _) = Member::joined(&wire, join("billing", 1)).await;
    let frames = member.records(4).await;
    let frame = &frames[0];
    let first = frame.deliveries[0].offset;
    // Never delivered, beyond the log, of another epoch.
    assert_eq!(outcome(&member.ack(1, work(frame, [4_000])).await), WorkOutcome::NotLeased);
    assert_eq!(outcome(&member.ack(2, work(frame, [i64::MAX - 1])).await), WorkOutcome::NotLeased);
    let stale = v1::Work { assignment_epoch: 0, ..work(frame, [first]) };
    assert_eq!(outcome(&member.ack(3, stale).await), WorkOutcome::Fenced);
    let future = v1::Work { assignment_epoch: u64::MAX, ..work(frame, [first]) };
    assert_eq!(outcome(&member.ack(4, future).await), WorkOutcome::Fenced);
    // Twice in one frame, and once more.
    assert_eq!(outcome(&member.ack(5, work(frame, [first, first])).await), WorkOutcome::Ok);
    assert_eq!(outcome(&member.ack(6, work(frame, [first])).await), WorkOutcome::AlreadySettled);
    let nack = v1::Nack { sequence: 7, work: vec![work(frame, [first])], ..Default::default() };
    assert_eq!(outcome(&member.nack(nack).await), WorkOutcome::AlreadySettled);
    // Entries of nobody, and of another group.
    let entry = |dlq_id: &str| {
        let entries = vec![v1::EntryRef { dlq_id: dlq_id.into(), version: Some(9) }];
        v1::Work { entries, ..work(frame, []) }
    };
    assert_eq!(refusal(&member.ack(8, entry("nonsense")).await), ErrorReason::InvalidField);
    let mut topics = wire.topics.clone();
    let topic = topics.get_topic(v1::GetTopicRequest { name: "orders".into() });
    let topic = topic.await.unwrap().into_inner().topic.unwrap().topic_id;
    let foreign = format!("00000000000fffff-{topic}-0-0-0");
    assert_eq!(outcome(&member.ack(9, entry(&foreign)).await), WorkOutcome::NotLeased);
    // The rest is as it was.
    let rest = frames.iter().flat_map(|frame| frame.deliveries.iter().map(|delivery| delivery.offset));
    let rest: Vec<i64> = rest.filter(|offset| *offset != first).collect();
    assert_eq!(outcome(&member.ack(10, work(frame, rest)).await), WorkOutcome::Ok);
}

#[tokio::test]
async fn verbs_beyond_every_bound_are_refused_as_a_whole_and_the_stream_lives_on() {
    let (_broker, wire) = with_group(GroupMode::Keyed, 1).await;
    let (mut member, _) = Member::joined(&wire, join("billing", 1)).await;
    let frames = member.records(1).await;
    let frame = &frames[0];
    let runs = |offsets: Vec<v1::OffsetRun>| v1::Work { offsets, ..work(frame, []) };
    let run = |from, count| v1::OffsetRun { from, count };
    let bad = [
        runs(vec![run(-1, 1)]),
        runs(vec![run(0, u32::MAX)]),
        runs(vec![run(i64::MAX, 2)]),
        runs(vec![run(0, 1); 10_001]),
    ];
    for (sequence, work) in (1..).zip(bad) {
        assert_eq!(refusal(&member.ack(sequence, work).await), ErrorReason::InvalidField);
    }
    let nack = |sequence| v1::Nack { sequence, work: vec![work(frame, [0])], ..Default::default() };
    let bad = [
        v1::Nack { kind: 99, ..nack(10) },
        v1::Nack { kind: -1, ..nack(11) },
        v1::Nack { scope: 99, ..nack(12) },
        v1::Nack { kind: NackKind::Skip.into(), ..nack(13) },
        v1::Nack { reason: "r".repeat(5_000), ..nack(14) },
    ];
    for nack in bad {
        assert_eq!(refusal(&member.nack(nack).await), ErrorReason::InvalidField);
    }
    // Another mode's verbs.
    let commit = v1::Commit { sequence: 20, source_id: frame.source_id, next_offset: 1, ..Default::default() };
    member.ask(Ask::Commit(commit)).await;
    let failure = member.until(|told| if let Told::CommitResult(result) = told { Some(result) } else { None }).await;
    assert_eq!((failure.sequence, failure.failure.unwrap().reason()), (20, ErrorReason::WrongMode));
    let letter = v1::DeadLetter { sequence: 21, source_id: frame.source_id, kind: 1, ..Default::default() };
    member.ask(Ask::DeadLetter(letter)).await;
    let told = member.until(|told| if let Told::DeadLetterResult(result) = told { Some(result) } else { None }).await;
    let Some(v1::dead_letter_result::Result::Failure(failure)) = told.result else { panic!("{told:?}") };
    assert_eq!(failure.reason(), ErrorReason::WrongMode);
    assert_eq!(outcome(&member.ack(30, work(frame, [0])).await), WorkOutcome::Ok);
}

#[tokio::test]
async fn gm_2_acks_of_offsets_are_another_modes_verb_in_a_group_that_commits() {
    let (_broker, wire) = with_group(GroupMode::Offset, 3).await;
    let (mut member, _) = Member::joined(&wire, join("billing", 1)).await;
    let frames = member.records(3).await;
    assert_eq!(refusal(&member.ack(1, work(&frames[0], [0])).await), ErrorReason::WrongMode);
    let commit = |sequence, next_offset, metadata: String| {
        Ask::Commit(v1::Commit {
            sequence,
            source_id: frames[0].source_id,
            assignment_epoch: frames[0].assignment_epoch,
            next_offset,
            metadata,
            ..Default::default()
        })
    };
    let cases = [
        (2, commit(2, -1, String::new()), Some(ErrorReason::InvalidField)),
        (3, commit(3, 2, "m".repeat(5_000)), Some(ErrorReason::InvalidField)),
        (4, commit(4, 4, String::new()), Some(ErrorReason::OffsetOutOfRange)),
        (5, commit(5, 2, "mine".into()), None),
        (6, commit(6, 1, String::new()), Some(ErrorReason::CommitBackwards)),
    ];
    for (sequence, frame, reason) in cases {
        member.ask(frame).await;
        let result = member.until(|told| if let Told::CommitResult(result) = told { Some(result) } else { None }).await;
        assert_eq!((result.sequence, result.failure.map(|failure| failure.reason())), (sequence, reason));
    }
}

#[tokio::test]
async fn rt_5_a_flood_of_nacks_of_one_delivery_is_one_strike_and_each_is_answered() {
    let (_broker, wire) = with_group(GroupMode::Keyed, 1).await;
    let mut config = settings("orders", GroupMode::Keyed);
    config.retry.as_mut().unwrap().max_attempts = Some(100);
    create(&wire, "patient", config).await;
    let (mut member, _) = Member::joined(&wire, join("patient", 1)).await;
    let frame = member.records(1).await.remove(0);
    let error = v1::HandlerError { class: "Flood".into(), message: "m".repeat(1 << 20), ..Default::default() };
    // Room for the answers to all of them while none is read.
    for sequence in 1..=200 {
        let nack =
            v1::Nack { sequence, work: vec![work(&frame, [0])], error: Some(error.clone()), ..Default::default() };
        member.ask(Ask::Nack(nack)).await;
    }
    let (mut answered, mut attempts) = (0, vec![frame.deliveries[0].attempt]);
    while answered < 200 {
        match member.told().await.unwrap() {
            Told::AckResult(result) => {
                answered += 1;
                assert_eq!(result.sequence, answered, "in order");
            }
            Told::Records(records) => attempts.extend(records.deliveries.iter().map(|delivery| delivery.attempt)),
            _ => {}
        }
    }
    // A nack of the next delivery is a strike of its own: each try is counted once.
    let numbers: Vec<u32> = (1..=attempts.len() as u32).collect();
    assert_eq!(attempts, numbers);
}

/// Makes a request one that cannot be.
type Change = fn(&mut v1::EditEntryRequest);

/// Delivers the one record of a topic until it is dead; gives its entry.
async fn killed(wire: &Wire, group: &str, member: &mut Member, error: v1::HandlerError) -> v1::Entry {
    let frame = member.records(1).await.remove(0);
    let nack = v1::Nack {
        sequence: 1_000,
        work: vec![work_of(&frame, &frame.deliveries[0])],
        kind: NackKind::Dead.into(),
        error: Some(error),
        ..Default::default()
    };
    assert_eq!(outcome(&member.nack(nack).await), WorkOutcome::Ok);
    let request = v1::ListEntriesRequest { group: group.into(), with_records: true, ..Default::default() };
    let mut entries = letters(wire).list_entries(request).await.unwrap().into_inner().entries;
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

#[tokio::test]
async fn dl_3_oversized_error_texts_are_cut_and_the_largest_record_fits_its_dead_letter() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    let most = v1::TopicConfig { max_record_bytes: Some(4 << 20), ..Default::default() };
    wire.topic("orders", most).await;
    let value = "v".repeat((4 << 20) - (1 << 10) - (64 << 10) - 64);
    let mut record = keyed(&"k".repeat(1 << 10), value);
    let header = |number| v1::Header { key: format!("{number:02}"), value: vec![b'h'; 1_021].into() };
    record.record.as_mut().unwrap().headers = (0..64).map(header).collect();
    wire.write("orders", vec![record.clone()]).await;
    create(&wire, "billing", settings("orders", GroupMode::Keyed)).await;
    let (mut member, _) = Member::joined(&wire, join("billing", 1)).await;
    let error = v1::HandlerError {
        class: "c".repeat(100_000),
        message: "é".repeat(1 << 19),
        stack: "s".repeat(1 << 20),
        fingerprint: "f".repeat(100_000),
    };
    let entry = killed(&wire, "billing", &mut member, error).await;
    let told = entry.error.unwrap();
    let sizes = (told.class.len(), told.message.len(), told.stack.len(), told.fingerprint.len());
    assert_eq!(sizes, (255, 4 << 10, 16 << 10, 255));
    let (stored, sent) = (entry.record.unwrap(), record.record.unwrap());
    assert!(stored.value == sent.value && stored.key == sent.key && stored.headers == sent.headers, "unchanged");
}

#[tokio::test]
async fn rd_6_edits_redrives_and_discards_that_cannot_be_are_refused() {
    let (_broker, wire) = with_group(GroupMode::Keyed, 1).await;
    let (mut member, _) = Member::joined(&wire, join("billing", 1)).await;
    let entry = killed(&wire, "billing", &mut member, v1::HandlerError::default()).await;
    let mut letters = letters(&wire);
    let edit = |change: fn(&mut v1::EditEntryRequest)| {
        let mut request = v1::EditEntryRequest {
            dlq_id: entry.dlq_id.clone(),
            note: "repaired".into(),
            payload: Some(v1::edit_entry_request::Payload::Value("fixed".into())),
            ..Default::default()
        };
        change(&mut request);
        request
    };
    let bad: [(&str, Change); 5] = [
        ("INVALID_FIELD", |request| request.key = Some("other".into())),
        ("INVALID_FIELD", |request| request.note.clear()),
        ("INVALID_FIELD", |request| request.dlq_id = "x".into()),
        ("ENTRY_NOT_FOUND", |request| request.dlq_id.replace_range(request.dlq_id.len() - 1.., "7")),
        ("STALE_REVISION", |request| request.versions = Some(4)),
    ];
    for (reason, change) in bad {
        let refused = letters.edit_entry(edit(change)).await.unwrap_err();
        assert_eq!(info(&refused).reason, reason, "{refused:?}");
    }
    let selector = Some(v1::EntrySelector { dlq_ids: vec![entry.dlq_id.clone()], ..Default::default() });
    let discard = |reason: &str, selector: Option<v1::EntrySelector>| v1::DiscardRequest {
        group: "billing".into(),
        selector,
        reason: reason.into(),
        ..Default::default()
    };
    for request in [discard("", selector.clone()), discard(&"r".repeat(5_000), selector.clone()), discard("all", None)]
    {
        let refused = letters.discard(request).await.unwrap_err();
        assert_eq!(info(&refused).reason, "INVALID_FIELD");
    }
    let done = letters.discard(discard("worthless", selector.clone())).await.unwrap().into_inner();
    assert_eq!((done.discarded, done.keys_live), (1, 1));
    // What is closed stays closed.
    let redrive = v1::StartRedriveRequest { group: "billing".into(), selector: selector.clone(), ..Default::default() };
    assert_eq!(info(&letters.start_redrive(redrive).await.unwrap_err()).reason, "ENTRY_CLOSED");
    assert_eq!(info(&letters.edit_entry(edit(|_| {})).await.unwrap_err()).reason, "ENTRY_CLOSED");
    assert_eq!(info(&letters.discard(discard("again", selector)).await.unwrap_err()).reason, "ENTRY_CLOSED");
    let job = v1::GetJobRequest { job_id: "0000000000000001-99".into() };
    assert_eq!(info(&letters.get_job(job).await.unwrap_err()).reason, "JOB_NOT_FOUND");
    let cancel = v1::CancelJobRequest { job_id: "nonsense".into() };
    assert_eq!(info(&letters.cancel_job(cancel).await.unwrap_err()).reason, "JOB_NOT_FOUND");
}

#[tokio::test]
async fn of_5_resets_beyond_the_log_are_refused_and_names_that_would_collide_too() {
    let (_broker, mut wire) = with_group(GroupMode::Keyed, 5).await;
    let mut groups = groups(&wire);
    let reset = |offset| {
        let offset = v1::TopicPartitionOffset { topic: "orders".into(), partition: 0, offset, epoch: None };
        let offsets = v1::TopicPartitionOffsets { offsets: vec![offset] };
        v1::ResetPositionsRequest {
            name: "billing".into(),
            target: Some(v1::GroupPosition { at: Some(v1::group_position::At::Offsets(offsets)) }),
            ..Default::default()
        }
    };
    assert_eq!(info(&groups.reset_positions(reset(6)).await.unwrap_err()).reason, "OFFSET_OUT_OF_RANGE");
    assert_eq!(info(&groups.reset_positions(reset(-1)).await.unwrap_err()).reason, "INVALID_FIELD");
    let nothing = v1::ResetPositionsRequest { name: "billing".into(), ..Default::default() };
    assert_eq!(info(&groups.reset_positions(nothing).await.unwrap_err()).reason, "INVALID_FIELD");
    let undo = v1::UndoResetRequest { name: "billing".into(), ..Default::default() };
    assert_eq!(info(&groups.undo_reset(undo).await.unwrap_err()).reason, "NOTHING_TO_UNDO");
    // `a.b` of group `c` and `a` of group `b.c` have one dead-letter name.
    wire.topic("a", v1::TopicConfig::default()).await;
    wire.topic("a.b", v1::TopicConfig::default()).await;
    create(&wire, "c", settings("a.b", GroupMode::Keyed)).await;
    let second = v1::CreateGroupRequest {
        name: "b.c".into(),
        config: Some(settings("a", GroupMode::Keyed)),
        ..Default::default()
    };
    assert_eq!(info(&groups.create_group(second.clone()).await.unwrap_err()).reason, "DLQ_NAME_TAKEN");
    let mut named = second;
    let names = [("a".to_owned(), "mine.dlq".to_owned())].into();
    named.config.as_mut().unwrap().dead_letters = Some(v1::DeadLetterConfig { names, ..Default::default() });
    assert!(groups.create_group(named).await.unwrap().into_inner().created);
}

#[tokio::test]
async fn streams_of_what_is_no_frame_end_with_a_status_and_members_live_on() {
    let (broker, wire) = with_group(GroupMode::Keyed, 2).await;
    let (mut honest, _) = Member::joined(&wire, join("billing", 1)).await;
    let consume = "/sawlog.v1.ConsumeService/Consume";
    let good = v1::ConsumeRequest { frame: Some(Ask::Join(join("billing", 2))) }.encode_to_vec();
    let mut cut = good.clone();
    cut.truncate(good.len() - 3);
    let bodies = [
        crate::hostile::framed(0, u32::MAX, b"x"),
        crate::hostile::framed(0, 1_000, b"x"),
        crate::hostile::framed(1, good.len() as u32, &good),
        crate::hostile::framed(255, good.len() as u32, &good),
        crate::hostile::framed(0, cut.len() as u32, &cut),
        crate::hostile::framed(0, 6, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        crate::hostile::framed(0, 3, &[0x0a, 0x01, 0xff]),
        crate::hostile::framed(0, 0, &[]),
    ];
    for body in bodies {
        let code = crate::hostile::call(&broker, consume, &[], body.clone()).await;
        assert!(code.is_some_and(|code| code != Code::Ok), "{body:?}: {code:?}");
    }
    // A stream without a frame is no session.
    assert_eq!(crate::hostile::call(&broker, consume, &[], Vec::new().into()).await, Some(Code::Ok));
    let members = v1::ListMembersRequest { name: "billing".into(), ..Default::default() };
    let members = groups(&wire).list_members(members).await.unwrap().into_inner().members;
    assert_eq!(members.iter().map(|member| member.member_id.clone()).collect::<Vec<_>>(), [member_id(1)]);
    let frames = honest.records(2).await;
    assert_eq!(outcome(&honest.ack(1, work(&frames[0], [0, 1])).await), WorkOutcome::Ok);
}
