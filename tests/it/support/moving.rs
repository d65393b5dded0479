//! A machine that wants images whose tags move: what the tests about time stand on.

use serde_json::Value;

use super::check::{event, image, listed, wanted};
use super::fake_registry::FakeRegistry;
use super::image::{BlobSet, Image, Layer, file};
use super::sandbox::{Output, Sandbox};

/// The tag, where one is enough.
pub(crate) const TAG: &str = "team/app:1";
const SHARED: &str = "shared by all versions";

/// A registry whose tags move, and a machine that wants them.
pub(crate) struct Moving {
    pub(crate) sandbox: Sandbox,
    pub(crate) registry: FakeRegistry,
}

/// An image with a layer that all versions share, and one of its own.
pub(crate) fn version(content: &str) -> Image {
    Image::new(&[Layer::of(&[file("base", SHARED)]), own(content)])
}

fn own(content: &str) -> Layer {
    Layer::of(&[file("own", content)])
}

impl Moving {
    /// One tag, which means `v1`; these settings stand before it.
    pub(crate) fn new(settings: &str) -> Self {
        let world = Self::wanting(settings, &[TAG]);
        world.moved("v1");
        world
    }

    /// Tags that mean nothing yet; these settings stand before them.
    pub(crate) fn wanting(settings: &str, images: &[&str]) -> Self {
        let world = Self { sandbox: Sandbox::in_memory(), registry: FakeRegistry::start(BlobSet::default()) };
        world.want(settings, images);
        world
    }

    /// Writes the images file anew.
    pub(crate) fn want(&self, settings: &str, images: &[&str]) {
        self.sandbox.images(&format!("{settings}{}", wanted(&self.registry.name(), images)));
    }

    /// The reference of the one tag.
    pub(crate) fn name(&self) -> String {
        format!("{}/{TAG}", self.registry.name())
    }

    /// Lets a tag mean a version, and returns its digest.
    pub(crate) fn release(&self, tag: &str, content: &str) -> String {
        self.registry.edit(|blobs| {
            let image = blobs.image(&version(content));
            blobs.tag(tag, &image);
            image.digest().to_owned()
        })
    }

    /// Moves the one tag, and returns the digest that it means now.
    pub(crate) fn moved(&self, content: &str) -> String {
        self.release(TAG, content)
    }

    /// Moves the one tag to each version and applies, and returns the digests.
    pub(crate) fn applied(&self, versions: &[&str]) -> Vec<String> {
        let digests = versions.iter().map(|version| {
            let digest = self.moved(version);
            self.run("apply");
            digest
        });
        digests.collect()
    }

    /// Runs a command that succeeds; `REF` is the one tag.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &str) -> Output {
        self.sandbox.msb(&arguments.replace("REF", &self.name())).run().success()
    }

    /// Runs a command that prints events, and returns that of the one tag, the summary, and the requests.
    #[track_caller]
    pub(crate) fn events(&self, arguments: &str) -> (Value, Value, Vec<String>) {
        self.registry.forget();
        let output = self.run(&format!("{arguments} --json"));
        (event(&output, &self.name()), output.summary(), self.registry.requests())
    }

    /// Applies, and returns the first event of an image.
    #[track_caller]
    pub(crate) fn apply(&self) -> Value {
        let events = self.run("apply --json").json_lines();
        events.into_iter().find(|event| event["event"] == "image").unwrap()
    }

    /// The one tag as it is listed.
    pub(crate) fn image(&self) -> Value {
        image(&listed(&self.sandbox), &self.name()).clone()
    }

    /// The digests of all that is listed.
    pub(crate) fn digests(&self) -> Vec<Value> {
        listed(&self.sandbox).iter().map(|image| image["digest"].clone()).collect()
    }

    /// Runs a command whose result says `words`.
    #[track_caller]
    pub(crate) fn shows(&self, arguments: &str, words: &str) {
        let output = self.run(arguments);
        assert!(output.stdout.contains(words), "{output}");
    }

    /// Whether the layer of a version is here.
    pub(crate) fn has(&self, content: &str) -> bool {
        self.sandbox.extracted().contains(&own(content).directory())
    }

    /// Removes the layer of a version, and returns its path.
    pub(crate) fn lose(&self, content: &str) -> std::path::PathBuf {
        let lost = self.sandbox.layers().join(own(content).directory());
        std::fs::remove_dir_all(&lost).unwrap();
        lost
    }

    /// Lets hours pass for the new digests that the catalog has noted.
    pub(crate) fn pass(&self, hours: u32) {
        let sql = "UPDATE sync_candidates SET since = since - ?1 * 3600 * 1000";
        self.catalog().execute(sql, [hours]).unwrap();
    }

    /// The number of new digests that the catalog has noted.
    pub(crate) fn noted(&self) -> u32 {
        self.catalog().query_row("SELECT count(*) FROM sync_candidates", [], |row| row.get(0)).unwrap()
    }

    fn catalog(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.sandbox.home().join("oci.db")).unwrap()
    }
}
