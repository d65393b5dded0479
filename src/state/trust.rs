//! Trust: the rules that say who has to have signed an image, and the evidence that somebody has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::BlobDigest;
use crate::error::Error;
use crate::image_ref::ImageRef;
use crate::progress::SignatureReport;

/// The rules of an images file about signatures. All paths are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustPolicy {
    /// The `[[trust]]` tables, in the order of the file: the first one that names an image decides.
    pub rules: Vec<TrustRule>,
    /// The place of `unsigned = "refuse"` in the file, `images.toml:3`; `None`: images that no rule
    /// names need no signature.
    pub refuses_unsigned: Option<String>,
    /// The file of Sigstore's trusted root; `None`: the one that is built in.
    pub trusted_root: Option<PathBuf>,
}

impl TrustPolicy {
    /// True if no image needs a signature, nor is anything to be said of any.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.refuses_unsigned.is_none()
    }

    /// True if the image needs a signature, or is refused with any.
    pub fn demands(&self, image: &ImageRef) -> bool {
        match self.rules.iter().find(|rule| rule.names(image)) {
            Some(rule) => rule.signer != Signer::Nobody,
            None => self.refuses_unsigned.is_some(),
        }
    }

    /// Lists the files that have to be read before a signature can be judged.
    pub fn files(&self) -> BTreeSet<&Path> {
        let of_rules = self.rules.iter().flat_map(|rule| match &rule.signer {
            Signer::Nobody | Signer::Keyless(_) => &[][..],
            Signer::Keys { files, .. } => &files[..],
            Signer::Notation { roots, .. } => std::slice::from_ref(roots),
        });
        of_rules.chain(&self.trusted_root).map(PathBuf::as_path).collect()
    }
}

/// One `[[trust]]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRule {
    /// The images, as full names without tag, in which `*` stands for anything.
    pub images: Vec<String>,
    /// The signer whom the rule asks for.
    pub signer: Signer,
    /// True if the same signer has to have attested the provenance (SLSA) too.
    pub provenance: bool,
    /// The place of the table, `images.toml:12`.
    pub place: String,
}

impl TrustRule {
    /// Tells whether the rule names the image, by any of the names under which it is recorded.
    pub fn names(&self, reference: &ImageRef) -> bool {
        reference.is_named_by(&self.images)
    }
}

/// The signer whom a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// Nobody: the images are accepted without a signature.
    Nobody,
    /// The owner of one of these keys.
    Keys {
        /// The PEM files of the public keys.
        files: Vec<PathBuf>,
        /// True if the signature has to be in the log too.
        log_required: bool,
    },
    /// The holder of a certificate that Sigstore's CA made for an identity.
    Keyless(Keyless),
    /// The holder of a certificate below one of these roots, by Notation.
    Notation {
        /// The PEM file of the root certificates.
        roots: PathBuf,
        /// The attributes of the certificate's subject, `O=Acme,CN=*`, each of which must be there.
        subject: String,
    },
}

/// The identity in a certificate of Sigstore's CA; `*` in a text stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyless {
    /// The issuer of the identity, a URL.
    pub issuer: String,
    /// The identity itself.
    pub identity: Identity,
}

/// The identity that a certificate has to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The certificate's subject alternative name.
    Name(String),
    /// The claims of GitHub that the certificate repeats.
    Claims {
        /// The source repository, `acme/app`.
        repository: String,
        /// The file of the workflow that signed, `release.yml`.
        workflow: Option<String>,
        /// The source ref, `refs/tags/*`.
        git_ref: Option<String>,
    },
}

/// The candidates of one place that are looked at; others may be there.
pub(crate) const MAX_CANDIDATES: usize = 32;

/// The place where a registry keeps something that refers to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignaturePlace {
    /// The referrers API, or its fallback tag `sha256-<hex>`.
    Referrers,
    /// cosign 2's tag `sha256-<hex>.sig`.
    SignatureTag,
    /// cosign 2's tag `sha256-<hex>.att`.
    AttestationTag,
}

impl SignaturePlace {
    /// All places.
    const ALL: [Self; 3] = [Self::Referrers, Self::SignatureTag, Self::AttestationTag];

    /// The word that the catalog keeps.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Referrers => "referrers",
            Self::SignatureTag => "signature-tag",
            Self::AttestationTag => "attestation-tag",
        }
    }

    /// Reads such a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.as_str() == word)
    }
}

/// One layer of an artifact that refers to an image: perhaps a signature. The bytes are those that
/// their digests name, and hostile in all else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The digest of the index or manifest for which the registry was asked.
    pub subject: BlobDigest,
    /// The place where the artifact was found.
    pub place: SignaturePlace,
    /// The digest of the artifact's manifest.
    pub digest: BlobDigest,
    /// The artifact's manifest, as served.
    pub manifest: Arc<[u8]>,
    /// The position of the layer in the manifest.
    pub layer: usize,
    /// The layer, as served.
    pub blob: Vec<u8>,
    /// The subject's own bytes, where the signature is one of those bytes.
    pub message: Option<Vec<u8>>,
    /// The artifact's config, as served, where it is known: an exported signature needs it.
    pub config: Option<Vec<u8>>,
}

