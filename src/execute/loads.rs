//! Images on their way into engines.
//!
//! An engine that takes many images at once gets one archive a run. The archive is streamed into
//! its program while blobs are still arriving: each blob goes as soon as it is whole, and the index
//! comes last, with those images alone all of whose blobs arrived. An engine that takes one image
//! an archive gets each when the image is whole. Whatever fails that way is tried once more, each
//! image by itself, and by containerd, whose import races its own collector, twice.
//!
//! No archive is ever on disk on our side: its bytes are those of kept blobs. An engine that
//! follows links gets links to them, and their bytes only if it refuses that.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex};
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::bundle::{ArchiveWriter, BundleImage, Form};
use crate::cancel::Cancel;
use crate::digest::BlobDigest;
use crate::engine::{Engine, Engines};
use crate::error::{EngineError, Error};
use crate::plan::{Plan, PlannedImage};
use crate::progress::{Counted, Event, Reporter, Task};
use crate::state::{DocumentRole, EngineListing, EngineName, LoadedReference, Owner};
use crate::store::Store;
use crate::threads::{self, lock};

/// All loads of a plan.
pub(super) struct Loads {
    engines: Vec<EngineLoads>,
}

/// The loads of one engine.
struct EngineLoads {
    engine: Arc<dyn Engine>,
    /// The images by their positions in the plan, each with its rows to be.
    images: BTreeMap<usize, Vec<LoadedReference>>,
}

/// The result of the load of one image into one engine.
pub(super) struct LoadResult {
    /// The position of the image in the plan.
    pub(super) image: usize,
    /// The rows of the references that the engine lists now.
    pub(super) rows: Vec<LoadedReference>,
    /// The error, if not all of its references are there.
    pub(super) error: Option<Arc<Error>>,
}

/// Something that a loading engine waits for.
enum News {
    /// A blob is whole.
    Blob(BlobDigest, u64),
    /// All blobs of the image at this position are whole, and the image is recorded.
    Image(usize),
}

/// The engines at work, each in a thread of its own, and a way to feed them.
pub(super) struct Feed<'scope> {
    lines: Vec<Line<'scope>>,
}

/// One engine at work.
struct Line<'scope> {
    images: BTreeSet<usize>,
    news: Sender<News>,
    thread: Option<ScopedJoinHandle<'scope, Vec<LoadResult>>>,
}

impl Loads {
    /// Gathers the loads of `plan`, engine by engine.
    pub(super) fn of(plan: &Plan, owner: &Owner, engines: &Engines) -> Self {
        let mut loads: Vec<EngineLoads> = Vec::new();
        for (position, image) in plan.images.iter().enumerate() {
            let Some(manifest) = manifest_of(image) else { continue };
            for state in image.loads() {
                let row = |name: &String| LoadedReference {
                    owner: owner.clone(),
                    engine: state.engine.clone(),
                    name: name.clone(),
                    reference: image.reference.clone(),
                    manifest: manifest.clone(),
                    listed: None,
                    files: Vec::new(),
                    wanted: true,
                };
                let rows = state.names.iter().map(row).collect();
                let known = loads.iter_mut().find(|loads| *loads.engine.settings() == state.engine);
                match known {
                    Some(loads) => drop(loads.images.insert(position, rows)),
                    None => loads.push(EngineLoads {
                        engine: engines.of(&state.engine),
                        images: [(position, rows)].into(),
                    }),
                }
            }
        }
        Self { engines: loads }
    }

    /// The rows that say, before the first load begins, that none of them has ended well.
    pub(super) fn rows(&self) -> Vec<LoadedReference> {
        self.engines.iter().flat_map(|loads| loads.images.values().flatten().cloned()).collect()
    }

    /// Starts the loads, each engine's in a thread of `scope`.
    pub(super) fn start<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        plan: &'scope Plan,
        store: &'scope Store,
        cancel: &'scope Cancel,
        reporter: &'scope dyn Reporter,
    ) -> Feed<'scope> {
        let line = |loads: EngineLoads| {
            let (news, receiver) = unbounded();
            let images = loads.images.keys().copied().collect();
            let run = move || {
                let engine = loads.engine.settings().name.as_str();
                reporter.report(Event::Loading { engine, images: loads.images.len() });
                reporter.report(loads.task(plan));
                let links = Cell::new(loads.engine.follows_links());
                let loading =
                    Loading { loads, plan, store, cancel, reporter, archive: Mutex::default(), links };
                let results = loading.run(&receiver);
                let failed = results.iter().filter(|result| result.error.is_some()).count();
                reporter.report(Event::Loaded { engine, images: results.len() - failed, failed });
                results
            };
            let thread = threads::start_in(scope, "load", run);
            Line { images, news, thread: thread.ok() }
        };
        Feed { lines: self.engines.into_iter().map(line).collect() }
    }
}

