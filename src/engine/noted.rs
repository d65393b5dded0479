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

/// The files of the images of a load, as they are before it.
pub(crate) struct NotedFiles(BTreeMap<PathBuf, Option<Noted>>);

/// A file that an earlier load has noted.
struct Noted {
    stamp: Stamp,
    digest: String,
    /// True if that load went well.
    is_listed: bool,
}

impl NotedFiles {
    /// Makes room for the notes of the files at `paths`.
    pub(crate) fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| (path, None)).collect())
    }

    /// True if there is no file to be noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks at the files of an earlier load as far as they are among those to be noted; not at
    /// those that are gone. The digest of a load that went well counts before that of one that did
    /// not.
    pub(crate) fn add(&mut self, row: LoadedReference) {
        let is_listed = row.listed.is_some();
        for file in row.files {
            if let Some(noted) = self.0.get_mut(&file.path)
                && noted.as_ref().is_none_or(|noted| is_listed && !noted.is_listed)
                && let Some(stamp) = Stamp::at(&file.path)
            {
                *noted = Some(Noted { stamp, digest: file.digest, is_listed });
            }
        }
    }

    /// Lets those of `files` that a load found there, and did not make, have the digests that were
    /// noted of them.
    pub(crate) fn correct(&self, files: &mut [EngineFile]) {
        for file in files {
            if let Some(Some(noted)) = self.0.get(&file.path)
                && Stamp::at(&file.path) == Some(noted.stamp)
            {
                file.digest.clone_from(&noted.digest);
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
        let [kept, made, gone, other] =
            ["kept", "made", "gone", "other"].map(|name| directory.path().join(name));
        for path in [&kept, &made, &other] {
            fs::write(path, "old").unwrap();
        }
        let files = [(&*kept, "as noted"), (&*made, "as noted"), (&*gone, "as noted"), (&*other, "x")];
        let failed = [(&*kept, "as noted when a load failed")];
        let mut noted = NotedFiles::of([&kept, &made, &gone].map(Clone::clone));
        for row in [row(&failed, false), row(&files, true), row(&failed, false)] {
            noted.add(row);
        }
        assert_eq!(noted.0.len(), 3, "another image's file is nothing to this load");
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
