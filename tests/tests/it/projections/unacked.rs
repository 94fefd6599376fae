//! Dead letters that a reader has applied and not acked when it is killed (rule RM-7).

use std::time::Duration;

use sawlog_client::dead_letter::{EntryKind, EntryState, JobState};
use sawlog_client::projection::Step;
use sawlog_testing::TestBroker;

use super::faults::StopAt;
use super::model::{GROUP, MEMBER, Model as _, Running, builder, decided, in_time, produce, topic};
use super::sqlite::Sqlite;
use super::suite::{ended, everything, open_entries, with_poison};

/// What happens while the reader stands between its commit and its ack.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    /// The job that has the entry is cancelled: the entry does not come again.
    Cancelled,
    /// The same, and the broker is killed.
    CancelledAndBrokerKilled,
}

/// Between two looks at an entry.
const LOOK: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rm_7_what_a_killed_reader_had_applied_is_not_open_once_the_next_one_begins() {
    for meanwhile in [Meanwhile::Nothing, Meanwhile::Cancelled, Meanwhile::CancelledAndBrokerKilled] {
        let mut broker = TestBroker::start().await;
        let (model, client) = (Sqlite::new(&broker, "model"), broker.client());
        topic(&client, 1).await;
        let (records, totals) = with_poison(60);
        let positions = produce(&client, records).await;
        let stop = StopAt::new(Step::EntryApplied, 1);
        let running = Running::of(builder(&client, &model).member_id(MEMBER).probe(stop.probe())).await;
        decided(&client, GROUP, &positions).await;
        let head = open_entries(&client).await.remove(0);
        assert_eq!((head.offset, head.kind), (14, Some(EntryKind::Failed)));
        model.deeds.mend();
        let letters = client.dead_letters();
        let job = letters.redrive(GROUP, &everything()).await.unwrap();
        stop.hit().await;
        if meanwhile != Meanwhile::Nothing {
            letters.cancel_job(&job.job_id).await.unwrap();
        }
        running.kill().await;
        if meanwhile == Meanwhile::CancelledAndBrokerKilled {
            broker.kill().await;
            broker.restart().await;
        }
        assert_eq!(model.number("SELECT COUNT(*) FROM projection_entry").await, 1, "it was applied");
        assert_eq!(open_entries(&client).await[0].dlq_id, head.dlq_id, "and is open");

        let running = Running::of(builder(&client, &model).member_id(MEMBER)).await;
        in_time(async {
            while client.dead_letters().get(&head.dlq_id).await.unwrap().entry.state != Some(EntryState::Resolved) {
                tokio::time::sleep(LOOK).await;
            }
        })
        .await;
        if meanwhile != Meanwhile::Nothing {
            assert_eq!(open_entries(&client).await.len(), 7, "{meanwhile:?}: what is behind it is not touched");
            let job = client.dead_letters().redrive(GROUP, &everything()).await.unwrap();
            assert_eq!(ended(&client, &job).await.resolved, 7, "{meanwhile:?}");
        } else {
            assert_eq!(ended(&client, &job).await.state, Some(JobState::Done));
        }
        running.stop().await;
        assert_eq!(model.totals().await, totals, "{meanwhile:?}: each once");
        broker.shutdown().await;
    }
}
