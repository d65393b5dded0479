//! Image configs: from hostile bytes to a record, and to layers that know their `diff_id`.
//!
//! All that matters for correctness (`rootfs`, and what a process is started with) is checked
//! strictly. All that is only shown refuses nothing: a creation date that is no date is none,
//! labels and history may have nulls, bytes that are not UTF-8 and halves of surrogate pairs (both
//! become U+FFFD, as for Go's readers), and what is too large of it is not recorded. Every
//! failure is a text that says what is wrong; the caller adds which config and who served it.
//!
//! Nothing large is taken apart before its size is known: a value of a few MiB of JSON can be
//! hundreds of MiB in memory.
//!
//! The raw forms are ours and not oci-spec's `ImageConfiguration`, which refuses what the contract
//! tolerates: a config without `os` or `architecture`, a null among the labels or in the history, a
//! `Cmd` that is one string.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::manifest::Manifest;
use super::recorded;
use crate::digest::{BlobDigest, DiffId};
use crate::registry::transport::{json_error, printable};
use crate::state::{ConfigRecord, LayerDescriptor};

/// The most that a config may say of the process it is for, in bytes of JSON: more environment and
/// arguments than a process can be started with.
const MAX_PROCESS: usize = 256 << 10;
/// The most entries that its lists may have together.
const MAX_PROCESS_ENTRIES: usize = 4096;
/// The largest list of `diff_ids`, in bytes of JSON: one of more layers than any image has.
const MAX_DIFF_IDS: usize = 256 << 10;
/// The longest media type that is recorded, in bytes.
const MAX_MEDIA_TYPE: usize = 255;

/// A config, of which nothing large is taken apart yet.
#[derive(Deserialize)]
struct RawConfig<'a> {
    #[serde(default, borrow)]
    created: Option<&'a RawValue>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, borrow)]
    config: Option<RawProcess<'a>>,
    #[serde(default, borrow)]
    rootfs: Option<RawRootfs<'a>>,
    #[serde(default, borrow)]
    history: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawRootfs<'a> {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default, borrow)]
    diff_ids: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawProcess<'a> {
    #[serde(default, borrow)]
    env: Option<&'a RawValue>,
    #[serde(default, borrow)]
    cmd: Option<&'a RawValue>,
    #[serde(default, borrow)]
    entrypoint: Option<&'a RawValue>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default, borrow)]
    stop_signal: Option<&'a RawValue>,
    #[serde(default, borrow)]
    labels: Option<&'a RawValue>,
    #[serde(default, borrow)]
    volumes: Option<&'a RawValue>,
    #[serde(default, borrow)]
    exposed_ports: Option<&'a RawValue>,
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
    let raw: RawConfig<'_> = serde_json::from_str(&text).map_err(|error| json_error(&error))?;
    let process = raw.process()?;
    let rootfs = raw.rootfs.ok_or_else(|| "it has no rootfs".to_owned())?;
    let rootfs_type = rootfs.kind.filter(|kind| !kind.is_empty()).unwrap_or_else(|| "layers".to_owned());
    if rootfs_type != "layers" {
        return Err(format!("its rootfs type {:?} is not \"layers\"", printable(&rootfs_type, 60)));
    }
    if rootfs.diff_ids.is_some_and(|list| list.get().len() > MAX_DIFF_IDS) {
        return Err("it has more diff_ids than any image has layers".to_owned());
    }
    let diff_ids: Vec<String> = part(rootfs.diff_ids)?.unwrap_or_default();
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
    let (stop_signal, labels) =
        raw.config.as_ref().map_or((None, None), |process| (process.stop_signal, process.labels));
    let short = |media_type: &&str| media_type.len() <= MAX_MEDIA_TYPE;
    let record = ConfigRecord {
        digest: manifest.config.digest.clone(),
        media_type: Some(&*manifest.config.media_type).filter(short).unwrap_or_default().into(),
        created: recorded::word(raw.created).as_deref().and_then(rfc3339),
        architecture: raw.architecture.unwrap_or_default(),
        os: raw.os.unwrap_or_default(),
        variant: filled(raw.variant),
        env: process.env,
        cmd: process.cmd,
        working_dir: process.working_dir,
        entrypoint: process.entrypoint,
        volumes: process.volumes,
        exposed_ports: process.exposed_ports,
        user: process.user,
        stop_signal: filled(recorded::word(stop_signal)),
        labels: recorded::labels(labels),
        rootfs_type,
        history_json: recorded::history(raw.history),
    };
    if matches!(text, Cow::Owned(_)) {
        check_what_matters(&record)?;
    }
    Ok((record, layers))
}

/// The part of a config that a process is started with.
struct Process {
    env: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    volumes: Option<Vec<String>>,
    exposed_ports: Option<Vec<String>>,
}

