//! The holder of a certificate by Sigstore's CA: whom it names, and whom a rule wants.
//!
//! For a workflow of GitHub the subject alternative name says which file signed, at which ref, in
//! which repository; where that is a reusable workflow, the caller's repository and ref are in
//! extensions of their own.

use sigstore_crypto::{CertificateInfo, parse_certificate_info};
use sigstore_types::Bundle;

use super::finding::shown;
use crate::state::{Identity, Keyless};
use crate::wildcard;

/// The directory of workflows in a repository.
const WORKFLOWS: &str = ".github/workflows/";
/// The longest name or claim that is looked at, in bytes.
const MAX_TEXT: usize = 4096;

/// The holder of a certificate, as the certificate has it.
pub(super) struct Holder {
    name: String,
    issuer: Option<String>,
    repository: Option<String>,
    git_ref: Option<String>,
}

impl Holder {
    /// Reads whom a certificate names.
    pub(super) fn of(certificate: &CertificateInfo) -> Self {
        let claims = &certificate.ci_claims;
        let sensible = |text: &Option<String>| text.clone().filter(|text| text.len() <= MAX_TEXT);
        let name = certificate.identity.as_ref().map(|name| name.as_str().to_owned());
        Self {
            name: sensible(&name).unwrap_or_default(),
            issuer: sensible(&certificate.issuer),
            repository: sensible(&claims.source_repository_uri),
            git_ref: sensible(&claims.source_repository_ref),
        }
    }

    /// Names the holder for people: `github.com/acme/app release.yml@refs/tags/v1`.
    pub(super) fn by(&self) -> String {
        match Workflow::parse(&self.name) {
            Some(Workflow { repository, file, git_ref }) => shown(&format!("{repository} {file}@{git_ref}")),
            None if self.name.is_empty() => "a certificate without a name".to_owned(),
            None => shown(&self.name),
        }
    }

    /// The issuer of the identity.
    pub(super) fn issuer(&self) -> Option<String> {
        self.issuer.as_deref().map(shown)
    }
}

/// Names the holder of a bundle's certificate, where it has one: not proven.
pub(super) fn claimed_by(bundle: &Bundle) -> Option<String> {
    let certificate = bundle.signing_certificate()?;
    Some(Holder::of(&parse_certificate_info(certificate).ok()?).by())
}

/// The holder whom a rule wants.
pub(super) struct Wanted {
    keyless: Keyless,
    /// The same in words.
    words: String,
}

impl Wanted {
    /// Takes a rule's words.
    pub(super) fn new(keyless: &Keyless) -> Self {
        let name = match &keyless.identity {
            Identity::Name(name) => name.clone(),
            Identity::Claims { repository, workflow, git_ref } => {
                let mut words = repository.clone();
                for (word, value) in [(" workflow ", workflow), (" ref ", git_ref)] {
                    if let Some(value) = value {
                        words.push_str(word);
                        words.push_str(value);
                    }
                }
                words
            }
        };
        let words = format!("{} of {}", shown(&name), shown(&keyless.issuer));
        Self { keyless: keyless.clone(), words }
    }

    /// Names the holder for people.
    pub(super) fn words(&self) -> &str {
        &self.words
    }

    /// The holder for comparison, by what the rule goes by: a rule of claims means whoever works
    /// for a repository and ref, by any of its workflows.
    pub(super) fn signer(&self, holder: &Holder) -> String {
        let who = match &self.keyless.identity {
            Identity::Name(_) => vec![Some(&holder.name)],
            Identity::Claims { .. } => vec![holder.repository.as_ref(), holder.git_ref.as_ref()],
        };
        format!("{:?} {who:?}", holder.issuer)
    }

