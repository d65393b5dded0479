//! `prune`: removes what the images file no longer wants, and layers that nobody needs.

use std::path::Path;

use msb_sync::sync::{self, PruneRequest, Pruned, Session, VerbError};

use crate::args::Prune;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn run(args: &Prune, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let (dry_run, allow_empty) = (args.dry_run, args.allow_empty);
    let request = PruneRequest { source: super::images_source(&args.file), dry_run, allow_empty };
    Ok(show(&sync::prune(session, &request)?, Some(&args.file), output))
}

/// Prints what was removed, or would be, by the wish of the images file `file` if there is one.
pub(super) fn show(pruned: &Pruned, file: Option<&Path>, output: &Output) -> Exit {
    output.either(
        || json::pruned(pruned),
        || human::pruned(pruned, file, output.home.as_deref(), output.view()),
    );
    match &pruned.error {
        None => Exit::Done,
        Some(error) => {
            output.human.failure(error);
            Exit::Failed
        }
    }
}
