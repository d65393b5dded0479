//! Engines: the programs of this machine that images are handed to, and their word about them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;

/// An engine, by the name of its table in the images file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// microsandbox 0.5.4 and newer, by `msb`.
    Microsandbox,
    /// containerd, by `ctr`.
    Containerd,
    /// podman.
    Podman,
    /// docker, by its client.
    Docker,
}

impl EngineName {
    /// Every engine, in the order in which plans and documents list them.
    pub const ALL: [Self; 4] = [Self::Microsandbox, Self::Containerd, Self::Podman, Self::Docker];

    /// The name of the engine's table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Microsandbox => "microsandbox",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }

    /// The texts under which the engine is to list the image `reference`, its own first. A pin
    /// `name:tag@digest` also goes by `name:tag`, and in podman, which drops the tag of a pin, by
    /// that alone; an image of sandboxes.io has its second name too.
    pub fn names_of(self, reference: &ImageRef) -> Vec<String> {
        let mut names = Vec::new();
        for name in reference.recorded_names() {
            let pinned = name.tag().is_some() && name.digest().is_some();
            if !(pinned && matches!(self, Self::Podman | Self::Docker)) {
                names.push(name.to_string());
            }
            if pinned {
                names.push(name.without_digest().to_string());
            }
        }
        names
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One `[engine.NAME]` table, complete but for defaults that the engine itself knows. The catalog
/// keeps it as JSON, to find what was loaded where. Two values that differ may be one engine:
/// [`EngineSettings::is_same`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EngineSettings {
    /// The engine.
    pub name: EngineName,
    /// The program: a name to be looked up on `PATH`, or an absolute path.
    pub command: String,
    /// The absolute home of microsandbox; `None`: its own default.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub home: Option<PathBuf>,
    /// The socket of containerd; `None`: `ctr`'s own default.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
    /// The namespace of containerd; `None`: `default`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<String>,
    /// The snapshotter of containerd; `None`: containerd's own default.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshotter: Option<String>,
}

impl EngineSettings {
    /// The settings of a table that says nothing.
    pub fn new(name: EngineName) -> Self {
        let command = match name {
            EngineName::Microsandbox => "msb",
            EngineName::Containerd => "ctr",
            EngineName::Podman => "podman",
            EngineName::Docker => "docker",
        };
        Self {
            name,
            command: command.to_owned(),
            home: None,
            address: None,
            namespace: None,
            snapshotter: None,
        }
    }

    /// True if `other` is this engine: the same program with the same place for its images. The
    /// command that runs it and the snapshotter make no difference, nor does a default that is
    /// spelled out.
    pub fn is_same(&self, other: &Self) -> bool {
        self.home == other.home
            && self.address.as_deref().unwrap_or(CONTAINERD) == other.address.as_deref().unwrap_or(CONTAINERD)
            && self.may_be(other)
    }

    /// True if `other` is this engine, or may be: where nobody says where an engine has its images,
    /// its environment may name any place.
    pub fn may_be(&self, other: &Self) -> bool {
        fn agree<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.is_none() || other.is_none() || one == other
        }
        self.name == other.name
            && agree(self.home.as_ref(), other.home.as_ref())
            && agree(self.address.as_ref(), other.address.as_ref())
            && self.namespace.as_deref().unwrap_or(NAMESPACE)
                == other.namespace.as_deref().unwrap_or(NAMESPACE)
    }
}

/// The socket of containerd where nobody says otherwise.
const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// The namespace of containerd that is used where nobody names one.
const NAMESPACE: &str = "default";

/// An engine's word about the images that it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineListing {
    /// The digests that the engine tells for each reference, in the full form of
    /// [`ImageRef`]: of a manifest, of an index, or, where [`EngineListing::by_config`], of a
    /// config.
    pub images: BTreeMap<String, BTreeSet<BlobDigest>>,
    /// True if the engine knows images by the digests of their configs alone (docker's classic
    /// image store).
    pub by_config: bool,
}

/// The names that somebody wants to know of an engine. Engines have others, of no interest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedNames {
    /// References, in the full form of [`ImageRef`].
    pub names: BTreeSet<String>,
    /// Repositories whose every reference is asked about.
    pub repositories: BTreeSet<String>,
}

impl AskedNames {
    /// Asks about `names` alone.
    pub fn of<'n>(names: impl IntoIterator<Item = &'n String>) -> Self {
        Self { names: names.into_iter().cloned().collect(), repositories: BTreeSet::new() }
    }

    /// Tells whether `name` is asked about.
    pub fn has(&self, name: &str) -> bool {
        if self.names.contains(name) {
            return true;
        }
        let tagged = name.split_once('@').map_or(name, |(tagged, _)| tagged);
        let repository = match tagged.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => repository,
            _ => tagged,
        };
        self.repositories.contains(repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn containerd(address: Option<&str>, namespace: Option<&str>) -> EngineSettings {
        EngineSettings {
            address: address.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            ..EngineSettings::new(EngineName::Containerd)
        }
    }

    #[test]
    fn an_engine_is_known_by_its_name_and_its_place() {
        let podman = EngineSettings::new(EngineName::Podman);
        let elsewhere = EngineSettings { command: "/usr/bin/podman".to_owned(), ..podman.clone() };
        assert!(podman.is_same(&elsewhere) && podman != elsewhere);
        assert!(!podman.may_be(&EngineSettings::new(EngineName::Docker)));

        let plain = containerd(None, None);
        let unpacked = EngineSettings { snapshotter: Some("native".to_owned()), ..plain.clone() };
        assert!(plain.is_same(&unpacked));
        assert!(plain.is_same(&containerd(Some("/run/containerd/containerd.sock"), Some("default"))));
        // What the environment names as the socket nobody knows here.
        let k3s = containerd(Some("/run/k3s/containerd/containerd.sock"), None);
        assert!(!plain.is_same(&k3s) && plain.may_be(&k3s) && k3s.may_be(&plain));
        assert!(!containerd(Some("/a"), None).may_be(&containerd(Some("/b"), None)));
        let of_kubernetes = containerd(None, Some("k8s.io"));
        assert!(!plain.is_same(&of_kubernetes) && !plain.may_be(&of_kubernetes));

        let at = |home: Option<&str>| EngineSettings {
            home: home.map(PathBuf::from),
            ..EngineSettings::new(EngineName::Microsandbox)
        };
        assert!(at(Some("/a")).is_same(&at(Some("/a"))) && !at(Some("/a")).may_be(&at(Some("/b"))));
        assert!(!at(None).is_same(&at(Some("/a"))) && at(None).may_be(&at(Some("/a"))));
    }
}
