//! A shop that writes orders and their events in one transaction, and the relay that brings the events into the log.
//!
//! ```console
//! $ sawlog dev &
//! $ cargo run -p sawlog-client --example outbox_relay --features postgres -- \
//!       "host=localhost user=postgres dbname=postgres"
//! ```
//!
//! It makes the tables and the topic if they are missing, places ten orders, pays for them, and ends when all twenty
//! events are in the log. Kill it in between and start it again: no event is in the log twice.

use sawlog_client::outbox::{OutboxRelay, SCHEMA};
use sawlog_client::{Client, EnvelopePolicy, NewTopic, TopicConfig};
use tokio_postgres::NoTls;

/// The aggregate: locked by whoever changes it, so that its events have ids in the order of its changes.
const ORDERS: &str = "CREATE TABLE IF NOT EXISTS orders (number text PRIMARY KEY, state text NOT NULL)";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let database: tokio_postgres::Config =
        arguments.next().ok_or("usage: outbox_relay \"host=... user=... dbname=...\" [URL of the broker]")?.parse()?;
    let url = arguments.next().unwrap_or_else(|| "http://127.0.0.1:7070".to_owned());

    let client = Client::builder(url).connect_lazy()?;
    // The relay's records have an envelope; with one, repeats of an event id are found out for a day.
    let config = TopicConfig { envelope: Some(EnvelopePolicy::Required), ..TopicConfig::default() };
    client.admin().create_topic(NewTopic { config, ..NewTopic::new("orders") }).await?;

    let (mut shop, connection) = database.connect(NoTls).await?;
    tokio::spawn(connection);
    shop.batch_execute(ORDERS).await?;
    shop.batch_execute(SCHEMA).await?;

    let relay = OutboxRelay::builder(client, "orders", database).build().await?;
    let handle = relay.handle();
    let relaying = tokio::spawn(relay.run());

    for number in 1..=10 {
        let number = format!("order-{}-{number}", std::process::id());
        change(&mut shop, &number, "placed").await?;
        change(&mut shop, &number, "paid").await?;
    }
    let status = handle.wait_for(|status| status.published >= 20 && status.waiting == 0).await;
    let mut out = std::io::stdout();
    std::io::Write::write_fmt(
        &mut out,
        format_args!("{} events published, {} wait, {} parked\n", status.published, status.waiting, status.parked),
    )?;
    handle.stop();
    relaying.await?;
    Ok(())
}

/// A change of an order and its event, both or neither.
async fn change(shop: &mut tokio_postgres::Client, number: &str, state: &str) -> Result<(), tokio_postgres::Error> {
    let transaction = shop.transaction().await?;
    let order = "INSERT INTO orders VALUES ($1, $2) ON CONFLICT (number) DO UPDATE SET state = excluded.state";
    transaction.execute(order, &[&number, &state]).await?;
    let event = "INSERT INTO outbox (aggregate, event_type, payload) VALUES ($1, $2, $3)";
    let payload = format!("{{\"order\":\"{number}\",\"state\":\"{state}\"}}").into_bytes();
    transaction.execute(event, &[&number, &format!("order.{state}"), &payload]).await?;
    transaction.commit().await
}
