//! msb-sync keeps a machine's container images exactly as a file says.

pub mod cancel;
pub mod digest;
pub mod error;
pub mod image_ref;
pub mod progress;
pub mod registry;
pub mod state;
