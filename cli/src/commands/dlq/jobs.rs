//! `dlq jobs`: redrives, looked at and steered.

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sawlog_client::dead_letter::{DeadLetters, Job, JobState};

use super::show;
use crate::arguments::Common;
use crate::client::failed;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// How often a job that is followed is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// See [`super::Verb::Jobs`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sawlog dlq jobs\n  sawlog dlq jobs show JOB --watch")]
pub(super) struct Jobs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only jobs of this group.
    #[arg(long)]
    group: Option<String>,
    /// Only jobs that have not ended.
    #[arg(long)]
    running: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show a job.
    #[command(after_help = "Examples:\n  sawlog dlq jobs show JOB\n  sawlog dlq jobs show JOB --watch")]
    Show {
        /// Id of the job.
        job: String,
        /// Follow it to its end; exits with 5 if it pauses or is cancelled.
        #[arg(long)]
        watch: bool,
    },
    /// Stop a job for a while.
    #[command(after_help = "Examples:\n  sawlog dlq jobs pause JOB\n  sawlog dlq jobs pause JOB --output json")]
    Pause {
        /// Id of the job.
        job: String,
    },
    /// Go on with a paused job.
    #[command(after_help = "Examples:\n  sawlog dlq jobs resume JOB\n  sawlog dlq jobs resume JOB --output json")]
    Resume {
        /// Id of the job.
        job: String,
    },
    /// End a job; what it has not resolved is open again.
    #[command(after_help = "Examples:\n  sawlog dlq jobs cancel JOB\n  sawlog dlq jobs cancel JOB --yes")]
    Cancel {
        /// Id of the job.
        job: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

impl Jobs {
    pub(super) async fn run(&self, letters: &DeadLetters, common: &Common) -> Outcome {
        match &self.verb {
            None => {
                let jobs = letters.jobs(self.group.as_deref(), self.running).await.map_err(failed)?;
                show::jobs(&jobs, common)
            }
            Some(Verb::Show { job, watch: true }) => watch(letters, job, common).await,
            Some(Verb::Show { job, watch: false }) => show::job(&letters.job(job).await.map_err(failed)?, common),
            Some(Verb::Pause { job }) => show::job(&letters.pause_job(job).await.map_err(failed)?, common),
            Some(Verb::Resume { job }) => show::job(&letters.resume_job(job).await.map_err(failed)?, common),
            Some(Verb::Cancel { job, yes }) => {
                output::confirm(&format!("job {job} ends, and cannot be taken up again"), *yes)?;
                show::job(&letters.cancel_job(job).await.map_err(failed)?, common)
            }
        }
    }
}

/// Follows a job to its end.
pub(super) async fn watch(letters: &DeadLetters, job_id: &str, common: &Common) -> Outcome {
    let bar = match output::stderr_is_terminal() {
        true => ProgressBar::new(0),
        false => ProgressBar::hidden(),
    };
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
    bar.set_style(style.expect("the template is right"));
    let each = |job: &Job| {
        bar.set_length(job.selected);
        bar.set_position(job.resolved + job.failed + job.passed);
        bar.set_message(format!("{} resolved, {} failed", job.resolved, job.failed));
    };
    let job = letters.watch_job(job_id, LOOK, each).await.map_err(failed)?;
    bar.finish_and_clear();
    show::job(&job, common)?;
    match job.state {
        Some(JobState::Done) => Ok(()),
        Some(JobState::Paused) => {
            let what = format!("job {job_id} is paused: {}", job.pause_reason);
            Err(Failure::new(Exit::CheckFailed, what, format!("`sawlog dlq jobs resume {job_id}` goes on with it")))
        }
        _ => Err(Failure::new(Exit::CheckFailed, format!("job {job_id} was cancelled"), "start another redrive")),
    }
}
