//! Secrets, bounds and random text: what must hold for any file at all.

use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::{bad, brief, good, references, source};

/// The problems of a line of a registry's table, the first of which is at `column`, show no secret.
fn assert_hidden(text: &str, column: usize) {
    let problems = bad(&format!("[registry.\"r.io\"]\n{text}\n"));
    let shown = format!("{problems} {problems:?}");
    assert!(!shown.contains("hunter2"), "{text}\n{shown}");
    assert_eq!(
        problems.iter().next().map(|problem| (problem.line(), problem.column())),
        Some((2, column)),
        "{text}"
    );
}

#[test]
fn secrets_are_refused_and_never_shown() {
    for (text, column) in [
        ("password = \"hunter2\"", 1),
        ("password = 'hunter2'", 1),
        ("password = \"\"\"\nhunter2\"\"\"", 1),
        ("password = '''hunter2\nhunter2'''", 1),
        ("password = \"hunter\\u0032hunter2\"", 1),
        ("\"password\" = \"hunter2\"", 1),
        ("\"pass\\u0077ord\" = \"hunter2\"", 1),
        ("Password = \"hunter2\"", 1),
        ("password = [\"hunter2\"]", 1),
        ("password = { value = \"hunter2\" }", 1),
        ("passwd = \"hunter2\"", 1),
        ("token = \"hunter2\"", 1),
        ("password-env = \"hunter2=\"", 16),
        ("password-env = [\"hunter2\"]", 16),
        ("mirrors = { password-env = \"hunter2\" }", 11),
        ("auth = \"hunter2\"", 1),
        ("headers = { Authorization = \"Basic hunter2\" }", 13),
        ("headers = { authorization = [\"hunter2\"] }", 13),
        ("headers = { X-Api-Key = \"hunter2\\n\" }", 25),
        ("endpoint = \"https://me:hunter2@r.io\"", 12),
        ("endpoint = \"https:\\u002f/me:hunter2@r.io\"", 12),
        ("endpoint = 'https://me:hunt\"hunter2@r.io'", 12),
        ("endpoint = \"https://r.io/?sig=hunter2\"", 12),
        ("mirrors = [\"https://me:hunter2@r.io\"]", 12),
        ("mirrors = [{ url = \"https://me:hunter2@r.io\" }]", 20),
        ("images = [\"https://me:hunter2@r.io/x\"]", 11),
        ("images = [\"https://me:hunter2@h\"]", 11),
        ("images = [\"https://h?sig=hunter2\"]", 11),
        ("images = [\"docker://me:hunter2@h\"]", 11),
        ("images = [\"docker://r.io/app?sig=hunter2\"]", 11),
        ("ca = \"-----BEGIN PRIVATE KEY-----\\nhunter2\"", 6),
        ("header = { X-Team = \"hunter2\" }", 1),
        ("haeders = { X-Team = \"hunter2\" }", 1),
        ("imags = 1 # no secret", 1),
    ] {
        assert_hidden(text, column);
    }
}

#[test]
fn logins_are_never_shown_with_and_without_a_scheme() {
    for (text, column) in [
        ("endpoint = \"bob:hunter2@r.io\"", 12),
        ("endpoint = \"https//bob:hunter2@r.io\"", 12),
        ("mirrors = [\"bob:hunter2@r.io\"]", 12),
        ("images = [\"bob:hunter2@r.io/a:1\"]", 11),
        ("images = [\"a:1@hunter2@r.io\"]", 11),
        ("images = [\"hunter2@r.io/a:1\"]", 11),
        ("images = [\"eve:hunter2@shared\"]", 11),
        ("images = [\"r.io/a:1#token=hunter2\"]", 11),
        ("endpoint = \"https://bob:hunter2@shared:5000\"", 12),
        ("endpoint = \"https://r.io/#hunter2\"", 12),
        ("endpoint = \"hunter2@r.corp\"", 12),
        ("endpoint = \"bob:hunter2@https://r.io\"", 12),
        ("mirrors = [\"hunter2@m.corp:5000\"]", 12),
        ("images = [\"hunter2@r.corp\"]", 11),
        ("images = [\"/bob:hunter2@r.corp/a:1\"]", 11),
        ("images = [\"r.io/a?sig=hunter2&u=https://x\"]", 11),
        ("mirrors = [\"https://bob:hunter2@shanghai:5000\"]", 12),
        ("images = [\"r.io/a:1?token=hunter2\"]", 11),
        ("images = [\"a?token=hunter2\"]", 11),
        ("images = [{ name = \"bob:hunter2@r.io/a\" }]", 20),
    ] {
        assert_hidden(text, column);
    }
}

