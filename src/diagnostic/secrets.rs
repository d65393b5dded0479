//! Secrets in a TOML text, none of which is ever shown: values under keys that look like passwords,
//! values of extra request headers, keys themselves, and the user info, query and fragment of URLs
//! and image references.
//!
//! The tree gives exact ranges. Where the TOML itself is broken, the tree cannot be trusted, and a
//! plain scan of the text hides rather too much than too little.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::span::Span;
use super::tree::Tree;
use crate::error::{is_login, is_variable, names_digest, secret_parts, starts_query};

/// The beginning, and the end, of a key or a certificate as text.
const PEM_BEGINS: &str = "-----BEGIN";
const PEM_ENDS: &str = "-----END";

/// Parts of key names that suggest a secret.
const SECRET_WORDS: &[&str] = &[
    "pass",
    "pwd",
    "secret",
    "token",
    "auth",
    "credential",
    "api-key",
    "apikey",
    "api_key",
    "bearer",
    "cookie",
];

/// The keys under which a kind of file may hold secrets.
#[derive(Clone, Copy)]
pub(crate) struct SecretKeys {
    /// True for keys of that kind of file: none of their values is a secret, whatever the name.
    pub(crate) is_known: fn(&str) -> bool,
    /// The table of request headers, of which every value is a secret.
    pub(crate) headers: &'static str,
    /// Tables at the top whose keys are names that the user chose: they say nothing.
    pub(crate) named: &'static [&'static str],
    /// Keys whose values, and tables at the top whose keys, are image references or URLs.
    pub(crate) references: &'static [&'static str],
    /// Keys whose values name environment variables. One that does not look like such a name may be
    /// the secret itself.
    pub(crate) variables: &'static [&'static str],
}

/// The way to read the keys of a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judge {
    /// Each key by its name.
    Keys,
    /// The keys are names given by the user: they say nothing.
    Names,
    /// Everything below is secret.
    Secret,
    /// Everything below is secret, but for names of environment variables.
    Variable,
}

impl SecretKeys {
    /// True if a value under `key` is probably a secret.
    pub(crate) fn looks_secret(&self, key: &str) -> bool {
        let key = key.to_ascii_lowercase();
        // A mistyped word hides its value too: `pasword`.
        let near = || {
            SECRET_WORDS
                .iter()
                .chain(&["password"])
                .any(|word| word.len() > 4 && strsim::osa_distance(&key, word) <= 2)
        };
        !(self.is_known)(&key) && (SECRET_WORDS.iter().any(|word| key.contains(word)) || near())
    }

    /// True if `key` is the table of request headers, or what is left of its name after a mistake:
    /// `header`, `haeders`, or `hea-Team` where something between was lost.
    fn may_be_headers(&self, key: &str) -> bool {
        let key = key.to_ascii_lowercase();
        let near = || key.starts_with(&self.headers[..3]) || strsim::osa_distance(&key, self.headers) <= 2;
        key == self.headers || !(self.is_known)(&key) && near()
    }

    /// True if `text` assigns something to a key that looks like a secret's.
    pub(crate) fn assigned_in(&self, text: &str) -> bool {
        text.match_indices('=').any(|(at, _)| {
            let key = key_before(text, at);
            self.looks_secret(key) || self.may_be_headers(key)
        })
    }

    /// Finds the ranges of `text` to hide; they are unsorted, and may overlap.
    pub(crate) fn hidden(&self, text: &str, tree: &Tree<'_>) -> Vec<Span> {
        let mut hidden = Vec::new();
        self.in_tree(text, tree.root(), &mut hidden);
        if !tree.errors().is_empty() {
            self.in_broken_text(text, &mut hidden);
        }
        hidden
    }

