//! Which file uses which, and the circles in that.
//!
//! A file uses the file that defines a name: `super::`, `self::`, `crate::` and names that `use` binds are followed
//! through every door that only passes them on. Passing a name on is no use of it, and a file may use the names of
//! the file whose folder it stands in: it is a part of that one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::paths::{Import, definitions, imports, paths};
use super::source::{Source, stem};

/// The root of the binary's modules; that of the library is the empty path.
const BINARY: &str = "bin/msb-sync";
/// How many doors a name is followed through.
const DOORS: usize = 12;

/// The modules of the library and of the binary, by their paths.
pub(super) struct Modules<'a> {
    all: BTreeMap<&'a str, Module<'a>>,
}

struct Module<'a> {
    file: &'a str,
    tokens: Vec<&'a str>,
    defines: BTreeSet<&'a str>,
    imports: Vec<Import<'a>>,
}

/// The end of a path.
#[derive(Debug, PartialEq)]
enum Found<'a> {
    /// A module as a whole.
    Module(&'a str),
    /// An item that this module's file defines.
    Item(&'a str),
}

/// The names that one file takes from others: `(user, definer)` to names.
pub(super) type Uses<'a> = BTreeMap<(&'a str, &'a str), BTreeSet<&'a str>>;

impl<'a> Modules<'a> {
    /// Takes in the files of the program; tests do not count.
    pub(super) fn new(sources: &'a [Source]) -> Self {
        let modules = sources.iter().filter(|source| !source.is_test).map(|source| {
            let key = match stem(&source.path) {
                "lib" => "",
                "bin/msb-sync/main" => BINARY,
                stem => stem,
            };
            let tokens = source.tokens();
            let defines = definitions(&tokens).into_iter().collect();
            let imports = imports(&tokens);
            (key, Module { file: &source.path, tokens, defines, imports })
        });
        Self { all: modules.collect() }
    }

    /// The file that defines what `path` names in the module of `file`, and the name there.
    pub(super) fn definer(&self, file: &str, path: &[&'a str]) -> Option<&'a str> {
        let (key, _) = self.all.iter().find(|(_, module)| module.file == file)?;
        match self.resolve(key, path, DOORS)? {
            Found::Item(at) => Some(self.all[at].file),
            Found::Module(_) => None,
        }
    }

    /// Every use of one file by another.
    pub(super) fn uses(&self) -> Uses<'a> {
        let mut uses = Uses::new();
        for (key, module) in &self.all {
            for path in paths(&without_doors(&module.tokens)) {
                let at = match self.resolve(key, &path, DOORS) {
                    Some(Found::Item(at)) => at,
                    // All of a module is used, whatever it is.
                    Some(Found::Module(at)) if path.last() == Some(&"*") => at,
                    _ => continue,
                };
                let definer = self.all[at].file;
                if !is_part_of(key, at) {
                    let name = path.iter().rev().find(|part| **part != "self").copied().unwrap_or_default();
                    uses.entry((module.file, definer)).or_default().insert(name);
                }
            }
        }
        uses
    }

    fn resolve(&self, from: &str, path: &[&'a str], doors: usize) -> Option<Found<'a>> {
        let doors = doors.checked_sub(1)?;
        let root = if from.starts_with(BINARY) { BINARY } else { "" };
        let from = self.key(from)?;
        let mut at = match path.first()? {
            &"crate" => self.key(root)?,
            &("self" | "super") => from,
            first => {
                let module = &self.all[from];
                let known = module.defines.contains(first)
                    || self.child(from, first).is_some()
                    || module.imports.iter().any(|import| import.name == *first || import.name == "*");
                // Another package, or a local name.
                known.then_some(from)?
            }
        };
        let mut rest = path;
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            match *first {
                "crate" | "self" | "*" => continue,
                "super" => {
                    let up = at.rsplit_once('/').map_or("", |(up, _)| up);
                    at = self.key(up)?;
                    continue;
                }
                _ => {}
            }
            let module = &self.all[at];
            // A function may be called as the module that it stands in; where a path goes on, the module is meant.
            match self.child(at, first).filter(|_| !after.is_empty()) {
                Some(child) => at = child,
                None if module.defines.contains(first) => return Some(Found::Item(at)),
                None => match self.imported(at, first, doors) {
                    Some(Found::Module(elsewhere)) => at = elsewhere,
                    Some(item) => return Some(item),
                    None => at = self.child(at, first)?,
                },
            }
        }
        Some(Found::Module(at))
    }

    /// What a `use` of the module binds to `name`.
    fn imported(&self, at: &str, name: &'a str, doors: usize) -> Option<Found<'a>> {
        let imports = &self.all[at].imports;
        let named = imports.iter().filter(|import| import.name == name && import.path != [name]);
        let mut found = named.filter_map(|import| self.resolve(at, &import.path, doors));
        found.next().or_else(|| {
            let mut globs = imports.iter().filter(|import| import.name == "*");
            globs.find_map(|glob| self.resolve(at, &[&glob.path[..], &[name]].concat(), doors))
        })
    }

    /// The module `name` in a file of its own below `at`.
    fn child(&self, at: &str, name: &str) -> Option<&'a str> {
        let path = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
        self.key(&path)
    }

    fn key(&self, path: &str) -> Option<&'a str> {
        self.all.get_key_value(path).map(|(key, _)| *key)
    }
}

/// The module `part` is `whole`, or stands in a folder of its name.
fn is_part_of(part: &str, whole: &str) -> bool {
    whole.is_empty() || part.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The code without `pub use …;`, which only passes names on.
fn without_doors<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    let mut kept: Vec<&str> = Vec::new();
    let mut passing = false;
    for (position, token) in tokens.iter().enumerate() {
        if *token == "use" {
            let before = &tokens[..position];
            passing = before.last() == Some(&"pub")
                || before.last() == Some(&")") && before.iter().rev().take(5).any(|token| *token == "pub");
        }
        if !passing {
            kept.push(token);
        }
        passing &= *token != ";";
    }
    kept
}

/// Sets of files each of which uses, over others, all of its set: the smallest circles cannot be told apart.
pub(super) fn circles<'a>(uses: &Uses<'a>) -> Vec<BTreeSet<&'a str>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (user, definer) in uses.keys() {
        next.entry(user).or_default().insert(definer);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        next.keys().map(|file| (*file, reach(file, &next))).collect();
    let mut circles: BTreeSet<BTreeSet<&str>> = BTreeSet::new();
    for (file, all) in reached.iter().filter(|(file, all)| all.contains(*file)) {
        let back = |other: &&&str| reached.get(**other).is_some_and(|all| all.contains(file));
        circles.insert(all.iter().filter(back).copied().collect());
    }
    circles.into_iter().collect()
}

