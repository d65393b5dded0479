//! `df`: shows the bytes on disk, and what could be freed.

use msb_sync::sync::{self, Session, VerbError};

use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn run(session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let disk = sync::df(session)?;
    output.either(|| json::df(&disk), || human::df(&disk, output.view()));
    Ok(Exit::Done)
}
