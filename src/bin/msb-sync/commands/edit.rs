//! `add` and `remove`: write images into the images file, and take them out of it.

use std::path::Path;

use msb_sync::error::InputError;
use msb_sync::sync::{self, AddRequest, Session, UnreadLine, VerbError};

use crate::args::{Add, Remove};
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn add(args: &Add, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    refuse_stdin(&args.file)?;
    let request = AddRequest {
        file: args.file.clone(),
        references: super::references(session, &args.references)?,
        from: args.from.as_deref().map(super::images_source),
        group: args.group.clone(),
    };
    let edit = sync::add(session, &request)?;
    output.either(|| json::edited(&edit), || human::edited(&edit));
    for (source, UnreadLine { line, text, reason }) in &edit.unread {
        let what = text.as_ref().map(|text| format!("{text:?} is left out: ")).unwrap_or_default();
        output.error(&format!("{source}:{line}: {what}{reason}"), &[], None);
    }
    Ok(if edit.unread.is_empty() { Exit::Done } else { Exit::Failed })
}

pub(super) fn remove(args: &Remove, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    refuse_stdin(&args.file)?;
    let references = args.references.iter().map(|text| session.reference_or_repository(text));
    let references: Vec<_> = references.collect::<Result<_, _>>()?;
    let edit = sync::remove(session, &args.file, &references)?;
    output.either(|| json::edited(&edit), || human::edited(&edit));
    Ok(Exit::Done)
}

fn refuse_stdin(file: &Path) -> Result<(), VerbError> {
    if file == Path::new("-") { Err(InputError::EditedStdin.into()) } else { Ok(()) }
}
