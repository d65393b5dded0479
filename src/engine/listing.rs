//! Reading listings: of all that an engine lists, only the names that somebody asked about stay in
//! memory, and only so many.

use std::collections::BTreeSet;

use crate::digest::BlobDigest;
use crate::state::{AskedNames, EngineListing};

/// The images, and their names, that are looked at; ten times as many as 32 MiB of honest ones are.
const MAX_LOOKED_AT: usize = 500_000;
/// The names that are kept of repositories whose every name is asked about.
const MAX_OF_REPOSITORIES: usize = 50_000;
/// The digests that are kept of one name: an image has that of its manifest, and of its indexes.
const MAX_DIGESTS: usize = 64;

/// A listing that is being read.
pub(super) struct Reader<'a> {
    asked: &'a AskedNames,
    listing: EngineListing,
    looked_at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(asked: &'a AskedNames, by_config: bool) -> Self {
        Self { asked, listing: EngineListing { by_config, ..EngineListing::default() }, looked_at: 0 }
    }

    /// Adds an image, by the names that the engine has for it, in the full form.
    ///
    /// # Errors
    /// There are more than anybody reads.
    pub(super) fn add(
        &mut self,
        names: impl IntoIterator<Item = String>,
        digests: impl IntoIterator<Item = BlobDigest>,
    ) -> Result<(), String> {
        let digests: BTreeSet<BlobDigest> = digests.into_iter().take(MAX_DIGESTS).collect();
        self.count()?;
        for name in names {
            self.count()?;
            if !self.asked.has(&name) {
                continue;
            }
            let found = self.listing.images.entry(name).or_default();
            let room = MAX_DIGESTS.saturating_sub(found.len());
            found.extend(digests.iter().take(room).cloned());
            if self.listing.images.len() > MAX_OF_REPOSITORIES + self.asked.names.len() {
                return Err(format!(
                    "more than {MAX_OF_REPOSITORIES} images of the repositories asked about"
                ));
            }
        }
        Ok(())
    }

    /// Returns what was asked about.
    pub(super) fn finish(self) -> EngineListing {
        self.listing
    }

    fn count(&mut self) -> Result<(), String> {
        self.looked_at += 1;
        if self.looked_at > MAX_LOOKED_AT {
            return Err(format!("more than {MAX_LOOKED_AT} images and names"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_keeps_what_was_not_asked_about() {
        let digest = |letter: &str| BlobDigest::parse(&format!("sha256:{}", letter.repeat(64))).unwrap();
        let names = ["docker.io/library/alpine:3", "r.example/a@"].map(str::to_owned).into();
        let asked = AskedNames { names, repositories: ["r.example:5000/b".to_owned()].into() };
        let mut reader = Reader::new(&asked, false);
        let of_repository = ["r.example:5000/b", "r.example:5000/b:1"];
        for name in [&["docker.io/library/alpine:3", "r.example:5000/bb:1", "x"], &of_repository[..]].concat()
        {
            reader.add([name.to_owned()], [digest("a")]).unwrap();
        }
        reader.add(["docker.io/library/alpine:3".to_owned()], [digest("b")]).unwrap();
        let listing = reader.finish();
        assert_eq!(listing.images["docker.io/library/alpine:3"], [digest("a"), digest("b")].into());
        let names: Vec<&str> = listing.images.keys().map(String::as_str).collect();
        assert_eq!(names, [&["docker.io/library/alpine:3"], &of_repository[..]].concat());
    }

    #[test]
    fn a_listing_has_bounds() {
        let asked = AskedNames { repositories: ["r.example/b".to_owned()].into(), ..AskedNames::default() };
        let mut reader = Reader::new(&asked, false);
        let mut add = |number: usize| reader.add([format!("r.example/b:{number}")], []);
        (0..MAX_OF_REPOSITORIES).try_for_each(&mut add).unwrap();
        add(MAX_OF_REPOSITORIES).unwrap_err();
        let mut reader = Reader::new(&asked, false);
        let added = (0..=MAX_LOOKED_AT).try_for_each(|_| reader.add([], []));
        assert_eq!(added.unwrap_err(), "more than 500000 images and names");
    }
}
