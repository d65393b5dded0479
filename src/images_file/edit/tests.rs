//! An edited file means what it meant, with the change; all of its other lines are the same bytes.

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn source() -> Source<'static> {
    Source {
        name: "images.toml",
        directory: Path::new("/etc/msb"),
        home_directory: None,
        default_registry: DEFAULT_REGISTRY,
        default_platform: Platform::new("linux", "amd64", None),
        for_platform: None,
        untrusted: false,
        machine: None,
    }
}

fn reference(text: &str) -> ImageRef {
    ImageRef::parse(text, DEFAULT_REGISTRY).unwrap()
}

fn plain(text: &str) -> Addition {
    Addition { reference: reference(text), platform: None, group: None }
}

#[track_caller]
fn added(text: &str, images: &[&str]) -> String {
    let additions: Vec<Addition> = images.iter().map(|image| plain(image)).collect();
    add(text, &additions, &source()).unwrap_or_else(|error| panic!("{error:?}\n{text}")).text
}

/// Removes images; a text that ends in `*` is a repository alone.
#[track_caller]
fn removed(text: &str, images: &[&str]) -> String {
    let unwanted: Vec<ImageRef> = images
        .iter()
        .map(|image| match image.strip_suffix('*') {
            Some(repository) => reference(repository).repository_alone(),
            None => reference(image),
        })
        .collect();
    remove(text, &unwanted, &source()).unwrap_or_else(|error| panic!("{error:?}\n{text}")).text
}

#[test]
fn an_image_is_added_in_the_style_of_its_neighbours() {
    let table = |images: &str| {
        format!("# mine\n[registry.\"docker.io\"] # here\nimages = {images} # end\npull = 'never'\n")
    };
    for (before, after) in [
        ("[]", "[\"b:1\"]"),
        ("[ ]", "[\"b:1\"]"),
        ("[\n]", "[\n  \"b:1\",\n]"),
        ("[\n  # none yet\n]", "[\n  # none yet\n  \"b:1\",\n]"),
        ("['a:1']", "['a:1', \"b:1\"]"),
        ("[\"a:1\",]", "[\"a:1\", \"b:1\",]"),
        ("[ \"a:1\" ]", "[ \"a:1\", \"b:1\" ]"),
        ("[\n\t\"a:1\",\n]", "[\n\t\"a:1\",\n\t\"b:1\",\n]"),
        ("[\n    \"a:1\"\n]", "[\n    \"a:1\",\n    \"b:1\"\n]"),
        ("[\n  \"a:1\", # the, first\n  # last\n]", "[\n  \"a:1\", # the, first\n  \"b:1\",\n  # last\n]"),
        ("[\n  \"a:1\" # the, first\n  # last\n]", "[\n  \"a:1\", # the, first\n  \"b:1\"\n  # last\n]"),
        ("[\n  \"a:1\"]", "[\n  \"a:1\",\n  \"b:1\"]"),
        ("[\n  \"a:1\",]", "[\n  \"a:1\",\n  \"b:1\",]"),
        ("[\n  \"a:1\"\n  , \"c:1\"\n]", "[\n  \"a:1\"\n  , \"c:1\", \"b:1\"\n]"),
        ("[\n  \"a:1\", \"c:1\",\n]", "[\n  \"a:1\", \"c:1\", \"b:1\",\n]"),
        ("[\n  \"a:1\"\n  # comma below\n  ,\n]", "[\n  \"a:1\"\n  # comma below\n  ,\n  \"b:1\",\n]"),
    ] {
        assert_eq!(added(&table(before), &["b:1"]), table(after));
    }
}

