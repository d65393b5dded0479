//! Which layers running processes use, so that none is removed under their feet.
//!
//! Asked is `/proc`: open files, working and root directories, programs and mapped files of every process, and
//! the mounts of every mount namespace (mount points and bind mounts below a layer, `lowerdir=` of overlays).
//! What the user may not read there is not seen: as root that is nothing, else the processes of others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::digest::BlobDigest;

/// Of one process's maps, or of one namespace's mounts, so many bytes are read.
const MAX_TABLE: u64 = 64 << 20;
const SUFFIX: &[u8] = b".extracted";

/// Those of `digests` whose directory in `layers` a process uses, with who that is.
pub fn layers_in_use(layers: &Path, digests: &[&BlobDigest]) -> BTreeMap<BlobDigest, String> {
    let mut found = BTreeMap::new();
    let Ok(layers) = fs::canonicalize(layers) else { return found };
    if digests.is_empty() {
        return found;
    }
    let wanted =
        Wanted { layers, digests: digests.iter().map(|digest| digest.as_str().as_bytes()).collect() };
    let mut namespaces = BTreeSet::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        look_at_process(&process.path(), id, &wanted, &mut namespaces, &mut found);
    }
    found
}

fn look_at_process(
    process: &Path,
    id: u32,
    wanted: &Wanted<'_>,
    namespaces: &mut BTreeSet<PathBuf>,
    found: &mut BTreeMap<BlobDigest, String>,
) {
    let mut used = Vec::new();
    let links = ["cwd", "root", "exe"].map(|link| process.join(link));
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    for link in links.into_iter().chain(files) {
        // Processes and files come and go while they are looked at.
        if let Ok(target) = fs::read_link(link) {
            used.extend(wanted.at_start(target.as_os_str().as_bytes()));
        }
    }
    each_line(&process.join("maps"), |line| {
        if let Some(start) = line.iter().position(|&b| b == b'/') {
            used.extend(wanted.at_start(&line[start..]));
        }
    });
    if !used.is_empty() {
        let who = who(process, id);
        for digest in used {
            found.entry(digest).or_insert_with(|| format!("in use by {who}"));
        }
    }
    let namespace = fs::read_link(process.join("ns/mnt")).unwrap_or_else(|_| process.to_owned());
    if namespaces.insert(namespace) {
        let mut mounted = Vec::new();
        each_line(&process.join("mountinfo"), |line| mounted.extend(wanted.in_mount(line)));
        for digest in mounted {
            found.entry(digest).or_insert_with(|| format!("mounted, as {} sees it", who(process, id)));
        }
    }
}

fn who(process: &Path, id: u32) -> String {
    let name = fs::read(process.join("comm")).unwrap_or_default();
    format!("process {id} ({})", String::from_utf8_lossy(&name).trim_end())
}

fn each_line(path: &Path, mut visit: impl FnMut(&[u8])) {
    let Ok(file) = File::open(path) else { return };
    let mut lines = BufReader::new(file.take(MAX_TABLE));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        visit(line.strip_suffix(b"\n").unwrap_or(&line));
        line.clear();
    }
}

/// What is looked for.
struct Wanted<'a> {
    layers: PathBuf,
    digests: BTreeSet<&'a [u8]>,
}

