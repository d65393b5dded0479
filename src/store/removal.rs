//! Removing layers: the one way out of the store, for whoever decides that nobody needs a layer.
//!
//! [`remove`] takes layers out of the directory of a store, [`sweep`] finishes or removes one thing
//! that a dead run has left in staging; both tell what stays, and why. A run that lives removes by
//! itself what it has staged and does not place, and the trees that its layers replace.
//!
//! Nothing is removed or moved across a mount. A layer with one inside stays whole, under its name.
//! A thing that shows only on the way (somebody mounts something meanwhile) stays where it is by
//! then. All that stays is tried again by later runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;

use super::Store;
use super::names::{FILE_MODE, REMOVED, REMOVING, UNNEEDED, layer_name, layer_path, staged_digest};
use super::staging::{
    Left, free_name, remove_named, remove_staged, staged_names, staged_path, sync_staging, unmark_unneeded,
};
use super::usage::layers_in_use;
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::sys;
use crate::threads;

/// Layers removed at once, at most: all change the same few directories, and of each a removal may
/// remember some megabytes of names that it cannot remove.
const MAX_THREADS: usize = 8;

/// The result of removing layers that nobody needs.
#[derive(Debug, Default)]
pub(crate) struct RemovedLayers {
    /// The layers that were there and are not any more.
    pub removed: BTreeSet<BlobDigest>,
    /// The layers that stay, with the reason.
    pub kept: BTreeMap<BlobDigest, String>,
    /// The things that are left of removed layers.
    pub left: Vec<Left>,
}

/// Removes layers in `threads` threads, but for those that a running process uses and those that
/// cannot be removed now. They are renamed away first, so that no half of one is ever visible under
/// its name, wherever the file system can. `on_removed` hears of each that is gone.
///
/// # Errors
/// Names cannot be made durable; what was renamed away by then is swept by the next run.
pub(crate) fn remove(
    store: &Store,
    digests: &[&BlobDigest],
    threads: usize,
    on_removed: &(dyn Fn(&BlobDigest) + Sync),
) -> Result<RemovedLayers, StoreError> {
    let mut result =
        RemovedLayers { kept: layers_in_use(store.layers(), digests), ..RemovedLayers::default() };
    for (digest, reason) in &mut result.kept {
        // A mount there says more than who sees it, and than that nobody can tell.
        if let Err(error) = refuse_mounts(store, digest, "remove") {
            *reason = error.to_string();
        }
    }
    let (away, fixed) = take_all_away(store, digests, threads, &mut result);
    if !away.is_empty() {
        store.sync_layers()?;
        sync_staging(store)?;
        let removed = each(&away, threads, |(digest, _)| remove_inventory(store, digest));
        result.left.extend(removed.into_iter().filter_map(Result::err));
        store.sync_inventories()?;
    }
    let emptied = each(&away, threads, |(digest, name)| {
        let removed = name.as_ref().map(|name| remove_named(store, name));
        if removed.is_some() {
            on_removed(digest);
        }
        removed
    });
    for ((digest, _), removed) in away.into_iter().zip(emptied) {
        if let Some(removed) = removed {
            result.removed.insert(digest.clone());
            result.left.extend(removed.err());
        }
    }
    for digest in fixed {
        match remove_in_place(store, digest) {
            Ok(()) => {
                on_removed(digest);
                result.removed.insert(digest.clone())
            }
            Err(error) => result.kept.insert(digest.clone(), error.to_string()).is_some(),
        };
    }
    // Marks that cannot be listed are taken away by the next run.
    let marks = staged_names(store).unwrap_or_default();
    let is_marked = |digest: &&BlobDigest| marks.contains(format!("{UNNEEDED}{digest}").as_bytes());
    for digest in result.removed.iter().filter(is_marked) {
        unmark_unneeded(store, digest);
    }
    mark_unneeded(store, &mut result)?;
    Ok(result)
}

