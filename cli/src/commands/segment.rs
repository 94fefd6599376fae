//! `segment`: the files of a stopped broker: list, dump, verify, repair. Only repair writes.
//!
//! It takes the data directory's lock, so that no broker runs on it meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use sawlog_broker::clock::SystemClock;
use sawlog_broker::config::BrokerConfig;
use sawlog_broker::log::data_dir::DataDirError;
use sawlog_broker::log::repair;
use sawlog_broker::log::storage::{Disk, Storage, StorageLock};
use sawlog_broker::log::verify::{self, Finding, Grade};
use sawlog_broker::server::BrokerEnvironment;
use sawlog_broker::server::engine::repair_metadata;
use serde::Serialize;

use crate::arguments::Common;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Rows, grouped, human_bytes};

mod dump;

/// The metadata log, below the data directory.
const METADATA_LOG: &str = "meta";
/// The journals of the groups, below the data directory.
const JOURNALS: [&str; 2] = ["groups", "entries"];

/// Look at the files of a stopped broker, check them, and cut what is damaged.
#[derive(Debug, Args)]
pub(crate) struct Segment {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List logs and their segments.
    #[command(after_help = "Examples:\n  sawlog segment list --data-dir /var/lib/sawlog\n  \
                            sawlog segment list topics/1/0 --output json")]
    List(Where),
    /// Print what a segment holds, frame by frame.
    #[command(after_help = "Examples:\n  sawlog segment dump topics/1/0/00000000000000000000.log\n  \
                            sawlog segment dump topics/1/0/00000000000000000000.log --records -n 10")]
    Dump(dump::Dump),
    /// Check every byte: exit code 5 if something that was durable is damaged.
    #[command(after_help = "Examples:\n  sawlog segment verify --data-dir /var/lib/sawlog\n  \
                            sawlog segment verify topics/1/0 --output json")]
    Verify(Where),
    /// Cut a log at its first damage, so that it can be written again; all that follows in it is lost.
    #[command(after_help = "Examples:\n  sawlog segment repair topics/1/0 --dry-run\n  \
                            sawlog segment repair topics/1/0 --data-dir /var/lib/sawlog --yes")]
    Repair {
        /// The log: a folder below the data directory, such as topics/1/0.
        log: PathBuf,
        #[command(flatten)]
        folder: DataDir,
        /// Only tell what would be cut.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct Where {
    /// One log: a folder below the data directory, such as topics/1/0; default: all.
    log: Option<PathBuf>,
    #[command(flatten)]
    folder: DataDir,
}

/// The data directory.
#[derive(Debug, Args)]
struct DataDir {
    /// The data directory of a stopped broker.
    #[arg(long, env = "SAWLOG_STORAGE__DATA_DIR", default_value = "sawlog-data", value_name = "FOLDER")]
    data_dir: PathBuf,
}

/// A data directory that no broker uses while this lives.
struct Opened {
    disk: Disk,
    _lock: Option<Box<dyn StorageLock>>,
}

impl DataDir {
    fn open(&self) -> Outcome<Opened> {
        let disk = Disk::open(&self.data_dir).map_err(|error| Failure::file("open", &self.data_dir, &error))?;
        let lock = verify::lock_stopped(&disk).map_err(|error| {
            let next = match error {
                DataDirError::InUse { .. } => "stop the broker first; a running one serves `sawlog topic show`",
                _ => "check the path and its permissions",
            };
            Failure::new(Exit::Failure, format!("{}: {error}", self.data_dir.display()), next)
        })?;
        Ok(Opened { disk, _lock: lock })
    }

    fn failed(&self, action: &str, path: &Path, error: &io::Error) -> Failure {
        Failure::file(action, &self.data_dir.join(path), error)
    }

