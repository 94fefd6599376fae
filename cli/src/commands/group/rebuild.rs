//! `group rebuild`: a new version of a read model beside the live one, then in its place (rule RP-6).

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sawlog_client::Client;
use sawlog_client::groups::{Groups, NewRebuild, Rebuild as Job, RebuildState};

use super::super::replay::{Pace, rate_text};
use crate::arguments::Common;
use crate::client::failed;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Rows};

/// How often a rebuild that is followed is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Rebuild the read model of a group of cursors as a new version: start, run workers of the version, swap.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sawlog group rebuild start revenue v2 --rate 5000 --watch\n  sawlog group rebuild swap revenue"
)]
pub(super) struct Rebuild {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Begin: workers that join with the version get all that the group has had.
    #[command(after_help = "Examples:\n  sawlog group rebuild start revenue v2\n  \
                            sawlog group rebuild start revenue v2 --rate 5000 --accept-gap --watch")]
    Start {
        /// Name of the group.
        name: String,
        /// Name of the new version, one that the group has never had.
        version: String,
        #[command(flatten)]
        pace: Pace,
        /// Also if the log begins later than the group did.
        #[arg(long)]
        accept_gap: bool,
        /// Why.
        #[arg(long, default_value = "", hide_default_value = true)]
        note: String,
        /// Follow it until it can be swapped in; exits with 5 if it is given up.
        #[arg(long)]
        watch: bool,
    },
    /// Show the open rebuild of a group, or the last one, with its partitions.
    #[command(after_help = "Examples:\n  sawlog group rebuild show revenue --watch\n  \
                            sawlog group rebuild show revenue --all --output json")]
    Show {
        /// Name of the group.
        name: String,
        /// All that are remembered, the newest first.
        #[arg(long, conflicts_with = "watch")]
        all: bool,
        /// Follow it until it can be swapped in; exits with 5 if it is given up.
        #[arg(long)]
        watch: bool,
    },
    /// Change the rate of a rebuild while it runs; also over restarts.
    #[command(after_help = "Examples:\n  sawlog group rebuild update revenue --rate 500\n  \
                            sawlog group rebuild update revenue --rate unlimited")]
    #[command(group = clap::ArgGroup::new("pace").args(["rate", "rate_bytes", "speed"]).required(true))]
    Update {
        /// Name of the group.
        name: String,
        #[command(flatten)]
        pace: Pace,
    },
    /// Make the new version the active one; waits until it is. Exits with 5 if it did not come about.
    #[command(after_help = "Examples:\n  sawlog group rebuild swap revenue\n  \
                            sawlog group rebuild swap revenue --yes --output json")]
    Swap {
        /// Name of the group.
        name: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Give a rebuild up; of a swap that has begun the database decides whether it is done or undone.
    #[command(
        after_help = "Examples:\n  sawlog group rebuild abort revenue\n  sawlog group rebuild abort revenue --yes"
    )]
    Abort {
        /// Name of the group.
        name: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

impl Rebuild {
    pub(super) async fn run(&self, client: &Client, common: &Common) -> Outcome {
        let groups = client.groups();
        match &self.verb {
            Verb::Start { name, version, pace, accept_gap, note, watch } => {
                let (version, note) = (version.clone(), note.clone());
                let rebuild = NewRebuild { version, rate: pace.rate(), accept_gap: *accept_gap, note };
                let started = groups.start_rebuild(name, rebuild).await.map_err(failed)?;
                if *watch { follow(&groups, name, common).await } else { show(&started, common) }
            }
            Verb::Show { name, watch: true, .. } => follow(&groups, name, common).await,
            Verb::Show { name, all: true, .. } => list(&groups.rebuilds(name).await.map_err(failed)?, common),
            Verb::Show { name, .. } => show(&groups.rebuild(name).await.map_err(failed)?, common),
            Verb::Update { name, pace } => {
                show(&groups.update_rebuild(name, pace.rate()).await.map_err(failed)?, common)
            }
            Verb::Swap { name, yes } => {
                output::confirm(&format!("the active version of {name} is retired, its workers end"), *yes)?;
                swap(&groups, name, common).await
            }
            Verb::Abort { name, yes } => {
                output::confirm(&format!("the rebuild of {name} ends, and its name is not given again"), *yes)?;
                show(&groups.abort_rebuild(name).await.map_err(failed)?, common)
            }
        }
    }
}

/// Follows a rebuild until it can be swapped in.
async fn follow(groups: &Groups, name: &str, common: &Common) -> Outcome {
    let bar = match output::stderr_is_terminal() {
        true => ProgressBar::new(0),
        false => ProgressBar::hidden(),
    };
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}");
    bar.set_style(style.expect("the template is right"));
    let each = |job: &Job| {
        bar.set_length(job.done + job.left);
        bar.set_position(job.done);
        let left = job.eta_ms.map(|ms| output::human_span(i64::try_from(ms).unwrap_or(i64::MAX))).unwrap_or_default();
        bar.set_message(format!("{:.0}/s {left}", job.records_per_second));
    };
    let ready = |job: &Job| job.state == Some(RebuildState::Ready);
    let job = groups.watch_rebuild(name, LOOK, each, ready).await.map_err(failed)?;
    bar.finish_and_clear();
    show(&job, common)?;
    match job.state {
        Some(RebuildState::Ready | RebuildState::Swapped) => Ok(()),
        _ => Err(not_so(&job, "it was given up")),
    }
}

