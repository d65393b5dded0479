//! Tests of the test support itself, against tools that others wrote: curl, skopeo, umoci, Python.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::docker_registry::DockerRegistry;
use super::fake_registry::{Auth, FakeRegistry, Fault, token_for};
use super::http::{Front, Shape};
use super::image::{BlobSet, Image, Layer, Pack, dir, file, hard, node, noise, symlink, tar};
use super::sandbox::Sandbox;
use super::tls::Authority;
use super::tree::{Tree, unpack};
use super::world::{SIGNATURE, World};

/// Status, headers and body as curl sees them.
#[track_caller]
fn curl(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let all = [&["--silent", "--show-error", "--dump-header", "-"], arguments].concat();
    let output = sandbox.program("curl", &all).run();
    format!("{}{}", output.stdout, output.stderr)
}

fn sample() -> Image {
    Image::new(&[Layer::of(&[dir("etc"), file("etc/hostname", "box\n")])])
}

#[test]
fn a_tree_is_what_umoci_unpacks_and_a_difference_is_found() {
    let sandbox = Sandbox::new();
    let long = format!("deep/{}/{}", "d".repeat(120), "f".repeat(120));
    let items = [
        dir("etc"),
        file("etc/a", "alpha").mode(0o640).mtime(1_000_000_000).pax("mtime", "1000000000.25"),
        hard("etc/b", "etc/a"),
        symlink("etc/c", "../nowhere"),
        file("etc/d", "once"),
        file("etc/d", "twice"),
        dir("deep"),
        file(&long, "long"),
        file(b"etc/\xff\xfe", "bytes"),
    ];
    let mut set = BlobSet::default();
    let manifest = set.image(&Image::new(&[Layer::of(&items)]));
    set.write_layout(&sandbox.root().join("oci"), &[("x", &manifest)]);
    sandbox.program("umoci", &["raw", "unpack", "--rootless", "--image", "../oci:x", "out"]).run().success();

    let unpacked = Tree::of(&sandbox.work().join("out"));
    let expected = Tree::expected(&tar(&items));
    let lines: Vec<String> = expected.differences(&unpacked);
    // umoci sets attributes of its own kind, and owners only for root; everything else agrees.
    let others: Vec<&String> = lines.iter().filter(|line| !line.contains("xattrs should be")).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(expected.fact("etc/a", "links"), Some("etc/a = etc/b"));
    assert_eq!(expected.fact("etc/d", "size"), Some("5"));
    assert_eq!(expected.fact("etc/a", "xattrs"), Some("user.containers.override_stat=0:0:0100640"));

    std::fs::write(sandbox.work().join("out/etc/d"), "thrice").unwrap();
    std::fs::write(sandbox.work().join("out/extra"), "").unwrap();
    std::fs::remove_file(sandbox.work().join("out/etc/c")).unwrap();
    let lines = expected.differences(&Tree::of(&sandbox.work().join("out"))).join("\n");
    for complaint in ["etc/d: size should be \"5\", is \"6\"", "extra: should not", "etc/c: missing"] {
        assert!(lines.contains(complaint), "{complaint}: {lines}");
    }
}

