//! The images on the page: how many there are in which state, and a row for each that is asked for.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::html::Html;
use super::query::Query;
use crate::progress::Waiting;
use crate::watch::status::{Failure, ImageState, ImageStatus, Status};
use crate::watch::words::{ahead, bytes, counted, grouped, short, span};

/// Images on one page.
const ROWS: usize = 200;
/// Images that nobody needs to search.
const FEW: usize = 10;

/// The columns, and notes, that are not always there.
struct Columns {
    engines: bool,
    signatures: bool,
    platforms: bool,
}

impl Columns {
    fn of(images: &[ImageStatus]) -> Self {
        let platforms: BTreeSet<&str> = images.iter().filter_map(|image| image.platform.as_deref()).collect();
        Self {
            platforms: platforms.len() > 1,
            engines: images.iter().any(|image| !image.engines.is_empty()),
            signatures: images.iter().any(|image| image.signatures.status != "not-asked"),
        }
    }
}

/// A state in words, with a sign that tells it apart without its colour.
fn words(state: ImageState) -> (&'static str, &'static str) {
    match state {
        ImageState::Failed => ("✗", "failed"),
        ImageState::Blocked => ("✗", "blocked"),
        ImageState::Waiting => ("…", "removal waits"),
        ImageState::Unlisted => ("–", "not listed"),
        ImageState::InSync => ("✓", "in sync"),
    }
}

/// Adds the numbers of images by state, each a link to those images, and the size of all.
pub(super) fn tiles(html: &mut Html, status: &Status, query: &Query) {
    html.tags("<ul class=\"tiles\">");
    // The good ones come first here, since there are some most of the time.
    for state in [ImageState::InSync].into_iter().chain(ImageState::ALL).take(ImageState::ALL.len()) {
        let count = status.count(state);
        if count == 0 && state != ImageState::InSync {
            continue;
        }
        let is_chosen = query.state == Some(state);
        let chosen = (!is_chosen).then_some(state);
        let link = Query { state: chosen, search: String::new(), page: 0, refreshes: query.refreshes };
        html.tags("<li><a class=\"")
            .tags(state.as_str())
            .tags("\" href=\"")
            .text(format_args!("{link}#images"))
            .tags(if is_chosen { "\" aria-current=\"true\"><b>" } else { "\"><b>" })
            .text(grouped(count))
            .tags("</b><small>")
            .tags(words(state).1)
            .tags("</small></a></li>");
    }
    // An image that is here twice under two names counts twice: of layers that images share, the
    // page knows nothing.
    let size = status.images.iter().fold(0_u64, |sum, image| sum.saturating_add(image.size));
    html.tags("<li><span class=\"tile\"><b>")
        .text(bytes(size))
        .tags("</b><small>as fetched</small></span></li></ul>");
}

/// Adds the images that are asked for, those to be looked at first.
pub(super) fn images(html: &mut Html, status: &Status, query: &Query, now: Timestamp) {
    html.tags("<section class=\"card\" id=\"images\" aria-labelledby=\"images-title\">");
    html.tags("<div class=\"head\"><h2 id=\"images-title\">Images");
    let platforms: BTreeSet<&str> =
        status.images.iter().filter_map(|image| image.platform.as_deref()).collect();
    if let (Some(platform), 1) = (platforms.first(), platforms.len()) {
        html.tags(" <span class=\"quiet\">").text(platform).tags("</span>");
    }
    html.tags("</h2>");
    if status.images.len() > FEW || !query.is_everything() {
        search(html, query);
    }
    html.tags("</div>\n");
    let mut found: Vec<&ImageStatus> = status.images.iter().filter(|image| query.fits(image)).collect();
    // The sort keeps the order by reference among those of one state.
    found.sort_by_key(|image| image.state);
    let (pages, count) = (found.len().div_ceil(ROWS).max(1), found.len());
    let begin = query.page.min(pages - 1) * ROWS;
    let shown = &found[begin..count.min(begin + ROWS)];
    if shown.is_empty() {
        html.tags("<p class=\"empty\">").tags(nothing(status, query)).tags("</p>");
    } else {
        table(html, shown, &Columns::of(&status.images), now);
    }
    if pages > 1 || !query.is_everything() {
        pager(html, query, (begin, shown.len(), count));
    }
    new_tags(html, status, now);
    html.tags("</section>\n");
}

/// The reason why no image is shown.
fn nothing(status: &Status, query: &Query) -> &'static str {
    if !query.is_everything() {
        "No image fits."
    } else if status.runs.is_empty() {
        "Nothing is known before the first run has ended."
    } else {
        "No image is listed."
    }
}

fn search(html: &mut Html, query: &Query) {
    html.tags(
        "<form method=\"get\" action=\"/#images\" role=\"search\"><label class=\"hidden\" for=\"q\">\
         Find images by name or digest</label>\
         <input id=\"q\" name=\"q\" type=\"search\" placeholder=\"Name or digest\" value=\"",
    )
    .text(&query.search)
    .tags("\">");
    if let Some(state) = query.state {
        html.tags("<input type=\"hidden\" name=\"state\" value=\"").tags(state.as_str()).tags("\">");
    }
    if query.refreshes {
        html.tags("<input type=\"hidden\" name=\"refresh\" value=\"on\">");
    }
    html.tags("<button>Find</button></form>");
}

