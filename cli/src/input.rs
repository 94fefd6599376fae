//! Records from text: lines, NDJSON, CSV. Pure: takes any reader, knows nothing of files or the broker.
//!
//! Invariant: a bad line is told with its number and never becomes a record; the reader goes on behind it if asked.

use std::io::{BufRead, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::amounts;

/// The longest line that is read: the largest record that a topic may allow, and what JSON or base64 adds to it.
const LINE_BYTES: u64 = 16 << 20;

/// A record as read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct InputRecord {
    /// Key.
    pub(crate) key: Option<Bytes>,
    /// Payload; `None`: a tombstone.
    pub(crate) value: Option<Bytes>,
    /// Headers, in order.
    pub(crate) headers: Vec<(String, Bytes)>,
    /// Event time in milliseconds since 1970.
    pub(crate) timestamp_ms: Option<i64>,
}

/// A line that is no record.
#[derive(Debug)]
pub(crate) struct BadLine {
    /// Its number, from 1.
    pub(crate) line: u64,
    /// What is wrong.
    pub(crate) what: String,
    /// Whether what follows can still be read.
    pub(crate) fatal: bool,
}

/// How the value of a record is made from a row of CSV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum CsvValue {
    /// An object with the column names and the row's texts.
    #[default]
    Json,
    /// The row as a line of CSV.
    Line,
}

/// The form of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InputForm {
    /// A record a line; with a separator, `key<separator>value`.
    Lines {
        /// What stands between key and value.
        separator: Option<Vec<u8>>,
    },
    /// An object a line, as `consume --output json` prints them.
    Json,
    /// Rows under a heading.
    Csv {
        /// Column of the key.
        key_column: Option<String>,
        /// Column of the event time.
        time_column: Option<String>,
        /// How the value is made.
        value: CsvValue,
    },
}

/// What every record gets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Common {
    /// Key of records that bring none.
    pub(crate) key: Option<Bytes>,
    /// Headers, before the record's own.
    pub(crate) headers: Vec<(String, Bytes)>,
    /// Empty payloads become tombstones.
    pub(crate) tombstones: bool,
}

/// Records of one input, in order.
pub(crate) struct Records<'a> {
    source: Source<'a>,
    common: &'a Common,
}

enum Source<'a> {
    Lines { reader: Box<dyn BufRead + 'a>, separator: Option<Vec<u8>>, line: u64 },
    Json { reader: Box<dyn BufRead + 'a>, line: u64 },
    Csv(Box<CsvSource<'a>>),
    Done,
}

impl<'a> Records<'a> {
    /// Reads `reader` in this form.
    ///
    /// # Errors
    /// The heading of a CSV input is bad or lacks a column that was named.
    pub(crate) fn open(reader: Box<dyn BufRead + 'a>, form: &InputForm, common: &'a Common) -> Result<Self, BadLine> {
        let source = match form {
            InputForm::Lines { separator } => Source::Lines { reader, separator: separator.clone(), line: 0 },
            InputForm::Json => Source::Json { reader, line: 0 },
            InputForm::Csv { key_column, time_column, value } => {
                Source::Csv(Box::new(CsvSource::open(reader, key_column.as_deref(), time_column.as_deref(), *value)?))
            }
        };
        Ok(Self { source, common })
    }

    fn complete(&self, mut record: InputRecord) -> InputRecord {
        if record.key.is_none() {
            record.key.clone_from(&self.common.key);
        }
        if !self.common.headers.is_empty() {
            let mut headers = self.common.headers.clone();
            headers.append(&mut record.headers);
            record.headers = headers;
        }
        if self.common.tombstones && record.value.as_ref().is_some_and(Bytes::is_empty) {
            record.value = None;
        }
        record
    }
}

impl Iterator for Records<'_> {
    type Item = Result<InputRecord, BadLine>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = match &mut self.source {
            Source::Done => None,
            Source::Lines { reader, separator, line } => {
                next_line(reader, line).map(|text| text.and_then(|text| from_line(&text, separator.as_deref(), *line)))
            }
            Source::Json { reader, line } => loop {
                match next_line(reader, line) {
                    // Blank lines between objects carry nothing.
                    Some(Ok(text)) if text.trim_ascii().is_empty() => {}
                    other => break other.map(|text| text.and_then(|text| from_json(&text, *line))),
                }
            },
            Source::Csv(source) => source.next(),
        };
        match item {
            Some(Ok(record)) => Some(Ok(self.complete(record))),
            Some(Err(bad)) => {
                if bad.fatal {
                    self.source = Source::Done;
                }
                Some(Err(bad))
            }
            None => None,
        }
    }
}

