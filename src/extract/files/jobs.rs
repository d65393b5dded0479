//! The jobs of one layer in the pool: as many at a time as the memory budget allows, and the first
//! error of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::error::LayerError;
use crate::extract::workers::Workers;
use crate::threads::{lock, unpoisoned};

/// The jobs of one layer. Dropped, they are waited for: a tree that failed is removed next, and no
/// job may write into it.
pub(super) struct Jobs<'w> {
    workers: &'w Workers,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    running: usize,
    error: Option<LayerError>,
}

impl<'w> Jobs<'w> {
    pub(super) fn new(workers: &'w Workers) -> Self {
        Self { workers, shared: Arc::default() }
    }

    /// Hands a job that holds `bytes` of memory to the pool, as soon as the budget allows. Returns
    /// the error of an earlier job instead, if there is one.
    pub(super) fn start(
        &self,
        bytes: usize,
        job: impl FnOnce() -> Result<(), LayerError> + Send + 'static,
    ) -> Result<(), LayerError> {
        let budget = Arc::clone(&self.workers.budget);
        budget.acquire(bytes);
        {
            let mut progress = lock(&self.shared.progress);
            if let Some(error) = progress.error.take() {
                budget.release(bytes);
                return Err(error);
            }
            progress.running += 1;
        }
        let shared = Arc::clone(&self.shared);
        self.workers.pool.spawn(move || {
            // A panic is a defect of ours: it ends this layer, and neither the process nor the
            // other layers.
            let result = catch_unwind(AssertUnwindSafe(job))
                .unwrap_or(Err(LayerError::Defect { what: "a thread that writes files" }));
            budget.release(bytes);
            let mut progress = lock(&shared.progress);
            progress.running -= 1;
            if let Err(error) = result {
                progress.error.get_or_insert(error);
            }
            shared.changed.notify_all();
        });
        Ok(())
    }

    /// Waits until all jobs have ended, and returns the first error of them.
    pub(super) fn wait(&self) -> Result<(), LayerError> {
        self.idle().error.take().map_or(Ok(()), Err)
    }

    fn idle(&self) -> MutexGuard<'_, Progress> {
        let progress = lock(&self.shared.progress);
        unpoisoned(self.shared.changed.wait_while(progress, |progress| progress.running > 0))
    }
}

impl Drop for Jobs<'_> {
    fn drop(&mut self) {
        drop(self.idle());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cancel::Cancel;
    use crate::extract::workers::BUDGET;

    /// A tree that failed is removed next: no job may still write into it then.
    #[test]
    fn jobs_that_are_dropped_are_waited_for() {
        let workers = Workers::new(1, 1, &Cancel::new()).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let written = Arc::new(AtomicBool::new(false));
        let jobs = Jobs::new(&workers);
        let job = Arc::clone(&written);
        let write = move || {
            // The other end is dropped when it is time to write.
            let _ = wait.recv();
            job.store(true, Ordering::SeqCst);
            Ok(())
        };
        jobs.start(1, write).unwrap();
        std::thread::scope(|scope| {
            let dropping = scope.spawn(move || {
                drop(jobs);
                written.load(Ordering::SeqCst)
            });
            // Enough for a drop that does not wait; one that does ends no sooner than the job.
            let start = Instant::now();
            while !dropping.is_finished() && start.elapsed() < Duration::from_millis(300) {
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(go);
            assert!(dropping.join().unwrap(), "the job was still writing");
        });
    }

    #[test]
    fn a_job_that_panics_ends_its_layer_and_nothing_else() {
        let workers = Workers::new(1, 1, &Cancel::new()).unwrap();
        let broken = Jobs::new(&workers);
        // The first error is told once: by a later start, or by the wait.
        let told = (0..3)
            .try_for_each(|_| broken.start(BUDGET / 2, || panic!("on purpose")))
            .and_then(|()| broken.wait());
        assert_eq!(told.unwrap_err().kind(), "defect");
        let whole = Jobs::new(&workers);
        whole.start(BUDGET, || Ok(())).unwrap();
        whole.wait().unwrap();
    }
}
