//! The session: everything that all verbs need.

use std::path::PathBuf;
use std::sync::Arc;

use super::verb_error::VerbError;
use crate::cancel::Cancel;
use crate::error::InputError;
use crate::image_ref::{self, DEFAULT_REGISTRY, ImageRef};
use crate::progress::{Event, Reporter, RequestDetail, Silent};
use crate::registry::{Environment, Rests};
use crate::state::RecordedImage;
use crate::store::{self, Left};

/// Threads that write files, at most: more would only wait for each other.
const MAX_JOBS: usize = 64;

/// Everything that all verbs need: where things lie, the listener, the stop switch.
#[derive(Clone)]
pub struct Session {
    /// The directory of the catalog, the downloads and (by default) the layers. Absolute.
    pub home: PathBuf,
    /// The same as the user named it for this run alone, for commands that messages suggest; `None`
    /// where the next run finds it by itself.
    pub home_given: Option<PathBuf>,
    /// The user's home directory, for `~` in an images file.
    pub user_home: Option<PathBuf>,
    /// The process environment at the start.
    pub environment: Environment,
    /// The registry of references given without one (`OCI_REGISTRY_DOMAIN`). Empty: docker.io.
    pub default_registry: String,
    /// Threads that write files; `None`: as many as there are cores.
    pub jobs: Option<usize>,
    /// True if the images file may be a stranger's: then it may name no local files, endpoints or
    /// credentials, and stored logins are left alone.
    pub untrusted: bool,
    /// The verb, for those who wait for our lock.
    pub verb: String,
    /// The listener.
    pub reporter: Arc<dyn Reporter>,
    /// The extent of what it hears of requests.
    pub requests: RequestDetail,
    /// The switch that ends the run early.
    pub cancel: Cancel,
    /// The registries that asked to be left alone for a time that no run waits.
    pub rests: Rests,
}

impl Session {
    /// Makes a session on `home`, an absolute path, that nobody listens to and nothing stops. It
    /// knows no environment (so no passwords, proxies or stored logins) and no home directory of a
    /// user.
    pub fn new(home: PathBuf) -> Self {
        Self {
            home,
            home_given: None,
            user_home: None,
            environment: Environment::default(),
            default_registry: String::new(),
            jobs: None,
            untrusted: false,
            verb: "library".to_owned(),
            reporter: Arc::new(Silent),
            requests: RequestDetail::default(),
            cancel: Cancel::new(),
            rests: Rests::default(),
        }
    }

    /// Parses a reference as the command line takes it: without a registry it is of the default
    /// one.
    ///
    /// # Errors
    /// The text is no reference.
    pub fn reference(&self, text: &str) -> Result<ImageRef, VerbError> {
        let registry = self.default_registry()?;
        ImageRef::parse(text, registry).map_err(|error| InputError::Reference(error).into())
    }

    /// Parses a reference like [`Session::reference`], but one without tag and digest stays a
    /// repository alone.
    ///
    /// # Errors
    /// The text is no reference.
    pub fn reference_or_repository(&self, text: &str) -> Result<ImageRef, VerbError> {
        let reference = self.reference(text)?;
        let named = reference.digest().is_some()
            || reference
                .tag()
                .is_some_and(|tag| text.strip_suffix(tag).is_some_and(|before| before.ends_with(':')));
        Ok(if named { reference } else { reference.repository_alone() })
    }

    /// Returns the default registry, checked.
    pub(super) fn default_registry(&self) -> Result<&str, VerbError> {
        if self.default_registry.is_empty() {
            return Ok(DEFAULT_REGISTRY);
        }
        match image_ref::check_registry(&self.default_registry) {
            Ok(()) => Ok(&self.default_registry),
            Err(error) => Err(InputError::DefaultRegistry(error).into()),
        }
    }

    /// Returns this session for a file whose warnings have been told.
    pub(super) fn quiet(&self) -> Self {
        Self { reporter: Arc::new(Silent), ..self.clone() }
    }

    /// Warns whoever listens.
    pub(super) fn warn(&self, text: String) {
        self.reporter.report(Event::Warning(text));
    }

    /// Warns of several things, one after the other.
    pub(super) fn warn_of(&self, texts: Vec<String>) {
        for text in texts {
            self.warn(text);
        }
    }

    /// Warns of what the store could not remove.
    pub(super) fn warn_of_left(&self, left: &[Left]) {
        for left in left {
            self.warn(left.to_string());
        }
    }

    /// Returns how many threads write files.
    pub(super) fn jobs(&self) -> usize {
        let jobs = self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, Into::into));
        jobs.min(MAX_JOBS)
    }

    /// Returns where the layers of a recorded image are.
    pub(super) fn layers_of(&self, image: &RecordedImage) -> PathBuf {
        image.layers_directory.clone().unwrap_or_else(|| self.default_layers())
    }

    /// Returns where layers are unless an images file says otherwise.
    pub(super) fn default_layers(&self) -> PathBuf {
        store::default_layers_of(&self.home)
    }
}
