//! `trust-root`: shows which CAs and logs of Sigstore's are believed.

use std::path::Path;

use msb_sync::sync::{self, Session, VerbError};

use crate::args::DEFAULT_FILE;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

/// Shows the root that FILE names, or images.toml where there is one, or else the built-in one.
pub(super) fn run(file: Option<&Path>, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let default = Path::new(DEFAULT_FILE);
    let file = file.or_else(|| Some(default).filter(|file| file.exists()));
    let root = sync::trust_root(session, file.map(super::images_source).as_ref())?;
    output.either(|| json::trust_root(&root), || human::trust_root(&root, output.view()));
    Ok(Exit::Done)
}