impl Feed<'_> {
    /// Tells the engines that a blob is whole.
    pub(super) fn blob(&self, digest: &BlobDigest, size: u64) {
        for line in &self.lines {
            // An engine that has given up hears nothing any more.
            let _ = line.news.send(News::Blob(digest.clone(), size));
        }
    }

    /// Hands the image at `position` to the engines that are to load it; false if there are none.
    pub(super) fn image(&self, position: usize) -> bool {
        let mut any = false;
        for line in self.lines.iter().filter(|line| line.images.contains(&position)) {
            any = true;
            let _ = line.news.send(News::Image(position));
        }
        any
    }

    /// Ends the feed, and returns the results of all loads once they have ended.
    pub(super) fn finish(self) -> Vec<LoadResult> {
        let ended = |line: Line<'_>| {
            drop(line.news);
            // Threads that were refused, and defects, leave their images unfinished.
            line.thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
        };
        self.lines.into_iter().flat_map(ended).collect()
    }
}

impl EngineLoads {
    /// The task of the engine.
    fn load(&self) -> Task {
        Task::Load(self.engine.settings().name.as_str())
    }

    /// The event with which the task begins: so many images, and each of their blobs once, as far as
    /// they pass here.
    fn task(&self, plan: &Plan) -> Event {
        let images = self.images.keys();
        let blobs: BTreeMap<BlobDigest, u64> =
            images.flat_map(|position| blobs_of(&plan.images[*position])).collect();
        let sum = blobs.into_values().fold(0, u64::saturating_add);
        // An engine that follows links reads blobs where they lie: no byte passes here.
        let bytes = if self.engine.follows_links() { 0 } else { sum };
        Event::Begun { task: self.load(), things: self.images.len(), bytes }
    }
}

/// One engine that takes its images.
struct Loading<'a> {
    loads: EngineLoads,
    plan: &'a Plan,
    store: &'a Store,
    cancel: &'a Cancel,
    reporter: &'a dyn Reporter,
    /// The images that the archive of the run holds.
    archive: Mutex<Vec<usize>>,
    /// True as long as archives may have links in the places of blobs.
    links: Cell<bool>,
}

