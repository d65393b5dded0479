//! The examples for systemd and Kubernetes: their words are those that systemd and Kubernetes know, and what they
//! start works as they expect it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::check::listed;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Run, Sandbox};
use crate::support::watching::{LIMIT, Watching};

const PROGRAM: &str = "/usr/local/bin/msb-sync";
const FILE: &str = "/etc/msb-sync/images.toml";
const HOME: &str = "/var/lib/microsandbox";

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Keys and values of a unit file, by section; a key may occur more than once.
fn unit(name: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in example(&format!("systemd/{name}")).lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            found.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{name}: {line}");
        }
    }
    found
}

/// The command line of an example, with its places in the sandbox, on an image that needs no network.
fn started(sandbox: &Sandbox, arguments: &[String]) -> Run {
    let mut content = BlobSet::default();
    let image = content.image(&Image::new(&[Layer::of(&[file("f", "x")])]));
    content.write_layout(&sandbox.work().join("oci"), &[("app:1", &image)]);
    sandbox.images("[registry.\"vendored.local\"]\nlayout = \"oci\"\nimages = [\"app:1\"]\n");
    let (mut file, mut home) = (false, false);
    let mut run = sandbox.msb("--json");
    for argument in arguments {
        run = match argument.as_str() {
            FILE => {
                file = true;
                run.arg(sandbox.work().join("images.toml"))
            }
            HOME => {
                home = true;
                run.arg(sandbox.home())
            }
            // Somebody may have that port.
            address if address.ends_with(":9798") => run.arg(address.replace(":9798", ":0")),
            other => run.arg(other),
        };
    }
    assert!(file && home, "other places: {arguments:?}");
    run
}

