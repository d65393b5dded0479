//! `apply`: makes the machine match the images file.

use msb_sync::error::Error;
use msb_sync::sync::{self, Applied, Request, Session, VerbError};

use crate::args::Apply;
use crate::exit::Exit;
use crate::output::Output;

pub(super) fn run(args: &Apply, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let now = super::references(session, &args.now)?;
    let request =
        Request { now, stage: args.stage, ..super::request(&args.target, args.from.as_deref(), args.hooks) };
    show(|| sync::apply(session, &request), output)
}

/// Runs `apply`, and prints the summary, also of a run that is stopped before there is any result.
pub(super) fn show(
    apply: impl FnOnce() -> Result<Applied, VerbError>,
    output: &Output,
) -> Result<Exit, VerbError> {
    output.owe_summary();
    let applied = match apply() {
        Err(VerbError::Error(Error::Stopped)) => {
            output.summary(None);
            return Ok(Exit::Failed);
        }
        applied => applied?,
    };
    output.human.clear();
    output.summary(Some(&applied));
    if let Some(failure) = &applied.outcome.failure {
        output.human.failure(failure);
    }
    Ok(if applied.succeeded() { Exit::Done } else { Exit::Failed })
}
