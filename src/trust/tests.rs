//! The judge from its door, with signatures that the real tools made (`tests/fixtures/signing`).

mod alterations;
mod fixtures;
mod forms;
mod rules;
