//! What a Read request means: from which offset to which bound in each partition, in which form, at which rate.
//!
//! Everything that a client can get wrong is found here, before the first byte of the answer.

use std::sync::Arc;

use sawlog_proto::v1::{self, read_end::At as End, read_start::At as Start};

use super::status::{self, Problem};
use super::{Context, convert};
use crate::model::{Filter, Offset, PartitionEpoch, PartitionId, TokenBucket};
use crate::partition::{PartitionLog, PartitionReadError, PartitionState};
use crate::topics::Topic;

/// A read, resolved.
pub(super) struct Plan {
    pub(super) topic: Arc<Topic>,
    pub(super) cursors: Vec<Cursor>,
    /// Go on at the live end.
    pub(super) follow: bool,
    pub(super) filter: Filter,
    /// Batches as they were stored.
    pub(super) raw: bool,
    pub(super) skip_damaged: bool,
    /// Records still to be sent in all.
    pub(super) count: Option<u64>,
    /// Append time at which each partition ends.
    pub(super) end_time_ms: Option<i64>,
    pub(super) records_rate: Option<TokenBucket>,
    pub(super) bytes_rate: Option<TokenBucket>,
}

/// Where a read stands in one partition.
pub(super) struct Cursor {
    pub(super) id: PartitionId,
    pub(super) log: Arc<dyn PartitionLog>,
    /// The offset that comes next.
    pub(super) next: Offset,
    /// Before this offset it ends; `None`: never.
    pub(super) end: Option<Offset>,
    /// Epoch of the record before `next`, if known.
    pub(super) epoch_before: Option<PartitionEpoch>,
    /// Epoch of the partition in which `next` was last known to be good.
    pub(super) checked_epoch: PartitionEpoch,
    /// Append time of the record before `next`, if known.
    pub(super) time_before_ms: Option<i64>,
    /// The client has been told that it is at the live end.
    pub(super) live: bool,
    /// Nothing more will come.
    pub(super) done: bool,
}

impl Plan {
    pub(super) async fn resolve(context: &Context, request: v1::ReadRequest) -> Result<Self, Problem> {
        let topic = context.topic_or_create(&request.topic).await?;
        let id = topic.uuid.to_string();
        if !request.topic_id.is_empty() && request.topic_id != id {
            return Err(status::topic_id_not_found(&request.topic, &request.topic_id));
        }
        let raw = match v1::ReadForm::try_from(request.form) {
            Ok(v1::ReadForm::Batches) => true,
            Ok(v1::ReadForm::Records | v1::ReadForm::Unspecified) => false,
            Err(_) => return Err(status::invalid_field("form", request.form, "0, 1 (records) or 2 (batches)")),
        };
        let filter = request.filter.map(convert::filter).unwrap_or_default();
        if raw && !filter.is_empty() {
            return Err(status::invalid_field("filter", "with form batches", "absent: batches are sent whole"));
        }
        let start = request.start.and_then(|start| start.at).unwrap_or(Start::Earliest(v1::Unit {}));
        let end = request.end.and_then(|end| end.at);
        let wanted = wanted(&topic, &request.partitions, &start)?;
        let mut cursors = Vec::with_capacity(wanted.len());
        for id in wanted {
            let mut cursor = Cursor::new(&topic, id);
            cursor.place(topic.name.as_str(), &start).await?;
            cursor.bound(&end, request.follow)?;
            cursors.push(cursor);
        }
        let now = context.monotonic();
        let rate = |per_second: u64| (per_second > 0).then(|| TokenBucket::new(per_second, now));
        Ok(Self {
            follow: request.follow,
            raw,
            filter,
            skip_damaged: request.skip_damaged,
            count: match end {
                Some(End::Count(count)) => Some(positive("end.count", count)?),
                _ => None,
            },
            end_time_ms: match end {
                Some(End::TimestampMs(time)) => Some(time),
                _ => None,
            },
            records_rate: rate(request.max_records_per_second),
            bytes_rate: rate(request.max_bytes_per_second),
            topic,
            cursors,
        })
    }
}