/// The next line without its end; counts it.
fn next_line(reader: &mut dyn BufRead, line: &mut u64) -> Option<Result<Vec<u8>, BadLine>> {
    let mut text = Vec::new();
    *line += 1;
    match reader.take(LINE_BYTES).read_until(b'\n', &mut text) {
        Err(error) => Some(Err(BadLine { line: *line, what: format!("cannot be read: {error}"), fatal: true })),
        Ok(0) => None,
        Ok(_) => {
            if text.last() == Some(&b'\n') {
                text.pop();
            } else if text.len() as u64 == LINE_BYTES {
                let what = format!("longer than {LINE_BYTES} bytes");
                return Some(Err(BadLine { line: *line, what, fatal: true }));
            }
            Some(Ok(text))
        }
    }
}

fn from_line(text: &[u8], separator: Option<&[u8]>, line: u64) -> Result<InputRecord, BadLine> {
    let Some(separator) = separator else {
        return Ok(InputRecord { value: Some(Bytes::copy_from_slice(text)), ..InputRecord::default() });
    };
    let at = text.windows(separator.len()).position(|window| window == separator).ok_or_else(|| BadLine {
        line,
        what: format!("no separator {:?} between key and value", String::from_utf8_lossy(separator)),
        fatal: false,
    })?;
    Ok(InputRecord {
        key: Some(Bytes::copy_from_slice(&text[..at])),
        value: Some(Bytes::copy_from_slice(&text[at + separator.len()..])),
        ..InputRecord::default()
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRecord<'a> {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    value_base64: Option<String>,
    headers: Option<JsonHeaders>,
    timestamp_ms: Option<i64>,
    timestamp: Option<String>,
    // The place of a record that was consumed: taken, so that what was consumed can be produced, and left aside.
    #[serde(rename = "topic")]
    _topic: Option<IgnoredAny>,
    #[serde(rename = "partition")]
    _partition: Option<IgnoredAny>,
    #[serde(rename = "offset")]
    _offset: Option<IgnoredAny>,
    #[serde(rename = "epoch")]
    _epoch: Option<IgnoredAny>,
    #[serde(rename = "append_time_ms")]
    _append_time_ms: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonHeaders {
    List(Vec<JsonHeader>),
    Map(std::collections::BTreeMap<String, String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonHeader {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
}

fn from_json(text: &[u8], line: u64) -> Result<InputRecord, BadLine> {
    let bad = |what: String| BadLine { line, what, fatal: false };
    // `&RawValue` reads a JSON null as absent only through its text: `Option` would swallow the difference.
    let text = str::from_utf8(text).map_err(|_| bad("not UTF-8".to_owned()))?;
    let record: JsonRecord<'_> = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    let value = match (record.value, record.value_base64) {
        (Some(value), None) => raw_value(value).map_err(bad)?,
        (_, Some(encoded)) => Some(base64(&encoded, "value_base64").map_err(bad)?),
        (None, None) if mentions_null_value(text) => None,
        (None, None) => return Err(bad("no value; write \"value\":null for a tombstone".to_owned())),
    };
    let key = match (record.key, record.key_base64) {
        (_, Some(encoded)) => Some(base64(&encoded, "key_base64").map_err(bad)?),
        (key, None) => key.map(Bytes::from),
    };
    let timestamp_ms = match (record.timestamp_ms, record.timestamp) {
        (Some(ms), _) => Some(ms),
        (None, Some(text)) => Some(amounts::time_ms(&text).map_err(bad)?),
        (None, None) => None,
    };
    let headers = match record.headers {
        None => Vec::new(),
        Some(JsonHeaders::Map(map)) => map.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect(),
        Some(JsonHeaders::List(list)) => list.into_iter().map(header).collect::<Result<_, _>>().map_err(bad)?,
    };
    Ok(InputRecord { key, value, headers, timestamp_ms })
}

/// Whether the object has a `value`, although it was read as absent.
fn mentions_null_value(text: &str) -> bool {
    let fields = serde_json::from_str::<std::collections::BTreeMap<String, IgnoredAny>>(text);
    fields.is_ok_and(|fields| fields.contains_key("value"))
}

/// A text stands for its bytes, `null` for a tombstone, anything else for its JSON.
fn raw_value(value: &RawValue) -> Result<Option<Bytes>, String> {
    let text = value.get();
    if text == "null" {
        return Ok(None);
    }
    if text.starts_with('"') {
        let text: String = serde_json::from_str(text).map_err(|error| error.to_string())?;
        return Ok(Some(Bytes::from(text)));
    }
    Ok(Some(Bytes::copy_from_slice(text.as_bytes())))
}

fn header(header: JsonHeader) -> Result<(String, Bytes), String> {
    let value = match (header.value, header.value_base64) {
        (_, Some(encoded)) => base64(&encoded, "value_base64")?,
        (value, None) => Bytes::from(value.unwrap_or_default()),
    };
    Ok((header.key, value))
}

fn base64(text: &str, field: &str) -> Result<Bytes, String> {
    BASE64.decode(text).map(Bytes::from).map_err(|error| format!("{field}: {error}"))
}

struct CsvSource<'a> {
    reader: csv::Reader<Box<dyn BufRead + 'a>>,
    columns: csv::StringRecord,
    key_column: Option<usize>,
    time_column: Option<usize>,
    value: CsvValue,
    row: csv::StringRecord,
}

impl<'a> CsvSource<'a> {
    fn open(
        reader: Box<dyn BufRead + 'a>,
        key_column: Option<&str>,
        time_column: Option<&str>,
        value: CsvValue,
    ) -> Result<Self, BadLine> {
        let mut reader = csv::ReaderBuilder::new().has_headers(true).from_reader(reader);
        let columns = reader.headers().map_err(|error| bad_row(&error, true))?.clone();
        let find = |name: Option<&str>| {
            name.map(|name| {
                columns.iter().position(|column| column == name).ok_or_else(|| BadLine {
                    line: 1,
                    what: format!("no column {name:?}; there are {}", columns.iter().collect::<Vec<_>>().join(", ")),
                    fatal: true,
                })
            })
            .transpose()
        };
        let (key_column, time_column) = (find(key_column)?, find(time_column)?);
        Ok(Self { reader, key_column, time_column, value, columns, row: csv::StringRecord::new() })
    }

    fn next(&mut self) -> Option<Result<InputRecord, BadLine>> {
        match self.reader.read_record(&mut self.row) {
            Ok(false) => None,
            Ok(true) => Some(self.record()),
            Err(error) => {
                let fatal = matches!(error.kind(), csv::ErrorKind::Io(_));
                Some(Err(bad_row(&error, fatal)))
            }
        }
    }

    fn record(&self) -> Result<InputRecord, BadLine> {
        let line = self.row.position().map_or(0, csv::Position::line);
        let timestamp_ms = match self.time_column.and_then(|column| self.row.get(column)) {
            None => None,
            Some(text) => Some(amounts::time_ms(text).map_err(|what| BadLine {
                line,
                what: format!("{text:?}: {what}"),
                fatal: false,
            })?),
        };
        let key =
            self.key_column.and_then(|column| self.row.get(column)).map(|key| Bytes::copy_from_slice(key.as_bytes()));
        let value = match self.value {
            CsvValue::Json => row_as_json(&self.columns, &self.row).into_bytes(),
            CsvValue::Line => row_as_line(&self.row),
        };
        Ok(InputRecord { key, value: Some(Bytes::from(value)), headers: Vec::new(), timestamp_ms })
    }
}

fn row_as_json(columns: &csv::StringRecord, row: &csv::StringRecord) -> String {
    let mut text = String::from("{");
    for (index, (column, field)) in columns.iter().zip(row).enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&crate::output::to_json(&column));
        text.push(':');
        text.push_str(&crate::output::to_json(&field));
    }
    text.push('}');
    text
}

fn row_as_line(row: &csv::StringRecord) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    writer.write_record(row).expect("a row in memory can be written");
    let mut line = writer.into_inner().expect("memory takes every byte");
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    line
}

fn bad_row(error: &csv::Error, fatal: bool) -> BadLine {
    let line = error.position().map_or(1, csv::Position::line);
    let what = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, but the heading has {expected_len}")
        }
        csv::ErrorKind::Utf8 { err, .. } => format!("field {} is not UTF-8", err.field() + 1),
        csv::ErrorKind::Io(error) => format!("cannot be read: {error}"),
        _ => error.to_string(),
    };
    BadLine { line, what, fatal }
}

#[cfg(test)]
mod tests;
