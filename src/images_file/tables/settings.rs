//! `[settings]` and `[settings.limits]`: each key, or its default.

use std::time::Duration;

use toml::de::DeValue;

use crate::images_file::keys;
use crate::images_file::reader::{Node, Reader, Table};
use crate::images_file::values::{self, PULL_WORDS, quantities};
use crate::state::{Limits, Ownership, Settings};

const OWNERSHIP_WORDS: &[(&str, Ownership)] =
    &[("override-stat", Ownership::OverrideStat), ("none", Ownership::None)];

/// The most blobs in flight.
const MAX_DOWNLOADS: u64 = 64;
/// The shortest time between two looks at the tags.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the table, if there is one.
pub(super) fn read(reader: &mut Reader<'_>, node: Option<Node<'_>>) -> Settings {
    let source = reader.source;
    let default = Settings { platform: source.default_platform.clone(), ..Settings::default() };
    let of_machine = || source.machine.and_then(|machine| machine.hosts_dir.clone());
    let Some(table) = node.and_then(|node| reader.table(node, &keys::SETTINGS)) else {
        return Settings { hosts_dir: of_machine(), ..default };
    };
    let downloads = reader.number(table, "downloads", 1, MAX_DOWNLOADS);
    let interval = |text: &str| quantities::duration(text, MIN_INTERVAL);
    let limits = table.get("limits").and_then(|node| reader.table(node, &keys::LIMITS));
    Settings {
        layers: reader.path(table, "layers"),
        targets: default.targets,
        layers_mode: reader.text(table, "layers-mode", quantities::mode).unwrap_or(default.layers_mode),
        platform: reader.text(table, "platform", values::platform).unwrap_or(default.platform),
        pull: reader.word(table, "pull", PULL_WORDS).unwrap_or(default.pull),
        prune: reader.flag(table, "prune").unwrap_or(default.prune),
        downloads: downloads
            .and_then(|downloads| usize::try_from(downloads).ok())
            .unwrap_or(default.downloads),
        interval: reader.text(table, "interval", interval).unwrap_or(default.interval),
        hosts_dir: reader.path(table, "hosts-dir").or_else(of_machine),
        ownership: reader.word(table, "ownership", OWNERSHIP_WORDS).unwrap_or(default.ownership),
        limits: limits.map_or(default.limits, |table| read_limits(reader, table)),
    }
}

fn read_limits(reader: &mut Reader<'_>, table: Table<'_>) -> Limits {
    let default = Limits::default();
    let most = i64::MAX.unsigned_abs();
    Limits {
        layer_size: size(reader, table, "layer-size").unwrap_or(default.layer_size),
        layer_entries: reader.number(table, "layer-entries", 1, most).unwrap_or(default.layer_entries),
        manifest_size: size(reader, table, "manifest-size").unwrap_or(default.manifest_size),
    }
}

/// Reads a size: a string with a unit, or an integer of bytes.
fn size(reader: &mut Reader<'_>, table: Table<'_>, key: &str) -> Option<u64> {
    let node = table.get(key)?;
    match node.value {
        DeValue::String(text) => reader.checked(node, quantities::size(text)),
        DeValue::Integer(_) => reader.integer(node, 1, i64::MAX.unsigned_abs()),
        _ => {
            reader.wrong_type(node, "a size such as \"64GiB\"");
            None
        }
    }
}
