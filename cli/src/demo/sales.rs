//! What an order line is worth, whether it is a sale at all, and what becomes of many of them, one after the other. Pure.
//!
//! The sequential computation here is what the groups at work are compared with: it knows no broker, no partitions and
//! no retries. Amounts are whole pence, so that sums are exact.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::Deserialize;

use super::orders::OrderLine;

/// Class of a line that says nothing of what was sold: a stock correction.
pub(super) const NO_DESCRIPTION: &str = "NO_DESCRIPTION";
/// Class of a line without a price.
pub(super) const NO_PRICE: &str = "NO_PRICE";
/// Class of a line whose numbers are none.
pub(super) const BAD_LINE: &str = "BAD_LINE";

/// The columns of an order line that matter; all are texts, as in the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Line {
    #[serde(rename = "StockCode")]
    pub(super) stock_code: String,
    #[serde(rename = "Description")]
    pub(super) description: String,
    #[serde(rename = "Quantity")]
    pub(super) quantity: String,
    #[serde(rename = "UnitPrice")]
    pub(super) unit_price: String,
    #[serde(rename = "CustomerID")]
    pub(super) customer: String,
    #[serde(rename = "Country")]
    pub(super) country: String,
}

/// Why a line is no sale: a class for programs and a message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoSale {
    pub(super) class: &'static str,
    pub(super) message: String,
}

impl NoSale {
    fn new(class: &'static str, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }
}

impl Line {
    /// The line in a payload.
    ///
    /// # Errors
    /// It is no JSON object with these columns.
    pub(super) fn parse(text: &[u8]) -> Result<Self, NoSale> {
        serde_json::from_slice(text).map_err(|error| NoSale::new(BAD_LINE, error.to_string()))
    }

    /// Quantity times unit price in pence; negative for a cancellation.
    ///
    /// # Errors
    /// The line is no sale.
    pub(super) fn pence(&self) -> Result<i64, NoSale> {
        if self.description.trim().is_empty() {
            return Err(NoSale::new(NO_DESCRIPTION, format!("stock code {} has no description", self.stock_code)));
        }
        let price = pence(&self.unit_price)
            .ok_or_else(|| NoSale::new(BAD_LINE, format!("{:?} is no price in pounds and pence", self.unit_price)))?;
        if price <= 0 {
            return Err(NoSale::new(NO_PRICE, format!("a unit price of {}", self.unit_price)));
        }
        let quantity: i64 = self.quantity.trim().parse().map_err(|_| not_whole(&self.quantity))?;
        price.checked_mul(quantity).ok_or_else(|| not_whole(&self.quantity))
    }
}

fn not_whole(quantity: &str) -> NoSale {
    NoSale::new(BAD_LINE, format!("{quantity:?} is no quantity"))
}

/// A decimal number with at most two digits after the point, in hundredths.
fn pence(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 2 || !is_number(whole) || !is_number(part) {
        return None;
    }
    let part: i64 = format!("{part:0<2}").parse().ok()?;
    let whole: i64 = whole.parse().ok()?;
    Some(sign * whole.checked_mul(100)?.checked_add(part)?)
}

/// What a group that parks finds in a log, told by reading the lines one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Expected {
    /// Dead letters that failed themselves, by class: the first bad line of each invoice.
    pub(super) failed: BTreeMap<&'static str, u64>,
    /// Lines behind them.
    pub(super) parked: u64,
    /// Lines behind them that are sales ...
    pub(super) parked_sales: u64,
    /// ... and their worth in pence.
    pub(super) parked_pence: i64,
    /// Lines that are no sale.
    pub(super) no_sale: u64,
    /// Worth of all sales, in pence.
    pub(super) pence: i64,
    /// The same by country.
    pub(super) by_country: BTreeMap<String, i64>,
    /// The same by customer; an empty name stands for lines without one.
    pub(super) by_customer: BTreeMap<String, i64>,
}

impl Expected {
    /// Reads the lines one after the other.
    pub(super) fn of(lines: &[OrderLine]) -> Self {
        let mut expected = Self::default();
        let mut dead: HashMap<&Bytes, ()> = HashMap::new();
        for order in lines {
            let worth = Line::parse(&order.text).and_then(|line| line.pence().map(|pence| (line, pence)));
            let parked = dead.contains_key(&order.invoice);
            expected.parked += u64::from(parked);
            match worth {
                Ok((line, pence)) => {
                    expected.pence += pence;
                    *expected.by_country.entry(line.country).or_default() += pence;
                    *expected.by_customer.entry(line.customer).or_default() += pence;
                    if parked {
                        expected.parked_sales += 1;
                        expected.parked_pence += pence;
                    }
                }
                Err(no_sale) => {
                    expected.no_sale += 1;
                    if !parked {
                        *expected.failed.entry(no_sale.class).or_default() += 1;
                        dead.insert(&order.invoice, ());
                    }
                }
            }
        }
        expected
    }
}

