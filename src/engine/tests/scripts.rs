//! Programs that hang, flood, die, ask, lie: scripts in the places of engines.

use std::io::{self, Write};
use std::time::Instant;

use super::*;
use crate::digest::{Algorithm, BlobDigest, DiffId};
use crate::error::EngineError;

const SHORT: Duration = Duration::from_millis(300);
const VERSION: &str = "[ \"$1\" = --version ] && { echo podman version 4.3.1; exit 0; }";

/// Writes so many MiB, more than any pipe holds.
fn megabytes(count: usize) -> impl FnMut(&mut dyn Write) -> io::Result<()> {
    move |out| (0..count).try_for_each(|_| out.write_all(&vec![7; 1 << 20]))
}

#[track_caller]
fn text(result: Result<impl Sized, EngineError>) -> String {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_archive_arrives_whole_in_a_safe_place() {
    let secrets = [("GITHUB_TOKEN", "hidden"), ("HTTPS_PROXY", "http://u:hidden@p"), ("LC_ALL", "C")];
    let bench = Bench::with(Patience::default(), &secrets);
    let script = r#"
        echo "$@" >> $D/arguments
        [ "$1" = load ] || exit 0
        env > $D/environment; readlink /proc/self/fd/0 > $D/stdin
        stat -c %a "$TMPDIR" > $D/mode; echo copy > "$TMPDIR/copy"
        ( exec < /dev/tty ) 2> /dev/null && echo yes > $D/terminal
        wc -c > $D/size; echo done >&2"#;
    bench.script("podman", &format!("{VERSION}\n{script}"));
    let podman = bench.engine(EngineName::Podman);
    podman.load(&mut megabytes(5), false).unwrap();
    assert_eq!(bench.read("size").trim(), (5 << 20).to_string());
    assert_eq!(bench.read("arguments"), "load --quiet\n");
    assert_eq!(bench.read("mode"), "700\n");
    assert_eq!(bench.read("terminal"), "");
    let environment = bench.read("environment");
    let temporary = format!("TMPDIR={}\n", bench.path("home/tmp").display());
    assert!(environment.contains(&temporary) && environment.contains("LC_ALL=C"), "{environment}");
    assert!(!environment.contains("hidden"), "{environment}");
    assert!(!bench.path("home/tmp").exists(), "the copy is left");
    assert_eq!(bench.told(), ["podman: done"]);
}

#[test]
fn the_agent_of_ssh_is_named_to_those_that_are_reached_by_ssh() {
    let bench = Bench::with(Patience::default(), &[("SSH_AUTH_SOCK", "/agent")]);
    let all = [EngineName::Podman, EngineName::Docker, EngineName::Microsandbox, EngineName::Containerd];
    for name in all {
        bench.script(
            EngineSettings::new(name).command.as_str(),
            "echo \"${SSH_AUTH_SOCK-none}\" >> $D/agents",
        );
        // None of these versions will do.
        text(bench.engine(name).list(&asked()));
    }
    // All but docker are asked for their version and their images at once.
    assert_eq!(bench.read("agents"), "/agent\n/agent\n/agent\nnone\nnone\nnone\nnone\n");
}

#[test]
fn one_that_takes_nothing_is_ended_with_all_its_children() {
    let bench = Bench::impatient(SHORT);
    bench.script("podman", &format!("{VERSION}\ntrap '' TERM; sleep 600 & echo $! > $D/child; sleep 600"));
    let started = Instant::now();
    let error = text(bench.engine(EngineName::Podman).load(&mut megabytes(5), false));
    assert!(error.contains("podman load did not end: no progress"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(!is_alive(&bench.path("child")));
}

#[test]
fn one_that_takes_all_and_does_not_end_is_ended() {
    let bench = Bench::impatient(SHORT);
    bench.script("podman", &format!("{VERSION}\ncat > /dev/null; exec sleep 600"));
    let error = text(bench.engine(EngineName::Podman).load(&mut megabytes(3), false));
    assert!(error.contains("podman load did not end"), "{error}");
}

#[test]
fn an_archive_that_waits_for_its_blobs_is_no_hung_engine() {
    let bench = Bench::impatient(4 * SHORT);
    bench.script("podman", &format!("{VERSION}\nexec cat > /dev/null"));
    let mut slow = |out: &mut dyn Write| {
        out.write_all(b"a")?;
        std::thread::sleep(6 * SHORT);
        out.write_all(b"b")
    };
    bench.engine(EngineName::Podman).load(&mut slow, false).unwrap();
}

#[test]
fn a_flood_before_the_first_read_holds_nobody_up() {
    let bench = Bench::new();
    let flood = "head -c 3000000 /dev/zero | tr '\\0' 'x'; yes word | head -n 100000 >&2; cat > /dev/null";
    bench.script("podman", &format!("{VERSION}\n{flood}"));
    bench.engine(EngineName::Podman).load(&mut megabytes(5), false).unwrap();
    assert!(bench.told().len() < 1000, "{}", bench.told().len());
}

#[test]
fn the_words_of_one_that_dies_are_the_error() {
    let bench = Bench::new();
    let die = "head -c 100000 > /dev/null; printf 'Error: no \\033[2Jspace\\n' >&2; exit 125";
    bench.script("podman", &format!("{VERSION}\n{die}"));
    let error = text(bench.engine(EngineName::Podman).load(&mut megabytes(5), false));
    let wanted = r"engine podman: podman load failed: exit status: 125: Error: no \u{1b}[2Jspace";
    assert_eq!(error, wanted);

    bench.script("podman", &format!("{VERSION}\nexit 0"));
    let error = text(bench.engine(EngineName::Podman).load(&mut megabytes(5), false));
    assert!(error.contains("has not read all of the archive"), "{error}");

    bench.script("podman", &format!("{VERSION}\nkill -9 $$"));
    let error = text(bench.engine(EngineName::Podman).load(&mut megabytes(5), false));
    assert!(error.contains("signal: 9"), "{error}");
}

#[test]
fn a_broken_archive_never_passes_for_the_whole() {
    let bench = Bench::new();
    bench.script("podman", &format!("{VERSION}\ncat > /dev/null && echo whole > $D/end"));
    let mut broken = |out: &mut dyn Write| {
        out.write_all(b"half")?;
        Err(io::Error::other("the kept blob sha256:1 is gone"))
    };
    let error = text(bench.engine(EngineName::Podman).load(&mut broken, false));
    assert!(error.contains("the kept blob sha256:1 is gone"), "{error}");
    assert_eq!(bench.read("end"), "");
}

#[test]
fn a_stop_ends_a_program_within_a_second() {
    for script in
        ["trap '' TERM INT; echo $$ > $D/pid; while :; do sleep 600; done", "echo $$ > $D/pid; exec cat"]
    {
        let bench = Bench::new();
        bench.script("podman", &format!("{VERSION}\n{script}"));
        let podman = bench.engine(EngineName::Podman);
        let cancel = bench.cancel.clone();
        let stopped = std::sync::OnceLock::new();
        let mut endless = |out: &mut dyn Write| {
            out.write_all(b"a")?;
            while bench.read("pid").is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            stopped.get_or_init(Instant::now);
            cancel.cancel();
            loop {
                out.write_all(&vec![0; 1 << 16])?;
            }
        };
        let error = podman.load(&mut endless, false).unwrap_err();
        assert_eq!(error.to_string(), "engine podman: podman load was stopped");
        assert_eq!(crate::error::Error::from(error).kind(), "stopped");
        assert!(stopped.get().unwrap().elapsed() < Duration::from_secs(1));
        assert!(!is_alive(&bench.path("pid")));
    }
}

#[test]
fn a_grandchild_that_keeps_the_pipes_holds_nobody_up() {
    let bench = Bench::new();
    bench.script("podman", &format!("{VERSION}\nsetsid sleep 600 & echo $! > $D/child; exit 3"));
    let started = Instant::now();
    let error = text(bench.engine(EngineName::Podman).load(&mut megabytes(20), false));
    assert!(error.contains("exit status: 3"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
    let child = bench.read("child");
    let ended = std::process::Command::new("kill").arg(child.trim()).status().unwrap();
    assert!(ended.success());
}

#[test]
fn listings_hang_flood_and_lie_no_further() {
    let impatient = Bench::with(Patience { short: SHORT, ..Patience::default() }, &[]);
    for (script, wanted) in [
        ("exec sleep 600", "did not end: no progress"),
        ("echo garbage", "podman images said something that cannot be read"),
        ("exec yes", "more than 32 MiB"),
        ("printf '['; yes '{},' | head -n 600000", "more than 500000 images"),
        ("printf '[{\"Names\": ['; yes '\"a\",' | head -n 600000", "one image of more than 1 MiB"),
        ("echo no daemon >&2; exit 1", "podman images failed: exit status: 1: no daemon"),
        ("read answer && echo []", "podman images failed"),
        ("read answer < /dev/tty; echo []", ""),
    ] {
        let bench = if script == "exec sleep 600" { &impatient } else { &Bench::new() };
        bench.script("podman", &format!("{VERSION}\n{script}"));
        match bench.engine(EngineName::Podman).list(&asked()) {
            Ok(_) => assert!(wanted.is_empty(), "{script}"),
            Err(error) => {
                assert!(!wanted.is_empty() && error.to_string().contains(wanted), "{script}: {error}");
            }
        }
    }
}

#[test]
fn versions_are_read_once_and_old_ones_refused() {
    let bench = Bench::new();
    let msb = |version: &str| {
        format!("echo $1 >> $D/log; [ \"$1\" = --version ] && {{ echo {version}; exit 0; }}\necho '[]'")
    };
    bench.script("msb", &msb("msb 0.5.4"));
    let engine = bench.engine(EngineName::Microsandbox);
    engine.list(&asked()).unwrap();
    engine.list(&asked()).unwrap();
    let log = bench.read("log");
    let mut calls: Vec<&str> = log.lines().collect();
    assert_eq!(calls.pop(), Some("image"));
    // The first two at once.
    calls.sort_unstable();
    assert_eq!(calls, ["--version", "image"]);

    let too_old = |version: &str| format!("{version} is too old: 0.5.4 or newer is needed");
    let unknown = |words: &str| format!("msb --version said something that cannot be read: {words}");
    for (version, wanted) in [
        ("msb 0.5.3", too_old("msb 0.5.3")),
        ("msb 0.2.6", too_old("msb 0.2.6")),
        ("hi", unknown("\"hi\" is no version")),
        ("", unknown("no version")),
    ] {
        let bench = Bench::new();
        bench.script("msb", &msb(version));
        let error = bench.engine(EngineName::Microsandbox).list(&asked()).unwrap_err();
        let wanted = format!("engine microsandbox: {wanted}");
        assert_eq!(error.to_string(), wanted);
        assert!(error.hint().is_some());
        let error = text(bench.engine(EngineName::Microsandbox).load(&mut megabytes(1), false));
        assert_eq!(error, wanted);
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let bench = Bench::new();
    let mut settings = EngineSettings::new(EngineName::Podman);
    settings.command = "no-such-podman".to_owned();
    let error = bench.engines.of(&settings).list(&asked()).unwrap_err();
    assert!(error.to_string().starts_with("cannot run no-such-podman for engine podman: "), "{error}");
    assert!(error.hint().is_some());
    let path = bench.script("podman", "");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    settings.command = path.to_str().unwrap().to_owned();
    let error = bench.engines.of(&settings).list(&asked()).unwrap_err();
    assert!(error.to_string().contains("ermission denied"), "{error}");
}

#[test]
fn engines_are_asked_at_once_and_fail_alone() {
    let bench = Bench::new();
    bench.script("podman", &format!("{VERSION}\necho '[]'"));
    bench.script("msb", "echo broken >&2; exit 7");
    let settings = [EngineName::Podman, EngineName::Microsandbox].map(EngineSettings::new);
    let listings = bench.engines.listings(&settings, &asked());
    assert!(listings[&EngineName::Podman].is_ok());
    let error = listings[&EngineName::Microsandbox].as_ref().unwrap_err();
    assert!(error.to_string().contains("exit status: 7: broken"), "{error}");
    assert_eq!(error.kind(), "engine");
}

#[test]
fn a_removal_believes_the_listing_alone() {
    let bench = Bench::new();
    let digest = format!("sha256:{}", "a".repeat(64));
    let msb = |listed: &str, removal: &str| {
        format!(
            "[ \"$1\" = --version ] && {{ echo msb 0.7.11; exit 0; }}\n\
             [ \"$2\" = rm ] && {{ echo \"$@\" >> $D/log; {removal}; }}\n\
             echo '[{{\"reference\": \"{listed}\", \"digest\": \"{digest}\"}}]'"
        )
    };
    let name = "docker.io/library/alpine:3";
    for (listed, removal, wanted) in [
        ("other:1", "exit 0", "Gone"),
        ("other:1", "echo not found >&2; exit 1", "Gone"),
        (name, "exit 0", "it is listed still"),
        ("alpine:3", "exit 0", "it is listed still"),
        (
            name,
            "echo 'image in use by sandbox(es): dev' >&2; exit 1",
            "InUse(\"image in use by sandbox(es): dev\")",
        ),
        (name, "echo database is locked >&2; exit 1", "database is locked"),
    ] {
        bench.script("msb", &msb(listed, removal));
        let removed = bench.engine(EngineName::Microsandbox).remove(&[name.to_owned()]);
        let removed = format!("{removed:?}");
        assert!(removed.contains(wanted), "{listed} {removal}: {removed}");
    }
    assert!(
        bench.read("log").lines().all(|line| line == format!("image rm {name}")),
        "{}",
        bench.read("log")
    );
}

#[test]
fn containers_keep_their_images() {
    let bench = Bench::new();
    let name = "docker.io/library/alpine:3";
    bench.script(
        "ctr",
        &format!(
            "[ \"$1\" = --version ] && {{ echo ctr x 1.6.20; exit 0; }}\necho \"$@\" >> $D/log\n\
             [ \"$3\" = containers ] && {{ echo 'CONTAINER IMAGE RUNTIME'; echo 'c1 {name} io.containerd.runc.v2'; exit 0; }}\n\
             echo 'REF TYPE DIGEST'; echo '{name} x sha256:{}'",
            "a".repeat(64)
        ),
    );
    let removed = bench.engine(EngineName::Containerd).remove(&[name.to_owned(), "other:1".to_owned()]);
    assert!(matches!(&removed[0], Removed::InUse(words) if words == "container c1 uses it"), "{removed:?}");
    assert!(matches!(removed[1], Removed::Gone), "{removed:?}");
    assert!(bench.read("log").contains("--namespace default images rm other:1"));
    assert!(!bench.read("log").contains(&format!("rm {name}")));
}

#[test]
fn the_blobs_of_dead_loads_are_swept_and_no_others() {
    let bench = Bench::new();
    let tmp = bench.path("msb/cache/tmp");
    fs::create_dir_all(&tmp).unwrap();
    // Ends with its input, and starts no other program that would outlive it.
    let mut living = std::process::Command::new("sh")
        .args(["-c", "read line", "load"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // A process that is just being started has its starter's arguments for a moment, then none.
    let arguments = format!("/proc/{}/cmdline", living.id());
    let deadline = Instant::now() + Duration::from_secs(30);
    while !fs::read(&arguments).unwrap().ends_with(b"\0load\0") {
        assert!(Instant::now() < deadline, "no shell after 30 s");
        std::thread::sleep(Duration::from_millis(1));
    }
    let of_living = format!("load-2-{}-1.blob", living.id());
    let dead = format!("load-{}-1.blob", i32::MAX);
    // As msb 0.7 names them: which blob, whose, and again which.
    let newer = format!("load-2-{}-2.blob", i32::MAX);
    for name in [&dead, &newer, "load-x.blob", "pull-1.blob", &of_living] {
        fs::write(tmp.join(name), "blob").unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", tmp.join(format!("load-{}-2.blob", i32::MAX))).unwrap();
    let mut settings = EngineSettings::new(EngineName::Microsandbox);
    settings.home = Some(bench.path("msb"));
    bench.engines.of(&settings).sweep();
    living.kill().unwrap();
    living.wait().unwrap();
    let mut left: Vec<String> =
        fs::read_dir(&tmp).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    let mut wanted = vec!["load-x.blob".to_owned(), "pull-1.blob".to_owned(), of_living];
    wanted.push(format!("load-{}-2.blob", i32::MAX));
    wanted.sort();
    assert_eq!(left, wanted);
}

#[test]
fn files_are_hashed_again_where_they_changed() {
    let bench = Bench::new();
    let mut settings = EngineSettings::new(EngineName::Microsandbox);
    settings.home = Some(bench.path("msb"));
    let msb = bench.engines.of(&settings);
    let digest = |text: &str| BlobDigest::of(Algorithm::Sha256, text.as_bytes());
    let diff_id = DiffId::of(Algorithm::Sha256, b"layer");
    let path = bench.path("msb/cache/layers").join(format!("{}.erofs", diff_id.text().replace(':', "_")));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let layers = [(digest("blob"), diff_id)];
    let hashed = |content: &str| {
        fs::write(&path, content).unwrap();
        // Twice: the second time from memory.
        let both = [1, 2].map(|_| msb.files(&digest("manifest"), &layers).unwrap());
        assert_eq!(both[0], both[1]);
        assert_eq!(
            both[0].iter().map(|file| file.digest.as_str()).collect::<Vec<_>>(),
            [&*digest(content).text()]
        );
    };
    hashed("one");
    // Clocks of file systems tick a hundred times a second.
    std::thread::sleep(Duration::from_millis(20));
    hashed("two");
    hashed("three");
    fs::remove_file(&path).unwrap();
    assert!(msb.files(&digest("manifest"), &layers).unwrap().is_empty());
    bench.cancel.cancel();
    fs::write(&path, "four").unwrap();
    let error = msb.files(&digest("manifest"), &layers).unwrap_err();
    assert!(matches!(error, EngineError::Stopped { .. }), "{error}");
}
