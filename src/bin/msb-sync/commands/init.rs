//! `init`: writes a commented starter images file.

use std::path::Path;

use msb_sync::sync::{self, VerbError};

use crate::args::DEFAULT_FILE;
use crate::exit::Exit;
use crate::json;
use crate::output::Output;

pub(super) fn run(output: &Output) -> Result<Exit, VerbError> {
    let file = Path::new(DEFAULT_FILE);
    sync::init(file)?;
    let words = || "Wrote images.toml. Edit it, then look at what would happen: msb-sync plan\n".to_owned();
    output.either(|| json::started(file), words);
    Ok(Exit::Done)
}