#[test]
fn the_units_are_what_systemd_knows() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let names = ["msb-sync.service", "msb-sync-apply.service", "msb-sync-apply.timer"];
    for name in names {
        // The program is not installed here.
        let text = example(&format!("systemd/{name}")).replace(PROGRAM, env!("CARGO_BIN_EXE_msb-sync"));
        fs::write(directory.path().join(name), text).unwrap();
    }
    let analyze = |arguments: &[&str]| {
        Command::new("systemd-analyze").args(arguments).current_dir(directory.path()).output()
    };
    let Ok(output) = analyze(&[&["verify", "--man=no", "--recursive-errors=no"], &names[..]].concat()) else {
        use std::io::Write as _;
        // Seen without --nocapture too. The other tests read the units themselves.
        let _ = writeln!(std::io::stderr(), "needs systemd-analyze: the units were NOT checked by systemd");
        return;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("msb-sync"), "{text}");
    // 100 is no protection at all; most services of a distribution have more than 90.
    let output = analyze(&["security", "--offline=true", "--threshold=25", "./msb-sync.service"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}

#[test]
fn the_service_starts_reloads_and_stops_as_its_unit_says() {
    let unit = unit("msb-sync.service");
    let value = |key: &str| {
        let values = unit.get(&("Service".to_owned(), key.to_owned())).unwrap_or_else(|| panic!("no {key}"));
        values.join(" ")
    };
    assert_eq!(value("Type"), "notify");
    assert_eq!(value("SuccessExitStatus"), "143");
    assert_eq!(value("ExecReload"), "/bin/kill -HUP $MAINPID");
    assert!(value("WatchdogSec").parse::<u32>().unwrap() >= 10);
    assert_eq!(format!("/var/lib/{}", value("StateDirectory")), HOME);
    let command: Vec<String> = value("ExecStart").split(' ').map(str::to_owned).collect();
    assert_eq!(command[0], PROGRAM);

    let sandbox = Sandbox::new();
    let path = sandbox.root().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let running = started(&sandbox, &command[1..]).env("NOTIFY_SOCKET", &path).spawn();
    let hears = |part: &str| loop {
        let mut buffer = [0; 4096];
        let count = socket.recv(&mut buffer).unwrap_or_else(|_| panic!("never {part}"));
        if String::from_utf8_lossy(&buffer[..count]).contains(part) {
            break;
        }
    };
    hears("READY=1");
    assert_eq!(listed(&sandbox).len(), 1);
    running.signal(Signal::HUP);
    hears("RELOADING=1");
    hears("READY=1");
    running.signal(Signal::TERM);
    running.wait().code(143);
}

#[test]
fn the_timer_starts_a_service_that_applies() {
    let timer = unit("msb-sync-apply.timer");
    assert!(timer.contains_key(&("Timer".to_owned(), "OnCalendar".to_owned())));
    let service = unit("msb-sync-apply.service");
    let value = |key: &str| service[&("Service".to_owned(), key.to_owned())].join(" ");
    assert_eq!(value("Type"), "oneshot");
    let command: Vec<String> = value("ExecStart").split(' ').map(str::to_owned).collect();
    assert_eq!(command[0], PROGRAM);
    let sandbox = Sandbox::new();
    let output = started(&sandbox, &command[1..]).run().success();
    assert_eq!(output.summary()["added"], 1, "{output}");
}

// ---------------------------------------------------------------------------------------------- Kubernetes

/// The fields of the API that the example uses. What is not here is refused, so that a word that Kubernetes would
/// drop, or refuse, shows.
fn schema(kind: &str) -> Value {
    let text = || json!({"type": "string"});
    let number = || json!({"type": "integer"});
    let flag = || json!({"type": "boolean"});
    let texts = || json!({"type": "array", "items": text()});
    let map = || json!({"type": "object", "additionalProperties": text()});
    let object = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let list = |items: Value| json!({"type": "array", "items": items});
    let one_of = |words: &[&str]| json!({"type": "string", "enum": words});
    let metadata =
        object(json!({"name": text(), "namespace": text(), "labels": map(), "annotations": map()}), &[]);
    let named = object(json!({"name": text(), "namespace": text(), "labels": map()}), &["name"]);
    let probe = object(
        json!({
            "httpGet": object(json!({"path": text(), "port": text(), "scheme": text()}), &["port"]),
            "periodSeconds": number(), "timeoutSeconds": number(), "failureThreshold": number(),
        }),
        &[],
    );
    let container = object(
        json!({
            "name": text(), "image": text(), "args": texts(),
            "ports": list(object(json!({"name": text(), "containerPort": number()}), &["containerPort"])),
            "readinessProbe": probe, "livenessProbe": probe,
            "resources": object(json!({"requests": map(), "limits": map()}), &[]),
            "securityContext": object(
                json!({
                    "allowPrivilegeEscalation": flag(), "readOnlyRootFilesystem": flag(),
                    "capabilities": object(json!({"drop": texts(), "add": texts()}), &[]),
                    "seccompProfile": object(json!({"type": one_of(&["RuntimeDefault", "Localhost", "Unconfined"])}), &["type"]),
                }),
                &[],
            ),
            "volumeMounts": list(object(
                json!({"name": text(), "mountPath": text(), "readOnly": flag()}),
                &["name", "mountPath"],
            )),
        }),
        &["name"],
    );
    let volume = object(
        json!({
            "name": text(),
            "configMap": object(json!({"name": text()}), &[]),
            "hostPath": object(
                json!({"path": text(), "type": one_of(&["", "DirectoryOrCreate", "Directory"])}),
                &["path"],
            ),
        }),
        &["name"],
    );
    let pod = object(
        json!({
            "automountServiceAccountToken": flag(), "terminationGracePeriodSeconds": number(),
            "containers": list(container), "volumes": list(volume),
        }),
        &["containers"],
    );
    let spec = object(
        json!({
            "selector": object(json!({"matchLabels": map()}), &[]),
            "updateStrategy": object(json!({"type": one_of(&["RollingUpdate", "OnDelete"])}), &[]),
            "template": object(json!({"metadata": metadata, "spec": pod}), &[]),
        }),
        &["selector", "template"],
    );
    let (version, more) = match kind {
        "Namespace" => ("v1", json!({})),
        "ConfigMap" => ("v1", json!({"data": map()})),
        "DaemonSet" => ("apps/v1", json!({"spec": spec})),
        other => panic!("no schema of {other}"),
    };
    let mut properties =
        json!({"apiVersion": one_of(&[version]), "kind": one_of(&[kind]), "metadata": named});
    properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object(properties, &["apiVersion", "kind", "metadata"])
}

/// What is wrong with `value` by a schema of the few words that are used above.
fn problems(value: &Value, schema: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    let right = match schema["type"].as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        _ => value.is_boolean(),
    };
    if !right || schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return vec![format!("{at}: {value} is not {schema}")];
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(problems(item, &schema["items"], &format!("{at}[{index}]")));
    }
    for (key, item) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{key}");
        match (&schema["properties"][key], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => found.push(format!("{at} is unknown")),
            (Value::Null, others) => found.extend(problems(item, others, &at)),
            (known, _) => found.extend(problems(item, known, &at)),
        }
    }
    for key in schema["required"].as_array().into_iter().flatten() {
        if value[key.as_str().unwrap()].is_null() {
            found.push(format!("{at}.{} is missing", key.as_str().unwrap()));
        }
    }
    found
}

