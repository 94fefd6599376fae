use super::*;

fn load(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Outcome<Settings> {
    let mut settings = Settings::defaults();
    settings.take_file(Path::new("s.toml"), file)?;
    for (name, value) in variables {
        settings.take_variable(name, value)?;
    }
    for (key, value) in flags {
        settings.set(key, value, Source::Flag("--set".to_owned()))?;
    }
    Ok(settings)
}

fn source(settings: &Settings, key: &str) -> String {
    settings.source(key).map(ToString::to_string).unwrap_or_default()
}

#[test]
fn flags_beat_variables_beat_the_file_beat_defaults() {
    let file = "listen = \"127.0.0.1:1\"\n[storage]\ndata_dir = \"/file\"\nsync_threads = 2\n";
    let settings = load(
        file,
        &[("SAWLOG_STORAGE__DATA_DIR", "/variable"), ("SAWLOG_STORAGE__SYNC_THREADS", "3")],
        &[("storage.sync_threads", "4")],
    )
    .unwrap();
    let config = settings.to_config().unwrap();
    assert_eq!(config.listen.port(), 1);
    assert_eq!(config.storage.data_dir, Path::new("/variable"));
    assert_eq!(config.storage.sync_threads, 4);
    assert_eq!(source(&settings, "listen"), "s.toml:1");
    assert_eq!(source(&settings, "storage.data_dir"), "environment SAWLOG_STORAGE__DATA_DIR");
    assert_eq!(source(&settings, "storage.sync_threads"), "flag --set");
    assert_eq!(source(&settings, "insecure"), "default");
}

#[test]
fn an_unknown_key_names_the_nearest_right_one_and_its_line() {
    let failure = load("[storage]\n# a comment\ndata_dri = \"x\"\n", &[], &[]).unwrap_err();
    assert_eq!(failure.what, "there is no setting storage.data_dri (s.toml:3)");
    assert!(failure.next.contains("storage.data_dir"), "{}", failure.next);
    assert!(load("[storag]\n", &[], &[]).unwrap_err().what.contains("no setting storag ("));
    assert!(load("[storage]\n", &[], &[]).is_ok());
    assert!(load("storage = 3\n", &[], &[]).is_err());
    let failure = load("data_dir = \"x\"\n", &[], &[]).unwrap_err();
    assert!(failure.next.contains("storage.data_dir"), "{}", failure.next);
    let failure = load("", &[("SAWLOG_LISTN", "x")], &[]).unwrap_err();
    assert_eq!(failure.next, "did you mean SAWLOG_LISTEN?");
    let failure = load("", &[], &[("storage.sync_thread", "x")]).unwrap_err();
    assert!(failure.next.contains("storage.sync_threads"), "{}", failure.next);
}

#[test]
fn a_value_of_the_wrong_type_names_what_is_expected() {
    let failure = load("[storage]\nsync_threads = \"many\"\n", &[], &[]).unwrap_err();
    assert_eq!(failure.what, "storage.sync_threads: found \"many\", expected a whole number (s.toml:2)");
    let failure = load("", &[("SAWLOG_INSECURE", "perhaps")], &[]).unwrap_err();
    assert!(failure.what.contains("expected true or false"), "{}", failure.what);
    let failure = load("listen = \"nowhere\"\n", &[], &[]).unwrap().to_config().unwrap_err();
    assert!(failure.what.starts_with("listen: found \"nowhere\""), "{}", failure.what);
    assert!(failure.what.ends_with("(s.toml:1)"), "{}", failure.what);
    let failure = load("", &[], &[("storage.sync_threads", "-1")]).unwrap().to_config().unwrap_err();
    assert!(failure.what.starts_with("storage.sync_threads: found -1"), "{}", failure.what);
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    let failure = load("listen = \"127.0.0.1:1\"\n[storage\n", &[], &[]).unwrap_err();
    assert!(failure.what.starts_with("s.toml:2: "), "{}", failure.what);
}

#[test]
fn variables_of_the_client_and_of_tests_are_no_settings() {
    assert!(load("", &[("SAWLOG_URL", "x"), ("SAWLOG_TEST_X", "1"), ("SAWLOG_BENCH_Y", "2")], &[]).is_ok());
}

#[test]
fn every_setting_has_a_meaning_and_the_printed_defaults_are_the_defaults() {
    let defaults = Settings::defaults();
    let mut meanings: Vec<_> = MEANINGS.iter().map(|(key, _)| *key).collect();
    meanings.sort_unstable();
    assert_eq!(defaults.iter().map(|(key, _)| key).collect::<Vec<_>>(), meanings);
    let printed = load(&defaults.to_toml(), &[], &[]).unwrap();
    assert_eq!(printed.to_config().unwrap(), BrokerConfig::default());
    assert!(printed.iter().all(|(_, setting)| setting.source != Source::Default));
}

#[test]
fn edit_distance_counts_the_changes() {
    assert_eq!(edit_distance("kitten", "sitting"), 3);
    assert_eq!(edit_distance("", "abc"), 3);
    assert_eq!(edit_distance("same", "same"), 0);
}
