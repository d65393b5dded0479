//! `forget`: forgets recorded images, with the layers that nobody else needs.

use msb_sync::sync::{self, Session, VerbError};

use crate::args::Forget;
use crate::exit::Exit;
use crate::output::Output;

pub(super) fn run(args: &Forget, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let pruned = match &args.owner {
        Some(file) => {
            let pruned = sync::forget_owner(session, file, args.dry_run)?;
            if file.exists() {
                let file = file.display();
                let text = format!("{file} is still there: its next apply brings back what it lists");
                output.human.warning(&text);
            }
            pruned
        }
        None => sync::forget(session, &super::references(session, &args.references)?, args.dry_run)?,
    };
    Ok(super::prune::show(&pruned, None, output))
}
