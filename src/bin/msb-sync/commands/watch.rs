//! `watch`, and `apply --watch`: applies now, and again whenever something changes.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use msb_sync::sync::{Applied, Request, Session, VerbError};
use msb_sync::watch::{self, Address, Options};

use crate::exit::Exit;
use crate::live::Live;
use crate::output::Output;

pub(super) fn run(
    request: Request,
    metrics: Option<Address>,
    poll: Option<NonZeroU32>,
    mut session: Session,
    output: &Arc<Output>,
) -> Result<Exit, VerbError> {
    let live = Arc::new(Live::new(output, session.cancel.clone()));
    session.reporter = Arc::clone(&live) as _;
    let poll = poll.map(|seconds| Duration::from_secs(seconds.get().into()));
    let stopped = watch::watch(&session, &Options { request, metrics, poll }, &*live)?;
    // A log has no line of a run that has done all in spite of the signal.
    if output.json || !stopped.as_ref().is_some_and(Applied::succeeded) {
        output.summary(stopped.as_ref());
    }
    Ok(Exit::Done)
}
