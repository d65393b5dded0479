//! `diff`: shows what changed from one lockfile to the next.

use msb_sync::sync::{self, Session, VerbError};

use crate::args::Diff;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn run(args: &Diff, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let (old, new) = (super::images_source(&args.old), super::images_source(&args.new));
    let diff = sync::diff(session, &old, &new)?;
    let text = || if args.markdown { human::diff_markdown(&diff) } else { human::diff(&diff, output.view()) };
    output.either(|| json::diff(&diff), text);
    Ok(Exit::Done)
}
