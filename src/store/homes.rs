//! Homes that share a directory of layers: each has a claim there, by which the others know whose
//! needs to ask for.
//!
//! A claim is a symlink to the home, and goes by an identifier that lies in the home, in
//! `.msb-sync.id`, beside what tells that directory from others ([`sys::lasting_mark`]). So a home
//! that was renamed keeps its claim, a copy of one gets an identifier of its own, and a home that
//! another container has under the same path is another one.
//!
//! Nobody but the home that made a claim takes it away: see [`Claimant::made`]. All others are
//! those of other homes, which are asked. What one needs that is not where its claim leads (not
//! mounted, moved, of another container) nobody knows, and every layer may be needed. A home that
//! was put back from a backup is no proof that the one which it replaced is gone: a user who knows
//! that takes the claim away.
//!
//! A clone of a whole disk has the same marks. Once it sees its original, where their claim leads,
//! it gets an identifier of its own too; before, they are one home.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use super::directories;
use super::names::{FILE_MODE, HOMES};
use super::places::Places;
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
/// The end of the name of a claim's witness: a symlink beside it whose text is the marks of the
/// home that the claim was made for, and of the directory that it was made in. By it a home knows
/// its claim when it has lost its identifier, and a claim that was copied with the layers.
const WITNESS: &str = ".made-for";
/// The text between the marks of a witness.
const IN: &str = " in ";

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
    /// Finds the claim of the home with the identifier `id`; one that is still to be made leads
    /// nowhere.
    fn by(directory: &Path, id: String) -> Self {
        let path = directory.join(&id);
        Self { home: fs::read_link(&path).unwrap_or_default(), path, id: Some(id) }
    }

    /// True if the home that made the claim is where it was then.
    pub(crate) fn is_found(&self) -> bool {
        match &self.id {
            // A copy in its place may be older, and not know all that its original needs.
            Some(id) => HomeId::read(&self.home).is_some_and(|found| found.is_here && found.id == *id),
            None => self.home.is_dir(),
        }
    }

    /// True if the home that made the claim is another one than `home`, whatever its identifier.
    fn is_found_elsewhere(&self, home: &Path) -> bool {
        !self.leads_to(home) && self.is_found()
    }

    /// True if the path of the claim leads to `home`, whoever made it.
    pub(crate) fn leads_to(&self, home: &Path) -> bool {
        sys::is_one_directory(&self.home, home) == Some(true)
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
        let is_here = sys::lasting_mark(directory.as_fd()).is_ok_and(|own| own == mark);
        let former = lines.filter(|line| valid(line)).map(str::to_owned).collect();
        Some(Self { id: id.to_owned(), is_here, former })
    }

    /// Reads the identifier of a home, which gets one if it has none of its own. Its lock must be
    /// held. The name of the file is not synced.
    fn establish(home: &Path) -> io::Result<String> {
        match Self::read(home) {
            Some(old) if old.is_here => Ok(old.id),
            _ => Self::renew(home),
        }
    }

    /// Gives a home a new identifier, as [`establish`](Self::establish) does. The one that is there
    /// is another home's, which this one is a copy of.
    fn renew(home: &Path) -> io::Result<String> {
        let old = Self::read(home);
        let mut former = old.map(|old| [vec![old.id], old.former].concat()).unwrap_or_default();
        former.truncate(MAX_FORMER);
        let random = || RandomState::new().hash_one(std::process::id());
        let id = format!("{:016x}{:016x}", random(), random());
        let directory = sys::open_directory(home)?;
        let first = format!("{id} {}", sys::lasting_mark(directory.as_fd())?);
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

/// Marks a directory, so that it can be told from others. Its time of modification would not do.
fn mark_of(directory: &Path) -> io::Result<String> {
    sys::lasting_mark(sys::open_directory(directory)?.as_fd())
}

/// Reads the marks of the home that a claim was made for, and of the directory that it was made in;
/// `None` for one of an earlier version.
fn witness(claim: &Path) -> Option<(String, String)> {
    let mut path = claim.as_os_str().to_owned();
    path.push(WITNESS);
    let text = fs::read_link(path).ok()?.into_os_string().into_string().ok()?;
    text.split_once(IN).map(|(home, made_in)| (home.to_owned(), made_in.to_owned()))
}

/// True if both marks are of one directory, and no other.
fn is_same(mark: &str, directory: &Path) -> bool {
    is_certain(mark) && mark_of(directory).is_ok_and(|own| own == mark)
}

/// True if a mark is of one directory only.
fn is_certain(mark: &str) -> bool {
    !mark.contains("inode -") && !mark.ends_with("made -")
}

/// A home that looks for its own claims on a directory of layers.
struct Claimant<'h> {
    home: &'h Path,
    id: Option<HomeId>,
    /// True if the layers lie in the home, and are copied with it.
    has_layers: bool,
}

