//! A lockfile that is written is read back; a text that is none is refused, with its place.

use proptest::prelude::*;

use super::*;
use crate::digest::{Algorithm, DiffId};
use crate::state::{LayerDescriptor, MediaType};

fn digest(of: &str) -> BlobDigest {
    BlobDigest::of(Algorithm::Sha256, of.as_bytes())
}

fn reference(text: &str) -> ImageRef {
    ImageRef::parse(text, "docker.io").unwrap()
}

fn platform(text: &str) -> Platform {
    Platform::parse(text).unwrap()
}

fn layer(of: &str, size: u64) -> LayerDescriptor {
    let diff_id = DiffId::of(Algorithm::Sha256, of.as_bytes());
    LayerDescriptor { digest: digest(of), diff_id, media_type: MediaType::UNKNOWN, size }
}

fn image(name: &str, version: &str) -> Arc<LockedImage> {
    Arc::new(LockedImage {
        reference: reference(name),
        platform: platform("linux/amd64"),
        digest: digest(&format!("{name} {version}")),
        manifest: digest(&format!("manifest of {name} {version}")),
        layers: [layer("base", 10), layer(version, u64::MAX)].into(),
        signed_by: None,
    })
}

fn gaps(lockfile: &Lockfile, wanted: &[(&str, &str)]) -> Vec<String> {
    let wanted: Vec<_> = wanted.iter().map(|(name, on)| (reference(name), platform(on))).collect();
    let gaps = lockfile.gaps(wanted.iter().map(|(name, on)| (name, on)), &[]);
    gaps.iter().map(ToString::to_string).collect()
}

