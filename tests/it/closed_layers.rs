//! Directories of layers that cannot be opened, among others that can: the verb that meets one does all else, and says
//! what is left.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::support::check::{listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;

fn layer(name: &str) -> Layer {
    Layer::of(&[file("f", name.repeat(100))])
}

/// `a:1` and `b:1`, each of the layer of its name, by the file and in the directory of its name. The registry has a
/// `c:1` too.
struct Closed {
    sandbox: Sandbox,
    registry: FakeRegistry,
}

impl Closed {
    fn new() -> Self {
        Self::with("")
    }

    fn with(settings: &str) -> Self {
        let mut content = BlobSet::default();
        for name in ["a", "b", "c"] {
            let manifest = content.image(&Image::new(&[layer(name)]));
            content.tag(&format!("{name}:1"), &manifest);
        }
        let closed = Self { sandbox: Sandbox::in_memory(), registry: FakeRegistry::start(content) };
        for name in ["a", "b"] {
            closed.apply(name, settings, &[&format!("{name}:1")]);
        }
        closed
    }

    /// Writes the file of a name, with its layers in the directory of that name.
    fn file(&self, name: &str, settings: &str, images: &[&str]) {
        let images = wanted(&self.registry.name(), images);
        let text = format!("[settings]\nlayers = \"{name}\"\n{settings}\n{images}");
        self.sandbox.write(&format!("{name}.toml"), text);
    }

    fn apply(&self, name: &str, settings: &str, images: &[&str]) {
        self.file(name, settings, images);
        self.sandbox.msb(&format!("apply {name}.toml")).run().success();
    }

    fn place(&self, name: &str) -> PathBuf {
        self.sandbox.work().join(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place(name).join(layer(name).directory())
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}:1", self.registry.name())
    }

    /// Puts a link to nowhere in the place of a thing that belongs to the layers of `a`.
    fn close(&self, thing: &str) {
        let path = self.place(".a.msb-sync").join(thing);
        fs::rename(&path, self.place("away")).unwrap();
        symlink("nowhere", path).unwrap();
    }

    fn open(&self, thing: &str) {
        let path = self.place(".a.msb-sync").join(thing);
        fs::remove_file(&path).unwrap();
        fs::rename(self.place("away"), path).unwrap();
    }
}

#[test]
fn a_repair_does_all_that_can_be_done() {
    let closed = Closed::new();
    for name in ["a", "b"] {
        fs::write(closed.path(name).join("f"), "damaged").unwrap();
    }
    closed.close("lock");
    let output = closed.sandbox.msb("verify --repair --json").run().code(1).says(".a.msb-sync/lock");
    let document = output.json();
    let of = |name: &str| {
        let mut layers = document["layers"].as_array().unwrap().iter();
        layers.find(|found| found["digest"] == layer(name).digest()).unwrap()
    };
    assert_eq!((&of("b")["status"], &of("b")["repaired"]), (&"ok".into(), &true.into()), "{output}");
    assert_eq!((&of("a")["status"], &of("a")["repaired"]), (&"modified".into(), &false.into()), "{output}");
    let detail = of("a")["detail"].as_str().unwrap();
    assert!(detail.contains("not repaired: ") && detail.contains(".a.msb-sync/lock"), "{detail}");
    assert_eq!(document["error"]["kind"], "refused", "{output}");
    let again = closed.sandbox.msb("verify --repair").run().code(1).says(".a.msb-sync/lock");
    assert!(again.stdout.contains("Damaged: ") && again.stdout.contains("not repaired: "), "{again}");
    closed.open("lock");
    closed.sandbox.msb("verify --repair").run().success();
    closed.sandbox.msb("verify").run().success();
}

#[test]
fn images_are_forgotten_whose_layers_have_to_stay() {
    for (owner, thing) in [(false, "lock"), (true, "lock"), (false, "homes"), (true, "homes")] {
        let closed = Closed::new();
        closed.close(thing);
        let both = format!("forget {} {}", closed.name("a"), closed.name("b"));
        let verb = if owner { "forget --owner a.toml" } else { &both };
        let output = closed.sandbox.msb(verb).run().success();
        let warning = format!("warning: the layers in {} stay", closed.place("a").display());
        assert_eq!(output.stderr.matches(&warning).count(), 1, "{output}");
        assert!(output.stderr.contains(&format!(".a.msb-sync/{thing}")), "{output}");
        let left = listed(&closed.sandbox);
        assert_eq!(left.len(), usize::from(owner), "{left:?}");
        assert_eq!((closed.path("a").exists(), closed.path("b").exists()), (true, owner));
        // The next prune that can does the rest.
        closed.open(thing);
        if !owner {
            closed.sandbox.msb("apply b.toml").run().success();
        }
        closed.sandbox.msb("prune b.toml").run().success();
        assert_eq!((closed.path("a").exists(), closed.path("b").exists()), (false, true));
    }
}