/// The partitions to read: those named, or those that have a start of their own, or all.
fn wanted(topic: &Topic, named: &[u32], start: &Start) -> Result<Vec<PartitionId>, Problem> {
    let Start::Partitions(starts) = start else { return convert::partitions(topic, named) };
    if !named.is_empty() {
        let bounds = "absent where start.partitions names them";
        return Err(status::invalid_field("partitions", named.len(), bounds));
    }
    let ids: Vec<u32> = starts.starts.iter().map(|start| start.partition).collect();
    if ids.is_empty() {
        return Err(status::invalid_field("start.partitions", "nothing", "at least one"));
    }
    let wanted = convert::partitions(topic, &ids)?;
    if wanted.len() < ids.len() {
        return Err(status::invalid_field("start.partitions", "a partition twice", "each at most once"));
    }
    Ok(wanted)
}

/// A partition that is not open looks empty; it must not be read as such.
pub(super) async fn ensure_open(log: &dyn PartitionLog, topic: &str, id: PartitionId) -> Result<(), Problem> {
    if log.high_watermark() > Offset::ZERO {
        return Ok(());
    }
    match log.read(log.log_start(), 1).await {
        Err(error @ PartitionReadError::Recovering) => Err(match log.status().state {
            PartitionState::Fenced(cause) => status::partition_closed(topic, id.0, &cause),
            _ => status::read(topic, id.0, 0, &error),
        }),
        _ => Ok(()),
    }
}

fn positive(field: &'static str, value: i64) -> Result<u64, Problem> {
    u64::try_from(value).map_err(|_| status::invalid_field(field, value, "at least 0"))
}

impl Cursor {
    fn new(topic: &Topic, id: PartitionId) -> Self {
        let log = Arc::clone(topic.partition(id).expect("the partitions were checked"));
        Self {
            id,
            next: Offset::ZERO,
            end: None,
            epoch_before: None,
            checked_epoch: log.epoch(),
            time_before_ms: None,
            live: false,
            done: false,
            log,
        }
    }

    /// Finds the first offset to read.
    async fn place(&mut self, topic: &str, start: &Start) -> Result<(), Problem> {
        ensure_open(&*self.log, topic, self.id).await?;
        let (earliest, latest) = (self.log.log_start(), self.log.high_watermark());
        let asked = match start {
            Start::Earliest(_) => earliest,
            Start::Latest(_) => latest,
            Start::Offset(offset) => convert::offset("start.offset", *offset)?,
            Start::TimestampMs(time) => {
                let found = self.log.offset_at_time(*time).await;
                found.map_err(|error| status::read(topic, self.id.0, 0, &error))?
            }
            Start::Last(count) => latest.saturating_sub(positive("start.last", *count)?).max(earliest),
            Start::Partitions(starts) => {
                let mut own = starts.starts.iter().filter(|start| start.partition == self.id.0);
                let own = own.next().expect("the partitions read are those that have a start");
                let offset = convert::offset("start.partitions.offset", own.offset)?;
                if let Some(epoch) = own.epoch {
                    let epoch = convert::epoch("start.partitions.epoch", epoch)?;
                    let checked = self.log.check_position(epoch, offset).await;
                    checked.map_err(|error| status::read(topic, self.id.0, offset.get(), &error))?;
                    self.epoch_before = Some(epoch);
                }
                offset
            }
        };
        if asked < earliest || asked > latest {
            let (asked, earliest, latest) = (asked.get(), earliest.get(), latest.get());
            return Err(status::out_of_range(topic, self.id.0, asked, earliest, latest));
        }
        self.next = asked;
        Ok(())
    }

    /// Finds the offset before which it ends. Without `follow` nothing is read that is appended later.
    fn bound(&mut self, end: &Option<End>, follow: bool) -> Result<(), Problem> {
        let now = self.log.high_watermark();
        self.end = match end {
            Some(End::Offset(offset)) => {
                let offset = convert::offset("end.offset", *offset)?;
                Some(if follow { offset } else { offset.min(now) })
            }
            Some(End::HighWatermark(_)) => Some(now),
            Some(End::TimestampMs(_) | End::Count(_)) | None if follow => None,
            Some(End::TimestampMs(_) | End::Count(_)) | None => Some(now),
        };
        Ok(())
    }
}
