//! The data that flows through a run, without behaviour beyond constructors: the wish, the facts,
//! and the forms of an image on its way between the two.
//!
//! An images file and a lockfile become [`Desired`]; registries, catalog and store become
//! [`Observed`]. An image is a [`DesiredImage`] in the one. In the other its reference has a
//! meaning ([`Resolution`]: as recorded, a [`ResolvedImage`], a [`LockedImage`], or blocked), and
//! the catalog has its word ([`RecordedImage`]). Each part of an image on this machine has a
//! [`PartState`].

mod desired;
mod document;
mod engine;
mod hook;
mod layer;
mod loaded;
mod locked;
mod media_type;
mod observed;
mod owner;
mod part;
mod permission;
mod platform;
mod resolved;
mod selection;
mod settings;
mod time;
mod trust;

pub use crate::progress::Action;
pub use desired::{BackTo, Desired, DesiredImage, Stage};
pub use document::{DocumentDescriptor, DocumentRole};
pub use engine::{AskedNames, EngineListing, EngineName, EngineSettings};
pub use hook::{Hook, HookEvent, PendingHookEvent};
pub use layer::{LayerDescriptor, LayerFacts, LayerState, size_of_layers};
pub use loaded::{EngineFile, LoadedReference, LoadedReferences};
pub use locked::LockedImage;
pub use media_type::MediaType;
pub use observed::{BlockedSelection, NewTag, Observed, RecordedImage, Resolution, SelectedImage};
pub use owner::Owner;
pub use part::{BlobsState, EngineState, LayersState, PartState, ToLoad};
pub use permission::Permission;
pub use platform::Platform;
pub use resolved::{ConfigRecord, DocumentRecord, Labels, ResolvedImage};
pub use selection::{LockedSelection, TagRule, TagSelection};
pub use settings::{Limits, Mirror, Ownership, PullPolicy, RegistrySettings, Settings, Targets};
pub use time::{EarlierImage, History, HistoryEntry, SparedImage, StagedImage, TagCandidate};
pub(crate) use trust::MAX_CANDIDATES;
pub use trust::{
    Candidate, Evidence, Identity, Keyless, SignaturePlace, Signer, SigstoreAnchor, SigstoreAnchorKind,
    SigstoreRoot, TrustPolicy, TrustRule, TrustStatus, Verdict,
};