    fn in_tree(&self, text: &str, root: &DeTable<'_>, hidden: &mut Vec<Span>) {
        let below = |judge: Judge, key: &str, top: bool| match judge {
            Judge::Secret | Judge::Variable => judge,
            _ if top && self.named.contains(&key) => Judge::Names,
            Judge::Keys if self.variables.contains(&key) => Judge::Variable,
            Judge::Keys if self.may_be_headers(key) || self.looks_secret(key) => Judge::Secret,
            Judge::Keys | Judge::Names => Judge::Keys,
        };
        // A work list, not recursion: hostile nesting must not exhaust the stack.
        let is_reference = |key: &str| self.references.contains(&key);
        let mut work: Vec<(&Spanned<DeValue<'_>>, Judge, bool)> = Vec::new();
        for (key, value) in root {
            in_string(text, key.span().into(), (key.get_ref(), false), hidden);
            work.push((value, below(Judge::Keys, key.get_ref(), true), is_reference(key.get_ref())));
        }
        while let Some((value, judge, certain)) = work.pop() {
            match value.get_ref() {
                DeValue::Table(table) => {
                    let certain = certain && judge == Judge::Names;
                    for (key, value) in table {
                        in_string(text, key.span().into(), (key.get_ref(), certain), hidden);
                        work.push((value, below(judge, key.get_ref(), false), is_reference(key.get_ref())));
                    }
                }
                DeValue::Array(array) => work.extend(array.iter().map(|value| (value, judge, certain))),
                scalar => {
                    let span = Span::from(value.span());
                    let is_name = || scalar.as_str().is_some_and(|name| name.is_empty() || is_variable(name));
                    if judge == Judge::Secret || judge == Judge::Variable && !is_name() {
                        hidden.push(inside_quotes(text, span));
                    } else if let Some(decoded) = scalar.as_str() {
                        in_string(text, span, (decoded, certain), hidden);
                    }
                }
            }
        }
    }

    fn in_broken_text(&self, text: &str, hidden: &mut Vec<Span>) {
        let mut in_headers = false;
        let mut in_pem = false;
        // The end of a secret value that goes on beyond its line.
        let mut open: Option<&str> = None;
        let mut offset = 0;
        for line in text.split_inclusive('\n') {
            let trimmed = line.trim_end();
            let end = offset + trimmed.len();
            in_broken_line(trimmed, offset, hidden);
            if trimmed.trim_start().starts_with('[') {
                in_headers = trimmed.split(|char| !in_key(char)).any(|word| self.may_be_headers(word));
            }
            if open.is_some() {
                hidden.push(Span { start: offset, end });
            }
            if let Some(begin) = trimmed.find(PEM_BEGINS) {
                in_pem = true;
                hidden.push(Span { start: offset + begin, end });
            } else if in_pem {
                hidden.push(Span { start: offset, end });
            }
            in_pem &= !trimmed.contains(PEM_ENDS);
            if let Some(value) = self.secret_value(trimmed, in_headers) {
                open = goes_on(&trimmed[value..]);
                hidden.push(Span { start: offset + skip(trimmed, value, &['"', '\'']), end });
            } else if open.is_some_and(|closing| trimmed.contains(closing)) {
                open = None;
            }
            offset += line.len();
        }
    }

    /// Finds where the first value of the line starts that looks like a secret.
    fn secret_value(&self, line: &str, in_headers: bool) -> Option<usize> {
        // `:` and a blank are not TOML, but they are what people write.
        let indent = line.len() - line.trim_start().len();
        let first_word = indent + line[indent..].find([' ', '\t']).unwrap_or(0);
        let value_after = |at| skip(line, at, &['=', ':', ' ', '\t']);
        let is_name = |at| {
            let value = line[value_after(at)..].trim_start_matches(['"', '\'']);
            is_variable(value.split(['"', '\'']).next().unwrap_or_default().trim_end())
        };
        line.char_indices()
            .filter(|(at, char)| matches!(char, '=' | ':') || *at == first_word)
            .find(|(at, _)| {
                let key = key_before(line, *at);
                in_headers
                    || self.may_be_headers(key)
                    || key.contains('\\')
                    || self.looks_secret(key)
                    || self.variables.contains(&key) && !is_name(*at)
            })
            .map(|(at, _)| value_after(at))
    }
}

/// True if `text` holds a key or a certificate itself, where the path of its file belongs.
pub(crate) fn holds_pem(text: &str) -> bool {
    text.contains(PEM_BEGINS)
}

/// Hides what may be secret in the string that is `decoded` and written in `span`: user info, query
/// and fragment of what may be a URL or an image reference, or `is_reference` for certain, and all
/// of a key.
fn in_string(text: &str, span: Span, (decoded, is_reference): (&str, bool), hidden: &mut Vec<Span>) {
    let inside = inside_quotes(text, span);
    if holds_pem(decoded) {
        hidden.push(inside);
        return;
    }
    let parts = secret_parts(decoded, is_reference);
    match text.get(inside.start..inside.end) {
        _ if parts.is_empty() => {}
        Some(raw) if raw == decoded => hidden.extend(
            parts
                .into_iter()
                .map(|part| Span { start: inside.start + part.start, end: inside.start + part.end }),
        ),
        // Written with escapes: what is where cannot be told cheaply.
        _ => hidden.push(inside),
    }
}

/// Hides what may be user info or query in a line at `offset` that nobody can take apart.
fn in_broken_line(line: &str, offset: usize, hidden: &mut Vec<Span>) {
    let mut hide = |part: Range<usize>| {
        hidden.push(Span { start: offset + part.start, end: offset + part.end });
    };
    if line.contains("://") {
        secret_parts(line, false).into_iter().for_each(&mut hide);
    }
    let parts = |char: char| char.is_whitespace() || "\"'`,=[]{}()".contains(char);
    let value = line.find(['"', '\'', '=']).map_or(0, |at| at + 1);
    let value = skip(line, value, &[' ', '\t', '[', '{', '"', '\'']);
    for (at, _) in line.match_indices('@') {
        let before = line.get(value..at).filter(|before| !before.is_empty() && !before.ends_with(parts));
        let after = line[at + 1..].split(parts).next().unwrap_or_default();
        if before.is_some_and(|before| is_login(before, after) && !names_digest(before, after)) {
            hide(value..at);
        }
    }
    for (at, _) in line.match_indices(['?', '#']) {
        let before = line[..at].rsplit(parts).next().unwrap_or_default();
        if starts_query(before, &line[at + 1..]) {
            hide(at + 1..line.len());
        }
    }
}

/// Narrows a string to its content, so that its quotes stay visible.
fn inside_quotes(text: &str, span: Span) -> Span {
    let Some(raw) = text.get(span.start..span.end) else { return span };
    for quote in ["\"\"\"", "'''", "\"", "'"] {
        if raw.len() > 2 * quote.len() && raw.starts_with(quote) && raw.ends_with(quote) {
            return Span { start: span.start + quote.len(), end: span.end - quote.len() };
        }
    }
    span
}

/// Finds the key that ends at `end`, without quotes.
fn key_before(line: &str, end: usize) -> &str {
    let before = line[..end].trim_end().trim_end_matches(['"', '\'']);
    &before[before.trim_end_matches(in_key).len()..]
}

/// True if `char` may be a part of a key without quotes, or of an escape.
fn in_key(char: char) -> bool {
    char.is_alphanumeric() || matches!(char, '_' | '-' | '\\')
}

/// Steps over any of `chars`.
fn skip(line: &str, start: usize, chars: &[char]) -> usize {
    line.len() - line[start..].trim_start_matches(chars).len()
}

/// Names what closes the value, if the value starts with something that this line leaves open.
fn goes_on(value: &str) -> Option<&'static str> {
    for (opening, closing) in
        [("\"\"\"", "\"\"\""), ("'''", "'''"), ("\"", "\""), ("'", "'"), ("[", "]"), ("{", "}")]
    {
        if let Some(inner) = value.strip_prefix(opening) {
            return (!inner.contains(closing)).then_some(closing);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secrets of containerd's `hosts.toml`, whose table of headers has another name.
    const KEYS: SecretKeys = SecretKeys {
        is_known: |key| key == "skip_verify",
        headers: "header",
        named: &["host"],
        references: &["host"],
        variables: &[],
    };

    #[test]
    fn each_kind_of_file_says_where_its_secrets_are() {
        for text in [
            "[header]\nAuthorization = \"Basic hunter2\"\n",
            "[host.\"https://r.corp\".header]\nx-a = [\"1\", \"hunter2\"]\n",
            "[host.\"https://r.corp\".header]\nx-a = hunter2\n",
            "[host.\"https://me:hunter2@r.corp\"]\n",
            "[host.\"hunter2@r.corp\"]\n",
            "password = \"hunter2\"\n",
        ] {
            let hidden = KEYS.hidden(text, &Tree::parse(text));
            let at = text.find("hunter2").unwrap();
            assert!(hidden.iter().any(|span| span.start <= at && at + 7 <= span.end), "{text}{hidden:?}");
        }
        let text = "skip_verify = \"yes\"\n[host.\"https://token.corp\"]\nca = \"a.pem\"\n";
        assert_eq!(KEYS.hidden(text, &Tree::parse(text)), []);
        assert!(KEYS.assigned_in("a, secret = x") && !KEYS.assigned_in("skip_verify = x"));
    }
}
