//! `regsync.yml`: the sources of its images. Whole repositories and registries are none.

use super::Gathered;
use super::yaml::Node;
use crate::state::Platform;

pub(super) fn read(document: &Node, gathered: &mut Gathered) {
    for entry in document.get("sync").into_iter().flat_map(Node::elements) {
        let Some(source) = entry.get("source") else {
            gathered.refuse(entry.line, None, "an entry without `source`");
            continue;
        };
        let Some(text) = source.text() else {
            gathered.refuse(source.line, None, "`source` is no text");
            continue;
        };
        match entry.get("type").and_then(Node::text) {
            None | Some("image") => {}
            Some("repository") => {
                let reason = "its tags are chosen by a rule: list it as { name = …, tags = { match = … } }";
                gathered.refuse(source.line, Some(text), reason);
                continue;
            }
            Some(_) => {
                gathered.refuse(source.line, Some(text), "a whole registry cannot be listed");
                continue;
            }
        }
        let platform = entry.get("platform").and_then(Node::text).map(Platform::parse).transpose();
        match platform {
            Ok(platform) => gathered.image(source.line, text, platform),
            Err(reason) => gathered.refuse(source.line, Some(text), reason),
        }
    }
}
