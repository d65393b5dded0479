//! Homes and layers that move, are copied, are taken away, or are shared: what msb-sync knows of them goes by the
//! directories themselves, not by their paths.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::at_once;
use crate::support::check::wanted;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, dir, file};
use crate::support::sandbox::{Output, Sandbox};

fn layer(name: &str) -> Layer {
    Layer::of(&[dir("d"), file(format!("d/{name}"), name), file("same", "same")])
}

/// `a:1` and `b:1`, of one layer each, and homes that apply them.
struct Street {
    sandbox: Sandbox,
    registry: FakeRegistry,
    a: Layer,
    b: Layer,
}

impl Street {
    fn new() -> Self {
        let (a, b) = (layer("a"), layer("b"));
        let mut content = BlobSet::with("a:1", &Image::new(std::slice::from_ref(&a)));
        let descriptor = content.image(&Image::new(std::slice::from_ref(&b)));
        content.tag("b:1", &descriptor);
        Self { sandbox: Sandbox::in_memory(), registry: FakeRegistry::start(content), a, b }
    }

    /// The setting that lets homes share the layers in `shared`.
    fn shared(&self) -> String {
        format!("layers = {:?}", self.home("shared").to_str().unwrap())
    }

    fn home(&self, name: &str) -> PathBuf {
        self.sandbox.root().join(name)
    }

    /// Writes an images file with these settings, and returns its path.
    fn file(&self, name: &str, settings: &str, images: &[&str]) -> PathBuf {
        let text = format!("{}[settings]\n{settings}\n", wanted(&self.registry.name(), images));
        self.sandbox.write(name, text)
    }

    fn run(&self, home: &Path, verb: &str) -> Output {
        self.sandbox.msb(verb).arg("--home").arg(home).run()
    }

    fn json(&self, home: &Path, verb: &str) -> Value {
        self.run(home, &format!("{verb} --json")).success().json()
    }

    /// Applies without a request.
    fn apply_silently(&self, home: &Path, verb: &str) -> Value {
        self.registry.forget();
        let summary = self.run(home, &format!("{verb} --json")).success().summary();
        assert!(self.registry.requests().is_empty(), "{:?}", self.registry.requests());
        summary
    }
}

fn in_home(home: &Path, layer: &Layer) -> PathBuf {
    home.join("layers").join(layer.directory())
}

