//! `replay`: into groups, topics and files, and what is refused.

use serde_json::Value;

use crate::support::{Broker, Ran};

/// How often a copy that is under way is looked for.
const LOOKS: u32 = 3_000;

/// A broker with a topic `orders` of two partitions and `count` records of ten keys, every third one with a header.
fn orders(count: u32) -> Broker {
    let broker = Broker::dev();
    broker.run(&["topic", "create", "orders", "--partitions", "2"]).ended(0);
    more(&broker, 0..count);
    broker
}

fn more(broker: &Broker, numbers: std::ops::Range<u32>) {
    let line = |number: u32| {
        let headers = if number.is_multiple_of(3) { r#","headers":{"source":"shop"}"# } else { "" };
        format!(
            "{{\"key\":\"k{}\",\"value\":\"{number}\",\"timestamp_ms\":{}{headers}}}\n",
            number % 10,
            1_000 + number
        )
    };
    broker.run_with_input(&["produce", "orders", "--json"], numbers.map(line).collect::<String>()).ended(0);
}

fn start(broker: &Broker, arguments: &[&str]) -> Ran {
    broker.run(&[&["replay", "start", "orders"], arguments].concat())
}

fn records(broker: &Broker, topic: &str) -> Vec<Value> {
    broker.run(&["consume", topic, "--output", "json"]).ended(0).json()
}

/// Key, value, time and own headers of each record of a copy or its source, in the order of each key.
fn contents(records: &[Value]) -> Vec<(String, String, i64, Vec<Value>)> {
    let own = |header: &&Value| !header["key"].as_str().unwrap().starts_with("replay.");
    let content = |record: &Value| {
        let headers = record["headers"].as_array().into_iter().flatten().filter(own).cloned().collect();
        let text = |name: &str| record[name].as_str().unwrap().to_owned();
        (text("key"), text("value"), record["timestamp_ms"].as_i64().unwrap(), headers)
    };
    let mut contents: Vec<_> = records.iter().map(content).collect();
    // Stable, so the order of each key stays.
    contents.sort_by(|one, other| one.0.cmp(&other.0));
    contents
}

#[test]
fn rp_1_a_copy_keeps_records_in_order_says_where_they_came_from_and_does_not_double() {
    let broker = orders(60);
    broker.run(&["topic", "create", "copy", "--partitions", "3"]).ended(0);
    // A first part, so that the second run finds some of its records copied.
    let told = start(&broker, &["--into", "topic:copy", "--to", "20", "--output", "json"]).ended(0).json();
    let first = told[0]["copied"].as_u64().unwrap();
    assert!(first > 0 && told[0]["there_already"] == 0, "{told:?}");
    let told = start(&broker, &["--into", "topic:copy", "--output", "json"]).ended(0).json();
    assert_eq!((&told[0]["copied"], &told[0]["there_already"]), (&(60 - first).into(), &first.into()));
    let (source, copy) = (records(&broker, "orders"), records(&broker, "copy"));
    assert_eq!(contents(&copy), contents(&source));
    let origin = |record: &Value, name: &str| {
        let headers = record["headers"].as_array().unwrap();
        headers.iter().find(|header| header["key"] == name).unwrap()["value"].as_str().unwrap().to_owned()
    };
    for record in &copy {
        let of = source.iter().find(|of| of["value"] == record["value"]).unwrap();
        assert_eq!(origin(record, "replay.topic"), "orders");
        for name in ["partition", "offset", "epoch", "append_time_ms"] {
            assert_eq!(origin(record, &format!("replay.{name}")), of[name].to_string(), "{name}");
        }
    }
    // A copy of the copy, of some records; what comes later is copied later.
    broker.run(&["topic", "create", "second"]).ended(0);
    let again = ["replay", "start", "copy", "--into", "topic:second", "--filter", "header.source=shop"];
    assert!(broker.run(&again).ended(0).err.contains("20 records copied"));
    assert_eq!(origin(&records(&broker, "second")[0], "replay.topic"), "copy");
    more(&broker, 60..66);
    let ran = start(&broker, &["--into", "topic:copy"]).ended(0);
    assert!(ran.err.contains("6 records copied to topic copy, 60 were there already"), "{}", ran.err);
    assert_eq!(contents(&records(&broker, "copy")), contents(&records(&broker, "orders")));
}

#[test]
fn rp_1_a_copy_that_was_killed_goes_on_and_does_not_double() {
    let broker = orders(400);
    broker.run(&["topic", "create", "copy", "--partitions", "3"]).ended(0);
    let mut killed = broker.command(&["replay", "start", "orders", "--into", "topic:copy", "--rate", "50"]);
    let mut killed = killed.stderr(std::process::Stdio::null()).spawn().unwrap();
    // Were there no pace (rule RP-4), all of it would be there at the first look: it is one batch.
    let some = (0..LOOKS).any(|_| !records(&broker, "copy").is_empty());
    killed.kill().unwrap();
    killed.wait().unwrap();
    let before = records(&broker, "copy").len();
    assert!(some && before < 400, "{before}");
    let ran = start(&broker, &["--into", "topic:copy"]).ended(0);
    assert!(ran.err.contains(&format!("{} records copied to topic copy, {before} were", 400 - before)), "{}", ran.err);
    assert_eq!(contents(&records(&broker, "copy")), contents(&records(&broker, "orders")));
}

#[test]
fn rp_1_a_copy_in_a_file_can_be_produced_again_and_has_its_name_once_it_is_whole() {
    let broker = orders(30);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.ndjson");
    let into = format!("file:{}", path.display());
    let ran = start(&broker, &["--into", &into, "--rate", "100000", "--output", "json"]).ended(0);
    assert_eq!(ran.json()[0]["copied"], 30);
    let lines = std::fs::read_to_string(&path).unwrap();
    let mut copied: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut source = records(&broker, "orders");
    for records in [&mut copied, &mut source] {
        records.sort_by_key(|record| (record["partition"].as_u64(), record["offset"].as_u64()));
    }
    assert_eq!(copied, source);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["orders.ndjson"], "nothing else stays");
    let ran = start(&broker, &["--into", &into]).ended(2);
    assert!(ran.err.contains("is there already"), "{}", ran.err);
    start(&broker, &["--into", "file:/nowhere/at/all"]).ended(3);
    let printed = start(&broker, &["--into", "file:-", "--filter", "key=k3"]).ended(0);
    assert_eq!(printed.json().len(), 3);
    broker.run(&["topic", "create", "again"]).ended(0);
    broker.run(&["produce", "again", "--json", path.to_str().unwrap()]).ended(0);
    assert_eq!(contents(&records(&broker, "again")), contents(&source));
}

