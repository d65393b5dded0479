//! Homes that share a directory of layers: each has a claim there, by which the others know whose
//! needs to ask for.
//!
//! A claim is bound to the home itself, not to its path: it goes by an identifier that lies in the
//! home, in `.msb-sync.id`, beside what tells that directory from others ([`sys::lasting_mark`]).
//! So a home that was renamed keeps its claim, a copy of one gets an identifier of its own, and a
//! home that another container has under the same path is another one. What a claimed home needs
//! that cannot be found (not mounted, moved, of another container) nobody knows: then every layer
//! may be needed.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::Store;
use super::directories;
use super::names::{FILE_MODE, HOMES};
use super::places::Places;
use crate::digest::{Algorithm, BlobDigest};
use crate::error::StoreError;
use crate::locked_home::LockedHome;
use crate::sys;

/// The file in a home that holds its identifier.
const NAME: &[u8] = b".msb-sync.id";
/// The bytes of that file that are read.
const MAX_LENGTH: u64 = 4096;
/// The identifiers of former homes that are kept.
const MAX_FORMER: usize = 32;
/// The hexadecimal digits of an identifier. A claim by path, as earlier versions made them, has 64.
const DIGITS: usize = 32;

/// The claim of a home on a directory of layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The path of the home when it made the claim last.
    pub home: PathBuf,
    /// The claim itself: a symlink to the home.
    pub path: PathBuf,
    /// The home's identifier; `None` for a claim by path.
    id: Option<String>,
}

impl Claim {
    /// True if the home that made the claim is where it was then.
    pub(crate) fn is_found(&self) -> bool {
        match &self.id {
            // A copy knows what its original needed as well as anybody.
            Some(id) => HomeId::read(&self.home).is_some_and(|found| found.id == *id),
            None => self.home.is_dir(),
        }
    }
}

/// A home's identifier, as its file says.
struct HomeId {
    id: String,
    /// True if the file was written for this very directory, rather than copied into it.
    is_here: bool,
    /// The identifiers of the homes that this one was copied from, one after the other.
    former: Vec<String>,
}

impl HomeId {
    fn read(home: &Path) -> Option<Self> {
        let directory = sys::open_directory(home).ok()?;
        let text = sys::read_own_file(directory.as_fd(), NAME, MAX_LENGTH).ok()?;
        let text = String::from_utf8(text).ok()?;
        let valid = |id: &str| id.len() == DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut lines = text.lines();
        let (id, mark) = lines.next()?.split_once(' ').filter(|(id, _)| valid(id))?;
        let is_here = own_mark(&directory).is_ok_and(|own| own == mark);
        let former = lines.filter(|line| valid(line)).map(str::to_owned).collect();
        Some(Self { id: id.to_owned(), is_here, former })
    }

    /// Reads the identifier of a home, which gets one if it has none of its own. Its lock must be
    /// held. The name of the file is not synced.
    fn establish(home: &Path) -> io::Result<String> {
        let old = Self::read(home);
        let mut former = match old {
            Some(old) if old.is_here => return Ok(old.id),
            Some(old) => [vec![old.id], old.former].concat(),
            None => Vec::new(),
        };
        former.truncate(MAX_FORMER);
        let random = || RandomState::new().hash_one(std::process::id());
        let id = format!("{:016x}{:016x}", random(), random());
        let directory = sys::open_directory(home)?;
        let first = format!("{id} {}", own_mark(&directory)?);
        let text = [vec![first], former].concat().join("\n") + "\n";
        // By hand: `tempfile` would leave its file behind when the process is killed.
        let fresh = [NAME, b".new"].concat();
        let _ = sys::remove_file(directory.as_fd(), &fresh);
        let mut file = sys::make_own_file(directory.as_fd(), &fresh, FILE_MODE)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        sys::rename_over(directory.as_fd(), &fresh, directory.as_fd(), NAME)?;
        Ok(id)
    }
}

