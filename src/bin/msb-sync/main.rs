//! The command line of msb-sync: a thin layer over the library.
//!
//! Parses arguments (`args`), hands one verb to [`msb_sync::sync`] (`commands`) and prints what
//! comes back, for people (`human`) or for machines (`json`). Results go to stdout, everything else
//! to stderr.

mod args;
mod commands;
mod completions;
mod environment;
mod exit;
mod human;
mod json;
mod live;
mod mistyped;
mod misuse;
mod output;
mod paint;
mod signals;
mod speed;
mod streams;
mod table;
mod tally;
mod text;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::error::ErrorKind;
use msb_sync::cancel::Cancel;
use msb_sync::error::Error;

use args::Cli;
use exit::Exit;
use output::Output;

fn main() -> ExitCode {
    msb_sync::keep_own_permissions();
    msb_sync::limit_allocator();
    msb_sync::raise_open_files_limit();
    signals::survive_file_limits();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if completions::answered(&arguments) {
        return Exit::Done.into();
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::DisplayVersion && args::are_verbose(&arguments) => {
            streams::print(&human::version());
            return Exit::Done.into();
        }
        Err(error) => return misuse::explain(error, &arguments).into(),
    };
    let output = Arc::new(Output::new(&cli));
    let cancel = Cancel::new();
    if let Err(error) = signals::watch(cancel.clone(), Arc::clone(&output) as _) {
        return output.failure(&Error::System { doing: "watch for signals", source: error }.into()).into();
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