impl<'h> Claimant<'h> {
    fn of(places: &Places, home: &'h Path) -> Self {
        let real = |path: &Path| fs::canonicalize(path).ok();
        let has_layers = real(home)
            .is_some_and(|home| real(&places.private).is_some_and(|private| private.starts_with(home)));
        Self { home, id: HomeId::read(home), has_layers }
    }

    /// True if this home made a claim, now or before, so that it may take it away:
    ///
    /// - one by the identifier that it has for good;
    /// - one by an identifier that it has lost, made for this very directory, and leading here;
    /// - one by an identifier that came with a copy, if the layers lie in the home and the claim
    ///   was copied with them. Else it is the original's;
    /// - one by this very path, as earlier versions made them. They knew no better.
    fn made(&self, claim: &Claim) -> bool {
        let Some(id) = &claim.id else { return claim.home == self.home };
        let is_copied = self.id.as_ref().is_some_and(|own| own.id == *id || own.former.contains(id));
        self.goes_by(claim) || if is_copied { self.has_copied(claim) } else { self.has_lost(claim) }
    }

    /// True if a claim goes by the identifier that this home has for good.
    fn goes_by(&self, claim: &Claim) -> bool {
        let is_own = self.id.as_ref().is_some_and(|own| own.is_here && claim.id.as_ref() == Some(&own.id));
        is_own && !claim.is_found_elsewhere(self.home)
    }

    /// True if a claim was copied with the layers in this home. An original that shares them since
    /// has made its claim here.
    fn has_copied(&self, claim: &Claim) -> bool {
        let here = mark_of(claim.path.parent().unwrap_or(Path::new("/")));
        // In doubt the claim stays.
        let may_be_here = |made_in: &str| here.as_ref().map_or(true, |here| here == made_in);
        self.has_layers && !witness(&claim.path).is_some_and(|(_, made_in)| may_be_here(&made_in))
    }

    /// True if this home made a claim by an identifier that it has lost since.
    fn has_lost(&self, claim: &Claim) -> bool {
        claim.leads_to(self.home) && witness(&claim.path).is_some_and(|(mark, _)| is_same(&mark, self.home))
    }
}

/// Notes that the catalog of `locked` may need the layers in these places, since several homes may
/// share them, and takes back what it has claimed before. The lock of the layers must be held.
///
/// # Errors
/// The note cannot be written.
pub(super) fn claim(locked: &LockedHome, places: &Places) -> Result<(), StoreError> {
    let home = locked.path();
    let directory = places.private.join(HOMES);
    let opened = directories::make_private(&directory, &mut locked.unsynced())?;
    let failed = || StoreError::io("write the identifier of", home);
    let marks = (mark_of(home).map_err(failed())?, sys::lasting_mark(opened.as_fd()).map_err(failed())?);
    let mut own = Claim::by(&directory, HomeId::establish(home).map_err(failed())?);
    if own.is_found_elsewhere(home) {
        own = Claim::by(&directory, HomeId::renew(home).map_err(failed())?);
    }
    let (path, is_right) = (&own.path, own.leads_to(home));
    let failed = || StoreError::io("create", path);
    let id = own.id.as_deref().unwrap_or_default();
    if !is_right || witness(path).as_ref() != Some(&marks) {
        // Without it the claim counts as another home's, should this one lose its identifier.
        let text = [&*marks.0, IN, &*marks.1].concat();
        let _ = write_link(opened.as_fd(), &format!("{id}{WITNESS}"), text.as_bytes());
    }
    if is_right {
        // Whoever made the claim may have been killed before it was durable.
        locked.unsynced().note(opened.as_fd()).map_err(failed())?;
    } else {
        // No claim may outlive the identifier that it goes by: nobody would ever find its home. Nor
        // may what is recorded outlive directories that a run has made which was killed before its
        // claim.
        for place in [Some(home), places.layers.parent(), places.private.parent(), directory.parent()] {
            note_names_in(locked, place.unwrap_or(Path::new("/")))?;
        }
        locked.settle().map_err(StoreError::io("sync", home))?;
        write_link(opened.as_fd(), id, home.as_os_str().as_encoded_bytes()).map_err(failed())?;
        // Before anything is recorded that needs these layers: else a power loss leaves them to
        // other homes.
        locked.unsynced().note(opened.as_fd()).map_err(failed())?;
        locked.settle().map_err(StoreError::io("sync", &directory))?;
    }
    let claimant = Claimant::of(places, home);
    let is_former = |claim: &Claim| claimant.made(claim) && !claimant.goes_by(claim);
    for former in claims_in(places)?.into_iter().filter(is_former) {
        // One that stays is tried again by the next run.
        let _ = fs::remove_file(&former.path);
    }
    sweep(places)
}

