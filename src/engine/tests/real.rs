//! The adapters with the real programs, each with a storage of its own. Where one cannot be had the
//! test says so and proves nothing.

use std::io::{self, Write};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::digest::{Algorithm, BlobDigest, DiffId};

/// An image of one layer: its blobs, and the digests of its manifest and of its layer's content.
struct Image {
    architecture: &'static str,
    blobs: Vec<Vec<u8>>,
    manifest: BlobDigest,
    layer: (BlobDigest, DiffId),
}

fn digest(bytes: &[u8]) -> BlobDigest {
    BlobDigest::of(Algorithm::Sha256, bytes)
}

const THIS: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
const OTHER: &str = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };

/// Builds an image whose manifest nobody writes the same way again.
fn image(architecture: &'static str) -> Image {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(architecture.len() as u64);
    header.set_mode(0o644);
    // Images that share no layer: an engine may still be collecting what one of them has left while
    // it takes the other.
    tar.append_data(&mut header, "architecture", architecture.as_bytes()).unwrap();
    let layer = tar.into_inner().unwrap();
    let diff_id = DiffId::of(Algorithm::Sha256, &layer);
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let manifest = format!(
        "{{ \"schemaVersion\"  :  2 ,\n  \"mediaType\" : \"application/vnd.oci.image.manifest.v1+json\",\n\
         \"config\": {{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"{}\",\"size\":{}}},\n\
         \"layers\": [ {{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"{}\",\"size\":{}}} ] }}\n",
        digest(config.as_bytes()),
        config.len(),
        digest(&layer),
        layer.len()
    );
    let (manifest_digest, layer_digest) = (digest(manifest.as_bytes()), digest(&layer));
    Image {
        architecture,
        blobs: vec![layer, config.into_bytes(), manifest.into_bytes()],
        manifest: manifest_digest,
        layer: (layer_digest, diff_id),
    }
}

/// Writes the archive of `image` under `name`, of which `break_off` leaves a part.
fn archive(image: &Image, name: &str, break_off: bool) -> impl FnMut(&mut dyn Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    for blob in &image.blobs {
        add(&format!("blobs/sha256/{}", digest(blob).text().hex()), blob);
    }
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "digest":"{}","size":{},"platform":{{"architecture":"{}","os":"linux"}},"annotations":{{"org.opencontainers.image.ref.name":"{name}",
            "io.containerd.image.name":"{name}"}}}}]}}"#,
        image.manifest,
        image.blobs[2].len(),
        image.architecture
    );
    add("index.json", index.as_bytes());
    let bytes = tar.into_inner().unwrap();
    move |out| {
        if break_off {
            out.write_all(&bytes[..1000])?;
            return Err(io::Error::other("a blob is gone"));
        }
        out.write_all(&bytes)
    }
}

/// Lists, loads, checks and removes an image.
fn lives_with(bench: &Bench, engine: &dyn Engine) -> (Image, String) {
    let (image, name) = (image(THIS), "registry.example/team/app:v1".to_owned());
    assert!(!engine.list(&asked()).unwrap().images.contains_key(&name));
    let error = engine.load(&mut archive(&image, &name, true), false).unwrap_err();
    assert!(error.to_string().contains("a blob is gone"), "{error}");
    assert!(!engine.list(&asked()).unwrap().images.contains_key(&name), "half an image is listed");
    engine.load(&mut archive(&image, &name, false), false).unwrap();
    let listing = engine.list(&asked()).unwrap();
    assert!(listing.images[&name].contains(&image.manifest), "{listing:?}");
    let checked = engine.check(&[name.as_str(), "registry.example/no:1"]).unwrap();
    checked[0].as_ref().unwrap();
    assert!(!bench.path("home/tmp").exists());
    (image, name)
}

fn leaves(engine: &dyn Engine, name: &str) {
    let removed = engine.remove(&[name.to_owned(), "registry.example/no:1".to_owned()]);
    assert!(removed.iter().all(|removed| matches!(removed, Removed::Gone)), "{removed:?}");
    assert!(!engine.list(&asked()).unwrap().images.contains_key(name));
}

/// The path of a real program, or a word that there is none.
fn real(program: &str) -> Option<PathBuf> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let found =
        path.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.is_file());
    if found.is_none() {
        let _ = writeln!(io::stderr(), "{program} cannot be had: NOT tried with the real one");
    }
    found
}

#[test]
fn podman_takes_lists_and_drops_an_image() {
    let Some(program) = real("podman") else { return };
    let bench = Bench::new();
    let storage = "--root $D/storage --runroot $D/run --storage-driver vfs";
    bench.script("podman", &format!("exec {} {storage} \"$@\"", program.display()));
    let podman = bench.engine(EngineName::Podman);
    if let Err(error) = podman.list(&asked()) {
        let _ = writeln!(io::stderr(), "podman does not work here: NOT tried: {error}");
        return;
    }
    let (_, name) = lives_with(&bench, &*podman);
    leaves(&*podman, &name);
}