impl Loading<'_> {
    /// Loads what arrives by `news`, and finds out how the engine lists it.
    fn run(&self, news: &Receiver<News>) -> Vec<LoadResult> {
        let engine = &self.loads.engine;
        let mut errors: BTreeMap<usize, Arc<Error>> = BTreeMap::new();
        let arrived = if engine.takes_one_image() {
            let mut arrived = Vec::new();
            for position in news.iter().filter_map(News::image) {
                arrived.push(position);
                self.load_alone(position, &mut errors);
                self.reporter.report(Event::Advanced { task: self.loads.load(), things: 1, bytes: 0 });
            }
            arrived
        } else {
            let result = engine.load(&mut |out| self.stream(news, out));
            // The engine may have died before all was here.
            let mut arrived = std::mem::take(&mut *lock(&self.archive));
            arrived.extend(news.iter().filter_map(News::image));
            if let Err(error) = result.map_err(|error| Arc::new(Error::from(error))) {
                errors.extend(arrived.iter().map(|position| (*position, Arc::clone(&error))));
            }
            arrived
        };
        if arrived.is_empty() {
            return Vec::new();
        }
        let mut results = self.look(&arrived, &errors);
        self.links.set(false);
        let tries = if engine.settings().name == EngineName::Containerd { 2 } else { 1 };
        for _ in 0..tries {
            let failed: Vec<usize> =
                results.iter().filter(|result| result.error.is_some()).map(|result| result.image).collect();
            if failed.is_empty() || self.cancel.is_cancelled() {
                break;
            }
            errors.clear();
            for position in &failed {
                self.load_alone(*position, &mut errors);
            }
            let again = self.look(&failed, &errors);
            results.retain(|result| result.error.is_none());
            results.extend(again);
        }
        if self.cancel.is_cancelled() {
            results.retain(|result| result.error.is_none());
        }
        results
    }

    /// Writes the archive of the run to `out`: the blobs that are kept, those that become whole,
    /// and in the end the index of the images that are whole.
    fn stream(&self, news: &Receiver<News>, out: &mut dyn Write) -> io::Result<()> {
        let wanted: BTreeMap<BlobDigest, u64> =
            self.loads.images.keys().flat_map(|position| blobs_of(&self.plan.images[*position])).collect();
        let mut archive = ArchiveWriter::new(out)?;
        let write = |archive: &mut ArchiveWriter<_>, digest: &BlobDigest, size: u64| match self
            .store
            .open_blob(digest, size)
            .map_err(io::Error::other)?
        {
            Some(file) => archive.blob(digest, size, &mut self.counted(file)).map(|()| true),
            None => Ok(false),
        };
        let mut missing = BTreeSet::new();
        for (digest, size) in &wanted {
            if !write(&mut archive, digest, *size)? {
                missing.insert(digest.clone());
            }
        }
        for news in news {
            match news {
                News::Blob(digest, size) => {
                    if missing.contains(&digest) && write(&mut archive, &digest, size)? {
                        missing.remove(&digest);
                    }
                }
                News::Image(position) => lock(&self.archive).push(position),
            }
        }
        // An image that is recorded has all its blobs; they may have become whole unheard of.
        let whole = lock(&self.archive).clone();
        for (digest, size) in whole.iter().flat_map(|position| blobs_of(&self.plan.images[*position])) {
            if missing.remove(&digest) {
                write(&mut archive, &digest, size)?;
            }
        }
        let images: Vec<BundleImage> = whole.iter().map(|position| self.bundled(*position, None)).collect();
        if images.is_empty() {
            return Err(io::Error::other("no image arrived"));
        }
        archive.finish(&images, self.form(false)).map(drop)
    }

    /// Reads the file of a kept blob on its way into the engine.
    fn counted(&self, file: File) -> Counted<'_, File> {
        Counted::new(file, self.loads.load(), self.reporter)
    }

    /// Loads the image at `position` by itself.
    fn load_alone(&self, position: usize, errors: &mut BTreeMap<usize, Arc<Error>>) {
        let image = &self.plan.images[position];
        let rows = &self.loads.images[&position];
        // One name an archive, where an archive has one image.
        let groups: Vec<Vec<&str>> = if self.loads.engine.takes_one_image() {
            rows.iter().map(|row| vec![row.name.as_str()]).collect()
        } else {
            vec![rows.iter().map(|row| row.name.as_str()).collect()]
        };
        for names in groups {
            let bundled = self.bundled(position, Some(&names));
            let mut result = self.load_archive(image, &bundled);
            if matches!(result, Err(EngineError::Failed { .. })) && self.links.replace(false) {
                // The engine may not see our files: it may be on another machine.
                result = self.load_archive(image, &bundled);
                self.links.set(result.is_err());
            }
            if let Err(error) = result {
                errors.entry(position).or_insert_with(|| Arc::new(error.into()));
            }
        }
    }

    /// Loads an archive of `image` alone.
    fn load_archive(&self, image: &PlannedImage, bundled: &BundleImage) -> Result<(), EngineError> {
        self.loads.engine.load(&mut |out| {
            let mut archive = ArchiveWriter::new(out)?;
            for (digest, size) in blobs_of(image) {
                let path = if self.links.get() { self.store.kept_path(&digest, size) } else { None };
                if let Some(path) = path {
                    archive.link(&digest, path.as_os_str().as_bytes())?;
                    continue;
                }
                let file = self.store.open_blob(&digest, size).map_err(io::Error::other)?;
                let file = file.ok_or_else(|| io::Error::other(format!("the kept blob {digest} is gone")))?;
                archive.blob(&digest, size, &mut self.counted(file))?;
            }
            archive.finish(std::slice::from_ref(bundled), self.form(self.by_index(image))).map(drop)
        })
    }

    /// True if `image` has to be loaded as its index: podman knows an image that has no tag by the
    /// digest in its name alone.
    fn by_index(&self, image: &PlannedImage) -> bool {
        self.loads.engine.settings().name == EngineName::Podman
            && image.reference.tag().is_none()
            && image.documents.first().is_some_and(|document| document.role == DocumentRole::Index)
    }

    fn form(&self, index: bool) -> Form {
        Form { index, docker: self.loads.engine.wants_docker_form() }
    }

    fn bundled(&self, position: usize, names: Option<&[&str]>) -> BundleImage {
        let of_rows = || self.loads.images[&position].iter().map(|row| row.name.clone()).collect();
        let names = names.map_or_else(of_rows, |names| names.iter().map(|&name| name.to_owned()).collect());
        let image = &self.plan.images[position];
        BundleImage::new(names, image.platform.clone(), &image.documents, &image.layers)
    }

    /// Reads back how the engine lists the images at `positions`, of which some failed with
    /// `errors`.
    fn look(&self, positions: &[usize], errors: &BTreeMap<usize, Arc<Error>>) -> Vec<LoadResult> {
        let engine = &self.loads.engine;
        let listing = match engine.list() {
            Ok(listing) => listing,
            Err(error) => {
                let error = Arc::new(Error::from(error));
                let failed = |image: &usize| {
                    let error = errors.get(image).unwrap_or(&error);
                    LoadResult { image: *image, rows: Vec::new(), error: Some(Arc::clone(error)) }
                };
                return positions.iter().map(failed).collect();
            }
        };
        positions.iter().map(|position| self.look_at(*position, &listing, errors.get(position))).collect()
    }

    fn look_at(&self, position: usize, listing: &EngineListing, error: Option<&Arc<Error>>) -> LoadResult {
        let image = &self.plan.images[position];
        let mut result = LoadResult { image: position, rows: Vec::new(), error: error.map(Arc::clone) };
        // A load that failed is a failure whatever the engine lists.
        if result.error.is_some() {
            return result;
        }
        let names: Vec<String> = self.loads.images[&position].iter().map(|row| row.name.clone()).collect();
        let checked = self.loads.engine.check(&names);
        for (row, checked) in self.loads.images[&position].iter().zip(checked) {
            match listed(image, row, listing).and_then(|digest| checked.map(|()| digest)) {
                Ok(digest) => {
                    result.rows.push(LoadedReference { listed: Some(digest), ..row.clone() });
                }
                Err(error) => {
                    result.error.get_or_insert_with(|| Arc::new(error.into()));
                }
            }
        }
        if let Some(row) = result.rows.first_mut() {
            let layers: Vec<_> =
                image.layers.iter().map(|layer| (layer.digest.clone(), layer.diff_id.clone())).collect();
            match self.loads.engine.files(&row.manifest, &layers) {
                Ok(files) => row.files = files,
                Err(error) => {
                    result.error.get_or_insert_with(|| Arc::new(error.into()));
                }
            }
        }
        result
    }
}

