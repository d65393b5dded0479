//! What becomes of a layer's entries on disk: every kind of entry, whatever the umask, the settings and the limits.

use std::io::Write;

use crate::support::check::{applied, assert_exact, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Item, Layer, dir, file, hard, node, noise, symlink};
use crate::support::sandbox::Sandbox;
use crate::support::tree::Tree;

fn serve(sandbox: &Sandbox, layer: &Layer) -> FakeRegistry {
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(std::slice::from_ref(layer))));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    registry
}

/// One of everything.
fn every_kind() -> Vec<Item> {
    let long = format!("{}/{}", "directory-".repeat(12), "name-".repeat(25));
    vec![
        dir("./").mode(0o755),
        dir("etc/").mode(0o1777).owner(1000, 1000),
        dir("closed").mode(0o000),
        file("./etc/plain", "plain\n").mtime(1_234_567_890),
        file("etc/unreadable", "secret").mode(0o000),
        file("etc/setuid", "#!").mode(0o6755).owner(0, 42),
        file("etc/old", "").mtime(0),
        file("etc/fraction", "").pax("mtime", "1500000000.123456789"),
        file("etc/owner", "").owner(4_000_000_000, 3_000_000),
        file("etc/pax-owner", "").pax("uid", "70000").pax("gid", "80000"),
        file("etc/attributes", "x")
            .xattr("user.mine", b"\x00\xffvalue")
            .xattr("user.overlay.opaque", "y")
            .xattr("user.containers.override_stat", "0:0:0104755")
            .xattr("user.fuseoverlayfs.opaque", "y")
            .xattr("user.vm.x", "y")
            .xattr(
                "security.capability",
                b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            )
            .xattr("trusted.overlay.opaque", "y"),
        dir("etc/with-attributes").xattr("user.mine", "d"),
        file("implied/by/its/name", "x"),
        file(&long, noise(1, 3000)),
        file(b"bytes-\xff\xfe", "not UTF-8"),
        file([b"long-\xff".as_slice(), &[b'x'; 150]].concat(), "not UTF-8 and long"),
        file("spaces and \t\n in it", "x"),
        file("big", noise(2, 3_000_000)),
        file("zeros", vec![0; 2_000_000]),
        symlink("link", "etc/plain"),
        symlink("absolute", "/etc/passwd"),
        symlink("up", "../../../../etc"),
        symlink("dangling", b"nowhere-\xff"),
        symlink("long-link", "t/".repeat(100)),
        hard("before", "after"),
        file("after", "linked").mode(0o600).owner(7, 8),
        hard("etc/second", "after"),
        hard("link-to-link", "link"),
        hard("through-dot", "./etc/plain"),
        node(b'3', "null").mode(0o666),
        node(b'4', "disk").mode(0o660).owner(0, 6),
        node(b'6', "pipe").mode(0o622),
        file("etc/.wh.gone", ""),
        file("etc/.wh..wh..opq", ""),
        file("replaced", "first").mode(0o777),
        file("replaced", "second").mode(0o640),
        file("was-file", "x"),
        dir("was-file"),
        file("was-file/inside", "x"),
        dir("was-dir"),
        file("was-dir/inside", "x"),
        symlink("was-dir", "etc"),
        dir("kept"),
        file("kept/inside", "x"),
        dir("kept").mode(0o711).owner(5, 6),
        hard("breaks", "replaced"),
        file("breaks", "a file of its own"),
    ]
}

#[test]
fn every_kind_of_entry_is_as_the_tar_says_whatever_the_umask() {
    let layer = Layer::of(&every_kind());
    for umask in ["022", "077", "000"] {
        let sandbox = Sandbox::new();
        let registry = serve(&sandbox, &layer);
        let script = format!("umask {umask}; exec \"$@\"");
        let run = sandbox.program("sh", &["-c", &script, "sh", env!("CARGO_BIN_EXE_msb-sync"), "apply"]);
        run.run().success();
        let blobs = registry.edit(|content| content.blobs.clone());
        assert_exact(&listed(&sandbox)[0], &|digest| blobs[digest].to_vec());
        let tree = Tree::of(&sandbox.layers().join(layer.directory()));
        // Spelled out once, so that the rules do not rest on the support's reading of them alone.
        for (path, fact, value) in [
            ("etc/setuid", "mode", "0755"),
            ("etc/setuid", "xattrs", "user.containers.override_stat=0:42:0106755"),
            ("etc", "mode", "0775"),
            ("etc", "xattrs", "user.containers.override_stat=1000:1000:041777"),
            ("closed", "mode", "0700"),
            ("etc/unreadable", "mode", "0600"),
            ("etc/owner", "xattrs", "user.containers.override_stat=4000000000:3000000:0100644"),
            ("null", "type", "file"),
            ("null", "size", "0"),
            ("null", "xattrs", "user.containers.override_stat=0:0:020666"),
            ("disk", "xattrs", "user.containers.override_stat=0:6:060660"),
            ("pipe", "xattrs", "user.containers.override_stat=0:0:010622"),
            ("link", "xattrs", ""),
            ("etc/fraction", "mtime", "1500000000.123456789"),
            ("after", "links", "after = before = etc/second"),
            ("link", "links", "link = link-to-link"),
        ] {
            assert_eq!(tree.fact(path, fact), Some(value), "{fact} of {path} with umask {umask}");
        }
    }
}

