//! The promises of bundles, read back by others' readers.

use std::io::Read as _;

use serde_json::{Value, json};

use super::*;
use crate::digest::Algorithm;
use crate::state::{Candidate, DocumentRole, MediaType, SignaturePlace};

fn digest(text: &str) -> BlobDigest {
    BlobDigest::of(Algorithm::Sha256, text.as_bytes())
}

fn document(role: DocumentRole, text: &str) -> DocumentDescriptor {
    let media_type = MediaType::from(&*format!("type/{}", role.as_str()));
    DocumentDescriptor { role, digest: digest(text), media_type, size: text.len() as u64 }
}

fn image(names: &[&str], with_index: bool) -> BundleImage {
    let index = with_index.then(|| document(DocumentRole::Index, "index"));
    let others = [document(DocumentRole::Manifest, "manifest"), document(DocumentRole::Config, names[0])];
    BundleImage {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        platform: Some(Platform::new("linux", "arm", Some("v7"))),
        documents: index.into_iter().chain(others).collect(),
        layers: vec![digest("layer")],
        signatures: BTreeSet::new(),
    }
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn a_name_leads_straight_to_the_manifest_and_tells_of_the_index() {
    let index = parsed(&index_json(&[image(&["r/b:1", "r/a:1"], true)], Form::default()));
    let names: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["annotations"]["io.containerd.image.name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["r/b:1", "r/a:1"]);
    let first = &index["manifests"][1];
    assert_eq!(first["digest"], *digest("manifest").text());
    assert_eq!((&first["mediaType"], &first["size"]), (&json!("type/manifest"), &json!(8)));
    assert_eq!(first["platform"], json!({"architecture": "arm", "os": "linux", "variant": "v7"}));
    assert_eq!(first["annotations"]["org.opencontainers.image.ref.name"], "r/a:1");
    assert_eq!(first["annotations"]["dev.msb-sync.index"], *digest("index").text());
    let alone = parsed(&index_json(&[image(&["r/a:1"], false)], Form::default()));
    assert_eq!(alone["manifests"][0]["annotations"]["dev.msb-sync.index"], Value::Null);
}

#[test]
fn the_index_form_leads_to_the_index_where_there_is_one() {
    let form = Form { index: true, docker: false };
    let index = parsed(&index_json(&[image(&["r/a:1"], true), image(&["r/b:1"], false)], form));
    let (first, second) = (&index["manifests"][0], &index["manifests"][1]);
    assert_eq!(first["digest"], *digest("index").text());
    assert_eq!(first["platform"], Value::Null);
    assert_eq!(first["annotations"]["dev.msb-sync.index"], Value::Null);
    assert_eq!(second["digest"], *digest("manifest").text());
}

#[test]
fn a_name_that_two_images_claim_is_that_of_its_own_image() {
    let pinned = image(&["r/a:1@sha256:x", "r/a:1"], true);
    let tagged = image(&["r/a:1"], false);
    for images in [[pinned.clone(), tagged.clone()], [tagged, pinned]] {
        let index = parsed(&index_json(&images, Form::default()));
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        let tagged = index["manifests"].as_array().unwrap().iter();
        let tagged = tagged.filter(|entry| entry["annotations"]["io.containerd.image.name"] == "r/a:1");
        let indexes: Vec<_> = tagged.map(|entry| &entry["annotations"]["dev.msb-sync.index"]).collect();
        assert_eq!(indexes, [&Value::Null]);
    }
}

#[test]
fn docker_gets_tags_and_paths() {
    let images = [image(&["r/a:1@sha256:x", "r/a:1"], true)];
    let manifest = parsed(&docker_json(&images));
    let layer = format!("blobs/sha256/{}", digest("layer").text().hex());
    let config = format!("blobs/sha256/{}", digest("r/a:1@sha256:x").text().hex());
    assert_eq!(manifest, json!([{"Config": config, "RepoTags": ["r/a:1"], "Layers": [layer]}]));
}

fn archive(form: Form) -> Vec<u8> {
    let mut archive = ArchiveWriter::new(Vec::new()).unwrap();
    let long = BlobDigest::of(Algorithm::Sha512, b"long");
    archive.blob(&digest("layer"), 5, &mut &b"layer"[..]).unwrap();
    archive.blob(&digest("layer"), 5, &mut &b"never read"[..]).unwrap();
    archive.blob(&long, 4, &mut &b"long"[..]).unwrap();
    archive.file("images.lock", b"lock").unwrap();
    archive.finish(&[image(&["r/a:1"], true)], form).unwrap()
}

#[test]
fn an_archive_is_the_same_each_time_and_read_by_others() {
    let form = Form { index: false, docker: true };
    let bytes = archive(form);
    assert_eq!(bytes, archive(form));
    let mut reader = tar::Archive::new(&bytes[..]);
    let members: Vec<(String, String)> = reader
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mode().unwrap(), header.mtime().unwrap()), (0o644, 0));
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            let name = entry.path().unwrap().display().to_string();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            (name, content)
        })
        .collect();
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    let long = blob_path(&BlobDigest::of(Algorithm::Sha512, b"long"));
    let layer = blob_path(&digest("layer"));
    assert_eq!(names, ["oci-layout", &layer, &long, "images.lock", "manifest.json", "index.json"]);
    assert_eq!(members[2].1, "long");
}

