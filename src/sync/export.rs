//! `export`: the images of a file as a bundle, for other engines and for machines without a
//! network.
//!
//! Nothing is extracted, locked or recorded. A blob comes from the kept ones where it is there and
//! sound, else from its registry, and is verified as it passes. Another run may remove kept blobs
//! meanwhile: one that is open stays readable, and one that is gone comes from the registry. With a
//! registry that is away, what is recorded and kept here stands for it.

mod contents;
mod directory;
mod kept;
mod recorded;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::contents::Contents;
use self::directory::Directory;
use super::request::{ImagesSource, Request};
use super::session::Session;
use super::steps::desire::desire;
use super::steps::load::{Loaded, load};
use super::steps::lockfile_place::read_named;
use super::steps::registries;
use super::steps::run::{Order, Run};
use super::verb_error::VerbError;
use crate::bundle::{ArchiveWriter, Form};
use crate::catalog::Catalog;
use crate::diagnostic::nearest;
use crate::digest::BlobDigest;
use crate::engine;
use crate::error::{Error, InputError, StoreError};
use crate::image_ref::ImageRef;
use crate::lockfile::Lockfile;
use crate::state::{Desired, Observed, Platform, Targets};
use crate::store;
use crate::sys;

/// The ends of the names of compressed tars.
const COMPRESSED: [&str; 7] = [".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2"];

/// The request to `export`.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// The images file.
    pub source: ImagesSource,
    /// The groups whose images alone are exported; empty: all images.
    pub groups: Vec<String>,
    /// The images that alone are exported; empty: all. The file has to list them.
    pub images: Vec<ImageRef>,
    /// A lockfile whose layers the receiver has: they are left out.
    pub since: Option<PathBuf>,
    /// The user wants descriptors that lead to the original indexes.
    pub index: bool,
    /// The user wants a `manifest.json` for docker's classic image store, too.
    pub docker: bool,
    /// The platform to export for, whatever the file says.
    pub platform: Option<Platform>,
    /// The user forbids asking any registry.
    pub offline: bool,
}

/// The place where a bundle goes.
pub enum ExportOutput<'a> {
    /// A tar where the path ends in `.tar`, else a directory.
    Path(PathBuf),
    /// A tar into a stream.
    Stream(&'a mut dyn Write),
    /// A tar to standard output, which may be no terminal.
    StandardOutput,
}

/// The report of `export`.
#[derive(Debug, Default)]
pub struct Exported {
    /// The exported images, each with the digest that its reference means, sorted.
    pub images: Vec<(ImageRef, BlobDigest)>,
    /// The images that cannot be had. If there is one, no bundle was completed.
    pub failed: Vec<(ImageRef, Arc<Error>)>,
    /// The number of blobs of the bundle.
    pub blobs: usize,
    /// The bytes of these.
    pub bytes: u64,
    /// The bytes that came from registries.
    pub downloaded_bytes: u64,
    /// The layers that were left out, and that the receiver must have.
    pub left_out: Vec<BlobDigest>,
    /// The bytes of these.
    pub left_out_bytes: u64,
    /// HTTP requests sent.
    pub requests: u64,
}

/// Writes the images of a file as a bundle. The same lockfile gives the same bytes.
///
/// ```
/// use msb_sync::sync::{self, ExportOutput, ExportRequest, ImagesSource, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// let request = ExportRequest::of(ImagesSource::Path("examples/quickstart/images.toml".into()));
/// let mut bundle = Vec::new();
/// let exported = sync::export(&session, &request, ExportOutput::Stream(&mut bundle))?;
/// assert_eq!(exported.images.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`VerbError`]; images that cannot be had are in the result.
pub fn export(
    session: &Session,
    request: &ExportRequest,
    output: ExportOutput<'_>,
) -> Result<Exported, VerbError> {
    // A place that will not do is told before any registry is asked.
    match &output {
        ExportOutput::Path(path) => check_name(path)?,
        ExportOutput::StandardOutput => drop(standard_output()?),
        ExportOutput::Stream(_) => {}
    }
    let loaded = load(session, &request.source)?;
    if let ExportOutput::Path(path) = &output {
        refuse_own_place(session, path, loaded.file.settings.layers.as_deref())?;
    }
    let since = request.since.as_deref().map(layers_of_lockfile).transpose()?.unwrap_or_default();
    let desired = wanted(session, &loaded, request)?;
    let registries = registries::of_file(session, &loaded, None)?;
    let order = Order {
        session,
        desired: &desired,
        registries: &registries,
        settings: &loaded.file.settings,
        hooks: &[],
        offline: request.offline,
        loaded: Some(&loaded),
    };
    let mut exported = order.begin(|run| export_by(run, (request, &loaded), output, &since))?;
    exported.requests = registries.requests();
    Ok(exported)
}

