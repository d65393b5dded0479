//! `lock`: resolves every image and writes the lockfile.

use msb_sync::sync::{self, LockRequest, Session, Upgrade, VerbError};

use crate::args::Lock;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn run(args: &Lock, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let (file, upgrade) = args.split();
    let request = LockRequest {
        source: super::images_source(file),
        upgrade: self::upgrade(upgrade, session)?,
        check: args.check,
    };
    let relocked = sync::lock(session, &request)?;
    output.human.clear();
    output.either(|| json::relocked(&relocked), || human::relocked(&relocked, args.check, output.view()));
    output.human.image_errors(relocked.failed.iter().map(|(reference, _, error)| (reference, &**error)));
    Ok(if !relocked.failed.is_empty() {
        Exit::Failed
    } else if args.check && relocked.changed {
        Exit::Pending
    } else {
        Exit::Done
    })
}

/// The locked images that `--upgrade` lets move.
fn upgrade(references: Option<Vec<&str>>, session: &Session) -> Result<Upgrade, VerbError> {
    Ok(match references {
        None => Upgrade::Nothing,
        Some(references) if references.is_empty() => Upgrade::Everything,
        Some(references) => {
            let named = references.iter().map(|text| session.reference_or_repository(text));
            Upgrade::These(named.collect::<Result<_, _>>()?)
        }
    })
}
