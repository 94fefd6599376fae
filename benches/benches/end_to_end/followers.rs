//! What 1,000 followers of quiet topics cost.

use std::error::Error;

use sawlog_benches::load::client::create_topic;
use sawlog_benches::load::wire::{connect, read_client};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::stats::Samples;
use sawlog_benches::timing::pause;
use sawlog_client::AckLevel;
use sawlog_proto::v1::{self, read_start};

use super::context::Bench;

const FOLLOWERS: usize = 1_000;
const TOPICS: usize = 100;
/// Below the broker's bound of 256 streams a connection.
const FOLLOWERS_PER_CONNECTION: usize = 125;
/// One percent of this is ten ticks of the kernel's count.
const WATCHED: std::time::Duration = std::time::Duration::from_secs(10);

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let broker = bench.broker()?;
    let client = bench.client(&broker.server.url())?;
    let before_mib = broker.server.resident_mib()?;
    let streams = bench.runtime.block_on(async {
        for number in 0..TOPICS {
            create_topic(&client, &format!("quiet-{number}"), 1, false, AckLevel::Durable).await?;
        }
        let mut streams = Vec::new();
        for _ in 0..FOLLOWERS / FOLLOWERS_PER_CONNECTION {
            let mut reads = read_client(connect(&broker.server.url()).await?);
            for _ in 0..FOLLOWERS_PER_CONNECTION {
                let request = v1::ReadRequest {
                    topic: format!("quiet-{}", streams.len() % TOPICS),
                    start: Some(v1::ReadStart { at: Some(read_start::At::Latest(v1::Unit {})) }),
                    follow: true,
                    form: v1::ReadForm::Batches.into(),
                    ..v1::ReadRequest::default()
                };
                let mut stream = reads.read(request).await?.into_inner();
                // The first frame says that the follower is at the live end.
                stream.message().await?;
                streams.push(stream);
            }
        }
        Ok::<_, Box<dyn Error>>(streams)
    })?;
    let with_mib = broker.server.resident_mib()?;
    let mut percent = Samples::new();
    for _ in 0..bench.options.rounds {
        let before = broker.server.cpu_seconds()?;
        pause(WATCHED);
        percent.push((broker.server.cpu_seconds()? - before) / WATCHED.as_secs_f64() * 100.0);
    }
    let row = Row::shown("1,000 followers of 100 quiet topics, server CPU", "% of a core", percent);
    bench.row(row.with_target(Target::AtMost(1.0)))?;
    let per_follower = (with_mib - before_mib) * 1024.0 / streams.len() as f64;
    bench.row(Row::shown("memory of a follower", "KiB", Samples::from_iter([per_follower])))
}
