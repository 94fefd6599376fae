//! `replay`: ranges of a topic delivered again to a group, looked at and steered (rules RP-1 to RP-5), or copied to a topic
//! or a file.

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sawlog_client::Client;
use sawlog_client::replays::{Replay as Job, ReplayRate, ReplayState, Replays};

use self::start::Start;
use crate::amounts;
use crate::arguments::Common;
use crate::client::{self, failed};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Rows};

mod copied;
mod copy;
mod start;

/// How often a replay that is followed is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Deliver a range of a topic again to a group, bounded and marked; or copy it to a topic or a file.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sawlog replay start orders --into audit --from 2h --rate 1000 --watch\n  sawlog replay list"
)]
pub(crate) struct Replay {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Start(Start),
    /// List replays, the newest first.
    #[command(after_help = "Examples:\n  sawlog replay list\n  sawlog replay list --running --output json")]
    List {
        /// Only those into this group.
        #[arg(long)]
        group: Option<String>,
        /// Only those that have not ended.
        #[arg(long)]
        running: bool,
    },
    /// Show a replay with its partitions.
    #[command(after_help = "Examples:\n  sawlog replay show ID\n  sawlog replay show ID --watch")]
    Show {
        /// Id of the replay.
        id: String,
        /// Follow it to its end; exits with 5 if it pauses or is cancelled.
        #[arg(long)]
        watch: bool,
    },
    /// Change the rate of a replay; without one there is no limit.
    #[command(after_help = "Examples:\n  sawlog replay update ID --rate 5000\n  sawlog replay update ID")]
    Update {
        /// Id of the replay.
        id: String,
        #[command(flatten)]
        pace: Pace,
    },
    /// Stop a replay for a while: partitions whose range is not done deliver nothing meanwhile, all others go on.
    #[command(after_help = "Examples:\n  sawlog replay pause ID\n  sawlog replay pause ID --output json")]
    Pause {
        /// Id of the replay.
        id: String,
    },
    /// Go on with a paused replay.
    #[command(after_help = "Examples:\n  sawlog replay resume ID\n  sawlog replay resume ID --output json")]
    Resume {
        /// Id of the replay.
        id: String,
    },
    /// End a replay; a group that was there goes on from where it was.
    #[command(after_help = "Examples:\n  sawlog replay cancel ID\n  sawlog replay cancel ID --yes")]
    Cancel {
        /// Id of the replay.
        id: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

/// How fast.
#[derive(Debug, Args)]
pub(super) struct Pace {
    /// Records a second, at least 1, or `unlimited`.
    #[arg(long, value_name = "RECORDS", value_parser = rate_records, conflicts_with_all = ["rate_bytes", "speed"])]
    rate: Option<RecordRate>,
    /// Bytes a second, such as 10MiB.
    #[arg(long, value_parser = rate_bytes, value_name = "SIZE", conflicts_with = "speed")]
    rate_bytes: Option<u64>,
    /// So many times as fast as the records were appended, such as 60: an hour in a minute.
    #[arg(long, value_parser = speed, value_name = "TIMES")]
    speed: Option<f64>,
}

/// Records a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecordRate {
    Unlimited,
    Limited(u64),
}

fn rate_records(text: &str) -> Result<RecordRate, String> {
    match text.parse() {
        _ if text == "unlimited" => Ok(RecordRate::Unlimited),
        Ok(records @ 1..) => Ok(RecordRate::Limited(records)),
        _ => Err("expected at least 1 record a second, or `unlimited`".to_owned()),
    }
}

fn rate_bytes(text: &str) -> Result<u64, String> {
    match amounts::size(text)? {
        0 => Err("expected at least 1 byte a second; `replay pause` stops one".to_owned()),
        bytes => Ok(bytes),
    }
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(times) if (0.001..=1_000.0).contains(&times) => Ok(times),
        _ => Err("expected 0.001 to 1000 times".to_owned()),
    }
}

impl Pace {
    pub(super) fn rate(&self) -> Option<ReplayRate> {
        let speed = self.speed.map(|times| ReplayRate::SpeedPermille((times * 1_000.0).round() as u64));
        let records = match self.rate {
            Some(RecordRate::Limited(records)) => Some(ReplayRate::Records(records)),
            Some(RecordRate::Unlimited) | None => None,
        };
        records.or(self.rate_bytes.map(ReplayRate::Bytes)).or(speed)
    }
}

impl Replay {
    pub(crate) fn run(self, common: &Common) -> Outcome {
        client::run(common, async |client| self.verb.run(&client, common).await)
    }
}

