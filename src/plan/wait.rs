//! The reasons why removals are put off.

use std::fmt;

use crate::image_ref::ImageRef;

/// The reason why a removal is put off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// A wanted image is blocked, has failed or is not here: what is to take the place of this one
    /// may be just that.
    Images,
    /// The images file has changed since the run began, and cannot be used.
    ImagesFile,
    /// This second name of the image is listed, by a part of the file that the run does not see to,
    /// and would go with the image until a run has noted that it is wanted for itself.
    SecondName(ImageRef),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images => f.write_str("until every listed image is here"),
            Self::ImagesFile => f.write_str("until the images file can be used again"),
            Self::SecondName(name) => {
                write!(f, "until an apply without --group has noted that {name} is listed")
            }
        }
    }
}