/// Marks a home, so that it can be told from others. Its time of modification would not do.
fn own_mark(home: &OwnedFd) -> io::Result<String> {
    sys::lasting_mark(home.as_fd())
}

/// Notes that the catalog of the store's home may need layers in here, since several homes may
/// share them.
///
/// # Errors
/// The note cannot be written.
pub(crate) fn claim(store: &Store) -> Result<(), StoreError> {
    let (locked, home) = (store.home(), store.home().path());
    let directory = store.places.private.join(HOMES);
    let opened = directories::make_private(&directory, &mut locked.unsynced())?;
    let id = HomeId::establish(home).map_err(StoreError::io("write the identifier of", home))?;
    let path = directory.join(&id);
    let failed = || StoreError::io("create", &path);
    if fs::read_link(&path).is_ok_and(|target| target == home) {
        // Whoever made the claim may have been killed before it was durable.
        return locked.unsynced().note(opened.as_fd()).map_err(failed());
    }
    // No claim may outlive the identifier that it goes by: nobody would ever find its home. Nor may
    // what is recorded outlive directories that a run has made which was killed before its claim.
    for place in [Some(home), store.layers().parent(), store.places.private.parent(), directory.parent()] {
        note_names_in(locked, place.unwrap_or(Path::new("/")))?;
    }
    locked.settle().map_err(StoreError::io("sync", home))?;
    let fresh = format!("{id}.new").into_bytes();
    let _ = sys::remove_file(opened.as_fd(), &fresh);
    let home_bytes = home.as_os_str().as_encoded_bytes();
    sys::make_symlink(opened.as_fd(), &fresh, home_bytes).map_err(failed())?;
    sys::rename_over(opened.as_fd(), &fresh, opened.as_fd(), id.as_bytes()).map_err(failed())?;
    // By path, as earlier versions claimed: now said better.
    let by_path = BlobDigest::of(Algorithm::Sha256, home_bytes);
    let _ = sys::remove_file(opened.as_fd(), by_path.text().hex().as_bytes());
    // Before anything is recorded that needs these layers: else a power loss leaves them to other
    // homes.
    locked.unsynced().note(opened.as_fd()).map_err(failed())?;
    locked.settle().map_err(StoreError::io("sync", &directory))
}

fn note_names_in(home: &LockedHome, directory: &Path) -> Result<(), StoreError> {
    let noted = sys::locate_directory(directory).and_then(|found| home.unsynced().note(found.as_fd()));
    noted.map_err(StoreError::io("open", directory))
}

/// Lists the claims of other homes than `home` whose catalogs may need these layers, as [`claim`]
/// noted them. Those of the homes that `home` was copied from count no more where the layers were
/// copied with it.
///
/// # Errors
/// The directory cannot be read; one that does not exist holds none.
pub(crate) fn claims_of_others(places: &Places, home: &Path) -> Result<Vec<Claim>, StoreError> {
    let directory = places.private.join(HOMES);
    let own = HomeId::read(home);
    let real = |path: &Path| fs::canonicalize(path).ok();
    let copied_with_home =
        real(home).is_some_and(|home| real(&places.private).is_some_and(|private| private.starts_with(home)));
    let is_own = |claim: &Claim| match (&claim.id, &own) {
        (Some(id), Some(own)) => {
            // An identifier that was copied is the original's.
            let was = copied_with_home && (own.former.contains(id) || own.id == *id);
            was || (own.is_here && own.id == *id)
        }
        (Some(_), None) => false,
        (None, _) => claim.home == home,
    };
    let claim = |name: String| {
        let path = directory.join(&name);
        // A name of another form is one on its way.
        let id = match name.len() {
            DIGITS => Some(name),
            64 => None,
            _ => return None,
        };
        Some(Claim { home: fs::read_link(&path).ok()?, path, id })
    };
    let claims = places.private_names(HOMES)?.into_iter().filter_map(claim);
    Ok(claims.filter(|claim| !is_own(claim)).collect())
}
