//! Images that cannot be had: those of one registry and for one reason are one entry with one hint,
//! however many they are.

use msb_sync::error::Error;
use msb_sync::image_ref::ImageRef;

use super::View;
use crate::text::{plural, printable};

/// The names of images that one line shows, unless the user asks for more.
const MAX_NAMES: usize = 5;

/// Images, and the one reason for which they cannot be had.
pub(crate) struct Failure<'a> {
    pub(crate) images: Vec<&'a ImageRef>,
    pub(crate) error: &'a Error,
}

/// Puts together what failed for one reason, each at the place of its first image.
pub(crate) fn grouped<'a>(failures: impl IntoIterator<Item = (&'a ImageRef, &'a Error)>) -> Vec<Failure<'a>> {
    let mut groups: Vec<(Vec<String>, Failure<'a>)> = Vec::new();
    for (image, error) in failures {
        let key = key(image, error);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, group)) => group.images.push(image),
            None => groups.push((key, Failure { images: vec![image], error })),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The reason, and whose it is.
pub(super) fn key(image: &ImageRef, error: &Error) -> Vec<String> {
    // No registry has a part in what an engine does.
    let registry = if matches!(error, Error::Engine(_)) { "" } else { image.registry() };
    let mut key = vec![registry.to_owned()];
    key.extend(error.chain());
    key.extend(error.hint());
    key
}

impl Failure<'_> {
    /// The images in a few words: the name of a single one, or how many there are.
    pub(crate) fn subject(&self) -> String {
        match &self.images[..] {
            [image] => image.to_string(),
            images if matches!(self.error, Error::Engine(_)) => plural(images.len(), "image"),
            images => format!("{} of {}", plural(images.len(), "image"), images[0].registry()),
        }
    }

    /// The names of the images, where the subject has none.
    pub(crate) fn names(&self, view: View) -> Option<String> {
        (self.images.len() > 1).then(|| names(self.images.iter().copied(), view))
    }
}

/// The names of images, or the first ones of many.
pub(super) fn names<'a>(images: impl ExactSizeIterator<Item = &'a ImageRef>, view: View) -> String {
    let all = images.len();
    let shown = if view.verbose || all <= MAX_NAMES + 1 { all } else { MAX_NAMES };
    let names: Vec<String> = images.take(shown).map(ToString::to_string).collect();
    let more = if shown < all { format!(" and {} more (-v names them)", all - shown) } else { String::new() };
    printable(&(names.join(", ") + &more), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use msb_sync::error::{RegistryError, Trouble};

    fn images(count: usize, registry: &str) -> Vec<ImageRef> {
        let reference = |at: usize| ImageRef::parse(&format!("{registry}/app{at}:1"), "docker.io").unwrap();
        (0..count).map(reference).collect()
    }

    fn refused(by: &str) -> Error {
        RegistryError::Unreachable { reason: format!("refused by {by}"), trouble: Trouble::Refused }.into()
    }

    #[test]
    fn images_of_one_registry_and_for_one_reason_are_one_entry() {
        let (a, b) = (images(61, "a.corp"), images(2, "b.corp"));
        let (one, other) = (refused("a"), refused("b"));
        let all = a.iter().map(|image| (image, &one)).chain(b.iter().map(|image| (image, &one)));
        let groups = grouped(all.chain([(&a[0], &other)]));
        let subjects: Vec<String> = groups.iter().map(Failure::subject).collect();
        assert_eq!(subjects, ["61 images of a.corp", "2 images of b.corp", "a.corp/app0:1"]);
        let view = View { verbose: false, room: None };
        assert_eq!(groups[1].names(view).unwrap(), "b.corp/app0:1, b.corp/app1:1");
        let names = groups[0].names(view).unwrap();
        assert!(names.ends_with("a.corp/app4:1 and 56 more (-v names them)"), "{names}");
        let names = groups[0].names(View { verbose: true, ..view }).unwrap();
        assert!(names.ends_with("a.corp/app60:1"), "{names}");
        assert_eq!(groups[2].names(view), None);
    }
}
