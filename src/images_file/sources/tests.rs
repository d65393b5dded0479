//! Each kind of source names its images, and says by line what it cannot say.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// The images of a source, shortly, and what cannot be read.
fn images(name: &str, text: &str) -> (Vec<String>, Vec<String>) {
    let found = read(name, text, DEFAULT_REGISTRY);
    let images = found.images.iter().map(|(reference, platform)| {
        let on = platform.as_ref().map(|platform| format!(" on {platform}")).unwrap_or_default();
        format!("{}{on}", reference.to_string().replace("docker.io/library/", ""))
    });
    let unread = found.unread.iter().map(|unread| {
        format!("{}: {}: {}", unread.line, unread.text.as_deref().unwrap_or("-"), unread.reason)
    });
    (images.collect(), unread.collect())
}

#[track_caller]
fn assert_images(name: &str, text: &str, expected: &[&str], unread: &[&str]) {
    let (found, not_read) = images(name, text);
    assert_eq!(found, expected, "{not_read:?}");
    assert_eq!(not_read, unread);
}

#[test]
fn a_list_has_a_reference_a_line() {
    let text = "# mine\nalpine:3.20\n\n  ghcr.io/a/b:1   # twice\nghcr.io/a/b:1\nUPPER/x\ndocker://redis:7\n";
    let upper = images("images.txt", text).1[0].clone();
    assert!(upper.starts_with("6: UPPER/x: "), "{upper}");
    let scheme = "7: docker://redis:7: no image reference starts with docker://; write redis:7";
    assert_images("images.txt", text, &["alpine:3.20", "ghcr.io/a/b:1"], &[&upper, scheme]);
    assert_images("-", "", &[], &["1: -: it names no image"]);
    let found = read("<stdin>", "team/app:1\n", "registry.corp:5000");
    assert_eq!(found.images[0].0.to_string(), "registry.corp:5000/team/app:1");
}

