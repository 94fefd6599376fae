//! `health`: whether the broker serves, for people and probes.

use clap::Args;
use serde::Serialize;

use crate::arguments::Common;
use crate::client;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// Ask whether the broker serves: exit code 0 if so, 4 if not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sawlog health\n  sawlog health --url http://127.0.0.1:7071 --output json")]
pub(crate) struct Health {}

#[derive(Serialize)]
struct Answer<'a> {
    url: &'a str,
    serving: bool,
}

impl Health {
    pub(crate) fn run(&self, common: &Common) -> Outcome {
        let answer = client::run(common, async |client| client::reachable(&client).await)?;
        let serving = answer == sawlog_client::Health::Serving;
        if common.json() {
            output::json_line(&Answer { url: &common.url, serving })?;
        } else {
            output::data_line(if serving { "serving" } else { "not serving" })?;
        }
        if serving {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Unavailable,
            format!("the broker at {} is there but does not serve", common.url),
            "it recovers or stops: wait, and look at its log lines",
        ))
    }
}
