//! `completions`: the shell's knowledge of the commands.

use clap::{Args, CommandFactory as _};

use crate::arguments::Arguments;
use crate::failure::Outcome;
use crate::output::DataStream;

/// Print the completions for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sawlog completions bash > ~/.local/share/bash-completion/completions/sawlog\n  \
                  sawlog completions fish | source")]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Outcome {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "sawlog", &mut text);
        let mut out = DataStream::new();
        out.write(&text)?;
        out.flush()
    }
}
