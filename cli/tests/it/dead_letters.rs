//! `dlq` against a broker with real dead letters.

use std::time::Duration;

use sawlog_client::{Client, HandlerError};
use serde_json::Value;

use crate::support::{Broker, Ran};

const PATIENCE: Duration = Duration::from_secs(30);

/// A broker with a topic `orders` of one partition and a group `billing`: of the keys `a`, `b` and `c`, with two
/// records each, `a` and `b` are dead at their first record, for `TEAPOT` and for `KETTLE`; `c` is handled.
struct World {
    broker: Broker,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl World {
    fn new() -> Self {
        let broker = Broker::dev();
        broker.run(&["topic", "create", "orders"]).ended(0);
        broker.run(&["group", "create", "billing", "--topic", "orders", "--max-attempts", "2"]).ended(0);
        let records = "a:1\nb:2\nc:3\na:4\nb:5\nc:6\n";
        broker.run_with_input(&["produce", "orders", "-K", ":"], records).ended(0);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = {
            let _entered = runtime.enter();
            Client::builder(&broker.url).connect_lazy().unwrap()
        };
        let world = Self { broker, runtime, client };
        let class = |value: &str| match value {
            "1" => Some("TEAPOT"),
            "2" => Some("KETTLE"),
            _ => None,
        };
        world.consume(2, class);
        while world.list(&[]).len() < 4 {
            std::thread::yield_now();
        }
        world
    }

    /// Runs a member until it has handled `count` records; those of a class are dead, of `NOT_OURS` skipped. Returns the
    /// values handled.
    fn consume(&self, count: usize, class: fn(&str) -> Option<&'static str>) -> Vec<String> {
        self.runtime.block_on(async {
            let consumer = self.client.consumer("billing").open().await.unwrap();
            let (handled, mut seen) = tokio::sync::mpsc::unbounded_channel();
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let running = consumer.run_until(stopped, PATIENCE, move |record| {
                let value = String::from_utf8(record.value.clone().unwrap_or_default().to_vec()).unwrap();
                let handled = handled.clone();
                async move {
                    if let Some(class) = class(&value) {
                        if class == "NOT_OURS" {
                            return Err(HandlerError::skip("not ours"));
                        }
                        return Err(HandlerError::dead(format!("no {value}")).class(class));
                    }
                    handled.send(value).unwrap();
                    Ok(())
                }
            });
            let values = async {
                let mut values = Vec::new();
                while values.len() < count {
                    values.push(tokio::time::timeout(PATIENCE, seen.recv()).await.unwrap().unwrap());
                }
                stop.send(()).unwrap();
                values
            };
            let (ended, values) = tokio::join!(running, values);
            ended.unwrap();
            values
        })
    }

    fn dlq(&self, arguments: &[&str]) -> Ran {
        self.broker.run(&[&["dlq"], arguments].concat())
    }

    /// Lines of JSON of a command that succeeds.
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        self.dlq(&[arguments, &["--output", "json"]].concat()).ended(0).json()
    }

    fn list(&self, conditions: &[&str]) -> Vec<Value> {
        self.json(&[&["list", "billing"], conditions].concat())
    }

    /// The id of the entry of the record with this offset.
    fn id(&self, offset: u64) -> String {
        let all = self.json(&["list", "billing", "--state", "open"]);
        let entry = all.iter().find(|entry| entry["offset"] == offset).expect("it is open");
        entry["dlq_id"].as_str().expect("a text").to_owned()
    }
}

fn none(_: &str) -> Option<&'static str> {
    None
}

