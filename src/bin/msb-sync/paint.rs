//! Colours. Text is painted where it is written down; the streams take the paint off where nobody
//! wants it (`streams`).

use anstyle::{AnsiColor, Style};

pub(crate) fn green(text: &str) -> String {
    with(AnsiColor::Green.on_default(), text)
}

pub(crate) fn yellow(text: &str) -> String {
    with(AnsiColor::Yellow.on_default(), text)
}

pub(crate) fn red(text: &str) -> String {
    with(AnsiColor::Red.on_default(), text)
}

pub(crate) fn bold(text: &str) -> String {
    with(Style::new().bold(), text)
}

pub(crate) fn dim(text: &str) -> String {
    with(Style::new().dimmed(), text)
}

fn with(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}
