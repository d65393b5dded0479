//! Kubernetes objects: the images of all containers, wherever a pod's description stands in them
//! (in Deployments, `CronJobs`, Lists, custom resources), and image volumes.

use super::Gathered;
use super::yaml::{Node, Walk};

/// The keys of lists of containers.
const CONTAINERS: &[&str] = &["containers", "initContainers", "ephemeralContainers"];

pub(super) fn read(node: &Node, walk: &mut Walk, gathered: &mut Gathered) {
    if !walk.step() {
        return;
    }
    for (key, value) in node.entries() {
        let key = key.text().unwrap_or_default();
        if CONTAINERS.contains(&key) {
            for container in value.elements() {
                image(container.get("image"), gathered);
            }
        } else if key == "image" && value.is_mapping() {
            image(value.get("reference"), gathered);
        }
        read(value, walk, gathered);
    }
    for element in node.elements() {
        read(element, walk, gathered);
    }
}

fn image(node: Option<&Node>, gathered: &mut Gathered) {
    // A patch may well leave the image out.
    let Some(node) = node.filter(|node| !node.is_null()) else { return };
    match node.text() {
        Some(text) => gathered.image(node.line, text, None),
        None => gathered.refuse(node.line, None, "`image` is no text"),
    }
}
