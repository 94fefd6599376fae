use super::*;
use crate::group::effect::{Delivered, Refusal};
use crate::model::{AssignmentEpoch, MemberId, PartitionId, Source, TopicUuid};
use crate::partition::journal_thread::JournalSequence;

fn written(group: u64, entries: u64) -> Written {
    Written { group: JournalSequence(group), entries: JournalSequence(entries) }
}

fn push(outbox: &Outbox, frame: Frame, after: After, at: Written) {
    outbox.push(Outgoing { member: MemberId([1; 16]), frame, after }, at);
}

fn deliver(number: u64) -> Frame {
    let source = Source { topic: TopicUuid([0; 16]), partition: PartitionId(0) };
    Frame::Deliver(Delivered { source, epoch: AssignmentEpoch(number), records: Vec::new(), replay: None })
}

fn answer(request: u64) -> Frame {
    let source = Source { topic: TopicUuid([0; 16]), partition: PartitionId(0) };
    Frame::AckResults { request, results: Vec::new(), entries: Vec::new(), source }
}

fn name(next: Next) -> String {
    match next {
        Next::Frame(Frame::Deliver(delivered)) => format!("deliver {}", delivered.epoch),
        Next::Frame(Frame::AckResults { request, .. }) => format!("answer {request}"),
        Next::Frame(Frame::Goodbye { .. }) => "goodbye".into(),
        Next::Frame(Frame::Ended(_)) => "ended".into(),
        Next::Frame(other) => format!("{other:?}"),
        Next::Wait(gates) => format!("wait {}", gates.len()),
        Next::End => "end".into(),
    }
}

#[test]
fn ak_3_an_answer_waits_for_its_records_and_holds_up_no_delivery() {
    let outbox = Outbox::default();
    push(&outbox, answer(1), After::Group, written(5, 0));
    push(&outbox, deliver(1), After::Now, written(5, 0));
    assert_eq!(name(outbox.take(written(4, 0), true)), "deliver 1");
    assert_eq!(name(outbox.take(written(4, 0), true)), "wait 1");
    assert_eq!(name(outbox.take(written(5, 0), true)), "answer 1");
}

#[test]
fn dl_4_an_answer_behind_an_entry_waits_for_both_journals() {
    let outbox = Outbox::default();
    push(&outbox, answer(1), After::Entries, written(5, 3));
    assert_eq!(name(outbox.take(written(5, 2), true)), "wait 1");
    assert_eq!(name(outbox.take(written(4, 3), true)), "wait 1");
    assert_eq!(name(outbox.take(written(5, 3), true)), "answer 1");
}

#[test]
fn rt_6_a_retry_waits_for_its_count_while_first_deliveries_pass_it_but_no_other_frame_does() {
    let outbox = Outbox::default();
    push(&outbox, deliver(1), After::Group, written(9, 0));
    push(&outbox, deliver(2), After::Now, written(9, 0));
    push(&outbox, Frame::Goodbye { reconnect_after_ms: 1 }, After::Now, written(9, 0));
    push(&outbox, deliver(3), After::Now, written(9, 0));
    assert_eq!(name(outbox.take(written(8, 0), false)), "wait 1", "with several a key in flight nothing passes");
    assert_eq!(name(outbox.take(written(8, 0), true)), "deliver 2");
    assert_eq!(name(outbox.take(written(8, 0), true)), "wait 1");
    assert!(outbox.has_news());
    assert_eq!(name(outbox.take(written(9, 0), true)), "deliver 1");
    assert_eq!(name(outbox.take(written(9, 0), true)), "goodbye");
    assert_eq!(name(outbox.take(written(9, 0), true)), "deliver 3");
}

#[test]
fn gm_10_a_stream_ends_behind_its_last_answer_once_the_leave_is_durable() {
    let outbox = Outbox::default();
    push(&outbox, answer(1), After::Group, written(2, 0));
    outbox.finish(written(3, 0));
    push(&outbox, deliver(1), After::Now, written(4, 0));
    assert_eq!(name(outbox.take(written(2, 0), true)), "answer 1");
    assert_eq!(name(outbox.take(written(2, 0), true)), "wait 1");
    assert_eq!(name(outbox.take(written(3, 0), true)), "end");
}

#[test]
fn an_ended_session_gets_nothing_behind_its_end() {
    let outbox = Outbox::default();
    push(&outbox, Frame::Ended(Refusal::SessionOver), After::Now, written(0, 0));
    push(&outbox, deliver(1), After::Now, written(0, 0));
    assert_eq!(name(outbox.take(written(0, 0), true)), "ended");
    assert_eq!(name(outbox.take(written(0, 0), true)), "end");
}
