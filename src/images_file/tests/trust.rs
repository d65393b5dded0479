//! Rules about signatures, as files say them, and what is said about their mistakes.

use super::*;
use crate::state::{Identity, Keyless, Signer, TrustRule};

/// All that tables of trust can say.
const TABLES: &str = r#"
[settings]
unsigned = "refuse"
trusted-root = "~/sigstore/trusted_root.json"
[[trust]]
images = ["ghcr.io/acme/app", "GHCR.io/acme/lib-*"]
keyless = { issuer = "https://token.actions.githubusercontent.com", identity = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/*" }
provenance = true
[[trust]]
images = ["ghcr.io/acme/*"]
keyless = { issuer = "https://token.actions.githubusercontent.com", repository = "acme/app", workflow = "release.yml", ref = "refs/tags/*" }

# A comment.
[[trust]]
images = ["registry.corp:5000/*"]
key = "cosign.pub"
[[trust]]
images = ["index.docker.io/acme/*"]
keys = ["../a.pub", "~/b.pub"]
log = "required"
[[trust]]
images = ["vendored.local/*"]
notation = { roots = "ca.pem", subject = "C=DE, O=Acme\\, Inc.,*" }
[[trust]]
images = ["docker.io/library/*", "sandboxes.io/library/alpine", "*.corp:*/x", "**"]
accept = "unsigned"
provenance = false
[registry."ghcr.io"]
images = ["acme/app:1"]
[registry."sandboxes.io"]
images = ["alpine"]
"#;

fn keyless(identity: Identity) -> Signer {
    Signer::Keyless(Keyless { issuer: "https://token.actions.githubusercontent.com".to_owned(), identity })
}

#[test]
fn tables_of_trust_mean_what_they_say() {
    let file = good(TABLES);
    assert_eq!(file.warnings, []);
    let trust = file.settings.trust;
    assert_eq!(trust.refuses_unsigned.as_deref(), Some("images.toml:3"));
    assert_eq!(trust.trusted_root.as_deref(), Some(Path::new("/home/ann/sigstore/trusted_root.json")));
    let rule = |images: &[&str], signer: Signer, provenance: bool, place: &str| TrustRule {
        images: images.iter().map(|image| (*image).to_owned()).collect(),
        signer,
        provenance,
        place: place.to_owned(),
    };
    let name = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/*";
    let claims = Identity::Claims {
        repository: "acme/app".to_owned(),
        workflow: Some("release.yml".to_owned()),
        git_ref: Some("refs/tags/*".to_owned()),
    };
    let keys = |files: &[&str], log_required| Signer::Keys {
        files: files.iter().map(PathBuf::from).collect(),
        log_required,
    };
    let notation =
        Signer::Notation { roots: "/etc/msb/ca.pem".into(), subject: "C=DE, O=Acme\\, Inc.,*".to_owned() };
    let accepted = ["docker.io/library/*", "sandboxes.io/library/alpine", "*.corp:*/x", "**"];
    let expected = [
        rule(
            &["ghcr.io/acme/app", "ghcr.io/acme/lib-*"],
            keyless(Identity::Name(name.to_owned())),
            true,
            "images.toml:5",
        ),
        rule(&["ghcr.io/acme/*"], keyless(claims), false, "images.toml:9"),
        rule(&["registry.corp:5000/*"], keys(&["/etc/msb/cosign.pub"], false), false, "images.toml:14"),
        rule(&["docker.io/acme/*"], keys(&["/etc/a.pub", "/home/ann/b.pub"], true), false, "images.toml:17"),
        rule(&["vendored.local/*"], notation, false, "images.toml:21"),
        rule(&accepted, Signer::Nobody, false, "images.toml:24"),
    ];
    assert_eq!(trust.rules, expected);

    assert!(good("").settings.trust.is_empty());
    assert_eq!(good("[settings]\nunsigned = \"allow\"\n").settings.trust.refuses_unsigned, None);
}

#[test]
fn a_rule_in_a_list_is_named_by_its_own_line() {
    let text = "trust = [\n  { images = [\"a.io/*\"], key = \"a\" },\n  { images = [\"*\"], accept = \"unsigned\" },\n]\n";
    let places = good(text).settings.trust.rules.into_iter().map(|rule| rule.place);
    assert_eq!(places.collect::<Vec<_>>(), ["images.toml:2", "images.toml:3"]);
}

#[test]
fn rules_name_images_by_their_full_names_without_tag() {
    let rules = good(TABLES).settings.trust.rules;
    let named = |text: &str| -> Vec<usize> {
        let reference = ImageRef::parse(text, "docker.io").unwrap();
        (0..rules.len() - 1).filter(|index| rules[*index].names(&reference)).collect()
    };
    assert_eq!(named("ghcr.io/acme/app:v1"), [0, 1]);
    assert_eq!(named("ghcr.io/acme/lib-a/b:v1"), [0, 1]);
    assert_eq!(named("ghcr.io/acme-evil/app:v1"), [0; 0]);
    assert_eq!(named("acme/tool"), [3]);
    assert_eq!(named("registry.corp:5000/team/app:v1"), [2]);
    let library = &rules[5].images[..1];
    let library = TrustRule { images: library.to_vec(), ..rules[5].clone() };
    for text in ["alpine:3.20", "sandboxes.io/library/alpine", "sandboxes.io/alpine:1"] {
        let reference = ImageRef::parse(text, "docker.io").unwrap();
        assert!(library.names(&reference), "{text}: what is recorded as docker.io's answers to its rule");
    }
}

/// Each body of a table, and what is said of it: the only problem.
#[test]
fn bad_tables_and_their_problems() {
    let trust = |body: &str| format!("[[trust]]\nimages = [\"a.io/*\"]\n{body}\n");
    let images = |list: &str| format!("[[trust]]\nimages = {list}\nkey = \"a\"\n");
    let keyless = |body: &str| trust(&format!("keyless = {{ issuer = \"https://i\", {body} }}"));
    let cases: Vec<(String, &str)> = vec![
        // shape
        (
            "[trust]\nimages = []".into(),
            "1:2 `trust` must be an array of tables | write [[trust]] in double brackets: each such table is a rule",
        ),
        ("trust = 1".into(), "1:9 `trust` must be an array, found an integer"),
        ("trust = [1]".into(), "1:10 an entry of `trust` must be a table, found an integer"),
        (
            "[settings]\nunsigned = \"refused\"".into(),
            "2:12 unknown value `refused` for `unsigned` | did you mean `refuse`?",
        ),
        ("[settings]\ntrusted-root = \"\"".into(), "2:16 `trusted-root` is empty"),
        (
            trust("key = \"a\"\nprovenence = true"),
            "4:1 unknown key `provenence` | did you mean `provenance`?",
        ),
        (
            trust("key = \"a\"\nidentity = \"x\""),
            "4:1 unknown key `identity` | `identity` belongs to `keyless` of [[trust]]",
        ),
        (
            trust("key = \"a\"\nunsigned = \"refuse\""),
            "4:1 unknown key `unsigned` | `unsigned` belongs to [settings]",
        ),
        (keyless("identity = \"x\", isuer = \"y\""), "3:51 unknown key `isuer` | did you mean `issuer`?"),
        (
            trust("key = \"a\"\nprovenance = \"yes\""),
            "4:14 `provenance` must be true or false, found a string",
        ),
        // images
        (
            "[[trust]]\nkey = \"a\"".into(),
            "1:1 a [[trust]] table without `images` | name them as in images = [\"ghcr.io/acme/*\"], or images = [\"*\"] for all",
        ),
        (
            images("[]"),
            "2:10 `images` of [[trust]] names no image | name them as in images = [\"ghcr.io/acme/*\"], or images = [\"*\"] for all",
        ),
        (images("\"a.io/*\""), "2:10 `images` must be an array, found a string"),
        (images("[1]"), "2:11 an entry of `images` must be a string, found an integer"),
        (images("[\"\"]"), "2:11 an entry of `images` is empty"),
        (
            images("[\"alpine\"]"),
            "2:11 an entry of `images` is not a full name, registry and all: `alpine` | write `docker.io/library/alpine`",
        ),
        (
            images("[\"alpine:3\"]"),
            "2:11 an entry of `images` is not a full name, registry and all: `alpine:3` | write `docker.io/library/alpine`",
        ),
        (
            images("[\"acme/*\"]"),
            "2:11 an entry of `images` is not a full name, registry and all: `acme/*` | write `docker.io/acme/*`",
        ),
        (
            images("[\"docker.io/alpine\"]"),
            "2:11 an entry of `images` is not a full name: `docker.io/alpine` | write `docker.io/library/alpine`",
        ),
        (
            images("[\"ghcr.io\"]"),
            "2:11 an entry of `images` names a registry and no image of it: `ghcr.io` | write `ghcr.io/*`",
        ),
        (
            images("[\"registry.corp:5000\"]"),
            "2:11 an entry of `images` names a registry and no image of it: `registry.corp:5000` | write `registry.corp:5000/*`",
        ),
        (
            images("[\"ghcr.io*\"]"),
            "2:11 an entry of `images` names a registry and no image of it: `ghcr.io*` | write `ghcr.io/*`",
        ),
        (
            images("[\"ghcr.io/acme/app:v1\"]"),
            "2:11 an entry of `images` has a tag, and a rule is for all versions of an image: `ghcr.io/acme/app:v1` | write `ghcr.io/acme/app`",
        ),
        (
            images("[\"ghcr.io/acme/*:*\"]"),
            "2:11 an entry of `images` has a tag, and a rule is for all versions of an image: `ghcr.io/acme/*:*` | write `ghcr.io/acme/*`",
        ),
        (
            images("[\"docker.io/alpine:3\"]"),
            "2:11 an entry of `images` has a tag, and a rule is for all versions of an image: `docker.io/alpine:3`",
        ),
        (
            images("[\"ghcr.io/acme/app:v1@sha256:0\"]"),
            "2:11 an entry of `images` has a digest, and a rule is for all versions of an image: `ghcr.io/acme/app:v1@sha256:0` | write `ghcr.io/acme/app`",
        ),
        (
            images("[\"docker://ghcr.io/acme/app\"]"),
            "2:11 an entry of `images` starts with docker://, and no image's name does: `docker://ghcr.io/acme/app` | write `ghcr.io/acme/app`",
        ),
        (
            images("[\"https://ghcr.io/acme/app:1\"]"),
            "2:11 an entry of `images` starts with https://, and no image's name does: `https://ghcr.io/acme/app:1`",
        ),
        (
            images("[\"ghcr.io/Acme/*\"]"),
            "2:11 an entry of `images` names no image, repositories are lower case: `ghcr.io/Acme/*` | write `ghcr.io/acme/*`",
        ),
        (
            images("[\"ghcr.io/acme/\"]"),
            "2:11 an entry of `images` names no image, each part of a repository starts and ends with a lower-case letter or a digit: `ghcr.io/acme/`",
        ),
        (
            images("[\"a_b.io/x\"]"),
            "2:11 an entry of `images` has no valid registry: not a host name: labels of letters, digits and inner dashes, parted by single dots",
        ),
        // signers
        (
            trust(""),
            "1:1 a [[trust]] table without a signer | say who signs: `key`, `keys`, `keyless` or `notation`; or accept = \"unsigned\" where nobody does",
        ),
        (
            trust("key = \"a\"\nkeys = [\"b\"]"),
            "4:1 `key` and `keys` exclude each other | list all of them in `keys`: the signature of any one will do",
        ),
        (
            trust("accept = \"unsigned\"\nkey = \"b\""),
            "4:1 `accept` and `key` exclude each other | keep one of them: a table asks for one kind of signer",
        ),
        (
            trust("keys = []"),
            "3:8 `keys` lists no key | name the files of the public keys, any of which may have signed",
        ),
        (trust("keys = \"a\""), "3:8 `keys` must be an array, found a string"),
        (trust("keys = [1]"), "3:9 an entry of `keys` must be a string, found an integer"),
        (trust("key = \"\""), "3:7 `key` is empty"),
        (
            trust("key = \"awskms:///alias/x\""),
            "3:7 `key` starts with `awskms://`, and is no path | save the public key into a file, as `cosign public-key --key …` prints it",
        ),
        (
            trust("key = \"-----BEGIN PUBLIC KEY-----\""),
            "3:7 `key` is the key or certificate itself, not the path of its file | put it into a file beside this one, and name the file here",
        ),
        (
            trust("key = \"a\"\nlog = \"requird\""),
            "4:7 unknown value `requird` for `log` | did you mean `required`?",
        ),
        (trust("accept = \"unsigned\"\nlog = \"required\""), "4:1 `log` needs `key` or `keys`"),
        (
            trust("accept = \"everything\""),
            "3:10 unknown value `everything` for `accept` | valid here: `unsigned`",
        ),
        (
            trust("accept = \"unsigned\"\nprovenance = true"),
            "4:1 `provenance` has no meaning beside `accept` | attestations are signed by `key`, `keys` or `keyless`",
        ),
        (
            trust("notation = { roots = \"a\", subject = \"CN=*\" }\nprovenance = true"),
            "4:1 `provenance` has no meaning beside `notation` | attestations are signed by `key`, `keys` or `keyless`",
        ),
        (
            trust("notation = { roots = \"a\", subject = \"CN=*\" }\nlog = \"required\""),
            "4:1 `log` needs `key` or `keys`",
        ),
        // keyless
        (trust("keyless = \"x\""), "3:11 `keyless` must be a table, found a string"),
        (
            trust("keyless = { identity = \"x\" }"),
            "3:11 `keyless` without `issuer` | name who vouches for the identity: issuer = \"https://token.actions.githubusercontent.com\" for GitHub Actions",
        ),
        (
            trust("keyless = { issuer = \"https://i\" }"),
            "3:11 `keyless` without `identity` or `repository` | anybody can have a certificate: say whose, by `identity`, or by `repository` for GitHub Actions",
        ),
        (
            trust("keyless = { issuer = \"github\", repository = \"a/b\" }"),
            "3:22 `issuer` is not an issuer | an issuer is a URL, as in \"https://token.actions.githubusercontent.com\"",
        ),
        (
            keyless("identity = \"x\", repository = \"a/b\""),
            "3:51 `identity` and `repository` exclude each other | keep `identity`, or else `repository`, `workflow` and `ref`",
        ),
        (
            keyless("ref = \"refs/tags/*\""),
            "3:35 `ref` needs `repository` | name the source repository, as in repository = \"acme/app\"",
        ),
        (keyless("identity = \"\""), "3:46 `identity` is empty"),
        (keyless("identity = \"a\\nb\""), "3:46 `identity` has a control character"),
        (
            keyless("repository = \"https://github.com/acme/app.git\""),
            "3:48 `repository` is a URL | write `acme/app`",
        ),
        (
            keyless("repository = \"app\""),
            "3:48 `repository` is not a repository | owner and name, as in \"acme/app\" or \"acme/*\"",
        ),
        (
            keyless("repository = \"a/b\", workflow = \".github/workflows/release.yml\""),
            "3:66 `workflow` has a directory | write `release.yml`",
        ),
        (
            keyless("repository = \"a/b\", workflow = \"release.yml@refs/tags/v1\""),
            "3:66 `workflow` has a ref | write workflow = \"release.yml\", ref = \"refs/tags/v1\"",
        ),
        (
            keyless("repository = \"a/b\", workflow = \"ci/release.yml\""),
            "3:66 `workflow` is not the file of a workflow | the name of the file alone, as in \"release.yml\"",
        ),
        (
            keyless("repository = \"a/b\", ref = \"main\""),
            "3:61 `ref` is not a whole ref | write `refs/heads/main` or `refs/tags/main`",
        ),
        // notation
        (
            trust("notation = { subject = \"CN=*\" }"),
            "3:12 `notation` without `roots` | name the PEM file of your CA's certificates: roots = \"ca.pem\"",
        ),
        (
            trust("notation = { roots = \"a\" }"),
            "3:12 `notation` without `subject` | say whose certificates count: subject = \"O=Acme,CN=*\"",
        ),
        (
            trust("notation = { roots = \"a\", subject = \"Acme\" }"),
            "3:37 `subject` does not list the attributes of a subject | list attributes as in \"C=DE,O=Acme,CN=*\"; a comma inside a value is written \\,",
        ),
    ];
    let wrong: Vec<(Vec<String>, &str)> = cases
        .iter()
        .map(|(text, expected)| (brief(&bad(text)), *expected))
        .filter(|(found, expected)| found != &[*expected])
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn all_mistakes_of_a_table_are_reported_in_one_run() {
    let text = "[[trust]]\nimages = [\"alpine\", 7]\nkeyless = { ref = \"main\", workflow = \"a/b\" }\nkey = 1\nlog = \"x\"\n";
    let lines: Vec<String> =
        brief(&bad(text)).iter().map(|problem| problem.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["2:11", "2:21", "3:11", "3:19", "3:27", "3:38", "4:1", "4:7", "5:7"]);
}

#[test]
fn rules_that_never_decide_are_warned_of() {
    let warnings = |text: &str| -> Vec<String> {
        let one = |problem: &Problem| {
            let hint = problem.hint().map_or(String::new(), |hint| format!(" | {hint}"));
            format!("{}:{} {}{hint}", problem.line(), problem.column(), problem.message())
        };
        good(text).warnings.iter().map(one).collect()
    };
    let table = |images: &str| format!("[[trust]]\nimages = [{images}]\nkey = \"a\"\n");
    let order = "the first table that names an image decides: put the narrower one first";
    let text = table("\"a.io/*\"") + &table("\"a.io/b/*\", \"a.io/*/c\"") + &table("\"a.io/*\", \"b.io/*\"");
    assert_eq!(
        warnings(&text),
        [
            format!("4:1 this [[trust]] table never decides: an earlier one names all its images | {order}"),
            format!("8:11 this table never decides about `a.io/*` | {order}"),
        ]
    );
    let text = table("\"a.io/b/*\"") + &table("\"a.io/*\"") + &table("\"*\"");
    assert_eq!(warnings(&text), [""; 0], "the narrower one first");

    let listed =
        "[registry.\"docker.io\"]\nimages = [\"alpine\", { name = \"redis\", tags = { newest = 1 } }]\n";
    let text =
        table("\"docker.io/library/alpine\", \"docker.io/library/redis\", \"docker.io/library/alpin\"")
            + &table("\"x.io/y\", \"x.io/*\"")
            + listed;
    assert_eq!(
        warnings(&text),
        [
            "2:66 `docker.io/library/alpin` is an image that this file does not list | did you mean `docker.io/library/alpine`?",
            "5:11 `x.io/y` is an image that this file does not list",
        ]
    );
}

#[test]
fn signers_that_anybody_can_be_are_warned_of() {
    let warning = |body: &str| {
        let text = format!("[[trust]]\nimages = [\"a.io/*\"]\nkeyless = {{ {body} }}\n");
        let warnings = good(&text).warnings;
        assert!(warnings.len() <= 1, "{warnings:?}");
        warnings.first().map(|problem| (problem.message().to_owned(), problem.hint().map(str::to_owned)))
    };
    for (body, says, hint) in [
        ("issuer = \"https://*\", identity = \"me@acme.com\"", "`issuer` takes the word of strangers", None),
        ("issuer = \"https://i\", identity = \"*\"", "`identity` lets anybody sign", Some("name yours")),
        (
            "issuer = \"https://i\", identity = \"https://github.com/acme*\"",
            "strangers too",
            Some("write `https://github.com/acme/*`"),
        ),
        (
            "issuer = \"https://i\", identity = \"https://github.com/acme/app\"",
            "`identity` is nobody's",
            Some("write \"https://github.com/acme/app/.github/workflows/*@refs/tags/*\""),
        ),
        ("issuer = \"https://i\", repository = \"acme*\"", "strangers too", Some("write `acme/*`")),
        ("issuer = \"https://i\", repository = \"*/app\"", "strangers too", None),
    ] {
        let (message, found) = warning(body).unwrap_or_else(|| panic!("no warning: {body}"));
        assert!(message.contains(says), "{body}: {message}");
        assert_eq!(found.is_some(), hint.is_some(), "{body}: {found:?}");
        let hint_fits = hint.is_none_or(|hint| found.as_deref().unwrap_or_default().starts_with(hint));
        assert!(hint_fits, "{body}: {found:?}");
    }
    for body in [
        "issuer = \"https://*.acme.corp\", identity = \"*@acme.com\"",
        "issuer = \"https://i\", identity = \"https://github.com/acme/*\"",
        "issuer = \"https://i\", repository = \"acme/*\"",
    ] {
        let found = warning(body).filter(|_| !body.contains("*.acme.corp"));
        assert_eq!(found, None, "{body}");
    }
}

#[test]
fn the_number_of_names_is_bounded() {
    let names = vec!["\"a.io/*\""; 1001].join(",");
    let text = format!("[[trust]]\nimages = [{names}]\nkey = \"a\"\n");
    assert_eq!(
        brief(&bad(&text)),
        ["2:9011 [[trust]] names more than 1000 images | one `*` can stand for many: \"ghcr.io/acme/*\""]
    );
}

#[test]
fn a_stranger_names_no_file_and_the_machine_has_no_rules() {
    let stranger = Source { untrusted: true, ..source() };
    let problems = parse(TABLES, &stranger).unwrap_err();
    let places: Vec<_> = problems.iter().map(|problem| (problem.line(), problem.column())).collect();
    assert_eq!(places, [(4, 1), (16, 1), (19, 1), (23, 14)]);

    let text = "[settings]\nunsigned = \"refuse\"\n[[trust]]\nimages = [\"*\"]\naccept = \"unsigned\"\n";
    assert!(parse(text, &stranger).is_ok(), "stricter or looser, it is only looked at");
    assert_eq!(
        brief(&parse_machine(text, &source()).unwrap_err()),
        [
            "2:1 unknown key `unsigned` | `unsigned` belongs into an images file",
            "3:3 unknown key `trust` | `trust` belongs into an images file",
        ]
    );
}
