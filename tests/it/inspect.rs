//! `list` and `inspect` for people: what is shared, how old it is, whose it is, and where the layers lie, ready to be
//! mounted by the kernel's overlayfs.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::check::{applied, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Item, Layer, dir, file, noise};
use crate::support::sandbox::{Output, Sandbox};

/// A layer of these entries whose digest is on this side of the other one's.
fn beside(other: &Layer, above: bool, items: &[Item]) -> Layer {
    let salted = |salt: u32| {
        let mut items = items.to_vec();
        items.push(file("salt", salt.to_string()));
        Layer::of(&items)
    };
    (0..1000).map(salted).find(|layer| (layer.digest() > other.digest()) == above).unwrap()
}

/// A sandbox with these images of one registry, applied: `team/app:1` first.
fn with_images(images: &[&[Layer]]) -> (Sandbox, FakeRegistry) {
    let mut content = BlobSet::default();
    let mut names = Vec::new();
    for (number, layers) in images.iter().enumerate() {
        let name = format!("team/app:{}", number + 1);
        let image = content.image(&Image::new(layers));
        content.tag(&name, &image);
        names.push(name);
    }
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sandbox.images(&wanted(&registry.name(), &names));
    applied(&sandbox);
    (sandbox, registry)
}

fn inspect(sandbox: &Sandbox, registry: &FakeRegistry, arguments: &str) -> Output {
    sandbox.msb(&format!("inspect {}/team/app:1 {arguments}", registry.name())).run()
}

#[test]
fn list_tells_what_is_shared_how_old_it_is_and_whose() {
    let [base, one, two] = ["base", "one", "two"].map(|name| Layer::of(&[file(name, noise(1, 40_000))]));
    let (sandbox, registry) = with_images(&[&[base.clone(), one.clone()], &[base.clone(), two]]);
    let images = listed(&sandbox);
    assert_eq!(images[0]["shared_size"], base.blob.len(), "{images:#?}");
    assert_eq!(images[0]["size"], base.blob.len() + one.blob.len());
    let text = sandbox.msb("list").run().success();
    let lines: Vec<&str> = text.stdout.lines().collect();
    for column in ["IMAGE", "SIZE", "SHARED", "CREATED", "MANAGED BY"] {
        assert!(lines[0].contains(column), "{text}");
    }
    let kib = base.blob.len() / 1024;
    // The images of these tests were made in May 2024.
    assert!(lines[1].contains(&format!(" {kib}.")) && lines[1].contains(" years ago"), "{text}");
    assert!(lines[1].ends_with("/work/images.toml"), "{text}");

    let shown = inspect(&sandbox, &registry, "").success();
    assert!(shown.stdout.contains("KiB shared with other images; base first:"), "{shown}");
    assert!(shown.stdout.contains("(just now)"), "the time of recording\n{shown}");
    let created = shown.stdout.lines().find(|line| line.trim_start().starts_with("created"));
    assert!(
        created.is_some_and(|line| line.contains("2024-05-06T07:08:09") && line.ends_with(" ago)")),
        "{shown}"
    );
    // Without the other image nothing is shared.
    sandbox.msb(&format!("forget {}/team/app:2", registry.name())).run().success();
    assert_eq!(listed(&sandbox)[0]["shared_size"], 0);
    let shown = inspect(&sandbox, &registry, "").success();
    assert!(shown.stdout.contains("shared with no other image"), "{shown}");
}

/// A library that sets the clock for the program that is run with it.
fn clock(sandbox: &Sandbox, seconds: &str) -> std::path::PathBuf {
    let source = "#include <time.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
        int clock_gettime(clockid_t id, struct timespec *time) {\n\
        if (id != CLOCK_REALTIME) return syscall(SYS_clock_gettime, id, time);\n\
        time->tv_sec = SECONDS; time->tv_nsec = 0; return 0; }\n";
    sandbox.write("clock.c", source);
    let define = format!("-DSECONDS={seconds}");
    let arguments = ["-shared", "-fPIC", &define, "-o", "clock.so", "clock.c"];
    sandbox.program("cc", &arguments).run().success();
    sandbox.work().join("clock.so")
}

#[test]
fn any_year_can_be_told() {
    let (sandbox, registry) = with_images(&[&[Layer::of(&[file("f", "x")])]]);
    // The last hour of the year 9999, the year 10000, one far beyond, and one before all others.
    for seconds in ["253402298000L", "253402300800L", "9000000000000L", "-100L"] {
        let library = clock(&sandbox, seconds);
        let reference = format!("{}/team/app:1", registry.name());
        for arguments in ["list", "list --json", &format!("inspect {reference}"), "plan", "apply", "verify"] {
            let output = sandbox.msb(arguments).env("LD_PRELOAD", &library).run().success();
            assert!(!output.stderr.contains("panicked"), "{seconds}\n{output}");
        }
        let listed = sandbox.msb("list").env("LD_PRELOAD", &library).run().success();
        let age = if seconds.starts_with('-') { "in the future" } else { "years ago" };
        assert!(listed.stdout.contains(age), "{seconds}\n{listed}");
        // The times of the log, and of the metrics' server.
        let watching = sandbox.msb("watch --metrics 0 -v").env("LD_PRELOAD", &library).spawn();
        crate::support::eventually("it watches", std::time::Duration::from_secs(30), || {
            watching.stderr().contains("http://") || watching.stderr().contains("metrics")
        });
        let text = watching.stderr();
        let address =
            text.split("127.0.0.1:").nth(1).map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        let port: u16 =
            address.flatten().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{text}"));
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let read = std::io::Read::read_to_string(&mut stream, &mut answer);
        // Its crate has dates of four digits only; the others get no answer.
        if seconds == "253402298000L" {
            assert!(read.is_ok() && answer.starts_with("HTTP/1.1 "), "{answer:?}\n{}", watching.stderr());
        }
        watching.signal(rustix::process::Signal::TERM);
        let output = watching.wait().code(143);
        assert!(!output.stderr.contains("panicked"), "{seconds}\n{output}");
    }
}

