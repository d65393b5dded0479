//! The line of an entry's digest in the text of a lockfile, for those who are to edit it.

use crate::image_ref::ImageRef;
use crate::state::Platform;

/// Finds the line, counted from 1, on which the digest of the entry of `reference` for `platform`
/// stands; where somebody has written the text otherwise than [`Lockfile`](super::Lockfile) does,
/// there may be none.
pub(crate) fn line_of_digest(text: &str, reference: &ImageRef, platform: &Platform) -> Option<usize> {
    let wanted = (reference.to_string(), platform.to_string());
    let (mut of, mut of_platform, mut line_of) = (None, None, None);
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("[[") {
            (of, of_platform, line_of) = (None, None, None);
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "reference" => of = Some(value),
            "platform" => of_platform = Some(value),
            "digest" => line_of = Some(index + 1),
            _ => {}
        }
        if line_of.is_some() && (of, of_platform) == (Some(&wanted.0), Some(&wanted.1)) {
            return line_of;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_that_of_the_image_for_its_platform() {
        let text = "version = 1\n\n[[selection]]\nrepository = \"r.example/a\"\nplatform = \"linux/amd64\"\n\n\
                    [[image]]\nreference = \"r.example/a:1\"\nplatform = \"linux/amd64\"\ndigest = \"x\"\n\
                    layers = [\n  { digest = \"y\" },\n]\n\n\
                    [[image]]\nreference = \"r.example/a:1\"\nplatform = \"linux/arm64\"\n digest=\"z\"\n";
        let line = |name: &str, architecture: &str| {
            let reference = ImageRef::parse(name, "docker.io").unwrap();
            line_of_digest(text, &reference, &Platform::new("linux", architecture, None))
        };
        assert_eq!(line("r.example/a:1", "amd64"), Some(10));
        assert_eq!(line("r.example/a:1", "arm64"), Some(18));
        assert_eq!(line("r.example/a:2", "amd64"), None);
        assert_eq!(line("r.example/a:1", "386"), None);
    }
}