#[test]
fn a_repair_takes_nothing_away_of_what_it_cannot_bring_again() {
    let closed = Closed::with("blobs = \"keep\"");
    let blob =
        |name: &str| closed.sandbox.home().join("blobs/blobs").join(layer(name).digest().replace(':', "/"));
    for name in ["a", "b"] {
        fs::write(blob(name), "damaged").unwrap();
    }
    closed.close("lock");
    let output = closed.sandbox.msb("verify --repair").run().code(1);
    assert_eq!(fs::read(blob("a")).unwrap(), b"damaged", "{output}");
    assert_ne!(fs::read(blob("b")).unwrap(), b"damaged", "{output}");
    closed.open("lock");
    closed.sandbox.msb("verify --repair").run().success();
    assert_ne!(fs::read(blob("a")).unwrap(), b"damaged");
}

/// The layers of another file's image are here, by a name that leads elsewhere, or nowhere, for the moment.
#[test]
fn a_layer_stays_that_another_file_may_have_in_the_same_directory() {
    for (shared, hidden) in
        [(false, "gone"), (false, "closed"), (false, "covered"), (true, "gone"), (true, "covered")]
    {
        let closed = Closed::new();
        let link = closed.place("c");
        let show = || symlink("a", &link).unwrap();
        show();
        closed.apply("c", "", &["c:1"]);
        if shared {
            // The catalog has one directory of an image, that of the owner who was here last.
            closed.apply("a", "", &["a:1", "c:1"]);
            closed.apply("b", "", &["b:1", "c:1"]);
        }
        closed.file("a", "", &["a:1"]);
        fs::remove_file(&link).unwrap();
        match hidden {
            "closed" => symlink("c", &link).unwrap(),
            "covered" => fs::create_dir(&link).unwrap(),
            _ => {}
        }
        let layer = closed.place("a").join(layer("c").directory());
        for verb in ["prune --dry-run a.toml", "prune a.toml"] {
            let output = closed.sandbox.msb(verb).run().success();
            assert!(layer.is_dir(), "{shared} {hidden}: {output}");
            assert!(!output.stdout.contains(layer.to_str().unwrap()), "{shared} {hidden}: {output}");
            let warning = format!("warning: 1 layer in {} stays: ", closed.place("a").display());
            assert_eq!(output.stderr.matches(&warning).count(), 1, "{shared} {hidden}: {output}");
            assert!(output.stderr.contains(link.to_str().unwrap()), "{shared} {hidden}: {output}");
        }
        if hidden == "covered" {
            fs::remove_dir(&link).unwrap();
        } else if hidden == "closed" {
            fs::remove_file(&link).unwrap();
        }
        // Where the name is gone for good, so is the file that named it.
        if hidden != "gone" {
            show();
            closed.sandbox.msb("verify").run().success();
        }
        closed.sandbox.msb("forget --owner c.toml").run().success();
        closed.sandbox.msb("prune a.toml").run().success();
        assert!(!layer.exists(), "{shared} {hidden}");
    }
}

#[test]
fn directories_of_layers_that_cannot_be_looked_at_are_told() {
    for missing in [false, true] {
        let closed = Closed::new();
        let (place, away) = (closed.place("a"), closed.place("away"));
        fs::rename(&place, &away).unwrap();
        if !missing {
            symlink("a", &place).unwrap();
        }
        let warning =
            format!("warning: the layers in {} stay until a prune can remove them: ", place.display());
        for verb in [format!("forget --dry-run {}", closed.name("a")), format!("forget {}", closed.name("a"))]
        {
            let output = closed.sandbox.msb(&verb).run().success();
            assert_eq!(output.stderr.matches(&warning).count(), 1, "{output}");
        }
        closed.file("a", "", &[]);
        let prune = || closed.sandbox.msb("prune --allow-empty a.toml").run();
        if !missing {
            prune().code(1).says(&format!("cannot look into {}", place.display()));
            closed.file("new", "", &["b:1"]);
            closed.sandbox.msb("apply new.toml").run().success();
            let output = closed.sandbox.msb("prune new.toml").run().success();
            output.says(&format!("warning: the former layers directory {} is left out: ", place.display()));
            closed.sandbox.msb("df").run().success().says(&format!("cannot look into {}", place.display()));
            fs::remove_file(&place).unwrap();
        }
        fs::rename(&away, &place).unwrap();
        prune().success();
        assert!(!closed.path("a").exists());
    }
}
