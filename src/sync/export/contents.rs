//! The contents of a bundle: which blobs, in which order, and where their bytes come from.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use super::kept::{self, Kept, SoundFile};
use crate::bundle::{BundleImage, signature_blobs};
use crate::catalog::Catalog;
use crate::digest::{BlobDigest, Verifier};
use crate::error::{Absent, Defect, Error, RegistryError};
use crate::image_ref::ImageRef;
use crate::lockfile::Lockfile;
use crate::observe::{SignatureQuestion, Signatures};
use crate::progress::{Event, Task};
use crate::registry::{BlobReader, Registries};
use crate::selection::CompiledRule;
use crate::state::{
    Candidate, Desired, DesiredImage, DocumentDescriptor, EngineName, Evidence, LayerDescriptor, LockedImage,
    LockedSelection, Observed, Permission, Resolution, TagSelection, Verdict,
};
use crate::store::Blobs;
use crate::sync::export::Exported;
use crate::sync::session::Session;
use crate::threads;

/// The lockfile in the root of a bundle.
pub(super) const LOCKFILE: &str = "images.lock";

/// An image's evidence, and the signatures that it stands on.
type ReadSignatures = (Arc<Evidence>, Arc<[Candidate]>);

/// The contents of one bundle.
pub(super) struct Contents<'a> {
    session: &'a Session,
    registries: &'a Registries,
    /// The images whose registries must not be asked.
    unasked: BTreeMap<ImageRef, Permission>,
    /// Whoever has judged the signatures, and can find them again.
    verifier: &'a Signatures<'a>,
    /// The signatures that were read last: their blobs follow each other.
    last: RefCell<Option<ReadSignatures>>,
    catalog: Option<&'a Catalog>,
    kept: Blobs,
    images: Vec<BundleImage>,
    locked: Vec<Arc<LockedImage>>,
    selections: Vec<LockedSelection>,
    blobs: Vec<Blob>,
    left_out: Vec<LayerDescriptor>,
    failed: Vec<(ImageRef, Arc<Error>)>,
    downloaded: Cell<u64>,
    /// The image whose blob passed last.
    passing: RefCell<Option<ImageRef>>,
}

/// One blob of a bundle.
pub(super) struct Blob {
    pub(super) digest: BlobDigest,
    pub(super) size: u64,
    /// An image that has the blob.
    image: ImageRef,
    origin: Origin,
}

/// The origin of a blob, where no kept one has its bytes.
enum Origin {
    Document(DocumentDescriptor),
    Layer(LayerDescriptor),
    /// A signature's manifest, config or layer, not asked of a registry.
    Signature(Arc<Evidence>),
}

/// The blobs that were met before.
#[derive(Default)]
struct Seen {
    /// The place of each among the blobs of the bundle.
    blobs: BTreeMap<BlobDigest, usize>,
    left_out: BTreeSet<BlobDigest>,
}