#[test]
fn a_compose_file_names_the_images_of_its_services() {
    let text = "\
x-db: &db
  image: postgres:${PG:-16}
  platform: linux/arm64
services:
  db:
    <<: *db
  copy: { <<: [*db], image: \"redis:7\", platform: linux/amd64 }
  web:
    image: $WEB_IMAGE
  built:
    build: .
  odd:
    image: [a]
  bad:
    image: nginx
    platform: arm
";
    assert_images(
        "compose.yaml",
        text,
        &["postgres:16 on linux/arm64", "redis:7 on linux/amd64"],
        &[
            "9: $WEB_IMAGE: the variable WEB_IMAGE has no value in the file",
            "13: -: `image` is no text",
            &format!("16: nginx: {}", Platform::parse("arm").unwrap_err()),
        ],
    );
}

#[test]
fn kubernetes_objects_name_the_images_of_their_containers() {
    let text = "\
# Many in one file.
apiVersion: v1
kind: Pod
spec:
  initContainers: [{ name: init, image: busybox:1 }]
  containers:
    - image: ghcr.io/a/web:1
    - name: patched
  volumes:
    - name: data
      image:
        reference: ghcr.io/a/data:1
---
---
apiVersion: batch/v1
kind: CronJob
spec: { jobTemplate: { spec: { template: { spec: { containers: [{ image: 'alpine' }] } } } } }
---
apiVersion: v1
kind: List
items:
  - kind: Deployment
    spec: { template: { spec: { containers: [ { image: \"{{ .Values.image }}\" } ] } } }
---
apiVersion: v1
kind: ConfigMap
data: { image: not-one:1 }
";
    let (_, unread) = images("all.yml", text);
    assert!(unread[0].starts_with("23: {{ .Values.image }}: "), "{unread:?}");
    let expected = ["busybox:1", "ghcr.io/a/web:1", "ghcr.io/a/data:1", "alpine:latest"];
    assert_images("all.yml", text, &expected, &[&unread[0]]);
    let json = r#"{"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"image": "alpine:3"}]}}"#;
    assert_images("-", json, &["alpine:3"], &[]);
}

#[test]
fn regsync_names_the_sources_of_images() {
    let text = "\
version: 1
creds:
  - registry: docker.io
sync:
  - source: busybox:1
    target: registry:5000/busybox:1
    type: image
    platform: linux/amd64
  - source: alpine
    type: repository
    tags: { allow: [ '3.*' ] }
  - target: x
";
    assert_images(
        "regsync.yml",
        text,
        &["busybox:1 on linux/amd64"],
        &[
            "9: alpine: its tags are chosen by a rule: list it as { name = …, tags = { match = … } }",
            "12: -: an entry without `source`",
        ],
    );
}

#[test]
fn a_dockerfile_names_what_it_builds_on() {
    let text = "\
# syntax=docker/dockerfile:1
ARG GO=1.22 BASE=\"alpine:${TAG:-3.20}\"
ARG UNSET
FROM --platform=$BUILDPLATFORM golang:${GO}-alpine AS Build
ARG GO
COPY --link --from=ghcr.io/a/tools:$GO /x /y
RUN --mount=type=bind,from=busybox:1,target=/b <<EOF
FROM not-this:1
EOF
RUN echo \\
  # a comment
  FROM neither:1
FROM --platform=linux/arm64 \\
  $BASE
COPY --from=build /x /x
COPY --from=0 /x /x
from build as last
FROM scratch
FROM $UNSET
FROM a@sha256:zz
";
    let (_, unread) = images("Dockerfile", text);
    assert!(unread[1].starts_with("20: a@sha256:zz: "), "{unread:?}");
    let expected = ["golang:1.22-alpine", "ghcr.io/a/tools:1.22", "busybox:1", "alpine:3.20 on linux/arm64"];
    let unset = "19: $UNSET: the variable UNSET has no value in the file";
    assert_images("Dockerfile", text, &expected, &[unset, &unread[1]]);
    assert_images("app.containerfile", "FROM a:1\n", &["a:1"], &[]);
    assert_images("-", "\nfrom a:1\n", &["a:1"], &[]);
    assert_images("Dockerfile.win", "# escape=`\nFROM `\na:1\n", &["a:1"], &[]);
}

#[test]
fn broken_and_hostile_yaml_is_refused_by_its_line() {
    let (found, unread) = images("x.yml", "services:\n  a: { image: a:1 }\n---\nb: [\n");
    assert_eq!(found, ["a:1"]);
    assert!(unread.iter().any(|line| line.contains("not valid YAML")), "{unread:?}");
    let (_, unread) = images("x.yml", "hello: world\n");
    assert_eq!(unread, ["1: -: neither a compose file, nor Kubernetes objects, nor a regsync.yml"]);

    // Aliases of aliases: 2^40 containers, were they counted out.
    let mut bomb = "apiVersion: v1\nkind: List\na0: &a0 { containers: [{ image: 'a:1' }] }\n".to_owned();
    for level in 1..40 {
        writeln!(bomb, "a{level}: &a{level} [*a{0}, *a{0}]", level - 1).unwrap();
    }
    let (found, unread) = images("x.yml", &bomb);
    assert_eq!(found, ["a:1"]);
    assert_eq!(unread, ["1: -: its aliases lead to too many places"]);
    // A chain of aliases is deep though no line of it is.
    let mut chain = "services:\n  a0: &a0 { image: a:1 }\n".to_owned();
    for level in 1..50_000 {
        writeln!(chain, "  a{level}: &a{level} [*a{}]", level - 1).unwrap();
    }
    assert!(images("x.yml", &chain).1[0].contains("deep"));
    let level = |level: usize| format!("  a{level}: &a{level} {{ <<: [*a{0}, *a{0}] }}\n", level - 1);
    let merges: String = (1..60).map(level).collect();
    images("x.yml", &format!("services:\n  a0: &a0 {{ x: 1 }}\n{merges}"));
    for deep in ["[".repeat(200_000), "- ".repeat(200_000), "{a: ".repeat(200_000), "? ".repeat(100_000)] {
        assert_eq!(images("x.yml", &deep).0.len(), 0);
    }
    assert!(images("x.yml", "a: &a [*a]\n").1[0].contains("not valid YAML"));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "FROM ", "ARG ", "COPY --from=", "RUN <<", "services", "image", "kind", "&a ", "*a ", "<<", ":", ": ",
                "\n", "- ", "[", "]", "{", "}", "$", "${", "'", "\"", "#", "|", ">", "?", "%", "`", "\\", "a", "é", "\t",
            ]),
            0..30,
        ),
        name in prop::sample::select(vec!["Dockerfile", "x.yml", "-"]),
    ) {
        read(name, &words.concat(), DEFAULT_REGISTRY);
    }
}
