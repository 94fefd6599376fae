//! The worth of each order in a database that sawlog has no adapter for: the model of `examples/orders`, kept by sqlx.
//!
//! ```sh
//! cargo run --manifest-path examples/sqlx/Cargo.toml -- orders.db
//! ```
//!
//! `store.rs` is the adapter; what is here is all that changes from model to model. It ends once it is up to date.

mod store;

use std::time::Duration;

use sawlog_client::payload::Json;
use sawlog_client::{Client, ConsumedRecord, HandlerError};
use sqlx::SqliteConnection;
use store::{Handling, SqlxStore};

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (id BLOB PRIMARY KEY, lines INTEGER, pence INTEGER)";

#[derive(serde::Deserialize, serde::Serialize)]
struct Line {
    quantity: i64,
    unit_pence: i64,
}

/// An error by `?` is tried again, then parks the order's key; what is wrong with the database is waited for.
fn apply<'a>(tx: &'a mut SqliteConnection, record: &'a ConsumedRecord) -> Handling<'a> {
    Box::pin(async move {
        let line: Line = record.decode::<Json<Line>>()?;
        let order = record.key.as_deref().ok_or_else(|| HandlerError::skip("a line of no order"))?;
        let add = "INSERT INTO orders VALUES (?1, 1, ?2) \
                   ON CONFLICT (id) DO UPDATE SET lines = lines + 1, pence = pence + ?2";
        sqlx::query(add).bind(order).bind(line.quantity * line.unit_pence).execute(tx).await?;
        Ok(())
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut given = std::env::args().skip(1);
    let path = given.next().unwrap_or_else(|| "orders.db".to_owned());
    let url = given.next().unwrap_or_else(|| "http://127.0.0.1:7070".to_owned());
    let client = Client::builder(url).connect_lazy()?;
    let store = SqlxStore::open(&path, TABLES, apply).await?;
    let projection = client.projection("orders-sqlx", store).topics(["order-lines"]).create_if_missing().open().await?;
    let mut handle = projection.handle();
    let up_to_date = async move {
        if handle.caught_up().await {
            println!("up to date: {} lines applied by this program", handle.status().applied_records());
        }
    };
    projection.run_until(up_to_date, Duration::from_secs(10)).await?;
    Ok(())
}
