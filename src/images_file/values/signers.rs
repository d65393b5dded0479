//! Texts of `[[trust]]`: names of images with `*`, and what signers are known by.

use std::path::PathBuf;

use super::{Fault, path};
use crate::error::printable;
use crate::image_ref::{self, ImageRef, SANDBOXES_REGISTRY};
use crate::images_file::Source;
use crate::images_file::quoted::quoted;

/// The longest text, in bytes: each image, or each signer, is held to it.
const MAX_TEXT: usize = 1024;
/// The issuer of GitHub's tokens.
const GITHUB: &str = "https://github.com/";
/// The directory of GitHub's workflows.
const WORKFLOWS: &str = ".github/workflows/";

/// Reads the full name of an image, without tag, in which `*` stands for anything.
pub(in crate::images_file) fn image_pattern(text: &str, default_registry: &str) -> Result<String, Fault> {
    let fault = |reason: &str, instead: Option<String>| Fault {
        message: format!("{reason}: {}", quoted(text)),
        hint: instead.map(|instead| format!("write {}", quoted(&instead))),
    };
    bounded(text)?;
    if text.bytes().all(|byte| byte == b'*') {
        return Ok(text.to_owned());
    }
    let valid = |text: &str| image_pattern(text, default_registry).is_ok();
    if let Some((scheme, rest)) = image_ref::split_scheme(text) {
        let instead = valid(rest).then(|| rest.to_owned());
        return Err(fault(&format!("starts with {scheme}, and no image's name does"), instead));
    }
    if let Some((name, _)) = text.split_once('@') {
        let name = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(name, _)| name);
        let instead = full(name, default_registry);
        return Err(fault("has a digest, and a rule is for all versions of an image", instead));
    }
    let Some((registry, repository)) = text.split_once('/') else {
        if is_host(text) {
            let bare = Some(text.trim_end_matches('*')).filter(|bare| !bare.ends_with(['.', ':']));
            let instead = format!("{}/*", bare.unwrap_or(text));
            return Err(fault("names a registry and no image of it", Some(instead)));
        }
        let name = text.split(':').next().unwrap_or(text);
        return Err(fault("is not a full name, registry and all", full(name, default_registry)));
    };
    if let Some((name, _)) = repository.rsplit_once(':') {
        let instead = full(&format!("{registry}/{name}"), default_registry);
        return Err(fault("has a tag, and a rule is for all versions of an image", instead));
    }
    if !registry.contains('*') && image_ref::split_registry(text).0.is_none() {
        return Err(fault("is not a full name, registry and all", full(text, default_registry)));
    }
    // A digit may stand in hosts and ports, and a letter in repositories.
    let registry = image_ref::registry_name(&registry.replace('*', "1"))
        .map(|name| if registry.contains('*') { registry.to_ascii_lowercase() } else { name })
        .map_err(|error| Fault::new(format!("has no valid registry: {}", error.reason())))?;
    let example = ImageRef::in_registry("r.example", &repository.replace('*', "x")).map_err(|error| {
        let lower = format!("{registry}/{}", repository.to_lowercase());
        let instead = Some(lower).filter(|lower| lower != text && valid(lower));
        fault(&format!("names no image, {}", error.reason()), instead)
    })?;
    debug_assert!(example.digest().is_none());
    if !repository.contains(['/', '*']) {
        let whole = ImageRef::in_registry(&registry, repository).ok();
        let whole = whole.map(|image| image.repository_alone().to_string());
        if whole.as_ref().is_some_and(|whole| !whole.ends_with(&format!("{registry}/{repository}"))) {
            return Err(fault("is not a full name", whole));
        }
    }
    Ok(format!("{registry}/{repository}"))
}

/// Makes a full name of a name that may lack its registry, or `library/`; `None` if that is none.
fn full(name: &str, default_registry: &str) -> Option<String> {
    let with_registry = if image_ref::split_registry(name).0.is_some() {
        name.to_owned()
    } else {
        let library = !name.contains(['/', '*'])
            && matches!(default_registry, image_ref::DEFAULT_REGISTRY | SANDBOXES_REGISTRY);
        format!("{default_registry}/{}{name}", if library { "library/" } else { "" })
    };
    image_pattern(&with_registry, default_registry).ok()
}

/// True if `text` looks like a host rather than like an image of the default registry.
fn is_host(text: &str) -> bool {
    // A digit may stand in hosts and ports.
    let text = text.replace('*', "1");
    let (host, port) = text.rsplit_once(':').map_or((&*text, ""), |(host, port)| (host, port));
    let looks_like_one = host.contains('.') || host == "localhost";
    looks_like_one
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && image_ref::check_registry(&text).is_ok()
}

/// Reads the path of a file with public keys or certificates.
pub(in crate::images_file) fn key_file(text: &str, source: &Source<'_>) -> Result<PathBuf, Fault> {
    if let Some((scheme, _)) = text.split_once("://") {
        let message = format!("starts with {}, and is no path", quoted(&format!("{scheme}://")));
        let hint = "save the public key into a file, as `cosign public-key --key …` prints it";
        return Err(Fault::with_hint(message, hint));
    }
    path(text, source)
}

/// Reads the issuer of identities.
pub(in crate::images_file) fn issuer(text: &str) -> Result<String, Fault> {
    bounded(text)?;
    if !text.starts_with("https://") && !text.starts_with("http://") && !text.starts_with('*') {
        let hint = "an issuer is a URL, as in \"https://token.actions.githubusercontent.com\"";
        return Err(Fault::with_hint("is not an issuer", hint));
    }
    Ok(text.to_owned())
}