#[test]
fn a_table_is_made_where_there_is_none() {
    assert_eq!(added("", &["alpine:3.20"]), "[registry.\"docker.io\"]\nimages = [\n  \"alpine:3.20\",\n]\n");
    let two = added("[settings]\nprune = true", &["ghcr.io/a/b:1", "ghcr.io/a/c"]);
    assert_eq!(
        two,
        "[settings]\nprune = true\n\n[registry.\"ghcr.io\"]\nimages = [\n  \"a/b:1\",\n  \"a/c:latest\",\n]\n"
    );
    for (before, after) in [
        ("[registry.\"docker.io\"]", "[registry.\"docker.io\"]\nimages = [\"b:1\"]"),
        (
            "[registry.\"Docker.IO\"] # x\n  pull = \"never\" # y\n[registry.\"docker.io\".headers]\nX = \"1\"\n",
            "[registry.\"Docker.IO\"] # x\n  pull = \"never\" # y\n  images = [\"b:1\"]\n[registry.\"docker.io\".headers]\nX = \"1\"\n",
        ),
        (
            "registry.\"docker.io\".pull = \"never\"\n[settings]\n",
            "registry.\"docker.io\".pull = \"never\"\nregistry.\"docker.io\".images = [\"b:1\"]\n[settings]\n",
        ),
        (
            "[registry]\n\"docker.io\" = { pull = \"never\" }\n",
            "[registry]\n\"docker.io\" = { pull = \"never\", images = [\"b:1\"] }\n",
        ),
        ("[registry]\n\"docker.io\" = {}\n", "[registry]\n\"docker.io\" = { images = [\"b:1\"] }\n"),
        (
            "[registry]\n\"docker.io\".images = [\"a:1\"]\n",
            "[registry]\n\"docker.io\".images = [\"a:1\", \"b:1\"]\n",
        ),
    ] {
        // One spelling of the registry's name at a time.
        let before = before.replace("Docker.IO", "docker.io");
        let after = after.replace("Docker.IO", "docker.io");
        assert_eq!(added(&before, &["b:1"]), after);
    }
    let folded = "[registry.\"GHCR.io\"]\nimages = [\"a/a:1\"]\n";
    assert_eq!(added(folded, &["ghcr.io/b/b:1"]), folded.replace("1\"]", "1\", \"b/b:1\"]"));
    let inline = add("registry = {}\n", &[plain("a:1")], &source()).unwrap_err();
    assert!(matches!(inline, EditError::WouldBreak(_) | EditError::TooOdd(_)), "{inline:?}");
}

#[test]
fn line_ends_and_marks_stay() {
    let unix = "\u{feff}[registry.\"docker.io\"]\nimages = [\n  \"a:1\",\n]\n";
    let dos = unix.replace('\n', "\r\n");
    let both = added(&dos, &["b:1", "ghcr.io/c/c:1"]);
    assert_eq!(both.matches('\n').count(), both.matches("\r\n").count(), "{both:?}");
    assert_eq!(both.replace("\r\n", "\n"), added(unix, &["b:1", "ghcr.io/c/c:1"]));
    assert_eq!(removed(&both, &["b:1", "ghcr.io/c/c:1"]), {
        format!("{dos}\r\n[registry.\"ghcr.io\"]\r\nimages = [\r\n]\r\n")
    });
}

#[test]
fn what_is_there_is_said_to_be_there() {
    let text = "[registry.\"docker.io\"]\nimages = [\"a:1\"]\n";
    let edited = add(text, &[plain("a:1"), plain("b:1"), plain("b:1")], &source()).unwrap();
    let statuses: Vec<EditStatus> = edited.images.iter().map(|(_, status)| *status).collect();
    assert_eq!(statuses, [EditStatus::Listed, EditStatus::Added, EditStatus::Listed]);
    assert_eq!(add(text, &[plain("a:1")], &source()).unwrap().text, text);
}

#[test]
fn a_platform_and_a_group_make_a_table() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let addition = Addition {
        reference: reference(&format!("ghcr.io/a/b:1@{digest}")),
        platform: Some(Platform::new("linux", "arm64", None)),
        group: Some("web".to_owned()),
    };
    let text = add("", &[addition], &source()).unwrap().text;
    let entry = format!(
        "  {{ name = \"a/b\", tag = \"1\", digest = \"{digest}\", platform = \"linux/arm64\", groups = [\"web\"] }},\n"
    );
    assert!(text.contains(&entry), "{text}");

    let in_group = |text: &str, image: &str| {
        let addition = Addition { group: Some("web".to_owned()), ..plain(image) };
        let edited = add(text, &[addition], &source()).unwrap();
        (edited.images[0].1, edited.text)
    };
    let images = |images: &str| format!("[registry.\"docker.io\"]\nimages = [\n  {images}, # x\n]\n");
    for (before, after) in [
        ("\"a:1\"", "{ name = \"a\", tag = \"1\", groups = [\"web\"] }"),
        ("{ name = \"a:1\" }", "{ name = \"a:1\", groups = [\"web\"] }"),
        ("{ name = \"a:1\", groups = [\"db\"] }", "{ name = \"a:1\", groups = [\"db\", \"web\"] }"),
    ] {
        assert_eq!(in_group(&images(before), "a:1"), (EditStatus::Grouped, images(after)));
        assert_eq!(in_group(&images(after), "a:1"), (EditStatus::Listed, images(after)));
    }
    let by_table = images("\"a:1\"") + "[groups]\nweb = [\"a:1\"]\n";
    assert_eq!(in_group(&by_table, "a:1"), (EditStatus::Listed, by_table));
}

