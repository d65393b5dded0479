//! The layers that processes and mounts use, so that none is removed or replaced under their feet.
//!
//! Asked is `/proc`: open files, working and root directories, programs and mapped files of every
//! process, the mounts of every mount namespace (mount points, bind mounts, overlays), and files
//! behind loop devices. Nothing is compared by its path alone: a path of a process counts by the
//! file system and the directory in it that it leads to, whatever mounts lead there (`wanted`,
//! `mounts`), and what an overlay is made of by device and inode (`overlays`).
//!
//! Processes that the user may not look at are not seen: as root there are none, else those of
//! others. Where there is no `/proc`, every layer may be in use.

mod mounts;
mod overlays;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use self::mounts::Mount;
use self::overlays::Bases;
use self::wanted::Wanted;
use crate::digest::BlobDigest;

/// The bytes that are read of one process's maps, or of one namespace's mounts.
const MAX_TABLE: u64 = 64 << 20;

/// Finds those of `digests` whose directory in `layers` a process or a mount uses, with who that
/// is: all, if that cannot be found out.
///
/// Looks at all processes once, so ask about many layers at once, and only if something is to be
/// removed or replaced.
pub(crate) fn layers_in_use(layers: &Path, digests: &[&BlobDigest]) -> BTreeMap<BlobDigest, String> {
    let Some(mut wanted) = Wanted::new(layers, digests) else { return BTreeMap::new() };
    let own = read_mounts(Path::new("/proc/self"), b"/");
    if own.is_empty() {
        let reason = "it cannot be found out who uses it: /proc is not mounted or cannot be read";
        return wanted.directories().map(|(digest, _)| (digest.clone(), reason.to_owned())).collect();
    }
    wanted.locate(&own);
    let processes = processes();
    let namespaces = Namespace::all(&processes);
    for namespace in &namespaces {
        wanted.note_view(&namespace.mounts);
    }
    let mut found = BTreeMap::new();
    for process in &processes {
        look_at_process(process, &wanted, &mut found);
    }
    look_at_mounts(&namespaces, &processes, &wanted, &mut found);
    look_at_loop_devices(&wanted, &mut found);
    found
}

/// A process, by its directory in `/proc`.
struct Process {
    directory: PathBuf,
    id: u32,
}

impl Process {
    fn describe(&self) -> String {
        let name = fs::read(self.directory.join("comm")).unwrap_or_default();
        format!("process {} ({})", self.id, String::from_utf8_lossy(&name).trim_end())
    }
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let process = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        Some(Process { directory: entry.path(), id })
    };
    entries.filter_map(process).collect()
}

/// The mounts that the processes of a mount namespace with one root see.
struct Namespace<'p> {
    process: &'p Process,
    mounts: Vec<Mount>,
}

impl<'p> Namespace<'p> {
    fn all(processes: &'p [Process]) -> Vec<Self> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for process in processes {
            let root = fs::read_link(process.directory.join("root"));
            let root = root.unwrap_or_else(|_| PathBuf::from("/"));
            let namespace = fs::read_link(process.directory.join("ns/mnt"));
            let namespace = namespace.unwrap_or_else(|_| process.directory.clone());
            if seen.insert((namespace, root.clone())) {
                let mounts = read_mounts(&process.directory, root.as_os_str().as_bytes());
                found.push(Self { process, mounts });
            }
        }
        found
    }

    fn root(&self) -> PathBuf {
        self.process.directory.join("root")
    }
}

fn read_mounts(process: &Path, root: &[u8]) -> Vec<Mount> {
    let mut mounts = Vec::new();
    each_line(&process.join("mountinfo"), |line| mounts.extend(Mount::parse(line, root)));
    mounts
}

