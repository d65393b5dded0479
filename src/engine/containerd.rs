//! containerd, by `ctr`: `images import -`, `images ls`, `images check`, `images rm`.
//!
//! containerd lists what it does not have: an import that failed leaves the reference behind.
//! `images check` alone says whether an image is whole. A removal asks nobody, so containers are
//! looked at first.

use std::collections::BTreeMap;

use super::adapter::{Engine, Removed, Told, full_name, remove_each};
use super::listing::Reader;
use super::pieces::Form;
use super::program::{Output, Program};
use super::version::Version;
use crate::child::Input;
use crate::child::shown;
use crate::digest::BlobDigest;
use crate::error::EngineError;
use crate::state::{AskedNames, EngineListing, EngineName, EngineSettings};

/// The images that are checked at once: their names are arguments.
const CHECKED_AT_ONCE: usize = 500;

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

    fn check_some(&self, names: &[&str]) -> Result<Vec<Result<(), EngineError>>, EngineError> {
        let engine = self.program.settings().name.as_str();
        let incomplete = |name: &str, reason: &str| {
            Err(EngineError::Incomplete { engine, name: name.to_owned(), reason: shown(reason.trim()) })
        };
        let filters: Vec<String> = names.iter().map(|name| format!("name=={name:?}")).collect();
        let mut arguments = vec!["images", "check"];
        arguments.extend(self.snapshotter());
        arguments.extend(filters.iter().map(String::as_str));
        let output = self.run(&arguments)?;
        let text = output.text();
        let lines: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| Some((line.split_whitespace().next()?, line))).collect();
        let check = |name: &&str| match lines.get(name) {
            Some(line) if is_whole(line) => Ok(()),
            Some(line) => incomplete(name, line),
            None => incomplete(name, "it is not listed"),
        };
        Ok(names.iter().map(check).collect())
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

    /// An import may lose a race against the collection of what was removed just before.
    fn further_tries(&self) -> usize {
        2
    }

    fn list(&self, asked: &AskedNames) -> Result<EngineListing, EngineError> {
        let mut reader = Reader::new(asked, false);
        let arguments = [&self.place()[..], &["images", "ls"]].concat();
        self.version.check_beside(&self.program, || {
            self.program.list(&arguments, Form::Lines, &mut |line| read(line, &mut reader))
        })?;
        Ok(reader.finish())
    }

    fn load(&self, archive: Input<'_>, is_foreign: bool) -> Result<(), EngineError> {
        self.version.check(&self.program)?;
        // Else what is not for this machine is left out.
        let platforms: &[&str] = if is_foreign { &["--all-platforms"] } else { &[] };
        let arguments = [&self.place()[..], &["images", "import"], platforms, &self.snapshotter(), &["-"]];
        self.program.feed(&arguments.concat(), archive)
    }

    fn check(&self, names: &[&str]) -> Result<Vec<Result<(), EngineError>>, EngineError> {
        let mut checked = Vec::new();
        for names in names.chunks(CHECKED_AT_ONCE) {
            checked.extend(self.check_some(names)?);
        }
        Ok(checked)
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

/// Reads an image of the listing: a line with the columns REF TYPE DIGEST SIZE PLATFORMS LABELS.
/// The line above them has no digest.
fn read(line: &[u8], reader: &mut Reader<'_>) -> Result<(), String> {
    let line = String::from_utf8_lossy(line);
    let mut fields = line.split_whitespace();
    match (fields.next(), fields.nth(1).map(BlobDigest::parse)) {
        (Some(name), Some(Ok(digest))) => reader.add([name.to_owned()], [digest]),
        _ => reader.add([], []),
    }
}

/// Reads a line of `images check`: REF TYPE DIGEST STATUS SIZE UNPACKED. STATUS is `complete (3/3)`
/// where every blob is there. An image without layers has its config alone, and is never unpacked.
fn is_whole(line: &str) -> bool {
    let mut fields = line.split_whitespace().skip(3);
    let (status, count) = (fields.next(), fields.next());
    status == Some("complete") && (fields.last() == Some("true") || count == Some("(1/1)"))
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
        let names = ["docker.io/library/a:1".to_owned(), format!("r/b:1@{digest}")];
        let asked = AskedNames::of(&names);
        let mut reader = Reader::new(&asked, false);
        text.split('\n').try_for_each(|line| read(line.as_bytes(), &mut reader)).unwrap();
        let listing = reader.finish();
        assert_eq!(listing.images.len(), 2, "{listing:?}");
        assert_eq!(listing.images["docker.io/library/a:1"], [BlobDigest::parse(&digest).unwrap()].into());
    }

    #[test]
    fn images_are_whole_or_not() {
        for (line, whole) in [
            ("a:1 application/x sha256:1 complete (3/3) 1.0 KiB/1.0 KiB true", true),
            ("a:1 application/x sha256:1 complete (3/3) 1.0 KiB/1.0 KiB false", false),
            ("a:1 application/x sha256:1 incomplete (2/3) 0.5 KiB/1.0 KiB true", false),
            ("a:1 application/x sha256:1 unavailable (0/?) 0.0 B/? false", false),
            ("a:1 application/x sha256:1 complete (1/1) 1.0 KiB/1.0 KiB false", true),
            ("", false),
        ] {
            assert_eq!(is_whole(line), whole, "{line}");
        }
    }
}