    /// Accepts a holder, or says why not.
    pub(super) fn accepts(&self, holder: &Holder) -> Result<(), String> {
        let by = holder.by();
        let Some(issuer) = &holder.issuer else {
            return Err(format!("signed by {by}, whose certificate names no issuer"));
        };
        if !wildcard::fits(&self.keyless.issuer, issuer) {
            let issuer = shown(issuer);
            return Err(format!("signed by {by}, whose issuer is {issuer}; the rule wants {}", self.words));
        }
        let other = match &self.keyless.identity {
            Identity::Name(_) if holder.name.is_empty() => Some(String::new()),
            Identity::Name(name) => (!wildcard::fits(name, &holder.name)).then(String::new),
            Identity::Claims { repository, workflow, git_ref } => {
                let repository = if repository.contains("://") {
                    repository.clone()
                } else {
                    format!("https://github.com/{repository}")
                };
                let file = Workflow::parse(&holder.name).map(|workflow| workflow.file);
                let file_wanted =
                    workflow.as_deref().map(|text| text.strip_prefix(WORKFLOWS).unwrap_or(text));
                another("repository", Some(&repository), holder.repository.as_deref())
                    .or_else(|| another("workflow", file_wanted, file))
                    .or_else(|| another("ref", git_ref.as_deref(), holder.git_ref.as_deref()))
            }
        };
        match other {
            None => Ok(()),
            Some(other) => Err(format!("signed by {by}{other}; the rule wants {}", self.words)),
        }
    }
}

/// Says which `claim` is another than the rule's `wanted`, which is not always asked for.
fn another(claim: &str, wanted: Option<&str>, value: Option<&str>) -> Option<String> {
    match (wanted?, value) {
        (wanted, Some(value)) if wildcard::fits(wanted, value) => None,
        (_, Some(value)) => Some(format!(" for {claim} {}", shown(value))),
        (_, None) => Some(format!(" for no {claim}")),
    }
}

/// A workflow of GitHub, as a subject alternative name has it.
struct Workflow<'a> {
    /// `github.com/acme/app`.
    repository: &'a str,
    /// `release.yml`.
    file: &'a str,
    /// `refs/tags/v1`, or a commit.
    git_ref: &'a str,
}

