//! The state of a run, counted from its events: for bars, for lines, for machines, and for the
//! summary of a run that is stopped before its end.
//!
//! Pure: the time comes in with each event.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use msb_sync::digest::BlobDigest;
use msb_sync::error::Error;
use msb_sync::image_ref::ImageRef;
use msb_sync::plan::Plan;
use msb_sync::progress::{AwaitedImage, Event, Task};
use msb_sync::state::Action;
use msb_sync::sync::{Applied, Outcome};

use crate::speed::Speed;

/// The counts of a run so far.
#[derive(Default)]
pub(crate) struct Tally {
    images: Vec<Image>,
    layers: Vec<Layer>,
    image_of: HashMap<ImageRef, usize>,
    layer_of: HashMap<BlobDigest, usize>,
    /// The layers on which somebody works, in the order in which that began.
    active: Vec<usize>,
    speed: Speed,
    lookups: Lookups,
    tasks: BTreeMap<Task, (Work, Speed)>,
    /// The images whose end was told.
    ended: BTreeMap<ImageRef, (Action, Option<Arc<Error>>)>,
    totals: Totals,
}

/// An image that waits for layers.
struct Image {
    reference: ImageRef,
    layers: Vec<usize>,
    is_done: bool,
}

/// A layer to fetch.
struct Layer {
    size: u64,
    /// The bytes that are here, those of earlier runs among them.
    here: u64,
    state: LayerState,
    /// The image for which the layer is fetched.
    image: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LayerState {
    /// Nobody has begun with the layer.
    Waiting,
    /// The layer is being fetched, or extracted.
    Active,
    /// The layer is whole and extracted, and merely waits for its name.
    Arrived,
    /// The layer has its name.
    Done,
    /// The layer cannot be had.
    Failed,
}

/// The references that are looked up.
#[derive(Default)]
struct Lookups {
    asked: usize,
    /// The number of answers that are still to come about each reference.
    open: BTreeMap<ImageRef, usize>,
    /// The references about which an answer came.
    answered: BTreeSet<ImageRef>,
}

/// A task under way.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work {
    /// The things that are done, and all of them.
    pub(crate) things: (usize, usize),
    /// The bytes that are done, and all of them.
    pub(crate) bytes: (u64, u64),
    /// The bytes a second of late, where they are known.
    pub(crate) rate: Option<u64>,
}

/// The sums that outlive bars.
#[derive(Clone, Copy, Default)]
struct Totals {
    /// The bytes that came over the network.
    downloaded: u64,
    /// The bytes of uncompressed layers.
    extracted: u64,
    /// The layers that have their names.
    layers: usize,
    /// The references that engines have taken.
    loads: usize,
    /// The requests that were answered, or were not.
    requests: u64,
}

/// The fetching of layers, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fetching {
    /// The images that are done, and all that wait for layers.
    pub(crate) images: (usize, usize),
    /// The layers that have their names, and all of them.
    pub(crate) layers: (usize, usize),
    /// The layers that have their names, or merely wait for them.
    pub(crate) arrived: usize,
    /// The bytes that are here, and all of them.
    pub(crate) bytes: (u64, u64),
    /// The bytes that are still to come.
    pub(crate) to_come: u64,
    /// The bytes a second of late, where they are known.
    pub(crate) rate: Option<u64>,
    /// Somebody fetches or extracts a layer.
    pub(crate) is_active: bool,
    /// Nothing is left to be done.
    pub(crate) is_over: bool,
}

/// An image whose layers are fetched or extracted just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InWork<'t> {
    /// The image.
    pub(crate) reference: &'t ImageRef,
    /// The layers of it that have arrived, and all that it waits for.
    pub(crate) layers: (usize, usize),
    /// The bytes of these that are here, and all of them.
    pub(crate) bytes: (u64, u64),
    /// All bytes of the layers under way are here, so that only extraction goes on.
    pub(crate) is_extracted: bool,
}

