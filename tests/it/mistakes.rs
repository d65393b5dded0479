//! Mistakes on the command line and in the files that it names: each is told as what it is, whatever was typed, and
//! nothing that was typed is a secret to see or a word to the terminal.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::check::wanted;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Output, Sandbox};

const SECRET: &str = "hunter2";

#[track_caller]
fn hides(output: &Output) {
    let all = format!("{}{}", output.stdout, output.stderr);
    assert!(!all.contains(SECRET) && all.contains("***"), "{output}");
}

#[track_caller]
fn is_plain(output: &Output) {
    let steers = |char: char| char.is_control() && char != '\n' || char == '\u{202e}';
    assert!(!output.stdout.contains(steers) && !output.stderr.contains(steers), "{output:#}");
}

#[test]
fn a_password_in_a_reference_is_hidden_by_every_verb() {
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted("r.io", &["a:1"]));
    for reference in [
        "https://bob:hunter2@r.io/a:1",
        "docker://bob:hunter2@r.io/a:1",
        "bob:hunter2@r.io/a:1",
        "https://bob:hunter2@shanghai:5000",
        "bob:hunter2@shared",
        "https://r.io/a#access_token=hunter2",
        "r.io/a:1?sig=hunter2",
    ] {
        for verb in [
            "pull",
            "inspect",
            "add",
            "remove",
            "forget",
            "verify",
            "history",
            "rollback",
            "lock --upgrade",
            "apply --now",
            "export --output x --image",
        ] {
            hides(&sandbox.msb(verb).arg(reference).run().code(2));
            let told = sandbox.msb(&format!("--json {verb}")).arg(reference).run().code(2);
            assert!(!told.stdout.contains(SECRET), "{told}");
        }
        // A word too many, and a file that is no file.
        hides(&sandbox.msb("plan images.toml").arg(reference).run().code(2));
    }
    for url in
        ["https://bob:hunter2@r.io/images.toml", "https://bob:hunter2@shared", "//bob:hunter2@shared/a"]
    {
        hides(&sandbox.msb("plan").arg(url).run().code(2));
        hides(&sandbox.msb("diff").arg(url).run().code(2));
        hides(&sandbox.msb("forget --owner").arg(url).run().code(1));
        if url.starts_with("https") {
            let export = sandbox.msb("export --output").arg(url).run().code(2);
            hides(&export);
            assert!(
                export.stderr.contains("--output: https://***@") && export.stderr.contains("is a URL"),
                "{export}"
            );
        }
    }
    sandbox.images(&wanted("r.io", &["a:1@"]));
    assert!(sandbox.msb("plan").run().code(2).stderr.contains("\"a:1@\""));
    sandbox.images("[registry.\"r.io\"]\nimages = [bob:1hunter2@, \"a\"]\n");
    hides(&sandbox.msb("plan").run().code(2));
    sandbox.images(&wanted("r.io", &["a:1"]));
    // A file's own path is shown as it is.
    let path = sandbox.work().join("me:x@host/images.toml");
    let absent = sandbox.msb("plan").arg(path.to_str().unwrap()).run().code(2);
    assert!(absent.stderr.contains(path.to_str().unwrap()), "{absent}");
    hides(&sandbox.msb("inspect a").env("OCI_REGISTRY_DOMAIN", "bob:hunter2@r.io").run().code(2));
}

#[test]
fn a_password_in_a_source_of_images_is_hidden() {
    let sandbox = Sandbox::in_memory();
    for (name, text) in [
        ("compose.yaml", "services:\n  a: { image: \"https://bob:hunter2@r.io/x:1\" }\n"),
        ("compose.yaml", "services:\n  a: { image: \"bob:hunter2@r.io/x:1\" }\n"),
        ("regsync.yml", "sync:\n  - source: bob:hunter2@r.io/x:1\n    type: image\n"),
        ("Dockerfile", "FROM r.io/x:1?sig=hunter2\n"),
        ("list.txt", "hunter2@r.io/x\n"),
    ] {
        sandbox.write(name, text);
        for form in ["", " --json"] {
            let output = sandbox.msb(&format!("add --from {name}{form}")).run().code(1);
            hides(&output);
            assert!(output.stderr.contains("is left out"), "{output}");
        }
    }
}

#[test]
fn words_of_the_command_line_steer_no_terminal() {
    let sandbox = Sandbox::in_memory();
    let evil = "evil\u{1b}[31m\u{1b}]0;pwned\u{7}\rname\u{9b}\u{202e}.toml";
    let two = sandbox.msb("plan ok.toml").arg(evil).run().code(2);
    is_plain(&two);
    assert!(two.stderr.contains(r"'evil\u{1b}[31m\u{1b}]0;pwned\u{7}\rname\u{9b}\u{202e}.toml'"), "{two}");
    let painted = sandbox.msb("plan ok.toml --color always").arg(evil).run().code(2);
    assert!(painted.stderr.contains('\u{1b}') && !painted.stderr.contains("\u{1b}]0;"), "{painted}");
    let command = sandbox.msb("").arg("a\u{1b}[31mpply").arg("--json").run().code(2);
    is_plain(&command);
    let message = &command.json()["error"]["message"];
    assert_eq!(message, r"unrecognized subcommand 'a\u{1b}[31mpply'");
}

#[test]
fn colours_of_help_and_of_mistakes_are_as_asked_for() {
    let sandbox = Sandbox::in_memory();
    for (arguments, code, is_painted) in [
        ("aply", 2, false),
        ("aply --color always", 2, true),
        ("aply --color=always", 2, true),
        ("aply --color never", 2, false),
        ("--help", 0, false),
        ("--help --color always", 0, true),
        ("plan --color=never --help", 0, false),
    ] {
        let output = sandbox.msb(arguments).run().code(code);
        assert_eq!(format!("{}{}", output.stdout, output.stderr).contains('\u{1b}'), is_painted, "{output}");
    }
}

