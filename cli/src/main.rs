//! The command line of sawlog, and the broker as a process.
//!
//! `dev`, `serve` and `demo` run the broker library, `segment` opens a stopped broker's files; everything else is a
//! client of the public API through `sawlog-client` alone. Data goes to standard output, talk to standard error, and
//! every failure ends with one line that says what to do next (`failure.rs`).

mod amounts;
mod arguments;
mod broker;
mod client;
mod clock;
mod commands;
mod config;
mod demo;
mod failure;
mod filter;
mod format;
mod input;
mod logging;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

/// The allocator that costs the broker the least CPU per byte served.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    match arguments.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::talk(&failure.to_string());
            ExitCode::from(failure.exit as u8)
        }
    }
}