    /// The log that was named, or all of them.
    fn logs(&self, disk: &Disk, named: Option<&PathBuf>) -> Outcome<Vec<PathBuf>> {
        let all = verify::logs(disk).map_err(|error| self.failed("list", Path::new(""), &error))?;
        match named {
            None => Ok(all),
            Some(log) if all.contains(log) => Ok(vec![log.clone()]),
            Some(log) => Err(Failure::new(
                Exit::NotFound,
                format!("there is no log {} in {}", log.display(), self.data_dir.display()),
                "`sawlog segment list` shows the logs",
            )),
        }
    }
}

impl Segment {
    pub(crate) fn run(self, common: &Common) -> Outcome {
        match self.verb {
            Verb::List(place) => list(&place, common),
            Verb::Dump(dump) => dump.run(common),
            Verb::Verify(place) => verify_logs(&place, common),
            Verb::Repair { log, folder, dry_run, yes } if log == Path::new(METADATA_LOG) => {
                repair_meta(&folder, dry_run, yes, common)
            }
            Verb::Repair { log, .. } if JOURNALS.iter().any(|journal| log == Path::new(journal)) => Err(Failure::new(
                Exit::Usage,
                format!("{} has snapshots: a cut at its first damage would give up good ones behind it", log.display()),
                "start the broker: produce and read go on, and `sawlog group recover` goes back to the last good state",
            )),
            Verb::Repair { log, folder, dry_run, yes } => repair_log(&folder, &log, dry_run, yes, common),
        }
    }
}

#[derive(Serialize)]
struct Listed {
    file: String,
    base_offset: u64,
    log_bytes: u64,
    index_bytes: Option<u64>,
    time_index_bytes: Option<u64>,
}

fn list(place: &Where, common: &Common) -> Outcome {
    let opened = place.folder.open()?;
    let mut rows = Rows::new(&["segment", ">base offset", ">log", ">index", ">time index"]);
    for log in place.folder.logs(&opened.disk, place.log.as_ref())? {
        let listed = verify::list_segments(&opened.disk, &log);
        for segment in listed.map_err(|error| place.folder.failed("list", &log, &error))? {
            if common.json() {
                output::json_line(&Listed {
                    file: segment.file.display().to_string(),
                    base_offset: segment.base.get(),
                    log_bytes: segment.log_bytes,
                    index_bytes: segment.index_bytes,
                    time_index_bytes: segment.time_index_bytes,
                })?;
                continue;
            }
            let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), human_bytes);
            rows.add([
                segment.file.display().to_string(),
                segment.base.to_string(),
                human_bytes(segment.log_bytes),
                bytes(segment.index_bytes),
                bytes(segment.time_index_bytes),
            ]);
        }
    }
    if common.json() { Ok(()) } else { rows.print() }
}

#[derive(Serialize)]
struct Verified {
    log: String,
    segments: usize,
    frames: u64,
    records: u64,
    bytes: u64,
    end_offset: u64,
    proven_end_offset: u64,
    grade: &'static str,
    findings: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    grade: &'static str,
    file: String,
    position: Option<u64>,
    what: String,
    lost: Option<(u64, u64)>,
}

fn grade(grade: Option<Grade>) -> &'static str {
    match grade {
        None => "good",
        Some(Grade::Rebuildable) => "rebuildable",
        Some(Grade::TornTail) => "torn tail",
        Some(Grade::Damage) => "damage",
    }
}

fn found(finding: &Finding) -> Found {
    Found {
        grade: grade(Some(finding.grade)),
        file: finding.file.display().to_string(),
        position: finding.position.map(|position| position.0),
        what: finding.what.clone(),
        lost: finding.lost.map(|lost| (lost.from.get(), lost.to.get())),
    }
}

fn tell(finding: &Finding) {
    let found = found(finding);
    let place = found.position.map_or_else(|| found.file.clone(), |position| format!("{} byte {position}", found.file));
    let lost = found.lost.map_or_else(String::new, |(from, to)| format!("; offsets {from} to {to} cannot be read"));
    output::talk(&format!("{}: {place}: {}{lost}", found.grade, found.what));
}

fn verify_logs(place: &Where, common: &Common) -> Outcome {
    let opened = place.folder.open()?;
    let (logs, own_findings) = if place.log.is_some() {
        let mut reports = Vec::new();
        for log in place.folder.logs(&opened.disk, place.log.as_ref())? {
            let report = verify::verify_log(&opened.disk, &log);
            reports.push(report.map_err(|error| place.folder.failed("read", &log, &error))?);
        }
        (reports, Vec::new())
    } else {
        let report = verify::verify_all(&opened.disk);
        let report = report.map_err(|error| place.folder.failed("read", Path::new(""), &error))?;
        (report.logs, report.findings)
    };
    let mut rows = Rows::new(&["log", ">segments", ">frames", ">records", ">bytes", ">end", ">proven", "verdict"]);
    for log in &logs {
        let answer = Verified {
            log: log.dir.display().to_string(),
            segments: log.segments.len(),
            frames: log.segments.iter().map(|segment| segment.frames).sum(),
            records: log.segments.iter().map(|segment| segment.records).sum(),
            bytes: log.segments.iter().map(|segment| segment.bytes).sum(),
            end_offset: log.end.get(),
            proven_end_offset: log.proven_end.get(),
            grade: grade(log.grade()),
            findings: log.findings.iter().map(found).collect(),
        };
        if common.json() {
            output::json_line(&answer)?;
            continue;
        }
        rows.add([
            answer.log,
            answer.segments.to_string(),
            grouped(answer.frames),
            grouped(answer.records),
            human_bytes(answer.bytes),
            answer.end_offset.to_string(),
            answer.proven_end_offset.to_string(),
            answer.grade.to_owned(),
        ]);
    }
    if !common.json() {
        rows.print()?;
    }
    let findings: Vec<_> = own_findings.iter().chain(logs.iter().flat_map(|log| &log.findings)).collect();
    findings.iter().for_each(|finding| tell(finding));
    let damages = findings.iter().filter(|finding| finding.grade == Grade::Damage).count();
    if damages == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::CheckFailed,
        format!("{damages} places hold other bytes than were written"),
        "restore the files, or read past the damage; `sawlog segment repair LOG --dry-run` tells what a cut would cost",
    ))
}

