//! The rules of trust of everybody who owns an image: whatever verb changes what the image means,
//! each of its images files may refuse that.

use super::gone::is_gone;
use super::load::{Loaded, load};
use super::reconcile::show;
use super::run::Order;
use crate::registry::Registries;
use crate::state::{Desired, Owner, Settings, Verdict};
use crate::sync::request::ImagesSource;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// Loads the images file of `owner`; `None` where there is none, or none any more.
pub(crate) fn loaded_of(session: &Session, owner: &Owner) -> Result<Option<Loaded>, VerbError> {
    match owner.file() {
        Some(path) if !is_gone(owner) => load(session, &ImagesSource::Path(path)).map(Some),
        _ => Ok(None),
    }
}

/// Tells whether the rules of trust of `settings` refuse an image that `desired` is to bring.
pub(crate) fn refuses(
    session: &Session,
    desired: &Desired,
    registries: &Registries,
    settings: &Settings,
) -> Result<bool, VerbError> {
    if settings.trust.is_empty() {
        return Ok(false);
    }
    let plan = Order::without_file(session, desired, registries, settings).begin(show)?;
    let mut verdicts = plan.images.iter().filter_map(|image| image.verdict.as_ref());
    Ok(verdicts.any(|verdict| Verdict::error(verdict).is_some()))
}
