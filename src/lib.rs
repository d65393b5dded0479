//! msb-sync keeps a machine's container images exactly as a file says.
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
//! Read [`sync`] (one function a verb), [`state`] (the data) and [`plan`] (the decision) and you know the
//! program; the other rooms do what their names say.
//!
//! # Who owns what on disk
//!
//! | path | owner |
//! |---|---|
//! | `<stem>.lock` beside the images file | [`sync`], by [`lockfile`]'s words |
//! | `<home>/oci.db` | [`catalog`], shared with microsandbox |
//! | `<layers>/<digest>.extracted/` and `.layers.msb-sync/` beside `<layers>` | [`store`] |
//! | what is inside a layer directory, and its inventory | [`extract`] |
//! | `<home>/downloads/` | [`store`] (the spools), filled by [`execute`] |
//! | `<home>/.msb-sync.id` | [`store`] |
//! | `<home>/.msb-sync.lock` | [`locked_home`] |
//!
//! # Which room may use which
//!
//! 1. Vocabulary ([`cancel`], [`diagnostic`], [`digest`], [`error`], [`image_ref`], [`locked_home`], [`progress`],
//!    [`queue`], [`sys`], [`threads`], `url`) uses only vocabulary.
//! 2. Pure rooms ([`state`], [`images_file`], [`lockfile`], [`selection`], [`plan`]) use vocabulary and `state`, and touch
//!    nothing: no files,
//!    network, environment, clock or threads.
//! 3. Adapters ([`registry`], [`store`], [`catalog`], [`extract`]) use vocabulary and `state`, never each other.
//! 4. Drivers ([`observe`], [`execute`], then [`sync`], then [`watch`]) use what is below them.
//! 5. Each foreign package has one home: rusqlite in `catalog`, ureq in `registry`, tar, flate2 and zstd in
//!    `extract`, rustix and libc in `sys`, rayon in `extract`, toml in `images_file`, `lockfile` and `registry`, semver
//!    and regex in `selection` and `images_file`, notify, tokio, hyper, sd-notify and prometheus-client in `watch`, clap
//!    and indicatif in the binary. Replacing a package touches one room.
//!
//! A test keeps these rules (`tests/it/architecture.rs`). `fuzzing`, which is in no program, may use everything.

pub mod cancel;
pub mod diagnostic;
pub mod digest;
pub mod error;
pub mod image_ref;
pub mod locked_home;
pub mod progress;
pub mod queue;
pub mod sys;
pub mod threads;
mod url;

pub mod images_file;
pub mod lockfile;
pub mod plan;
pub mod selection;
pub mod state;

pub mod catalog;
pub mod extract;
pub mod registry;
pub mod store;

pub mod execute;
pub mod observe;
pub mod sync;
pub mod watch;

#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
