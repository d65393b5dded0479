//! The signer whom a `[[trust]]` table asks for: a key's owner, an identity, a certificate's
//! holder, or nobody.

use std::path::PathBuf;

use crate::diagnostic::Mistake;
use crate::images_file::keys;
use crate::images_file::reader::{Node, Reader, Table};
use crate::images_file::values::signers;
use crate::state::{Identity, Keyless, Signer};

/// The keys that name a signer.
const SIGNERS: &[&str] = &["keyless", "key", "keys", "notation", "accept"];
/// The keys that name a claim of GitHub.
const CLAIMS: &[&str] = &["repository", "workflow", "ref"];

const LOG_WORDS: &[(&str, bool)] = &[("required", true), ("optional", false)];
const ACCEPT_WORDS: &[(&str, ())] = &[("unsigned", ())];

/// Reads the signer of the table at `node`.
pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>, table: Table<'_>) -> Option<Signer> {
    let mut given: Vec<Node<'_>> = SIGNERS.iter().filter_map(|key| table.get(key)).collect();
    given.sort_by_key(|node| node.key_span);
    combinations(reader, node, table, &given);
    let keys = keys(reader, table);
    let keyless = table.get("keyless").and_then(|node| keyless(reader, node));
    let notation = table.get("notation").and_then(|node| notation(reader, node));
    let nobody = reader.word(table, "accept", ACCEPT_WORDS).map(|()| Signer::Nobody);
    keys.or(keyless).or(notation).or(nobody)
}

/// Notes keys that exclude each other, and those that mean nothing for the signer.
fn combinations(reader: &mut Reader<'_>, node: Node<'_>, table: Table<'_>, given: &[Node<'_>]) {
    match given {
        [] => {
            let hint = "say who signs: `key`, `keys`, `keyless` or `notation`; \
                        or accept = \"unsigned\" where nobody does";
            reader.error(Mistake::new(node.span, "a [[trust]] table without a signer").hint(hint));
        }
        [first, others @ ..] => {
            for other in others {
                let message = format!("{} and {} exclude each other", first.called(), other.called());
                let hint = if [*first, *other]
                    .iter()
                    .all(|node| node.called().starts_with("`key") && node.called() != "`keyless`")
                {
                    "list all of them in `keys`: the signature of any one will do"
                } else {
                    "keep one of them: a table asks for one kind of signer"
                };
                let mistake = Mistake::new(other.key_span, message).hint(hint);
                reader.error(mistake.related(first.key_span, "the other one"));
            }
        }
    }
    let other = |keys: &[&str]| keys.iter().find_map(|key| table.get(key));
    if let (Some(log), None) = (table.get("log"), other(&["key", "keys"])) {
        let hint =
            other(&["keyless"]).map(|_| "keyless signatures always have to be in the log: leave it out");
        let mistake = Mistake::new(log.key_span, "`log` needs `key` or `keys`");
        reader.error(mistake.maybe_hint(hint.map(str::to_owned)));
    }
    // `provenance = false` says nothing that is not so.
    let provenance = table.get("provenance").filter(|node| node.value.as_bool() != Some(false));
    if let (Some(provenance), Some(other)) = (provenance, other(&["accept", "notation"])) {
        let message = format!("`provenance` has no meaning beside {}", other.called());
        let hint = "attestations are signed by `key`, `keys` or `keyless`";
        let mistake = Mistake::new(provenance.key_span, message).hint(hint);
        reader.error(mistake.related(other.key_span, "the signer"));
    }
}

/// Reads `key` or `keys`, if one of them is there, and `log`.
fn keys(reader: &mut Reader<'_>, table: Table<'_>) -> Option<Signer> {
    let log_required = reader.word(table, "log", LOG_WORDS).unwrap_or(false);
    let files = match (table.get("key"), table.get("keys")) {
        (Some(node), _) => key(reader, node).into_iter().collect(),
        (None, Some(node)) => {
            if node.value.as_array().is_some_and(|keys| keys.is_empty()) {
                let hint = "name the files of the public keys, any of which may have signed";
                reader.error(Mistake::new(node.span, "`keys` lists no key").hint(hint));
            }
            reader.array(node).filter_map(|node| key(reader, node)).collect()
        }
        (None, None) => return None,
    };
    Some(Signer::Keys { files, log_required })
}