#[test]
fn python_reads_the_tars_that_we_write_as_we_do() {
    const SCRIPT: &str = "import sys, tarfile, json\n\
        kinds = {b'0': 'file', b'1': 'hard', b'2': 'symlink', b'3': 'chr', b'4': 'blk', b'5': 'dir', b'6': 'fifo'}\n\
        t = tarfile.open('x.tar', errors='surrogateescape')\n\
        print(json.dumps([[m.name.encode('utf-8', 'surrogateescape').hex(), kinds[m.type], m.mode, m.uid, m.gid,\
         m.mtime, m.linkname, m.size, m.pax_headers.get('SCHILY.xattr.user.k', '')] for m in t]))\n";
    let sandbox = Sandbox::new();
    let long = "n".repeat(300);
    let bytes = tar(&[
        dir("d").mode(0o1777).owner(3_000_000, 4_000_000_000),
        file("f", noise(1, 700)).pax("mtime", "12.5").xattr("user.k", "v"),
        file(&long, "x"),
        file([b"\xff".as_slice(), &[b'y'; 150]].concat(), "x"),
        hard("h", "f"),
        symlink("s", &long),
        node(b'3', "c"),
        node(b'6', "p"),
    ]);
    sandbox.write("x.tar", &bytes);
    let output = sandbox.program("python3", &["-c", SCRIPT]).run().success();
    let read: Vec<Vec<Value>> = serde_json::from_str(&output.stdout).unwrap();
    let column = |at: usize| read.iter().map(|entry| entry[at].clone()).collect::<Vec<_>>();
    assert_eq!(column(1), ["dir", "file", "file", "file", "hard", "symlink", "chr", "fifo"]);
    assert_eq!(read[0][2..5], [0o1777, 3_000_000, 4_000_000_000_u64].map(Value::from));
    assert_eq!(read[1][5], 12.5);
    assert_eq!(read[1][7..], [Value::from(700), Value::from("v")]);
    assert_eq!(read[2][0], super::hex(long.as_bytes()));
    assert_eq!(read[3][0], super::hex(&[b"\xff".as_slice(), &[b'y'; 150]].concat()));
    assert_eq!(read[5][6], long);

    let expected = Tree::expected(&bytes);
    let stat = |path: &str| expected.fact(path, "xattrs").unwrap_or_default().to_owned();
    assert_eq!(stat("d"), "user.containers.override_stat=3000000:4000000000:041777");
    assert_eq!(stat("f"), "user.containers.override_stat=0:0:0100644 user.k=v");
    assert_eq!(expected.fact("f", "mtime"), Some("12.500000000"));
    assert_eq!(stat("p"), "user.containers.override_stat=0:0:010644");
    assert_eq!(stat("s"), "");
}

#[test]
fn every_packing_holds_the_same_tar() {
    let bytes = tar(&[file("a", noise(3, 100_000))]);
    for pack in [Pack::Gzip, Pack::GzipMembers, Pack::Zstd, Pack::Plain] {
        assert_eq!(unpack(&Layer::packed(&bytes, pack).blob), bytes, "{pack:?}");
    }
}

#[test]
fn a_snapshot_sees_a_write_that_leaves_the_content_alone() {
    let sandbox = Sandbox::new();
    sandbox.write("a/b", "same");
    let before = Tree::snapshot(&sandbox.work());
    assert_eq!(before, Tree::snapshot(&sandbox.work()));
    std::thread::sleep(Duration::from_millis(20));
    sandbox.write("a/b", "same");
    assert_ne!(before, Tree::snapshot(&sandbox.work()));
}

#[test]
fn skopeo_copies_from_our_layout_to_the_real_registry_and_from_the_fake_one() {
    let sandbox = Sandbox::new();
    let mut set = BlobSet::default();
    let (oci, docker) = (set.image(&sample()), set.image(&sample().docker()));
    let index = set.index(false, &[oci.clone(), docker.clone()]);
    set.tag("team/app:oci", &oci);
    set.tag("team/app:docker", &docker);
    set.tag("team/app:index", &index);
    set.write_layout(&sandbox.work().join("oci"), &[("x", &oci)]);

    let real = DockerRegistry::start();
    real.push(&format!("oci:{}:x", sandbox.work().join("oci").display()), "team/app:x", &[]);
    assert_eq!(real.digest_of("team/app:x"), oci.digest());
    assert_eq!(real.blob(oci.digest()), *set.blobs[oci.digest()].as_slice());
    assert!(!real.requests().is_empty());
    curl(&sandbox, &["--head", &format!("http://{}/v2/team/app/manifests/x", real.name())]);
    assert_eq!(real.requests(), ["HEAD /v2/team/app/manifests/x"]);

    let fake = FakeRegistry::start(set);
    for (tag, more) in [("oci", &[][..]), ("docker", &[]), ("index", &["--all"])] {
        let source = format!("docker://{}/team/app:{tag}", fake.name());
        real.push(&source, &format!("copy/app:{tag}"), &[&["--src-tls-verify=false"], more].concat());
    }
    assert_eq!(real.digest_of("copy/app:index"), index.digest());
}

