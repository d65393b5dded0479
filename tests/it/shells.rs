//! Completions in the real shells: each loads its script as a user's does, and is asked what it would offer.

use std::fs;

use crate::support::moving::Moving;
use crate::support::sandbox::Sandbox;
use crate::support::tree::Tree;

/// A home with `team/app:1` recorded, which meant something else before, and files to complete.
fn world() -> (Sandbox, String, String) {
    let world = Moving::new("");
    let earlier = world.applied(&["v1", "v2"]).remove(0);
    let reference = world.name();
    let sandbox = world.sandbox;
    let grouped =
        "[registry.\"docker.io\"]\nimages = [{ name = \"nginx\", tag = \"1\", groups = [\"website\"] }]\n";
    sandbox.write("other.toml", grouped);
    for name in ["notes.txt", "my file.toml", "deep/inner.toml"] {
        sandbox.write(name, "");
    }
    (sandbox, reference, earlier)
}

/// The lines that stand there after a tab has been pressed behind each of `lines`, in a shell as a user has it.
fn completed(sandbox: &Sandbox, shell: &str, lines: &[String]) -> Vec<String> {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_msb-sync"));
    // Shells call it by its name.
    let path = format!("{}:{}", binary.parent().unwrap().display(), crate::support::path());
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/shell.py");
    let run = sandbox.program("python3", &["-B", driver, shell]).env("PATH", path).env("TERM", "xterm");
    let lines: String = lines.iter().flat_map(|line| ["msb-sync ", line, "\n"]).collect();
    let output = run.stdin(lines).run().success();
    let typed = output.stdout.lines().map(|line| line.strip_prefix("msb-sync ").unwrap_or(line).to_owned());
    typed.collect()
}

#[test]
fn bash_zsh_and_fish_complete_commands_options_files_groups_and_references() {
    let (sandbox, reference, earlier) = world();
    let (host, rest) = reference.split_once('/').unwrap();
    let cases = [
        ("appl".to_owned(), "apply ".to_owned()),
        ("trust".to_owned(), "trust-root ".to_owned()),
        ("plan --detailed".to_owned(), "plan --detailed-exitcode ".to_owned()),
        ("list --color=al".to_owned(), "list --color=always ".to_owned()),
        ("apply oth".to_owned(), "apply other.toml ".to_owned()),
        ("apply my".to_owned(), "apply my\\ file.toml ".to_owned()),
        ("apply de".to_owned(), "apply deep/".to_owned()),
        ("apply deep/".to_owned(), "apply deep/inner.toml ".to_owned()),
        ("apply other.toml --group web".to_owned(), "apply other.toml --group website ".to_owned()),
        ("lock other.toml --upgrade ngi".to_owned(), "lock other.toml --upgrade nginx:1 ".to_owned()),
        ("pull --file other.toml @w".to_owned(), "pull --file other.toml @website ".to_owned()),
        ("inspect 127".to_owned(), format!("inspect {reference} ")),
        (format!("inspect {host}/te"), format!("inspect {reference} ")),
        (format!("verify {host}/{}", rest.split(':').next().unwrap()), format!("verify {reference} ")),
        (format!("rollback {reference} --to sha"), format!("rollback {reference} --to {earlier} ")),
        (
            format!("rollback {reference} --to {}", &earlier[7..12]),
            format!("rollback {reference} --to {} ", &earlier[7..]),
        ),
        (format!("forget {host}/{}:", rest.split(':').next().unwrap()), format!("forget {reference} ")),
    ];
    let lines = cases.clone().map(|(line, _)| line);
    let expected = cases.map(|(_, expected)| expected);
    std::thread::scope(|scope| {
        for shell in ["bash", "zsh", "fish"] {
            let (sandbox, lines, expected) = (&sandbox, &lines, &expected);
            scope.spawn(move || assert_eq!(completed(sandbox, shell, lines), expected, "{shell}"));
        }
    });
}

#[test]
fn zsh_takes_the_script_from_its_function_path_too() {
    let (sandbox, ..) = world();
    let script = sandbox.msb("completions zsh").run().success().stdout;
    assert!(script.starts_with("#compdef msb-sync\n"), "{script}");
    // Loaded as a function, it completes at once instead of only registering itself.
    assert!(script.contains("funcstack[1] == _msb-sync"), "{script}");
    for shell in ["elvish", "powershell"] {
        assert!(sandbox.msb(&format!("completions {shell}")).run().success().stdout.contains("trust-root"));
    }
}

#[test]
fn a_question_of_a_shell_leaves_no_trace_and_says_nothing_of_failures() {
    let (sandbox, reference, _) = world();
    let ask = |word: &str, home: &str| {
        let run = sandbox.msb("__complete fish -- msb-sync inspect").arg(word).env("MICROSANDBOX_HOME", home);
        let output = run.run().success();
        assert_eq!(output.stderr, "", "{output}");
        output.stdout
    };
    let before = Tree::snapshot(sandbox.root());
    assert_eq!(ask("127", ""), format!("{reference}\n"));
    assert_eq!(ask("127", "nowhere"), "");
    before.assert_matches(&Tree::snapshot(sandbox.root()), "a question");
    // A catalog that is none, and a broken images file.
    fs::write(sandbox.home().join("oci.db"), "no database").unwrap();
    sandbox.images("nonsense");
    assert_eq!(ask("127", ""), "");
    let groups = sandbox.msb("__complete bash -- msb-sync apply --group").arg("").run().success();
    assert_eq!((groups.stdout.as_str(), groups.stderr.as_str()), ("", ""));
}