/// Reads the file of a public key.
fn key(reader: &mut Reader<'_>, node: Node<'_>) -> Option<PathBuf> {
    let text = reader.string(node)?;
    let file = signers::key_file(text, reader.source);
    reader.checked(node, file)
}

/// Reads the identity in a certificate of Sigstore's.
fn keyless(reader: &mut Reader<'_>, node: Node<'_>) -> Option<Signer> {
    let table = reader.table(node, &keys::KEYLESS)?;
    if table.get("issuer").is_none() {
        let hint = "name who vouches for the identity: \
                    issuer = \"https://token.actions.githubusercontent.com\" for GitHub Actions";
        reader.error(Mistake::new(node.span, "`keyless` without `issuer`").hint(hint));
    }
    let issuer = reader.text(table, "issuer", signers::issuer);
    let name = reader.text(table, "identity", signers::identity);
    let repository = reader.text(table, "repository", signers::repository);
    let workflow = reader.text(table, "workflow", signers::workflow);
    let git_ref = reader.text(table, "ref", signers::git_ref);
    let claim = CLAIMS.iter().find_map(|key| table.get(key));
    match (table.get("identity"), claim) {
        (None, None) => {
            let hint = "anybody can have a certificate: say whose, by `identity`, \
                        or by `repository` for GitHub Actions";
            let message = "`keyless` without `identity` or `repository`";
            reader.error(Mistake::new(node.span, message).hint(hint));
        }
        (Some(identity), Some(claim)) => {
            let message = format!("`identity` and {} exclude each other", claim.called());
            let hint = "keep `identity`, or else `repository`, `workflow` and `ref`";
            let mistake = Mistake::new(claim.key_span, message).hint(hint);
            reader.error(mistake.related(identity.key_span, "the identity"));
        }
        (None, Some(claim)) if table.get("repository").is_none() => {
            let message = format!("{} needs `repository`", claim.called());
            let hint = "name the source repository, as in repository = \"acme/app\"";
            reader.error(Mistake::new(claim.key_span, message).hint(hint));
        }
        _ => {}
    }
    for (key, doubt) in [
        ("issuer", issuer.as_deref().and_then(signers::doubt_about_issuer)),
        ("identity", name.as_deref().and_then(signers::doubt_about_identity)),
        ("repository", repository.as_deref().and_then(signers::doubt_about_repository)),
    ] {
        if let (Some(doubt), Some(node)) = (doubt, table.get(key)) {
            let message = format!("{} {}", node.called(), doubt.message);
            reader.warn(Mistake::new(node.span, message).maybe_hint(doubt.hint));
        }
    }
    let identity = match (name, repository) {
        (Some(name), _) => Identity::Name(name),
        (None, repository) => Identity::Claims { repository: repository?, workflow, git_ref },
    };
    Some(Signer::Keyless(Keyless { issuer: issuer?, identity }))
}

/// Reads whose certificates Notation's signatures have to have.
fn notation(reader: &mut Reader<'_>, node: Node<'_>) -> Option<Signer> {
    let table = reader.table(node, &keys::NOTATION)?;
    for (key, hint) in [
        ("roots", "name the PEM file of your CA's certificates: roots = \"ca.pem\""),
        ("subject", "say whose certificates count: subject = \"O=Acme,CN=*\""),
    ] {
        if table.get(key).is_none() {
            let message = format!("`notation` without `{key}`");
            reader.error(Mistake::new(node.span, message).hint(hint));
        }
    }
    let source = reader.source;
    let roots = reader.text(table, "roots", |text| signers::key_file(text, source));
    let subject = reader.text(table, "subject", signers::subject);
    Some(Signer::Notation { roots: roots?, subject: subject? })
}
