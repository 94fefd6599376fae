//! Everything that is printed: data to standard output, talk to standard error, tables and JSON.
//!
//! Must not know commands. Invariant: a closed pipe on standard output ends a command quietly, as `head` expects.

use std::io::{self, BufWriter, IsTerminal, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::failure::{Exit, Failure, Outcome};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs: one object, or one object per line for streams.
    Json,
}

/// Turns an error of standard output into a failure; a closed pipe is none, the process ends.
fn written(result: io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(
            Exit::Failure,
            format!("cannot write to standard output: {error}"),
            "check where the output goes, for instance whether its disk is full",
        )),
    }
}

/// Prints one line of data.
pub(crate) fn data_line(line: &str) -> Outcome {
    let mut out = io::stdout().lock();
    written(writeln!(out, "{line}").and_then(|()| out.flush()))
}

/// Prints one JSON object on one line.
pub(crate) fn json_line(value: &impl Serialize) -> Outcome {
    data_line(&to_json(value))
}

/// The JSON text of plain data.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data with string keys always becomes JSON")
}

/// Prints one line of talk.
pub(crate) fn talk(line: &str) {
    // Nothing can be done if standard error is gone.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether someone looks at standard error.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Standard output for streams of records: buffered, and flushed by the caller when the stream pauses.
#[derive(Debug)]
pub(crate) struct DataStream(BufWriter<io::Stdout>);

impl DataStream {
    /// A stream on standard output.
    pub(crate) fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout()))
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Outcome {
        written(self.0.write_all(bytes))
    }

    /// Gives on what is buffered.
    pub(crate) fn flush(&mut self) -> Outcome {
        written(self.0.flush())
    }
}

/// Rows for people, with a heading; columns named with `>` before them are right-aligned.
#[derive(Debug)]
pub(crate) struct Rows(Table);

impl Rows {
    /// A table with these columns.
    pub(crate) fn new(columns: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(columns.iter().map(|column| column.trim_start_matches('>').to_uppercase()));
        for (index, column) in columns.iter().enumerate() {
            let cells = table.column_mut(index).expect("the heading has made the column");
            cells.set_padding((0, 2));
            if column.starts_with('>') {
                cells.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self(table)
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, cells: impl IntoIterator<Item = impl ToString>) {
        self.0.add_row(cells.into_iter().map(|cell| cell.to_string()));
    }

    /// Prints the rows as data.
    pub(crate) fn print(&self) -> Outcome {
        data_line(&self.to_text())
    }

    /// The rows without spaces at the ends of lines.
    pub(crate) fn to_text(&self) -> String {
        let text = self.0.to_string();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

/// Asks before something is destroyed: on a terminal, or `--yes` elsewhere.
pub(crate) fn confirm(what: &str, yes: bool) -> Outcome {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !stderr_is_terminal() {
        return Err(Failure::usage(
            format!("{what}: this cannot be undone, and no one is here to ask"),
            "give --yes if this is what you want",
        ));
    }
    let mut err = io::stderr().lock();
    let _ = write!(err, "{what}. This cannot be undone. Type yes to go on: ");
    let _ = err.flush();
    let mut answer = String::new();
    let _ = io::stdin().read_line(&mut answer);
    if answer.trim() == "yes" { Ok(()) } else { Err(Failure::usage("not confirmed, nothing was done", "type yes")) }
}

/// A count with thousands set apart: 1,234,567.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes for people: 512 B, 1.5 KiB, 3.0 GiB.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A time in milliseconds since 1970 as RFC 3339 in UTC.
pub(crate) fn human_time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

/// A span in milliseconds for people: 7days, 90s; -1 is never.
pub(crate) fn human_span(ms: i64) -> String {
    u64::try_from(ms).map_or_else(
        |_| "for ever".to_owned(),
        |ms| humantime::format_duration(std::time::Duration::from_millis(ms)).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }

    #[test]
    fn bytes_and_times_are_readable() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(human_time(1_291_191_960_000), "2010-12-01T08:26:00Z");
        assert_eq!(human_span(-1), "for ever");
        assert_eq!(human_span(604_800_000), "7days");
    }

    #[test]
    fn rows_have_no_trailing_spaces_and_align() {
        let mut rows = Rows::new(&["name", ">count"]);
        rows.add(["orders", "7"]);
        rows.add(["a", "1,000"]);
        assert_eq!(rows.to_text(), "NAME    COUNT\norders      7\na       1,000");
    }
}
