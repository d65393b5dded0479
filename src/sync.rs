//! The pipeline, one function a verb: load what is desired, observe what is, plan, execute.
//!
//! Everything that touches the machine beyond registries, catalog and store is here: reading the images
//! file and its lockfile, choosing paths, taking locks. `plan` and a run with nothing to do take no lock and
//! write nothing.

mod inputs;
mod inspect;
mod lock;
mod machine;
mod neighbours;
mod prune;
mod rebind;
mod reconcile;
mod replace;
mod stacking;
mod verify;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::diagnostic::{Problem, Problems};
use crate::digest::BlobDigest;
use crate::error::{CatalogError, Error, InputError, StoreError};
use crate::execute::Outcome;
use crate::image_ref::{self, DEFAULT_REGISTRY, ImageRef};
use crate::images_file::{self, ImagesFile, Source};
use crate::plan::Plan;
use crate::progress::{Event, Reporter, Silent};
use crate::registry::{Environment, Options, Registries, Rests};
use crate::state::{Action, Desired, DesiredImage, Owner, Platform, PullPolicy, RecordedImage, Settings};
use crate::store::{self, Left, Lock, Places, Store};
use inputs::ImagesText;
pub use inputs::Inputs;
use inspect::layer_totals;
pub use inspect::{InspectedImage, ListedImage};
use lock::LockfilePlace;
pub use lock::{LockRequest, Relocked, Unlocked, Upgrade};
pub use prune::{KeptLayer, PruneRequest, Pruned, RemovedLayer};
use reconcile::Means;
pub use stacking::{Restacked, Stacking};
pub use verify::{LayerStatus, Verified, VerifiedLayer};

/// Threads that write files, at most: more would only wait for each other.
const MAX_JOBS: usize = 64;
/// Partial downloads that no run has touched for so long, and that are not wanted now, are removed.
const STALE_DOWNLOAD: Duration = Duration::from_secs(7 * 24 * 3600);

/// What all verbs need: where things lie, who listens, how to stop.
#[derive(Clone)]
pub struct Session {
    /// Holds the catalog, the downloads and (by default) the layers. Absolute.
    pub home: PathBuf,
    /// The user's home directory, for `~` in an images file.
    pub user_home: Option<PathBuf>,
    /// The process environment at the start.
    pub environment: Environment,
    /// The registry of references given without one; `OCI_REGISTRY_DOMAIN`.
    pub default_registry: String,
    /// Threads that write files; `None`: as many as there are cores.
    pub jobs: Option<usize>,
    /// Whether the images file may be a stranger's: then it may name no local files, endpoints or credentials, and stored
    /// logins are left alone.
    pub untrusted: bool,
    /// The verb, for those who wait for our lock.
    pub verb: String,
    /// Who listens.
    pub reporter: Arc<dyn Reporter>,
    /// Ends the run early.
    pub cancel: Cancel,
    /// Who asked to be left alone for a time that no run waits.
    pub rests: Rests,
}

/// Where the images file comes from.
#[derive(Clone, Debug)]
pub enum ImagesSource {
    /// A file.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

/// What `plan` and `apply` are asked for.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Request {
    /// The images file.
    pub source: ImagesSource,
    /// Only the images of these groups; empty: all.
    pub groups: Vec<String>,
    /// Remove what is no longer listed, also if the file does not say so.
    pub prune: bool,
    /// Do that for a file that lists no image at all, too.
    pub allow_empty: bool,
    /// Ask no registry.
    pub offline: bool,
    /// Fail unless the lockfile covers the images file exactly.
    pub locked: bool,
}

/// What `pull` is asked for.
#[derive(Clone, Debug, Default)]
pub struct PullRequest {
    /// These images.
    pub references: Vec<ImageRef>,
    /// And those of these groups of `file`.
    pub groups: Vec<String>,
    /// An images file whose settings and registries count; without one, the machine's alone do.
    pub file: Option<ImagesSource>,
    /// For this platform, whatever the file says.
    pub platform: Option<Platform>,
}

