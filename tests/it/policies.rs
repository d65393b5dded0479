//! Groups and pull policies from outside: which images of a file a run is about, and when a registry is asked.

use serde_json::Value;

use crate::support::check::{image, listed};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Output, Sandbox};

/// A registry with `team/app:1`, `:2` and `:3`.
fn registry() -> FakeRegistry {
    let mut content = BlobSet::default();
    for tag in ["1", "2", "3"] {
        let image = content.image(&Image::new(&[Layer::of(&[file("tag", tag)])]));
        content.tag(&format!("team/app:{tag}"), &image);
    }
    FakeRegistry::start(content)
}

/// The tags of a plan's or a list's images, with their actions where there are some.
fn tags(images: &Value) -> Vec<String> {
    let tag = |image: &Value| {
        let tag = image["reference"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
        image["action"].as_str().map_or(tag.clone(), |action| format!("{tag} {action}"))
    };
    images.as_array().unwrap().iter().map(tag).collect()
}

fn planned(output: &Output) -> Vec<String> {
    tags(&output.json()["images"])
}

#[test]
fn groups_of_groups_choose_among_the_files_images() {
    let sandbox = Sandbox::in_memory();
    let registry = registry();
    let name = registry.name();
    sandbox.images(&format!(
        "[registry.\"{name}\"]\nimages = [\n\
         {{ name = \"team/app\", tag = \"1\", groups = [\"web\"] }},\n\"team/app:2\",\n\"team/app:3\",\n]\n\
         [groups]\nweb = [\"{name}/team/app:2\"]\nall = [\"@web\", \"{name}/team/app:3\"]\n"
    ));
    let plan = |arguments: &str| planned(&sandbox.msb(&format!("plan --json {arguments}")).run().success());
    assert_eq!(plan("--group web"), ["1 add", "2 add"]);
    assert_eq!(plan("--group all"), ["1 add", "2 add", "3 add"]);
    sandbox.msb("apply").run().success();
    // What another group has is not unlisted.
    assert_eq!(plan("--group web --prune"), ["1 keep", "2 keep"]);
    sandbox.msb("apply --group web --prune").run().success();
    assert_eq!(listed(&sandbox).len(), 3);

    sandbox.msb("pull @all").run().success();
    sandbox.images(&format!("[registry.\"{name}\"]\nimages = []\n"));
    sandbox.msb("apply --prune --allow-empty").run().success();
    let images = listed(&sandbox);
    assert_eq!(images.len(), 3, "what pull brought belongs to no file");
    assert!(images.iter().all(|image| image["managed_by"] == "pull"), "{images:#?}");
}

#[test]
fn the_nearest_pull_policy_counts() {
    let sandbox = Sandbox::in_memory();
    let registry = registry();
    let name = registry.name();
    let write = |settings: &str, of_registry: &str, image: &str| {
        sandbox.images(&format!(
            "[settings]\npull = \"{settings}\"\n[registry.\"{name}\"]\n{of_registry}\n\
             images = [\"team/app:1\", {{ name = \"team/app\", tag = \"2\"{image} }}]\n"
        ));
    };
    // Never: not here, so blocked; nobody is asked.
    write("never", "", ", pull = \"missing\"");
    let output = sandbox.msb("apply --json").run().code(1).says("its pull policy is \"never\"");
    assert_eq!(tags(&Value::Array(listed(&sandbox))), ["2"], "{output}");
    assert!(registry.requests().iter().all(|request| !request.contains("/1")));

    registry.forget();
    write("never", "pull = \"missing\"", ", pull = \"always\"");
    sandbox.msb("apply").run().success();
    let asked: Vec<String> =
        registry.requests().into_iter().filter(|request| request.contains("/manifests/")).collect();
    assert!(asked.contains(&"HEAD /v2/team/app/manifests/2".to_owned()), "{asked:?}");

    // Both tags move; only what is always asked for is seen to.
    registry.edit(|content| {
        let moved = content.image(&Image::new(&[Layer::of(&[file("tag", "moved")])]));
        for tag in ["1", "2"] {
            content.tag(&format!("team/app:{tag}"), &moved);
        }
    });
    registry.forget();
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(planned(&plan), ["1 keep", "2 update"]);
    assert!(registry.requests().iter().all(|request| !request.ends_with("/1")), "{:?}", registry.requests());
    write("always", "", ", pull = \"never\"");
    assert_eq!(planned(&sandbox.msb("plan --json").run().success()), ["1 update", "2 keep"]);
    registry.forget();
    assert_eq!(planned(&sandbox.msb("plan --json --offline").run().success()), ["1 keep", "2 keep"]);
    assert_eq!(registry.requests(), [] as [&str; 0]);

    // What is incomplete needs the network: blocked, with the reason.
    let directory = image(&listed(&sandbox), &format!("{name}/team/app:1"))["layers"][0]["path"].clone();
    std::fs::remove_dir_all(directory.as_str().unwrap()).unwrap();
    let blocked = sandbox.msb("plan --json --offline").run().code(1);
    assert_eq!(planned(&blocked), ["1 blocked", "2 keep"]);
    let reason = blocked.json()["images"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("not all of its layers are here") && reason.contains("--offline"), "{reason}");
}
