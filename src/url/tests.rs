//! The grammar of URLs: what is read, what is refused, and what is shown.

use proptest::prelude::*;

use super::*;

fn join(base: &str, location: &str) -> String {
    Url::parse(base).unwrap().join(location).unwrap().whole()
}

#[test]
fn locations_are_resolved_as_rfc_3986_says() {
    let base = "https://registry.corp:5000/v2/a/blobs/x?y=1";
    for (location, expected) in [
        ("https://cdn.corp/z?sig=1", "https://cdn.corp/z?sig=1"),
        ("HTTP://Cdn.Corp:8080/z", "http://cdn.corp:8080/z"),
        ("//cdn.corp/z", "https://cdn.corp/z"),
        ("/z", "https://registry.corp:5000/z"),
        ("z", "https://registry.corp:5000/v2/a/blobs/z"),
        ("../z#top", "https://registry.corp:5000/v2/a/z"),
        ("?n=2", "https://registry.corp:5000/v2/a/blobs/x?n=2"),
        ("/a b|c", "https://registry.corp:5000/a%20b%7Cc"),
    ] {
        assert_eq!(join(base, location), expected, "{location}");
    }
}

#[test]
fn the_path_of_another_url_is_taken_at_the_own_origin() {
    let own =
        |root: &str, other: &str| Url::parse(root).unwrap().with_path_of(&Url::parse(other).unwrap()).whole();
    let inner = "http://inner:5000/v2/a/tags/list?last=b";
    assert_eq!(own("https://r.corp/v2", inner), "https://r.corp/v2/a/tags/list?last=b");
    assert_eq!(own("https://r.corp/x/y/v2", inner), "https://r.corp/x/y/v2/a/tags/list?last=b");
    assert_eq!(own("https://r.corp/x/v2", "https://i/x/v2/a?n=1"), "https://r.corp/x/v2/a?n=1");
    assert_eq!(own("https://r.corp/v2", "https://i/next/page?c=1"), "https://r.corp/next/page?c=1");
    assert_eq!(own("https://r.corp/own", "https://i/v2/a"), "https://r.corp/v2/a");
    let url = Url::parse("https://r/x?a=1&ns=b").unwrap();
    assert!(url.has_parameter("ns") && !url.has_parameter("n"));
}

#[test]
fn odd_urls_are_refused() {
    for bad in [
        "",
        "registry.corp",
        "ftp://x/",
        "https://",
        "https:///x",
        "http://x:port/",
        "file:///etc/passwd",
        "https://[]/",
        "http://[::1]r25:5/",
        "http://user:secret@[:5=:",
        "http://[::1].corp/",
        "http://user:secret[::@1]9/",
        "https://registry.corp%2Fevil/",
        "https://x:+80/",
        "https://x:80:90/",
        "https://x:65536/",
        "https://::1/",
    ] {
        assert!(Url::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_base_url_has_nothing_to_drop_or_to_escape() {
    for (text, expected) in [
        ("https://registry.corp:5000", "https://registry.corp:5000/"),
        ("HTTP://my_registry", "http://my_registry/"),
        ("http://[::1]:5000/v2/Proxy//", "http://[::1]:5000/v2/Proxy//"),
        ("https://Mirror.Corp:443/", "https://mirror.corp/"),
    ] {
        assert_eq!(Url::parse_base(text).unwrap().whole(), expected, "{text}");
    }
    for (bad, expected) in [
        ("registry.corp", UrlError::NotAUrl),
        ("ftp://x", UrlError::Scheme),
        (" https://x", UrlError::Scheme),
        ("https://", UrlError::NoHost),
        ("https:///x", UrlError::NoHost),
        ("https://a..b", UrlError::Host),
        ("https://h\n", UrlError::Host),
        ("https://\u{e9}", UrlError::Host),
        ("https://[zz]", UrlError::Host),
        ("https://h:0", UrlError::PortZero),
        ("https://h:", UrlError::Port),
        ("https://h:99999", UrlError::Port),
        ("https://u:p@h", UrlError::User),
        ("https://h/@", UrlError::User),
        ("https://h?x=1", UrlError::Query),
        ("https://h/#f", UrlError::Query),
        ("https://h/a b", UrlError::Character),
        ("https://h/a\n", UrlError::Character),
    ] {
        assert_eq!(Url::parse_base(bad).unwrap_err(), expected, "{bad}");
    }
}

#[test]
fn secrets_in_a_url_are_not_shown() {
    let url = Url::parse("https://user:hunter2@cdn.corp/blob?X-Signature=abc").unwrap();
    assert_eq!(url.to_string(), "https://cdn.corp/blob");
    assert!(!format!("{url:?}").contains("abc"));
    assert!(!url.whole().contains("hunter2"));
    assert!(url.whole().ends_with("?X-Signature=abc"));
}

#[test]
fn origins_and_loopback() {
    let same = |a: &str, b: &str| Url::parse(a).unwrap().same_origin(&Url::parse(b).unwrap());
    assert!(same("https://a/x", "https://A:443/y"));
    assert!(!same("https://a/x", "http://a/x"));
    assert!(!same("https://a/x", "https://a:444/x"));
    assert!(is_loopback("127.3.2.1") && is_loopback("[::1]") && is_loopback("localhost"));
    assert!(!is_loopback("127.evil.com") && !is_loopback("localhost.evil.com"));
}

#[test]
fn parameters_are_encoded() {
    let url = Url::parse("https://auth/token").unwrap().with_parameter("scope", "repository:a/b:pull");
    assert_eq!(url.whole(), "https://auth/token?scope=repository%3Aa%2Fb%3Apull");
}

proptest! {
    #[test]
    fn any_location_is_resolved_or_refused(location in ".{0,80}") {
        if let Ok(url) = Url::parse("https://r/v2/x").unwrap().join(&location) {
            prop_assert!(url.whole().parse::<ureq::http::Uri>().is_ok(), "{}", url.whole());
        }
    }

    #[test]
    fn any_text_is_the_same_url_when_it_is_read_again(text in "https?://[a-z:@%\\[\\]?#./0-9 +-]{0,40}") {
        if let Ok(url) = Url::parse(&text) {
            prop_assert!(url.whole().parse::<ureq::http::Uri>().is_ok(), "{}", url.whole());
            prop_assert_eq!(Url::parse(&url.whole()), Ok(url));
        }
        if let Ok(base) = Url::parse_base(&text) {
            prop_assert_eq!(Url::parse(&text), Ok(base));
        }
    }
}
