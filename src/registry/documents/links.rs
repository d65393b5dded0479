//! `Link` headers ([RFC 8288]), as far as lists in pages need them: where the next page is.
//!
//! Every header line counts, and every link of it. What cannot be read is an error and not the end
//! of the list: half a list that is taken for the whole leads to the wrong choice.
//!
//! [RFC 8288]: https://www.rfc-editor.org/rfc/rfc8288#section-3

use std::collections::BTreeSet;

use crate::registry::transport::{Answer, Network, printable};

/// Finds the next page of a list of which `answer` is one, see [`next`].
pub(crate) fn next_page(network: &Network, answer: &Answer) -> Result<Option<String>, String> {
    let lines = answer.headers.get_all("link").iter();
    let lines: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    next(lines.iter().map(|line| &**line), &|line| network.heard(line))
}

/// Finds the next page by all `Link` lines of an answer; `None`: this page is the last one.
///
/// A link without a relation is taken for the next page where none says that it is: some registries
/// leave it out. `show` takes from a line what people may not see of it.
///
/// # Errors
/// A line that is no list of links, and links to different next pages.
pub(crate) fn next<'t>(
    lines: impl IntoIterator<Item = &'t str>,
    show: &dyn Fn(&str) -> String,
) -> Result<Option<String>, String> {
    let (mut named, mut unnamed) = (BTreeSet::new(), BTreeSet::new());
    for line in lines {
        let mut rest = Rest(line);
        while let Some(link) = rest.link().map_err(|reason| {
            format!("its header `Link: {}` cannot be read: {reason}", printable(&show(line), 200))
        })? {
            match link.relations {
                None => drop(unnamed.insert(link.target)),
                Some(relations) => {
                    let mut words = relations.split_ascii_whitespace();
                    if words.any(|word| word.eq_ignore_ascii_case("next")) {
                        named.insert(link.target);
                    }
                }
            }
        }
    }
    let mut targets = if named.is_empty() { unnamed } else { named };
    if targets.len() > 1 {
        return Err(format!("its `Link` headers name {} next pages", targets.len()));
    }
    Ok(targets.pop_first().map(str::to_owned))
}

struct Link<'t> {
    target: &'t str,
    /// All values of `rel`; `None` where there is no such parameter.
    relations: Option<String>,
}

/// The part of a line that is still to be read.
struct Rest<'t>(&'t str);

impl<'t> Rest<'t> {
    fn skip(&mut self, characters: &[char]) {
        self.0 = self.0.trim_start_matches(characters);
    }

    /// Takes `character` away, if the rest starts with it.
    fn take(&mut self, character: char) -> bool {
        let rest = self.0.strip_prefix(character);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// All up to one of `ends`, or to the end.
    fn until(&mut self, ends: &[char]) -> &'t str {
        let (word, rest) = self.0.split_at(self.0.find(ends).unwrap_or(self.0.len()));
        self.0 = rest;
        word
    }

    /// The next link; `None` at the end of the line.
    fn link(&mut self) -> Result<Option<Link<'t>>, &'static str> {
        self.skip(&[' ', '\t', ',']);
        if self.0.is_empty() {
            return Ok(None);
        }
        if !self.take('<') {
            return Err("a link stands in angle brackets");
        }
        let target = self.until(&['>']).trim();
        if !self.take('>') {
            return Err("the angle bracket is not closed");
        }
        let mut link = Link { target, relations: None };
        loop {
            self.skip(&[' ', '\t']);
            if self.0.is_empty() || self.0.starts_with(',') {
                return Ok(Some(link));
            }
            if !self.take(';') {
                return Err("a semicolon is missing before a parameter");
            }
            self.skip(&[' ', '\t']);
            let name = self.until(&['=', ';', ',', ' ', '\t']);
            self.skip(&[' ', '\t']);
            let value = if self.take('=') { self.value()? } else { String::new() };
            if name.eq_ignore_ascii_case("rel") {
                let relations = link.relations.get_or_insert_default();
                relations.push(' ');
                relations.push_str(&value);
            }
        }
    }

    /// A parameter's value, without quotes and escapes.
    fn value(&mut self) -> Result<String, &'static str> {
        self.skip(&[' ', '\t']);
        if !self.take('"') {
            return Ok(self.until(&[';', ',', ' ', '\t']).to_owned());
        }
        let mut value = String::new();
        let mut escaped = false;
        for (at, character) in self.0.char_indices() {
            match character {
                _ if escaped => {
                    value.push(character);
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Ok(value);
                }
                _ => value.push(character),
            }
        }
        Err("a quote is not closed")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_page_is_found_among_all_links_of_all_lines() {
        for (lines, expected) in [
            (&[r#"</v2/x/tags/list?last=b&n=2>; rel="next""#][..], Some("/v2/x/tags/list?last=b&n=2")),
            (&[r#"</a>; rel="prev", </b>; title=x; rel=next"#], Some("/b")),
            (&["</style.css>; rel=preload; as=style", "</b>; rel=next"], Some("/b")),
            (&["</b>; rel=next", "</style.css>; rel=preload"], Some("/b")),
            (&[r#"</a>; title="x, <c>; rel=next \" y"; rel=prev,</b> ;REL = "last NEXT""#], Some("/b")),
            (&["</b>; rel=next, </b>; rel=\"next\""], Some("/b")),
            (&["</b>", "</a>; rel=first"], Some("/b")),
            (&["</b>; rel=first; rel=next"], Some("/b")),
            (&[" , </b>;rel=next;, "], Some("/b")),
            (&["< /b >; crossorigin; rel=next"], Some("/b")),
            (&[r#"</a>; rel="prev""#], None),
            (&["", "  ", ","], None),
            (&[], None),
        ] {
            assert_eq!(
                next(lines.iter().copied(), &str::to_owned),
                Ok(expected.map(str::to_owned)),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_the_end() {
        for lines in [
            &["/v2/x/tags/list?last=b; rel=\"next\""][..],
            &["<", "</b>; rel=next"],
            &["</b>; rel=next", "</c; rel=prev"],
            &["</b> rel=next"],
            &["</b>; rel=\"next"],
            &["</b>; rel=next, /c"],
            &["</b>; rel=next, </c>; rel=next"],
        ] {
            assert!(next(lines.iter().copied(), &str::to_owned).is_err(), "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(text in r#"(<|>|/b|;|,| |"|\\|rel|=|next|é){0,30}"#) {
            let _ = next([text.as_str()], &str::to_owned);
        }
    }
}
