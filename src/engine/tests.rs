//! Engines, by scripts in their places and by the real programs.

mod real;
mod scripts;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::cancel::Cancel;
use crate::progress::{Event, Reporter};

/// Everything that a test was told.
#[derive(Default)]
struct Ear(Mutex<Vec<String>>);

impl Reporter for Ear {
    fn report(&self, event: Event) {
        if let Event::Detail(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// A home, and engines that have `bin` in it first on their `PATH`.
struct Bench {
    directory: TempDir,
    engines: Engines,
    cancel: Cancel,
    ear: Arc<Ear>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Patience::default(), &[])
    }

    /// One whose loads are soon taken for hung.
    fn impatient(load: Duration) -> Self {
        Self::with(Patience { load, ..Patience::default() }, &[])
    }

    fn with(patience: Patience, more: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::create_dir(directory.path().join("home")).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let user = directory.path().to_str().unwrap();
        let mut environment: BTreeMap<OsString, OsString> =
            [("PATH", path.as_str()), ("HOME", user)].map(|(name, value)| (name.into(), value.into())).into();
        environment.extend(more.iter().map(|(name, value)| (name.into(), value.into())));
        let (cancel, ear) = (Cancel::new(), Arc::new(Ear::default()));
        let context = Context {
            environment,
            temporary: directory.path().join("home/tmp"),
            cancel: cancel.clone(),
            reporter: Arc::clone(&ear) as _,
        };
        let engines = Engines::patient(context, patience);
        Self { directory, engines, cancel, ear }
    }

    /// Puts a shell script in the place of a program; `$D` is the directory of the test.
    fn script(&self, program: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join("bin").join(program);
        let directory = self.directory.path().display();
        fs::write(&path, format!("#!/bin/sh\nD={directory}\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn engine(&self, name: EngineName) -> Arc<dyn Engine> {
        self.engines.of(&EngineSettings::new(name))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn told(&self) -> Vec<String> {
        self.ear.0.lock().unwrap().clone()
    }
}

/// The names that tests ask engines about.
fn asked() -> AskedNames {
    AskedNames { repositories: ["registry.example/team/app".to_owned()].into(), ..AskedNames::default() }
}

/// True if the process whose number the file holds is at work.
fn is_alive(file: &Path) -> bool {
    let number = fs::read_to_string(file).unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{}/stat", number.trim())).unwrap_or_default();
    // A dead one that nobody has waited for is a zombie.
    !status.is_empty() && !status.contains(") Z ")
}
