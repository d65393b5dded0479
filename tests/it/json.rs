//! What `--json` prints is what `msb-sync schema output` and `docs/json.md` say: documents, events, and the reason on
//! standard output too where a command cannot be carried out.
//!
//! Every other test's documents are held against the schema as well, where `support/sandbox.rs` reads them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::check::{event, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file, noise};
use crate::support::sandbox::Sandbox;
use crate::support::schema;
use crate::support::watching::{Watching, asked};

/// A registry of `team/app:1` (layers base, one) and `team/app:2` (layers base, two), both wanted, and two wrong
/// images files.
fn world() -> (Sandbox, FakeRegistry) {
    let layer = |name: &str, seed| Layer::of(&[file(name, noise(seed, 5000))]);
    let config = json!({"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"k": "v"}});
    let image = |name: &str, seed| Image::new(&[layer("base", 1), layer(name, seed)]).config(config.clone());
    let mut content = BlobSet::with("team/app:1", &image("one", 2));
    let second = content.image(&image("two", 3));
    content.tag("team/app:2", &second);
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    let images = wanted(&registry.name(), &["team/app:1", "team/app:2"]);
    sandbox.images(&format!("[settings]\nblobs = \"keep\"\n{images}"));
    sandbox.write("missing.toml", wanted(&registry.name(), &["team/app:1", "team/app:3"]));
    let hook = "[[on-change]]\nrun = [\"true\"]\n";
    sandbox.write("hooked.toml", format!("{hook}{}", wanted(&registry.name(), &["team/app:1"])));
    sandbox.write("broken.toml", "[settings]\nlayerz = 1\nnonsense = 2\n");
    (sandbox, registry)
}

/// The JSON examples of `docs/json.md`, each with the name that the heading above it has in the schema.
fn examples() -> Vec<(String, Value)> {
    let page = include_str!("../../docs/json.md");
    let (mut name, mut block, mut found) = (String::new(), None, Vec::new());
    for line in page.lines() {
        match (line, &mut block) {
            ("```json", None) => block = Some(String::new()),
            ("```", Some(text)) => {
                let value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
                found.push((name.clone(), value));
                block = None;
            }
            (line, Some(text)) => text.push_str(line),
            (line, None) => {
                if let Some(heading) = line.strip_prefix("### ") {
                    heading.trim_matches('`').clone_into(&mut name);
                }
            }
        }
    }
    found
}

/// Debian's validator.
const VALIDATE: &str = "import json, sys\n\
    from jsonschema import Draft202012Validator, FormatChecker\n\
    schema, good, bad = json.load(sys.stdin)\n\
    Draft202012Validator.check_schema(schema)\n\
    validator = Draft202012Validator(schema, format_checker=FormatChecker())\n\
    for document in good: validator.validate(document)\n\
    print(sum(validator.is_valid(document) for document in bad))\n";

#[test]
fn every_verb_prints_what_the_schema_says() {
    let (sandbox, registry) = world();
    let schema = schema::output();
    let mut printed: Vec<Value> = Vec::new();
    let reference = format!("{}/team/app:1", registry.name());
    for (arguments, code, name) in [
        ("init", 1, "failure"),
        ("plan", 0, "plan"),
        ("plan missing.toml", 1, "plan"),
        ("plan broken.toml", 2, "failure"),
        ("lock", 0, "lock"),
        ("lock missing.toml", 1, "lock"),
        ("apply broken.toml", 2, "error-event"),
        ("apply --progress always", 0, "image-event progress-event summary-event"),
        ("apply missing.toml", 1, "image-event summary-event"),
        ("pull REF", 0, "image-event summary-event"),
        ("list", 0, "list"),
        ("inspect REF", 0, "inspect"),
        ("inspect REF --rootfs", 0, "rootfs"),
        ("inspect nowhere/x", 1, "failure"),
        ("verify", 0, "verify"),
        ("export --output out.tar", 0, "export"),
        ("export missing.toml --output out.tar", 1, "export"),
        ("trust-root", 0, "trust-root"),
        ("add REF --file new.toml", 0, "edit"),
        ("remove REF --file new.toml", 0, "edit"),
        ("diff images.lock", 0, "diff"),
        ("outdated", 0, "outdated"),
        ("df", 0, "df"),
        ("prune --dry-run", 0, "prune"),
        ("history", 0, "history"),
        ("rollback REF --release", 0, "released"),
        ("forget REF", 0, "prune"),
        ("apply hooked.toml --hooks", 0, "image-event hook-event summary-event"),
        ("verify --nonsense", 2, "failure"),
        ("pull", 2, "error-event"),
    ] {
        let output =
            sandbox.msb(&format!("{} --json", arguments.replace("REF", &reference))).run().code(code);
        let values = if name.ends_with("event") { output.json_lines() } else { vec![output.json()] };
        let names: BTreeSet<&str> = values.iter().flat_map(|value| schema.names_of(value)).collect();
        for name in name.split(' ') {
            assert!(names.contains(name), "{arguments}: {names:?}, no {name}\n{output}");
        }
        printed.extend(values);
    }
    std::fs::create_dir(sandbox.work().join("new")).unwrap();
    let init =
        sandbox.program("sh", &["-c", &format!("cd new && {} init --json", env!("CARGO_BIN_EXE_msb-sync"))]);
    printed.push(init.run().success().json());
    let watching = Watching::start(&sandbox, "--metrics 0");
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    let (code, _, status) = asked(&address, "/status.json");
    assert_eq!(code, 200, "{status}");
    printed.push(serde_json::from_str(&status).unwrap());
    sandbox.images("nonsense = 1\n");
    watching.until("it failed", |event| event["event"] == "error");
    printed.extend(watching.stop().json_lines());

    let seen: BTreeSet<&str> = printed.iter().flat_map(|value| schema.names_of(value)).collect();
    let all = ["anyOf", "$defs/event/anyOf"].map(|path| schema.root().pointer(&format!("/{path}")).unwrap());
    let all = all.iter().flat_map(|all| all.as_array().unwrap()).filter_map(|one| one["$ref"].as_str());
    let all = all.filter_map(|name| name.strip_prefix("#/$defs/")).filter(|name| *name != "event");
    let unseen: Vec<&str> = all.filter(|name| !seen.contains(name)).collect();
    assert!(unseen.is_empty(), "nothing prints {unseen:?}");

    // Debian's validator says the same, of the schema too, and of what is none of ours.
    printed.extend(examples().into_iter().map(|(_, example)| example));
    let bad: Vec<Value> = printed
        .iter()
        .map(|document| {
            let mut document = document.clone();
            document["unheard-of"] = json!(1);
            document
        })
        .collect();
    let input = serde_json::to_vec(&json!([schema.root(), printed, bad])).unwrap();
    let said = sandbox.program("/usr/bin/python3", &["-c", VALIDATE]).stdin(input).run().success();
    assert_eq!(said.stdout, "0\n", "{said}");
}

#[test]
fn every_example_of_the_docs_is_what_its_heading_says() {
    let schema = schema::output();
    let examples = examples();
    for (name, example) in &examples {
        schema.assert_as(name, example);
    }
    let shown: BTreeSet<&str> = examples.iter().map(|(name, _)| name.as_str()).collect();
    let all = schema.root()["anyOf"].as_array().unwrap().iter();
    let all = all.chain(schema.root()["$defs"]["event"]["anyOf"].as_array().unwrap());
    for name in all.filter_map(|one| one["$ref"].as_str()?.strip_prefix("#/$defs/")) {
        assert!(name == "event" || shown.contains(name), "docs/json.md has no example of {name}");
    }
}

#[test]
fn the_schemas_have_names() {
    let sandbox = Sandbox::in_memory();
    for (arguments, id) in [("schema", "images"), ("schema output", "output")] {
        let printed = sandbox.msb(arguments).run().success().stdout;
        let schema: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(schema["$id"], format!("https://msb-sync.dev/schema/{id}.json"));
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    }
    sandbox.msb("schema input").run().code(2).says("output");
}

#[test]
fn a_command_that_cannot_be_carried_out_says_so_on_standard_output_too() {
    let (sandbox, registry) = world();
    for (arguments, code, kind, problems) in [
        ("--json plan broken.toml", 2, "images-file", 2),
        ("plan broken.toml --detailed-exitcode --json", 1, "images-file", 2),
        ("lock --json nowhere.toml", 2, "unreadable", 0),
        ("inspect nowhere/x --json", 1, "not-recorded", 0),
        ("--json", 2, "usage", 0),
        ("aply --json", 2, "usage", 0),
        ("--jobs 0 list --json", 2, "usage", 0),
        ("apply --dry-run --json --nonsense", 2, "usage", 0),
        ("apply broken.toml --json", 2, "images-file", 2),
        ("watch --json broken.toml", 2, "images-file", 2),
        ("pull UPPER/x --json", 2, "reference", 0),
        ("apply --nonsense --json", 2, "usage", 0),
        ("watch --metrics nonsense --json", 2, "usage", 0),
        ("apply --locked --json", 1, "not-locked", 0),
    ] {
        let output = sandbox.msb(arguments).run().code(code);
        let is_event = !arguments.contains("--dry-run")
            && ["apply", "watch", "pull"].iter().any(|verb| arguments.contains(verb));
        let value = if is_event { output.json_lines().pop().unwrap() } else { output.json() };
        assert_eq!(value.get("event").is_some(), is_event, "{output}");
        assert_eq!(value["error"]["kind"], kind, "{output}");
        assert_eq!(value["problems"].as_array().unwrap().len(), problems, "{output}");
        let message = value["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.contains('\n'), "{output}");
        assert!(!output.stderr.is_empty(), "people are told too\n{output}");
    }
    let problems = sandbox.msb("plan --json broken.toml").run().json()["problems"].clone();
    let expected = json!({"file": "broken.toml", "line": 2, "column": 1, "message": problems[0]["message"], "hint": problems[0]["hint"]});
    assert_eq!(problems[0], expected);
    // A bundle on standard output is mixed with nothing.
    let output = sandbox.msb("export broken.toml --output - --json").run().code(2);
    assert_eq!(output.stdout, "", "{output}");
    assert!(registry.requests().is_empty());
}

#[test]
fn events_say_when_and_what_and_how_many_bytes() {
    let (sandbox, registry) = world();
    let output = sandbox.msb("apply --json").run().success();
    let (one, two) = (format!("{}/team/app:1", registry.name()), format!("{}/team/app:2", registry.name()));
    let (first, second) = (event(&output, &one), event(&output, &two));
    let bytes = |event: &Value| event["downloaded_bytes"].as_u64().unwrap();
    let summary = output.summary();
    // A shared layer counts once.
    assert_eq!(bytes(&first) + bytes(&second), bytes(&summary), "{output}");
    assert!(
        bytes(&first) > 5000 && bytes(&second) > 5000 && bytes(&first).abs_diff(bytes(&second)) > 5000,
        "{output}"
    );
    let listed = sandbox.msb("list --json").run().success().json();
    assert_eq!((&first["digest"], &first["previous"]), (&listed["images"][0]["digest"], &Value::Null));
    assert_eq!(first["platform"], listed["images"][0]["platform"]);

    let moved = Image::new(&[Layer::of(&[file("base", noise(1, 5000))]), Layer::of(&[file("new", "x")])]);
    registry.edit(|content| {
        let digest = content.image(&moved);
        content.tag("team/app:1", &digest);
    });
    let output = sandbox.msb("apply --json").run().success();
    let (updated, kept) = (event(&output, &one), event(&output, &two));
    assert_eq!((&updated["action"], &updated["previous"]), (&json!("update"), &first["digest"]));
    assert_ne!(updated["digest"], first["digest"]);
    assert_eq!(bytes(&updated), bytes(&output.summary()));
    assert_eq!((&kept["action"], bytes(&kept)), (&json!("keep"), 0));
    assert_eq!(kept["digest"], kept["previous"]);
}
