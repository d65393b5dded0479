//! Image layout directories.

use std::io::Read;
use std::path::Path;

use super::*;

fn put(root: &Path, bytes: &[u8]) {
    let folder = root.join("blobs/sha256");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(sha256(bytes).text().hex()), bytes).unwrap();
}

/// A layout of `images`, each under a `ref.name`.
fn layout(root: &Path, images: &[(&Image, &str)]) {
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let entries: Vec<Value> = images
        .iter()
        .map(|(image, name)| {
            for bytes in [&image.layer, &image.config, &image.manifest] {
                put(root, bytes);
            }
            let mut entry = image.descriptor();
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            entry
        })
        .collect();
    std::fs::write(root.join("index.json"), index(&entries)).unwrap();
}

fn registries(root: &Path) -> Registries {
    let layout = Some(root.to_owned());
    Setup::new()
        .with(RegistrySettings { name: "vendored.local".to_owned(), layout, ..RegistrySettings::default() })
        .build()
}

fn vendored(name: &str) -> ImageRef {
    ImageRef::in_registry("vendored.local", name).unwrap()
}

#[test]
fn images_are_found_by_tag_short_name_full_name_and_digest() {
    let (one, two, three) = (Image::new("1"), Image::new("2"), Image::new("3"));
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    layout(root, &[(&one, "1"), (&two, "tools/b:1"), (&three, "vendored.local/tools/c:1")]);
    let registries = registries(root);
    for (name, image) in [("tools/a:1", &one), ("tools/b:1", &two), ("tools/c:1", &three)] {
        assert_eq!(resolve(&registries, &vendored(name)).unwrap().digest, image.digest(), "{name}");
    }
    let pinned = vendored(&format!("tools/a@{}", three.digest()));
    assert_eq!(resolve(&registries, &pinned).unwrap().digest, three.digest());
    let same = registries.resolve(&vendored("tools/a:1"), &amd64(), Some(&one.digest())).unwrap();
    assert!(matches!(same, Lookup::Same));
    assert_eq!(registries.tags(&vendored("tools/b:1")).unwrap(), ["1"]);

    let mut bytes = Vec::new();
    registries
        .blob(&vendored("tools/a:1"), &one.layer_descriptor(), 0)
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(bytes, one.layer);
    assert_eq!(registries.requests(), 0);

    let error = resolve(&registries, &vendored("tools/a:2")).unwrap_err();
    assert!(error.to_string().contains("names only 1, tools/b:1, vendored.local/tools/c:1"), "{error}");
}

#[test]
fn the_library_of_docker_io_may_be_left_out() {
    let (one, two) = (Image::new("1"), Image::new("2"));
    let folder = tempfile::tempdir().unwrap();
    layout(folder.path(), &[(&one, "ok:1"), (&two, "docker.io/ok:2")]);
    let ask = |registry: &str, name: &str| {
        let layout = Some(folder.path().to_owned());
        let settings = RegistrySettings { name: registry.to_owned(), layout, ..RegistrySettings::default() };
        let registries = Setup::new().with(settings).build();
        let reference = ImageRef::in_registry(registry, name).unwrap();
        (resolve(&registries, &reference).map(|image| image.digest), registries.tags(&reference).unwrap())
    };
    assert_eq!(ask("docker.io", "ok:1").0.unwrap(), one.digest());
    assert_eq!(ask("docker.io", "library/ok:2").0.unwrap(), two.digest());
    assert_eq!(ask("docker.io", "ok:1").1, ["1", "2"]);
    assert_eq!(ask("sandboxes.io", "ok:1").0.unwrap(), one.digest());
    // Elsewhere `library/` is a name like others.
    assert!(ask("vendored.local", "library/ok:1").0.is_err());
    assert!(ask("docker.io", "other/ok:1").0.is_err());
}

#[test]
fn one_name_for_several_platforms_is_chosen_by_platform() {
    let (amd, arm) = (Image::new("1"), Image::with_platform("2", "arm64", None));
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    layout(root, &[(&amd, "1"), (&arm, "1")]);
    let error = resolve(&registries(root), &vendored("tools/a:1")).unwrap_err();
    assert!(error.to_string().contains("2 different images"), "{error}");

    let mut entries = [arm.entry("linux/arm64"), amd.entry("linux/amd64")];
    for entry in &mut entries {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    }
    std::fs::write(root.join("index.json"), index(&entries)).unwrap();
    assert_eq!(resolve(&registries(root), &vendored("tools/a:1")).unwrap().digest, amd.digest());
}

#[test]
fn damaged_layouts_are_refused() {
    let app = Image::new("layer");
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let registries = || registries(root);
    let fails = |words: &str| {
        let error = resolve(&registries(), &vendored("tools/a:1")).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    fails("oci-layout");
    layout(root, &[(&app, "1")]);
    assert!(resolve(&registries(), &vendored("tools/a:1")).is_ok());

    let config = root.join("blobs/sha256").join(sha256(&app.config).text().hex());
    std::fs::write(&config, "changed").unwrap();
    fails("not what was asked for");
    std::fs::remove_file(&config).unwrap();
    fails("No such file");
    std::fs::create_dir(&config).unwrap();
    fails("not a regular file");

    let layer = root.join("blobs/sha256").join(sha256(&app.layer).text().hex());
    std::fs::write(&layer, "longer than it was").unwrap();
    assert!(registries().blob(&vendored("tools/a:1"), &app.layer_descriptor(), 0).is_err());

    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    fails("version 2.0.0");
}

#[test]
fn the_names_of_a_layout_are_read_once_and_have_a_bound_of_their_own() {
    let (one, two) = (Image::new("1"), Image::new("2"));
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    layout(root, &[(&one, "1"), (&two, "tools/b:1")]);
    let entry = |number: usize| {
        let name = format!("vendored.local/tools/of-{number}:1");
        let mut entry = one.descriptor();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name, "more": "x".repeat(900)});
        entry
    };
    let mut entries: Vec<Value> = (0..5_000).map(entry).collect();
    entries.push(two.descriptor());
    entries[5_000]["annotations"] = json!({"org.opencontainers.image.ref.name": "tools/b:1"});
    std::fs::write(root.join("index.json"), index(&entries)).unwrap();
    assert!(std::fs::metadata(root.join("index.json")).unwrap().len() > 4 << 20);
    let registries = registries(root);
    assert_eq!(resolve(&registries, &vendored("tools/b:1")).unwrap().digest, two.digest());
    let index = std::fs::read(root.join("index.json")).unwrap();
    std::fs::remove_file(root.join("index.json")).unwrap();
    assert_eq!(resolve(&registries, &vendored("tools/of-4999:1")).unwrap().digest, one.digest());

    std::fs::write(root.join("index.json"), [index, vec![b' '; 8 << 20]].concat()).unwrap();
    let error = resolve(&self::registries(root), &vendored("tools/b:1")).unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}
