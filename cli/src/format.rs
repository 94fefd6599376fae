//! Formats of `consume --format`, with kcat's letters, and JSON lines of records. Pure.
//!
//! | Letter | Prints | | Letter | Prints |
//! |---|---|---|---|---|
//! | `%t` | topic | | `%k` | key |
//! | `%p` | partition | | `%K` | length of the key, -1 if absent |
//! | `%o` | offset | | `%s`, `%v` | payload |
//! | `%T` | event time in milliseconds since 1970 | | `%S` | length of the payload, -1 if absent |
//! | `%h` | headers, `name=value` with commas | | `%R` | length of the payload, 4 bytes big-endian |
//! | `%%` | a per cent sign | | `\n \r \t \0 \\ \xHH` | bytes |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sawlog_client::types::Header;
use serde::Serialize;

/// A record with its place, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordView<'a> {
    /// Topic.
    pub(crate) topic: &'a str,
    /// Partition.
    pub(crate) partition: u32,
    /// Offset.
    pub(crate) offset: u64,
    /// Epoch of the partition.
    pub(crate) epoch: u32,
    /// Time of the append.
    pub(crate) append_time_ms: i64,
    /// Event time.
    pub(crate) timestamp_ms: i64,
    /// Key.
    pub(crate) key: Option<&'a [u8]>,
    /// Payload.
    pub(crate) value: Option<&'a [u8]>,
    /// Headers, in order.
    pub(crate) headers: &'a [Header],
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
    Key,
    KeyLength,
    Payload,
    PayloadLength,
    PayloadLengthBinary,
}

/// A parsed format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format(Vec<Piece>);

impl Format {
    /// Parses a format.
    ///
    /// # Errors
    /// The letter or escape that is not known.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                literal.push(letter);
                // A backslash and what it escapes stay together, so that `\%` is told as an error below.
                if letter == '\\' {
                    literal.extend(letters.next());
                }
                continue;
            }
            let piece = match letters.next() {
                Some('%') => {
                    literal.push('%');
                    continue;
                }
                Some('t') => Piece::Topic,
                Some('p') => Piece::Partition,
                Some('o') => Piece::Offset,
                Some('T') => Piece::Timestamp,
                Some('h') => Piece::Headers,
                Some('k') => Piece::Key,
                Some('K') => Piece::KeyLength,
                Some('s' | 'v') => Piece::Payload,
                Some('S') => Piece::PayloadLength,
                Some('R') => Piece::PayloadLengthBinary,
                Some(other) => {
                    return Err(format!("%{other} is not known; there are %t %p %o %T %h %k %K %s %S %R %%"));
                }
                None => return Err("a single % at the end; write %% for a per cent sign".to_owned()),
            };
            push_literal(&mut pieces, &mut literal)?;
            pieces.push(piece);
        }
        push_literal(&mut pieces, &mut literal)?;
        Ok(Self(pieces))
    }

    /// Appends `record` to `out`.
    pub(crate) fn write(&self, record: &RecordView<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Topic => out.extend_from_slice(record.topic.as_bytes()),
                Piece::Partition => push_number(out, i64::from(record.partition)),
                Piece::Offset => out.extend_from_slice(record.offset.to_string().as_bytes()),
                Piece::Timestamp => push_number(out, record.timestamp_ms),
                Piece::Headers => push_headers(out, record.headers),
                Piece::Key => out.extend_from_slice(record.key.unwrap_or_default()),
                Piece::KeyLength => push_number(out, length(record.key)),
                Piece::Payload => out.extend_from_slice(record.value.unwrap_or_default()),
                Piece::PayloadLength => push_number(out, length(record.value)),
                Piece::PayloadLengthBinary => {
                    let length = i32::try_from(length(record.value)).unwrap_or(i32::MAX);
                    out.extend_from_slice(&length.to_be_bytes());
                }
            }
        }
    }
}

fn push_literal(pieces: &mut Vec<Piece>, literal: &mut String) -> Result<(), String> {
    if !literal.is_empty() {
        pieces.push(Piece::Literal(unescape(literal)?));
        literal.clear();
    }
    Ok(())
}

fn push_number(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(number.to_string().as_bytes());
}

fn push_headers(out: &mut Vec<u8>, headers: &[Header]) {
    for (index, header) in headers.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(header.key.as_bytes());
        out.push(b'=');
        out.extend_from_slice(&header.value);
    }
}

fn length(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX))
}

