//! `config`: the settings of the broker and where each comes from.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::arguments::Common;
use crate::broker;
use crate::commands::serve::SettingFlags;
use crate::config::Settings;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Rows};

/// Look at the settings of the broker.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print every setting with its value and where that comes from.
    #[command(after_help = "Examples:\n  sawlog config print -c sawlog.toml\n  \
                            sawlog config print --data-dir /var/lib/sawlog --output json")]
    Print(From),
    /// Check the settings as `serve` would: exit code 0 if they are right, 5 if not.
    #[command(after_help = "Examples:\n  sawlog config check -c sawlog.toml\n  \
                            sawlog config check -c sawlog.toml --set storage.sync_threads=16")]
    Check(From),
    /// Print a file with all defaults and what each setting means.
    #[command(after_help = "Examples:\n  sawlog config default > sawlog.toml\n  sawlog config default --output json")]
    Default,
}

#[derive(Debug, Args)]
struct From {
    /// A TOML file with settings.
    #[arg(short, long, env = "SAWLOG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: SettingFlags,
}

#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    value: &'a toml::Value,
    source: String,
}

impl Config {
    pub(crate) fn run(&self, common: &Common) -> Outcome {
        match &self.verb {
            Verb::Print(from) => print(&from.load()?, common),
            Verb::Check(from) => check(from),
            Verb::Default if common.json() => print(&Settings::defaults(), common),
            Verb::Default => output::data_line(Settings::defaults().to_toml().trim_end()),
        }
    }
}

impl From {
    fn load(&self) -> Outcome<Settings> {
        Settings::load(self.config.as_deref(), std::env::vars(), &self.flags.values())
    }
}

fn print(settings: &Settings, common: &Common) -> Outcome {
    if common.json() {
        for (key, setting) in settings.iter() {
            output::json_line(&Line { key, value: &setting.value, source: setting.source.to_string() })?;
        }
        return Ok(());
    }
    let mut rows = Rows::new(&["setting", "value", "source"]);
    for (key, setting) in settings.iter() {
        rows.add([key, &setting.value.to_string(), &setting.source.to_string()]);
    }
    rows.print()
}

fn check(from: &From) -> Outcome {
    let checked = from.load().and_then(|settings| broker::check(&settings));
    match checked {
        Ok(()) => output::data_line("the settings are right"),
        Err(failure) if failure.exit == Exit::Usage => Err(Failure { exit: Exit::CheckFailed, ..failure }),
        // A file that is not there was not checked.
        Err(failure) => Err(failure),
    }
}
