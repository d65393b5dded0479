//! `pull`: fetches images that no images file lists.

use std::path::Path;

use msb_sync::sync::{self, PullRequest, Session, VerbError};

use crate::args::{DEFAULT_FILE, Pull};
use crate::exit::Exit;
use crate::output::Output;

pub(super) fn run(args: &Pull, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let (groups, references): (Vec<String>, Vec<String>) =
        args.references.iter().cloned().partition(|text| text.starts_with('@'));
    let default = (!groups.is_empty()).then_some(Path::new(DEFAULT_FILE));
    let request = PullRequest {
        references: super::references(session, &references)?,
        groups,
        file: args.file.as_deref().or(default).map(super::images_source),
        platform: args.platform.clone(),
    };
    super::apply::show(|| sync::pull(session, &request), output)
}