/// The proof that the signer of a rule has signed an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The digest that the tag means: the index's where there is one, else the manifest's.
    pub digest: BlobDigest,
    /// The digest of the platform's manifest.
    pub manifest: BlobDigest,
    /// The signer, for people: `github.com/acme/app release.yml@refs/tags/v1`, `key cosign.pub`.
    pub by: String,
    /// The issuer of the signer's identity, where there is one.
    pub issuer: Option<String>,
    /// The time of the signature, by a log or a timestamp, in seconds since 1970.
    pub at: Option<i64>,
    /// The first second in which the signature does not hold any more, in seconds since 1970: its
    /// own expiry, or the end of certificates without a timestamp. `None`: there is no end.
    pub until: Option<i64>,
    /// The place of the rule by which the evidence was judged, `images.toml:12`.
    pub rule: String,
    /// The form of the signature, for people: `cosign bundle`, `cosign simple signing`,
    /// `notation jws`.
    pub form: String,
    /// The fingerprint of rule, keys and roots by which the evidence was judged.
    pub judged_by: String,
    /// The signature, and the provenance where the rule asks for one; empty where the catalog was
    /// asked for the words alone.
    pub candidates: Vec<Candidate>,
}

/// The verdict about one image.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The signer of the rule has signed the image.
    Verified {
        /// The place of the rule.
        rule: String,
        /// The proof.
        evidence: Arc<Evidence>,
        /// True if the catalog has not this evidence, judged by this rule, yet.
        is_new: bool,
    },
    /// The rule accepts the image without a signature.
    Accepted {
        /// The place of the rule.
        rule: String,
    },
    /// The image is refused, or nobody can tell now.
    Refused {
        /// The place of the rule.
        rule: String,
        /// The state of the image's signatures.
        status: TrustStatus,
        /// The reason.
        error: Arc<Error>,
    },
}

/// The state of an image's signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrustStatus {
    /// The signer of the rule has signed the image.
    Verified,
    /// No signature was found, or the image is accepted without.
    Unsigned,
    /// None of the signatures that were found will do.
    Refused,
    /// No rule names the image, or nobody could be asked.
    NotAsked,
}

impl TrustStatus {
    /// The word for scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Unsigned => "unsigned",
            Self::Refused => "refused",
            Self::NotAsked => "not-asked",
        }
    }
}

impl Evidence {
    /// True if the signature still holds at `now`, in seconds since 1970.
    pub fn holds(&self, now: i64) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Says who signed, by which rule that will do.
    pub fn report(&self) -> SignatureReport {
        SignatureReport {
            status: TrustStatus::Verified.as_str(),
            by: Some(self.by.clone()),
            issuer: self.issuer.clone(),
            at: self.at,
            rule: Some(self.rule.clone()),
        }
    }
}

impl TrustStatus {
    /// Says no more than this.
    pub fn report(self) -> SignatureReport {
        SignatureReport { status: self.as_str(), by: None, issuer: None, at: None, rule: None }
    }
}

impl Verdict {
    /// Says what came of the image's signatures.
    pub fn report(&self) -> SignatureReport {
        let report = self.evidence().map_or_else(|| self.status().report(), |evidence| evidence.report());
        SignatureReport { rule: Some(self.rule().to_owned()), ..report }
    }

    /// The state of the image's signatures.
    pub fn status(&self) -> TrustStatus {
        match self {
            Self::Verified { .. } => TrustStatus::Verified,
            Self::Accepted { .. } => TrustStatus::Unsigned,
            Self::Refused { status, .. } => *status,
        }
    }

    /// The place of the rule that decided.
    pub fn rule(&self) -> &str {
        match self {
            Self::Verified { rule, .. } | Self::Accepted { rule } | Self::Refused { rule, .. } => rule,
        }
    }

    /// The proof, where there is one.
    pub fn evidence(&self) -> Option<&Arc<Evidence>> {
        match self {
            Self::Verified { evidence, .. } => Some(evidence),
            Self::Accepted { .. } | Self::Refused { .. } => None,
        }
    }

    /// The reason of a refusal.
    pub fn error(&self) -> Option<&Arc<Error>> {
        match self {
            Self::Refused { error, .. } => Some(error),
            Self::Verified { .. } | Self::Accepted { .. } => None,
        }
    }
}

/// The keys and certificates of a Sigstore that are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigstoreRoot {
    /// The day of the root, where it is the one that is built in, `2026-10-23`.
    pub built_in_date: Option<String>,
    /// The digest of the root's file.
    pub digest: BlobDigest,
    /// Each of them, by kind.
    pub anchors: Vec<SigstoreAnchor>,
}

/// One key or certificate of a Sigstore that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigstoreAnchor {
    /// The kind of its owner.
    pub kind: SigstoreAnchorKind,
    /// The address of its owner.
    pub url: String,
    /// The id of a log's key, or the SHA-256 of an authority's first certificate, in hex.
    pub id: String,
    /// The subject of an authority, `CN=…,O=…`.
    pub subject: Option<String>,
    /// The begin of its validity, in seconds since 1970.
    pub start: Option<i64>,
    /// The end of its validity; `None`: not known yet.
    pub end: Option<i64>,
}

/// The owners of keys and certificates in a trusted root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigstoreAnchorKind {
    /// A CA that certifies identities.
    CertificateAuthority,
    /// A log of signatures.
    Log,
    /// A log of certificates.
    CertificateLog,
    /// An authority that says when.
    TimestampAuthority,
}

impl SigstoreAnchorKind {
    /// The word for scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CertificateAuthority => "certificate-authority",
            Self::Log => "log",
            Self::CertificateLog => "certificate-log",
            Self::TimestampAuthority => "timestamp-authority",
        }
    }
}
