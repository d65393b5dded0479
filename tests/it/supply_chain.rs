//! What `deny.toml` asks of dependencies, held in every run: licences, sources, and one version of each crate. It
//! needs neither a network nor cargo-deny, which checks the same and more where it is installed (`.ci/run`); known
//! vulnerabilities are told by a database on the network, and not here.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use toml::Table;

/// The dependencies of the program on this machine's platform, build scripts' included, those of tests not: what
/// `cargo deny` looks at by default.
struct Graph {
    packages: BTreeMap<String, Value>,
    shipped: BTreeSet<String>,
}

impl Graph {
    fn read() -> Self {
        let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let output = Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--locked",
                "--offline",
                "--format-version",
                "1",
                "--filter-platform",
                &platform,
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let by_id = |list: &Value| -> BTreeMap<String, Value> {
            let items = list.as_array().unwrap().iter();
            items.map(|item| (item["id"].as_str().unwrap().to_owned(), item.clone())).collect()
        };
        let nodes = by_id(&metadata["resolve"]["nodes"]);
        let mut todo = vec![metadata["resolve"]["root"].as_str().unwrap().to_owned()];
        let mut shipped = BTreeSet::new();
        while let Some(id) = todo.pop() {
            if !shipped.insert(id.clone()) {
                continue;
            }
            for dependency in nodes[&id]["deps"].as_array().unwrap() {
                let kinds = dependency["dep_kinds"].as_array().unwrap();
                if kinds.iter().any(|kind| kind["kind"] != "dev") {
                    todo.push(dependency["pkg"].as_str().unwrap().to_owned());
                }
            }
        }
        Self { packages: by_id(&metadata["packages"]), shipped }
    }

    fn shipped(&self) -> impl Iterator<Item = &Value> {
        self.shipped.iter().map(|id| &self.packages[id])
    }
}

fn deny() -> Table {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml");
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn words(list: &toml::Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn name(package: &Value) -> String {
    format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap())
}

/// Whether an SPDX expression (or cargo's old `A/B`) can be met with these licences.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &tokens[..];
    any_of(&mut rest, allowed) && rest.is_empty()
}

fn any_of(tokens: &mut &[&str], allowed: &[String]) -> bool {
    let mut met = all_of(tokens, allowed);
    while let ["OR", rest @ ..] = tokens {
        *tokens = rest;
        met |= all_of(tokens, allowed);
    }
    met
}

fn all_of(tokens: &mut &[&str], allowed: &[String]) -> bool {
    let mut met = one(tokens, allowed);
    while let ["AND", rest @ ..] = tokens {
        *tokens = rest;
        met &= one(tokens, allowed);
    }
    met
}

fn one(tokens: &mut &[&str], allowed: &[String]) -> bool {
    match tokens {
        ["(", rest @ ..] => {
            *tokens = rest;
            let met = any_of(tokens, allowed);
            // A closing bracket, or the expression is broken: then something is left over in the end.
            *tokens = tokens.strip_prefix(&[")"]).unwrap_or(&["unclosed"]);
            met
        }
        [license, "WITH", exception, rest @ ..] => {
            *tokens = rest;
            allowed.contains(&format!("{license} WITH {exception}"))
        }
        [license, rest @ ..] => {
            *tokens = rest;
            allowed.iter().any(|known| known == license)
        }
        [] => false,
    }
}

#[test]
fn dependencies_are_what_deny_toml_allows() {
    let (graph, deny) = (Graph::read(), deny());
    let allowed = words(&deny["licenses"]["allow"]);
    let mut wrong = Vec::new();
    // The tests' crates too: they are not shipped, but everyone who works on this gets them.
    for package in graph.packages.values() {
        let license = package["license"].as_str().unwrap_or("no licence");
        if !is_allowed(license, &allowed) {
            wrong.push(format!("{}: its licence is {license}", name(package)));
        }
        let source = package["source"].as_str();
        let own = package["name"] == env!("CARGO_PKG_NAME");
        let registries = words(&deny["sources"]["allow-registry"]);
        let fits = |source: &str| registries.iter().any(|known| source == format!("registry+{known}"));
        if !source.map_or(own, fits) {
            wrong.push(format!("{}: it comes from {source:?}", name(package)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(graph.shipped.len() > 50, "only {} crates were looked at", graph.shipped.len());
}

#[test]
fn each_crate_is_there_in_one_version() {
    let (graph, deny) = (Graph::read(), deny());
    assert_eq!(deny["bans"]["multiple-versions"].as_str(), Some("deny"));
    let skipped = deny["bans"]["skip"].as_array().unwrap();
    let skipped: Vec<&str> = skipped.iter().map(|entry| entry["crate"].as_str().unwrap()).collect();
    // `name@1` is every 1.x.
    let is_skipped = |package: &Value| {
        skipped.iter().any(|entry| {
            let (name, version) = entry.split_once('@').unwrap();
            let found = package["version"].as_str().unwrap();
            package["name"] == name && (found == version || found.starts_with(&format!("{version}.")))
        })
    };
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in graph.shipped().filter(|package| !is_skipped(package)) {
        versions
            .entry(package["name"].as_str().unwrap())
            .or_default()
            .push(package["version"].as_str().unwrap());
    }
    versions.retain(|_, found| found.len() > 1);
    assert!(versions.is_empty(), "several versions: {versions:?}");
    for entry in skipped {
        let (name, _) = entry.split_once('@').unwrap();
        let count = graph.shipped().filter(|package| package["name"] == name).count();
        assert!(count > 1, "deny.toml makes an exception for {entry} that nobody needs");
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT".to_owned(), "Apache-2.0".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT", true),
        ("GPL-3.0-only/MIT", true),
        ("MIT AND GPL-3.0-only", false),
        ("(MIT OR GPL-3.0-only) AND Apache-2.0", true),
        ("MIT AND (GPL-3.0-only OR LGPL-3.0-only)", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("MIT WITH LLVM-exception", false),
        ("MIT OR GPL-3.0-only AND GPL-2.0-only", true),
        ("(MIT", false),
        ("MIT)", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
