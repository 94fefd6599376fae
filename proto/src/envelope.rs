//! The envelope of an event: headers of one name and form for all programs (rule SC-1), and what identifies an event.
//!
//! | Header | Value |
//! |---|---|
//! | `event_id` | text, 1 to 255 bytes; names the event within its topic and tenant |
//! | `event_type` | text |
//! | `event_version` | a decimal number |
//! | `tenant_id` | text |
//! | `occurred_at` | RFC 3339 in UTC, with milliseconds: [`time_text`] |
//! | `correlation_id`, `causation_id`, `producer` | text |
//!
//! Of several headers of one name the first counts. It knows no record type: callers bring names and values.

/// Names the event within its topic and tenant.
pub const EVENT_ID: &str = "event_id";
/// What happened.
pub const EVENT_TYPE: &str = "event_type";
/// Version of the payload's form.
pub const EVENT_VERSION: &str = "event_version";
/// To whom the event belongs.
pub const TENANT_ID: &str = "tenant_id";
/// When it happened.
pub const OCCURRED_AT: &str = "occurred_at";
/// What it belongs to.
pub const CORRELATION_ID: &str = "correlation_id";
/// The event that it follows from.
pub const CAUSATION_ID: &str = "causation_id";
/// Who says it.
pub const PRODUCER: &str = "producer";

/// Bytes of an event id.
pub const EVENT_ID_BYTES: usize = 255;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;
/// The last millisecond that has a text: the end of the year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

/// Event id and tenant.
pub type Identity<'a> = (&'a [u8], &'a [u8]);

/// Event id and tenant of a record with these headers; `None` without an event id.
#[inline]
pub fn identity<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<Identity<'a>> {
    let (mut id, mut tenant) = (None, None);
    for (name, value) in headers {
        if name == EVENT_ID.as_bytes() {
            id.get_or_insert(value);
        } else if name == TENANT_ID.as_bytes() {
            tenant.get_or_insert(value);
        }
    }
    Some((id?, tenant.unwrap_or_default()))
}

/// A time as `2011-12-01T08:26:00.000Z`. Outside the years 1970 to 9999 the nearest end of them.
pub fn time_text(ms: i64) -> String {
    let ms = ms.clamp(0, LAST_MS);
    let (year, month, day) = civil(ms / DAY_MS);
    let of_day = ms % DAY_MS;
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1_000 % 60, of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// The milliseconds since 1970 of an RFC 3339 time, with any offset and any fraction of a second; `None` if it is none,
/// or before 1970. A leap second counts as the second before it.
pub fn parse_time(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    let is = |at: usize, any: &[u8]| bytes.get(at).is_some_and(|byte| any.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let days = days_of(year, month, day)?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (mut at, mut milli) = (19, 0);
    if is(at, b".") {
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        for place in 0..3 {
            milli = milli * 10 + if place < digits { number(at + 1 + place, at + 2 + place)? } else { 0 };
        }
        at += 1 + digits;
        if digits == 0 {
            return None;
        }
    }
    let ahead = match bytes.get(at)? {
        b'Z' | b'z' if bytes.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == at + 6 && is(at + 3, b":") => {
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let ms = days * DAY_MS + (hour * 3_600 + minute * 60 + second.min(59)) * 1_000 + milli - ahead * 60_000;
    (0..=LAST_MS).contains(&ms).then_some(ms)
}

/// Days of the year before the first of a month, in a year that begins with March.
fn days_before_month(month_from_march: i64) -> i64 {
    (153 * month_from_march + 2) / 5
}

/// Year, month and day of a day since 1970, by the Gregorian calendar; years counted from March make the leap day the last.
fn civil(day: i64) -> (i64, i64, i64) {
    // Days since 0000-03-01, in eras of 400 years.
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, of_year - days_before_month(from_march) + 1)
}

/// The day since 1970 of a date; `None` if there is no such date.
fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let from = if month > 2 { year } else { year - 1 };
    let from_march = (month + 9) % 12;
    let (era, year_of_era) = (from.div_euclid(400), from.rem_euclid(400));
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + days_before_month(from_march) + day - 1;
    let days = era * 146_097 + of_era - 719_468;
    // The 31st of a shorter month would come back as another day.
    (days < 0 || civil(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sc_1_times_have_one_text_and_any_rfc_3339_text_is_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_322_727_960_000, "2011-12-01T08:26:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (LAST_MS, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(time_text(ms), text);
            assert_eq!(parse_time(text), Some(ms));
        }
        assert_eq!(parse_time("2011-12-01T09:26:00+01:00"), Some(1_322_727_960_000));
        assert_eq!(parse_time("2011-12-01 08:26:00.1239999z"), Some(1_322_727_960_123));
        assert_eq!(parse_time("2016-12-31T23:59:60Z"), parse_time("2016-12-31T23:59:59Z"));
    }

    #[test]
    fn sc_1_what_is_no_time_is_not_read_as_one() {
        let bad = [
            "",
            "2011",
            "2011-02-29T00:00:00Z",
            "2011-13-01T00:00:00Z",
            "2011-12-00T00:00:00Z",
            "2011-12-01T24:00:00Z",
            "2011-12-01T08:26:00",
            "2011-12-01T08:26:00.Z",
            "2011-12-01T08:26:00+1:00",
            "2011-12-01T08:26:00Zx",
            "1969-12-31T23:59:59Z",
            "2011-12-01T08:26:00+24:00",
            "20a1-12-01T08:26:00Z",
            "2011-12-01T08:26:61Z",
        ];
        for text in bad {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in (0..146_097).step_by(7) {
            let (year, month, of_month) = civil(day);
            assert_eq!(days_of(year, month, of_month), Some(day), "{year}-{month}-{of_month}");
        }
    }

    #[test]
    fn sc_1_the_first_header_of_a_name_counts() {
        let headers: [(&[u8], &[u8]); 4] =
            [(b"tenant_id", b"t"), (b"event_id", b"a"), (b"event_id", b"b"), (b"tenant_id", b"u")];
        assert_eq!(identity(headers.into_iter()), Some((&b"a"[..], &b"t"[..])));
        assert_eq!(identity([(&b"tenant_id"[..], &b"t"[..])].into_iter()), None);
    }
}
