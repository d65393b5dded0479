//! The documents of images, kept as they were served.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::Executor;
use super::waitlist::Waitlist;
use crate::error::Error;
use crate::plan::{DocumentFetch, Plan};
use crate::queue::Queue;
use crate::registry::Registries;
use crate::store::{self, Spool, Store};
use crate::threads;

/// The number of documents that one sync of the file system makes durable together.
const GROUP: usize = 256;

/// A document, and its spool.
type Received<'p> = (&'p DocumentFetch, Result<Arc<Spool>, Error>);

/// Keeps the documents that `plan` wants kept. Most of them were read a moment ago and are
/// remembered by the registries; the others are asked for. An image fails that lacks one.
pub(super) fn keep_documents(executor: &Executor<'_>, plan: &Plan, waitlist: &mut Waitlist) {
    for group in plan.documents.chunks(GROUP) {
        if executor.cancel.is_cancelled() {
            return;
        }
        for (fetch, error) in keep_group(executor, group) {
            waitlist.images_failed(&fetch.images, &error);
        }
    }
}

/// Keeps some documents, and returns those that failed, each with its error.
fn keep_group<'p>(
    executor: &Executor<'_>,
    group: &'p [DocumentFetch],
) -> Vec<(&'p DocumentFetch, Arc<Error>)> {
    let registry_of =
        |fetch: &DocumentFetch| fetch.images.first().map_or("", |image| image.registry()).to_owned();
    let queue = Queue::new(group.iter().map(|fetch| (registry_of(fetch), fetch)));
    let received: Mutex<Vec<Received<'_>>> = Mutex::default();
    let (registries, store) = (executor.registries, executor.store);
    threads::work_in_parallel("document", executor.downloads.min(group.len()), || {
        while let Some(taken) = queue.next() {
            let result = receive(registries, store, taken.job);
            threads::lock(&received).push((taken.job, result));
        }
    });
    let mut failed = Vec::new();
    let mut spools = Vec::new();
    // In the order of the plan, whichever thread was first.
    let received = threads::unpoisoned(received.into_inner());
    let mut received: BTreeMap<_, _> =
        received.into_iter().map(|(fetch, result)| (&fetch.document.digest, (fetch, result))).collect();
    let mut whole = Vec::new();
    while let Some((_, (fetch, result))) = received.pop_first() {
        match result {
            Ok(spool) => {
                spools.push(spool);
                whole.push(fetch);
            }
            Err(error) => failed.push((fetch, Arc::new(error))),
        }
    }
    let kept = store::keep(executor.store, &spools);
    failed.extend(
        whole.into_iter().zip(kept).filter_map(|(fetch, kept)| Some((fetch, Arc::new(kept.err()?.into())))),
    );
    failed
}
/// Writes one document, verified by the registries, into a spool.
fn receive(registries: &Registries, store: &Store, fetch: &DocumentFetch) -> Result<Arc<Spool>, Error> {
    let Some(image) = fetch.images.first() else { return Err(Error::Stopped) };
    let document = registries.document(image, &fetch.document)?;
    let spool = store.spool(&fetch.document.digest, 0)?;
    spool.append(&document.bytes)?;
    spool.complete();
    Ok(spool)
}