impl<'a> Workflow<'a> {
    /// Takes `https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1` apart.
    fn parse(name: &'a str) -> Option<Self> {
        let rest = name.strip_prefix("https://")?;
        let (repository, rest) = rest.split_once(&format!("/{WORKFLOWS}"))?;
        // A host, an owner, a name.
        if repository.split('/').filter(|part| !part.is_empty()).count() != 3
            || repository.matches('/').count() != 2
        {
            return None;
        }
        // A file of this directory has no slash in its name, so the first `@refs/` is not in it;
        // both may have an `@`.
        let (file, git_ref) = match rest.find("@refs/") {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => rest.rsplit_once('@')?,
        };
        (!file.is_empty() && !file.contains('/')).then_some(Self { repository, file, git_ref })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://token.actions.githubusercontent.com";
    const RELEASE: &str = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1";

    fn holder(name: &str) -> Holder {
        Holder {
            name: name.to_owned(),
            issuer: Some(ISSUER.to_owned()),
            repository: Some("https://github.com/acme/app".to_owned()),
            git_ref: Some("refs/tags/v1".to_owned()),
        }
    }

    fn claims(repository: &str, workflow: Option<&str>, git_ref: Option<&str>) -> Wanted {
        Wanted::new(&Keyless {
            issuer: ISSUER.to_owned(),
            identity: Identity::Claims {
                repository: repository.to_owned(),
                workflow: workflow.map(str::to_owned),
                git_ref: git_ref.map(str::to_owned),
            },
        })
    }

    #[test]
    fn workflows_are_named_shortly_and_all_else_wholly() {
        for (name, by) in [
            (RELEASE, "github.com/acme/app release.yml@refs/tags/v1"),
            ("ops@acme.example", "ops@acme.example"),
            (
                "https://gitlab.com/a/b//.gitlab-ci.yml@refs/heads/x",
                "https://gitlab.com/a/b//.gitlab-ci.yml@refs/heads/x",
            ),
            ("a\x1b[2J", r"a\u{1b}[2J"),
            ("", "a certificate without a name"),
        ] {
            assert_eq!(holder(name).by(), by);
        }
    }

    #[test]
    fn the_file_of_a_workflow_ends_where_its_ref_begins() {
        for (name, file) in [
            (RELEASE, Some("release.yml")),
            ("https://github.com/a/b/.github/workflows/x.yml@0123456789abcdef", Some("x.yml")),
            ("https://github.com/a/b/.github/workflows/x.yml@refs/heads/a@refs/b", Some("x.yml")),
            (
                "https://github.com/a/b/.github/workflows/release.yml@evil.yml@refs/heads/a",
                Some("release.yml@evil.yml"),
            ),
            ("https://github.com/a/b/.github/workflows/x/y.yml@refs/heads/a", None),
            ("https://github.com/a/b/c/.github/workflows/x.yml@refs/heads/a", None),
            ("https://github.com/a//.github/workflows/x.yml@refs/heads/a", None),
            ("https://github.com/a/b/.github/workflows/@refs/heads/a", None),
            ("https://github.com/a/b/.github/workflows/x.yml", None),
            ("http://github.com/a/b/.github/workflows/x.yml@refs/heads/a", None),
        ] {
            assert_eq!(Workflow::parse(name).map(|workflow| workflow.file), file, "{name}");
        }
    }

    #[test]
    fn one_signer_is_one_identity_or_one_repository_and_ref() {
        let by_claims = claims("*", None, None);
        let by_name =
            Wanted::new(&Keyless { issuer: "*".to_owned(), identity: Identity::Name("*".to_owned()) });
        let release = holder(RELEASE);
        let reused = holder("https://github.com/shared/ci/.github/workflows/build.yml@refs/heads/main");
        let other =
            Holder { repository: Some("https://github.com/acme/other".to_owned()), ..holder(RELEASE) };
        let elsewhere = Holder { issuer: Some("https://gitlab.com".to_owned()), ..holder(RELEASE) };
        assert_eq!(by_claims.signer(&release), by_claims.signer(&reused));
        assert_ne!(by_claims.signer(&release), by_claims.signer(&other));
        assert_ne!(by_claims.signer(&release), by_claims.signer(&elsewhere));
        assert_ne!(by_name.signer(&release), by_name.signer(&reused));
        assert_eq!(by_name.signer(&release), by_name.signer(&other));
        assert_ne!(by_name.signer(&release), by_name.signer(&elsewhere));
    }

    #[test]
    fn a_rule_accepts_its_own_holder_alone() {
        let name = |name: &str, issuer: &str| {
            let identity = Identity::Name(name.to_owned());
            Wanted::new(&Keyless { issuer: issuer.to_owned(), identity })
        };
        let release = holder(RELEASE);
        for (wanted, fits) in [
            (name(RELEASE, ISSUER), true),
            (name("https://github.com/acme/app/.github/workflows/release.yml@refs/tags/*", ISSUER), true),
            (name("*", "https://*"), true),
            (name("https://github.com/acme/app/*@refs/heads/*", ISSUER), false),
            (name(RELEASE, "https://accounts.example"), false),
            (claims("acme/app", None, None), true),
            (claims("acme/*", None, None), true),
            (claims("https://github.com/acme/app", None, None), true),
            (claims("acme/app", Some("release.yml"), Some("refs/tags/*")), true),
            (claims("acme/app", Some(".github/workflows/release.yml"), None), true),
            (claims("acme/ap", None, None), false),
            (claims("app", None, None), false),
            (claims("acme/app", Some("elease.yml"), None), false),
            (claims("acme/app", None, Some("refs/heads/*")), false),
        ] {
            let accepted = wanted.accepts(&release);
            assert_eq!(accepted.is_ok(), fits, "{accepted:?}: {}", wanted.words());
            if let Err(reason) = accepted {
                assert!(
                    reason.starts_with("signed by github.com/acme/app release.yml@refs/tags/v1"),
                    "{reason}"
                );
            }
        }
        let nobody = Holder { issuer: None, ..holder(RELEASE) };
        assert!(name("*", "*").accepts(&nobody).is_err());
        let bare = Holder { repository: None, git_ref: None, ..holder(RELEASE) };
        assert!(claims("*", None, None).accepts(&bare).is_err());
        // A reusable workflow of another repository: the caller's is the source.
        let reused = holder("https://github.com/shared/ci/.github/workflows/build.yml@refs/heads/main");
        assert!(claims("acme/app", Some("build.yml"), Some("refs/tags/v1")).accepts(&reused).is_ok());
        assert!(claims("shared/ci", None, None).accepts(&reused).is_err());
        let mail = holder("ops@acme.example");
        assert!(claims("acme/app", Some("*"), None).accepts(&mail).is_err());
    }
}
