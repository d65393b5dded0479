//! The examples: what their YAML makes other programs run does what it says, and the Rust programs work on the
//! quickstart's images.

#[expect(dead_code, reason = "the tests call `run`, as its `main` does")]
#[path = "../../examples/apply.rs"]
mod apply;
#[expect(dead_code, reason = "the tests call `run`, as its `main` does")]
#[path = "../../examples/reporter.rs"]
mod reporter;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use msb_sync::sync::Session;
use serde_json::Value;

use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Output, Sandbox};

/// The document of an example's file.
fn yaml(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Two images of three layers, with their file in the working directory. They are a registry's, since a stranger's file
/// may name no directory.
fn served() -> (Sandbox, FakeRegistry) {
    let layer = |name: &str| Layer::of(&[file(name, name)]);
    let mut content = BlobSet::with("hello:1", &Image::new(&[layer("base"), layer("hello")]));
    let greeter = content.image(&Image::new(&[layer("base"), layer("greeter")]));
    content.tag("greeter:1", &greeter);
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    sandbox.images(&format!("[registry.{:?}]\nimages = [\"hello:1\",\"greeter:1\",]\n", registry.name()));
    let shims = sandbox.root().join("shims");
    std::fs::create_dir(&shims).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_msb-sync"), shims.join("msb-sync")).unwrap();
    // The base of the pull request has no lockfile.
    std::fs::write(shims.join("git"), "#!/bin/sh\ntest \"$1\" = fetch\n").unwrap();
    std::fs::set_permissions(shims.join("git"), std::fs::Permissions::from_mode(0o755)).unwrap();
    // What installs msb-sync is not run.
    std::os::unix::fs::symlink("/bin/true", shims.join("cargo")).unwrap();
    (sandbox, registry)
}

/// Runs a script as the program of the example does, with `msb-sync` in the path.
fn shell(sandbox: &Sandbox, script: &str, variables: &BTreeMap<&str, String>) -> Output {
    let path = format!("{}:{}", sandbox.root().join("shims").display(), crate::support::path());
    let run = sandbox.program("bash", &["--noprofile", "--norc", "-eo", "pipefail", "-c", script]);
    variables.iter().fold(run.env("PATH", path), |run, (name, value)| run.env(name, value)).run()
}

/// The steps of a job, carried out as a runner does: `if` with the outputs so far, to the first that fails. The
/// names of those that ran.
fn run_job(sandbox: &Sandbox, job: &Value) -> Result<Vec<String>, Output> {
    let mut ran = Vec::new();
    let mut outputs = BTreeMap::new();
    for step in job["steps"].as_array().unwrap() {
        let Some(script) = step["run"].as_str() else {
            assert!(step["uses"].as_str().unwrap().contains('@'), "{step:?}");
            continue;
        };
        if let Some(condition) = step["if"].as_str() {
            let (name, value) = condition.split_once(" == ").unwrap();
            let is_event = name == "github.event_name" && value == "'pull_request'";
            if !is_event && outputs.get(name).map(String::as_str) != Some(value.trim_matches('\'')) {
                continue;
            }
        }
        let files = ["GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"];
        let files = files.map(|name| (name, sandbox.work().join(name).display().to_string()));
        let output = shell(sandbox, script, &files.into());
        if !output.status.success() {
            return Err(output);
        }
        let written = sandbox.work().join("GITHUB_OUTPUT");
        for line in std::fs::read_to_string(&written).unwrap_or_default().lines() {
            let (name, value) = line.split_once('=').unwrap();
            outputs
                .insert(format!("steps.{}.outputs.{name}", step["id"].as_str().unwrap()), value.to_owned());
        }
        // Each step has a file of its own.
        let _ = std::fs::remove_file(written);
        ran.push(step["name"].as_str().unwrap().to_owned());
    }
    Ok(ran)
}

#[test]
fn the_github_workflow_gates_on_the_plan() {
    let workflow = yaml("github-actions/images.yml");
    // YAML 1.1 would read `on` as a boolean; GitHub and this reader do not.
    let events = workflow["on"].as_object().unwrap();
    assert!(events.contains_key("pull_request") && events.contains_key("push"), "{events:?}");
    let (check, apply) = (&workflow["jobs"]["check"], &workflow["jobs"]["apply"]);
    for job in [check, apply] {
        assert!(!job["runs-on"].is_null(), "{job:?}");
    }
    assert_eq!(apply["needs"].as_str(), Some("check"));
    assert_eq!(apply["if"].as_str(), Some("github.event_name == 'push'"));

    let (sandbox, _registry) = served();
    let unlocked = run_job(&sandbox, check).unwrap_err();
    assert!(unlocked.stdout.contains("Would change images.lock"), "{unlocked}");
    sandbox.msb("lock").run().success();
    assert_eq!(
        run_job(&sandbox, check).unwrap(),
        ["Install msb-sync", "The lockfile is up to date", "What changes", "What would be done"]
    );
    let summary = std::fs::read_to_string(sandbox.work().join("GITHUB_STEP_SUMMARY")).unwrap();
    assert!(summary.contains("### Container images: 2 added; "), "{summary}");
    assert!(summary.contains("2 to add"), "{summary}");
    assert!(!sandbox.home().exists(), "checking changes nothing");
    assert_eq!(run_job(&sandbox, apply).unwrap(), ["Plan", "Apply"]);
    assert_eq!(sandbox.extracted().len(), 3);
    assert_eq!(run_job(&sandbox, apply).unwrap(), ["Plan"], "nothing is pending");

    // An image that nobody has locked, and one that there is not.
    let text = std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
    sandbox.images(&text.replace("\"greeter:1\"", "\"greeter:2\""));
    let refused = run_job(&sandbox, check).unwrap_err();
    assert!(refused.stderr.contains("greeter:2"), "{refused}");
    let refused = run_job(&sandbox, apply).unwrap_err();
    assert!(refused.stderr.contains("does not cover"), "{refused}");
    assert_eq!(sandbox.extracted().len(), 3);
}

#[test]
fn the_pre_commit_hook_refuses_what_is_not_locked() {
    let hooks = yaml("pre-commit/.pre-commit-hooks.yaml");
    let config = yaml("pre-commit/.pre-commit-config.yaml");
    let (shared, local) = (&hooks[0], &config["repos"][0]["hooks"][0]);
    assert_eq!(config["repos"][0]["repo"].as_str(), Some("local"));
    for key in ["id", "name", "entry", "language", "files", "pass_filenames"] {
        assert!(!shared[key].is_null(), "no {key}");
        assert_eq!(shared[key], local[key], "{key}");
    }
    assert_eq!(shared["language"].as_str(), Some("system"));
    assert_eq!(shared["pass_filenames"].as_bool(), Some(false));

    let (sandbox, _registry) = served();
    let entry = shared["entry"].as_str().unwrap();
    let hook = || shell(&sandbox, entry, &BTreeMap::new());
    hook().code(2);
    assert!(!sandbox.work().join("images.lock").exists(), "a check writes nothing");
    sandbox.msb("lock").run().success();
    hook().success();
    let text = std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
    sandbox.images(&text.replace("\"greeter:1\",", ""));
    hook().code(2);
    sandbox.images("[settings]\nlayerz = 1\n");
    hook().code(1);

    // What it watches: pre-commit searches with Python's `re`.
    let pattern = shared["files"].as_str().unwrap();
    for (file, seen) in [
        ("images.toml", true),
        ("hosts/a/images.lock", true),
        ("my-images.toml", false),
        ("images.tomlx", false),
    ] {
        let script = "import re, sys; sys.exit(0 if re.search(sys.argv[1], sys.argv[2]) else 1)";
        let found = sandbox.program("python3", &["-c", script, pattern, file]).run();
        assert_eq!(found.status.success(), seen, "{file}");
    }
}

/// The images file of the quickstart, which needs no network.
fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/images.toml")
}

#[test]
fn a_program_plans_and_applies() {
    let sandbox = Sandbox::in_memory();
    let session = Session::new(sandbox.home());
    assert!(apply::run(&session, quickstart()).unwrap());
    assert_eq!(sandbox.extracted().len(), 3, "two images with a layer in common");
    assert!(apply::run(&session, quickstart()).unwrap(), "nothing to do is a success");
    let missing = apply::run(&session, "no-such-file.toml".into()).unwrap_err();
    assert!(missing.to_string().contains("no-such-file.toml"), "{missing}");
}

#[test]
fn a_program_has_a_reporter_of_its_own() {
    let sandbox = Sandbox::in_memory();
    let counter = reporter::run(sandbox.home(), quickstart()).unwrap();
    assert_eq!(counter.images.load(Ordering::Relaxed), 2);
    assert!(counter.extracted.load(Ordering::Relaxed) > 0);
}