impl Wanted<'_> {
    /// The layer whose directory is, or holds, `path`; something may follow the path.
    fn at_start(&self, path: &[u8]) -> Option<BlobDigest> {
        let below = path.strip_prefix(self.layers.as_os_str().as_bytes())?;
        self.digest(below.strip_prefix(b"/")?)
    }

    /// The wanted digest that `text` starts with, if it is a directory's whole name.
    fn digest(&self, text: &[u8]) -> Option<BlobDigest> {
        let length = text.windows(SUFFIX.len()).take(200).position(|window| window == SUFFIX)?;
        // After the name: nothing, a path below, or what parts paths in options and from "(deleted)".
        let ends = matches!(text.get(length + SUFFIX.len()), None | Some(b'/' | b':' | b',' | b' '));
        let name = text.get(..length).filter(|name| ends && self.digests.contains(name))?;
        BlobDigest::parse(std::str::from_utf8(name).ok()?).ok()
    }

    /// The layers in a line of mountinfo (proc(5)): `id parent dev root mountpoint options … - type source
    /// superoptions`.
    fn in_mount(&self, line: &[u8]) -> Vec<BlobDigest> {
        let fields: Vec<Vec<u8>> = line.split(|&b| b == b' ').map(unescape).collect();
        let mut found = Vec::new();
        if let [_, _, _, root, mount_point, ..] = &fields[..] {
            found.extend(self.at_start(mount_point));
            found.extend(self.at_end_of_root(root));
        }
        if let Some(options) = fields.last() {
            // Overlayfs wants colons in paths escaped, and shows them so.
            let options: Vec<u8> = options.iter().copied().filter(|&b| b != b'\\').collect();
            let prefix = self.layers.as_os_str().as_bytes();
            let starts = options.windows(prefix.len()).enumerate().filter(|(_, window)| *window == prefix);
            found.extend(starts.filter_map(|(start, _)| self.at_start(&options[start..])));
        }
        found
    }

    /// A bind mount's root is told from the top of its file system, of which we may only see a part.
    fn at_end_of_root(&self, root: &[u8]) -> Option<BlobDigest> {
        let mut place = 0;
        for component in root.split(|&b| b == b'/') {
            if let Some(digest) = self.digest(component) {
                let above = root[..place].strip_suffix(b"/").unwrap_or_default();
                return self.layers.as_os_str().as_bytes().ends_with(above).then_some(digest);
            }
            place += component.len() + 1;
        }
        None
    }
}

/// `\040` is a space: mountinfo escapes white space and backslashes in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        out.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    #[test]
    fn an_open_file_a_mapped_one_and_a_working_directory_are_uses() {
        let temp = tempfile::tempdir().unwrap();
        let digests: Vec<BlobDigest> =
            ["open", "cwd", "idle"].map(|name| BlobDigest::of(Algorithm::Sha256, name.as_bytes())).to_vec();
        let directory = |index: usize| temp.path().join(format!("{}.extracted", digests[index]));
        for index in 0..3 {
            fs::create_dir_all(directory(index).join("below")).unwrap();
        }
        fs::write(directory(0).join("below/file"), "x").unwrap();
        let wanted: Vec<&BlobDigest> = digests.iter().collect();
        assert!(layers_in_use(temp.path(), &wanted).is_empty());
        let _open = File::open(directory(0).join("below/file")).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(directory(1).join("below"))
            .spawn()
            .unwrap();
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(temp.path(), &link).unwrap();
        let used = layers_in_use(&link, &wanted);
        let some = layers_in_use(temp.path(), &wanted[2..]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(used.keys().collect::<BTreeSet<_>>(), digests[..2].iter().collect());
        assert!(used[&digests[0]].contains(&std::process::id().to_string()), "{used:?}");
        assert!(used[&digests[1]].contains(&child.id().to_string()), "{used:?}");
        assert!(some.is_empty());
    }

    #[test]
    fn mounts_of_layers_are_uses() {
        let digest = BlobDigest::of(Algorithm::Sha256, b"x");
        let other = BlobDigest::of(Algorithm::Sha256, b"y");
        let wanted =
            Wanted { layers: "/home/me/my layers".into(), digests: [digest.as_str().as_bytes()].into() };
        let escaped = digest.as_str().replace(':', "\\134:");
        let hex = digest.as_str();
        for (line, is_used) in [
            (format!("36 35 98:0 / /home/me/my\\040layers/{hex}.extracted/proc rw - proc proc rw"), true),
            (format!("36 35 98:0 / /home/me/my\\040layers/{hex}.extractedx rw - proc proc rw"), false),
            (format!("36 35 98:0 / /home/me/my\\040layers/{other}.extracted rw - proc proc rw"), false),
            (format!("36 35 98:0 /me/my\\040layers/{hex}.extracted/usr /mnt rw - ext4 /dev/x rw"), true),
            (format!("36 35 98:0 /you/layers/{hex}.extracted /mnt rw - ext4 /dev/x rw"), false),
            (
                format!(
                    "36 35 0:40 / /merged rw - overlay overlay rw,lowerdir=/a:/home/me/my\\040layers/{escaped}.extracted:/b,upperdir=/u"
                ),
                true,
            ),
            ("36 35 0:40 / / rw - overlay overlay rw,lowerdir=/a:/b".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(!wanted.in_mount(line.as_bytes()).is_empty(), is_used, "{line}");
        }
    }
}
