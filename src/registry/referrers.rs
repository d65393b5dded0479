//! Referrers: the artifacts that refer to an image, of which signatures matter here.
//!
//! Reads bottom up: lists of artifacts and an artifact's manifest, from hostile bytes (`artifact`);
//! one question, and whoever hears what answers it (`hearing`); the lists that a run has asked for
//! (`asked`); and the question as it is put to the sites of a registry (`lookup`). An image layout
//! answers the same questions from its own files.
//!
//! Nothing here judges: a candidate's bytes have their digests, and are hostile in all else. An
//! artifact is absent where the endpoint says so with a 404, or with a list that lacks it; any
//! other failure is one, and never absence.
//!
//! Source: the distribution specification's [listing of referrers][OCI], and cosign's tags,
//! <https://github.com/sigstore/cosign/blob/v2.5.0/specs/SIGNATURE_SPEC.md>
//!
//! [OCI]: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md

mod artifact;
mod asked;
mod hearing;
mod lookup;

pub(super) use self::artifact::{EMPTY_CONFIG, Listed, config_of, is_empty_config, list, tag_of};
pub(super) use self::asked::Asked;
pub(super) use self::hearing::{Belongs, Hearing};
pub(super) use self::lookup::ask;
