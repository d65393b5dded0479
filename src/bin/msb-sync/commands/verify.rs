//! `verify`: compares the extracted layers with what was recorded of them.

use msb_sync::sync::{self, Session, VerbError};

use crate::args::Verify;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn run(args: &Verify, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let verified = sync::verify(session, &super::references(session, &args.references)?, args.repair)?;
    output.human.clear();
    output.either(|| json::verified(&verified), || human::verified(&verified, args.repair, output.view()));
    for failure in &verified.failures {
        output.human.failure(failure);
    }
    Ok(if verified.succeeded() { Exit::Done } else { Exit::Failed })
}
