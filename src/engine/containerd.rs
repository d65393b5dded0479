//! containerd, by `ctr`: `images import -`, `images ls`, `images check`, `images rm`.
//!
//! containerd lists what it does not have: an import that failed leaves the reference behind.
//! `images check` alone says whether an image is whole. A removal asks nobody, so containers are
//! looked at first.

use std::collections::BTreeMap;

use super::adapter::{Engine, Removed, Told, full_name, remove_each};
use super::child::Archive;
use super::lines::shown;
use super::program::{Output, Program};
use super::version::Version;
use crate::digest::BlobDigest;
use crate::error::EngineError;
use crate::state::{EngineListing, EngineName, EngineSettings};

pub(super) struct Containerd {
    program: Program,
    version: Version,
}

impl Containerd {
    pub(super) fn new(program: Program) -> Self {
        Self { program, version: Version::at_least((1, 5, 0), "1.5.0") }
    }

    /// The arguments that come first: the containerd, and the namespace.
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

    /// Lists the images that containers were made from, each with one of these containers.
    fn users(&self) -> Result<BTreeMap<String, String>, EngineError> {
        let output = self.run(&["containers", "ls"])?;
        let user = |line: &str| {
            let mut fields = line.split_whitespace();
            let (container, image) = (fields.next()?, fields.next()?);
            Some((full_name(image), shown(container)))
        };
        Ok(output.text().lines().skip(1).filter_map(user).collect())
    }
}

impl Engine for Containerd {
    fn settings(&self) -> &EngineSettings {
        self.program.settings()
    }

    fn list(&self) -> Result<EngineListing, EngineError> {
        self.version.check(&self.program)?;
        Ok(parse(&self.run(&["images", "ls"])?.text()))
    }

    fn load(&self, archive: Archive<'_>) -> Result<(), EngineError> {
        self.version.check(&self.program)?;
        let arguments = [&self.place()[..], &["images", "import"], &self.snapshotter(), &["-"]].concat();
        self.program.feed(&arguments, archive)
    }

    fn check(&self, names: &[String]) -> Vec<Result<(), EngineError>> {
        let engine = self.program.settings().name.as_str();
        let incomplete = |name: &String, reason: &str| {
            Err(EngineError::Incomplete { engine, name: name.clone(), reason: shown(reason.trim()) })
        };
        let filters: Vec<String> = names.iter().map(|name| format!("name=={name:?}")).collect();
        let mut arguments = vec!["images", "check"];
        arguments.extend(self.snapshotter());
        arguments.extend(filters.iter().map(String::as_str));
        let output = match self.run(&arguments) {
            Ok(output) => output,
            Err(error) => return names.iter().map(|name| incomplete(name, &error.to_string())).collect(),
        };
        let text = output.text();
        let lines: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| Some((line.split_whitespace().next()?, line))).collect();
        let check = |name: &String| match lines.get(name.as_str()) {
            Some(line) if is_whole(line) => Ok(()),
            Some(line) => incomplete(name, line),
            None => incomplete(name, "it is not listed"),
        };
        names.iter().map(check).collect()
    }

    fn remove(&self, names: &[String]) -> Vec<Removed> {
        let users = match self.users() {
            Ok(users) => users,
            // A removal would ask nobody.
            Err(error) => return names.iter().map(|_| Removed::Failed(unknown_users(&error))).collect(),
        };
        remove_each(self, names, |name| match users.get(name) {
            Some(user) => Told::Used(user.clone()),
            None => Told::Removal(self.run(&["images", "rm", name])),
        })
    }
}

/// Makes the error for images that may be in use.
fn unknown_users(error: &EngineError) -> EngineError {
    EngineError::Failed {
        engine: EngineName::Containerd.as_str(),
        doing: "ctr containers ls".to_owned(),
        status: "nothing is removed".to_owned(),
        words: error.to_string(),
    }
}

/// Reads the columns REF TYPE DIGEST SIZE PLATFORMS LABELS.
fn parse(text: &str) -> EngineListing {
    let mut listing = EngineListing::default();
    for line in text.lines().skip(1) {
        let mut fields = line.split_whitespace();
        if let (Some(name), Some(digest)) = (fields.next(), fields.nth(1))
            && let Ok(digest) = BlobDigest::parse(digest)
        {
            listing.images.entry(name.to_owned()).or_default().insert(digest);
        }
    }
    listing
}

/// Reads a line of `images check`: REF TYPE DIGEST STATUS SIZE UNPACKED. STATUS is `complete (3/3)`
/// where every blob is there.
fn is_whole(line: &str) -> bool {
    line.split_whitespace().nth(3) == Some("complete") && line.split_whitespace().last() == Some("true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let text = format!(
            "REF TYPE DIGEST SIZE PLATFORMS LABELS \n\
             docker.io/library/a:1 application/vnd.oci.image.manifest.v1+json {digest} 8.2 KiB linux/amd64 - \n\
             r/b:1@{digest}  application/vnd.oci.image.index.v1+json  {digest} 1 B -  -\n\
             garbage\n\u{1b}[2J x y\n"
        );
        let listing = parse(&text);
        assert_eq!(listing.images.len(), 2, "{listing:?}");
        assert_eq!(listing.images["docker.io/library/a:1"], [BlobDigest::parse(&digest).unwrap()].into());
        assert_eq!(parse(""), EngineListing::default());
    }

    #[test]
    fn images_are_whole_or_not() {
        for (line, whole) in [
            ("a:1 application/x sha256:1 complete (3/3) 1.0 KiB/1.0 KiB true", true),
            ("a:1 application/x sha256:1 complete (3/3) 1.0 KiB/1.0 KiB false", false),
            ("a:1 application/x sha256:1 incomplete (2/3) 0.5 KiB/1.0 KiB true", false),
            ("a:1 application/x sha256:1 unavailable (0/?) 0.0 B/? false", false),
            ("", false),
        ] {
            assert_eq!(is_whole(line), whole, "{line}");
        }
    }
}
