//! `topic`: create, list, show, update, trim, reopen, delete.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use sawlog_client::types::Validation;
use sawlog_client::{AckLevel, Admin, Client, EnvelopePolicy, HoldGroups, NewTopic, TopicChange, TopicConfig};
use serde::Serialize;

use crate::amounts::{self, TrimBound};
use crate::arguments::Common;
use crate::client::{self, failed};
use crate::failure::{Failure, Outcome};
use crate::output::{self, Rows};

mod show;

/// Create, look at, change, trim and delete topics.
#[derive(Debug, Args)]
pub(crate) struct Topic {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a topic; one that exists with equal settings is left as it is.
    #[command(after_help = "Examples:\n  sawlog topic create orders --partitions 4\n  \
                            sawlog topic create clicks --unkeyed --ack written --retention 12h --owner web")]
    Create(Create),
    /// List topics by name.
    #[command(after_help = "Examples:\n  sawlog topic list\n  sawlog topic list --prefix shop. --output json")]
    List {
        /// Only topics whose names begin with this.
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Show a topic: settings, and offsets and state of its partitions.
    #[command(after_help = "Examples:\n  sawlog topic show orders\n  sawlog topic show orders --output json")]
    Show {
        /// Name of the topic.
        name: String,
    },
    /// Change settings of a topic; what is not named stays.
    #[command(after_help = "Examples:\n  sawlog topic update orders --retention 30d\n  \
                            sawlog topic update orders --description 'order lines' --label team=shop --if-revision 3")]
    Update(Update),
    /// Delete the records before an offset, for ever.
    #[command(after_help = "Examples:\n  sawlog topic trim orders --before 1000 --yes\n  \
                            sawlog topic trim orders --before 0:1000 --before 1:latest --yes")]
    Trim {
        /// Name of the topic.
        name: String,
        /// The new log start: OFFSET or `latest` for all partitions, PARTITION:OFFSET for one; may be given again.
        #[arg(long, required = true, value_parser = amounts::trim_bound, value_name = "[PARTITION:]OFFSET")]
        before: Vec<TrimBound>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Open a fenced partition for writing again, from its last durable offset and in a new epoch.
    #[command(after_help = "Examples:\n  sawlog topic reopen orders 0 --yes\n  \
                            sawlog topic reopen orders 3 --yes --output json")]
    Reopen {
        /// Name of the topic.
        name: String,
        /// The partition, from 0.
        partition: u32,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Delete a topic and all its records.
    #[command(after_help = "Examples:\n  sawlog topic delete orders\n  sawlog topic delete orders --yes --force")]
    Delete {
        /// Name of the topic.
        name: String,
        /// Delete although something still depends on it.
        #[arg(long)]
        force: bool,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// Name: ASCII letters, digits, `.`, `_`, `-`, at most 120 bytes.
    name: String,
    /// Number of partitions, 1 to 1,024; cannot be changed later.
    #[arg(short, long)]
    partitions: Option<u32>,
    /// Take records without a key too; cannot be changed later.
    #[arg(long)]
    unkeyed: bool,
    #[command(flatten)]
    settings: TopicSettings,
    #[command(flatten)]
    notes: TopicNotes,
}

#[derive(Debug, Args)]
struct Update {
    /// Name of the topic.
    name: String,
    /// Change it only if it has this revision.
    #[arg(long)]
    if_revision: Option<u64>,
    #[command(flatten)]
    settings: TopicSettings,
    #[command(flatten)]
    notes: TopicNotes,
}

/// Settings that can be changed.
#[derive(Debug, Args)]
struct TopicSettings {
    /// The least safety at which records are acknowledged: synced to the device, or in the page cache.
    #[arg(long, value_enum)]
    ack: Option<AckChoice>,
    /// How thoroughly ready batches are checked: every record, or the batch header and checksum.
    #[arg(long, value_enum)]
    validate: Option<ValidateChoice>,
    /// Age at which sealed segments are deleted: a span such as 7d, or `forever`.
    #[arg(long, value_parser = amounts::span_ms_or_forever, value_name = "SPAN", allow_hyphen_values = true)]
    retention: Option<i64>,
    /// Bytes per partition above which the oldest sealed segments are deleted: such as 10GiB, or `unlimited`.
    #[arg(long, value_parser = amounts::size_or_unlimited, value_name = "SIZE", allow_hyphen_values = true)]
    retention_bytes: Option<i64>,
    /// Bytes at which a segment is sealed, 1MiB to 1GiB.
    #[arg(long, value_parser = positive_size, value_name = "SIZE")]
    segment_bytes: Option<i64>,
    /// Age at which a segment is sealed.
    #[arg(long, value_parser = amounts::span_ms, value_name = "SPAN")]
    segment_age: Option<i64>,
    /// Largest record: key, value and headers, at most 4MiB.
    #[arg(long, value_parser = positive_size, value_name = "SIZE")]
    max_record_bytes: Option<i64>,
    /// With `--ack written`: the longest time until records are synced, 10ms to 60s.
    #[arg(long, value_parser = amounts::span_ms, value_name = "SPAN")]
    flush_interval: Option<i64>,
    /// A group whose unread records retention keeps; may be given again. In an update all are replaced.
    #[arg(long, value_name = "GROUP")]
    hold_group: Vec<String>,
    /// How long records are kept for `--hold-group` beyond their time; default 7d.
    #[arg(long, value_parser = amounts::span_ms, value_name = "SPAN", requires = "hold_group")]
    max_hold: Option<i64>,
    /// Bytes of a partition that are kept for `--hold-group` beyond its limits; default: its share of 20 % of the disk.
    #[arg(long, value_parser = positive_size, value_name = "SIZE", requires = "hold_group")]
    max_hold_bytes: Option<i64>,
    /// What to do about the headers event_id, event_type, occurred_at and so on: nothing, add to plain records what is
    /// missing, or refuse records without event_id or event_type.
    #[arg(long, value_enum)]
    envelope: Option<EnvelopeChoice>,
    /// How long a repeat of an event id is found out, from its first append: a span such as 24h, `off`, or `log` for as long
    /// as the record is kept. Default 24h, or off without --envelope.
    #[arg(long, value_parser = dedup_window, value_name = "SPAN", allow_hyphen_values = true)]
    dedup_window: Option<i64>,
    /// Event ids that are remembered at most; the oldest leave first.
    #[arg(long, value_name = "COUNT")]
    dedup_max_ids: Option<u32>,
    /// Keep records for no group.
    #[arg(long, conflicts_with = "hold_group")]
    no_hold: bool,
}

/// What people say about a topic.
#[derive(Debug, Args)]
struct TopicNotes {
    /// Who answers for it.
    #[arg(long)]
    owner: Option<String>,
    /// What its records are.
    #[arg(long)]
    description: Option<String>,
    /// A label; may be given again. In an update all labels are replaced.
    #[arg(long, value_parser = amounts::pair, value_name = "NAME=VALUE")]
    label: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum AckChoice {
    /// Synced to the device.
    Durable,
    /// In the page cache.
    Written,
}

impl From<AckChoice> for AckLevel {
    fn from(choice: AckChoice) -> Self {
        match choice {
            AckChoice::Durable => Self::Durable,
            AckChoice::Written => Self::Written,
        }
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ValidateChoice {
    /// Every record.
    Full,
    /// The batch header and its checksum.
    Envelope,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum EnvelopeChoice {
    /// Nothing.
    Off,
    /// Plain records get what is missing.
    Fill,
    /// Records without one are refused.
    Required,
}

/// Parses a span, `off` as 0, or `log` as -1.
fn dedup_window(text: &str) -> Result<i64, String> {
    match text {
        "off" | "0" => Ok(0),
        "log" | "-1" => Ok(-1),
        span => amounts::span_ms(span),
    }
}

fn positive_size(text: &str) -> Result<i64, String> {
    i64::try_from(amounts::size(text)?).map_err(|_| "too large".to_owned())
}

impl TopicSettings {
    fn config(&self) -> TopicConfig {
        TopicConfig {
            ack_floor: self.ack.map(AckLevel::from),
            validation: self.validate.map(|choice| match choice {
                ValidateChoice::Full => Validation::Full,
                ValidateChoice::Envelope => Validation::Envelope,
            }),
            retention_ms: self.retention,
            retention_bytes: self.retention_bytes,
            segment_bytes: self.segment_bytes,
            segment_ms: self.segment_age,
            max_record_bytes: self.max_record_bytes,
            flush_interval_ms: self.flush_interval,
            hold_groups: (self.no_hold || !self.hold_group.is_empty()).then(|| HoldGroups {
                groups: self.hold_group.clone(),
                max_ms: self.max_hold,
                max_bytes: self.max_hold_bytes,
            }),
            envelope: self.envelope.map(|choice| match choice {
                EnvelopeChoice::Off => EnvelopePolicy::Off,
                EnvelopeChoice::Fill => EnvelopePolicy::Fill,
                EnvelopeChoice::Required => EnvelopePolicy::Required,
            }),
            dedup_window_ms: self.dedup_window,
            dedup_max_ids: self.dedup_max_ids.map(i64::from),
            ..TopicConfig::default()
        }
    }
}

impl TopicNotes {
    fn labels(&self) -> BTreeMap<String, String> {
        self.label.iter().cloned().collect()
    }
}

impl Topic {
    pub(crate) fn run(&self, common: &Common) -> Outcome {
        client::run(common, async |client| {
            let admin = client.admin();
            match &self.verb {
                Verb::Create(create) => create.run(&admin, common).await,
                Verb::List { prefix } => show::list(&admin, prefix, common).await,
                Verb::Show { name } => show::show(&admin, name, common).await,
                Verb::Update(update) => update.run(&admin, common).await,
                Verb::Trim { name, before, yes } => trim(&client, name, before, *yes, common).await,
                Verb::Reopen { name, partition, yes } => {
                    output::confirm(&format!("records of {name} {partition} that were never durable are cut"), *yes)?;
                    let partition = admin.reopen_partition(name, *partition).await.map_err(failed)?;
                    show::partitions(&[partition], common)
                }
                Verb::Delete { name, force, yes } => {
                    output::confirm(&format!("topic {name} and all its records are deleted"), *yes)?;
                    let id = admin.delete_topic(name, *force).await.map_err(failed)?;
                    told(common, &Deleted { name, topic_id: id.as_str() }, &format!("deleted {name} ({id})"))
                }
            }
        })
    }
}

impl Create {
    async fn run(&self, admin: &Admin, common: &Common) -> Outcome {
        let mut config = self.settings.config();
        config.partitions = self.partitions;
        // Said in any case: a broker of `dev` makes topics without keys if nothing is said.
        config.keyed = Some(!self.unkeyed);
        let topic = NewTopic {
            name: self.name.clone(),
            config,
            owner: self.notes.owner.clone().unwrap_or_default(),
            description: self.notes.description.clone().unwrap_or_default(),
            labels: self.notes.labels(),
        };
        let (topic, created) = admin.create_topic(topic).await.map_err(failed)?;
        if !created {
            output::talk(&format!("topic {} existed already with these settings", topic.name));
        }
        show::topic(&topic, common)
    }
}

impl Update {
    async fn run(&self, admin: &Admin, common: &Common) -> Outcome {
        let change = TopicChange {
            if_revision: self.if_revision,
            config: self.settings.config(),
            owner: self.notes.owner.clone(),
            description: self.notes.description.clone(),
            labels: (!self.notes.label.is_empty()).then(|| self.notes.labels()),
        };
        if change.config == TopicConfig::default()
            && change.owner.is_none()
            && change.description.is_none()
            && change.labels.is_none()
        {
            return Err(Failure::usage("nothing to change was named", "give at least one setting; see --help"));
        }
        let topic = admin.update_topic(&self.name, change).await.map_err(failed)?;
        show::topic(&topic, common)
    }
}

#[derive(Serialize)]
struct Deleted<'a> {
    name: &'a str,
    topic_id: &'a str,
}

#[derive(Serialize)]
struct LogStart {
    partition: u32,
    log_start_offset: u64,
}

async fn trim(client: &Client, name: &str, bounds: &[TrimBound], yes: bool, common: &Common) -> Outcome {
    let admin = client.admin();
    let partitions = admin.describe_partitions(name, &[]).await.map_err(failed)?;
    let mut before = BTreeMap::new();
    for bound in bounds {
        for partition in partitions.iter().filter(|has| bound.partition.is_none_or(|wanted| wanted == has.partition)) {
            let offset = bound.before.map_or(partition.high_watermark, i64::unsigned_abs);
            before.insert(partition.partition, offset);
        }
        if let Some(wanted) = bound.partition.filter(|wanted| !before.contains_key(wanted)) {
            let what = format!("topic {name} has {} partitions, not {wanted}", partitions.len());
            return Err(Failure::new(crate::failure::Exit::NotFound, what, "partitions count from 0"));
        }
    }
    // A bound for all partitions leaves those alone that already begin later.
    let starts: BTreeMap<_, _> = partitions.iter().map(|has| (has.partition, has.log_start_offset)).collect();
    let named = |partition| bounds.iter().any(|bound| bound.partition == Some(partition));
    let before: Vec<_> =
        before.into_iter().filter(|(partition, offset)| named(*partition) || starts[partition] < *offset).collect();
    let lost: u64 = before.iter().map(|(partition, offset)| offset.saturating_sub(starts[partition])).sum();
    if before.is_empty() {
        output::talk("every partition begins there or later: nothing to trim");
        return Ok(());
    }
    output::confirm(&format!("{} records of topic {name} are deleted", output::grouped(lost)), yes)?;
    let starts = admin.trim_topic(name, &before).await.map_err(failed)?;
    if common.json() {
        for (partition, log_start_offset) in starts {
            output::json_line(&LogStart { partition, log_start_offset })?;
        }
        return Ok(());
    }
    let mut rows = Rows::new(&[">partition", ">log start"]);
    for (partition, start) in starts {
        rows.add([partition.to_string(), start.to_string()]);
    }
    rows.print()
}

/// Prints an answer as JSON or as a line.
fn told(common: &Common, answer: &impl Serialize, line: &str) -> Outcome {
    if common.json() { output::json_line(answer) } else { output::data_line(line) }
}
