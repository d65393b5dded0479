//! The tags of a repository, page by page.
//!
//! A list that is not read to its end is an error: a selection made from half of it could lead to a removal.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::documents::json_error;
use super::failure::Failure;
use super::links;
use super::remote::{Ask, Remote, Site, Wanted};
use super::shared::lock;
use super::url::Url;
use crate::error::RegistryError;
use crate::image_ref::ImageRef;

/// Tags that a page is asked to have.
const PAGE: u32 = 1000;
/// One page of tags, in bytes.
const MAX_TAG_PAGE: u64 = 4 << 20;
/// Pages of tags that are read.
const MAX_TAG_PAGES: usize = 1000;
/// Tags that are kept.
const MAX_TAGS: usize = 100_000;
/// Lists of more bytes than this are read one at a time, whatever registry they are from: together they would not fit.
const LARGE: usize = 256 << 10;

impl Remote {
    /// See [`super::Registries::tags`].
    pub(super) fn tags(&self, reference: &ImageRef) -> Result<Vec<String>, RegistryError> {
        let repository = reference.repository();
        let mut found = None;
        for index in self.candidates(Wanted::List, None) {
            let site = &self.sites[index];
            match self.tags_of(site, repository) {
                Err(error) if !site.own && !matches!(error, RegistryError::Stopped) => {
                    self.mirror_failed(index, &error);
                }
                result => {
                    found = Some(result?);
                    break;
                }
            }
        }
        let mut tags = found.unwrap_or_default();
        // What is no tag cannot be asked for.
        tags.retain(|tag| reference.with_tag(tag).is_ok());
        Ok(tags.into_iter().collect())
    }

    fn tags_of(&self, site: &Site, repository: &str) -> Result<BTreeSet<String>, RegistryError> {
        let whole = site.url(&format!("/{repository}/tags/list"));
        let mut url = site.url(&format!("/{repository}/tags/list?n={PAGE}"));
        let mut visited = HashSet::new();
        let mut tags = BTreeSet::new();
        // Held until the list is whole.
        let mut turn = None;
        let mut bytes = 0;
        loop {
            let refuse = |reason: String| refused(site, reason);
            if !visited.insert(url.whole()) {
                return Err(refuse("its pages go round in circles".to_owned()));
            }
            if visited.len() > MAX_TAG_PAGES {
                return Err(refuse("it does not end".to_owned()));
            }
            let (page, next) = match self.persist(site, || {
                self.tag_page(site, repository, &url, &mut |more| {
                    if bytes + more > LARGE && turn.is_none() {
                        turn = Some(lock(&self.shared().large_lists));
                    }
                })
            }) {
                // A registry may know no pages, or none as large: then its own are good.
                Err(RegistryError::Refused { status: 400 | 422, .. }) if visited.len() == 1 => {
                    url = whole.clone();
                    continue;
                }
                page => page?,
            };
            bytes += page.tags.iter().map(String::len).sum::<usize>();
            tags.extend(page.tags);
            if tags.len() > MAX_TAGS {
                return Err(refuse(format!("it has more than {MAX_TAGS} tags")));
            }
            let Some(next) = next else { return Ok(tags) };
            let next = url.join(&next).map_err(|reason| refuse(format!("its next page: {reason}")))?;
            // Whoever stands before the registry is not known to it: only path and query of its links count.
            url = site.page(&next);
        }
    }

    /// One page, and where its `Link` headers say that the next one is.
    fn tag_page(
        &self,
        site: &Site,
        repository: &str,
        url: &Url,
        read: &mut dyn FnMut(usize),
    ) -> Result<(TagPage, Option<String>), Failure> {
        let ask = Ask { accept: "application/json", unknown: "repository unknown", ..Ask::get(url.clone()) };
        let answer = self.ask(site, repository, &ask)?;
        let lines = answer.headers.get_all("link").iter();
        let lines: Vec<String> =
            lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect();
        let next = links::next(lines.iter().map(String::as_str)).map_err(|reason| refused(site, reason))?;
        let body = answer.read_watched(&self.client, "the tag list", MAX_TAG_PAGE, read);
        let body = body.map_err(|failure| match failure.error {
            RegistryError::TooLarge { limit, .. } => {
                refused(site, format!("a page of it is larger than {} MiB", limit >> 20)).into()
            }
            _ => failure,
        })?;
        let page: TagPage =
            serde_json::from_slice(&body).map_err(|error| refused(site, json_error(&error)))?;
        Ok((page, next))
    }
}

fn refused(site: &Site, reason: String) -> RegistryError {
    RegistryError::Document { what: "the tag list".to_owned(), host: site.base.host_port(), reason }
}

#[derive(Deserialize)]
struct TagPage {
    #[serde(default, deserialize_with = "bounded")]
    tags: Vec<String>,
}

/// A list of at most [`MAX_TAGS`] tags, or null: what is longer ends while it is read.
fn bounded<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<String>, D::Error> {
    struct List;
    impl<'de> Visitor<'de> for List {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of tags")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut tags: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(tag) = tags.next_element()? {
                list.push(tag);
                if list.len() > MAX_TAGS {
                    return Err(serde::de::Error::custom(format!("there are more than {MAX_TAGS} tags")));
                }
            }
            Ok(list)
        }
    }
    list.deserialize_any(List)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_long_ends_while_it_is_read() {
        let page = |tags: &str| serde_json::from_str::<TagPage>(&format!("{{\"tags\":{tags}}}"));
        assert_eq!(page(r#"["1","2"]"#).unwrap().tags, ["1", "2"]);
        assert_eq!(page("null").unwrap().tags, Vec::<String>::new());
        for wrong in ["1", "[1]", "{}"] {
            assert!(page(wrong).is_err(), "{wrong}");
        }
        let long = format!("[{}\"a\"]", "\"a\",".repeat(MAX_TAGS));
        assert!(page(&long).map(|_| ()).unwrap_err().to_string().contains("more than 100000 tags"));
    }
}
