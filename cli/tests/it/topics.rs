//! The verbs of `topic`.

use crate::support::Broker;

#[test]
fn a_topic_lives_from_create_to_delete() {
    let broker = Broker::dev();
    let created = broker.run(&[
        "topic",
        "create",
        "orders",
        "--partitions",
        "2",
        "--retention",
        "30d",
        "--owner",
        "shop",
        "--label",
        "a=1",
        "--output",
        "json",
    ]);
    let topic = &created.ended(0).json()[0];
    assert_eq!((topic["partitions"].as_u64(), topic["keyed"].as_bool()), (Some(2), Some(true)));
    assert_eq!(topic["retention_ms"], 2_592_000_000_i64);
    assert_eq!((&topic["owner"], &topic["labels"]["a"]), (&"shop".into(), &"1".into()));

    let again =
        ["topic", "create", "orders", "--partitions", "2", "--retention", "30d", "--owner", "shop", "--label", "a=1"];
    assert!(broker.run(&again).ended(0).err.contains("existed already"));
    let differs = broker.run(&["topic", "create", "orders", "--partitions", "3"]).ended(1);
    assert!(differs.err.contains("TOPIC_EXISTS") && differs.err.contains("sawlog topic update"), "{}", differs.err);

    broker.run(&["topic", "create", "second", "--unkeyed"]).ended(0);
    let names: Vec<_> = broker.run(&["topic", "list", "--output", "json"]).ended(0).json();
    assert_eq!(names.iter().map(|topic| topic["name"].as_str().unwrap()).collect::<Vec<_>>(), ["orders", "second"]);
    let some = broker.run(&["topic", "list", "--prefix", "sec"]).ended(0).out;
    assert!(some.contains("second") && !some.contains("orders"), "{some}");

    let updated =
        broker.run(&["topic", "update", "orders", "--description", "order lines", "--output", "json"]).ended(0);
    assert_eq!(updated.json()[0]["description"], "order lines");
    assert_eq!(updated.json()[0]["owner"], "shop", "what is not named stays");
    let stale = broker.run(&["topic", "update", "orders", "--owner", "x", "--if-revision", "999"]).ended(1);
    assert!(stale.err.contains("STALE_REVISION"), "{}", stale.err);
    broker.run(&["topic", "update", "orders"]).ended(2);

    broker.run(&["topic", "delete", "orders"]).ended(2);
    broker.run(&["topic", "delete", "orders", "--yes"]).ended(0);
    let gone = broker.run(&["topic", "show", "orders"]).ended(3);
    assert!(gone.err.contains("TOPIC_NOT_FOUND") && gone.err.contains("topic: orders"), "{}", gone.err);
}

#[test]
fn a_bad_name_or_setting_is_told_with_its_rule() {
    let broker = Broker::dev();
    let bad = broker.run(&["topic", "create", "../etc"]).ended(2);
    assert!(bad.err.contains("INVALID_NAME"), "{}", bad.err);
    let bad = broker.run(&["topic", "create", "a", "--partitions", "0"]).ended(2);
    assert!(bad.err.contains("INVALID_FIELD") && bad.err.contains("partitions"), "{}", bad.err);
}

#[test]
fn re_9_trim_needs_yes_and_raises_the_start() {
    let broker = Broker::dev();
    broker.run(&["topic", "create", "t", "--unkeyed"]).ended(0);
    broker.run_with_input(&["produce", "t"], "0\n1\n2\n3\n4\n").ended(0);
    let asked = broker.run(&["topic", "trim", "t", "--before", "3"]).ended(2);
    assert!(asked.err.contains("3 records of topic t"), "{}", asked.err);
    broker.run(&["topic", "trim", "t", "--before", "0:3", "--yes"]).ended(0);
    assert_eq!(broker.run(&["consume", "t"]).ended(0).out, "3\n4\n");
    let out_of_range = broker.run(&["consume", "t", "--from", "1"]).ended(1);
    assert!(
        out_of_range.err.contains("OFFSET_OUT_OF_RANGE") && out_of_range.err.contains("earliest: 3"),
        "{}",
        out_of_range.err
    );
    broker.run(&["topic", "trim", "t", "--before", "7:3", "--yes"]).ended(3);
    assert!(broker.run(&["topic", "trim", "t", "--before", "2", "--yes"]).ended(0).err.contains("nothing to trim"));
    let shown = &broker.run(&["topic", "show", "t", "--output", "json"]).ended(0).json()[0];
    let partition = &shown["partition_states"][0];
    assert_eq!((&partition["log_start_offset"], &partition["high_watermark"]), (&3.into(), &5.into()));
    assert_eq!(partition["state"], "online");
}
