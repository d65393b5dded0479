//! One engine at work: the archive that it is fed while blobs are arriving, what is tried again,
//! and what it lists in the end.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Receiver;

use super::{EngineLoads, LoadResult, News, blobs_of, layers_of};
use crate::bundle::{ArchiveWriter, BundleImage, Form};
use crate::cancel::Cancel;
use crate::digest::{BlobDigest, Verifier};
use crate::error::{Absent, EngineError, Error};
use crate::plan::{Plan, PlannedImage};
use crate::progress::{Counted, Event, Reporter};
use crate::state::{AskedNames, DocumentRole, EngineListing, LoadedReference, Platform};
use crate::store::Store;
use crate::threads::lock;

/// The engine's word of each name, whether the image is whole.
type Checked = BTreeMap<String, Result<(), EngineError>>;

/// One engine that takes its images.
pub(super) struct Loading<'a> {
    loads: EngineLoads,
    plan: &'a Plan,
    store: &'a Store,
    cancel: &'a Cancel,
    reporter: &'a dyn Reporter,
    /// The images that the archive of the run holds.
    archive: Mutex<Vec<usize>>,
    /// True as long as archives may have links in the places of blobs.
    links: Cell<bool>,
    /// The error after which the engine is told nothing more.
    given_up: RefCell<Option<Arc<Error>>>,
    /// The kept blobs that were read again and are as they should be.
    sound: RefCell<BTreeSet<BlobDigest>>,
}

impl<'a> Loading<'a> {
    pub(super) fn new(
        loads: EngineLoads,
        plan: &'a Plan,
        store: &'a Store,
        cancel: &'a Cancel,
        reporter: &'a dyn Reporter,
    ) -> Self {
        let links = Cell::new(loads.engine.follows_links());
        let (archive, given_up, sound) = (Mutex::default(), RefCell::default(), RefCell::default());
        Self { loads, plan, store, cancel, reporter, archive, links, given_up, sound }
    }

    /// Loads what arrives by `news`, and finds out how the engine lists it.
    pub(super) fn run(&self, news: &Receiver<News>) -> Vec<LoadResult> {
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
            let is_foreign = self.loads.images.keys().any(|position| self.is_foreign(*position));
            let result = engine.load(&mut |out| self.stream(news, out), is_foreign);
            // The engine may have died before all was here.
            let mut arrived = std::mem::take(&mut *lock(&self.archive));
            arrived.extend(news.iter().filter_map(News::image));
            if let Err(error) = result.map_err(|error| self.failure(error)) {
                errors.extend(arrived.iter().map(|position| (*position, Arc::clone(&error))));
            }
            arrived
        };
        if arrived.is_empty() {
            return Vec::new();
        }
        let mut results = self.look(&arrived, &errors);
        self.links.set(false);
        for _ in 0..engine.further_tries() {
            let failed: Vec<usize> =
                results.iter().filter(|result| result.error.is_some()).map(|result| result.image).collect();
            if failed.is_empty() || self.cancel.is_cancelled() || self.given_up.borrow().is_some() {
                break;
            }
            results.retain(|result| result.error.is_none());
            errors.clear();
            let mut tried = Vec::new();
            for position in failed {
                if let Some(damaged) = self.damaged(position) {
                    results.push(damaged);
                } else {
                    self.load_alone(position, &mut errors);
                    tried.push(position);
                }
            }
            results.extend(self.look(&tried, &errors));
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
        let rows = &self.loads.images[&position];
        // One name an archive, where an archive has one image.
        let groups: Vec<Vec<&str>> = if self.loads.engine.takes_one_image() {
            rows.iter().map(|row| vec![row.name.as_str()]).collect()
        } else {
            vec![rows.iter().map(|row| row.name.as_str()).collect()]
        };
        for names in groups {
            if let Some(error) = &*self.given_up.borrow() {
                errors.entry(position).or_insert_with(|| Arc::clone(error));
                return;
            }
            let bundled = self.bundled(position, Some(&names));
            let mut result = self.load_archive(position, &bundled);
            if matches!(result, Err(EngineError::Failed { .. })) && self.links.replace(false) {
                // The engine may not see our files: it may be on another machine.
                result = self.load_archive(position, &bundled);
                self.links.set(result.is_err());
            }
            if let Err(error) = result {
                let error = self.failure(error);
                errors.entry(position).or_insert(error);
            }
        }
    }

