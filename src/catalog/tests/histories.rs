//! Random histories leave what a model says.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Record { name: usize, layers: Vec<&'static str>, owner: usize },
    AddOwner { name: usize, owner: usize },
    Forget { names: Vec<usize>, owner: Option<usize> },
}

const NAMES: [&str; 4] = ["quay.io/x/p:1", "quay.io/x/q:1", ALPINE, "sandboxes.io/library/alpine:3.20"];
const THEIRS: &str = "docker.io/library/python:3.12";

fn step() -> impl Strategy<Value = Step> {
    let layers = proptest::collection::vec(proptest::sample::select(&LAYER_NAMES[..5]), 1..5);
    prop_oneof![
        4 => (0..NAMES.len(), layers, 0..2_usize)
            .prop_map(|(name, layers, owner)| Step::Record { name, layers, owner }),
        1 => (0..NAMES.len(), 0..2_usize).prop_map(|(name, owner)| Step::AddOwner { name, owner }),
        3 => (proptest::collection::vec(0..NAMES.len(), 1..3), proptest::option::of(0..2_usize))
            .prop_map(|(names, owner)| Step::Forget { names, owner }),
    ]
}

/// The model of the catalog: layers and owners by name; an ownerless name lives through the
/// sandboxes.io one, and means the same.
#[derive(Default)]
struct Model {
    images: BTreeMap<&'static str, (Vec<&'static str>, BTreeSet<usize>)>,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Record { name, layers, owner } => {
                let name = NAMES[*name];
                let image = self.images.entry(name).or_default();
                image.0.clone_from(layers);
                image.1.insert(*owner);
                if name == NAMES[3] {
                    self.images.entry(ALPINE).or_default().0.clone_from(layers);
                }
            }
            Step::AddOwner { name, owner } => {
                if let Some(image) = self.images.get_mut(NAMES[*name]) {
                    image.1.insert(*owner);
                }
            }
            Step::Forget { names, owner } => {
                for name in names {
                    if let Some(image) = self.images.get_mut(NAMES[*name]) {
                        image.1.retain(|other| owner.is_some_and(|owner| owner != *other));
                    }
                }
                let first = self.images.get(NAMES[3]).filter(|image| !image.1.is_empty());
                let first = first.map(|image| image.0.clone());
                self.images.retain(|name, image| {
                    if let Some(layers) = first.as_ref().filter(|_| *name == ALPINE && image.1.is_empty()) {
                        image.0.clone_from(layers);
                        return true;
                    }
                    !image.1.is_empty()
                });
            }
        }
    }

    fn needed(&self) -> BTreeSet<BlobDigest> {
        let ours = self.images.values().flat_map(|image| image.0.iter().copied());
        ours.chain(["a", "f"]).map(|name| layer(name).digest).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_history_leaves_what_the_model_says(steps in proptest::collection::vec(step(), 1..14)) {
        let sandbox = Sandbox::of_microsandbox(THEIRS, &["a", "f"]);
        let mut catalog = sandbox.open();
        catalog.conn.execute_batch("PRAGMA synchronous = OFF").unwrap();
        let mut model = Model::default();
        let owners = [file("one"), Owner::pull()];
        for step in &steps {
            model.apply(step);
            match step {
                Step::Record { name, layers, owner } => {
                    put(&mut catalog, NAMES[*name], layers, &owners[*owner]);
                }
                Step::AddOwner { name, owner } => {
                    catalog.adopt(&[reference(NAMES[*name])], &owners[*owner], usual()).unwrap();
                }
                Step::Forget { names, owner } => {
                    let names: Vec<_> = names.iter().map(|name| reference(NAMES[*name])).collect();
                    catalog.forget(&names, owner.map(|owner| &owners[owner])).unwrap();
                }
            }
            prop_assert_eq!(catalog.layers_needed_outside(&BTreeSet::new()).unwrap(), model.needed());
            let all = catalog.all().unwrap();
            let names: BTreeSet<String> = all.iter().map(|image| image.reference.to_string()).collect();
            let expected = model.images.keys().copied().chain([THEIRS]).map(str::to_owned).collect();
            prop_assert_eq!(names, expected);
            for image in all {
                prop_assert!(image.rows_complete, "{:?}", image);
                let Some((layers, _)) = model.images.get(image.reference.to_string().as_str()) else { continue };
                let expected: Vec<_> = layers.iter().map(|name| layer(name)).collect();
                prop_assert_eq!(&image.layers[..], expected);
            }
            prop_assert_eq!(sandbox.stacked(THEIRS), ["a", "f"]);
        }
        sandbox.assert_sound();
    }
}
