//! The integration tests: one binary, one file a subject. They see the built `msb-sync` as a user does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails, and says where")]

mod lock;