#[test]
fn an_image_is_removed_with_its_line_or_its_comma() {
    let table = |images: &str| format!("# mine\n[registry.\"docker.io\"] # here\nimages = {images} # end\n");
    for (before, after) in [
        ("[\"b:1\"]", "[]"),
        ("[ \"b:1\", ]", "[]"),
        ("[\"b:1\", \"a:1\"]", "[\"a:1\"]"),
        ("[\"a:1\", \"b:1\"]", "[\"a:1\"]"),
        ("[\"a:1\", \"b:1\",]", "[\"a:1\",]"),
        ("[ \"a:1\", \"b:1\" ]", "[ \"a:1\" ]"),
        ("[\"a:1\",\"b:1\",\"c:1\"]", "[\"a:1\",\"c:1\"]"),
        (
            "[\n  \"a:1\",\n  \"b:1\", # old\n  # of c\n  \"c:1\",\n]",
            "[\n  \"a:1\",\n  # of c\n  \"c:1\",\n]",
        ),
        ("[\n  # of b\n  \"b:1\",\n]", "[\n  # of b\n]"),
        ("[\n  \"a:1\", # keep\n  \"b:1\"\n]", "[\n  \"a:1\" # keep\n]"),
        ("[\n  \"a:1\",\n  \"b:1\"]", "[\n  \"a:1\"]"),
        ("[\n  \"b:1\", \"a:1\",\n]", "[\n  \"a:1\",\n]"),
        ("[\n  \"a:1\", \"b:1\",\n]", "[\n  \"a:1\",\n]"),
        ("[\n  { name = \"b\", tag = \"1\" },\n  \"a:1\",\n]", "[\n  \"a:1\",\n]"),
        ("[\n  \"a:1\"\n  , \"b:1\"\n]", "[\n  \"a:1\"\n  \n]"),
        ("[\n  \"a:1\",\n  \"b:1\",]", "[\n  \"a:1\",]"),
        ("[ # all\n  \"b:1\" ]", "[ # all\n  ]"),
    ] {
        assert_eq!(removed(&table(before), &["b:1"]), table(after), "{before}");
    }
    let selection = "{ name = \"b\", tags = { newest = 1 } }";
    let both = table(&format!("[\n  \"b\",\n  {selection},\n  \"b:2\",\n]"));
    assert_eq!(removed(&both, &["b*"]), table("[\n  \"b:2\",\n]"));
    assert_eq!(removed(&both, &["b:latest"]), table(&format!("[\n  {selection},\n  \"b:2\",\n]")));
}