impl Tally {
    /// Counts `event`, which happens `now`.
    pub(crate) fn note(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Resolving { references } => self.lookups.begin(references),
            Event::Resolved(reference) => self.lookups.end(reference),
            Event::Started { images, .. } => self.start(images),
            Event::LayerStarted { digest, size, resumed, image } => {
                let image = self.image_of.get(image).copied();
                if let Some(layer) = self.begin_layer(digest) {
                    (layer.size, layer.here) = (*size, *resumed);
                    layer.image = image.or(layer.image);
                }
            }
            Event::LayerReceived { digest, bytes } => {
                self.totals.downloaded += bytes;
                self.speed.add(*bytes, now);
                if let Some(layer) = self.layer_of.get(digest).map(|layer| &mut self.layers[*layer]) {
                    layer.here = layer.here.saturating_add(*bytes).min(layer.size);
                }
            }
            Event::LayerExtracted { digest, .. } => {
                self.begin_layer(digest);
            }
            Event::LayerArrived { digest, extracted } => {
                self.totals.extracted += extracted;
                self.end_layer(digest, LayerState::Arrived);
            }
            Event::LayerFinished { digest, ok } => {
                self.totals.layers += usize::from(*ok);
                self.end_layer(digest, if *ok { LayerState::Done } else { LayerState::Failed });
            }
            Event::Begun { task, things, bytes } => {
                let (work, speed) = self.tasks.entry(*task).or_default();
                if work.is_over() {
                    (*work, *speed) = Default::default();
                }
                work.things.1 += things;
                work.bytes.1 = work.bytes.1.saturating_add(*bytes);
            }
            Event::Advanced { task, things, bytes } => self.advance(*task, *things, *bytes, now),
            Event::Loaded { engine, images, .. } => {
                self.totals.loads += images;
                self.tasks.remove(&Task::Load(engine));
            }
            Event::Request { .. } => self.totals.requests += 1,
            Event::Image { reference, action, error, .. } => {
                if let Some(image) = self.image_of.get(reference) {
                    self.images[*image].is_done = true;
                }
                self.ended.insert(reference.clone(), (*action, error.clone()));
            }
            _ => {}
        }
    }

    /// Adds what a part of the run is to fetch. A layer that failed in an earlier part is begun
    /// anew.
    fn start(&mut self, images: &[AwaitedImage]) {
        for AwaitedImage { reference, layers } in images {
            let mut of_image = Vec::with_capacity(layers.len());
            let position = *self.image_of.entry(reference.clone()).or_insert(self.images.len());
            for (digest, size) in layers {
                let known = *self.layer_of.entry(digest.clone()).or_insert(self.layers.len());
                if known == self.layers.len() {
                    let state = LayerState::Waiting;
                    self.layers.push(Layer { size: *size, here: 0, state, image: Some(position) });
                } else if self.layers[known].state == LayerState::Failed {
                    self.layers[known].state = LayerState::Waiting;
                }
                of_image.push(known);
            }
            let image = Image { reference: reference.clone(), layers: of_image, is_done: false };
            match self.images.get_mut(position) {
                Some(known) => *known = image,
                None => self.images.push(image),
            }
        }
    }

    /// Notes that somebody works on a layer.
    fn begin_layer(&mut self, digest: &BlobDigest) -> Option<&mut Layer> {
        let position = *self.layer_of.get(digest)?;
        let layer = &mut self.layers[position];
        if layer.state != LayerState::Active {
            layer.state = LayerState::Active;
            self.active.push(position);
        }
        Some(layer)
    }

    fn end_layer(&mut self, digest: &BlobDigest, state: LayerState) {
        let Some(&position) = self.layer_of.get(digest) else { return };
        let layer = &mut self.layers[position];
        layer.state = state;
        if state != LayerState::Failed {
            layer.here = layer.size;
        }
        self.active.retain(|active| *active != position);
    }

    fn advance(&mut self, task: Task, things: usize, bytes: u64, now: Instant) {
        let Some((work, speed)) = self.tasks.get_mut(&task) else { return };
        work.things.0 = (work.things.0 + things).min(work.things.1);
        work.bytes.0 = work.bytes.0.saturating_add(bytes).min(work.bytes.1);
        speed.add(bytes, now);
    }

    /// Sums up the fetching of layers; `None` where nothing is to be fetched.
    pub(crate) fn fetching(&self, now: Instant) -> Option<Fetching> {
        if self.layers.is_empty() {
            return None;
        }
        let images_done = self.images.iter().filter(|image| image.is_done).count();
        let over = |layer: &&Layer| matches!(layer.state, LayerState::Done | LayerState::Failed);
        let sum = |bytes: &mut dyn Iterator<Item = u64>| bytes.fold(0, u64::saturating_add);
        let left = |layer: &Layer| layer.size.saturating_sub(layer.here);
        Some(Fetching {
            images: (images_done, self.images.len()),
            layers: (
                self.layers.iter().filter(|layer| layer.state == LayerState::Done).count(),
                self.layers.len(),
            ),
            arrived: self.layers.iter().filter(|layer| layer.has_arrived()).count(),
            bytes: (
                sum(&mut self.layers.iter().map(|layer| layer.here.min(layer.size))),
                sum(&mut self.layers.iter().map(|layer| layer.size)),
            ),
            to_come: sum(&mut self.layers.iter().filter(|layer| !over(layer)).map(left)),
            rate: self.speed.rate(now),
            is_active: !self.active.is_empty(),
            is_over: images_done == self.images.len() && self.layers.iter().all(|layer| over(&layer)),
        })
    }

    /// Lists the images of which layers are fetched or extracted just now, those first that began
    /// first.
    pub(crate) fn in_work(&self) -> Vec<InWork<'_>> {
        let mut shown: Vec<usize> = Vec::new();
        for image in self.active.iter().filter_map(|layer| self.layers[*layer].image) {
            if !shown.contains(&image) {
                shown.push(image);
            }
        }
        shown.into_iter().map(|position| self.image_in_work(position)).collect()
    }

    fn image_in_work(&self, position: usize) -> InWork<'_> {
        let image = &self.images[position];
        let layers = || image.layers.iter().map(|layer| &self.layers[*layer]);
        let active = self.active.iter().map(|layer| &self.layers[*layer]);
        InWork {
            reference: &image.reference,
            layers: (layers().filter(|layer| layer.has_arrived()).count(), image.layers.len()),
            bytes: layers().fold((0, 0), |(here, size): (u64, u64), layer| {
                (here.saturating_add(layer.here), size.saturating_add(layer.size))
            }),
            is_extracted: active
                .filter(|layer| layer.image == Some(position))
                .all(|layer| layer.here >= layer.size),
        }
    }

    /// Lists all images that wait, or waited, for layers.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = &ImageRef> {
        self.images.iter().map(|image| &image.reference)
    }

    /// Counts the references that were looked up and all of them, and names one that was not;
    /// `None` where all were.
    pub(crate) fn lookups(&self) -> Option<(usize, usize, &ImageRef)> {
        let open: usize = self.lookups.open.values().sum();
        let first = self.lookups.open.keys().next()?;
        Some((self.lookups.asked.saturating_sub(open), self.lookups.asked, first))
    }

    /// Lists the tasks under way.
    pub(crate) fn tasks(&self, now: Instant) -> impl Iterator<Item = (Task, Work)> {
        let under_way = self.tasks.iter().filter(|(_, (work, _))| !work.is_over());
        under_way.map(move |(task, (work, speed))| (*task, Work { rate: speed.rate(now), ..*work }))
    }

    /// Tells how far a task is, also when it is over.
    pub(crate) fn task(&self, task: Task) -> Option<Work> {
        self.tasks.get(&task).map(|(work, _)| *work)
    }

    /// The result of the run, as far as it is known, if it is stopped now.
    pub(crate) fn stopped(&self) -> Applied {
        let outcome = Outcome {
            images: self.outcomes(),
            layers: self.totals.layers,
            loads: self.totals.loads,
            downloaded_bytes: self.totals.downloaded,
            extracted_bytes: self.totals.extracted,
            stopped: true,
            ..Outcome::default()
        };
        // Nothing is suggested to be looked at, so the place of layers is not missed.
        let requests = self.totals.requests;
        Applied { plan: Plan::default(), outcome, requests, layers: PathBuf::new(), hooks: Vec::new() }
    }

    /// Tells whether the run told the end of `image`.
    pub(crate) fn has_ended(&self, image: &ImageRef) -> bool {
        self.ended.contains_key(image)
    }

    /// Lists every image of which the run told anything, with its error where it is not done.
    fn outcomes(&self) -> Vec<(ImageRef, Action, Option<Arc<Error>>)> {
        let stopped = || (Action::Blocked, Some(Arc::new(Error::Stopped)));
        let mut all: BTreeMap<&ImageRef, (Action, Option<Arc<Error>>)> = BTreeMap::new();
        for reference in self.images.iter().map(|image| &image.reference).chain(self.lookups.open.keys()) {
            all.insert(reference, stopped());
        }
        // A repository alone is no image; what it stands for was looked up by name.
        let is_image = |reference: &&ImageRef| reference.tag().is_some() || reference.digest().is_some();
        all.extend(self.lookups.answered.iter().filter(is_image).map(|reference| (reference, stopped())));
        all.extend(self.ended.iter().map(|(reference, end)| (reference, end.clone())));
        all.into_iter().map(|(reference, (action, error))| (reference.clone(), action, error)).collect()
    }
}