fn look_at_process(process: &Process, wanted: &Wanted, found: &mut BTreeMap<BlobDigest, String>) {
    let mut used = BTreeSet::new();
    let links = ["cwd", "root", "exe"].map(|link| process.directory.join(link));
    let files = fs::read_dir(process.directory.join("fd")).into_iter().flatten().flatten();
    for link in links.into_iter().chain(files.map(|entry| entry.path())) {
        // Processes and files come and go while they are looked at.
        if let Ok(target) = fs::read_link(link) {
            used.extend(wanted.at_text(target.as_os_str().as_bytes()));
        }
    }
    each_line(&process.directory.join("maps"), |line| {
        if let Some(start) = line.iter().position(|&byte| byte == b'/') {
            // Here, unlike in links, line ends are escaped.
            used.extend(wanted.at_text(&mounts::unescape(&line[start..])));
            used.extend(wanted.at_text(&line[start..]));
        }
    });
    if !used.is_empty() {
        let who = process.describe();
        for digest in used {
            found.entry(digest.clone()).or_insert_with(|| format!("in use by {who}"));
        }
    }
}

fn look_at_mounts(
    namespaces: &[Namespace<'_>],
    processes: &[Process],
    wanted: &Wanted,
    found: &mut BTreeMap<BlobDigest, String>,
) {
    let mut bases = None;
    for namespace in namespaces {
        let by_id: BTreeMap<u64, &Mount> = namespace.mounts.iter().map(|mount| (mount.id, mount)).collect();
        let mut used = BTreeSet::new();
        for mount in &namespace.mounts {
            used.extend(wanted.at_place(&mount.device, &mount.root).cloned());
            used.extend(wanted.at_text(&mount.point).cloned());
            let on = by_id.get(&mount.parent).and_then(|on| Some((on, on.place_of(&mount.point)?)));
            used.extend(on.and_then(|(on, place)| wanted.at_place(&on.device, &place)).cloned());
            if mount.kind == b"overlay" {
                let bases = bases.get_or_insert_with(|| bases_of(namespaces, processes));
                used.extend(overlays::layers_of(mount, &namespace.root(), wanted, bases));
            }
        }
        for digest in used {
            let who = || format!("mounted, as {} sees it", namespace.process.describe());
            found.entry(digest).or_insert_with(who);
        }
    }
}

/// Lists the directories from which the paths of overlays may have been written.
fn bases_of(namespaces: &[Namespace<'_>], processes: &[Process]) -> Bases {
    let roots = namespaces.iter().map(Namespace::root).collect();
    let mut seen = BTreeSet::new();
    let links = processes.iter().map(|process| process.directory.join("cwd"));
    let working_directories = links.filter(|link| seen.insert(fs::read_link(link).ok())).collect();
    Bases { roots, working_directories }
}

/// Looks at the files behind loop devices, which the kernel holds, and no process.
fn look_at_loop_devices(wanted: &Wanted, found: &mut BTreeMap<BlobDigest, String>) {
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(mut file) = fs::read(device.path().join("loop/backing_file")) else { continue };
        file.pop_if(|last| *last == b'\n');
        if let Some(digest) = wanted.at_text(&file) {
            let who = || format!("in use by the device {}", device.file_name().display());
            found.entry(digest.clone()).or_insert_with(who);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    #[test]
    fn an_open_file_a_mapped_one_and_a_working_directory_are_uses() {
        let temp = tempfile::tempdir().unwrap();
        // A name that needs escapes wherever paths are written.
        let layers = temp.path().join("a b\\c:d,e\nf");
        let digests: Vec<BlobDigest> =
            ["open", "cwd", "idle"].map(|name| BlobDigest::of(Algorithm::Sha256, name.as_bytes())).to_vec();
        let directory = |index: usize| layers.join(format!("{}.extracted", digests[index]));
        for index in 0..3 {
            fs::create_dir_all(directory(index).join("below")).unwrap();
        }
        fs::write(directory(0).join("below/file"), "x").unwrap();
        let wanted: Vec<&BlobDigest> = digests.iter().collect();
        assert!(layers_in_use(&layers, &wanted).is_empty());
        let _open = File::open(directory(0).join("below/file")).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(directory(1).join("below"))
            .spawn()
            .unwrap();
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(&layers, &link).unwrap();
        let used = layers_in_use(&link, &wanted);
        let some = layers_in_use(&layers, &wanted[2..]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(used.keys().collect::<BTreeSet<_>>(), digests[..2].iter().collect());
        assert!(used[&digests[0]].contains(&std::process::id().to_string()), "{used:?}");
        assert!(used[&digests[1]].contains(&child.id().to_string()), "{used:?}");
        assert!(some.is_empty());
    }
}
