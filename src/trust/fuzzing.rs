//! The door for fuzzing: a candidate of any bytes is judged, and whatever is said can be printed.
//!
//! An input is a manifest and a layer, with a zero byte between; its media type says which form is
//! read. The same bytes are taken for a key, roots and a certificate too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sigstore_types::{
    Bundle, CertificateContent, DerCertificate, VerificationMaterial, VerificationMaterialContent,
};

use super::holder::{Holder, claimed_by};
use super::{Demand, Judge, notation, sigstore_root};
use crate::digest::{Algorithm, BlobDigest};
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{Candidate, Identity, Keyless, SignaturePlace, Signer, TrustPolicy, TrustRule};

const ROOT: &[u8] = include_bytes!("../../tests/fixtures/signing/trusted_root.json");
const KEY: &[u8] = include_bytes!("../../tests/fixtures/signing/p256.pub");
const ED25519: &[u8] = include_bytes!("../../tests/fixtures/signing/ed25519.pub");
const RSA: &[u8] = include_bytes!("../../tests/fixtures/signing/rsa2048.pub");
const NOTATION: &[u8] = include_bytes!("../../tests/fixtures/signing/notation-roots.pem");
/// The image of the fixtures, and when they were made.
const INDEX: &str = "sha256:092e23afa5112b2eaa8ad1eb0cbd2d6be172e993a30a3050a6bfe96f834d0820";
const MANIFEST: &str = "sha256:5e52d7315b67883ea7126b5623ecf17f5f5cdaaa8b076c39754296726a533902";
const NOW: i64 = 1_796_000_000;
/// The longest message of a refusal, in bytes.
const MAX_MESSAGE: usize = 4096;

/// Judges of every kind of signer, with provenance and without.
fn judges() -> &'static [Judge] {
    static JUDGES: OnceLock<Vec<Judge>> = OnceLock::new();
    JUDGES.get_or_init(|| {
        let files: BTreeMap<PathBuf, Vec<u8>> =
            [("root", ROOT), ("p256", KEY), ("ed25519", ED25519), ("rsa", RSA), ("notation", NOTATION)]
                .into_iter()
                .map(|(name, bytes)| (PathBuf::from(name), bytes.to_vec()))
                .collect();
        let keys = vec!["p256".into(), "ed25519".into(), "rsa".into()];
        let any = || "*".to_owned();
        let claims = Identity::Claims { repository: any(), workflow: Some(any()), git_ref: Some(any()) };
        let signers = [
            Signer::Keys { files: keys.clone(), log_required: false },
            Signer::Keys { files: keys, log_required: true },
            Signer::Keyless(Keyless { issuer: any(), identity: Identity::Name(any()) }),
            Signer::Keyless(Keyless { issuer: any(), identity: claims }),
            Signer::Notation { roots: "notation".into(), subject: "O=*".to_owned() },
        ];
        let judge = |signer: Signer, provenance: bool| {
            let rule = TrustRule { images: vec![any()], signer, provenance, place: "f:1".to_owned() };
            let trusted_root = Some("root".into());
            Judge::new(&TrustPolicy { rules: vec![rule], refuses_unsigned: None, trusted_root }, &files)
                .expect("the files are in order")
        };
        signers.into_iter().flat_map(|signer| [judge(signer.clone(), false), judge(signer, true)]).collect()
    })
}

fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Judges one candidate by every judge.
pub(crate) fn candidate(data: &[u8]) {
    let zero = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (manifest, blob) = (&data[..zero], data.get(zero + 1..).unwrap_or_default());
    let index = BlobDigest::parse(INDEX).expect("a digest");
    let platform = BlobDigest::parse(MANIFEST).expect("a digest");
    let candidate = Candidate {
        subject: index.clone(),
        place: SignaturePlace::Referrers,
        digest: BlobDigest::of(Algorithm::Sha256, manifest),
        manifest: manifest.into(),
        layer: 0,
        blob: blob.to_vec(),
        message: None,
        config: None,
    };
    let reference = ImageRef::parse("a/b", DEFAULT_REGISTRY).expect("a reference");
    for judge in judges() {
        let Demand::Signed(signed_by) = judge.demand(&reference) else { panic!("nothing is asked for") };
        let mut trial = signed_by.trial(&index, &platform, NOW);
        trial.hear(candidate.clone(), &mut |_| Some(blob.to_vec()));
        match trial.finish() {
            Ok(evidence) => {
                assert!(is_printable(&evidence.by) && is_printable(&evidence.form), "{evidence:?}");
                let again = signed_by.judge_again(&evidence, NOW);
                assert_eq!(again.as_ref(), Some(&evidence), "the same judge says the same again");
            }
            Err(error) => {
                let text = format!("{error} {:?}", error.hint());
                assert!(is_printable(&text) && text.len() <= MAX_MESSAGE, "{text:?}");
            }
        }
    }
    files(data);
    certificate(data);
}

/// Takes any bytes for each kind of file that a rule names.
fn files(data: &[u8]) {
    if let Err(error) = super::key::Key::parse("name", data) {
        assert!(is_printable(&error), "{error:?}");
    }
    if let Err(error) = notation::Roots::parse(data) {
        assert!(is_printable(&error), "{error:?}");
    }
    if let Err(error) = sigstore_root(Some((Path::new("root"), data))) {
        assert!(is_printable(&error.to_string()), "{error:?}");
    }
    if let Err(error) = notation::Subject::parse(&String::from_utf8_lossy(data)) {
        assert!(is_printable(&error), "{error:?}");
    }
}

/// Takes any bytes for the certificate of a signer.
fn certificate(data: &[u8]) {
    let der = DerCertificate::new(data.to_vec());
    if let Ok(certificate) = sigstore_crypto::parse_certificate_info(&der) {
        let holder = Holder::of(&certificate);
        assert!(is_printable(&holder.by()) && holder.issuer().is_none_or(|issuer| is_printable(&issuer)));
    }
    let content = VerificationMaterialContent::Certificate(CertificateContent::new(der));
    let signature = sigstore_types::MessageSignature::new(sigstore_types::SignatureBytes::new(Vec::new()));
    let bundle = Bundle::new(
        sigstore_types::MediaType::Bundle0_3,
        VerificationMaterial::new(content),
        sigstore_types::SignatureContent::MessageSignature(signature),
    );
    assert!(claimed_by(&bundle).is_none_or(|by| is_printable(&by)));
}
