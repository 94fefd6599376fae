//! What operators do with entries: over a group and logs in memory.

use bytes::Bytes;
use sawlog_proto::batch::RecordHeader;

use super::{PageRequest, Selector};
use crate::clock::Clock as _;
use crate::dead_letter::LetterError;
use crate::dead_letter::test_support::{key, lane};
use crate::dead_letter::test_world::{World, runtime};
use crate::dead_letter::views::{Edit, HeadOf, StateName};
use crate::group::entry::{Act, DeadReason, EntryState};
use crate::group::event::Admin;
use crate::model::{HeaderCondition, HeaderValue, PartitionId};

const PAGE: PageRequest = PageRequest { after: None, limit: 100, with_records: true, max_bytes: 1 << 20 };

fn edit(offset: u64) -> Edit {
    Edit {
        key: key(offset),
        value: Some(Some(Bytes::from_static(b"mended"))),
        headers: None,
        record_key: None,
        versions: None,
        actor: "ana".into(),
        note: "a comma was missing".into(),
    }
}

fn ids(offsets: &[u64]) -> Selector {
    Selector { ids: offsets.iter().map(|offset| key(*offset)).collect(), ..Selector::default() }
}

async fn listed(world: &World, selector: &Selector, page: PageRequest) -> Vec<u64> {
    let page = world.letters.list(&world.handle, selector, page).await.expect("they can be read");
    page.entries.iter().map(|view| view.key.offset.get()).collect()
}

#[test]
fn rd_8_entries_are_listed_by_each_condition_and_page_by_page() {
    runtime().block_on(async {
        let world = World::new().await;
        world.resolve(4);
        let header = HeaderCondition { key: "n".into(), value: HeaderValue::Equals(Bytes::from_static(b"7")) };
        let cases: [(Selector, &[u64]); 9] = [
            (Selector::default(), &[0, 1, 2, 3, 5, 6, 7, 8]),
            (Selector { states: vec![StateName::Resolved], ..Selector::default() }, &[4]),
            (Selector { key: Some(Bytes::from_static(b"k1")), ..Selector::default() }, &[1, 7]),
            (Selector { headers: vec![header], ..Selector::default() }, &[7]),
            (Selector { partition: Some(PartitionId(1)), ..Selector::default() }, &[]),
            (Selector { class: Some("Timeout".into()), ..ids(&[0, 8]) }, &[0, 8]),
            (Selector { class: Some("Other".into()), ..Selector::default() }, &[]),
            (Selector { reason: Some(DeadReason::Parked), ..Selector::default() }, &[]),
            (ids(&[4, 2, 2]), &[2, 4]),
        ];
        for (selector, expected) in cases {
            assert_eq!(listed(&world, &selector, PAGE).await, expected, "{selector:?}");
        }
        let unknown = Selector { topic: Some("others".into()), ..Selector::default() };
        assert!(matches!(world.letters.list(&world.handle, &unknown, PAGE).await, Err(LetterError::Topic(_))));
        for limit in 1..10 {
            let (mut after, mut seen) = (None, Vec::new());
            loop {
                let request = PageRequest { after, limit, ..PAGE };
                let page = world.letters.list(&world.handle, &Selector::default(), request).await.expect("read");
                seen.extend(page.entries.iter().map(|view| view.key.offset.get()));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, [0, 1, 2, 3, 5, 6, 7, 8], "pages of {limit}");
        }
        assert_eq!(
            listed(&world, &Selector::default(), PageRequest { max_bytes: 1, ..PAGE }).await,
            [0],
            "one at least"
        );
    });
}

