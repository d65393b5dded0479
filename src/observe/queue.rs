//! A queue whose jobs may bring forth more jobs: it ends when it is empty and nobody works on a job any more.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

struct State<J> {
    jobs: VecDeque<J>,
    under_way: usize,
}

/// A job that somebody works on until this is dropped.
pub(super) struct Taken<'q, J> {
    pub(super) job: J,
    queue: &'q Queue<J>,
}

impl<J> Queue<J> {
    pub(super) fn new(jobs: Vec<J>) -> Self {
        Self { state: Mutex::new(State { jobs: jobs.into(), under_way: 0 }), changed: Condvar::new() }
    }

    /// The next job, waiting while one under way may still bring forth more; `None` at the end.
    pub(super) fn next(&self) -> Option<Taken<'_, J>> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.under_way += 1;
                return Some(Taken { job, queue: self });
            }
            if state.under_way == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn push(&self, jobs: Vec<J>) {
        self.lock().jobs.extend(jobs);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> Drop for Taken<'_, J> {
    fn drop(&mut self) {
        self.queue.lock().under_way -= 1;
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn jobs_of_jobs_are_all_done_and_then_it_ends() {
        let queue = Queue::new(vec![5_u32, 3, 0]);
        let done = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(taken) = queue.next() {
                        done.lock().unwrap().push(taken.job);
                        queue.push((0..taken.job).collect());
                    }
                });
            }
        });
        // A job `n` brings forth 2^n jobs, itself included.
        assert_eq!(done.lock().unwrap().len(), 32 + 8 + 1);
    }
}
