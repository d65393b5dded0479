//! The arguments of commands about recorded images.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only images that fit; `*` stands for anything, as in 'ghcr.io/acme/*' or 'redis*'
    #[arg(value_name = "PATTERN")]
    pub(crate) pattern: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The image
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Print only the layers' directories, as overlayfs's option `lowerdir` wants them (as a list,
    /// base first, with
    /// --json)
    #[arg(long)]
    pub(crate) rootfs: bool,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// Only this image [default: all that msb-sync has recorded]
    #[arg(value_name = "REF")]
    pub(crate) reference: Option<String>,
}

/// Make an earlier digest of an image the present one, and hold it
///
/// Layers that are here are not fetched again. Runs keep the image at that digest, whatever its tag
/// means, until it is released.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The image
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Go back to this digest, or the one that begins so (see `history`) [default: the latest
    /// before the present one]
    #[arg(long, value_name = "DIGEST")]
    pub(crate) to: Option<String>,
    /// Hold the image no more: the next apply follows its tag again
    #[arg(long, conflicts_with = "to")]
    pub(crate) release: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Only the layers of these images [default: of all that msb-sync recorded]
    #[arg(value_name = "REF")]
    pub(crate) references: Vec<String>,
    /// Fetch damaged layers again and replace them
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// The images file; `-` is standard input
    #[arg(default_value = "images.toml", value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Show what would be removed; changes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Remove everything where the file lists no image at all, which is refused otherwise
    #[arg(long)]
    pub(crate) allow_empty: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Forget {
    /// Images, as in alpine:3.20 or ghcr.io/owner/name:tag
    #[arg(required_unless_present = "owner", conflicts_with = "owner", value_name = "REF")]
    pub(crate) references: Vec<String>,
    /// All images that this images file has brought; it may be gone
    #[arg(long, value_name = "FILE")]
    pub(crate) owner: Option<PathBuf>,
    /// Show what would be removed; changes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}
