//! Start, ready file, signals, and what stands in the way of a start.

use crate::support::{Broker, run};

/// Revenue of the shipped day in pence, as a computation in Python says (`revenue.py`).
const DAY_PENCE: i64 = 4505905;

#[test]
fn s_5_a_signal_stops_it_cleanly_and_everything_is_there_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    for (round, signal) in ["-TERM", "-INT"].into_iter().enumerate() {
        let mut broker = Broker::serve(folder.path());
        if round == 0 {
            let missing = broker.run_with_input(&["produce", "t"], "x\n").ended(3);
            assert!(missing.err.contains("TOPIC_NOT_FOUND"), "serve makes nothing by accident: {}", missing.err);
            broker.run(&["topic", "create", "t", "--unkeyed"]).ended(0);
        }
        broker.run_with_input(&["produce", "t"], format!("{round}\n")).ended(0);
        let before: String = (0..=round).map(|round| format!("{round}\n")).collect();
        assert_eq!(broker.run(&["consume", "t"]).ended(0).out, before);
        let ready = broker.ready_file();
        assert!(ready.exists());
        let (code, said) = broker.stop(signal);
        assert_eq!(code, Some(0), "{said}");
        assert!(!ready.exists(), "the ready file is gone with the broker");
    }
}

#[test]
fn d_1_kill_9_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::serve(folder.path());
    broker.run(&["topic", "create", "t", "--unkeyed"]).ended(0);
    broker.run_with_input(&["produce", "t"], "a\nb\nc\n").ended(0);
    broker.stop("-KILL");
    let broker = Broker::serve(folder.path());
    assert_eq!(broker.run(&["consume", "t"]).ended(0).out, "a\nb\nc\n");
}

#[test]
fn s_1_a_data_directory_in_use_is_refused_and_unharmed() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::serve(folder.path());
    let second = run(&["serve", "--port", "0", "--data-dir", folder.path().to_str().unwrap()]).ended(1);
    assert!(second.err.contains("in use"), "{}", second.err);
    assert!(second.err.contains("next: "), "{}", second.err);
    broker.run(&["health"]).ended(0);
}

#[test]
fn a_port_in_use_is_refused_with_what_to_do() {
    let broker = Broker::dev();
    let port = broker.address().rsplit(':').next().unwrap();
    let second = run(&["dev", "--ephemeral", "--port", port]).ended(1);
    assert!(second.err.contains("cannot listen") && second.err.contains("--port 0"), "{}", second.err);
    broker.run(&["health"]).ended(0);
}

#[test]
fn s_2_a_folder_of_something_else_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.tex"), "precious").unwrap();
    let refused = run(&["serve", "--port", "0", "--data-dir", folder.path().to_str().unwrap()]).ended(1);
    assert!(refused.err.contains("thesis.tex"), "{}", refused.err);
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["thesis.tex"]);
}

#[test]
fn the_demonstration_does_the_main_job_and_checks_it() {
    let shown = run(&["demo"]).ended(0);
    assert!(shown.err.contains("worker-1 was killed (SIGKILL)"), "{}", shown.err);
    assert!(shown.err.contains("every line was dispatched, each invoice in order"), "{}", shown.err);
    let answer = &run(&["demo", "--output", "json"]).ended(0).json()[0];
    for letters in answer["dead_letters"].as_array().unwrap() {
        assert_eq!(letters[1], serde_json::json!({"failed": {"NO_DESCRIPTION": 8, "NO_PRICE": 3}, "parked": 200}));
    }
    let revenue: i64 = answer["by_country"].as_object().unwrap().values().map(|pence| pence.as_i64().unwrap()).sum();
    assert_eq!(answer["revenue_pence"], revenue);
    assert_eq!(revenue, DAY_PENCE);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.csv");
    std::fs::write(&file, "InvoiceNo,InvoiceDate\n1\n").unwrap();
    let broken = run(&["demo", "--file", file.to_str().unwrap()]).ended(1);
    assert!(broken.err.contains("bad.csv:2: "), "{}", broken.err);
}

#[test]
fn bench_reports_what_it_measured_as_json() {
    let broker = Broker::dev();
    for verb in ["produce", "consume", "e2e"] {
        let arguments = ["bench", verb, "--records", "2000", "--size", "64", "--rate", "20000", "--output", "json"];
        let report = &broker.run(&arguments).ended(0).json()[0];
        assert_eq!((&report["bench"], &report["records"]), (&verb.into(), &2000.into()));
        assert!(report["records_per_second"].as_f64().unwrap() > 0.0);
        assert!(report["server_cpu_seconds"].is_f64(), "{report}");
        assert_eq!(report["latency_us"].is_null(), verb == "consume", "{report}");
    }
    let topics = broker.run(&["topic", "list", "--output", "json"]).ended(0);
    assert!(topics.out.is_empty(), "the topics of benches are gone: {}", topics.out);
}