#[test]
fn rp_1_the_position_of_a_group_bounds_a_replay_into_a_group_a_topic_or_a_file() {
    let broker = orders(40);
    broker.run(&["consume", "orders", "-g", "billing", "-n", "10"]).ended(0);
    let lag = broker.run(&["group", "lag", "billing", "--output", "json"]).ended(0).json();
    let floors: u64 = lag.iter().map(|partition| partition["floor"].as_u64().unwrap()).sum();
    assert!(floors > 0 && floors < 40, "{lag:?}");
    let until = ["--into", "file:-", "--until-group", "billing"];
    assert_eq!(start(&broker, &until).ended(0).json().len() as u64, floors);
    let from = ["--into", "file:-", "--from-group", "billing"];
    assert_eq!(start(&broker, &from).ended(0).json().len() as u64, 40 - floors);
    let job = start(&broker, &["--into", "audit", "--until-group", "billing", "--output", "json"]).ended(0).json();
    assert_eq!(job[0]["records"], floors);
    broker.run(&["topic", "create", "other"]).ended(0);
    broker.run(&["group", "create", "elsewhere", "--topic", "other"]).ended(0);
    let ran = start(&broker, &["--into", "file:-", "--until-group", "elsewhere"]).ended(2);
    assert!(ran.err.contains("does not read topic orders"), "{}", ran.err);
    start(&broker, &["--into", "file:-", "--until-group", "nobody"]).ended(3);
    start(&broker, &["--into", "audit-2", "--until-group", "nobody"]).ended(3);
    start(&broker, &["--into", "file:-", "--until-group", "billing", "--to", "3"]).ended(2);
}

