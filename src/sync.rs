//! The verbs: one module a verb, one function a module, called with the [`Session`].
//!
//! A verb loads what is desired, observes what is, plans, locks, looks again, and executes; the
//! steps that verbs share are files of their own (`steps`). Everything that touches the machine
//! beyond registries, catalog and store is here: reading the images file and its lockfile, choosing
//! paths, taking locks. `plan` and a run with nothing to do take no lock and write nothing.

mod apply;
mod df;
mod diff;
mod edit;
mod export;
mod forget;
mod history;
mod init;
mod inputs;
mod inspect;
mod list;
mod lock;
mod names;
mod outdated;
mod plan;
mod prune;
mod pull;
mod rollback;
mod trust_root;
mod verify;

mod pruned;
mod repair;
mod request;
mod session;
mod steps;
mod verb_error;

pub use crate::extract::{Restacked, Stacking};
pub use apply::{Applied, apply, apply_unchanged};
pub use df::{DiskUse, ImageOnDisk, df};
pub use diff::{LockfileDiff, diff};
pub use edit::{AddRequest, FileEdit, add, remove};
pub use export::{ExportOutput, ExportRequest, Exported, export};
pub use forget::{forget, forget_owner};
pub use history::history;
pub use init::init;
pub use inputs::{Inputs, inputs};
pub use inspect::{InspectedImage, inspect};
pub use list::{ListedImage, list};
pub use lock::{LockRequest, Relocked, Unlocked, Upgrade, lock};
pub use names::{Names, names};
pub use outdated::{Outdated, OutdatedImage, outdated};
pub use plan::plan;
pub use prune::{PruneRequest, prune};
pub use pruned::{KeptLayer, KeptReference, Pruned, RemovedBlob, RemovedLayer, RemovedReference};
pub use pull::{PullRequest, pull};
pub use request::{ImagesSource, Request};
pub use rollback::{RolledBack, release, rollback};
pub use session::Session;
pub use steps::compare::VerifiedLayer;
pub use steps::compare_blobs::VerifiedBlob;
pub use steps::compare_engines::VerifiedReference;
pub use steps::finding::{Finding, Status};
pub use steps::hooks::HookRun;
pub use steps::unproven::UnprovenImage;
pub use trust_root::{TrustRoot, built_in_root_date, trust_root};
pub use verb_error::VerbError;
pub use verify::{Verified, verify};

pub use crate::diagnostic::{Problem, Problems};
pub use crate::execute::Outcome;
pub use crate::images_file::{EditStatus, EditedGroup, UnreadLine, json_schema};
pub use crate::lockfile::EntryChange;
pub use crate::registry::{Environment, Rests};
pub use crate::store::{KeptBlob, layer_path};