/// Prices by stock code, for whoever mends a line without one: the highest that the file knows.
pub(super) fn price_list(lines: &[OrderLine]) -> HashMap<String, String> {
    let mut prices: HashMap<String, (i64, String)> = HashMap::new();
    for line in lines.iter().filter_map(|order| Line::parse(&order.text).ok()) {
        let Some(price) = pence(&line.unit_price).filter(|price| *price > 0) else { continue };
        let known = prices.entry(line.stock_code.to_uppercase()).or_default();
        if price > known.0 {
            *known = (price, line.unit_price);
        }
    }
    prices.into_iter().map(|(code, (_, price))| (code, price)).collect()
}

/// Pence as pounds: 748,957.02.
pub(super) fn pounds(pence: i64) -> String {
    let sign = if pence < 0 { "-" } else { "" };
    let pence = pence.unsigned_abs();
    format!("{sign}{}.{:02}", crate::output::grouped(pence / 100), pence % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(invoice: &'static str, description: &str, quantity: &str, price: &str) -> OrderLine {
        let text = format!(
            r#"{{"InvoiceNo":"{invoice}","StockCode":"a1","Description":"{description}","Quantity":"{quantity}","UnitPrice":"{price}","CustomerID":"7","Country":"X"}}"#
        );
        OrderLine { invoice: invoice.into(), text: text.into(), time_ms: 0 }
    }

    #[test]
    fn a_line_is_worth_whole_pence_or_is_no_sale() {
        let worth = |line: OrderLine| Line::parse(&line.text).unwrap().pence().map_err(|no_sale| no_sale.class);
        assert_eq!(worth(order("1", "tea", "6", "2.55")), Ok(1_530));
        assert_eq!(worth(order("1", "tea", "-2", "2.5")), Ok(-500));
        assert_eq!(worth(order("1", "tea", "2", "3")), Ok(600));
        assert_eq!(worth(order("1", " ", "2", "3")), Err(NO_DESCRIPTION));
        assert_eq!(worth(order("1", "tea", "2", "0.0")), Err(NO_PRICE));
        assert_eq!(worth(order("1", "tea", "2", "-11.0")), Err(NO_PRICE));
        for (quantity, price) in [("2", "1.234"), ("2", "x"), ("two", "1.0"), ("2", ""), ("2", ".5")] {
            assert_eq!(worth(order("1", "tea", quantity, price)), Err(BAD_LINE), "{quantity} {price}");
        }
        assert_eq!(worth(order("1", "tea", "9223372036854775807", "1")), Err(BAD_LINE));
        assert_eq!(Line::parse(b"[]").unwrap_err().class, BAD_LINE);
    }

    #[test]
    fn the_first_bad_line_of_an_invoice_fails_and_the_others_are_parked() {
        let lines = [
            order("1", "tea", "1", "1.00"),
            order("2", "", "1", "1.00"),
            order("1", "tea", "1", "0"),
            order("2", "tea", "3", "0.10"),
            order("1", "", "1", "1.00"),
        ];
        let expected = Expected::of(&lines);
        assert_eq!(expected.failed, BTreeMap::from([(NO_DESCRIPTION, 1), (NO_PRICE, 1)]));
        assert_eq!((expected.parked, expected.parked_sales, expected.parked_pence), (2, 1, 30));
        assert_eq!((expected.no_sale, expected.pence), (3, 130));
        assert_eq!(expected.by_country, BTreeMap::from([("X".to_owned(), 130)]));
    }

    #[test]
    fn the_price_list_has_the_highest_price_of_a_stock_code() {
        let prices = price_list(&[order("1", "", "1", "1.05"), order("2", "", "1", "2.1"), order("3", "", "1", "0")]);
        assert_eq!(prices, HashMap::from([("A1".to_owned(), "2.1".to_owned())]));
    }

    #[test]
    fn pence_are_shown_as_pounds() {
        assert_eq!(pounds(74_895_702), "748,957.02");
        assert_eq!(pounds(-5), "-0.05");
    }
}
