//! `apply`: makes the machine match the images file.

use std::time::Instant;

use msb_sync::sync::{self, Applied, Session, VerbError};

use crate::args::Apply;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn run(args: &Apply, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let started = Instant::now();
    let applied = sync::apply(session, &super::request(&args.target, args.from.as_deref()))?;
    Ok(show(&applied, started, output))
}

/// Prints the summary of a run that began at `started`.
pub(super) fn show(applied: &Applied, started: Instant, output: &Output) -> Exit {
    let elapsed = started.elapsed();
    output.human.clear();
    if output.json {
        output.result(&format!("{}\n", json::summary(applied, elapsed)));
    } else if !output.quiet {
        output.result(&human::summary(applied, elapsed, output.home.as_deref()));
    }
    if let Some(failure) = &applied.outcome.failure {
        output.human.failure(failure);
    }
    if applied.succeeded() { Exit::Done } else { Exit::Failed }
}
