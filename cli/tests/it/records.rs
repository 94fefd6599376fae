//! `produce` and `consume`: forms of input and output, and input that is broken.

use crate::support::Broker;

fn keyed_topic(broker: &Broker) {
    broker.run(&["topic", "create", "t", "--partitions", "3"]).ended(0);
}

#[test]
fn lines_go_in_and_come_out_in_kcats_formats() {
    let broker = Broker::dev();
    let produced = broker.run_with_input(&["produce", "demo", "-H", "source=test"], "a\n\nb\n").ended(0);
    assert!(produced.err.contains("3 records acknowledged") && produced.out.is_empty(), "{}", produced.err);
    assert_eq!(broker.run(&["consume", "demo"]).ended(0).out, "a\n\nb\n");
    let formatted = broker.run(&["consume", "demo", "--from", "1", "-f", "%t/%p/%o %K [%s] %S %h\\n"]).ended(0).out;
    assert_eq!(formatted, "demo/0/1 -1 [] 0 source=test\ndemo/0/2 -1 [b] 1 source=test\n");
    assert_eq!(broker.run(&["consume", "demo", "--from", "-1"]).ended(0).out, "b\n");
    assert_eq!(broker.run(&["consume", "demo", "-n", "1"]).ended(0).out, "a\n");
    assert_eq!(broker.run(&["consume", "demo", "--to", "2"]).ended(0).out, "a\n\n");
    assert_eq!(broker.run(&["consume", "demo", "--from", "1h", "--to", "latest", "-n", "1"]).ended(0).out, "a\n");
    let nothing = broker.run(&["consume", "demo", "--from", "latest"]).ended(0);
    assert!(nothing.out.is_empty() && nothing.err.contains("--follow"), "{}", nothing.err);
}

