//! Makes a home match an images file, from Rust: shows the plan, applies it, tells what became of it.
//!
//! `cargo run --example apply -- HOME IMAGES_FILE`

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::path::PathBuf;
use std::process::ExitCode;

use msb_sync::sync::{self, Environment, ImagesSource, Request, Session, VerbError};

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [home, file] = &paths[..] else { return ExitCode::from(2) };
    // A home is absolute; passwords and proxies come from the environment.
    let Ok(home) = std::path::absolute(home) else { return ExitCode::from(2) };
    let session = Session { environment: Environment::from_process(), ..Session::new(home) };
    match run(&session, file.clone()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Plans and applies; true if everything is as the file says now.
pub(crate) fn run(session: &Session, file: PathBuf) -> Result<bool, VerbError> {
    let request = Request::of(ImagesSource::Path(file));
    let (plan, platform) = sync::plan(session, &request)?;
    println!("{} changes for {platform}, {} bytes to fetch", plan.changes(), plan.download_bytes());
    let applied = sync::apply(session, &request)?;
    for (reference, action, error) in &applied.outcome.images {
        match error {
            None => println!("{} {reference}: done", action.as_str()),
            Some(error) => println!("{} {reference}: {error} ({})", action.as_str(), error.kind()),
        }
    }
    Ok(applied.succeeded())
}
