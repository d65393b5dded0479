//! Engines, kept blobs, and images without extracted layers, as files say them.

use super::*;
use crate::state::{EngineSettings, Targets};

/// All that tables of engines can say.
const TABLES: &str = r#"
[engine.podman]
[engine.containerd]
command = "./bin/ctr"
address = "run/c.sock"
namespace = "k8s.io"
snapshotter = "native"
[engine.microsandbox]
command = "~/bin/msb"
home = "~/sandboxes"
"#;

fn microsandbox() -> EngineSettings {
    EngineSettings {
        command: "/home/ann/bin/msb".to_owned(),
        home: Some(PathBuf::from("/home/ann/sandboxes")),
        ..EngineSettings::new(EngineName::Microsandbox)
    }
}

#[test]
fn tables_of_engines_mean_what_they_say() {
    let containerd = EngineSettings {
        command: "/etc/msb/bin/ctr".to_owned(),
        address: Some("/etc/msb/run/c.sock".to_owned()),
        namespace: Some("k8s.io".to_owned()),
        snapshotter: Some("native".to_owned()),
        ..EngineSettings::new(EngineName::Containerd)
    };
    let engines = vec![microsandbox(), containerd, EngineSettings::new(EngineName::Podman)];
    let targets = good(TABLES).settings.targets;
    assert_eq!(targets, Targets { extracts: true, keeps_blobs: true, keeps_earlier: 0, engines });

    let text =
        "[engine.containerd]\naddress = \"unix:///run/c.sock\"\n[engine.docker]\ncommand = \"nerdctl\"\n";
    let engines = good(text).settings.targets.engines;
    assert_eq!(engines[0].address.as_deref(), Some("/run/c.sock"));
    assert_eq!((engines[0].command.as_str(), engines[1].command.as_str()), ("ctr", "nerdctl"));
}

#[test]
fn blobs_are_kept_where_the_file_says_so_or_lists_an_engine() {
    for (text, extracts, keeps_blobs) in [
        ("", true, false),
        ("[settings]\nlayers = true\n", true, false),
        ("[settings]\nblobs = \"keep\"\n", true, true),
        ("[settings]\nblobs = \"discard\"\n", true, false),
        ("[settings]\nblobs = \"keep\"\nlayers = false\n", false, true),
        ("[engine.podman]\n", true, true),
        ("[settings]\nblobs = \"discard\"\n[engine.podman]\n", true, false),
        ("[settings]\nblobs = \"discard\"\nlayers = false\n[engine.podman]\n", false, false),
        ("[settings]\nlayers = false\n[engine.podman]\n", false, true),
    ] {
        let settings = good(text).settings;
        assert_eq!(
            (settings.targets.extracts, settings.targets.keeps_blobs),
            (extracts, keeps_blobs),
            "{text}"
        );
        assert_eq!(settings.layers, None, "{text}");
    }
}

#[test]
fn entries_choose_among_the_engines() {
    let file = good(
        r#"
[engine.podman]
[engine.docker]
[registry."docker.io"]
images = [
  "a",
  { name = "b", engines = ["docker", "podman", "docker"] },
  { name = "c", engines = [] },
  { name = "d", engines = ["podman"], tags = { newest = 1 } },
]
"#,
    );
    let engines = |index: usize| file.images[index].engines.clone();
    assert_eq!(engines(0), None);
    assert_eq!(engines(1), Some(BTreeSet::from([EngineName::Podman, EngineName::Docker])));
    assert_eq!(engines(2), Some(BTreeSet::new()));
    assert_eq!(file.selections[0].engines, Some(BTreeSet::from([EngineName::Podman])));

    let text = "[settings]\nlayers = false\nblobs = \"discard\"\n[engine.podman]\n\
                [registry.\"docker.io\"]\nimages = [{ name = \"a\", engines = [] }]\n";
    assert_eq!(
        brief(&bad(text)),
        ["6:35 the image has no place on this machine: no engine has it, and nothing else is kept \
          | name an engine, or leave out `layers = false`"]
    );
}

#[test]
fn the_machines_engines_count_where_the_file_has_none_of_their_name() {
    let machine = parse_machine(TABLES, &source()).unwrap();
    assert_eq!(machine.engines.len(), 3);
    let source = Source { machine: Some(&machine), directory: Path::new("/project"), ..source() };
    let text = "[settings]\nlayers = false\n[engine.containerd]\n[registry.\"docker.io\"]\n\
                images = [{ name = \"a\", engines = [\"podman\"] }]\n";
    let engines = parse(text, &source).unwrap().settings.targets.engines;
    let own = EngineSettings::new(EngineName::Containerd);
    assert_eq!(engines, [microsandbox(), own, EngineSettings::new(EngineName::Podman)], "as a whole");
    assert!(parse("", &source).unwrap().settings.targets.keeps_blobs);
}

#[test]
fn one_mistake_about_engines_makes_no_other() {
    for (text, expected) in [
        ("[settings]\nlayers = false\n[engine.podmen]\n", "3:9"),
        ("[settings]\nlayers = false\nblobs = \"keeep\"\n", "3:9"),
        (
            "[engine.podmen]\n[registry.\"docker.io\"]\nimages = [{ name = \"a\", engines = [\"podman\"] }]\n",
            "1:9",
        ),
        ("[settings]\nlayers = false\n[engine.podman\n", "3:15"),
    ] {
        let problems = brief(&bad(text));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(expected), "{problems:?}");
    }
}

#[test]
fn a_stranger_may_list_an_engine_and_say_nothing_of_it() {
    let source = Source { untrusted: true, ..source() };
    let text = "[settings]\nlayers = false\n[engine.podman]\n[engine.containerd]\nsnapshotter = \"native\"\n";
    assert_eq!(parse(text, &source).unwrap().settings.targets.engines.len(), 2);
    let problems = parse(TABLES, &source).unwrap_err();
    let places: Vec<_> = problems.iter().map(|problem| (problem.line(), problem.column())).collect();
    assert_eq!(places, [(4, 1), (5, 1), (6, 1), (9, 1), (10, 1)]);
}
