//! `init`: writes a commented starter images file.

use std::path::Path;

use msb_sync::sync::{self, VerbError};

use crate::args::DEFAULT_FILE;
use crate::exit::Exit;
use crate::output::Output;

pub(super) fn run(output: &Output) -> Result<Exit, VerbError> {
    sync::init(Path::new(DEFAULT_FILE))?;
    if !output.quiet {
        output.result("Wrote images.toml. Edit it, then look at what would happen: msb-sync plan\n");
    }
    Ok(Exit::Done)
}