/// Adds which of the images are shown, and the ways to the others.
fn pager(html: &mut Html, query: &Query, (begin, shown, count): (usize, usize, usize)) {
    html.tags("<nav class=\"pages\" aria-label=\"Pages of images\"><span>");
    if shown < count {
        let (first, last) = (grouped(begin + 1), grouped(begin + shown));
        html.text(format_args!("{first}–{last} of {}", counted(count, "image")));
    } else {
        html.text(counted(count, "image"));
    }
    html.tags("</span>");
    let mut link = |query: Query, words: &'static str| {
        html.tags("<a href=\"").text(format_args!("{query}#images")).tags("\">").tags(words).tags("</a>");
    };
    let page = begin / ROWS;
    if page > 0 {
        link(Query { page: page - 1, ..query.clone() }, "Previous");
    }
    if begin + shown < count {
        link(Query { page: page + 1, ..query.clone() }, "Next");
    }
    if !query.is_everything() {
        link(Query { refreshes: query.refreshes, ..Query::default() }, "All images");
    }
    html.tags("</nav>");
}

fn table(html: &mut Html, images: &[&ImageStatus], columns: &Columns, now: Timestamp) {
    html.tags(
        "<table role=\"table\"><caption class=\"hidden\">Images, those to be looked at first</caption>\
         <thead role=\"rowgroup\"><tr role=\"row\"><th role=\"columnheader\" scope=\"col\">Image</th>\
         <th role=\"columnheader\" scope=\"col\">State</th>\
         <th role=\"columnheader\" scope=\"col\">Digest</th>\
         <th role=\"columnheader\" scope=\"col\">Age</th>\
         <th role=\"columnheader\" scope=\"col\" class=\"number\">Size</th>",
    );
    for (is_there, head) in [
        (columns.engines, "<th role=\"columnheader\" scope=\"col\">Engines</th>"),
        (columns.signatures, "<th role=\"columnheader\" scope=\"col\">Signed by</th>"),
    ] {
        html.tags(if is_there { head } else { "" });
    }
    html.tags("</tr></thead>\n");
    for image in images {
        row(html, image, columns, now);
    }
    html.tags("</table>\n");
}

fn row(html: &mut Html, image: &ImageStatus, columns: &Columns, now: Timestamp) {
    html.tags("<tbody role=\"rowgroup\"><tr role=\"row\"><td role=\"cell\">");
    name(html, image, columns);
    let (sign, word) = words(image.state);
    html.tags("</td><td role=\"cell\" data-label=\"State\">");
    badge(html, image.state.as_str(), sign).tags(word).tags("</span>");
    html.tags("</td><td role=\"cell\" data-label=\"Digest\" class=\"fixed\"><div>");
    digests(html, image);
    time(html, image, now);
    html.tags("</div></td><td role=\"cell\" data-label=\"Age\" class=\"fixed\"><div>");
    age(html, image, now);
    html.tags("</div></td><td role=\"cell\" data-label=\"Size\" class=\"number\"><div>");
    if image.layers == 0 {
        html.tags("–");
    } else {
        html.text(bytes(image.size)).tags("<span class=\"sub\">");
        html.text(counted(image.layers, "layer")).tags("</span>");
    }
    html.tags("</div></td>");
    if columns.engines {
        html.tags("<td role=\"cell\" data-label=\"Engines\"><div class=\"engines\">");
        for (engine, state) in &image.engines {
            let (sign, word) = words(*state);
            badge(html, state.as_str(), sign).text(engine);
            html.tags(" <span class=\"hidden\">").tags(word).tags("</span></span>");
        }
        html.tags("</div></td>");
    }
    if columns.signatures {
        html.tags("<td role=\"cell\" data-label=\"Signed by\" class=\"signer\"><div>");
        signer(html, image);
        html.tags("</div></td>");
    }
    html.tags("</tr>");
    if let Some(failure) = &image.failure {
        why(html, failure, columns);
    }
    html.tags("</tbody>\n");
}

/// Opens a badge with a sign; its words, and its end, are to follow.
fn badge<'a>(html: &'a mut Html, class: &'static str, sign: &'static str) -> &'a mut Html {
    html.tags("<span class=\"badge ")
        .tags(class)
        .tags("\"><span aria-hidden=\"true\">")
        .tags(sign)
        .tags("</span> ")
}

