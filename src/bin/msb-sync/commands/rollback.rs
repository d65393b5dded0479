//! `rollback`: makes an earlier digest of an image the present one, and holds it.

use msb_sync::sync::{self, Session, VerbError};

use crate::args::Rollback;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn run(args: &Rollback, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let reference = session.reference(&args.reference)?;
    if args.release {
        let was_held = sync::release(session, &reference)?;
        output.either(|| json::released(&reference, was_held), || human::released(&reference, was_held));
        return Ok(Exit::Done);
    }
    let mut note = None;
    let run = || {
        let rolled = sync::rollback(session, &reference, args.to.as_deref())?;
        note = rolled.applied.succeeded().then(|| human::held(&rolled));
        Ok(rolled.applied)
    };
    let exit = super::apply::show(run, output)?;
    if let Some(note) = note {
        output.human.note(&note);
    }
    Ok(exit)
}
