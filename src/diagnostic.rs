//! Mistakes in the files that people write (the images file, `registries.toml`, the lockfile), each
//! shown at its place: file, line, column, the line itself, a caret below, and the next step. Of
//! containerd's `hosts.toml`, which is not msb-sync's own, file and line are named only.
//!
//! A reader notes `Mistake`s, which know only the bytes that they are about. A `Page` has the text,
//! and knows which parts of it are secrets; it turns mistakes into [`Problem`]s, which print
//! themselves as rustc prints an error, and which programs get field by field. A `Tree` is the text
//! as TOML, as far as that can be read; `SecretKeys` find the secrets in it.

mod mistake;
mod page;
mod problem;
mod secrets;
mod span;
mod tree;
mod words;

pub(crate) use mistake::{Mistake, Mistakes};
pub(crate) use page::Page;
pub(crate) use problem::Severity;
pub use problem::{Problem, Problems};
pub(crate) use secrets::{SecretKeys, holds_pem};
pub(crate) use span::Span;
pub(crate) use tree::Tree;
pub(crate) use words::nearest;
pub(crate) use words::{list, suggest};
