//! `consume -g`, `group` and `dlq`.

use std::sync::Arc;
use std::time::Duration;

use sawlog_client::Client;
use sawlog_client::projection::{Applied, ApplyError, Claim, ClaimError, Claimed, Store, StoreError, Work};

use crate::support::Broker;

fn orders(broker: &Broker) {
    broker.run(&["topic", "create", "orders", "--partitions", "2"]).ended(0);
    broker.run_with_input(&["produce", "orders", "-K", ":"], "a:1\nb:2\nc:3\na:4\n").ended(0);
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_group_is_made_by_its_first_member_and_gets_every_record_once() {
    let broker = Broker::dev();
    orders(&broker);
    let missing = broker.run(&["consume", "-g", "billing", "-n", "1"]).ended(3);
    assert!(missing.err.contains("GROUP_NOT_FOUND") && missing.err.contains("sawlog group create"), "{}", missing.err);
    for (group, mode) in [("billing", "keyed"), ("copier", "offset"), ("mailer", "unordered")] {
        let ran = broker.run(&["consume", "orders", "-g", group, "--mode", mode, "-n", "4"]).ended(0);
        assert_eq!(sorted(&ran.out), ["1", "2", "3", "4"], "{mode}");
    }
    broker.run_with_input(&["produce", "orders", "-K", ":"], "d:5\n").ended(0);
    for group in ["billing", "copier", "mailer"] {
        let ran = broker.run(&["consume", "-g", group, "-n", "1", "--output", "json"]).ended(0);
        assert_eq!(ran.json()[0]["value"], "5", "what was printed before was acked");
        let lag = broker.run(&["group", "lag", group, "--output", "json"]).ended(0).json();
        assert!(lag.len() == 2 && lag.iter().all(|partition| partition["lag_records"] == 0), "{lag:?}");
    }
    let other = broker.run(&["consume", "orders", "-g", "billing", "--mode", "offset", "-n", "1"]).ended(1);
    assert!(other.err.contains("GROUP_MISMATCH"), "{}", other.err);
    broker.run(&["consume", "orders", "-g", "billing", "--from", "earliest"]).ended(2);
    broker.run(&["consume"]).ended(2);
}

#[test]
fn a_group_lives_from_create_to_delete() {
    let broker = Broker::dev();
    orders(&broker);
    let create = ["group", "create", "billing", "--topic", "orders", "--max-attempts", "3", "--owner", "shop"];
    let created = broker.run(&[&create[..], &["--output", "json"]].concat()).ended(0);
    let group = &created.json()[0];
    assert_eq!((&group["mode"], &group["retry"]["max_attempts"]), (&"keyed".into(), &3.into()));
    assert!(broker.run(&create).ended(0).err.contains("existed already"));
    let differs = broker.run(&["group", "create", "billing", "--topic", "orders", "--lease", "1m"]).ended(1);
    assert!(differs.err.contains("GROUP_EXISTS") && differs.err.contains("sawlog group update"), "{}", differs.err);
    broker.run(&["group", "create", "nothing"]).ended(2);
    broker.run(&["group", "create", "nowhere", "--topic", "none"]).ended(3);

    let updated = broker.run(&["group", "update", "billing", "--lease", "1m", "--output", "json"]).ended(0);
    assert_eq!((&updated.json()[0]["lease_ms"], &updated.json()[0]["owner"]), (&60_000.into(), &"shop".into()));
    broker.run(&["group", "update", "billing"]).ended(2);
    assert!(broker.run(&["group", "list", "--topic", "orders"]).ended(0).out.contains("billing"));
    assert!(broker.run(&["group", "show", "billing"]).ended(0).out.contains("no member"));

    let paused = broker.run(&["group", "pause", "billing", "--note", "moving", "--output", "json"]).ended(0);
    assert_eq!(paused.json()[0]["pauses"][0]["reason"], "operator");
    assert!(broker.run(&["group", "resume", "billing"]).ended(0).out.contains("billing runs"));
    let open = broker.run(&["group", "breaker", "billing", "open", "--output", "json"]).ended(0).json();
    assert_eq!(
        (&open[0]["state"], &open[0]["switch"]),
        (&"open".into(), &"open".into()),
        "nobody consumes, it is open"
    );
    let shown = broker.run(&["group", "show", "billing", "--output", "json"]).ended(0).json();
    assert_eq!(shown[0]["breaker"]["state"], "open");
    let auto = broker.run(&["group", "breaker", "billing", "auto", "--output", "json"]).ended(0).json();
    assert_eq!(auto[0]["state"], "closed");

    broker.run(&["group", "accept-gap", "billing"]).ended(2);
    let nothing = broker.run(&["group", "accept-gap", "billing", "--yes"]).ended(5);
    assert!(nothing.err.contains("nothing of group billing waits"), "{}", nothing.err);
    let foreign = broker.run(&["group", "accept-gap", "billing", "--topic", "none", "--yes"]).ended(2);
    assert!(foreign.err.contains("a topic of the group"), "{}", foreign.err);

    broker.run(&["group", "delete", "billing"]).ended(2);
    broker.run(&["group", "delete", "billing", "--yes"]).ended(0);
    broker.run(&["group", "show", "billing"]).ended(3);
}

#[test]
fn of_3_a_reset_is_tried_done_and_taken_back() {
    let broker = Broker::dev();
    orders(&broker);
    broker.run(&["consume", "orders", "-g", "billing", "-n", "4"]).ended(0);
    let lag = |broker: &Broker| -> i64 {
        let lines = broker.run(&["group", "lag", "billing", "--output", "json"]).ended(0).json();
        lines.iter().map(|line| line["lag_records"].as_i64().unwrap()).sum()
    };
    let tried = broker.run(&["group", "reset", "billing", "--to", "earliest", "--dry-run"]).ended(0);
    assert!(tried.err.contains("nothing was changed") && lag(&broker) == 0, "{}", tried.err);
    let asked = broker.run(&["group", "reset", "billing", "--to", "earliest"]).ended(2);
    assert!(asked.err.contains("4 records again"), "{}", asked.err);
    broker.run(&["group", "reset", "billing", "--to", "earliest", "--yes"]).ended(0);
    assert_eq!(lag(&broker), 4);
    broker.run(&["group", "reset", "billing", "--undo", "--yes"]).ended(0);
    assert_eq!(lag(&broker), 0);
    let nothing = broker.run(&["group", "reset", "billing", "--undo", "--yes"]).ended(1);
    assert!(nothing.err.contains("NOTHING_TO_UNDO"), "{}", nothing.err);
}

#[test]
fn rw_1_await_says_what_became_of_records_and_fails_while_one_is_pending() {
    let broker = Broker::dev();
    orders(&broker);
    broker.run(&["consume", "orders", "-g", "billing", "-n", "4"]).ended(0);
    let acked = broker.run(&["group", "await", "billing", "orders", "0:0", "0:1", "--output", "json"]).ended(0);
    assert!(acked.json().iter().all(|record| record["state"] == "acked"), "{}", acked.out);
    broker.run(&["group", "create", "idle", "--topic", "orders"]).ended(0);
    let pending = broker.run(&["group", "await", "idle", "orders", "0:0", "--for", "10ms"]).ended(5);
    assert!(pending.out.contains("pending"), "{}", pending.out);
    broker.run(&["group", "await", "billing", "orders", "0:99"]).ended(1);
}

#[test]
fn what_changes_dead_letters_names_them_and_asks() {
    let broker = Broker::dev();
    orders(&broker);
    broker.run(&["group", "create", "billing", "--topic", "orders"]).ended(0);
    assert!(broker.run(&["dlq", "list", "billing"]).ended(0).err.contains("no dead letter"));
    broker.run(&["dlq", "discard", "billing", "--reason", "x"]).ended(2);
    broker.run(&["dlq", "redrive", "billing"]).ended(2);
    let none = broker.run(&["dlq", "discard", "billing", "--all", "--reason", "x", "--dry-run"]).ended(0);
    assert!(none.out.contains("0 entries"), "{}", none.out);
    broker.run(&["dlq", "skip-head", "billing", "--reason", "x", "--yes"]).ended(2);
    assert!(broker.run(&["dlq", "jobs", "--output", "json"]).ended(0).out.is_empty());
    broker.run(&["dlq", "jobs", "show", "none"]).ended(3);
    broker.run(&["dlq", "export", "missing"]).ended(3);
}

#[test]
fn rp_6_a_rebuild_is_started_shown_and_given_up() {
    let broker = Broker::dev();
    orders(&broker);
    let cursors = ["--mode", "offset", "--positions", "cursor"];
    broker.run(&[&["group", "create", "revenue", "--topic", "orders"], &cursors[..]].concat()).ended(0);
    let none = broker.run(&["group", "rebuild", "show", "revenue"]).ended(3);
    assert!(none.err.contains("JOB_NOT_FOUND"), "{}", none.err);
    let start = ["group", "rebuild", "start", "revenue"];
    let started = broker.run(&[&start[..], &["v2", "--rate", "100", "--output", "json"]].concat()).ended(0);
    let rebuild = &started.json()[0];
    assert_eq!((&rebuild["state"], &rebuild["left"]), (&"filling".into(), &4.into()));
    assert_eq!((&rebuild["version"], &rebuild["rate"]), (&"v2".into(), &"100/s".into()));
    let second = broker.run(&[&start[..], &["v3"]].concat()).ended(1);
    assert!(second.err.contains("JOB_CONFLICT"), "{}", second.err);
    let early = broker.run(&["group", "rebuild", "swap", "revenue", "--yes"]).ended(1);
    assert!(early.err.contains("REBUILD_NOT_READY"), "{}", early.err);
    assert!(broker.run(&["group", "rebuild", "show", "revenue"]).ended(0).out.contains("v2"));
    let update = ["group", "rebuild", "update", "revenue"];
    let updated = broker.run(&[&update[..], &["--rate", "5", "--output", "json"]].concat()).ended(0);
    assert_eq!((&updated.json()[0]["rate"], &updated.json()[0]["state"]), (&"5/s".into(), &"filling".into()));
    let updated = broker.run(&[&update[..], &["--rate", "unlimited", "--output", "json"]].concat()).ended(0);
    assert_eq!(updated.json()[0]["rate"], "no limit");
    for wrong in [&[][..], &["--rate", "0"], &["--rate", "5", "--speed", "2"]] {
        broker.run(&[&update[..], wrong].concat()).ended(2);
    }
    // It is listed, and told apart from groups.
    let list = broker.run(&["group", "list", "--prefix", "revenue", "--output", "json"]).ended(0).json();
    let told: Vec<_> = list.iter().map(|group| (&group["name"], &group["version"], &group["version_of"])).collect();
    let (none, version, of) = (serde_json::Value::Null, "v2".into(), "revenue".into());
    assert_eq!(told, [(&of, &none, &none), (&"revenue@v2".into(), &version, &of)]);
    let table = broker.run(&["group", "list", "--prefix", "revenue"]).ended(0).out;
    assert!(table.to_lowercase().contains("version of"), "{table}");
    let shown = broker.run(&["group", "show", "revenue@v2"]).ended(0).out;
    assert!(shown.lines().any(|line| line.starts_with("version of") && line.ends_with("revenue")), "{shown}");
    broker.run(&["group", "rebuild", "abort", "revenue"]).ended(2);
    let ended = broker.run(&["group", "rebuild", "abort", "revenue", "--yes", "--output", "json"]).ended(0);
    assert_eq!(ended.json()[0]["state"], "aborted");
    let all = broker.run(&["group", "rebuild", "show", "revenue", "--all", "--output", "json"]).ended(0).json();
    assert_eq!((all.len(), &all[0]["state"]), (1, &"aborted".into()));
    broker.run(&["group", "create", "billing", "--topic", "orders"]).ended(0);
    let keyed = broker.run(&["group", "rebuild", "start", "billing", "v2"]).ended(1);
    assert!(keyed.err.contains("WRONG_MODE"), "{}", keyed.err);
}

/// A database that is never there.
#[derive(Debug)]
struct Away;

impl Store for Away {
    async fn open(&self, _: &Claim) -> Result<Claimed, ClaimError> {
        Err(StoreError::unavailable("the disk of the model is full").into())
    }

    async fn apply(&self, _: Arc<Work>) -> Result<Applied, ApplyError> {
        Err(StoreError::unavailable("the disk of the model is full").into())
    }
}

#[test]
fn rm_6_ob_3_a_stalled_unit_is_shown_with_its_reason() {
    let broker = Broker::dev();
    orders(&broker);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let client = runtime.block_on(async { Client::builder(&broker.url).connect_lazy() }).expect("a good address");
    let projection = client.projection("revenue", Away).topics(["orders"]).create_if_missing();
    let projection = runtime.block_on(projection.open()).expect("a new group");
    let running = runtime.spawn(projection.run());
    let stalled = async {
        while client
            .groups()
            .lag("revenue", &[])
            .await
            .expect("a lag")
            .partitions
            .iter()
            .any(|one| one.stalled.is_none())
        {}
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), stalled).await }).expect("told in time");

    let lag = broker.run(&["group", "lag", "revenue"]).ended(0);
    assert_eq!(lag.out.lines().filter(|line| line.trim_end().ends_with("stalled")).count(), 2, "{}", lag.out);
    assert!(
        lag.err.contains("orders/1 is stalled since") && lag.err.contains("disk of the model is full"),
        "{}",
        lag.err
    );
    let lag = broker.run(&["group", "lag", "revenue", "--output", "json"]).ended(0).json();
    assert_eq!(lag[0]["stalled"]["reason"], "the disk of the model is full");
    assert!(lag[0]["stalled"]["since"].is_string(), "{lag:?}");
    let shown = broker.run(&["group", "show", "revenue"]).ended(0);
    assert!(shown.out.contains("orders/0 (stalled) orders/1 (stalled)"), "{}", shown.out);
    assert!(shown.err.contains("disk of the model is full"), "{}", shown.err);
    let shown = broker.run(&["group", "show", "revenue", "--output", "json"]).ended(0).json();
    assert_eq!(shown[0]["member_list"][0]["units"][0]["stalled"]["reason"], "the disk of the model is full");
    running.abort();
}

#[test]
fn rp_6_a_log_whose_start_is_gone_is_rebuilt_only_with_accept_gap() {
    let broker = Broker::dev();
    orders(&broker);
    let cursors = ["--mode", "offset", "--positions", "cursor"];
    broker.run(&[&["group", "create", "revenue", "--topic", "orders"], &cursors[..]].concat()).ended(0);
    let places = broker.run(&["consume", "orders", "--output", "json", "-n", "4", "--from", "0"]).ended(0).json();
    let partition = places.iter().find(|place| place["key"] == "a").unwrap()["partition"].to_string();
    broker.run(&["topic", "trim", "orders", "--before", &format!("{partition}:1"), "--yes"]).ended(0);
    let start = ["group", "rebuild", "start", "revenue", "v2"];
    let gap = broker.run(&start).ended(1);
    assert!(gap.err.contains("GAP_NOT_ACCEPTED") && gap.err.contains("--accept-gap"), "{}", gap.err);
    let accepted = broker.run(&[&start[..], &["--accept-gap", "--output", "json"]].concat()).ended(0);
    assert_eq!(accepted.json()[0]["left"], 3);
}
