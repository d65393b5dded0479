//! Artifacts that refer to an image: where they are asked for, what is taken for absent, and what a
//! hostile list may cost.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::state::{Candidate, Mirror, SignaturePlace};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
const PLACES: [SignaturePlace; 3] =
    [SignaturePlace::Referrers, SignaturePlace::SignatureTag, SignaturePlace::AttestationTag];

fn subject() -> BlobDigest {
    sha256(b"subject")
}

fn fallback() -> String {
    format!("sha256-{}", subject().text().hex())
}

/// An artifact with a layer for each of `layers`, a media type and bytes.
struct Artifact {
    manifest: Vec<u8>,
    layers: Vec<Vec<u8>>,
}

impl Artifact {
    fn new(subject: Option<&BlobDigest>, layers: &[(&str, &[u8])]) -> Self {
        let described: Vec<Value> = layers
            .iter()
            .map(|(media_type, bytes)| {
                json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
            })
            .collect();
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": BUNDLE,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2},
            "layers": described,
        });
        if let Some(subject) = subject {
            manifest["subject"] = json!({"mediaType": OCI_INDEX, "digest": subject, "size": 7});
        }
        let layers = layers.iter().map(|(_, bytes)| bytes.to_vec()).collect();
        Self { manifest: manifest.to_string().into_bytes(), layers }
    }

    /// A bundle that refers to the subject.
    fn bundle(text: &str) -> Self {
        Self::new(Some(&subject()), &[(BUNDLE, text.as_bytes())])
    }

    fn digest(&self) -> BlobDigest {
        sha256(&self.manifest)
    }

    /// The artifact on a list, which says nothing true of its type.
    fn entry(&self) -> Value {
        json!({"mediaType": OCI_MANIFEST, "digest": self.digest(), "size": self.manifest.len(),
               "artifactType": "application/vnd.oci.empty.v1+json"})
    }

    fn serve(&self, content: &mut Content, tag: Option<&str>) {
        content.manifest("team/app", tag.unwrap_or(&self.digest().text()), OCI_MANIFEST, &self.manifest);
        for layer in &self.layers {
            content.blob("team/app", layer);
        }
    }
}

fn api() -> String {
    format!("/v2/team/app/referrers/{}", subject())
}

/// Serves `artifacts` by the API.
fn by_api(artifacts: &[Artifact]) -> Content {
    let mut content = Content::default();
    let entries: Vec<Value> = artifacts.iter().map(Artifact::entry).collect();
    content.0.insert(api(), (OCI_INDEX.to_owned(), index(&entries)));
    for artifact in artifacts {
        artifact.serve(&mut content, None);
    }
    content
}

/// Serves `artifacts` by the fallback tag.
fn by_fallback(artifacts: &[Artifact]) -> Content {
    let mut content = Content::default();
    let entries: Vec<Value> = artifacts.iter().map(Artifact::entry).collect();
    content.manifest("team/app", &fallback(), OCI_INDEX, &index(&entries));
    for artifact in artifacts {
        artifact.serve(&mut content, None);
    }
    content
}