/// Takes a blob with its bytes.
type Take<'t, E> = &'t mut dyn FnMut(&Blob, io::Result<Verified<'_>>) -> Result<(), E>;

/// One image as its reference was resolved.
struct Found {
    locked: LockedImage,
    documents: Arc<[DocumentDescriptor]>,
    layers: Arc<[LayerDescriptor]>,
}

impl<'a> Contents<'a> {
    /// Gathers the contents: each blob once, image by image in the order of the references, top
    /// document first, without the layers of `since`.
    pub(super) fn of(
        session: &'a Session,
        (registries, signatures, catalog): (&'a Registries, &'a Signatures<'a>, Option<&'a Catalog>),
        (desired, only): (&Desired, &[ImageRef]),
        observed: &Observed,
        since: &BTreeSet<BlobDigest>,
    ) -> Self {
        let mut contents = Self {
            session,
            registries,
            unasked: observed.unasked.clone(),
            verifier: signatures,
            last: RefCell::default(),
            catalog,
            kept: Blobs::of(&session.home),
            images: Vec::new(),
            locked: Vec::new(),
            selections: Vec::new(),
            blobs: Vec::new(),
            left_out: Vec::new(),
            failed: Vec::new(),
            downloaded: Cell::new(0),
            passing: RefCell::default(),
        };
        let chosen = observed.selected.iter().map(|selected| &selected.image);
        let mut wanted: Vec<&DesiredImage> = desired.images.iter().chain(chosen).collect();
        // A selection of tags may have chosen more than was named.
        wanted.retain(|image| only.is_empty() || only.contains(&image.reference));
        wanted.sort_by(|a, b| a.reference.cmp(&b.reference));
        let mut seen = Seen::default();
        for image in wanted {
            let found = find(image, observed);
            let added = found.and_then(|found| contents.add(image, found, observed, since, &mut seen));
            if let Err(error) = added {
                contents.failed.push((image.reference.clone(), error));
            }
        }
        let blocked = observed.blocked_selections.iter();
        contents.failed.extend(blocked.map(|one| (one.repository.clone(), Arc::clone(&one.error))));
        let chosen = desired.selections.iter().filter_map(|selection| contents.chosen_by(selection));
        contents.selections = chosen.collect();
        contents
    }

    fn add(
        &mut self,
        image: &DesiredImage,
        found: Found,
        observed: &Observed,
        since: &BTreeSet<BlobDigest>,
        seen: &mut Seen,
    ) -> Result<(), Arc<Error>> {
        let reference = &image.reference;
        for document in &*found.documents {
            let (digest, size) = (document.digest.clone(), document.size);
            let origin = Origin::Document(document.clone());
            self.book(Blob { digest, size, image: reference.clone(), origin }, seen);
        }
        let verdict = observed.verdicts.get(reference);
        let signatures = match verdict.and_then(Verdict::evidence) {
            Some(evidence) => self.add_signatures(reference, evidence, seen).map_err(Arc::new)?,
            None => BTreeSet::new(),
        };
        for layer in &*found.layers {
            if since.contains(&layer.digest) {
                if seen.left_out.insert(layer.digest.clone()) {
                    self.left_out.push(layer.clone());
                }
                continue;
            }
            let (digest, size) = (layer.digest.clone(), layer.size);
            let origin = Origin::Layer(layer.clone());
            self.book(Blob { digest, size, image: reference.clone(), origin }, seen);
        }
        // microsandbox knows an image by all of its names.
        let names = EngineName::Microsandbox.names_of(reference);
        let platform = Some(image.platform.clone());
        let bundled = BundleImage::new(names, platform, &found.documents, &found.layers);
        self.images.push(bundled.signed_by(signatures));
        self.locked.push(Arc::new(found.locked));
        Ok(())
    }

    /// Adds a blob once: for the first of its images whose registry may be asked, if there is one.
    fn book(&mut self, blob: Blob, seen: &mut Seen) {
        let may_ask = |image: &ImageRef| !self.unasked.contains_key(image);
        match seen.blobs.get(&blob.digest).and_then(|&index| self.blobs.get_mut(index)) {
            Some(booked) if !may_ask(&booked.image) && may_ask(&blob.image) => *booked = blob,
            Some(_) => {}
            None => {
                seen.blobs.insert(blob.digest.clone(), self.blobs.len());
                self.blobs.push(blob);
            }
        }
    }

    /// Adds the blobs of the signatures that `evidence` says of `reference`, and returns the
    /// digests of their manifests.
    fn add_signatures(
        &mut self,
        reference: &ImageRef,
        evidence: &Arc<Evidence>,
        seen: &mut Seen,
    ) -> Result<BTreeSet<BlobDigest>, Error> {
        let mut artifacts = BTreeSet::new();
        for signature in &*self.signatures(reference, evidence)? {
            for (digest, bytes) in signature_blobs(signature) {
                artifacts.insert(signature.digest.clone());
                let (size, origin) = (bytes.len() as u64, Origin::Signature(Arc::clone(evidence)));
                self.book(Blob { digest, size, image: reference.clone(), origin }, seen);
            }
        }
        Ok(artifacts)
    }

    /// Reads the signatures that `evidence` says of `reference`, each with its config: from
    /// memory, from the catalog, or once more from the registry, since all of them together may be
    /// too many to be kept.
    fn signatures(&self, reference: &ImageRef, evidence: &Arc<Evidence>) -> Result<Arc<[Candidate]>, Error> {
        if let Some((of, signatures)) = &*self.last.borrow()
            && Arc::ptr_eq(of, evidence)
        {
            return Ok(Arc::clone(signatures));
        }
        let mut signatures = match self.catalog {
            Some(catalog) if evidence.candidates.is_empty() => catalog.signatures(evidence)?,
            _ => evidence.candidates.clone(),
        };
        if signatures.is_empty() {
            let asked = SignatureQuestion {
                reference: reference.clone(),
                digest: evidence.digest.clone(),
                manifest: evidence.manifest.clone(),
            };
            signatures = self.verifier.whole(&asked).map(|proof| proof.candidates).unwrap_or_default();
        }
        if signatures.is_empty() {
            self.session.warn(format!(
                "{reference} goes without its signatures, which cannot be had again: who has a rule for it \
                 will refuse it"
            ));
        }
        for signature in &mut signatures {
            self.registries.complete(reference, signature)?;
        }
        let signatures: Arc<[Candidate]> = signatures.into();
        *self.last.borrow_mut() = Some((Arc::clone(evidence), Arc::clone(&signatures)));
        Ok(signatures)
    }

    /// Says what the bundle has, before anything is written.
    pub(super) fn report(&self) -> Exported {
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
        Exported {
            images: self.locked.iter().map(|image| (image.reference.clone(), image.digest.clone())).collect(),
            failed: self.failed.clone(),
            blobs: self.blobs.len(),
            bytes: sum(&mut self.blobs.iter().map(|blob| blob.size)),
            left_out: self.left_out.iter().map(|layer| layer.digest.clone()).collect(),
            left_out_bytes: sum(&mut self.left_out.iter().map(|layer| layer.size)),
            ..Exported::default()
        }
    }

    /// The images, sorted by reference.
    pub(super) fn images(&self) -> &[BundleImage] {
        &self.images
    }

    /// The text of the lockfile that fixes what is exported.
    pub(super) fn lockfile(&self) -> String {
        let selections = self.selections.iter().cloned();
        Lockfile::new(self.locked.iter().map(Arc::clone), selections).to_string()
    }

    /// Finds the tags that `selection` has chosen; `None` where the bundle lacks one. A selection
    /// chooses of some tags, its choice among them, what it chooses of all.
    fn chosen_by(&self, selection: &TagSelection) -> Option<LockedSelection> {
        let of_selection = |image: &&Arc<LockedImage>| {
            image.platform == selection.platform
                && image.reference.digest().is_none()
                && image.reference.repository_alone() == selection.repository
        };
        let here = || self.locked.iter().filter(of_selection).filter_map(|image| image.reference.tag());
        let tags: Vec<&str> = match &selection.locked {
            Some(locked) => locked.iter().filter_map(|image| image.reference.tag()).collect(),
            None => CompiledRule::new(&selection.rule).ok()?.choose(here()),
        };
        let is_whole = !tags.is_empty() && tags.iter().all(|tag| here().any(|other| other == *tag));
        is_whole.then(|| LockedSelection::of(selection, tags.into_iter().map(str::to_owned).collect()))
    }

    /// The image whose blob passed last: an error of a registry is about that one.
    pub(super) fn passing(&self) -> Option<ImageRef> {
        self.passing.borrow().clone()
    }

    /// Counts the bytes that registries have sent.
    pub(super) fn downloaded_bytes(&self) -> u64 {
        self.downloaded.get()
    }

    /// Hands `take` the blobs that are wanted, in the order of the bundle, with their bytes, which
    /// are verified when they have been read to their end. While those of one blob pass, the next
    /// ones are looked for, by `is_wanted` and among the kept ones. `is_wanted` gets a way to find
    /// out whether nobody wants to know any more.
    pub(super) fn each<E>(
        &self,
        is_wanted: &(dyn Fn(&Blob, &dyn Fn() -> bool) -> bool + Sync),
        take: Take<'_, E>,
    ) -> Result<(), E> {
        let (blobs, kept, cancel) = (&self.blobs, &self.kept, &self.session.cancel);
        let (reporter, task) = (&*self.session.reporter, Task::WriteBundle);
        let bytes = blobs.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        reporter.report(Event::Begun { task, things: blobs.len(), bytes });
        let is_over = AtomicBool::new(false);
        let is_stopped = || is_over.load(Ordering::Relaxed) || cancel.is_cancelled();
        let look = |blob| {
            if is_wanted(blob, &is_stopped) {
                return Some((blob, kept::look(kept, &blob.digest, blob.size, &is_stopped)));
            }
            reporter.report(Event::Advanced { task, things: 1, bytes: blob.size });
            None
        };
        let mut take = |(blob, found): (&Blob, Result<Kept, Error>)| {
            self.passing.replace(Some(blob.image.clone()));
            let bytes = found.and_then(|found| self.open(blob, found)).map_err(io::Error::other);
            let taken = take(blob, bytes);
            reporter.report(Event::Advanced { task, things: 1, bytes: 0 });
            taken
        };
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            let ahead = move || {
                // Nobody takes any more once there is an error.
                let _ = blobs.iter().filter_map(look).try_for_each(|found| sender.send(found));
            };
            let result = match threads::start_in(scope, "compare", ahead) {
                Ok(_) => receiver.into_iter().try_for_each(&mut take),
                Err(_) => blobs.iter().filter_map(look).try_for_each(&mut take),
            };
            is_over.store(true, Ordering::Relaxed);
            result
        })
    }

    /// Opens the bytes of `blob`: those of the kept one, if it is sound, else the registry's.
    fn open<'b>(&'b self, blob: &'b Blob, found: Kept) -> Result<Verified<'b>, Error> {
        let bytes = match found {
            Kept::Sound(file) => Bytes::Kept(file),
            Kept::Absent => self.fetch(blob)?,
            Kept::Damaged(reason) => {
                let Blob { digest, image, .. } = blob;
                let permission = self.unasked.get(image).copied().unwrap_or(Permission::Granted);
                if let Some(refusal) = permission.refusal(Absent::DamagedBlob(digest.clone())) {
                    return Err(refusal);
                }
                self.session.warn(format!(
                    "the kept blob {digest} of {image} is damaged: {reason}; fetching it again (msb-sync verify \
                     --repair mends what is kept)"
                ));
                self.fetch(blob)?
            }
        };
        Ok(Verified {
            verifier: bytes.need_comparison().then(|| Verifier::new(&blob.digest, blob.size)),
            bytes,
            digest: &blob.digest,
            image: &blob.image,
            registries: self.registries,
            session: self.session,
            downloaded: &self.downloaded,
        })
    }

    fn fetch(&self, blob: &Blob) -> Result<Bytes, Error> {
        Ok(match &blob.origin {
            Origin::Document(document) => {
                Bytes::Document(Cursor::new(self.registries.document(&blob.image, document)?.into_bytes()))
            }
            Origin::Layer(layer) => Bytes::Layer(Box::new(self.registries.blob(&blob.image, layer, 0)?)),
            Origin::Signature(evidence) => {
                let signatures = self.signatures(&blob.image, evidence)?;
                let mut blobs = signatures.iter().flat_map(signature_blobs);
                // One that is gone meanwhile is empty, and found out to be too short.
                let found = blobs.find(|(digest, _)| *digest == blob.digest);
                Bytes::Document(Cursor::new(found.map(|(_, bytes)| bytes.to_vec()).unwrap_or_default()))
            }
        })
    }
}

