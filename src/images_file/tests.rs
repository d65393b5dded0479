//! The images file from outside: text in, values or printed problems out.

mod engines;
mod hostile;
mod on_change;
mod problems;
mod trust;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::values::PULL_WORDS;
use super::*;
use crate::state::{EngineName, Mirror, Ownership, PullPolicy};

fn source() -> Source<'static> {
    Source {
        name: "images.toml",
        directory: Path::new("/etc/msb"),
        home_directory: Some(Path::new("/home/ann")),
        default_registry: "docker.io",
        default_platform: Platform::new("linux", "amd64", None),
        for_platform: None,
        untrusted: false,
        machine: None,
    }
}

fn good(text: &str) -> ImagesFile {
    parse(text, &source()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn bad(text: &str) -> Problems {
    match parse(text, &source()) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(problems) => problems,
    }
}

/// `line:column message [| hint]` of each problem.
fn brief(problems: &Problems) -> Vec<String> {
    let one = |problem: &Problem| {
        let hint = problem.hint().map_or(String::new(), |hint| format!(" | {hint}"));
        format!("{}:{} {}{hint}", problem.line(), problem.column(), problem.message())
    };
    problems.iter().map(one).collect()
}

fn references(file: &ImagesFile) -> Vec<String> {
    file.images.iter().map(|image| image.reference.to_string()).collect()
}

const FULL: &str = r#"
[settings]
layers = "/var/lib/msb/layers"
platform = "linux/arm64"
pull = "missing"
prune = true
cooldown = "1d12h"
keep = 2
downloads = 8
interval = "1h30m"
ownership = "none"
layers-mode = "0750"
[settings.limits]
layer-size = "1GiB"
layer-entries = 1000
manifest-size = 1048576

[registry."docker.io"]
images = [
  "alpine:3.20",
  "python:3.12-slim@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
  { name = "nginx", tag = "stable-alpine", platform = "linux/amd64", pull = "never", cooldown = "0s", groups = ["web"] },
  { name = "busybox", digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
  { name = "grafana/grafana:11" },
]

[registry."ghcr.io"]
username = "octocat"
password-env = "GHCR_TOKEN"
images = ["github/super-linter:v7"]

[registry."sandboxes.io"]
images = ["alpine:latest"]

[registry."registry.corp:5000"]
endpoint = "https://registry.corp:5000/"
mirrors = ["https://mirror.corp", { url = "http://other.corp/v2/proxy", resolve = true }]
ca = "corp-ca.pem"
client-cert = "~/client.pem"
client-key = "../key.pem"
insecure = false
headers = { "X-Team" = "infra" }
pull = "always"
cooldown = "7d"
images = ["team/app:v1"]

[registry."vendored.local"]
layout = "vendor/oci"
images = ["tools/busybox:1"]

[groups]
dev = ["alpine:3.20", "@web", "@all-of-corp"]
all-of-corp = ["registry.corp:5000/team/app:v1"]
"#;

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_full_file_means_what_it_says() {
    let file = good(FULL);
    assert_eq!(file.warnings, []);
    let settings = &file.settings;
    assert_eq!(settings.layers.as_deref(), Some(Path::new("/var/lib/msb/layers")));
    assert_eq!(settings.platform.to_string(), "linux/arm64");
    assert_eq!(settings.pull, PullPolicy::Missing);
    assert!(settings.prune);
    assert_eq!(settings.downloads, 8);
    assert_eq!(settings.interval, Duration::from_secs(5400));
    assert_eq!(settings.ownership, Ownership::None);
    assert_eq!(settings.layers_mode, 0o750);
    assert_eq!(settings.limits.layer_size, 1 << 30);
    assert_eq!(settings.limits.layer_entries, 1000);
    assert_eq!(settings.limits.manifest_size, 1 << 20);

    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(
        references(&file),
        [
            "docker.io/library/alpine:3.20".to_owned(),
            format!("docker.io/library/python:3.12-slim@{digest}"),
            "docker.io/library/nginx:stable-alpine".to_owned(),
            format!("docker.io/library/busybox@{digest}"),
            "docker.io/grafana/grafana:11".to_owned(),
            "ghcr.io/github/super-linter:v7".to_owned(),
            "sandboxes.io/library/alpine:latest".to_owned(),
            "registry.corp:5000/team/app:v1".to_owned(),
            "vendored.local/tools/busybox:1".to_owned(),
        ]
    );
    let nginx = &file.images[2];
    assert_eq!(nginx.platform.to_string(), "linux/amd64");
    assert_eq!(nginx.pull, PullPolicy::Never);
    assert_eq!(file.images[0].platform.to_string(), "linux/arm64");
    assert_eq!(file.images[0].pull, PullPolicy::Missing);
    assert_eq!(file.images[7].pull, PullPolicy::Always, "the registry's policy");
    assert_eq!(settings.targets.keeps_earlier, 2);
    let cooldown = |image: usize| file.images[image].cooldown.as_secs() / 3600;
    assert_eq!([0, 2, 7].map(cooldown), [36, 0, 7 * 24], "the settings', its own, the registry's");

    let names: Vec<&str> = file.registries.iter().map(|registry| registry.name.as_str()).collect();
    assert_eq!(names, ["docker.io", "ghcr.io", "sandboxes.io", "registry.corp:5000", "vendored.local"]);
    assert_eq!(
        file.registries[3],
        RegistrySettings {
            name: "registry.corp:5000".to_owned(),
            endpoint: Some("https://registry.corp:5000".to_owned()),
            mirrors: vec![
                Mirror { url: "https://mirror.corp".to_owned(), resolve: false },
                Mirror { url: "http://other.corp/v2/proxy".to_owned(), resolve: true },
            ],
            ca: Some(PathBuf::from("/etc/msb/corp-ca.pem")),
            client_cert: Some(PathBuf::from("/home/ann/client.pem")),
            client_key: Some(PathBuf::from("/etc/key.pem")),
            headers: vec![("X-Team".to_owned(), "infra".to_owned())],
            ..RegistrySettings::default()
        }
    );
    assert_eq!(file.registries[1].username.as_deref(), Some("octocat"));
    assert_eq!(file.registries[1].password_env.as_deref(), Some("GHCR_TOKEN"));
    assert_eq!(file.registries[4].layout.as_deref(), Some(Path::new("/etc/msb/vendor/oci")));

    let members =
        |group: &str| -> Vec<String> { file.groups[group].images.iter().map(ToString::to_string).collect() };
    assert_eq!(members("web"), ["docker.io/library/nginx:stable-alpine"]);
    assert_eq!(
        members("dev"),
        [
            "docker.io/library/alpine:3.20",
            "docker.io/library/nginx:stable-alpine",
            "registry.corp:5000/team/app:v1"
        ]
    );
    assert_eq!(nginx.groups, BTreeSet::from(["dev".to_owned(), "web".to_owned()]));
}

#[test]
fn empty_files_byte_order_marks_and_crlf_are_fine() {
    for text in [
        "",
        "\u{feff}",
        "# nothing\r\n",
        "[settings]\r\n",
        "\u{feff}[registry.\"docker.io\"]\r\nimages = []\r\n",
    ] {
        let file = good(text);
        assert!(file.images.is_empty());
        assert_eq!(file.settings.platform.to_string(), "linux/amd64");
        assert_eq!(file.settings.downloads, 6);
    }
    let problems = bad("\u{feff}a = 1\r\nb = \"\u{1F600}\" # x\r\n");
    let texts: Vec<(usize, usize, &str)> =
        problems.iter().map(|problem| (problem.line(), problem.column(), problem.text())).collect();
    assert_eq!(texts, [(1, 1, "a = 1"), (2, 1, "b = \"\u{1F600}\" # x")]);
}

#[test]
fn entries_groups_and_group_tables_of_one_name_are_one_group() {
    let file = good(
        r#"
[registry."docker.io"]
images = ["alpine", { name = "nginx", groups = ["web"] }, { name = "redis", tags = { newest = 2 }, groups = ["db"] }]
[groups]
web = ["alpine"]
all = ["@web", "docker.io/library/redis"]
"#,
    );
    let web: Vec<String> = file.groups["web"].images.iter().map(ToString::to_string).collect();
    assert_eq!(web, ["docker.io/library/alpine:latest", "docker.io/library/nginx:latest"]);
    assert_eq!(file.groups["all"].selections, BTreeSet::from([0]));
    assert_eq!(file.selections[0].groups, BTreeSet::from(["all".to_owned(), "db".to_owned()]));
}

#[test]
fn group_members_without_a_registry_use_the_default_one() {
    let text = "[registry.\"ghcr.io\"]\nimages = [\"a/b:1\"]\n[groups]\ng = [\"a/b:1\"]\n";
    let source = Source { default_registry: "ghcr.io", ..source() };
    assert_eq!(parse(text, &source).unwrap().groups["g"].images.len(), 1);
    assert_eq!(
        brief(&bad(text)),
        ["4:6 no image `docker.io/a/b:1` is listed in this file | did you mean `ghcr.io/a/b:1`?"]
    );
}

#[test]
fn desired_images_are_sorted_and_chosen_by_group() {
    let file = good(FULL);
    let owner = || Owner("/etc/msb/images.toml".to_owned());
    let all = file.desired(owner(), "/layers".into(), &[]).unwrap();
    assert_eq!(all.images.len(), 9);
    assert!(all.images.is_sorted_by_key(|image| &image.reference));
    assert!(all.listed_elsewhere.is_empty());
    assert!(all.prune);

    let web = file.desired(owner(), "/layers".into(), &["web".to_owned()]).unwrap();
    assert_eq!(web.images.len(), 1);
    assert_eq!(web.listed_elsewhere.len(), 8);
    let both =
        file.desired(owner(), "/layers".into(), &["@web".to_owned(), "all-of-corp".to_owned()]).unwrap();
    assert_eq!(both.images.len(), 2);

    let error = file.desired(owner(), "/layers".into(), &["wbe".to_owned()]).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.hint().as_deref()),
        ("unknown group `wbe`", Some("did you mean `web`?"))
    );
    let error = file
        .desired(owner(), "/layers".into(), &["zzzz".to_owned(), "web".to_owned(), "yyyy".to_owned()])
        .unwrap_err();
    assert_eq!(error.to_string(), "unknown groups `yyyy`, `zzzz`");
    assert_eq!(error.hint().unwrap(), "the images file has `all-of-corp`, `dev`, `web`");
    let error = good("").desired(owner(), "/layers".into(), &["x".to_owned()]).unwrap_err();
    assert_eq!(error.hint().unwrap(), "the images file defines no groups");
}