    /// Takes note of an error after which it is no use to tell the engine more: each image would
    /// wait as long as this one.
    fn failure(&self, error: EngineError) -> Arc<Error> {
        let is_final = error.is_final();
        let error = Arc::new(Error::from(error));
        if is_final {
            self.given_up.replace(Some(Arc::clone(&error)));
        }
        error
    }

    /// True if the image at `position` is of another platform than this machine's.
    fn is_foreign(&self, position: usize) -> bool {
        let platform = self.plan.images[position].platform.as_ref();
        platform.is_some_and(|platform| *platform != Platform::of_this_machine())
    }

    /// Loads an archive of the image at `position` alone.
    fn load_archive(&self, position: usize, bundled: &BundleImage) -> Result<(), EngineError> {
        let image = &self.plan.images[position];
        let mut archive = |out: &mut dyn Write| {
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
        };
        self.loads.engine.load(&mut archive, self.is_foreign(position))
    }

    /// Finds a kept blob of the image at `position` that is damaged. No engine takes such a one,
    /// and most of them do not say why.
    fn damaged(&self, position: usize) -> Option<LoadResult> {
        let engine = self.loads.engine.settings().name.as_str();
        let is_stopped = || self.cancel.is_cancelled();
        let is_known = |digest: &BlobDigest| self.sound.borrow().contains(digest);
        blobs_of(&self.plan.images[position]).filter(|(digest, _)| !is_known(digest)).find_map(
            |(digest, size)| {
                let mut file = self.store.open_blob(&digest, size).ok()??;
                let found = Verifier::new(&digest, size).read(&mut file, &is_stopped).ok()?;
                let Err(reason) = found else {
                    self.sound.borrow_mut().insert(digest);
                    return None;
                };
                let (text, reason) = (digest.to_string(), reason.to_string());
                let permission = self.plan.unasked.get(&self.plan.images[position].reference);
                let absent = Absent::DamagedBlob(digest.clone());
                let refusal = permission.and_then(|permission| permission.refusal(absent)).map(Box::new);
                let error = Error::from(EngineError::DamagedBlob { engine, digest: text, reason, refusal });
                Some(LoadResult { damaged: Some(digest), ..self.result(position, Some(Arc::new(error))) })
            },
        )
    }

    /// True if `image` has to be loaded as its index.
    fn by_index(&self, image: &PlannedImage) -> bool {
        self.loads.engine.needs_index_without_tag()
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
    /// `errors`. A load that failed is a failure whatever the engine lists.
    fn look(&self, positions: &[usize], errors: &BTreeMap<usize, Arc<Error>>) -> Vec<LoadResult> {
        let failed = errors.iter().filter(|(position, _)| positions.contains(position));
        let mut results: Vec<LoadResult> =
            failed.map(|(position, error)| self.result(*position, Some(Arc::clone(error)))).collect();
        let loaded: Vec<usize> =
            positions.iter().filter(|position| !errors.contains_key(position)).copied().collect();
        if !loaded.is_empty() {
            match self.listing(&loaded) {
                Ok((listing, mut checked)) => results
                    .extend(loaded.iter().map(|position| self.look_at(*position, &listing, &mut checked))),
                Err(error) => {
                    let error = self.failure(error);
                    results.extend(
                        loaded.iter().map(|position| self.result(*position, Some(Arc::clone(&error)))),
                    );
                }
            }
        }
        results
    }

    /// Asks the engine for the names of the images at `positions`, and whether each is whole.
    fn listing(&self, positions: &[usize]) -> Result<(EngineListing, Checked), EngineError> {
        let rows = || positions.iter().flat_map(|position| &self.loads.images[position]);
        let listing = self.loads.engine.list(&AskedNames::of(rows().map(|row| &row.name)))?;
        let names: Vec<&str> =
            rows().map(|row| row.name.as_str()).filter(|name| listing.images.contains_key(*name)).collect();
        let checked = self.loads.engine.check(&names)?;
        let checked = names.into_iter().map(str::to_owned).zip(checked).collect();
        Ok((listing, checked))
    }

    fn result(&self, image: usize, error: Option<Arc<Error>>) -> LoadResult {
        let engine = self.loads.engine.settings().name;
        LoadResult { image, engine, rows: Vec::new(), error, damaged: None }
    }

    fn look_at(&self, position: usize, listing: &EngineListing, checked: &mut Checked) -> LoadResult {
        let image = &self.plan.images[position];
        let mut result = self.result(position, None);
        for row in &self.loads.images[&position] {
            let checked = checked.remove(&row.name).unwrap_or(Ok(()));
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
            match self.loads.engine.files(&row.manifest, &layers_of(image)) {
                Ok(files) => row.files = files,
                Err(error) => {
                    result.error.get_or_insert_with(|| Arc::new(error.into()));
                }
            }
        }
        result
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
                let digests: Vec<String> = found.iter().map(BlobDigest::to_string).collect();
                if digests.is_empty() {
                    "without a digest".to_owned()
                } else {
                    format!("as {}", digests.join(", "))
                }
            },
        ),
        wanted: row.manifest.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::digest::Algorithm;
    use crate::engine::{Engine, Removed};
    use crate::image_ref::ImageRef;
    use crate::locked_home::LockedHome;
    use crate::plan::Reason;
    use crate::progress::Silent;
    use crate::state::{Action, EngineName, EngineSettings, Owner};