#[derive(Serialize)]
struct Repaired {
    log: String,
    cause: Option<Found>,
    end_offset: u64,
    dropped_bytes: u64,
    dropped_good_records: u64,
    done: bool,
}

#[derive(Serialize)]
struct RepairedMetadata {
    log: &'static str,
    damage: Option<String>,
    dropped: Vec<String>,
    done: bool,
}

/// The metadata log has snapshots: it goes back to its last good state by what its records say, not by a cut at the
/// first bad byte, which would give up good snapshots behind it.
fn repair_meta(folder: &DataDir, dry_run: bool, yes: bool, common: &Common) -> Outcome {
    let log = Path::new(METADATA_LOG);
    let opened = folder.open()?;
    folder.logs(&opened.disk, Some(&log.to_path_buf()))?;
    let report = verify::verify_log(&opened.disk, log).map_err(|error| folder.failed("read", log, &error))?;
    // The repair takes the lock itself.
    drop(opened);
    report.findings.iter().for_each(tell);
    let mut answer = RepairedMetadata { log: METADATA_LOG, damage: None, dropped: Vec::new(), done: false };
    if dry_run {
        answer.damage = report.findings.iter().find(|finding| finding.grade == Grade::Damage).map(|f| f.what.clone());
    } else {
        output::confirm("topics and changes recorded behind the damage are lost; their records stay on disk", yes)?;
        let mut config = BrokerConfig::default();
        config.storage.data_dir.clone_from(&folder.data_dir);
        let environment = BrokerEnvironment { clock: Arc::new(SystemClock::new()), storage: None };
        let repaired = repair_metadata(config, environment)
            .map_err(|error| Failure::new(Exit::Failure, error.to_string(), "check the disk, then run it again"))?;
        answer.done = repaired.damage.is_some();
        (answer.damage, answer.dropped) = (repaired.damage, repaired.dropped);
        answer.dropped.iter().for_each(|dropped| output::talk(&format!("dropped: {dropped}")));
    }
    if common.json() {
        return output::json_line(&answer);
    }
    output::data_line(match (&answer.damage, answer.done) {
        (None, _) => "meta: nothing to repair",
        (Some(_), false) => "meta: damaged; nothing was changed",
        (Some(_), true) => "meta: back at its last good state",
    })
}

fn repair_log(folder: &DataDir, log: &PathBuf, dry_run: bool, yes: bool, common: &Common) -> Outcome {
    let opened = folder.open()?;
    folder.logs(&opened.disk, Some(log))?;
    let storage: &dyn Storage = &opened.disk;
    let plan = repair::plan(storage, log).map_err(|error| folder.failed("read", log, &error))?;
    let needed = plan.cause.is_some();
    let mut answer = Repaired {
        log: log.display().to_string(),
        cause: plan.cause.as_ref().map(found),
        end_offset: plan.end.get(),
        dropped_bytes: plan.dropped.iter().map(|dropped| dropped.bytes).sum(),
        dropped_good_records: plan.dropped.iter().map(|dropped| dropped.good_records).sum(),
        done: false,
    };
    if let Some(cause) = &plan.cause {
        tell(cause);
        for dropped in &plan.dropped {
            let (file, records) = (dropped.file.display(), grouped(dropped.good_records));
            let bytes = human_bytes(dropped.bytes);
            output::talk(&format!(
                "cut: {file} from byte {}: {bytes}, {records} good records among them",
                dropped.position
            ));
        }
    }
    if needed && !dry_run {
        let (end, records) = (plan.end, grouped(answer.dropped_good_records));
        output::confirm(&format!("{} is cut at offset {end}; {records} good records are lost", log.display()), yes)?;
        repair::apply(storage, &plan).map_err(|error| folder.failed("repair", log, &error))?;
        answer.done = true;
    }
    if common.json() {
        return output::json_line(&answer);
    }
    output::data_line(&match (needed, answer.done) {
        (false, _) => format!("{}: nothing to repair", log.display()),
        (true, false) => format!("{}: would end at offset {}; nothing was changed", log.display(), plan.end),
        (true, true) => format!("{}: ends at offset {} now", log.display(), plan.end),
    })
}
