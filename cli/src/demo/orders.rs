//! Order lines from CSV: the sample shipped inside, or a file.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use bytes::Bytes;

use super::sales::Line;
use crate::failure::{Exit, Failure, Outcome};
use crate::input::{Common, CsvValue, InputForm, Records};

/// The sample: "Online Retail" data set, Daqing Chen, UCI Machine Learning Repository, 2015, DOI 10.24432/C5BW33,
/// licence CC BY 4.0. `README.md` beside it tells what it is.
const SAMPLE: &[u8] = include_bytes!("order-lines.csv");

/// An order line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OrderLine {
    /// Number of its invoice: the entity whose order is kept.
    pub(super) invoice: Bytes,
    /// The line as a JSON object with the column names and texts of the file.
    pub(super) text: Bytes,
    /// When it was recorded, in milliseconds since 1970.
    pub(super) time_ms: i64,
}

/// Reads the lines of `file`, or those of the sample.
///
/// # Errors
/// A line that is none; nothing is done with the others then. A line with bad numbers is none of these: it is
/// produced, and whoever handles it fails.
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
        let next = "give order lines with the columns InvoiceNo, StockCode, Description, Quantity, InvoiceDate (such as \
                    2010-12-01 08:26:00), UnitPrice, CustomerID and Country";
        Failure::new(Exit::Failure, format!("{name}:{line}: {what}"), next)
    };
    let form = InputForm::Csv {
        key_column: Some("InvoiceNo".to_owned()),
        time_column: Some("InvoiceDate".to_owned()),
        value: CsvValue::Json,
    };
    let records = Records::open(reader, &form, &common).map_err(|error| bad(error.line, &error.what))?;
    let mut lines = Vec::new();
    for record in records {
        let record = record.map_err(|error| bad(error.line, &error.what))?;
        let number = lines.len() as u64 + 2;
        let (Some(invoice), Some(text), Some(time_ms)) = (record.key, record.value, record.timestamp_ms) else {
            return Err(bad(number, "no invoice or no date"));
        };
        Line::parse(&text).map_err(|no_line| bad(number, &no_line.message))?;
        lines.push(OrderLine { invoice, text, time_ms });
    }
    if lines.is_empty() {
        return Err(bad(1, "no order line"));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::super::sales::{Expected, NO_DESCRIPTION, NO_PRICE};
    use super::*;

    #[test]
    fn the_sample_is_a_whole_day_in_time_order_with_both_kinds_of_faults() {
        let lines = read(None).unwrap();
        assert_eq!(lines.len(), 2_963);
        assert!(lines.is_sorted_by_key(|line| line.time_ms));
        let expected = Expected::of(&lines);
        assert_eq!(expected.failed.get(NO_DESCRIPTION), Some(&8));
        assert_eq!(expected.failed.get(NO_PRICE), Some(&3));
        assert_eq!((expected.parked, expected.parked_sales, expected.no_sale), (200, 144, 67));
    }

    #[test]
    fn a_broken_file_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("orders.csv");
        let heading = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
        let good = "1,a,tea,2,2010-12-01 08:26:00,1.5,7,X\n";
        std::fs::write(&file, format!("{heading}{good}2\n")).unwrap();
        let failure = read(Some(&file)).unwrap_err();
        assert!(failure.what.ends_with("orders.csv:3: 1 fields, but the heading has 8"), "{}", failure.what);
        std::fs::write(&file, "a,b\n").unwrap();
        assert!(read(Some(&file)).unwrap_err().what.contains("no column \"InvoiceNo\""));
        std::fs::write(&file, "InvoiceNo,InvoiceDate\n1,2010-12-01 08:26:00\n").unwrap();
        let failure = read(Some(&file)).unwrap_err();
        assert!(failure.what.contains("orders.csv:2: missing field `StockCode`"), "{}", failure.what);
    }
}
