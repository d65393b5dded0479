//! Every key of the images file, table by table: the one list that the parser, the suggestions and the
//! test against the JSON Schema share.

/// The keys of one kind of table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    /// How the table is called in messages.
    pub(super) table: &'static str,
    /// Its keys.
    pub(super) names: &'static [&'static str],
}

pub(super) const TOP: Keys = Keys { table: "the top level", names: &["settings", "registry", "groups"] };

pub(super) const SETTINGS: Keys = Keys {
    table: "[settings]",
    names: &[
        "layers",
        "layers-mode",
        "platform",
        "pull",
        "prune",
        "downloads",
        "interval",
        "hosts-dir",
        "ownership",
        "limits",
    ],
};

pub(super) const LIMITS: Keys =
    Keys { table: "[settings.limits]", names: &["layer-size", "layer-entries", "manifest-size"] };

pub(super) const REGISTRY: Keys = Keys {
    table: "[registry.\"NAME\"]",
    names: &[
        "images",
        "pull",
        "endpoint",
        "mirrors",
        "ca",
        "client-cert",
        "client-key",
        "insecure",
        "headers",
        "username",
        "password-env",
        "password-file",
        "layout",
    ],
};

pub(super) const MIRROR: Keys = Keys { table: "a mirror", names: &["url", "resolve"] };

pub(super) const IMAGE: Keys =
    Keys { table: "an image", names: &["name", "tag", "digest", "platform", "pull", "groups", "tags"] };

pub(super) const TAGS: Keys = Keys { table: "a selection of tags", names: &["semver", "match", "newest"] };

/// All tables.
pub(super) const ALL: &[&Keys] = &[&TOP, &SETTINGS, &LIMITS, &REGISTRY, &MIRROR, &IMAGE, &TAGS];

/// Whether some table has this key.
pub(super) fn is_known(key: &str) -> bool {
    ALL.iter().any(|keys| keys.names.contains(&key))
}
