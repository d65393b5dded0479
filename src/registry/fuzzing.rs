//! The inputs of this room for fuzzing: everything that a server or an administrator's file may
//! say.
//!
//! Compiled for tests and for `cargo fuzz` only. Each function takes any bytes and panics if a
//! promise of the room is broken: what was read means the same when it is written and read again,
//! work is bounded, and no message carries control characters or a URL's query.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::auth::parse_challenges;
use super::documents::{DocumentKind, Documents, assemble};
use super::referrers::{Belongs, Hearing, Listed, config_of, list};
use super::sites::{Document, Held, parse_hosts};
use super::transport::{Portions, uri};
use crate::cancel::Cancel;
use crate::digest::{Algorithm, BlobDigest};
use crate::error::RegistryError;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{Candidate, Platform, SignaturePlace, size_of_layers};
use crate::url::Url;

/// More documents than an image may ask for, configs included.
const MANY_REQUESTS: usize = 200;

fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// A `WWW-Authenticate` header, and the token realms in it.
pub(crate) fn www_authenticate(data: &[u8]) {
    let challenges = parse_challenges(&String::from_utf8_lossy(data));
    let mut canonical = Vec::new();
    for challenge in &challenges {
        assert!(!challenge.scheme.is_empty());
        assert_eq!(challenge.scheme, challenge.scheme.to_ascii_lowercase());
        let quote = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
        let parameters =
            challenge.parameters.iter().map(|(name, value)| format!("{name}=\"{}\"", quote(value)));
        let parameters: Vec<String> = parameters.collect();
        canonical.push(format!("{} {}", challenge.scheme, parameters.join(", ")));
    }
    assert_eq!(parse_challenges(&canonical.join(", ")), challenges, "read, written and read again");
    let base = Url::parse("https://registry.corp:5000/v2/a/b?x=y").expect("it is a URL");
    for (_, value) in challenges.iter().flat_map(|challenge| &challenge.parameters) {
        if let Ok(realm) = base.join(value) {
            url(&realm);
        }
    }
}

/// Checks all that holds for every URL.
fn url(url: &Url) {
    let again = Url::parse(&url.whole()).expect("a URL that was read can be read again");
    assert!(again == *url, "{url} is {again} when read again");
    assert!(uri(url).is_ok(), "{url} can be asked for");
    let shown = url.to_string();
    assert!(!shown.contains('?') && is_printable(&shown), "{shown:?}");
    let authority = url.host_port();
    assert!(!authority.is_empty() && !authority.contains(['@', '/', '?', '#', '\\']), "{authority:?}");
}

/// The rest of an input, split at NULs.
type Parts<'a> = std::slice::Split<'a, u8, fn(&u8) -> bool>;

/// Answers every request with the next of its documents, whatever its digest.
struct Scripted<'a> {
    rest: RefCell<Parts<'a>>,
    media_type: Option<String>,
    requests: RefCell<usize>,
}

/// A document whose memory nobody else wants.
fn held(document: Document) -> Held {
    Held::new(Arc::new(document), Portions::new(Cancel::new()).portion("fuzzing"))
}

impl Documents for Scripted<'_> {
    fn document(
        &self,
        kind: DocumentKind,
        digest: &BlobDigest,
        _: Option<u64>,
    ) -> Result<Held, RegistryError> {
        *self.requests.borrow_mut() += 1;
        let Some(bytes) = self.rest.borrow_mut().next() else {
            return Err(RegistryError::Document {
                what: kind.as_str().to_owned(),
                host: "fuzzing".to_owned(),
                reason: "there are no more".to_owned(),
            });
        };
        Ok(held(Document {
            digest: digest.clone(),
            bytes: bytes.to_vec(),
            media_type: self.media_type.clone(),
            host: "fuzzing".to_owned(),
            unvouched: false,
        }))
    }
}

/// Indexes, manifests and configs. Parts end with a NUL: the Content-Type (empty: none), the
/// document that the tag means, then those that it leads to, in the order in which they are asked
/// for.
pub(crate) fn documents(data: &[u8]) {
    let is_nul: fn(&u8) -> bool = |byte| *byte == 0;
    let mut parts = data.split(is_nul);
    let media_type = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let media_type = Some(media_type).filter(|text| !text.is_empty());
    let top = parts.next().unwrap_or_default();
    let top = held(Document {
        digest: BlobDigest::of(Algorithm::Sha256, top),
        bytes: top.to_vec(),
        media_type: media_type.clone(),
        host: "fuzzing".to_owned(),
        unvouched: false,
    });
    let reference = ImageRef::parse("alpine:3.20", DEFAULT_REGISTRY).expect("it is a reference");
    let platform = Platform::new("linux", "arm64", None);
    let documents = Scripted { rest: RefCell::new(parts), media_type, requests: RefCell::new(0) };
    match assemble(&documents, &reference, &platform, top) {
        Ok(image) => {
            // Neither overflows nor repeats a layer with another size or diff_id.
            size_of_layers(&image.layers);
            for (index, layer) in image.layers.iter().enumerate() {
                let twin = image.layers[..index].iter().find(|other| other.digest == layer.digest);
                assert!(twin.is_none_or(|twin| twin == layer));
            }
        }
        Err(error) => assert!(is_printable(&error.to_string()), "{error:?}"),
    }
    assert!(*documents.requests.borrow() <= MANY_REQUESTS);
    artifacts(data.split(is_nul));
}

/// Lists of artifacts, then the artifacts' manifests and layers, in the order in which they are
/// asked for.
fn artifacts(mut parts: Parts<'_>) {
    let first = parts.next().unwrap_or_default();
    if let Err(reason) = list(first).and(config_of(first)) {
        assert!(is_printable(&reason), "{reason:?}");
    }
    let listed = list(first).ok().flatten().unwrap_or_default();
    let documents = Scripted { rest: RefCell::new(parts), media_type: None, requests: RefCell::new(0) };
    let (subject, turn) = (BlobDigest::of(Algorithm::Sha256, b""), Mutex::default());
    let mut candidates = 0;
    let mut hear = |candidate: Candidate| {
        candidates += 1;
        assert_eq!(candidate.subject, subject);
        ControlFlow::Continue(())
    };
    let mut hearing = Hearing::new(&subject, SignaturePlace::Referrers, &mut hear, &turn);
    let rest = Listed { digest: subject.clone(), size: None };
    for listed in listed.into_iter().flatten().chain([rest]) {
        for belongs in [Belongs::Says, Belongs::Unsaid, Belongs::Carried] {
            let _ = hearing.look(&documents, &listed, belongs);
        }
    }
    assert!(candidates <= 32);
}

/// One of containerd's hosts files.
pub(crate) fn hosts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match parse_hosts(&text, Path::new("/certs.d/registry.corp")) {
        Ok(hosts) => {
            let own = hosts.server.iter().chain(hosts.mirrors.iter().map(|host| &host.address));
            for address in own {
                // As they are used: with the path of what is asked for.
                url(&address.base.with_suffix("/v2/"));
                url(&address.root.with_suffix("/a/b/tags/list?n=100"));
            }
            assert!(hosts.details.iter().all(|detail| is_printable(detail)), "{:?}", hosts.details);
        }
        Err((at, reason)) => {
            assert!(at <= text.len());
            assert!(is_printable(&reason), "{reason:?}");
        }
    }
}
