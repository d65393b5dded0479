//! Variables as compose files and Dockerfiles write them: `$NAME`, `${NAME}`, `${NAME:-default}`,
//! `${NAME-default}`, `${NAME:+other}`, `${NAME+other}`.

/// The depth to which defaults may hold variables.
const MAX_DEPTH: usize = 10;
/// The longest result, in bytes: no reference is nearly as long.
const MAX_EXPANDED: usize = 4096;

/// Replaces the variables of `text` by what `value` says they are.
///
/// # Errors
/// The reason, in words: a variable has no value, or is written wrongly.
pub(super) fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    expand_to(text, value, MAX_DEPTH)
}

fn expand_to(text: &str, value: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<String, String> {
    if depth == 0 {
        return Err("its variables nest too deeply".to_owned());
    }
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let end = closing(after).ok_or("a `${` is not closed")?;
            out.push_str(&braced(&after[..end], value, depth)?);
            rest = &after[end + 1..];
        } else {
            let (name, after) = name(after);
            if name.is_empty() {
                return Err("a `$` is not followed by a name".to_owned());
            }
            out.push_str(&value(name).ok_or_else(|| no_value(name))?);
            rest = after;
        }
        if out.len() > MAX_EXPANDED {
            return Err("its variables make it too long".to_owned());
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Reads what stands between braces.
fn braced(inside: &str, value: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<String, String> {
    let (name, operator) = name(inside);
    let known = value(name);
    let filled = known.clone().filter(|value| !value.is_empty());
    let expand = |text: &str| expand_to(text, value, depth - 1);
    let none = || no_value(name);
    if name.is_empty() {
        return Err("a `${` is not followed by a name".to_owned());
    }
    match operator.split_at_checked(1) {
        Some(("-", default)) => known.map_or_else(|| expand(default), Ok),
        Some(("+", other)) => {
            if known.is_some() {
                expand(other)
            } else {
                Ok(String::new())
            }
        }
        None | Some(("?", _)) => known.ok_or_else(none),
        Some((":", rest)) => match rest.split_at_checked(1) {
            Some(("-", default)) => filled.map_or_else(|| expand(default), Ok),
            Some(("+", other)) => {
                if filled.is_some() {
                    expand(other)
                } else {
                    Ok(String::new())
                }
            }
            Some(("?", _)) => filled.ok_or_else(none),
            _ => Err(format!("`${{{name}:` is followed by neither -, + nor ?")),
        },
        Some(_) => Err(format!("`${{{name}` is not closed")),
    }
}

fn no_value(name: &str) -> String {
    format!("the variable {name} has no value in the file")
}

/// Splits a name off the beginning of a text.
fn name(text: &str) -> (&str, &str) {
    let is_of_name =
        |(at, c): (usize, char)| c.is_ascii_alphabetic() || c == '_' || at > 0 && c.is_ascii_digit();
    let end = text.char_indices().find(|found| !is_of_name(*found)).map_or(text.len(), |(at, _)| at);
    text.split_at(end)
}

/// Finds the brace that closes the one before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(name: &str) -> Option<String> {
        match name {
            "TAG" => Some("3.20".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_have_their_value_or_their_default() {
        for (text, expected) in [
            ("alpine:3", Ok("alpine:3")),
            ("alpine:$TAG-x", Ok("alpine:3.20-x")),
            ("alpine:${TAG}", Ok("alpine:3.20")),
            ("alpine:${NO-1}", Ok("alpine:1")),
            ("alpine:${NO:-${ALSO_NO:-2}}", Ok("alpine:2")),
            ("alpine:${EMPTY:-3}", Ok("alpine:3")),
            ("alpine${EMPTY-3}", Ok("alpine")),
            ("alpine:1${TAG:+-${TAG}}", Ok("alpine:1-3.20")),
            ("alpine:1${NO:+-x}", Ok("alpine:1")),
            ("a$$b", Ok("a$b")),
            ("$NO", Err("the variable NO has no value in the file")),
            ("${NO:?say it}", Err("the variable NO has no value in the file")),
            ("${NO", Err("a `${` is not closed")),
            ("a$", Err("a `$` is not followed by a name")),
            ("${NO!x}", Err("`${NO` is not closed")),
        ] {
            assert_eq!(expand(text, &value).as_deref().map_err(|reason| &**reason), expected, "{text}");
        }
        let deep = "${A:-".repeat(1000) + &"}".repeat(1000);
        assert!(expand(&deep, &value).is_err());
        assert!(expand(&"$TAG".repeat(10_000), &value).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_or_refused(text in "[$A{}:+?é-]{0,30}") {
            let _ = expand(&text, &value);
        }
    }
}
