//! Writes every order line down, in order per order, at least once: `cargo run -p sawlog-client --example audit`.
#![expect(clippy::print_stdout, reason = "it is a program")]

use sawlog_client::{Client, GroupConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:7070".to_owned());
    let client = Client::builder(url).connect_lazy()?;
    let audit =
        client.consumer("audit").topics(["order-lines"]).create_if_missing(GroupConfig::default()).open().await?;
    let stop = tokio::signal::ctrl_c();
    audit
        .run_until(stop, std::time::Duration::from_secs(10), |line| async move {
            let text = String::from_utf8_lossy(line.value.as_deref().unwrap_or_default()).into_owned();
            println!("{} {} {text}", line.partition(), line.offset);
            Ok(()) // acked: it does not come again
        })
        .await?;
    Ok(())
}
