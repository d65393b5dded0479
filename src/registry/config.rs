//! Image configs: from hostile bytes to a record, and to layers that know their `diff_id`.
//!
//! What matters for correctness (`rootfs`) is checked strictly; a creation date that is no date is simply none.
//! Every failure is a text that says what is wrong; the caller adds which config and who served it.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use super::documents::{Manifest, json_error};
use super::failure::printable;
use crate::digest::{BlobDigest, DiffId};
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
    stop_signal: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
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
    let raw: RawConfig = serde_json::from_slice(bytes).map_err(|error| json_error(&error))?;
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
        stop_signal: filled(process.stop_signal),
        labels: process.labels.unwrap_or_default(),
        rootfs_type,
        history_json: raw.history.is_array().then(|| raw.history.to_string()),
    };
    Ok((record, layers))
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
    use crate::registry::documents::Descriptor;

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
