//! `group`: consumer groups: create, list, show, update, lag, reset, rebuild, pause, resume, accept-gap, breaker, delete,
//! recover, await.

use clap::{Args, Subcommand};
use sawlog_client::groups::{BreakerSwitch, GroupChange, GroupQuery, Groups, ProcessedState};
use sawlog_client::types::RecordPosition;
use sawlog_client::{AckLevel, Client, NewGroup, ReadEvent, ReaderFrom, ReaderTo, StreamExt as _};
use serde_json::json;

use crate::amounts;
use crate::arguments::Common;
use crate::client::{self, failed};
use crate::clock;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

mod rebuild;
mod reset;
pub(crate) mod settings;
mod show;

pub(super) use show::told;

use settings::{GroupNotes, GroupSettings, GroupTopics, ModeChoice, PositionsChoice, Start};

/// Create, look at, change, pause, reset and delete consumer groups.
#[derive(Debug, Args)]
pub(crate) struct Group {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a group; one that exists with equal settings is left as it is.
    #[command(after_help = "Examples:\n  sawlog group create billing --topic orders\n  \
                            sawlog group create audit --pattern 'shop.*' --mode unordered --start latest --max-attempts 3")]
    Create(Box<Create>),
    /// List groups by name.
    #[command(after_help = "Examples:\n  sawlog group list\n  sawlog group list --topic orders --output json")]
    List {
        /// Only groups whose names begin with this.
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
        /// Only groups of this topic.
        #[arg(long)]
        topic: Option<String>,
    },
    /// Show a group: settings, what holds it up, members and what they own.
    #[command(after_help = "Examples:\n  sawlog group show billing\n  sawlog group show billing --output json")]
    Show {
        /// Name of the group.
        name: String,
    },
    /// Change settings of a group; what is not named stays. Retry settings are changed together.
    #[command(after_help = "Examples:\n  sawlog group update billing --max-attempts 10 --backoff 1s,10s,1m\n  \
                            sawlog group update billing --topic orders --topic refunds --if-revision 3")]
    Update(Box<Update>),
    /// How far a group is behind, and what holds it up, per partition.
    #[command(
        after_help = "Examples:\n  sawlog group lag billing\n  sawlog group lag billing --topic orders --output json"
    )]
    Lag {
        /// Name of the group.
        name: String,
        /// Only this topic; may be given again.
        #[arg(long)]
        topic: Vec<String>,
    },
    /// Set positions while members stay connected, or take the last reset back.
    #[command(after_help = "Examples:\n  sawlog group reset billing --to 2h --dry-run\n  \
                            sawlog group reset billing --undo --yes")]
    Reset(reset::Reset),
    Rebuild(rebuild::Rebuild),
    /// Stop deliveries, also over restarts.
    #[command(after_help = "Examples:\n  sawlog group pause billing --for 30m --note 'database moves'\n  \
                            sawlog group pause billing --topic orders")]
    Pause {
        /// Name of the group.
        name: String,
        /// Only this topic.
        #[arg(long)]
        topic: Option<String>,
        /// End it by itself after this span.
        #[arg(long = "for", value_parser = amounts::span_ms, value_name = "SPAN")]
        span: Option<i64>,
        /// Why.
        #[arg(long, default_value = "", hide_default_value = true)]
        note: String,
    },
    /// End a pause.
    #[command(after_help = "Examples:\n  sawlog group resume billing\n  sawlog group resume billing --topic orders")]
    Resume {
        /// Name of the group.
        name: String,
        /// Only this topic's pause.
        #[arg(long)]
        topic: Option<String>,
    },
    /// Go on past records that are gone; unsettled ones among them count as expired. A read model that stands above a cut of
    /// the log goes on at the cut, once its reader is started again. Exits with 5 if nothing waits.
    #[command(name = "accept-gap")]
    #[command(after_help = "Examples:\n  sawlog group accept-gap billing --yes\n  \
                            sawlog group accept-gap billing --topic orders --partition 3 --yes")]
    AcceptGap {
        /// Name of the group.
        name: String,
        /// Only gaps of this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only the gap of this partition.
        #[arg(long, requires = "topic")]
        partition: Option<u32>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Force the circuit breaker open or closed, or leave it to itself.
    #[command(after_help = "Examples:\n  sawlog group breaker billing open --note 'bank is down'\n  \
                            sawlog group breaker billing auto")]
    Breaker {
        /// Name of the group.
        name: String,
        /// Who decides.
        #[arg(value_enum)]
        switch: SwitchChoice,
        /// Why.
        #[arg(long, default_value = "", hide_default_value = true)]
        note: String,
    },
    /// Delete a group with its positions, dead letters and jobs.
    #[command(after_help = "Examples:\n  sawlog group delete billing\n  sawlog group delete billing --yes --force")]
    Delete {
        /// Name of the group.
        name: String,
        /// Delete although dead letters are open or jobs run; they are lost.
        #[arg(long)]
        force: bool,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Start groups that stopped at a damaged journal, from the last good state.
    #[command(after_help = "Examples:\n  sawlog group recover --dry-run\n  sawlog group recover --yes")]
    Recover {
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Wait until a group has decided about records; exits with 5 if one is not acked or skipped.
    #[command(after_help = "Examples:\n  sawlog group await billing orders 0:17\n  \
                            sawlog group await billing orders 0:17 3:4 --for 30s --output json")]
    Await(Await),
}

#[derive(Debug, Args)]
struct Create {
    /// Name: ASCII letters, digits, `.`, `_`, `-`, at most 120 bytes.
    name: String,
    #[command(flatten)]
    topics: GroupTopics,
    /// How the work is shared out; cannot be changed later.
    #[arg(long, value_enum)]
    mode: Option<ModeChoice>,
    /// Who keeps the positions; cannot be changed later. `cursor` takes --mode offset.
    #[arg(long, value_enum)]
    positions: Option<PositionsChoice>,
    #[command(flatten)]
    start: Start,
    #[command(flatten)]
    settings: GroupSettings,
    #[command(flatten)]
    notes: GroupNotes,
}

#[derive(Debug, Args)]
struct Update {
    /// Name of the group.
    name: String,
    /// Change it only if it has this revision.
    #[arg(long)]
    if_revision: Option<u64>,
    #[command(flatten)]
    topics: GroupTopics,
    #[command(flatten)]
    settings: GroupSettings,
    #[command(flatten)]
    notes: GroupNotes,
    /// Take a topic out although the group has open dead letters of it; they are lost.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Await {
    /// Name of the group.
    name: String,
    /// Name of the topic.
    topic: String,
    /// Records, as PARTITION:OFFSET.
    #[arg(required = true, value_parser = position, value_name = "PARTITION:OFFSET")]
    records: Vec<(u32, u64)>,
    /// Longest wait, at most 60s.
    #[arg(long = "for", default_value = "10s", value_parser = amounts::span, value_name = "SPAN")]
    span: std::time::Duration,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SwitchChoice {
    /// Itself.
    Auto,
    /// Forced open: only probes are delivered.
    Open,
    /// Forced closed.
    Closed,
}

impl From<SwitchChoice> for BreakerSwitch {
    fn from(choice: SwitchChoice) -> Self {
        match choice {
            SwitchChoice::Auto => Self::Auto,
            SwitchChoice::Open => Self::Open,
            SwitchChoice::Closed => Self::Closed,
        }
    }
}

fn position(text: &str) -> Result<(u32, u64), String> {
    let parsed =
        text.split_once(':').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    parsed.ok_or_else(|| "expected PARTITION:OFFSET, such as 0:17".to_owned())
}

impl Group {
    pub(crate) fn run(&self, common: &Common) -> Outcome {
        client::run(common, async |client| {
            let groups = client.groups();
            match &self.verb {
                Verb::Create(create) => create.run(&groups, common).await,
                Verb::List { prefix, topic } => {
                    let query = GroupQuery { name_prefix: prefix.clone(), topic: topic.clone() };
                    show::list(&groups.list(&query).await.map_err(failed)?, common)
                }
                Verb::Show { name } => {
                    let group = groups.get(name).await.map_err(failed)?;
                    let members = groups.members(name).await.map_err(failed)?;
                    show::group(&group, Some(&members), common)
                }
                Verb::Update(update) => update.run(&groups, common).await,
                Verb::Lag { name, topic } => show::lag(&groups.lag(name, topic).await.map_err(failed)?, common),
                Verb::Reset(reset) => reset.run(&client, common).await,
                Verb::Rebuild(rebuild) => rebuild.run(&client, common).await,
                Verb::Await(waits) => waits.run(&client, common).await,
                _ => self.operate(&groups, common).await,
            }
        })
    }

    /// The verbs of operators.
    async fn operate(&self, groups: &Groups, common: &Common) -> Outcome {
        match &self.verb {
            Verb::Pause { name, topic, span, note } => {
                let until = span.map(|span| clock::wall_ms().saturating_add(span));
                let pauses = groups.pause(name, topic.as_deref(), until, note).await.map_err(failed)?;
                show::pauses(name, &pauses, common)
            }
            Verb::Resume { name, topic } => {
                let pauses = groups.resume(name, topic.as_deref()).await.map_err(failed)?;
                show::pauses(name, &pauses, common)
            }
            Verb::AcceptGap { name, topic, partition, yes } => {
                output::confirm(&format!("group {name} goes on without the records that are gone"), *yes)?;
                let gaps = groups.accept_gap(name, topic.as_deref(), *partition).await.map_err(failed)?;
                show::accepted(name, &gaps, common)
            }
            Verb::Breaker { name, switch, note } => {
                let breaker = groups.set_breaker(name, (*switch).into(), note).await.map_err(failed)?;
                show::breaker(&breaker, common)
            }
            Verb::Delete { name, force, yes } => {
                output::confirm(&format!("group {name}, its positions and dead letters are deleted"), *yes)?;
                let gone = groups.delete(name, *force, None).await.map_err(failed)?;
                let answer = json!({
                    "name": name, "group_id": gone.group_id,
                    "entries_lost": gone.entries_lost, "jobs_ended": gone.jobs_ended,
                });
                let line = format!(
                    "deleted {name} ({}), {} open dead letters and {} jobs with it",
                    gone.group_id, gone.entries_lost, gone.jobs_ended
                );
                told(common, &answer, &line)
            }
            Verb::Recover { dry_run, yes } => {
                if !dry_run {
                    output::confirm("groups go back to the last good state of their journal", *yes)?;
                }
                show::recovered(&groups.recover(*dry_run).await.map_err(failed)?, common)
            }
            _ => unreachable!("the other verbs are told apart above"),
        }
    }
}

impl Create {
    async fn run(&self, groups: &Groups, common: &Common) -> Outcome {
        let mut config = self.settings.config();
        config.subscription = self.topics.subscription();
        config.mode = self.mode.map(Into::into);
        config.positions = self.positions.map(Into::into);
        config.start = self.start.position()?;
        if config.subscription.is_none() {
            return Err(Failure::usage("a group needs topics", "give --topic NAME, or --pattern"));
        }
        let group = NewGroup {
            name: self.name.clone(),
            config,
            owner: self.notes.owner.clone().unwrap_or_default(),
            description: self.notes.description.clone().unwrap_or_default(),
            labels: self.notes.labels(),
        };
        let (group, created) = groups.create(group).await.map_err(failed)?;
        if !created {
            output::talk(&format!("group {} existed already with these settings", group.name));
        }
        show::group(&group, None, common)
    }
}

impl Update {
    async fn run(&self, groups: &Groups, common: &Common) -> Outcome {
        let mut config = self.settings.config();
        config.subscription = self.topics.subscription();
        let change = GroupChange {
            if_revision: self.if_revision,
            config,
            owner: self.notes.owner.clone(),
            description: self.notes.description.clone(),
            labels: (!self.notes.label.is_empty()).then(|| self.notes.labels()),
            force: self.force,
        };
        let nothing = change.config == sawlog_client::GroupConfig::default()
            && change.owner.is_none()
            && change.description.is_none()
            && change.labels.is_none();
        if nothing {
            return Err(Failure::usage("nothing to change was named", "give at least one setting; see --help"));
        }
        show::group(&groups.update(&self.name, change).await.map_err(failed)?, None, common)
    }
}

impl Await {
    async fn run(&self, client: &Client, common: &Common) -> Outcome {
        let mut positions = Vec::new();
        for (partition, offset) in &self.records {
            positions.push(self.token(client, *partition, *offset).await?);
        }
        let answers = client.groups().await_processed(&self.name, &positions, self.span).await.map_err(failed)?;
        let mut undecided = 0;
        for (position, answer) in positions.iter().zip(&answers) {
            let state = answer.state.map_or("unknown", ProcessedState::as_str);
            let done = matches!(answer.state, Some(ProcessedState::Acked | ProcessedState::Skipped));
            undecided += usize::from(!done);
            let record = json!({
                "topic": self.topic, "partition": position.partition, "offset": position.offset,
                "state": state, "dlq_id": answer.dlq_id,
            });
            let entry = answer.dlq_id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
            told(common, &record, &format!("{}:{} {state}{entry}", position.partition, position.offset))?;
        }
        if undecided == 0 {
            return Ok(());
        }
        let what = format!("{undecided} of {} records are not acked or skipped", answers.len());
        Err(Failure::new(
            Exit::CheckFailed,
            what,
            "look at `sawlog group lag` and `sawlog dlq list`, or wait longer with --for",
        ))
    }

    /// The position of a record, with the epoch that it was appended under.
    async fn token(&self, client: &Client, partition: u32, offset: u64) -> Outcome<RecordPosition> {
        let reader = client.reader(&self.topic).partitions([partition]).from(ReaderFrom::Offset(offset));
        let mut reader = reader.to(ReaderTo::Offset(offset + 1)).open().await.map_err(failed)?;
        let topic_id = reader.topic_id().clone();
        while let Some(event) = reader.next().await {
            if let ReadEvent::Record(record) = event.map_err(failed)? {
                return Ok(RecordPosition {
                    topic_id,
                    partition,
                    epoch: record.epoch,
                    offset,
                    append_time_ms: record.append_time_ms,
                    duplicate: false,
                    ack: AckLevel::Durable,
                });
            }
        }
        let what = format!("there is no record at offset {offset} of partition {partition}");
        Err(Failure::new(Exit::NotFound, what, "`sawlog topic show TOPIC` shows the offsets"))
    }
}