#[test]
fn what_stands_beside_a_secret_is_shown() {
    let hint = "put it into an environment variable";
    let problems = bad("[registry.\"r.io\"]\npassword = \"hunter2\" # x\n");
    assert_eq!(
        brief(&problems),
        [
            "2:1 a password in the file is refused | put it into an environment variable named by `password-env`, or into a file named by `password-file`"
        ]
    );
    assert_eq!(problems.iter().next().unwrap().text(), "password = \"***\" # x");
    // On one line with another problem, in an inline table, in the registry's name.
    let problems = bad("registry = { \"r.io\" = { password = \"hunter2\", imags = [] } }\n");
    assert_eq!(problems.len(), 2);
    assert!(!problems.to_string().contains("hunter2"));
    assert!(problems.to_string().contains(hint));
    assert!(problems.to_string().contains("password = \"***\", imags"));
    let problems = bad("[registry.\"https://me:hunter2@r.io\"]\n");
    assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{problems}");
    for text in [
        "[registry.\"bob:hunter2@r.io\"]\n",
        "[registry.\"r.io\"]\nclient-cert = \"-----BEGIN PRIVATE KEY-----\\nhunter2\"\n",
        "[registry.\"r.io\"]\nclient-key = \"\"\"\n-----BEGIN EC PRIVATE KEY-----\nhunter2\n\"\"\"\n",
        "[registry.\"r.io\"]\npassword-file = \"-----BEGIN PRIVATE KEY-----\\nhunter2\"\n",
        "[registry.\"r.io?sig=hunter2\"]\n",
        "[groups]\ng = [\"bob:hunter2@r.io/a\"]\n",
        "[[trust]]\nimages = [\"*\"]\nkey = \"-----BEGIN PRIVATE KEY-----\\nhunter2\"\n",
    ] {
        let problems = bad(text);
        assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{problems}");
    }
    // A variable's name is no secret. Anything else in its place may be one.
    let problems = bad("registry = { \"r.io\" = { password-env = \"CORP_PW2\", imags = [] } }\n");
    assert!(problems.to_string().contains("password-env = \"CORP_PW2\", imags"), "{problems}");
    let problems = bad("registry = { \"r.io\" = { password-env = \"ghp_hunter2\", imags = [] } }\n");
    assert!(problems.to_string().contains("password-env = \"***\", imags"), "{problems}");
    assert!(
        bad("[registry.\"r.io\"]\npassword-env = \"\" # A\n").to_string().contains("password-env = \"\" # A")
    );
}

#[test]
fn secrets_are_not_shown_where_the_toml_is_broken() {
    for text in [
        "password = \"hunter2\n",
        "password-env = \"hunter2\n",
        "password-env = hunter2\n",
        "password = hunter2\n",
        "password = \"a\nhunter2\"\n",
        "password = \"a\"hunter2\"\n",
        "password = \"\"\"hunter2\n",
        "password = [\"a\"\n\"hunter2\"\n",
        "password = \"\\hunter2\"\n",
        "x = { password = \"hunter2\", }} \n",
        "password : \"hunter2\"\nfoo = \n",
        "password \"hunter2\"\n",
        "endpoint = \"https://me:hunter2@r.io\n",
        "endpoint = https://me:hunter2@r.io\n",
        "endpoint = \"me:hunter2@r.io\n",
        "endpoint = me:hunter2@r.io\n",
        "images = [\"a:1\" \"me:hunter2@r.io/a\"]\n",
        "images = [\"a:1\" \"hunter2@r.io/a\"]\n",
        "endpoint = \"https://me:hunter2@shared:5000\n",
        "endpoint = \"me:hunter2@shared:5000\n",
        "endpoint = \"https://r.io#token=hunter2\n",
        "images = [\"a:1\" \"r.io/a:1?sig=hunter2\"]\n",
        "ca = -----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n",
        "ca = \"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\"\n",
        "headers = { X = \"hunter2\" \n",
        "headers = { X = hunter2 }\n",
        "[registry.x.headers]\nX = hunter2\n",
        "password = \"hunter2\"\npassword = \"hunter2\"\n",
        "passwort = \"hunter2\n",
        "hea-Team\" = \"hunter2\"\n",
        "header = { X-Team = \"hunter2\"\n",
        "[registry.x.header]\nX-Team = hunter2\n",
        "[registry.x.haeders]\nX-Team = hunter2\n",
        "password = \"\"\",\npassword = \"\"\"hunter2\"\"\"\n]\n",
        "images = [\"\"\"\npassword = \"hunter2\"\n",
    ] {
        let problems = bad(&format!("[registry.\"r.io\"]\n{text}"));
        let shown = format!("{problems} {problems:?}");
        assert!(!shown.contains("hunter2"), "{text}\n{shown}");
    }
    // The string is hidden, and not what stands before it.
    let problems = bad("[registry.\"r.io\"]\nimages = [\"a:1\" \"me:hunter2@r.io/a\"]\n");
    assert!(problems.to_string().contains("images = [\"***@r.io/a\"]"), "{problems}");
    let problems = bad("[registry.\"r.io\"]\nimages = [\"r.io/a:1@sha256:0af\"\n");
    assert!(problems.to_string().contains("[\"r.io/a:1@sha256:0af\""), "{problems}");
}

