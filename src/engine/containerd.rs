//! containerd, by `ctr`: `images import -`, `images ls`, `images check`, `images rm`.
//!
//! containerd lists what it does not have: an import that failed leaves the reference behind. `images
//! check` alone says whether an image is whole.

use std::collections::BTreeMap;

use super::child::{Output, Program, shown};
use super::version::Version;
use super::{Archive, Engine, Removed};
use crate::digest::BlobDigest;
use crate::error::EngineError;
use crate::state::{EngineListing, EngineSettings};

pub(super) struct Containerd {
    program: Program,
    version: Version,
}

impl Containerd {
    pub(super) fn new(program: Program) -> Self {
        Self { program, version: Version::at_least((1, 5, 0), "1.5.0") }
    }

    /// The arguments that come first: which containerd, and which namespace.
    fn place(&self) -> Vec<&str> {
        let settings = self.program.settings();
        let mut arguments = Vec::new();
        if let Some(address) = &settings.address {
            arguments.extend(["--address", address.as_str()]);
        }
        arguments.extend(["--namespace", settings.namespace.as_deref().unwrap_or("default")]);
        arguments
    }

    fn snapshotter(&self) -> Vec<&str> {
        match &self.program.settings().snapshotter {
            Some(snapshotter) => vec!["--snapshotter", snapshotter.as_str()],
            None => Vec::new(),
        }
    }

    fn run(&self, arguments: &[&str]) -> Result<Output, EngineError> {
        self.program.run(&[&self.place(), arguments].concat())
    }
}

impl Engine for Containerd {
    fn settings(&self) -> &EngineSettings {
        self.program.settings()
    }

    fn list(&self) -> Result<EngineListing, EngineError> {
        self.version.check(&self.program)?;
        let output = self.run(&["images", "ls"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut listing = EngineListing::default();
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace();
            if let (Some(name), Some(digest)) = (fields.next(), fields.nth(1))
                && let Ok(digest) = BlobDigest::parse(digest)
            {
                listing.images.entry(name.to_owned()).or_default().insert(digest);
            }
        }
        Ok(listing)
    }

    fn load(&self, archive: Archive<'_>) -> Result<(), EngineError> {
        let arguments = [&self.place()[..], &["images", "import"], &self.snapshotter(), &["-"]].concat();
        self.program.feed(&arguments, archive).map(drop)
    }

    fn check(&self, names: &[String]) -> Vec<Result<(), EngineError>> {
        let engine = self.program.settings().name.as_str();
        let output = self.run(&[&["images", "check"][..], &self.snapshotter()].concat());
        let output = match output {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => {
                let reason = error.to_string();
                let failed = |name: &String| {
                    Err(EngineError::Incomplete { engine, name: name.clone(), reason: reason.clone() })
                };
                return names.iter().map(failed).collect();
            }
        };
        let lines: BTreeMap<&str, &str> =
            output.lines().filter_map(|line| Some((line.split_whitespace().next()?, line))).collect();
        let check = |name: &String| {
            let line = lines.get(name.as_str()).copied().unwrap_or("it is not listed");
            let is_whole = line.contains(" complete (") && line.trim_end().ends_with("true");
            if is_whole {
                return Ok(());
            }
            Err(EngineError::Incomplete { engine, name: name.clone(), reason: shown(line.trim(), 300) })
        };
        names.iter().map(check).collect()
    }

    fn remove(&self, names: &[String]) -> Vec<Removed> {
        super::remove_each(self, names, |name| self.run(&["images", "rm", name]))
    }
}