#[test]
fn selections_are_validated_and_anchored() {
    let file = good(
        r#"
[settings]
hosts-dir = "certs.d"
[registry."docker.io"]
images = [
  { name = "redis", tags = { semver = ">=7, <8", newest = 2 } },
  { name = "node", tags = { match = "22\\.[0-9]+|lts", newest = 1 } },
]
"#,
    );
    assert_eq!(file.selections[0].rule.semver, [">=7, <8"]);
    assert_eq!(file.selections[0].rule.newest.map(NonZeroUsize::get), Some(2));
    assert_eq!(file.selections[1].repository.to_string(), "docker.io/library/node");
    let pattern = regex::Regex::new(file.selections[1].rule.matching.as_deref().unwrap()).unwrap();
    assert!(pattern.is_match("22.1") && pattern.is_match("lts"));
    assert!(!pattern.is_match("22.1-slim") && !pattern.is_match("x-lts"));
    assert_eq!(file.settings.hosts_dir.as_deref(), Some(Path::new("/etc/msb/certs.d")));
}

#[test]
fn the_starter_file_is_valid_with_and_without_its_examples() {
    let file = good(STARTER);
    assert_eq!(references(&file), ["docker.io/library/alpine:3.20", "docker.io/library/python:3.12-slim"]);
    assert_eq!(file.warnings, []);
    assert!(STARTER.starts_with("#:schema images.schema.json\n"), "editors read the first line only");
    // Every line that is commented-out TOML is TOML, and valid.
    let is_example = |line: &str| {
        let line = line.trim_start().trim_start_matches("# ");
        line.starts_with(['[', '{']) || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let uncommented: String = STARTER
        .lines()
        .map(|line| if is_example(line) { line.replacen("# ", "", 1) } else { line.to_owned() } + "\n")
        .collect();
    let file = good(&uncommented);
    assert_eq!((file.images.len(), file.selections.len(), file.registries.len()), (9, 4, 5), "{uncommented}");
    let missing: Vec<&&str> = keys::ALL
        .iter()
        .flat_map(|keys| keys.names)
        .filter(|key| !["digest", "password-file"].contains(key) && !uncommented.contains(**key))
        .collect();
    assert!(missing.is_empty(), "not in the starter file: {missing:?}");
}

#[test]
fn the_schema_and_the_parser_know_the_same_keys() {
    let schema: Value = serde_json::from_str(json_schema()).unwrap();
    for (keys, pointer) in [
        (&keys::TOP, ""),
        (&keys::SETTINGS, "/$defs/settings"),
        (&keys::LIMITS, "/$defs/limits"),
        (&keys::MICROSANDBOX, "/$defs/microsandbox"),
        (&keys::CONTAINERD, "/$defs/containerd"),
        (&keys::PODMAN, "/$defs/podman"),
        (&keys::DOCKER, "/$defs/docker"),
        (&keys::REGISTRY, "/$defs/registry"),
        (&keys::MIRROR, "/$defs/mirror"),
        (&keys::IMAGE, "/$defs/image"),
        (&keys::TAGS, "/$defs/tags"),
        (&keys::TRUST, "/$defs/trust"),
        (&keys::KEYLESS, "/$defs/keyless"),
        (&keys::NOTATION, "/$defs/notation"),
        (&keys::ON_CHANGE, "/$defs/on-change"),
    ] {
        let table = schema.pointer(pointer).unwrap();
        assert_eq!(table["additionalProperties"], Value::Bool(false), "{pointer}");
        let properties = table["properties"].as_object().unwrap();
        let in_schema: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(in_schema, keys.names.iter().copied().collect::<BTreeSet<_>>(), "{pointer}");
        for (key, property) in properties {
            let described = property.get("description").or_else(|| {
                let target = property["$ref"].as_str()?.strip_prefix('#')?;
                schema.pointer(target)?.get("description")
            });
            assert!(described.is_some(), "{key} has no description");
        }
    }
    assert_eq!(keys::ALL.len(), 15);
    let words = |pointer: &str| -> Vec<String> {
        serde_json::from_value(schema.pointer(pointer).unwrap()["enum"].clone()).unwrap()
    };
    let pull: Vec<&str> = PULL_WORDS.iter().map(|(word, _)| *word).collect();
    assert_eq!(words("/$defs/pull"), pull);
    assert_eq!(words("/$defs/settings/properties/ownership"), ["override-stat", "none"]);
    assert_eq!(words("/$defs/settings/properties/blobs"), ["keep", "discard"]);
    let engines = EngineName::ALL.map(EngineName::as_str);
    assert_eq!(words("/$defs/image/properties/engines/items"), engines);
    let tables = schema.pointer("/properties/engine/properties").unwrap().as_object().unwrap();
    assert_eq!(tables.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(engines));
}
