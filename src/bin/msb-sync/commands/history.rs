//! `history`: shows which digests images have meant here, and when.

use msb_sync::sync::{self, Session, VerbError};

use crate::args::History;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn run(args: &History, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let reference = args.reference.as_ref().map(|text| session.reference(text)).transpose()?;
    let histories = sync::history(session, reference.as_ref())?;
    output.either(|| json::history(&histories), || human::history(&histories, output.view()));
    Ok(Exit::Done)
}