#[test]
fn rd_6_an_edit_keeps_the_original_and_says_who_and_why() {
    runtime().block_on(async {
        let world = World::new().await;
        let (view, version) = world.letters.edit(&world.handle, edit(4)).await.expect("it is open");
        assert_eq!((version, view.entry.versions.len()), (1, 1));
        let record = view.record.expect("it is there");
        assert_eq!((record.value.as_deref(), record.key.as_deref()), (Some(&b"mended"[..]), Some(&b"k1"[..])));
        let tombstone = Edit { value: Some(None), versions: Some(1), ..edit(4) };
        assert_eq!(world.letters.edit(&world.handle, tombstone).await.expect("it is open").1, 2);
        let details = world.letters.get(&world.handle, key(4)).await.expect("it is there");
        let values: Vec<_> = details.versions.iter().map(|one| one.record.clone().expect("kept").value).collect();
        assert_eq!(values, [Some(Bytes::from("value 4")), Some(Bytes::from("mended")), None]);
        assert_eq!(
            (details.versions[1].act.actor.as_str(), details.versions[1].act.note.as_str()),
            ("ana", "a comma was missing")
        );
        assert!(details.versions.iter().all(|one| one.record.as_ref().is_some_and(|record| record.headers.len() == 1)));
        assert_eq!(details.history.iter().filter(|event| event.version > 0).count(), 2);
        let stale = world.letters.edit(&world.handle, Edit { versions: Some(1), ..edit(4) }).await;
        assert!(matches!(stale, Err(LetterError::StaleVersion { given: 1, current: 2 })), "{stale:?}");
    });
}

#[test]
fn rd_6_key_and_tenant_cannot_be_edited_and_closed_entries_neither() {
    runtime().block_on(async {
        let world = World::new().await;
        let header = |name: &'static str| RecordHeader { key: Bytes::from_static(name.as_bytes()), value: None };
        let bad = [
            Edit { record_key: Some(Bytes::from_static(b"k2")), ..edit(4) },
            Edit { headers: Some(vec![header("tenant_id")]), ..edit(4) },
            Edit { headers: Some(vec![header("dlq.id")]), ..edit(4) },
            Edit { headers: Some((0..65).map(|_| header("h")).collect()), ..edit(4) },
            Edit { note: "  ".into(), ..edit(4) },
            Edit { value: Some(Some(Bytes::from(vec![0; (4 << 20) + 1]))), ..edit(4) },
        ];
        for edit in bad {
            let refused = world.letters.edit(&world.handle, edit).await;
            assert!(matches!(refused, Err(LetterError::Invalid { .. })), "{refused:?}");
        }
        assert!(world.group.entry(key(4)).versions.is_empty());
        let own = Edit { record_key: Some(Bytes::from_static(b"k1")), ..edit(4) };
        world.letters.edit(&world.handle, own).await.expect("its own key is no change");
        world.resolve(5);
        let closed = world.letters.edit(&world.handle, edit(5)).await;
        assert!(matches!(closed, Err(LetterError::EntryClosed { .. })), "{closed:?}");
        let unknown = world.letters.edit(&world.handle, edit(11)).await;
        assert!(matches!(unknown, Err(LetterError::EntryNotFound { .. })), "{unknown:?}");
    });
}

#[test]
fn rd_8_a_discard_needs_a_reason_and_a_condition_and_tells_what_became_live() {
    runtime().block_on(async {
        let world = World::new().await;
        let letters = &world.letters;
        let silent = letters.discard(&world.handle, &ids(&[0]), "ana", "", false).await;
        assert!(matches!(silent, Err(LetterError::Invalid { field: "reason", .. })), "{silent:?}");
        let all = letters.discard(&world.handle, &Selector::default(), "ana", "why not", false).await;
        assert!(matches!(all, Err(LetterError::Invalid { field: "selector", .. })), "{all:?}");
        let of_key = Selector { key: Some(Bytes::from_static(b"k1")), ..Selector::default() };
        let would = letters.discard(&world.handle, &of_key, "ana", "test data", true).await.expect("open");
        assert_eq!((would.entries, world.group.entry(key(1)).state), (3, EntryState::Open));
        let done = letters.discard(&world.handle, &of_key, "ana", "test data", false).await.expect("open");
        assert_eq!((done.entries, done.lanes_live), (3, 1));
        let entry = world.group.entry(key(7));
        assert_eq!((entry.state, entry.act.note.as_str()), (EntryState::Discarded, "test data"));
        let again = letters.discard(&world.handle, &ids(&[1]), "ana", "again", false).await;
        assert!(matches!(again, Err(LetterError::EntryClosed { .. })), "{again:?}");
    });
}

