//! Authentication: what a registry's challenge wants, where credentials for it are, and the tokens
//! they buy.
//!
//! `challenge` reads what a registry says; `credential`, `helper` and `credentials` find what
//! proves who asks; `token` keeps what worked, for each repository.

mod challenge;
mod credential;
mod credentials;
mod helper;
mod token;

pub(super) use self::challenge::is_challenge;
#[cfg(any(fuzzing, test))]
pub(super) use self::challenge::parse_challenges;
pub(super) use self::credentials::Credentials;
pub(super) use self::token::{Authorizer, Challenged, Party, Pass};