/// Why a verb could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The images file, or the command line, is wrong. Nothing was touched.
    #[error("{0}")]
    Problems(Problems),
    /// The lockfile is broken, or of a newer version. Nothing was touched.
    #[error("{0}")]
    Lockfile(Box<Problem>),
    /// Anything else that stops the whole run.
    #[error(transparent)]
    Error(#[from] Error),
    /// As [`Failure::Error`], but the user's input is at fault: nothing was touched.
    #[error(transparent)]
    Input(Error),
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        Self::Error(error.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Error(error.into())
    }
}

fn input(error: InputError) -> Failure {
    Failure::Input(error.into())
}

/// An images file, read and understood.
struct Loaded {
    file: ImagesFile,
    owner: Owner,
    /// As shown: the path as it was given.
    name: String,
    lockfile: Option<LockfilePlace>,
    /// The path as it was given, if it is a file's.
    given: Option<PathBuf>,
    /// Of the file's text.
    digest: BlobDigest,
}

/// What `apply` did.
#[derive(Debug)]
pub struct Applied {
    /// What was to be done.
    pub plan: Plan,
    /// What became of it.
    pub outcome: Outcome,
    /// HTTP requests sent.
    pub requests: u64,
    /// The directory of layers.
    pub layers: PathBuf,
}

