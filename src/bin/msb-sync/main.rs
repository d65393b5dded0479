//! The command line of msb-sync: a thin layer over the library.
//!
//! Parses arguments (`args`), hands one verb to [`msb_sync::sync`] (`commands`) and prints what
//! comes back, for people (`human`) or for machines (`json`). Results go to stdout, everything else
//! to stderr.

mod args;
mod commands;
mod exit;
mod human;
mod json;
mod live;
mod output;
mod paint;
mod signals;
mod streams;
mod text;

use std::process::{self, ExitCode};
use std::sync::Arc;

use clap::Parser;
use clap::error::ErrorKind;
use msb_sync::cancel::Cancel;

use args::Cli;
use exit::Exit;
use output::Output;

fn main() -> ExitCode {
    msb_sync::limit_allocator_arenas();
    msb_sync::raise_open_files_limit();
    signals::survive_file_limits();
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        if error.kind() == ErrorKind::DisplayVersion && args::are_verbose(std::env::args_os()) {
            streams::print(&human::version());
            process::exit(0);
        }
        error.exit()
    });
    let output = Output::new(&cli.global);
    let cancel = Cancel::new();
    if let Err(error) = signals::watch(cancel.clone(), Arc::clone(&output.human)) {
        output.error("cannot watch for signals", &[error.to_string()], None);
        return Exit::Failed.into();
    }
    let mut exit = commands::run(&cli, &output, cancel);
    output.human.clear();
    if streams::output_lost() {
        output.error("cannot write the whole result to standard output", &[], None);
        exit = Exit::Failed;
    }
    if let Some(signal) = signals::caught() {
        if cli.command.watches() {
            // A signal is how a watch ends.
            output.human.note("stopped");
        } else {
            output.human.stopped();
        }
        exit = Exit::Signal(signal);
    }
    exit.into()
}