/// Finds out what the reference of `image` means, with its documents. Nothing that a rule refuses
/// goes into a bundle.
fn find(image: &DesiredImage, observed: &Observed) -> Result<Found, Arc<Error>> {
    if let Some(refusal) = observed.verdicts.get(&image.reference).and_then(Verdict::error) {
        return Err(Arc::clone(refusal));
    }
    match observed.resolutions.get(&image.reference) {
        Some(Resolution::Resolved(resolved)) => Ok(Found {
            locked: LockedImage::of(resolved),
            documents: Arc::clone(&resolved.documents),
            layers: Arc::clone(&resolved.layers),
        }),
        Some(Resolution::AsRecorded) => {
            let row = observed.recorded.get(&image.reference).filter(|row| !row.documents.is_empty());
            let locked = row.and_then(|row| {
                Some(LockedImage {
                    reference: image.reference.clone(),
                    platform: image.platform.clone(),
                    digest: row.digest.clone()?,
                    manifest: row.manifest_digest.clone()?,
                    layers: Arc::clone(&row.layers),
                    signed_by: None,
                })
            });
            match (row, locked) {
                (Some(row), Some(locked)) => Ok(Found {
                    locked,
                    documents: Arc::clone(&row.documents),
                    layers: Arc::clone(&row.layers),
                }),
                _ => Err(Arc::new(Defect::NotLookedUp.into())),
            }
        }
        Some(Resolution::Blocked(error)) => Err(Arc::clone(error)),
        Some(Resolution::Locked(_)) => Err(Arc::new(Defect::LockNotLookedUp.into())),
        None => Err(Arc::new(Defect::NotLookedUp.into())),
    }
}

