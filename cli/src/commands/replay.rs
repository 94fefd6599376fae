//! `replay`: ranges of a topic delivered again to a group, looked at and steered (rules RP-1 to RP-5).

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sawlog_client::groups::{RecordFilter, TopicOffset};
use sawlog_client::replays::{NewReplay, Replay as Job, ReplayInto, ReplayRate, ReplayState, Replays};
use sawlog_client::{Client, ErrorReason, GroupConfig, GroupMode, GroupPosition};

use super::group::settings::ModeChoice;
use crate::amounts::{self, Place};
use crate::arguments::Common;
use crate::client::{self, failed};
use crate::clock;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Rows};

/// How often a replay that is followed is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Deliver a range of a topic again to a group, bounded and marked.
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
    /// Stop a replay for a while; its group delivers nothing meanwhile.
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
struct Pace {
    /// Records a second.
    #[arg(long, value_name = "RECORDS", conflicts_with_all = ["rate_bytes", "speed"])]
    rate: Option<u64>,
    /// Bytes a second, such as 10MiB.
    #[arg(long, value_parser = amounts::size, value_name = "SIZE", conflicts_with = "speed")]
    rate_bytes: Option<u64>,
    /// So many times as fast as the records were appended, such as 60: an hour in a minute.
    #[arg(long, value_name = "TIMES")]
    speed: Option<f64>,
}

impl Pace {
    fn rate(&self) -> Option<ReplayRate> {
        let speed = self.speed.map(|times| ReplayRate::SpeedPermille((times * 1_000.0).round() as u64));
        self.rate.map(ReplayRate::Records).or(self.rate_bytes.map(ReplayRate::Bytes)).or(speed)
    }
}

/// Start a replay into a group: one that is there is set back over what it has handled, another one is made.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sawlog replay start orders --into audit --from 2026-01-01 --to 2026-02-01\n  \
                        sawlog replay start orders --into billing --from 1200 --to 1300 --rate 50")]
struct Start {
    /// Name of the topic.
    topic: String,
    /// Name of the group.
    #[arg(long, value_name = "GROUP", required_unless_present = "ephemeral")]
    into: Option<String>,
    /// Into a group that is made for it and goes with its end.
    #[arg(long, conflicts_with = "into")]
    ephemeral: bool,
    /// How a group that is made shares out its work.
    #[arg(long, value_enum, default_value = "keyed")]
    mode: ModeChoice,
    /// First record: earliest, an offset, a span such as 2h ago, or a time.
    #[arg(long, value_parser = amounts::place, default_value = "earliest", value_name = "PLACE")]
    from: Place,
    /// First record after the range; latest: as it is now.
    #[arg(long, value_parser = amounts::place, default_value = "latest", value_name = "PLACE")]
    to: Place,
    /// Only records with this key.
    #[arg(long)]
    key: Option<String>,
    /// Only records whose keys begin with this.
    #[arg(long, conflicts_with = "key")]
    key_prefix: Option<String>,
    #[command(flatten)]
    pace: Pace,
    /// Why.
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Follow it to its end; exits with 5 if it pauses or is cancelled.
    #[arg(long)]
    watch: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
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

impl Start {
    async fn run(self, client: &Client, common: &Common) -> Outcome {
        let mut replay = NewReplay::new(&self.topic, self.target(client).await?);
        replay.from = Some(self.position(client, self.from).await?);
        replay.to = Some(self.position(client, self.to).await?);
        let bytes = |text: &String| text.clone().into_bytes().into();
        let (key, key_prefix) = (self.key.as_ref().map(bytes), self.key_prefix.as_ref().map(bytes));
        if key.is_some() || key_prefix.is_some() {
            replay.filter = Some(RecordFilter { key, key_prefix, headers: Vec::new() });
        }
        (replay.rate, replay.note) = (self.pace.rate(), self.note.clone());
        if let ReplayInto::Existing(group) = &replay.into {
            output::confirm(&format!("group {group} gets records of {} again", self.topic), self.yes)?;
        }
        let replays = client.replays();
        let started = replays.start(replay).await.map_err(failed)?;
        match self.watch && !started.is_ended() {
            true => watch(&replays, &started.replay_id, common).await,
            false => show(&started, common),
        }
    }

    async fn target(&self, client: &Client) -> Outcome<ReplayInto> {
        let config = Box::new(GroupConfig { mode: Some(GroupMode::from(self.mode)), ..GroupConfig::default() });
        let Some(name) = &self.into else { return Ok(ReplayInto::Ephemeral(config)) };
        match client.groups().get(name).await {
            Ok(_) => Ok(ReplayInto::Existing(name.clone())),
            Err(error) if error.reason() == Some(ErrorReason::GroupNotFound) => {
                Ok(ReplayInto::New(name.clone(), config))
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn position(&self, client: &Client, place: Place) -> Outcome<GroupPosition> {
        let offset = match place.at(clock::wall_ms()) {
            Place::Earliest => return Ok(GroupPosition::Earliest),
            Place::Latest => return Ok(GroupPosition::Latest),
            Place::TimeMs(time) => return Ok(GroupPosition::TimestampMs(time)),
            Place::Offset(offset) => offset.unsigned_abs(),
            Place::Last(_) | Place::Ago(_) => {
                let next = "give earliest, latest, an offset, a span or a time";
                return Err(Failure::usage("a replay has no bound of the last N records", next));
            }
        };
        let topic = client.admin().get_topic(&self.topic).await.map_err(failed)?;
        let at = |partition| TopicOffset { topic: self.topic.clone(), partition, offset, epoch: None };
        Ok(GroupPosition::Offsets((0..topic.partitions()).map(at).collect()))
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
    match job.rate {
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