/// Resolves `\n`, `\r`, `\t`, `\0`, `\\` and `\xHH`.
///
/// # Errors
/// The escape that is not known.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut letters = text.chars();
    let mut buffer = [0; 4];
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        match letters.next() {
            Some('n') => out.push(b'\n'),
            Some('r') => out.push(b'\r'),
            Some('t') => out.push(b'\t'),
            Some('0') => out.push(0),
            Some('\\') => out.push(b'\\'),
            Some('x') => {
                let digits: String = letters.by_ref().take(2).collect();
                let byte = if digits.len() == 2 { u8::from_str_radix(&digits, 16).ok() } else { None };
                out.push(byte.ok_or_else(|| format!("\\x{digits}: expected two hexadecimal digits"))?);
            }
            Some(other) => return Err(format!("\\{other} is not known; there are \\n \\r \\t \\0 \\\\ \\xHH")),
            None => return Err("a single \\ at the end; write \\\\ for a backslash".to_owned()),
        }
    }
    Ok(out)
}

#[derive(Serialize)]
struct JsonHeader<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

#[derive(Serialize)]
struct JsonRecord<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    epoch: u32,
    append_time_ms: i64,
    timestamp_ms: i64,
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    headers: Vec<JsonHeader<'a>>,
}

/// Appends `record` as one line of JSON. Bytes that are UTF-8 stand in `key` and `value`; others stand in `key_base64`
/// and `value_base64` beside a `null`. `null` alone means absent. `produce --json` takes the same lines.
pub(crate) fn write_json(record: &RecordView<'_>, out: &mut Vec<u8>) {
    let (key, key_base64) = text_or_base64(record.key);
    let (value, value_base64) = text_or_base64(record.value);
    let headers = record.headers.iter().map(|header| {
        let (value, value_base64) = text_or_base64(Some(&header.value));
        JsonHeader { key: &header.key, value, value_base64 }
    });
    let line = JsonRecord {
        topic: record.topic,
        partition: record.partition,
        offset: record.offset,
        epoch: record.epoch,
        append_time_ms: record.append_time_ms,
        timestamp_ms: record.timestamp_ms,
        key,
        key_base64,
        value,
        value_base64,
        headers: headers.collect(),
    };
    out.extend_from_slice(crate::output::to_json(&line).as_bytes());
    out.push(b'\n');
}

fn text_or_base64(bytes: Option<&[u8]>) -> (Option<&str>, Option<String>) {
    match bytes.map(|bytes| (bytes, str::from_utf8(bytes))) {
        None => (None, None),
        Some((_, Ok(text))) => (Some(text), None),
        Some((bytes, Err(_))) => (None, Some(BASE64.encode(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: &[Header] = &[];

    fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>, headers: &'a [Header]) -> RecordView<'a> {
        RecordView {
            topic: "orders",
            partition: 3,
            offset: 42,
            epoch: 1,
            append_time_ms: 9,
            timestamp_ms: 8,
            key,
            value,
            headers,
        }
    }

    fn formatted(format: &str, record: &RecordView<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        Format::parse(format).expect("a good format").write(record, &mut out);
        out
    }

    #[test]
    fn every_letter_of_kcat_prints_its_part() {
        let header = |key: &str, value: &'static str| Header { key: key.to_owned(), value: value.into() };
        let headers = [header("a", "1"), header("b", "2")];
        let record = record(Some(b"key"), Some(b"value"), &headers);
        assert_eq!(formatted("%t %p %o %T %h %k %K %s %S%%\\n", &record), b"orders 3 42 8 a=1,b=2 key 3 value 5%\n");
        assert_eq!(formatted("%R", &record), [0, 0, 0, 5]);
        assert_eq!(formatted("%v\\x00\\t", &record), b"value\0\t");
    }

    #[test]
    fn absent_and_empty_differ_in_their_length() {
        assert_eq!(formatted("%K,%S;", &record(None, None, HEADERS)), b"-1,-1;");
        assert_eq!(formatted("%K,%S;", &record(Some(b""), Some(b""), HEADERS)), b"0,0;");
    }

    #[test]
    fn a_wrong_format_names_the_wrong_part() {
        assert!(Format::parse("%z").unwrap_err().starts_with("%z is not known"));
        assert!(Format::parse("100%").is_err());
        assert!(Format::parse("\\q").unwrap_err().starts_with("\\q is not known"));
        assert!(Format::parse("\\x1").is_err() && Format::parse("\\").is_err() && Format::parse("\\xé").is_err());
    }

    #[test]
    fn json_keeps_bytes_that_are_no_text() {
        let mut out = Vec::new();
        write_json(&record(Some(b"\xff"), None, HEADERS), &mut out);
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(line["key_base64"], "/w==");
        assert!(line["value"].is_null() && line.get("value").is_some());
        assert!(out.ends_with(b"\n"));
    }
}
