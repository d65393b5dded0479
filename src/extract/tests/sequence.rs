//! Entries one after the other against a reference that knows no files in flight, no handles and no
//! inventory: names are drawn from few, so that links, symlinks and directories keep taking each
//! other's place.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;

use super::{Make, World, file};
use crate::cancel::Cancel;
use crate::extract::verify;
use crate::extract::verify::Differences;
use crate::sys;

/// The thing that has a name.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Directory,
    /// One of the inodes.
    Inode(usize),
    /// A hard link that waits for this.
    Waiting(String),
}

#[derive(Clone, Debug)]
enum Inode {
    File(Vec<u8>),
    Symlink(String),
}

/// The reason why the reference refuses a layer.
#[derive(Debug, PartialEq)]
enum Refused {
    /// A path leads through a file.
    File,
    /// Through symlinks without end.
    Circle,
    /// A link is to a directory, or to nothing.
    Target,
}

/// A layer's tree, by paths without symlinks.
#[derive(Default)]
struct Reference {
    nodes: BTreeMap<String, Node>,
    inodes: Vec<Inode>,
    /// Names of waiting links in the order in which they began to wait.
    waiting: Vec<String>,
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

impl Reference {
    /// The directory that `path` means, and whether all of it is there.
    fn resolve(&self, path: &str) -> Result<(String, bool), Refused> {
        let mut at = String::new();
        let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let (mut exists, mut links) = (true, 0);
        while let Some(name) = rest.pop() {
            match &name[..] {
                "" | "." => {}
                ".." => at = split(&at).0.to_owned(),
                _ => {
                    let there = join(&at, &name);
                    match self.nodes.get(&there) {
                        None | Some(Node::Waiting(_)) => {
                            exists = false;
                            at = there;
                        }
                        Some(Node::Directory) => at = there,
                        Some(Node::Inode(inode)) => {
                            let Inode::Symlink(target) = &self.inodes[*inode] else {
                                return Err(Refused::File);
                            };
                            links += 1;
                            if links > 100 {
                                return Err(Refused::Circle);
                            }
                            if target.starts_with('/') {
                                at.clear();
                            }
                            rest.extend(target.split('/').rev().map(str::to_owned));
                        }
                    }
                }
            }
        }
        Ok((at, exists))
    }

    fn locate(&self, path: &str) -> Result<String, Refused> {
        let (parent, name) = split(path);
        Ok(join(&self.resolve(parent)?.0, name))
    }

