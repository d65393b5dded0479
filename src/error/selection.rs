//! Failures of moving selections of tags.

/// A selection of tags cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// The rule is not one that can be followed.
    #[error("cannot select tags: {reason}")]
    Rule {
        /// The parser's words.
        reason: String,
    },
    /// The registry lists no tag that fits.
    #[error("none of its {of} tags fits {rule}")]
    NoTagFits {
        /// The number of tags that the registry lists.
        of: usize,
        /// The rule, for people.
        rule: String,
    },
    /// The rule chooses more tags than a selection may have.
    #[error("{rule} chooses {count} tags, more than {most}")]
    TooManyTags {
        /// The rule, for people.
        rule: String,
        /// The number of tags that the rule chooses.
        count: usize,
        /// The number of tags that a selection may choose.
        most: usize,
    },
    /// Two entries of the images file want one tag for different platforms.
    #[error("tag {tag} is wanted for two platforms: {one} and {other}")]
    TwoPlatforms {
        /// The tag.
        tag: String,
        /// The platform of the entry that has the tag already.
        one: String,
        /// The platform of the entry that wants the tag too.
        other: String,
    },
}

impl SelectionError {
    /// See [`Error::kind`](super::Error::kind).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rule { .. } => "selection-rule",
            Self::NoTagFits { .. } => "no-tag-fits",
            Self::TooManyTags { .. } => "too-many-tags",
            Self::TwoPlatforms { .. } => "two-platforms",
        }
    }

    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Rule { .. } => return None,
            Self::NoTagFits { .. } => {
                "check the range and the pattern; a pattern matches the whole tag, and a range leaves out \
                 pre-releases such as 7.2-alpine"
            }
            Self::TooManyTags { .. } => "narrow it, or say how many with newest = N",
            Self::TwoPlatforms { .. } => "a machine can hold a tag for one platform only",
        };
        Some(hint.to_owned())
    }
}
