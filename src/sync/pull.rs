//! `pull`: images without an images file that owns them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::apply::Applied;
use super::request::ImagesSource;
use super::session::Session;
use super::steps::desire::of_groups;
use super::steps::load::{load, warn_of_problems};
use super::steps::machine::{machine, without_file};
use super::steps::owners_rules::by_rules;
use super::steps::parts::DoneSoFar;
use super::steps::reconcile::reconcile;
use super::steps::registries;
use super::steps::run::Order;
use super::verb_error::VerbError;
use crate::image_ref::ImageRef;
use crate::state::{Desired, DesiredImage, Owner, Platform, PullPolicy, Settings};

/// The request to `pull`.
#[derive(Clone, Debug, Default)]
pub struct PullRequest {
    /// The images that are named.
    pub references: Vec<ImageRef>,
    /// The groups of `file` whose images are wanted too.
    pub groups: Vec<String>,
    /// An images file whose settings and registries count; without one, the machine's alone do.
    pub file: Option<ImagesSource>,
    /// The platform to pull for, whatever the file says.
    pub platform: Option<Platform>,
}

/// Fetches images without an images file owning them.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, PullRequest, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// let request = PullRequest {
///     references: vec![session.reference("quickstart.local/hello:1")?],
///     // The file says how the registry is reached; none of its images is wanted.
///     file: Some(ImagesSource::Path("examples/quickstart/images.toml".into())),
///     ..PullRequest::default()
/// };
/// assert!(sync::pull(&session, &request)?.succeeded());
/// # assert_eq!(sync::list(&session)?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`VerbError`]; images that fail are in the outcome.
pub fn pull(session: &Session, request: &PullRequest) -> Result<Applied, VerbError> {
    let PullRequest { references, groups, file, platform } = request;
    let loaded = file.as_ref().map(|file| load(session, file)).transpose()?;
    let (registries, settings) = if let Some(loaded) = &loaded {
        (loaded.file.registries.clone(), loaded.file.settings.clone())
    } else {
        warn_of_problems(session, &machine(session)?.warnings);
        without_file(session)?
    };
    let layers = settings.layers.clone().unwrap_or_else(|| session.default_layers());
    let named = |reference: &ImageRef| DesiredImage {
        reference: reference.clone(),
        platform: settings.platform.clone(),
        pull: PullPolicy::Always,
        cooldown: Duration::ZERO, // Whoever names an image wants what it means now.
        groups: BTreeSet::new(),
        engines: None,
        locked: None,
        back_to: None,
    };
    let mut desired = Desired {
        owner: Owner::pull(),
        layers_directory: layers.clone(),
        images: references.iter().map(named).collect(),
        selections: Vec::new(),
        taken_now: BTreeSet::new(),
        listed_elsewhere: BTreeSet::new(),
        targets: settings.targets.clone(),
        prune: false,
        stage: None,
    };
    if let Some(loaded) = loaded.as_ref().filter(|_| !groups.is_empty()) {
        let listed = of_groups(loaded, Owner::pull(), layers.clone(), groups)?;
        desired.images.extend(listed.images);
        desired.selections = listed.selections;
    }
    if let Some(platform) = platform {
        desired.images.iter_mut().for_each(|image| image.platform.clone_from(platform));
        desired.selections.iter_mut().for_each(|selection| selection.platform.clone_from(platform));
    }
    desired.images.sort_by(|a, b| a.reference.cmp(&b.reference));
    desired.images.dedup_by(|a, b| a.reference == b.reference);
    // All rules are known before the first image is looked at.
    let parts = by_rules(session, desired, &settings.trust, loaded.as_ref())?;
    let registries = registries::open(session, registries, &settings)?;
    let mut done = DoneSoFar::default();
    let rest = parts.into_iter().enumerate().try_for_each(|(place, (desired, trust))| {
        let settings = Settings { trust, ..settings.clone() };
        let order = Order::without_file(session, &desired, &registries, &settings);
        let (plan, outcome) = order.begin(reconcile).map_err(|error| match error {
            // A file of keys is gone since, and a part is done.
            VerbError::Input(error) if place > 0 => VerbError::Error(error),
            other => other,
        })?;
        done.add(plan, outcome, &*session.reporter);
        Ok(())
    });
    let (plan, outcome) = done.finish(rest, &*session.reporter)?;
    Ok(Applied { plan, outcome, requests: registries.requests(), layers, hooks: Vec::new() })
}
