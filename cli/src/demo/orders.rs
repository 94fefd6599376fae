//! Order lines from CSV: the sample shipped inside, or a file.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use bytes::Bytes;

use crate::failure::{Exit, Failure, Outcome};
use crate::input::{Common, Records};

/// The sample: "Online Retail" data set, Daqing Chen, UCI Machine Learning Repository, 2015, DOI 10.24432/C5BW33,
/// licence CC BY 4.0. `README.md` beside it tells what it is.
const SAMPLE: &[u8] = include_bytes!("order-lines.csv");

/// An order line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OrderLine {
    /// Number of its invoice: the entity whose order is kept.
    pub(super) invoice: Bytes,
    /// The whole line.
    pub(super) text: Bytes,
    /// When it was recorded, in milliseconds since 1970.
    pub(super) time_ms: i64,
}

/// Reads the lines of `file`, or those of the sample.
///
/// # Errors
/// A line that is none; nothing is done with the others then.
pub(super) fn read(file: Option<&Path>) -> Outcome<Vec<OrderLine>> {
    let (name, reader): (String, Box<dyn BufRead>) = match file {
        None => ("the sample".to_owned(), Box::new(SAMPLE)),
        Some(path) => {
            let opened = File::open(path).map_err(|error| Failure::file("open", path, &error))?;
            (path.display().to_string(), Box::new(BufReader::new(opened)))
        }
    };
    let common = Common::default();
    let bad = |line: u64, what: &str| {
        let next = "give order lines with the columns InvoiceNo and InvoiceDate, such as 2010-12-01 08:26:00";
        Failure::new(Exit::Failure, format!("{name}:{line}: {what}"), next)
    };
    let records = Records::open(reader, &super::order_form(), &common).map_err(|error| bad(error.line, &error.what))?;
    let mut lines = Vec::new();
    for record in records {
        let record = record.map_err(|error| bad(error.line, &error.what))?;
        let (Some(invoice), Some(text), Some(time_ms)) = (record.key, record.value, record.timestamp_ms) else {
            return Err(bad(lines.len() as u64 + 2, "no invoice or no date"));
        };
        lines.push(OrderLine { invoice, text, time_ms });
    }
    if lines.is_empty() {
        return Err(bad(1, "no order line"));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_a_whole_day_in_time_order() {
        let lines = read(None).unwrap();
        assert_eq!(lines.len(), 3_108);
        assert!(lines.is_sorted_by_key(|line| line.time_ms));
        assert_eq!(lines[0].invoice, "536365");
        assert_eq!(lines[0].time_ms, 1_291_191_960_000);
        let heading = SAMPLE.split(|byte| *byte == b'\n').next().unwrap();
        let text: Vec<u8> = lines.iter().flat_map(|line| [&b"\n"[..], &line.text].concat()).collect();
        assert_eq!([heading, &text, b"\n"].concat(), SAMPLE, "each line is kept as it stands in the file");
    }

    #[test]
    fn a_broken_file_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("orders.csv");
        std::fs::write(&file, "InvoiceNo,InvoiceDate\n1,2010-12-01 08:26:00\n2\n").unwrap();
        let failure = read(Some(&file)).unwrap_err();
        assert!(failure.what.ends_with("orders.csv:3: 1 fields, but the heading has 2"), "{}", failure.what);
        std::fs::write(&file, "a,b\n").unwrap();
        assert!(read(Some(&file)).unwrap_err().what.contains("no column \"InvoiceNo\""));
    }
}
