//! Sees that files change: by the kernel's word where it has one, by looking again and again where
//! it has not.
//!
//! The eyes gather events in one small place until the loop takes them, however many there are. An
//! event is only a reason to look; [`Content`](super::paths::Content) says whether anything
//! changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, DataChange, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::paths::{self, is_layer};
use crate::sync::Inputs;
use crate::sys;
use crate::threads::lock;

/// Pause between two looks at the files of which the kernel does not tell.
const POLL: Duration = Duration::from_secs(5);
/// Entries of one directory of hosts files that are polled.
const MAX_POLLED: usize = 1000;

/// Everything that the eyes have seen since the loop last took it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Inputs, or everything if `all`, to which something may have happened.
    pub(super) touched: BTreeSet<PathBuf>,
    pub(super) all: bool,
    /// A layer, or the catalog, went away.
    pub(super) store: bool,
    /// True if somebody has an input open for writing.
    pub(super) writing: bool,
}

impl Seen {
    pub(super) fn is_empty(&self) -> bool {
        self.touched.is_empty() && !self.all && !self.store
    }
}

/// The names and directories that the eyes look out for.
#[derive(Debug, Default)]
struct Interest {
    /// The inputs that the way over an entry of this name leads to. By name and not by path: a
    /// directory may have two paths.
    names: BTreeMap<OsString, BTreeSet<PathBuf>>,
    /// Directories in which every name counts.
    whole: BTreeMap<PathBuf, PathBuf>,
    /// All that are watched.
    directories: BTreeSet<PathBuf>,
    layers: PathBuf,
    catalog: PathBuf,
}

#[derive(Debug, Default)]
struct Sight {
    interest: Interest,
    seen: Seen,
    /// Entries written to and not closed yet.
    open: BTreeSet<PathBuf>,
    /// Directories that went away: their watches are dead.
    lost: BTreeSet<PathBuf>,
}

/// Watches the inputs of a run.
pub(super) struct Eyes {
    watcher: Option<RecommendedWatcher>,
    sight: Arc<Mutex<Sight>>,
    news: Arc<Notify>,
    /// Poll everything, this often.
    always: Option<Duration>,
    /// The paths of which the kernel does not tell.
    polled: BTreeMap<PathBuf, Polled>,
}

/// A path that is looked at again and again.
struct Polled {
    /// The path's stamp at the last look; `None`: there was nothing.
    stamp: Option<Stamp>,
    /// The input that it leads to; `None`: the store.
    input: Option<PathBuf>,
}

