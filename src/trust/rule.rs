//! One rule, with its keys and roots read: whom it names, whom it wants, and by which fingerprint
//! its judgements are known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::artifact::layer_of;
use super::claim::{Claim, Role};
use super::finding::{Refused, Signed, shown};
use super::holder::Wanted;
use super::key::Key;
use super::notation::{self, Roots, Subject};
use super::root::Root;
use super::signer;
use crate::digest::{Algorithm, BlobDigest};
use crate::error::TrustFileError;
use crate::image_ref::ImageRef;
use crate::state::{Candidate, SignaturePlace, Signer, TrustRule};

/// The way in which this program judges: evidence of another way is judged again.
const JUDGED_BY: u32 = 2;
/// The largest manifest or layer of a candidate, in bytes.
const MAX_CANDIDATE: usize = 4 << 20;

/// A rule that can judge.
pub(super) struct Rule {
    judged: TrustRule,
    who: Who,
    fingerprint: String,
}

/// The signer whom a rule wants.
enum Who {
    Nobody,
    Owner { keys: Vec<Key>, log_required: bool, root: Arc<Root> },
    Holder { wanted: Wanted, root: Arc<Root> },
    Notation { roots: Roots, subject: Subject, words: String },
}

/// A candidate that the rule accepts.
pub(super) struct Accepted {
    pub(super) role: Role,
    pub(super) signed: Signed,
    /// The image that cosign 2 was told to sign.
    pub(super) named: Option<String>,
    /// The document of the image that was signed, if it was one.
    pub(super) document: Option<Vec<u8>>,
}

impl Rule {
    /// Reads the files of a rule; `root` is Sigstore's.
    pub(super) fn new(
        rule: &TrustRule,
        files: &BTreeMap<PathBuf, Vec<u8>>,
        root: &dyn Fn() -> Result<Arc<Root>, TrustFileError>,
    ) -> Result<Self, TrustFileError> {
        let broken = |path: &Path, reason: String| TrustFileError {
            path: path.to_owned(),
            rule: rule.place.clone(),
            reason,
            hint: None,
        };
        let file = |path: &Path| {
            let bytes = files.get(path).map(Vec::as_slice);
            bytes.ok_or_else(|| broken(path, "it was not read".to_owned()))
        };
        let who = match &rule.signer {
            Signer::Nobody => Who::Nobody,
            Signer::Keys { files: paths, log_required } => {
                let key = |path: &PathBuf| {
                    Key::parse(&name_of(path), file(path)?).map_err(|reason| broken(path, reason))
                };
                let keys = paths.iter().map(key).collect::<Result<_, _>>()?;
                Who::Owner { keys, log_required: *log_required, root: root()? }
            }
            Signer::Keyless(keyless) => Who::Holder { wanted: Wanted::new(keyless), root: root()? },
            Signer::Notation { roots: path, subject } => {
                let words = format!("{} below {}", shown(subject), shown(&name_of(path)));
                let roots = Roots::parse(file(path)?).map_err(|reason| broken(path, reason))?;
                let subject = Subject::parse(subject).map_err(|reason| broken(path, reason))?;
                Who::Notation { roots, subject, words }
            }
        };
        Ok(Self { fingerprint: fingerprint(rule, &who), judged: rule.clone(), who })
    }

    /// True if the rule is one for `reference`, under any of the names that it has.
    pub(super) fn names(&self, reference: &ImageRef) -> bool {
        self.judged.names(reference)
    }

    /// The place of the rule in its file.
    pub(super) fn place(&self) -> &str {
        &self.judged.place
    }

    /// The fingerprint of everything in the rule by which a judgement may differ.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// True if the rule wants no signature.
    pub(super) fn accepts_unsigned(&self) -> bool {
        matches!(self.who, Who::Nobody)
    }

    /// True if the rule wants the provenance too.
    pub(super) fn wants_provenance(&self) -> bool {
        self.judged.provenance
    }