/// Adds a reference; its last part, which tells it apart, stands out.
fn name(html: &mut Html, image: &ImageStatus, columns: &Columns) {
    let name_end = image.reference.find('@').unwrap_or(image.reference.len());
    let begin = image.reference[..name_end].rfind('/').map_or(0, |slash| slash + 1);
    html.tags("<span class=\"name\"><span>").breakable(&image.reference[..begin]).tags("</span>");
    html.breakable(&image.reference[begin..]).tags("</span>");
    let platform = image.platform.as_deref().filter(|_| columns.platforms);
    let notes = [platform, image.chosen_by.as_deref()];
    let mut between = "<span class=\"sub\">";
    for (note, begin) in notes.into_iter().zip(["", "chosen by "]) {
        if let Some(note) = note {
            html.tags(between).tags(begin).text(note);
            between = " · ";
        }
    }
    html.tags(if between == " · " { "</span>" } else { "" });
}

/// Adds the digest that is here, and the one that is to come.
fn digests(html: &mut Html, image: &ImageStatus) {
    let mut add = |digest: &str| {
        html.tags("<span class=\"digest\" title=\"")
            .text(digest)
            .tags("\">")
            .text(short(digest))
            .tags("</span>");
    };
    match (&image.digest, &image.wanted) {
        (None, None) => {
            html.tags("–");
        }
        (here, wanted) => {
            if let Some(here) = here {
                add(&here.text());
            }
            if let Some(wanted) = wanted {
                html.tags("<span class=\"sub\">wanted ");
                html.tags("<span class=\"digest\" title=\"").text(wanted.text()).tags("\">");
                html.text(short(&wanted.text())).tags("</span></span>");
            }
        }
    }
}

/// Adds for how long the image is held at its digest, and the new digest of its tag with the time
/// when that is taken.
fn time(html: &mut Html, image: &ImageStatus, now: Timestamp) {
    if let Some(since) = image.held {
        let seconds = now.as_second().saturating_sub(since.as_second());
        html.tags("<span class=\"sub\">held for ").time(since, span(seconds)).tags("</span>");
    }
    if let Some(waiting) = &image.waiting {
        html.tags("<span class=\"sub\">new ");
        coming(html, waiting, now);
        html.tags("</span>");
    }
    html.tags(if image.staged { "<span class=\"sub\">ready, and not recorded yet</span>" } else { "" });
}

/// Adds a new digest, and when it is taken.
fn coming(html: &mut Html, waiting: &Waiting, now: Timestamp) {
    html.tags("<span class=\"digest\" title=\"").text(waiting.digest.text()).tags("\">");
    html.text(short(&waiting.digest.text())).tags("</span>, taken ");
    html.time(waiting.until, ahead(waiting.until, now));
}

/// Adds the tags that selections would choose, were they not new.
fn new_tags(html: &mut Html, status: &Status, now: Timestamp) {
    if status.new_tags.is_empty() {
        return;
    }
    html.tags("<p class=\"quiet\">New tags that are not taken yet:</p><ul>");
    for (tag, waiting) in status.new_tags.iter().take(ROWS) {
        html.tags("<li>").breakable(tag).tags(" ");
        coming(html, waiting, now);
        html.tags("</li>");
    }
    html.tags("</ul>");
    if status.new_tags.len() > ROWS {
        html.tags("<p class=\"quiet\">and ").text(grouped(status.new_tags.len() - ROWS)).tags(" more</p>");
    }
}

/// Adds how old the image is, and since when its digest is here.
fn age(html: &mut Html, image: &ImageStatus, now: Timestamp) {
    match image.created {
        Some(created) => {
            let seconds = now.as_second().saturating_sub(created.as_second());
            html.time(created, if seconds < 0 { "in the future".to_owned() } else { span(seconds) });
        }
        None => {
            html.tags("–");
        }
    }
    if let Some(recorded) = image.recorded {
        let seconds = now.as_second().saturating_sub(recorded.as_second());
        html.tags("<span class=\"sub\">here for ").time(recorded, span(seconds)).tags("</span>");
    }
}

fn signer(html: &mut Html, image: &ImageStatus) {
    let signatures = &image.signatures;
    match signatures.status {
        "not-asked" => {
            html.tags("<span class=\"quiet\">no rule</span>");
        }
        "verified" => {
            html.tags("<span aria-hidden=\"true\">✓ </span>")
                .breakable(signatures.by.as_deref().unwrap_or("somebody"));
        }
        "refused" => {
            badge(html, "refused", "✗").tags("refused</span>");
        }
        _ => {
            badge(html, "unsigned", "–").tags("unsigned</span>");
        }
    }
    if let Some(rule) = &signatures.rule {
        html.tags("<span class=\"sub\">rule ").breakable(rule).tags("</span>");
    }
}

/// Adds the reason why the image above is not as it should be.
fn why(html: &mut Html, failure: &Failure, columns: &Columns) {
    html.tags("<tr role=\"row\" class=\"why\"><td role=\"cell\" colspan=\"")
        .text(5 + usize::from(columns.engines) + usize::from(columns.signatures))
        .tags("\"><p>")
        .text(&failure.message);
    if let Some(hint) = &failure.hint {
        html.tags("<br><span class=\"hint\">Hint: ").text(hint).tags("</span>");
    }
    html.tags("</p></td></tr>");
}
