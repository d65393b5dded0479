//! The documentation tells the truth: its commands are run, its links followed, its images files planned.
//!
//! Every ```` ```console ```` block of the Markdown files is run, a document at a time, in one shell that
//! starts in a copy of the examples. `msb-sync …` and `cargo run --release -- …` are the built binary. Lines
//! below a command are what it must print, `...` standing for any lines. The commands of a block followed by
//! `<!-- needs: network -->` are only parsed: the binary gets `--help` after their arguments, which fails
//! where a command or a flag does not exist. Other cargo commands are checked against a list.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_msb-sync");

/// The developer's cargo commands that the docs may name; none is run, since a test must not wait for cargo.
const CARGO_COMMANDS: &[&str] = &[
    "build",
    "test",
    "test --lib plan::",
    "test --test it docs::",
    "test --lib fuzzing::",
    "install cargo-fuzz",
    "+nightly fuzz run --fuzz-dir tests/fuzz layer target/fuzz tests/fuzz/corpus/layer -- \
     -dict=tests/fuzz/dictionaries/layer -max_total_time=600",
    "fmt --check",
    "clippy --all-targets --locked -- -D warnings",
    "install --path .",
    "bench --bench layers",
    "bench --bench planner",
    "bench --bench catalog",
];

/// Programs that only look, or write below the document's own copy.
const PROGRAMS: &[&str] = &[
    "msb-sync",
    "cargo",
    "cd",
    "cp",
    "echo",
    "mkdir",
    "ls",
    "cat",
    "find",
    "getfattr",
    "sqlite3",
    "python3",
    ".ci/run",
    "tests/run",
    "msb",
    "ctr",
    "podman",
];

/// The engines, in whose place a script takes what they would take.
const ENGINES: [&str; 4] = ["msb", "ctr", "podman", "docker"];

const NETWORK: &str = "<!-- needs: network -->";
/// Between the outputs of two commands; ASCII's record separator, which no text output has.
const SEPARATOR: char = '\u{1e}';

// ------------------------------------------------------------------------------------------ reading Markdown

/// A fenced block of a Markdown file.
#[derive(Debug)]
struct Block {
    language: String,
    /// Line number of the first line of its content, and the content.
    start: usize,
    lines: Vec<String>,
    needs_network: bool,
}

/// A command of a console block and the output that the document shows for it.
#[derive(Debug, PartialEq)]
struct Step {
    line: usize,
    command: String,
    shown: Vec<String>,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let lines: Vec<&str> = markdown.lines().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let Some(language) = lines[at].strip_prefix("```") else {
            at += 1;
            continue;
        };
        let start = at + 1;
        let length = lines[start..].iter().position(|line| *line == "```").expect("a fence is not closed");
        let after = lines[start + length + 1..].iter().find(|line| !line.trim().is_empty());
        found.push(Block {
            language: language.to_owned(),
            start: start + 1,
            lines: lines[start..start + length].iter().map(ToString::to_string).collect(),
            needs_network: after.is_some_and(|line| line.trim() == NETWORK),
        });
        at = start + length + 1;
    }
    found
}

fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (offset, line) in block.lines.iter().enumerate() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { line: block.start + offset, command: command.to_owned(), shown: Vec::new() });
        } else {
            let step = steps.last_mut().expect("a console block starts with `$ `");
            step.shown.push(line.clone());
        }
    }
    steps
}

/// Whether `printed` is what `shown` says, `...` standing for any number of lines.
fn agrees(shown: &[String], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=printed.len()).any(|skipped| agrees(rest, &printed[skipped..]))
        }
        Some((first, rest)) => {
            printed.split_first().is_some_and(|(line, others)| line == first && agrees(rest, others))
        }
    }
}

// --------------------------------------------------------------------------------------- where commands run