impl RawConfig<'_> {
    /// Reads what a process is started with, where that is not too much.
    fn process(&self) -> Result<Process, String> {
        let nothing = RawProcess::default();
        let raw = self.config.as_ref().unwrap_or(&nothing);
        let lists = [raw.env, raw.cmd, raw.entrypoint, raw.volumes, raw.exposed_ports];
        let words = [&self.architecture, &self.os, &self.variant, &raw.working_dir, &raw.user];
        let size = lists.into_iter().flatten().map(|list| list.get().len()).sum::<usize>()
            + words.into_iter().flatten().map(String::len).sum::<usize>();
        if size > MAX_PROCESS {
            let limit = MAX_PROCESS >> 10;
            return Err(format!("what it says of its process is larger than {limit} KiB"));
        }
        let words = |list| Ok::<_, String>(part::<Words>(list)?.map(Into::into));
        let process = Process {
            env: part(raw.env)?,
            cmd: words(raw.cmd)?,
            entrypoint: words(raw.entrypoint)?,
            working_dir: filled(raw.working_dir.clone()),
            user: filled(raw.user.clone()),
            volumes: keys(raw.volumes)?,
            exposed_ports: keys(raw.exposed_ports)?,
        };
        let Process { env, cmd, entrypoint, volumes, exposed_ports, .. } = &process;
        let lists = [env, cmd, entrypoint, volumes, exposed_ports];
        if lists.into_iter().flatten().map(Vec::len).sum::<usize>() > MAX_PROCESS_ENTRIES {
            return Err(format!("its lists have more than {MAX_PROCESS_ENTRIES} entries"));
        }
        Ok(process)
    }
}

/// Reads a part of a config, if it is there.
fn part<T: DeserializeOwned>(raw: Option<&RawValue>) -> Result<Option<T>, String> {
    raw.map_or(Ok(None), |raw| serde_json::from_str(raw.get()).map_err(|error| json_error(&error)))
}

/// Reads the keys of an object, sorted.
fn keys(raw: Option<&RawValue>) -> Result<Option<Vec<String>>, String> {
    let map: Option<BTreeMap<String, &RawValue>> =
        raw.map_or(Ok(None), |raw| serde_json::from_str(raw.get()).map_err(|error| json_error(&error)))?;
    Ok(map.map(|map| map.into_keys().collect()))
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Refuses replaced bytes in what is more than shown.
fn check_what_matters(record: &ConfigRecord) -> Result<(), String> {
    let word = |word: Option<&String>| word.is_some_and(|word| word.contains(REPLACED));
    let list = |list: &Option<Vec<String>>| list.iter().flatten().any(|word| word.contains(REPLACED));
    let fields = [
        ("architecture", word(Some(&record.architecture))),
        ("os", word(Some(&record.os))),
        ("variant", word(record.variant.as_ref())),
        ("Env", list(&record.env)),
        ("Cmd", list(&record.cmd)),
        ("Entrypoint", list(&record.entrypoint)),
        ("WorkingDir", word(record.working_dir.as_ref())),
        ("User", word(record.user.as_ref())),
        ("Volumes", list(&record.volumes)),
        ("ExposedPorts", list(&record.exposed_ports)),
    ];
    match fields.iter().find(|(_, replaced)| *replaced) {
        Some((name, _)) => Err(format!("its {name} is not UTF-8")),
        None => Ok(()),
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

/// `text` as RFC 3339 in UTC, or `None` if it is no timestamp.
fn rfc3339(text: &str) -> Option<String> {
    text.parse::<jiff::Timestamp>().ok().map(|timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
            annotations: None,
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
        assert_eq!(*layers[1].diff_id.text(), *digest("d2"));
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
        let labels: Vec<(&str, &str)> = record.labels.iter().collect();
        let shown = [("a", ""), ("b", "5"), ("c", "\u{fffd}ATIN"), ("d", "\u{fffd}"), ("e", "\u{1f600}")];
        assert_eq!(labels, shown);
        assert_eq!(layers.len(), 2);
        assert!(record.history_json.unwrap().contains('\u{fffd}'));
        for labels in [Value::Null, json!([]), json!("x")] {
            odd["config"]["Labels"] = labels;
            assert!(parse_config(&bytes(&odd), &manifest()).unwrap().0.labels.iter().next().is_none());
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
        let env = change("/config/Env", json!(["x".repeat(MAX_PROCESS)])).unwrap_err();
        assert!(env.contains("larger than 256 KiB"), "{env}");
        let cmd = change("/config/Cmd", json!(vec![""; MAX_PROCESS_ENTRIES])).unwrap_err();
        assert!(cmd.contains("more than 4096 entries"), "{cmd}");
        let layers = change("/rootfs/diff_ids", json!(vec![""; MAX_DIFF_IDS])).unwrap_err();
        assert!(layers.contains("more diff_ids"), "{layers}");
    }
}
