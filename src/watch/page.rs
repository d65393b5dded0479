//! The page for people at `/`: whether the machine is as the images file says and why not, the
//! images, and the last runs.
//!
//! Pure: a status and the time in, HTML out. The page has no script and asks for nothing else; its
//! one style is in it, and [`POLICY`] lets the browser take no other. Nothing is changed by it: its
//! links and its one form only choose what is shown ([`Query`]).

mod html;
mod images;
mod query;
mod runs;

use jiff::Timestamp;

use self::html::Html;
pub(super) use self::query::Query;
use super::status::Status;
use super::words::{ago, ahead, counted, duration};

const STYLE: &str = include_str!("page/style.css");

/// The header Content-Security-Policy of the page: it may use its own style, by its digest, and its
/// own form, and nothing else; nobody may frame it.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'sha256-cisPd+ZoUk5pNemqFrrtucU3dgTAtnhI5tal36RxwlM='; base-uri 'none'; \
                                 form-action 'self'; frame-ancestors 'none'";

/// The pause between two looks of a browser that is to look again and again, in the markup.
const REFRESH: &str = "<meta http-equiv=\"refresh\" content=\"30\">";

/// Writes the page about `status`, which is in sync unless there is `trouble`.
pub(super) fn page(status: &Status, trouble: Option<&str>, query: &Query, now: Timestamp) -> String {
    let mut html = Html::new();
    let headline = Headline::of(status, trouble);
    let name = status.file.rsplit('/').next().unwrap_or_default();
    html.tags(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta name=\"robots\" content=\"noindex\">",
    )
    .tags(if query.refreshes { REFRESH } else { "" })
    .tags("<title>")
    .text(format_args!("{} {} · {name} · msb-sync", headline.mark, headline.text))
    .tags("</title><style>")
    .tags(STYLE)
    .tags("</style></head>\n<body><a class=\"skip\" href=\"#images\">To the images</a>\n");
    header(&mut html, status, query);
    html.tags("<main>\n");
    state(&mut html, status, trouble, query, (&headline, now));
    images::images(&mut html, status, query, now);
    runs::runs(&mut html, status, now);
    html.tags("</main>\n");
    footer(&mut html, status, now);
    html.tags("</body></html>\n");
    html.finish()
}

/// The state of everything, in a word.
struct Headline {
    class: &'static str,
    mark: &'static str,
    text: &'static str,
}

impl Headline {
    fn of(status: &Status, trouble: Option<&str>) -> Self {
        match trouble {
            Some(_) if status.runs.is_empty() => Self { class: "wait", mark: "…", text: "Starting" },
            Some(_) => Self { class: "bad", mark: "!", text: "Not in sync" },
            None => Self { class: "ok", mark: "✓", text: "In sync" },
        }
    }
}

fn header(html: &mut Html, status: &Status, query: &Query) {
    let other = Query { refreshes: !query.refreshes, ..query.clone() };
    html.tags("<header class=\"top\"><p class=\"brand\">msb-sync<code>")
        .breakable(&status.file)
        .tags("</code></p><p class=\"quiet\"><a href=\"")
        .text(other)
        .tags("\">")
        .tags(if query.refreshes { "Stop refreshing" } else { "Refresh every 30 s" })
        .tags("</a></p></header>\n");
}

/// Says whether everything is as the file says, and why not, and when somebody looks again.
fn state(
    html: &mut Html,
    status: &Status,
    trouble: Option<&str>,
    query: &Query,
    (headline, now): (&Headline, Timestamp),
) {
    html.tags("<section class=\"card state ")
        .tags(headline.class)
        .tags("\" aria-labelledby=\"state\"><span class=\"mark\" aria-hidden=\"true\">")
        .tags(headline.mark)
        .tags("</span><h1 id=\"state\">")
        .tags(headline.text)
        .tags("</h1>\n<div>");
    let last = status.runs.front();
    match (trouble, last) {
        (None, _) => {
            html.tags("<p>").text(all_is_well(status.images.len())).tags("</p>");
        }
        (Some(trouble), last) => {
            html.tags("<p>").text(sentence(trouble)).tags("</p>");
            if let Some(hint) = last.and_then(|run| run.verdict.hint.as_ref()) {
                html.tags("<p class=\"hint\">Hint: ").text(hint).tags("</p>");
            }
        }
    }
    html.tags("<p class=\"quiet when\">");
    if let Some(running) = &status.running {
        html.tags("A run is going on, begun ");
        html.time(running.since, ago(running.since, now));
        runs::reasons(html, &running.reasons);
    } else if let Some(run) = last {
        html.tags("Last run ");
        html.time(run.ended, ago(run.ended, now));
        html.tags(", took ").text(duration(run.elapsed));
    }
    if let (Some((next, reason)), None) = (status.next, &status.running) {
        html.tags(if reason == "retry" { " · next try " } else { " · next look-up " });
        html.time(next, ahead(next, now));
    }
    html.tags("</p></div>\n");
    if !status.runs.is_empty() {
        images::tiles(html, status, query);
    }
    html.tags("</section>\n");
}

fn all_is_well(images: usize) -> String {
    match images {
        0 => "The file lists no images.".to_owned(),
        1 => "The one image is as the file says.".to_owned(),
        images => format!("All {} are as the file says.", counted(images, "image")),
    }
}

/// `text` with a capital at its begin, as a sentence has it.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    // A file or an image at the begin keeps its own spelling.
    let word_end = text.find(' ').unwrap_or(text.len());
    if !text[..word_end].chars().all(|c| c.is_ascii_lowercase()) {
        return text.to_owned();
    }
    characters
        .next()
        .map(|first| format!("{}{}", first.to_uppercase(), characters.as_str()))
        .unwrap_or_default()
}

fn footer(html: &mut Html, status: &Status, now: Timestamp) {
    html.tags(
        "<footer class=\"end\"><p>The same for programs: <a href=\"/status.json\">status.json</a>\
         <a href=\"/metrics\">metrics</a><a href=\"/healthz\">healthz</a></p><p>As of ",
    );
    html.time(now, now.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    html.tags(" · watching since ");
    html.time(status.since, ago(status.since, now));
    html.text(format_args!(" · tags are looked up every {}", duration(status.interval)))
        .text(concat!(" · msb-sync ", env!("CARGO_PKG_VERSION")))
        .tags("</p></footer>\n");
}

#[cfg(test)]
mod tests;
