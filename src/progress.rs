//! Events: everything that a run tells while it runs, in one [`Event`] enum, to one [`Reporter`]
//! trait with one method.
//!
//! The library never prints. The binary has a reporter for people and one for `--json`.

mod waiting;

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::digest::BlobDigest;
use crate::error::Error;
use crate::image_ref::ImageRef;
pub use waiting::Waiting;

/// The action that a plan takes on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The image is not recorded yet.
    Add,
    /// The image is recorded with another digest or for another platform.
    Update,
    /// The digest is right, but a layer or a row is missing or damaged.
    Repair,
    /// Nothing is to be done.
    Keep,
    /// The owner has recorded the image and no longer lists it.
    Remove,
    /// The image cannot be had.
    Blocked,
}

impl Action {
    /// The word for the action in plans and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Update => "update",
            Self::Repair => "repair",
            Self::Keep => "keep",
            Self::Remove => "remove",
            Self::Blocked => "blocked",
        }
    }
}

/// An image that waits for layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitedImage {
    /// The image.
    pub reference: ImageRef,
    /// The layers, each with the compressed bytes to fetch: none where the blob is kept.
    pub layers: Vec<(BlobDigest, u64)>,
}

/// Work on many things, beside the fetching of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Task {
    /// Extracted layers are compared with their inventories.
    CompareLayers,
    /// Kept blobs are compared with their digests.
    CompareBlobs,
    /// References in engines are compared with what was loaded.
    CompareEngines,
    /// Layers that nobody needs are removed.
    RemoveLayers,
    /// The blobs of a bundle are written.
    WriteBundle,
    /// The engine of this name takes images; its bytes may be fewer than counted, since engines
    /// have blobs already.
    Load(&'static str),
}

/// Something that happened in a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Something the user should know that does not stop the run.
    Warning(String),
    /// A detail that people ask for with `-v`.
    Detail(String),
    /// Another msb-sync works on this home, and the run waits for it. The text names the other one.
    Waiting(String),
    /// The run begins to look up references, or more of them.
    Resolving {
        /// The references; one that is asked about twice is named twice.
        references: Vec<ImageRef>,
    },
    /// A lookup ended, well or not. A repository alone is one whose tags are selected.
    Resolved(ImageRef),
    /// The executor begins to fetch layers, or more of them.
    Started {
        /// The images that wait for layers.
        images: Vec<AwaitedImage>,
        /// The number of distinct layers.
        layers: usize,
        /// The compressed bytes of these layers, those already spooled included.
        bytes: u64,
    },
    /// A layer's transfer begins.
    LayerStarted {
        /// The digest of the layer.
        digest: BlobDigest,
        /// The compressed bytes of the layer.
        size: u64,
        /// The bytes that are here already from an earlier run.
        resumed: u64,
        /// An image that needs it.
        image: ImageRef,
    },
    /// More compressed bytes of a layer arrived.
    LayerReceived {
        /// The digest of the layer.
        digest: BlobDigest,
        /// The bytes since the last event.
        bytes: u64,
    },
    /// More compressed bytes of a layer went through extraction.
    LayerExtracted {
        /// The digest of the layer.
        digest: BlobDigest,
        /// The compressed bytes since the last event.
        bytes: u64,
    },
    /// A layer is whole, and waits to be given its name together with others.
    LayerArrived {
        /// The digest of the layer.
        digest: BlobDigest,
        /// The bytes of the uncompressed layer, where this run has extracted it.
        extracted: u64,
    },
    /// A layer has its final name (`ok`) or failed for good.
    LayerFinished {
        /// The digest of the layer.
        digest: BlobDigest,
        /// True if the layer is complete in the store.
        ok: bool,
    },
    /// The run begins a task, or more of it.
    Begun {
        /// The task.
        task: Task,
        /// The number of things that the task does something with.
        things: usize,
        /// The bytes of these things, as far as the task is counted in bytes.
        bytes: u64,
    },
    /// A task has come further.
    Advanced {
        /// The task.
        task: Task,
        /// The number of things that are done since the last event.
        things: usize,
        /// The bytes that are done since the last event.
        bytes: u64,
    },
    /// An engine begins to take images.
    Loading {
        /// The name of the engine's table.
        engine: &'static str,
        /// The number of images that it is to get.
        images: usize,
    },
    /// An engine has taken images, and was asked which of them it has.
    Loaded {
        /// The name of the engine's table.
        engine: &'static str,
        /// The number of images that it has now.
        images: usize,
        /// The number of images that it was to get and does not have.
        failed: usize,
    },
    /// A hook begins to run.
    HookStarted {
        /// The place of its table, `images.toml:12`.
        rule: String,
        /// The program.
        program: String,
        /// The number of changes that it is told of.
        changes: usize,
    },
    /// A hook has written a line.
    HookOutput {
        /// The name of its program, escaped.
        program: String,
        /// The line, escaped and cut.
        line: String,
    },
    /// A hook has ended, or could not be run.
    Hook {
        /// The place of its table.
        rule: String,
        /// The program.
        program: String,
        /// The number of changes that it was told of.
        changes: usize,
        /// The exit code, if the program ended by itself.
        exit_code: Option<i32>,
        /// The failure, if there is one.
        error: Option<Arc<Error>>,
    },
    /// A request to a registry was answered, or was not. Requests for tokens, to mirrors and to the
    /// targets of redirects count too.
    Request {
        /// The registry on whose behalf, as the images file names it.
        registry: String,
        /// The HTTP status; `None` where no answer came.
        status: Option<u16>,
        /// The request and its answer, where the session asks for [`RequestDetail::Exchanges`].
        exchange: Option<Box<Exchange>>,
    },
    /// An image is done.
    Image {
        /// The image.
        reference: ImageRef,
        /// The platform that it is wanted for, or is recorded for where it goes, as `os/arch`.
        platform: Option<String>,
        /// The action that was planned.
        action: Action,
        /// The digest that the reference means now.
        digest: Option<BlobDigest>,
        /// The digest that the reference meant when the image was recorded.
        previous: Option<BlobDigest>,
        /// The words beside the action, for people; empty where the action says it all.
        reason: String,
        /// The new digest of the tag that is not taken yet.
        candidate: Option<Box<Waiting>>,
        /// The time since when the image is held at its digest.
        held: Option<Timestamp>,
        /// The action that was planned on each of its parts in engines, by the engine's name.
        engines: Vec<(&'static str, Action)>,
        /// The state of the image's signatures.
        signatures: Box<SignatureReport>,
        /// True if the image was only made ready, and is not recorded.
        staged: bool,
        /// True if the run's owner has given the image up and others keep it.
        stays: bool,
        /// The failure, if the image is not done.
        error: Option<Arc<Error>>,
    },
}

