//! Amounts as people write them: sizes, spans of time, places in a log, `name=value` pairs. Pure parsers for flags.

use std::time::Duration;

use serde::Serialize;

/// A place in a topic, as `--from` and `--to` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// The log start.
    Earliest,
    /// The high watermark.
    Latest,
    /// This offset in every partition.
    Offset(i64),
    /// So many records before the high watermark, per partition.
    Last(i64),
    /// The first record appended at or after this time, in milliseconds since 1970.
    TimeMs(i64),
    /// So many milliseconds ago.
    Ago(i64),
}

impl Place {
    /// Turns `Ago` into `TimeMs`; `now_ms` is wall time in milliseconds since 1970.
    pub(crate) fn at(self, now_ms: i64) -> Self {
        match self {
            Self::Ago(ms) => Self::TimeMs(now_ms.saturating_sub(ms)),
            other => other,
        }
    }
}

/// Parses `earliest`, `latest`, `1234`, `-10`, `2h` or an RFC 3339 time.
pub(crate) fn place(text: &str) -> Result<Place, String> {
    match text {
        "earliest" | "beginning" => return Ok(Place::Earliest),
        "latest" | "end" => return Ok(Place::Latest),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return Ok(if number < 0 { Place::Last(number.saturating_neg()) } else { Place::Offset(number) });
    }
    if let Ok(span) = humantime::parse_duration(text) {
        return i64::try_from(span.as_millis()).map(Place::Ago).map_err(|_| "the span is too long".to_owned());
    }
    time_ms(text).map(Place::TimeMs).map_err(|_| {
        "expected earliest, latest, an offset, -N for the last N records, a span such as 2h, or a time such as \
         2010-12-01T08:26:00Z"
            .to_owned()
    })
}

/// Parses an RFC 3339 time, or a date or date and time without a zone, which are taken as UTC. Milliseconds since 1970.
pub(crate) fn time_ms(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let civil: jiff::civil::DateTime =
        text.parse().map_err(|_| "expected a time such as 2010-12-01T08:26:00Z".to_owned())?;
    civil
        .to_zoned(jiff::tz::TimeZone::UTC)
        .map(|time| time.timestamp().as_millisecond())
        .map_err(|error| error.to_string())
}

/// Parses `1048576`, `64KiB`, `1MiB`, `1GiB`, `10MB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    const ALLOWED: &str = "expected a number of bytes, or one with KiB, MiB, GiB, KB, MB or GB behind it";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| ALLOWED.to_owned())?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" | "m" => 1 << 20,
        "GiB" | "G" | "g" => 1 << 30,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(ALLOWED.to_owned()),
    };
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// Parses a size, or `unlimited` as -1.
pub(crate) fn size_or_unlimited(text: &str) -> Result<i64, String> {
    if matches!(text, "unlimited" | "-1") {
        return Ok(-1);
    }
    i64::try_from(size(text)?).map_err(|_| "too large".to_owned())
}

/// Parses a span such as `90s` or `7d` into milliseconds.
pub(crate) fn span_ms(text: &str) -> Result<i64, String> {
    let span =
        humantime::parse_duration(text).map_err(|_| "expected a span such as 500ms, 90s, 12h or 7d".to_owned())?;
    i64::try_from(span.as_millis()).map_err(|_| "too long".to_owned())
}

/// Parses a span, or `forever` as -1.
pub(crate) fn span_ms_or_forever(text: &str) -> Result<i64, String> {
    if matches!(text, "forever" | "-1") { Ok(-1) } else { span_ms(text) }
}

/// Parses a span such as `10s`.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a span such as 500ms, 90s or 2m".to_owned())
}

/// Parses `name=value`; the value may be empty and may hold further `=`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// A bound of `topic trim`: one partition, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TrimBound {
    /// The partition; `None`: every one.
    pub(crate) partition: Option<u32>,
    /// The new log start; `None`: the high watermark.
    pub(crate) before: Option<i64>,
}

/// Parses `OFFSET`, `latest`, `PARTITION:OFFSET` or `PARTITION:latest`.
pub(crate) fn trim_bound(text: &str) -> Result<TrimBound, String> {
    const ALLOWED: &str = "expected OFFSET, latest, PARTITION:OFFSET or PARTITION:latest";
    let (partition, offset) = match text.split_once(':') {
        Some((partition, offset)) => (Some(partition.parse().map_err(|_| ALLOWED.to_owned())?), offset),
        None => (None, text),
    };
    let before = match offset {
        "latest" => None,
        number => match number.parse::<i64>() {
            Ok(number) if number >= 0 => Some(number),
            _ => return Err(ALLOWED.to_owned()),
        },
    };
    Ok(TrimBound { partition, before })
}

/// Parses a separator of one or more characters, with `\t`, `\n` and `\xHH`.
pub(crate) fn separator(text: &str) -> Result<Vec<u8>, String> {
    let bytes = crate::format::unescape(text)?;
    if bytes.is_empty() { Err("the separator is empty".to_owned()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        assert_eq!(place("earliest"), Ok(Place::Earliest));
        assert_eq!(place("latest"), Ok(Place::Latest));
        assert_eq!(place("0"), Ok(Place::Offset(0)));
        assert_eq!(place("-10"), Ok(Place::Last(10)));
        assert_eq!(place("2h"), Ok(Place::Ago(7_200_000)));
        assert_eq!(place("2010-12-01T08:26:00Z"), Ok(Place::TimeMs(1_291_191_960_000)));
        assert_eq!(place("2010-12-01T09:26:00+01:00"), Ok(Place::TimeMs(1_291_191_960_000)));
        assert_eq!(place("2010-12-01"), Ok(Place::TimeMs(1_291_161_600_000)));
        assert!(place("tomorrow").is_err());
        assert_eq!(place(&i64::MIN.to_string()), Ok(Place::Last(i64::MAX)));
        assert_eq!(Place::Ago(5).at(12), Place::TimeMs(7));
    }

    #[test]
    fn sizes_and_spans_have_units_and_bounds() {
        assert_eq!(size("1048576"), Ok(1 << 20));
        assert_eq!(size("64KiB"), Ok(64 << 10));
        assert_eq!(size("10MB"), Ok(10_000_000));
        assert!(size("MiB").is_err() && size("-1").is_err() && size("1TiB").is_err());
        assert_eq!(size("99999999999GiB"), Err("too large".to_owned()));
        assert_eq!(size_or_unlimited("unlimited"), Ok(-1));
        assert_eq!(span_ms("7d"), Ok(604_800_000));
        assert_eq!(span_ms_or_forever("forever"), Ok(-1));
        assert!(span_ms("7 parsecs").is_err());
    }

    #[test]
    fn pairs_and_trim_bounds_are_parsed_once_at_the_edge() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("=b").is_err() && pair("a").is_err());
        assert_eq!(trim_bound("7"), Ok(TrimBound { partition: None, before: Some(7) }));
        assert_eq!(trim_bound("2:latest"), Ok(TrimBound { partition: Some(2), before: None }));
        assert!(trim_bound("-1").is_err() && trim_bound("x:1").is_err() && trim_bound("1:").is_err());
        assert_eq!(separator("\\t"), Ok(vec![b'\t']));
        assert!(separator("").is_err());
    }
}
