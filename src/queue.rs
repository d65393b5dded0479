//! Jobs for a few threads, handed out so that no registry holds the others back.
//!
//! Each job belongs to a lane, a registry's. The next job is the oldest of the lane with the fewest
//! jobs under way: as long as others have work, a lane gets its share of the threads and no more,
//! however slow it is and however many jobs it has; alone it gets them all. A job may bring forth
//! more jobs, so the queue ends when it is empty and nobody works on a job any more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::threads;

/// Jobs in lanes. Shared by reference.
pub(crate) struct Queue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

struct State<J> {
    lanes: BTreeMap<String, Lane<J>>,
    /// The age of the next job.
    pushed: u64,
    under_way: usize,
}

struct Lane<J> {
    /// The jobs with their ages: the job that came first goes first where lanes are equally busy.
    jobs: VecDeque<(u64, J)>,
    under_way: usize,
}

/// A job that somebody works on until this is dropped.
pub(crate) struct Taken<'q, J> {
    /// The job, which may be moved out: the rest counts as under way until it is dropped.
    pub job: J,
    under_way: UnderWay<'q, J>,
}

/// The place of a job that somebody works on.
struct UnderWay<'q, J> {
    lane: String,
    queue: &'q Queue<J>,
}

impl<J> Queue<J> {
    /// A queue of these jobs, each with its lane, the most urgent first.
    pub(crate) fn new(jobs: impl IntoIterator<Item = (String, J)>) -> Self {
        let state = State { lanes: BTreeMap::new(), pushed: 0, under_way: 0 };
        let queue = Self { state: Mutex::new(state), changed: Condvar::new() };
        queue.push(jobs);
        queue
    }

    /// The next job, waiting while one under way may still bring forth more; `None` at the end.
    pub(crate) fn next(&self) -> Option<Taken<'_, J>> {
        let mut state = self.lock();
        loop {
            if let Some((lane, job)) = state.take() {
                return Some(Taken { job, under_way: UnderWay { lane, queue: self } });
            }
            if state.under_way == 0 {
                return None;
            }
            state = threads::unpoisoned(self.changed.wait(state));
        }
    }

    /// Adds jobs, as a rule those that a job brought forth while it is still under way.
    pub(crate) fn push(&self, jobs: impl IntoIterator<Item = (String, J)>) {
        let mut state = self.lock();
        for (lane, job) in jobs {
            let age = state.pushed;
            state.pushed += 1;
            let lane =
                state.lanes.entry(lane).or_insert_with(|| Lane { jobs: VecDeque::new(), under_way: 0 });
            lane.jobs.push_back((age, job));
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        threads::lock(&self.state)
    }
}

impl<J> State<J> {
    fn take(&mut self) -> Option<(String, J)> {
        let waiting = self.lanes.iter_mut().filter(|(_, lane)| !lane.jobs.is_empty());
        let (name, lane) =
            waiting.min_by_key(|(_, lane)| (lane.under_way, lane.jobs.front().map(|(age, _)| *age)))?;
        let (_, job) = lane.jobs.pop_front()?;
        lane.under_way += 1;
        self.under_way += 1;
        Some((name.clone(), job))
    }
}

impl<J> Drop for UnderWay<'_, J> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.under_way -= 1;
        if let Some(lane) = state.lanes.get_mut(&self.lane) {
            lane.under_way -= 1;
        }
        drop(state);
        self.queue.changed.notify_all();
    }
}

impl<J> std::fmt::Debug for Queue<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("under_way", &self.lock().under_way).finish_non_exhaustive()
    }
}

impl<J> std::fmt::Debug for Taken<'_, J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taken").field("lane", &self.under_way.lane).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane<J>(name: &str, jobs: impl IntoIterator<Item = J>) -> Vec<(String, J)> {
        jobs.into_iter().map(|job| (name.to_owned(), job)).collect()
    }

    #[test]
    fn jobs_of_jobs_are_all_done_and_then_it_ends() {
        let queue = Queue::new(lane("a", [5_u32, 3, 0]));
        let done = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(taken) = queue.next() {
                        done.lock().unwrap().push(taken.job);
                        queue.push(lane(if taken.job % 2 == 0 { "a" } else { "b" }, 0..taken.job));
                    }
                });
            }
        });
        // A job `n` brings forth 2^n jobs, itself included.
        assert_eq!(done.lock().unwrap().len(), 32 + 8 + 1);
    }

    #[test]
    fn a_lane_whose_jobs_do_not_end_leaves_the_others_their_share() {
        let queue = Queue::new(lane("slow", 0..10).into_iter().chain(lane("fast", 10..20)));
        // Four threads: none of the slow lane's jobs ends.
        let mut stuck = Vec::new();
        let mut fast = Vec::new();
        let mut order = Vec::new();
        for _ in 0..14 {
            while stuck.len() + fast.len() < 4 {
                let taken = queue.next().unwrap();
                order.push(taken.job);
                if taken.under_way.lane == "slow" { stuck.push(taken) } else { fast.push(taken) }
            }
            drop(fast.pop());
        }
        // In turns as long as both are equally busy, then only the fast one's, then whatever there
        // is.
        assert_eq!(order, [0, 10, 1, 11, 12, 13, 14, 15, 16, 17, 18, 19, 2, 3]);
    }

    #[test]
    fn among_equals_the_oldest_goes_first_and_a_lane_alone_gets_all_threads() {
        let queue = Queue::new([("b", 0), ("a", 1), ("b", 2)].map(|(lane, job)| (lane.to_owned(), job)));
        let taken: Vec<_> = (0..3).map(|_| queue.next().unwrap()).collect();
        assert_eq!(taken.iter().map(|taken| taken.job).collect::<Vec<_>>(), [0, 1, 2]);
        drop(taken);
        assert!(queue.next().is_none());
    }
}
