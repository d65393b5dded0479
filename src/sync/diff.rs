//! `diff`: the changes from one lockfile to the next. Nothing but the two files is read.

use std::io::{self, Read as _};
use std::path::Path;

use super::request::ImagesSource;
use super::session::Session;
use super::steps::load::refuse_symlinks;
use super::steps::lockfile_place::{read_named, unreadable};
use super::verb_error::VerbError;
use crate::lockfile::{EntryChange, Lockfile, MAX_TEXT};
use crate::state::Action;

/// The report of `diff`.
#[derive(Clone, Debug)]
pub struct LockfileDiff {
    /// The newer lockfile, as shown.
    pub name: String,
    /// The entries that differ, by reference and platform.
    pub changes: Vec<EntryChange>,
    /// The bytes of the layers that the newer lockfile has and the older one lacks.
    pub new_bytes: u64,
}

impl LockfileDiff {
    /// Returns the entries of which `action` became.
    pub fn of(&self, action: Action) -> impl Iterator<Item = &EntryChange> {
        self.changes.iter().filter(move |change| change.action == action)
    }
}

/// Compares two lockfiles; either may be standard input.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// let (old, new) = (directory.path().join("old.lock"), directory.path().join("images.lock"));
/// std::fs::write(&old, "version = 1\n")?;
/// std::fs::write(&new, "version = 1\n")?;
/// let diff = sync::diff(&session, &ImagesSource::Path(old), &ImagesSource::Path(new))?;
/// assert!(diff.changes.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// One of the files cannot be read, or is no lockfile.
pub fn diff(session: &Session, old: &ImagesSource, new: &ImagesSource) -> Result<LockfileDiff, VerbError> {
    let (_, old) = read(session, old)?;
    let (name, new) = read(session, new)?;
    let mut changes = old.changes(&new);
    changes.retain(|change| change.action != Action::Keep);
    Ok(LockfileDiff { name, new_bytes: new.bytes_beside(&old), changes })
}

/// Reads a lockfile, and returns its name for people with it.
fn read(session: &Session, source: &ImagesSource) -> Result<(String, Lockfile), VerbError> {
    let (name, text) = match source {
        ImagesSource::Path(path) => {
            if session.untrusted {
                refuse_symlinks(path)?;
            }
            read_named(path)?
        }
        ImagesSource::Stdin => {
            let name = "<stdin>".to_owned();
            let text = read_stdin().map_err(|error| unreadable(Path::new(&name), error))?;
            (name, text)
        }
    };
    let lockfile = Lockfile::parse_named(&text, &name).map_err(VerbError::Lockfile)?;
    Ok((name, lockfile))
}

fn read_stdin() -> io::Result<String> {
    let mut text = String::new();
    // One byte more than the largest lockfile: its reader refuses that.
    io::stdin().lock().take(MAX_TEXT as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}
