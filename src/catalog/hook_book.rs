//! The changes that hooks are told of now: each by one run at a time.
//!
//! A hook may run for long, and may itself run msb-sync, so nobody has the lock of the home
//! meanwhile. A run claims the changes instead: it locks a byte of the claims' file, and writes the
//! byte's number into the rows. The kernel drops the lock with the process; a claim whose byte
//! nobody has locked is a dead run's, and its changes are told again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction};

use super::connection::{absolute, home_of, open_error, sql_error};
use super::header::OpenCatalog;
use super::hook_events::{self, EventRow};
use super::{Catalog, writable};
use crate::error::CatalogError;
use crate::image_ref::ImageRef;
use crate::state::{HookEvent, Owner, PendingHookEvent};
use crate::sys;

/// The claims' file in a home.
const CLAIMS: &str = ".msb-sync.hooks";
/// The mode of that file.
const MODE: u32 = 0o600;

/// The changes of a catalog that hooks are still to be told of, as one run takes them.
#[derive(Debug)]
pub(crate) struct HookBook {
    conn: Connection,
    path: PathBuf,
    /// The claims' file; its locks are this book's.
    claims: File,
    /// The claim of this book, once there is one.
    claim: Option<i64>,
    _open: OpenCatalog,
}

/// Changes that one hook is told of now, and that nobody else tells.
#[derive(Debug)]
pub(crate) struct ClaimedEvents {
    rows: BTreeSet<i64>,
    /// The changes, oldest first.
    pub(crate) events: Vec<HookEvent>,
}

impl HookBook {
    /// Opens the book of `home`, in which there is a catalog.
    ///
    /// # Errors
    /// As for [`WritableCatalog::open`](super::WritableCatalog::open); the claims' file is not this
    /// user's.
    pub(crate) fn open(home: &Path) -> Result<Self, CatalogError> {
        let path = absolute(&Catalog::path_in(home))?;
        let claims_path = home_of(&path).join(CLAIMS);
        let claims = sys::open_own_directory(home_of(&path))
            .and_then(|directory| sys::open_or_make_own_file(directory.as_fd(), CLAIMS.as_bytes(), MODE))
            .map_err(|error| open_error(&claims_path, &error))?;
        let (conn, open) = writable::connect_to_write(&path)?;
        Ok(Self { conn, path, claims, claim: None, _open: open })
    }

    /// Claims the changes of `owner`'s images that `hook` is to be told of, and that no living run
    /// tells: those that are done, by their rows or as this run has found the images in `done`.
    ///
    /// # Errors
    /// The database cannot be written, or the claim not be locked; nothing is claimed then.
    pub(crate) fn claim(
        &mut self,
        owner: &Owner,
        hook: &str,
        done: &BTreeSet<ImageRef>,
    ) -> Result<ClaimedEvents, CatalogError> {
        let mut claimed = ClaimedEvents { rows: BTreeSet::new(), events: Vec::new() };
        let wanted = |pending: &PendingHookEvent| {
            pending.hook == hook && (pending.is_done || done.contains(&pending.event.reference))
        };
        let Self { conn, path, claims, claim: own, .. } = self;
        write(conn, path, |tx| {
            let rows = hook_events::of_owner(tx, owner)?;
            let mut highest = 0;
            for EventRow { id, claim, pending } in rows {
                highest = highest.max(claim.unwrap_or(0));
                let Some(pending) = pending.filter(&wanted) else { continue };
                if is_free(claims, claim)? {
                    claimed.rows.insert(id);
                    claimed.events.push(pending.event);
                }
            }
            if claimed.rows.is_empty() {
                return Ok(());
            }
            if own.is_none() {
                *own = Some(lock_a_byte(claims, highest)?);
            }
            hook_events::claim(tx, &claimed.rows, *own)
        })?;
        Ok(claimed)
    }

    /// Ends a claim. The changes go if the hook has been told of them; else another run tells them.
    ///
    /// # Errors
    /// The database cannot be written: the hook will be told again.
    pub(crate) fn end(&mut self, claimed: &ClaimedEvents, is_told: bool) -> Result<(), CatalogError> {
        write(&mut self.conn, &self.path, |tx| {
            if is_told {
                hook_events::drop_rows(tx, &claimed.rows)
            } else {
                hook_events::claim(tx, &claimed.rows, None)
            }
        })
    }

    /// Drops the changes of `owner`'s images that were for hooks which are not among `hooks` any
    /// more, and returns how many there were by the hooks' programs.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub(crate) fn drop_others(
        &mut self,
        owner: &Owner,
        hooks: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, usize>, CatalogError> {
        let mut dropped = BTreeMap::new();
        let Self { conn, path, claims, .. } = self;
        write(conn, path, |tx| {
            let mut rows = BTreeSet::new();
            for EventRow { id, claim, pending } in hook_events::of_owner(tx, owner)? {
                let is_known = pending.as_ref().is_some_and(|pending| hooks.contains(&pending.hook));
                if !is_known && is_free(claims, claim)? {
                    rows.insert(id);
                    let program = pending.map(|pending| pending.program).unwrap_or_default();
                    *dropped.entry(program).or_default() += 1;
                }
            }
            hook_events::drop_rows(tx, &rows)
        })?;
        Ok(dropped)
    }
}

/// True if no living run has the claim. Its byte is ours from then on, so that it stays so.
fn is_free(claims: &File, claim: Option<i64>) -> rusqlite::Result<bool> {
    let Some(claim) = claim else { return Ok(true) };
    // No run has a claim that is no number of a byte.
    u64::try_from(claim).map_or(Ok(true), |byte| lock_byte(claims, byte))
}

/// Locks a byte that stands for no claim in the rows, which end at `highest`.
fn lock_a_byte(claims: &File, highest: i64) -> rusqlite::Result<i64> {
    // A garbled row may say any number.
    let first = if highest < i64::MAX / 2 { highest } else { 0 };
    let mut byte = first.max(0) + 1;
    while !lock_byte(claims, byte.unsigned_abs())? {
        byte += 1;
    }
    Ok(byte)
}

fn lock_byte(claims: &File, byte: u64) -> rusqlite::Result<bool> {
    sys::try_lock_byte(claims, byte).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn write<T>(
    conn: &mut Connection,
    path: &Path,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> Result<T, CatalogError> {
    writable::in_transaction(conn, change)
        .map_err(|error| sql_error("note what hooks were told in", path, &error))
}