/// Does `work` with each of `things` in several threads, as many as may be here.
fn each<T: Sync, R: Send>(things: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    threads::each_with_files("remove", threads.min(MAX_THREADS), things, work)
}

/// Marks the layers that stay and have no inventory, by which a later run would find them.
fn mark_unneeded(store: &Store, result: &mut RemovedLayers) -> Result<(), StoreError> {
    let mut marked = false;
    for digest in result.kept.keys() {
        let is_half =
            || sys::metadata(store.staging_directory.as_fd(), format!("{REMOVING}{digest}").as_bytes());
        if has_inventory(store, digest)?
            || !store.has_layer(digest)?
            || is_half().is_ok_and(|found| found.is_some())
        {
            continue;
        }
        let name = format!("{UNNEEDED}{digest}");
        match sys::create_file(store.staging_directory.as_fd(), name.as_bytes(), FILE_MODE) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                result.left.push(Left::new(staged_path(store, name.as_bytes()), &error));
            }
            _ => marked = true,
        }
    }
    if marked { sync_staging(store) } else { Ok(()) }
}

/// A layer that was renamed into staging, with its name there; `None` if there was no such layer.
type TakenAway<'d> = (&'d BlobDigest, Option<Vec<u8>>);

/// Renames the layers into staging that can be; returns them, and those that have to be removed
/// where they are.
fn take_all_away<'d>(
    store: &Store,
    digests: &[&'d BlobDigest],
    threads: usize,
    result: &mut RemovedLayers,
) -> (Vec<TakenAway<'d>>, Vec<&'d BlobDigest>) {
    let unused = digests.iter().filter(|digest| !result.kept.contains_key(**digest));
    let unused: Vec<&BlobDigest> = unused.copied().collect();
    let (mut away, mut fixed) = (Vec::new(), Vec::new());
    let taken = each(&unused, threads, |digest| take_away(store, digest));
    for (digest, taken) in unused.into_iter().zip(taken) {
        match taken {
            Ok(name) => away.push((digest, name)),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                fixed.push(digest);
            }
            Err(error) => {
                result.kept.insert(digest.clone(), error.to_string());
            }
        }
    }
    (away, fixed)
}

/// Renames a layer into staging, and tells its name there; `None` if there is no such layer.
fn take_away(store: &Store, digest: &BlobDigest) -> Result<Option<Vec<u8>>, StoreError> {
    let (layers, staging) = (store.layers_directory.as_fd(), store.staging_directory.as_fd());
    let name = layer_name(digest);
    refuse_mounts(store, digest, "remove")?;
    let renamed = free_name(store, &format!("{REMOVED}{digest}"), |away| {
        sys::with_rights(layers, &name, || sys::rename_new(layers, &name, staging, away))
    });
    match renamed {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(StoreError::Io { source, .. }) => Err(refused(store, digest, "remove", source)),
        other => other.map(|(name, ())| Some(name)),
    }
}

/// Refuses to move a layer in which something is mounted, or on which.
pub(super) fn refuse_mounts(
    store: &Store,
    digest: &BlobDigest,
    doing: &'static str,
) -> Result<(), StoreError> {
    let path = layer_path(store.layers(), digest);
    match sys::find_mount(store.layers_directory.as_fd(), &layer_name(digest)) {
        Ok(None) => Ok(()),
        Ok(Some(mount)) => Err(StoreError::Mounted { doing, path, mount: store.layers().join(mount) }),
        Err(error) => Err(StoreError::io("look for mounts in", path)(error)),
    }
}

/// Finds out why a layer can be neither moved nor replaced.
pub(super) fn refused(
    store: &Store,
    digest: &BlobDigest,
    doing: &'static str,
    error: io::Error,
) -> StoreError {
    let path = layer_path(store.layers(), digest);
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    if denied && sys::is_immutable(store.layers_directory.as_fd(), &layer_name(digest)) {
        StoreError::Immutable { doing, path }
    } else {
        StoreError::io(doing, path)(error)
    }
}

