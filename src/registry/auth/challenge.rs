//! Challenges: how a registry says, in `WWW-Authenticate`, who it wants to be asked by ([RFC 9110
//! section 11.6.1]).
//!
//! [RFC 9110 section 11.6.1]: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1

use ureq::http::{HeaderMap, header};

/// One challenge of a `WWW-Authenticate` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// Lower case.
    pub(crate) scheme: String,
    /// Names in lower case, values without quotes and escapes.
    pub(crate) parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads all challenges of one header value (RFC 9110 section 11.6.1); what makes no sense is
/// skipped.
pub(crate) fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return challenges;
        }
        let end = rest.find(['=', ',', ' ', '\t', '"']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            // A stray quote or equals sign.
            let mut characters = rest.chars();
            characters.next();
            rest = characters.as_str();
            continue;
        }
        let spaced = after.trim_start_matches([' ', '\t']);
        let Some(value) = spaced.strip_prefix('=') else {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = after;
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            unquote(quoted)
        } else {
            let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
            (value[..end].to_owned(), &value[end..])
        };
        rest = after;
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.push((word.to_ascii_lowercase(), value));
        }
    }
}

/// The content of a quoted string whose opening quote is gone, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => {
                value.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &text[index + 1..]),
            _ => value.push(character),
        }
    }
    (value, "")
}

/// All challenges of an answer.
pub(super) fn challenges_in(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .flat_map(|value| parse_challenges(&String::from_utf8_lossy(value.as_bytes())))
        .collect()
}

pub(super) fn bearer_of(challenges: &[Challenge]) -> Option<&Challenge> {
    challenges.iter().find(|challenge| challenge.scheme == "bearer" && challenge.get("realm").is_some())
}

/// Tells whether `headers` say how to authenticate, in a way that can be followed.
pub(crate) fn is_challenge(headers: &HeaderMap) -> bool {
    let challenges = challenges_in(headers);
    challenges.iter().any(|challenge| challenge.scheme == "basic") || bearer_of(&challenges).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schemes(text: &str) -> Vec<String> {
        parse_challenges(text).into_iter().map(|challenge| challenge.scheme).collect()
    }

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let [challenge] = &parse_challenges(hub)[..] else { panic!("one challenge") };
        assert_eq!(challenge.get("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(challenge.get("scope"), Some("repository:a/b:pull,push"));

        let odd = r#"  bAsIc Realm = "a \"quoted\", one" ,charset=UTF-8, BEARER realm=https://x/t,scope="s""#;
        let parsed = parse_challenges(odd);
        assert_eq!(parsed[0].scheme, "basic");
        assert_eq!(parsed[0].get("realm"), Some(r#"a "quoted", one"#));
        assert_eq!(parsed[0].get("charset"), Some("UTF-8"));
        assert_eq!(parsed[1].get("realm"), Some("https://x/t"));

        assert_eq!(schemes("Negotiate, Basic realm=x"), ["negotiate", "basic"]);
        assert_eq!(schemes(""), Vec::<String>::new());
        assert_eq!(schemes(r#"Bearer realm="unterminated"#), ["bearer"]);
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(text in ".{0,200}") {
            parse_challenges(&text);
        }

        #[test]
        fn header_like_text_is_read_without_panic(text in r#"([Bb]earer|basic|realm|=|"|\\|,| |é|x){0,40}"#) {
            parse_challenges(&text);
        }
    }
}
