//! The tags of a repository, page by page.
//!
//! A list that is not read to its end is an error: a selection made from half of it could lead to a
//! removal. No page is ever whole in memory, and no list: each tag is told as it arrives.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::io::{self, BufReader, Read};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, de};

use super::links::next_page;
use crate::error::{Refused, RegistryError};
use crate::image_ref::ImageRef;
use crate::registry::sites::{Ask, Capability, Remote, Site};
use crate::registry::transport::{Clock, FailedTry, Sought, body_failure, json_error};
use crate::url::Url;

/// Tags that a page is asked to have.
const PAGE: u32 = 1000;
/// One page of tags, in bytes.
const MAX_TAG_PAGE: u64 = 4 << 20;
/// Pages of tags that are read.
const MAX_TAG_PAGES: usize = 1000;
/// Pages without tags, or with those of an earlier page, that are borne.
const MAX_IDLE_PAGES: usize = 10;
/// Tags that are read.
const MAX_TAGS: usize = 100_000;
/// The number of exchanges whose time a whole list gets.
const EXCHANGES: u32 = 10;

/// A list under way.
struct List<'a> {
    remote: &'a Remote,
    site: &'a Site,
    reference: &'a ImageRef,
    /// Tags so far.
    count: usize,
    hashes: RandomState,
}

/// Tells `add` all tags of `reference`'s repository one by one. `begin` makes what they are added
/// to, anew where a mirror fails and another site is asked. A tag may be told more than once.
///
/// # Errors
/// Any [`RegistryError`]; a list that could not be read to its end is one.
pub(crate) fn fold<T>(
    remote: &Remote,
    reference: &ImageRef,
    begin: impl Fn() -> T,
    add: impl Fn(&mut T, &str),
) -> Result<T, RegistryError> {
    for index in remote.candidates(Capability::List, None) {
        let site = &remote.sites[index];
        let mut tags = begin();
        match list(remote, site, reference, &mut |tag| add(&mut tags, tag)) {
            Err(error) if site.is_mirror() && !matches!(error, RegistryError::Stopped) => {
                remote.mirror_failed(index, &error);
            }
            result => return result.map(|()| tags),
        }
    }
    // Not reached: the endpoint is always a candidate, and the last one.
    Ok(begin())
}

/// Reads all pages of `site`'s list.
fn list(
    remote: &Remote,
    site: &Site,
    reference: &ImageRef,
    add: &mut dyn FnMut(&str),
) -> Result<(), RegistryError> {
    let limit = remote.network().waits.exchange.saturating_mul(EXCHANGES);
    let clock = Clock::start(limit);
    let mut list = List { remote, site, reference, count: 0, hashes: RandomState::new() };
    let whole = site.url(&format!("/{}/tags/list", reference.repository()));
    let mut url = site.url(&format!("/{}/tags/list?n={PAGE}", reference.repository()));
    // Hashes of URLs and of what they brought: servers may write URLs of any length.
    let (mut visited, mut contents) = (HashSet::new(), HashSet::new());
    let mut idle = 0;
    loop {
        let refuse = |reason: String| refused(site, reason);
        let slow = || RegistryError::Slow { url: whole.to_string(), limit };
        if !visited.insert(list.hashes.hash_one(url.whole())) {
            return Err(refuse("its pages go round in circles".to_owned()));
        }
        if visited.len() > MAX_TAG_PAGES {
            return Err(refuse("it does not end".to_owned()));
        }
        let before = list.count;
        let page = remote.persist(site, || {
            if clock.is_over() {
                return Err(slow().into());
            }
            list.count = before;
            clock.run(|| list.page(&url, add))
        });
        let Page { next, content } = match page {
            Err(error) if visited.len() == 1 && is_about_page_size(&error) => {
                url = whole.clone();
                continue;
            }
            // The last exchange had less time than others.
            Err(RegistryError::Slow { .. }) if clock.is_over() => return Err(slow()),
            page => page?,
        };
        if list.count == before || !contents.insert(content) {
            idle += 1;
        }
        let Some(next) = next else { return Ok(()) };
        if idle > MAX_IDLE_PAGES {
            return Err(refuse("its pages bring nothing new".to_owned()));
        }
        let next = url.join(&next).map_err(|reason| refuse(format!("its next page: {reason}")))?;
        // A server that stands before the registry is not known to it: only path and query of its
        // links count.
        url = site.page(&next);
    }
}

