//! The layers that recorded images need, ours or microsandbox's.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Result, Row};

use super::directories::{all, resolved};
use super::holdings::{self, holders};
use super::past::{self, Spared};
use super::rows::{NameRow, OUR_USERS, THEIR_LAYERS, THEIR_USERS, parse_name, texts};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{Owner, SparedImage};
use crate::sys;

/// The layers that we have recorded of an image.
const LAYERS_OF: &str = "SELECT digest FROM sync_image_layers WHERE reference = ?1";

/// The images that are about to be given up, of which nothing is recorded yet.
#[derive(Clone, Copy, Debug)]
pub struct GivenUp<'a> {
    /// The images that go, second names or not.
    pub images: &'a BTreeSet<ImageRef>,
    /// The owner who gives up images that may stay for others, with these images: what nobody else
    /// wants of them is not needed. `None`: no owner leaves images to others.
    pub by: Option<(&'a Owner, &'a BTreeSet<ImageRef>)>,
    /// The owner whose file says now how many earlier digests of each image are to be spared.
    pub keeps: Option<(&'a Owner, u32)>,
}

impl<'a> From<&'a BTreeSet<ImageRef>> for GivenUp<'a> {
    fn from(images: &'a BTreeSet<ImageRef>) -> Self {
        Self { images, by: None, keeps: None }
    }
}

impl GivenUp<'_> {
    /// True if `owner` is about to give up the image `name`.
    pub(super) fn leaves(&self, owner: &Owner, name: &str) -> bool {
        self.by.is_some_and(|(leaving, names)| {
            leaving == owner && parse_name(name).is_some_and(|name| names.contains(&name))
        })
    }
}

/// The layers that anything but `inside` needs.
///
/// A layer that microsandbox lists and that no image uses counts as needed: microsandbox may be in
/// the middle of pulling it. A second name that nobody owns goes with its image, unless
/// microsandbox had it before.
pub(super) fn layers_needed_outside(
    conn: &Connection,
    inside: GivenUp<'_>,
    now: Timestamp,
) -> Result<BTreeSet<BlobDigest>> {
    let inside_names = without_layers(conn, inside)?;
    let spared = spared_layers(conn, inside, now)?;
    let mut candidates: BTreeSet<String> = BTreeSet::new();
    for name in &inside_names {
        candidates.extend(texts(conn, LAYERS_OF, name)?);
        candidates.extend(texts(conn, THEIR_LAYERS, name)?);
    }
    let mut only_inside: BTreeSet<String> = BTreeSet::new();
    for digest in candidates {
        if !used_outside(conn, &digest, &inside_names)? {
            only_inside.insert(digest);
        }
    }

    // Both in digest order and without repeats, so that one pass finds what only our rows list and
    // the set is built from sorted runs: this is the one query of a run that grows with the
    // catalog.
    let mut needed: Vec<BlobDigest> = Vec::new();
    for_each_digest(conn, "SELECT digest FROM layers ORDER BY digest", |digest| {
        if !only_inside.contains(digest) {
            needed.extend(BlobDigest::parse(digest).ok());
        }
    })?;
    let listed = needed.len();
    let mut place = 0;
    for_each_digest(conn, "SELECT digest FROM sync_image_layers ORDER BY digest", |digest| {
        while needed.get(place).filter(|_| place < listed).is_some_and(|other| *other.text() < *digest) {
            place += 1;
        }
        let found = place < listed && needed.get(place).is_some_and(|other| other.text() == digest);
        if !found && !only_inside.contains(digest) {
            needed.extend(BlobDigest::parse(digest).ok());
        }
    })?;
    let mut needed: BTreeSet<BlobDigest> = needed.into_iter().collect();
    needed.extend(spared.into_keys());
    Ok(needed)
}

/// The layers of earlier images of references outside `inside` that are spared, and of staged ones.
fn spared_layers(conn: &Connection, inside: GivenUp<'_>, now: Timestamp) -> Result<Spared> {
    let names = with_second_names(conn, names_of(inside))?;
    past::spared_layers(conn, &names, (&leaves(inside), inside.keeps), now)
}

/// The blobs that images outside `inside` keep, spared ones included.
pub(super) fn blobs_needed_outside(
    conn: &Connection,
    inside: GivenUp<'_>,
    now: Timestamp,
) -> Result<BTreeSet<BlobDigest>> {
    let names = with_second_names(conn, names_of(inside))?;
    let mut needed = holdings::kept_blobs_outside(conn, &names, &leaves(inside))?;
    needed.extend(past::spared_blobs(conn, &names, (&leaves(inside), inside.keeps), now)?);
    Ok(needed)
}

/// The images that are spared, but for those of `inside`.
pub(super) fn spared(conn: &Connection, inside: GivenUp<'_>, now: Timestamp) -> Result<Vec<SparedImage>> {
    let names = with_second_names(conn, names_of(inside))?;
    past::spared(conn, &names, (&leaves(inside), inside.keeps), now)
}

fn names_of(inside: GivenUp<'_>) -> BTreeSet<String> {
    inside.images.iter().map(ToString::to_string).collect()
}

fn leaves(inside: GivenUp<'_>) -> impl Fn(&Owner, &str) -> bool {
    move |owner, name| inside.leaves(owner, name)
}