/// A copy of what the docs talk about, with a home of its own and shims for the programs.
struct World {
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        // Below the target directory: a /tmp in memory may have no user xattrs, which the quickstart shows.
        let directory =
            TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("cannot make a temporary directory");
        let world = Self { directory };
        for folder in ["home", "shims", "copy/.ci", "copy/tests"] {
            fs::create_dir_all(world.path(folder)).expect("cannot make a directory");
        }
        copy_tree(&repository().join("examples"), &world.path("copy/examples"));
        copy_tree(&repository().join("images.toml"), &world.path("copy/images.toml"));
        // Keys that the docs name beside their images files.
        for key in ["cosign.pub", "cosign-next.pub", "ca.pem"] {
            copy_tree(&repository().join("examples/trust").join(key), &world.path("copy").join(key));
        }
        copy_tree(&repository().join("benches"), &world.path("copy/benches"));
        copy_tree(&repository().join("docs"), &world.path("copy/docs"));
        let known: String = CARGO_COMMANDS.iter().fold(String::new(), |mut text, command| {
            let _ = write!(text, "'{command}') exit 0 ;;\n  ");
            text
        });
        world.program(
            "shims/msb-sync",
            "[ -z \"$DOCS_NEEDS_NETWORK\" ] || exec \"$DOCS_BINARY\" \"$@\" --help >/dev/null\n\
             exec \"$DOCS_BINARY\" \"$@\"",
        );
        world.program(
            "shims/cargo",
            &format!(
                "case \"$*\" in\n  'run --release -- '*) shift 3; exec msb-sync \"$@\" ;;\n  {known}*) \
                 echo \"not in CARGO_COMMANDS: cargo $*\" >&2; exit 64 ;;\nesac"
            ),
        );
        let engine = repository().join("tests/it/support/engine.py");
        for name in ENGINES {
            symlink(&engine, world.path("shims").join(name)).expect("cannot make a link");
        }
        for script in [".ci/run", "tests/run"] {
            let checks = fs::metadata(repository().join(script)).expect(script);
            assert!(checks.permissions().mode() & 0o111 == 0o111, "{script} is not executable");
            world.program(&format!("copy/{script}"), "exit 0");
        }
        world
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    fn program(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("cannot write a shim");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("cannot make it executable");
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
        Command::new("timeout")
            .args(["-k", "5", "120", program])
            .args(arguments)
            .current_dir(self.path("copy"))
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:{path}", self.path("shims").display()))
            .env("HOME", self.path("home"))
            .env("MICROSANDBOX_HOME", self.path("home/msb"))
            .env("DOCS_BINARY", BINARY)
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .output()
            .expect("cannot run coreutils' timeout")
    }

    /// `msb-sync plan --json` of an images file with this text, laid beside the repository's own.
    fn plan(&self, name: &str, text: &str) -> Output {
        fs::write(self.path("copy").join(name), text).expect("cannot write an images file");
        self.run(BINARY, &["--json", "plan", name])
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn copy_tree(from: &Path, to: &Path) {
    let kind = fs::symlink_metadata(from).expect("nothing to copy").file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(from).expect("cannot read a link"), to).expect("cannot make a link");
    } else if kind.is_dir() {
        fs::create_dir(to).expect("cannot make a directory");
        for entry in fs::read_dir(from).expect("cannot list a directory") {
            let name = entry.expect("cannot list a directory").file_name();
            copy_tree(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::copy(from, to).expect("cannot copy a file");
    }
}

/// Every Markdown file at the top, in `docs/` and below `examples/`, by its path below the repository, with its text.
fn documents() -> Vec<(String, String)> {
    fn collect(folder: &Path, deep: bool, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).expect("cannot list a directory") {
            let path = entry.expect("cannot list a directory").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(repository()).expect("it lies below").display().to_string();
                found.push((name, fs::read_to_string(&path).expect("not a text")));
            } else if deep && path.is_dir() && !path.is_symlink() {
                collect(&path, deep, found);
            }
        }
    }
    let mut found = Vec::new();
    collect(repository(), false, &mut found);
    collect(&repository().join("docs"), true, &mut found);
    collect(&repository().join("examples"), true, &mut found);
    found.sort();
    for expected in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/quickstart/README.md"] {
        assert!(found.iter().any(|(name, _)| name == expected), "{expected} is gone");
    }
    found
}

// --------------------------------------------------------------------------------------------------- running

/// This machine's platform, in whose place the docs show `linux/amd64`.
fn this_platform() -> String {
    match std::env::consts::ARCH {
        "x86_64" => "linux/amd64".to_owned(),
        "aarch64" => "linux/arm64".to_owned(),
        other => format!("linux/{other}"),
    }
}

