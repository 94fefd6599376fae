//! `version`: what this program is.

use clap::Args;
use serde::Serialize;

use crate::arguments::Common;
use crate::failure::Outcome;
use crate::output;

/// Tell the version of this program.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sawlog version\n  sawlog version --output json")]
pub(crate) struct Version {}

#[derive(Serialize)]
struct Answer {
    version: &'static str,
    api: &'static str,
}

impl Version {
    pub(crate) fn run(&self, common: &Common) -> Outcome {
        let answer = Answer { version: env!("CARGO_PKG_VERSION"), api: "sawlog.v1" };
        if common.json() {
            return output::json_line(&answer);
        }
        output::data_line(&format!("sawlog {} (API {})", answer.version, answer.api))
    }
}
