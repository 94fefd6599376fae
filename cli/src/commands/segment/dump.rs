//! `segment dump`: one log file, frame by frame, and on request record by record.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use sawlog_broker::log::frame::FrameHeader;
use sawlog_broker::log::verify::{self, Dumped};
use sawlog_broker::model::FilePosition;
use sawlog_client::types::Header;
use sawlog_proto::batch::{self, BatchLimits};
use serde::Serialize;

use super::DataDir;
use crate::arguments::Common;
use crate::failure::{Exit, Failure, Outcome};
use crate::format::{RecordView, write_json};
use crate::output::{self, DataStream};

/// What to dump.
#[derive(Debug, Args)]
pub(super) struct Dump {
    /// The log file, below the data directory, as `segment list` shows it.
    file: PathBuf,
    #[command(flatten)]
    folder: DataDir,
    /// Print the records too, a JSON object each.
    #[arg(long)]
    records: bool,
    /// Stop after so many frames.
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
}

#[derive(Serialize)]
struct FrameLine {
    position: u64,
    kind: &'static str,
    base_offset: u64,
    record_count: u32,
    append_time_ms: i64,
    epoch: u32,
    durable_end: u64,
    extension_bytes: u32,
    batch_bytes: u32,
}

impl FrameLine {
    fn new(position: FilePosition, header: &FrameHeader) -> Self {
        Self {
            position: position.0,
            kind: if header.mark { "mark" } else { "frame" },
            base_offset: header.base_offset.get(),
            record_count: header.record_count,
            append_time_ms: header.append_time_ms,
            epoch: header.epoch.get(),
            durable_end: header.durable_end.get(),
            extension_bytes: header.extension_bytes,
            batch_bytes: header.batch_bytes,
        }
    }

    fn text(&self) -> String {
        let Self { position, kind, base_offset, record_count, epoch, durable_end, batch_bytes, .. } = self;
        let time = output::human_time(self.append_time_ms);
        format!(
            "{position}: {kind} offset {base_offset}, {record_count} records, {batch_bytes} bytes, {time}, epoch {epoch}, \
             durable end {durable_end}"
        )
    }
}

impl Dump {
    pub(super) fn run(&self, common: &Common) -> Outcome {
        let opened = self.folder.open()?;
        let mut out = DataStream::new();
        let mut done = Ok(());
        let mut frames = 0;
        let dumped = verify::dump(&opened.disk, &self.file, &mut |position, what| {
            done = self.print(position, &what, common, &mut out);
            frames += u64::from(matches!(what, Dumped::Frame { .. }));
            done.is_ok() && self.count.is_none_or(|count| frames < count)
        });
        out.flush()?;
        done?;
        dumped.map_err(|error| {
            if error.kind() == std::io::ErrorKind::InvalidData {
                let what = format!("{}: {error}", self.file.display());
                return Failure::new(Exit::CheckFailed, what, "`sawlog segment verify` tells all that is wrong");
            }
            self.folder.failed("read", &self.file, &error)
        })
    }

    fn print(&self, position: FilePosition, what: &Dumped, common: &Common, out: &mut DataStream) -> Outcome {
        match what {
            Dumped::Frame { header, batch, .. } => {
                let line = FrameLine::new(position, header);
                let text = if common.json() { output::to_json(&line) } else { line.text() };
                out.write(text.as_bytes())?;
                out.write(b"\n")?;
                if self.records && !header.mark { print_records(header, batch, out) } else { Ok(()) }
            }
            Dumped::Bad { until, fault } => {
                output::talk(&format!("{position}: no good frame until byte {until}: {fault}"));
                Ok(())
            }
            Dumped::Space { bytes } => {
                output::talk(&format!("{position}: {bytes} bytes allocated ahead"));
                Ok(())
            }
        }
    }
}

fn print_records(header: &FrameHeader, batch: &Bytes, out: &mut DataStream) -> Outcome {
    let records = match batch::records(batch, &BatchLimits::default()) {
        Ok(records) => records,
        Err(error) => {
            output::talk(&format!("offset {}: the batch cannot be decoded: {error}", header.base_offset));
            return Ok(());
        }
    };
    let mut line = Vec::new();
    for (offset, record) in (header.base_offset.get()..).zip(records) {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                output::talk(&format!("offset {offset}: the record cannot be decoded: {error}"));
                return Ok(());
            }
        };
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|header| Header {
                key: String::from_utf8_lossy(&header.key).into_owned(),
                value: header.value.clone().unwrap_or_default(),
            })
            .collect();
        line.clear();
        let view = RecordView {
            topic: "",
            partition: header.partition.0,
            offset,
            epoch: header.epoch.get(),
            append_time_ms: header.append_time_ms,
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        };
        write_json(&view, &mut line);
        out.write(&line)?;
    }
    Ok(())
}
