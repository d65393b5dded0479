//! The layers that are asked about, and every way to recognise one: by device and inode, by its
//! place in its file system, and by a path of a process that leads there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::mounts::{Mount, below};
use crate::digest::BlobDigest;
use crate::store::names::layer_path;
use crate::sys;

/// The layers that are looked for.
pub(super) struct Wanted {
    /// The directory of layers, without symlinks.
    pub(super) layers: PathBuf,
    by_name: BTreeMap<Vec<u8>, BlobDigest>,
    by_identity: BTreeMap<(u64, u64), BlobDigest>,
    /// The mount that the directory of layers is on, if the kernel tells.
    mount: Option<u64>,
    /// The file system's `major:minor` and the directory of layers in it, once a table of mounts
    /// has told.
    place: Option<(Vec<u8>, Vec<u8>)>,
    /// The paths by which processes see the directory of layers.
    texts: BTreeSet<Vec<u8>>,
}

impl Wanted {
    /// Takes those of `digests` that have a directory in `layers`; `None` where none has.
    pub(super) fn new(layers: &Path, digests: &[&BlobDigest]) -> Option<Self> {
        let layers = fs::canonicalize(layers).ok()?;
        let (mut by_name, mut by_identity) = (BTreeMap::new(), BTreeMap::new());
        for &digest in digests {
            // A symlink or file in place of a layer is none that could be used as one.
            let Ok(found) = fs::symlink_metadata(layer_path(&layers, digest)) else { continue };
            if found.is_dir() {
                by_name.insert(format!("{digest}.extracted").into_bytes(), digest.clone());
                by_identity.insert((found.dev(), found.ino()), digest.clone());
            }
        }
        let mount = sys::mount_of(&layers).map(|(_, mount)| mount).filter(|mount| *mount != 0);
        let texts = BTreeSet::from([layers.as_os_str().as_bytes().to_vec()]);
        (!by_name.is_empty()).then_some(Self { layers, by_name, by_identity, mount, place: None, texts })
    }

    /// Finds the place of the directory of layers in its file system by our own table of mounts.
    pub(super) fn locate(&mut self, own: &[Mount]) {
        let text = self.layers.as_os_str().as_bytes();
        let covers = |mount: &&Mount| mount.place_of(text).is_some();
        // The last one of the longest is on top of the others.
        let longest = own.iter().filter(covers).max_by_key(|mount| mount.point.len());
        let told = self.mount.and_then(|id| own.iter().filter(covers).find(|mount| mount.id == id));
        let holds = told.or(longest);
        self.place = holds.and_then(|mount| Some((mount.device.clone(), mount.place_of(text)?)));
    }

    /// Takes note of how the processes of a namespace see the directory of layers.
    pub(super) fn note_view(&mut self, mounts: &[Mount]) {
        let Some((device, place)) = &self.place else { return };
        let of_device = mounts.iter().filter(|mount| mount.device == *device);
        self.texts.extend(of_device.filter_map(|mount| mount.text_of(place)));
    }

    /// Finds the layer that a path of a process leads to or into; something may follow the path
    /// after a blank.
    pub(super) fn at_text(&self, text: &[u8]) -> Option<&BlobDigest> {
        self.texts.iter().find_map(|layers| self.named(below(text, layers)?))
    }

    /// Finds the layer that a place in a file system is, or is in.
    pub(super) fn at_place(&self, device: &[u8], place: &[u8]) -> Option<&BlobDigest> {
        let (own_device, layers) = self.place.as_ref()?;
        self.named(below(place, layers).filter(|_| device == own_device)?)
    }

    /// Finds the layer that is this directory.
    pub(super) fn is(&self, identity: (u64, u64)) -> Option<&BlobDigest> {
        self.by_identity.get(&identity)
    }

    /// True if a layer lies on this device.
    pub(super) fn is_on(&self, device: u64) -> bool {
        self.by_identity.keys().any(|(of_layer, _)| *of_layer == device)
    }

    /// Lists the layers, with their directories.
    pub(super) fn directories(&self) -> impl Iterator<Item = (&BlobDigest, PathBuf)> {
        self.by_name.values().map(|digest| (digest, layer_path(&self.layers, digest)))
    }

    /// Finds the layer by whose name a component of `path` goes.
    pub(super) fn mentioned(&self, path: &[u8]) -> Option<&BlobDigest> {
        path.split(|&byte| byte == b'/').find_map(|component| self.by_name.get(component))
    }

    /// Finds the layer that `/NAME`, `/NAME/…` or `/NAME (deleted)` names.
    fn named(&self, rest: &[u8]) -> Option<&BlobDigest> {
        let name = rest.strip_prefix(b"/")?.split(|byte| matches!(byte, b'/' | b' ')).next()?;
        self.by_name.get(name)
    }
}
