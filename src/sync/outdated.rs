//! `outdated`: newer tags than those that the images file lists. Nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::request::ImagesSource;
use super::session::Session;
use super::steps::load::load;
use super::steps::registries;
use super::steps::trust::judge;
use super::verb_error::VerbError;
use crate::error::Error;
use crate::image_ref::ImageRef;
use crate::observe::{Answer, Asker, Question, Signatures};
use crate::selection;

/// An image whose repository has newer tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutdatedImage {
    /// The image as the file lists it.
    pub reference: ImageRef,
    /// The newer tags, newest first; never empty.
    pub newer: Vec<String>,
    /// The newest of these that is written with as many numbers as the listed one, if there is one,
    /// else the newest.
    pub latest: String,
}

/// The report of `outdated`.
#[derive(Debug, Default)]
pub struct Outdated {
    /// The images with newer tags, sorted.
    pub images: Vec<OutdatedImage>,
    /// The number of images whose tag is a version, so that others can be newer, and whose
    /// repository said which there are.
    pub compared: usize,
    /// The number of images whose tag is a version, and whose repository said nothing.
    pub unanswered: usize,
    /// The number of images whose tag, or lack of one, says nothing of what is newer.
    pub unversioned: usize,
    /// The repositories whose tags cannot be had.
    pub failed: Vec<(ImageRef, Arc<Error>)>,
}

/// Finds the newer tags of all images that the file lists by a tag which is a version. Selections
/// of tags move by themselves, and are not looked at.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// let file = ImagesSource::Path("examples/quickstart/images.toml".into());
/// let outdated = sync::outdated(&session, &file)?;
/// assert!(outdated.images.is_empty() && outdated.failed.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`VerbError`]; repositories whose tags cannot be had are in the result.
pub fn outdated(session: &Session, source: &ImagesSource) -> Result<Outdated, VerbError> {
    let loaded = load(session, source)?;
    let mut outdated = Outdated::default();
    let mut listed: BTreeMap<ImageRef, Vec<ImageRef>> = BTreeMap::new();
    for image in &loaded.file.images {
        let reference = &image.reference;
        if reference.tag().is_some_and(selection::is_version) {
            listed.entry(reference.repository_alone()).or_default().push(reference.clone());
        } else {
            outdated.unversioned += 1;
        }
    }
    let registries = registries::of_file(session, &loaded, None)?;
    let judge = judge(&loaded.file.settings.trust)?;
    let signatures = Signatures::new(&judge, &registries, &session.home);
    let parallel = loaded.file.settings.downloads;
    let reporter = &*session.reporter;
    let asker =
        Asker { registries: &registries, signatures: &signatures, remembered: None, parallel, reporter };
    let question = |(repository, images): (&ImageRef, &Vec<ImageRef>)| Question::Newer {
        repository: repository.clone(),
        than: images.iter().filter_map(ImageRef::tag).map(str::to_owned).collect(),
    };
    let answers = asker.ask_all(listed.iter().map(question).collect());
    for ((repository, images), answer) in listed.into_iter().zip(answers) {
        // The asker answers questions in kind.
        let Answer::Newer(answer) = answer else { continue };
        match answer {
            Ok(newer) => {
                outdated.compared += images.len();
                outdated.images.extend(images.into_iter().zip(newer).filter_map(image));
            }
            Err(error) => {
                outdated.unanswered += images.len();
                outdated.failed.push((repository, Arc::new(error.into())));
            }
        }
    }
    if session.cancel.is_cancelled() {
        return Err(Error::Stopped.into());
    }
    outdated.images.sort_by(|one, other| one.reference.cmp(&other.reference));
    Ok(outdated)
}

/// Makes the report of one image, if anything is newer.
fn image((reference, newer): (ImageRef, Vec<String>)) -> Option<OutdatedImage> {
    let latest = selection::most_alike(reference.tag()?, &newer)?.clone();
    Some(OutdatedImage { reference, newer, latest })
}
