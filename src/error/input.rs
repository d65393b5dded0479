//! Mistakes of the user's: in what the command line asks for, and with the files that it names.
//! (What is wrong inside an images file or a lockfile has a line and a column, and is a problem of
//! that file's room.)
//!
//! Messages name an images file or a lockfile by its path as it was given.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::{RegistryError, TrustFileError, named, shell_word};
use crate::image_ref::{ImageRef, RefError};
use crate::sys;

/// A file that msb-sync reads because the user wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFile {
    /// The images file.
    Images,
    /// The machine's settings.
    Machine,
    /// The lockfile.
    Lockfile,
    /// Another file that names images.
    Source,
}

impl fmt::Display for InputFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Images => "",
            Self::Machine => "the machine's settings, ",
            Self::Lockfile => "the lockfile ",
            Self::Source => "the source ",
        })
    }
}

/// A command line, or a file that it names, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The system does not let us read a file of the user's.
    #[error("cannot read {file}{}: {source}", named(path))]
    Unreadable {
        /// The kind of file.
        file: InputFile,
        /// The path of the file, as the user knows it.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
        /// The file beside it that was probably meant.
        nearest: Option<PathBuf>,
    },
    /// An images file that has brought images is not there any more.
    #[error("cannot read {}: {source}", named(path))]
    Gone {
        /// The path of the file, as the user knows it.
        path: PathBuf,
        /// The home in which its images are recorded, where the user named it.
        home: Option<PathBuf>,
        /// The system's words.
        source: io::Error,
    },
    /// The system cannot say what a relative path is relative to.
    #[error("cannot tell the absolute path of {}: {source}", named(path))]
    NoAbsolutePath {
        /// The relative path.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// `watch` was given standard input.
    #[error("standard input cannot be watched: it is read once")]
    WatchedStdin,
    /// A symlink leads to a stranger's images file, or to its lockfile.
    #[error("{} is a symlink, which is refused under --untrusted", named(path))]
    Symlink {
        /// The path of the symlink.
        path: PathBuf,
    },
    /// The environment names a default registry that can be none.
    #[error("OCI_REGISTRY_DOMAIN is no registry: {0}")]
    DefaultRegistry(RefError),
    /// The command line has a text that is no image reference.
    #[error("{0}")]
    Reference(RefError),
    /// `--group` names groups that the images file does not define.
    #[error("unknown group{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))]
    UnknownGroups {
        /// The unknown names, quoted.
        names: Vec<String>,
        /// The defined name that the first one was probably meant for.
        nearest: Option<String>,
        /// The names that are defined, or the first of very many.
        defined: Vec<String>,
    },
    /// Pruning by a file without any image would remove everything.
    #[error("{images_file} lists no image: nothing is removed")]
    NothingListed {
        /// The images file.
        images_file: String,
    },
    /// The lockfile would be the images file itself, or that is standard input.
    #[error("{images_file} can have no lockfile")]
    NoLockfile {
        /// The images file.
        images_file: String,
    },
    /// `--locked` wants a lockfile, and there is none.
    #[error("--locked: there is no {lockfile}")]
    LockfileMissing {
        /// The lockfile.
        lockfile: String,
        /// The images file.
        images_file: String,
    },
    /// `--locked` wants a lockfile of exactly what the images file lists.
    #[error("--locked: {lockfile} does not cover {images_file} exactly: {}", gaps.join(", "))]
    LockfileGaps {
        /// The lockfile.
        lockfile: String,
        /// The images file.
        images_file: String,
        /// The differences, in words.
        gaps: Vec<String>,
    },
    /// `add` or `remove` was given standard input.
    #[error("standard input cannot be edited")]
    EditedStdin,
    /// `add` or `remove` leaves the images file as it is.
    #[error("{images_file} is left as it is: {reason}")]
    NotEdited {
        /// The images file.
        images_file: String,
        /// The reason, in words.
        reason: String,
    },
    /// `add` or `remove` finds no place to edit: the file says the same by another form of TOML.
    #[error(
        "{images_file} is left as it is: {reference} stands, or would stand, in a form that is not edited"
    )]
    OddForm {
        /// The images file.
        images_file: String,
        /// The image.
        reference: ImageRef,
    },
    /// `--group` names a group by what can be no group's name.
    #[error("--group: the name {name} {reason}")]
    GroupName {
        /// The name, quoted.
        name: String,
        /// The fault of the name, as a fragment.
        reason: String,
        /// The next step, where there is one.
        instead: Option<String>,
    },
    /// An option names an image that the images file does not list.
    #[error("{option}: {images_file} does not list {reference}")]
    NotListed {
        /// The option.
        option: &'static str,
        /// The images file.
        images_file: String,
        /// The image.
        reference: ImageRef,
        /// The listed image that was probably meant.
        nearest: Option<String>,
    },
    /// An option names an image that is listed, but not in the groups that other options name.
    #[error("{option}: {reference} is in none of the groups that --group names")]
    NotInGroups {
        /// The option.
        option: &'static str,
        /// The image.
        reference: ImageRef,
    },
    /// Neither the command line nor the environment names a home directory.
    #[error("there is no home directory: HOME is not set")]
    NoHome,
    /// The home directory that was named has no absolute path.
    #[error("cannot use {}: {source}", named(path))]
    Home {
        /// The directory as it was named.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// `export` would write into a directory of other things.
    #[error("{} holds other things than an image layout", named(path))]
    NoLayout {
        /// The directory.
        path: PathBuf,
    },
    /// `export` would write into a directory of the home.
    #[error("{} belongs to msb-sync itself, and is no place for a bundle", named(path))]
    OwnPlace {
        /// The directory.
        path: PathBuf,
    },
    /// `export` would make a directory with the name of a compressed tar.
    #[error("{} has the name of a compressed tar, and bundles are not compressed", named(path))]
    CompressedBundle {
        /// The path.
        path: PathBuf,
    },
    /// `export` would write a bundle to a terminal.
    #[error("a bundle is not written to a terminal")]
    Terminal,
    /// `--from` names what is no bundle.
    #[error("--from: {0}")]
    Bundle(Box<RegistryError>),
    /// A bundle is looked for, or to be written, at a URL.
    #[error("{option}: {} is a URL, not a directory or a tar of this machine", named(path))]
    BundleUrl {
        /// The option.
        option: &'static str,
        /// The URL.
        path: PathBuf,
    },
    /// A file of keys or roots cannot be used.
    #[error(transparent)]
    TrustFile(#[from] TrustFileError),
    /// An image that is pulled has to obey several files, and these ask for different things.
    #[error("cannot pull {reference}: {} ask for different signatures", all_named(files))]
    DifferentSignatures {
        /// The image.
        reference: ImageRef,
        /// The images files.
        files: Vec<PathBuf>,
    },
    /// `init` would overwrite a file.
    #[error("{} exists already and is left alone", named(path))]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

impl InputError {
    /// The error of a file that the system does not let us read, and that is no misspelt name.
    pub(crate) fn unreadable(file: InputFile, path: &Path, source: io::Error) -> Self {
        Self::Unreadable { file, path: path.to_owned(), source, nearest: None }
    }

    /// See [`Error::kind`](super::Error::kind).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::Gone { .. } | Self::NoAbsolutePath { .. } => "unreadable",
            Self::WatchedStdin | Self::EditedStdin => "stdin",
            Self::NotEdited { .. } | Self::OddForm { .. } => "not-edited",
            Self::Symlink { .. } => "untrusted",
            Self::DefaultRegistry(_) => "default-registry",
            Self::Reference(_) => "reference",
            Self::UnknownGroups { .. } | Self::GroupName { .. } => "unknown-group",
            Self::NothingListed { .. } => "nothing-listed",
            Self::NoLockfile { .. } => "no-lockfile",
            Self::LockfileMissing { .. } | Self::LockfileGaps { .. } => "not-locked",
            Self::NotListed { .. } | Self::NotInGroups { .. } => "not-listed",
            Self::NoHome | Self::Home { .. } => "no-home",
            Self::NoLayout { .. } | Self::OwnPlace { .. } | Self::CompressedBundle { .. } => "no-layout",
            Self::Terminal => "terminal",
            Self::Bundle(_) | Self::BundleUrl { .. } => "bundle",
            Self::TrustFile(_) | Self::DifferentSignatures { .. } => "trust-file",
            Self::Exists { .. } => "exists",
        }
    }

    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreadable { nearest: Some(near), .. } => {
                return Some(format!("did you mean {}?", near.display()));
            }
            Self::Unreadable { file: InputFile::Images, source, .. } => return images_file_hint(source),
            Self::Unreadable { file: InputFile::Lockfile, source, .. } if is_absent(source) => {
                "a lockfile is written by: msb-sync lock"
            }
            Self::Gone { path, home, .. } => return Some(gone_hint(path, home.as_deref())),
            Self::Unreadable { .. } | Self::NoAbsolutePath { .. } => return None,
            Self::EditedStdin => "name a file: --file images.toml",
            Self::NotEdited { .. } => "edit it by hand",
            Self::OddForm { reference, .. } => return Some(odd_form_hint(reference)),
            Self::GroupName { instead, .. } => return instead.clone(),
            Self::WatchedStdin => "write it to a file, and watch that: msb-sync watch images.toml",
            Self::Symlink { .. } => {
                "errors would show the lines of the file that it leads to; name the images file by its real path"
            }
            Self::DefaultRegistry(_) => "name its host, and its port if it has one, as in registry.corp:5000",
            Self::Reference(error) => match error.instead() {
                Some(instead) => return Some(format!("write {instead}")),
                None => "references look like alpine:3.20 or ghcr.io/owner/name:tag",
            },
            Self::UnknownGroups { nearest, defined, .. } => {
                return Some(groups_hint(nearest.as_deref(), defined));
            }
            Self::NothingListed { .. } => "to remove all that it has brought, say so: --allow-empty",
            Self::NoLockfile { .. } => {
                "the lockfile of images.toml is images.lock beside it: use a file of another name"
            }
            Self::LockfileMissing { images_file, .. } | Self::LockfileGaps { images_file, .. } => {
                return Some(format!("run: msb-sync lock {}", shell_word(Path::new(images_file))));
            }
            Self::NotListed { nearest: Some(near), .. } => return Some(format!("did you mean {near}?")),
            Self::NotListed { .. } => "give the reference in its full form, as `msb-sync plan` shows it",
            Self::NotInGroups { .. } => "leave out --group: the images of --image alone are exported",
            Self::CompressedBundle { .. } => {
                "end it in .tar, or pipe it, as in: msb-sync export --output - | zstd > bundle.tar.zst"
            }
            Self::NoLayout { .. } | Self::OwnPlace { .. } => "name a new directory, or a file ending in .tar",
            Self::Terminal => {
                "write it to a file, or pipe it, as in: msb-sync export --output - | podman load"
            }
            Self::NoHome | Self::Home { .. } => "say where with --home DIR",
            Self::Bundle(_) => "name what `msb-sync export` has written, or another OCI layout",
            Self::BundleUrl { option: "--from", .. } => "download it first",
            Self::BundleUrl { .. } => "write it to a file of this machine, and send that",
            Self::TrustFile(error) => return error.hint(),
            Self::DifferentSignatures { .. } => "let them agree, or go by one of them: msb-sync apply FILE",
            Self::Exists { path } => {
                return Some(format!("show what it would do: msb-sync plan {}", shell_word(path)));
            }
        };
        Some(hint.to_owned())
    }
}

