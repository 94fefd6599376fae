//! The checks: each takes a source and tells its offences.

use crate::exceptions;
use crate::source::{Offence, Source, end_of_item, is_word, line_of};

/// Lines that a file may have, without its test modules.
pub(crate) const FILE_LINES: usize = 500;
/// Lines that a function may have.
pub(crate) const FUNCTION_LINES: usize = 70;

/// Everything that is wrong in a file, but for the known exceptions.
pub(crate) fn check(source: &Source) -> Vec<Offence> {
    let mut found = all(source);
    found.retain(|offence| !exceptions::allowed(source, offence));
    found
}

/// Everything that is wrong in a file.
pub(crate) fn all(source: &Source) -> Vec<Offence> {
    let mut found = Vec::new();
    module_head(source, &mut found);
    reasons(source, &mut found);
    if source.is_test() || source.path.ends_with("build.rs") {
        return found;
    }
    imports(source, &mut found);
    sizes(source, &mut found);
    clocks(source, &mut found);
    locks(source, &mut found);
    files(source, &mut found);
    found
}

/// What a module of the broker may use of the broker's own modules; `None`: everything.
fn may_use(module: &str) -> Option<&'static [&'static str]> {
    Some(match module {
        "limits" | "clock" => &[],
        "model" => &["limits"],
        "metrics" => &["model", "limits"],
        "log" => &["model", "limits"],
        "partition" => &["log", "model", "limits", "clock", "metrics"],
        "topics" => &["partition", "log", "model", "limits", "clock", "metrics"],
        "group" => &["model", "limits"],
        "dead_letter" => &["group", "topics", "partition", "model", "limits", "clock", "metrics"],
        "coordinator" => &["dead_letter", "group", "topics", "partition", "model", "limits", "clock", "metrics"],
        // The engine of the groups itself stays behind the coordinator; its words (config, events, frames) do not.
        "grpc" => &["coordinator", "dead_letter", "group", "topics", "partition", "model", "limits", "metrics"],
        "http" => &["grpc", "coordinator", "dead_letter", "topics", "partition", "model", "limits", "metrics"],
        "config" => &["model", "limits", "log", "partition", "topics", "group", "coordinator"],
        _ => return None,
    })
}

/// Crates, or paths in crates, that a place must not know.
fn must_not_know(source: &Source) -> &'static [&'static str] {
    let module = source.module().first().copied().unwrap_or_default();
    match (source.path.split('/').next().unwrap_or_default(), module) {
        ("broker", "model" | "limits") => &["tokio", "tonic", "sawlog_proto", "prost", "axum", "hyper", "tracing"],
        ("broker", "log") => {
            &["tokio", "tonic", "sawlog_proto", "prost", "axum", "hyper", "tokio_util", "tokio_stream"]
        }
        ("broker", "partition" | "topics") => &["tonic", "sawlog_proto::v1", "prost", "axum", "hyper", "http"],
        ("broker", "config") => &["tokio", "tonic"],
        ("broker", _) => &["sawlog_client", "sawlog_testing"],
        ("proto", _) => &["sawlog_broker", "sawlog_client", "tokio"],
        ("client", _) => &["sawlog_broker", "sawlog_testing"],
        ("cli", _) => &["sawlog_testing", "sawlog_benches"],
        ("tests" | "benches", _) => &["sawlog"],
        _ => &[],
    }
}

/// The import table.
fn imports(source: &Source, found: &mut Vec<Offence>) {
    let module = source.module();
    let paths = used_paths(&source.shipped);
    for (at, path) in &paths {
        let crate_name = path.split("::").next().unwrap_or_default();
        for forbidden in must_not_know(source) {
            if crate_name == *forbidden || path == forbidden || path.starts_with(&format!("{forbidden}::")) {
                found.push(source.offence(*at, format!("must not know {forbidden}, uses {path}")));
            }
        }
    }
    let Some(own) = module.first().filter(|_| source.path.starts_with("broker/")) else { return };
    let Some(allowed) = may_use(own) else { return };
    for (at, path) in &paths {
        if let Some(target) = module_of_ours(path, &module)
            && target != *own
            && BROKER_MODULES.contains(&target.as_str())
            && !allowed.contains(&target.as_str())
        {
            found.push(source.offence(*at, format!("`{own}` must not use `{target}`, uses {path}")));
        }
    }
}

/// The modules of the broker at its root.
const BROKER_MODULES: &[&str] = &[
    "clock",
    "config",
    "coordinator",
    "dead_letter",
    "group",
    "grpc",
    "http",
    "limits",
    "log",
    "metrics",
    "model",
    "partition",
    "replay",
    "server",
    "topics",
];

/// The root module that a path leads to, if it leads out of the file's own place.
fn module_of_ours(path: &str, module: &[&str]) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").collect();
    if parts.first() == Some(&"crate") {
        return parts.get(1).map(|part| (*part).to_owned());
    }
    let supers = parts.iter().take_while(|part| **part == "super").count();
    if supers == 0 || supers > module.len() {
        return None;
    }
    parts.drain(..supers);
    module[..module.len() - supers].iter().chain(&parts).next().map(|part| (*part).to_owned())
}

/// Every path `a::b::c` of the code with the byte at which it stands, groups of `use` taken apart.
pub(crate) fn used_paths(code: &str) -> Vec<(usize, String)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let starts_word = is_word(bytes[at]) && (at == 0 || !is_word(bytes[at - 1])) && !code[..at].ends_with("::");
        at = if starts_word { walk_path(code, at, String::new(), &mut found).max(at + 1) } else { at + 1 };
    }
    found.retain(|(_, path)| path.contains("::"));
    found
}

