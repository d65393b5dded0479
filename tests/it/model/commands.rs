//! The steps that are commands: calls of the library, and runs of the program that are killed.

use std::process::{Command, Stdio};
use std::time::Duration;

use msb_sync::image_ref::ImageRef;
use msb_sync::sync::{self, Applied, ImagesSource, LockRequest, PruneRequest, PullRequest, Request, Upgrade};

use super::World;
use super::kinds::{Ended, TAGS};
use super::steps::{Apply, Step};

impl World {
    pub(super) fn request(&self, apply: Apply) -> Request {
        let Apply { f, prune, allow_empty, locked, offline, stage, now } = apply;
        let now = now.iter().map(|name| self.reference(name)).collect();
        let source = ImagesSource::Path(self.path(f));
        Request { prune, allow_empty, offline, locked, stage, now, ..Request::of(source) }
    }

    /// Does a step by the library; a way back leads to the image `earlier`. What was done, and how it ended.
    pub(super) fn call(&self, step: Step, earlier: Option<usize>) -> (String, Ended) {
        self.try_to_call(step, earlier).unwrap_or_else(|error| (error, Ended::of(false)))
    }

    fn try_to_call(&self, step: Step, earlier: Option<usize>) -> Result<(String, Ended), String> {
        let session = &self.session;
        let source = |f| ImagesSource::Path(self.path(f));
        let text = |error: sync::VerbError| error.to_string();
        Ok(match step {
            Step::Apply(apply) => self.ended(&sync::apply(session, &self.request(apply)).map_err(text)?),
            Step::Prune { f, allow_empty } => {
                let request = PruneRequest { source: source(f), dry_run: false, allow_empty };
                let pruned = sync::prune(session, &request).map_err(text)?;
                let waiting = pruned.waiting().map(|image| &image.reference);
                (format!("{pruned:?}"), self.waits(true, waiting))
            }
            Step::Remove(name) => {
                let removed = sync::forget(session, &[self.reference(name)], false).map_err(text)?;
                (format!("{removed:?}"), Ended::of(true))
            }
            Step::Pull(name) => {
                let references = vec![self.reference(name)];
                let request = PullRequest { references, ..PullRequest::default() };
                self.ended(&sync::pull(session, &request).map_err(text)?)
            }
            Step::Lock { f, upgrade } => {
                let upgrade = if upgrade { Upgrade::Everything } else { Upgrade::Nothing };
                let request = LockRequest { source: source(f), upgrade, check: false };
                let locked = sync::lock(session, &request).map_err(text)?;
                (format!("{locked:?}"), Ended::of(locked.failed.is_empty()))
            }
            Step::Repair => {
                let verified = sync::verify(session, &[], true).map_err(text)?;
                (format!("{verified:?}"), Ended::of(verified.succeeded()))
            }
            Step::Rollback(name) => {
                let to = earlier.map(|image| &*self.digests[image]);
                self.ended(&sync::rollback(session, &self.reference(name), to).map_err(text)?.applied)
            }
            Step::Release(name) => {
                sync::release(session, &self.reference(name)).map_err(text)?;
                (String::new(), Ended::of(true))
            }
            _ => (String::new(), Ended::of(true)),
        })
    }

    fn ended(&self, applied: &Applied) -> (String, Ended) {
        let ended = self.waits(applied.succeeded(), applied.outcome.waiting.iter().map(|(image, _)| image));
        (format!("{:?}", applied.outcome), ended)
    }

    fn waits<'r>(&self, well: bool, waiting: impl Iterator<Item = &'r ImageRef>) -> Ended {
        let name = |of: &ImageRef| TAGS.iter().copied().find(|name| self.reference(name) == *of).unwrap();
        Ended { well, waiting: waiting.map(name).collect() }
    }

    /// Runs the program for this step, and kills it at some instant.
    pub(super) fn kill(&mut self, step: Step, earlier: Option<usize>) {
        let path = |f| self.path(f).display().to_string();
        let reference = |name| self.reference(name).to_string();
        let (words, flags): (Vec<String>, Vec<(&str, bool)>) = match step {
            Step::Apply(Apply { f, prune, allow_empty, locked, offline, stage, now }) => {
                let now = now.map(|name| ["--now".to_owned(), reference(name)]);
                let words = ["apply".to_owned(), path(f)].into_iter().chain(now.into_iter().flatten());
                let flags = [("--prune", prune), ("--allow-empty", allow_empty), ("--stage", stage)];
                let flags = flags.into_iter().chain([("--locked", locked), ("--offline", offline)]);
                (words.collect(), flags.collect())
            }
            Step::Prune { f, allow_empty } => {
                (vec!["prune".to_owned(), path(f)], vec![("--allow-empty", allow_empty)])
            }
            Step::Pull(name) => (vec!["pull".to_owned(), reference(name)], Vec::new()),
            Step::Lock { f, upgrade } => (vec!["lock".to_owned(), path(f)], vec![("--upgrade", upgrade)]),
            Step::Rollback(name) => {
                let to = earlier.map(|image| ["--to".to_owned(), self.digests[image].clone()]);
                let words = ["rollback".to_owned(), reference(name)].into_iter();
                (words.chain(to.into_iter().flatten()).collect(), Vec::new())
            }
            Step::Release(name) => (vec!["rollback".to_owned(), reference(name)], vec![("--release", true)]),
            _ => (vec!["verify".to_owned()], vec![("--repair", true)]),
        };
        let flags = flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag);
        let mut child = Command::new(env!("CARGO_BIN_EXE_msb-sync"))
            .args(words)
            .args(flags)
            .arg("--home")
            .arg(&self.session.home)
            .env_clear()
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Any instant will do: this is not waiting for anything.
        std::thread::sleep(Duration::from_micros(self.random.below(40_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        self.killed = true;
    }
}