fn digests(document: &Value) -> Vec<&str> {
    document["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap()).collect()
}

#[test]
fn a_home_that_was_moved_works_where_it_is_now() {
    let street = Street::new();
    let (old, new) = (street.home("old"), street.home("new"));
    street.file("images.toml", "", &["a:1", "b:1"]);
    street.run(&old, "apply").success();
    fs::rename(&old, &new).unwrap();

    let summary = street.apply_silently(&new, "apply --offline");
    assert_eq!(summary["unchanged"], 2, "{summary}");
    street.run(&new, "verify").success();
    let images = street.json(&new, "list")["images"].clone();
    assert_eq!(images[0]["layers"][0]["path"], in_home(&new, &street.a).to_str().unwrap());
    fs::write(in_home(&new, &street.a).join("d/a"), "x").unwrap();
    street.run(&new, "verify --repair").success();
    assert_eq!(fs::read(in_home(&new, &street.a).join("d/a")).unwrap(), b"a");
    street.file("images.toml", "", &["a:1"]);
    let document = street.json(&new, "prune");
    assert_eq!(digests(&document), [street.b.digest()], "{document:#}");
    assert!(!in_home(&new, &street.b).exists() && !old.exists());
}

#[test]
fn a_copy_is_taken_without_a_request_once_it_is_compared() {
    let street = Street::new();
    let (old, new) = (street.home("old"), street.home("new"));
    street.file("images.toml", "", &["a:1", "b:1"]);
    street.run(&old, "apply").success();
    let copied = ["-a", old.to_str().unwrap(), new.to_str().unwrap()];
    street.sandbox.program("cp", &copied).run().success();
    street.run(&new, "verify").success();
    let plan = street.json(&new, "plan --offline");
    assert_eq!(plan["images"][0]["action"], "repair", "{plan:#}");
    assert_eq!(plan["download_bytes"], 0, "{plan:#}");
    for image in plan["images"].as_array().unwrap() {
        assert_eq!(image["download_bytes"], 0, "{plan:#}");
        assert_eq!(image["layers"], serde_json::json!({"total": 1, "present": 1}), "{plan:#}");
    }
    let summary = street.apply_silently(&new, "apply --offline");
    assert_eq!(summary["downloaded_bytes"], 0, "{summary}");
    assert_eq!(street.json(&new, "plan --offline")["changes"], 0);
    // The original is gone, as after `mv` to another disk: its claim on what was copied is no more.
    fs::rename(&old, street.home("gone")).unwrap();
    street.file("images.toml", "", &["a:1"]);
    let output = street.run(&new, "prune").success();
    assert!(!output.stderr.contains("no layers are removed"), "{output}");
    assert!(!in_home(&new, &street.b).exists());
    fs::rename(street.home("gone"), &old).unwrap();
    // What is not as it was is fetched, and not where no registry may be asked.
    fs::remove_dir_all(&new).unwrap();
    street.sandbox.program("cp", &copied).run().success();
    fs::write(in_home(&new, &street.a).join("d/a"), "x").unwrap();
    street.registry.forget();
    street.run(&new, "apply --offline").code(1);
    assert!(street.registry.requests().is_empty(), "{:?}", street.registry.requests());
    street.run(&new, "apply").success();
    assert_eq!(fs::read(in_home(&new, &street.a).join("d/a")).unwrap(), b"a");
}

#[test]
fn a_layer_that_somebody_made_anew_is_not_complete() {
    let street = Street::new();
    let home = street.home("home");
    street.file("images.toml", "", &["a:1"]);
    street.run(&home, "apply").success();
    let path = in_home(&home, &street.a);
    for content in [None, Some("x")] {
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir(&path).unwrap();
        if let Some(content) = content {
            fs::create_dir(path.join("d")).unwrap();
            fs::write(path.join("d/a"), content).unwrap();
        }
        let listed = street.run(&home, "list").success().stdout;
        assert!(listed.contains("missing"), "{listed}");
        street.run(&home, "inspect --rootfs").code(2);
        let plan = street.json(&home, "plan");
        assert_eq!(plan["images"][0]["action"], "repair", "{plan:#}");
        let summary = street.run(&home, "apply --json").success().summary();
        assert_eq!(summary["repaired"], 1, "{summary}");
        assert_eq!(fs::read(path.join("d/a")).unwrap(), b"a");
        assert_eq!(street.json(&home, "plan")["changes"], 0);
    }
}

/// The note of which directory a record is of is made anew, whatever somebody put in its place.
#[test]
fn a_note_of_a_layer_that_cannot_be_read_ends_no_run() {
    let street = Street::new();
    let home = street.home("home");
    street.file("images.toml", "", &["a:1"]);
    street.run(&home, "apply").success();
    let note = home.join(".layers.msb-sync/bindings").join(street.a.digest());
    fs::remove_file(&note).unwrap();
    fs::create_dir(&note).unwrap();
    street.file("images.toml", "", &["a:1", "b:1"]);
    street.run(&home, "apply").success();
    assert!(note.is_symlink());
    street.run(&home, "verify").success();
    assert_eq!(street.json(&home, "plan")["changes"], 0);
}

#[test]
fn a_home_that_is_not_there_loses_no_layer() {
    let street = Street::new();
    let (one, two, away) = (street.home("one"), street.home("two"), street.home("away"));
    let settings = street.shared();
    street.file("one.toml", &settings, &["a:1"]);
    street.file("two.toml", &settings, &["b:1"]);
    street.run(&one, "apply one.toml").success();
    street.run(&two, "apply two.toml").success();
    let there = |layer: &Layer| street.home("shared").join(layer.directory()).is_dir();

    // Its disk is not mounted, or it was moved.
    fs::rename(&two, &away).unwrap();
    street.file("one.toml", &settings, &[]);
    for verb in ["prune --allow-empty one.toml", "apply --prune --allow-empty one.toml"] {
        let output = street.run(&one, verb);
        assert!(output.stderr.contains("no layers are removed") && there(&street.b), "{output}");
    }
    // An empty mount point is not that home either.
    fs::create_dir(&two).unwrap();
    street.run(&one, "prune --allow-empty one.toml").says("no layers are removed");
    assert!(there(&street.a) && there(&street.b));
    fs::remove_dir(&two).unwrap();

    // Where it is now it says so as soon as it does something.
    fs::remove_dir_all(street.home("shared").join(street.b.directory())).unwrap();
    street.run(&away, "apply two.toml").success();
    let output = street.run(&one, "prune --allow-empty one.toml").success();
    assert!(!output.stderr.contains("no layers are removed"), "{output}");
    assert!(there(&street.b) && !there(&street.a));
    street.run(&away, "verify").success();
}

#[test]
fn a_home_that_is_not_there_loses_no_layer_whose_record_is_lost() {
    let street = Street::new();
    let (one, two) = (street.home("one"), street.home("two"));
    let settings = street.shared();
    street.file("images.toml", &settings, &["a:1", "b:1"]);
    street.file("two.toml", &settings, &["a:1", "b:1"]);
    street.run(&one, "apply").success();
    street.run(&two, "apply two.toml").success();
    fs::rename(&two, street.home("away")).unwrap();
    let record = street.home(".shared.msb-sync/records").join(street.a.digest());
    let there = || street.home("shared").join(street.a.directory()).is_dir();
    street.file("images.toml", &settings, &["b:1"]);
    for verb in ["apply --prune", "prune"] {
        fs::remove_file(&record).unwrap();
        let output = street.run(&one, verb).success();
        assert!(output.stderr.contains("no layers are removed") && there(), "{output}");
        street.file("images.toml", &settings, &["a:1", "b:1"]);
        street.run(&one, "apply").success();
        street.file("images.toml", &settings, &["b:1"]);
    }
    fs::remove_file(&record).unwrap();
    let name = format!("{}/a:1", street.registry.name());
    street.run(&one, &format!("forget {name}")).success().says("no layers are removed");
    assert!(there());
}

#[test]
fn a_directory_of_layers_by_two_names_is_one() {
    let street = Street::new();
    let home = street.home("home");
    let (real, link) = (street.home("real"), street.home("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let settings = |path: &Path| format!("layers = {:?}", path.join("layers").to_str().unwrap());
    let layers = || fs::read_dir(real.join("layers")).unwrap().count();
    let both = |one: &str, other: &str| {
        street.file("one.toml", &settings(&real), &[one]);
        street.file("other.toml", &settings(&link), &[other]);
        street.run(&home, "apply one.toml").success();
        street.run(&home, "apply other.toml").success();
        assert_eq!(layers(), 2);
    };
    let name = |image: &str| format!("{}/{image}", street.registry.name());
    both("a:1", "b:1");
    street.file("one.toml", &settings(&link), &[]);
    let document = street.json(&home, "prune --allow-empty one.toml");
    assert_eq!(digests(&document), [street.a.digest()], "{document:#}");
    assert_eq!(layers(), 1);
    both("a:1", "b:1");
    let document = street.json(&home, &format!("forget {} {}", name("a:1"), name("b:1")));
    assert_eq!(document["layers"].as_array().unwrap().len(), 2, "{document:#}");
    assert_eq!(layers(), 0);
}

#[test]
fn a_former_directory_of_layers_that_cannot_be_used_is_left_out() {
    let street = Street::new();
    let home = street.home("home");
    let (old, new) = (street.home("old"), street.home("new"));
    let private = street.home(".old.msb-sync");
    let settings = |path: &Path| format!("layers = {:?}", path.to_str().unwrap());
    let spoil: [&dyn Fn(); 3] = [
        &|| {
            fs::rename(&private, street.home("precious")).unwrap();
            std::os::unix::fs::symlink(street.home("precious"), &private).unwrap();
        },
        &|| {
            fs::remove_file(private.join("lock")).unwrap();
            fs::create_dir(private.join("lock")).unwrap();
        },
        &|| {
            fs::remove_dir_all(private.join("staging")).unwrap();
            fs::write(private.join("staging"), "").unwrap();
        },
    ];
    for spoil in spoil {
        street.file("images.toml", &settings(&old), &["a:1", "b:1"]);
        street.run(&home, "apply").success();
        street.file("images.toml", &settings(&new), &["a:1", "b:1"]);
        street.run(&home, "apply").success();
        spoil();
        street.file("images.toml", &settings(&new), &["a:1"]);
        let output = street.run(&home, "prune").success();
        let warning = format!("warning: the former layers directory {} is left out: ", old.display());
        assert_eq!(output.stderr.matches(&warning).count(), 1, "{output}");
        assert!(new.join(street.a.directory()).is_dir() && !new.join(street.b.directory()).exists());
        assert!(old.join(street.a.directory()).is_dir(), "{output}");
        // With what the home has claimed there.
        for path in ["old", ".old.msb-sync", "precious", "new", ".new.msb-sync", "home"] {
            let path = street.home(path);
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[test]
fn a_former_directory_of_layers_on_a_read_only_disk_is_left_out() {
    let street = Street::new();
    let home = street.home("home");
    let (disk, new) = (street.home("disk"), street.home("new"));
    let settings = |path: &Path| format!("layers = {:?}", path.to_str().unwrap());
    street.file("images.toml", &settings(&disk.join("layers")), &["a:1", "b:1"]);
    street.run(&home, "apply").success();
    street.file("images.toml", &settings(&new), &["a:1", "b:1"]);
    street.run(&home, "apply").success();
    street.file("images.toml", &settings(&new), &["a:1"]);
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" || exit 77; exec \"$0\" --home \"$2\" prune";
    let program = env!("CARGO_BIN_EXE_msb-sync");
    let places = [disk.to_str().unwrap(), home.to_str().unwrap()];
    let arguments = [&["-m", "sh", "-c", script, program][..], &places].concat();
    let output = street.sandbox.program("unshare", &arguments).run();
    if output.status.code() == Some(77) || output.stderr.starts_with("unshare: ") {
        let _ = writeln!(std::io::stderr(), "may not mount: read-only layers were NOT checked");
        return;
    }
    let output = output.success().says("is left out: ");
    assert!(!new.join(street.b.directory()).exists(), "{output}");
    assert!(disk.join("layers").join(street.b.directory()).is_dir());
    street.run(&home, "prune").success();
    assert!(!disk.join("layers").join(street.b.directory()).exists());
}

#[test]
fn the_home_of_another_container_under_the_same_path_is_another_one() {
    let street = Street::new();
    let settings = street.shared();
    let home = street.home("home");
    fs::create_dir(&home).unwrap();
    let container = |name: &str, verb: &str, file: &str| {
        fs::create_dir_all(street.home(name)).unwrap();
        let script = "mount --bind \"$1\" \"$2\" || exit 77; exec \"$0\" --home \"$2\" $3 $4";
        let (volume, home) = (street.home(name), home.to_str().unwrap());
        let program = env!("CARGO_BIN_EXE_msb-sync");
        let arguments = ["-m", "sh", "-c", script, program, volume.to_str().unwrap(), home, verb, file];
        street.sandbox.program("unshare", &arguments).run()
    };
    street.file("one.toml", &settings, &["a:1"]);
    street.file("two.toml", &settings, &["b:1"]);
    let output = container("container-1", "apply", "one.toml");
    if output.status.code() == Some(77) || output.stderr.starts_with("unshare: ") {
        let _ = writeln!(std::io::stderr(), "may not mount: homes of two containers were NOT checked");
        return;
    }
    output.success();
    container("container-2", "apply", "two.toml").success();
    street.file("one.toml", &settings, &[]);
    container("container-1", "prune --allow-empty", "one.toml").says("no layers are removed");
    container("container-2", "verify", "").success();
}

#[test]
fn a_directory_of_layers_that_the_file_names_no_more_is_cleaned() {
    let street = Street::new();
    let home = street.home("home");
    let (old, new) = (street.home("old"), street.home("new"));
    let settings = |path: &Path| format!("layers = {:?}", path.to_str().unwrap());
    street.file("images.toml", &settings(&old), &["a:1", "b:1"]);
    street.run(&home, "apply").success();
    street.file("images.toml", &settings(&new), &["a:1"]);
    let output = street.run(&home, "apply --prune").success();
    assert!(!format!("{}{}", output.stdout, output.stderr).contains("removed 1 layer"), "{output}");
    assert!(!output.stderr.contains("layer removed") && !output.stdout.contains("layer removed"), "{output}");
    assert!(old.join(street.a.directory()).is_dir() && new.join(street.a.directory()).is_dir());
    let document = street.json(&home, "prune");
    assert_eq!(document["layers"].as_array().unwrap().len(), 2, "{document:#}");
    assert!(!old.join(street.a.directory()).exists() && !old.join(street.b.directory()).exists());
    street.run(&home, "verify").success();
    assert_eq!(street.run(&home, "prune").success().stdout, "Nothing to remove.\n");
}

/// The catalog knows one directory of an image's layers, its owners may have two.
#[test]
fn a_layer_stays_that_another_file_needs_in_the_same_directory() {
    let both = |street: &Street| {
        let mut content = street.registry.edit(|content| content.clone());
        let descriptor = content.image(&Image::new(&[street.a.clone(), street.b.clone()]));
        content.tag("both:1", &descriptor);
        street.registry.edit(|now| *now = content);
    };
    for verb in ["apply --prune", "prune", "forget"] {
        for third in ["there", "gone"] {
            let street = Street::new();
            both(&street);
            let home = street.home("home");
            let elsewhere = format!("layers = {:?}", street.home("elsewhere").to_str().unwrap());
            street.file("one.toml", "", &["a:1"]);
            street.file("two.toml", "", &["both:1"]);
            let third_file = street.file("three.toml", &elsewhere, &["both:1"]);
            for file in ["one.toml", "two.toml", "three.toml"] {
                street.run(&home, &format!("apply {file}")).success();
            }
            if third == "gone" {
                fs::remove_file(third_file).unwrap();
            }
            street.file("one.toml", "", &[]);
            let verb = match verb {
                "forget" => format!("forget {}/a:1", street.registry.name()),
                verb => format!("{verb} --allow-empty one.toml"),
            };
            let output = street.run(&home, &verb).success();
            for layer in [&street.a, &street.b] {
                assert!(in_home(&home, layer).is_dir(), "{verb}: {output}");
                assert!(street.home("elsewhere").join(layer.directory()).is_dir(), "{verb}: {output}");
            }
            let plan = street.run(&home, "plan --detailed-exitcode two.toml");
            assert_eq!(plan.status.code(), Some(0), "{verb}: {plan}");
            // Once nobody wants the image any more, all goes.
            street.run(&home, &format!("forget {}/both:1", street.registry.name())).success();
            street.run(&home, "prune --allow-empty one.toml").success();
            for layer in [&street.a, &street.b] {
                assert!(!in_home(&home, layer).exists(), "{verb}");
                assert!(!street.home("elsewhere").join(layer.directory()).exists(), "{verb}");
            }
        }
    }
}

/// Starts `verb`, which has to wait for the lock of the layers, does `change` meanwhile, and then verifies.
const WAITING: &str = r#"
exec 9<> "$PRIVATE/lock" && flock 9 || exit 1
"$MSB" --home "$HOME_OF_RUN" $VERB 9<&- 2> "$LOG" &
until grep -q "waiting for" "$LOG"; do kill -0 $! || exit 1; sleep 0.02; done
eval "$CHANGE" || { exec 9<&-; wait $!; exit 77; }
exec 9<&-
wait $! || { cat "$LOG" >&2; exit 2; }
exec "$MSB" --home "$HOME_OF_RUN" verify
"#;

#[test]
fn directories_that_change_while_a_run_waits_for_their_lock_are_opened_anew() {
    let changes = [
        r#"mv "$LAYERS" "$LAYERS.old""#,
        r#"mv "$LAYERS" "$LAYERS.old" && mkdir -m 700 "$LAYERS""#,
        r#"mv "$PRIVATE" "$PRIVATE.old""#,
        r#"mv "$LAYERS" "$LAYERS.old" && mv "$PRIVATE" "$PRIVATE.old""#,
        r#"mount -t tmpfs -o mode=700 none "$LAYERS""#,
    ];
    at_once(["apply", "pull", "verify --repair"], |verb| {
        for change in changes {
            let street = Street::new();
            let home = street.home("home");
            street.file("images.toml", "", &["a:1"]);
            street.run(&home, "apply").success();
            street.file("images.toml", "", &["a:1", "b:1"]);
            if verb == "verify --repair" {
                let damaged = in_home(&home, &street.a).join("same");
                fs::write(damaged, "damaged").unwrap();
            }
            let mounts = change.starts_with("mount");
            let shell = ["unshare", "-m", "sh", "-c", WAITING];
            let shell = if mounts { &shell[..] } else { &shell[2..] };
            let verb = match verb {
                "pull" => format!("pull {0}/a:1 {0}/b:1", street.registry.name()),
                verb => verb.to_owned(),
            };
            let output = street
                .sandbox
                .program(shell[0], &shell[1..])
                .env("MSB", env!("CARGO_BIN_EXE_msb-sync"))
                .env("VERB", &verb)
                .env("CHANGE", change)
                .env("HOME_OF_RUN", &home)
                .env("LAYERS", home.join("layers"))
                .env("PRIVATE", home.join(".layers.msb-sync"))
                .env("LOG", street.home("log"))
                .run();
            if mounts && (output.status.code() == Some(77) || output.stderr.starts_with("unshare: ")) {
                let _ =
                    writeln!(std::io::stderr(), "may not mount: a disk mounted meanwhile was NOT checked");
                continue;
            }
            assert!(output.status.success(), "{verb}, {change}: {output}");
        }
    });
}

/// The claims of homes on the directory `shared`, and where they lead.
fn claims(street: &Street) -> Vec<(PathBuf, PathBuf)> {
    let names =
        fs::read_dir(street.home(".shared.msb-sync/homes")).unwrap().map(|entry| entry.unwrap().path());
    let claims = names.filter(|path| path.file_name().unwrap().len() == 32);
    claims.map(|path| (path.clone(), fs::read_link(path).unwrap())).collect()
}

#[test]
fn a_run_in_sync_claims_its_layers_again_where_others_would_look_in_vain() {
    for verb in ["apply two.toml", "prune two.toml", "verify --repair"] {
        let street = Street::new();
        let (one, two, moved) = (street.home("one"), street.home("two"), street.home("moved"));
        let settings = street.shared();
        street.file("one.toml", &settings, &["a:1"]);
        street.file("two.toml", &settings, &["b:1"]);
        street.run(&one, "apply one.toml").success();
        street.run(&two, "apply two.toml").success();
        fs::rename(&two, &moved).unwrap();
        street.file("one.toml", &settings, &[]);
        street.run(&one, "prune --allow-empty one.toml").says("if it was moved, run apply");

        street.run(&moved, verb).success();
        assert!(claims(&street).iter().any(|(_, home)| *home == moved), "{verb}: {:?}", claims(&street));
        // Somebody follows the hint too late.
        for (path, _) in claims(&street).into_iter().filter(|(_, home)| *home == moved) {
            fs::remove_file(path).unwrap();
        }
        street.run(&moved, verb).success();
        let before = claims(&street);
        assert_eq!(before.len(), 2, "{verb}");
        let output = street.run(&one, "prune --allow-empty one.toml").success();
        assert!(!output.stderr.contains("no layers are removed"), "{verb}: {output}");
        let there = |layer: &Layer| street.home("shared").join(layer.directory()).is_dir();
        assert!(there(&street.b) && !there(&street.a), "{verb}");
        street.run(&moved, "verify").success();
    }
}

#[test]
fn a_home_that_was_put_back_or_has_lost_its_identifier_gets_its_layers_back() {
    let restore = "cp -a \"$1\" \"$1.bak\" && rm -rf \"$1\" && mv \"$1.bak\" \"$1\"";
    let lose = "rm \"$1/.msb-sync.id\"";
    for (script, is_shared) in [(restore, true), (restore, false), (lose, true), (lose, false)] {
        for between in ["", "a:1"] {
            let street = Street::new();
            let home = street.home("home");
            let settings = if is_shared { street.shared() } else { String::new() };
            street.file("images.toml", &settings, &["a:1", "b:1"]);
            street.run(&home, "apply").success();
            street.sandbox.program("sh", &["-c", script, "sh", home.to_str().unwrap()]).run().success();
            street.file("images.toml", &settings, &["a:1"]);
            if !between.is_empty() {
                let name = format!("{}/{between}", street.registry.name());
                street.run(&home, &format!("pull {name}")).success();
                street.run(&home, &format!("forget {name}"));
                street.run(&home, "apply").success();
            }
            let mut output = street.run(&home, "prune").success();
            let layers = if is_shared { street.home("shared") } else { home.join("layers") };
            let there = || layers.join(street.b.directory()).exists();
            // Nobody knows that the home which was replaced is not somewhere else now.
            if is_shared && script == restore {
                let hint = "this one has replaced it); if it is gone for good, remove ";
                let claim = output.stderr.split_once(hint).map(|(_, claim)| claim.trim_end().to_owned());
                assert!(there() && claim.is_some(), "{output}");
                fs::remove_file(claim.unwrap()).unwrap();
                output = street.run(&home, "prune").success();
                let left = fs::read_dir(street.home(".shared.msb-sync/homes")).unwrap().count();
                assert_eq!(left, 2, "the home's claim, and for whom it was made");
            }
            assert!(!output.stderr.contains("no layers are removed"), "{script}: {output}");
            assert!(!there(), "{script}: {output}");
            street.run(&home, "verify").success();
        }
    }
}

#[test]
fn a_copy_takes_no_layer_from_its_original_that_is_elsewhere() {
    let street = Street::new();
    let (home, other) = (street.home("data/home"), street.home("other/home"));
    street.file("one.toml", &street.shared(), &["a:1"]);
    street.file("two.toml", &street.shared(), &["b:1"]);
    street.run(&home, "apply one.toml").success();
    fs::create_dir(street.home("other")).unwrap();
    fs::rename(&home, &other).unwrap();
    street.sandbox.program("cp", &["-a", other.to_str().unwrap(), home.to_str().unwrap()]).run().success();
    street.run(&home, "apply two.toml").success();
    street.run(&home, "forget --owner one.toml").success().says("has the path of this one");
    street.run(&other, "verify").success();
    // Once the original has said where it is, it can be asked.
    street.run(&other, "apply one.toml").success();
    street.file("two.toml", &street.shared(), &[]);
    let output = street.run(&home, "prune --allow-empty two.toml").success();
    assert!(!output.stderr.contains("no layers are removed"), "{output}");
    assert!(!street.home("shared").join(street.b.directory()).exists(), "{output}");
    street.run(&other, "verify").success();
}

#[test]
fn a_copy_does_not_answer_for_its_original() {
    let street = Street::new();
    let (home, other, third) = (street.home("data/home"), street.home("other/home"), street.home("third"));
    let backup = street.home("backup");
    street.file("images.toml", &street.shared(), &["a:1"]);
    street.run(&home, "apply").success();
    street.sandbox.program("cp", &["-a", home.to_str().unwrap(), backup.to_str().unwrap()]).run().success();
    street.file("images.toml", &street.shared(), &["a:1", "b:1"]);
    street.run(&home, "apply").success();
    fs::create_dir(street.home("other")).unwrap();
    fs::rename(&home, &other).unwrap();
    fs::rename(&backup, &home).unwrap();
    street.file("third.toml", &street.shared(), &["a:1", "b:1"]);
    street.run(&third, "apply third.toml").success();
    street.file("third.toml", &street.shared(), &[]);
    street.run(&third, "prune --allow-empty third.toml").success().says("is not there");
    street.run(&other, "verify").success();
    street.run(&other, "apply").success();
    let output = street.run(&third, "prune --allow-empty third.toml").success();
    assert!(!output.stderr.contains("no layers are removed"), "{output}");
    street.run(&other, "verify").success();
}

#[test]
fn a_home_without_a_catalog_is_there_and_loses_no_layer() {
    let street = Street::new();
    let (one, two) = (street.home("one"), street.home("two"));
    street.file("one.toml", &street.shared(), &["a:1"]);
    street.file("two.toml", &street.shared(), &["b:1"]);
    street.run(&one, "apply one.toml").success();
    street.run(&two, "apply two.toml").success();
    // Lost, or not made yet when the home's first run was killed.
    fs::remove_file(two.join("oci.db")).unwrap();
    street.file("one.toml", &street.shared(), &[]);
    let output = street.run(&one, "prune --allow-empty one.toml").success();
    let says = "has recorded nothing yet, or lost what its catalog recorded: run apply there first";
    assert!(output.stderr.contains(says) && !output.stderr.contains("is not there"), "{output}");
    let there = |layer: &Layer| street.home("shared").join(layer.directory()).is_dir();
    assert!(there(&street.a) && there(&street.b));
    street.run(&two, "apply two.toml").success();
    street.run(&one, "prune --allow-empty one.toml").success();
    assert!(!there(&street.a) && there(&street.b));
}

#[test]
fn a_repair_that_makes_the_layers_anew_claims_them() {
    let street = Street::new();
    let (one, two) = (street.home("one"), street.home("two"));
    let settings = street.shared();
    street.file("one.toml", &settings, &["a:1"]);
    street.file("two.toml", &settings, &["b:1"]);
    street.run(&one, "apply one.toml").success();
    fs::remove_dir_all(street.home("shared")).unwrap();
    fs::remove_dir_all(street.home(".shared.msb-sync")).unwrap();
    street.run(&one, "verify --repair").success();
    assert!(claims(&street).iter().any(|(_, home)| *home == one));
    street.run(&two, "apply two.toml").success();
    street.file("two.toml", &settings, &[]);
    street.run(&two, "prune --allow-empty two.toml").success();
    assert!(street.home("shared").join(street.a.directory()).is_dir());
    street.run(&one, "verify").success();
}