/// Looks for what `run` wants, here and in its registries, and writes the bundle, unless an image
/// cannot be had.
fn export_by(
    run: Run<'_>,
    (request, loaded): (&ExportRequest, &Loaded),
    output: ExportOutput<'_>,
    since: &BTreeSet<BlobDigest>,
) -> Result<Exported, VerbError> {
    let Run { session, desired, registries, signatures, .. } = run;
    let catalog = Catalog::open_read_only(&session.home)?;
    let mut observed = run.observer(catalog.as_ref()).observe(desired)?;
    recorded::stand_in(run, catalog.as_ref(), &mut observed)?;
    check_chosen(desired, &observed, request, loaded)?;
    let form = Form { index: request.index, docker: request.docker };
    let contents = Contents::of(
        session,
        (registries, signatures, catalog.as_ref()),
        (desired, &request.images),
        &observed,
        since,
    );
    let mut exported = contents.report();
    if !exported.failed.is_empty() {
        return Ok(exported);
    }
    match (write(&contents, form, output), contents.passing()) {
        (
            Err(VerbError::Error(error @ (Error::Registry(_) | Error::Offline(_) | Error::NeverPulled(_)))),
            Some(image),
        ) => {
            exported.failed.push((image, Arc::new(error)));
        }
        (written, _) => written?,
    }
    exported.downloaded_bytes = contents.downloaded_bytes();
    Ok(exported)
}

impl ExportRequest {
    /// Asks for all images of `source` in the default form.
    pub fn of(source: ImagesSource) -> Self {
        Self {
            source,
            groups: Vec::new(),
            images: Vec::new(),
            since: None,
            index: false,
            docker: false,
            platform: None,
            offline: false,
        }
    }
}

/// Refuses a URL, and a path that looks as if a compressed tar was meant: a directory would come of
/// either.
fn check_name(path: &Path) -> Result<(), VerbError> {
    registries::refuse_url("--output", path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_compressed = COMPRESSED.iter().any(|end| name.ends_with(end)) && !path.is_dir();
    if is_compressed { Err(InputError::CompressedBundle { path: path.to_owned() }.into()) } else { Ok(()) }
}

/// Refuses a place where msb-sync has things of its own, or is to have them, by whatever name: the
/// index of a bundle would take the place of that of the kept blobs.
fn refuse_own_place(session: &Session, path: &Path, layers: Option<&Path>) -> Result<(), VerbError> {
    let home = &session.home;
    let mut own = vec![home.clone(), session.default_layers()];
    own.extend(layers.map(Path::to_owned));
    // Hidden names of the home, and those of the catalog and its journals, are our files'.
    let name = path.file_name().unwrap_or_default();
    let catalog = Catalog::path_in(home).into_os_string().into_encoded_bytes();
    let named = home.join(name);
    if name.as_bytes().starts_with(b".") || named.as_os_str().as_bytes().starts_with(&catalog) {
        own.push(named);
    }
    if let Some(catalog) = Catalog::open_read_only(home)? {
        own.extend(catalog.layers_directories()?);
    }
    let is = |own: &PathBuf, path: &Path| sys::is_one_directory(own, path) == Some(true);
    // Nobody else has anything in these, however deep.
    let whole = [engine::temporary_in(home), store::blobs_of(home), store::downloads_of(home)];
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut above = absolute.ancestors();
    if own.iter().any(|own| is(own, path)) || above.any(|above| whole.iter().any(|own| is(own, above))) {
        return Err(InputError::OwnPlace { path: path.to_owned() }.into());
    }
    Ok(())
}

/// Takes from the images file what `request` wants; documents are needed of all.
fn wanted(session: &Session, loaded: &Loaded, request: &ExportRequest) -> Result<Desired, VerbError> {
    let of_file = Request { groups: request.groups.clone(), ..Request::of(request.source.clone()) };
    let mut desired = desire(session, loaded, &of_file)?;
    desired.prune = false;
    desired.targets = Targets { extracts: false, keeps_blobs: true, keeps_earlier: 0, engines: Vec::new() };
    if !request.images.is_empty() {
        let listed = |reference: &ImageRef| {
            desired.images.iter().any(|image| image.reference == *reference)
                || desired.selections.iter().any(|one| one.repository == reference.repository_alone())
        };
        if let Some(unlisted) = request.images.iter().find(|reference| !listed(reference)) {
            if desired.listed_elsewhere.contains(unlisted) {
                return Err(InputError::NotInGroups { option: "--image", reference: unlisted.clone() }.into());
            }
            let nearest = loaded.file.nearest(unlisted).map(ToString::to_string);
            return Err(not_listed(unlisted, nearest, loaded));
        }
        desired.images.retain(|image| request.images.contains(&image.reference));
        let wanted = |repository: &ImageRef| {
            request.images.iter().any(|reference| reference.repository_alone() == *repository)
        };
        desired.selections.retain(|selection| wanted(&selection.repository));
    }
    if let Some(platform) = &request.platform {
        // The lockfile's word holds: a locked index is that of all platforms.
        desired.images.iter_mut().for_each(|image| image.platform.clone_from(platform));
        desired.selections.iter_mut().for_each(|selection| selection.platform.clone_from(platform));
    }
    Ok(desired)
}

/// Finds the first image that was named and that a selection of tags did not choose.
fn check_chosen(
    desired: &Desired,
    observed: &Observed,
    request: &ExportRequest,
    loaded: &Loaded,
) -> Result<(), VerbError> {
    let chosen = || observed.selected.iter().map(|selected| &selected.image.reference);
    let is_there = |reference: &ImageRef| {
        desired.images.iter().any(|image| image.reference == *reference)
            || chosen().any(|image| image == reference)
            // Nobody knows; the repository has failed.
            || observed.blocked_selections.iter().any(|one| one.repository == reference.repository_alone())
    };
    let Some(missing) = request.images.iter().find(|reference| !is_there(reference)) else { return Ok(()) };
    let chosen: Vec<String> = chosen().map(ToString::to_string).collect();
    let nearest = nearest(&missing.to_string(), chosen.iter().map(String::as_str)).map(str::to_owned);
    Err(not_listed(missing, nearest, loaded))
}

fn not_listed(reference: &ImageRef, nearest: Option<String>, loaded: &Loaded) -> VerbError {
    let (option, reference, images_file) = ("--image", reference.clone(), loaded.name.clone());
    InputError::NotListed { option, reference, nearest, images_file }.into()
}

/// Reads the digests of all layers that a lockfile names.
fn layers_of_lockfile(path: &Path) -> Result<BTreeSet<BlobDigest>, VerbError> {
    let (name, text) = read_named(path)?;
    let lockfile = Lockfile::parse_named(&text, &name).map_err(VerbError::Lockfile)?;
    Ok(lockfile.layers().cloned().collect())
}

/// Opens standard output without the buffer that looks for line ends, and with room in its pipe: a
/// reader that is slow for a moment stops nobody.
fn standard_output() -> Result<fs::File, VerbError> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(InputError::Terminal.into());
    }
    sys::enlarge_pipe(&stdout);
    let copy = stdout.as_fd().try_clone_to_owned().map(fs::File::from);
    copy.map_err(|error| Error::from(StoreError::named("open", "standard output")(error)).into())
}

