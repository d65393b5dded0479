//! Every form of a secret is hidden, and nothing else is.

use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;

use super::super::words::named_secrets;
use super::*;
use crate::url::form_pair;

fn veil(secrets: &[&str]) -> Veil {
    let veil = Veil::default();
    for secret in secrets {
        veil.add(secret);
    }
    veil
}

/// Every form in which `secret` may come back, with what must not be seen.
fn forms(secret: &str) -> Vec<String> {
    let pair = format!("me:{secret}");
    let bytes =
        |before: &str| -> Vec<String> { secret.bytes().map(|byte| format!("{before}{byte:02x}")).collect() };
    let (hex, percent) = (bytes("").concat(), bytes("%").concat());
    let chars = |form: &dyn Fn(u32) -> String| -> Vec<String> {
        secret.chars().map(|char| form(u32::from(char))).collect()
    };
    let unicode = chars(&|char| format!("\\u{char:04x}")).concat();
    let entities = chars(&|char| format!("&#{char};")).concat();
    let (bytes_of_c, octal) = (bytes("\\x").concat(), secret.bytes().map(|byte| format!("\\{byte:03o}")));
    let braces = chars(&|char| format!("\\u{{{char:x}}}")).concat();
    let bells: Vec<String> = secret.chars().map(String::from).collect();
    let form = form_pair("password", secret).split_off("password=".len());
    let json = |text: &str| {
        let quoted = serde_json::to_string(text).unwrap();
        quoted[1..quoted.len() - 1].to_owned()
    };
    let html = |text: &str| {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        escaped.replace('"', "&quot;").replace('\'', "&#39;")
    };
    vec![
        secret.to_owned(),
        secret.to_ascii_uppercase(),
        json(secret),
        html(secret),
        html(&json(secret)),
        json(&html(&form)),
        form.replace('+', "%20").replace("%2B", "+"),
        form.clone(),
        percent,
        unicode,
        entities,
        bytes_of_c,
        octal.collect(),
        braces,
        bells.join("\u{7}"),
        bells.join("\u{200b}"),
        bells.join("\u{ad}"),
        bells.join("\u{61c}\u{34f}"),
        bells.join("\u{180e}\u{fe0f}"),
        bells.join("\u{115f}\u{3164}"),
        bells.join("\u{e0001}"),
        json(&bells.join("\r\n")),
        hex.to_uppercase(),
        hex,
        BASE64_STANDARD.encode(secret),
        BASE64_STANDARD_NO_PAD.encode(&pair),
        BASE64_URL_SAFE_NO_PAD.encode(&pair),
        form_pair("x", &BASE64_STANDARD.encode(&pair)),
        BASE64_STANDARD.encode(form),
        BASE64_STANDARD_NO_PAD.encode(&pair).to_ascii_lowercase(),
    ]
}

#[test]
fn a_secret_is_hidden_in_every_form() {
    for secret in [
        "hunter2-hunter2",
        "open sesame",
        "p&ss<w>\"rd/+",
        "pässwörter",
        "tok_en_12",
        "hunt+er\"two4",
        "hunt+er&two4",
        "hunt%20er&two",
        "hunt\\x41er+<two>",
    ] {
        let veil = veil(&[secret]);
        for form in forms(secret) {
            for around in ["no: {}", "/v2/{}/x", "\"{}\" is wrong", "key={}&y"] {
                let shown = veil.hide(&around.replace("{}", &form));
                assert!(shown.contains(HIDDEN) && !shown.contains(&form), "{secret} as {form}: {shown}");
            }
        }
    }
}

#[test]
fn a_secret_that_looks_like_an_escape_is_hidden_among_other_escapes() {
    for (secret, sent) in [
        ("hunt+er\"two4", r#"hunt+er\"two4"#),
        ("hunt+er&two4", "hunt+er&amp;two4"),
        ("hunt%20er&two", "hunt%20er&amp;two"),
        ("hunt+er two", "hunt+er%20two"),
        ("hunt&amp;er+two", "hunt&amp;er%2Btwo"),
        ("hunt&amp;er\"two", r#"hunt&amp;er\"two"#),
        ("hunt\u{1f600}er", "hunt\\ud83d\\ude00er"),
        // Python's bytes, and its text; the same in octal; Latin-1 that was taken for UTF-8.
        ("hunt\u{e9}er", "b'hunt\\xc3\\xa9er'"),
        ("hunt\u{e9}er", "'hunt\\xe9er'"),
        ("hunt\u{e9}er", "hunt\\303\\251er"),
        ("hunt\u{e9}er", "hunt%E9er"),
        ("hunt\u{e9}er/x@y?z", "hunt\u{fffd}er/x@y?z"),
        ("hunter-two", "hunt\ner-t\r\nwo"),
        ("hunter-two", "hunt\u{85}er-\u{feff}two"),
    ] {
        let shown = veil(&[secret]).hide(&format!("no {sent} here"));
        assert!(!shown.contains("hunt") && shown.starts_with("no …"), "{secret} as {sent}: {shown}");
    }
}

#[test]
fn other_words_stay_and_short_secrets_only_hide_where_they_stand_alone() {
    let veil = veil(&["hunter2", "ab", "eyJhbGciOiJSUzI1NiJ9.payload.signature"]);
    for text in ["manifest unknown", "about a cabin", "https://registry.corp:5000/v2/team/app", "ähm"] {
        assert_eq!(veil.hide(text), text);
    }
    assert_eq!(veil.hide("is it ab?"), "is it …?");
    assert_eq!(veil.hide("is it\nab\nor a\nb?"), "is it\n…\nor a\nb?");
    assert_eq!(veil.hide("hunter2\nand more"), "…\nand more");
    assert_eq!(veil.hide("bad eyJhbGciOiJSUzI1NiJ9.pay"), "bad …", "a part of a token is enough");
    assert_eq!(Veil::default().hide("anything"), "anything");
    assert!(veil.hide(&"x".repeat(2 * MAX_TEXT)).len() <= MAX_TEXT + HIDDEN.len());
}

#[test]
fn what_a_text_calls_a_secret_is_one() {
    let found = |text: &str| {
        let mut found = named_secrets(text);
        found.sort();
        found
    };
    assert_eq!(found(r#"{"Username":"me","Secret":"hunt\"er2"}"#), ["hunt\"er2"]);
    assert_eq!(found("password=hunter2, token: abc"), ["abc", "hunter2"]);
    assert_eq!(found("cannot open the secret service"), Vec::<String>::new());
    assert_eq!(found(r#"{"Secret":"cut"#), ["cut"]);
}

proptest! {
    #[test]
    fn any_secret_is_hidden_in_any_text(
        secret in "[!-~]{6,40}", before in "[ -~]{0,20}", after in "[ -~]{0,20}",
    ) {
        let veil = veil(&[&secret]);
        for form in forms(&secret) {
            let shown = veil.hide(&format!("{before} {form} {after}"));
            prop_assert!(!shown.contains(&form), "{} as {}: {}", secret, form, shown);
        }
    }

    #[test]
    fn any_text_is_taken(text in ".{0,200}", secret in ".{0,10}") {
        veil(&[&secret]).hide(&text);
        named_secrets(&text);
    }
}
