//! Hard links: at once where the target is there, after the files in flight where it is one of them, at the end
//! where it has not come yet.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{
    LINK_BYTES, MAX_FORWARD_LINK_BYTES, MAX_WAITING_LINK_BYTES, TreeWriter, is_not_a_directory, split,
};
use crate::error::LayerError;
use crate::extract::record::RecordKind;
use crate::extract::tar::{Entry, show};
use crate::sys::{self, Kind};

impl TreeWriter<'_> {
    pub(super) fn hard_link(&mut self, entry: &Entry, target: &[u8]) -> Result<(), LayerError> {
        let (directory, name) = self.parent_of(&entry.path)?;
        let same = target == entry.path;
        if !same {
            self.make_way(&entry.path, directory.as_fd(), name)?;
        }
        self.remember(entry, RecordKind::HardLink { target: target.to_vec() }, 0, None, Vec::new())?;
        let (target_hash, hash) = (self.hash(target), self.hash(&entry.path));
        if self.in_flight.contains(&target_hash) {
            self.in_flight.insert(hash);
            self.waiting_bytes += target.len() + entry.path.len() + LINK_BYTES;
            self.waiting_links.push((target.to_vec(), entry.path.clone()));
            if self.waiting_bytes > MAX_WAITING_LINK_BYTES {
                self.wait()?;
            }
            return Ok(());
        }
        if !self.make_link(target, &entry.path)? {
            self.forward_bytes += target.len() + entry.path.len() + LINK_BYTES;
            if self.forward_bytes > MAX_FORWARD_LINK_BYTES {
                return Err(LayerError::Entry {
                    entry: show(&entry.path),
                    reason: "too many hard links stand before their targets".to_owned(),
                });
            }
            self.forward_links.insert(entry.path.clone(), target.to_vec());
        }
        Ok(())
    }

    pub(super) fn make_forward_links(&mut self) -> Result<(), LayerError> {
        let links: Vec<(Vec<u8>, Vec<u8>)> = std::mem::take(&mut self.forward_links).into_iter().collect();
        let by_path: HashMap<&[u8], usize> =
            links.iter().enumerate().map(|(index, (path, _))| (path.as_slice(), index)).collect();
        let mut visited = vec![false; links.len()];
        // A target may itself be one of these links: make that one first. Each is visited once, so a long
        // chain costs no more than its length and a circle ends.
        for first in 0..links.len() {
            let mut chain = vec![first];
            while let Some(&index) = chain.last() {
                let (path, target) = &links[index];
                if self.make_link(target, path)? {
                    chain.pop();
                    continue;
                }
                match by_path.get(target.as_slice()) {
                    Some(&next) if !std::mem::replace(&mut visited[next], true) => chain.push(next),
                    _ => return Err(missing_target(path, target)),
                }
            }
        }
        Ok(())
    }

    /// Links `path` to `target`; `false` if there is no target yet.
    pub(super) fn make_link(&mut self, target: &[u8], path: &[u8]) -> Result<bool, LayerError> {
        let failed = |source| LayerError::Write { doing: "link", entry: show(path), source };
        let refuse = |reason: String| LayerError::Entry { entry: show(path), reason };
        let (target_parent, target_name) = split(target);
        let target_directory = match self.open.get(target_parent) {
            Some(directory) => Arc::clone(directory),
            None => match sys::open_directory_beneath(self.root.as_fd(), target_parent) {
                Ok(directory) => Arc::new(directory),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) if is_not_a_directory(&error) => {
                    return Err(refuse(format!(
                        "its link target {:?} is behind a symlink or a file",
                        show(target)
                    )));
                }
                Err(error) => return Err(failed(error)),
            },
        };
        let Some(from) = sys::metadata(target_directory.as_fd(), target_name).map_err(failed)? else {
            return Ok(false);
        };
        if from.kind == Kind::Directory {
            return Err(refuse(format!("a hard link to the directory {:?}", show(target))));
        }
        let (directory, name) = self.parent_of(path)?;
        if let Some(existing) = sys::metadata(directory.as_fd(), name).map_err(failed)? {
            if existing.inode == from.inode {
                return Ok(true);
            }
            sys::remove_file(directory.as_fd(), name).map_err(failed)?;
        }
        sys::make_hard_link(target_directory.as_fd(), target_name, directory.as_fd(), name)
            .map_err(failed)?;
        Ok(true)
    }
}

pub(super) fn missing_target(path: &[u8], target: &[u8]) -> LayerError {
    LayerError::Entry {
        entry: show(path),
        reason: format!("its hard link target {:?} is not in the layer", show(target)),
    }
}
