//! `dlq`: dead letters: list, show, edit, redrive, skip-head, retry-head, discard, export, jobs.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sawlog_client::StreamExt as _;
use sawlog_client::dead_letter::{DeadLetters, Edit, LaneHead, Payload, Redrive, RedriveOrder};
use sawlog_client::types::Header;
use serde_json::json;

use crate::amounts;
use crate::arguments::Common;
use crate::client::{self, failed};
use crate::failure::{Failure, Outcome};
use crate::output;

mod jobs;
mod selector;
mod show;

use super::group::told;
use selector::Selector;

/// Look at dead letters, edit them, give them up, deliver them again.
#[derive(Debug, Args)]
pub(crate) struct Dlq {
    #[command(subcommand)]
    verb: Verb,
    /// Who decides, for the history [default: the user].
    #[arg(long, global = true, env = "SAWLOG_ACTOR", value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List dead letters of a group; without a state those not closed.
    #[command(after_help = "Examples:\n  sawlog dlq list billing\n  \
                            sawlog dlq list billing --kind failed --class PANIC --output json")]
    List {
        /// Name of the group.
        group: String,
        #[command(flatten)]
        selector: Selector,
        /// Stop after so many.
        #[arg(short = 'n', long, value_name = "COUNT")]
        count: Option<usize>,
    },
    /// Show one dead letter: its record, versions and history.
    #[command(after_help = "Examples:\n  sawlog dlq show ID\n  sawlog dlq show ID --output json")]
    Show {
        /// Id of the entry.
        id: String,
    },
    /// Store a new version of an open entry; the original stays. The key cannot be edited.
    #[command(after_help = "Examples:\n  sawlog dlq edit ID --value '{\"cents\":42}' --note 'amount was text'\n  \
                            sawlog dlq edit ID --file fixed.json --header source=fix --note 'by hand'")]
    Edit(EditArguments),
    /// Deliver open entries again to their group, in order per key, as a job that survives a restart.
    #[command(after_help = "Examples:\n  sawlog dlq redrive billing --class TIMEOUT --dry-run\n  \
                            sawlog dlq redrive billing --all --rate 50 --watch")]
    Redrive(RedriveArguments),
    /// Give up the first record that blocks a key.
    #[command(name = "skip-head")]
    #[command(after_help = "Examples:\n  sawlog dlq skip-head billing --id ID --reason 'test order' --yes\n  \
                            sawlog dlq skip-head billing --topic orders --key order-7 --reason 'test order' --yes")]
    SkipHead {
        #[command(flatten)]
        head: Head,
        /// Why; kept.
        #[arg(long)]
        reason: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Try the first record that blocks a key again, its attempts counted anew.
    #[command(name = "retry-head")]
    #[command(after_help = "Examples:\n  sawlog dlq retry-head billing --id ID\n  \
                            sawlog dlq retry-head billing --topic orders --partition 2 --offset 17")]
    RetryHead {
        #[command(flatten)]
        head: Head,
    },
    /// Give open entries up.
    #[command(after_help = "Examples:\n  sawlog dlq discard billing --id ID --reason 'test order' --yes\n  \
                            sawlog dlq discard billing --class DECODE --reason 'old format' --dry-run")]
    Discard {
        /// Name of the group.
        group: String,
        #[command(flatten)]
        selector: Selector,
        /// Every open entry.
        #[arg(long)]
        all: bool,
        /// Why; kept.
        #[arg(long)]
        reason: String,
        /// Only count.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Print entries with their records, as JSON lines; closed ones too unless a state is given.
    #[command(after_help = "Examples:\n  sawlog dlq export billing > dead.ndjson\n  \
                            sawlog dlq export billing --state open --topic orders")]
    Export {
        /// Name of the group.
        group: String,
        #[command(flatten)]
        selector: Selector,
    },
    /// Redrives: list, show, pause, resume, cancel.
    Jobs(jobs::Jobs),
}

#[derive(Debug, Args)]
struct EditArguments {
    /// Id of the entry.
    id: String,
    /// New payload.
    #[arg(long, conflicts_with_all = ["file", "tombstone"])]
    value: Option<String>,
    /// File with the new payload.
    #[arg(long, value_name = "PATH", conflicts_with = "tombstone")]
    file: Option<PathBuf>,
    /// No payload: a tombstone.
    #[arg(long)]
    tombstone: bool,
    /// A header; may be given again. All headers are replaced.
    #[arg(short = 'H', long, value_parser = amounts::pair, value_name = "NAME=VALUE")]
    header: Vec<(String, String)>,
    /// Edit it only if it has so many versions.
    #[arg(long, value_name = "COUNT")]
    if_versions: Option<u32>,
    /// Why; kept.
    #[arg(long)]
    note: String,
}

#[derive(Debug, Args)]
struct RedriveArguments {
    /// Name of the group.
    group: String,
    #[command(flatten)]
    selector: Selector,
    /// Every open entry.
    #[arg(long)]
    all: bool,
    /// At most so many entries a second; 0: no limit.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    rate: u64,
    /// Begin with the keys that died last.
    #[arg(long)]
    newest_first: bool,
    /// Pause after so many failures; 0: never [default: 10].
    #[arg(long, value_name = "COUNT")]
    abort_after: Option<u32>,
    /// Append to this topic instead, where every group sees them; without a name the source topic.
    #[arg(long, value_name = "TOPIC", num_args = 0..=1, default_missing_value = "")]
    to_topic: Option<String>,
    /// Only count.
    #[arg(long)]
    dry_run: bool,
    /// Follow the job to its end.
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    /// Why; kept.
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
}

/// The first record that blocks a key.
#[derive(Debug, Args)]
struct Head {
    /// Name of the group.
    group: String,
    /// An entry of the key.
    #[arg(long, value_name = "ID", conflicts_with_all = ["key", "offset"])]
    id: Option<String>,
    /// The key.
    #[arg(long, requires = "topic", conflicts_with = "offset")]
    key: Option<String>,
    /// The offset of a record of the key.
    #[arg(long, requires = "topic", requires = "partition")]
    offset: Option<u64>,
    /// Source topic.
    #[arg(long)]
    topic: Option<String>,
    /// Its partition.
    #[arg(long)]
    partition: Option<u32>,
}

impl Head {
    fn lane(&self) -> Outcome<LaneHead> {
        let topic = self.topic.clone().unwrap_or_default();
        match (&self.id, &self.key, self.offset, self.partition) {
            (Some(id), ..) => Ok(LaneHead::Entry(id.clone())),
            (_, Some(key), _, partition) => Ok(LaneHead::Key { topic, partition, key: key.clone().into() }),
            (_, _, Some(offset), Some(partition)) => Ok(LaneHead::Offset { topic, partition, offset }),
            _ => Err(Failure::usage("no key was named", "give --id, --key with --topic, or --offset with its place")),
        }
    }
}

impl Dlq {
    pub(crate) fn run(&self, common: &Common) -> Outcome {
        client::run(common, async |client| {
            let actor = self.actor.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_default();
            let letters = client.dead_letters().actor(actor);
            match &self.verb {
                Verb::List { group, selector, count } => {
                    let mut entries = letters.entries(group, &selector.selector()?, false);
                    let mut found = Vec::new();
                    while count.is_none_or(|count| found.len() < count)
                        && let Some(entry) = entries.next().await
                    {
                        found.push(entry.map_err(failed)?);
                    }
                    show::list(&found, common)
                }
                Verb::Show { id } => show::entry(&letters.get(id).await.map_err(failed)?, common),
                Verb::Edit(edit) => edit.run(&letters, common).await,
                Verb::Redrive(redrive) => redrive.run(&letters, common).await,
                Verb::SkipHead { head, reason, yes } => {
                    let lane = head.lane()?;
                    output::confirm(
                        &format!("the first record that blocks the key in {} is given up", head.group),
                        *yes,
                    )?;
                    let done = letters.skip_head(&head.group, &lane, reason).await.map_err(failed)?;
                    show::head("skipped", &done, common)
                }
                Verb::RetryHead { head } => {
                    let done = letters.retry_head(&head.group, &head.lane()?).await.map_err(failed)?;
                    show::head("tried again", &done, common)
                }
                Verb::Discard { group, selector, all, reason, dry_run, yes } => {
                    let selector = selector.needed(*all)?;
                    let (count, _) = letters.discard(group, &selector, reason, true).await.map_err(failed)?;
                    if *dry_run || count == 0 {
                        let answer = json!({ "discarded": count, "keys_live": null, "dry_run": true });
                        return told(common, &answer, &format!("{count} entries would be discarded"));
                    }
                    output::confirm(&format!("{count} dead letters of group {group} are given up"), *yes)?;
                    let (count, live) = letters.discard(group, &selector, reason, false).await.map_err(failed)?;
                    let answer = json!({ "discarded": count, "keys_live": live, "dry_run": false });
                    told(common, &answer, &format!("{count} entries discarded, {live} keys live again"))
                }
                Verb::Export { group, selector } => {
                    let mut export = letters.export(group, &selector.selector()?).await.map_err(failed)?;
                    while let Some(entry) = export.next().await {
                        output::json_line(&show::entry_json(&entry.map_err(failed)?))?;
                    }
                    Ok(())
                }
                Verb::Jobs(jobs) => jobs.run(&letters, common).await,
            }
        })
    }
}

impl EditArguments {
    async fn run(&self, letters: &DeadLetters, common: &Common) -> Outcome {
        let payload = match (&self.value, &self.file, self.tombstone) {
            (Some(value), ..) => Payload::Value(value.clone().into()),
            (None, Some(path), _) => {
                let bytes = std::fs::read(path).map_err(|error| Failure::file("read", path, &error))?;
                Payload::Value(bytes.into())
            }
            (None, None, true) => Payload::Tombstone,
            (None, None, false) => Payload::Unchanged,
        };
        let header = |(key, value): &(String, String)| Header { key: key.clone(), value: value.clone().into() };
        let headers = (!self.header.is_empty()).then(|| self.header.iter().map(header).collect());
        if payload == Payload::Unchanged && headers.is_none() {
            return Err(Failure::usage("nothing to change was named", "give --value, --file, --tombstone or --header"));
        }
        let edit = Edit { payload, headers, note: self.note.clone(), if_versions: self.if_versions };
        let (entry, version) = letters.edit(&self.id, edit).await.map_err(failed)?;
        let answer = json!({ "dlq_id": entry.dlq_id, "version": version });
        let next =
            format!("version {version} is stored; `sawlog dlq redrive {} --id {}` delivers it", entry.group, self.id);
        told(common, &answer, &next)
    }
}

impl RedriveArguments {
    async fn run(&self, letters: &DeadLetters, common: &Common) -> Outcome {
        let redrive = Redrive {
            selector: self.selector.needed(self.all)?,
            rate: self.rate,
            order: Some(if self.newest_first { RedriveOrder::NewestFirst } else { RedriveOrder::OldestFirst }),
            abort_after_failures: self.abort_after,
            note: self.note.clone(),
            to_topic: self.to_topic.clone(),
        };
        if self.dry_run {
            let preview = letters.redrive_preview(&self.group, &redrive).await.map_err(failed)?;
            return show::preview(&preview, common);
        }
        let job = letters.redrive(&self.group, &redrive).await.map_err(failed)?;
        if self.watch {
            return jobs::watch(letters, &job.job_id, common).await;
        }
        if !common.json() {
            output::talk(&format!("`sawlog dlq jobs show {} --watch` follows it", job.job_id));
        }
        show::job(&job, common)
    }
}