    /// The places where such signatures are kept, the likeliest first.
    pub(super) fn places(&self) -> &'static [SignaturePlace] {
        use SignaturePlace::{AttestationTag, Referrers, SignatureTag};
        match (&self.who, self.judged.provenance) {
            (Who::Nobody, _) => &[],
            (Who::Notation { .. }, _) => &[Referrers],
            (_, false) => &[Referrers, SignatureTag],
            (_, true) => &[Referrers, SignatureTag, AttestationTag],
        }
    }

    /// Says in words whose signature the rule wants.
    pub(super) fn expected(&self) -> String {
        let mut words = format!("a signature by {}", self.signer());
        if let Who::Owner { log_required: true, .. } = self.who {
            words.push_str(", in the log");
        }
        if self.judged.provenance {
            words.push_str(", and provenance by the same");
        }
        words
    }

    fn signer(&self) -> String {
        match &self.who {
            Who::Nobody => "nobody".to_owned(),
            Who::Owner { keys, .. } => match &keys[..] {
                [key] => key.by(),
                keys => {
                    let names: Vec<&str> = keys.iter().map(Key::name).collect();
                    format!("one of the keys {}", names.join(", "))
                }
            },
            Who::Holder { wanted, .. } => wanted.words().to_owned(),
            Who::Notation { words, .. } => words.clone(),
        }
    }

    /// Judges one candidate. `subjects` are the digests of the image's index and of its platform's
    /// manifest; `message` gets the bytes of one of them.
    pub(super) fn judge(
        &self,
        candidate: &Candidate,
        subjects: &[&BlobDigest],
        message: &mut dyn FnMut(&BlobDigest) -> Option<Vec<u8>>,
        now: i64,
    ) -> Result<Accepted, Refused> {
        let too_large = || Refused::because("larger than a signature may be");
        if candidate.blob.len().max(candidate.manifest.len()) > MAX_CANDIDATE {
            return Err(too_large());
        }
        let layer = layer_of(candidate)?;
        if layer.size.as_ref().and_then(serde_json::Number::as_u64) > Some(MAX_CANDIDATE as u64) {
            return Err(too_large());
        }
        let is_notation = notation::MEDIA_TYPES.contains(&layer.media_type.as_str());
        if let Who::Notation { roots, subject, words } = &self.who {
            if !is_notation {
                return Err(Refused::because(format!("not a signature of Notation; the rule wants {words}")));
            }
            let signed = notation::judge(candidate, &layer.media_type, subjects, roots, subject, now)?;
            return Ok(Accepted { role: Role::Signature, signed, named: None, document: None });
        }
        if is_notation {
            let wanted = self.signer();
            return Err(Refused::because(format!("a signature of Notation; the rule wants {wanted}")));
        }
        let claim = Claim::read(candidate, &layer, subjects, message)?;
        if claim.role == Role::Provenance && !self.judged.provenance {
            return Err(Refused::because("is provenance, which is no signature"));
        }
        let signed = match &self.who {
            Who::Owner { keys, log_required, root } => {
                signer::of_keys(&claim, keys, &self.signer(), *log_required, root)?
            }
            Who::Holder { wanted, root } => signer::of_holder(&claim, wanted, root)?,
            Who::Nobody | Who::Notation { .. } => return Err(Refused::because("is not asked for")),
        };
        let (role, named) = (claim.role, claim.named.clone());
        Ok(Accepted { role, signed, named, document: claim.into_document() })
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Digests everything by which a judgement may differ, and nothing else: no place, no file names.
fn fingerprint(rule: &TrustRule, who: &Who) -> String {
    let mut parts: Vec<Vec<u8>> =
        vec![JUDGED_BY.to_string().into_bytes(), rule.provenance.to_string().into_bytes()];
    match (&rule.signer, who) {
        (Signer::Keys { log_required, .. }, Who::Owner { keys, root, .. }) => {
            parts.push(format!("keys log={log_required} {}", root.digest()).into_bytes());
            let mut keys: Vec<Vec<u8>> = keys.iter().map(|key| key.public().as_bytes().to_vec()).collect();
            keys.sort();
            parts.extend(keys);
        }
        (Signer::Keyless(keyless), Who::Holder { root, .. }) => {
            parts.push(format!("keyless {} {keyless:?}", root.digest()).into_bytes());
        }
        (Signer::Notation { subject, .. }, Who::Notation { roots, .. }) => {
            parts.push(format!("notation {subject}").into_bytes());
            parts.extend(roots.canonical());
        }
        _ => parts.push(b"nobody".to_vec()),
    }
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&part.len().to_le_bytes());
        bytes.extend_from_slice(&part);
    }
    BlobDigest::of(Algorithm::Sha256, &bytes).to_string()
}