fn arbitrary_image() -> impl Strategy<Value = LockedImage> {
    let layer = (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(of, size, long)| {
        let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
        LayerDescriptor {
            digest: BlobDigest::of(algorithm, &of.to_le_bytes()),
            diff_id: DiffId::of(algorithm, &of.to_be_bytes()),
            media_type: MediaType::UNKNOWN,
            size,
        }
    });
    let layers = proptest::collection::vec(layer, 0..4);
    let tag = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,6}";
    let signer = proptest::option::of("(?s).{0,20}|['\"\\\\#=]{0,9}");
    let name = "[a-c]{1,2}(/[a-c])?";
    (name, tag, "linux/(amd64|arm64|arm/v6|riscv64)", any::<bool>(), any::<u8>(), layers, signer).prop_map(
        |(name, tag, on, pinned, of, layers, signer)| {
            let named = reference(&format!("registry.example:5000/{name}:{tag}"));
            let digest = digest(&of.to_string());
            LockedImage {
                reference: if pinned { named.with_digest(&digest) } else { named },
                platform: platform(&on),
                manifest: digest.clone(),
                digest,
                layers: layers.into(),
                signed_by: None,
            }
            .with_signer(signer.as_deref())
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(images in proptest::collection::vec(arbitrary_image(), 0..6)) {
        let lockfile = Lockfile::new(images.iter().cloned().map(Arc::new), []);
        let text = lockfile.to_string();
        prop_assert_eq!(Lockfile::parse(&text, "images.lock").unwrap(), lockfile.clone());
        // The order in which the images were locked does not show.
        if lockfile.images.len() == images.len() {
            let reversed = Lockfile::new(images.into_iter().rev().map(Arc::new), []);
            prop_assert_eq!(reversed.to_string(), text);
        }
    }

    /// A lockfile that is read entry by entry means the same as one that is read at once; a written
    /// one can be read entry by entry.
    #[test]
    fn pieces_mean_the_same_as_the_whole(
        images in proptest::collection::vec(arbitrary_image(), 1..4),
        cut in any::<prop::sample::Index>(),
        junk in prop_oneof![
            Just("\n[[image]]\n"), Just("\n[[candidate]]\n"), Just("'''"), Just("\"\"\""), Just("\nversion = 1\n"),
            Just("\n[image.x]\n"), Just("\n[version]\n"), Just("\nimage = []\n"), Just("\n[["), Just("# \n"), Just("\n[x]\n"), Just("\n"),
        ],
    ) {
        let mut text = Lockfile::new(images.into_iter().map(Arc::new), []).to_string();
        prop_assert!(read::in_pieces(&text).is_some());
        let cut = cut.index(text.len());
        let cut = (0..=cut).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.insert_str(cut, junk);
        if let Some(lockfile) = read::in_pieces(&text) {
            prop_assert_eq!(Some(lockfile), read::at_once(&text).ok());
        }
    }

    #[test]
    fn no_text_is_a_panic(text in "\\PC{0,200}") {
        if let Err(problem) = Lockfile::parse(&text, "images.lock") {
            prop_assert!(problem.line() >= 1 && problem.column() >= 1);
            prop_assert!(problem.to_string().contains("images.lock:"));
        }
    }

    #[test]
    fn no_damage_is_a_panic(
        images in proptest::collection::vec(arbitrary_image(), 1..3),
        cut in any::<prop::sample::Index>(),
        junk in "[\\[\\]{}=\",.\n\u{1b}é0-9a-z]{0,8}",
    ) {
        let mut text = Lockfile::new(images.into_iter().map(Arc::new), []).to_string();
        // A signer's name may have wide characters.
        let cut = cut.index(text.len());
        let cut = (0..=cut).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.insert_str(cut, &junk);
        if let Err(problem) = Lockfile::parse(&text, "images.lock") {
            prop_assert!(!problem.to_string().chars().any(|c| c.is_control() && c != '\n'), "control characters");
        }
    }
}

#[test]
fn the_text_is_sorted_and_has_one_layer_a_line() {
    let text = Lockfile::new([image("b:1", "x"), image("a-x:1", "x"), image("a:2", "x")], []).to_string();
    let names: Vec<&str> = text.lines().filter(|line| line.starts_with("reference")).collect();
    assert_eq!(
        names,
        ["a-x:1", "a:2", "b:1"].map(|name| format!("reference = \"docker.io/library/{name}\""))
    );
    assert!(text.starts_with("# Written by `msb-sync lock`; do not edit.\n"), "{text}");
    assert!(text.contains("\nversion = 1\n\n[[image]]\n"), "{text}");
    let layers = text.lines().filter(|line| line.starts_with("  { digest = \"sha256:")).count();
    assert_eq!(layers, 6);
}

#[test]
fn the_signer_of_an_image_is_noted_for_review() {
    let plain = Lockfile::new([image("a:1", "x")], []);
    let signed = |by: &str| {
        let image = image("a:1", "x");
        Lockfile::new([Arc::new(LockedImage::clone(&image).with_signer(Some(by)))], [])
    };
    let by = "github.com/acme/app release.yml@refs/tags/v1";
    let text = signed(by).to_string();
    assert!(text.contains(&format!("\"\nsigned-by = \"{by}\"\nlayers = [")), "{text}");
    assert!(!plain.to_string().contains("signed-by"), "as before where nobody signed");
    assert_eq!(Lockfile::parse(&text, "images.lock").unwrap(), signed(by));
    let changes = plain.changes(&signed(by));
    assert_eq!((changes[0].action, changes[0].signed_by.as_deref()), (Action::Update, Some(by)));
    // A certificate names the signer: whatever that says, the line stays one, and is read back.
    let hostile = signed(&format!("\"\"\"\u{1b}\n'''\u{202e}{}", "\u{1b}".repeat(400)));
    assert_eq!(Lockfile::parse(&hostile.to_string(), "images.lock").unwrap(), hostile);
    assert_eq!(hostile.to_string().lines().count(), text.lines().count());
}

#[test]
fn digests_that_wait_are_read_back() {
    let at = |second| jiff::Timestamp::from_second(second).unwrap();
    let candidate = |of: &str, ahead: Option<i64>| TagCandidate {
        digest: digest(of),
        since: at(1_764_201_600),
        ahead: ahead.map(at),
    };
    let candidates = BTreeMap::from([
        (reference("registry.example/a:1"), candidate("one", None)),
        (reference("registry.example/b:1"), candidate("two", Some(1_764_288_000))),
    ]);
    let lockfile = Lockfile::new([], []).with_candidates(candidates.clone());
    let text = lockfile.to_string();
    assert!(text.ends_with("since = \"2025-11-27T00:00:00Z\"\nahead = \"2025-11-28T00:00:00Z\"\n"), "{text}");
    assert_eq!(text.matches("ahead").count(), 1);
    assert_eq!(*Lockfile::parse(&text, "images.lock").unwrap().candidates(), candidates);
    assert!(Lockfile::parse(&text.replace("-28T", "-99T"), "images.lock").is_err());
}

#[test]
fn an_entry_counts_only_where_it_fits() {
    let pinned = format!("c:1@{}", digest("c"));
    let lockfile = Lockfile::new([image("a:1", "x"), image("b:1", "x"), image(&pinned, "moved")], []);
    let missing = gaps(
        &lockfile,
        &[("a:1", "linux/amd64"), ("b:1", "linux/arm64"), (&pinned, "linux/amd64"), ("d:1", "linux/amd64")],
    );
    assert_eq!(missing.len(), 3, "{missing:?}");
    assert_eq!(missing[0], "docker.io/library/b:1 (locked for linux/amd64, wanted for linux/arm64)");
    assert!(missing[1].contains("(locked to sha256:"), "{missing:?}");
    assert_eq!(missing[2], "docker.io/library/d:1 (missing)");
    assert_eq!(
        gaps(&lockfile, &[("b:1", "linux/amd64"), (&pinned, "linux/arm64")])[1],
        "docker.io/library/a:1 (not listed any more)"
    );
    assert!(lockfile.fitting(&reference("a:1"), &platform("linux/amd64")).is_some());
    assert!(lockfile.fitting(&reference("a:1"), &platform("linux/arm64")).is_none());
    assert!(lockfile.fitting(&reference(&pinned), &platform("linux/amd64")).is_none());
}

#[test]
fn changes_say_what_became_of_each_entry() {
    let old = Lockfile::new([image("a:1", "x"), image("b:1", "x"), image("c:1", "x")], []);
    let new = Lockfile::new([image("b:1", "y"), image("c:1", "x"), image("d:1", "x")], []);
    let changes = old.changes(&new);
    let actions: Vec<Action> = changes.iter().map(|change| change.action).collect();
    assert_eq!(actions, [Action::Remove, Action::Update, Action::Keep, Action::Add]);
    let known: Vec<_> =
        changes.iter().map(|change| (change.previous.is_some(), change.digest.is_some())).collect();
    assert_eq!(known, [(true, false), (true, true), (true, true), (false, true)]);
}

fn on(image: &LockedImage, other: &str) -> Arc<LockedImage> {
    Arc::new(LockedImage { platform: platform(other), ..image.clone() })
}

#[test]
fn an_image_has_an_entry_for_each_platform() {
    let (amd, arm) = (image("a:1", "x"), on(&image("a:1", "y"), "linux/arm64"));
    let lockfile = Lockfile::new([arm, Arc::clone(&amd), image("a:10", "x")], []);
    let text = lockfile.to_string();
    assert_eq!(Lockfile::parse(&text, "images.lock").unwrap(), lockfile, "{text}");
    assert_eq!(lockfile.entries_of(&reference("a:1")).count(), 2);
    assert_eq!(lockfile.fitting(&reference("a:1"), &platform("linux/amd64")), Some(&amd));

    let (a, b) = (("a:1", "linux/amd64"), ("a:1", "linux/arm64"));
    let ten = ("a:10", "linux/amd64");
    assert_eq!(gaps(&lockfile, &[a, b, ten]), [] as [&str; 0]);
    assert_eq!(gaps(&lockfile, &[a, ten]), ["docker.io/library/a:1 (locked for linux/arm64, too)"]);
    assert_eq!(
        gaps(&lockfile, &[a, b, ("a:1", "linux/riscv64"), ten]),
        ["docker.io/library/a:1 (missing)"],
        "no entry is too many"
    );
    assert_eq!(
        gaps(&lockfile, &[("a:1", "linux/riscv64"), ten]),
        [
            "docker.io/library/a:1 (locked for linux/amd64, wanted for linux/riscv64)",
            "docker.io/library/a:1 (locked for linux/arm64, too)"
        ]
    );
}

#[test]
fn changes_are_those_of_a_platform_and_count_what_is_new() {
    let old = Lockfile::new([image("a:1", "x"), on(&image("a:1", "x"), "linux/arm64")], []);
    let new = Lockfile::new([image("a:1", "x"), on(&image("a:1", "y"), "linux/riscv64")], []);
    let changes = old.changes(&new);
    let told: Vec<_> = changes.iter().map(|change| (change.platform.to_string(), change.action)).collect();
    let expected =
        [("linux/amd64", Action::Keep), ("linux/arm64", Action::Remove), ("linux/riscv64", Action::Add)];
    assert_eq!(told, expected.map(|(on, action)| (on.to_owned(), action)));
    // Of the added entry's layers one is in the old lockfile.
    let bytes: Vec<u64> = changes.iter().map(|change| change.new_bytes).collect();
    assert_eq!(bytes, [0, 0, u64::MAX]);
    assert_eq!((new.bytes_beside(&old), old.bytes_beside(&new)), (u64::MAX, 0));
}

#[test]
fn what_is_no_lockfile_is_refused_at_its_place() {
    let good = Lockfile::new([image("a:1", "x")], []).to_string();
    let twice = format!("{good}{}", &good[good.find("\n[[image]]").unwrap()..]);
    let replaced = |from: &str, to: &str| good.replacen(from, to, 1);
    for (text, line, message) in [
        (String::new(), 1, "the lockfile has no `version`"),
        ("version = 1\n<<<<<<< HEAD\n".to_owned(), 2, "invalid TOML"),
        ("version = 0\n".to_owned(), 1, "`version` must be 1"),
        ("version = \"1\"\n".to_owned(), 1, "`version` must be 1"),
        ("version = -1\n".to_owned(), 1, "`version` must be 1"),
        ("version = 2\nnew = true\n".to_owned(), 1, "a newer msb-sync wrote this lockfile: its version is 2"),
        ("version = 1\nfoo = 1\n".to_owned(), 2, "unknown key \"foo\" in the lockfile"),
        ("version = 1\nimage = 3\n".to_owned(), 2, "`image` must be an array"),
        ("version = 1\nimage = [3]\n".to_owned(), 2, "an image must be a table"),
        ("version = 1\n[[image]]\n".to_owned(), 2, "an image has no `reference`"),
        (replaced("library/a:1", "a:1"), 6, "`reference` must be an image reference in its full form"),
        (replaced("docker.io/library/a:1", "a b"), 6, "`reference` must be an image reference"),
        (replaced("linux/amd64", "linux"), 7, "`platform`: a platform is os/architecture"),
        (replaced("digest = \"sha256:", "digest = \"md5:"), 8, "`digest`: the algorithm must be"),
        (replaced("manifest = \"sha256:", "manifest = \"sha256:../"), 9, "`manifest`: sha256 takes 64"),
        (replaced("layers = [", "signed-by = 1\nlayers = ["), 10, "`signed-by` must be a string"),
        (
            replaced("layers = [", "signed-by = \"a\\nb\"\nlayers = ["),
            10,
            "`signed-by` must be a short, plain text",
        ),
        (replaced("diff_id = \"sha256:", "diff_id = \"sha512:"), 11, "`diff_id`: sha512 takes 128"),
        (replaced("size = 10", "size = -10"), 11, "`size` must be a number of bytes"),
        (replaced("size = 10", "size = 10, urls = []"), 11, "unknown key \"urls\" in a layer"),
        (replaced("platform = ", "plattform = "), 7, "unknown key \"plattform\" in an image"),
        (twice.clone(), 16, "docker.io/library/a:1 has two entries for linux/amd64"),
    ] {
        let problem = Lockfile::parse(&text, "images.lock").unwrap_err();
        assert!(problem.message().starts_with(message), "{message}: {problem}");
        assert_eq!(problem.line(), line, "{problem}");
    }
}

#[test]
fn a_problem_shows_its_line() {
    let problem = Lockfile::parse("version = 1\nimage = \u{1b}[[3]\n", "a.lock").unwrap_err();
    assert!(problem.to_string().contains("\n --> a.lock:2:"), "{problem}");
    assert!(problem.to_string().contains("\n2 | image = \\u{1b}[[3]\n"), "{problem}");
    let newer = Lockfile::parse("version = 7", "a.lock").unwrap_err();
    assert!(
        newer.to_string().contains("\n1 | version = 7\n  |           ^\nhint: upgrade msb-sync"),
        "{newer}"
    );
}

#[test]
fn deep_and_large_texts_are_refused_in_bounded_time_and_stack() {
    let nested = format!("version = 1\nimage = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let dotted = format!("version = 1\n{}a = 1", "a.".repeat(100_000));
    let inline = format!("version = 1\nimage = {}1{}", "{a.a.a.a.a.a = ".repeat(5_000), "}".repeat(5_000));
    let long_line = format!("version = 1\nimage = \"{}\"", "é".repeat(1_000_000));
    for text in [nested, dotted, inline, long_line, " ".repeat(MAX_TEXT + 1)] {
        let problem = Lockfile::parse(&text, "images.lock").unwrap_err();
        assert!(problem.to_string().len() < 4_000);
    }
}

fn selection(name: &str, on: &str, semver: Option<&str>, newest: usize) -> TagSelection {
    TagSelection {
        repository: reference(name).repository_alone(),
        platform: platform(on),
        pull: crate::state::PullPolicy::Always,
        cooldown: std::time::Duration::ZERO,
        groups: BTreeSet::new(),
        engines: None,
        rule: TagRule {
            semver: semver.map(str::to_owned).into_iter().collect(),
            matching: Some("^(?:a\\.\"'\n|b)$".to_owned()),
            newest: std::num::NonZeroUsize::new(newest),
        },
        locked: None,
    }
}

#[test]
fn selections_are_read_back_and_found_by_their_rule() {
    let amd = "linux/amd64";
    let redis = selection("redis", amd, Some(">=7"), 2);
    let tags = vec!["8".to_owned(), "7".to_owned()];
    let images = [image("redis:7", "x"), image("redis:8", "x"), image("a:1", "x")];
    let lockfile = Lockfile::new(images, [LockedSelection::of(&redis, tags.clone())]);
    let text = lockfile.to_string();
    assert_eq!(Lockfile::parse(&text, "images.lock").unwrap(), lockfile, "{text}");
    assert_eq!(Lockfile::parse(&text, "images.lock").unwrap().to_string(), text);

    let chosen = lockfile.chosen(&redis).unwrap();
    let chosen: Vec<_> = chosen.iter().filter_map(|image| image.reference.tag()).collect();
    assert_eq!(chosen, ["8", "7"]);
    for other in [
        selection("redis", "linux/arm64", Some(">=7"), 2),
        selection("redis", amd, Some(">=8"), 2),
        selection("redis", amd, None, 2),
        selection("redis", amd, Some(">=7"), 3),
        selection("nginx", amd, Some(">=7"), 2),
    ] {
        assert_eq!(lockfile.chosen(&other), None, "{other:?}");
    }

    let listed = reference("a:1");
    let on = platform(amd);
    let gaps = |selections: &[TagSelection]| -> Vec<String> {
        lockfile.gaps([(&listed, &on)], selections).iter().map(ToString::to_string).collect()
    };
    let covered = TagSelection { locked: lockfile.chosen(&redis), ..redis.clone() };
    assert_eq!(gaps(&[covered]), [] as [&str; 0]);
    assert_eq!(
        gaps(&[selection("redis", amd, Some(">=8"), 2)]),
        [
            "tags of docker.io/library/redis (not chosen yet, or by another rule)",
            "docker.io/library/redis:7 (not listed any more)",
            "docker.io/library/redis:8 (not listed any more)",
            "tags of docker.io/library/redis (not selected any more, or by another rule)",
        ]
    );
}

#[test]
fn one_range_is_a_text_and_several_are_a_list() {
    let amd = "linux/amd64";
    let one = selection("redis", amd, Some(">=7"), 2);
    let mut several = one.clone();
    several.rule.semver = vec![">=7, <8".to_owned(), "^9".to_owned()];
    for (selection, line) in [(&one, "semver = \">=7\"\n"), (&several, "semver = [\">=7, <8\", \"^9\"]\n")] {
        let locked = LockedSelection::of(selection, vec!["7".to_owned()]);
        let lockfile = Lockfile::new([image("redis:7", "x")], [locked]);
        let text = lockfile.to_string();
        assert!(text.contains(line), "{text}");
        let read = Lockfile::parse(&text, "images.lock").unwrap();
        assert_eq!(read, lockfile);
        assert!(read.chosen(selection).is_some());
        for bad in ["semver = []\n", "semver = 7\n", "semver = [7]\n"] {
            let problem = Lockfile::parse(&text.replace(line, bad), "images.lock").unwrap_err();
            assert!(problem.to_string().contains("must be a range, or an array of ranges"), "{problem}");
        }
    }
    assert_ne!(LockedSelection::of(&one, Vec::new()).rule, several.rule);
}

#[test]
fn a_selection_that_cannot_be_is_refused() {
    let redis = selection("redis", "linux/amd64", Some(">=7"), 2);
    let locked = LockedSelection::of(&redis, vec!["7".to_owned()]);
    let good = Lockfile::new([image("redis:7", "x")], [locked]).to_string();
    Lockfile::parse(&good, "images.lock").unwrap();
    let twice = good.replacen("\n[[image]]", &format!("{}[[image]]", good.split_once("1\n").unwrap().1), 1);
    for (bad, complaint) in [
        (good.replace("  \"7\",", "  \"8\","), "has no entry for that"),
        (good.replacen("linux/amd64", "linux/arm64", 1), "has no entry for that"),
        (good.replacen("  \"7\",", "", 1), "must not be empty"),
        (good.replacen("  \"7\",", "  7,", 1), "must be tags"),
        (good.replacen("  \"7\",", "  \"a b\",", 1), "must be tags"),
        (good.replacen("newest = 2", "newest = 0", 1), "must be a number of tags"),
        (good.replacen("newest", "oldest", 1), "unknown key"),
        (good.replacen("docker.io/library/redis\"", "redis\"", 1), "full form"),
        (good.replacen("tags = [", "tag = [", 1), "unknown key"),
        (twice, "two entries"),
    ] {
        assert_ne!(bad, good, "{complaint}");
        let problem = Lockfile::parse(&bad, "images.lock").unwrap_err();
        assert!(problem.to_string().contains(complaint), "{problem}\n{bad}");
    }
}