#[test]
fn groups_lose_what_is_removed() {
    let text = "\
[registry.\"docker.io\"]
images = [\"a:1\", \"b:1\", { name = \"c\", tags = { newest = 1 }, groups = [\"own\"] }]
[groups]
one = [
  \"a:1\", # first
  \"docker.io/library/b:1\",
]
only = [\"b:1\"] # alone
all = [\"@only\", \"@one\", \"@own\", \"c\"]
last = [\"@only\"]
";
    let edited = remove(text, &[reference("b:1")], &source()).unwrap();
    assert_eq!(
        edited.text,
        "\
[registry.\"docker.io\"]
images = [\"a:1\", { name = \"c\", tags = { newest = 1 }, groups = [\"own\"] }]
[groups]
one = [
  \"a:1\", # first
]
all = [\"@one\", \"@own\", \"c\"]
"
    );
    let groups: Vec<(&str, bool)> = edited.groups.iter().map(|group| (&*group.name, group.is_gone)).collect();
    assert_eq!(groups, [("all", false), ("last", true), ("one", false), ("only", true)]);
    let without_c = removed(text, &["c*"]);
    assert!(without_c.contains("all = [\"@only\", \"@one\"]\n"), "{without_c}");
    let nothing = removed(text, &["a:1", "b:1", "c*"]);
    assert_eq!(nothing, "[registry.\"docker.io\"]\nimages = []\n[groups]\n");
}

#[test]
fn what_is_not_listed_has_a_nearest_one() {
    let text =
        "[registry.\"docker.io\"]\nimages = [\"redis:7.2\", { name = \"node\", tags = { newest = 1 } }]\n";
    for (wrong, near) in [
        ("redis:7", Some("docker.io/library/redis:7.2")),
        ("reddis:7.2", Some("docker.io/library/redis:7.2")),
        ("node:22", Some("docker.io/library/node")),
        ("ghcr.io/acme/something-else:1", None),
    ] {
        let error = remove(text, &[reference(wrong)], &source()).unwrap_err();
        let EditError::Unlisted { nearest, .. } = error else { panic!("{error:?}") };
        assert_eq!(nearest.map(|near| near.to_string()).as_deref(), near, "{wrong}");
    }
}

#[test]
fn a_file_that_would_be_wrong_is_refused() {
    let broken = add("[settings]\nlayerz = 1\n", &[plain("a:1")], &source()).unwrap_err();
    assert!(matches!(broken, EditError::Problems(_)), "{broken:?}");
    // The same name for two platforms.
    let text =
        "[registry.\"docker.io\"]\nimages = [{ name = \"a\", tag = \"1\", platform = \"linux/arm64\" }]\n";
    let twice = add(text, &[plain("sandboxes.io/a:1")], &source()).unwrap_err();
    assert!(matches!(twice, EditError::WouldBreak(_)), "{twice:?}");
    let group = Addition { group: Some("a b".to_owned()), ..plain("b:1") };
    let odd = add(text, &[group], &source()).unwrap_err();
    assert!(matches!(odd, EditError::GroupName { .. }), "{odd:?}");
}

#[test]
fn forms_that_are_not_edited_are_told_as_such() {
    for text in [
        "registry = { \"docker.io\" = { images = [\"a:1\"] } }\n",
        "[[registry.\"ghcr.io\".images]]\nname = \"b\"\ntag = \"1\"\n",
    ] {
        let odd = add(text, &[plain("ghcr.io/c/c:1")], &source()).unwrap_err();
        assert!(matches!(odd, EditError::TooOdd(_)), "{text}{odd:?}");
    }
    let text = "[[registry.\"docker.io\".images]]\nname = \"b\"\ntag = \"1\"\n";
    let odd = remove(text, &[reference("b:1")], &source()).unwrap_err();
    assert!(matches!(odd, EditError::TooOdd(_)), "{odd:?}");
}

/// A file of images a…j, in any style: how each line looks, and what stands between.
fn file() -> impl Strategy<Value = (String, Vec<String>)> {
    let style = (0_u8..4, any::<bool>(), any::<bool>(), any::<bool>());
    let extra = prop::collection::vec(
        prop::sample::select(vec!["", " # say, \"x\"", "  # ]", "\n  # , between"]),
        10,
    );
    (0_usize..8, style, extra).prop_map(|(count, (style, trailing, dos, mark), extra)| {
        let names: Vec<String> = ('a'..).take(count).map(|letter| format!("{letter}:1")).collect();
        let mut array = String::from("[");
        for (index, name) in names.iter().enumerate() {
            let comma = if index + 1 < count || trailing { "," } else { "" };
            let entry = if index % 3 == 2 { format!("{{ name = '{name}' }}") } else { format!("\"{name}\"") };
            let entry = match style {
                0 => format!("{}{entry}{comma}", if index > 0 { " " } else { "" }),
                1 => format!("\n  {entry}{comma}{}", extra[index]),
                2 => format!("\n\t{entry}{comma} {}", if index % 2 == 0 { "" } else { extra[index] }),
                _ => format!("{}{entry}{comma}{}\n", if index % 2 == 0 { "\n  " } else { " " }, extra[index]),
            };
            array += &entry;
        }
        array += if style == 0 { "]" } else { "\n]" };
        let text = format!("# é, [x]\n[settings]\nprune = true\n\n[registry.\"docker.io\"]\nimages = {array}   # end\npull = \"never\"\n[groups]\n");
        let text = if dos { text.replace('\n', "\r\n") } else { text };
        (if mark { format!("\u{feff}{text}") } else { text }, names)
    })
}

/// The comments of a text, in their order.
fn comments(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split_once("# ").map(|(_, comment)| comment)).collect()
}

fn listed(text: &str) -> Vec<ImageRef> {
    parse(text, &source()).unwrap().images.into_iter().map(|image| image.reference).collect()
}

proptest! {
    #[test]
    fn adding_changes_one_line_and_adds_one((text, names) in file(), registry in prop::sample::select(vec!["", "ghcr.io/z/"])) {
        let image = format!("{registry}z:9");
        let after = added(&text, &[&image]);
        let mut expected: Vec<ImageRef> = names.iter().map(|name| reference(name)).collect();
        expected.push(reference(&image));
        prop_assert_eq!(listed(&after), expected);
        prop_assert_eq!(comments(&after), comments(&text));
        let lines: Vec<&str> = text.split('\n').collect();
        let kept = after.split('\n').filter(|line| lines.contains(line)).count();
        prop_assert!(kept + 1 >= lines.len(), "{}\n---\n{}", text, after);
        prop_assert_eq!(after.contains('\r'), text.contains('\r'));
        prop_assert_eq!(after.replace("\r\n", "").contains('\r'), false);
    }

    #[test]
    fn removing_leaves_all_other_lines((text, names) in file(), which in any::<prop::sample::Index>()) {
        prop_assume!(!names.is_empty());
        let name = which.get(&names);
        let after = removed(&text, &[name]);
        let expected: Vec<ImageRef> = names.iter().filter(|other| *other != name).map(|name| reference(name)).collect();
        prop_assert_eq!(listed(&after), expected);
        // No comment goes but that of the line.
        let (before, left) = (comments(&text), comments(&after));
        prop_assert!(before.len() <= left.len() + 1, "{}\n---\n{}", text, after);
        let lines: Vec<&str> = text.split('\n').collect();
        let kept = lines.iter().filter(|line| after.split('\n').any(|other| other == **line)).count();
        prop_assert!(kept + 2 >= lines.len(), "{}\n---\n{}", text, after);
    }

    #[test]
    fn what_is_added_and_removed_leaves_the_same_meaning((text, names) in file()) {
        let after = removed(&added(&text, &["z:9"]), &["z:9"]);
        let expected: Vec<ImageRef> = names.iter().map(|name| reference(name)).collect();
        prop_assert_eq!(listed(&after), expected);
        prop_assert_eq!(comments(&after), comments(&text));
    }

    #[test]
    fn no_text_breaks_the_editor(text in "(\\[registry\\.\"docker\\.io\"\\]\nimages = \\[)?[\"a-c:1,\\]\n# {}=]{0,40}") {
        let _ = add(&text, &[plain("b:1")], &source());
        let _ = remove(&text, &[reference("a:1")], &source());
    }
}

#[test]
fn all_that_is_no_image_has_to_stay_wherever_it_stands() {
    let parsed =
        |text: &str| parse(text, &source()).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    let whole = "settings.prune = true\nsettings.unsigned = \"refuse\"\n[[trust]]\nimages = [\"*\"]\n\
                 accept = \"unsigned\"\n[[on-change]]\nimages = [\"*\"]\nactions = [\"add\"]\nrun = [\"/bin/true\"]\n\
                 [registry.\"ghcr.io\"]\nendpoint = \"https://mirror.example\"\nimages = []\n";
    let before = parsed(whole);
    assert!(others_are_same(&before, &parsed(&format!("# moved\n\n{whole}"))));
    assert!(others_are_same(&before, &parsed(&format!("{whole}[registry.\"quay.io\"]\nimages = []\n"))));
    for (part, other) in [
        ("prune = true", "prune = false"),
        ("settings.unsigned = \"refuse\"\n", ""),
        ("accept = \"unsigned\"", "keyless = { issuer = \"https://a.example\", identity = \"b\" }"),
        ("/bin/true", "/bin/false"),
        ("mirror.example", "elsewhere.example"),
        ("endpoint = \"https://mirror.example\"\n", ""),
    ] {
        assert!(!others_are_same(&before, &parsed(&whole.replace(part, other))), "{part}");
    }
}