impl News {
    fn image(self) -> Option<usize> {
        match self {
            Self::Image(position) => Some(position),
            Self::Blob(..) => None,
        }
    }
}

/// Finds the digest by which `listing` has the reference of `row`, if that means `image`.
fn listed(
    image: &PlannedImage,
    row: &LoadedReference,
    listing: &EngineListing,
) -> Result<BlobDigest, EngineError> {
    let config = image.documents.iter().find(|document| document.role == DocumentRole::Config);
    let wanted: Vec<&BlobDigest> = if listing.by_config {
        config.map(|document| &document.digest).into_iter().collect()
    } else {
        image.digest.iter().chain([&row.manifest]).collect()
    };
    let found = listing.images.get(&row.name);
    let right = |found: &BTreeSet<BlobDigest>| wanted.iter().find(|digest| found.contains(**digest)).copied();
    found.and_then(right).cloned().ok_or_else(|| EngineError::NotListed {
        engine: row.engine.name.as_str(),
        name: row.name.clone(),
        found: found.map_or_else(
            || "not at all".to_owned(),
            |found| {
                let digests: Vec<&str> = found.iter().map(BlobDigest::as_str).collect();
                format!("as {}", digests.join(", "))
            },
        ),
        wanted: row.manifest.to_string(),
    })
}

/// The digest of the manifest of `image`.
fn manifest_of(image: &PlannedImage) -> Option<&BlobDigest> {
    let manifest = image.documents.iter().find(|document| document.role == DocumentRole::Manifest);
    manifest.map(|document| &document.digest)
}

/// Lists the blobs of `image`, documents first, with their sizes.
pub(super) fn blobs_of(image: &PlannedImage) -> impl Iterator<Item = (BlobDigest, u64)> + '_ {
    let documents = image.documents.iter().map(|document| (document.digest.clone(), document.size));
    documents.chain(image.layers.iter().map(|layer| (layer.digest.clone(), layer.size)))
}
