//! Threads and what they share: the one way to start a thread, and locks that outlive a panic.
//!
//! A machine may refuse a thread at any time (a limit of a container, memory). Every starter of
//! threads tells that in the same words ([`start`], [`start_in`]), or goes on with fewer
//! ([`work_in_parallel`]).
//!
//! A panic in one thread must not become a panic in all others: whoever locks here gets the value,
//! poisoned or not. Values behind such locks are therefore changed in one step, or not at all.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use crate::sys;

/// Files that may be open for each thread that works with trees: twice as many as one has open.
const FILES_OF_A_THREAD: usize = 48;

/// Locks `mutex`, also after a panic of a thread that held it.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// The value of a lock, of a wait on a condition, or of a mutex that is taken apart, poisoned or
/// not.
pub fn unpoisoned<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread that outlives its starter. `name` shows up in debuggers; Linux keeps 15 bytes of
/// a name.
///
/// # Errors
/// The system refuses the thread; the error names it.
pub fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(work).map_err(|error| refused(name, &error))
}

/// Starts a thread in `scope`, whose end waits for the thread's end.
///
/// # Errors
/// As [`start`].
pub fn start_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.to_owned()).spawn_scoped(scope, work).map_err(|error| refused(name, &error))
}

/// Runs `work` in this thread and in `threads - 1` others at once, and returns when all have ended.
/// Where the system refuses threads there are fewer.
pub fn work_in_parallel(name: &str, threads: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 1..threads {
            if start_in(scope, name, &work).is_err() {
                break;
            }
        }
        work();
    });
}

/// Does `work` with each of `things` in up to `threads` threads, this one among them, in their
/// order as far as there are threads, and returns the results in that order.
pub fn each_in_parallel<T: Sync, R: Send>(
    name: &str,
    threads: usize,
    things: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(things.len())));
    work_in_parallel(name, threads.min(things.len()), || {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(thing) = things.get(place) else { return };
            let result = work(thing);
            lock(&results).push((place, result));
        }
    });
    let mut results = unpoisoned(results.into_inner());
    results.sort_unstable_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Does `work` with each of `things` like [`each_in_parallel`], where the work opens files, as
/// whoever walks through a tree does: in no more threads than this process may have files for.
pub(crate) fn each_with_files<T: Sync, R: Send>(
    name: &str,
    threads: usize,
    things: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let affordable = (sys::open_files_limit() / FILES_OF_A_THREAD).max(1);
    each_in_parallel(name, threads.min(affordable), things, work)
}

/// True if `error` is the system's refusal of a thread.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Refused>)
}

/// The refusal of a thread.
#[derive(Debug, thiserror::Error)]
#[error("the system refuses a thread ({name}): {reason}")]
struct Refused {
    name: String,
    reason: String,
}

fn refused(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), Refused { name: name.to_owned(), reason: error.to_string() })
}

/// A refusal as the system's is, for tests of other rooms.
#[cfg(test)]
pub(crate) fn refusal_for_tests() -> io::Error {
    refused("resolve", &io::Error::from(io::ErrorKind::WouldBlock))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_lock_outlives_a_panic() {
        let mutex = Mutex::new(1);
        let panicked = std::thread::scope(|scope| {
            let thread = start_in(scope, "panics", || {
                let mut value = lock(&mutex);
                *value = 2;
                panic!("while the value is locked");
            });
            thread.unwrap().join().is_err()
        });
        assert!(panicked && mutex.is_poisoned());
        assert_eq!(*lock(&mutex), 2);
        assert_eq!(unpoisoned(mutex.into_inner()), 2);
    }

    #[test]
    fn as_many_threads_work_as_were_asked_for() {
        let (met, ended) = (Barrier::new(3), AtomicUsize::new(0));
        work_in_parallel("work", 3, || {
            met.wait();
            ended.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ended.into_inner(), 3);
    }

    #[test]
    fn results_come_in_the_order_of_the_things() {
        let things: Vec<u64> = (0..200).collect();
        let square = |thing: &u64| {
            if thing.is_multiple_of(7) {
                std::thread::yield_now();
            }
            thing * thing
        };
        for threads in [0, 1, 3, 500] {
            let squares = each_in_parallel("square", threads, &things, square);
            assert!(squares.iter().eq(things.iter().map(|thing| thing * thing).collect::<Vec<_>>().iter()));
        }
        assert!(each_in_parallel("square", 3, &[], square).is_empty());
    }

    #[test]
    fn no_more_threads_open_files_than_there_are_files_for() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        each_with_files("open", 200, &[(); 400], |()| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(1));
            now.fetch_sub(1, Ordering::SeqCst);
        });
        assert!(most.into_inner() <= (sys::open_files_limit() / FILES_OF_A_THREAD).clamp(1, 200));
    }

    #[test]
    fn a_refused_thread_is_named() {
        let error = refused("inflate", &io::Error::from(io::ErrorKind::WouldBlock));
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(error.to_string().starts_with("the system refuses a thread (inflate): "), "{error}");
        assert!(is_refusal(&error) && !is_refusal(&io::Error::from(io::ErrorKind::WouldBlock)));
    }
}