impl Verb {
    async fn run(self, client: &Client, common: &Common) -> Outcome {
        let replays = client.replays();
        match self {
            Self::Start(start) => start.run(client, common).await,
            Self::List { group, running } => {
                list(&replays.list(group.as_deref(), running).await.map_err(failed)?, common)
            }
            Self::Show { id, watch: true } => watch(&replays, &id, common).await,
            Self::Show { id, watch: false } => show(&replays.get(&id).await.map_err(failed)?, common),
            Self::Update { id, pace } => show(&replays.update(&id, pace.rate()).await.map_err(failed)?, common),
            Self::Pause { id } => show(&replays.pause(&id).await.map_err(failed)?, common),
            Self::Resume { id } => show(&replays.resume(&id).await.map_err(failed)?, common),
            Self::Cancel { id, yes } => {
                output::confirm(&format!("replay {id} ends, and cannot be taken up again"), yes)?;
                show(&replays.cancel(&id).await.map_err(failed)?, common)
            }
        }
    }
}

/// Follows a replay to its end.
async fn watch(replays: &Replays, id: &str, common: &Common) -> Outcome {
    let bar = match output::stderr_is_terminal() {
        true => ProgressBar::new(0),
        false => ProgressBar::hidden(),
    };
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}");
    bar.set_style(style.expect("the template is right"));
    let each = |job: &Job| {
        bar.set_length(job.records);
        bar.set_position(job.done);
        let left = job.eta_ms.map(|ms| output::human_span(i64::try_from(ms).unwrap_or(i64::MAX))).unwrap_or_default();
        bar.set_message(format!("{:.0}/s {left}", job.records_per_second));
    };
    let job = replays.watch(id, LOOK, each).await.map_err(failed)?;
    bar.finish_and_clear();
    show(&job, common)?;
    let next = format!("`sawlog replay show {id}` shows it");
    match job.state {
        Some(ReplayState::Done) => Ok(()),
        state => {
            let state = state.map_or("in an unknown state", ReplayState::as_str);
            Err(Failure::new(Exit::CheckFailed, format!("replay {id} is {state}"), next))
        }
    }
}

fn rate(job: &Job) -> String {
    rate_text(job.rate)
}

/// A rate for people.
pub(super) fn rate_text(rate: Option<ReplayRate>) -> String {
    match rate {
        None => "no limit".to_owned(),
        Some(ReplayRate::Records(records)) => format!("{}/s", output::grouped(records)),
        Some(ReplayRate::Bytes(bytes)) => format!("{}/s", output::human_bytes(bytes)),
        Some(ReplayRate::SpeedPermille(speed)) => format!("{}x", speed as f64 / 1_000.0),
    }
}

fn json(job: &Job) -> serde_json::Value {
    let partition = |one: &sawlog_client::replays::ReplayPartition| {
        serde_json::json!({
            "topic": one.topic, "partition": one.partition, "from": one.from, "to": one.to,
            "asked_from": one.asked_from, "done": one.done, "left": one.left, "rate": one.rate, "eta_ms": one.eta_ms,
        })
    };
    serde_json::json!({
        "replay_id": job.replay_id, "group": job.group, "topics": job.topics,
        "state": job.state.map(ReplayState::as_str), "rate": rate(job), "records": job.records, "done": job.done,
        "left": job.left, "records_per_second": job.records_per_second, "eta_ms": job.eta_ms, "note": job.note,
        "actor": job.actor, "create_time_ms": job.create_time_ms, "end_time_ms": job.end_time_ms,
        "partitions": job.partitions.iter().map(partition).collect::<Vec<_>>(),
    })
}

fn list(jobs: &[Job], common: &Common) -> Outcome {
    if common.json() {
        return jobs.iter().try_for_each(|job| output::json_line(&json(job)));
    }
    let mut table = Rows::new(&["replay", "group", "topics", "state", ">done", ">left", ">rate", "started"]);
    for job in jobs {
        let state = job.state.map_or("unknown", ReplayState::as_str);
        let (done, left) = (output::grouped(job.done), output::grouped(job.left));
        let started = output::human_time(job.create_time_ms);
        let topics = job.topics.join(",");
        table.add([job.replay_id.as_str(), &job.group, &topics, state, &done, &left, &rate(job), &started]);
    }
    table.print()
}

fn show(job: &Job, common: &Common) -> Outcome {
    if common.json() {
        return output::json_line(&json(job));
    }
    list(std::slice::from_ref(job), common)?;
    let mut table = Rows::new(&["topic", ">partition", ">from", ">to", ">done", ">left"]);
    for one in &job.partitions {
        let numbers = [one.from, one.to, one.done, one.left].map(output::grouped);
        let [from, to, done, left] = numbers;
        table.add([one.topic.clone(), one.partition.to_string(), from, to, done, left]);
    }
    table.print()
}
