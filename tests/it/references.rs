//! How images and registries may be written: capitals in a host do not count, and what people paste is refused with
//! what to write instead.

use crate::support::check::{applied, image, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;

#[test]
fn capitals_in_a_registrys_host_are_folded() {
    let registry =
        FakeRegistry::start(BlobSet::with("team/app:V1", &Image::new(&[Layer::of(&[file("a", "")])])));
    let port = registry.name().rsplit_once(':').unwrap().1.to_owned();
    let (shouted, folded) = (format!("LocalHost:{port}"), format!("localhost:{port}"));
    let reference = format!("{folded}/team/app:V1");
    let sandbox = Sandbox::in_memory();
    sandbox.images(&format!(
        "{}[groups]\ng = [\"{shouted}/team/app:V1\"]\n",
        wanted(&shouted, &["team/app:V1"])
    ));
    applied(&sandbox);
    image(&listed(&sandbox), &reference);
    sandbox.images(&wanted(&folded, &["team/app:V1"]));
    assert_eq!(applied(&sandbox).summary()["unchanged"], 1);
    let shown = sandbox.msb("inspect --json").arg(format!("{shouted}/team/app:V1")).run().success().json();
    assert_eq!(shown["image"]["reference"], reference.as_str());
    sandbox.msb("pull").arg(format!("{shouted}/team/app:V1")).run().success();
    sandbox.msb("pull team/app:V1").env("OCI_REGISTRY_DOMAIN", &shouted).run().success();
    assert_eq!(listed(&sandbox).len(), 1);
    sandbox.images(&format!("{}{}", wanted(&folded, &["team/app:V1"]), wanted(&shouted, &["team/app:V1"])));
    sandbox.msb("plan").run().code(2).says(&format!("registry `{folded}` has two tables"));
}

#[test]
fn what_is_pasted_is_refused_with_what_to_write_instead() {
    let sandbox = Sandbox::in_memory();
    for (file, place, hint) in [
        ("[registry.\"docker.io\"]\nimages = [\"docker://alpine:3.20\"]\n", "2:11", "write `alpine:3.20`"),
        (
            "[registry.\"docker.io\"]\nimages = [\"docker://docker.io/library/alpine\"]\n",
            "2:11",
            "write `library/alpine`",
        ),
        (
            "[registry.\"docker.io\"]\nimages = [{ name = \"https://GHCR.io/a/b\" }]\n",
            "2:20",
            "list `a/b` under [registry.\"ghcr.io\"]",
        ),
        ("[registry.\"ghcr.io\"]\nimages = [\"https://ghcr.io/a/b:1\"]\n", "2:11", "write `a/b:1`"),
        (
            "[registry.\"https://ghcr.io/v2/\"]\nimages = [\"a/b:1\"]\n",
            "1:11",
            "write [registry.\"ghcr.io\"]",
        ),
        (
            "[registry.\"r.corp\"]\nendpoint = \"https://r.corp:5000/v2/\"\n",
            "2:12",
            "write \"https://r.corp:5000\"",
        ),
        ("[registry.\"r.corp\"]\nmirrors = [\"https://m.corp/v2\"]\n", "2:12", "write \"https://m.corp\""),
        (
            "[registry.\"docker.io\"]\nimages = [\"alpine\"]\n[groups]\ng = [\"docker://alpine\"]\n",
            "4:6",
            "write `alpine`",
        ),
    ] {
        sandbox.images(file);
        sandbox
            .msb("plan")
            .run()
            .code(2)
            .says(&format!("images.toml:{place}"))
            .says(&format!("hint: {hint}"));
    }
    for (reference, hint) in
        [("docker://alpine:3.20", "write alpine:3.20"), ("https://ghcr.io/a/b:1", "write ghcr.io/a/b:1")]
    {
        for verb in ["pull", "inspect"] {
            sandbox.msb(verb).arg(reference).run().code(2).says(&format!("hint: {hint}"));
        }
    }
    sandbox
        .msb("pull alpine")
        .env("OCI_REGISTRY_DOMAIN", "https://r.corp")
        .run()
        .code(2)
        .says("OCI_REGISTRY_DOMAIN");
}