/// A default ACL takes the umask's place in everything that is made below it.
#[test]
fn every_kind_of_entry_is_as_the_tar_says_whatever_the_default_acl() {
    let sandbox = Sandbox::new();
    let layer = Layer::of(&every_kind());
    let registry = serve(&sandbox, &layer);
    // acl(5) as an xattr: version 2, then tag, permissions and id of user::rwx, group::r-x and other::---.
    let acl = "0x0200000001000700ffffffff04000500ffffffff20000000ffffffff";
    std::fs::create_dir_all(sandbox.home()).unwrap();
    let home = sandbox.home().to_str().unwrap().to_owned();
    let set = sandbox.program("setfattr", &["-n", "system.posix_acl_default", "-v", acl, &home]).run();
    if !set.status.success() {
        let _ = writeln!(std::io::stderr(), "no ACLs here: default ACLs were NOT checked: {}", set.stderr);
        return;
    }
    applied(&sandbox);
    let blobs = registry.edit(|content| content.blobs.clone());
    assert_exact(&listed(&sandbox)[0], &|digest| blobs[digest].to_vec());
    sandbox.msb("verify").run().success();
}

#[test]
fn without_ownership_no_attribute_is_set() {
    let sandbox = Sandbox::new();
    let layer = Layer::of(&[dir("d"), file("d/f", "x").mode(0o4755)]);
    let registry = serve(&sandbox, &layer);
    sandbox
        .images(&format!("[settings]\nownership = \"none\"\n{}", wanted(&registry.name(), &["team/app:1"])));
    applied(&sandbox);
    let tree = Tree::of(&sandbox.layers().join(layer.directory()));
    for path in ["d", "d/f"] {
        assert_eq!(tree.fact(path, "xattrs"), Some(""), "{path}");
    }
    assert_eq!(tree.fact("d/f", "mode"), Some("0755"));
}

#[test]
fn layers_go_where_the_settings_say() {
    let sandbox = Sandbox::new();
    let layer = Layer::of(&[file("f", "x")]);
    let registry = serve(&sandbox, &layer);
    for (setting, place) in
        [("elsewhere/deep", sandbox.work().join("elsewhere/deep")), ("~/mine", sandbox.user().join("mine"))]
    {
        let settings = format!("[settings]\nlayers = {setting:?}\n");
        sandbox.images(&(settings + &wanted(&registry.name(), &["team/app:1"])));
        applied(&sandbox);
        assert_eq!(std::fs::read_to_string(place.join(layer.directory()).join("f")).unwrap(), "x");
    }
}

#[test]
fn what_is_larger_than_the_limits_is_refused() {
    for (limit, fits) in [
        ("layer-entries = 2", false),
        ("layer-entries = 3", true),
        ("layer-size = \"64KiB\"", false),
        ("layer-size = \"1MiB\"", true),
        ("manifest-size = \"100B\"", false),
    ] {
        let sandbox = Sandbox::new();
        let layer = Layer::of(&[file("a", vec![0; 200_000]), file("b", "x"), file("c", "x")]);
        let registry = serve(&sandbox, &layer);
        sandbox.images(&format!("[settings.limits]\n{limit}\n{}", wanted(&registry.name(), &["team/app:1"])));
        let output = sandbox.msb("apply").run();
        assert_eq!(output.status.code(), Some(i32::from(!fits)), "{limit}\n{output}");
        assert_eq!(sandbox.extracted().len(), usize::from(fits), "{limit}\n{output}");
    }
}
