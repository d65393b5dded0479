//! The words for machines are stable: `docs/json.md` and the schema of the output list each of
//! them, and two failures share one only where they mean the same to a script.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::*;

/// The kinds that more than one place gives, and why that is one meaning.
const SHARED: &[(&str, &str)] = &[
    ("defect", "msb-sync itself is at fault, in a layer's thread or elsewhere"),
    ("disk-full", "a file system is full, whoever writes to it"),
    ("in-use", "somebody uses the layer, by the system's word or by what is mounted"),
    ("io", "the system's failure has no better word, whatever was being done"),
    ("limit", "a document or a layer is larger than the settings allow"),
    ("permission", "this user may not, in the catalog or in the store"),
    ("refused", "a file of msb-sync's own is another user's, a symlink, or no file"),
    ("stopped", "a signal ended the run, while a registry was asked or elsewhere"),
    ("system", "the system has no more threads or open files for us, whatever they are for"),
];

/// The kinds that the binary gives to mistakes inside the user's files, and on the command line.
const OF_THE_BINARY: [&str; 3] = ["images-file", "lockfile", "usage"];

/// The kinds that the sources of this room give, each with the number of places that do.
fn given() -> BTreeMap<String, usize> {
    let room = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/error");
    let files = fs::read_dir(&room).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut kinds = BTreeMap::new();
    for file in files.chain([room.with_extension("rs")]).filter(|file| !file.ends_with("tests.rs")) {
        let source = fs::read_to_string(&file).unwrap();
        for body in source.split("pub fn kind(&self) -> &'static str {").skip(1) {
            let body = body.split("\n    }\n").next().unwrap();
            for kind in body.split('"').skip(1).step_by(2) {
                *kinds.entry(kind.to_owned()).or_default() += 1;
            }
        }
    }
    kinds
}

#[test]
fn the_docs_list_every_kind() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    let page = fs::read_to_string(page).unwrap();
    let table = page.split("| `error.kind` |").nth(1).expect("a table of the kinds");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let kinds = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
    let listed: Vec<String> = kinds.map(str::to_owned).collect();
    let expected: BTreeSet<String> = given().into_keys().chain(OF_THE_BINARY.map(str::to_owned)).collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(listed.len(), expected.len(), "a kind is listed twice");
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/msb-sync/json/schema.json");
    let schema = fs::read_to_string(schema).unwrap();
    let words =
        schema.split("\"errorKind\": {").nth(1).and_then(|rest| rest.split(['[', ']']).nth(1)).unwrap();
    let known: BTreeSet<String> = words.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(known, expected, "the schema of the output");
}

#[test]
fn two_failures_share_a_kind_only_where_they_mean_the_same() {
    let shared = given().into_iter().filter(|(_, places)| *places > 1).map(|(kind, _)| kind);
    assert_eq!(shared.collect::<Vec<_>>(), SHARED.iter().map(|(kind, _)| *kind).collect::<Vec<_>>());
    assert!(SHARED.iter().all(|(_, why)| !why.is_empty()));
}

#[test]
fn several_failures_are_told_in_one_line_with_the_first_hint() {
    let rule = SelectionError::Rule { reason: "no".to_owned() };
    let none = SelectionError::NoTagFits { of: 3, rule: "newest 1".to_owned() };
    let several = Error::Several(vec![Arc::new(rule.into()), Arc::new(none.clone().into())]);
    assert_eq!(several.to_string(), "cannot select tags: no; none of its 3 tags fits newest 1");
    assert_eq!((several.kind(), several.hint()), ("several", none.hint()));
}

#[test]
fn a_hint_fits_the_failure() {
    let store =
        |kind: std::io::ErrorKind| StoreError::io("open the lock", "/l/lock")(kind.into()).hint().unwrap();
    assert!(store(std::io::ErrorKind::ReadOnlyFilesystem).starts_with("that file system may not be written"));
    assert!(store(std::io::ErrorKind::PermissionDenied).starts_with("run as the user"));
    let source = || std::io::Error::from(std::io::ErrorKind::TooManyLinks);
    let links = LayerError::Write { doing: "link", entry: "a".to_owned(), source: source() };
    assert!(links.hint().unwrap().contains("no more names"));
    let broken = LayerError::Decompress { format: "gzip", source: source() };
    assert!(broken.hint().unwrap().starts_with("the image itself is at fault"));
}

#[test]
fn files_of_the_users_have_nothing_to_do_with_home_and_layers() {
    for kind in [
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
    ] {
        let named = StoreError::named("write", "images.toml")(kind.into());
        let own = StoreError::io("write", "layers")(kind.into());
        assert_eq!(named.kind(), own.kind());
        let hint = named.hint().expect("a next step");
        assert!(!hint.contains("layers") && !hint.contains("--home"), "{hint}");
        assert!(own.hint().is_some_and(|hint| hint.contains("layers")));
    }
}