/// The names that need no layers: those of `inside`, and those of images of which no owner wants
/// layers and that microsandbox did not have before.
fn without_layers(conn: &Connection, inside: GivenUp<'_>) -> Result<BTreeSet<String>> {
    let mut names = names_of(inside);
    for name in holdings::unextracted(conn, &leaves(inside))? {
        if NameRow::of(conn, &name)?.is_some_and(|row| !row.preexisting) {
            names.insert(name);
        }
    }
    with_second_names(conn, names)
}

/// Adds the second names that nobody owns, and that microsandbox did not have before.
fn with_second_names(conn: &Connection, mut names: BTreeSet<String>) -> Result<BTreeSet<String>> {
    let mut seconds = Vec::new();
    for name in &names {
        for second in texts(conn, "SELECT reference FROM sync_images WHERE alias_of = ?1", name)? {
            let claimed = NameRow::of(conn, &second)?.is_none_or(|row| row.preexisting);
            if !claimed && holders(conn, &second)?.owners.is_empty() {
                seconds.push(second);
            }
        }
    }
    names.extend(seconds);
    Ok(names)
}

/// Calls `visit` with each distinct text of a sorted column.
fn for_each_digest(conn: &Connection, sql: &str, mut visit: impl FnMut(&str)) -> Result<()> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut last = String::new();
    while let Some(row) = rows.next()? {
        if let Ok(digest) = row.get_ref(0)?.as_str()
            && digest != last
        {
            visit(digest);
            last.clear();
            last.push_str(digest);
        }
    }
    Ok(())
}

fn used_outside(conn: &Connection, digest: &str, inside: &BTreeSet<String>) -> Result<bool> {
    for sql in [OUR_USERS, THEIR_USERS] {
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query([digest])?;
        while let Some(row) = rows.next()? {
            // A name that is not even text is nobody's to give up.
            if !row.get_ref(0)?.as_str().is_ok_and(|name| inside.contains(name)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The question whether the layer is certainly in the directory that an image has its layers in,
/// and that this is another one than the one asked about.
pub(crate) type IsElsewhere<'e> = &'e mut dyn FnMut(&Path, &BlobDigest) -> bool;

/// Takes from `needed` what every image outside `inside` that needs it has elsewhere than in
/// `directory`. Images that microsandbox recorded by itself, and layers without a known user, are
/// in `default`.
pub(super) fn retain_needed_in(
    conn: &Connection,
    home: &Path,
    (directory, default, is_elsewhere): (&Path, &Path, IsElsewhere<'_>),
    (inside, now): (GivenUp<'_>, Timestamp),
    needed: &mut BTreeSet<BlobDigest>,
) -> Result<()> {
    let is_here = |other: &Path| sys::is_one_directory(other, directory);
    if all(conn, home)?.iter().all(|other| is_here(other) == Some(true)) {
        return Ok(());
    }
    let spared = spared_layers(conn, inside, now)?;
    let inside = without_layers(conn, inside)?;
    // In a home without a directory of layers microsandbox has none.
    let is_default = is_here(default).unwrap_or_else(|| sys::directory_id(default).is_err());
    let mut elsewhere = Vec::new();
    for digest in &*needed {
        let mut users: BTreeSet<String> = texts(conn, OUR_USERS, &digest.text())?.into_iter().collect();
        users.extend(texts(conn, THEIR_USERS, &digest.text())?);
        users.retain(|user| !inside.contains(user));
        let users = users.iter().map(|user| (user, false));
        let mut wanting =
            users.chain(spared.get(digest).into_iter().flatten().map(|name| (name, true))).peekable();
        let mut may_be_here = wanting.peek().is_none() && is_default;
        for (name, is_spared) in wanting {
            may_be_here |= match directory_of(conn, home, name)? {
                Whereabouts::In(theirs) => {
                    // An image that moves leaves its earlier layers behind. Those that it has now
                    // tell that its directory is the one that it has moved to.
                    let present = if is_spared { texts(conn, LAYERS_OF, name)? } else { Vec::new() };
                    let mut present = present.iter().filter_map(|text| BlobDigest::parse(text).ok());
                    let has_moved = present.any(|digest| is_elsewhere(&theirs, &digest));
                    !has_moved && !is_elsewhere(&theirs, digest)
                }
                Whereabouts::Default => is_default,
                Whereabouts::Unknown => is_spared || is_default,
            };
        }
        if !may_be_here {
            elsewhere.push(digest.clone());
        }
    }
    for digest in elsewhere {
        needed.remove(&digest);
    }
    Ok(())
}

/// The directory in which an image has its layers.
enum Whereabouts {
    /// The one that is recorded.
    In(PathBuf),
    /// The one of a home, as none is recorded.
    Default,
    /// Nobody knows: the image is microsandbox's, or is ready and not recorded yet.
    Unknown,
}

fn directory_of(conn: &Connection, home: &Path, name: &str) -> Result<Whereabouts> {
    let sql = "SELECT layers_directory FROM sync_images WHERE reference = ?1";
    let stored = |row: &Row<'_>| {
        let stored = row.get_ref(0)?.as_blob().ok().map(|path| Path::new(OsStr::from_bytes(path)));
        Ok(stored.map_or(Whereabouts::Default, |path| Whereabouts::In(resolved(home, path))))
    };
    let found = conn.prepare_cached(sql)?.query_row([name], stored).optional()?;
    Ok(found.unwrap_or(Whereabouts::Unknown))
}