impl Session {
    /// Shows what [`Session::apply`] would do, and the platform of images that name none.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn plan(&self, request: &Request) -> Result<(Plan, Platform), Failure> {
        let loaded = self.load(&request.source)?;
        let desired = self.desired(&loaded, request)?;
        let registries = self.registries_of(&loaded);
        let means = Means {
            registries: &registries,
            settings: &loaded.file.settings,
            offline: request.offline,
            loaded: Some(&loaded),
        };
        let plan = self.show_plan(&desired, &means)?;
        Ok((plan, loaded.file.settings.platform))
    }

    /// Makes the machine match the images file.
    ///
    /// # Errors
    /// See [`Failure`]; images that fail are in the outcome.
    pub fn apply(&self, request: &Request) -> Result<Applied, Failure> {
        let loaded = self.load(&request.source)?;
        self.apply_loaded(&loaded, request)
    }

    /// As [`Session::apply`], but only if the images file still has the digest `expected`; `None` if it does not, and
    /// nothing was done.
    ///
    /// # Errors
    /// See [`Failure`]; images that fail are in the outcome.
    pub fn apply_unchanged(
        &self,
        request: &Request,
        expected: &BlobDigest,
    ) -> Result<Option<Applied>, Failure> {
        let text = ImagesText::read(&request.source)?;
        if text.digest() != *expected {
            return Ok(None);
        }
        self.apply_loaded(&self.understand(text)?, request).map(Some)
    }

    fn apply_loaded(&self, loaded: &Loaded, request: &Request) -> Result<Applied, Failure> {
        let desired = self.desired(loaded, request)?;
        let registries = self.registries_of(loaded);
        let means = Means {
            registries: &registries,
            settings: &loaded.file.settings,
            offline: request.offline,
            loaded: Some(loaded),
        };
        self.reconcile(&desired, &means)
    }

    /// Fetches images without an images file owning them.
    ///
    /// # Errors
    /// See [`Failure`]; images that fail are in the outcome.
    pub fn pull(&self, request: &PullRequest) -> Result<Applied, Failure> {
        let PullRequest { references, groups, file, platform } = request;
        let loaded = file.as_ref().map(|file| self.load(file)).transpose()?;
        let (registries, settings) = if let Some(loaded) = &loaded {
            (loaded.file.registries.clone(), loaded.file.settings.clone())
        } else {
            self.warn(&self.machine()?.warnings);
            self.without_file()?
        };
        let layers = settings.layers.clone().unwrap_or_else(|| self.default_layers());
        let mut images: Vec<DesiredImage> = references
            .iter()
            .map(|reference| DesiredImage {
                reference: reference.clone(),
                platform: settings.platform.clone(),
                pull: PullPolicy::Always,
                groups: std::collections::BTreeSet::new(),
                locked: None,
            })
            .collect();
        let mut selections = Vec::new();
        if let Some(loaded) = loaded.filter(|_| !groups.is_empty()) {
            let of_groups = loaded.file.desired(Owner::pull(), layers.clone(), groups).map_err(input)?;
            images.extend(of_groups.images);
            selections = of_groups.selections;
        }
        if let Some(platform) = platform {
            for image in &mut images {
                image.platform.clone_from(platform);
            }
            for selection in &mut selections {
                selection.platform.clone_from(platform);
            }
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        images.dedup_by(|a, b| a.reference == b.reference);
        let desired = Desired {
            owner: Owner::pull(),
            layers_directory: layers,
            images,
            selections,
            listed_elsewhere: std::collections::BTreeSet::new(),
            prune: false,
        };
        let registries = self.open_registries(registries, &settings);
        let means = Means { registries: &registries, settings: &settings, offline: false, loaded: None };
        self.reconcile(&desired, &means)
    }

    /// Writes the commented starter file to `path`.
    ///
    /// # Errors
    /// There is a file already (it is never overwritten), or it cannot be written.
    pub fn init(path: &Path) -> Result<(), Failure> {
        use std::io::Write;
        match fs::OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(mut file) => {
                let written = file.write_all(images_file::STARTER.as_bytes()).and_then(|()| file.sync_all());
                written.map_err(StoreError::io("write", path))?;
                let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                Ok(store::sync_directory(directory.unwrap_or(Path::new(".")))?)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::from(InputError::Exists { path: path.to_owned() }).into())
            }
            Err(error) => Err(StoreError::io("create", path)(error).into()),
        }
    }

    // ------------------------------------------------------------------------------------------- the steps

    fn load(&self, from: &ImagesSource) -> Result<Loaded, Failure> {
        if self.untrusted
            && let ImagesSource::Path(path) = from
        {
            inputs::refuse_symlinks(path)?;
        }
        self.understand(ImagesText::read(from)?)
    }

    fn understand(&self, text: ImagesText) -> Result<Loaded, Failure> {
        let digest = text.digest();
        let ImagesText { text, name, absolute, given } = text;
        let machine = self.machine()?;
        let source = Source {
            name: &name,
            directory: absolute.parent().unwrap_or(Path::new("/")),
            home_directory: self.user_home.as_deref(),
            default_registry: self.default_registry()?,
            default_platform: Platform::of_this_machine(),
            untrusted: self.untrusted,
            machine: Some(&machine),
        };
        let file = images_file::parse(&text, &source).map_err(Failure::Problems)?;
        self.warn(machine.warnings.iter().chain(&file.warnings));
        let lockfile = given.as_ref().and_then(|path| LockfilePlace::beside(path, &absolute));
        Ok(Loaded { file, owner: Owner::images_file(&absolute), name, lockfile, given, digest })
    }

    /// This session, for a file whose warnings have been told.
    fn quiet(&self) -> Self {
        Self { reporter: Arc::new(Silent), ..self.clone() }
    }

    fn warn<'p>(&self, problems: impl IntoIterator<Item = &'p Problem>) {
        for problem in problems {
            let text = problem.to_string();
            self.reporter.report(Event::Warning(text.strip_prefix("warning: ").unwrap_or(&text).to_owned()));
        }
    }

    fn desired(&self, loaded: &Loaded, request: &Request) -> Result<Desired, Failure> {
        let settings = &loaded.file.settings;
        let layers = settings.layers.clone().unwrap_or_else(|| self.default_layers());
        let mut desired =
            loaded.file.desired(loaded.owner.clone(), layers, &request.groups).map_err(input)?;
        desired.prune |= request.prune;
        if desired.prune {
            loaded.refuse_empty(request.allow_empty)?;
        }
        self.lock_desired(loaded, &mut desired, request.locked)?;
        Ok(desired)
    }

    fn registries_of(&self, loaded: &Loaded) -> Registries {
        self.open_registries(loaded.file.registries.clone(), &loaded.file.settings)
    }

    fn open_registries(
        &self,
        registries: Vec<crate::state::RegistrySettings>,
        settings: &Settings,
    ) -> Registries {
        Registries::new(Options {
            registries,
            hosts_dir: settings.hosts_dir.clone(),
            limits: settings.limits,
            max_connections: settings.downloads,
            environment: self.environment.clone(),
            stored_logins: !self.untrusted,
            cancel: self.cancel.part(),
            reporter: Arc::clone(&self.reporter),
            rests: self.rests.clone(),
        })
    }

    /// Locks the home, then the layers, which several homes may share. Always in this order, and directories
    /// in theirs.
    fn lock<'a>(&self, layers: impl IntoIterator<Item = &'a Path>) -> Result<Vec<Lock>, Failure> {
        store::make_directory(&self.home, store::PRIVATE_MODE)?;
        let mut locks = vec![self.acquire(&self.lock_path())?];
        for layers in layers {
            self.lock_layers(layers, &mut locks)?;
        }
        Ok(locks)
    }

    /// Locks one more directory of layers, unless one of `locks` is its lock: whoever has a lock would wait for
    /// himself.
    fn lock_layers(&self, layers: &Path, locks: &mut Vec<Lock>) -> Result<(), Failure> {
        let strange = Places::of(layers).other_things();
        if !strange.is_empty() {
            self.reporter.report(Event::Warning(format!(
                "{} is going to hold layers, and holds other things: {}",
                layers.display(),
                strange.join(", ")
            )));
        }
        let path = Store::lock_path(layers)?;
        if !locks.iter().any(|lock| lock.is_at(&path)) {
            locks.push(self.acquire(&path)?);
        }
        Ok(())
    }

    fn acquire(&self, path: &Path) -> Result<Lock, Failure> {
        let who = format!("msb-sync {}", self.verb);
        let lock = Lock::acquire(path, &who, &self.cancel, &*self.reporter)?;
        lock.ok_or(Failure::Error(Error::Stopped))
    }

    /// Warns of what could not be removed.
    fn tell_left(&self, left: &[Left]) {
        for left in left {
            self.reporter.report(Event::Warning(left.to_string()));
        }
    }

    /// Where the layers of a recorded image are.
    fn layers_of(&self, image: &RecordedImage) -> PathBuf {
        image.layers_directory.clone().unwrap_or_else(|| self.default_layers())
    }

    /// The default registry, checked.
    fn default_registry(&self) -> Result<&str, Failure> {
        if self.default_registry.is_empty() {
            return Ok(DEFAULT_REGISTRY);
        }
        match image_ref::check_registry(&self.default_registry) {
            Ok(()) => Ok(&self.default_registry),
            Err(error) => Err(input(InputError::DefaultRegistry(error))),
        }
    }

    /// Parses a reference from the command line.
    ///
    /// # Errors
    /// It is none.
    pub fn reference(&self, text: &str) -> Result<ImageRef, Failure> {
        ImageRef::parse(text, self.default_registry()?).map_err(|error| input(InputError::Reference(error)))
    }

    /// Parses a reference from the command line; one without tag and digest stays a repository alone.
    ///
    /// # Errors
    /// It is none.
    pub fn reference_or_repository(&self, text: &str) -> Result<ImageRef, Failure> {
        let reference = self.reference(text)?;
        let named = reference.digest().is_some()
            || reference
                .tag()
                .is_some_and(|tag| text.strip_suffix(tag).is_some_and(|before| before.ends_with(':')));
        Ok(if named { reference } else { reference.repository_alone() })
    }

    fn jobs(&self) -> usize {
        let jobs = self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, Into::into));
        jobs.min(MAX_JOBS)
    }

    fn lock_path(&self) -> PathBuf {
        self.home.join(".msb-sync.lock")
    }

    fn downloads_path(&self) -> PathBuf {
        self.home.join("downloads")
    }

    fn catalog_path(&self) -> PathBuf {
        self.home.join("oci.db")
    }

    fn default_layers(&self) -> PathBuf {
        self.home.join("layers")
    }
}

impl Loaded {
    /// Refuses to take a file that lists no image at all for the wish to have none: a template that failed, or an
    /// editor that is about to write, leaves such a file.
    fn refuse_empty(&self, allow_empty: bool) -> Result<(), Failure> {
        if allow_empty || !self.file.lists_nothing() {
            return Ok(());
        }
        Err(input(InputError::NothingListed { images_file: self.name.clone() }))
    }
}

impl Applied {
    /// Whether everything is as the file says now.
    pub fn succeeded(&self) -> bool {
        self.outcome.failed() == 0 && self.outcome.failure.is_none() && !self.outcome.stopped
    }

    /// How many images were in order before.
    pub fn unchanged(&self) -> usize {
        self.outcome.done(Action::Keep)
    }
}
