//! msb-sync keeps a machine's container images exactly as a file says.
//!
//! # From a program
//!
//! The binary is a thin layer over this library, and uses nothing else. A verb is a function of
//! [`sync`], called with a [`Session`](sync::Session): where things lie, who listens, how to stop.
//!
//! ```
//! use msb_sync::sync::{self, ImagesSource, Request, Session};
//!
//! # let directory = tempfile::tempdir()?;
//! # let home = directory.path().join("home");
//! let session = Session::new(home);
//! let request = Request::of(ImagesSource::Path("examples/quickstart/images.toml".into()));
//!
//! let (plan, platform) = sync::plan(&session, &request)?;
//! println!("{} images to change for {platform}", plan.changes());
//!
//! let applied = sync::apply(&session, &request)?;
//! assert!(applied.succeeded());
//! assert_eq!(sync::plan(&session, &request)?.0.changes(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`plan`] decides what is to be done, from [`state`]: a pure function.
//! - [`progress`] tells what a run does, to a [`Reporter`](progress::Reporter) of yours.
//! - [`error`] says what went wrong, with a stable [`kind`](error::Error::kind) and the next step.
//! - [`watch`] applies again whenever something changes.
//!
//! `examples/apply.rs` and `examples/reporter.rs` are whole programs.
//!
//! # The map
//!
//! Data flows one way; nothing flows back:
//!
//! ```text
//! images.toml ──┐                    ┌─ registry   what each tag means now
//! images.lock ──┴─> Desired          ├─ catalog    what was recorded
//!                      │   Observed <┴─ store      which layers are complete
//!                      └──────┬─────────┘
//!             plan(desired, observed) -> Plan       pure, total, deterministic
//!                             │
//!             execute(plan): fetch → verify → extract → commit     events → Reporter
//!                             │
//!                          Outcome → summary, exit code
//! ```
//!
//! Read [`sync`]'s door and its `apply`, [`state`] and [`plan`] and you know the program; the other
//! rooms do what their names say.
//!
//! # Who owns what on disk
//!
//! | path | owner |
//! |---|---|
//! | `<stem>.lock` beside the images file | [`sync`], by `lockfile`'s words |
//! | `<home>/oci.db` | `catalog`, shared with microsandbox |
//! | `<layers>/<digest>.extracted/` and `.layers.msb-sync/` beside `<layers>` | `store` |
//! | `<layers>/.msb-sync/` | `store`: the same, where beside is another mount or not writable |
//! | what is inside a layer directory, and its inventory | `extract` |
//! | `<home>/downloads/` | `store` (the spools), filled by `execute` |
//! | `<home>/blobs/` | `store` (kept blobs, an OCI layout), its `index.json` written by `execute` |
//! | `<home>/.blobs.new` | `store`: the layout of kept blobs while it is made |
//! | `<home>/.blobs.behind` | `store`: that the index is still to be written |
//! | `<home>/tmp/` | the programs of engines, for their temporary files |
//! | `<home>/.msb-sync.id` | `store` |
//! | `<home>/.msb-sync.lock` | `locked_home` |
//! | `<home>/.msb-sync.hooks` | `catalog`: who runs hooks for which changes |
//!
//! # Which room may use which
//!
//! 1. Vocabulary ([`cancel`], `child`, [`clock`], `diagnostic`, [`digest`], [`error`],
//!    [`image_ref`], `locked_home`, [`progress`], `queue`, `sys`, `threads`, `url`, `wildcard`)
//!    uses only vocabulary.
//! 2. Pure rooms ([`state`], `images_file`, `lockfile`, `selection`, [`plan`], `trust`, `bundle`)
//!    use vocabulary and `state`, and touch nothing: no files, network, environment, clock or
//!    threads.
//! 3. Adapters (`registry`, `store`, `catalog`, `extract`, `engine`, `hooks`) use vocabulary and
//!    `state`, never each other.
//! 4. Drivers (`observe`, `execute`, then [`sync`], then [`watch`]) use what is below them.
//! 5. Each foreign package has one home: rusqlite in `catalog`, ureq in `registry`, tar, flate2 and
//!    zstd in `extract`, rustix and libc in `sys`, notify, tokio and hyper in `watch`, clap,
//!    anstream and `terminal_size` in the binary; `tests/it/architecture/rooms.rs` lists them all.
//!    Replacing a package touches one room.
//! 6. No files use each other in a circle, inside a room either. A type's methods stand in one
//!    file. Public is what a program needs, `pub(crate)` the rest.
//!
//! A test keeps these rules (`tests/it/architecture.rs`). `fuzzing`, which is in no program, may
//! use everything.

pub mod cancel;
pub mod clock;
pub mod digest;
pub mod error;
pub mod image_ref;
pub mod plan;
pub mod progress;
pub mod state;
pub mod sync;
pub mod watch;

mod bundle;
mod catalog;
mod child;
mod diagnostic;
mod engine;
mod execute;
mod extract;
mod hooks;
mod images_file;
mod locked_home;
mod lockfile;
mod observe;
mod queue;
mod registry;
mod selection;
mod store;
mod sys;
#[doc(hidden)]
pub mod threads;
mod trust;
mod url;
mod wildcard;

pub use crate::sys::{keep_own_permissions, limit_allocator, raise_open_files_limit};

/// Passes on the rooms that the benchmarks measure; for nobody else.
#[doc(hidden)]
pub mod benched {
    pub use crate::catalog::{Catalog, Holding, WritableCatalog};
    pub use crate::extract::{Options, Totals, Workers, extract};
    pub use crate::locked_home::LockedHome;
}

#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
