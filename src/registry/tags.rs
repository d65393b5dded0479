//! The tags of a repository, page by page.
//!
//! A list that is not read to its end is an error: a selection made from half of it could lead to a removal.

use std::collections::{BTreeSet, HashSet};

use serde::Deserialize;

use super::failure::{Failure, printable};
use super::links;
use super::remote::{Ask, Remote, Site, Wanted};
use super::url::Url;
use crate::error::RegistryError;
use crate::image_ref::ImageRef;

/// Tags that a page is asked to have.
const PAGE: u32 = 1000;
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
        let whole = site.url(&format!("/{repository}/tags/list"));
        let mut url = site.url(&format!("/{repository}/tags/list?n={PAGE}"));
        let mut visited = HashSet::new();
        let mut tags = BTreeSet::new();
        loop {
            let refuse = |reason: String| refused(site, reason);
            if !visited.insert(url.whole()) {
                return Err(refuse("its pages go round in circles".to_owned()));
            }
            if visited.len() > MAX_TAG_PAGES || tags.len() > MAX_TAGS {
                return Err(refuse("it does not end".to_owned()));
            }
            let (page, next) = match self.persist(site, || self.tag_page(site, repository, &url)) {
                // A registry may know no pages, or none as large: then its own are good.
                Err(RegistryError::Refused { status: 400 | 422, .. }) if visited.len() == 1 => {
                    url = whole.clone();
                    continue;
                }
                page => page?,
            };
            tags.extend(page.tags.unwrap_or_default());
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
    ) -> Result<(TagPage, Option<String>), Failure> {
        let ask = Ask { accept: "application/json", unknown: "repository unknown", ..Ask::get(url.clone()) };
        let answer = self.ask(site, repository, &ask)?;
        let lines = answer.headers.get_all("link").iter();
        let lines: Vec<String> =
            lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect();
        let next = links::next(lines.iter().map(String::as_str)).map_err(|reason| refused(site, reason))?;
        let body = answer.read(&self.client, "the tag list", MAX_TAG_PAGE)?;
        let page: TagPage = serde_json::from_slice(&body).map_err(|error| {
            let reason = printable(&error.to_string(), 200);
            refused(site, format!("it is not what it should be: {reason}"))
        })?;
        Ok((page, next))
    }
}

fn refused(site: &Site, reason: String) -> RegistryError {
    RegistryError::Document { what: "the tag list".to_owned(), host: site.base.host_port(), reason }
}

#[derive(Deserialize)]
struct TagPage {
    tags: Option<Vec<String>>,
}