async fn swap(groups: &Groups, name: &str, common: &Common) -> Outcome {
    groups.swap_rebuild(name).await.map_err(failed)?;
    let over = |job: &Job| job.state != Some(RebuildState::Swapping);
    let job = groups.watch_rebuild(name, LOOK, |_| {}, over).await.map_err(failed)?;
    show(&job, common)?;
    match job.state {
        Some(RebuildState::Swapped) => Ok(()),
        _ => Err(not_so(&job, &job.problem)),
    }
}

fn not_so(job: &Job, why: &str) -> Failure {
    let state = job.state.map_or("in an unknown state", RebuildState::as_str);
    let message = format!("version {} of {} is {state}: {why}", job.version, job.group);
    Failure::new(Exit::CheckFailed, message, format!("`sawlog group rebuild show {}` shows it", job.group))
}

fn json(job: &Job) -> serde_json::Value {
    let partition = |one: &sawlog_client::groups::RebuildPartition| {
        serde_json::json!({
            "topic": one.topic, "partition": one.partition, "from": one.from, "next_offset": one.next_offset,
            "high_watermark": one.high_watermark,
        })
    };
    serde_json::json!({
        "rebuild_id": job.rebuild_id, "group": job.group, "version": job.version, "replaces": job.replaces,
        "state": job.state.map(RebuildState::as_str), "rate": rate_text(job.rate), "done": job.done, "left": job.left,
        "records_per_second": job.records_per_second, "eta_ms": job.eta_ms, "members": job.members,
        "connected": job.connected, "problem": job.problem, "note": job.note, "actor": job.actor,
        "create_time_ms": job.create_time_ms, "end_time_ms": job.end_time_ms,
        "partitions": job.partitions.iter().map(partition).collect::<Vec<_>>(),
    })
}

fn list(jobs: &[Job], common: &Common) -> Outcome {
    if common.json() {
        return jobs.iter().try_for_each(|job| output::json_line(&json(job)));
    }
    let mut table =
        Rows::new(&["group", "version", "replaces", "state", ">done", ">left", ">rate", ">workers", "started"]);
    for job in jobs {
        let state = job.state.map_or("unknown", RebuildState::as_str);
        let (done, left) = (output::grouped(job.done), output::grouped(job.left));
        let (started, workers) = (output::human_time(job.create_time_ms), job.connected.to_string());
        let replaces = job.replaces.as_deref().unwrap_or("-");
        let rate = rate_text(job.rate);
        table.add([job.group.as_str(), &job.version, replaces, state, &done, &left, &rate, &workers, &started]);
    }
    table.print()
}

fn show(job: &Job, common: &Common) -> Outcome {
    if common.json() {
        return output::json_line(&json(job));
    }
    list(std::slice::from_ref(job), common)?;
    if !job.partitions.is_empty() {
        let mut table = Rows::new(&["topic", ">partition", ">from", ">next", ">end"]);
        for one in &job.partitions {
            let [from, next, end] = [one.from, one.next_offset, one.high_watermark].map(output::grouped);
            table.add([one.topic.clone(), one.partition.to_string(), from, next, end]);
        }
        table.print()?;
    }
    if !job.problem.is_empty() {
        output::talk(&format!("the last swap did not come about: {}", job.problem));
    }
    Ok(())
}
