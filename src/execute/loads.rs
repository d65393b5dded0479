//! Images on their way into engines.
//!
//! An engine that takes many images at once gets one archive a run. The archive is streamed into
//! its program while blobs are still arriving: each blob goes as soon as it is whole, and the index
//! comes last, with those images alone all of whose blobs arrived. An engine that takes one image
//! an archive gets each when the image is whole. Whatever fails that way is tried once more, each
//! image by itself, and by containerd, whose import races its own collector, twice; but not an
//! image with a damaged kept blob, which goes, so that the next run fetches it.
//!
//! No archive is ever on disk on our side: its bytes are those of kept blobs. An engine that
//! follows links gets links to them, and their bytes only if it refuses that.

mod loading;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Sender, unbounded};

use self::loading::Loading;
use crate::cancel::Cancel;
use crate::catalog::WritableCatalog;
use crate::digest::{BlobDigest, DiffId};
use crate::engine::{Engine, Engines, NotedFiles};
use crate::error::Error;
use crate::plan::{Plan, PlannedImage, RowChange};
use crate::progress::{Event, Reporter, Task};
use crate::state::{DocumentRole, EngineName, LoadedReference, Owner};
use crate::store::Store;
use crate::threads;

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
    /// The engine.
    pub(super) engine: EngineName,
    /// The rows of the references that the engine lists now.
    pub(super) rows: Vec<LoadedReference>,
    /// The error, if not all of its references are there.
    pub(super) error: Option<Arc<Error>>,
    /// The kept blob of the image that is damaged, if that is why.
    pub(super) damaged: Option<BlobDigest>,
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
    /// The images by their positions in the plan, each with its rows to be.
    images: BTreeMap<usize, Vec<LoadedReference>>,
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
                    former: None,
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

    /// Takes note of the files that earlier loads have made of these images' layers, before the
    /// next ones begin.
    pub(super) fn noted_files(&self, plan: &Plan, catalog: &WritableCatalog) -> Result<NotedFiles, Error> {
        let paths = self.engines.iter().flat_map(|loads| {
            loads.images.iter().flat_map(|(position, rows)| {
                let layers = layers_of(&plan.images[*position]);
                rows.first().map(|row| loads.engine.paths(&row.manifest, &layers)).unwrap_or_default()
            })
        });
        let mut noted = NotedFiles::of(paths);
        if !noted.is_empty() {
            catalog.each_loaded(&mut |row| noted.add(row))?;
        }
        Ok(noted)
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
            let images = loads.images.clone();
            let run = move || {
                let engine = loads.engine.settings().name.as_str();
                reporter.report(Event::Loading { engine, images: loads.images.len() });
                reporter.report(loads.task(plan));
                let results = Loading::new(loads, plan, store, cancel, reporter).run(&receiver);
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

    /// The rows of the image at `position` in the engines that are to load it: these are noted
    /// before the engines get it.
    pub(super) fn rows(&self, position: usize) -> impl Iterator<Item = &LoadedReference> {
        self.lines.iter().filter_map(move |line| line.images.get(&position)).flatten()
    }

    /// Hands the image at `position` to the engines that are to load it; false if there are none.
    pub(super) fn image(&self, position: usize) -> bool {
        let mut any = false;
        for line in self.lines.iter().filter(|line| line.images.contains_key(&position)) {
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

    /// The event with which the task begins: so many images, and each of their blobs once, as far
    /// as they pass here.
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

impl News {
    fn image(self) -> Option<usize> {
        match self {
            Self::Image(position) => Some(position),
            Self::Blob(..) => None,
        }
    }
}

/// Brings the rows up to date about references that engines have without a load.
pub(super) fn note_rows(catalog: &mut WritableCatalog, plan: &Plan) -> Result<(), Error> {
    let (mut notes, mut lost) = (Vec::new(), Vec::new());
    for change in plan.row_changes() {
        match change {
            RowChange::Note(row) => notes.push(row),
            RowChange::Drop(row) => lost.push(row.clone()),
        }
    }
    catalog.end_loads(&notes).into_iter().collect::<Result<(), _>>()?;
    if !lost.is_empty() {
        catalog.forget_loads(&lost)?;
    }
    if !plan.unwanted.is_empty() {
        catalog.unwant_loads(&plan.unwanted)?;
    }
    Ok(())
}

/// The digest of the manifest of `image`.
fn manifest_of(image: &PlannedImage) -> Option<&BlobDigest> {
    let manifest = image.documents.iter().find(|document| document.role == DocumentRole::Manifest);
    manifest.map(|document| &document.digest)
}

/// Lists the layers of `image`, as engines tell them apart.
fn layers_of(image: &PlannedImage) -> Vec<(BlobDigest, DiffId)> {
    image.layers.iter().map(|layer| (layer.digest.clone(), layer.diff_id.clone())).collect()
}

/// Lists the blobs of `image`, documents first, with their sizes.
pub(super) fn blobs_of(image: &PlannedImage) -> impl Iterator<Item = (BlobDigest, u64)> + '_ {
    let documents = image.documents.iter().map(|document| (document.digest.clone(), document.size));
    documents.chain(image.layers.iter().map(|layer| (layer.digest.clone(), layer.size)))
}