impl List<'_> {
    /// Tells the tags of one page. Those of a page that breaks off are told too, and again when the
    /// page is asked for anew.
    fn page(&mut self, url: &Url, add: &mut dyn FnMut(&str)) -> Result<Page, FailedTry> {
        let site = self.site;
        let ask = Ask { accept: "application/json", ..Ask::get(url.clone(), Sought::Tags) };
        let answer = self.remote.ask(site, self.reference.repository(), &ask)?;
        let next = next_page(self.remote.network(), &answer).map_err(|reason| refused(site, reason))?;
        let too_large = || refused(site, format!("a page of it is larger than {} MiB", MAX_TAG_PAGE >> 20));
        if answer.content_length().is_some_and(|length| length > MAX_TAG_PAGE) {
            return Err(too_large().into());
        }
        let from = answer.url.clone();
        let mut content = self.hashes.build_hasher();
        let mut told = |tag: &str| {
            self.count += 1;
            tag.hash(&mut content);
            // A text that is no tag cannot be asked for.
            if self.reference.with_tag(tag).is_ok() {
                add(tag);
            }
            self.count <= MAX_TAGS
        };
        let (parsed, left) = answer.stream(|body| {
            let mut body = BufReader::new(body.take(MAX_TAG_PAGE + 1));
            let parsed = read_page(&mut body, &mut told);
            (parsed, body.get_ref().limit())
        });
        if self.count > MAX_TAGS {
            return Err(refused(site, format!("it has more than {MAX_TAGS} tags")).into());
        }
        match parsed {
            _ if left == 0 => Err(too_large().into()),
            Ok(()) => Ok(Page { next, content: content.finish() }),
            Err(error) if error.is_io() => {
                Err(body_failure(self.remote.network(), &from, io::Error::from(error)))
            }
            Err(error) => Err(refused(site, json_error(&error)).into()),
        }
    }
}

/// The end of one page, beside its tags.
struct Page {
    /// The place of the next page, by the page's `Link` headers.
    next: Option<String>,
    /// A hash of its tags.
    content: u64,
}

/// Tells whether a registry refuses the size of pages: it may know none, or none as large. Then its
/// own are good.
fn is_about_page_size(error: &RegistryError) -> bool {
    match error {
        RegistryError::Refused(Refused { status: 400 | 422, .. }) => true,
        // The distribution specification's code, as it is told.
        RegistryError::Refused(Refused { status: 404 | 405 | 416, reason, .. }) => {
            reason.to_lowercase().replace('_', " ").starts_with("pagination number invalid")
        }
        _ => false,
    }
}

fn refused(site: &Site, reason: String) -> RegistryError {
    RegistryError::Document { what: "the tag list".to_owned(), host: site.base.host_port(), reason }
}

/// Tells `told` the tags of a page as they are read, until it says that they are enough: that is an
/// error.
fn read_page(body: impl Read, told: &mut dyn FnMut(&str) -> bool) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_reader(body);
    (&mut json).deserialize_map(PageReader(told))?;
    json.end()
}

struct PageReader<'a>(&'a mut dyn FnMut(&str) -> bool);

impl<'de> Visitor<'de> for PageReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with tags")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key::<String>()? {
            if key != "tags" {
                map.next_value::<IgnoredAny>()?;
            } else if std::mem::replace(&mut seen, true) {
                return Err(de::Error::custom("there are two lists of tags"));
            } else {
                map.next_value_seed(TagsReader(self.0))?;
            }
        }
        // Some other document in the place of a page would end the list before its time.
        if seen { Ok(()) } else { Err(de::Error::missing_field("tags")) }
    }
}

/// A list of tags, or null.
struct TagsReader<'a>(&'a mut dyn FnMut(&str) -> bool);

impl<'de> DeserializeSeed<'de> for TagsReader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> Result<(), D::Error> {
        list.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TagsReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tags")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut tags: A) -> Result<(), A::Error> {
        while tags.next_element_seed(TagReader(self.0))?.is_some() {}
        Ok(())
    }
}

struct TagReader<'a>(&'a mut dyn FnMut(&str) -> bool);

impl<'de> DeserializeSeed<'de> for TagReader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, tag: D) -> Result<(), D::Error> {
        tag.deserialize_str(self)
    }
}

impl Visitor<'_> for TagReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tag")
    }

    fn visit_str<E: de::Error>(self, tag: &str) -> Result<(), E> {
        if (self.0)(tag) { Ok(()) } else { Err(E::custom("there are too many tags")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_long_ends_while_it_is_read() {
        let page = |tags: &str| {
            let mut found = Vec::new();
            let body = format!("{{\"name\":{{\"a\":[1]}},\"tags\":{tags}}}");
            let mut told = |tag: &str| {
                found.push(tag.to_owned());
                found.len() <= 3
            };
            let read = read_page(body.as_bytes(), &mut told);
            read.map(|()| found.clone()).map_err(|error| (error.to_string(), found.len()))
        };
        assert_eq!(page(r#"["1","\u0032"]"#).unwrap(), ["1", "2"]);
        assert_eq!(page("null").unwrap(), Vec::<String>::new());
        for wrong in ["1", "[1]", "{}", "[\"1\"", "[\"1\"],\"tags\":[]"] {
            assert!(page(wrong).is_err(), "{wrong}");
        }
        for other in ["{}", r#"{"name":"a"}"#, r#"{"errors":[{"code":"UNKNOWN"}]}"#, "[]", "null"] {
            assert!(read_page(other.as_bytes(), &mut |_| true).is_err(), "{other} is no page");
        }
        let (error, read) = page(&format!("[{}\"a\"]", "\"a\",".repeat(1000))).unwrap_err();
        assert!(error.contains("too many tags") && read == 4, "{error}, {read}");
    }
}
