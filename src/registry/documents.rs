//! Documents: what a reference means, and which tags there are.
//!
//! Reads bottom up: what is only recorded (`recorded`), indexes and manifests (`manifest`), configs
//! (`config`), which platform serves which (`platforms`), the way from a document to an image
//! (`assemble`), the answer to a lookup (`meaning`), lookups at a registry (`lookup`), and lists of
//! tags (`links`, `tags`). All that servers say is hostile here.

mod assemble;
mod config;
mod links;
mod lookup;
mod manifest;
mod meaning;
mod platforms;
mod recorded;

mod tags;

pub(super) use self::assemble::{DocumentKind, Documents, LED_ASTRAY, assemble, verify};
pub(super) use self::links::next_page;
pub(super) use self::lookup::{check, fetch, fetch_again, read, resolve};
pub(super) use self::manifest::{ACCEPT, Entry, For, Index, Parsed, parse};
pub(crate) use self::meaning::{Lookup, Meaning};
pub(super) use self::platforms::rank;
pub(super) use self::tags::fold as fold_tags;
