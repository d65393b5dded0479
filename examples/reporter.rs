//! A reporter of one's own: counts the bytes that arrive, and notes each image that is done.
//!
//! `cargo run --example reporter -- HOME IMAGES_FILE`

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use msb_sync::progress::{Event, Reporter};
use msb_sync::sync::{self, ImagesSource, Request, Session, VerbError};

/// Counts what a run does. Events come from many threads at once.
#[derive(Default)]
pub(crate) struct Counter {
    /// Compressed bytes of layers that went through extraction.
    pub(crate) extracted: AtomicU64,
    /// Images that are done.
    pub(crate) images: AtomicU64,
}

impl Reporter for Counter {
    fn report(&self, event: Event) {
        match event {
            Event::LayerExtracted { bytes, .. } => {
                self.extracted.fetch_add(bytes, Ordering::Relaxed);
            }
            Event::Image { reference, action, error: None, .. } => {
                self.images.fetch_add(1, Ordering::Relaxed);
                println!("{} {reference}", action.as_str());
            }
            Event::Warning(text) => println!("warning: {text}"),
            // There are more events, and later versions may have others.
            _ => {}
        }
    }
}

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [home, file] = &paths[..] else { return ExitCode::from(2) };
    let Ok(home) = std::path::absolute(home) else { return ExitCode::from(2) };
    match run(home, file.clone()) {
        Ok(counter) => {
            println!("{} bytes of layers", counter.extracted.load(Ordering::Relaxed));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Applies the images file, and returns the counts.
pub(crate) fn run(home: PathBuf, file: PathBuf) -> Result<Arc<Counter>, VerbError> {
    let counter = Arc::new(Counter::default());
    let session = Session { reporter: Arc::clone(&counter) as _, ..Session::new(home) };
    sync::apply(&session, &Request::of(ImagesSource::Path(file)))?;
    Ok(counter)
}