/// Runs the console blocks of one document; the problems found, one text each.
fn run_document(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut all = Vec::new();
    let mut script = String::new();
    for block in blocks(text).iter().filter(|block| block.language == "console") {
        let _ =
            writeln!(script, "export DOCS_NEEDS_NETWORK={}", if block.needs_network { "yes" } else { "" });
        for step in steps(block) {
            let program = step.command.split_whitespace().next().unwrap_or_default();
            if !PROGRAMS.contains(&program) {
                problems.push(format!("{name}:{}: {program:?} is not in PROGRAMS", step.line));
                continue;
            }
            // What the help text would be piped into says nothing about the command.
            let command = match step.command.split_once(" | ") {
                Some((first, _)) if block.needs_network => first,
                _ => &step.command,
            };
            let _ = writeln!(
                script,
                "echo '-- {name}:{}' >&2\n{command}\nstatus=$?; printf '\\036%s\\036' $status; [ $status = 0 ] || exit",
                step.line
            );
            all.push((step, block.needs_network));
        }
    }
    if all.is_empty() || !problems.is_empty() {
        return problems;
    }
    let world = World::new();
    let output = world.run("sh", &["-c", &script]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let platform = this_platform();
    // Printed and status in turns; what comes after the last separator is nothing.
    let mut parts = stdout.split(SEPARATOR);
    for (step, needs_network) in &all {
        let (printed, status) = (parts.next().unwrap_or_default(), parts.next());
        let place = format!("{name}:{}: $ {}", step.line, step.command);
        if status != Some("0") {
            problems.push(format!(
                "{place}\nexit status {}\nstdout:\n{printed}\nstderr so far:\n{stderr}",
                status.unwrap_or("unknown: the shell was stopped before")
            ));
            break;
        }
        let printed: Vec<&str> = printed.lines().collect();
        let shown: Vec<String> =
            step.shown.iter().map(|line| line.replace("linux/amd64", &platform)).collect();
        if !shown.is_empty() && !needs_network && !agrees(&shown, &printed) {
            problems.push(format!("{place}\nshown:   {shown:#?}\nprinted: {printed:#?}"));
        }
    }
    problems
}

#[test]
fn commands_in_the_docs_work() {
    let documents = documents();
    // Each has a shell and a copy of its own.
    let problems: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> =
            documents.iter().map(|(name, text)| scope.spawn(move || run_document(name, text))).collect();
        running.into_iter().flat_map(|document| document.join().expect("a document's run")).collect()
    });
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
}

/// The anchors of a document's headings, as GitHub makes them: lower case, hyphens for blanks, no punctuation.
fn anchors(markdown: &str) -> BTreeSet<String> {
    prose(markdown)
        .filter_map(|line| line.strip_prefix('#'))
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            heading.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
        })
        .collect()
}

/// The lines of a document outside its fenced blocks.
fn prose(markdown: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    markdown.lines().filter(move |line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    })
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut links = 0;
    for (name, text) in documents() {
        let folder = repository().join(&name).parent().expect("a file has a parent").to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { repository().join(&name) } else { folder.join(file) };
            assert!(file.exists(), "{name}: {target} does not exist");
            if !anchor.is_empty() {
                let page = fs::read_to_string(&file).expect("not a text");
                assert!(anchors(&page).contains(anchor), "{name}: {target} names no heading there");
            }
        }
    }
    assert!(links > 3, "the links were not found");
}

/// Each thing is said in one place, so that it changes in one place.
#[test]
fn no_sentence_stands_twice_in_the_docs() {
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    let mut twice = String::new();
    for (name, text) in documents().iter().filter(|(name, _)| name != "CHANGELOG.md") {
        let lines: Vec<&str> = prose(text).collect();
        for paragraph in lines.join("\n").split("\n\n").flat_map(|paragraph| paragraph.split("\n- ")) {
            let paragraph = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
            for sentence in paragraph.split(". ").filter(|sentence| sentence.split(' ').count() > 6) {
                if let Some(other) = places.insert(sentence.to_owned(), name.clone()) {
                    let _ = writeln!(twice, "{other} and {name}: {sentence}");
                }
            }
        }
    }
    assert!(places.len() > 300, "the sentences were not found");
    assert!(twice.is_empty(), "{twice}");
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("no README.md");
    let lines = readme.lines().count();
    assert!(lines <= 150, "README.md has {lines} lines; the rest belongs into docs/");
    for (page, _) in documents().iter().filter(|(name, _)| name.starts_with("docs/")) {
        assert!(readme.contains(&format!("]({page})")), "README.md does not lead to {page}");
    }
}