/// The manifests of the example, each with the directory that msb-sync has on its node.
const MANIFESTS: [(&str, &str); 2] = [("msb-sync", HOME), ("containerd", "/var/lib/msb-sync")];

/// The objects of one manifest of the example, by their kind.
fn objects(manifest: &str) -> BTreeMap<String, Value> {
    let text = example(&format!("kubernetes/{manifest}.yaml"));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    documents.into_iter().map(|object| (object["kind"].as_str().unwrap().to_owned(), object)).collect()
}

#[test]
fn the_objects_are_what_kubernetes_knows() {
    for (manifest, home) in MANIFESTS {
        check_objects(manifest, home);
    }
    // The checks find what is wrong.
    let mut wrong = objects("msb-sync")["DaemonSet"].clone();
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = json!({});
    wrong["spec"]["template"]["spec"]["volumes"][0].as_object_mut().unwrap().remove("name");
    wrong["spec"]["updateStrategy"]["type"] = json!("Recreate");
    assert_eq!(problems(&wrong, &schema("DaemonSet"), "").len(), 3);
}

fn check_objects(manifest: &str, home: &str) {
    let objects = objects(manifest);
    assert_eq!(objects.keys().collect::<Vec<_>>(), ["ConfigMap", "DaemonSet", "Namespace"]);
    for (kind, object) in &objects {
        let found = problems(object, &schema(kind), kind);
        assert!(found.is_empty(), "{found:#?}");
    }
    let (config, set) = (&objects["ConfigMap"], &objects["DaemonSet"]);
    let namespace = &objects["Namespace"]["metadata"]["name"];
    assert!(config["metadata"]["namespace"] == *namespace && set["metadata"]["namespace"] == *namespace);
    let (spec, pod) = (&set["spec"], &set["spec"]["template"]["spec"]);
    assert_eq!(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]);
    let container = &pod["containers"][0];
    let port = &container["ports"][0];
    for probe in ["readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], port["name"], "{probe}");
    }
    let annotated = &spec["template"]["metadata"]["annotations"]["prometheus.io/port"];
    assert_eq!(annotated.as_str().unwrap(), port["containerPort"].to_string());
    // Each mount has its volume, and each file that the arguments name its mount.
    let volume = |mount: &Value| {
        let volumes = pod["volumes"].as_array().unwrap().iter();
        volumes.into_iter().find(|volume| volume["name"] == mount["name"]).unwrap().clone()
    };
    let mounts: BTreeMap<PathBuf, Value> = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| (mount["mountPath"].as_str().unwrap().into(), volume(mount)))
        .collect();
    assert_eq!(mounts[Path::new(home)]["hostPath"]["path"], home);
    assert_eq!(container["args"][1], home);
    let of_file = &mounts[Path::new(FILE).parent().unwrap()];
    assert_eq!(of_file["configMap"]["name"], config["metadata"]["name"]);
    assert!(config["data"][Path::new(FILE).file_name().unwrap().to_str().unwrap()].is_string());
}

#[test]
fn the_images_files_of_the_config_maps_are_valid() {
    for (manifest, _) in MANIFESTS {
        let sandbox = Sandbox::new();
        let config = &objects(manifest)["ConfigMap"];
        sandbox.images(config["data"]["images.toml"].as_str().unwrap());
        // Without the network everything is blocked; a mistake in the file would be exit 2.
        let output = sandbox.msb("plan --offline --json").run().code(1);
        let plan = output.json();
        let images = plan["images"].as_array().unwrap();
        assert_eq!(images.len(), 2, "{output}");
        assert!(images.iter().all(|image| image["action"] == "blocked"), "{output}");
    }
}