/// The words of `stat` on a path, symlinks not followed; another stamp is a reason to look closer.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Eyes {
    /// Eyes that see nothing yet. With `always`, everything is polled this often, and the kernel is
    /// not asked.
    pub(super) fn new(always: Option<Duration>) -> Self {
        let sight: Arc<Mutex<Sight>> = Arc::default();
        let news = Arc::new(Notify::new());
        let (of_handler, teller) = (Arc::clone(&sight), Arc::clone(&news));
        let watcher = match always {
            Some(_) => None,
            None => notify::recommended_watcher(move |event| {
                if lock(&of_handler).note(event) {
                    teller.notify_one();
                }
            })
            .ok(),
        };
        Self { watcher, sight, news, always, polled: BTreeMap::new() }
    }

    /// Looks out for changes of `inputs` from now on.
    pub(super) fn arm(&mut self, inputs: &Inputs) {
        let mut blind = BTreeSet::new();
        // Something that appears meanwhile may lead elsewhere, for instance a directory that was
        // missing.
        for _ in 0..5 {
            let (interest, ways) = Interest::of(inputs);
            let complete = self.watch(&interest, &mut blind);
            lock(&self.sight).interest = interest;
            if complete && Interest::of(inputs).1 == ways {
                break;
            }
        }
        let mut before = std::mem::take(&mut self.polled);
        for (path, input) in blind_paths(inputs, &blind) {
            // A path that is polled already keeps its stamp: it may have changed since the last
            // look.
            let stamp = before.remove(&path).map_or_else(|| stamp(&path), |polled| polled.stamp);
            self.polled.insert(path, Polled { stamp, input });
        }
    }

    /// Pause between two calls of [`Eyes::poll`], if there is anything that the kernel does not
    /// tell.
    pub(super) fn poll_every(&self) -> Option<Duration> {
        (!self.polled.is_empty()).then(|| self.always.unwrap_or(POLL))
    }

    /// Looks at the paths of which the kernel does not tell.
    pub(super) fn poll(&mut self) {
        for (path, polled) in &mut self.polled {
            let now = stamp(path);
            if now == polled.stamp {
                continue;
            }
            polled.stamp = now;
            let seen = &mut lock(&self.sight).seen;
            match &polled.input {
                Some(input) => {
                    seen.touched.insert(input.clone());
                }
                None => seen.store = true,
            }
            self.news.notify_one();
        }
    }

    /// Waits until something was seen.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes everything that was seen since the last time.
    pub(super) fn take(&self) -> Seen {
        let mut sight = lock(&self.sight);
        let writing = !sight.open.is_empty();
        Seen { writing, ..std::mem::take(&mut sight.seen) }
    }

    /// Takes note that a run reads the files: whoever still has one open has had his time.
    pub(super) fn forget_writers(&self) {
        lock(&self.sight).open.clear();
    }

    /// Watches the directories of `interest`, and no others; those that cannot be are added to
    /// `blind`. `false` where one went away meanwhile.
    fn watch(&mut self, interest: &Interest, blind: &mut BTreeSet<PathBuf>) -> bool {
        let (before, lost) = {
            let mut sight = lock(&self.sight);
            (std::mem::take(&mut sight.interest.directories), std::mem::take(&mut sight.lost))
        };
        let Some(watcher) = &mut self.watcher else {
            blind.extend(interest.directories.iter().cloned());
            return true;
        };
        for directory in before
            .iter()
            .filter(|directory| !interest.directories.contains(*directory) || lost.contains(*directory))
        {
            // It may be gone, and its watch with it.
            let _ = watcher.unwatch(directory);
        }
        let mut complete = true;
        for directory in &interest.directories {
            // Watching it once more costs nothing, and finds it again if it was replaced.
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    if sys::may_change_unseen(directory).unwrap_or(false) {
                        blind.insert(directory.clone());
                    }
                }
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => complete = false,
                Err(_) => {
                    blind.insert(directory.clone());
                }
            }
        }
        complete
    }
}

/// The paths to poll where the kernel does not tell of the directories `blind`, each with the input
/// that it leads to.
fn blind_paths(inputs: &Inputs, blind: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Option<PathBuf>> {
    let mut found = BTreeMap::new();
    for path in files_of(inputs).into_iter().chain([&inputs.catalog, &inputs.layers]) {
        let of_store = *path == inputs.catalog || *path == inputs.layers;
        let input = (!of_store).then(|| path.clone());
        let (steps, _) = paths::steps(path);
        // A directory of layers may be where another file system is mounted.
        let mounted = *path == inputs.layers && blind.contains(&real(path));
        if mounted || steps.iter().any(|(directory, _)| blind.contains(directory)) {
            let steps = steps.into_iter().map(|(directory, name)| directory.join(name));
            found.extend(steps.map(|step| (step, input.clone())));
        }
    }
    for directory in inputs.hosts_dir.iter().flat_map(|path| paths::directories(path)) {
        if blind.contains(&directory) {
            let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten().take(MAX_POLLED);
            found.extend(entries.map(|entry| (entry.path(), inputs.hosts_dir.clone())));
            found.insert(directory, inputs.hosts_dir.clone());
        }
    }
    found
}

/// The files and directories whose content counts.
pub(super) fn files_of(inputs: &Inputs) -> Vec<&PathBuf> {
    let Inputs { images_file, lockfile, named, hosts_dir, .. } = inputs;
    std::iter::once(images_file).chain(lockfile).chain(named).chain(hosts_dir).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        (metadata.mtime(), metadata.mtime_nsec()),
        (metadata.ctime(), metadata.ctime_nsec()),
    ))
}

