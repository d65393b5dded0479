//! msb-sync keeps a machine's container images exactly as a file says.

pub mod cancel;
pub mod catalog;
pub mod digest;
pub mod error;
pub mod extract;
pub mod image_ref;
pub mod images_file;
pub mod plan;
pub mod progress;
pub mod state;
pub mod store;
pub mod sys;