enum Bytes {
    Kept(SoundFile),
    Document(Cursor<Vec<u8>>),
    Layer(Box<BlobReader>),
}

impl Bytes {
    /// True if nobody has compared the bytes with their digest.
    fn need_comparison(&self) -> bool {
        !matches!(self, Self::Kept(_))
    }
}

/// The bytes of one blob, compared with its digest before, or at their end.
pub(super) struct Verified<'a> {
    bytes: Bytes,
    /// `None` where they were compared before, and once the end was reached.
    verifier: Option<Verifier>,
    digest: &'a BlobDigest,
    image: &'a ImageRef,
    registries: &'a Registries,
    session: &'a Session,
    downloaded: &'a Cell<u64>,
}

impl Verified<'_> {
    /// Makes the error of a blob that is not what its digest says.
    fn wrong(&self, source: crate::digest::ContentMismatch) -> io::Error {
        let (what, host) = (format!("the blob {}", self.digest), self.registries.source_of(self.image));
        io::Error::other(Error::from(RegistryError::Mismatch { what, host, source: source.into() }))
    }
}

impl Read for Verified<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // No bytes asked for are not the end, where the verifier has its last word.
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.session.cancel.is_cancelled() {
            return Err(io::Error::other(Error::Stopped));
        }
        let count = match &mut self.bytes {
            Bytes::Kept(file) => file.read(buffer)?,
            Bytes::Document(bytes) => bytes.read(buffer)?,
            Bytes::Layer(bytes) => {
                let count = bytes.read(buffer).map_err(|error| match BlobReader::cause(error) {
                    Ok(error) => io::Error::other(Error::from(error)),
                    Err(error) => error,
                })?;
                self.downloaded.set(self.downloaded.get() + count as u64);
                count
            }
        };
        let result = match &mut self.verifier {
            Some(verifier) if count > 0 => verifier.update(&buffer[..count]),
            _ => self.verifier.take().map_or(Ok(()), Verifier::finish),
        };
        let (task, bytes) = (Task::WriteBundle, count as u64);
        self.session.reporter.report(Event::Advanced { task, things: 0, bytes });
        result.map(|()| count).map_err(|error| self.wrong(error))
    }
}
