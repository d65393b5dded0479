//! The tables as they are made: microsandbox's with its column names, and ours.

/// One table: what follows its name in `CREATE TABLE`, and the columns that our queries use.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The number of our migrations after which a database has the table.
    pub(super) since: i64,
    pub(super) body: &'static str,
    pub(super) columns: &'static [&'static str],
}

/// A table that is made anew wherever it is missing, whatever migrations there were.
const NEVER: i64 = i64::MAX;

/// microsandbox's tables, parents first.
pub(super) const MICROSANDBOX: &[Table] = &[
    Table {
        name: "images",
        since: NEVER,
        body: "(id INTEGER PRIMARY KEY, reference TEXT NOT NULL UNIQUE, size_bytes INTEGER NOT NULL, \
               last_used_at DATETIME, created_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               modified_at DATETIME DEFAULT CURRENT_TIMESTAMP)",
        columns: &["id", "reference", "size_bytes", "last_used_at", "created_at", "modified_at"],
    },
    Table {
        name: "indexes",
        since: NEVER,
        body: "(id INTEGER PRIMARY KEY, image_id INTEGER NOT NULL, schema_version INTEGER NOT NULL, \
               media_type TEXT NOT NULL, platform_os TEXT, platform_arch TEXT, platform_variant TEXT, \
               annotations_json TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               modified_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               FOREIGN KEY (image_id) REFERENCES images(id) ON DELETE CASCADE)",
        columns: &[
            "id",
            "image_id",
            "schema_version",
            "media_type",
            "platform_os",
            "platform_arch",
            "platform_variant",
            "annotations_json",
            "created_at",
            "modified_at",
        ],
    },
    Table {
        name: "manifests",
        since: NEVER,
        body: "(id INTEGER PRIMARY KEY, index_id INTEGER, image_id INTEGER NOT NULL, \
               schema_version INTEGER NOT NULL, media_type TEXT NOT NULL, annotations_json TEXT, \
               created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               FOREIGN KEY (index_id) REFERENCES indexes(id) ON DELETE CASCADE, \
               FOREIGN KEY (image_id) REFERENCES images(id) ON DELETE CASCADE)",
        columns: &[
            "id",
            "index_id",
            "image_id",
            "schema_version",
            "media_type",
            "annotations_json",
            "created_at",
            "modified_at",
        ],
    },
    Table {
        name: "configs",
        since: NEVER,
        body: "(id INTEGER PRIMARY KEY, manifest_id INTEGER NOT NULL, media_type TEXT NOT NULL, created DATETIME, \
               architecture TEXT, os TEXT, os_variant TEXT, config_env_json TEXT, config_cmd_json TEXT, \
               config_working_dir TEXT, config_entrypoint_json TEXT, config_volumes_json TEXT, \
               config_exposed_ports_json TEXT, config_user TEXT, rootfs_type TEXT, rootfs_diff_ids_json TEXT, \
               history_json TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               modified_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               FOREIGN KEY (manifest_id) REFERENCES manifests(id) ON DELETE CASCADE)",
        columns: &[
            "id",
            "manifest_id",
            "media_type",
            "created",
            "architecture",
            "os",
            "os_variant",
            "config_env_json",
            "config_cmd_json",
            "config_working_dir",
            "config_entrypoint_json",
            "config_volumes_json",
            "config_exposed_ports_json",
            "config_user",
            "rootfs_type",
            "rootfs_diff_ids_json",
            "history_json",
            "created_at",
            "modified_at",
        ],
    },
    Table {
        name: "layers",
        since: NEVER,
        body: "(id INTEGER PRIMARY KEY, media_type TEXT NOT NULL, digest TEXT NOT NULL UNIQUE, \
               diff_id TEXT NOT NULL, size_bytes INTEGER NOT NULL, \
               created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP)",
        columns: &["id", "media_type", "digest", "diff_id", "size_bytes", "created_at", "modified_at"],
    },
    Table {
        name: "manifest_layers",
        since: NEVER,
        body: "(id INTEGER PRIMARY KEY, manifest_id INTEGER NOT NULL, layer_id INTEGER NOT NULL, \
               created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               FOREIGN KEY (manifest_id) REFERENCES manifests(id) ON DELETE CASCADE, \
               FOREIGN KEY (layer_id) REFERENCES layers(id) ON DELETE CASCADE, UNIQUE(manifest_id, layer_id))",
        columns: &["id", "manifest_id", "layer_id", "created_at", "modified_at"],
    },
];

