//! `plan`, and `apply --dry-run`: shows what `apply` would do.

use std::collections::BTreeMap;
use std::path::Path;

use msb_sync::error::Error;
use msb_sync::plan::Plan;
use msb_sync::sync::{self, Session, VerbError};

use crate::args::Target;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

/// Shows the plan; the exit code tells pending changes apart if `detailed`.
pub(super) fn run(
    target: &Target,
    from: Option<&Path>,
    detailed: bool,
    session: &Session,
    output: &Output,
) -> Result<Exit, VerbError> {
    let (plan, platform) = sync::plan(session, &super::request(target, from))?;
    output.human.clear();
    output.either(|| json::plan(&plan), || human::plan(&plan, &target.file, &platform));
    if !output.json {
        tell_errors(&plan, output);
    }
    Ok(if plan.images.iter().any(|image| image.part_error().is_some()) {
        Exit::Failed
    } else if detailed && plan.changes() > 0 {
        Exit::Pending
    } else {
        Exit::Done
    })
}

/// Prints errors for which the plan's table has no room: it has each message alone.
fn tell_errors(plan: &Plan, output: &Output) {
    let says_more = |error: &Error| output.quiet || error.hint().is_some() || error.chain().len() > 1;
    // An engine that does not answer blocks a part of every image: one word about it is enough.
    let mut engines: BTreeMap<String, &Error> = BTreeMap::new();
    for image in &plan.images {
        let error = image.part_error().map(|error| &**error).filter(|error| says_more(error));
        match error {
            Some(error @ Error::Engine(_)) => {
                engines.entry(error.to_string()).or_insert(error);
            }
            // The plan itself tells refusals in full.
            Some(Error::Signature(_)) if !output.quiet => {}
            error => output.human.image_error(&image.reference, error),
        }
    }
    for error in engines.into_values() {
        output.human.failure(error);
    }
}
