//! `segment` on the files of a stopped broker.

use std::path::{Path, PathBuf};

use crate::support::{Broker, Ran, run};

/// A stopped broker's folder with one topic of ten records, each in a frame of its own.
fn stopped() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::serve(folder.path());
    broker.run(&["topic", "create", "t", "--unkeyed"]).ended(0);
    for number in 0..10 {
        broker.run_with_input(&["produce", "t", "-H", "h=1"], format!("value {number}\n")).ended(0);
    }
    assert_eq!(broker.stop("-TERM").0, Some(0));
    folder
}

fn segment(folder: &Path, arguments: &[&str]) -> Ran {
    run(&[&["segment"], arguments, &["--data-dir", folder.to_str().unwrap()]].concat())
}

/// The one log of a topic, and its only segment.
fn log_and_file(folder: &Path) -> (String, String) {
    let listed = segment(folder, &["list", "--output", "json"]).ended(0).json();
    let file =
        listed.iter().map(|line| line["file"].as_str().unwrap()).find(|file| file.starts_with("topics/")).unwrap();
    (PathBuf::from(file).parent().unwrap().to_str().unwrap().to_owned(), file.to_owned())
}

#[test]
fn the_files_of_a_stopped_broker_are_listed_checked_and_dumped_unchanged() {
    let folder = stopped();
    let (log, file) = log_and_file(folder.path());
    let before = std::fs::read(folder.path().join(&file)).unwrap();
    assert!(segment(folder.path(), &["list"]).ended(0).out.contains(&file));
    let verified = segment(folder.path(), &["verify", "--output", "json"]).ended(0).json();
    let of_log = verified.iter().find(|line| line["log"] == log.as_str()).unwrap();
    assert_eq!((&of_log["records"], &of_log["end_offset"], &of_log["grade"]), (&10.into(), &10.into(), &"good".into()));
    let dumped = segment(folder.path(), &["dump", &file, "--records", "--output", "json"]).ended(0).json();
    let values: Vec<_> = dumped.iter().filter_map(|line| line["value"].as_str()).collect();
    assert_eq!(values, (0..10).map(|number| format!("value {number}")).collect::<Vec<_>>());
    assert_eq!(dumped[1]["headers"][0]["key"], "h");
    assert_eq!(segment(folder.path(), &["dump", &file, "-n", "3"]).ended(0).out.lines().count(), 3);
    assert!(segment(folder.path(), &["repair", &log]).ended(0).out.contains("nothing to repair"));
    assert_eq!(std::fs::read(folder.path().join(&file)).unwrap(), before);
}

#[test]
fn c_2_damage_is_exit_5_and_only_a_confirmed_repair_cuts_it() {
    let folder = stopped();
    let (log, file) = log_and_file(folder.path());
    let path = folder.path().join(&file);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(7).position(|window| window == b"value 4").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    let verified = segment(folder.path(), &["verify", &log]).ended(5);
    assert!(verified.err.contains("damage") && verified.err.contains("offsets 4 to 5"), "{}", verified.err);
    let planned = segment(folder.path(), &["repair", &log, "--dry-run"]).ended(0);
    assert!(planned.out.contains("would end at offset 4"), "{}", planned.out);
    segment(folder.path(), &["repair", &log]).ended(2);
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was changed so far");

    let repaired = &segment(folder.path(), &["repair", &log, "--yes", "--output", "json"]).ended(0).json()[0];
    assert_eq!((&repaired["done"], &repaired["end_offset"]), (&true.into(), &4.into()));
    assert_eq!(repaired["dropped_good_records"], 5);
    segment(folder.path(), &["verify", &log]).ended(0);
    let broker = Broker::serve(folder.path());
    assert_eq!(broker.run(&["consume", "t"]).ended(0).out, "value 0\nvalue 1\nvalue 2\nvalue 3\n");
    broker.run_with_input(&["produce", "t"], "again\n").ended(0);
}

#[test]
fn g_6_a_damaged_metadata_log_is_repaired_on_request_and_the_broker_writes_again() {
    let folder = stopped();
    assert!(segment(folder.path(), &["repair", "meta", "--yes"]).ended(0).out.contains("nothing to repair"));
    let mut flipped = 0;
    for entry in std::fs::read_dir(folder.path().join("meta")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let Some(at) = bytes.windows(7).position(|window| window == b"\"topic\"") else { continue };
        if path.extension().is_some_and(|extension| extension == "log") {
            bytes[at + 1] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped > 0, "no metadata segment names a topic");
    let mut broker = Broker::serve(folder.path());
    let refused = broker.run(&["topic", "create", "u"]).ended(4);
    assert!(refused.err.contains("sawlog segment repair"), "{}", refused.err);
    broker.stop("-TERM");
    segment(folder.path(), &["repair", "meta"]).ended(2);
    assert!(segment(folder.path(), &["repair", "meta", "--dry-run"]).ended(0).out.contains("nothing was changed"));
    let repaired = &segment(folder.path(), &["repair", "meta", "--yes", "--output", "json"]).ended(0).json()[0];
    assert_eq!(repaired["done"], true, "{repaired}");
    Broker::serve(folder.path()).run(&["topic", "create", "u"]).ended(0);
}

#[test]
fn s_1_a_running_broker_keeps_its_files_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let _broker = Broker::serve(folder.path());
    let refused = segment(folder.path(), &["verify"]).ended(1);
    assert!(refused.err.contains("in use") && refused.err.contains("stop the broker"), "{}", refused.err);
}

#[test]
fn what_is_not_there_is_exit_3() {
    let folder = stopped();
    segment(folder.path(), &["verify", "topics/9/9"]).ended(3);
    segment(folder.path(), &["dump", "topics/9/9/00000000000000000000.log"]).ended(3);
    segment(&folder.path().join("nowhere"), &["list"]).ended(3);
}