impl Layer {
    fn has_arrived(&self) -> bool {
        matches!(self.state, LayerState::Arrived | LayerState::Done)
    }
}

impl Work {
    /// Tells whether all is done.
    pub(crate) fn is_over(&self) -> bool {
        self.things.0 == self.things.1
    }
}

impl Lookups {
    fn begin(&mut self, references: &[ImageRef]) {
        self.asked += references.len();
        for reference in references {
            *self.open.entry(reference.clone()).or_default() += 1;
        }
    }

    fn end(&mut self, reference: &ImageRef) {
        let Some(open) = self.open.get_mut(reference) else { return };
        *open -= 1;
        if *open == 0 {
            self.open.remove(reference);
            self.answered.insert(reference.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn image(text: &str) -> ImageRef {
        ImageRef::parse(text, "docker.io").unwrap()
    }

    fn digest(layer: u8) -> BlobDigest {
        format!("sha256:{layer:064x}").parse().unwrap()
    }

    /// Two images of which each waits for two layers, one of them shared.
    fn started() -> Tally {
        let mut tally = Tally::default();
        let awaited = |name: &str, layers: [(u8, u64); 2]| AwaitedImage {
            reference: image(name),
            layers: layers.map(|(layer, size)| (digest(layer), size)).to_vec(),
        };
        let images = vec![awaited("a:1", [(1, 100), (2, 1000)]), awaited("b:1", [(1, 100), (3, 300)])];
        tally.note(&Event::Started { images, layers: 3, bytes: 1400 }, Instant::now());
        tally
    }

    fn began(tally: &mut Tally, layer: u8, size: u64, resumed: u64, of: &str) {
        let event = Event::LayerStarted { digest: digest(layer), size, resumed, image: image(of) };
        tally.note(&event, Instant::now());
    }

    #[test]
    fn what_resumed_is_here_but_was_not_received() {
        let mut tally = started();
        let now = Instant::now();
        began(&mut tally, 2, 1000, 900, "a:1");
        for second in 0..4 {
            let event = Event::LayerReceived { digest: digest(2), bytes: 20 };
            tally.note(&event, now + Duration::from_secs(second));
        }
        let fetching = tally.fetching(now + Duration::from_secs(4)).unwrap();
        assert_eq!((fetching.bytes, fetching.rate), ((980, 1400), Some(20)));
        assert_eq!((fetching.layers, fetching.images, fetching.to_come), ((0, 3), (0, 2), 420));
        assert_eq!(tally.totals.downloaded, 80);
        // One that is thrown away and fetched again counts once.
        began(&mut tally, 2, 1000, 0, "a:1");
        assert_eq!(tally.fetching(now).unwrap().bytes, (0, 1400));
    }

    #[test]
    fn a_layer_that_waits_for_its_group_is_not_in_work() {
        let mut tally = started();
        began(&mut tally, 1, 100, 0, "a:1");
        began(&mut tally, 3, 300, 300, "b:1");
        let names = |tally: &Tally| -> Vec<String> {
            tally.in_work().iter().map(|image| image.reference.to_string()).collect()
        };
        assert_eq!(names(&tally), ["docker.io/library/a:1", "docker.io/library/b:1"]);
        assert!(!tally.in_work()[0].is_extracted && tally.in_work()[1].is_extracted);
        tally.note(&Event::LayerArrived { digest: digest(1), extracted: 500 }, Instant::now());
        assert_eq!(names(&tally), ["docker.io/library/b:1"]);
        assert_eq!(tally.in_work()[0].layers, (1, 2), "the shared layer counts for both");
        let fetching = tally.fetching(Instant::now()).unwrap();
        assert_eq!((fetching.layers, fetching.arrived), ((0, 3), 1));
        tally.note(&Event::LayerFinished { digest: digest(1), ok: true }, Instant::now());
        assert_eq!(tally.fetching(Instant::now()).unwrap().layers, (1, 3));
        assert_eq!((tally.totals.layers, tally.totals.extracted), (1, 500));
    }

    #[test]
    fn a_kept_blob_that_is_extracted_is_in_work() {
        let mut tally = started();
        tally.note(&Event::LayerExtracted { digest: digest(3), bytes: 5 }, Instant::now());
        assert_eq!(tally.in_work()[0].reference, &image("b:1"));
    }

    #[test]
    fn tasks_and_lookups_end_with_their_last_thing() {
        let mut tally = Tally::default();
        let now = Instant::now();
        let references = vec![image("a:1"), image("b:1"), image("a:1")];
        tally.note(&Event::Resolving { references }, now);
        tally.note(&Event::Resolved(image("a:1")), now);
        assert_eq!(tally.lookups(), Some((1, 3, &image("a:1"))));
        tally.note(&Event::Resolved(image("a:1")), now);
        assert_eq!(tally.lookups(), Some((2, 3, &image("b:1"))));
        tally.note(&Event::Resolved(image("b:1")), now);
        assert_eq!(tally.lookups(), None);
        let task = Task::RemoveLayers;
        tally.note(&Event::Begun { task, things: 2, bytes: 10 }, now);
        tally.note(&Event::Advanced { task, things: 1, bytes: 50 }, now);
        let works: Vec<_> = tally.tasks(now).map(|(task, work)| (task, work.things, work.bytes)).collect();
        assert_eq!(works, [(task, (1, 2), (10, 10))]);
        tally.note(&Event::Advanced { task, things: 1, bytes: 0 }, now);
        assert_eq!(tally.tasks(now).count(), 0);
    }

    #[test]
    fn images_of_which_nothing_was_heard_are_not_done() {
        let mut tally = started();
        tally.note(&Event::Resolving { references: vec![image("c:1"), image("d")] }, Instant::now());
        tally.note(&Event::Resolved(image("c:1")), Instant::now());
        let outcomes = tally.stopped().outcome.images;
        let names: Vec<&str> = outcomes.iter().filter_map(|(image, ..)| image.tag()).collect();
        assert_eq!(names.len(), 4, "{outcomes:?}");
        assert!(outcomes.iter().all(|(_, _, error)| matches!(error.as_deref(), Some(Error::Stopped))));
    }
}
