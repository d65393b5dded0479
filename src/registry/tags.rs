//! The tags of a repository, page by page.
//!
//! A list that is not read to its end is an error: a selection made from half of it could lead to a removal.

use std::collections::{BTreeSet, HashSet};

use serde::Deserialize;

use super::failure::printable;
use super::remote::{Ask, Remote, Site, Wanted};
use crate::error::RegistryError;
use crate::image_ref::ImageRef;

/// One page of tags, in bytes.
const MAX_TAG_PAGE: u64 = 32 << 20;
/// Pages of tags that are read.
const MAX_TAG_PAGES: usize = 1000;
/// Tags that are kept.
const MAX_TAGS: usize = 1_000_000;

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
        let mut url = site.url(&format!("/{repository}/tags/list?n=1000"));
        let mut visited = HashSet::new();
        let mut tags = BTreeSet::new();
        loop {
            let refuse = |reason: String| RegistryError::Document {
                what: "the tag list".to_owned(),
                host: site.base.host_port(),
                reason,
            };
            if !visited.insert(url.whole()) {
                return Err(refuse("its pages go round in circles".to_owned()));
            }
            if visited.len() > MAX_TAG_PAGES || tags.len() > MAX_TAGS {
                return Err(refuse("it does not end".to_owned()));
            }
            let ask =
                Ask { accept: "application/json", unknown: "repository unknown", ..Ask::get(url.clone()) };
            let (page, link) = self.persist(site, || {
                let answer = self.ask(site, repository, &ask)?;
                let link = answer.header("link").map(str::to_owned);
                let body = answer.read(&self.client, "the tag list", MAX_TAG_PAGE)?;
                let page: TagPage = serde_json::from_slice(&body).map_err(|error| {
                    refuse(format!("it is not what it should be: {}", printable(&error.to_string(), 200)))
                })?;
                Ok((page, link))
            })?;
            tags.extend(page.tags.unwrap_or_default());
            let Some(next) = link.as_deref().and_then(next_link) else { return Ok(tags) };
            let next = url.join(next).map_err(|reason| refuse(format!("its next page: {reason}")))?;
            if !next.same_origin(&site.base) {
                return Err(refuse(format!("its next page is on another host, {}", next.host_port())));
            }
            url = next;
        }
    }
}

#[derive(Deserialize)]
struct TagPage {
    tags: Option<Vec<String>>,
}

/// The target of `Link: <target>; rel="next"` (RFC 8288).
fn next_link(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let parameters = after.split('<').next().unwrap_or_default();
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim().trim_end_matches(',').trim_end();
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value
                        .trim()
                        .trim_matches('"')
                        .split_ascii_whitespace()
                        .any(|rel| rel.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return Some(target);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_a_link_header() {
        assert_eq!(
            next_link(r#"</v2/x/tags/list?last=b&n=2>; rel="next""#),
            Some("/v2/x/tags/list?last=b&n=2")
        );
        assert_eq!(next_link(r#"</a>; rel="prev", </b>; title=x; rel=next"#), Some("/b"));
        assert_eq!(next_link(r#"</a>; rel="prev""#), None);
        assert_eq!(next_link("<"), None);
        assert_eq!(next_link(""), None);
    }
}
