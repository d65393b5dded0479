//! Hooks: programs that are run after images have changed, and the changes that they are told of.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::digest::{Algorithm, BlobDigest};
use crate::image_ref::ImageRef;
use crate::progress::Action;

/// One `[[on-change]]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The images, as full names without tag, in which `*` stands for anything.
    pub images: Vec<String>,
    /// The actions after which the hook is run.
    pub actions: BTreeSet<Action>,
    /// The program, a name on `PATH` or an absolute path, and its arguments.
    pub run: Vec<String>,
    /// The time that the program gets.
    pub timeout: Duration,
    /// The directory that the program starts in: that of the images file.
    pub directory: PathBuf,
    /// The place of the table, `images.toml:12`.
    pub place: String,
}

impl Hook {
    /// Tells whether the hook is to be told of `action` on the image, by any of the names under
    /// which the image is recorded.
    pub fn is_about(&self, reference: &ImageRef, action: Action) -> bool {
        self.actions.contains(&action) && reference.is_named_by(&self.images)
    }

    /// The program, as it is started.
    pub fn program(&self) -> &str {
        self.run.first().map_or("", String::as_str)
    }

    /// The identity of the hook, which stays the same wherever its table stands: that of its
    /// images, actions, program and arguments.
    pub fn key(&self) -> String {
        let actions = self.actions.iter().map(|action| action.as_str());
        let lists = [
            self.images.iter().map(String::as_str).collect::<Vec<_>>(),
            actions.collect(),
            self.run.iter().map(String::as_str).collect(),
        ];
        let mut text = String::new();
        for list in lists {
            // Writing to a string does not fail.
            let _ = write!(text, "{};", list.len());
            for word in list {
                let _ = write!(text, "{}:{word}", word.len());
            }
        }
        BlobDigest::of(Algorithm::Sha256, text.as_bytes()).to_string()
    }
}

/// A change of an image, as a hook is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookEvent {
    /// The time of the change, RFC 3339.
    pub time: String,
    /// The image.
    pub reference: ImageRef,
    /// The platform that the image is wanted for, or was recorded for where it went.
    pub platform: Option<String>,
    /// The change.
    pub action: Action,
    /// The digest that the reference means now; `None` where the image went.
    pub digest: Option<BlobDigest>,
    /// The digest that the reference meant before.
    pub previous: Option<BlobDigest>,
}

/// A change that a hook is still to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingHookEvent {
    /// The [`Hook::key`] of the hook.
    pub hook: String,
    /// The program of the hook, for people.
    pub program: String,
    /// The change.
    pub event: HookEvent,
    /// False if the image is recorded and still to be loaded into engines: until a run finds it
    /// done the hook is not told.
    pub is_done: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(images: &[&str], actions: &[Action], run: &[&str]) -> Hook {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Hook {
            images: texts(images),
            actions: actions.iter().copied().collect(),
            run: texts(run),
            timeout: Duration::from_secs(30),
            directory: PathBuf::from("/etc/msb"),
            place: "images.toml:1".to_owned(),
        }
    }

    #[test]
    fn a_hook_is_about_its_images_and_actions() {
        let hook = hook(&["ghcr.io/acme/*", "docker.io/library/alpine"], &[Action::Add], &["true"]);
        let is_about =
            |name: &str, action| hook.is_about(&ImageRef::parse(name, "docker.io").unwrap(), action);
        for name in ["ghcr.io/acme/app:1", "alpine:3.20", "sandboxes.io/library/alpine:3.20"] {
            assert!(is_about(name, Action::Add), "{name}");
            assert!(!is_about(name, Action::Update), "{name}");
        }
        assert!(!is_about("ghcr.io/other/app:1", Action::Add));
    }

    #[test]
    fn a_hook_is_known_by_what_it_does_and_not_by_its_place() {
        let one = hook(&["*"], &[Action::Add], &["sh", "-c", "x"]);
        let moved =
            Hook { place: "images.toml:9".to_owned(), timeout: Duration::from_secs(1), ..one.clone() };
        assert_eq!(one.key(), moved.key());
        let others = [
            hook(&["*"], &[Action::Add], &["sh", "-cx"]),
            hook(&["*"], &[Action::Add, Action::Remove], &["sh", "-c", "x"]),
            hook(&["*", "*"], &[Action::Add], &["sh", "-c", "x"]),
            hook(&["*"], &[Action::Add], &["sh", "-c", "x", ""]),
        ];
        let keys: BTreeSet<String> = others.iter().chain([&one]).map(Hook::key).collect();
        assert_eq!(keys.len(), 5);
    }
}