#[test]
fn rd_8_the_head_of_a_key_is_found_by_key_entry_and_offset() {
    runtime().block_on(async {
        let world = World::new().await;
        let heads = [
            HeadOf::Key { topic: "orders".into(), key: Bytes::from_static(b"k2") },
            HeadOf::Entry(key(8)),
            HeadOf::Offset { topic: "orders".into(), partition: PartitionId(0), offset: key(5).offset },
            HeadOf::Offset { topic: "orders".into(), partition: PartitionId(0), offset: key(11).offset },
        ];
        for head in heads {
            let view = world.letters.skip_head(&world.handle, &head, "ana", "bad").await.expect("it is dead");
            assert_eq!((view.record, view.is_entry, view.lane), (key(2), true, lane(Some(b"k2"), key(2).offset)));
        }
        let nobody = HeadOf::Key { topic: "orders".into(), key: Bytes::from_static(b"k9") };
        let none = world.letters.retry_head(&world.handle, &nobody, "ana").await;
        assert!(matches!(none, Err(LetterError::NoHead)), "{none:?}");
        let silent = world.letters.skip_head(&world.handle, &HeadOf::Entry(key(0)), "ana", " ").await;
        assert!(matches!(silent, Err(LetterError::Invalid { .. })), "{silent:?}");
    });
}

#[test]
fn dl_12_a_lost_copy_is_made_good_from_the_source_and_without_one_it_is_told() {
    runtime().block_on(async {
        let world = World::new().await;
        let letters = world.logs.letters.lock().clone().expect("they are made");
        letters.trim(key(9).offset);
        let view = world.letters.get(&world.handle, key(4)).await.expect("from the source").view;
        assert_eq!(view.record.and_then(|record| record.value), Some(Bytes::from("value 4")));
        world.logs.source.lock().trim(key(9).offset);
        let details = world.letters.get(&world.handle, key(4)).await.expect("it is there all the same");
        assert!(details.view.record.is_none() && details.view.copy.is_none());
        let edited = world.letters.edit(&world.handle, edit(4)).await;
        assert!(matches!(edited, Err(LetterError::Read { .. })), "{edited:?}");
        world.letters.discard(&world.handle, &ids(&[4]), "ana", "lost", false).await.expect("it can be given up");
    });
}

#[test]
fn dl_12_the_history_tells_all_that_was_done_over_a_restart() {
    runtime().block_on(async {
        let mut world = World::new().await;
        world.clock.advance(std::time::Duration::from_secs(1));
        world.letters.edit(&world.handle, edit(8)).await.expect("it is open");
        let at = |world: &World| world.clock.advance(std::time::Duration::from_secs(1));
        at(&world);
        let redrive = Admin::Redrive { job: 7, entries: vec![key(8)], act: act(&world, "ben", "again") };
        world.letters.act(&world.handle, redrive).await.expect("it is open");
        at(&world);
        let ended = Admin::EndRedrive { job: 7, act: act(&world, "broker", "its job does not run") };
        world.letters.act(&world.handle, ended).await.expect("it has it");
        at(&world);
        let reason = "a test order";
        world.letters.discard(&world.handle, &ids(&[8]), "cleo", reason, false).await.expect("it is open");
        world.restart().await;
        let details = world.letters.get(&world.handle, key(8)).await.expect("it is there");
        let told: Vec<_> = details.history.iter().map(|event| (event.state, event.act.actor.as_str())).collect();
        let expected = [
            (StateName::Open, "broker"),
            (StateName::Open, "ana"),
            (StateName::Redriving, "ben"),
            (StateName::Open, "broker"),
            (StateName::Discarded, "cleo"),
        ];
        assert_eq!(told, expected, "{:?}", details.history);
        assert_eq!((details.history[4].act.note.as_str(), details.history[4].cycle), (reason, 1));
    });
}

fn act(world: &World, actor: &str, note: &str) -> Act {
    Act { actor: actor.into(), time_ms: world.clock.wall_ms(), note: note.into() }
}
