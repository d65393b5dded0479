//! `plan`, and `apply --dry-run`: shows what `apply` would do.

use std::path::Path;

use msb_sync::error::Error;
use msb_sync::plan::Plan;
use msb_sync::sync::{self, Session, VerbError};

use crate::args::Target;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json, streams};

/// Shows the plan; the exit code tells pending changes apart if `detailed`.
pub(super) fn run(
    target: &Target,
    from: Option<&Path>,
    detailed: bool,
    session: &Session,
    output: &Output,
) -> Result<Exit, VerbError> {
    let (plan, platform) = sync::plan(session, &super::request(target, from, false))?;
    output.human.clear();
    output.either(|| json::plan(&plan), || human::plan(&plan, &target.file, &platform, output.view()));
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

/// Prints why images are blocked. The plan itself has each message alone, and tells refusals in
/// full: where people read it right beside, only what it has no room for is told.
fn tell_errors(plan: &Plan, output: &Output) {
    let beside = !output.quiet && streams::are_one();
    let errors = plan.images.iter().filter_map(|image| Some((&image.reference, &**image.part_error()?)));
    for failure in human::grouped(errors) {
        match failure.error {
            // One word about it is enough, whatever number of images wait for the engine.
            error @ Error::Engine(_) => output.human.failure(error),
            Error::Signature(_) if beside => {}
            error if beside && error.hint().is_none() && error.chain().len() == 1 => {}
            _ => output.human.image_failure(&failure, true),
        }
    }
}