#[test]
fn a_link_stands_in_the_place_of_a_blob() {
    let long = BlobDigest::of(Algorithm::Sha512, b"long");
    let paths = [&b"/home/blobs/layer"[..], &[b"/".as_slice(), &[b'x'; 150], b"/\xff"].concat()];
    let mut archive = ArchiveWriter::new(Vec::new()).unwrap();
    archive.link(&digest("layer"), paths[0]).unwrap();
    archive.link(&digest("layer"), b"never written").unwrap();
    archive.link(&long, paths[1]).unwrap();
    let bytes = archive.finish(&[image(&["r/a:1"], true)], Form::default()).unwrap();
    let mut reader = tar::Archive::new(&bytes[..]);
    let links: Vec<_> = reader
        .entries()
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name_bytes()?.into_owned();
            assert_eq!((entry.header().entry_type(), entry.size()), (tar::EntryType::Symlink, 0));
            Some((entry.path().unwrap().display().to_string(), link))
        })
        .collect();
    let wanted = [&digest("layer"), &long].map(blob_path).into_iter().zip(paths.map(<[u8]>::to_vec));
    assert_eq!(links, wanted.collect::<Vec<_>>());
}

#[test]
fn a_blob_of_another_size_breaks_the_archive() {
    for bytes in [&b"laye"[..], b"layers"] {
        let mut archive = ArchiveWriter::new(Vec::new()).unwrap();
        assert!(archive.blob(&digest("layer"), 5, &mut &*bytes).is_err());
        assert!(archive.file("images.lock", b"lock").is_err());
        assert!(archive.finish(&[], Form::default()).is_err());
    }
}

#[test]
fn sizes_beyond_eight_gibibytes_are_written_right() {
    struct Head(Vec<u8>);
    impl std::io::Write for Head {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let room = 4096_usize.saturating_sub(self.0.len()).min(bytes.len());
            self.0.extend(&bytes[..room]);
            if room < bytes.len() { Err(std::io::Error::other("enough")) } else { Ok(room) }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let size = 9 << 30;
    let mut archive = ArchiveWriter::new(Head(Vec::new())).unwrap();
    assert!(archive.blob(&digest("large"), size, &mut std::io::repeat(1)).is_err());
    let written = &archive.written().0;
    let header = tar::Header::from_byte_slice(&written[1024..1536]);
    assert_eq!(header.size().unwrap(), size);
}

fn signature(layers: &[&str], config: Option<&str>) -> Candidate {
    let described = |text: &&str| json!({"digest": digest(text), "size": text.len()});
    let layers: Vec<Value> = layers.iter().map(described).collect();
    let mut manifest = json!({"layers": layers});
    if let Some(config) = config {
        manifest["config"] = described(&config);
    }
    let manifest = manifest.to_string();
    Candidate {
        subject: digest("manifest"),
        place: SignaturePlace::SignatureTag,
        digest: digest(&manifest),
        manifest: manifest.into_bytes().into(),
        layer: 1,
        blob: b"second".to_vec(),
        message: None,
        config: config.map(|text| text.as_bytes().to_vec()),
    }
}

#[test]
fn signatures_travel_as_blobs_that_the_name_tells_of() {
    let travelling = signature(&["first", "second"], Some("config"));
    let blobs = signature_blobs(&travelling);
    let digests: Vec<BlobDigest> = blobs.iter().map(|(digest, _)| digest.clone()).collect();
    assert_eq!(digests, [travelling.digest.clone(), digest("config"), digest("second")]);
    assert!(blobs.iter().all(|(digest, bytes)| *digest == BlobDigest::of(Algorithm::Sha256, bytes)));
    assert_eq!(signature_blobs(&signature(&["first", "second"], None)).len(), 2);

    let all = BTreeSet::from([digest("b"), digest("a")]);
    let joined: Vec<String> = all.iter().map(BlobDigest::to_string).collect();
    for form in [Form::default(), Form { index: true, docker: true }] {
        let images = [image(&["r/b:1", "r/a:1"], true).signed_by(all.clone()), image(&["r/c:1"], false)];
        let index = parsed(&index_json(&images, form));
        let told: Vec<_> = (0..3)
            .map(|position| index["manifests"][position]["annotations"]["dev.msb-sync.signatures"].as_str())
            .collect();
        assert_eq!(told, [Some(joined.join(",").as_str()), Some(joined.join(",").as_str()), None]);
        assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn a_signature_that_is_not_whole_stays_behind() {
    let good = || signature(&["first", "second"], Some("config"));
    let spoilt: [fn(&mut Candidate); 6] = [
        |one| one.layer = 2,
        |one| one.blob = b"other".to_vec(),
        |one| one.config = None,
        |one| one.config = Some(b"other".to_vec()),
        |one| one.digest = digest("other"),
        |one| one.manifest = b"[".to_vec().into(),
    ];
    for spoil in spoilt {
        let mut one = good();
        spoil(&mut one);
        assert!(signature_blobs(&one).is_empty(), "{one:?}");
    }
}