#[test]
fn rd_8_entries_are_listed_by_condition_and_shown_with_record_error_and_history() {
    let world = World::new();
    let offsets = |entries: &[Value]| entries.iter().map(|entry| entry["offset"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(offsets(&world.list(&[])), [0, 1, 3, 4]);
    for (conditions, expected) in [
        (&["--kind", "failed"][..], &[0, 1][..]),
        (&["--kind", "parked"], &[3, 4]),
        (&["--key", "a"], &[0, 3]),
        (&["--class", "KETTLE"], &[1]),
        (&["--because", "consumer-dead-nack"], &[0, 1]),
        (&["--state", "resolved"], &[]),
        (&["--topic", "orders", "--partition", "0", "-n", "3"], &[0, 1, 3]),
        (&["--since", "1h"], &[0, 1, 3, 4]),
        (&["--before", "1h"], &[]),
    ] {
        assert_eq!(offsets(&world.list(conditions)), expected, "{conditions:?}");
    }
    let table = world.dlq(&["list", "billing"]).ended(0);
    assert!(table.out.contains("TEAPOT") && table.out.lines().count() == 5, "{}", table.out);
    assert!(table.err.contains("4 entries") && table.err.contains("sawlog dlq show"), "{}", table.err);
    world.dlq(&["list", "billing", "--topic", "none"]).ended(3);

    let head = world.id(0);
    let shown = world.dlq(&["show", &head]).ended(0);
    for told in ["orders/0 offset 0", "failed", "TEAPOT: no 1", "consumer_dead_nack", "expires", "1 in cycle 0"] {
        assert!(shown.out.contains(told), "{told} is not in {}", shown.out);
    }
    let shown = &world.json(&["show", &world.id(3)])[0];
    assert_eq!((&shown["blocked_by"], &shown["record"]["value"]), (&head.into(), &"4".into()));
    assert_eq!(shown["history"][0]["state"], "open");
    let wrong = world.dlq(&["show", "nonsense"]).ended(2);
    assert!(wrong.err.contains("nonsense"), "{}", wrong.err);
}

#[test]
fn rd_6_an_entry_is_edited_and_its_key_redriven_in_order_with_the_edit() {
    let world = World::new();
    let id = world.id(0);
    world.dlq(&["edit", &id, "--note", "nothing"]).ended(2);
    let edited = world.dlq(&["edit", &id, "--value", "one", "--note", "was a number", "--actor", "ana"]).ended(0);
    assert!(
        edited.out.contains("version 1") && edited.out.contains("sawlog dlq redrive billing --id"),
        "{}",
        edited.out
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "uno").unwrap();
    let path = file.path().to_str().unwrap();
    let again = ["edit", &id, "--file", path, "-H", "source=fix", "--if-versions", "1", "--note", "in Spanish"];
    assert_eq!(world.json(&again)[0]["version"], 2);
    let stale = world.dlq(&again).ended(1);
    assert!(stale.err.contains("STALE_REVISION"), "{}", stale.err);
    let shown = world.dlq(&["show", &id]).ended(0);
    assert!(
        shown.out.contains("uno") && shown.out.contains("was a number") && shown.out.contains("ana"),
        "{}",
        shown.out
    );
    let versions = world.json(&["show", &id])[0]["version_list"].as_array().unwrap().clone();
    let values: Vec<_> = versions.iter().map(|version| version["record"]["value"].as_str().unwrap()).collect();
    assert_eq!(values, ["1", "one", "uno"]);

    let selection = ["redrive", "billing", "--id", &id];
    let dry = world.dlq(&[&selection[..], &["--dry-run"]].concat()).ended(0);
    assert!(dry.err.contains("2 entries of 1 keys") && dry.out.contains("TEAPOT"), "{}\n{}", dry.out, dry.err);
    let dry = &world.json(&[&selection[..], &["--dry-run"]].concat())[0];
    assert_eq!((&dry["entries"], &dry["by_key"][0]["name"]), (&2.into(), &"a".into()));
    assert!(world.json(&["jobs"]).is_empty(), "a dry run makes no job");

    let begun = world.dlq(&[&selection[..], &["--rate", "100", "--note", "mended"]].concat()).ended(0);
    assert!(begun.err.contains("sawlog dlq jobs show"), "{}", begun.err);
    let job = world.json(&["jobs", "--running"])[0].clone();
    assert_eq!((&job["selected"], &job["rate"], &job["note"]), (&2.into(), &100.into(), &"mended".into()));
    let job = job["job_id"].as_str().unwrap().to_owned();
    let taken = world.dlq(&["discard", "billing", "--id", &id, "--reason", "x", "--yes"]).ended(1);
    assert!(taken.err.contains("JOB_CONFLICT") && taken.err.contains(&job), "{}", taken.err);
    assert_eq!(world.consume(2, none), ["uno", "4"], "in order, the first as it was edited");
    let done = &world.json(&["jobs", "show", &job, "--watch"])[0];
    assert_eq!((&done["state"], &done["resolved"], &done["failed"]), (&"done".into(), &2.into(), &0.into()));
    let history = world.json(&["show", &id])[0]["history"].as_array().unwrap().clone();
    let states: Vec<_> = history.iter().map(|event| event["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["open", "open", "open", "redriving", "resolved"], "{history:?}");
    let closed = world.dlq(&["edit", &id, "--value", "x", "--note", "late"]).ended(1);
    assert!(closed.err.contains("ENTRY_CLOSED"), "{}", closed.err);
}

#[test]
fn rd_7_a_job_is_paused_resumed_and_cancelled_and_what_it_had_is_open_again() {
    let world = World::new();
    let begun = world.json(&["redrive", "billing", "--all", "--abort-after", "1", "--rate", "50"]);
    let job = begun[0]["job_id"].as_str().unwrap();
    assert_eq!((&begun[0]["state"], &begun[0]["selected"]), (&"running".into(), &4.into()));
    assert_eq!(world.json(&["jobs", "pause", job])[0]["state"], "paused");
    assert!(world.dlq(&["jobs", "show", job]).ended(0).out.contains("paused by hand"));
    assert_eq!(world.list(&["--state", "open"]).len(), 4);
    let watched = world.dlq(&["jobs", "show", job, "--watch"]).ended(5);
    assert!(watched.err.contains("sawlog dlq jobs resume"), "{}", watched.err);
    assert_eq!(world.json(&["jobs", "resume", job])[0]["state"], "running");
    let asked = world.dlq(&["jobs", "cancel", job]).ended(2);
    assert!(asked.err.contains("--yes"), "{}", asked.err);
    assert_eq!(world.json(&["jobs", "cancel", job, "--yes"])[0]["state"], "cancelled");
    let ended = world.dlq(&["jobs", "resume", job]).ended(1);
    assert!(ended.err.contains("JOB_CLOSED"), "{}", ended.err);
    assert!(world.json(&["jobs", "--group", "billing", "--running"]).is_empty());
    assert_eq!(world.json(&["jobs", "--group", "billing"]).len(), 1);
    assert_eq!(world.list(&["--state", "open"]).len(), 4, "nothing was lost");
}

#[test]
fn rd_8_heads_are_tried_again_or_given_up_and_the_rest_is_discarded() {
    let world = World::new();
    let asked = world.dlq(&["skip-head", "billing", "--topic", "orders", "--key", "a", "--reason", "a test"]).ended(2);
    assert!(asked.err.contains("--yes"), "{}", asked.err);
    let skip = ["skip-head", "billing", "--topic", "orders", "--key", "a", "--reason", "a test", "--yes"];
    let skipped = &world.json(&skip)[0];
    assert_eq!((&skipped["partition"], &skipped["offset"]), (&0.into(), &0.into()));
    let discarded = world.list(&["--state", "discarded"]);
    assert_eq!((discarded.len(), &discarded[0]["closed"]["note"]), (1, &"a test".into()));
    let retried = &world.json(&["retry-head", "billing", "--topic", "orders", "--partition", "0", "--offset", "1"])[0];
    assert_eq!(retried["offset"], 1);
    assert_eq!(world.consume(1, none), ["2"]);
    assert_eq!(world.list(&["--state", "resolved"])[0]["offset"], 1);

    let reason = ["--reason", "old", "--output", "json"];
    let dry = world.dlq(&[&["discard", "billing", "--kind", "parked", "--dry-run"][..], &reason].concat()).ended(0);
    assert_eq!((&dry.json()[0]["discarded"], world.list(&[]).len()), (&2.into(), 2));
    let asked = world.dlq(&[&["discard", "billing", "--kind", "parked"][..], &reason].concat()).ended(2);
    assert!(asked.err.contains("2 dead letters"), "{}", asked.err);
    let done = world.dlq(&["discard", "billing", "--kind", "parked", "--reason", "old", "--yes"]).ended(0);
    assert!(done.out.contains("2 entries discarded, 2 keys live again"), "{}", done.out);
    assert!(world.list(&[]).is_empty());
    let nothing = world.dlq(&["skip-head", "billing", "--topic", "orders", "--key", "a", "--reason", "x", "--yes"]);
    assert!(nothing.ended(3).err.contains("blocks"));
    // Their keys live: what comes is delivered.
    world.broker.run_with_input(&["produce", "orders", "-K", ":"], "a:7\n").ended(0);
    assert_eq!(world.consume(1, none), ["7"]);
}

#[test]
fn rd_8_an_export_holds_every_entry_with_its_record_closed_ones_too() {
    let world = World::new();
    world.dlq(&["discard", "billing", "--id", &world.id(4), "--reason", "x", "--yes"]).ended(0);
    let lines = world.dlq(&["export", "billing"]).ended(0).json();
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line["record"]["key"].as_str().unwrap(), line["record"]["value"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("a", "1"), ("b", "2"), ("a", "4"), ("b", "5")]);
    assert_eq!((&lines[3]["state"], &lines[0]["error"]["class"]), (&"discarded".into(), &"TEAPOT".into()));
    assert_eq!(world.dlq(&["export", "billing", "--state", "open", "--key", "b"]).ended(0).json().len(), 1);
    // Moved to another topic they are new records there, in their order, and closed here.
    world.broker.run(&["topic", "create", "mended", "--partitions", "1"]).ended(0);
    let moved = world.json(&["redrive", "billing", "--key", "a", "--to-topic", "mended", "--watch"]);
    assert_eq!(moved[0]["state"], "done");
    assert_eq!(world.broker.run(&["consume", "mended"]).ended(0).out, "1\n4\n");
    assert!(world.list(&["--key", "a"]).is_empty() && world.list(&["--state", "moved"]).len() == 2);
}

#[test]
fn rd_3_a_redrive_into_the_source_topic_appends_each_record_once_while_its_group_reads_it() {
    let world = World::new();
    world.json(&["redrive", "billing", "--all", "--to-topic", "orders"]);
    let again = world.consume(4, none);
    while world.json(&["jobs", "--group", "billing"])[0]["state"] != "done" {
        std::thread::yield_now();
    }
    let of = |key: [&str; 2]| again.iter().filter(|value| key.contains(&value.as_str())).cloned().collect::<Vec<_>>();
    assert_eq!((of(["1", "4"]), of(["2", "5"])), (vec!["1".into(), "4".into()], vec!["2".into(), "5".into()]));
    let stored = world.broker.run(&["consume", "orders"]).ended(0).out;
    assert_eq!(stored.lines().count(), 10, "each once: {stored}");
    assert_eq!(world.list(&["--state", "moved"]).len(), 4);
    assert!(world.list(&["--state", "open"]).is_empty());
}

#[test]
fn ak_1_who_skipped_what_and_why_is_shown() {
    let world = World::new();
    world.broker.run_with_input(&["produce", "orders", "-K", ":"], "d:7\nd:8\n").ended(0);
    assert_eq!(world.consume(1, |value| (value == "7").then_some("NOT_OURS")), ["8"]);
    let shown = world.broker.run(&["group", "show", "billing", "--output", "json"]).ended(0).json();
    let skip = &shown[0]["skips"][0];
    assert_eq!(
        (&skip["topic"], &skip["partition"], &skip["reason"]),
        (&"orders".into(), &0.into(), &"not ours".into())
    );
    assert_eq!((&skip["runs"][0]["from"], &skip["runs"][0]["to"]), (&6.into(), &7.into()));
    let table = world.broker.run(&["group", "show", "billing"]).ended(0).out;
    assert!(table.contains("6..7") && table.contains("not ours"), "{table}");
}

#[test]
fn of_8_deleting_with_dead_letters_tells_them_and_goes_on_with_force() {
    let world = World::new();
    for what in [["group", "delete", "billing", "--yes"], ["topic", "delete", "orders", "--yes"]] {
        let refused = world.broker.run(&what).ended(1);
        assert!(refused.err.contains("OPEN_ENTRIES") && refused.err.contains("open_entries: 4"), "{}", refused.err);
        assert!(refused.err.contains("--force"), "{}", refused.err);
    }
    let begun = world.json(&["redrive", "billing", "--all"]);
    let job = begun[0]["job_id"].as_str().unwrap();
    for what in [["group", "delete", "billing", "--yes"], ["topic", "delete", "orders", "--yes"]] {
        let refused = world.broker.run(&what).ended(1);
        assert!(refused.err.contains("JOB_CONFLICT") && refused.err.contains(job), "{}", refused.err);
        assert!(refused.err.contains("--force"), "{}", refused.err);
    }
    let gone = world.broker.run(&["group", "delete", "billing", "--force", "--yes"]).ended(0);
    assert!(gone.out.contains("4 open dead letters and 1 jobs"), "{}", gone.out);
    world.dlq(&["list", "billing"]).ended(3);
    assert!(!world.broker.run(&["topic", "list"]).ended(0).out.contains(".dlq"));
    world.broker.run(&["topic", "delete", "orders", "--yes"]).ended(0);
}
