//! Image configs: from hostile bytes to a record, and to layers that know their `diff_id`.
//!
//! All that matters for correctness (`rootfs`, and what a process is started with) is checked
//! strictly. All that is only shown refuses nothing: a creation date that is no date is none,
//! labels and history may have nulls, bytes that are not UTF-8 and halves of surrogate pairs (both
//! become U+FFFD, as for Go's readers). Every failure is a text that says what is wrong; the caller
//! adds which config and who served it.
//!
//! The raw forms are ours and not oci-spec's `ImageConfiguration`, which refuses what the contract
//! tolerates: a config without `os` or `architecture`, a null among the labels or in the history, a
//! `Cmd` that is one string.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::manifest::Manifest;
use crate::digest::{BlobDigest, DiffId};
use crate::registry::transport::{json_error, printable};
use crate::state::{ConfigRecord, LayerDescriptor};

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    created: Value,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<RawProcess>,
    rootfs: RawRootfs,
    #[serde(default)]
    history: Value,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawProcess {
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Words>,
    #[serde(default)]
    entrypoint: Option<Words>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    stop_signal: Value,
    #[serde(default, deserialize_with = "shown_labels")]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    volumes: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    exposed_ports: Option<BTreeMap<String, Value>>,
}

/// Old Docker wrote a single string for a list of one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Many(Vec<String>),
    One(String),
}

impl From<Words> for Vec<String> {
    fn from(words: Words) -> Self {
        match words {
            Words::Many(words) => words,
            Words::One(word) => vec![word],
        }
    }
}

/// Reads the config of `manifest`: its record, and the layers with their `diff_id`s.
pub(super) fn parse_config(
    bytes: &[u8],
    manifest: &Manifest,
) -> Result<(ConfigRecord, Vec<LayerDescriptor>), String> {
    let text = readable(bytes);
    let raw: RawConfig = serde_json::from_str(&text).map_err(|error| json_error(&error))?;
    if matches!(text, Cow::Owned(_)) {
        raw.check_what_matters()?;
    }
    let rootfs_type = raw.rootfs.kind.filter(|kind| !kind.is_empty()).unwrap_or_else(|| "layers".to_owned());
    if rootfs_type != "layers" {
        return Err(format!("its rootfs type {:?} is not \"layers\"", printable(&rootfs_type, 60)));
    }
    let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() != manifest.layers.len() {
        return Err(format!("it has {} diff_ids for {} layers", diff_ids.len(), manifest.layers.len()));
    }
    let mut layers = Vec::with_capacity(diff_ids.len());
    let mut known: HashMap<BlobDigest, DiffId> = HashMap::new();
    for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
        let diff_id = DiffId::parse(diff_id).map_err(|error| format!("a diff_id: {error}"))?;
        if *known.entry(layer.digest.clone()).or_insert_with(|| diff_id.clone()) != diff_id {
            return Err(format!("layer {} has two diff_ids", layer.digest));
        }
        layers.push(LayerDescriptor {
            digest: layer.digest.clone(),
            diff_id,
            media_type: layer.media_type.as_str().into(),
            size: layer.size,
        });
    }
    let process = raw.config.unwrap_or_default();
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    // A BTreeMap's keys are sorted already.
    let keys = |map: Option<BTreeMap<String, Value>>| map.map(|map| map.into_keys().collect());
    let record = ConfigRecord {
        digest: manifest.config.digest.clone(),
        media_type: manifest.config.media_type.clone(),
        created: raw.created.as_str().and_then(rfc3339),
        architecture: raw.architecture.unwrap_or_default(),
        os: raw.os.unwrap_or_default(),
        variant: filled(raw.variant),
        env: process.env,
        cmd: process.cmd.map(Into::into),
        working_dir: filled(process.working_dir),
        entrypoint: process.entrypoint.map(Into::into),
        volumes: keys(process.volumes),
        exposed_ports: keys(process.exposed_ports),
        user: filled(process.user),
        stop_signal: filled(process.stop_signal.as_str().map(ToOwned::to_owned)),
        labels: process.labels,
        rootfs_type,
        history_json: raw.history.is_array().then(|| raw.history.to_string()),
    };
    Ok((record, layers))
}