/// A picture of a page may be shown anywhere, also where nothing may be loaded and no script runs.
#[test]
fn pictures_of_the_docs_need_nothing_else() {
    let mut pictures = 0;
    for entry in fs::read_dir(repository().join("docs")).expect("no docs") {
        let path = entry.expect("cannot list a directory").path();
        if path.extension().is_none_or(|extension| extension != "svg") {
            continue;
        }
        pictures += 1;
        let picture = fs::read_to_string(&path).expect("not a text");
        let name = path.display();
        assert!(picture.len() < 60 * 1024, "{name} has {} bytes", picture.len());
        assert!(picture.contains("prefers-color-scheme:dark"), "{name} is for light pages only");
        for foreign in ["<script", "<image", "<foreignObject", "url(", "@import", "src="] {
            assert!(!picture.contains(foreign), "{name} has {foreign:?}");
        }
        let mut links = picture.split("href=\"").skip(1);
        assert!(links.all(|link| link.starts_with('#')), "{name} links to something else");
    }
    assert!(pictures > 0, "the pictures were not found");
}

/// Plans `text` without a network: with `pull = "never"` each image is blocked, while a mistake in the file
/// is still exit 2.
fn assert_valid_images_file(world: &World, name: &str, text: &str) {
    let table: toml::Table = toml::from_str(text).expect(name);
    let registries = table["registry"].as_table().expect(name).values();
    let listed = registries.map(|registry| registry["images"].as_array().map_or(0, Vec::len)).sum::<usize>();
    assert!(listed > 0, "{name} lists no image");
    let offline = text.replace("\"always\"", "\"never\"").replace("pull = \"missing\"", "pull = \"never\"");
    assert!(offline.contains("pull = \"never\""), "{name} would ask registries");
    let output = world.plan("checked.toml", &offline);
    let shown = format!(
        "{name}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(1), "{shown}");
    let plan: Value = serde_json::from_slice(&output.stdout).expect(&shown);
    let planned = plan["images"].as_array().expect(&shown);
    assert_eq!(planned.len(), listed, "{shown}");
    assert!(planned.iter().all(|image| image["action"] == "blocked"), "{shown}");
}

#[test]
fn the_images_file_of_the_repository_is_valid_as_it_is_and_with_everything_switched_on() {
    let world = World::new();
    let text = fs::read_to_string(repository().join("images.toml")).expect("no images.toml");
    assert_valid_images_file(&world, "images.toml", &text);
    let switched_on: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(switched_on.contains("\n[registry.\"registry.corp:5000\"]\n"), "nothing was switched on");
    assert_valid_images_file(&world, "images.toml, switched on", &switched_on);
}

#[test]
fn images_files_in_the_docs_are_valid() {
    let world = World::new();
    let mut files = 0;
    for (name, text) in documents() {
        for block in blocks(&text).iter().filter(|block| block.language == "toml") {
            files += 1;
            assert_valid_images_file(&world, &format!("{name}:{}", block.start), &block.lines.join("\n"));
        }
    }
    assert!(files > 0, "the docs show no images file");
}

#[test]
fn json_in_the_docs_is_json() {
    let mut lines = 0;
    for (name, text) in documents() {
        for block in blocks(&text).iter().filter(|block| block.language == "json") {
            for line in &block.lines {
                lines += 1;
                let event: Value = serde_json::from_str(line).expect(&name);
                assert_eq!(event["version"], 1, "{name}: {line}");
            }
        }
    }
    assert!(lines > 0, "the docs show no event");
}

#[test]
fn the_quickstart_is_planned_on_every_machine() {
    let world = World::new();
    let quickstart = repository().join("examples/quickstart");
    // Layers are the blobs that are not JSON; the one that both images have counts once.
    let layers: u64 = fs::read_dir(quickstart.join("oci/blobs/sha256"))
        .expect("no blobs")
        .map(|entry| fs::read(entry.expect("cannot list a directory").path()).expect("cannot read a blob"))
        .filter(|blob| !blob.starts_with(b"{"))
        .map(|blob| blob.len() as u64)
        .sum();
    let text = fs::read_to_string(quickstart.join("images.toml")).expect("no images.toml");
    for platform in ["linux/amd64", "linux/arm64"] {
        let output = world.plan(
            "examples/quickstart/checked.toml",
            &format!("{text}\n[settings]\nplatform = \"{platform}\"\n"),
        );
        let shown = format!(
            "{}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{shown}");
        let plan: Value = serde_json::from_slice(&output.stdout).expect(&shown);
        assert_eq!(plan["changes"], 2, "{shown}");
        assert_eq!(plan["download_bytes"], layers, "{shown}");
        for image in plan["images"].as_array().expect(&shown) {
            assert_eq!(image["action"], "add", "{shown}");
            assert_eq!(image["platform"], platform, "{shown}");
            assert_eq!(image["layers"]["total"], 2, "{shown}");
        }
        assert!(!world.path("home/msb").exists(), "plan made the home");
    }
}

/// Whoever comes here has two commands: one shows what the program does, one passes the tests. What the second one
/// installs is all the set-up there is, so the checks that run elsewhere begin with it.
#[test]
fn the_readme_begins_with_two_commands_that_are_all_the_set_up() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("no README.md");
    let first = blocks(&readme).into_iter().find(|block| block.language == "console").expect("no commands");
    let commands: Vec<String> = steps(&first).into_iter().map(|step| step.command).collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert!(commands[0].starts_with("cargo run --release -- "), "{commands:?}");
    assert_eq!(commands[1], "tests/run");
    let checks = fs::read_to_string(repository().join(".ci/run")).expect("no .ci/run");
    assert!(checks.lines().any(|line| line == "tests/run"), "{checks}");
    assert!(!checks.contains("apt-get"), "a second list of packages: {checks}");
}

