//! Recorded images of which nobody has proven that they are signed as the images files of their
//! owners ask: a rule is younger than the record, or another key has come.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::load::load;
use super::registries;
use super::trust::judge;
use crate::image_ref::ImageRef;
use crate::observe::{Judged, SignatureQuestion, Signatures};
use crate::state::{Owner, Permission, RecordedImage, Verdict};
use crate::sync::request::ImagesSource;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// A recorded image without the proof that a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnprovenImage {
    /// The image.
    pub reference: ImageRef,
    /// The place of the rule, `images.toml:12`.
    pub rule: String,
}

/// Finds those of `images` that lack the proof of a rule. Images files that cannot be read say
/// nothing; keys that cannot be read are told.
pub(crate) fn unproven<'a>(
    session: &Session,
    images: impl Iterator<Item = &'a RecordedImage>,
) -> Vec<UnprovenImage> {
    let mut by_file: BTreeMap<PathBuf, Vec<&RecordedImage>> = BTreeMap::new();
    for image in images {
        for file in image.owners.iter().filter_map(Owner::file) {
            by_file.entry(file).or_default().push(image);
        }
    }
    let mut found = Vec::new();
    for (file, images) in by_file {
        match unproven_of_file(session, file, &images) {
            Ok(unproven) => found.extend(unproven),
            Err(error) => session.warn(format!("signatures are not looked at: {error}")),
        }
    }
    found.sort_by(|a, b| (&a.reference, &a.rule).cmp(&(&b.reference, &b.rule)));
    found.dedup();
    found
}

fn unproven_of_file(
    session: &Session,
    file: PathBuf,
    images: &[&RecordedImage],
) -> Result<Vec<UnprovenImage>, VerbError> {
    let Ok(loaded) = load(&session.quiet(), &ImagesSource::Path(file)) else { return Ok(Vec::new()) };
    let policy = &loaded.file.settings.trust;
    if policy.is_empty() {
        return Ok(Vec::new());
    }
    let judge = judge(policy)?;
    // None of them is asked.
    let registries = registries::of_file(session, &loaded, None)?;
    let signatures = Signatures::new(&judge, &registries, &session.home);
    let unproven = |image: &&RecordedImage| {
        let asked = SignatureQuestion {
            reference: image.reference.clone(),
            digest: image.digest.clone()?,
            manifest: image.manifest_digest.clone()?,
        };
        match signatures.without_asking(&asked, Permission::Granted) {
            Judged::Verdict(Verdict::Refused { rule, .. }) | Judged::Ask { rule } => {
                Some(UnprovenImage { reference: asked.reference, rule })
            }
            Judged::Verdict(_) | Judged::NothingWanted => None,
        }
    };
    Ok(images.iter().filter_map(unproven).collect())
}
