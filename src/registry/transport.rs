//! Transport: one request to a server and its answer, whatever lies between.
//!
//! Reads bottom up: words and secrets (`words`, `secret`, `veil`), the time that servers get
//! (`clock`), the way to them (`environment`, `names`, `proxy`, `handshake`, `tls`, `connections`),
//! what goes wrong there (`failure`), the network as a run uses it (`network`, `retry`), the memory
//! that documents may take (`portions`), and one exchange on it (`answer`, `http`, `exchange`,
//! `refusal`). Nothing here knows of authentication, mirrors or images.

mod answer;
mod clock;
mod connections;
mod environment;
mod exchange;
mod failure;
mod handshake;
mod http;
mod names;
mod network;
mod portions;
mod proxy;
mod refusal;
mod retry;
mod secret;
mod tls;
mod veil;
mod words;

pub(super) use self::answer::{Answer, Body, body_failure};
pub(super) use self::clock::Clock;
pub use self::environment::Environment;
pub(super) use self::environment::LOOKUP_PATIENCE;
pub(super) use self::failure::FailedTry;
#[cfg(any(fuzzing, test))]
pub(super) use self::http::uri;
pub(super) use self::http::{Client, Request};
pub(super) use self::network::Network;
pub(super) use self::portions::{Portion, Portions};
pub(super) use self::refusal::{Sought, refusal};
pub(super) use self::retry::{TRIES, pause, retry};
pub(super) use self::secret::{Secret, basic};
pub(super) use self::words::{json_error, named_secrets, printable};