fn reach<'a>(file: &str, next: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut pending: Vec<&str> = next.get(file).into_iter().flatten().copied().collect();
    while let Some(file) = pending.pop() {
        if reached.insert(file) {
            pending.extend(next.get(file).into_iter().flatten());
        }
    }
    reached
}

/// A circle as text: each use in it, with some of the names.
pub(super) fn describe(circle: &BTreeSet<&str>, uses: &Uses<'_>) -> String {
    let mut text = format!("a circle of {} files", circle.len());
    for ((user, definer), names) in uses {
        if circle.contains(user) && circle.contains(definer) {
            let names: Vec<&str> = names.iter().take(6).copied().collect();
            let _ = write!(text, "\n    {user} uses {definer}: {}", names.join(", "));
        }
    }
    text
}

#[test]
fn names_are_followed_to_the_files_that_define_them() {
    let sources = [
        ("lib.rs", "pub mod a; pub mod b; pub use a::inner::Deep;"),
        (
            "a.rs",
            "mod inner; mod other; pub use self::inner::Deep as Renamed; pub use other::*; pub struct Own;",
        ),
        ("a/inner.rs", "pub struct Deep; pub fn inner() {}"),
        ("a/other.rs", "pub fn far() {} use super::Own; use super::inner::inner;"),
        (
            "b.rs",
            "use crate::{a::{self, Renamed as R}, Deep}; use super::a::far; fn f() { a::Own; R::new(); g::h(); }",
        ),
    ];
    let sources = sources.map(|(path, text)| Source::new(path, text));
    let modules = Modules::new(&sources);
    let uses: Vec<String> = modules
        .uses()
        .iter()
        .map(|((user, definer), names)| {
            format!("{user} {definer} {}", names.iter().copied().collect::<Vec<_>>().join(","))
        })
        .collect();
    assert_eq!(
        uses,
        [
            "a/other.rs a/inner.rs inner",
            "b.rs a.rs Own",
            "b.rs a/inner.rs Deep,Renamed,new",
            "b.rs a/other.rs far"
        ]
    );
    assert_eq!(modules.definer("b.rs", &["a", "Renamed"]), Some("a/inner.rs"));
    assert_eq!(modules.definer("b.rs", &["a"]), None);
}

#[test]
fn circles_are_found_and_doors_are_none() {
    let found = |files: &[(&str, &str)]| -> Vec<String> {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        let uses = Modules::new(&sources).uses();
        circles(&uses).iter().map(|circle| describe(circle, &uses)).collect()
    };
    let lib = ("lib.rs", "mod a; mod b; mod c;");
    for files in [
        // Two files, by `crate::` and by `super::`.
        &[lib, ("a.rs", "use crate::b::B; struct A;"), ("b.rs", "use super::a::A; struct B;")][..],
        // Over a door, and over a third file.
        &[
            lib,
            ("a.rs", "mod x; mod y; mod z; pub use x::X; pub use self::z::Z;"),
            ("a/x.rs", "use super::y::Y; struct X;"),
            ("a/y.rs", "fn f() { super::Z::new(); } struct Y;"),
            ("a/z.rs", "struct Z(super::X);"),
        ],
        // In the binary, by `crate::` and by a module's own name.
        &[
            ("bin/msb-sync/main.rs", "mod o; mod p;"),
            ("bin/msb-sync/o.rs", "use crate::p; pub fn f() { p::g() }"),
            ("bin/msb-sync/p.rs", "pub fn g() { crate::o::f() }"),
        ],
    ] {
        assert_eq!(found(files).len(), 1, "{files:?}");
    }
    for files in [
        &[lib, ("a.rs", "mod x; pub use x::X; pub struct A;"), ("a/x.rs", "use super::A; pub struct X;")][..],
        &[
            lib,
            ("a.rs", "use crate::b::B; struct A;"),
            ("b.rs", "struct B; #[cfg(test)] mod tests { use crate::a::A; }"),
        ],
        // A part and the whole.
        &[lib, ("a.rs", "mod x; struct A; fn f() { x::g(); }"), ("a/x.rs", "use super::A; pub fn g() {}")],
        &[lib, ("a.rs", "use crate::b::B; // use c\nstruct A;"), ("b.rs", "use std::a::A; struct B;")],
    ] {
        assert_eq!(found(files), [""; 0], "{files:?}");
    }
}
