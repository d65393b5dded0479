//! Lists of tags in pages: every `Link` header counts, whoever wrote it, and half a list is never taken for the whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::check::wanted;
use crate::support::fake_registry::{error, serve};
use crate::support::http::{Front, Request, Response, Server};
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::tls::Authority;

const LIST: &str = "/v2/team/app/tags/list";
const NEWEST: &str = r#"{ name = "team/app", tags = { semver = ">=1", newest = 1 } }"#;

fn content() -> BlobSet {
    let mut content = BlobSet::default();
    for tag in ["1.0.0", "2.0.0"] {
        let image = content.image(&Image::new(&[Layer::of(&[file("tag", tag)])]));
        content.tag(&format!("team/app:{tag}"), &image);
    }
    content
}

fn page(tags: &str) -> Response {
    Response::new(200, "application/json", format!(r#"{{"name":"team/app","tags":[{tags}]}}"#))
}

/// A registry whose first page has the older tag and these `Link` lines, and whose second one is at any other path or
/// query.
fn registry(front: Front, links: &[&str]) -> Server {
    let (content, links) = (content(), links.iter().map(|link| (*link).to_owned()).collect::<Vec<_>>());
    let handler = move |request: &Request| {
        let next = request.query.contains("last=") || request.path.ends_with("/next-page");
        match request.path.as_str() {
            _ if next => page("\"2.0.0\""),
            LIST => links.iter().fold(page("\"1.0.0\""), |page, link| page.header("Link", link)),
            _ => serve(&content, request),
        }
    };
    Server::start(front, Arc::new(handler))
}

/// The references of a plan that fits, in its order.
fn chosen(plan: &Output) -> Vec<String> {
    let plan = plan.json();
    let images = plan["images"].as_array().unwrap();
    images.iter().map(|image| image["reference"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_next_page_is_found_however_the_link_is_written() {
    let sandbox = Sandbox::in_memory();
    for links in [
        &["</style.css>; rel=preload; as=style", "</v2/team/app/tags/list?last=1.0.0>; rel=\"next\""][..],
        &["</v2/team/app/tags/list?last=1.0.0>; rel=next", "</style.css>; rel=preload"],
        &["</a>; rel=\"prev\"; title=\"x, <y>; rel=next\", <list?last=1.0.0>; REL = \"last Next\""],
        &["<?last=1.0.0>;rel=next"],
        &["<https://registry.inner:5000/v2/team/app/tags/list?last=1.0.0>; rel=\"next\""],
        &["<//10.0.0.1/v2/team/app/tags/list?last=1.0.0>; rel=\"next\""],
        &["</cursor/next-page>; rel=\"next\""],
    ] {
        let server = registry(Front::Plain, links);
        sandbox.images(&wanted(&server.name(), &[NEWEST]));
        let plan = sandbox.msb("plan --json").run().success();
        assert_eq!(chosen(&plan), [format!("{}/team/app:2.0.0", server.name())], "{links:?}");
    }
}

#[test]
fn a_link_to_plain_http_is_asked_over_tls_where_the_registry_is() {
    let sandbox = Sandbox::in_memory();
    let authority = Authority::new();
    sandbox.write("ca.pem", authority.pem());
    let links = ["<http://127.0.0.1:80/v2/team/app/tags/list?last=1.0.0>; rel=\"next\""];
    let server = registry(Front::Tls(authority.server(&["127.0.0.1"])), &links);
    let images = wanted(&server.name(), &[NEWEST]);
    sandbox.images(&format!("{images}endpoint = \"https://{}\"\nca = \"ca.pem\"\n", server.name()));
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(chosen(&plan), [format!("{}/team/app:2.0.0", server.name())]);
}

#[test]
fn a_link_that_cannot_be_read_is_never_the_end() {
    let sandbox = Sandbox::in_memory();
    let installed = registry(Front::Plain, &["</v2/team/app/tags/list?last=1.0.0>; rel=next"]);
    let endpoint = |server: &Server| {
        format!("{}endpoint = \"http://{}\"\n", wanted("registry.test", &[NEWEST]), server.name())
    };
    sandbox.images(&endpoint(&installed));
    sandbox.msb("apply").run().success();
    for links in [
        &["/v2/team/app/tags/list?last=1.0.0; rel=\"next\""][..],
        &["</v2/team/app/tags/list?last=1.0.0; rel=next"],
        &["</v2/team/app/tags/list?last=1.0.0> rel=next"],
        &["</v2/team/app/tags/list?last=1.0.0>; rel=\"next"],
        &["</v2/team/app/tags/list?last=1.0.0>; rel=next", "</next-page>; rel=next"],
        &["</v2/team/app/tags/list?n=1000>; rel=next"],
        &["<ftp://x/v2/team/app/tags/list?last=1.0.0>; rel=next"],
    ] {
        let server = registry(Front::Plain, links);
        sandbox.images(&endpoint(&server));
        let output = sandbox.msb("apply --prune").run().code(1).says("the tag list from 127.0.0.1");
        let list = sandbox.msb("list").run().success();
        assert!(list.stdout.contains("registry.test/team/app:2.0.0"), "{links:?} removed it\n{output}");
    }
}

#[test]
fn a_page_without_tags_is_never_the_end() {
    let sandbox = Sandbox::in_memory();
    let links = ["</v2/team/app/tags/list?last=1.0.0>; rel=next"];
    let installed = registry(Front::Plain, &links);
    let endpoint = |server: &Server| {
        format!("{}endpoint = \"http://{}\"\n", wanted("registry.test", &[NEWEST]), server.name())
    };
    sandbox.images(&endpoint(&installed));
    sandbox.msb("apply").run().success();
    for other in ["{}", r#"{"name":"team/app"}"#, r#"{"errors":[{"code":"UNKNOWN","message":"oops"}]}"#] {
        let content = content();
        let handler = move |request: &Request| match request.path.as_str() {
            LIST if request.query.contains("last=") => Response::new(200, "application/json", other),
            LIST => page("\"1.0.0\"").header("Link", links[0]),
            _ => serve(&content, request),
        };
        let server = Server::start(Front::Plain, Arc::new(handler));
        sandbox.images(&endpoint(&server));
        let output = sandbox.msb("apply --prune").run().code(1).says("the tag list from 127.0.0.1");
        let list = sandbox.msb("list").run().success();
        assert!(list.stdout.contains("registry.test/team/app:2.0.0"), "{other} removed it\n{output}");
    }
}

#[test]
fn a_page_size_that_is_refused_is_left_out() {
    let sandbox = Sandbox::in_memory();
    for status in [400, 404, 405, 416] {
        let content = content();
        let handler = move |request: &Request| {
            if request.path == LIST && request.parameter("n").is_some() {
                return error(status, "PAGINATION_NUMBER_INVALID", "invalid number of results requested");
            }
            serve(&content, request)
        };
        let server = Server::start(Front::Plain, Arc::new(handler));
        sandbox.images(&wanted(&server.name(), &[NEWEST]));
        let plan = sandbox.msb("plan --json").run().success();
        assert_eq!(chosen(&plan), [format!("{}/team/app:2.0.0", server.name())], "{status}");
        assert_eq!(server.log().len(), 4, "two for the list, two for the image");
    }

    // What is refused without a size too is refused.
    let handler = |request: &Request| match request.path.as_str() {
        LIST => error(400, "UNSUPPORTED", "no lists here"),
        _ => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    };
    let server = Server::start(Front::Plain, Arc::new(handler));
    sandbox.images(&wanted(&server.name(), &[NEWEST]));
    sandbox.msb("plan").run().code(1);
    assert_eq!(server.log().len(), 2);
}

#[test]
fn a_list_without_end_is_given_up() {
    let sandbox = Sandbox::in_memory();
    let pages = AtomicUsize::new(0);
    let handler = move |_: &Request| {
        let number = pages.fetch_add(1, Ordering::Relaxed);
        let link = format!("<{LIST}?last={number}>; rel=next");
        page(&format!("\"1.0.{number}\"")).header("Link", &link)
    };
    let server = Server::start(Front::Plain, Arc::new(handler));
    sandbox.images(&wanted(&server.name(), &[NEWEST]));
    let plan = sandbox.msb("plan").run().code(1);
    assert!(plan.stdout.contains("it does not end"), "{plan}");
    assert!(server.log().len() <= 1001, "{}", server.log().len());
}