    /// An engine that hangs whatever it is told.
    struct Hanging(EngineSettings, AtomicUsize);

    fn hung() -> EngineError {
        EngineError::Hung { engine: "podman", doing: "podman load".to_owned(), seconds: 600 }
    }

    impl Engine for Hanging {
        fn settings(&self) -> &EngineSettings {
            &self.0
        }

        fn takes_one_image(&self) -> bool {
            self.0.name == EngineName::Podman
        }

        fn list(&self, _asked: &AskedNames) -> Result<EngineListing, EngineError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Err(hung())
        }

        fn load(
            &self,
            _archive: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
            _is_foreign: bool,
        ) -> Result<(), EngineError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Err(hung())
        }

        fn remove(&self, _names: &[String]) -> Vec<Removed> {
            Vec::new()
        }
    }

    fn planned(reference: &ImageRef) -> PlannedImage {
        PlannedImage {
            reference: reference.clone(),
            names: vec![reference.clone()],
            platform: None,
            parts: Vec::new(),
            leaves: BTreeSet::new(),
            row_changes: Vec::new(),
            action: Action::Add,
            reason: Reason::InSync,
            chosen_by: None,
            digest: None,
            previous: None,
            created: None,
            recorded_at: None,
            documents: Arc::default(),
            layers: Arc::default(),
            needs_blobs: true,
            download_bytes: 0,
            to_record: None,
            holds: false,
            held: None,
            waiting: None,
            staged: false,
            stages: false,
            verdict: None,
            waits: None,
        }
    }

    #[test]
    fn an_engine_that_hangs_is_told_nothing_more() {
        let temp = tempfile::tempdir().unwrap();
        let cancel = Cancel::new();
        let home = LockedHome::acquire(temp.path(), "test", &cancel, Arc::new(Silent)).unwrap();
        let store = Store::open(&home, &temp.path().join("layers")).unwrap();
        let names: Vec<ImageRef> =
            (0..20).map(|number| ImageRef::parse(&format!("t/a:{number}"), "r.example").unwrap()).collect();
        let plan = Plan { images: names.iter().map(planned).collect(), ..Plan::default() };
        for name in [EngineName::Podman, EngineName::Containerd] {
            let settings = EngineSettings::new(name);
            let row = |reference: &ImageRef| LoadedReference {
                owner: Owner("/images.toml".to_owned()),
                engine: settings.clone(),
                name: reference.to_string(),
                reference: reference.clone(),
                manifest: BlobDigest::of(Algorithm::Sha256, b"manifest"),
                listed: None,
                former: None,
                files: Vec::new(),
                wanted: true,
            };
            let engine = Arc::new(Hanging(settings.clone(), AtomicUsize::new(0)));
            let images = names.iter().map(|name| vec![row(name)]).enumerate().collect();
            let loads = EngineLoads { engine: Arc::<Hanging>::clone(&engine), images };
            let (sender, receiver) = unbounded();
            (0..names.len()).try_for_each(|position| sender.send(News::Image(position))).unwrap();
            drop(sender);
            let results = Loading::new(loads, &plan, &store, &cancel, &Silent).run(&receiver);
            assert_eq!(engine.1.load(Ordering::Relaxed), 1, "{name}");
            assert_eq!(results.len(), names.len());
            for result in results {
                assert!(result.error.unwrap().to_string().contains("did not end"), "{name}");
            }
        }
    }
}
