//! `[engine.NAME]`: a program that images are handed to. Only the form of the table is checked: no
//! value of it is used yet.

use crate::diagnostic::{Mistake, nearest};
use crate::images_file::keys::{self, Keys};
use crate::images_file::quoted::quoted;
use crate::images_file::reader::{Node, Reader};

/// Checks the table `name`.
pub(super) fn check(reader: &mut Reader<'_>, name: &str, node: Node<'_>) {
    let engines = || keys::ENGINES.iter().map(|(name, _)| *name);
    let Some((_, keys)) = keys::ENGINES.iter().find(|(known, _)| *known == name) else {
        let hint = match nearest(name, engines()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the engines are {}", engines().map(quoted).collect::<Vec<_>>().join(", ")),
        };
        let message = format!("unknown engine {}", quoted(name));
        reader.error(Mistake::new(node.key_span, message).hint(hint));
        return;
    };
    let keys: &'static Keys = keys;
    let Some(table) = reader.table(node, keys) else { return };
    for node in keys.names.iter().filter_map(|key| table.get(key)) {
        if reader.string(node).is_some_and(str::is_empty) {
            reader.error(Mistake::new(node.span, format!("{} is empty", node.called())));
        }
    }
}