/// Reads an identity: the subject alternative name of a certificate.
pub(in crate::images_file) fn identity(text: &str) -> Result<String, Fault> {
    bounded(text)?;
    Ok(text.to_owned())
}

/// Reads the source repository, `acme/app`.
pub(in crate::images_file) fn repository(text: &str) -> Result<String, Fault> {
    bounded(text)?;
    let hint = "owner and name, as in \"acme/app\" or \"acme/*\"";
    if let Some(name) = text.strip_prefix(GITHUB) {
        let name = name.trim_end_matches('/').trim_end_matches(".git");
        return Err(Fault::with_hint("is a URL", format!("write {}", quoted(name))));
    }
    let plain = |char: char| char.is_ascii_alphanumeric() || "*-_./".contains(char);
    let slashes = text.matches('/').count();
    let is_name = (slashes == 1 || slashes == 0 && text.contains('*')) && text.chars().all(plain);
    if !is_name || text.starts_with('/') || text.ends_with('/') {
        return Err(Fault::with_hint("is not a repository", hint));
    }
    Ok(text.to_owned())
}

/// Reads the file of a workflow, `release.yml`.
pub(in crate::images_file) fn workflow(text: &str) -> Result<String, Fault> {
    bounded(text)?;
    let (file, git_ref) = text.split_once('@').map_or((text, None), |(file, git_ref)| (file, Some(git_ref)));
    let bare = file.rsplit_once(WORKFLOWS).map_or(file, |(_, bare)| bare);
    if bare.contains('/') {
        let hint = "the name of the file alone, as in \"release.yml\"";
        return Err(Fault::with_hint("is not the file of a workflow", hint));
    }
    if let Some(git_ref) = git_ref {
        let hint = format!("write workflow = {bare:?}, ref = {git_ref:?}");
        return Err(Fault::with_hint("has a ref", hint));
    }
    if bare != file {
        return Err(Fault::with_hint("has a directory", format!("write {}", quoted(bare))));
    }
    Ok(text.to_owned())
}

/// Reads a git ref, `refs/tags/*`.
pub(in crate::images_file) fn git_ref(text: &str) -> Result<String, Fault> {
    bounded(text)?;
    if text.starts_with("refs/") || text.starts_with('*') {
        return Ok(text.to_owned());
    }
    let hint = format!(
        "write {} or {}",
        quoted(&format!("refs/heads/{text}")),
        quoted(&format!("refs/tags/{text}"))
    );
    Err(Fault::with_hint("is not a whole ref", hint))
}

/// Reads the attributes of a certificate's subject, `O=Acme,CN=*`.
pub(in crate::images_file) fn subject(text: &str) -> Result<String, Fault> {
    bounded(text)?;
    let is_attribute = |part: &str| {
        let part = part.trim();
        part == "*"
            || part.split_once('=').is_some_and(|(name, value)| {
                let named = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
                !name.is_empty() && name.bytes().all(named) && !value.is_empty()
            })
    };
    if !attributes(text).iter().all(|part| is_attribute(part)) {
        let hint = "list attributes as in \"C=DE,O=Acme,CN=*\"; a comma inside a value is written \\,";
        return Err(Fault::with_hint("does not list the attributes of a subject", hint));
    }
    Ok(text.to_owned())
}

/// Splits at commas that are not escaped.
fn attributes(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, char) in text.char_indices() {
        if char == ',' && !escaped {
            parts.push(&text[start..at]);
            start = at + 1;
        }
        escaped = char == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

/// Doubts an issuer that anybody may be.
pub(in crate::images_file) fn doubt_about_issuer(text: &str) -> Option<Fault> {
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    host.starts_with('*').then(|| {
        Fault::new("takes the word of strangers: who runs an issuer says what he likes of identities")
    })
}

/// Doubts an identity that strangers have too, or that nobody has.
pub(in crate::images_file) fn doubt_about_identity(text: &str) -> Option<Fault> {
    if text.bytes().all(|byte| byte == b'*') {
        let hint = "name yours: \"https://github.com/acme/app/.github/workflows/release.yml@refs/tags/*\"";
        return Some(Fault::with_hint("lets anybody sign", hint));
    }
    let path = text.strip_prefix(GITHUB)?;
    if path.split('/').next().is_some_and(|owner| owner.contains('*')) {
        return Some(owned_by_strangers(path, GITHUB));
    }
    (!text.contains(['@', '*'])).then(|| {
        let message = "is nobody's: GitHub's identities name the workflow and end in `@` and the ref";
        let workflow = if text.contains(WORKFLOWS) { "" } else { "/.github/workflows/*" };
        let hint = format!("write \"{}{workflow}@refs/tags/*\", or use `repository`", printable(text));
        Fault::with_hint(message, hint)
    })
}

/// Doubts a source repository that strangers may have.
pub(in crate::images_file) fn doubt_about_repository(text: &str) -> Option<Fault> {
    let owner = text.split('/').next().unwrap_or(text);
    owner.contains('*').then(|| owned_by_strangers(text, ""))
}

fn owned_by_strangers(path: &str, before: &str) -> Fault {
    let owner = path.split(['*', '/']).next().unwrap_or_default();
    let message = "fits repositories of strangers too: `*` also stands for the rest of an owner's name";
    let hint = format!("write {}", quoted(&format!("{before}{owner}/*")));
    Fault { message: message.to_owned(), hint: (!owner.is_empty()).then_some(hint) }
}

fn bounded(text: &str) -> Result<(), Fault> {
    if text.is_empty() {
        return Err(Fault::new("is empty"));
    }
    if text.len() > MAX_TEXT {
        return Err(Fault::new(format!("is longer than {MAX_TEXT} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::new("has a control character"));
    }
    Ok(())
}
