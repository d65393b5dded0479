//! `outdated`: shows newer tags than those that the images file lists.

use std::path::Path;

use msb_sync::sync::{self, Session, VerbError};

use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn run(file: &Path, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let outdated = sync::outdated(session, &super::images_source(file))?;
    output.human.clear();
    output.either(|| json::outdated(&outdated), || human::outdated(&outdated, output.view()));
    output.human.image_errors(outdated.failed.iter().map(|(repository, error)| (repository, &**error)));
    Ok(if outdated.failed.is_empty() { Exit::Done } else { Exit::Failed })
}