impl Interest {
    /// The interest in `inputs`, and the ways by which it was found.
    fn of(inputs: &Inputs) -> (Self, Vec<Vec<paths::Step>>) {
        let mut interest =
            Self { layers: real(&inputs.layers), catalog: real(&inputs.catalog), ..Self::default() };
        let mut ways = Vec::new();
        for path in files_of(inputs).into_iter().chain([&inputs.catalog, &inputs.layers]) {
            let (steps, _) = paths::steps(path);
            let of_store = *path == inputs.catalog || *path == inputs.layers;
            for (directory, name) in &steps {
                interest.directories.insert(directory.clone());
                if !of_store {
                    interest.names.entry(name.clone()).or_default().insert(path.clone());
                }
            }
            ways.push(steps);
        }
        for directory in inputs.hosts_dir.iter().flat_map(|path| paths::directories(path)) {
            if let Some(path) = &inputs.hosts_dir {
                interest.whole.insert(directory.clone(), path.clone());
            }
            interest.directories.insert(directory);
        }
        if interest.layers.is_dir() {
            interest.directories.insert(interest.layers.clone());
        }
        (interest, ways)
    }
}

/// The path with its symlinks resolved, as far as there is one.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

impl Sight {
    /// Takes note of an event of notify's; `true` where somebody should look.
    fn note(&mut self, event: notify::Result<notify::Event>) -> bool {
        match event {
            // The queue ran over, or worse: anything may have happened.
            Err(_) => self.seen.all = true,
            Ok(event) if event.need_rescan() => self.seen.all = true,
            Ok(event) => {
                for path in &event.paths {
                    self.note_path(event.kind, path);
                }
            }
        }
        !self.seen.is_empty()
    }

    fn note_path(&mut self, kind: EventKind, path: &Path) {
        let closed = matches!(kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
        // Looking at a file, as every run does, changes nothing.
        if matches!(kind, EventKind::Access(_)) && !closed {
            return;
        }
        let gone = matches!(
            kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::Both))
        );
        if gone && self.interest.directories.contains(path) {
            self.lost.insert(path.to_owned());
            self.seen.all = true;
            self.seen.store = true;
        }
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
        if gone && (directory == self.interest.layers && is_layer(name) || path == self.interest.catalog) {
            self.seen.store = true;
        }
        let inputs = self.interest.names.get(name).into_iter().flatten();
        let touched: Vec<PathBuf> = inputs.chain(self.interest.whole.get(directory)).cloned().collect();
        if touched.is_empty() {
            return;
        }
        if matches!(kind, EventKind::Modify(ModifyKind::Data(DataChange::Any | DataChange::Content))) {
            self.open.insert(path.to_owned());
        } else if closed || gone || matches!(kind, EventKind::Modify(ModifyKind::Name(_))) {
            self.open.remove(path);
        }
        self.seen.touched.extend(touched);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, RemoveKind};

    fn sight() -> Sight {
        let mut sight = Sight::default();
        sight.interest.names.insert("images.toml".into(), [PathBuf::from("/w/images.toml")].into());
        sight.interest.whole.insert("/hosts/r.io".into(), "/hosts".into());
        sight.interest.directories.insert("/w".into());
        sight.interest.layers = "/home/layers".into();
        sight.interest.catalog = "/home/oci.db".into();
        sight
    }

    fn note(sight: &mut Sight, kind: EventKind, path: &str) -> bool {
        sight.note(Ok(notify::Event::new(kind).add_path(path.into())))
    }

    #[test]
    fn only_what_may_matter_is_seen() {
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let removed = EventKind::Remove(RemoveKind::Any);
        for (kind, path, seen) in [
            (data, "/w/images.toml", true),
            (data, "/w/other", false),
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), "/w/images.toml", false),
            (EventKind::Create(CreateKind::File), "/hosts/r.io/any.crt", true),
            (EventKind::Create(CreateKind::Folder), "/home/layers/sha256:a.extracted", false),
            (removed, "/home/layers/sha256:a.extracted", true),
            (removed, "/home/layers/other", false),
            (data, "/home/oci.db", false),
            (removed, "/home/oci.db", true),
            (removed, "/home/oci.db-wal", false),
            (removed, "/w", true),
        ] {
            assert_eq!(note(&mut sight(), kind, path), seen, "{kind:?} {path}");
        }
        assert!(sight().note(Err(notify::Error::generic("overflow"))));
    }

    #[test]
    fn a_file_is_open_from_its_first_change_until_it_is_closed() {
        let mut sight = sight();
        note(&mut sight, EventKind::Modify(ModifyKind::Data(DataChange::Any)), "/w/images.toml");
        assert_eq!(sight.open.len(), 1);
        note(&mut sight, EventKind::Access(AccessKind::Close(AccessMode::Write)), "/w/images.toml");
        assert!(sight.open.is_empty());
    }
}