/// Removes what lies beside claims that are no more: their witnesses, and what killed runs left.
fn sweep(places: &Places) -> Result<(), StoreError> {
    let names = places.private_names(HOMES)?;
    let beside = |name: &String| name.split_once('.').map(|(id, _)| id.to_owned());
    let is_left = |id: String| id.len() == DIGITS && !names.contains(&id);
    for name in names.iter().filter(|name| beside(name).is_some_and(is_left)) {
        let _ = fs::remove_file(places.private.join(HOMES).join(name));
    }
    Ok(())
}

/// Makes the symlink `name`, in place of one that is there.
fn write_link(directory: BorrowedFd<'_>, name: &str, text: &[u8]) -> io::Result<()> {
    let fresh = format!("{name}.new").into_bytes();
    let _ = sys::remove_file(directory, &fresh);
    sys::make_symlink(directory, &fresh, text)?;
    sys::rename_over(directory, &fresh, directory, name.as_bytes())
}

fn note_names_in(home: &LockedHome, directory: &Path) -> Result<(), StoreError> {
    let noted = sys::locate_directory(directory).and_then(|found| home.unsynced().note(found.as_fd()));
    noted.map_err(StoreError::io("open", directory))
}

/// True if others find `home` by its claim on these layers, and look for it by no other one; or if
/// no run was ever here. A claim is missing where somebody removed it, and leads elsewhere where
/// the home was moved.
pub(crate) fn is_claimed(places: &Places, home: &Path) -> bool {
    if fs::symlink_metadata(&places.private).is_err() {
        return true;
    }
    // Whoever has to change something in a place that cannot be read tells of it.
    let Ok(mut claims) = claims_in(places) else { return true };
    let claimant = Claimant::of(places, home);
    claims.retain(|claim| claimant.made(claim));
    matches!(&claims[..], [claim] if claimant.goes_by(claim) && claim.leads_to(home))
}

/// Lists the claims of other homes than `home` whose catalogs may need these layers.
///
/// # Errors
/// The directory cannot be read; one that does not exist holds none.
pub(crate) fn claims_of_others(places: &Places, home: &Path) -> Result<Vec<Claim>, StoreError> {
    let claimant = Claimant::of(places, home);
    let mut claims = claims_in(places)?;
    claims.retain(|claim| !claimant.made(claim));
    Ok(claims)
}

/// Lists all claims on these layers.
fn claims_in(places: &Places) -> Result<Vec<Claim>, StoreError> {
    let directory = places.private.join(HOMES);
    let claim = |name: String| {
        let path = directory.join(&name);
        // A name of another form is one on its way, or that of a witness.
        let id = match name.len() {
            DIGITS => Some(name),
            64 => None,
            _ => return None,
        };
        Some(Claim { home: fs::read_link(&path).ok()?, path, id })
    };
    Ok(places.private_names(HOMES)?.into_iter().filter_map(claim).collect())
}