    /// The target of a link without symlinks on its way; `None` while a directory on the way is
    /// missing.
    fn target(&self, path: &str) -> Result<Option<String>, Refused> {
        let (parent, name) = split(path);
        match self.resolve(parent) {
            Ok((parent, exists)) => Ok(exists.then(|| join(&parent, name))),
            // A file on the way may yet become a directory.
            Err(Refused::File) => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    fn make_parents(&mut self, path: &str) {
        let mut at = String::new();
        let parent = split(path).0;
        for name in parent.split('/').filter(|name| !name.is_empty()) {
            at = join(&at, name);
            self.nodes.insert(at.clone(), Node::Directory);
        }
    }

    /// Takes away what is at `path`, and below it.
    fn take(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes.retain(|name, _| name != path && !name.starts_with(&below));
    }

    fn put(&mut self, path: &str, inode: Inode) {
        self.take(path);
        self.inodes.push(inode);
        self.nodes.insert(path.to_owned(), Node::Inode(self.inodes.len() - 1));
    }

    fn entry(&mut self, entry: &Make) -> Result<(), Refused> {
        let (Make::File(name, _)
        | Make::Directory(name)
        | Make::Symlink(name, _)
        | Make::Link(name, _)
        | Make::Device(name, _)) = entry;
        let path = self.locate(name)?;
        match entry {
            Make::File(_, content) => {
                self.make_parents(&path);
                self.put(&path, Inode::File(content.clone()));
            }
            Make::Device(..) => {
                self.make_parents(&path);
                self.put(&path, Inode::File(Vec::new()));
            }
            Make::Symlink(_, target) => {
                self.make_parents(&path);
                self.put(&path, Inode::Symlink((*target).to_owned()));
            }
            Make::Directory(_) => {
                self.make_parents(&path);
                if self.nodes.get(&path) != Some(&Node::Directory) {
                    self.nodes.insert(path, Node::Directory);
                }
            }
            Make::Link(_, target) => {
                let found = self.target(target)?;
                self.make_parents(&path);
                let target = found.clone().unwrap_or_else(|| (*target).to_owned());
                if target == path {
                    match self.nodes.get(&path) {
                        Some(Node::Directory) => return Err(Refused::Target),
                        Some(_) => {}
                        None => self.wait(path, target),
                    }
                    return Ok(());
                }
                if self.nodes.get(&path) == Some(&Node::Directory) {
                    self.take(&path);
                }
                match found.and_then(|found| self.nodes.get(&found).cloned()) {
                    Some(Node::Directory) => return Err(Refused::Target),
                    Some(Node::Inode(inode)) => {
                        self.nodes.insert(path, Node::Inode(inode));
                    }
                    None | Some(Node::Waiting(_)) => self.wait(path, target),
                }
            }
        }
        Ok(())
    }

    fn wait(&mut self, path: String, target: String) {
        self.waiting.retain(|other| *other != path);
        self.waiting.push(path.clone());
        self.nodes.insert(path, Node::Waiting(target));
    }

    fn finish(&mut self) -> Result<(), Refused> {
        loop {
            let (mut made, mut left) = (0, 0);
            for path in self.waiting.clone() {
                let Some(Node::Waiting(target)) = self.nodes.get(&path).cloned() else { continue };
                match self.target(&target)?.and_then(|target| self.nodes.get(&target).cloned()) {
                    Some(Node::Directory) => return Err(Refused::Target),
                    Some(Node::Inode(inode)) => {
                        self.nodes.insert(path, Node::Inode(inode));
                        made += 1;
                    }
                    None | Some(Node::Waiting(_)) => left += 1,
                }
            }
            match (left, made) {
                (0, _) => return Ok(()),
                (_, 0) => return Err(Refused::Target),
                _ => {}
            }
        }
    }
}

/// Finds what is wrong with the tree of these entries.
fn difference(entries: &[Make]) -> Option<String> {
    let mut reference = Reference::default();
    let expected =
        entries.iter().try_for_each(|entry| reference.entry(entry)).and_then(|()| reference.finish());
    let world = World::new();
    let extracted = world.entry(entries);
    assert!(world.outside_is_untouched());
    if let (Err(_), Err(error)) = (&expected, &extracted) {
        return (error.kind() != "layer-entry").then(|| error.to_string());
    }
    if let Err(error) = extracted {
        return Some(format!("refused: {error}"));
    }
    if expected.is_err() {
        return Some("not refused".to_owned());
    }
    let root = sys::open_directory(&world.layer()).unwrap();
    let mut inventory = fs::File::open(world.temp.path().join("record")).unwrap();
    let found = verify(&root, &mut inventory, &Cancel::new()).unwrap();
    if found != Differences::default() {
        return Some(format!("the record says otherwise: {found}"));
    }
    let mut inodes = HashMap::new();
    for (path, node) in &reference.nodes {
        let at = world.layer().join(path);
        let Ok(metadata) = fs::symlink_metadata(&at) else { return Some(format!("{path} is missing")) };
        let fits = match node {
            Node::Directory => metadata.is_dir(),
            Node::Waiting(_) => false,
            Node::Inode(inode) => {
                let same = *inodes.entry(*inode).or_insert(metadata.ino()) == metadata.ino();
                same && match &reference.inodes[*inode] {
                    Inode::File(content) => metadata.is_file() && fs::read(&at).unwrap() == *content,
                    Inode::Symlink(target) => {
                        fs::read_link(&at).is_ok_and(|text| text.to_str() == Some(target))
                    }
                }
            }
        };
        if !fits {
            return Some(format!("{path} is not {node:?}"));
        }
    }
    let mut distinct: Vec<u64> = inodes.values().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    (distinct.len() != inodes.len()).then(|| "two entries are one inode".to_owned())
    // A name on disk that is not in the reference is not in the inventory either: that was
    // verified.
}

#[track_caller]
fn assert_as_reference(entries: &[Make]) {
    assert_eq!(difference(entries), None, "{entries:?}");
}

#[test]
fn a_link_that_waits_takes_its_name_at_once() {
    use Make::{Directory, Link, Symlink};
    for entries in [
        vec![Link("b", "a"), Symlink("a", "x"), Link("a", "c"), file("c", "content")],
        vec![Link("a", "b"), Symlink("b", "x"), Link("b", "c"), file("c", "content")],
        vec![Link("c/x", "a"), Symlink("a", "a"), Link("a", "b/x/z"), Symlink("b/x/z", "b")],
        vec![file("a", "old"), Link("b", "a"), Link("a", "c"), Link("d", "a"), file("c", "new")],
        vec![Directory("a"), file("a/x", "old"), Link("a", "c"), file("a/y", "y"), file("c", "x")],
        vec![Directory("a"), file("a/x", "old"), Link("a", "c"), Directory("a"), file("c", "x")],
        vec![Link("a", "c"), Link("a", "a"), file("c", "x")],
        vec![Link("a", "a"), file("a", "x")],
        vec![Symlink("a", "b"), Link("c", "a/x"), Link("b/x", "d"), file("d", "x")],
    ] {
        assert_as_reference(&entries);
    }
}

#[test]
fn a_path_through_a_symlink_means_what_the_link_means_inside() {
    use Make::{Directory, Link, Symlink};
    for entries in [
        vec![Directory("usr/lib"), Symlink("lib", "usr/lib"), file("lib/x", "x"), Link("lib/y", "lib/x")],
        vec![
            Symlink("lib", "/usr/lib"),
            file("lib/x", "dangling"),
            Directory("usr/lib"),
            file("lib/x", "again"),
        ],
        vec![
            Symlink("lib", "../../usr/./lib/../lib64"),
            file("lib/.wh.x", ""),
            Directory("lib/.wh..wh..opq"),
        ],
        vec![
            Symlink("a", "b"),
            Symlink("b", "c"),
            Directory("c"),
            file("a/x", "x"),
            Symlink("a", "d"),
            file("a/x", "y"),
        ],
        vec![Symlink("lib", "usr"), file("lib/x", "x"), Directory("lib"), file("lib/x", "y")],
        vec![file("f", "x"), Symlink("f", "d"), file("f/x", "in d")],
        vec![Symlink("s", "d"), file("s", "in flight"), file("s/x", "refused")],
        vec![Symlink("a", "b"), Symlink("b", "a"), file("a/x", "a circle")],
        vec![Symlink("a", "."), file("a/a/a/x", "x"), Link("y", "a/x")],
        vec![file("f", ""), Symlink("s", "f"), file("s/x", "below a file")],
        vec![Symlink("s", "nowhere/../d"), file("s/x", "x")],
        vec![Link("l", "lib/x"), Directory("usr"), Symlink("lib", "usr"), file("usr/x", "x")],
    ] {
        assert_as_reference(&entries);
    }
}

const NAMES: [&str; 7] = ["a", "b", "c", "a/x", "b/x", "b/x/z", "c/x"];
const TEXTS: [&str; 9] = ["a", "b", "c", "/b", "../c", ".", "a/x", "b/x/z", "x"];

fn entry() -> impl Strategy<Value = Make> {
    // Mostly the three.
    let name =
        || prop_oneof![3 => proptest::sample::select(&NAMES[..3]), 1 => proptest::sample::select(&NAMES[..])];
    let content = prop_oneof![Just(5), Just(70_000)];
    prop_oneof![
        3 => (name(), content, any::<u8>()).prop_map(|(name, size, byte)| Make::File(name, vec![byte; size])),
        1 => name().prop_map(Make::Directory),
        3 => (name(), proptest::sample::select(&TEXTS[..])).prop_map(|(name, text)| Make::Symlink(name, text)),
        5 => (name(), name()).prop_map(|(name, target)| Make::Link(name, target)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn entries_in_any_order_lead_to_what_the_reference_says(entries in proptest::collection::vec(entry(), 1..9)) {
        prop_assert_eq!(difference(&entries), None);
    }
}