/// The extent of what events tell of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestDetail {
    /// The registry and the status.
    #[default]
    Statuses,
    /// The request, too, and where its credentials came from.
    Exchanges,
    /// The headers of both sides, too.
    Headers,
}

/// A request to a server and the head of its answer, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The method, `GET`.
    pub method: String,
    /// The URL without user and query.
    pub url: String,
    /// The time until the head of the answer was here.
    pub elapsed: Duration,
    /// The place where the credentials came from, in words; the words for none, where none were
    /// sent.
    pub credentials: String,
    /// The headers that were sent, if they are told. A value that is or may be secret is `…`.
    pub sent: Vec<(String, String)>,
    /// The headers of the answer, likewise.
    pub received: Vec<(String, String)>,
}

/// The state of an image's signatures, as people and scripts are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureReport {
    /// `verified`, `unsigned`, `refused` or `not-asked`.
    pub status: &'static str,
    /// The signer, where a signature is verified.
    pub by: Option<String>,
    /// The issuer of the signer's identity, where there is one.
    pub issuer: Option<String>,
    /// The time of the signature, in seconds since 1970, where it is known.
    pub at: Option<i64>,
    /// The place of the rule that decided, `images.toml:12`.
    pub rule: Option<String>,
}

/// A listener to events. Many threads call it at once.
pub trait Reporter: Send + Sync {
    /// Takes note of `event`; must not block for long.
    fn report(&self, event: Event);
}

/// A reader that reports the bytes of a task as they pass.
pub(crate) struct Counted<'r, R> {
    inner: R,
    task: Task,
    reporter: &'r dyn Reporter,
    passed: u64,
}

impl<'r, R> Counted<'r, R> {
    /// Reads `inner`, whose bytes belong to `task`.
    pub(crate) fn new(inner: R, task: Task, reporter: &'r dyn Reporter) -> Self {
        Self { inner, task, reporter, passed: 0 }
    }

    /// Reports that the thing is done, and those of its `size` bytes that did not pass with it.
    pub(crate) fn finish(self, size: u64) {
        let (task, bytes) = (self.task, size.saturating_sub(self.passed));
        self.reporter.report(Event::Advanced { task, things: 1, bytes });
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count > 0 {
            let (task, bytes) = (self.task, count as u64);
            self.passed += bytes;
            self.reporter.report(Event::Advanced { task, things: 0, bytes });
        }
        Ok(count)
    }
}

/// A reporter that listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&self, _event: Event) {}
}