/// Removes a layer where it is, for file systems that cannot rename it: overlayfs, whose lower
/// layers hold it. Its inventory goes first, so that no half of it counts as complete, and says in
/// staging until the end that the rest is to be removed.
pub(super) fn remove_in_place(store: &Store, digest: &BlobDigest) -> Result<(), StoreError> {
    let (inventories, staging) = (store.inventories_directory.as_fd(), store.staging_directory.as_fd());
    let marker = format!("{REMOVING}{digest}");
    let path = layer_path(store.layers(), digest);
    match sys::rename_over(inventories, digest.text().as_bytes(), staging, marker.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match sys::create_file(staging, marker.as_bytes(), FILE_MODE) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        }
        other => other,
    }
    .map_err(StoreError::io("revoke the record of", &path))?;
    sync_staging(store)?;
    store.sync_inventories()?;
    sys::remove_tree(store.layers_directory.as_fd(), &layer_name(digest))
        .map_err(|kept| StoreError::io("remove", path)(kept.under(store.layers()).into()))?;
    store.sync_layers()?;
    // Of an inventory that is gone: nobody looks at it.
    let _ = store.bindings.remove(digest);
    remove_staged(store, marker.as_bytes())
        .map_err(|left| StoreError::io("remove", left.path)(io::Error::other(left.reason)))
}

fn remove_inventory(store: &Store, digest: &BlobDigest) -> Result<(), Left> {
    // Whoever does not find a file there finds out what it is.
    if sys::remove_file(store.inventories_directory.as_fd(), digest.text().as_bytes()).is_ok()
        && store.bindings.forget(digest).is_ok()
    {
        return Ok(());
    }
    sys::remove_tree(store.inventories_directory.as_fd(), digest.text().as_bytes())
        .and_then(|()| store.bindings.remove(digest))
        .map_err(|kept| {
            let path = store.places.inventory(digest);
            Left::new(path.clone(), &kept.under(path.parent().unwrap_or(&path)))
        })
}

/// Removes the thing that lies in staging under `name` and is of no use, and finishes the removal
/// that it may stand for.
///
/// # Errors
/// Names cannot be made durable, or looked at.
pub(super) fn sweep(store: &Store, name: &[u8]) -> Result<Result<(), Left>, StoreError> {
    if let Some(digest) = staged_digest(name, UNNEEDED)
        && !has_inventory(store, &digest)?
        && store.has_layer(&digest)?
    {
        // Who needs the layer by now only the catalogs tell: whoever removes layers asks them.
        return Ok(Ok(()));
    }
    if let Some(digest) = staged_digest(name, REMOVED)
        && !store.has_layer(&digest)?
    {
        // The run died while it removed this layer.
        if let Err(left) = remove_inventory(store, &digest) {
            return Ok(Err(left));
        }
        store.sync_inventories()?;
    }
    if let Some(digest) = staged_digest(name, REMOVING)
        && !has_inventory(store, &digest)?
        && store.has_layer(&digest)?
    {
        // The run died while it removed this layer where it is.
        let kept = match layers_in_use(store.layers(), &[&digest]).remove(&digest) {
            Some(who) => Some(who),
            None => remove_in_place(store, &digest).err().map(|error| error.to_string()),
        };
        let path = layer_path(store.layers(), &digest);
        return Ok(kept.map_or(Ok(()), |reason| Err(Left { digest: Some(digest), path, reason })));
    }
    Ok(remove_staged(store, name))
}

fn has_inventory(store: &Store, digest: &BlobDigest) -> Result<bool, StoreError> {
    let found = sys::metadata(store.inventories_directory.as_fd(), digest.text().as_bytes());
    found
        .map(|found| found.is_some())
        .map_err(|error| StoreError::io("look at", store.places.inventory(digest))(error))
}
