//! The tree of commands and what they share. Each command's own arguments stand in its module.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    bench, completions, config, consume, dev, dlq, group, health, produce, replay, segment, serve, topic, version,
};
use crate::demo;
use crate::failure::Outcome;
use crate::logging::{self, LogFormat};
use crate::output::OutputFormat;

/// sawlog: a partitioned log broker in one binary, with its command line.
#[derive(Debug, Parser)]
#[command(
    name = "sawlog",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 unavailable or no connection, 5 check failed.\n\n\
                  Examples:\n  sawlog dev\n  echo hello | sawlog produce demo\n  sawlog consume demo --from earliest"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What all commands take.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Where the broker is.
    #[arg(long, global = true, env = "SAWLOG_URL", default_value = "http://127.0.0.1:7070", value_name = "URL")]
    pub(crate) url: String,
    /// How long to wait for the broker's answers.
    #[arg(long, global = true, default_value = "30s", value_parser = crate::amounts::span, value_name = "SPAN")]
    pub(crate) timeout: Duration,
    /// How data is printed.
    #[arg(long, global = true, env = "SAWLOG_OUTPUT", value_enum, default_value_t)]
    pub(crate) output: OutputFormat,
    /// How log lines are printed; auto: for people on a terminal, JSON otherwise.
    #[arg(long, global = true, env = "SAWLOG_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// Which log lines are printed, such as `info` or `sawlog_broker::log=debug`; also taken from RUST_LOG.
    #[arg(long = "log", global = true, env = "SAWLOG_LOG", value_name = "FILTER")]
    log_filter: Option<String>,
}

impl Common {
    /// Whether JSON is asked for.
    pub(crate) fn json(&self) -> bool {
        self.output == OutputFormat::Json
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Dev),
    Serve(serve::Serve),
    Demo(demo::Demo),
    #[command(hide = true)]
    DemoWorker(demo::worker::DemoWorker),
    Topic(topic::Topic),
    Produce(produce::Produce),
    Consume(consume::Consume),
    Group(group::Group),
    Dlq(dlq::Dlq),
    Replay(replay::Replay),
    Segment(segment::Segment),
    Bench(bench::Bench),
    Config(config::Config),
    Health(health::Health),
    Completions(completions::Completions),
    Version(version::Version),
}

impl Arguments {
    /// Runs the command.
    pub(crate) fn run(self) -> Outcome {
        let Self { common, command } = self;
        let level = match command {
            Command::Dev(_) | Command::Serve(_) => "info",
            // It fails on purpose, and tells so itself.
            Command::Demo(_) | Command::DemoWorker(_) => "error",
            _ => "warn",
        };
        logging::start(common.log_format, common.log_filter.as_deref(), level)?;
        match command {
            Command::Dev(dev) => dev.run(),
            Command::Serve(serve) => serve.run(),
            Command::Demo(demo) => demo.run(&common),
            Command::DemoWorker(worker) => worker.run(&common),
            Command::Topic(topic) => topic.run(&common),
            Command::Produce(produce) => produce.run(&common),
            Command::Consume(consume) => consume.run(&common),
            Command::Group(group) => group.run(&common),
            Command::Dlq(dlq) => dlq.run(&common),
            Command::Replay(replay) => replay.run(&common),
            Command::Segment(segment) => segment.run(&common),
            Command::Bench(bench) => bench.run(&common),
            Command::Config(config) => config.run(&common),
            Command::Health(health) => health.run(&common),
            Command::Completions(completions) => completions.run(),
            Command::Version(version) => version.run(&common),
        }
    }
}

#[cfg(test)]
mod tests;
