//! Compose files: the images of their services. A service that is only built has none.

use super::Gathered;
use super::variables::expand;
use super::yaml::Node;
use crate::state::Platform;

pub(super) fn read(document: &Node, gathered: &mut Gathered) {
    let services = document.get("services");
    for (_, service) in services.into_iter().flat_map(Node::entries) {
        let Some(image) = service.get("image").filter(|image| !image.is_null()) else { continue };
        let Some(text) = image.text() else {
            gathered.refuse(image.line, None, "`image` is no text");
            continue;
        };
        let platform = match service.get("platform").map(platform_of).transpose() {
            Ok(platform) => platform,
            Err((line, reason)) => {
                gathered.refuse(line, Some(text), &reason);
                continue;
            }
        };
        match expand(text, &|_| None) {
            Ok(expanded) => gathered.image(image.line, &expanded, platform),
            Err(reason) => gathered.refuse(image.line, Some(text), &reason),
        }
    }
}

/// Reads a platform, or says why it cannot be read.
fn platform_of(node: &Node) -> Result<Platform, (usize, String)> {
    let text = node.text().ok_or("`platform` is no text".to_owned());
    let text = text.and_then(|text| expand(text, &|_| None));
    let platform = text.and_then(|text| Platform::parse(&text).map_err(str::to_owned));
    platform.map_err(|reason| (node.line, reason))
}