/// The next step for an images file that is gone, and has brought images into the home.
fn gone_hint(path: &Path, home: Option<&Path>) -> String {
    let home = home.map(|home| format!(" --home {}", shell_word(home))).unwrap_or_default();
    format!("images of it are recorded; to forget them: msb-sync{home} forget --owner {}", shell_word(path))
}

/// The next step for a file of a form that is not edited.
fn odd_form_hint(reference: &ImageRef) -> String {
    let registry = reference.registry();
    format!("edit it by hand; edited are arrays as in [registry.\"{registry}\"] images = [\"…\"]")
}

/// The next step for an images file that the system does not let us read.
fn images_file_hint(error: &io::Error) -> Option<String> {
    match sys::refusal(error) {
        Some(sys::Refusal::NotAFile("a fifo" | "a device")) => {
            Some("to read an images file from a pipe, give it as standard input: msb-sync apply -".to_owned())
        }
        _ => is_absent(error).then(|| "write a commented starter file with: msb-sync init".to_owned()),
    }
}

/// True if the system says that there is no such file; a symbolic link to where none is has words
/// of its own.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound && error.get_ref().is_none()
}

/// Names several files.
fn all_named(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|file| named(file)).collect();
    names.join(" and ")
}

/// The name that was probably meant, or all that there are.
fn groups_hint(nearest: Option<&str>, defined: &[String]) -> String {
    match nearest {
        Some(near) => format!("did you mean `{near}`?"),
        None if defined.is_empty() => "the images file defines no groups".to_owned(),
        None => {
            let names: Vec<String> = defined.iter().map(|name| format!("`{name}`")).collect();
            format!("the images file has {}", names.join(", "))
        }
    }
}
