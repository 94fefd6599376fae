//! Tables made anew from copies in memory.

use std::sync::Arc;

use super::lost_entries;
use crate::dead_letter::handle::{DeadLetters as _, GroupHandle as _};
use crate::dead_letter::test_support::{GROUP, SOURCE, TOPIC, key, lane};
use crate::dead_letter::test_world::{World, record, runtime};
use crate::dead_letter::views::Edit;
use crate::group::entry::{Entry, EntryKey, EntryRecord, EntryState, EntryTable};
use crate::group::state::{GroupState, PartitionState};
use crate::model::{KeySlot, LaneKey, Offset, PartitionId, Source};

fn place(key: Option<&[u8]>, offset: Offset) -> (LaneKey, KeySlot) {
    (lane(key, offset), KeySlot::new(3).expect("a slot"))
}

fn state(world: &World) -> GroupState {
    let mut found = None;
    world.group.with_state(&mut |state| found = Some(state.clone()));
    found.expect("it was looked at")
}

async fn rebuilt(world: &World, state: &GroupState, mut table: EntryTable) -> EntryTable {
    let records = lost_entries(&*world.logs, state, &table, place).await.expect("the copies can be read");
    records.iter().for_each(|record| table.replay(record).expect("it fits"));
    let again = lost_entries(&*world.logs, state, &table, place).await.expect("the copies can be read");
    assert_eq!(again, [], "a second run finds nothing");
    table
}

fn all(table: &EntryTable) -> Vec<(EntryKey, Entry)> {
    table.iter().collect()
}

fn mended(offset: u64) -> Edit {
    Edit {
        key: key(offset),
        value: Some(Some("mended".into())),
        headers: None,
        record_key: None,
        versions: None,
        actor: "ana".into(),
        note: "a comma".into(),
    }
}

#[test]
fn ak_11_entries_that_were_lost_are_made_anew_from_their_copies() {
    runtime().block_on(async {
        let world = World::new().await;
        for _ in 0..2 {
            world.letters.edit(&world.handle, mended(4)).await.expect("it is open");
        }
        world.resolve(0);
        let had = world.group.state.lock().table.clone();
        let found = rebuilt(&world, &state(&world), EntryTable::default()).await;
        assert_eq!(found.len(), 9);
        for ((key, found), (had_key, had)) in all(&found).into_iter().zip(all(&had)) {
            assert_eq!(key, had_key);
            assert_eq!(found.state, EntryState::Open, "its state is lost: it is open (rule DL-12)");
            let place = |entry: &Entry| (entry.lane, entry.copy, entry.cycle, entry.kind, entry.reason, entry.holds);
            assert_eq!(place(&found), place(&had));
            assert_eq!((found.dead_ms, found.attempts), (had.dead_ms, had.attempts));
            assert_eq!(found.versions, had.versions);
        }
        // What is back can be worked with: the newest version is the one that was stored.
        *world.group.state.lock() = Default::default();
        world.group.state.lock().table = found;
        let details = world.letters.get(&world.handle, key(4)).await.expect("it is there");
        assert_eq!(details.view.record.expect("it has one").value.as_deref(), Some(&b"mended"[..]));
        assert_eq!(details.versions[1].act.note, "a comma");
    });
}

#[test]
fn ak_11_what_the_journal_still_has_stays_as_it_is() {
    runtime().block_on(async {
        let world = World::new().await;
        world.letters.edit(&world.handle, mended(7)).await.expect("it is open");
        world.resolve(0);
        let had = world.group.state.lock().table.clone();
        // The last three and the edit are lost.
        let mut left = EntryTable::default();
        for (key, mut entry) in all(&had).into_iter().filter(|(key, _)| key.offset.get() < 6 || key.offset.get() == 7) {
            entry.versions.clear();
            left.replay(&EntryRecord::Opened { key, entry: Box::new(entry) }).expect("it fits");
        }
        let found = rebuilt(&world, &state(&world), left).await;
        assert_eq!(found.state_of(&key(0)), Some(EntryState::Resolved { version: 0 }), "what is known is newer");
        assert_eq!(found.get(&key(7)).expect("it was there").versions.len(), 1);
        assert_eq!(found.get(&key(8)).expect("it is back").state, EntryState::Open);
        assert_eq!(found.len(), 9);
    });
}

#[test]
fn ak_11_a_later_death_a_cut_and_a_topic_that_went_are_seen_and_an_open_intent_is_left_to_its_mover() {
    runtime().block_on(async {
        let world = World::new().await;
        let mut left = world.group.state.lock().table.clone();
        // An entry of an earlier cycle than its copy says: a death after a clearing was lost.
        let mut early = left.get(&key(2)).expect("it is there");
        early.cycle = 0;
        early.state = EntryState::Cleared;
        left.replay(&EntryRecord::Opened { key: key(2), entry: Box::new(early) }).expect("it fits");
        let letters = world.logs.letters.lock().clone().expect("they were made");
        let (moves, after) = world.group.kill(&[2], |offset| record(offset).key.map(Into::into));
        for intent in world.group.state.lock().intents.values_mut() {
            intent.cycle = 1;
        }
        let intents = world.group.state.lock().intents.clone();
        world.letters.moves(&world.handle, moves, after, false);
        world.settle().await;
        assert_eq!(letters.records().len(), 10);
        // Of a topic that the group does not have any more.
        let gone = Source { partition: PartitionId(0), topic: crate::model::TopicUuid([9; 16]) };
        let entry = Box::new(left.get(&key(1)).expect("it is there"));
        left.replay(&EntryRecord::Opened { key: EntryKey { source: gone, ..key(1) }, entry }).expect("it fits");
        let mut state = state(&world);
        let start = crate::group::record::Start { source: SOURCE, offset: Offset::ZERO, epoch: key(2).epoch };
        let mut partition = PartitionState::new(&start);
        partition.intents = intents;
        state.partitions.insert(SOURCE, partition);
        let found = rebuilt(&world, &state, left.clone()).await;
        assert_eq!(found.get(&key(2)).expect("it is there").cycle, 0, "its intent is open");
        assert_eq!(found.sources().collect::<Vec<_>>(), [SOURCE]);
        state.partitions.get_mut(&SOURCE).expect("just put in").intents.clear();
        let found = rebuilt(&world, &state, left).await;
        let again = found.get(&key(2)).expect("it is there");
        assert_eq!((again.cycle, again.state, again.copy.get()), (1, EntryState::Open, 9));
        // Copies of another group prove nothing.
        let other = GroupState { id: crate::model::GroupId(GROUP.0 + 1), ..state };
        assert_eq!(rebuilt(&world, &other, EntryTable::default()).await.len(), 0);
        assert!(other.topics.contains_key(&TOPIC) && Arc::strong_count(&letters) > 0);
    });
}
