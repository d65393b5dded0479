//! One question, where artifacts refer to an image, and whoever hears the candidates that answer
//! it: one at a time, in the order in which a place lists them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use super::artifact::{Artifact, Layer, Listed, MAX_SIZE};
use crate::digest::BlobDigest;
use crate::error::RegistryError;
use crate::registry::documents::{DocumentKind, Documents};
use crate::registry::sites::Held;
use crate::state::{Candidate, MAX_CANDIDATES, SignaturePlace};
use crate::threads::lock;

/// The size beyond which candidates are fetched and heard one at a time, in bytes: signatures have
/// a few KiB, and who reads them may take a hundred times as much.
const LARGE: u64 = 64 << 10;

/// The way in which a listed artifact belongs to the image that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belongs {
    /// The artifact's manifest has to say so.
    Says,
    /// The list is the image's; the manifest must not say otherwise.
    Unsaid,
    /// A bundle carries the artifact along with an image: its manifest decides where it was, and
    /// layers that were not accepted are left out.
    Carried,
}

/// A question under way.
pub(crate) struct Hearing<'a> {
    pub(crate) subject: &'a BlobDigest,
    pub(crate) place: SignaturePlace,
    hear: &'a mut dyn FnMut(Candidate) -> ControlFlow<()>,
    /// The turn of large candidates.
    turn: &'a Mutex<()>,
    /// The artifacts that are dealt with.
    done: BTreeSet<BlobDigest>,
    /// Candidates that a site may still bring.
    left: usize,
    /// True if the site brought the bytes of a candidate.
    has_heard: bool,
    /// The first artifact that could not be had, for a reason of its own.
    trouble: Option<RegistryError>,
}

impl<'a> Hearing<'a> {
    /// Begins to ask for what refers to `subject` at `place`.
    pub(crate) fn new(
        subject: &'a BlobDigest,
        place: SignaturePlace,
        hear: &'a mut dyn FnMut(Candidate) -> ControlFlow<()>,
        turn: &'a Mutex<()>,
    ) -> Self {
        let done = BTreeSet::new();
        Self { subject, place, hear, turn, done, left: MAX_CANDIDATES, has_heard: false, trouble: None }
    }

    /// Begins with another site.
    pub(super) fn begin(&mut self) {
        self.left = MAX_CANDIDATES;
        self.has_heard = false;
        self.trouble = None;
    }

    /// True if the site had a candidate that may be a signature.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// Ends with a site, all of whose artifacts were looked at.
    ///
    /// # Errors
    /// An artifact that could not be had.
    pub(crate) fn end(&mut self) -> Result<(), RegistryError> {
        self.trouble.take().map_or(Ok(()), Err)
    }

    /// Looks at one artifact of a list, whose bytes `documents` has. A break ends the question.
    ///
    /// # Errors
    /// The reason for which no other artifact can be had either. One of this artifact's alone is
    /// kept until the [end](Hearing::end): another may be good.
    pub(crate) fn look(
        &mut self,
        documents: &dyn Documents,
        listed: &Listed,
        belongs: Belongs,
    ) -> Result<ControlFlow<()>, RegistryError> {
        let Listed { digest, size } = listed;
        if self.left == 0 || self.done.contains(digest) {
            return Ok(ControlFlow::Continue(()));
        }
        // Before the manifest is fetched, and not only before its layers: threads add up.
        let mut turn = size.is_none_or(|size| size > LARGE).then(|| lock(self.turn));
        let Some(document) = self.fetch(documents, (DocumentKind::Manifest, belongs), digest, *size)? else {
            return Ok(ControlFlow::Continue(()));
        };
        let artifact = Artifact::read(&document.bytes).ok();
        let fits = |artifact: &Artifact| self.fits(artifact, belongs);
        let Some(artifact) = artifact.filter(fits) else { return Ok(ControlFlow::Continue(())) };
        let manifest: Arc<[u8]> = document.bytes.as_slice().into();
        drop(document);
        let is_large = |layer: &Layer| manifest.len() as u64 + layer.size > LARGE;
        if turn.is_none() && artifact.layers.iter().any(is_large) {
            turn = Some(lock(self.turn));
        }
        let mut complete = true;
        // A bundle carries no layer that nobody accepted.
        let is_told = |layer: &&Layer| layer.size <= MAX_SIZE || belongs != Belongs::Carried;
        for layer in artifact.layers.iter().filter(is_told).take(self.left) {
            self.left -= 1;
            let Some(blob) = self.bytes(documents, layer, belongs)? else {
                complete = false;
                continue;
            };
            let candidate = Candidate {
                subject: self.subject.clone(),
                place: self.place,
                digest: digest.clone(),
                manifest: Arc::clone(&manifest),
                layer: layer.position,
                blob,
                message: None,
                config: None,
            };
            if (self.hear)(candidate).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        drop(turn);
        if complete {
            self.done.insert(digest.clone());
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The bytes of a layer that is a candidate; none of one that is too large for a signature, as
    /// the manifest tells whoever judges it. `None` if they cannot be had.
    fn bytes(
        &mut self,
        documents: &dyn Documents,
        layer: &Layer,
        belongs: Belongs,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        if layer.size > MAX_SIZE {
            return Ok(Some(Vec::new()));
        }
        let kind = (DocumentKind::Signature, belongs);
        let blob = self.fetch(documents, kind, &layer.digest, Some(layer.size))?;
        self.has_heard |= blob.is_some();
        Ok(blob.map(Held::into_bytes))
    }

    /// True if `artifact` answers the question.
    fn fits(&self, artifact: &Artifact, belongs: Belongs) -> bool {
        let said = artifact.subject.as_deref();
        match belongs {
            Belongs::Says => said == Some(&self.subject.text()),
            Belongs::Unsaid => said.is_none_or(|said| self.subject.text() == said),
            Belongs::Carried => {
                said.is_none_or(|said| self.subject.text() == said) && artifact.place() == self.place
            }
        }
    }

    /// Fetches a manifest or a layer of a listed artifact; `None` if it cannot be had, for a reason
    /// of its own.
    fn fetch(
        &mut self,
        documents: &dyn Documents,
        (kind, belongs): (DocumentKind, Belongs),
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<Option<Held>, RegistryError> {
        let error = match documents.document(kind, digest, size) {
            // A layout may not say how large a manifest is before it is read.
            Ok(document) => return Ok((document.bytes.len() as u64 <= MAX_SIZE).then_some(document)),
            // The layers that were not accepted stay behind.
            Err(RegistryError::NotInBundle { .. })
                if belongs == Belongs::Carried && kind == DocumentKind::Signature =>
            {
                return Ok(None);
            }
            // Whoever lists an artifact says that it is there.
            Err(RegistryError::Refused(answer)) if answer.is_absent() => RegistryError::Document {
                what: format!("{} {digest}", kind.as_str()),
                host: answer.host,
                reason: format!("it is listed for {} and is not there (HTTP 404)", self.subject),
            },
            Err(
                error @ (RegistryError::Mismatch { .. }
                | RegistryError::TooLarge { .. }
                | RegistryError::NotInBundle { .. }
                | RegistryError::Layout { .. }),
            ) => error,
            Err(error) => return Err(error),
        };
        self.trouble.get_or_insert(error);
        Ok(None)
    }
}