/// Follows one path from `at`; a group `{a, b::c}` at its end adds one path each. Returns where it ends.
fn walk_path(code: &str, at: usize, prefix: String, found: &mut Vec<(usize, String)>) -> usize {
    let bytes = code.as_bytes();
    let start = at;
    let mut path = prefix;
    let mut at = at;
    loop {
        let length = bytes[at..].iter().take_while(|byte| is_word(**byte) || **byte == b'*').count();
        path.push_str(&code[at..at + length]);
        at += length;
        if !code[at..].starts_with("::") {
            break;
        }
        at += 2;
        path.push_str("::");
        if bytes.get(at) == Some(&b'{') {
            at += 1;
            loop {
                at += bytes[at..].iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b',').count();
                match bytes.get(at) {
                    None => return at,
                    Some(b'}') => return at + 1,
                    // The new name of `b as c` is no path.
                    Some(_) if code[at..].starts_with("as ") => {
                        at += 3;
                        at += bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
                    }
                    Some(byte) if is_word(*byte) || *byte == b'*' => at = walk_path(code, at, path.clone(), found),
                    // What is no `use` at all.
                    Some(_) => at += 1,
                }
            }
        }
        if !bytes.get(at).is_some_and(|byte| is_word(*byte) || *byte == b'*') {
            break;
        }
    }
    found.push((start, path));
    at
}

/// The sizes of files and functions.
fn sizes(source: &Source, found: &mut Vec<Offence>) {
    let lines = source.text.lines().count() - source.test_lines;
    if lines >= FILE_LINES {
        found.push(source.offence(0, format!("{lines} lines without tests, under {FILE_LINES} are allowed")));
    }
    for (at, name) in functions(&source.shipped) {
        let end = end_of_item(&source.shipped, at);
        let lines = line_of(&source.shipped, end.min(source.shipped.len())) - line_of(&source.shipped, at) + 1;
        if lines > FUNCTION_LINES {
            found
                .push(source.offence(at, format!("fn {name} has {lines} lines, at most {FUNCTION_LINES} are allowed")));
        }
    }
}

/// Each `fn name` with its byte.
fn functions(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = at.checked_sub(1).map(|at| code.as_bytes()[at]);
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !before.is_some_and(is_word) && !name.is_empty() {
            found.push((at, name));
        }
    }
    found
}

/// Stray clocks and sleeps.
fn clocks(source: &Source, found: &mut Vec<Offence>) {
    if source.path.ends_with("/clock.rs") {
        return;
    }
    for pattern in ["Instant::now", "SystemTime::now", "thread::sleep", "Timestamp::now", "Zoned::now"] {
        for (at, _) in source.shipped.match_indices(pattern) {
            found.push(source.offence(at, format!("{pattern} outside clock.rs")));
        }
    }
}

/// Locks and atomics.
fn locks(source: &Source, found: &mut Vec<Offence>) {
    let in_partition = source.path.starts_with("broker/src/partition/") && !source.path.ends_with("/sync.rs");
    for (at, path) in used_paths(&source.shipped) {
        if matches!(path.as_str(), "std::sync::Mutex" | "std::sync::RwLock" | "std::sync::Condvar") {
            found.push(source.offence(at, format!("{path}: parking_lot's does not poison")));
        }
        if in_partition && (path.starts_with("parking_lot::") || path.starts_with("std::sync::atomic")) {
            found.push(source.offence(at, format!("{path}: `partition` takes locks and atomics from its sync.rs")));
        }
    }
}

/// Files and unsafe code.
fn files(source: &Source, found: &mut Vec<Offence>) {
    let package = source.path.split('/').next().unwrap_or_default();
    if matches!(package, "broker" | "client" | "proto") && !source.path.starts_with("broker/src/log/storage/") {
        for (at, path) in used_paths(&source.shipped) {
            if path == "std::fs" || path.starts_with("std::fs::") || path.starts_with("tokio::fs") {
                found.push(source.offence(at, format!("{path} outside log/storage")));
            }
        }
    }
    if !source.path.ends_with("log/storage/mmap.rs") {
        for (at, _) in source.shipped.match_indices("unsafe {") {
            found.push(source.offence(at, "unsafe outside log/storage/mmap.rs"));
        }
    }
}

/// Every exception to a lint has its reason.
fn reasons(source: &Source, found: &mut Vec<Offence>) {
    for open in ["#[", "#!["] {
        for (at, _) in source.code.match_indices(open) {
            let rest = &source.code[at + open.len()..];
            let mut depth = 1;
            let end = rest.bytes().position(|byte| {
                match byte {
                    b'[' => depth += 1,
                    b']' => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            let attribute = &rest[..end.unwrap_or(rest.len())];
            let is_exception = ["allow(", "expect("].iter().any(|word| {
                attribute.match_indices(word).any(|(at, _)| at == 0 || !is_word(attribute.as_bytes()[at - 1]))
            });
            if is_exception && !attribute.contains("reason") {
                found.push(source.offence(at, "an exception to a lint without its reason"));
            }
        }
    }
}

/// Every file begins with what it owns.
fn module_head(source: &Source, found: &mut Vec<Offence>) {
    let first = source.text.lines().next().unwrap_or_default();
    let own_tests = source.path.ends_with("tests.rs") || source.path.contains("/tests/");
    if (!first.starts_with("//! ") && !own_tests) || first.contains("placeholder") {
        found.push(source.offence(0, "no module head that says what it owns"));
    }
}