impl RawConfig {
    /// Refuses replaced bytes in what is more than shown.
    fn check_what_matters(&self) -> Result<(), String> {
        let process = self.config.as_ref();
        let words = |words: Option<&Words>| match words {
            Some(Words::Many(words)) => words.clone(),
            Some(Words::One(word)) => vec![word.clone()],
            None => Vec::new(),
        };
        let one = |text: Option<&String>| text.cloned().into_iter().collect::<Vec<_>>();
        let keys = |map: Option<&BTreeMap<String, Value>>| {
            map.map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        let fields = [
            ("architecture", one(self.architecture.as_ref())),
            ("os", one(self.os.as_ref())),
            ("variant", one(self.variant.as_ref())),
            ("Env", process.and_then(|process| process.env.clone()).unwrap_or_default()),
            ("Cmd", words(process.and_then(|process| process.cmd.as_ref()))),
            ("Entrypoint", words(process.and_then(|process| process.entrypoint.as_ref()))),
            ("WorkingDir", one(process.and_then(|process| process.working_dir.as_ref()))),
            ("User", one(process.and_then(|process| process.user.as_ref()))),
            ("Volumes", keys(process.and_then(|process| process.volumes.as_ref()))),
            ("ExposedPorts", keys(process.and_then(|process| process.exposed_ports.as_ref()))),
        ];
        match fields.iter().find(|(_, texts)| texts.iter().any(|text| text.contains(REPLACED))) {
            Some((name, _)) => Err(format!("its {name} is not UTF-8")),
            None => Ok(()),
        }
    }
}

/// Stands for what is no character.
const REPLACED: char = '\u{fffd}';

/// The text of a config. Borrowed: nothing had to be replaced.
fn readable(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    match without_half_pairs(&text) {
        Some(replaced) => Cow::Owned(replaced),
        None => text,
    }
}

/// JSON with `\ufffd` in place of each half of a surrogate pair that is alone; `None` if there is
/// none.
fn without_half_pairs(text: &str) -> Option<String> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut replaced, mut kept, mut at) = (String::new(), 0, 0);
    while let Some(backslash) = text[at..].find('\\').map(|found| at + found) {
        let length = match (unit(backslash), unit(backslash + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                replaced.push_str(&text[kept..backslash]);
                replaced.push_str("\\ufffd");
                kept = backslash + 6;
                6
            }
            // An escape of one character, which may be a backslash itself.
            _ => 2,
        };
        at = backslash + length;
        if !text.is_char_boundary(at) {
            // The text after the backslash is no escape; the parser says so.
            at = backslash + 1;
        }
        if at >= text.len() {
            break;
        }
    }
    (kept > 0).then(|| replaced + &text[kept..])
}

/// Labels are only shown: what is no text is shown as the JSON that it is, null as nothing, and
/// labels that are no object are none. Each label is read as it comes, since there may be very
/// many.
fn shown_labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Labels;
    impl<'de> Visitor<'de> for Labels {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("labels")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut labels = BTreeMap::new();
            while let Some((key, value)) = map.next_entry::<String, Value>()? {
                let text = match value {
                    Value::Null => String::new(),
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                labels.insert(key, text);
            }
            Ok(labels)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(BTreeMap::new())
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }
    }
    deserializer.deserialize_any(Labels)
}

