//! Sites: one registry on servers, which are its endpoint and its mirrors.
//!
//! Reads bottom up: what a site may do (`role`) and is (`site`); where sites come from (`hosts`,
//! `building`); what is remembered of them (`outage`, `pulls`, `rests`, `patience`, `cache`); and
//! the registry that asks them (`remote`). Nothing here knows what a document says.

mod building;
mod cache;
mod hosts;
mod outage;
mod patience;
mod pulls;
mod remote;
mod rests;
mod role;
mod site;

pub(super) use self::building::{DOCKER_HUB, Terms};
pub(super) use self::cache::{Document, Held};
#[cfg(any(fuzzing, test))]
pub(super) use self::hosts::parse as parse_hosts;
pub(super) use self::patience::Patience;
pub(super) use self::remote::{Ask, MIRROR_TRIES, Remote, is_soon_for_a_mirror};
pub use self::rests::Rests;
pub(super) use self::role::Capability;
pub(super) use self::site::Site;