#[test]
fn rootfs_mounts_as_the_image_says() {
    let base = Layer::of(&[dir("d"), file("d/f", "base"), file("only", "base")]);
    // Digest order would put the base on top.
    let top = beside(&base, false, &[dir("d"), file("d/f", "top")]);
    let (sandbox, registry) = with_images(&[&[base.clone(), top.clone()]]);
    let output = inspect(&sandbox, &registry, "--rootfs").success();
    assert_eq!(output.stderr, "", "{output}");
    assert_eq!(output.stdout.lines().count(), 1, "{output}");
    let document = inspect(&sandbox, &registry, "--rootfs --json").success().json();
    let path = |layer: &Layer| sandbox.layers().join(layer.directory());
    assert_eq!(document["rootfs"], json!([path(&base), path(&top)]));

    // What may be mounted at all is tried with two empty directories.
    let script = "mkdir -p empty1 empty2 merged || exit 1
        mount -t overlay overlay -o lowerdir=empty1:empty2 merged 2>&1 || { echo may not mount; exit 0; }
        umount merged && mount -t overlay overlay -o \"lowerdir=$0\" merged \
        && cat merged/d/f merged/only && umount merged";
    let lowerdir = output.stdout.trim_end();
    let mount = |unshare: &[&str]| {
        let all = [unshare, &["sh", "-c", script, lowerdir]].concat();
        sandbox.program("unshare", &all).run()
    };
    let tries = [&["-m"][..], &["-r", "-m"]].map(mount);
    let mut mounted = tries.iter().filter(|output| !output.stdout.ends_with("may not mount\n"));
    match mounted.find(|output| !output.stderr.starts_with("unshare: ")) {
        Some(mounted) => assert_eq!(mounted.stdout, "topbase", "{mounted}"),
        None => drop(writeln!(std::io::stderr(), "may not mount an overlay: --rootfs was NOT mounted")),
    }
}

#[test]
fn rootfs_of_an_image_that_is_not_all_here_fails() {
    let (base, top) = (Layer::of(&[file("a", "a")]), Layer::of(&[file("b", "b"), file(".wh.a", "")]));
    let (sandbox, registry) = with_images(&[&[base.clone(), top]]);
    let warned = inspect(&sandbox, &registry, "--rootfs").success().says("1 whiteout as plain files");
    assert!(warned.stdout.ends_with(&format!("{}\n", base.directory().replace(':', "\\:"))), "{warned}");
    assert_eq!(inspect(&sandbox, &registry, "--rootfs -q").success().stderr, "");

    std::fs::remove_dir_all(sandbox.layers().join(base.directory())).unwrap();
    let failed = inspect(&sandbox, &registry, "--rootfs").code(1).says("is not complete on disk");
    assert!(failed.stderr.contains("hint: fetch it again: msb-sync apply"), "{failed}");
    assert_eq!(failed.stdout, "");
    let shown = inspect(&sandbox, &registry, "").success();
    assert!(shown.stdout.contains("MISSING, apply repairs it"), "{shown}");
    std::fs::create_dir(sandbox.layers().join(base.directory())).unwrap();
    std::fs::remove_file(sandbox.home().join(format!(".layers.msb-sync/records/{}", base.digest()))).unwrap();
    let shown = inspect(&sandbox, &registry, "").success();
    assert!(shown.stdout.contains("INCOMPLETE, apply repairs it"), "{shown}");
}

#[test]
fn a_note_tells_where_digest_order_shows_other_files() {
    let base = Layer::of(&[dir("etc"), file("etc/passwd", "base")]);
    let restacked = |top: &Layer| -> (Value, String) {
        let (sandbox, registry) = with_images(&[&[base.clone(), top.clone()]]);
        let document = inspect(&sandbox, &registry, "--json").success().json();
        (document["image"]["restacked"].clone(), inspect(&sandbox, &registry, "").success().stdout)
    };
    let changed = [dir("etc"), file("etc/passwd", "top")];
    let (value, text) = restacked(&beside(&base, false, &changed));
    assert_eq!(value, json!({"paths": 1, "example": "etc/passwd"}));
    assert!(text.contains("it shows 1 path otherwise, such as /etc/passwd."), "{text}");
    // In digest order it is on top too, or it changes nothing.
    for top in [beside(&base, true, &changed), beside(&base, false, &[dir("etc"), file("etc/group", "top")])]
    {
        let (value, text) = restacked(&top);
        assert_eq!(value, Value::Null);
        assert!(!text.contains("note:"), "{text}");
    }
    let (value, _) = restacked(&beside(&base, false, &[dir("etc"), file("etc/.wh.passwd", "")]));
    assert_eq!(value, json!({"paths": 1, "example": "etc/passwd"}));
}
