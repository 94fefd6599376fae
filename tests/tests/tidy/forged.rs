//! Forged violations: each must be flagged, so that the checks cannot rot unseen.

use crate::rules::{FILE_LINES, FUNCTION_LINES, check, used_paths};
use crate::source::Source;

const HEAD: &str = "//! Owns something.\n";

fn offences(path: &str, text: &str) -> Vec<String> {
    check(&Source::new(path, text)).into_iter().map(|offence| format!("{}: {}", offence.place, offence.what)).collect()
}

fn flagged(path: &str, text: &str, what: &str) {
    let found = offences(path, &format!("{HEAD}{text}"));
    assert!(found.iter().any(|offence| offence.contains(what)), "{text:?} in {path} gave {found:?}");
}

fn clean(path: &str, text: &str) {
    let found = offences(path, &format!("{HEAD}{text}"));
    assert!(found.is_empty(), "{text:?} in {path} gave {found:?}");
}

#[test]
fn a_forged_import_is_flagged_however_it_is_written() {
    flagged(
        "broker/src/log/reader.rs",
        "use crate::topics::Topics;\n",
        "broker/src/log/reader.rs:2: `log` must not use `topics`",
    );
    flagged("broker/src/log/reader.rs", "use crate::{model::Offset, clock::Clock};\n", "must not use `clock`");
    flagged(
        "broker/src/log/storage/disk.rs",
        "use super::super::super::partition::Permit;\n",
        "must not use `partition`",
    );
    flagged("broker/src/log/mod.rs", "fn f() { crate::metrics::count() }\n", "must not use `metrics`");
    flagged("broker/src/model/offset.rs", "use crate::log::LocalLog;\n", "must not use `log`");
    flagged("broker/src/log/frame.rs", "use tokio::sync::Notify;\n", "must not know tokio");
    flagged("broker/src/log/frame.rs", "use sawlog_proto::batch;\n", "must not know sawlog_proto");
    flagged("broker/src/partition/local.rs", "use sawlog_proto::v1::ReadRequest;\n", "must not know sawlog_proto::v1");
    flagged(
        "broker/src/partition/local.rs",
        "use sawlog_proto::{batch, v1::ReadRequest};\n",
        "must not know sawlog_proto::v1",
    );
    flagged("broker/src/grpc/read.rs", "use crate::log::LogReader;\n", "must not use `log`");
    flagged("client/src/lib.rs", "use sawlog_broker::server::Broker;\n", "must not know sawlog_broker");
    flagged("cli/src/main.rs", "use sawlog_testing::TestBroker;\n", "must not know sawlog_testing");
    clean(
        "broker/src/partition/local.rs",
        "use crate::{log::LocalLog, model::Offset};\nuse sawlog_proto::batch::check;\n",
    );
    clean("broker/src/log/storage/disk.rs", "use super::Storage;\nuse super::super::error::OpenError;\n");
    clean("broker/src/log/mod.rs", "// crate::topics is above\nconst A: &str = \"crate::topics::B\";\n");
    clean("broker/src/log/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::clock::ManualClock;\n}\n");
}

#[test]
fn a_file_or_function_that_is_too_long_is_flagged() {
    let long_file = "const A: u8 = 0;\n".repeat(FILE_LINES);
    flagged("broker/src/log/a.rs", &long_file, "lines without tests");
    let tests = format!("#[cfg(test)]\nmod tests {{\n{long_file}}}\n");
    clean("broker/src/log/a.rs", &tests);
    let body = "    let _ = '{';\n".repeat(FUNCTION_LINES - 2);
    clean("cli/src/a.rs", &format!("fn fits() {{\n{body}}}\n"));
    flagged("cli/src/a.rs", &format!("fn long() {{\n{body}\n}}\n"), "fn long has 71 lines");
}

#[test]
fn stray_clocks_locks_files_and_unsafe_are_flagged() {
    flagged("broker/src/log/a.rs", "fn f() { std::time::Instant::now(); }\n", "outside clock.rs");
    flagged("client/src/a.rs", "fn f() { tokio::time::Instant::now(); }\n", "outside clock.rs");
    clean("broker/src/clock.rs", "fn f() { std::time::Instant::now(); }\n");
    flagged("broker/src/log/a.rs", "use std::sync::{Arc, Mutex};\n", "std::sync::Mutex");
    flagged("broker/src/partition/a.rs", "use parking_lot::Mutex;\n", "sync.rs");
    flagged("broker/src/partition/a.rs", "use std::sync::atomic::{AtomicU64, Ordering};\n", "sync.rs");
    clean("broker/src/partition/sync.rs", "use std::sync::atomic::AtomicU64;\n");
    flagged("broker/src/topics/a.rs", "use std::fs;\n", "outside log/storage");
    flagged("broker/src/log/data_dir.rs", "fn f() { std::fs::read(\"x\"); }\n", "outside log/storage");
    clean("broker/src/log/storage/disk.rs", "use std::fs::File;\n");
    flagged("broker/src/log/a.rs", "fn f() { unsafe { g() } }\n", "unsafe outside");
}

#[test]
fn an_exception_without_a_reason_and_a_missing_head_are_flagged() {
    flagged("cli/src/a.rs", "#[allow(dead_code)]\nfn f() {}\n", "cli/src/a.rs:2: an exception to a lint");
    flagged("cli/src/a.rs", "#![expect(clippy::all)]\n", "an exception to a lint");
    flagged("cli/src/tests.rs", "#[cfg_attr(test, allow(dead_code))]\nfn f() {}\n", "an exception to a lint");
    clean("cli/src/a.rs", "#[expect(dead_code, reason = \"kept for later\")]\nfn f() {}\n");
    assert!(!offences("cli/src/a.rs", "fn f() {}\n").is_empty());
    assert!(!offences("cli/src/a.rs", "//! placeholder\n").is_empty());
}

#[test]
fn groups_of_imports_are_taken_apart() {
    let paths: Vec<_> = used_paths("use a::{b, c::{d, e as f}, g::*};").into_iter().map(|(_, path)| path).collect();
    assert_eq!(paths, ["a::b", "a::c::d", "a::c::e", "a::g::*"]);
}