#[test]
fn size_depth_and_number_are_bounded() {
    assert!(bad(&" ".repeat(MAX_TEXT + 1)).to_string().starts_with("error: the file is larger than 8 MiB"));
    good(&" ".repeat(MAX_TEXT));
    for text in [
        format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("x = {}1{}", "{a=".repeat(100_000), "}".repeat(100_000)),
        format!("{}x = 1", "a.".repeat(100_000)),
        format!("[{}x]", "a.".repeat(100_000)),
        format!("x = {}1{}", format!("{{{}a=", "a.".repeat(78)).repeat(79), "}".repeat(79)),
        "a = [".repeat(50_000),
        "[[registry]]\n".repeat(10_000),
    ] {
        assert!(!bad(&text).is_empty());
    }
    let mut chain = String::from("[registry.\"docker.io\"]\nimages = [\"a\"]\n[groups]\ng0 = [\"a\"]\n");
    for index in 1..20_000 {
        let _ = writeln!(chain, "g{index} = [\"@g{}\"]", index - 1);
    }
    assert_eq!(good(&chain).images[0].groups.len(), 20_000);
    let cycle = chain.replace("g0 = [\"a\"]", "g0 = [\"@g19999\"]");
    assert_eq!(bad(&cycle).len(), 1);
    let names: Vec<String> = (0..2_000).map(|index| format!("\"a{index}\"")).collect();
    let names = names.join(",");
    let mut many = format!("[registry.\"docker.io\"]\nimages = [{names}]\n[groups]\ng0 = [{names}]\n");
    for index in 1..2_000 {
        let _ = writeln!(many, "g{index} = [\"@g0\"]");
    }
    assert!(bad(&many).to_string().contains("more than 1000000 members"));
}

fn toml_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[settings]\n".to_owned()),
        Just("[registry.\"docker.io\"]\n".to_owned()),
        Just("[groups]\n".to_owned()),
        Just("[settings.limits]\n".to_owned()),
        Just("images = [".to_owned()),
        Just("{ name = \"a\", ".to_owned()),
        Just("tags = { ".to_owned()),
        Just("]\n".to_owned()),
        Just("}".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("'".to_owned()),
        Just("password = \"".to_owned()),
        Just("https://a:b@".to_owned()),
        "\"[a-z:/@.]{0,12}\", ",
        "[a-z-]{1,9} = ",
        "[a-z.]{1,5}\\.[a-z]{1,3} = ",
        "[0-9]{1,4}\n",
        "\\PC{0,6}",
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn check_any(text: &str) {
    match parse(text, &source()) {
        Ok(file) => drop(file.desired(Owner::pull(), "/layers".into(), &[])),
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = text.split('\n').count();
            for problem in &problems {
                assert!((1..=lines).contains(&problem.line()) && problem.column() >= 1);
                assert!(!problem.to_string().contains(|char: char| char != '\n' && char.is_control()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(text in "(?s).{0,200}") {
        check_any(&text);
    }

    #[test]
    fn nothing_like_toml_makes_the_parser_panic(text in toml_like()) {
        check_any(&text);
    }

    #[test]
    fn a_password_is_never_shown(password in "[A-Z]{12}", before in toml_like(), after in toml_like(), quote in 0..4_usize) {
        let quote = ["\"", "'", "\"\"\"", "'''"][quote];
        let text = format!("{before}\n[registry.\"r.io\"]\npassword = {quote}{password}{quote}\n{after}");
        if let Err(problems) = parse(&text, &source()) {
            let shown = format!("{problems} {problems:?}");
            prop_assert!(!shown.contains(&password), "{}", shown);
        }
    }

    #[test]
    fn valid_files_are_read_whole(
        names in proptest::collection::btree_map("[a-z][a-z0-9]{0,8}(/[a-z]{1,4})?", "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,8}", 0..12),
        as_tables in any::<u16>(),
        downloads in 1..=64_usize,
        minutes in 1..600_u64,
        prune in any::<bool>(),
    ) {
        let mut text = format!("[settings]\ndownloads = {downloads}\ninterval = \"{minutes}m\"\nprune = {prune}\n[registry.\"r.io\"]\nimages = [\n");
        for (index, (name, tag)) in names.iter().enumerate() {
            if as_tables >> index & 1 == 1 {
                let _ = writeln!(text, "  {{ name = '{name}', tag = \"{tag}\", groups = [\"g\"] }},");
            } else {
                let _ = writeln!(text, "  \"{name}:{tag}\",");
            }
        }
        text += "]\n";
        let file = parse(&text, &source()).map_err(|problems| TestCaseError::fail(problems.to_string()))?;
        prop_assert_eq!(file.settings.downloads, downloads);
        prop_assert_eq!(file.settings.interval, Duration::from_secs(minutes * 60));
        prop_assert_eq!(file.settings.prune, prune);
        let expected: Vec<String> = names.iter().map(|(name, tag)| format!("r.io/{name}:{tag}")).collect();
        prop_assert_eq!(references(&file), expected);
        for (index, image) in file.images.iter().enumerate() {
            prop_assert_eq!(image.groups.contains("g"), as_tables >> index & 1 == 1);
        }
    }
}