#[test]
fn rp_3_a_replay_into_a_group_is_listed_steered_and_ended() {
    let broker = orders(30);
    let slow =
        ["--into", "audit", "--rate", "1", "--filter", "header.source=shop", "--note", "why", "--output", "json"];
    let job = start(&broker, &slow).ended(0).json().remove(0);
    assert_eq!((&job["state"], &job["rate"], &job["note"]), (&"running".into(), &"1/s".into(), &"why".into()));
    let id = job["replay_id"].as_str().unwrap();
    let state = |verb: &str| broker.run(&["replay", verb, id, "--output", "json"]).ended(0).json()[0]["state"].clone();
    assert_eq!([state("pause"), state("resume")], ["paused", "running"]);
    let updated = broker.run(&["replay", "update", id, "--output", "json"]).ended(0).json();
    assert_eq!(updated[0]["rate"], "no limit");
    let ran = broker.run(&["consume", "-g", "audit", "-n", "10", "--output", "json"]).ended(0);
    assert!(ran.json().iter().all(|record| record["headers"][0]["key"] == "source"), "the filter holds");
    assert_eq!(broker.run(&["replay", "show", id, "--watch", "--output", "json"]).ended(0).json()[0]["state"], "done");
    let again = start(&broker, &["--into", "audit", "--rate", "1", "--yes", "--output", "json"]).ended(0).json();
    let again = again[0]["replay_id"].as_str().unwrap();
    assert!(broker.run(&["replay", "list", "--running"]).ended(0).out.contains(again));
    assert!(broker.run(&["replay", "cancel", again, "--yes"]).ended(0).out.contains("cancelled"));
    let closed = broker.run(&["replay", "pause", again]).ended(1);
    assert!(closed.err.contains("JOB_CLOSED"), "{}", closed.err);
    broker.run(&["replay", "show", "0-r9"]).ended(3);
    broker.run(&["replay", "list", "--group", "nobody"]).ended(3);
}

#[test]
fn rp_1_bounds_rates_and_names_that_mean_nothing_are_refused() {
    let broker = orders(40);
    broker.run(&["topic", "create", "copy"]).ended(0);
    // An empty range is no error; nothing is copied, and a group's replay has ended.
    let job = start(&broker, &["--into", "empty", "--from", "5", "--to", "5", "--output", "json"]).ended(0).json();
    assert_eq!((&job[0]["state"], &job[0]["records"]), (&"done".into(), &0.into()));
    let ran = start(&broker, &["--into", "topic:copy", "--from", "5", "--to", "5"]).ended(0);
    assert!(ran.err.contains("0 records copied"), "{}", ran.err);
    broker.run(&["topic", "trim", "orders", "--before", "10", "--yes"]).ended(0);
    for into in ["group", "topic:copy", "file:-"] {
        let refused = |bounds: &[&str], code| start(&broker, &[&["--into", into], bounds].concat()).ended(code);
        let vanished = refused(&["--from", "0", "--to", "8"], 1);
        assert!(vanished.err.contains("10"), "it says where the log begins: {}", vanished.err);
        refused(&["--to", "4000"], 1);
        refused(&["--from", "14", "--to", "12"], 2);
        refused(&["--from", "-5"], 2);
        for rate in [["--rate", "0"], ["--rate", "fast"], ["--rate-bytes", "0"], ["--speed", "0"], ["--speed", "nan"]] {
            refused(&rate, 2);
        }
        refused(&["--rate", "1", "--speed", "2"], 2);
        refused(&["--filter", "value=1"], 2);
    }
    let ran = start(&broker, &["--into", "topic:orders"]).ended(2);
    assert!(ran.err.contains("into itself"), "{}", ran.err);
    start(&broker, &["--into", "topic:none"]).ended(3);
    broker.run(&["replay", "start", "none", "--into", "topic:copy"]).ended(3);
    start(&broker, &["--into", "topic:"]).ended(2);
    start(&broker, &[]).ended(2);
    // What is gone of a range is told, the rest is copied.
    let ran = start(&broker, &["--into", "topic:copy", "--from", "0", "--to", "12"]).ended(0);
    assert!(ran.err.contains("are gone from the log") && ran.err.contains("4 records copied"), "{}", ran.err);
    // A record that the target refuses ends the copy and is named.
    broker.run(&["topic", "create", "loose", "--unkeyed"]).ended(0);
    broker.run_with_input(&["produce", "loose"], "no key\n").ended(0);
    let ran = broker.run(&["replay", "start", "loose", "--into", "topic:copy"]).ended(1);
    assert!(ran.err.contains("KEY_REQUIRED") && ran.err.contains("partition 0 offset 0"), "{}", ran.err);
}

#[test]
fn rp_4_a_copy_at_the_original_speed_of_records_that_came_at_once_is_over_at_once() {
    let broker = orders(30);
    let ran = start(&broker, &["--into", "file:-", "--speed", "1000"]).ended(0);
    assert_eq!(ran.json().len(), 30);
}