/// All candidates of `place`, up to the first whose bytes are `last`.
fn heard_until(
    registries: &Registries,
    reference: &ImageRef,
    place: SignaturePlace,
    last: Option<&str>,
) -> (Vec<Candidate>, Result<(), RegistryError>) {
    let mut heard = Vec::new();
    let mut hear = |candidate: Candidate| {
        let is_last = last.is_some_and(|last| candidate.blob == last.as_bytes());
        heard.push(candidate);
        if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let result = registries.referrers(reference, &subject(), place, &mut hear);
    (heard, result)
}

fn heard(registries: &Registries, reference: &ImageRef) -> Result<Vec<String>, RegistryError> {
    let (heard, result) = heard_until(registries, reference, SignaturePlace::Referrers, None);
    result.map(|()| texts(&heard))
}

fn texts(candidates: &[Candidate]) -> Vec<String> {
    candidates.iter().map(|candidate| String::from_utf8(candidate.blob.clone()).unwrap()).collect()
}

fn start(content: Content) -> Server {
    Server::start(move |request| content.answer(request))
}

#[test]
fn the_api_lists_candidates_that_their_own_manifests_vouch_for() {
    let other = sha256(b"another subject");
    let artifacts = [
        Artifact::new(Some(&other), &[(BUNDLE, b"of another image")]),
        Artifact::new(None, &[(BUNDLE, b"of no image")]),
        Artifact::new(Some(&subject()), &[("application/spdx+json", b"a list of parts")]),
        Artifact::new(
            Some(&subject()),
            &[("text/plain", b"x"), (BUNDLE, b"one"), ("application/cose", b"two")],
        ),
        Artifact::bundle("three"),
    ];
    let server = start(by_api(&artifacts));
    let registries = Setup::new().build();
    let (found, result) =
        heard_until(&registries, &reference(&server), SignaturePlace::Referrers, Some("three"));
    result.unwrap();
    assert_eq!(texts(&found), ["one", "two", "three"]);
    assert_eq!((found[0].layer, found[1].layer), (1, 2));
    assert_eq!(found[2].digest, artifacts[4].digest());
    assert_eq!(found[2].manifest[..], artifacts[4].manifest[..]);
    assert_eq!((&found[2].subject, found[2].place), (&subject(), SignaturePlace::Referrers));
    let lines = server.lines();
    assert_eq!(lines[0], format!("GET {}", api()));
    // The list, five manifests, three layers; nothing of an artifact that is no signature.
    assert_eq!(lines.len(), 9, "{lines:?}");
}

#[test]
fn where_there_is_no_api_the_fallback_tag_is_asked_and_the_api_no_more() {
    let server = start(by_fallback(&[
        Artifact::bundle("one"),
        Artifact::new(None, &[(BUNDLE, b"two")]),
        Artifact::new(Some(&sha256(b"another")), &[(BUNDLE, b"of another image")]),
    ]));
    let registries = Setup::new().build();
    assert_eq!(heard(&registries, &reference(&server)).unwrap(), ["one", "two"]);
    let before = server.lines();
    assert_eq!(before[..2], [format!("GET {}", api()), format!("GET /v2/team/app/manifests/{}", fallback())]);
    // Nothing is asked twice, under another name neither.
    let other = ImageRef::in_registry(&server.name(), "team/app:2").unwrap();
    assert_eq!(heard(&registries, &other).unwrap(), ["one", "two"]);
    assert_eq!(server.lines(), before);
    // Another digest of the repository is asked for by its tag at once; another repository is not.
    let mut none = |_: Candidate| panic!("there is none");
    registries.referrers(&other, &sha256(b"x"), SignaturePlace::Referrers, &mut none).unwrap();
    assert_eq!(
        server.lines()[before.len()..],
        [format!("GET /v2/team/app/manifests/sha256-{}", sha256(b"x").text().hex())]
    );
    let third = ImageRef::in_registry(&server.name(), "team/other:1").unwrap();
    registries.referrers(&third, &subject(), SignaturePlace::Referrers, &mut none).unwrap();
    assert_eq!(server.lines().len(), before.len() + 3);
}

#[test]
fn an_api_without_candidates_is_not_the_last_word() {
    for listed in [vec![], vec![Artifact::new(Some(&subject()), &[("application/spdx+json", b"parts")])]] {
        let mut content = by_fallback(&[Artifact::bundle("one")]);
        content.0.extend(by_api(&listed).0);
        let server = start(content);
        assert_eq!(heard(&Setup::new().build(), &reference(&server)).unwrap(), ["one"]);
    }
    let mut content = by_api(&[]);
    content.0.insert(api(), (OCI_INDEX.to_owned(), br#"{"manifests":null}"#.to_vec()));
    assert!(heard(&Setup::new().build(), &reference(&start(content))).unwrap().is_empty());
}

#[test]
fn the_tags_of_cosign_2_have_a_candidate_in_each_layer() {
    let layers: Vec<String> = (0..40).map(|number| format!("signature {number}")).collect();
    let signatures: Vec<(&str, &[u8])> = layers.iter().map(|text| (SIMPLE, text.as_bytes())).collect();
    let mut content = Content::default();
    let sig = Artifact::new(None, &signatures);
    sig.serve(&mut content, Some(&format!("{}.sig", fallback())));
    Artifact::new(None, &[(ENVELOPE, b"attestation")])
        .serve(&mut content, Some(&format!("{}.att", fallback())));
    let server = start(content);
    let registries = Setup::new().build();
    let (found, result) = heard_until(&registries, &reference(&server), SignaturePlace::SignatureTag, None);
    result.unwrap();
    assert_eq!(texts(&found), layers[..32]);
    // One manifest and 32 layers.
    assert_eq!(server.lines().len(), 33);
    let (found, result) = heard_until(&registries, &reference(&server), SignaturePlace::AttestationTag, None);
    result.unwrap();
    assert_eq!(texts(&found), ["attestation"]);
    // The same from memory, as far as bytes are kept.
    heard_until(&registries, &reference(&server), SignaturePlace::SignatureTag, None).1.unwrap();
    assert_eq!(server.lines().len(), 35);
}

#[test]
fn nothing_anywhere_is_nothing() {
    let server = start(Content::default());
    let registries = Setup::new().build();
    for place in PLACES {
        let (found, result) = heard_until(&registries, &reference(&server), place, None);
        result.unwrap();
        assert!(found.is_empty());
    }
    assert_eq!(server.lines().len(), 4);
    // A digest that is too long for a tag has none.
    let long = BlobDigest::of(Algorithm::Sha512, b"long");
    let mut none = |_: Candidate| panic!("there is none");
    for place in PLACES {
        registries.referrers(&reference(&server), &long, place, &mut none).unwrap();
    }
    let lines = server.lines();
    assert_eq!(lines[4..], [format!("GET /v2/team/app/manifests/sha512-{}", &long.text().hex()[..64])]);
}

#[test]
fn a_registry_that_is_down_is_not_one_without_signatures() {
    for place in PLACES {
        for (status, kind) in
            [(401, "unauthorized"), (403, "forbidden"), (429, "rate-limited"), (500, "registry-failure")]
        {
            let server = Server::start(move |_| Response::new(status, b"no"));
            let (found, result) = heard_until(&Setup::new().build(), &reference(&server), place, None);
            assert!(found.is_empty());
            assert_eq!(result.unwrap_err().kind(), kind);
        }
        let server = Server::start(|_| Response::new(200, b"{\"manifests\":[]}").cut(5));
        let (_, result) = heard_until(&Setup::new().build(), &reference(&server), place, None);
        assert_eq!(result.unwrap_err().kind(), "protocol");
        for body in ["<html>", "{", "[1]", "[]", "{}", "{\"errors\":[]}", "{\"manifests\":1,\"layers\":1}"] {
            let server = Server::start(|_| Response::new(200, body.as_bytes()));
            let (_, result) = heard_until(&Setup::new().build(), &reference(&server), place, None);
            let error = result.unwrap_err();
            assert_eq!(error.kind(), "invalid-document", "{place:?} {body}: {error}");
        }
    }
}

#[test]
fn an_api_that_is_misunderstood_leaves_the_tag_to_be_asked() {
    for (status, body) in [(400, "bad"), (405, "no"), (406, "no"), (501, "no"), (200, "<html>"), (200, "{}")]
    {
        let content = by_fallback(&[Artifact::bundle("one")]);
        let answer = move |request: &Request| match request.path() {
            path if path == api() => Response::new(status, body.as_bytes()),
            _ => content.answer(request),
        };
        let server = Server::start(answer);
        let registries = Setup::new().build();
        let (found, result) =
            heard_until(&registries, &reference(&server), SignaturePlace::Referrers, Some("one"));
        assert_eq!(texts(&found), ["one"], "{status}");
        result.unwrap();
        // Nobody has said that there are no others.
        heard(&registries, &reference(&server)).unwrap_err();
    }
}

#[test]
fn pages_are_read_until_there_are_enough_and_no_further() {
    let many: Vec<Artifact> = (0..40).map(|number| Artifact::bundle(&format!("{number}"))).collect();
    for size in [1, 7, 40] {
        let content = by_api(&many);
        let entries: Vec<Value> = many.iter().map(Artifact::entry).collect();
        let answer = move |request: &Request| {
            if request.path() != api() {
                return content.answer(request);
            }
            let from: usize = request.target.split("from=").nth(1).map_or(0, |text| text.parse().unwrap());
            let to = (from + size).min(entries.len());
            let link = format!("<http://elsewhere.example{}?from={to}>; rel=\"next\"", api());
            let page = Response::new(200, &index(&entries[from..to])).header("Content-Type", OCI_INDEX);
            if to < entries.len() { page.header("Link", &link) } else { page }
        };
        let server = Server::start(answer);
        let found = heard(&Setup::new().build(), &reference(&server)).unwrap();
        let expected: Vec<String> = (0..32).map(|number| number.to_string()).collect();
        assert_eq!(found, expected);
        let pages = server.lines().iter().filter(|line| line.contains("/referrers/")).count();
        assert_eq!(pages, 32_usize.div_ceil(size), "pages of {size}");
    }
    for link in [format!("<{}>; rel=next", api()), "</v2/x".to_owned(), "<?from=1>; rel=next".to_owned()] {
        let server = Server::start(move |_| Response::new(200, b"{\"manifests\":[]}").header("Link", &link));
        heard(&Setup::new().build(), &reference(&server)).unwrap_err();
        assert!(server.lines().len() < 10);
    }
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let link = format!("<?from={}>; rel=next", count.fetch_add(1, Ordering::Relaxed));
        Response::new(200, b"{\"manifests\":[]}").header("Link", &link)
    });
    heard(&Setup::new().build(), &reference(&server)).unwrap_err();
    assert!(server.lines().len() < 40);
}

#[test]
fn what_is_too_large_is_not_fetched_and_a_layer_told_without_its_bytes() {
    let large = vec![b'x'; (4 << 20) + 1];
    let artifacts = [
        Artifact::new(Some(&subject()), &[(BUNDLE, &large[..]), (BUNDLE, b"beside")]),
        Artifact::bundle("one"),
    ];
    let mut content = by_api(&artifacts);
    let mut huge = artifacts[1].entry();
    (huge["size"], huge["digest"]) = (json!((4 << 20) + 1), json!(sha256(b"huge")));
    let mut odd = artifacts[1].entry();
    odd["digest"] = json!("sha256:../../../etc/passwd");
    let mut nested = artifacts[1].entry();
    (nested["mediaType"], nested["digest"]) = (json!(OCI_INDEX), json!(sha256(b"nested")));
    let entries = [huge, odd, nested, artifacts[0].entry(), artifacts[1].entry()];
    content.0.insert(api(), (OCI_INDEX.to_owned(), index(&entries)));
    let server = start(content);
    assert_eq!(heard(&Setup::new().build(), &reference(&server)).unwrap(), ["", "beside", "one"]);
    assert_eq!(server.lines().len(), 5);

    // It is no reason to ask nowhere else.
    let mut content = by_api(&artifacts[..1]);
    let only = Artifact::new(Some(&subject()), &[(BUNDLE, &large[..])]);
    content.0.insert(api(), (OCI_INDEX.to_owned(), index(&[only.entry()])));
    only.serve(&mut content, None);
    artifacts[1].serve(&mut content, None);
    content.manifest("team/app", &fallback(), OCI_INDEX, &index(&[artifacts[1].entry()]));
    let server = start(content);
    assert_eq!(heard(&Setup::new().build(), &reference(&server)).unwrap(), ["", "one"]);

    let mut body = b"{\"manifests\":[".to_vec();
    body.extend(&large);
    let server = Server::start(move |_| Response::new(200, &body));
    assert!(heard(&Setup::new().build(), &reference(&server)).unwrap_err().to_string().contains("4 MiB"));
}

#[test]
fn bytes_that_are_not_what_their_digest_says_are_the_registrys_failure() {
    let (one, two) = (Artifact::bundle("one"), Artifact::bundle("two"));
    let (manifest, layer) = (
        format!("/v2/team/app/manifests/{}", one.digest()),
        format!("/v2/team/app/blobs/{}", sha256(b"one")),
    );
    for (path, lie) in [(&manifest, "other bytes"), (&layer, "eno")] {
        let mut content = by_api(&[Artifact::bundle("one"), Artifact::bundle("two")]);
        content.0.insert(path.clone(), (String::new(), lie.as_bytes().to_vec()));
        let server = start(content);
        let error = heard(&Setup::new().build(), &reference(&server)).unwrap_err();
        assert_eq!(error.kind(), "content-mismatch", "{error}");
        // A good one behind it counts all the same.
        let (found, result) =
            heard_until(&Setup::new().build(), &reference(&server), SignaturePlace::Referrers, Some("two"));
        result.unwrap();
        assert_eq!(texts(&found), ["two"]);
    }
    for path in [manifest, layer] {
        let mut content = by_api(&[Artifact::bundle("one"), Artifact::bundle("two")]);
        content.0.remove(&path).unwrap();
        let error = heard(&Setup::new().build(), &reference(&start(content))).unwrap_err();
        assert!(error.to_string().contains("is listed for sha256:"), "{error}");
    }
    // A tag whose header names other bytes than those that follow.
    let mut content = Content::default();
    two.serve(&mut content, Some(&format!("{}.sig", fallback())));
    let server = Server::start(move |request| {
        content
            .answer(request)
            .without("Docker-Content-Digest")
            .header("Docker-Content-Digest", &sha256(b"x").text())
    });
    let (_, result) =
        heard_until(&Setup::new().build(), &reference(&server), SignaturePlace::SignatureTag, None);
    assert_eq!(result.unwrap_err().kind(), "content-mismatch");
    // Rubbish that has its digest is somebody's who may push, and no signature.
    let rubbish = Artifact { manifest: b"[".to_vec(), layers: Vec::new() };
    let server = start(by_api(&[rubbish, Artifact::bundle("two")]));
    assert_eq!(heard(&Setup::new().build(), &reference(&server)).unwrap(), ["two"]);
}

fn mirrored(server: &Server, mirror: &Server) -> Setup {
    let mirrors = vec![Mirror { url: format!("http://{}", mirror.name()), resolve: false }];
    Setup::new().with(RegistrySettings { mirrors, ..settings(server) })
}

#[test]
fn a_mirror_serves_what_it_has_and_is_never_believed_that_there_is_nothing() {
    // All is at the mirror: the endpoint need not be asked.
    let (down, mirror) =
        (Server::start(|_| Response::new(500, b"")), start(by_api(&[Artifact::bundle("one")])));
    let registries = mirrored(&down, &mirror).build();
    let (found, result) = heard_until(&registries, &reference(&down), SignaturePlace::Referrers, Some("one"));
    result.unwrap();
    assert_eq!((texts(&found), down.lines().len()), (vec!["one".to_owned()], 0));
    // Unless more is wanted than the mirror has.
    assert_eq!(heard(&registries, &reference(&down)).unwrap_err().kind(), "registry-failure");

    // The mirror has nothing, or fails, or lies: the endpoint decides.
    let lies = |request: &Request| {
        let content = by_api(&[Artifact::bundle("one"), Artifact::bundle("two")]);
        let answer = content.answer(request);
        if request.path().contains("/blobs/") { Response::new(200, b"eno") } else { answer }
    };
    let (empty, broken) = (Content::default(), Response::new);
    let mirrors = [
        Server::start(move |request| empty.answer(request)),
        Server::start(move |_| broken(500, b"")),
        Server::start(move |_| Response::new(403, b"")),
        Server::start(|_| Response::new(200, b"<html>")),
        Server::start(lies),
    ];
    for (number, mirror) in mirrors.iter().enumerate() {
        let server = start(by_api(&[Artifact::bundle("one"), Artifact::bundle("two")]));
        let setup = mirrored(&server, mirror);
        assert_eq!(heard(&setup.build(), &reference(&server)).unwrap(), ["one", "two"], "{number}");
        let server = start(Content::default());
        let nothing = heard(&mirrored(&server, mirror).build(), &reference(&server)).unwrap();
        assert!(nothing.is_empty(), "{number}");
        let server = Server::start(|_| Response::new(503, b""));
        heard(&mirrored(&server, mirror).build(), &reference(&server)).unwrap_err();
    }
    // An artifact that both have is heard once.
    let (server, mirror) = (
        start(by_api(&[Artifact::bundle("one"), Artifact::bundle("two")])),
        start(by_api(&[Artifact::bundle("two")])),
    );
    let registries = mirrored(&server, &mirror).build();
    assert_eq!(heard(&registries, &reference(&server)).unwrap(), ["two", "one"]);
}

#[test]
fn a_mirror_without_the_api_still_serves_layers() {
    let app = Image::new("layer");
    let content = serve(&app);
    let answer = move |request: &Request| match request.path() {
        path if path.contains("/referrers/") => Response::new(500, b""),
        _ => content.answer(request),
    };
    let (server, mirror) = (start(serve(&app)), Server::start(answer));
    let registries = mirrored(&server, &mirror).build();
    heard(&registries, &reference(&server)).unwrap();
    let at_server = server.lines().len();
    let mut bytes = Vec::new();
    let mut reader = registries.blob(&reference(&server), &app.layer_descriptor(), 0).unwrap();
    std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
    assert_eq!((bytes, server.lines().len()), (app.layer.clone(), at_server));
    // And is not asked for referrers again.
    let asked = mirror.lines().len();
    heard(&registries, &reference(&server)).unwrap();
    assert_eq!(mirror.lines().len(), asked);
}

#[test]
fn configs_and_messages_are_had_when_they_are_wanted() {
    let app = Image::new("layer");
    let mut content = serve(&app);
    let config = br#"{"architecture":""}"#;
    let own = json!({"config": {"digest": sha256(config), "size": config.len()}, "layers": []});
    content.blob("team/app", config);
    let server = start(content);
    let registries = Setup::new().build();
    let mut candidate = Candidate {
        subject: subject(),
        place: SignaturePlace::Referrers,
        digest: subject(),
        manifest: Artifact::bundle("one").manifest.into(),
        layer: 0,
        blob: Vec::new(),
        message: None,
        config: None,
    };
    registries.complete(&reference(&server), &mut candidate).unwrap();
    assert_eq!(candidate.config.take().unwrap(), b"{}");
    assert_eq!(server.lines().len(), 0);
    candidate.manifest = own.to_string().into_bytes().into();
    registries.complete(&reference(&server), &mut candidate).unwrap();
    assert_eq!(candidate.config.take().unwrap(), config);
    candidate.manifest = b"{}"[..].into();
    registries.complete(&reference(&server), &mut candidate).unwrap();
    assert_eq!(candidate.config, None);
    candidate.manifest = b"{\"config\":{\"digest\":\"x\",\"size\":1}}"[..].into();
    registries.complete(&reference(&server), &mut candidate).unwrap_err();

    resolve(&registries, &reference(&server)).unwrap();
    let before = server.lines().len();
    assert_eq!(registries.message(&reference(&server), &app.digest()).unwrap(), app.manifest);
    assert_eq!(server.lines().len(), before);
    registries.message(&reference(&server), &subject()).unwrap_err();
}

/// A layout whose `index.json` lists `entries`, with the bytes of `blobs`.
fn layout(root: &Path, entries: &[Value], blobs: &[&[u8]]) -> Registries {
    std::fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    for bytes in blobs {
        std::fs::write(root.join("blobs/sha256").join(sha256(bytes).text().hex()), bytes).unwrap();
    }
    std::fs::write(root.join("index.json"), index(entries)).unwrap();
    let layout = Some(root.to_owned());
    Setup::new()
        .with(RegistrySettings { name: "vendored.local".to_owned(), layout, ..RegistrySettings::default() })
        .build()
}

fn named(mut entry: Value, name: &str) -> Value {
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    entry
}

#[test]
fn a_layout_has_signatures_as_bundles_carry_them_and_as_other_tools_write_them() {
    let reference = ImageRef::in_registry("vendored.local", "team/app:1").unwrap();
    let bundle = Artifact::bundle("one");
    let sig = Artifact::new(None, &[(SIMPLE, b"two"), (SIMPLE, b"three")]);
    let att = Artifact::new(None, &[(ENVELOPE, b"four")]);
    let other = Artifact::new(Some(&sha256(b"another")), &[(BUNDLE, b"five")]);
    let all = [&bundle, &sig, &att, &other];
    let blobs: Vec<&[u8]> =
        all.iter().flat_map(|one| one.layers.iter().chain([&one.manifest])).map(Vec::as_slice).collect();
    let expect = |registries: &Registries, expected: [&[&str]; 3]| {
        for (place, expected) in PLACES.into_iter().zip(expected) {
            let (found, result) = heard_until(registries, &reference, place, None);
            result.unwrap();
            assert_eq!(texts(&found), expected, "{place:?}");
            assert!(found.iter().all(|one| one.place == place && one.subject == subject()));
        }
        assert_eq!(registries.requests(), 0);
    };
    // A bundle of ours: the image's entry names the artifacts, whether it leads to the subject,
    // past it, or is only named like the image.
    let digests: Vec<String> = all.iter().map(|one| one.digest().to_string()).collect();
    for (digest, above) in
        [(subject(), None), (sha256(b"manifest"), Some(subject())), (sha256(b"index"), None)]
    {
        let mut entry = json!({"mediaType": OCI_INDEX, "digest": digest, "size": 7});
        entry["annotations"] = json!({
            "org.opencontainers.image.ref.name": "vendored.local/team/app:1",
            "dev.msb-sync.signatures": digests.join(","),
        });
        if let Some(above) = above {
            entry["annotations"]["dev.msb-sync.index"] = json!(above);
        }
        let folder = tempfile::tempdir().unwrap();
        expect(&layout(folder.path(), &[entry], &blobs), [&["one"], &["two", "three"], &["four"]]);
    }
    // Other tools: the tags that registries have, or artifacts without a name.
    let list = index(&[bundle.entry(), other.entry()]);
    let list_entry = json!({"mediaType": OCI_INDEX, "digest": sha256(&list), "size": list.len()});
    let folder = tempfile::tempdir().unwrap();
    let entries = [
        named(list_entry, &fallback()),
        named(sig.entry(), &format!("team/app:{}.sig", fallback())),
        named(att.entry(), &format!("vendored.local/team/app:{}.att", fallback())),
        named(sig.entry(), &format!("team/other:{}.att", fallback())),
    ];
    let with_list: Vec<&[u8]> = blobs.iter().copied().chain([&list[..]]).collect();
    expect(&layout(folder.path(), &entries, &with_list), [&["one"], &["two", "three"], &["four"]]);
    let folder = tempfile::tempdir().unwrap();
    let entries = [other.entry(), bundle.entry(), sig.entry()];
    expect(&layout(folder.path(), &entries, &blobs), [&["one"], &[], &[]]);
    // Nothing is nothing, and what is missing or broken is not.
    let folder = tempfile::tempdir().unwrap();
    expect(&layout(folder.path(), &[], &[]), [&[], &[], &[]]);
    let folder = tempfile::tempdir().unwrap();
    let registries = layout(folder.path(), &[bundle.entry()], &[&bundle.manifest]);
    heard(&registries, &reference).unwrap_err();
    std::fs::write(folder.path().join("blobs/sha256").join(bundle.digest().text().hex()), "changed").unwrap();
    heard(&registries, &reference).unwrap_err();
}
