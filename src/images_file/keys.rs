//! Every key of the images file, table by table: the one list that the readers of the tables, the
//! suggestions, and the tests of the JSON Schema and the starter file share.

use crate::diagnostic::SecretKeys;
use crate::state::EngineName;

/// The keys of one kind of table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    /// The name of the table in messages.
    pub(super) table: &'static str,
    /// The keys that the table may have.
    pub(super) names: &'static [&'static str],
    /// The keys that a stranger must not set (`--untrusted`), each with the reason.
    pub(super) guarded: &'static [(&'static str, &'static str)],
}

const READS_FILES: &str = "it reads local files";
const WRITES_FILES: &str = "it says where files are written";
const NAMES_HOSTS: &str = "it says which hosts are asked";
const HAS_CREDENTIALS: &str = "it sends credentials";
const NAMES_PROGRAMS: &str = "it says which programs are run";
const NAMES_ENGINES: &str = "it says where engines keep images";

pub(super) const TOP: Keys = Keys {
    table: "the top level",
    names: &["settings", "engine", "registry", "groups", "trust", "on-change"],
    guarded: &[("on-change", NAMES_PROGRAMS)],
};

pub(super) const SETTINGS: Keys = Keys {
    table: "[settings]",
    names: &[
        "layers",
        "layers-mode",
        "blobs",
        "platform",
        "platforms",
        "pull",
        "cooldown",
        "keep",
        "prune",
        "downloads",
        "rate",
        "interval",
        "hosts-dir",
        "ownership",
        "unsigned",
        "trusted-root",
        "limits",
    ],
    guarded: &[
        ("layers", WRITES_FILES),
        ("layers-mode", "it opens the layers to other users"),
        ("hosts-dir", READS_FILES),
        ("trusted-root", READS_FILES),
    ],
};

pub(super) const LIMITS: Keys = Keys {
    table: "[settings.limits]",
    names: &["layer-size", "layer-entries", "manifest-size"],
    guarded: &[("manifest-size", "it says how much memory a registry may take")],
};

pub(super) const REGISTRY: Keys = Keys {
    table: "[registry.\"NAME\"]",
    names: &[
        "images",
        "pull",
        "cooldown",
        "rate",
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
    guarded: &[
        ("endpoint", NAMES_HOSTS),
        ("mirrors", NAMES_HOSTS),
        ("ca", READS_FILES),
        ("client-cert", READS_FILES),
        ("client-key", READS_FILES),
        ("insecure", "it leaves certificates unchecked"),
        ("headers", HAS_CREDENTIALS),
        ("username", HAS_CREDENTIALS),
        ("password-env", HAS_CREDENTIALS),
        ("password-file", READS_FILES),
        ("layout", READS_FILES),
    ],
};

pub(super) const MIRROR: Keys = Keys { table: "a mirror", names: &["url", "resolve"], guarded: &[] };

pub(super) const IMAGE: Keys = Keys {
    table: "an image",
    names: &["name", "tag", "digest", "platform", "pull", "cooldown", "groups", "engines", "tags"],
    guarded: &[],
};

pub(super) const TAGS: Keys =
    Keys { table: "a selection of tags", names: &["semver", "match", "newest"], guarded: &[] };

pub(super) const TRUST: Keys = Keys {
    table: "[[trust]]",
    names: &["images", "keyless", "key", "keys", "log", "notation", "accept", "provenance"],
    guarded: &[("key", READS_FILES), ("keys", READS_FILES)],
};

pub(super) const KEYLESS: Keys = Keys {
    table: "`keyless` of [[trust]]",
    names: &["issuer", "identity", "repository", "workflow", "ref"],
    guarded: &[],
};

pub(super) const NOTATION: Keys = Keys {
    table: "`notation` of [[trust]]",
    names: &["roots", "subject"],
    guarded: &[("roots", READS_FILES)],
};

pub(super) const ON_CHANGE: Keys =
    Keys { table: "[[on-change]]", names: &["images", "actions", "run", "timeout"], guarded: &[] };

/// The top level of the machine's `registries.toml`.
pub(super) const MACHINE: Keys =
    Keys { table: "the machine's settings", names: &["settings", "registry", "engine"], guarded: &[] };

/// `[settings]` of that file.
pub(super) const MACHINE_SETTINGS: Keys =
    Keys { table: "[settings] of the machine's settings", names: &["hosts-dir"], guarded: &[] };

pub(super) const MICROSANDBOX: Keys = Keys {
    table: "[engine.microsandbox]",
    names: &["command", "home"],
    guarded: &[("command", NAMES_PROGRAMS), ("home", NAMES_ENGINES)],
};

pub(super) const CONTAINERD: Keys = Keys {
    table: "[engine.containerd]",
    names: &["command", "address", "namespace", "snapshotter"],
    guarded: &[("command", NAMES_PROGRAMS), ("address", NAMES_ENGINES), ("namespace", NAMES_ENGINES)],
};

pub(super) const PODMAN: Keys =
    Keys { table: "[engine.podman]", names: &["command"], guarded: &[("command", NAMES_PROGRAMS)] };

pub(super) const DOCKER: Keys =
    Keys { table: "[engine.docker]", names: &["command"], guarded: &[("command", NAMES_PROGRAMS)] };

/// The keys of `[engine.NAME]`, in an images file and in the machine's settings.
pub(super) fn of_engine(name: EngineName) -> &'static Keys {
    match name {
        EngineName::Microsandbox => &MICROSANDBOX,
        EngineName::Containerd => &CONTAINERD,
        EngineName::Podman => &PODMAN,
        EngineName::Docker => &DOCKER,
    }
}

