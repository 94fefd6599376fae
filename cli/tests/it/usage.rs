//! Arguments, settings and exit codes; no broker runs.

use crate::support::{run, run_with_input, sawlog};

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_wrong_command_is_exit_2_and_help_is_data() {
    run(&["nonsense"]).ended(2);
    run(&["produce"]).ended(2);
    run(&["topic", "create", "a", "--ack", "perhaps"]).ended(2);
    run(&["consume", "a", "--from", "tomorrow"]).ended(2);
    run(&["consume", "a", "--format", "%z"]).ended(2);
    run(&["produce", "a", "--json", "--csv"]).ended(2);
    let help = run(&["consume", "--help"]).ended(0);
    assert!(help.out.contains("Examples:") && help.err.is_empty());
    assert!(run(&["version"]).ended(0).out.starts_with("sawlog "));
    assert_eq!(run(&["version", "--output", "json"]).ended(0).json()[0]["api"], "sawlog.v1");
    assert!(run(&["completions", "bash"]).ended(0).out.contains("consume"));
}

#[test]
fn a_broker_that_is_not_there_is_exit_4_at_once() {
    // Port 1 of loopback: nothing listens there.
    for arguments in [&["health"][..], &["topic", "list"], &["consume", "a"], &["bench", "produce"]] {
        let ran = run(&[arguments, &["--url", "http://127.0.0.1:1"]].concat()).ended(4);
        assert!(ran.err.contains("no broker answers at http://127.0.0.1:1"), "{}", ran.err);
        assert!(ran.err.contains("next: start a broker with `sawlog dev`"), "{}", ran.err);
    }
    run(&["health", "--url", "not a url"]).ended(2);
}

#[test]
fn destructive_verbs_need_yes_where_no_one_can_be_asked() {
    for arguments in [&["topic", "delete", "a"][..], &["topic", "reopen", "a", "0"]] {
        // The question comes before anything else is done, so the address does not matter.
        let ran = run(arguments);
        assert!(matches!(ran.code, Some(2 | 4)), "{}", ran.err);
    }
}

#[test]
fn an_unknown_setting_names_the_nearest_right_one_whatever_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "s.toml", "[storage]\ndata_dri = \"x\"\n");
    let ran = run(&["serve", "-c", &path]).ended(2);
    assert!(ran.err.contains("s.toml:2") && ran.err.contains("did you mean storage.data_dir?"), "{}", ran.err);
    let ran = run(&["serve", "--set", "lisen=127.0.0.1:0"]).ended(2);
    assert!(ran.err.contains("did you mean listen?"), "{}", ran.err);
    let mut command = sawlog();
    command.args(["serve"]).env("SAWLOG_STORAGE__DATADIR", "x");
    let ran = run_with_input(command, b"").ended(2);
    assert!(ran.err.contains("did you mean SAWLOG_STORAGE__DATA_DIR?"), "{}", ran.err);
}

#[test]
fn a_bad_value_is_answered_with_the_setting_its_range_and_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let path = file(&folder, "s.toml", "[topic_defaults]\npartitions = 2000\n");
    let ran = run(&["serve", "--port", "0", "--data-dir", &data, "-c", &path]).ended(2);
    assert!(ran.err.contains("topic_defaults.partitions") && ran.err.contains("1024"), "{}", ran.err);
    assert!(ran.err.contains("s.toml:2"), "{}", ran.err);
    let ran = run(&["config", "check", "-c", &path]).ended(5);
    assert!(ran.err.contains("topic_defaults.partitions"), "{}", ran.err);
    let ran = run(&["serve", "--data-dir", &data, "--listen", "0.0.0.0:0"]).ended(2);
    assert!(ran.err.contains("insecure"), "{}", ran.err);
    assert!(!folder.path().join("data").exists(), "nothing is made with wrong settings");
}

#[test]
fn config_prints_values_with_their_sources_and_defaults_that_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let default = run(&["config", "default"]).ended(0).out;
    let path = file(&folder, "s.toml", &default);
    assert!(run(&["config", "check", "-c", &path]).ended(0).out.contains("right"));
    let mut command = sawlog();
    command.args(["config", "print", "-c", &path, "--port", "0", "--output", "json"]);
    command.env("SAWLOG_STORAGE__SYNC_THREADS", "3");
    let lines = run_with_input(command, b"").ended(0).json();
    let of = |key: &str| lines.iter().find(|line| line["key"] == key).unwrap();
    assert_eq!(
        (of("listen")["value"].as_str(), of("listen")["source"].as_str()),
        (Some("127.0.0.1:0"), Some("flag --port"))
    );
    assert_eq!(of("storage.sync_threads")["value"], 3);
    assert_eq!(of("storage.sync_threads")["source"], "environment SAWLOG_STORAGE__SYNC_THREADS");
    assert!(of("storage.data_dir")["source"].as_str().unwrap().contains("s.toml:"));
    run(&["config", "print", "-c", "/nowhere/s.toml"]).ended(3);
}