fn write(contents: &Contents<'_>, form: Form, output: ExportOutput<'_>) -> Result<(), VerbError> {
    match output {
        ExportOutput::Stream(out) => write_archive(contents, form, out).map_err(to_stream),
        ExportOutput::Path(path) if path.extension().is_some_and(|end| end == "tar") => {
            write_file(contents, form, &path)
        }
        ExportOutput::Path(path) => Directory::open(&path)?.write(contents, form),
        ExportOutput::StandardOutput => {
            write_archive(contents, form, &mut standard_output()?).map_err(to_stream)
        }
    }
}

/// Writes a whole archive to `out`.
fn write_archive(contents: &Contents<'_>, form: Form, out: &mut dyn Write) -> io::Result<()> {
    let mut archive = ArchiveWriter::new(BufWriter::with_capacity(1 << 16, out))?;
    archive.file(contents::LOCKFILE, contents.lockfile().as_bytes())?;
    contents.each(&|_, _| true, &mut |blob, bytes| archive.blob(&blob.digest, blob.size, &mut bytes?))?;
    archive.finish(contents.images(), form).map(drop)
}

/// Writes an archive that has its name `path` when all of it is on disk.
fn write_file(contents: &Contents<'_>, form: Form, path: &Path) -> Result<(), VerbError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().as_bytes();
    let directory = sys::open_directory(parent).map_err(StoreError::named("open", parent))?;
    sys::sweep_replacements(directory.as_fd(), &|one| one == name);
    let mut fill = |file: &mut fs::File| write_archive(contents, form, file);
    sys::replace_file(directory.as_fd(), name, None, &mut fill).map_err(|error| failed(error, path))
}

/// Makes the error of a write: the registry's or the kept blob's, if that is the cause.
fn failed(error: io::Error, path: &Path) -> VerbError {
    match error.downcast::<Error>() {
        Ok(cause) => cause.into(),
        Err(error) => StoreError::named("write", path)(error).into(),
    }
}

fn to_stream(error: io::Error) -> VerbError {
    failed(error, Path::new("standard output"))
}