/// Our tables, as the newest migration leaves them.
pub(super) const OURS: &[Table] = &[
    Table {
        name: "sync_meta",
        since: 1,
        body: "(key TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID",
        columns: &["key", "value"],
    },
    Table {
        name: "sync_images",
        since: 1,
        body: "(reference TEXT PRIMARY KEY NOT NULL, platform TEXT NOT NULL, digest TEXT NOT NULL, \
               manifest_digest TEXT NOT NULL, config_digest TEXT NOT NULL, config_json TEXT NOT NULL, \
               alias_of TEXT, preexisting INTEGER NOT NULL, layers_directory BLOB, \
               modified_at DATETIME NOT NULL)",
        columns: &[
            "reference",
            "platform",
            "digest",
            "manifest_digest",
            "config_digest",
            "config_json",
            "alias_of",
            "preexisting",
            "layers_directory",
            "modified_at",
        ],
    },
    Table {
        name: "sync_image_layers",
        since: 1,
        body: "(reference TEXT NOT NULL, position INTEGER NOT NULL, digest TEXT NOT NULL, diff_id TEXT NOT NULL, \
               media_type TEXT NOT NULL, size_bytes INTEGER NOT NULL, PRIMARY KEY (reference, position)) \
               WITHOUT ROWID",
        columns: &["reference", "position", "digest", "diff_id", "media_type", "size_bytes"],
    },
    // Directories of layers that were ever used, those below the home relative to it.
    Table {
        name: "sync_directories",
        since: 3,
        body: "(path BLOB PRIMARY KEY NOT NULL) WITHOUT ROWID",
        columns: &["path"],
    },
    Table {
        name: "sync_owners",
        since: 1,
        body: "(reference TEXT NOT NULL, owner TEXT NOT NULL, since DATETIME NOT NULL, \
               PRIMARY KEY (reference, owner)) WITHOUT ROWID",
        columns: &["reference", "owner", "since"],
    },
    // The wishes of owners that are not the usual: layers extracted, no blob kept.
    Table {
        name: "sync_holdings",
        since: 4,
        body: "(reference TEXT NOT NULL, owner TEXT NOT NULL, extracts INTEGER NOT NULL, \
               keeps_blobs INTEGER NOT NULL, PRIMARY KEY (reference, owner)) WITHOUT ROWID",
        columns: &["reference", "owner", "extracts", "keeps_blobs"],
    },
    // The documents of images whose blobs somebody keeps.
    Table {
        name: "sync_image_documents",
        since: 4,
        body: "(reference TEXT NOT NULL, position INTEGER NOT NULL, role TEXT NOT NULL, digest TEXT NOT NULL, \
               media_type TEXT NOT NULL, size_bytes INTEGER NOT NULL, PRIMARY KEY (reference, position)) \
               WITHOUT ROWID",
        columns: &["reference", "position", "role", "digest", "media_type", "size_bytes"],
    },
    // References that were loaded into engines; `engine` is the engine's settings as JSON.
    Table {
        name: "sync_loads",
        since: 4,
        body: "(engine TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, reference TEXT NOT NULL, \
               manifest_digest TEXT NOT NULL, listed_digest TEXT, files_json TEXT NOT NULL, \
               since DATETIME NOT NULL, PRIMARY KEY (engine, name, owner)) WITHOUT ROWID",
        columns: &[
            "engine",
            "name",
            "owner",
            "reference",
            "manifest_digest",
            "listed_digest",
            "files_json",
            "since",
        ],
    },
    // Those of them that their owners do not want there any more, and that are still to be removed.
    Table {
        name: "sync_loads_unwanted",
        since: 6,
        body: "(engine TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, \
               PRIMARY KEY (engine, name, owner)) WITHOUT ROWID",
        columns: &["engine", "name", "owner"],
    },
    // Proofs that images are signed, by what their tags mean and by what judged them.
    Table {
        name: "sync_trust",
        since: 5,
        body: "(digest TEXT NOT NULL, manifest_digest TEXT NOT NULL, judged_by TEXT NOT NULL, rule TEXT NOT NULL, \
               signed_by TEXT NOT NULL, issuer TEXT, signed_at INTEGER, form TEXT NOT NULL, \
               since DATETIME NOT NULL, PRIMARY KEY (digest, manifest_digest, judged_by)) WITHOUT ROWID",
        columns: &[
            "digest",
            "manifest_digest",
            "judged_by",
            "rule",
            "signed_by",
            "issuer",
            "signed_at",
            "form",
            "since",
        ],
    },
    // The proofs that end, and when: a table of its own, since older catalogs have the other one.
    Table {
        name: "sync_trust_ends",
        since: 7,
        body: "(digest TEXT NOT NULL, manifest_digest TEXT NOT NULL, judged_by TEXT NOT NULL, \
               until INTEGER NOT NULL, PRIMARY KEY (digest, manifest_digest, judged_by)) WITHOUT ROWID",
        columns: &["digest", "manifest_digest", "judged_by", "until"],
    },
    // The signatures themselves, as they were served.
    Table {
        name: "sync_signatures",
        since: 5,
        body: "(digest TEXT NOT NULL, manifest_digest TEXT NOT NULL, judged_by TEXT NOT NULL, \
               position INTEGER NOT NULL, subject TEXT NOT NULL, place TEXT NOT NULL, artifact TEXT NOT NULL, \
               artifact_manifest BLOB NOT NULL, layer INTEGER NOT NULL, layer_blob BLOB NOT NULL, message BLOB, \
               config_blob BLOB, PRIMARY KEY (digest, manifest_digest, judged_by, position))",
        columns: &[
            "digest",
            "manifest_digest",
            "judged_by",
            "position",
            "subject",
            "place",
            "artifact",
            "artifact_manifest",
            "layer",
            "layer_blob",
            "message",
            "config_blob",
        ],
    },
    // Images that references meant, mean or may come to mean, as far as they are recorded: what
    // `sync_history` and `sync_staged` name by reference, platform and digest.
    Table {
        name: "sync_meanings",
        since: 9,
        body: "(id INTEGER PRIMARY KEY, reference TEXT NOT NULL, platform TEXT NOT NULL, digest TEXT NOT NULL, \
               manifest_digest TEXT NOT NULL, config_digest TEXT NOT NULL, documents_json TEXT NOT NULL, \
               UNIQUE (reference, platform, digest))",
        columns: &[
            "id",
            "reference",
            "platform",
            "digest",
            "manifest_digest",
            "config_digest",
            "documents_json",
        ],
    },
    Table {
        name: "sync_meaning_layers",
        since: 9,
        body: "(meaning INTEGER NOT NULL, position INTEGER NOT NULL, digest TEXT NOT NULL, diff_id TEXT NOT NULL, \
               media_type TEXT NOT NULL, size_bytes INTEGER NOT NULL, PRIMARY KEY (meaning, position)) \
               WITHOUT ROWID",
        columns: &["meaning", "position", "digest", "diff_id", "media_type", "size_bytes"],
    },
    Table {
        name: "sync_meaning_documents",
        since: 9,
        body: "(meaning INTEGER NOT NULL, position INTEGER NOT NULL, role TEXT NOT NULL, digest TEXT NOT NULL, \
               media_type TEXT NOT NULL, size_bytes INTEGER NOT NULL, PRIMARY KEY (meaning, position)) \
               WITHOUT ROWID",
        columns: &["meaning", "position", "role", "digest", "media_type", "size_bytes"],
    },
    // The digests that recorded references meant, and from when until when, in milliseconds since
    // 1970; the one without an end is the present one.
    Table {
        name: "sync_history",
        since: 9,
        body: "(id INTEGER PRIMARY KEY, reference TEXT NOT NULL, platform TEXT NOT NULL, digest TEXT NOT NULL, \
               since INTEGER NOT NULL, until INTEGER)",
        columns: &["id", "reference", "platform", "digest", "since", "until"],
    },
    // The earlier digests of their references that owners want spared, where they want any.
    Table {
        name: "sync_keeps",
        since: 9,
        body: "(reference TEXT NOT NULL, owner TEXT NOT NULL, earlier INTEGER NOT NULL, \
               PRIMARY KEY (reference, owner)) WITHOUT ROWID",
        columns: &["reference", "owner", "earlier"],
    },
    // The references that stay at a digest, since somebody went back to it.
    Table {
        name: "sync_holds",
        since: 9,
        body: "(reference TEXT PRIMARY KEY NOT NULL, digest TEXT NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID",
        columns: &["reference", "digest", "since"],
    },
    // The digests that tags have come to mean and that are not taken yet, and when each was first
    // seen.
    Table {
        name: "sync_candidates",
        since: 9,
        body: "(reference TEXT PRIMARY KEY NOT NULL, digest TEXT NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID",
        columns: &["reference", "digest", "since"],
    },
    // Of those digests, the time of an earlier note where the clock has gone back to before it.
    Table {
        name: "sync_candidates_ahead",
        since: 11,
        body: "(reference TEXT PRIMARY KEY NOT NULL, ahead INTEGER NOT NULL) WITHOUT ROWID",
        columns: &["reference", "ahead"],
    },
    // The images whose layers are here and that are not recorded yet.
    Table {
        name: "sync_staged",
        since: 9,
        body: "(reference TEXT NOT NULL, platform TEXT NOT NULL, digest TEXT NOT NULL, since INTEGER NOT NULL, \
               PRIMARY KEY (reference, platform)) WITHOUT ROWID",
        columns: &["reference", "platform", "digest", "since"],
    },
    // Of loads under way, the digest by which the engine listed the reference as ours before.
    Table {
        name: "sync_former_loads",
        since: 8,
        body: "(engine TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, digest TEXT NOT NULL, \
               PRIMARY KEY (engine, name, owner)) WITHOUT ROWID",
        columns: &["engine", "name", "owner", "digest"],
    },
    // Changes that hooks are still to be told of; `claim` is the byte of the claims' file that the
    // run has locked which tells them.
    Table {
        name: "sync_hook_events",
        since: 10,
        body: "(id INTEGER PRIMARY KEY, owner TEXT NOT NULL, hook TEXT NOT NULL, program TEXT NOT NULL, \
               reference TEXT NOT NULL, time TEXT NOT NULL, platform TEXT, action TEXT NOT NULL, digest TEXT, \
               previous TEXT, is_done INTEGER NOT NULL, claim INTEGER)",
        columns: &[
            "id",
            "owner",
            "hook",
            "program",
            "reference",
            "time",
            "platform",
            "action",
            "digest",
            "previous",
            "is_done",
            "claim",
        ],
    },
    // The images that cannot have their layers in order beside others.
    Table {
        name: OUT_OF_ORDER,
        since: 12,
        body: "(reference TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID",
        columns: &["reference"],
    },
];

/// See [`OURS`].
pub(super) const OUT_OF_ORDER: &str = "sync_out_of_order";
