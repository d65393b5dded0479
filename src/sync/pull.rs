//! `pull`: images without an images file that owns them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::apply::Applied;
use super::request::ImagesSource;
use super::session::Session;
use super::steps::desire::of_groups;
use super::steps::load::{load, warn_of_problems};
use super::steps::machine::{machine, without_file};
use super::steps::owners_rules::{loaded_of, refuses};
use super::steps::reconcile::reconcile;
use super::steps::registries;
use super::steps::run::Order;
use super::verb_error::VerbError;
use crate::catalog::Catalog;
use crate::execute::Outcome;
use crate::image_ref::ImageRef;
use crate::plan::Plan;
use crate::registry::Registries;
use crate::state::{Desired, DesiredImage, Owner, Platform, PullPolicy, Settings, TagSelection, TrustPolicy};

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
    let by = loaded.as_ref().map(|loaded| loaded.owner.clone());
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
    if let Some(loaded) = loaded.filter(|_| !groups.is_empty()) {
        let listed = of_groups(&loaded, Owner::pull(), layers, groups)?;
        desired.images.extend(listed.images);
        desired.selections = listed.selections;
    }
    if let Some(platform) = platform {
        desired.images.iter_mut().for_each(|image| image.platform.clone_from(platform));
        desired.selections.iter_mut().for_each(|selection| selection.platform.clone_from(platform));
    }
    desired.images.sort_by(|a, b| a.reference.cmp(&b.reference));
    desired.images.dedup_by(|a, b| a.reference == b.reference);
    let registries = registries::open(session, registries, &settings)?;
    let (mut plan, mut outcome) = (Plan::default(), Outcome::default());
    for (desired, trust) in by_rules(session, &desired, (&registries, &settings), by.as_ref())? {
        let settings = Settings { trust, ..settings.clone() };
        let order = Order::without_file(session, &desired, &registries, &settings);
        let (next_plan, next_outcome) = order.begin(reconcile)?;
        plan.append(next_plan);
        outcome.append(next_outcome, &*session.reporter);
    }
    let layers = desired.layers_directory;
    Ok(Applied { plan, outcome, requests: registries.requests(), layers, hooks: Vec::new() })
}

/// Parts the images by the rules of trust that each has to obey: those of `settings`, and those of
/// every images file that owns it already. Of several that one's which refuses the image decides.
fn by_rules(
    session: &Session,
    desired: &Desired,
    (registries, settings): (&Registries, &Settings),
    by: Option<&Owner>,
) -> Result<Vec<(Desired, TrustPolicy)>, VerbError> {
    let mut rules: BTreeMap<Owner, TrustPolicy> = BTreeMap::new();
    let mut parts: BTreeMap<Vec<Owner>, (Vec<DesiredImage>, Vec<TagSelection>)> = BTreeMap::new();
    let recorded = Catalog::open_read_only(&session.home)?.map(|catalog| catalog.all()).transpose()?;
    let recorded = recorded.unwrap_or_default();
    let mut owners_of = |is_it: &dyn Fn(&ImageRef) -> bool| {
        let owners = recorded.iter().filter(|row| is_it(&row.reference)).flat_map(|row| &row.owners);
        let mut found = Vec::new();
        for owner in owners.filter(|owner| Some(*owner) != by).collect::<BTreeSet<_>>() {
            if !rules.contains_key(owner) {
                let loaded = loaded_of(session, owner)?;
                let trust = loaded.map(|loaded| loaded.file.settings.trust).unwrap_or_default();
                rules.insert(owner.clone(), trust);
            }
            found.extend(rules.get(owner).filter(|trust| !trust.is_empty()).map(|_| owner.clone()));
        }
        Ok::<_, VerbError>(found)
    };
    for image in &desired.images {
        let owners = owners_of(&|reference| *reference == image.reference)?;
        parts.entry(owners).or_default().0.push(image.clone());
    }
    for selection in &desired.selections {
        let owners = owners_of(&|reference| reference.repository_alone() == selection.repository)?;
        parts.entry(owners).or_default().1.push(selection.clone());
    }
    let (quiet, mut found) = (session.quiet(), Vec::new());
    for (owners, (images, selections)) in parts {
        let desired = Desired { images, selections, ..desired.clone() };
        let own = (!settings.trust.is_empty()).then(|| settings.trust.clone());
        let mut policies = own.into_iter().chain(owners.iter().filter_map(|owner| rules.get(owner).cloned()));
        let mut decides = policies.next().unwrap_or_default();
        // The run judges by one of them; whoever else refuses is asked before.
        for policy in policies {
            if refuses(&quiet, &desired, registries, &Settings { trust: policy.clone(), ..settings.clone() })?
            {
                decides = policy;
            }
        }
        found.push((desired, decides));
    }
    Ok(found)
}