#[test]
fn microsandbox_takes_lists_and_drops_an_image() {
    let Some(program) = real("msb") else { return };
    let bench = Bench::new();
    let mut settings = EngineSettings::new(EngineName::Microsandbox);
    settings.command = program.to_str().unwrap().to_owned();
    settings.home = Some(bench.path("msb"));
    let msb = bench.engines.of(&settings);
    let (image, name) = lives_with(&bench, &*msb);
    let files = msb.files(&image.manifest, std::slice::from_ref(&image.layer)).unwrap();
    assert_eq!(files.len(), 2, "{files:?}");
    let left: Vec<_> = fs::read_dir(bench.path("msb/cache/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    // msb believes a damaged file, and makes a missing one anew, the same.
    for file in &files {
        let mut bytes = fs::read(&file.path).unwrap();
        bytes[100] ^= 1;
        fs::write(&file.path, &bytes).unwrap();
    }
    msb.load(&mut archive(&image, &name, false), false).unwrap();
    let damaged = msb.files(&image.manifest, std::slice::from_ref(&image.layer)).unwrap();
    assert_ne!(damaged, files);
    for file in &files {
        fs::remove_file(&file.path).unwrap();
    }
    msb.load(&mut archive(&image, &name, false), false).unwrap();
    assert_eq!(msb.files(&image.manifest, std::slice::from_ref(&image.layer)).unwrap(), files);
    leaves(&*msb, &name);
}

/// A containerd of one test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn containerd_takes_lists_and_drops_an_image() {
    let (Some(daemon), Some(_)) = (real("containerd"), real("ctr")) else { return };
    let bench = Bench::new();
    let root = bench.directory.path().display();
    let config = format!(
        "version = 2\nroot = \"{root}/root\"\nstate = \"{root}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = \"{root}/c.sock\"\n[ttrpc]\naddress = \"{root}/t.sock\"\n"
    );
    fs::write(bench.path("config.toml"), config).unwrap();
    let log = fs::File::create(bench.path("log")).unwrap();
    let mut command = Command::new(daemon);
    command.arg("-c").arg(bench.path("config.toml")).stdout(Stdio::null()).stderr(log);
    let _daemon = Daemon(command.spawn().unwrap());
    let mut settings = EngineSettings::new(EngineName::Containerd);
    settings.address = Some(format!("{root}/c.sock"));
    settings.namespace = Some("test".to_owned());
    settings.snapshotter = Some("native".to_owned());
    let containerd = bench.engines.of(&settings);
    let mut listed = containerd.list(&asked());
    for _ in 0..200 {
        if listed.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        listed = containerd.list(&asked());
    }
    if let Err(error) = listed {
        let _ = writeln!(io::stderr(), "containerd does not work here: NOT tried: {error}");
        return;
    }
    let (_, name) = lives_with(&bench, &*containerd);
    let made = Command::new("ctr")
        .args(["-a", settings.address.as_deref().unwrap(), "-n", "test", "containers", "create"])
        .args(["--snapshotter", "native", &name, "user"])
        .status()
        .unwrap();
    if made.success() {
        let removed = containerd.remove(std::slice::from_ref(&name));
        assert!(matches!(&removed[0], Removed::InUse(words) if words.contains("user")), "{removed:?}");
        let gone = Command::new("ctr")
            .args(["-a", settings.address.as_deref().unwrap(), "-n", "test", "containers", "rm", "user"])
            .status();
        assert!(gone.unwrap().success());
    }
    leaves(&*containerd, &name);

    // An image of another platform is taken, too; one that has lost something is still listed.
    let (foreign, name) = (image(OTHER), "registry.example/team/app:foreign".to_owned());
    containerd.load(&mut archive(&foreign, &name, false), true).unwrap();
    assert!(containerd.list(&asked()).unwrap().images[&name].contains(&foreign.manifest));
    containerd.check(&[&name]).unwrap().remove(0).unwrap();
    let removed = Command::new("ctr")
        .args(["-a", settings.address.as_deref().unwrap(), "-n", "test", "content", "rm"])
        .arg(&*foreign.layer.0.text())
        .status();
    assert!(removed.unwrap().success());
    assert!(containerd.list(&asked()).unwrap().images.contains_key(&name));
    let error = containerd.check(&[&name]).unwrap().remove(0).unwrap_err();
    assert!(error.to_string().contains("and has not all of it"), "{error}");
    leaves(&*containerd, &name);
}
