//! `[settings]` and `[settings.limits]`: each key, or its default.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::engines::Engines;
use super::rate;
use crate::diagnostic::Mistake;
use crate::images_file::keys;
use crate::images_file::reader::{Node, Reader, Table};
use crate::images_file::values::{self, PULL_WORDS, quantities};
use crate::state::{Limits, Ownership, Platform, Settings, Targets, TrustPolicy};

const BLOBS_WORDS: &[(&str, bool)] = &[("keep", true), ("discard", false)];
const OWNERSHIP_WORDS: &[(&str, Ownership)] =
    &[("override-stat", Ownership::OverrideStat), ("none", Ownership::None)];

const UNSIGNED_WORDS: &[(&str, bool)] = &[("allow", false), ("refuse", true)];

/// The most platforms of one lockfile.
const MAX_PLATFORMS: usize = 16;
/// The most blobs in flight.
const MAX_DOWNLOADS: u64 = 64;
/// The most earlier digests of a reference that are spared: as many as are remembered.
const MAX_KEPT: u64 = 99;
/// The shortest time between two looks at the tags.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the table, if there is one.
pub(super) fn read(reader: &mut Reader<'_>, node: Option<Node<'_>>, engines: &Engines) -> Settings {
    let source = reader.source;
    let targets = Targets::with(engines.settings());
    let default = Settings { targets, platform: source.default_platform.clone(), ..Settings::default() };
    let of_machine = || source.machine.and_then(|machine| machine.hosts_dir.clone());
    let Some(table) = node.and_then(|node| reader.table(node, &keys::SETTINGS)) else {
        return Settings { hosts_dir: of_machine(), ..default };
    };
    let (layers, targets) = layers(reader, table, engines, default.targets);
    let downloads = reader.number(table, "downloads", 1, MAX_DOWNLOADS);
    let interval = |text: &str| quantities::duration(text, MIN_INTERVAL);
    let keeps_earlier = reader.number(table, "keep", 0, MAX_KEPT);
    let keeps_earlier = keeps_earlier.and_then(|count| u32::try_from(count).ok()).unwrap_or_default();
    let platform = reader.text(table, "platform", values::platform);
    let platforms = platforms(reader, table, platform.as_ref());
    let limits = table.get("limits").and_then(|node| reader.table(node, &keys::LIMITS));
    Settings {
        layers,
        targets: Targets { keeps_earlier, ..targets },
        cooldown: cooldown(reader, table).unwrap_or(default.cooldown),
        layers_mode: reader.text(table, "layers-mode", quantities::mode).unwrap_or(default.layers_mode),
        platform: source.for_platform.clone().or(platform).unwrap_or(default.platform),
        platforms,
        pull: reader.word(table, "pull", PULL_WORDS).unwrap_or(default.pull),
        prune: reader.flag(table, "prune").unwrap_or(default.prune),
        downloads: downloads
            .and_then(|downloads| usize::try_from(downloads).ok())
            .unwrap_or(default.downloads),
        rate: rate::read(reader, table),
        interval: reader.text(table, "interval", interval).unwrap_or(default.interval),
        hosts_dir: reader.path(table, "hosts-dir").or_else(of_machine),
        ownership: reader.word(table, "ownership", OWNERSHIP_WORDS).unwrap_or(default.ownership),
        limits: limits.map_or(default.limits, |table| read_limits(reader, table)),
        trust: TrustPolicy {
            rules: Vec::new(),
            refuses_unsigned: refuses_unsigned(reader, table),
            trusted_root: reader.path(table, "trusted-root"),
        },
    }
}

/// Reads the time for which a new digest has to be seen.
pub(super) fn cooldown(reader: &mut Reader<'_>, table: Table<'_>) -> Option<Duration> {
    reader.text(table, "cooldown", |text| quantities::duration(text, Duration::ZERO))
}

/// Reads the platforms that a lockfile serves. The file's own one has to be among them: else no
/// machine would find what it wants.
fn platforms(reader: &mut Reader<'_>, table: Table<'_>, own: Option<&Platform>) -> Vec<Platform> {
    let Some(node) = table.get("platforms") else { return Vec::new() };
    let mut platforms: Vec<Platform> = Vec::new();
    let mut all_read = node.value.is_array();
    for element in reader.array(node) {
        let text = reader.string(element);
        let platform = text.and_then(|text| reader.checked(element, values::platform(text)));
        all_read &= platform.is_some();
        let Some(platform) = platform else { continue };
        if platforms.contains(&platform) {
            reader.error(Mistake::new(element.span, format!("{platform} is named twice")));
        }
        platforms.push(platform);
    }
    if all_read && platforms.is_empty() {
        let hint = "leave it out: then the lockfile is for the one platform that images are wanted for";
        reader.error(Mistake::new(node.span, "`platforms` names none").hint(hint));
    } else if platforms.len() > MAX_PLATFORMS {
        reader.error(Mistake::new(node.span, format!("`platforms` has more than {MAX_PLATFORMS}")));
    } else if let (Some(own), Some(at)) = (own, table.get("platform"))
        && all_read
        && !platforms.contains(own)
    {
        let message = format!("`platform` is {own}, which is not among `platforms`");
        let hint = "leave `platform` out: each machine takes its own";
        reader.error(Mistake::new(at.span, message).hint(hint).related(node.span, "the platforms"));
    }
    platforms
}

/// Returns the place of `unsigned = "refuse"`, if that is what the table says.
fn refuses_unsigned(reader: &mut Reader<'_>, table: Table<'_>) -> Option<String> {
    let refuses = reader.word(table, "unsigned", UNSIGNED_WORDS).unwrap_or(false);
    table.get("unsigned").filter(|_| refuses).map(|node| reader.place(node.key_span))
}

/// Reads where layers are extracted, and which parts images have: `layers = false` needs another
/// place for them.
fn layers(
    reader: &mut Reader<'_>,
    table: Table<'_>,
    engines: &Engines,
    mut targets: Targets,
) -> (Option<PathBuf>, Targets) {
    let kept = reader.word(table, "blobs", BLOBS_WORDS);
    targets.keeps_blobs = kept.unwrap_or(targets.keeps_blobs);
    let Some(node) = table.get("layers") else { return (None, targets) };
    match node.value {
        DeValue::Boolean(extracts) => {
            targets.extracts = *extracts;
            let unclear = table.get("blobs").is_some() && kept.is_none();
            if !extracts && !targets.keeps_blobs && engines.are_none() && !unclear {
                let message = "`layers = false` leaves images no place on this machine";
                let hint = "then at least one engine, such as [engine.podman], or `blobs = \"keep\"`";
                reader.error(Mistake::new(node.span, message).hint(hint));
            }
            (None, targets)
        }
        DeValue::String(_) => (reader.path(table, "layers"), targets),
        _ => {
            reader.wrong_type(node, "a path, or false where none are extracted");
            (None, targets)
        }
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