/// All tables of an images file.
pub(super) const ALL: &[&Keys] = &[
    &TOP,
    &SETTINGS,
    &LIMITS,
    &MICROSANDBOX,
    &CONTAINERD,
    &PODMAN,
    &DOCKER,
    &REGISTRY,
    &MIRROR,
    &IMAGE,
    &TAGS,
    &TRUST,
    &KEYLESS,
    &NOTATION,
    &ON_CHANGE,
];

/// The keys under which an images file, or the machine's settings, may hold secrets.
pub(super) const SECRETS: SecretKeys = SecretKeys {
    is_known,
    headers: "headers",
    named: &["registry", "groups"],
    references: &["registry", "images", "name", "endpoint", "mirrors", "url"],
    variables: &["password-env"],
};

/// True if some table has this key.
fn is_known(key: &str) -> bool {
    ALL.iter().any(|keys| keys.names.contains(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that a stranger may set. A new key belongs here or among the guarded ones.
    const HARMLESS: &[&str] = &[
        "settings",
        "registry",
        "groups",
        "platform",
        "platforms",
        "pull",
        "cooldown",
        "keep",
        "prune",
        "downloads",
        // Downloads that a stranger slows down are those of the stranger's images.
        "rate",
        "interval",
        "ownership",
        "limits",
        "layer-size",
        "layer-entries",
        "images",
        "name",
        "tag",
        "digest",
        "engine",
        "engines",
        "blobs",
        "snapshotter",
        "tags",
        "semver",
        "match",
        "newest",
        "unsigned",
        "trust",
        "keyless",
        "issuer",
        "identity",
        "repository",
        "workflow",
        "ref",
        "log",
        "notation",
        "subject",
        "accept",
        "provenance",
        // Of a mirror, and mirrors are guarded as a whole.
        "url",
        "resolve",
        // Of [[on-change]], which is guarded as a whole.
        "actions",
        "run",
        "timeout",
    ];

    #[test]
    fn of_every_key_it_is_said_whether_a_stranger_may_set_it() {
        for keys in ALL {
            for name in keys.names {
                let guarded = keys.guarded.iter().any(|(guarded, _)| guarded == name);
                assert_ne!(guarded, HARMLESS.contains(name), "{name} of {}", keys.table);
            }
            for (guarded, _) in keys.guarded {
                assert!(keys.names.contains(guarded), "{guarded} is no key of {}", keys.table);
            }
        }
    }

    /// A page of the docs.
    fn page(name: &str) -> String {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        std::fs::read_to_string(docs.join(name)).unwrap()
    }

    #[test]
    fn the_docs_describe_every_key() {
        let pages =
            ["images-file.md", "registries.md", "engines.md", "microsandbox.md", "trust.md", "hooks.md"]
                .map(page);
        for keys in ALL {
            for name in keys.names {
                let forms =
                    [format!("`{name}`"), format!("`{name} = "), format!("`[{name}"), format!("`[[{name}")];
                let inside = format!("{{ {name} = ");
                let described = pages
                    .iter()
                    .any(|page| forms.iter().any(|form| page.contains(form)) || page.contains(&inside));
                assert!(described, "{name} of {} is in none of the pages", keys.table);
            }
        }
    }

    #[test]
    fn the_security_page_lists_what_strangers_may_not_set() {
        let page = page("security.md");
        let table = page.split("| key | since |").nth(1).expect("a table of the keys");
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let mut listed = std::collections::BTreeSet::new();
        for row in rows {
            let cells: Vec<&str> = row.split(" | ").collect();
            for key in cells[0].split('`').skip(1).step_by(2).filter(|key| *key != "false") {
                listed.insert((key.to_owned(), cells[1].trim_end_matches(" |").to_owned()));
            }
        }
        let guarded = ALL.iter().flat_map(|keys| keys.guarded);
        let expected: std::collections::BTreeSet<_> =
            guarded.map(|(key, since)| ((*key).to_owned(), (*since).to_owned())).collect();
        assert_eq!(listed, expected);
    }
}