#[test]
fn a_wrong_line_of_rollback_ends_in_an_event() {
    let sandbox = Sandbox::in_memory();
    let events = sandbox.msb("--json rollback").run().code(2).json_lines();
    assert_eq!((events.len(), &events[0]["event"]), (1, &"error".into()));
    let none = sandbox.msb("--json").run().code(2).json();
    assert_eq!(none["error"]["message"], "no command is given");
}

#[test]
fn a_lockfile_that_is_none_is_not_to_be_deleted() {
    let sandbox = Sandbox::in_memory();
    sandbox.images("[registry.\"r.io\"]\npassword = \"hunter2\"\n");
    for verb in ["diff images.toml", "diff images.toml images.toml"] {
        let other = sandbox.msb(verb).run().code(2);
        assert!(!other.stderr.contains("delete") && !other.stderr.contains(SECRET), "{other}");
        assert!(other.stderr.contains("hint: a lockfile is what `msb-sync lock` writes"), "{other}");
    }
    let none = sandbox.msb("diff nope.lock").run().code(2);
    assert!(none.stderr.contains("cannot read the lockfile nope.lock: No such file or directory"), "{none}");
    assert!(none.stderr.contains("hint: a lockfile is written by: msb-sync lock"), "{none}");
    // Beside the images file it is msb-sync's own.
    sandbox.images(&wanted("r.io", &["a:1"]));
    sandbox.write("images.lock", "version = 1\nx = 1\n");
    sandbox.msb("plan").run().code(2).says("delete the file and run: msb-sync lock");
}

#[test]
fn a_link_to_where_no_file_is_is_told_as_that() {
    let sandbox = Sandbox::in_memory();
    symlink("nope", sandbox.work().join("dangling.toml")).unwrap();
    for verb in ["plan dangling.toml", "add a:1 --file dangling.toml"] {
        let output = sandbox.msb(verb).run().code(2);
        assert!(
            output.stderr.contains("dangling.toml: it is a symbolic link to where no file is"),
            "{output}"
        );
        assert!(!output.stderr.contains("hint"), "{output}");
    }
}

#[test]
fn bytes_that_are_no_text_have_a_place() {
    let sandbox = Sandbox::in_memory();
    sandbox.write("images.toml", b"# one\n# caf\xe9\n");
    for output in
        [sandbox.msb("plan").run().code(2), sandbox.msb("plan -").stdin(*b"# one\n# caf\xe9\n").run().code(2)]
    {
        assert!(
            output.stderr.contains(":2:6\n") && output.stderr.contains("save the file as UTF-8"),
            "{output}"
        );
    }
    sandbox.images(&wanted("r.io", &["a:1"]));
    fs::create_dir_all(sandbox.home()).unwrap();
    fs::write(sandbox.home().join("registries.toml"), b"\xff\xfe[\0").unwrap();
    sandbox.msb("plan").run().code(2).says("registries.toml:1:1");
    fs::write(sandbox.home().join("registries.toml"), "[registry.\"r.io\"]\npassword = \"x\"\n").unwrap();
    sandbox.msb("plan").run().code(2).says("error: a password in the file is refused");
}

#[test]
fn an_edit_that_cannot_be_made_says_what_is_in_its_way() {
    let sandbox = Sandbox::in_memory();
    let named = sandbox.msb("add --file new.toml x:1").arg("--group").arg("bad name").run().code(2);
    assert!(named.stderr.contains("--group: the name `bad name` must have only letters"), "{named}");
    assert!(!named.stderr.contains("new.toml"), "{named}");
    assert!(!sandbox.work().join("new.toml").exists());
    sandbox.images("[[registry.\"r.io\".images]]\nname = \"a\"\ntag = \"1\"\n");
    for verb in ["add r.io/b:1", "remove r.io/a:1"] {
        let odd = sandbox.msb(verb).run().code(2);
        assert!(odd.stderr.contains("in a form that is not edited\nhint: edit it by hand"), "{odd}");
    }
}

#[test]
fn a_file_that_is_not_there_does_not_stay_as_it_is() {
    let registry = FakeRegistry::start(BlobSet::with("a:1.0", &Image::new(&[Layer::of(&[file("f", "x")])])));
    registry.fail(usize::MAX, "/v2/", &Fault::status(403));
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &["a:1.0"]));
    for verb in ["lock", "lock --check"] {
        let down = sandbox.msb(verb).run().code(1);
        assert!(down.stdout.contains("images.lock is not written"), "{down}");
    }
    let empty = sandbox.msb("add --from - --file new.toml").stdin("# nothing\n").run().code(1);
    assert!(empty.stdout.contains("new.toml is not made"), "{empty}");
    let down = sandbox.msb("outdated").run().code(1);
    let told = "Not done: nothing could be compared; the tags of 1 image could not be had.\n";
    assert_eq!(down.stdout, told, "{down}");
}

#[test]
fn a_bundle_without_room_is_not_a_matter_of_the_layers() {
    let registry = FakeRegistry::start(BlobSet::with("a:1.0", &Image::new(&[Layer::of(&[file("f", "x")])])));
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &["a:1.0"]));
    let program = env!("CARGO_BIN_EXE_msb-sync");
    let full =
        sandbox.program("sh", &["-c", &format!("{program} export --output - > /dev/full")]).run().code(1);
    assert!(full.stderr.contains("hint: free some space there"), "{full}");
    assert!(!full.stderr.contains("layers ="), "{full}");
}
