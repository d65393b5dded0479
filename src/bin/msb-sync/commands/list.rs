//! `list`: shows what the catalog holds.

use msb_sync::sync::{self, Session, VerbError};

use crate::exit::Exit;
use crate::output::Output;
use crate::text::now;
use crate::{human, json};

pub(super) fn run(session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let images = sync::list(session)?;
    output.either(|| json::list(&images), || human::list(&images, now()));
    Ok(Exit::Done)
}
