//! One reference a line; what follows a `#` is a comment.

use super::Gathered;

pub(super) fn read(text: &str, default_registry: &str, gathered: &mut Gathered) {
    for (index, line) in text.lines().enumerate() {
        let comment = line.match_indices('#').map(|(at, _)| at);
        let comment =
            comment.into_iter().find(|at| line[..*at].chars().next_back().is_none_or(char::is_whitespace));
        let entry = line[..comment.unwrap_or(line.len())].trim();
        if !entry.is_empty() {
            gathered.image_of(default_registry, index + 1, entry, None);
        }
    }
}