#[test]
fn the_container_does_what_its_probes_ask_for() {
    let container = objects("msb-sync")["DaemonSet"]["spec"]["template"]["spec"]["containers"][0].clone();
    let arguments = container["args"].as_array().unwrap().iter();
    let arguments: Vec<String> = arguments.map(|argument| argument.as_str().unwrap().to_owned()).collect();
    let sandbox = Sandbox::new();
    let watching = Watching::started(started(&sandbox, &arguments));
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    let address = address.replace("0.0.0.0", "127.0.0.1");
    for probe in ["readinessProbe", "livenessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().unwrap();
        let url = format!("http://{address}{path}");
        crate::support::tool(sandbox.root(), "curl", &["--silent", "--show-error", "--fail", &url]);
    }
    watching.stop();
}

/// Builds the image of the Containerfile on a base that is made of this machine's own files, since a test asks no
/// registry: with `ctr` and trusted roots there, nothing is installed.
#[test]
fn the_containerfile_makes_an_image_that_runs() {
    const SCRIPT: &str = r#"
set -eu
mkdir base context
libraries=$(ldd "$1" "$(command -v ctr)" /bin/sh | grep -o '/[^ ]*' | grep -v ':$' | sort -u)
cp -L --parents /bin/sh /etc/ssl/certs/ca-certificates.crt $libraries base/
mkdir -p base/usr/bin
cp -L "$(command -v ctr)" base/usr/bin/ctr
strip -o context/msb-sync "$1"
buildah() { command buildah --storage-driver vfs --root "$PWD/graph" --runroot "$PWD/run" "$@"; }
container=$(buildah from scratch)
buildah copy --quiet "$container" base / >&2
buildah commit --quiet "$container" localhost/base:1 >&2
buildah build --quiet --isolation chroot --pull=never --build-arg BASE=localhost/base:1 \
  --file "$2" --tag localhost/msb-sync:1 context >&2
container=$(buildah from --pull=never localhost/msb-sync:1)
buildah inspect --format '{{.OCIv1.Config.Entrypoint}}' "$container"
echo
buildah run --isolation chroot "$container" -- /usr/local/bin/msb-sync --version
buildah run --isolation chroot "$container" -- /bin/sh -c 'command -v ctr'
"#;
    let sandbox = Sandbox::new();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes/Containerfile");
    let output = sandbox
        .program("sh", &["-c", SCRIPT, "sh", env!("CARGO_BIN_EXE_msb-sync"), file.to_str().unwrap()])
        .run()
        .success();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "[/usr/local/bin/msb-sync]", "{output}");
    assert!(lines[1].starts_with(concat!("msb-sync ", env!("CARGO_PKG_VERSION"))), "{output}");
    assert_eq!(lines[2], "/usr/bin/ctr", "{output}");
}

/// Builds the Debian package of the tested binary, and installs it below a directory.
#[test]
fn the_debian_package_has_what_it_promises_and_installs() {
    const SCRIPT: &str = r#"
set -eu
strip -o msb-sync "$2"
package=$("$1/examples/debian/build" "$PWD/msb-sync")
mkdir -p root/var/lib/dpkg/updates root/var/lib/dpkg/info
: >root/var/lib/dpkg/status
: >root/var/lib/dpkg/available
dpkg --root="$PWD/root" --force-depends --force-script-chrootless --force-not-root \
  --log=dpkg.log --install "$package" >&2
dpkg-deb --field "$package" Package Version Depends
cd root && find etc usr -type f | sort
"#;
    if Command::new("cargo-deb").arg("--version").output().is_err() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "needs cargo-deb: the Debian package was NOT built");
        return;
    }
    let sandbox = Sandbox::new();
    let script = ["-c", SCRIPT, "sh", env!("CARGO_MANIFEST_DIR"), env!("CARGO_BIN_EXE_msb-sync")];
    // Where rustup keeps its settings.
    let home = std::env::var("HOME").unwrap_or_default();
    let output = sandbox.program("sh", &script).env("HOME", home).run().success();
    for part in [
        concat!("Version: ", env!("CARGO_PKG_VERSION")),
        "libc6",
        "etc/msb-sync/registries.toml\n",
        "usr/bin/msb-sync\n",
        "usr/lib/systemd/system/msb-sync.service\n",
        "usr/lib/sysusers.d/msb-sync.conf\n",
        "usr/share/bash-completion/completions/msb-sync\n",
        "usr/share/fish/vendor_completions.d/msb-sync.fish\n",
        "usr/share/man/man1/msb-sync.1.gz\n",
        "usr/share/man/man1/msb-sync-apply.1.gz\n",
        "usr/share/zsh/vendor-completions/_msb-sync\n",
    ] {
        assert!(output.stdout.contains(part), "no {part} in\n{output}");
    }
}