mod tests {
    use super::*;

    #[test]
    fn console_blocks_are_found_with_their_steps() {
        let text =
            "x\n```console\n$ a b\none\ntwo\n$ c\n```\n\n<!-- needs: network -->\n```toml\nk = 1\n```\n";
        let found = blocks(text);
        assert_eq!(found.len(), 2);
        assert!(found[0].needs_network && !found[1].needs_network);
        assert_eq!(found[1].language, "toml");
        let step = |line, command: &str, shown: &[&str]| Step {
            line,
            command: command.to_owned(),
            shown: shown.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(steps(&found[0]), [step(3, "a b", &["one", "two"]), step(6, "c", &[])]);
    }

    #[test]
    fn headings_have_anchors_and_fenced_lines_do_not() {
        let found = anchors("# A\n```sh\n# b\n```\n## Lines that don't: `break`\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "lines-that-dont-break"]);
    }

    #[test]
    fn shown_output_must_agree_but_for_dots() {
        let lines = |text: &str| -> Vec<String> { text.split(' ').map(ToOwned::to_owned).collect() };
        assert!(agrees(&lines("a b"), &["a", "b"]));
        assert!(agrees(&lines("a ..."), &["a", "b", "c"]));
        assert!(agrees(&lines("... c"), &["a", "b", "c"]));
        assert!(!agrees(&lines("a"), &["a", "b"]));
        assert!(!agrees(&lines("a b"), &["a"]));
        assert!(!agrees(&lines("... x"), &["a", "b"]));
    }

    #[test]
    fn a_command_that_fails_or_prints_something_else_is_a_problem() {
        let problems = |commands: &str| run_document("x.md", &format!("```console\n{commands}\n```\n"));
        assert!(problems("$ mkdir a\n$ cd a\n$ ls -a\n.\n..").is_empty());
        assert!(problems("$ ls -d .\nwrong")[0].contains("x.md:2"));
        assert!(problems("$ mkdir a\n$ cat nothing\n$ ls")[0].contains("x.md:3"));
        assert!(problems("$ cargo unheard-of")[0].contains("CARGO_COMMANDS"));
        assert!(problems("$ rm -rf x")[0].contains("PROGRAMS"));
    }
}