#[test]
fn the_fake_registry_answers_and_fails_as_it_is_told() {
    let sandbox = Sandbox::new();
    let layer = Layer::raw(noise(7, 1000), super::sha256(b""), "application/x");
    let registry = FakeRegistry::start(BlobSet::with("a/b:1", &Image::new(std::slice::from_ref(&layer))));
    let blob = format!("{}/v2/a/b/blobs/{}", registry.url(), layer.digest());
    let fetch = |more: &[&str]| curl(&sandbox, &[more, &["--output", "body", &blob]].concat());
    let length = || std::fs::metadata(sandbox.work().join("body")).map_or(0, |metadata| metadata.len());

    assert!(fetch(&[]).contains("200"));
    let partial = fetch(&["--range", "10-"]);
    assert!(partial.contains("206") && partial.contains("Content-Range: bytes 10-999/1000"), "{partial}");
    assert!(fetch(&["--range", "1000-"]).contains("416"));
    assert!(
        curl(&sandbox, &[&format!("{}/v2/a/b/manifests/2", registry.url())]).contains("MANIFEST_UNKNOWN")
    );
    let tags = curl(&sandbox, &[&format!("{}/v2/a/b/tags/list", registry.url())]);
    assert!(tags.contains(r#""tags":["1"]"#), "{tags}");
    assert_eq!(registry.requests().len(), 5);
    assert_eq!(registry.sent("/blobs/"), 1000 + 990 + registry.log()[2].sent);

    registry.fail(1, "/blobs/", &Fault::status(503).header("Retry-After", "1"));
    let busy = fetch(&[]);
    assert!(busy.contains("503") && busy.contains("Retry-After: 1"), "{busy}");
    registry.fail(1, "/blobs/", &Fault::cut(100));
    assert!(fetch(&[]).contains("curl: (18)"));
    registry.fail(1, "/blobs/", &Fault::stall(100));
    assert!(fetch(&["--max-time", "1"]).contains("curl: (28)"));
    assert_eq!(length(), 100);
    registry.fail(1, "/blobs/", &Fault::no_ranges());
    assert!(fetch(&["--range", "10-"]).contains("200"));
    registry.fail(1, "/blobs/", &Fault::corrupt());
    fetch(&[]);
    assert_ne!(std::fs::read(sandbox.work().join("body")).unwrap(), *layer.blob);
    registry.fail(1, "/blobs/", &Fault { body: Some(b"other".to_vec()), ..Fault::default() });
    fetch(&[]);
    assert_eq!(length(), 5);
    let delay = Duration::from_millis(300);
    registry.fail(1, "/blobs/", &Fault { shape: Shape { delay, ..Shape::default() }, ..Fault::default() });
    registry.fail(1, "/blobs/", &Fault::slow(2000));
    for least in [delay, Duration::from_millis(350)] {
        let start = Instant::now();
        fetch(&[]);
        assert!(start.elapsed() >= least);
    }
    registry.on(|_| Some(Fault::status(500)));
    assert!(fetch(&[]).contains("500"));
    registry.behave();
    assert!(fetch(&[]).contains("200"));
    registry.edit(|content| content.blobs.clear());
    assert!(fetch(&[]).contains("404"));
}

#[test]
fn the_fake_registry_asks_for_users_and_tokens_over_tls() {
    let sandbox = Sandbox::new();
    let authority = Authority::new();
    sandbox.write("ca.pem", authority.pem());
    let user = Some(("me".to_owned(), "pass:word".to_owned()));
    let content = BlobSet::with("a/b:1", &sample());
    let front = Front::Tls(authority.server(&["127.0.0.1"]));
    let registry = FakeRegistry::with(content.clone(), front, Auth::Bearer { user });
    let manifest = format!("{}/v2/a/b/manifests/1", registry.url());
    let ask = |more: &[&str]| curl(&sandbox, &[&["--cacert", "ca.pem"], more].concat());

    assert!(curl(&sandbox, &[&manifest]).contains("curl: (60)"), "trusted without reason");
    let challenge = ask(&[&manifest]);
    assert!(challenge.contains(r#"scope="repository:a/b:pull""#), "{challenge}");
    let scope = "repository:a/b:pull";
    let endpoint = format!("{}/token?service=fake&scope=repository%3Aa/b:pull", registry.url());
    assert!(ask(&[&endpoint]).contains("401"));
    assert!(ask(&["--user", "me:pass:word", &endpoint]).contains(&token_for(scope)));
    let bearer = |scope: &str| format!("Authorization: Bearer {}", token_for(scope));
    assert!(ask(&["--header", &bearer(scope), &manifest]).contains("schemaVersion"));
    assert!(ask(&["--header", &bearer("repository:c/d:pull"), &manifest]).contains("401"));

    let auth = Auth::Basic { user: "me".to_owned(), password: "pass:word".to_owned() };
    let registry = FakeRegistry::with(content, Front::Plain, auth);
    let manifest = format!("{}/v2/a/b/manifests/1", registry.url());
    assert!(curl(&sandbox, &[&manifest]).contains("Basic realm"));
    assert!(curl(&sandbox, &["--user", "me:pass:word", &manifest]).contains("schemaVersion"));
}

#[test]
fn the_world_answers_like_docker_hub_and_ghcr() {
    let sandbox = Sandbox::new();
    let world = World::start();
    let image = sample();
    world.hub(|content| *content = BlobSet::with("library/alpine:1", &image));
    world.ghcr(|content| *content = BlobSet::with("team/app:1", &image));
    for (registry, repository, tag, realm) in [
        ("registry-1.docker.io", "library/alpine", "1", "auth.docker.io/token?service=registry.docker.io"),
        ("ghcr.io", "team/app", "1", "ghcr.io/token?service=ghcr.io"),
    ] {
        let ask = |more: &[&str]| {
            let all = [&["--silent", "--dump-header", "-"], more].concat();
            let run = world.seen_by(&sandbox, sandbox.program("curl", &all));
            run.run().stdout
        };
        let manifest = format!("https://{registry}/v2/{repository}/manifests/{tag}");
        assert!(ask(&[&manifest]).contains("Bearer realm"));
        let scope = format!("repository:{repository}:pull");
        assert!(ask(&[&format!("https://{realm}&scope={scope}")]).contains(&token_for(&scope)));
        let token = format!("Authorization: Bearer {}", token_for(&scope));
        assert!(ask(&["--header", &token, &manifest]).contains("schemaVersion"));
        let blob = format!("https://{registry}/v2/{repository}/blobs/{}", image.layers[0].digest());
        let moved = ask(&["--header", &token, &blob]);
        let target = moved.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
        assert!(moved.contains("307") && target.contains(SIGNATURE), "{moved}");
        assert!(ask(&["--output", "body", target]).contains("200"));
        assert!(ask(&["--header", &token, target]).contains("400"));
    }
    assert!(world.tunnels().contains(&"CONNECT ghcr.io:443".to_owned()));
    assert_eq!(world.log().len(), 12);
    world.forget();
    assert!(world.log().is_empty());
}

#[test]
fn a_run_is_killed_when_its_time_is_up_and_tells_what_it_printed() {
    let sandbox = Sandbox::new();
    let run = sandbox.program("sh", &["-c", "echo out; echo err >&2; sleep 600"]);
    let late = std::thread::spawn(|| run.timeout(Duration::from_millis(200)).run()).join().unwrap_err();
    let message = late.downcast_ref::<String>().unwrap();
    for part in ["sleep 600", "out", "err", "still running after 200ms"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let mut running = sandbox.program("sleep", &["600"]).spawn();
    assert!(!running.ended());
    running.signal(Signal::TERM);
    running.wait().killed_by(Signal::TERM);
    let echoed = sandbox.program("cat", &[]).stdin("typed").arg("-").run().success();
    assert_eq!(echoed.stdout, "typed");
}

#[test]
fn peak_memory_is_that_of_the_child() {
    let sandbox = Sandbox::new();
    let output = sandbox.measured("--version").run();
    assert!((1000..60_000).contains(&output.peak_kib()), "{output}");
}

/// What every Debian has, and what `cargo test` itself needs.
const EVERYWHERE: &[&str] = &[
    "bash", "cat", "cc", "chattr", "chown", "cmp", "cp", "dash", "dd", "env", "flock", "kill", "ln",
    "losetup", "ls", "mkdir", "mkfifo", "mknod", "mv", "nsenter", "prlimit", "rm", "setpriv", "sh", "sleep",
    "sync", "timeout", "touch", "true", "umount",
];
/// Of which the tests that use them say aloud when they are not there.
const OPTIONAL: &[&str] = &["cargo-deb", "chromium", "node", "systemd-analyze"];

#[test]
fn every_program_that_tests_run_is_listed_with_its_package() {
    let listed = super::tools::listed();
    assert!(listed.len() > 10, "{listed:?}");
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut unlisted = std::collections::BTreeSet::new();
    let mut seen = 0;
    for directory in [directory.clone(), directory.join("support"), directory.join("model")] {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for before in ["Command::new(\"", ".program(\""] {
                for after in text.split(before).skip(1) {
                    let program = after.split('"').next().unwrap();
                    seen += 1;
                    let known = listed.contains_key(program)
                        || EVERYWHERE.contains(&program)
                        || OPTIONAL.contains(&program);
                    if !known && !program.contains(['/', '{', '\\']) {
                        unlisted.insert(format!("{program} in {}", path.display()));
                    }
                }
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(unlisted.is_empty(), "list them in tests/tools: {unlisted:#?}");
}

#[test]
fn without_the_tools_the_tests_end_with_one_message() {
    let sandbox = Sandbox::new();
    // All but two of them.
    let missing = [("skopeo", "skopeo"), ("nginx", "nginx-light")];
    let bin = sandbox.root().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let places = super::path();
    let commands = super::tools::listed().into_keys().filter(|command| !command.starts_with('/'));
    for command in commands.chain(["sh", "cat"]) {
        if missing.iter().all(|(missing, _)| *missing != command) {
            let mut found = places.split(':').map(|place| std::path::Path::new(place).join(command));
            std::os::unix::fs::symlink(found.find(|path| path.exists()).unwrap(), bin.join(command)).unwrap();
        }
    }
    // The real ones lie in sbin, which is looked into as well: there must be nothing of the kind there.
    let hidden = missing.iter().all(|(command, _)| {
        ["/usr/local/sbin", "/usr/sbin", "/sbin"]
            .iter()
            .all(|sbin| !std::path::Path::new(sbin).join(command).exists())
    });
    let expected: Vec<&str> = missing
        .iter()
        .filter(|(command, _)| hidden || *command == "skopeo")
        .map(|(_, package)| *package)
        .collect();
    let mut run = std::process::Command::new(std::env::current_exe().unwrap());
    let output = run.args(["prune::", "verify::"]).env("PATH", &bin).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    assert!(expected.iter().all(|package| text.contains(package)) && text.contains("tests/run"), "{text}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("FAILED"));

    // The script says the same, before it builds anything, to who is not root.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/run");
    for tool in ["bash", "dirname", "id", "mktemp"] {
        let mut found = places.split(':').map(|place| std::path::Path::new(place).join(tool));
        std::os::unix::fs::symlink(found.find(|path| path.exists()).unwrap(), bin.join(tool)).unwrap();
    }
    std::fs::remove_file(bin.join("id")).unwrap();
    for (name, text) in [("id", "echo 1000"), ("cargo", "echo built; exit 0")] {
        std::fs::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(bin.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
    let output = std::process::Command::new("bash").arg(script).env("PATH", &bin).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(expected.iter().all(|package| text.contains(package)), "{text}");
}