#[test]
fn what_is_consumed_as_json_can_be_produced_again_byte_for_byte() {
    let broker = Broker::dev();
    keyed_topic(&broker);
    broker.run(&["topic", "create", "copy", "--partitions", "3"]).ended(0);
    let lines = concat!(
        r#"{"key":"k","value":"text \u00e9","headers":[{"key":"h","value":"1"},{"key":"h","value_base64":"/w=="}],"timestamp_ms":5}"#,
        "\n",
        r#"{"key_base64":"/wA=","value_base64":"AP8=","timestamp_ms":6}"#,
        "\n",
        r#"{"key":"k","value":null,"timestamp_ms":7}"#,
        "\n",
        r#"{"key":"","value":{"b":1,"a":2},"timestamp_ms":8}"#,
        "\n",
    );
    let acknowledged = broker.run_with_input(&["produce", "t", "--json", "--output", "json"], lines).ended(0);
    assert_eq!(acknowledged.json().len(), 4);
    let first = broker.run(&["consume", "t", "--output", "json"]).ended(0);
    broker.run_with_input(&["produce", "copy", "--json"], &first.out).ended(0);
    let second = broker.run(&["consume", "copy", "--output", "json"]).ended(0);
    let records = |ran: &crate::support::Ran| {
        let strip = |mut line: serde_json::Value| {
            let object = line.as_object_mut().unwrap();
            object.remove("topic");
            object.remove("append_time_ms");
            line
        };
        let mut records: Vec<_> = ran.json().into_iter().map(strip).map(|line| line.to_string()).collect();
        records.sort();
        records
    };
    assert_eq!(records(&first), records(&second));
    assert_eq!(first.json().len(), 4);
    assert!(first.out.contains(r#""value":"{\"b\":1,\"a\":2}""#), "{}", first.out);
}

#[test]
fn filters_choose_by_key_and_header() {
    let broker = Broker::dev();
    keyed_topic(&broker);
    broker.run_with_input(&["produce", "t", "-K", ":", "-H", "kind=first"], "ab:1\nac:2\nb:3\n").ended(0);
    broker.run_with_input(&["produce", "t", "-K", ":", "-H", "kind=second"], "ab:4\n").ended(0);
    let consumed = |filter: &[&str]| {
        let arguments: Vec<_> = filter.iter().flat_map(|filter| ["--filter", filter]).collect();
        let mut lines: Vec<String> =
            broker.run(&[&["consume", "t"], &arguments[..]].concat()).ended(0).out.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(consumed(&["key=ab"]), ["1", "4"]);
    assert_eq!(consumed(&["key^=a"]), ["1", "2", "4"]);
    assert_eq!(consumed(&["header.kind=second"]), ["4"]);
    assert_eq!(consumed(&["header.kind^=f", "key^=a"]), ["1", "2"]);
    assert!(consumed(&["header.other"]).is_empty());
}

#[test]
fn a_broken_line_is_told_with_file_and_number_and_stops_or_is_skipped() {
    let broker = Broker::dev();
    keyed_topic(&broker);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines.json");
    std::fs::write(&path, "{\"key\":\"a\",\"value\":1}\n{\"key\":\"a\",\"value\":\n{\"key\":\"a\",\"value\":3}\n")
        .unwrap();
    let path = path.to_str().unwrap();
    let stopped = broker.run(&["produce", "t", "--json", path]).ended(1);
    assert!(stopped.err.contains("lines.json:2: "), "{}", stopped.err);
    assert!(stopped.err.contains("1 records acknowledged"), "{}", stopped.err);
    let skipped = broker.run(&["produce", "t", "--json", "--skip-bad", path]).ended(1);
    assert!(
        skipped.err.contains("lines.json:2: ") && skipped.err.contains("2 records acknowledged"),
        "{}",
        skipped.err
    );
    assert!(skipped.err.contains("1 lines were left out"), "{}", skipped.err);
    assert_eq!(broker.run(&["consume", "t"]).ended(0).out, "1\n1\n3\n");
}

#[test]
fn broken_csv_is_told_with_its_line() {
    let broker = Broker::dev();
    keyed_topic(&broker);
    let csv = "id,at\n1,2010-12-01 08:26:00\n2\n3,never\n";
    let arguments = ["produce", "t", "--csv", "--key-column", "id", "--time-column", "at", "--skip-bad"];
    let ran = broker.run_with_input(&arguments, csv).ended(1);
    assert!(ran.err.contains("standard input:3: 1 fields, but the heading has 2"), "{}", ran.err);
    assert!(ran.err.contains("standard input:4: \"never\""), "{}", ran.err);
    let ran = broker.run_with_input(&["produce", "t", "--csv", "--key-column", "no"], csv).ended(1);
    assert!(ran.err.contains("there are id, at"), "{}", ran.err);
    let out = broker.run(&["consume", "t", "-f", "%k %T %s\\n"]).ended(0).out;
    assert_eq!(out, "1 1291191960000 {\"id\":\"1\",\"at\":\"2010-12-01 08:26:00\"}\n");
}

#[test]
fn pr_1_a_record_without_a_key_is_refused_by_a_keyed_topic_with_its_line() {
    let broker = Broker::dev();
    keyed_topic(&broker);
    let ran = broker.run_with_input(&["produce", "t"], "no key\n").ended(1);
    assert!(ran.err.contains("KEY_REQUIRED") && ran.err.contains("standard input"), "{}", ran.err);
    broker.run_with_input(&["produce", "t", "-k", "key"], "with key\n").ended(0);
    broker.run_with_input(&["produce", "t", "-K", ":"], "no separator\n").ended(1);
    broker.run(&["produce", "t", "/nowhere"]).ended(3);
}

#[test]
fn pr_2_less_than_the_floor_is_refused() {
    let broker = Broker::dev();
    keyed_topic(&broker);
    let ran = broker.run_with_input(&["produce", "t", "-k", "a", "--ack", "written"], "x\n").ended(1);
    assert!(ran.err.contains("ACK_BELOW_FLOOR") && ran.err.contains("--ack written"), "{}", ran.err);
}

#[test]
fn follow_prints_what_comes_later_and_ends_at_its_count() {
    let broker = Broker::dev();
    broker.run_with_input(&["produce", "demo"], "before\n").ended(0);
    let mut follow = broker.command(&["consume", "demo", "--follow", "--from", "earliest", "-n", "2"]);
    let following = follow.stdout(std::process::Stdio::piped()).spawn().expect("the binary can be run");
    broker.run_with_input(&["produce", "demo"], "after\n").ended(0);
    let output = following.wait_with_output().expect("a child can be waited for");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "before\nafter\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn codecs_and_unknown_topics() {
    let broker = Broker::dev();
    keyed_topic(&broker);
    for codec in ["none", "lz4", "zstd"] {
        broker.run_with_input(&["produce", "t", "-k", "a", "--compression", codec], format!("{codec}\n")).ended(0);
    }
    assert_eq!(broker.run(&["consume", "t"]).ended(0).out, "none\nlz4\nzstd\n");
    broker.run(&["consume", "t", "--partition", "9"]).ended(3);
}