/// `text` as RFC 3339 in UTC, or `None` if it is no timestamp.
fn rfc3339(text: &str) -> Option<String> {
    text.parse::<jiff::Timestamp>().ok().map(|timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::digest::Algorithm;
    use crate::registry::documents::manifest::Descriptor;

    fn digest(text: &str) -> String {
        BlobDigest::of(Algorithm::Sha256, text.as_bytes()).to_string()
    }

    fn manifest() -> Manifest {
        let descriptor = |text: &str| Descriptor {
            digest: BlobDigest::of(Algorithm::Sha256, text.as_bytes()),
            size: 1,
            media_type: String::new(),
        };
        Manifest {
            media_type: String::new(),
            annotations: BTreeMap::new(),
            config: descriptor("c"),
            layers: vec![descriptor("1"), descriptor("2")],
        }
    }

    fn config() -> Value {
        json!({
            "created": "2024-05-01T10:00:00.5+02:00", "architecture": "amd64", "os": "linux",
            "config": {"Env": ["A=b"], "Cmd": "sh", "Entrypoint": null, "Volumes": {"/z": {}, "/a": {}},
                       "ExposedPorts": {"80/tcp": {}}, "User": "", "WorkingDir": "/w", "Labels": null},
            "rootfs": {"type": "layers", "diff_ids": [digest("d1"), digest("d2")]},
            "history": [{"created_by": "x"}]
        })
    }

    fn read_config(value: &Value) -> Result<(ConfigRecord, Vec<LayerDescriptor>), String> {
        parse_config(value.to_string().as_bytes(), &manifest())
    }

    #[test]
    fn a_config_is_read() {
        let (record, layers) = read_config(&config()).unwrap();
        assert_eq!(record.created.as_deref(), Some("2024-05-01T08:00:00.5Z"));
        assert_eq!(record.volumes.as_deref(), Some(&["/a".to_owned(), "/z".to_owned()][..]));
        assert_eq!(record.cmd.as_deref(), Some(&["sh".to_owned()][..]));
        assert_eq!((record.entrypoint, record.user), (None, None));
        assert_eq!(record.history_json.as_deref(), Some(r#"[{"created_by":"x"}]"#));
        assert_eq!(layers[1].diff_id.as_str(), digest("d2"));
    }

    #[test]
    fn what_is_only_shown_refuses_nothing_and_what_matters_is_strict() {
        let mut odd = config();
        odd["config"]["Labels"] = json!({"a": null, "b": 5, "c": "LATIN", "d": "HALF", "e": "\u{1f600}"});
        odd["history"] = json!([null, {"created_by": "LATIN", "comment": null, "author": "HALF"}]);
        odd["author"] = json!("LATIN HALF");
        odd["config"]["StopSignal"] = json!(15);
        let bytes = |config: &Value| {
            let text = config.to_string().replace("HALF", "\\ud83d").into_bytes();
            let mut bytes = Vec::new();
            for (index, part) in text.split(|&byte| byte == b'L').enumerate() {
                // `L` of LATIN becomes a byte of Latin-1; all other words here begin with another
                // letter.
                if index > 0 {
                    bytes.push(if part.starts_with(b"ATIN") { 0xe9 } else { b'L' });
                }
                bytes.extend_from_slice(part);
            }
            bytes
        };
        let (record, layers) = parse_config(&bytes(&odd), &manifest()).unwrap();
        let labels: Vec<(&str, &str)> =
            record.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let shown = [("a", ""), ("b", "5"), ("c", "\u{fffd}ATIN"), ("d", "\u{fffd}"), ("e", "\u{1f600}")];
        assert_eq!(labels, shown);
        assert_eq!(layers.len(), 2);
        assert!(record.history_json.unwrap().contains('\u{fffd}'));
        for labels in [Value::Null, json!([]), json!("x")] {
            odd["config"]["Labels"] = labels;
            assert!(parse_config(&bytes(&odd), &manifest()).unwrap().0.labels.is_empty());
        }
        for (pointer, value) in [
            ("/config/Env", json!(["A=LATIN"])),
            ("/config/Cmd", json!("HALF")),
            ("/config/WorkingDir", json!("/LATIN")),
            ("/config/User", json!("HALF")),
            ("/config/Volumes", json!({"/LATIN": {}})),
            ("/os", json!("LATIN")),
        ] {
            let mut wrong = config();
            *wrong.pointer_mut(pointer).unwrap() = value;
            let error = parse_config(&bytes(&wrong), &manifest()).unwrap_err();
            assert!(error.contains("is not UTF-8"), "{pointer}: {error}");
        }
        assert!(parse_config(b"{\"a\":\"\\", &manifest()).is_err());
        assert!(parse_config("{\"a\":\"\\\u{e9}\"}".as_bytes(), &manifest()).is_err());
        let pairs = r"\\ud83d \ud83d\ude00 \ude00 \u00e9 \ud83d";
        let mended = r"\\ud83d \ud83d\ude00 \ufffd \u00e9 \ufffd";
        assert_eq!(without_half_pairs(pairs).as_deref(), Some(mended));
    }

    #[test]
    fn a_config_that_does_not_fit_is_refused_and_garbage_dates_are_none() {
        let change = |pointer: &str, value: Value| {
            let mut config = config();
            *config.pointer_mut(pointer).unwrap() = value;
            read_config(&config)
        };
        assert!(
            change("/rootfs/diff_ids", json!([digest("d1")]))
                .unwrap_err()
                .contains("1 diff_ids for 2 layers")
        );
        assert!(change("/rootfs/diff_ids/0", json!("sha256:x")).unwrap_err().contains("diff_id"));
        assert!(change("/rootfs/type", json!("vm")).unwrap_err().contains("rootfs type"));
        assert!(change("/config/Env", json!("A=b")).is_err());
        for garbage in [json!("yesterday"), json!(5), Value::Null, json!("")] {
            assert_eq!(change("/created", garbage).unwrap().0.created, None);
        }
        assert!(parse_config(b"\x1f\x8b", &manifest()).unwrap_err().contains("not JSON"));
    }
}
