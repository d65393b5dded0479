//! One site of a registry: its address, its role, and what is sent along to it.

use std::sync::Arc;

use ureq::http::{HeaderName, HeaderValue};

use super::role::{Capability, Role};
use crate::registry::transport::{Client, Secret};
use crate::url::Url;

/// The endpoint or a mirror.
pub(crate) struct Site {
    pub(crate) base: Url,
    /// The API's own path: `base` with `/v2`, as a rule.
    pub(super) root: Url,
    pub(super) role: Role,
    /// The registry that the site stands for, where it is told (`?ns=`).
    pub(super) namespace: Option<String>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// An `Authorization` header that a hosts file has for the site.
    pub(super) authorization: Option<Secret>,
    pub(super) client: Arc<Client>,
}

impl Site {
    /// Tells whether the site is a mirror: others are asked after it, and it gets no credentials.
    pub(crate) fn is_mirror(&self) -> bool {
        matches!(self.role, Role::Mirror(_))
    }

    /// Tells whether the site is asked for `wanted`.
    pub(super) fn may(&self, wanted: Capability) -> bool {
        self.role.may(wanted)
    }

    /// Tells whether the site gets the registry's credentials.
    pub(super) fn has_credentials(&self) -> bool {
        self.role == Role::Registry
    }

    /// Returns the URL of `suffix` below the API's root.
    pub(crate) fn url(&self, suffix: &str) -> Url {
        let url = self.root.with_suffix(suffix);
        match &self.namespace {
            Some(namespace) => url.with_parameter("ns", namespace),
            None => url,
        }
    }

    /// Returns the page of a list that a link of this site leads to, wherever the link says that
    /// the site is: path and query are asked for here, below the path of the site's own if the link
    /// leaves that out.
    pub(crate) fn page(&self, link: &Url) -> Url {
        let url = self.root.with_path_of(link);
        match &self.namespace {
            Some(namespace) if !url.has_parameter("ns") => url.with_parameter("ns", namespace),
            _ => url,
        }
    }
}
