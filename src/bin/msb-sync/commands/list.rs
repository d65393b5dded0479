//! `list`: shows what the catalog holds.

use msb_sync::clock::now;
use msb_sync::error::without_secrets;
use msb_sync::sync::{self, Session, VerbError};

use crate::args::List;
use crate::exit::Exit;
use crate::output::Output;
use crate::text::printable;
use crate::{human, json};

pub(super) fn run(args: &List, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let mut images = sync::list(session)?;
    let are_some = !images.is_empty();
    if let Some(pattern) = &args.pattern {
        images.retain(|image| image.fits(pattern));
    }
    let people = || match &args.pattern {
        Some(pattern) if images.is_empty() && are_some => {
            format!("No recorded image fits {}.\n", printable(&without_secrets(pattern), false))
        }
        _ => human::list(&images, now(), output.view()),
    };
    if output.quiet && !output.json {
        // For scripts, which want names and nothing else.
        output.result(&human::names(&images));
    } else {
        output.either(|| json::list(&images), people);
    }
    Ok(Exit::Done)
}
