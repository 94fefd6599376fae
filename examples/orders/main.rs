//! Keeps the worth of each order in a SQLite file, each line counted once whatever crashes:
//! `cargo run -p sawlog-client --features sqlite --example orders -- orders.db`.
#![expect(clippy::print_stdout, reason = "it is a program")]

use std::time::Duration;

use sawlog_client::payload::Json;
use sawlog_client::projection::sqlite::{SqliteStore, Transaction};
use sawlog_client::{Client, ConsumedRecord, HandlerError};

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (id BLOB PRIMARY KEY, lines INTEGER, pence INTEGER)";

#[derive(serde::Deserialize, serde::Serialize)]
struct Line {
    quantity: i64,
    unit_pence: i64,
}

/// An error by `?` is tried again, then parks the order's key; what is wrong with the database is waited for.
fn apply(tx: &Transaction<'_>, record: &ConsumedRecord) -> Result<(), HandlerError> {
    let line: Line = record.decode::<Json<Line>>()?;
    let order = record.key.as_deref().ok_or_else(|| HandlerError::skip("a line of no order"))?;
    let add = "INSERT INTO orders VALUES (?1, 1, ?2) \
               ON CONFLICT (id) DO UPDATE SET lines = lines + 1, pence = pence + ?2";
    tx.prepare_cached(add)?.execute((order, line.quantity * line.unit_pence))?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut given = std::env::args().skip(1);
    let path = given.next().unwrap_or_else(|| "orders.db".to_owned());
    let url = given.next().unwrap_or_else(|| "http://127.0.0.1:7070".to_owned());
    let client = Client::builder(url).connect_lazy()?;
    let store = SqliteStore::new(path, apply).setup(TABLES);
    let projection = client.projection("orders", store).topics(["order-lines"]).create_if_missing().open().await?;
    let mut handle = projection.handle();
    tokio::spawn(async move {
        while handle.caught_up().await {
            println!("up to date: {} lines applied by this program", handle.status().applied_records());
            if !handle.wait_for(|status| !status.is_live()).await {
                break;
            }
        }
    });
    projection.run_until(tokio::signal::ctrl_c(), Duration::from_secs(10)).await?;
    Ok(())
}
