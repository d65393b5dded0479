//! Digests of engines' own files, as they were noted after earlier loads. An engine takes a file
//! that is there for a good one, and its content may be damaged by now.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::state::{EngineFile, LoadedReference};

/// A file as it is at one time: device, inode, size, and the times of its last changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([i64; 4], [u64; 3]);

impl Stamp {
    pub(super) fn of(found: &Metadata) -> Self {
        let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
        Self(times, [found.dev(), found.ino(), found.size()])
    }

    fn at(path: &Path) -> Option<Self> {
        path.symlink_metadata().ok().as_ref().map(Self::of)
    }
}

/// The files that were noted, as they are before a load.
#[derive(Default)]
pub(crate) struct NotedFiles(BTreeMap<PathBuf, (Stamp, String)>);

impl NotedFiles {
    /// Looks at the files of `rows`; those that are gone are forgotten.
    pub(crate) fn of<'r>(rows: impl Iterator<Item = &'r LoadedReference>) -> Self {
        let mut noted = BTreeMap::new();
        // The digest of a load that went well counts before that of one that did not.
        let mut rows: Vec<&LoadedReference> = rows.collect();
        rows.sort_by_key(|row| row.listed.is_none());
        for file in rows.into_iter().flat_map(|row| &row.files) {
            if !noted.contains_key(&file.path)
                && let Some(stamp) = Stamp::at(&file.path)
            {
                noted.insert(file.path.clone(), (stamp, file.digest.clone()));
            }
        }
        Self(noted)
    }

    /// Lets those of `files` that a load found there, and did not make, have the digests that were
    /// noted of them.
    pub(crate) fn correct(&self, files: &mut [EngineFile]) {
        for file in files {
            if let Some((stamp, digest)) = self.0.get(&file.path)
                && Stamp::at(&file.path) == Some(*stamp)
            {
                file.digest.clone_from(digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::digest::{Algorithm, BlobDigest};
    use crate::image_ref::ImageRef;
    use crate::state::{EngineName, EngineSettings, Owner};

    fn row(files: &[(&Path, &str)], is_listed: bool) -> LoadedReference {
        let manifest = BlobDigest::of(Algorithm::Sha256, b"manifest");
        let file = |(path, digest): &(&Path, &str)| EngineFile {
            path: (*path).to_owned(),
            digest: (*digest).to_owned(),
        };
        LoadedReference {
            owner: Owner::pull(),
            engine: EngineSettings::new(EngineName::Microsandbox),
            name: "r.test/a:1".to_owned(),
            reference: ImageRef::parse("r.test/a:1", "docker.io").unwrap(),
            listed: is_listed.then(|| manifest.clone()),
            manifest,
            former: None,
            files: files.iter().map(file).collect(),
            wanted: true,
        }
    }

    #[test]
    fn a_file_that_a_load_made_is_what_it_is_now() {
        let directory = tempfile::tempdir().unwrap();
        let [kept, made, gone] = ["kept", "made", "gone"].map(|name| directory.path().join(name));
        for path in [&kept, &made] {
            fs::write(path, "old").unwrap();
        }
        let noted = [(&*kept, "as noted"), (&*made, "as noted"), (&*gone, "as noted")];
        let failed = [(&*kept, "as noted when a load failed")];
        let noted = NotedFiles::of([row(&failed, false), row(&noted, true)].iter());
        fs::remove_file(&made).unwrap();
        for path in [&made, &gone] {
            fs::write(path, "new").unwrap();
        }
        let mut now = row(&[(&kept, "now"), (&made, "now"), (&gone, "now")], true).files;
        noted.correct(&mut now);
        let digests: Vec<&str> = now.iter().map(|file| &*file.digest).collect();
        assert_eq!(digests, ["as noted", "now", "now"]);
    }
}
