//! `plan`: what `apply` would do.

use super::request::Request;
use super::session::Session;
use super::steps::desire::desire;
use super::steps::hooks::tell_idle;
use super::steps::load::load;
use super::steps::reconcile::show;
use super::steps::registries;
use super::steps::run::Order;
use super::verb_error::VerbError;
use crate::plan::Plan;
use crate::state::Platform;

/// Shows what [`apply`](super::apply) would do, and the platform of images that name none. Nothing
/// is changed, and no lock is taken.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Request, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// let request = Request::of(ImagesSource::Path("examples/quickstart/images.toml".into()));
/// let (plan, _platform) = sync::plan(&session, &request)?;
/// for image in &plan.images {
///     println!("{} {}: {}", image.action.as_str(), image.reference, image.reason);
/// }
/// # assert_eq!(plan.changes(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`VerbError`].
pub fn plan(session: &Session, request: &Request) -> Result<(Plan, Platform), VerbError> {
    let loaded = load(session, &request.source)?;
    let desired = desire(session, &loaded, request)?;
    let registries = registries::of_file(session, &loaded, request.from.as_deref())?;
    let order = Order {
        session,
        desired: &desired,
        registries: &registries,
        settings: &loaded.file.settings,
        hooks: &[],
        offline: request.offline,
        loaded: Some(&loaded),
    };
    let plan = order.begin(show)?;
    tell_idle(session, &loaded);
    Ok((plan, loaded.file.settings.platform))
}
